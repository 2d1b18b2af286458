/**
 * The first message of a path, awaited with a deadline.
 */
import { copyBytes } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import type { Path } from '../path/index.ts'

/** ms for a stranger to say what it wants: two slow round trips. */
export const FIRST_MESSAGE_MS = 10_000

/**
 * Resolves with the next message of `path`, and pauses the path behind it, so that its next owner misses nothing.
 * On any failure the path is destroyed.
 * @throws PeerlineError `ERR_PEERLINE_TIMEOUT`, what ended the path, or what the signal says
 */
export function firstMessage(path: Path, options: { signal?: AbortSignal; ms?: number } = {}): Promise<Uint8Array> {
  const { signal, ms = FIRST_MESSAGE_MS } = options
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onAbort)
    }
    const fail = (error: PeerlineError) => {
      done()
      // First of all: the end of the path is told too, and says less.
      reject(error)
      path.destroy(error)
    }
    const timer = setTimeout(() => fail(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${path.remote} says nothing`)), ms)
    const onAbort = () => fail(abortError(signal!, `waiting for ${path.remote}`))
    if (signal?.aborted) return onAbort()
    signal?.addEventListener('abort', onAbort)
    let come = false
    path.start({
      message: (message) => {
        come = true
        path.pause()
        done()
        // Until the next owner starts the path, its end must have a taker.
        path.start({ message: () => {}, drain: () => {}, close: () => {} })
        resolve(copyBytes(message))
      },
      drain: () => {},
      close: (error) => {
        done()
        reject(error ?? new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${path.remote} closed the connection`))
      },
    })
    // It may have come inside `start`, out of what was read already: what stands behind it is for the next owner.
    if (!come) path.resume()
  })
}
