/**
 * What `peerline join` does.
 *
 *     read the ticket --> note the peer --> dial it, with what the ticket holds --> ping --> let it in here as well
 *
 * What is noted leads back to the peer by its id alone: where the ticket says that it is, or is found, and what it said itself.
 */
import { isIP } from 'node:net'
import { parseServerUrl, under } from '../connect/index.ts'
import { dialableAddress } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { readTicket, type Ticket } from '../identity/ticket.ts'
import { scopeOf } from '../network/address.ts'
import type { Peer } from '../peer/index.ts'
import { parseRule } from '../policy/rule.ts'
import { PING, pingHandler } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import { whenItHolds } from './allow.ts'
import { answeringPeer } from './answering.ts'
import { dialByHand, stayConnected } from './by-hand.ts'
import { carryOut } from './errand.ts'
import { closePeer, dialingPeer, withRecovery } from './local-peer.ts'
import type { JsonOption, PeerOption } from './options.ts'
import { type Output, shellWord } from './output.ts'
import { PasteReader } from './paste-reader.ts'
import { type Running, stopping } from './run.ts'
import { forWhat, prove, settled } from './ticket-peer.ts'

/** ms for a dial from first to last, as long as `Peer.reach` waits by itself. */
const REACH_MS = 30_000

/** Addresses of a ticket that are noted and dialled: those that its peer thinks best. */
const MAX_ADDRESSES = 8

export interface JoinOptions extends PeerOption, JsonOption {
  readonly allow: boolean
  readonly stay?: boolean
  readonly byHand?: boolean
}

/**
 * Comes to the peer of a ticket.
 * @param words the ticket, in however many parts; none: it is pasted
 * @throws PeerlineError as `readTicket`, and as `Peer.connect`
 */
export async function beginJoining(
  words: readonly string[],
  options: JoinOptions,
  running: Running,
): Promise<undefined> {
  const { out, signal } = running
  const byHand = options.byHand === true
  const reader = words.length === 0 || byHand ? new PasteReader(process.stdin) : undefined
  try {
    if (words.length === 0) out.say('paste the ticket here, then press Enter:')
    const onWrong = ({ message, recover }: PeerlineError) => out.warn(`peerline: ${message}. ${recover}`)
    const text = words.length === 0 ? await reader!.next('ticket', { signal, onWrong }) : words.join(' ')
    const ticket = readTicket(text)
    for (const object of ticket.objects ?? []) parseRule({ subject: ticket.peer, object, action: 'allow' })
    if (byHand) await joinByHand(ticket, reader!, options, running)
    else await join(ticket, options, running)
  } finally {
    reader?.close()
  }
  return undefined
}

async function join(ticket: Ticket, options: JoinOptions, running: Running): Promise<void> {
  const { out, signal } = running
  const { addresses, rendezvous } = usable(ticket)
  const all = [...new Set([...(options.rendezvous ?? []), ...rendezvous])]
  const { peer, close } = await peerOf({ ...options, rendezvous: all }, running)
  try {
    refuseSelf(ticket, peer)
    await note(ticket.peer, { addresses, rendezvous, topics: ticket.topics }, options, running)
    const session = await dial(peer, ticket, addresses, signal)
    tellOfJoin(session, out)
    await prove(session, out, signal)
    await noteMeeting(peer, ticket.peer, options, running)
    await allowBack(ticket, options, running)
    if (options.rendezvous === undefined && rendezvous[0] !== undefined) tellOfServer(rendezvous[0], out)
    if (options.stay === true) await stopping(signal)
  } finally {
    await close()
  }
}

async function joinByHand(ticket: Ticket, reader: PasteReader, options: JoinOptions, running: Running): Promise<void> {
  const { out, signal } = running
  const peer = await dialingPeer({ ...options, rendezvous: [], ledger: [], dht: [], lan: false }, out)
  try {
    refuseSelf(ticket, peer)
    peer.handle(PING, pingHandler)
    await note(ticket.peer, {}, options, running)
    await settled(peer, signal)
    const session = await dialByHand(peer, ticket, reader, running).catch((error) =>
      Promise.reject(advised(error, peer)),
    )
    tellOfJoin(session, out)
    await noteMeeting(peer, ticket.peer, options, running)
    await allowBack(ticket, options, running)
    await stayConnected(session, running)
  } finally {
    await closePeer(peer)
  }
}

