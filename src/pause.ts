import { setMaxListeners } from 'node:events'
import { abortError, type PeerlineError } from './errors.ts'

/** Waits `ms`, or rejects when the signal fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer)
      reject(abortError(signal, 'waiting'))
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    if (signal.aborted) onAbort()
    else whenAborted(signal, onAbort)
  })
}

/** What `promise` brings, or a rejection as soon as the signal fires; the promise goes on for others. */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(abortError(signal, what))
    if (signal.aborted) onAbort()
    else whenAborted(signal, onAbort)
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/**
 * Has `listener` called when the signal fires, if there is one; not when it has fired already. Others may wait for the same in
 * any number, which is no leak, and no cause for a warning on somebody's terminal: a caller has one signal for all that it does.
 */
export function whenAborted(signal: AbortSignal | undefined, listener: (event: Event) => void): void {
  if (signal === undefined) return
  setMaxListeners(0, signal)
  signal.addEventListener('abort', listener, { once: true })
}

/** Does `work` under a signal that fires with the first of `signals`, and leaves nothing behind at them when it is over. */
export async function under<T>(signals: readonly AbortSignal[], work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const over = new AbortController()
  try {
    return await work(firstOf(...signals, over.signal))
  } finally {
    over.abort()
  }
}

/** The same, for at most `ms`: then the signal fires with `late`. */
export async function within<T>(
  ms: number,
  late: PeerlineError,
  signals: readonly AbortSignal[],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const overdue = new AbortController()
  const timer = setTimeout(() => overdue.abort(late), ms)
  try {
    return await under([...signals, overdue.signal], work)
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Fires with the first of `signals`, and then leaves nothing behind at the others. One of them must fire in the end: a
 * timeout, or a controller of the caller's that is aborted when the work is over. `AbortSignal.any` leaves an entry for
 * each of its signals at a source that lives on, such as that of a peer's end, for as long as that lives
 * (https://github.com/nodejs/node/issues/55351).
 */
export function firstOf(...signals: readonly AbortSignal[]): AbortSignal {
  const first = new AbortController()
  const fire = ({ target }: Event) => end(target as AbortSignal)
  const end = ({ reason }: AbortSignal) => {
    for (const signal of signals) signal.removeEventListener('abort', fire)
    first.abort(reason)
  }
  const fired = signals.find(({ aborted }) => aborted)
  if (fired !== undefined) end(fired)
  else for (const signal of signals) whenAborted(signal, fire)
  return first.signal
}
