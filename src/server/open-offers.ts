/**
 * Offers that a rendezvous has passed on and that wait for their answers.
 *
 *     open --answer--> gone          open --expired--> gone
 *       \--its callee's registration ends--> astray --another one stands, or comes--> open
 *
 * - An offer is found by who asked, who is asked and its id: an answer passes once, to whoever asked last.
 * - An offer may be told again to another registration of its callee, {@link MAX_DELIVERIES} times at most, while its bytes
 *   are held; of those there are {@link MAX_HELD_BYTES} at most for all together, and {@link MAX_HELD_PER_CALLEE} offers for one.
 */
import { toHex } from '../bytes/index.ts'
import type { PeerId } from '../identity/index.ts'
import { ANSWER_TIMEOUT_MS, type SignalMessage } from '../signaling/index.ts'

/** Offers that wait for an answer, all peers together: about 300 bytes each, and what is held of them. */
const MAX_OPEN_OFFERS = 65_536

/** Bytes of offers held, all together: those of 30,000 usual ones. What comes beyond is passed on once. */
const MAX_HELD_BYTES = 16_777_216

/** Offers held for one callee, which are looked through whenever it registers: 16 times what a peer takes on at once. */
const MAX_HELD_PER_CALLEE = 1_024

/** Registrations that one offer goes to: a peer that roams has one or two that have died, and then the one that lives. */
const MAX_DELIVERIES = 4

/** An offer on its way; `R` is a registration. */
export interface OpenOffer<R> {
  /** Who gets the answer. */
  from: R
  readonly to: PeerId
  readonly id: Uint8Array
  /** Where it went last; undefined when that has ended since. */
  at: R | undefined
}

interface Entry<R> extends OpenOffer<R> {
  readonly key: string
  readonly until: number
  /** While it is held. */
  readonly data: Uint8Array | undefined
  deliveries: number
}

export class OpenOffers<R extends { readonly peer: PeerId }> {
  /** In order of arrival, which is the order of expiry. */
  readonly #all = new Map<string, Entry<R>>()
  /** Those that are held. */
  readonly #byCallee = new Map<PeerId, Set<Entry<R>>>()
  #heldBytes = 0

  get size(): number {
    this.#forgetExpired()
    return this.#all.size
  }

  /** Bytes of offers that are held. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /** The open offer that `signal` of `from` repeats. */
  find(from: R, { peer: to, id }: SignalMessage): OpenOffer<R> | undefined {
    this.#forgetExpired()
    return this.#all.get(keyOf(from.peer, to, id))
  }

  /** Notes an offer that goes to `at`; false when there are too many. */
  add(from: R, { peer: to, id, data }: SignalMessage, at: R): boolean {
    this.#forgetExpired()
    if (this.#all.size >= MAX_OPEN_OFFERS) return false
    const key = keyOf(from.peer, to, id)
    const ofCallee = this.#byCallee.get(to) ?? new Set()
    const held = this.#heldBytes + data.length <= MAX_HELD_BYTES && ofCallee.size < MAX_HELD_PER_CALLEE
    const until = performance.now() + ANSWER_TIMEOUT_MS
    const entry: Entry<R> = { from, to, id, at, key, until, data: held ? data : undefined, deliveries: 1 }
    this.#all.set(key, entry)
    if (!held) return true
    this.#heldBytes += data.length
    this.#byCallee.set(to, ofCallee.add(entry))
    return true
  }

  /** The offer that `signal`, an answer of `from`, answers; it is open no longer. */
  take(from: R, { peer: to, id }: SignalMessage): OpenOffer<R> | undefined {
    this.#forgetExpired()
    const entry = this.#all.get(keyOf(to, from.peer, id))
    if (entry !== undefined) this.#forget(entry)
    return entry
  }

  /** Those for `to` that `wanted` names go to `next`: they are told to it by `tell`. Without a next they are astray. */
  redirect(
    to: PeerId,
    wanted: (at: R | undefined) => boolean,
    next: R | undefined,
    tell: (offer: OpenOffer<R>, data: Uint8Array) => void,
  ): void {
    this.#forgetExpired()
    for (const entry of [...(this.#byCallee.get(to) ?? [])]) {
      if (!wanted(entry.at)) continue
      const { data } = entry
      if (next === undefined) {
        entry.at = undefined
      } else if (data !== undefined && entry.deliveries < MAX_DELIVERIES) {
        entry.at = next
        entry.deliveries++
        tell(entry, data)
      }
    }
  }

  #forgetExpired(): void {
    const now = performance.now()
    for (const entry of this.#all.values()) {
      if (entry.until > now) break
      this.#forget(entry)
    }
  }

  #forget(entry: Entry<R>): void {
    this.#all.delete(entry.key)
    if (entry.data === undefined) return
    this.#heldBytes -= entry.data.length
    const ofCallee = this.#byCallee.get(entry.to)
    ofCallee?.delete(entry)
    if (ofCallee?.size === 0) this.#byCallee.delete(entry.to)
  }
}

function keyOf(from: PeerId, to: PeerId, id: Uint8Array): string {
  return `${from} ${to} ${toHex(id)}`
}
