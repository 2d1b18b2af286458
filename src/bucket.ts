/**
 * A token bucket: bursts of `burst`, and `perSecond` in the long run, of whatever is counted.
 *
 *     balance:  -debt ....... 0 ............... burst
 *                a debt is           + perSecond
 *                paid off first
 *
 * - What is taken is never more than there is: over any span of t seconds at most `burst + perSecond * t`.
 * - What cannot wait is spent, be it into debt; all else waits for that.
 * - It costs two numbers and no timer: the refill is worked out when it is asked.
 *
 * The clock is monotonic (milliseconds): a wall clock set back would starve everyone, set forward would let a flood in.
 */

/** Milliseconds on a clock that never goes back. */
export type MonotonicClock = () => number

export class Bucket {
  readonly #perSecond: number
  readonly #burst: number
  readonly #now: MonotonicClock
  #balance: number
  #at: number

  /** It is full at first. */
  constructor(perSecond: number, burst: number, now: MonotonicClock = () => performance.now()) {
    this.#perSecond = perSecond
    this.#burst = burst
    this.#now = now
    this.#balance = burst
    this.#at = now()
  }

  /** What there is now; below 0 it is a debt. */
  get balance(): number {
    const now = this.#now()
    const elapsed = now - this.#at
    if (elapsed > 0) {
      this.#at = now
      this.#balance = Math.min(this.#burst, this.#balance + (elapsed * this.#perSecond) / 1_000)
    }
    return this.#balance
  }

  /** Takes `n`, or nothing and returns false. Anything but a number >= 0 is refused. */
  take(n = 1): boolean {
    if (!(n >= 0 && n <= this.balance)) return false
    this.#balance -= n
    return true
  }

  /** Takes `n`, be it into debt; below 0 gives them back. */
  spend(n: number): void {
    this.#balance = Math.min(this.#burst, this.balance - n)
  }

  /** Whole milliseconds until the balance is `level`, if nobody takes any meanwhile; `Infinity` when it never is. */
  msUntil(level = 1): number {
    const balance = this.balance
    if (level <= balance) return 0
    if (!(level <= this.#burst) || this.#perSecond === 0) return Number.POSITIVE_INFINITY
    const ms = Math.ceil(((level - balance) * 1_000) / this.#perSecond)
    // rounding may leave the refill a hair short of it: one more millisecond then covers it
    return balance + (ms * this.#perSecond) / 1_000 >= level ? ms : ms + 1
  }
}
