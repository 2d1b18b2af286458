/** A map that forgets its oldest entries: a cache whose size no remote can grow. */
export class BoundedMap<K, V> {
  readonly #entries = new Map<K, V>()
  readonly #max: number

  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#entries.size
  }

  /** The value kept for `key`, or the one `make` gives, kept from now on. What throws is not kept. */
  getOrMake(key: K, make: () => V): V {
    const kept = this.#entries.get(key)
    if (kept !== undefined) return kept
    const made = make()
    this.#entries.set(key, made)
    if (this.#entries.size > this.#max) {
      for (const oldest of this.#entries.keys()) {
        this.#entries.delete(oldest)
        break
      }
    }
    return made
  }
}
