/**
 * The answers given lately: an offer that comes again, by another medium or because its answer was lost, gets the same
 * one. It makes no second session, and shows nothing that was not sent before.
 */
import { createHash } from 'node:crypto'

/** Answers remembered: each about 500 bytes, and as much again with the answer to an early request. */
const MAX_ANSWERS = 1_024

/** ms that they are: as long as offers are resent. */
const MEMORY_MS = 30_000

export class Answers {
  /** By the hash of the offer, the oldest first. */
  readonly #known = new Map<string, { readonly at: number; readonly answer: Promise<Uint8Array | undefined> }>()

  /** The answer to `offer`: the one given before, or what `work` comes to. */
  of(offer: Uint8Array, work: () => Promise<Uint8Array | undefined>): Promise<Uint8Array | undefined> {
    const now = performance.now()
    for (const [hash, { at }] of this.#known) {
      if (now - at < MEMORY_MS && this.#known.size < MAX_ANSWERS) break
      this.#known.delete(hash)
    }
    const hash = createHash('sha256').update(offer).digest('base64')
    const known = this.#known.get(hash)
    if (known !== undefined) return known.answer
    const answer = work()
    this.#known.set(hash, { at: now, answer })
    return answer
  }
}
