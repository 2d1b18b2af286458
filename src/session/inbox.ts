/**
 * What a session receives: records are authenticated on arrival, put in order, and handed on once.
 *
 * - A record that came before is dropped: after a change of path some come twice. It must be genuine all the same: a
 *   record whose number was altered in transit would pass for one that came, and the true one would never be sent again.
 * - One that comes early, because it took a faster path than the one before it, waits, authenticated, within bounds.
 * - An acknowledgement is due after {@link ACK_BYTES} or {@link ACK_DELAY_MS}, whichever is first; it rides on a
 *   record that goes out anyway when there is one.
 */
import { Allowance, MemoryBudget, type MemoryShare } from './memory-budget.ts'
import { Opener, type RecordNumber } from './record.ts'

/** Bytes received before an acknowledgement is due at once: one in four records of bulk data costs next to nothing. */
const ACK_BYTES = 262_144

/** ms an acknowledgement may wait for a record to ride on; the sender's buffer is far larger than what this delays. */
export const ACK_DELAY_MS = 20

/**
 * Bytes that may wait for an earlier record, as far as the memory of all sessions goes: the sender's 16 MiB in flight, and
 * the bookkeeping of small ones.
 */
const MAX_WAITING_BYTES = 33_554_432

/** Records ahead of the next one that are taken at all: 16 MiB in flight as records of 64 bytes. */
const MAX_AHEAD = 262_144

/** Bytes that one waiting record costs besides its own. */
const WAITING_OVERHEAD_BYTES = 128

/** What became of a record: `forged` and `overflow` end the path it came on. */
export type Arrival = 'taken' | 'duplicate' | 'forged' | 'overflow'

/** The receiving half of a session. */
export class Inbox {
  readonly #opener: Opener
  readonly #deliver: (frames: Uint8Array) => void
  readonly #waiting = new Map<number, Uint8Array>()
  #waitingBytes = 0
  readonly #allowance: Allowance
  #next = 0
  #unackedBytes = 0
  #ackDue = false

  constructor(
    key: Uint8Array,
    deliver: (frames: Uint8Array) => void,
    memory: MemoryShare = new MemoryBudget().share(),
  ) {
    this.#opener = new Opener(key)
    this.#deliver = deliver
    this.#allowance = new Allowance(memory, MAX_WAITING_BYTES)
  }

  /** The first ordered record that has not come. */
  get next(): number {
    return this.#next
  }

  /** True when an acknowledgement should go out now, without waiting for company. */
  get ackUrgent(): boolean {
    return this.#unackedBytes >= ACK_BYTES
  }

  /** True when something came that was not acknowledged yet. */
  get ackDue(): boolean {
    return this.#ackDue
  }

  /** The acknowledgement that is due, which is then no longer due. */
  takeAck(): number | undefined {
    if (!this.#ackDue) return undefined
    this.#ackDue = false
    this.#unackedBytes = 0
    return this.#next
  }

  /** A path was lost, and perhaps an acknowledgement with it, which is never sent again by itself: it is due anew. */
  ackAgain(): void {
    if (this.#next > 0) this.#ackDue = true
  }

  /**
   * The frames of a loose record, or what is wrong with it: `forged`, or `stale` when its key is gone, and nobody can say
   * any more. A path that is slow enough has such ones on its way.
   */
  openLoose(record: Uint8Array, number: RecordNumber, pathNumber: number): Uint8Array | 'forged' | 'stale' {
    const frames = this.#opener.open(record, number, pathNumber)
    return frames ?? (this.#opener.knows(number.epoch) ? 'forged' : 'stale')
  }

  /** Takes an ordered record, and delivers it and what waited for it. */
  accept(record: Uint8Array, number: RecordNumber): Arrival {
    const { count } = number
    if (count < this.#next || this.#waiting.has(count)) {
      if (this.#opener.knows(number.epoch) && this.#opener.open(record, number, 0) === undefined) return 'forged'
      this.#ackDue = true
      return 'duplicate'
    }
    if (count - this.#next > MAX_AHEAD) return 'overflow'
    const frames = this.#opener.open(record, number, 0)
    if (frames === undefined) return 'forged'
    this.#ackDue = true
    this.#unackedBytes += record.length
    if (count > this.#next) {
      const bytes = frames.length + WAITING_OVERHEAD_BYTES
      if (!this.#allowance.holds(this.#waitingBytes + bytes)) return 'overflow'
      this.#waitingBytes += bytes
      this.#waiting.set(count, frames)
      return 'taken'
    }
    this.#next++
    this.#deliver(frames)
    if (this.#waiting.size > 0) this.#deliverWaiting()
    return 'taken'
  }

  #deliverWaiting(): void {
    while (this.#waiting.size > 0) {
      const early = this.#waiting.get(this.#next)
      if (early === undefined) break
      this.#waiting.delete(this.#next)
      this.#waitingBytes -= early.length + WAITING_OVERHEAD_BYTES
      this.#next++
      this.#deliver(early)
    }
    this.#allowance.shrink(this.#waitingBytes)
  }

  clear(): void {
    this.#waiting.clear()
    this.#waitingBytes = 0
  }
}
