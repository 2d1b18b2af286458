/**
 * What the operating system says about files, as errors of ours.
 *
 * The message may be told to the other side: it names what was being done and the system's code, never a path.
 */
import { isPeerlineError, PeerlineError } from './errors.ts'

/** `error` as one of ours: `ERR_PEERLINE_DISK_FULL`, or `ERR_PEERLINE_FILE`. `what`: 'writing report.pdf' */
export function ioError(error: unknown, what: string): PeerlineError {
  if (isPeerlineError(error)) return error
  const code = (error as NodeJS.ErrnoException | null | undefined)?.code
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new PeerlineError('ERR_PEERLINE_DISK_FULL', `${what}: the disk is full`, { cause: error })
  }
  return new PeerlineError('ERR_PEERLINE_FILE', `${what} failed${code === undefined ? '' : `: ${code}`}`, {
    cause: error,
  })
}
