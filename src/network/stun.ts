/**
 * STUN messages, RFC 8489: as much of it as a Binding exchange needs.
 *
 *    0                   1                   2                   3
 *   |0 0|   type, 14 bits           |   length of what follows      |
 *   |                  magic cookie 0x2112A442                      |
 *   |                  transaction id, 96 bits                      |
 *   |   attribute type              |   value length                |  0 to n attributes,
 *   |   value, padded to 4 bytes ...                                |  each on a 4-byte border
 *
 * Invariants
 * - Parsing never throws: whatever is not one whole, well-formed message is undefined (section 6.3 discards it silently).
 * - A message that carries a FINGERPRINT is parsed only if the checksum is right.
 * - No credentials: MESSAGE-INTEGRITY is neither made nor checked. What a reflector says is hearsay until a peer has
 *   been reached there.
 *
 * Sections: 5 (header), 6.3.1 (unknown attributes), 14 (attributes), 14.2 (XOR-MAPPED-ADDRESS), 14.7 (FINGERPRINT),
 * 14.8 (ERROR-CODE), 14.13 (UNKNOWN-ATTRIBUTES), 14.14 (SOFTWARE). The attributes of RFC 5780 are in nat-attributes.ts.
 */

import { crc32 } from 'node:zlib'
import { PeerlineError } from '../errors.ts'
import { bytesToIp, ipToBytes, type SocketAddress } from './address.ts'

/**
 * Bytes. What fits an IPv4 datagram of 576 that every host must take, less IP and UDP headers (section 6.1). A Binding
 * request is 20 to 100 bytes, so more is no honest one.
 */
export const MAX_STUN_BYTES = 548

/** Bytes. What `isStun` needs to decide: the header up to the end of the magic cookie. */
export const STUN_SNIFF_BYTES = 8

/** Bytes. The random number that ties an answer to its request. */
export const TRANSACTION_ID_BYTES = 12

/** The one method spoken here (section 18.2). */
export const BINDING = 0x001

/** Attribute types (section 18.3, and RFC 5780 section 9.1). Types below 0x8000 must be understood by whoever gets them in a request. */
export const StunAttributeType = {
  mappedAddress: 0x0001,
  changeRequest: 0x0003,
  username: 0x0006,
  messageIntegrity: 0x0008,
  errorCode: 0x0009,
  unknownAttributes: 0x000a,
  realm: 0x0014,
  nonce: 0x0015,
  messageIntegritySha256: 0x001c,
  passwordAlgorithm: 0x001d,
  userhash: 0x001e,
  xorMappedAddress: 0x0020,
  responsePort: 0x0027,
  software: 0x8022,
  fingerprint: 0x8028,
  responseOrigin: 0x802b,
  otherAddress: 0x802c,
} as const

export type StunClass = 'request' | 'indication' | 'success' | 'error'

export interface StunAttribute {
  type: number
  value: Uint8Array
}

export interface StunMessage {
  class: StunClass
  method: number
  transactionId: Uint8Array
  /** In their order on the wire, without FINGERPRINT. */
  attributes: StunAttribute[]
  /** True when it carried a FINGERPRINT, which was right. */
  fingerprint: boolean
}

/** What may be added to a message. */
export interface StunExtras {
  /** Goes behind what the message must have. @default none */
  attributes?: readonly StunAttribute[]
  /** Names the software that sends. @default left out */
  software?: string
  /** Ends the message with a checksum, which tells STUN from other traffic on the same port. @default false */
  fingerprint?: boolean
}

const HEADER_BYTES = 20
const COOKIE = Uint8Array.of(0x21, 0x12, 0xa4, 0x42)
const FINGERPRINT_BYTES = 8
const FINGERPRINT_XOR = 0x5354554e // "STUN", so that a CRC of the same bytes by another protocol differs
const CLASSES: readonly StunClass[] = ['request', 'indication', 'success', 'error'] // by C1 C0, section 5
// What asks for an answer from or to another place is not among them: only a reflector that has one understands it.
const UNDERSTOOD: ReadonlySet<number> = new Set(
  Object.values(StunAttributeType).filter(
    (type) => type !== StunAttributeType.changeRequest && type !== StunAttributeType.responsePort,
  ),
)
const REASONS = { 400: 'Bad Request', 420: 'Unknown Attribute' } as const // section 14.8

