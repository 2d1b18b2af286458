/**
 * Puts a body together from the chunks it comes in, within a limit.
 *
 * One chunk is kept as it is. From the second on they are copied into a buffer that doubles, so that a body in chunks
 * of one byte costs at most twice its limit, not an object a byte.
 */

/** Bytes of the first buffer: bodies of two small chunks fit. */
const FIRST_BYTES = 1_024

const EMPTY = new Uint8Array(0)

export class Collector {
  readonly #max: number
  #bytes: Uint8Array = EMPTY
  #length = 0
  /** True when `#bytes` is ours to write to. */
  #own = false

  constructor(maxBytes: number) {
    this.#max = maxBytes
  }

  /** False when the chunk would pass the limit; it is not taken then. */
  add(chunk: Uint8Array): boolean {
    const length = this.#length + chunk.length
    if (length > this.#max) return false
    if (this.#length === 0) this.#bytes = chunk
    else {
      if (!this.#own || length > this.#bytes.length) this.#grow(length)
      this.#bytes.set(chunk, this.#length)
    }
    this.#length = length
    return true
  }

  #grow(length: number): void {
    const bytes = new Uint8Array(Math.max(FIRST_BYTES, Math.min(2 * length, this.#max)))
    bytes.set(this.peek())
    this.#bytes = bytes
    this.#own = true
  }

  /** The first byte, once it has come. */
  get first(): number | undefined {
    return this.#bytes[0]
  }

  /** Bytes that have come. */
  get length(): number {
    return this.#length
  }

  /** Bytes of memory that it takes. */
  get held(): number {
    return this.#own ? this.#bytes.length : this.#length
  }

  /** What has come so far; to look at only. */
  peek(): Uint8Array {
    return this.#length === this.#bytes.length ? this.#bytes : this.#bytes.subarray(0, this.#length)
  }

  /** What has come. The collector is done with then. */
  take(): Uint8Array {
    const bytes = this.peek()
    this.#bytes = EMPTY
    this.#length = 0
    return bytes
  }
}
