/**
 * A ticket: all that one needs to reach a peer, and perhaps the right to come in, as one line of text or a QR code.
 *
 *     ticket  = "peerline:" z-base-32( version 1 | content | check 4 )       see bytes/pasted-text.ts
 *     content = CBOR { r: signed record | p: peer 32, ?a, ?l, ?v, ?t: texts      who it is, and where
 *                      ?c: capability 16 to 32 bytes, ?o: objects, ?e: ms }      what an invitation of that peer holds
 *
 *     a, l, v, t   addresses, relays, rendezvous, ledger topics: hints, in the place of a record, where a small ticket is wanted
 *     o            what the capability is for: protocols and patterns; absent: anything
 *     e            when the ticket ends, ms since 1970
 *
 * Invariants:
 * - A ticket is as good as the way that it came: whoever could change it there could as well write another. What it says
 *   leads to the peer it names or nowhere, for the handshake proves that.
 * - A capability is a secret: whoever reads the ticket first may use it.
 * - Mistyped (`ERR_PEERLINE_INVALID`) is not the same as wrong (what else is thrown).
 * Limits: {@link MAX_TICKET_BYTES} in all, and counts and lengths as below.
 */
import { concatBytes } from '../bytes/bytes.ts'
import { decodeCbor, encodeCbor } from '../bytes/cbor.ts'
import { type Fields, fields, MAX_TIME_MS } from '../bytes/fields.ts'
import { readPasted, writePasted } from '../bytes/pasted-text.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey, publicKeyOf } from './public-key.ts'
import { MAX_RECORD_BYTES, openRecord } from './record.ts'

/** Bytes: the largest record, a capability, and the names of protocols. What a QR code on a screen takes is a tenth of it. */
export const MAX_TICKET_BYTES = MAX_RECORD_BYTES + 1_536

/** Bytes of a capability: nobody guesses one of 128 bits. */
export const MIN_CAPABILITY_BYTES = 16
export const MAX_CAPABILITY_BYTES = 32

const VERSION = 1

// counts and characters: hints are the few best ways; objects as the rules of a firewall name them
const HINTS = { a: 8, l: 4, v: 4, t: 8 } as const
const MAX_HINT_LENGTH = 256
const MAX_OBJECTS = 16
const MAX_OBJECT_LENGTH = 128

const NAMES = { a: 'addresses', l: 'relays', v: 'rendezvous', t: 'topics' } as const

/** Where a peer may be found; absent lists are empty. */
export interface TicketHints {
  readonly addresses?: readonly string[]
  readonly relays?: readonly string[]
  readonly rendezvous?: readonly string[]
  readonly topics?: readonly string[]
}

/** What its holder may come in by. */
export interface TicketRight {
  /** What the peer's invitation holds: 16 to 32 random bytes. */
  readonly capability?: Uint8Array | undefined
  /** What the capability is for: at most 16 protocols or patterns. @default anything */
  readonly objects?: readonly string[] | undefined
  /** ms since 1970. @default as long as the record; never without one */
  readonly expiresAt?: number | undefined
}

/** What a ticket is written from: the signed record of a peer, or its id and hints. */
export type TicketContent = TicketRight &
  ({ readonly record: Uint8Array } | ({ readonly peer: PeerId; readonly record?: undefined } & TicketHints))

/** A ticket that was read. */
export interface Ticket extends Required<TicketHints> {
  readonly peer: PeerId
  /** As it was signed, to be passed on. */
  readonly record?: Uint8Array
  readonly capability?: Uint8Array
  readonly objects?: readonly string[]
  readonly expiresAt?: number
}

/**
 * A ticket as one line of text; in upper case it is what a QR code takes in the fewest modules.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for content over a limit, `ERR_PEERLINE_TOO_LARGE` for too much of it, and
 *   what is wrong with the record
 */
export function writeTicket(content: TicketContent): string {
  const { record, capability, objects, expiresAt } = content
  if (record !== undefined) openRecord(record, { now: 0 })
  const about = record === undefined ? { p: publicKeyOf(content.peer), ...hintsOf(content) } : { r: record }
  const map = { ...about, c: capability, o: objects && [...objects], e: expiresAt }
  rethrow(() => readRight(fields(map, 'ticket')))
  if (record === undefined) rethrow(() => readHints(fields(map, 'ticket')))
  const body = concatBytes([Uint8Array.of(VERSION), encodeCbor(map)])
  if (body.length > MAX_TICKET_BYTES) {
    const message = `the ticket has ${body.length} bytes, the limit is ${MAX_TICKET_BYTES}`
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', message)
  }
  return writePasted('ticket', body)
}

