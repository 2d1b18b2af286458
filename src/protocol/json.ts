/**
 * JSON from strangers (RFC 8259): UTF-8 without a byte order mark, bounded before it is parsed.
 *
 * - One pass over the bytes counts: lists and maps in each other, and values. A text of 1 MiB would otherwise become some
 *   500,000 objects of 50 MiB, or nest so deep that whoever walks it runs out of stack.
 * - A map with a key `__proto__` is refused: copied field by field, it would change what all objects inherit.
 * - No text at all is no value: `undefined`, for protocols whose request or answer says nothing.
 */
import { PeerlineError } from '../errors.ts'

/** Lists and maps in each other: deeper than people nest, shallow for a stack. */
const MAX_DEPTH = 32

/** Values, keys among them, of one text: some 6 MiB when each is an empty list. */
const MAX_VALUES = 65_536

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const EMPTY = new Uint8Array(0)

/** `value` as JSON. @throws PeerlineError `ERR_PEERLINE_INVALID` when it has no such form */
export function encodeJson(value: unknown): Uint8Array {
  if (value === undefined) return EMPTY
  let text: string | undefined
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'the value has no JSON form', { cause })
  }
  if (text === undefined) throw new PeerlineError('ERR_PEERLINE_INVALID', 'the value has no JSON form')
  return new TextEncoder().encode(text)
}

/** The value in `bytes`. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function decodeJson(bytes: Uint8Array): unknown {
  if (bytes.length === 0) return undefined
  checkShape(bytes)
  try {
    return JSON.parse(utf8.decode(bytes), refuseProto)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the body is not JSON that is taken', { cause })
  }
}

function refuseProto(key: string, value: unknown): unknown {
  if (key === '__proto__') throw new SyntaxError('a key is __proto__')
  return value
}

/** Bounds depth and number of values; whether it is JSON at all, the parser says. */
function checkShape(bytes: Uint8Array): void {
  let depth = 0
  let values = 1
  let inText = false
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (inText) {
      if (byte === 0x5c) at++
      else if (byte === 0x22) inText = false
      continue
    }
    if (byte === 0x22) inText = true
    else if (byte === 0x5b || byte === 0x7b) {
      values++
      if (++depth > MAX_DEPTH) throw tooMuch(`nested deeper than ${MAX_DEPTH}`)
    } else if (byte === 0x5d || byte === 0x7d) depth--
    else if (byte === 0x2c || byte === 0x3a) values++
    if (values > MAX_VALUES) throw tooMuch(`of more than ${MAX_VALUES} values`)
  }
}

function tooMuch(what: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `the body is JSON ${what}`)
}
