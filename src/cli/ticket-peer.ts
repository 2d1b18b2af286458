/**
 * What `invite` and `join` share: tickets out of what a peer says of itself, and what they tell.
 */
import { fromHex } from '../bytes/index.ts'
import { firstOf } from '../connect/index.ts'
import type { PeerlineError } from '../errors.ts'
import { openRecord } from '../identity/index.ts'
import { type TicketHints, type TicketRight, writeTicket } from '../identity/ticket.ts'
import type { Peer, PeerEvents } from '../peer/index.ts'
import { ping } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { Json } from './control-lines.ts'
import { formatMs, formatSpan, type Output, roundMs } from './output.ts'
import { pause } from './run.ts'

/** ms that the ping may take which shows that a session works. */
const PING_MS = 10_000

/** ms that servers may take to say how they see us. */
const SETTLE_MS = 10_000

/** A ticket in both its forms. */
export interface Tickets {
  /** With the signed record. */
  readonly text: string
  /** With the best of what the record says: half as long, for a QR code. */
  readonly small: string
}

/** Hints of a small ticket: a LAN and a public address, in two families, and one of all else. */
const SMALL = { addresses: 4, relays: 1, rendezvous: 1, topics: 3 } as const

/** What an `invite` order came to, as a ticket says it. */
export function rightOf({ capability, objects, until }: Json): TicketRight {
  return {
    capability: typeof capability === 'string' ? fromHex(capability) : undefined,
    objects: Array.isArray(objects) ? (objects as string[]) : undefined,
    expiresAt: until as number,
  }
}

/** The tickets to what an `invite` order came to. */
export function ticketsOf(done: Json, record: Uint8Array): Tickets {
  const right = rightOf(done)
  const { peerId: peer, ...said } = openRecord(record, { now: 0 })
  const names = Object.keys(SMALL) as (keyof typeof SMALL)[]
  const hints: TicketHints = Object.fromEntries(names.map((name) => [name, said[name].slice(0, SMALL[name])]))
  return { text: writeTicket({ record, ...right }), small: writeTicket({ peer, ...hints, ...right }) }
}

/** Prints a ticket, and says what it is for. `how`: what is to be added there. */
export async function give(
  { text, small }: Tickets,
  done: Json,
  out: Output,
  { qr, how = '' }: { readonly qr: boolean; readonly how?: string },
): Promise<void> {
  const { capability, objects, expiresAt } = rightOf(done)
  const { id = null, uses = null, group = null } = done
  out.event({ event: 'ticket', ticket: text, id, until: expiresAt, uses, objects: objects ?? null, group })
  if (!out.json) out.data(text)
  if (qr) {
    const { drawQrCode } = await import('./qr-code.ts')
    await drawQrCode(small, out)
  }
  const who = uses === 1 ? 'one peer' : `${uses} peers`
  const what = group === null ? `to use ${forWhat(objects)}` : `to be in group ${group}`
  const life = formatSpan(expiresAt! - Date.now())
  if (capability === undefined) out.say(`this ticket says where this machine is, for ${life}, and lets nobody in`)
  else out.say(`this ticket lets ${who} in, ${what}, for ${life}: whoever brings it first`)
  out.say(`there: peerline join TICKET${how}`)
}

/** Waits until it is known how others see a peer, as far as that is to be known soon. */
export async function settled(peer: Peer, signal: AbortSignal): Promise<void> {
  const over = new AbortController()
  await Promise.race([peer.settled(), pause(SETTLE_MS, firstOf(signal, over.signal))])
  over.abort()
}

/** What a ticket is for, to people. */
export function forWhat(objects: readonly string[] | undefined): string {
  return objects === undefined || objects.includes('anything') ? 'anything' : objects.join(', ')
}

/** Shows that a session works, and how well; where the other side allows no pings that is not known. */
export async function prove(session: Session, out: Output, signal: AbortSignal): Promise<void> {
  const { peer } = session
  try {
    const rttMs = roundMs(await ping(session, { signal, timeoutMs: PING_MS }))
    out.event({ event: 'ping', peer, rttMs, path: session.path ?? null })
    out.say(`${peer} answers a ping in ${formatMs(rttMs)}`)
  } catch (error) {
    const { code } = error as PeerlineError
    if (code !== 'ERR_PEERLINE_DENIED' && code !== 'ERR_PEERLINE_NO_PROTOCOL') throw error
    out.event({ event: 'ping', peer, rttMs: null, path: session.path ?? null })
    out.say(`${peer} allows no pings`)
  }
}

/** Tells of sessions that other peers open with us, until the signal fires. */
export function onInbound(peer: Peer, signal: AbortSignal, tell: (session: Session) => void): void {
  const onSession = ({ detail: { session, inbound } }: CustomEvent<PeerEvents['session']>) => {
    if (inbound) tell(session)
  }
  peer.addEventListener('session', onSession, { signal })
}
