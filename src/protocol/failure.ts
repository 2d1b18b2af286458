/**
 * A failure, told to the other side: `{ code, message }` in CBOR, for a request with `ran` besides.
 *
 * Only errors of ours are told as they are; whatever else a handler throws may hold paths, queries or secrets, and
 * becomes one sentence. Read strictly and within limits: the other side may send anything.
 *
 * `ran` says whether the handler had begun. A peer that does not know it says nothing, and its failures stay 'unknown'.
 *
 *     asker: nothing was sent                                     no
 *            refused as NO_PROTOCOL, DENIED, BUSY, TOO_LARGE      no       whoever cuts what runs uses another code
 *            failure with ran: false / true / absent              no / yes / unknown
 *            late, cancelled, lost, before a byte of the answer   unknown
 *            the same after a byte of an answer                   yes
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

/** Whether the handler of a request that failed may have done something: after 'unknown', ask again with the same key. */
export type Executed = 'no' | 'unknown' | 'yes'

/** How a request fails at the asking side: a {@link PeerlineError} that tells what may have happened at the other. */
export class RequestError extends PeerlineError {
  /** 'no': the handler has not begun, and will not. 'yes': it has. As far as the other side is to be believed. */
  readonly executed: Executed

  constructor(error: PeerlineError, executed: Executed) {
    super(error.code, error.message, { cause: error, recover: error.recover })
    this.executed = executed
  }
}

/** A failure of the answering side from before the handler began. Not for handlers: of theirs, none is. */
export class Refusal extends PeerlineError {}

/** What a refusal by stream code says of the handler. */
const NOT_BEGUN: ReadonlySet<ErrorCode> = new Set([
  'ERR_PEERLINE_NO_PROTOCOL',
  'ERR_PEERLINE_DENIED',
  'ERR_PEERLINE_BUSY',
  'ERR_PEERLINE_TOO_LARGE',
] as const)

/** What the failure of a stream, before any byte of an answer came on it, says of the handler. */
export function executedBy(error: PeerlineError, sessionEnded: boolean): Executed {
  // What ends a session may have the same code, and ends what runs.
  return !sessionEnded && NOT_BEGUN.has(error.code) ? 'no' : 'unknown'
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
  return encodeCbor({ ...failureOf(error), ran: !(error instanceof Refusal) })
}

/** The error that the other side told in `f`. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readFailure(f: Fields): PeerlineError {
  const code = f.text('code', { max: MAX_CODE_LENGTH })
  // It will be printed: a terminal obeys control characters.
  const message = f.text('message', { max: MAX_MESSAGE_LENGTH }).replace(/\p{Cc}/gu, ' ')
  return new PeerlineError(isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE', message)
}

/** The error that the other side told, or the one of reading it. Never throws. */
export function decodeFailure(bytes: Uint8Array): RequestError {
  try {
    const f = fields(decodeCbor(bytes, { maxBytes: MAX_FAILURE_BYTES }), 'failure')
    const ran = f.optional('ran', (name) => f.boolean(name))
    return new RequestError(readFailure(f), ran === undefined ? 'unknown' : ran ? 'yes' : 'no')
  } catch (cause) {
    const text = 'the other side answered with a malformed failure'
    return new RequestError(new PeerlineError('ERR_PEERLINE_PROTOCOL', text, { cause }), 'unknown')
  }
}
