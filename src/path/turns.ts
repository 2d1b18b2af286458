/**
 * Whose turn it is to be read, when more comes than there is time for.
 *
 * A turn of the event loop hands out one chunk of every socket that has something: of a thousand, a thousand. So after
 * {@link TURN_MS} of a turn what comes waits, its socket is not read meanwhile, and the one goes first that brings least: its bytes,
 * times what a chunk of its has taken so far. So who asks little is not behind those who send, or have us work, as much as they
 * can, however many they are: a fair share for each would be next to none.
 *
 * - A chunk of many messages is read as far as there is time; its rest waits like any other.
 * - Answers go out in the turn in which the request was read, see {@link Turns.last}: also to those who had to wait.
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
  /** Until when whoever is being read may go on; beyond all time while nobody is. */
  #until = Number.POSITIVE_INFINITY
  /** What was set off by those that had to wait, and is not done; undefined but while they are read. */
  #last: (() => void)[] | undefined

  /** Reads what `reader` has and is true; or it is read when it is its turn. */
  read(reader: Reader): boolean {
    const now = performance.now()
    if (this.#began === undefined) {
      this.#began = now
      setImmediate(this.#next)
    }
    if (now - this.#began <= TURN_MS && this.#waiting.length === 0) {
      this.#read(reader, now, this.#began + TURN_MS)
      return true
    }
    this.#wait(reader, now)
    return false
  }

  /** True when the time of whoever is being read is over: it stops, and says with {@link wait} that it has more. */
  get over(): boolean {
    return this.#until !== Number.POSITIVE_INFINITY && performance.now() > this.#until
  }

  /** `reader` is read when it is its turn. */
  wait(reader: Reader): void {
    this.#wait(reader, performance.now())
  }

  /** Has `run` called behind what is read now, or in this turn; but not in the next one. */
  last(run: () => void): void {
    if (this.#last === undefined) setImmediate(run)
    else this.#last.push(run)
  }

  #wait(reader: Reader, since: number): void {
    const weight = reader.bytes * (reader.costMs ?? FIRST_MS)
    const at = this.#waiting.findIndex((other) => other.weight > weight)
    this.#waiting.splice(at < 0 ? this.#waiting.length : at, 0, { reader, since, weight })
  }

  readonly #next = (): void => {
    const began = performance.now()
    this.#now = began
    if (this.#waiting.length > 0) {
      if (this.#last === undefined) queueMicrotask(() => process.nextTick(this.#finish))
      this.#last ??= []
      while (this.#waiting.length > 0 && this.#now - began <= TURN_MS)
        this.#readLate(this.#waiting.shift()!.reader, began + TURN_MS)
      // Whoever has waited long is read in each turn too, if it is only one.
      const late = this.#waiting.findIndex(({ since }) => began - since > MAX_WAIT_MS)
      if (late >= 0) this.#readLate(this.#waiting.splice(late, 1)[0]!.reader, this.#now + TURN_MS)
    }
    this.#began = undefined
    if (this.#waiting.length === 0) return
    this.#began = this.#now
    setImmediate(this.#next)
  }

  /** What it sets off is done before the next one is read: an immediate set now would be one of the next turn. */
  #readLate(reader: Reader, until: number): void {
    this.#read(reader, this.#now, until)
    for (const run of this.#last!.splice(0)) run()
    this.#now = performance.now()
  }

  /** What is left to be done by handlers that answer in promises, which they have done when this runs. */
  readonly #finish = (): void => {
    const last = this.#last!
    this.#last = undefined
    for (const run of last) run()
  }

  #read(reader: Reader, began: number, until: number): void {
    this.#until = until
    reader.read()
    this.#until = Number.POSITIVE_INFINITY
    this.#now = performance.now()
    const ms = this.#now - began
    reader.costMs = (1 - LAST_PART) * (reader.costMs ?? ms) + LAST_PART * ms
  }
}

/** Those of this thread: it has one event loop, whatever the number of peers in it. */
export const turns = new Turns()
