/**
 * What a node has shown of its ledger so far. Whatever it shows next must go on from there, or it is caught.
 *
 *     answer: entries, head --> signed by the node --> begins with the head that is kept --> holds each entry --> kept
 *                                                  \__________ no: LedgerContradiction, for good __________/
 *
 * - The newest head is kept. A head that is shown in answer to a question is no shorter than the one kept when it was asked.
 * - Answers of several streams come in any order: where the proof that comes with a head is of another one than that which is
 *   kept, the node is asked for the proof that is missing.
 * - The newest entry of each topic is kept too: a topic is not shorter later on, and has no other entry at that place.
 * - The first head is believed; whoever stores it and gives it again at the next start is not told another history then.
 *
 * What one reader alone cannot see: that a node holds back the newest entries, or has told somebody else another history. For
 * that, readers compare heads. And an entry that claims the place of another in its topic, both in the tree, is seen by who reads
 * both.
 */
import { equalBytes } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Entry } from './ledger.ts'
import { verifyInclusion } from './merkle.ts'
import type { ProvenEntry, Shown } from './remote-wire.ts'
import { compareHeads, hashEntry, isConsistent, openHead, type TreeHead } from './tree-head.ts'

/** Topics whose newest entry is kept, about 200 bytes each: those forgotten are those read longest ago. */
const MAX_TOPICS = 1_024

/** A node has contradicted itself. `heads` are what it signed: the evidence. */
export class LedgerContradiction extends PeerlineError {
  /** Two, the one known before first; one, where a single head and what came with it do not agree. */
  readonly heads: readonly TreeHead[]

  constructor(message: string, heads: readonly TreeHead[]) {
    super('ERR_PEERLINE_LEDGER', message)
    this.heads = heads
  }
}

/** The newest entry of a topic that was seen. What is at its index is shown by the tree. */
interface Newest {
  readonly sequence: number
  readonly index: number
}

export interface HistoryOptions {
  readonly node: PeerId
  /** What was kept before. */
  readonly head?: TreeHead | undefined
  /** Asks the node to show that its first `to` entries begin with the first `from`. `ERR_PEERLINE_INVALID`: it cannot */
  readonly prove: (from: number, to: number) => Promise<Uint8Array>
  /** The node was caught. */
  readonly onContradiction: (error: LedgerContradiction) => void
}

export class History {
  readonly #options: HistoryOptions
  readonly #topics = new Map<string, Newest>()
  #head: TreeHead | undefined
  #contradiction: LedgerContradiction | undefined
  /** Heads are taken one after the other. */
  #last: Promise<unknown> = Promise.resolve()

  constructor(options: HistoryOptions) {
    this.#options = options
    this.#head = options.head
  }

  /** The newest head that was verified. */
  get head(): TreeHead | undefined {
    return this.#head
  }

  /** Entries that the newest head stands for. */
  get size(): number {
    return this.#head?.size ?? 0
  }

  /** Throws what the node was caught at. */
  check(): void {
    if (this.#contradiction !== undefined) throw this.#contradiction
  }

  /**
   * Takes a head that the node has shown.
   * @param least entries that it must stand for at the least
   * @throws PeerlineError {@link LedgerContradiction}; `ERR_PEERLINE_PROTOCOL` for what is no head of this ledger and node; why the node
   *   could not be asked
   */
  take(shown: Shown, least: number): Promise<TreeHead> {
    const taken = this.#last.then(() => this.#take(shown, least))
    this.#last = taken.catch(() => {})
    return taken
  }

  async #take(shown: Shown, least: number): Promise<TreeHead> {
    this.check()
    const kept = this.#head
    // As a rule nothing has come.
    if (kept !== undefined && equalBytes(kept.bytes, shown.head)) return kept
    const head = openHead(shown.head)
    if (head.peerId !== this.#options.node) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the node of the ledger shows the tree head of another')
    }
    if (kept !== undefined && head.ledger !== kept.ledger) {
      throw new PeerlineError(
        'ERR_PEERLINE_LEDGER',
        `the node had the ledger ${kept.ledger}, and now has ${head.ledger}`,
      )
    }
    if (kept !== undefined) await this.#link(kept, head, shown, least)
    if (kept === undefined || head.size > kept.size) this.#head = head
    return head
  }

