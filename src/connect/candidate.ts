/**
 * Candidates: the ways in which a peer may be reached, as offers and answers carry them.
 *
 *     body = { c?: [[kind, host, port], …], r?: [[relay address, CIRCUIT message], …] }
 *
 * - At most {@link MAX_CANDIDATES} and {@link MAX_CIRCUITS} are taken, in the sender's order of preference.
 * - What a remote names is never dialled blindly: see {@link mayDial}.
 */

import { isIP } from 'node:net'
import { copyBytes, decodeCbor, encodeCbor, fields } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { scopeOf } from '../network/address.ts'
import { CIRCUIT_BYTES } from '../path/index.ts'
import { MAX_URL_LENGTH } from './url.ts'

/** Candidates of one peer: a machine's addresses on a few networks, in both families. */
export const MAX_CANDIDATES = 16

/** Relays named in one offer. */
export const MAX_CIRCUITS = 2

/** Bytes of an encoded body: a full set fits twice. */
export const MAX_BODY_BYTES = 4_096

/** A TCP address (IP literal) where a peer listens. */
export interface Candidate {
  readonly kind: 'tcp'
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

export interface ConnectionBody {
  readonly candidates: readonly Candidate[]
  readonly circuits: readonly CircuitOffer[]
}

export function encodeBody(body: ConnectionBody): Uint8Array {
  return encodeCbor({
    c: body.candidates.slice(0, MAX_CANDIDATES).map(({ kind, host, port }) => [kind, host, port]),
    r: body.circuits.slice(0, MAX_CIRCUITS).map(({ relay, token }) => [relay, token]),
  })
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` or `ERR_PEERLINE_TOO_LARGE` */
export function decodeBody(bytes: Uint8Array): ConnectionBody {
  if (bytes.length === 0) return { candidates: [], circuits: [] }
  const all = fields(decodeCbor(bytes, { maxBytes: MAX_BODY_BYTES }), 'connection body')
  const candidates: Candidate[] = []
  for (const entry of all.optional('c', (name) => all.list(name, { max: MAX_CANDIDATES })) ?? []) {
    const [kind, host, port] = tuple(entry, 3)
    // Kinds we do not know are another version's: passed over.
    if (kind !== 'tcp') continue
    if (typeof host !== 'string' || isIP(host) === 0) throw malformed()
    if (typeof port !== 'number' || !Number.isInteger(port) || port < 1 || port > 65_535) throw malformed()
    candidates.push({ kind, host, port })
  }
  const circuits: CircuitOffer[] = []
  for (const entry of all.optional('r', (name) => all.list(name, { max: MAX_CIRCUITS })) ?? []) {
    const [relay, token] = tuple(entry, 2)
    if (typeof relay !== 'string' || relay.length > MAX_URL_LENGTH) throw malformed()
    if (!(token instanceof Uint8Array) || token.length !== CIRCUIT_BYTES) throw malformed()
    circuits.push({ relay, token: copyBytes(token) })
  }
  return { candidates, circuits }
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
