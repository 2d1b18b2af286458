/**
 * What two peers tell each other to find ways to one another: in the offer and its answer, and later in the session.
 *
 *     body = {
 *       c?: [[kind, host, port], …]          candidates, in the sender's order of preference
 *       r?: [[relay address, CIRCUIT], …]    circuits that the receiver may join
 *       h?: true                             the sender shows no address, and dials none: relays only
 *       n?: [tcp, udp, step]                 how the sender's NAT maps (RFC 4787 section 4.1): an index of MAPPINGS each
 *       l?: ms                               the sender's round trip to its rendezvous
 *       w?: bytes                            its WebRTC description
 *       g?: [round, phase]                   a round of punching: 0 ask, 1 ready, 2 go
 *       s?: id 16                            in an offer: it is for a session that both have, and that has lost its paths
 *       q?: [protocol, body]                 in an offer: a request that may be answered before there is a session
 *       a?: bytes                            in the answer: what it was answered with, in the form of a response
 *       u?: [url, …]                         rendezvous where the sender may be found when this session has ended
 *       k?: bytes                            in an offer: what an invitation of the receiver holds
 *     }
 *
 * - At most {@link MAX_CANDIDATES} and {@link MAX_CIRCUITS} are taken.
 * - `q` and `a` are left out where they are too large, and first of all where the whole is: what is not there is asked
 *   again in the session. Then goes `u`, and what can be told in the session: `w`, the second circuit, the candidates that were
 *   preferred least of their kind; the other circuit is the last to go. A peer that does not know a field passes it over.
 * - What a remote names is never dialled blindly: see {@link mayDial}.
 */

import { isIP } from 'node:net'
import { copyBytes, decodeCbor, encodeCbor, fields, toHex } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { scopeOf } from '../network/address.ts'
import type { NatMapping } from '../network/nat.ts'
import { CIRCUIT_BYTES } from '../path/index.ts'
import { MAX_PROTOCOL_BYTES } from '../session/index.ts'
import { MAX_URL_LENGTH } from './url.ts'

/** Candidates of one peer: a machine's addresses on a few networks, in both families, and as others see them. */
export const MAX_CANDIDATES = 24

/** Relays named in one offer. */
export const MAX_CIRCUITS = 2

/** Bytes of an encoded body: a full set with a WebRTC description; as much as one frame of a session takes. */
export const MAX_BODY_BYTES = 4_096

/**
 * Bytes of the body of an early request, and of what answers it: a question and a figure or two. More would crowd out
 * candidates, and split the datagrams of the local network.
 */
export const MAX_EARLY_BYTES = 512

/** Bytes of the status before the body of an answer. */
const STATUS_BYTES = 1

/** Bytes of a WebRTC description. */
const MAX_DESCRIPTION_BYTES = 2_048

/** Rendezvous named: some 80 bytes each. */
const MAX_RENDEZVOUS = 2

/** Bytes of what an invitation holds. */
const MAX_CAPABILITY_BYTES = 32

/** Bytes of a session's public name. */
const SESSION_ID_BYTES = 16

/** Largest round trip to a rendezvous that is believed, ms. */
const MAX_RENDEZVOUS_RTT_MS = 2_000

/**
 * How a candidate is reached.
 *
 * - `tcp`: somebody listens there
 * - `tcp-so`: simultaneous open (RFC 6544 section 4.5)
 * - `udp`: an address of the peer's own
 * - `udp-srflx`: its address as a reflector saw it (server reflexive, RFC 8445 section 5.1.1)
 */
export type CandidateKind = 'tcp' | 'tcp-so' | 'udp' | 'udp-srflx'

const KINDS: ReadonlySet<unknown> = new Set<CandidateKind>(['tcp', 'tcp-so', 'udp', 'udp-srflx'])

/** One address (IP literal) at which a peer may be reached. */
export interface Candidate {
  readonly kind: CandidateKind
  readonly host: string
  readonly port: number
}

/** A circuit that the other side may join. */
export interface CircuitOffer {
  /** Address of the relay, such as `ws://host:port`. */
  readonly relay: string
  /** The CIRCUIT message that opens it. */
  readonly token: Uint8Array
}

/** How a peer's NAT maps its ports, as far as it knows. */
export interface NatHint {
  readonly tcp: NatMapping
  readonly udp: NatMapping
  /** Ports from one mapping to the next, when they are sequential. */
  readonly step: number
}

const MAPPINGS: readonly NatMapping[] = ['unknown', 'none', 'endpoint-independent', 'sequential', 'random']

/** Largest step between sequential ports that is believed. */
const MAX_STEP = 16

/**
 * A call for a round of punching. `ask`: tell me where you are now, and we begin. `ready`: here I am, and I fire when this
 * has arrived. `go`: I know enough of you, and fire when this has arrived.
 */
export interface PunchCall {
  readonly round: number
  readonly phase: (typeof PHASES)[number]
}

const PHASES = ['ask', 'ready', 'go'] as const

/** A request that rides in an offer; what executes it must be safe to execute twice. */
export interface EarlyRequest {
  readonly protocol: string
  readonly body: Uint8Array
}

