/**
 * Bytes per second: a bucket that may be overdrawn, and wakes who waits for it.
 *
 *     balance:  -debt ....... 0 ....... quantum ....... burst
 *                a debt is        pieces go from
 *                paid off first   here on                       + perSecond
 *
 * - What cannot wait, because it has come already or goes whole or not at all, may overdraw; all else waits for that.
 * - Pieces wait for a quantum, not for a byte: otherwise a slow rate would make of each byte a record.
 * - There is a timer only while somebody waits, and never one of less than a ms.
 */
import { Bucket } from '../bucket.ts'
import { PeerlineError } from '../errors.ts'

export interface ByteRate {
  /** Bytes per second, a whole number >= 1. */
  readonly perSecond: number
  /** Bytes at once after a rest, a whole number >= 1: what a second brings is a good beginning. */
  readonly burst: number
}

/** Bytes of the largest quantum: a full record. */
const MAX_QUANTUM_BYTES = 65_536

/** Quanta per second, when they are smaller than that: 20 ms is a wait that nobody notices. */
const QUANTA_PER_SECOND = 50

/** ms after which a long wait is looked at again: timers hold no more than 2^31. */
const MAX_WAIT_MS = 60_000

/** A bucket of bytes, and a timer for those who wait for it. */
export class Pacer {
  readonly #bucket: Bucket
  readonly #quantum: number
  readonly #wake: () => void
  #timer: ReturnType<typeof setTimeout> | undefined
  #closed = false

  /**
   * @param wake called some time after `wait`, when there is room; it may find less than it hoped for, and wait again
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a rate that is none
   */
  constructor(rate: ByteRate, wake: () => void) {
    for (const [name, value] of Object.entries({ perSecond: rate.perSecond, burst: rate.burst })) {
      if (Number.isSafeInteger(value) && value >= 1) continue
      throw new PeerlineError('ERR_PEERLINE_INVALID', `${name} must be a whole number >= 1, not ${value}`)
    }
    this.#bucket = new Bucket(rate.perSecond, rate.burst)
    this.#quantum = Math.min(rate.burst, MAX_QUANTUM_BYTES, Math.ceil(rate.perSecond / QUANTA_PER_SECOND))
    this.#wake = wake
  }

  /** Bytes that a piece may have now; 0 below a quantum. */
  get room(): number {
    const bytes = Math.floor(this.#bucket.balance)
    return bytes >= this.#quantum ? bytes : 0
  }

  /** Bytes that are owed. */
  get debt(): number {
    return Math.max(0, -this.#bucket.balance)
  }

  /** Somebody waits. */
  get waiting(): boolean {
    return this.#timer !== undefined
  }

  /** Takes a few bytes past the quantum, unless somebody waits already: those come first. */
  take(bytes: number): boolean {
    if (bytes === 0) return true
    return !this.waiting && this.#bucket.take(bytes)
  }

  /** Takes bytes that cannot wait, be it into debt. */
  spend(bytes: number): void {
    this.#bucket.spend(bytes)
  }

  /** Gives back what was taken for bytes that never came. */
  refund(bytes: number): void {
    this.#bucket.spend(-bytes)
  }

  /** Has `wake` called when there is room. */
  wait(): void {
    if (this.waiting || this.#closed) return
    const ms = Math.min(MAX_WAIT_MS, Math.max(1, this.#bucket.msUntil(this.#quantum)))
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#wake()
    }, ms)
    this.#timer.unref?.()
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
