/**
 * Several ways to one end, begun tier by tier until one of them succeeds, which ends the others (after RFC 8305 section 5).
 *
 *     tier --its time is over, or all that were begun have failed--> next tier …
 */
import { firstOf } from './pause.ts'

/** ms between the starts of dials to several addresses, best first: RFC 8305 section 5 allows 100 to 2000. */
export const STAGGER_MS = 100

export interface Tier<W> {
  /** Begun together. */
  readonly ways: readonly W[]
  /** ms that those before have to themselves. */
  readonly afterMs: number
}

export interface StaggerOptions<W, T> {
  readonly run: (way: W, signal: AbortSignal) => Promise<T>
  readonly signal: AbortSignal
  /** This failure ends all. @default none does, but after the signal has fired any does */
  readonly final?: (error: unknown, way: W) => boolean
  /** What becomes of a success that comes after another one, or after the end. @default nothing */
  readonly late?: (made: T, way: W) => void
}

/** No way has succeeded. */
export class NoneSucceeded<W> extends Error {
  /** In the order in which they failed; not of those that were not begun, or had not ended. */
  readonly failures: ReadonlyMap<W, unknown>
  /** The failure that ended it. */
  readonly last: unknown
  /** That failure was final, or the signal fired: others might have succeeded. */
  readonly cutShort: boolean

  constructor(failures: ReadonlyMap<W, unknown>, last: unknown, cutShort: boolean) {
    super('none succeeded', { cause: last })
    this.failures = failures
    this.last = last
    this.cutShort = cutShort
  }
}

/** What the first of the ways that succeeds brings; there is at least one. @throws NoneSucceeded */
export function staggered<W, T>(tiers: readonly Tier<W>[], options: StaggerOptions<W, T>): Promise<T> {
  const { run, signal, final, late } = options
  return new Promise((resolve, reject) => {
    const done = new AbortController()
    const each = firstOf(signal, done.signal)
    const failures = new Map<W, unknown>()
    let next = 0
    let running = 0
    let over = false
    let timer: NodeJS.Timeout | undefined
    const end = (tell: () => void) => {
      over = true
      clearTimeout(timer)
      tell()
      done.abort()
    }
    const begin = () => {
      clearTimeout(timer)
      const { ways } = tiers[next++]!
      const following = tiers[next]
      if (following !== undefined) timer = setTimeout(begin, following.afterMs)
      running += ways.length
      for (const way of ways) {
        run(way, each).then(
          (made) => (over ? late?.(made, way) : end(() => resolve(made))),
          (error) => onFailed(way, error),
        )
      }
    }
    const onFailed = (way: W, error: unknown) => {
      if (over) return
      failures.set(way, error)
      running--
      const cutShort = signal.aborted || (final?.(error, way) ?? false)
      const all = running === 0 && next === tiers.length
      if (cutShort || all) end(() => reject(new NoneSucceeded(failures, error, cutShort)))
      else if (running === 0) begin()
    }
    begin()
  })
}