  /** Head and kept head are of one history. */
  async #link(kept: TreeHead, head: TreeHead, shown: Shown, least: number): Promise<void> {
    if (head.size < least) throw this.contradiction(`had ${least} entries, and now shows ${head.size}`, kept, head)
    switch (compareHeads(kept, head)) {
      case 'same':
        return
      case 'contradiction':
        throw this.contradiction(`shows other ${head.size} entries than before`, kept, head)
    }
    const fits = shown.base === kept.size && head.size > kept.size
    const proof = fits ? shown.proof : await this.#prove(kept, head)
    if (!isConsistent(kept, head, proof)) {
      throw this.contradiction(`does not show that ${kept.size} and ${head.size} entries begin alike`, kept, head)
    }
  }

  async #prove(kept: TreeHead, head: TreeHead): Promise<Uint8Array> {
    const [from, to] = [Math.min(kept.size, head.size), Math.max(kept.size, head.size)]
    if (from === 0) return new Uint8Array(0)
    try {
      return await this.#options.prove(from, to)
    } catch (error) {
      if (!isPeerlineError(error) || error.code !== 'ERR_PEERLINE_INVALID') throw error
      throw this.contradiction(`cannot show that ${from} and ${to} entries begin alike`, kept, head)
    }
  }

  /** Each of `entries` is in the tree that `head` stands for. @throws LedgerContradiction */
  checkEntries(topic: string, entries: readonly ProvenEntry[], head: TreeHead): void {
    this.check()
    for (const entry of entries) {
      const { index, sequence, proof } = entry
      const leaf = hashEntry(topic, entry)
      if (!verifyInclusion({ index, size: head.size, leaf, root: head.root, proof })) {
        throw this.contradiction(`does not show that entry ${sequence} of ${topic} is among its own`, head)
      }
      const newest = this.#topics.get(topic)
      const later = newest === undefined ? 1 : Math.sign(sequence - newest.sequence)
      if (newest !== undefined && later !== Math.sign(index - newest.index)) {
        throw this.contradiction(`has entry ${sequence} of ${topic} twice`, head)
      }
      if (later > 0) this.#setNewest(topic, { sequence, index })
    }
  }

  /** The place of the newest entry of a topic that was seen; 0: none. */
  newestOf(topic: string): number {
    return this.#topics.get(topic)?.sequence ?? 0
  }

  /** The node is caught: nothing of it is believed any more. @param heads the evidence */
  contradiction(what: string, ...heads: readonly TreeHead[]): LedgerContradiction {
    if (this.#contradiction === undefined) {
      this.#contradiction = new LedgerContradiction(`the node of the ledger ${what}`, heads)
      this.#options.onContradiction(this.#contradiction)
    }
    return this.#contradiction
  }

  #setNewest(topic: string, newest: Newest): void {
    this.#topics.delete(topic)
    this.#topics.set(topic, newest)
    if (this.#topics.size <= MAX_TOPICS) return
    for (const oldest of this.#topics.keys()) {
      this.#topics.delete(oldest)
      break
    }
  }
}

/** Entries of one topic, as they follow each other. */
export class Order {
  readonly #since: number
  #next: number
  /** When the last one was. */
  #lastAt: number | undefined

  /** @param since what is before it, ms since 1970, may be passed over */
  constructor(from: number, since = Number.NEGATIVE_INFINITY) {
    this.#next = from
    this.#since = since
  }

  /** The place that comes next. */
  get next(): number {
    return this.#next
  }

  /** What is wrong with the entry that comes next, as {@link History.contradiction} takes it; undefined: it follows. */
  faultOf({ sequence, at }: Entry): string | undefined {
    const lastAt = this.#lastAt
    if (sequence !== this.#next) {
      // Those passed over are before the one that comes first, which is so itself.
      const mayPass = lastAt === undefined && sequence > this.#next && at < this.#since
      if (!mayPass) return `shows entry ${sequence} where ${this.#next} should be`
    }
    if (lastAt !== undefined && at < lastAt) return `dates entry ${sequence} before the one before it`
    this.#lastAt = at
    this.#next = sequence + 1
    return undefined
  }

  /** Whether an entry is to be handed out. */
  isWanted({ at }: Entry): boolean {
    return at >= this.#since
  }
}
