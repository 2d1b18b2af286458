/**
 * A failure, told to the other side: `{ code, message }` in CBOR.
 *
 * Only errors of ours are told as they are; whatever else a handler throws may hold paths, queries or secrets, and
 * becomes one sentence. Read strictly and within limits: the other side may send anything.
 */
import { decodeCbor, encodeCbor, type Fields, fields } from '../bytes/index.ts'
import { type ErrorCode, isErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'

/** UTF-16 units of the longest message that is told: a sentence or two. */
const MAX_MESSAGE_LENGTH = 512

/** UTF-16 units of the longest code that is read. */
const MAX_CODE_LENGTH = 64

/** Bytes of an encoded failure: code, message at 3 bytes a unit, field names. */
export const MAX_FAILURE_BYTES = 2_048

export interface Failure {
  readonly code: ErrorCode
  readonly message: string
}

/** What may be told of `error`. */
export function failureOf(error: unknown): Failure {
  if (!isPeerlineError(error) || !isErrorCode(error.code)) {
    return { code: 'ERR_PEERLINE_REMOTE', message: 'the handler failed' }
  }
  return { code: error.code, message: wellFormed(String(error.message).slice(0, MAX_MESSAGE_LENGTH)) }
}

/** Replaces unpaired surrogates, which UTF-8 has no form for. */
export function wellFormed(text: string): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(new TextEncoder().encode(text))
}

/** Never throws. */
export function encodeFailure(error: unknown): Uint8Array {
  return encodeCbor(failureOf(error))
}

/** The error that the other side told in `f`. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readFailure(f: Fields): PeerlineError {
  const code = f.text('code', { max: MAX_CODE_LENGTH })
  // It will be printed: a terminal obeys control characters.
  const message = f.text('message', { max: MAX_MESSAGE_LENGTH }).replace(/\p{Cc}/gu, ' ')
  return new PeerlineError(isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE', message)
}

/** The error that the other side told, or the one of reading it. Never throws. */
export function decodeFailure(bytes: Uint8Array): PeerlineError {
  try {
    return readFailure(fields(decodeCbor(bytes, { maxBytes: MAX_FAILURE_BYTES }), 'failure'))
  } catch (cause) {
    return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the other side answered with a malformed failure', { cause })
  }
}