/**
 * Reads a ticket; spaces, line breaks and the case of its letters do not count.
 * @param options.now ms since 1970. @default Date.now()
 * @throws PeerlineError `ERR_PEERLINE_INVALID` when it is mistyped or no ticket, `ERR_PEERLINE_VERSION` when it is of a later
 *   version, `ERR_PEERLINE_EXPIRED` when its time is over, `ERR_PEERLINE_RECORD`, `ERR_PEERLINE_TOO_LARGE`
 */
export function readTicket(text: string, options: { readonly now?: number } = {}): Ticket {
  const { now = Date.now() } = options
  const body = readPasted('ticket', text, { maxBytes: MAX_TICKET_BYTES })
  if (body[0] !== VERSION) {
    const message = `the ticket has version ${body[0] ?? 'none'}, this side reads ${VERSION}`
    throw new PeerlineError('ERR_PEERLINE_VERSION', message)
  }
  return rethrow(() => {
    const all = fields(decodeCbor(body.subarray(1), { maxBytes: MAX_TICKET_BYTES, maxDepth: 2 }), 'ticket')
    const right = readRight(all)
    if (right.expiresAt === undefined || now < right.expiresAt) return { ...readAbout(all, now), ...right }
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', 'its time is over')
  })
}

function readAbout(all: Fields, now: number): Pick<Ticket, 'peer' | 'record'> & Required<TicketHints> {
  const record = all.optional('r', (at) => all.bytes(at, { max: MAX_RECORD_BYTES }))
  if (record === undefined) {
    return { peer: peerIdFromPublicKey(all.bytes('p', { length: PUBLIC_KEY_BYTES })), ...readHints(all) }
  }
  if (all.has('p')) throw new PeerlineError('ERR_PEERLINE_INVALID', 'the ticket names its peer twice')
  const { peerId: peer, addresses, relays, rendezvous, topics } = openRecord(record, { now })
  return { peer, record, addresses, relays, rendezvous, topics }
}

function readHints(all: Fields): Required<TicketHints> {
  const list = (name: keyof typeof HINTS) =>
    all.optional(name, (at) => all.texts(at, { max: HINTS[name], maxLength: MAX_HINT_LENGTH })) ?? []
  return { addresses: list('a'), relays: list('l'), rendezvous: list('v'), topics: list('t') }
}

function readRight(all: Fields): Pick<Ticket, 'capability' | 'objects' | 'expiresAt'> {
  const capability = all.optional('c', (at) => all.bytes(at, { max: MAX_CAPABILITY_BYTES }))
  if (capability !== undefined && capability.length < MIN_CAPABILITY_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a capability has at least ${MIN_CAPABILITY_BYTES} bytes`)
  }
  const objects = all.optional('o', (at) => all.texts(at, { max: MAX_OBJECTS, maxLength: MAX_OBJECT_LENGTH }))
  const expiresAt = all.optional('e', (at) => all.integer(at, { max: MAX_TIME_MS }))
  return {
    ...(capability === undefined ? {} : { capability }),
    ...(objects === undefined ? {} : { objects }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  }
}

function hintsOf(hints: TicketHints): Partial<Record<keyof typeof HINTS, readonly string[]>> {
  const given = (Object.keys(HINTS) as (keyof typeof HINTS)[]).map(
    (key) => [key, [...(hints[NAMES[key]] ?? [])]] as const,
  )
  return Object.fromEntries(given.filter(([, list]) => list.length > 0))
}

/** Runs `work`; what breaks the form is an argument that is none, and what is over leaves one thing to do. */
function rethrow<T>(work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (!isPeerlineError(cause)) throw cause
    if (cause.code === 'ERR_PEERLINE_PROTOCOL') {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `this is no ticket: ${cause.message}`, { cause })
    }
    if (cause.code !== 'ERR_PEERLINE_EXPIRED') throw cause
    const recover = 'Ask for another ticket.'
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', 'the ticket has expired', { cause, recover })
  }
}
