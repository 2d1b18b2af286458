/**
 * Reads a message from front to back. What is missing or too large is one typed error: ERR_PEERLINE_PROTOCOL.
 *
 * Reading numbers allocates nothing, and `readBytes` hands out views of the message, not copies: who keeps one keeps the
 * whole message, who changes one changes the message.
 */

import { PeerlineError } from '../errors.ts'

const TWO_24 = 0x100_0000
const TWO_32 = 0x1_0000_0000
const MAX_HIGH = 0x1f_ffff // the high half of 2^53 - 1, the largest integer a number holds exactly

export class Cursor {
  readonly bytes: Uint8Array
  /** The next byte to read. */
  offset: number

  constructor(bytes: Uint8Array, offset = 0) {
    this.bytes = bytes
    this.offset = offset
  }

  /** How many bytes are left. */
  get remaining(): number {
    return this.bytes.length - this.offset
  }

  readUint8(): number {
    const at = this.offset
    if (at >= this.bytes.length) throw truncated()
    this.offset = at + 1
    return this.bytes[at]!
  }

  /** A variable-length integer, RFC 9000 section 16, at most 2^53 - 1. */
  readVarint(): number {
    const bytes = this.bytes
    const at = this.offset
    if (at >= bytes.length) throw truncated()
    const first = bytes[at]!
    if (first < 0x40) {
      this.offset = at + 1
      return first
    }
    const after = at + (1 << (first >>> 6))
    if (after > bytes.length) throw truncated()
    this.offset = after
    if (first < 0x80) return ((first & 0x3f) << 8) | bytes[at + 1]!
    const high = ((first & 0x3f) << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!
    return first < 0xc0 ? high : join(high, bytes, at + 4)
  }

  /** Eight bytes, big-endian, at most 2^53 - 1. */
  readUint64(): number {
    const bytes = this.bytes
    const at = this.offset
    if (at + 8 > bytes.length) throw truncated()
    this.offset = at + 8
    const high = bytes[at]! * TWO_24 + ((bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!)
    return join(high, bytes, at + 4)
  }

  /** The next `length` bytes, as a view. */
  readBytes(length: number): Uint8Array {
    const at = this.offset
    // the negation also catches NaN and negative lengths
    if (!(length >= 0 && at + length <= this.bytes.length)) throw truncated()
    this.offset = at + length
    return this.bytes.subarray(at, at + length)
  }

  /** All that is left, as a view. */
  readRest(): Uint8Array {
    return this.readBytes(this.remaining)
  }
}

/** `high` and the four bytes at `at` as one number. */
function join(high: number, bytes: Uint8Array, at: number): number {
  if (high > MAX_HIGH) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'An integer is above 2^53 - 1')
  const low = ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0
  return high * TWO_32 + low
}

function truncated(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'The message ends too early')
}
