/**
 * What the operating system says about files, as errors of ours.
 *
 * The message may be told to the other side: it names what was being done and the system's code, never a path.
 */
import { isPeerlineError, PeerlineError } from './errors.ts'

/** The code of an error of the system, such as ENOENT. */
export function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

/**
 * `error` as one of ours: `ERR_PEERLINE_DISK_FULL`, or `ERR_PEERLINE_FILE`. `what`: 'writing report.pdf'.
 * `whenFull`: what to do about a full disk, where that is not to send again.
 */
export function ioError(error: unknown, what: string, whenFull: { readonly recover?: string } = {}): PeerlineError {
  if (isPeerlineError(error)) return error
  const code = codeOf(error)
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new PeerlineError('ERR_PEERLINE_DISK_FULL', `${what}: the disk is full`, { ...whenFull, cause: error })
  }
  return new PeerlineError('ERR_PEERLINE_FILE', `${what} failed${code === undefined ? '' : `: ${code}`}`, {
    cause: error,
  })
}