export interface ConnectionBody {
  readonly candidates: readonly Candidate[]
  readonly circuits: readonly CircuitOffer[]
  /** The sender shows no address, and dials none. */
  readonly hidden?: boolean | undefined
  readonly nat?: NatHint | undefined
  readonly rendezvousRttMs?: number | undefined
  readonly webrtc?: Uint8Array | undefined
  readonly punch?: PunchCall | undefined
  /** In an offer: the session that it is to find other ways for, hex. */
  readonly session?: string | undefined
  /** In an offer. */
  readonly early?: EarlyRequest | undefined
  /** In an answer: what `early` is answered with. */
  readonly earlyAnswer?: Uint8Array | undefined
  /** URLs of rendezvous where the sender may be found later. */
  readonly rendezvous?: readonly string[] | undefined
  /** In an offer: what an invitation of the receiver holds. */
  readonly capability?: Uint8Array | undefined
}

/**
 * @param options.maxBytes above this, what matters least is left out, as the head of this file says; @default
 *   {@link MAX_BODY_BYTES}
 */
export function encodeBody(
  body: Partial<ConnectionBody>,
  { maxBytes = MAX_BODY_BYTES }: { readonly maxBytes?: number | undefined } = {},
): Uint8Array {
  const whole = encode(body)
  if (whole.length <= maxBytes) return whole
  let rest = body
  for (const less of LESS) {
    rest = less(rest)
    const encoded = encode(rest)
    if (encoded.length <= maxBytes) return encoded
  }
  const all = rest.candidates ?? []
  const byWorth = inTurns(all)
  for (let left = all.length - 1; left >= MIN_CANDIDATES && encode(rest).length > maxBytes; left--) {
    const kept = new Set(byWorth.slice(0, left))
    rest = { ...rest, candidates: all.filter((one) => kept.has(one)) }
  }
  // What is too large all the same is for the medium to refuse.
  const encoded = encode(rest)
  return encoded.length <= maxBytes ? encoded : encode({ ...rest, circuits: [] })
}

/** What is left out, one after the other, of what is too large for a medium. */
const LESS: readonly ((body: Partial<ConnectionBody>) => Partial<ConnectionBody>)[] = [
  (body) => ({ ...body, early: undefined, earlyAnswer: undefined }),
  (body) => ({ ...body, rendezvous: undefined }),
  (body) => ({ ...body, webrtc: undefined }),
  (body) => ({ ...body, circuits: body.circuits?.slice(0, 1) ?? [] }),
]

/** Candidates that are kept before the last circuit goes: a LAN, a public and a mapped address, in two families. */
const MIN_CANDIDATES = 6

/** The best of each kind, then the second of each, …: some of every kind are of more use than all of one. */
function inTurns(candidates: readonly Candidate[]): Candidate[] {
  const kinds = [...KINDS].map((kind) => candidates.filter((one) => one.kind === kind))
  const most = Math.max(0, ...kinds.map(({ length }) => length))
  return Array.from({ length: most }, (_, at) => kinds.flatMap((ofKind) => ofKind[at] ?? [])).flat()
}

function encode(body: Partial<ConnectionBody>): Uint8Array {
  const { candidates = [], circuits = [], hidden = false, nat, rendezvousRttMs, webrtc, punch, session } = body
  const { early, earlyAnswer, rendezvous = [], capability } = body
  return encodeCbor({
    c: candidates.slice(0, MAX_CANDIDATES).map(({ kind, host, port }) => [kind, host, port]),
    r: circuits.slice(0, MAX_CIRCUITS).map(({ relay, token }) => [relay, token]),
    ...(hidden ? { h: true } : {}),
    ...(nat === undefined ? {} : { n: [MAPPINGS.indexOf(nat.tcp), MAPPINGS.indexOf(nat.udp), nat.step] }),
    ...(rendezvousRttMs === undefined ? {} : { l: Math.round(rendezvousRttMs) }),
    ...(webrtc === undefined ? {} : { w: webrtc }),
    ...(punch === undefined ? {} : { g: [punch.round, PHASES.indexOf(punch.phase)] }),
    ...(session === undefined ? {} : { s: Buffer.from(session, 'hex') }),
    ...(early === undefined || !mayRide(early) ? {} : { q: [early.protocol, early.body] }),
    ...(earlyAnswer === undefined || earlyAnswer.length > STATUS_BYTES + MAX_EARLY_BYTES ? {} : { a: earlyAnswer }),
    ...(rendezvous.length === 0 ? {} : { u: rendezvous.slice(0, MAX_RENDEZVOUS) }),
    ...(capability === undefined ? {} : { k: capability }),
  })
}

/** What an offer brings of an invitation; undefined where there is nothing of the kind. Its other fields are looked at, not used. */
export function capabilityOf(body: Uint8Array): Uint8Array | undefined {
  if (body.length === 0) return undefined
  try {
    return decodeBody(body).capability
  } catch {
    return undefined
  }
}

/** True for the body of an offer that is for a session that both sides have, and for one that is malformed. */
export function namesSession(body: Uint8Array): boolean {
  if (body.length === 0) return false
  try {
    return decodeBody(body).session !== undefined
  } catch {
    return true
  }
}

