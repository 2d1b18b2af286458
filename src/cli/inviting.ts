/**
 * What `peerline invite` does.
 *
 *     a peerline runs with this identity, or --detach --> the order goes there; done
 *     nobody runs                                     --> is a peer itself until somebody has joined
 *     --by-hand                                       --> the same, with an offer and an answer that are pasted
 */

import { fields, fromHex } from '../bytes/index.ts'
import { firstOf, untilAborted } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, signRecord } from '../identity/index.ts'
import { loadOrCreateIdentity } from '../identity/key-file.ts'
import { writeTicket } from '../identity/ticket.ts'
import type { Peer } from '../peer/index.ts'
import type { Session } from '../session/index.ts'
import { answeringPeer } from './answering.ts'
import { answerByHand, stayConnected } from './by-hand.ts'
import type { Json } from './control-lines.ts'
import { carryOut, holdState } from './errand.ts'
import { invite, type Wanted } from './invite-orders.ts'
import { ready } from './local-peer.ts'
import type { IdentityOption, JsonOption, PeerOption } from './options.ts'
import type { Output } from './output.ts'
import { PasteReader } from './paste-reader.ts'
import { pause, type Running, stopping } from './run.ts'
import { placesOf } from './state-places.ts'
import { give, onInbound, rightOf, settled, ticketsOf } from './ticket-peer.ts'

/** ms: a day, which is what a ticket is good for when nothing is said. */
const LIFE_MS = 86_400_000

/** ms that whoever has joined may take to be done, before the command that let them in ends. */
const LINGER_MS = 5_000

/** Longest delay of a timer, ms. */
const FOREVER_MS = 2_147_483_647

export interface InviteOptions extends PeerOption, JsonOption {
  readonly for?: number
  readonly uses?: number
  readonly once?: boolean
  readonly protocol?: readonly string[]
  readonly group?: string
  readonly capability: boolean
  readonly qr: boolean
  readonly detach?: boolean
  readonly stay?: boolean
  readonly byHand?: boolean
}

