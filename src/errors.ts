/**
 * Every failure Peerline reports, in one tree.
 *
 * - `code` is stable: programs compare it, never the message.
 * - `recover` says, in a sentence for people, what to do about it.
 * - The brand makes `isPeerlineError` true for errors of another copy of this package in the same process.
 */

const BRAND = Symbol.for('peerline.error')

/** What each code means and what to do about it. The keys are the public, stable codes. */
const RECOVER = {
  // the caller's side
  ERR_PEERLINE_INVALID: 'Correct the argument named in the message.',
  ERR_PEERLINE_ABORTED: 'The operation was cancelled by its AbortSignal; start it again when wanted.',
  ERR_PEERLINE_TIMEOUT: 'Try again, or allow more time.',
  ERR_PEERLINE_CLOSED: 'The peer, session or stream was closed; open a new one.',
  ERR_PEERLINE_LIMIT: 'A limit was reached; close what is not needed, or raise the limit named in the message.',
  // identity
  ERR_PEERLINE_KEY_FILE:
    'Check the identity file named in the message: it must be readable, whole and private (mode 0600).',
  ERR_PEERLINE_RECORD: 'The signed record is not valid; ask the peer for a fresh one.',
  // handshake
  ERR_PEERLINE_HANDSHAKE: 'The handshake did not authenticate; check the peer id and the clocks of both machines.',
  ERR_PEERLINE_WRONG_PEER: 'Another peer answers at this address; check the peer id.',
  ERR_PEERLINE_REPLAY: 'This offer was seen before; send a fresh one.',
  ERR_PEERLINE_EXPIRED: 'The message had expired; check the clocks of both machines.',
  ERR_PEERLINE_VERSION: 'The two sides speak different versions or suites; update the older one.',
  // wire
  ERR_PEERLINE_PROTOCOL: 'The other side broke the protocol; update both sides, and report it if it persists.',
  ERR_PEERLINE_TOO_LARGE: 'The message is larger than its limit; send it in parts, or as a stream.',
  // connecting
  ERR_PEERLINE_NO_ADDRESS: 'Give a rendezvous URL or an address of the peer.',
  ERR_PEERLINE_OFFLINE: 'The peer is not online at the rendezvous; start it there, or try later.',
  ERR_PEERLINE_UNREACHABLE: 'Nothing answers at the address; check host, port and firewall.',
  ERR_PEERLINE_TLS: 'Check the certificate of the server: its dates, its name and who signed it.',
  ERR_PEERLINE_NO_PATH: 'No way to the peer worked; allow a relay, or check the network of both sides.',
  ERR_PEERLINE_UNSUPPORTED:
    'An optional package that this needs is not installed, or has no build for this machine: install it, or go another way.',
  ERR_PEERLINE_PATH_LOST: 'Every path of the session was lost; dial again.',
  ERR_PEERLINE_UNKNOWN_SESSION: 'The other side was started again and knows nothing of the session; dial again.',
  // deciding
  ERR_PEERLINE_DENIED: 'The other side refuses; ask its owner to allow your peer id.',
  ERR_PEERLINE_BUSY: 'The other side is at its limit; try again later.',
  // exchanging
  ERR_PEERLINE_NO_PROTOCOL: 'The peer does not handle this protocol; check its name and version.',
  ERR_PEERLINE_RESET: 'The other side gave up the stream; its code is in the message.',
  ERR_PEERLINE_REMOTE: 'The handler at the other side failed; see its log.',
  // ledgers
  ERR_PEERLINE_LEDGER: 'The ledger says something else than before: do not trust it; ask who runs it, or use another.',
  ERR_PEERLINE_PAYMENT: 'The account that pays for messages at the ledger has too little: top it up.',
  // serving and files
  ERR_PEERLINE_ADDRESS_IN_USE: 'Another program uses this port; choose another, or stop it.',
  ERR_PEERLINE_FILE: 'Check the path, its permissions and the free space.',
  ERR_PEERLINE_DISK_FULL: 'Free some space and send again: the transfer goes on where it stopped.',
  ERR_PEERLINE_CORRUPT: 'The content does not match its hash; send it again.',
} as const

/** What may be otherwise when it is tried again, of whatever is done on the network. */
export const PASSING: ReadonlySet<string> = new Set<keyof typeof RECOVER>([
  'ERR_PEERLINE_BUSY',
  'ERR_PEERLINE_CLOSED', // of a session: the next attempt dials anew
  'ERR_PEERLINE_NO_PATH',
  'ERR_PEERLINE_OFFLINE',
  'ERR_PEERLINE_PATH_LOST',
  'ERR_PEERLINE_TIMEOUT',
  'ERR_PEERLINE_UNKNOWN_SESSION',
  'ERR_PEERLINE_UNREACHABLE',
])

/** The stable code of a {@link PeerlineError}. */
export type ErrorCode = keyof typeof RECOVER

/** Every failure that Peerline throws or rejects with. */
export class PeerlineError extends Error {
  /** Stable, for programs. */
  readonly code: ErrorCode
  /** What to do about it, for people. */
  readonly recover: string

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; recover?: string } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'PeerlineError'
    this.code = code
    this.recover = options.recover ?? RECOVER[code]
    Object.defineProperty(this, BRAND, { value: true })
  }
}

/** An `ERR_PEERLINE_INVALID`. */
export function invalid(message: string, cause?: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_INVALID', message, { cause })
}

/** True for an error of this tree, also when it comes from another copy of the package. */
export function isPeerlineError(value: unknown): value is PeerlineError {
  return typeof value === 'object' && value !== null && BRAND in value
}

/** True when a code that came over the wire is one of ours. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(RECOVER, value)
}

/** `value` as an error of this tree: itself if it is one, else wrapped as the cause of one with `code`. */
export function asPeerlineError(value: unknown, code: ErrorCode, message?: string): PeerlineError {
  if (isPeerlineError(value)) return value
  const said = value instanceof Error ? value.message : String(value)
  return new PeerlineError(code, message === undefined ? said : `${message}: ${said}`, { cause: value })
}

/**
 * The error an aborted wait rejects with: `ERR_PEERLINE_TIMEOUT` when the signal came from `AbortSignal.timeout`,
 * else `ERR_PEERLINE_ABORTED`.
 */
export function abortError(signal: AbortSignal, what: string): PeerlineError {
  const reason: unknown = signal.reason
  if (isPeerlineError(reason)) return reason
  if (reason instanceof Error && reason.name === 'TimeoutError') {
    return new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what} took too long`, { cause: reason })
  }
  return new PeerlineError('ERR_PEERLINE_ABORTED', `${what} was cancelled`, { cause: reason })
}
