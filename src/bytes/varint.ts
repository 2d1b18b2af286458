/**
 * Variable-length integers, RFC 9000 section 16.
 *
 *   first byte   00xxxxxx   01xxxxxx   10xxxxxx   11xxxxxx
 *   bytes        1          2          4          8
 *   up to        2^6 - 1    2^14 - 1   2^30 - 1   2^62 - 1, here 2^53 - 1
 *
 * Values are JavaScript numbers, so the largest is `Number.MAX_SAFE_INTEGER`. Writing takes the shortest form; reading
 * (see `cursor.ts`) takes any, as the RFC says.
 */

import { PeerlineError } from '../errors.ts'

const MAX_1 = 0x3f // 6 bits
const MAX_2 = 0x3fff // 14 bits
const MAX_4 = 0x3fff_ffff // 30 bits
const TWO_32 = 0x1_0000_0000 // what the high half of 8 bytes counts

/** The number of bytes (1, 2, 4 or 8) that `value` takes. */
export function varintSize(value: number): 1 | 2 | 4 | 8 {
  // the first test is false for NaN, fractions and what is not an integer at all
  if (!Number.isSafeInteger(value) || value < 0) throw outOfRange(value)
  return value <= MAX_1 ? 1 : value <= MAX_2 ? 2 : value <= MAX_4 ? 4 : 8
}

/** Writes `value` at `offset` and returns the offset after it. */
export function writeVarint(target: Uint8Array, offset: number, value: number): number {
  const size = varintSize(value)
  if (offset < 0 || offset + size > target.length) throw noRoom()
  switch (size) {
    case 1:
      target[offset] = value
      break
    case 2:
      target[offset] = 0x40 | (value >>> 8)
      target[offset + 1] = value
      break
    case 4:
      writeUint32(target, offset, value)
      target[offset]! |= 0x80
      break
    default:
      writeUint32(target, offset, Math.floor(value / TWO_32))
      writeUint32(target, offset + 4, value)
      target[offset]! |= 0xc0
  }
  return offset + size
}

/** Writes `value` (0 to 2^53 - 1) as 8 bytes, big-endian, and returns the offset after them. */
export function writeUint64(target: Uint8Array, offset: number, value: number): number {
  if (!Number.isSafeInteger(value) || value < 0) throw outOfRange(value)
  if (offset < 0 || offset + 8 > target.length) throw noRoom()
  writeUint32(target, offset, Math.floor(value / TWO_32))
  writeUint32(target, offset + 4, value)
  return offset + 8
}

/** The low 32 bits of `value`, big-endian. */
function writeUint32(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24
  target[offset + 1] = value >>> 16
  target[offset + 2] = value >>> 8
  target[offset + 3] = value
}

function outOfRange(value: number): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_INVALID', `${value} is not an integer from 0 to 2^53 - 1`)
}

function noRoom(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_INVALID', 'No room for the integer in the target bytes')
}
