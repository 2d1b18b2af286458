/**
 * Whose turn it is to be read, when more comes than there is time for.
 *
 * A turn of the event loop hands out one chunk of every socket that has something: of a thousand, a thousand. So after
 * {@link TURN_MS} of a turn what comes waits, its socket is not read meanwhile, and the shortest goes first: what it costs
 * to read a chunk grows with its length, and whoever asks little is not behind those who send as fast as they can.
 *
 * - Whoever has waited for {@link MAX_WAIT_MS} is read as well, one in a turn: nothing starves.
 * - At most one chunk of each path waits. Nothing waits while there is time: then it costs a look at the clock.
 */

/** ms of reading before, and again after, others wait: what a small request may be late by is about twice that. */
const TURN_MS = 2

/** ms after which whoever waits is read whatever its length: four of them make the second that people notice. */
const MAX_WAIT_MS = 250

/** Somebody with one chunk that waits. */
export interface Reader {
  /** Its length. */
  readonly bytes: number
  /** Reads it; nothing where it has gone. */
  read(): void
}

export class Turns {
  readonly #waiting: { reader: Reader; since: number }[] = []
  /** When the present turn began; undefined between two. */
  #began: number | undefined

  /** True when `reader` may read now; else it is called when it is its turn. */
  take(reader: Reader): boolean {
    const now = performance.now()
    if (this.#began === undefined) {
      this.#began = now
      setImmediate(this.#next)
    }
    if (now - this.#began <= TURN_MS && this.#waiting.length === 0) return true
    this.#waiting.push({ reader, since: now })
    return false
  }

  readonly #next = (): void => {
    const began = performance.now()
    const oldest = this.#waiting[0]
    while (this.#waiting.length > 0 && performance.now() - began <= TURN_MS) this.#read(this.#shortest())
    // Whoever has waited long is read in each turn too, if it is only one.
    if (oldest !== undefined && began - oldest.since > MAX_WAIT_MS) {
      const at = this.#waiting.indexOf(oldest)
      if (at >= 0) this.#read(at)
    }
    this.#began = undefined
    if (this.#waiting.length === 0) return
    this.#began = performance.now()
    setImmediate(this.#next)
  }

  #shortest(): number {
    let first = 0
    for (let at = 1; at < this.#waiting.length; at++) {
      if (this.#waiting[at]!.reader.bytes < this.#waiting[first]!.reader.bytes) first = at
    }
    return first
  }

  #read(at: number): void {
    this.#waiting.splice(at, 1)[0]!.reader.read()
  }
}

/** Those of this thread: it has one event loop, whatever the number of peers in it. */
export const turns = new Turns()
