/**
 * Joins two byte pipes: what comes from one goes to the other, unread, until either ends.
 *
 * A pipe is not read while the other is full (back-pressure) or while it has been faster than its rate allows.
 */
import { Bucket } from '../bucket.ts'
import type { Pipe } from '../path/index.ts'

/** Bytes that may come at once above the rate, at the least: a few reads of a socket. */
const MIN_BURST_BYTES = 1_048_576

/** ms that the pipes get to send their tails once either has ended. */
const DRAIN_MS = 5_000

export interface SpliceOptions {
  /** Bytes both ways together, after which the pipes are ended. */
  readonly maxBytes: number
  /** Bytes a second each way. */
  readonly bytesPerSecond: number
  /** ms after which the pipes are ended. */
  readonly maxMs: number
  /** Called once, when the pipes were ended. */
  readonly onEnd: () => void
}

/** One direction. */
class Flow {
  readonly #from: Pipe
  readonly #to: Pipe
  readonly #bucket: Bucket
  #blocked = false
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(from: Pipe, to: Pipe, bytesPerSecond: number) {
    this.#from = from
    this.#to = to
    this.#bucket = new Bucket(bytesPerSecond, Math.max(bytesPerSecond / 4, MIN_BURST_BYTES))
  }

  pass(chunk: Uint8Array): void {
    if (!this.#to.write([chunk])) {
      this.#blocked = true
      this.#from.pause()
    }
    this.#pay(chunk.length)
  }

  /** The chunk has gone; when it was more than the rate allows, the next one waits until it is paid for. */
  #pay(bytes: number): void {
    this.#bucket.spend(bytes)
    const ms = this.#bucket.msUntil(0)
    if (ms === 0 || this.#timer !== undefined) return
    this.#from.pause()
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.resume()
    }, ms)
  }

  drained(): void {
    this.#blocked = false
    this.resume()
  }

  resume(): void {
    if (!this.#blocked && this.#timer === undefined) this.#from.resume()
  }

  stop(): void {
    clearTimeout(this.#timer)
  }
}

/**
 * Joins `a` and `b`. `restA` and `restB` are what was read of each already.
 * @returns ends both
 */
export function splice(
  a: Pipe,
  restA: Uint8Array | undefined,
  b: Pipe,
  restB: Uint8Array | undefined,
  options: SpliceOptions,
): () => void {
  const forth = new Flow(a, b, options.bytesPerSecond)
  const back = new Flow(b, a, options.bytesPerSecond)
  let left = options.maxBytes
  let open = true
  const end = () => {
    if (!open) return
    open = false
    clearTimeout(timer)
    forth.stop()
    back.stop()
    a.end()
    b.end()
    setTimeout(() => {
      a.destroy()
      b.destroy()
    }, DRAIN_MS).unref()
    options.onEnd()
  }
  const timer = setTimeout(end, options.maxMs)
  timer.unref()
  const passer = (flow: Flow) => (chunk: Uint8Array) => {
    if (!open) return
    left -= chunk.length
    if (left < 0) end()
    else flow.pass(chunk)
  }
  a.start({ data: passer(forth), drain: () => back.drained(), close: end })
  b.start({ data: passer(back), drain: () => forth.drained(), close: end })
  if (restA !== undefined) passer(forth)(restA)
  if (restB !== undefined) passer(back)(restB)
  forth.resume()
  back.resume()
  return end
}
