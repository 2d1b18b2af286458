/**
 * Bytes as text that people carry from one machine to another: pasted into a chat, read from a QR code, typed from paper.
 *
 *     text  = KIND ":" z-base-32( body | check 4 )      KIND: "peerline", "peerline-offer" or "peerline-answer"
 *     check = the first 4 bytes of SHA-256( KIND ":" body )
 *
 * - Letters and digits of one case. Upper-cased they are what the alphanumeric mode of a QR code takes (ISO/IEC 18004 section
 *   7.4.4), at 5.5 bits for our 5; and nothing in them is markup to a chat, as `_` and `*` of other alphabets are.
 * - Spaces, line breaks, invisible characters and the case do not count: they are what becomes of a text on its way.
 * - The check tells a text that was mistyped, or cut off, from a whole one that is wrong: it is no signature.
 * - One text of a kind for each body.
 * Limit: the caller's, known before the text is looked at.
 */
import { createHash } from 'node:crypto'
import { invalid, PeerlineError } from '../errors.ts'
import { concatBytes, equalBytes } from './bytes.ts'
import { decodeZbase32, encodeZbase32 } from './zbase32.ts'

/** What a text may be, and how it begins. */
const PREFIXES = { ticket: 'peerline', offer: 'peerline-offer', answer: 'peerline-answer' } as const

export type PastedKind = keyof typeof PREFIXES

/** Bytes: one mistyped text in 4 billion passes for a whole one; 7 letters. */
const CHECK_BYTES = 4

/** Characters of a line: chats and mails leave such a line whole, and a terminal takes it (macOS: at most 1,024). */
const LINE_CHARS = 64

/** Characters looked at for each that a text needs at most: the rest is spaces and line breaks. */
const SLACK = 3

/** `body` as a text of one line. */
export function writePasted(kind: PastedKind, body: Uint8Array): string {
  return `${PREFIXES[kind]}:${encodeZbase32(concatBytes([body, check(kind, body)]))}`
}

/** A text in lines that may be pasted anywhere. */
export function inLines(text: string): string {
  return (text.match(new RegExp(`.{1,${LINE_CHARS}}`, 'g')) ?? []).join('\n')
}

/** What a text says it is, whether or not it is whole; undefined for what is none of ours. */
export function kindOfPasted(text: string): PastedKind | undefined {
  return beginning(squeeze(text.slice(0, SLACK * LINE_CHARS)))?.kind
}

/**
 * The body of a text.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for what is of another kind, mistyped, or cut off; `ERR_PEERLINE_TOO_LARGE`
 */
export function readPasted(kind: PastedKind, text: string, { maxBytes }: { readonly maxBytes: number }): Uint8Array {
  const most = PREFIXES[kind].length + 1 + Math.ceil(((maxBytes + CHECK_BYTES) * 8) / 5)
  if (text.length > SLACK * most) throw tooLarge(kind, maxBytes)
  const squeezed = squeeze(text)
  const begun = beginning(squeezed)
  if (begun === undefined) throw invalid(`this is no ${kind}: one begins with "${PREFIXES[kind]}:"`)
  if (begun.kind !== kind) throw invalid(`this is ${aOr(begun.kind)}, and ${aOr(kind)} is wanted`)
  if (squeezed.length > most) throw tooLarge(kind, maxBytes)
  const bytes = decode(kind, begun.rest)
  const body = bytes.subarray(0, -CHECK_BYTES)
  if (!equalBytes(bytes.subarray(-CHECK_BYTES), check(kind, body))) {
    throw mistyped(kind, 'a letter of it is wrong or missing')
  }
  return body
}

function beginning(squeezed: string): { readonly kind: PastedKind; readonly rest: string } | undefined {
  const colon = squeezed.indexOf(':')
  const prefix = squeezed.slice(0, Math.max(0, colon))
  const kind = (Object.keys(PREFIXES) as PastedKind[]).find((one) => PREFIXES[one] === prefix)
  return kind && { kind, rest: squeezed.slice(colon + 1) }
}

/** Without what does not count. Letters of other scripts stay as they are: some of them have an ASCII letter as lower case. */
function squeeze(text: string): string {
  return text.replace(/[\s\p{Cf}]+/gu, '').replace(/[A-Z]+/g, (letters) => letters.toLowerCase())
}

function decode(kind: PastedKind, letters: string): Uint8Array {
  try {
    return decodeZbase32(letters)
  } catch (error) {
    throw mistyped(kind, (error as PeerlineError).message)
  }
}

function check(kind: PastedKind, body: Uint8Array): Uint8Array {
  const hash = createHash('sha256').update(`${PREFIXES[kind]}:`).update(body).digest()
  return new Uint8Array(hash.subarray(0, CHECK_BYTES))
}

const aOr = (kind: PastedKind): string => (kind === 'ticket' ? 'a ticket' : `an ${kind}`)

function mistyped(kind: PastedKind, why: string): PeerlineError {
  const recover = `Copy the whole ${kind} again.`
  return new PeerlineError('ERR_PEERLINE_INVALID', `the ${kind} is not whole: ${why}`, { recover })
}

function tooLarge(kind: PastedKind, maxBytes: number): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_TOO_LARGE', `${aOr(kind)} has at most ${maxBytes} bytes`)
}
