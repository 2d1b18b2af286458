/**
 * The consensus clock: what time it is at the ledger, from what is seen of it.
 *
 *     local      t0 sent ----------------------------> t1 known
 *     ledger             \--> c, consensus --> readers /          c - t1  <=  offset  <=  c - t0
 *
 * - An own message gives both bounds, what comes from others the lower one. The tightest of each are kept, and widen as two
 *   clocks may drift apart: so the offset is always between them.
 * - Local time is monotonic. When it and the wall clock of this machine have moved apart, the machine has slept or its time
 *   was set, and what was known is forgotten. It is forgotten too when bounds contradict each other.
 * - What a ledger says of its time is its word: one that lies spoils the timing of a punch, nothing else.
 */
import { MAX_TIME_MS } from '../bytes/index.ts'

/** ms that two clocks drift apart in a ms: what a clock under correction may do (adjtimex(2): 500 ppm). */
const DRIFT = 0.0005

/** ms between monotonic and wall clock that are no sleep and no setting of the time. */
const JUMP_MS = 250

export interface LocalClock {
  /** ms since any moment, never going back. */
  readonly now: () => number
  /** ms since 1970. */
  readonly wall: () => number
}

const MACHINE: LocalClock = { now: () => performance.timeOrigin + performance.now(), wall: () => Date.now() }

export class ConsensusClock {
  readonly #local: LocalClock
  /** The bounds, as they were when local time was 0. */
  #lower = Number.NEGATIVE_INFINITY
  #upper = Number.POSITIVE_INFINITY
  /** Wall clock less local clock, at the last look. */
  #apart: number
  /** Local time when they were last seen to have moved. */
  #since = Number.NEGATIVE_INFINITY

  /** @param local the clocks of this machine. @default performance.now and Date.now */
  constructor(local: LocalClock = MACHINE) {
    this.#local = local
    this.#apart = local.wall() - local.now()
  }

  /** The local time, ms: what {@link appended} and {@link toLocal} count in. About that since 1970. */
  local(): number {
    this.#look()
    return this.#local.now()
  }

  /** An own message: sent at local time `sentAt` or later, its consensus time `at`, known by now. */
  appended(sentAt: number, at: number): void {
    if (!isTime(at)) return
    const now = this.local()
    // What was sent before the clocks moved apart bounds nothing after that.
    this.#bound(at - now, sentAt < this.#since ? Number.POSITIVE_INFINITY : at - sentAt, sentAt, now)
  }

  /** A message with consensus time `at` has come. */
  received(at: number): void {
    if (!isTime(at)) return
    const now = this.local()
    this.#bound(at - now, Number.POSITIVE_INFINITY, now, now)
  }

  /**
   * ms that the ledger's clock is ahead of the local one, as well as it is known. Until an own message was seen, the wall
   * clock of this machine counts, unless it is behind what has come: an entry of an hour ago does not make it an hour ago.
   */
  get offsetMs(): number {
    const [lower, upper] = this.#bounds()
    return Number.isFinite(upper - lower) ? (lower + upper) / 2 : Math.max(this.#apart, lower)
  }

  /** ms by which {@link offsetMs} may be wrong; infinite until an own message was seen. */
  get uncertaintyMs(): number {
    const [lower, upper] = this.#bounds()
    return (upper - lower) / 2
  }

  /** Consensus time now, ms since 1970. */
  now(): number {
    return this.local() + this.offsetMs
  }

  /** The local time of a consensus time. */
  toLocal(at: number): number {
    return at - this.offsetMs
  }

  /** Both bounds now. */
  #bounds(): readonly [number, number] {
    const drift = this.local() * DRIFT
    return [this.#lower - drift, this.#upper + drift]
  }

  /** Takes a lower bound of local time `now`, and an upper one of `then`. */
  #bound(lower: number, upper: number, then: number, now: number): void {
    const lowerAtZero = lower + now * DRIFT
    const upperAtZero = upper - then * DRIFT
    const spread = 2 * now * DRIFT
    if (lowerAtZero - spread > this.#upper || upperAtZero + spread < this.#lower) this.#forget()
    this.#lower = Math.max(this.#lower, lowerAtZero)
    this.#upper = Math.min(this.#upper, upperAtZero)
  }

  /** Forgets everything when the clocks of this machine have moved apart since the last look. */
  #look(): void {
    const now = this.#local.now()
    const apart = this.#local.wall() - now
    if (Math.abs(apart - this.#apart) > JUMP_MS) {
      this.#forget()
      this.#since = now
    }
    this.#apart = apart
  }

  #forget(): void {
    this.#lower = Number.NEGATIVE_INFINITY
    this.#upper = Number.POSITIVE_INFINITY
  }
}

function isTime(at: number): boolean {
  return at >= 0 && at <= MAX_TIME_MS
}
