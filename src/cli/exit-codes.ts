/**
 * Exit codes: what a script learns from `$?`. They are as stable as the error codes.
 */
import { type ErrorCode, isPeerlineError } from '../errors.ts'

export const EXIT = {
  OK: 0,
  UNEXPECTED: 1,
  USAGE: 2,
  KEY_FILE: 3,
  UNREACHABLE: 4,
  WRONG_PEER: 5,
  TLS: 6,
  PORT_BUSY: 7,
  OFFLINE: 8,
  DENIED: 9,
  NO_PATH: 10,
  FILE: 11,
  DISK_FULL: 12,
  CORRUPT: 13,
  /** 128 and the number of the signal, as shells count. */
  SIGINT: 130,
  SIGPIPE: 141,
  SIGTERM: 143,
} as const

const OF_ERROR: Readonly<Record<ErrorCode, number>> = {
  ERR_PEERLINE_INVALID: EXIT.USAGE,
  ERR_PEERLINE_NO_ADDRESS: EXIT.USAGE,
  ERR_PEERLINE_KEY_FILE: EXIT.KEY_FILE,
  ERR_PEERLINE_UNREACHABLE: EXIT.UNREACHABLE,
  ERR_PEERLINE_WRONG_PEER: EXIT.WRONG_PEER,
  ERR_PEERLINE_TLS: EXIT.TLS,
  ERR_PEERLINE_ADDRESS_IN_USE: EXIT.PORT_BUSY,
  ERR_PEERLINE_OFFLINE: EXIT.OFFLINE,
  ERR_PEERLINE_DENIED: EXIT.DENIED,
  ERR_PEERLINE_NO_PROTOCOL: EXIT.DENIED,
  // Worth another try, all of these.
  ERR_PEERLINE_NO_PATH: EXIT.NO_PATH,
  ERR_PEERLINE_PATH_LOST: EXIT.NO_PATH,
  ERR_PEERLINE_UNKNOWN_SESSION: EXIT.NO_PATH,
  ERR_PEERLINE_UNSUPPORTED: EXIT.NO_PATH,
  ERR_PEERLINE_TIMEOUT: EXIT.NO_PATH,
  ERR_PEERLINE_CLOSED: EXIT.NO_PATH,
  ERR_PEERLINE_BUSY: EXIT.NO_PATH,
  ERR_PEERLINE_FILE: EXIT.FILE,
  ERR_PEERLINE_DISK_FULL: EXIT.DISK_FULL,
  ERR_PEERLINE_CORRUPT: EXIT.CORRUPT,
  ERR_PEERLINE_ABORTED: EXIT.UNEXPECTED,
  ERR_PEERLINE_LIMIT: EXIT.UNEXPECTED,
  ERR_PEERLINE_RECORD: EXIT.UNEXPECTED,
  ERR_PEERLINE_HANDSHAKE: EXIT.UNEXPECTED,
  ERR_PEERLINE_REPLAY: EXIT.UNEXPECTED,
  ERR_PEERLINE_EXPIRED: EXIT.DENIED,
  ERR_PEERLINE_VERSION: EXIT.UNEXPECTED,
  ERR_PEERLINE_PROTOCOL: EXIT.UNEXPECTED,
  ERR_PEERLINE_TOO_LARGE: EXIT.UNEXPECTED,
  ERR_PEERLINE_RESET: EXIT.UNEXPECTED,
  ERR_PEERLINE_REMOTE: EXIT.UNEXPECTED,
  ERR_PEERLINE_LEDGER: EXIT.CORRUPT,
  ERR_PEERLINE_PAYMENT: EXIT.DENIED,
}

/** The exit code of a command that failed with `error`. */
export function exitCodeOf(error: unknown): number {
  return isPeerlineError(error) ? (OF_ERROR[error.code] ?? EXIT.UNEXPECTED) : EXIT.UNEXPECTED
}

/** For `peerline --help`. */
export const EXIT_CODES_HELP = `Exit codes:
    0  done; also serve, up, receive and log --follow when they are stopped by SIGINT or SIGTERM
    1  unexpected
    2  the command line is wrong
    3  the identity file cannot be used
    4  a server or peer cannot be reached
    5  another peer answers than the one named
    6  the certificate of a server is refused, or one's own is no good
    7  the port is in use
    8  the peer is not online
    9  the peer refuses, or does not run the command that would answer; a ticket is over; an account has too little
   10  no path, too slow, or the connection was lost: try again
   11  a file or directory cannot be used
   12  a disk is full, here or there
   13  what arrived does not match its hash, or a ledger contradicts itself
  130  interrupted (SIGINT); 143: SIGTERM; 141: nobody reads our output any more`