function mayRide({ protocol, body }: EarlyRequest): boolean {
  return protocol.length > 0 && protocol.length <= MAX_PROTOCOL_BYTES && body.length <= MAX_EARLY_BYTES
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` or `ERR_PEERLINE_TOO_LARGE` */
export function decodeBody(bytes: Uint8Array): ConnectionBody {
  if (bytes.length === 0) return { candidates: [], circuits: [] }
  const all = fields(decodeCbor(bytes, { maxBytes: MAX_BODY_BYTES }), 'connection body')
  const candidates: Candidate[] = []
  for (const entry of all.optional('c', (name) => all.list(name, { max: MAX_CANDIDATES })) ?? []) {
    const [kind, host, port] = tuple(entry, 3)
    // Kinds we do not know are another version's: passed over.
    if (!KINDS.has(kind)) continue
    if (typeof host !== 'string' || isIP(host) === 0) throw malformed()
    candidates.push({ kind: kind as CandidateKind, host, port: integer(port, 1, 65_535) })
  }
  const circuits: CircuitOffer[] = []
  for (const entry of all.optional('r', (name) => all.list(name, { max: MAX_CIRCUITS })) ?? []) {
    const [relay, token] = tuple(entry, 2)
    if (typeof relay !== 'string' || relay.length > MAX_URL_LENGTH) throw malformed()
    if (!(token instanceof Uint8Array) || token.length !== CIRCUIT_BYTES) throw malformed()
    circuits.push({ relay, token: copyBytes(token) })
  }
  const nat = all.optional('n', (name) => all.list(name, { max: 3 }))
  const punch = all.optional('g', (name) => all.list(name, { max: 2 }))
  const webrtc = all.optional('w', (name) => copyBytes(all.bytes(name, { max: MAX_DESCRIPTION_BYTES })))
  const rendezvousRttMs = all.optional('l', (name) => all.integer(name, { min: 0, max: MAX_RENDEZVOUS_RTT_MS }))
  const hidden = all.optional('h', (name) => all.boolean(name))
  const session = all.optional('s', (name) => toHex(all.bytes(name, { length: SESSION_ID_BYTES })))
  const early = all.optional('q', (name) => all.list(name, { max: 2 }))
  const earlyAnswer = all.optional('a', (name) => copyBytes(all.bytes(name, { max: STATUS_BYTES + MAX_EARLY_BYTES })))
  const rendezvous = all.optional('u', (name) => all.texts(name, { max: MAX_RENDEZVOUS, maxLength: MAX_URL_LENGTH }))
  const capability = all.optional('k', (name) => copyBytes(all.bytes(name, { max: MAX_CAPABILITY_BYTES })))
  return {
    candidates,
    circuits,
    ...(hidden === undefined ? {} : { hidden }),
    ...(nat === undefined ? {} : { nat: readNat(tuple(nat, 3)) }),
    ...(rendezvousRttMs === undefined ? {} : { rendezvousRttMs }),
    ...(webrtc === undefined ? {} : { webrtc }),
    ...(punch === undefined ? {} : { punch: readPunch(tuple(punch, 2)) }),
    ...(session === undefined ? {} : { session }),
    ...(early === undefined ? {} : { early: readEarly(tuple(early, 2)) }),
    ...(earlyAnswer === undefined ? {} : { earlyAnswer }),
    ...(rendezvous === undefined ? {} : { rendezvous }),
    ...(capability === undefined ? {} : { capability }),
  }
}

function readNat([tcp, udp, step]: readonly unknown[]): NatHint {
  return {
    tcp: MAPPINGS[integer(tcp, 0, MAPPINGS.length - 1)]!,
    udp: MAPPINGS[integer(udp, 0, MAPPINGS.length - 1)]!,
    step: integer(step, -MAX_STEP, MAX_STEP),
  }
}

function readPunch([round, phase]: readonly unknown[]): PunchCall {
  return { round: integer(round, 0, 0xffff), phase: PHASES[integer(phase, 0, PHASES.length - 1)]! }
}

function readEarly([protocol, body]: readonly unknown[]): EarlyRequest {
  const early = { protocol, body } as EarlyRequest
  if (typeof protocol !== 'string' || !(body instanceof Uint8Array) || !mayRide(early)) throw malformed()
  return { protocol, body: copyBytes(body) }
}

function integer(value: unknown, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) throw malformed()
  return value
}

function tuple(value: unknown, length: number): readonly unknown[] {
  if (!Array.isArray(value) || value.length !== length) throw malformed()
  return value
}

function malformed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a candidate is malformed')
}

/**
 * Whether an address that a remote named may be dialled. Public and private ones may; loopback only when `loopback`
 * says that we ourselves are to be found there, or else a remote could make us talk to services of our own machine;
 * link-local, multicast and reserved ones never (cloud metadata services live there).
 */
export function mayDial(host: string, options: { loopback: boolean }): boolean {
  const scope = scopeOf(host)
  return scope === 'public' || scope === 'private' || (scope === 'loopback' && options.loopback)
}
