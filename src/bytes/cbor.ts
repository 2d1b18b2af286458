/**
 * CBOR as Peerline speaks it: the deterministic encoding of RFC 8949 section 4.2.1, and nothing else.
 *
 * Values: null, booleans, integers within 2^53 - 1 of zero, text, bytes, lists, maps with text keys.
 *
 * Invariants:
 * - One encoding for each value: what decodes encodes to the same bytes again.
 * - Refused: indefinite lengths, longer forms than needed, keys out of order or twice, tags, floating point, undefined, text
 *   that is not UTF-8, bytes after the value.
 * - Decoding takes time and memory in proportion to the bytes, and those are limited before the first is looked at.
 *   Nesting is limited while tokens are read, so a deep one never reaches the stack.
 * - A key named `__proto__` is an ordinary key.
 */

import { type DecodeOptions, decode, encode, type Token, Tokenizer } from 'cborg'
import { isPeerlineError, PeerlineError } from '../errors.ts'

const DEFAULT_MAX_DEPTH = 8 // lists and maps in each other; our deepest message needs 4

const DECODE_OPTIONS: DecodeOptions = {
  strict: true,
  allowIndefinite: false,
  allowUndefined: false,
  allowInfinity: false,
  allowNaN: false,
  allowBigInt: false,
  rejectDuplicateMapKeys: true,
}

const ENCODE_OPTIONS = {
  ignoreUndefinedProperties: true, // a field that is undefined is a field that is absent
  typeEncoders: {
    number: wholeNumber,
    string: wellFormed,
    undefined: refuse,
    bigint: refuse,
    Map: refuse,
    Tagged: refuse,
  },
}

/** What {@link decodeCbor} allows. */
export interface CborLimits {
  /** The most bytes to look at. */
  readonly maxBytes: number
  /** The most lists and maps in each other. @default 8 */
  readonly maxDepth?: number
}

/**
 * `value` in the deterministic encoding. Properties that are undefined are left out. Throws ERR_PEERLINE_INVALID for what
 * {@link decodeCbor} would not take back.
 */
export function encodeCbor(value: unknown): Uint8Array {
  try {
    // for text keys, cborg's own order (shorter first, then bytewise) is the bytewise order of RFC 8949
    return encode(value, ENCODE_OPTIONS)
  } catch (cause) {
    if (isPeerlineError(cause)) throw cause
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'The value has no CBOR form', { cause })
  }
}

/** The one value in `bytes`. Throws ERR_PEERLINE_TOO_LARGE above `maxBytes`, ERR_PEERLINE_PROTOCOL for all else. */
export function decodeCbor(bytes: Uint8Array, { maxBytes, maxDepth = DEFAULT_MAX_DEPTH }: CborLimits): unknown {
  if (bytes.length > maxBytes) {
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `The message has ${bytes.length} bytes, the limit is ${maxBytes}`)
  }
  try {
    return decode(bytes, { ...DECODE_OPTIONS, tokenizer: new StrictTokenizer(bytes, maxDepth) })
  } catch (cause) {
    if (isPeerlineError(cause)) throw cause
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'The message is not valid CBOR', { cause })
  }
}

/** An open list or map. */
interface Level {
  readonly isMap: boolean
  /** Items to come; a map counts keys and values. */
  left: number
  /** The encoding of the last key. */
  key: Uint8Array | undefined
}

// keeps a byte order mark: it is part of the text, and dropping it would give two encodings to one value
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** cborg's tokenizer, which also holds what cborg does not look at: nesting, key order, kinds of values, UTF-8. */
class StrictTokenizer extends Tokenizer {
  readonly #bytes: Uint8Array
  readonly #maxDepth: number
  readonly #levels: Level[] = []

  constructor(bytes: Uint8Array, maxDepth: number) {
    // cborg slices Buffers differently from plain arrays; it expects the latter here
    const plain = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length)
    super(plain, DECODE_OPTIONS)
    this.#bytes = plain
    this.#maxDepth = maxDepth
  }

  override next(): Token {
    const start = this.pos()
    const token = super.next()
    const level = this.#levels.at(-1)
    if (level !== undefined) {
      if (level.isMap && level.left % 2 === 0) this.#checkKey(level, token, start)
      level.left--
    }
    const { major, name } = token.type
    if (major === 4 || major === 5) {
      if (this.#levels.length >= this.#maxDepth) throw broken(`is nested deeper than ${this.#maxDepth}`)
      const count = token.value as number
      if (count > 0) this.#levels.push({ isMap: major === 5, left: major === 5 ? count * 2 : count, key: undefined })
    } else if (major === 3) {
      this.#checkText(token, start)
    } else if (major === 6) {
      throw broken('has a tag')
    } else if (major === 7 && name !== 'true' && name !== 'false' && name !== 'null') {
      throw broken(`has a value of kind ${name}`)
    }
    while (this.#levels.at(-1)?.left === 0) this.#levels.pop()
    return token
  }

  #checkKey(level: Level, token: Token, start: number): void {
    if (token.type.major !== 3) throw broken('has a map key that is not text')
    const key = this.#bytes.subarray(start, this.pos())
    if (level.key !== undefined && compareBytes(level.key, key) >= 0) throw broken('has map keys twice or out of order')
    level.key = key
  }

  #checkText(token: Token, start: number): void {
    const argument = this.#bytes[start]! & 0x1f
    const header = argument < 24 ? 1 : 1 + (1 << (argument - 24))
    const text = token.value as string
    // plain ASCII has as many letters as bytes; a broken byte has too, but shows as U+FFFD
    if (text.length === this.pos() - start - header && !text.includes('\ufffd')) return
    try {
      token.value = utf8.decode(this.#bytes.subarray(start + header, this.pos()))
    } catch {
      throw broken('has text that is not UTF-8')
    }
  }
}

function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length)
  for (let i = 0; i < shorter; i++) {
    if (a[i] !== b[i]) return a[i]! - b[i]!
  }
  return a.length - b.length
}

function broken(what: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `The message ${what}`)
}

/** For cborg: null means "encode it as you would". */
function wholeNumber(value: unknown): null {
  return Number.isSafeInteger(value) ? null : refuse(value, 'a number that is not a safe integer')
}

function wellFormed(value: string): null {
  // an unpaired surrogate has no UTF-8 form; encodeURIComponent is the test for it that Node 20 and all browsers have
  if (/[\ud800-\udfff]/.test(value)) {
    try {
      encodeURIComponent(value)
    } catch {
      return refuse(value, 'text with an unpaired surrogate')
    }
  }
  return null
}

function refuse(_value: unknown, kind: string): never {
  throw new PeerlineError('ERR_PEERLINE_INVALID', `The message format has no form for ${kind}`)
}
