/**
 * One run of somebody's work, with a deadline: an attempt at a task, or a run of a routine.
 *
 *     begin ---------- the work ends ------------------------> ended
 *        \-- deadline, or abort: its signal fires -- ends --/
 *                                        \-- 5 s of grace --/
 *
 * - It ends once. Until then the work is held to be going on, also when its signal has fired: what waits for the end never
 *   runs beside it. Work that ignores its signal is given up after the grace, so that nothing waits for ever.
 * - What the work brings in the grace counts: it was done.
 */
import { isPeerlineError, PeerlineError } from '../errors.ts'

/** ms that work has to end once its signal fired: it only has to give up, which takes no network. */
export const GRACE_MS = 5_000

/** ms of the longest timer there is, 2^31 - 1: a longer one would fire at once. */
export const MAX_TIMER_MS = 2_147_483_647

export type Outcome =
  | { readonly ok: true; readonly value: unknown; readonly ms: number }
  | { readonly ok: false; readonly error: PeerlineError; readonly ms: number }

export interface RunOptions {
  /** Names it in errors. */
  readonly what: string
  /** ms until the signal fires. */
  readonly timeoutMs: number
  readonly work: (signal: AbortSignal) => unknown
  /** Told once, and never before `begin` is over; not after `drop`. */
  readonly onEnd: (outcome: Outcome) => void
}

export class Run {
  readonly #options: RunOptions
  readonly #control = new AbortController()
  #startedAt = 0
  #timer: ReturnType<typeof setTimeout> | undefined
  #over = false

  constructor(options: RunOptions) {
    this.#options = options
  }

  begin(): void {
    const { what, timeoutMs, work } = this.#options
    const { signal } = this.#control
    this.#startedAt = performance.now()
    this.#timer = after(timeoutMs, () =>
      this.abort(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what} took longer than ${timeoutMs} ms`)),
    )
    new Promise((resolve) => resolve(work(signal))).then(
      (value) => this.#end({ ok: true, value }),
      // what fails once its signal fired fails for that reason, whatever it says
      (error: unknown) => this.#end({ ok: false, error: signal.aborted ? signal.reason : failure(error, what) }),
    )
  }

  /** Fires the signal. The run ends when the work does, or after the grace. */
  abort(reason: PeerlineError): void {
    if (this.#over || this.#control.signal.aborted) return
    clearTimeout(this.#timer)
    this.#timer = after(GRACE_MS, () => this.#end({ ok: false, error: reason }))
    this.#control.abort(reason)
  }

  /** Fires the signal, and is no longer interested: no timer stays, nobody is told. */
  drop(reason: PeerlineError): void {
    this.#over = true
    clearTimeout(this.#timer)
    this.#control.abort(reason)
  }

  #end(result: { ok: true; value: unknown } | { ok: false; error: PeerlineError }): void {
    if (this.#over) return
    this.#over = true
    clearTimeout(this.#timer)
    this.#options.onEnd({ ...result, ms: performance.now() - this.#startedAt })
  }
}

/** A timer that does not keep the process alive: what the work needs does. */
export function after(ms: number, then: () => void): ReturnType<typeof setTimeout> {
  const timer = setTimeout(then, ms)
  timer.unref?.()
  return timer
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` unless `value` is a whole number from `min` to `max` */
export function checkWhole(value: number, name: string, min: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= min && value <= max) return value
  throw new PeerlineError('ERR_PEERLINE_INVALID', `${name} must be a whole number from ${min} to ${max}`)
}

/** What is no error of ours is a fault of the program: trying again does not mend it. */
function failure(cause: unknown, what: string): PeerlineError {
  if (isPeerlineError(cause)) return cause
  const said = cause instanceof Error ? cause.message : String(cause)
  const recover = 'The program failed at it, not the network: see the cause.'
  return new PeerlineError('ERR_PEERLINE_INVALID', `${what}: ${said}`, { cause, recover })
}
