/**
 * Patience with the other side of a streamed body: a bucket of time, that waiting empties and bytes fill.
 *
 *     waiting 1 ms: -1 ms        a byte: +1,000 / minBytesPerSecond ms, up to idleMs
 *
 * A limit on idle time alone is met by whoever sends one byte just before it passes, and holds a stream and a handler for
 * ever. Here such a sender has used up its time after about `idleMs`, while a fast one always has all of it.
 */
import { Deadline } from './deadline.ts'

/** ms that the other side may be silent: as for a request as a whole. */
export const IDLE_MS = 10_000

/**
 * ms that the other side may take nothing of what we write. A window of 16 MiB is granted by halves, so that 60 s are
 * enough for a reader of 140 kB/s.
 */
export const STALL_MS = 60_000

/** Bytes a second, below which the other side is taken for one that only holds a stream: a modem of 1962 was faster. */
export const MIN_BYTES_PER_SECOND = 32

export interface PatienceLimits {
  /** ms that the other side may send nothing while we wait for its body. @default 10_000 */
  readonly idleMs?: number
  /** ms that the other side may take nothing while we wait to send ours. @default 60_000 */
  readonly stallMs?: number
  /** Bytes a second that it has to give or take at least, while we wait. @default 32 */
  readonly minBytesPerSecond?: number
}

export class Patience extends Deadline {
  readonly #idleMs: number
  readonly #msPerByte: number
  readonly #onOut: () => void
  #leftMs: number
  #since = 0

  constructor(limits: PatienceLimits, onOut: () => void) {
    super()
    this.#idleMs = limits.idleMs ?? IDLE_MS
    this.#msPerByte = 1_000 / (limits.minBytesPerSecond ?? MIN_BYTES_PER_SECOND)
    this.#leftMs = this.#idleMs
    this.#onOut = onOut
  }

  /** What `wait` gives; `bytes` says how many that were. One wait at a time. */
  async wait<T>(wait: Promise<T>, bytes: (given: T) => number): Promise<T> {
    this.#since = performance.now()
    this.arm(Math.max(0, this.#leftMs))
    try {
      const given = await wait
      this.#leftMs += bytes(given) * this.#msPerByte
      return given
    } finally {
      this.disarm()
      this.#leftMs = Math.min(this.#idleMs, this.#leftMs - (performance.now() - this.#since))
    }
  }

  protected expired(): void {
    this.#onOut()
  }
}
