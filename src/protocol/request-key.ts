/**
 * The key of a request that is executed once, and the head that carries it:
 *
 *     key length 1 (1 to 64) | key | body length 4 (big-endian)
 */
import { randomBytes } from 'node:crypto'
import { PeerlineError } from '../errors.ts'
import { wellFormed } from './failure.ts'

/** Bytes of the longest key: two hashes in hexadecimal digits do not fit, one does. */
export const MAX_KEY_BYTES = 64

/** Bytes of a key of ours: as unlikely to be made twice as a UUID. */
const KEY_BYTES = 16

/** Bytes of the longest head. */
export const MAX_HEAD_BYTES = 1 + MAX_KEY_BYTES + 4

/** A key that no other request has: 16 random bytes. */
export function requestKey(): Uint8Array {
  return new Uint8Array(randomBytes(KEY_BYTES))
}

/** The bytes of a key. @throws PeerlineError `ERR_PEERLINE_INVALID` unless it has 1 to 64 of them */
export function toKey(key: string | Uint8Array): Uint8Array {
  const bytes = typeof key === 'string' && wellFormed(key) === key ? new TextEncoder().encode(key) : key
  if (bytes instanceof Uint8Array && bytes.length > 0 && bytes.length <= MAX_KEY_BYTES) return bytes
  throw new PeerlineError('ERR_PEERLINE_INVALID', `the key of a request has 1 to ${MAX_KEY_BYTES} bytes`)
}

/** What stands before the body. */
export function onceHead(key: Uint8Array, bodyBytes: number): Uint8Array {
  const head = Buffer.alloc(1 + key.length + 4)
  head[0] = key.length
  head.set(key, 1)
  head.writeUInt32BE(bodyBytes, 1 + key.length)
  return head
}

export interface OnceHead {
  readonly key: Uint8Array
  readonly bodyBytes: number
  readonly headBytes: number
}

/** Reads a head; undefined when more of it has to come. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readOnceHead(bytes: Uint8Array): OnceHead | undefined {
  const length = bytes[0]
  if (length === undefined) return undefined
  if (length === 0 || length > MAX_KEY_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a request has a key of another length')
  }
  const headBytes = 1 + length + 4
  if (bytes.length < headBytes) return undefined
  const bodyBytes = new DataView(bytes.buffer, bytes.byteOffset).getUint32(1 + length)
  return { key: bytes.subarray(1, 1 + length), bodyBytes, headBytes }
}
