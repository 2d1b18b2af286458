/**
 * Which sequences of a sender have been seen: the highest, and which of the 63 before it (RFC 4303 section 3.4.3).
 *
 *     too old | . x x . x x x | highest
 *             '-- WINDOW -----'
 *
 * Senders are kept up to a number; the one heard longest ago is forgotten first.
 */
import type { PeerId } from '../identity/index.ts'

/** Sequences that are told apart, the highest among them. */
export const WINDOW = 64

interface Window {
  highest: number
  /** Bit n: the highest less n has been seen. */
  seen: bigint
}

export class SeenSequences {
  readonly #maxSenders: number
  /** The one heard longest ago is the first. */
  readonly #windows = new Map<PeerId, Window>()

  constructor(maxSenders: number) {
    this.#maxSenders = maxSenders
  }

  /** Senders that are kept. */
  get size(): number {
    return this.#windows.size
  }

  /** Whether a sequence is new: above the highest, or in the window and not seen. */
  isNew(sender: PeerId, sequence: number): boolean {
    const window = this.#windows.get(sender)
    if (window === undefined || sequence > window.highest) return true
    const back = window.highest - sequence
    return back < WINDOW && (window.seen & (1n << BigInt(back))) === 0n
  }

  /** Remembers a sequence that is new. */
  add(sender: PeerId, sequence: number): void {
    const window = this.#windows.get(sender) ?? { highest: sequence, seen: 0n }
    this.#windows.delete(sender)
    this.#windows.set(sender, window)
    const ahead = sequence - window.highest
    if (ahead >= WINDOW) window.seen = 0n
    else if (ahead > 0) window.seen = BigInt.asUintN(WINDOW, window.seen << BigInt(ahead))
    window.highest = Math.max(window.highest, sequence)
    window.seen |= 1n << BigInt(window.highest - sequence)
    if (this.#windows.size <= this.#maxSenders) return
    for (const oldest of this.#windows.keys()) {
      this.#windows.delete(oldest)
      break
    }
  }
}
