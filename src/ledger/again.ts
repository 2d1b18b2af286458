/** When something at a ledger is tried again. */
import { isPeerlineError, PASSING, type PeerlineError } from '../errors.ts'

/** ms before the second attempt, as a rule; twice that before the third, and so on. */
const FIRST_WAIT_MS = 1_000

/** ms of the longest wait: who has been without a network for an hour is back within a minute. */
const MAX_WAIT_MS = 60_000

/** Whether a failure of a ledger may pass. That it was closed does not: here, that is our own doing. */
export function mayPass(error: unknown): error is PeerlineError {
  return isPeerlineError(error) && PASSING.has(error.code) && error.code !== 'ERR_PEERLINE_CLOSED'
}

/** ms to wait after the failure `failures`, 1 for the first: a quarter more or less, so that nobody comes back in step. */
export function backOffMs(failures: number, random: () => number): number {
  return Math.min(FIRST_WAIT_MS * 2 ** (failures - 1), MAX_WAIT_MS) * (0.75 + random() / 2)
}
