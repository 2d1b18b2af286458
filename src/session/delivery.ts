/**
 * What was delivered in each of the last moments, and at what rate: a ring of fixed size, which allocates nothing.
 */

/** Moments kept: 4 s of looks 50 ms apart. */
const SLOTS = 80

export class Delivery {
  readonly #bytes = new Float64Array(SLOTS)
  readonly #ms = new Float64Array(SLOTS)
  #next = 0
  #count = 0

  add(bytes: number, ms: number): void {
    this.#bytes[this.#next] = bytes
    this.#ms[this.#next] = ms
    this.#next = (this.#next + 1) % SLOTS
    if (this.#count < SLOTS) this.#count++
  }

  clear(): void {
    this.#count = 0
  }

  /** Bytes per ms over the last `ms`, or over the `ms` before the last `skipMs`; undefined while there are fewer. */
  rate(ms: number, skipMs = 0): number | undefined {
    let bytes = 0
    let length = 0
    let skip = skipMs
    for (let back = 1; back <= this.#count; back++) {
      const at = (this.#next - back + SLOTS) % SLOTS
      if (skip > 0) {
        skip -= this.#ms[at]!
        continue
      }
      bytes += this.#bytes[at]!
      length += this.#ms[at]!
      if (length >= ms) return bytes / length
    }
    return undefined
  }
}
