/**
 * When a lost server is dialled again: soon, then less and less often, and always at random, so that those who lost it
 * together do not come back together.
 *
 *     loss ── 0.1..1 s ──> 1st ── 0.1..2 s ──> 2nd ── 0.1..4 s ──> 3rd, and so on       in the first 2 minutes
 *                                                     0.1..8 s, ..16 s, ..30 s, ..30 s  from then on
 *
 * A wait is drawn evenly from the whole span ("full jitter"): half of a crowd that doubled a fixed wait would still come in
 * the same instant.
 */

/** ms before any attempt: the least that lets a socket be forgotten, and keeps a server that refuses from a busy loop. */
const MIN_WAIT_MS = 100

/** Longest wait before the first attempt, ms: a server that was only cut off is there, and a crowd comes over a second. */
const FIRST_WAIT_MS = 1_000

/** Longest wait while the outage may be a restart, ms: with the second that an attempt takes, all are back within 5 s. */
const RESTART_WAIT_MS = 4_000

/** ms for which an outage may be a restart: of a machine, with its checks, it takes one to two minutes. */
const RESTART_MS = 120_000

/** Longest wait of all, ms: what people put up with when a server is back after hours; 10,000 peers are 670 dials a second. */
const MAX_WAIT_MS = 30_000

export class RetrySchedule {
  readonly #random: () => number
  #longestMs = 0
  #since: number | undefined

  /** @param random from 0 up to 1 */
  constructor(random: () => number = Math.random) {
    this.#random = random
  }

  /** ms to wait before the next attempt. The first call says that the outage begins. */
  next(): number {
    const now = performance.now()
    this.#since ??= now
    const cap = now - this.#since < RESTART_MS ? RESTART_WAIT_MS : MAX_WAIT_MS
    this.#longestMs = this.#longestMs === 0 ? FIRST_WAIT_MS : Math.min(this.#longestMs * 2, cap)
    return MIN_WAIT_MS + this.#random() * (this.#longestMs - MIN_WAIT_MS)
  }

  /** The outage is over. */
  reset(): void {
    this.#longestMs = 0
    this.#since = undefined
  }
}