/** True when the bytes begin like STUN. Fewer than `STUN_SNIFF_BYTES` never do. */
export function isStun(first: Uint8Array): boolean {
  return (
    first.length >= STUN_SNIFF_BYTES &&
    (first[0]! & 0xc0) === 0 &&
    (first[3]! & 0x03) === 0 &&
    COOKIE.every((byte, i) => first[4 + i] === byte)
  )
}

/**
 * For STUN over TCP, which is framed by the length in its own header (section 6.2.2): how many bytes the first message in
 * `buffered` has, `more` when that cannot be told yet, `bad` when it is no STUN or too long.
 */
export function stunFrameBytes(buffered: Uint8Array): number | 'more' | 'bad' {
  if (buffered.length < STUN_SNIFF_BYTES) return 'more'
  if (!isStun(buffered)) return 'bad'
  const bytes = HEADER_BYTES + ((buffered[2]! << 8) | buffered[3]!)
  return bytes > MAX_STUN_BYTES ? 'bad' : bytes
}

/** Reads one whole message; undefined for anything else, including a wrong FINGERPRINT. */
export function parseStunMessage(bytes: Uint8Array): StunMessage | undefined {
  if (bytes.length < HEADER_BYTES || stunFrameBytes(bytes) !== bytes.length) return undefined
  const view = viewOf(bytes)
  const { class: messageClass, method } = splitType(view.getUint16(0))

  const attributes: StunAttribute[] = []
  let fingerprint = false
  let sealed = false // behind MESSAGE-INTEGRITY: what follows it must be ignored (section 14.5), FINGERPRINT excepted
  for (let at = HEADER_BYTES; at < bytes.length; ) {
    if (fingerprint) return undefined // it must be the last one
    if (at + 4 > bytes.length) return undefined
    const type = view.getUint16(at)
    const length = view.getUint16(at + 2)
    const end = at + 4 + length
    if (end > bytes.length) return undefined
    if (type === StunAttributeType.fingerprint) {
      if (length !== 4 || view.getUint32(at + 4) !== fingerprintOf(bytes.subarray(0, at))) return undefined
      fingerprint = true
    } else if (!sealed) {
      attributes.push({ type, value: Uint8Array.from(bytes.subarray(at + 4, end)) })
      sealed = type === StunAttributeType.messageIntegrity || type === StunAttributeType.messageIntegritySha256
    }
    at = padded(end) // a message is a multiple of 4 long, so the padding is inside it
  }
  const transactionId = Uint8Array.from(bytes.subarray(8, HEADER_BYTES))
  return { class: messageClass, method, transactionId, attributes, fingerprint }
}

/** The types in `message` that must be understood and are not (section 6.3.1). Each once. `also` adds to what is. */
export function unknownAttributes(message: StunMessage, also: readonly number[] = []): number[] {
  const unknown = message.attributes
    .map(({ type }) => type)
    .filter((type) => type < 0x8000 && !UNDERSTOOD.has(type) && !also.includes(type))
  return [...new Set(unknown)]
}

/** The value of the first attribute of a type; later ones of the same type must be ignored (section 14). */
export function stunAttribute(message: StunMessage, type: number): Uint8Array | undefined {
  return message.attributes.find((candidate) => candidate.type === type)?.value
}

/** The address that the answer says we are seen from; undefined when it says none. */
export function xorMappedAddress(message: StunMessage): SocketAddress | undefined {
  const value = stunAttribute(message, StunAttributeType.xorMappedAddress)
  const family = value?.[1] === 1 ? 4 : value?.[1] === 2 ? 6 : undefined
  if (value === undefined || family === undefined || value.length !== (family === 4 ? 8 : 20)) return undefined
  const mask = addressMask(message.transactionId)
  const host = bytesToIp(value.subarray(4).map((byte, i) => byte ^ mask[i]!))
  return { host, port: viewOf(value).getUint16(2) ^ viewOf(mask).getUint16(0), family }
}

/** The number in the ERROR-CODE, 300 to 699; undefined when there is none. */
export function stunErrorCode(message: StunMessage): number | undefined {
  const value = stunAttribute(message, StunAttributeType.errorCode)
  if (value === undefined || value.length < 4) return undefined
  const code = (value[2]! & 0x07) * 100 + value[3]!
  return value[3]! < 100 && code >= 300 && code < 700 ? code : undefined
}

/** A question: what address am I seen from? */
export function encodeBindingRequest(transactionId: Uint8Array, extras: StunExtras = {}): Uint8Array {
  return encodeStunMessage('request', transactionId, [], extras)
}

