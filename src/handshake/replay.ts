/**
 * Remembers the offers that were taken, so that a copy of one is refused.
 *
 * - An offer is remembered until no clock could take it for fresh any more: its expiry and the allowed clock skew.
 * - Memory is bounded, and nothing live is ever forgotten to make room: a full cache refuses what is new.
 * - One sender holds a sixteenth at most, and only offers that were accepted come here: so no one can fill another's share,
 *   and who is not let in takes no room, for peer ids are free. A copy of a refused offer is refused again.
 * - No timer: what is over is thrown away on the way, a time slice at once.
 *
 * It lives in memory. After a restart a copy of a fresh offer would be answered again; who copies it has no keys, can read
 * nothing of the answer and attach nothing.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/peer-id.ts'

/** ms that two clocks may differ: phones and laptops without time service drift by a minute or so. */
export const CLOCK_SKEW_MS = 120_000

/** Offers remembered by default: 65,536 take about 10 MB. */
const CAPACITY = 65_536

/** What a single sender may hold of it: 1 in 16 still is 4,096 dials within minutes. */
const SHARE = 16

/** ms of a slice that is forgotten at once: an offer stays that much longer at most. */
const SLICE_MS = 10_000

export class ReplayCache {
  readonly #capacity: number
  readonly #share: number
  readonly #senders = new Map<PeerId, Set<string>>()
  /** What is to be forgotten at the end of each slice; a slice is named by its end in units of SLICE_MS. */
  readonly #slices = new Map<number, { from: PeerId; id: string }[]>()
  #size = 0
  #purged = 0

  /** @param options.capacity offers remembered at once; @default 65,536 */
  constructor({ capacity = CAPACITY }: { capacity?: number } = {}) {
    if (!Number.isSafeInteger(capacity) || capacity < 1) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `the capacity of a replay cache is at least 1, not ${capacity}`)
    }
    this.#capacity = capacity
    this.#share = Math.max(1, Math.floor(capacity / SHARE))
  }

  /** Offers remembered now. */
  get size(): number {
    return this.#size
  }

  /** @throws ERR_PEERLINE_REPLAY when it was taken before */
  check(from: PeerId, requestId: Uint8Array): void {
    if (this.#senders.get(from)?.has(idOf(requestId))) {
      throw new PeerlineError('ERR_PEERLINE_REPLAY', 'this offer was taken before')
    }
  }

  /**
   * Remembers an offer that is seen for the first time.
   *
   * @param expiresAt when it expires, in ms since the epoch, like `now`
   * @throws ERR_PEERLINE_REPLAY when it was seen before, ERR_PEERLINE_BUSY when there is no room for it
   */
  accept(from: PeerId, requestId: Uint8Array, expiresAt: number, now: number): void {
    this.#purge(Math.floor(now / SLICE_MS))
    this.check(from, requestId)
    const id = idOf(requestId)
    const seen = this.#senders.get(from)
    if ((seen?.size ?? 0) >= this.#share) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', `this peer sent ${this.#share} offers that have not expired yet`)
    }
    if (this.#size >= this.#capacity) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', `${this.#capacity} offers have not expired yet`)
    }
    if (seen === undefined) this.#senders.set(from, new Set([id]))
    else seen.add(id)
    this.#size++
    const slice = Math.ceil((expiresAt + CLOCK_SKEW_MS) / SLICE_MS)
    const entries = this.#slices.get(slice)
    if (entries === undefined) this.#slices.set(slice, [{ from, id }])
    else entries.push({ from, id })
  }

  /** Forgets the slices that ended by `slice`. At most once a slice's time, and each entry once: cheap in the mean. */
  #purge(slice: number): void {
    if (slice === this.#purged) return
    this.#purged = slice
    for (const [end, entries] of this.#slices) {
      if (end > slice) continue
      this.#slices.delete(end)
      this.#size -= entries.length
      for (const { from, id } of entries) {
        const seen = this.#senders.get(from)
        seen?.delete(id)
        if (seen?.size === 0) this.#senders.delete(from)
      }
    }
  }
}

function idOf(requestId: Uint8Array): string {
  return Buffer.from(requestId.buffer, requestId.byteOffset, requestId.length).toString('latin1')
}
