/**
 * Whose turn it is to be read, when more comes than there is time for.
 *
 * A turn of the event loop hands out one chunk of every socket that has something: of a thousand, a thousand. So after
 * {@link TURN_MS} of a turn what comes waits, its socket is not read meanwhile, and the one goes first that brings least: its bytes,
 * times what a chunk of its has taken so far. So who asks little is not behind those who send, or have us work, as much as they
 * can, however many they are: a fair share for each would be next to none.
 *
 * - Whoever has waited for {@link MAX_WAIT_MS} is read as well, one in a turn: nothing starves.
 * - At most one chunk of each path waits. Nothing waits while there is time: then it costs two looks at the clock.
 * - What a chunk sets off later, as what an asynchronous handler does, is nobody's.
 */

/** ms of reading before, and again after, others wait: what a small request may be late by is about twice that. */
const TURN_MS = 2

/** ms after which whoever waits is read whatever it took before: four of them make the second that people notice. */
const MAX_WAIT_MS = 250

/** How much of what a chunk is expected to take is the last one: four, and what somebody did before hardly counts. */
const LAST_PART = 0.25

/** ms that the first chunk of somebody is expected to take: a small request. */
const FIRST_MS = 0.1

/** Somebody with one chunk that waits to be read. */
export interface Reader {
  /** Bytes of the chunk. */
  readonly bytes: number
  /** ms that a chunk of it takes, as it looks; kept here. */
  costMs?: number
  /** Reads the chunk; nothing where it has gone. */
  read(): void
}

interface Waiting {
  readonly reader: Reader
  readonly since: number
  /** The less, the sooner. */
  readonly weight: number
}

export class Turns {
  /** The lightest first. */
  readonly #waiting: Waiting[] = []
  /** When the present turn began, and when what was read last in it was done; undefined between two. */
  #began: number | undefined
  #now = 0

  /** Reads what `reader` has and is true; or it is read when it is its turn. */
  read(reader: Reader): boolean {
    const now = performance.now()
    if (this.#began === undefined) {
      this.#began = now
      setImmediate(this.#next)
    }
    if (now - this.#began <= TURN_MS && this.#waiting.length === 0) {
      this.#read(reader, now)
      return true
    }
    const weight = reader.bytes * (reader.costMs ?? FIRST_MS)
    const at = this.#waiting.findIndex((other) => other.weight > weight)
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, { reader, since: now, weight })
    return false
  }

  readonly #next = (): void => {
    const began = performance.now()
    this.#now = began
    while (this.#waiting.length > 0 && this.#now - began <= TURN_MS)
      this.#read(this.#waiting.shift()!.reader, this.#now)
    // Whoever has waited long is read in each turn too, if it is only one.
    const late = this.#waiting.findIndex(({ since }) => began - since > MAX_WAIT_MS)
    if (late >= 0) this.#read(this.#waiting.splice(late, 1)[0]!.reader, this.#now)
    this.#began = undefined
    if (this.#waiting.length === 0) return
    this.#began = this.#now
    setImmediate(this.#next)
  }

  #read(reader: Reader, began: number): void {
    reader.read()
    this.#now = performance.now()
    const ms = this.#now - began
    reader.costMs = (1 - LAST_PART) * (reader.costMs ?? ms) + LAST_PART * ms
  }
}

/** Those of this thread: it has one event loop, whatever the number of peers in it. */
export const turns = new Turns()
