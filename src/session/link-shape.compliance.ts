/**
 * What a link between two sessions in memory does to what is sent on it, for tests of the choice of paths: delay, a rate
 * that grows from a slow start, a send buffer, a line that others share. Time is that of fake timers.
 */
import type { MemoryPath, Side } from './memory-path.compliance.ts'

/** A line that several links share: what they send queues up before it. */
export class Bottleneck {
  readonly bytesPerMs: number
  #free: readonly [number, number] = [0, 0]

  constructor(bytesPerMs: number) {
    this.bytesPerMs = bytesPerMs
  }

  /** When `bytes` that come at `at` have gone through, towards `to`. */
  pass(to: Side, at: number, bytes: number): number {
    const done = Math.max(this.#free[to], at) + bytes / this.bytesPerMs
    this.#free = to === 0 ? [done, this.#free[1]] : [this.#free[0], done]
    return done
  }
}

/** What a link does to what is sent on it. */
export interface LinkShape {
  /** One way, ms. */
  readonly delayMs: number
  /** Rate that it comes to, bytes per ms. */
  bytesPerMs: number
  /** Bytes from which a sender is asked to wait: those of a kernel, and 1 MiB above it. @default 5 MiB */
  readonly bufferBytes?: number
  readonly bottleneck?: Bottleneck
}

/** What a connection sends in its first round trip, RFC 6928; it doubles with every further one. */
const FIRST_FLIGHT_BYTES = 14_600
/** ms of silence after which a connection starts slowly again. */
const SLOW_START_AFTER_MS = 300
/** ms that may queue up before a bottleneck. */
const BOTTLENECK_QUEUE_MS = 100

/** One direction of a link with a shape. */
export class Wire {
  readonly #shape: LinkShape
  readonly #from: MemoryPath
  readonly #to: Side
  readonly #flying: { readonly message: Uint8Array | undefined; readonly at: number }[] = []
  #free = 0
  #busySince = 0
  #lastAt = 0

  constructor(shape: LinkShape, from: MemoryPath, to: Side) {
    this.#shape = shape
    this.#from = from
    this.#to = to
  }

  /** Puts on the line what there was time for. */
  #advance(now: number): void {
    const { delayMs, bytesPerMs, bottleneck } = this.#shape
    const rtt = 2 * delayMs
    while (this.#from.queue.length > 0) {
      const start = Math.max(this.#free, this.#from.sentAt[0]!)
      if (start > now) return
      if (start - this.#free > Math.max(SLOW_START_AFTER_MS, 2 * rtt)) this.#busySince = start
      const grown = rtt === 0 ? bytesPerMs : (FIRST_FLIGHT_BYTES / rtt) * 2 ** ((start - this.#busySince) / rtt)
      const message = this.#from.shift()
      const bytes = message?.length ?? 0
      this.#free = start + bytes / Math.min(bytesPerMs, grown)
      let at = this.#free
      if (bottleneck !== undefined) {
        at = bottleneck.pass(this.#to, at, bytes)
        this.#free = Math.max(this.#free, at - BOTTLENECK_QUEUE_MS)
      }
      this.#lastAt = Math.max(this.#lastAt, at + delayMs)
      this.#flying.push({ message, at: this.#lastAt })
      this.#from.drained()
    }
  }

  ready(now: number): boolean {
    this.#advance(now)
    return this.#flying.length > 0 && this.#flying[0]!.at <= now
  }

  /** The next message to arrive; undefined is an orderly end. */
  take(): Uint8Array | undefined {
    return this.#flying.shift()!.message
  }
}
