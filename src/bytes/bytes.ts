/** Small helpers for `Uint8Array`, the same in Node and browsers. */

import { hex } from '@scure/base'
import { PeerlineError } from '../errors.ts'

/** The parts one after the other, in fresh memory. */
export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  let length = 0
  for (const part of parts) length += part.length
  const whole = new Uint8Array(length)
  let offset = 0
  for (const part of parts) {
    whole.set(part, offset)
    offset += part.length
  }
  return whole
}

/** Whether both hold the same bytes. For equal lengths the time does not depend on the content, so it may compare MACs. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false
  let difference = 0
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ b[i]!
  return difference === 0
}

/** `bytes` as lower-case hexadecimal. */
export function toHex(bytes: Uint8Array): string {
  return hex.encode(bytes)
}

/** The bytes of hexadecimal `text` in either case, or ERR_PEERLINE_INVALID. */
export function fromHex(text: string): Uint8Array {
  try {
    return hex.decode(text)
  } catch {
    // the cause is left out: it may quote the text, and hexadecimal is often a secret
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'The text is not hexadecimal')
  }
}

/** A copy that nobody else writes to. `slice` is no such thing: on a Buffer it is a view. */
export function copyBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes)
}
