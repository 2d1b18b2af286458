/**
 * Where each entry of a ledger file stands: by its place in the file, and by topic and sequence.
 *
 * Memory: 12 bytes for each entry, and 4 to 8 in its topic; about 300 for each topic. A million entries take 20 MB.
 */

/** Entries whose places are kept together, 48 KiB: growing copies nothing. */
const CHUNK = 4_096

/** Entries that a topic has room for at first: many have one or two. */
const FIRST_ROOM = 4

interface Chunk {
  readonly starts: Float64Array
  readonly marks: Uint32Array
}

export class LogIndex {
  readonly #chunks: Chunk[] = []
  readonly #topics = new Map<string, { places: Uint32Array; count: number }>()
  #size = 0

  /** Entries. */
  get size(): number {
    return this.#size
  }

  get topics(): number {
    return this.#topics.size
  }

  /**
   * Puts an entry at the end.
   * @param start of its record in the file
   * @param mark four bytes of its hash: an entry that is another one later is recognised
   */
  add(topic: string, start: number, mark: number): void {
    if (this.#size % CHUNK === 0) this.#chunks.push({ starts: new Float64Array(CHUNK), marks: new Uint32Array(CHUNK) })
    const { starts, marks } = this.#chunks.at(-1)!
    starts[this.#size % CHUNK] = start
    marks[this.#size % CHUNK] = mark
    const of = this.#topics.get(topic) ?? { places: new Uint32Array(FIRST_ROOM), count: 0 }
    if (of.count === 0) this.#topics.set(topic, of)
    if (of.count === of.places.length) {
      const larger = new Uint32Array(2 * of.count)
      larger.set(of.places)
      of.places = larger
    }
    of.places[of.count++] = this.#size++
  }

  /** Where the record of an entry begins. */
  start(place: number): number {
    return this.#chunks[Math.floor(place / CHUNK)]!.starts[place % CHUNK]!
  }

  mark(place: number): number {
    return this.#chunks[Math.floor(place / CHUNK)]!.marks[place % CHUNK]!
  }

  /** How many entries of a topic are among the first `below` of the file. */
  count(topic: string, below: number = this.#size): number {
    const of = this.#topics.get(topic)
    let count = of?.count ?? 0
    while (count > 0 && of!.places[count - 1]! >= below) count--
    return count
  }

  /** The place of an entry, from 0; `sequence` is from 1 to {@link count}. */
  place(topic: string, sequence: number): number {
    return this.#topics.get(topic)!.places[sequence - 1]!
  }
}
