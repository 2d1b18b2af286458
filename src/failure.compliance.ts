/** What fails, and how it should: with an error of our tree. Anything else that `work` throws is thrown. */
import { type ErrorCode, isPeerlineError, type PeerlineError } from './errors.ts'

/** What `work` throws; undefined when it does not. */
export function failureOf(work: () => unknown): PeerlineError | undefined {
  try {
    work()
    return undefined
  } catch (error) {
    if (isPeerlineError(error)) return error
    throw error
  }
}

export function codeOf(work: () => unknown): ErrorCode | undefined {
  return failureOf(work)?.code
}
