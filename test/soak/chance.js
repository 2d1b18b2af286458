/** Numbers that are the same for the same seed (a mixed counter, as in SplitMix32). */
export class Chance {
  #state

  constructor(seed) {
    this.#state = seed >>> 0
  }

  /** A whole number from 0 to below `n`. */
  below(n) {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) % n
  }

  oneIn(n) {
    return this.below(n) === 0
  }

  pick(from) {
    return from[this.below(from.length)]
  }

  /** Another one, for what runs beside this: whoever is first, each draws the same. */
  fork() {
    return new Chance(this.below(2 ** 32))
  }
}
