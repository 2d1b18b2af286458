/**
 * z-base-32: base 32 in an alphabet that people read, say and type easily; lower case, no padding.
 *
 * It is the base 32 of RFC 4648 section 6 with other letters, so letters are exchanged here and the rest is left to
 * `@scure/base`. Strict: one text for each byte string. A foreign letter, an upper-case one, a length that no byte string
 * has, and padding bits that are not zero are refused.
 */

import { base32nopad } from '@scure/base'
import { PeerlineError } from '../errors.ts'

const OURS = 'ybndrfg8ejkmcpqxot1uwisza345h769'
const RFC4648 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

const toOurs = new Map([...RFC4648].map((letter, digit) => [letter, OURS[digit]!]))
const toRfc4648 = new Map([...OURS].map((letter, digit) => [letter, RFC4648[digit]!]))

/** `bytes` as z-base-32. */
export function encodeZbase32(bytes: Uint8Array): string {
  let text = ''
  for (const letter of base32nopad.encode(bytes)) text += toOurs.get(letter)
  return text
}

/** The bytes that `text` stands for, or ERR_PEERLINE_INVALID. */
export function decodeZbase32(text: string): Uint8Array {
  let translated = ''
  for (const letter of text) {
    const other = toRfc4648.get(letter)
    if (other === undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `${JSON.stringify(letter)} is not a letter of z-base-32`)
    }
    translated += other
  }
  try {
    return base32nopad.decode(translated)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'The z-base-32 text is cut off or has stray bits at its end', {
      cause,
    })
  }
}
