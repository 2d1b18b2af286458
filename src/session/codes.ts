/**
 * Why a stream was given up: the code in a RESET or STOP frame, and the error it becomes at the other side.
 */
import { type ErrorCode, PeerlineError } from '../errors.ts'

/** Codes below 256 are Peerline's; applications use 256 and above. */
export const StreamCode = {
  CANCELLED: 0,
  NO_PROTOCOL: 1,
  DENIED: 2,
  BUSY: 3,
  TOO_LARGE: 4,
  FAILED: 5,
  TIMEOUT: 6,
} as const

/** The first code that belongs to applications. */
export const FIRST_APPLICATION_CODE = 256

const ERRORS: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  [StreamCode.CANCELLED]: ['ERR_PEERLINE_RESET', 'the other side cancelled the stream'],
  [StreamCode.NO_PROTOCOL]: ['ERR_PEERLINE_NO_PROTOCOL', 'the other side does not handle this protocol'],
  [StreamCode.DENIED]: ['ERR_PEERLINE_DENIED', 'the other side refuses this stream'],
  [StreamCode.BUSY]: ['ERR_PEERLINE_BUSY', 'the other side is at a limit'],
  [StreamCode.TOO_LARGE]: ['ERR_PEERLINE_TOO_LARGE', 'the other side takes no message this large'],
  [StreamCode.FAILED]: ['ERR_PEERLINE_REMOTE', 'the handler at the other side failed'],
  [StreamCode.TIMEOUT]: ['ERR_PEERLINE_TIMEOUT', 'the other side gave up waiting'],
}

/** The error for a stream that the other side gave up with `code`. */
export function streamError(code: number, protocol: string): PeerlineError {
  const [errorCode, text] = ERRORS[code] ?? ['ERR_PEERLINE_RESET', `the other side reset the stream with code ${code}`]
  return new PeerlineError(errorCode, `${protocol}: ${text}`)
}