/** A peer that dials, or one that stays. */
async function peerOf(options: JoinOptions, running: Running): Promise<{ peer: Peer; close: () => Promise<void> }> {
  if (options.stay === true) {
    const { allow: _, ...rest } = options
    const answering = await answeringPeer(rest, running)
    return { peer: answering.peer, close: () => answering.close() }
  }
  const peer = await dialingPeer(options, running.out)
  return { peer, close: () => closePeer(peer) }
}

async function dial(peer: Peer, ticket: Ticket, addresses: readonly string[], signal: AbortSignal): Promise<Session> {
  const { capability } = ticket
  try {
    return await under([signal, AbortSignal.timeout(REACH_MS)], async (limited) => {
      const session = await peer.reach(ticket.peer, { addresses, capability, signal: limited })
      await session.opened({ signal: limited })
      return session
    })
  } catch (error) {
    throw advised(error, peer)
  }
}

function advised(error: unknown, peer: Peer): unknown {
  return withRecovery(error, {
    ERR_PEERLINE_DENIED: `Ask for another ticket, or have its owner let this machine in: peerline allow ${peer.id}.`,
    ERR_PEERLINE_EXPIRED: 'Ask for another ticket.',
    ERR_PEERLINE_OFFLINE:
      'Have its owner run peerline up, or peerline invite, and try again; give the --ledger that it is at, if any.',
    ERR_PEERLINE_UNREACHABLE:
      'Have its owner run peerline up, or peerline invite, and try again; or use --by-hand on both sides.',
    ERR_PEERLINE_NO_ADDRESS:
      'The ticket does not say where the peer is: give --rendezvous, or use --by-hand on both sides.',
  })
}

/** What a ticket says of where its peer is, of what makes sense: it may come from anybody. */
export function usable(ticket: Ticket): { addresses: readonly string[]; rendezvous: readonly string[] } {
  const sound = (texts: readonly string[], check: (text: string) => unknown) =>
    texts.filter((text) => {
      try {
        check(text)
        return true
      } catch {
        return false
      }
    })
  return {
    addresses: sound(ticket.addresses, dialableAddress).slice(0, MAX_ADDRESSES),
    rendezvous: sound(ticket.rendezvous, parseServerUrl),
  }
}

interface Found {
  readonly addresses?: readonly string[]
  readonly rendezvous?: readonly string[]
  readonly topics?: readonly string[]
  /** There was a session with it. */
  readonly met?: boolean
  /** The address where it answered. */
  readonly dialled?: string | undefined
}

/** Notes the peer in the address book of this identity. */
async function note(peer: PeerId, found: Found, options: JoinOptions, running: Running): Promise<void> {
  await carryOut(options, { order: 'know', peer, ...found }, running)
}

/** Notes what the peer itself has told, and that it was met; who stays has it in the book already. */
async function noteMeeting({ known }: Peer, id: PeerId, options: JoinOptions, running: Running): Promise<void> {
  if (options.stay === true && options.byHand !== true) return
  const dialled = known.get(id)?.addresses.find(({ lastSuccess }) => lastSuccess !== undefined)?.address
  const found = { addresses: known.addressesOf(id), rendezvous: known.rendezvousOf(id), met: true, dialled }
  await note(id, found, options, running)
}

function tellOfServer(url: string, out: Output): void {
  const { host } = parseServerUrl(url)
  // The address book leads to no server there, which any peer could name.
  const near = isIP(host) > 0 && scopeOf(host) !== 'public'
  const how = `--rendezvous ${shellWord(url)}`
  if (near) out.say(`it is found at a server: give ${how} from now on`)
  else out.say(`it is found by its id from now on; to be found as well, give ${how}`)
}

/** Lets the peer in here as the ticket lets us in there, where it does that. */
async function allowBack(
  { peer, capability, objects = ['anything'] }: Ticket,
  options: JoinOptions,
  running: Running,
): Promise<void> {
  if (!options.allow || capability === undefined) return
  const { live } = await carryOut(options, { order: 'allow', subject: peer, objects }, running)
  running.out.event({ event: 'allowed', subject: peer, objects, until: null, live })
  running.out.say(
    `${peer} may come here as well, to use ${forWhat(objects)}; ${whenItHolds(live)}; peerline deny ${peer} takes that back`,
  )
}

function tellOfJoin(session: Session, out: Output): void {
  out.event({ event: 'joined', peer: session.peer, path: session.path ?? null })
  out.say(`joined ${session.peer} by ${session.path}`)
}

function refuseSelf(ticket: Ticket, peer: Peer): void {
  if (ticket.peer !== peer.id) return
  const recover = 'Run it on another machine, or with another --identity.'
  throw new PeerlineError('ERR_PEERLINE_INVALID', 'this is a ticket of this machine itself', { recover })
}