/** The answer: from `source`. */
export function encodeBindingSuccess(
  transactionId: Uint8Array,
  source: SocketAddress,
  extras: StunExtras = {},
): Uint8Array {
  const ip = ipToBytes(source.host)
  if (ip === undefined) throw new PeerlineError('ERR_PEERLINE_INVALID', `${JSON.stringify(source.host)} is not an IP`)
  const mask = addressMask(transactionId)
  const value = new Uint8Array(4 + ip.length)
  value[1] = ip.length === 4 ? 1 : 2
  viewOf(value).setUint16(2, source.port ^ viewOf(mask).getUint16(0))
  value.set(
    ip.map((byte, i) => byte ^ mask[i]!),
    4,
  )
  return encodeStunMessage('success', transactionId, [{ type: StunAttributeType.xorMappedAddress, value }], extras)
}

/** A refusal: 400 for what makes no sense, 420 for attributes that are not understood; those are listed. */
export function encodeBindingError(
  transactionId: Uint8Array,
  error: { code: 400 } | { code: 420; unknown: readonly number[] },
  extras: StunExtras = {},
): Uint8Array {
  const head = [0, 0, Math.trunc(error.code / 100), error.code % 100]
  const reason = Uint8Array.of(...head, ...new TextEncoder().encode(REASONS[error.code]))
  const attributes = [{ type: StunAttributeType.errorCode as number, value: reason }]
  if (error.code === 420) {
    const value = Uint8Array.from(error.unknown.flatMap((type) => [type >> 8, type & 0xff]))
    attributes.push({ type: StunAttributeType.unknownAttributes, value })
  }
  return encodeStunMessage('error', transactionId, attributes, extras)
}

function encodeStunMessage(
  messageClass: StunClass,
  transactionId: Uint8Array,
  given: readonly StunAttribute[],
  { attributes: more = [], software, fingerprint = false }: StunExtras,
): Uint8Array {
  if (transactionId.length !== TRANSACTION_ID_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a transaction id has ${TRANSACTION_ID_BYTES} bytes`)
  }
  const attributes = [...given, ...more]
  if (software !== undefined) {
    attributes.push({ type: StunAttributeType.software, value: new TextEncoder().encode(software) })
  }
  const body = attributes.reduce((sum, { value }) => sum + 4 + padded(value.length), 0)
  const total = HEADER_BYTES + body + (fingerprint ? FINGERPRINT_BYTES : 0)
  if (total > MAX_STUN_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `a STUN message of ${total} bytes is over ${MAX_STUN_BYTES}`)
  }

  const bytes = new Uint8Array(total)
  const view = viewOf(bytes)
  view.setUint16(0, joinType(messageClass, BINDING))
  view.setUint16(2, total - HEADER_BYTES) // counts the FINGERPRINT too, as its checksum demands
  bytes.set(COOKIE, 4)
  bytes.set(transactionId, 8)
  let at = HEADER_BYTES
  for (const { type, value } of attributes) {
    view.setUint16(at, type)
    view.setUint16(at + 2, value.length)
    bytes.set(value, at + 4)
    at += 4 + padded(value.length)
  }
  if (fingerprint) {
    view.setUint16(at, StunAttributeType.fingerprint)
    view.setUint16(at + 2, 4)
    view.setUint32(at + 4, fingerprintOf(bytes.subarray(0, at)))
  }
  return bytes
}

// Section 5: the class bits C1 and C0 sit at 0x100 and 0x010, among the method's twelve.
function splitType(type: number): { class: StunClass; method: number } {
  const bits = ((type >> 7) & 0b10) | ((type >> 4) & 0b01)
  return { class: CLASSES[bits]!, method: (type & 0x000f) | ((type & 0x00e0) >> 1) | ((type & 0x3e00) >> 2) }
}

function joinType(messageClass: StunClass, method: number): number {
  const bits = CLASSES.indexOf(messageClass)
  const spread = (method & 0x000f) | ((method & 0x0070) << 1) | ((method & 0x0f80) << 2)
  return spread | ((bits & 0b10) << 7) | ((bits & 0b01) << 4)
}

/** What an address is masked with, lest a NAT that rewrites addresses in payloads finds it: cookie, then transaction id. */
function addressMask(transactionId: Uint8Array): Uint8Array {
  const mask = new Uint8Array(COOKIE.length + TRANSACTION_ID_BYTES)
  mask.set(COOKIE)
  mask.set(transactionId, COOKIE.length)
  return mask
}

function fingerprintOf(before: Uint8Array): number {
  return (crc32(before) ^ FINGERPRINT_XOR) >>> 0
}

function padded(length: number): number {
  return (length + 3) & ~3
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
