/**
 * What peers of one local network say to each other, in UDP datagrams.
 *
 *     0         4         5      6
 *     +---------+---------+------+-----------------------------+
 *     | "PRLN"  | version |  1   | offer ...                   |   multicast, from a port of the dialler's own
 *     +---------+---------+------+--------+--------------------+
 *     | "PRLN"  | version |  2   | tag 16 | answer ...         |   unicast, back to that port
 *     +---------+---------+------+--------+--------------------+
 *
 *     tag       the first 16 bytes of SHA-256 of the offer that is answered
 *
 * The tag is worked out by both sides, so that a resent offer is known again by what it says: nobody can take a tag
 * before the offer it belongs to, and it tells nothing that the offer does not. One signal has at most 16 KiB, and
 * mostly far below 1,400 bytes, which any link carries whole; above that IP splits it.
 */
import { createHash } from 'node:crypto'
import { concatBytes, copyBytes, fromHex, toHex } from '../bytes/index.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

/**
 * UDP port: of the private range, which nobody is assigned (RFC 6335 section 6), and above the ports that Linux gives to
 * outgoing connections (32768 to 60999), so that no passer-by holds it.
 */
export const LAN_PORT = 61_456

/** Of the local scope, which no router hands on to another site (RFC 2365 section 6.1). */
export const LAN_GROUP_V4 = '239.255.112.108'

/** Transient, for it is not assigned, and of link scope (RFC 4291 section 2.7); its id is of the dynamic range (RFC 3307). */
export const LAN_GROUP_V6 = 'ff12::f065:706c'

/** Of this wire alone: signals have a version of their own. */
const LAN_VERSION = 1
const MAGIC = Uint8Array.from('PRLN', (character) => character.charCodeAt(0))
const HEAD_BYTES = MAGIC.length + 2
const TAG_BYTES = 16 // collisions by chance are out of the question, and forgery is the handshake's to see

const OFFER = 1
const ANSWER = 2

export type LanDatagram =
  | { readonly kind: 'offer'; readonly message: Uint8Array }
  | { readonly kind: 'answer'; readonly tag: string; readonly message: Uint8Array }

/** What the answer to this offer will name it by, in hex. */
export function tagOf(offer: Uint8Array): string {
  return createHash('sha256')
    .update(offer)
    .digest('hex')
    .slice(0, 2 * TAG_BYTES)
}

export function encodeLanOffer(offer: Uint8Array): Uint8Array {
  return concatBytes([MAGIC, Uint8Array.of(LAN_VERSION, OFFER), offer])
}

export function encodeLanAnswer(tag: string, answer: Uint8Array): Uint8Array {
  return concatBytes([MAGIC, Uint8Array.of(LAN_VERSION, ANSWER), fromHex(tag), answer])
}

/** Reads a datagram; undefined for what is none of ours. The message keeps its own memory. */
export function readLanDatagram(bytes: Uint8Array): LanDatagram | undefined {
  if (bytes.length < HEAD_BYTES || !MAGIC.every((byte, at) => bytes[at] === byte)) return undefined
  const [version, kind] = bytes.subarray(MAGIC.length)
  if (version !== LAN_VERSION) return undefined
  const rest = bytes.subarray(HEAD_BYTES)
  if (kind === OFFER && rest.length <= MAX_SIGNAL_BYTES) return { kind: 'offer', message: copyBytes(rest) }
  if (kind !== ANSWER || rest.length < TAG_BYTES || rest.length > TAG_BYTES + MAX_SIGNAL_BYTES) return undefined
  const tag = toHex(rest.subarray(0, TAG_BYTES))
  return { kind: 'answer', tag, message: copyBytes(rest.subarray(TAG_BYTES)) }
}