/** @throws PeerlineError of whatever it takes */
export async function beginInviting(options: InviteOptions, running: Running): Promise<undefined> {
  const wanted = wantedBy(options)
  if (options.byHand === true) return inviteByHand(options, wanted, running)
  if (options.detach === true || (await somebodyRuns(options, running))) return leaveToOthers(options, wanted, running)
  return waitForThem(options, wanted, running)
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` for options that exclude each other */
export function wantedBy(options: InviteOptions): Wanted {
  const { once = false, uses, protocol: objects, group, capability, detach, stay, byHand } = options
  const both = (one: string, other: string) => new PeerlineError('ERR_PEERLINE_INVALID', `${one} or ${other}, not both`)
  if (once && uses !== undefined) throw both('--once', '--uses')
  if (detach === true && stay === true) throw both('--detach', '--stay')
  if (detach === true && byHand === true) throw both('--detach', '--by-hand')
  if (!capability && (uses !== undefined || objects !== undefined || group !== undefined)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', '--no-capability lets nobody in: there is nothing to be said of it')
  }
  return { objects, group, uses: uses ?? 1, until: Date.now() + (options.for ?? LIFE_MS), capability }
}

async function somebodyRuns({ identity }: IdentityOption, { signal }: Running): Promise<boolean> {
  const held = await holdState(await placesOf(identity), signal)
  await held?.close()
  return held === undefined
}

/** Has the order carried out, and prints what came of it. */
async function leaveToOthers(options: InviteOptions, wanted: Wanted, running: Running): Promise<undefined> {
  const { out } = running
  // Before anything is given out.
  if ((options.rendezvous ?? []).length === 0 && !(await somebodyRuns(options, running))) throw nowhere()
  const { done, live } = await carryOut(options, { order: 'invite', ...wanted }, running)
  const record = typeof done.record === 'string' ? fromHex(done.record) : await recordHere(options, wanted)
  await give(ticketsOf(done, record), done, out, options)
  out.say(live ? 'the peerline that runs lets them in' : 'it is good as soon as a peerline runs with this identity')
  return undefined
}

/** What is known of this machine when no peer runs: where it will be found. */
async function recordHere({ identity, rendezvous = [] }: InviteOptions, { until }: Wanted): Promise<Uint8Array> {
  if (rendezvous.length === 0) throw nowhere()
  return signRecord(await loadOrCreateIdentity(identity), { sequence: Date.now(), expiresAt: until, rendezvous })
}

function nowhere(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_NO_ADDRESS', 'nobody runs: where this machine will be is not known', {
    recover: 'Give --rendezvous, or leave --detach out.',
  })
}

/** Is a peer until as many have joined as may. */
async function waitForThem(options: InviteOptions, wanted: Wanted, running: Running): Promise<undefined> {
  const { out, signal } = running
  const answering = await answeringPeer(options, running)
  const peer = answering.peer
  try {
    // Whoever brings the ticket is let in: there is nothing to be warned of.
    await ready(peer, { ...options, ask: true }, running)
    await settled(peer, signal)
    const done = mintAt(peer, wanted)
    const how = options.ledger === undefined ? '' : ', with the same --ledger'
    await give(ticketsOf(done, peer.record(wanted.until)), done, out, { ...options, how })
    out.say('waiting for somebody to join')
    const joined = waitForJoins(peer, done, wanted, running)
    if (options.stay === true) {
      joined.catch(() => {})
      await stopping(signal)
    } else await linger(await joined.catch((error) => left(error, done, running)), signal)
    return undefined
  } finally {
    await answering.close()
  }
}

function mintAt({ invitations }: Peer, wanted: Wanted): Json {
  return invite({ invitations }, fields(wanted, 'order'))
}

/**
 * Tells of those who come by a ticket, or of all where it lets nobody in; resolves with their sessions when there are as many
 * as may come.
 * @throws PeerlineError `ERR_PEERLINE_EXPIRED` when they do not come in time; what the signal says
 */
export async function waitForJoins(
  peer: Peer,
  { id }: Json,
  wanted: Wanted,
  { out, signal }: Running,
): Promise<Session[]> {
  const over = new AbortController()
  const either = firstOf(signal, over.signal)
  const joined: Session[] = []
  const isInvited = (from: PeerId) =>
    id === undefined || peer.invitations.get(String(id))?.peers.includes(from) === true
  const all = new Promise<Session[]>((resolve) => {
    onInbound(peer, either, (session) => {
      if (!isInvited(session.peer) || joined.some((one) => one.peer === session.peer)) return
      joined.push(session)
      tellOfJoin(session, out)
      if (joined.length === wanted.uses) resolve(joined)
    })
  })
  const late = expire(wanted.until, either).then(() => {
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', 'nobody came in time', { recover: 'Make another ticket.' })
  })
  try {
    return await untilAborted(Promise.race([all, late]), signal, 'waiting for somebody to join')
  } finally {
    over.abort()
  }
}

/** Resolves at a time, or when the signal fires. */
async function expire(at: number, signal: AbortSignal): Promise<void> {
  while (!signal.aborted && Date.now() < at) await pause(Math.min(at - Date.now(), FOREVER_MS), signal)
}

function tellOfJoin(session: Session, out: Output): void {
  out.event({ event: 'joined', peer: session.peer, path: session.path ?? null })
  out.say(`${session.peer} has joined by ${session.path}`)
}

/** A command that ends too soon takes nothing back. */
function left(error: unknown, { id }: Json, { out, signal }: Running): never {
  if (signal.aborted && id !== undefined) {
    out.say(
      `the ticket stays good for a peerline that runs with this identity; peerline invite revoke ${id} takes it back`,
    )
  }
  throw error
}

/** They have come to see whether it works: they end it, or not. */
async function linger(sessions: readonly Session[], signal: AbortSignal): Promise<void> {
  await Promise.race([Promise.all(sessions.map((session) => session.closed)), pause(LINGER_MS, signal)])
}

/** Offer and answer are pasted, by two people or by one with two screens; the ticket needs no address. */
async function inviteByHand(options: InviteOptions, wanted: Wanted, running: Running): Promise<undefined> {
  const { out, signal } = running
  const answering = await answeringPeer({ ...options, rendezvous: [], ledger: [], dht: [], lan: false }, running)
  const peer = answering.peer
  const reader = new PasteReader(process.stdin)
  try {
    const done = mintAt(peer, wanted)
    const text = writeTicket({ peer: peer.id, ...rightOf(done) })
    await give({ text, small: text }, done, out, { qr: options.qr, how: ' --by-hand' })
    await settled(peer, signal)
    const session = await answerByHand(peer, reader, running).catch((error) => left(error, done, running))
    tellOfJoin(session, out)
    await stayConnected(session, running)
    return undefined
  } finally {
    reader.close()
    await answering.close()
  }
}
