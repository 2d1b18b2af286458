/**
 * Memory of all sessions of a peer together, for what piles up: what came and is not read, bodies of requests that are not
 * whole or not answered, what is sent and unacknowledged, records that came early.
 *
 *     MemoryBudget (of a peer) --share()--> MemoryShare (of a session) --> Allowance (of what grows by and by)
 *                                             \__ close(): all is given back
 *
 * - What is used never exceeds the limit, and is 0 when every session has ended.
 * - Every session has a little of each outside of the budget, about 1 MiB in all: whoever piles up little works as ever,
 *   whatever others do.
 */
import { PeerlineError } from '../errors.ts'

/**
 * Bytes by which an allowance grows and shrinks: the first window of a stream. Four records of bulk data, so that the budget
 * is asked seldom.
 */
const STEP_BYTES = 262_144

/** Bytes that many may take from, and give back to. */
export class MemoryBudget {
  /** Bytes at most. */
  readonly limit: number
  #used = 0

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a limit that is no whole number >= 0 and not `Infinity` */
  constructor(limit: number = Number.POSITIVE_INFINITY) {
    if (!(limit >= 0 && (Number.isSafeInteger(limit) || limit === Number.POSITIVE_INFINITY))) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `a memory budget is a whole number >= 0, not ${limit}`)
    }
    this.limit = limit
  }

  /** Bytes taken now. */
  get used(): number {
    return this.#used
  }

  /** Takes `bytes`, or none and returns false. */
  take(bytes: number): boolean {
    if (bytes > this.limit - this.#used) return false
    this.#used += bytes
    return true
  }

  /** Gives back `bytes` that were taken. */
  give(bytes: number): void {
    this.#used -= bytes
  }

  /** @internal The part of one session. */
  share(): MemoryShare {
    return new MemoryShare(this)
  }
}

/** What one session has taken of a budget. */
export class MemoryShare {
  readonly #budget: MemoryBudget
  #used = 0
  #closed = false

  constructor(budget: MemoryBudget) {
    this.#budget = budget
  }

  /** Takes `bytes`, or none and returns false. */
  take(bytes: number): boolean {
    if (this.#closed || !this.#budget.take(bytes)) return false
    this.#used += bytes
    return true
  }

  /** Gives back `bytes` that were taken; after `close` they were given back already. */
  give(bytes: number): void {
    if (this.#closed) return
    this.#used -= bytes
    this.#budget.give(bytes)
  }

  /** Gives back all: a reader may keep a stream for long after its session has ended. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#budget.give(this.#used)
  }
}

/** How many bytes something may hold, from `free` up to `most`, as far as the budget goes. */
export class Allowance {
  readonly #share: MemoryShare
  readonly #most: number
  readonly #free: number
  #bytes: number

  /**
   * @param most a multiple of {@link STEP_BYTES}
   * @param free what is not taken from the budget
   */
  constructor(share: MemoryShare, most: number, free: number = STEP_BYTES) {
    this.#share = share
    this.#most = most
    this.#free = free
    this.#bytes = free
  }

  /** True when `bytes` may be held; takes what that needs. */
  holds(bytes: number): boolean {
    while (bytes > this.#bytes) {
      if (this.#bytes >= this.#most || !this.#share.take(STEP_BYTES)) return false
      this.#bytes += STEP_BYTES
    }
    return true
  }

  /** Gives back what is not needed to hold `bytes`. */
  shrink(bytes: number): void {
    while (this.#bytes - STEP_BYTES >= Math.max(bytes, this.#free)) {
      this.#bytes -= STEP_BYTES
      this.#share.give(STEP_BYTES)
    }
  }
}
