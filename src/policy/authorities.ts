/**
 * Who may give orders, and which order of theirs was the last.
 *
 *   bytes --> size, envelope --> is it an authority? --> signature --> recipient, expiry --> sequence --> the order
 *
 * - An authority is a peer id that the owner named and the bootstrap policy admits. Being trusted makes nobody one.
 * - A sequence is taken only when everything else is right, so that nobody can spend those of another.
 * - It only ever grows: not removing an authority, nor naming it again, nor loading an older state sets it back.
 * - An order is verified by its signature alone: not by a hash that came with it, nor by asking anybody.
 *
 * What `export` gives is to be saved before an order is carried out: a copy is refused after a restart only then. Limit:
 * 256 authorities, those removed within the last day among them.
 */
import { fields, MAX_TIME_MS } from '../bytes/index.ts'
import { asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { CLOCK_SKEW_MS } from '../handshake/index.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import type { BootstrapPolicy } from './bootstrap-policy.ts'
import { claimedAuthority, MAX_ORDER_LIFE_MS, type Order, openOrder } from './order.ts'

/** Authorities: more is no list of people whom somebody obeys. */
export const MAX_AUTHORITIES = 256

/** ms after which no order that was given before can be alive, whatever the clocks. */
const FORGET_MS = MAX_ORDER_LIFE_MS + 2 * CLOCK_SKEW_MS

export interface AuthoritiesOptions {
  /** Says who may be one. */
  readonly policy: BootstrapPolicy
  /** Time of day, ms since 1970. @default Date.now */
  readonly now?: () => number
}

/** What {@link Authorities.export} gives. */
export interface AuthoritiesJson {
  readonly version: 1
  readonly authorities: readonly {
    readonly id: string
    /** Sequence of the last order; 0: none yet. */
    readonly last: number
    /** When it was removed, ms since 1970; absent: it is an authority. */
    readonly removed?: number
  }[]
}

export type AuthoritiesEvents = {
  /** One was added or removed, or its last sequence is another one. To be saved. */
  change: { readonly peer: PeerId }
}

interface Entry {
  last: number
  removed: number | undefined
}

export class Authorities extends TypedEventTarget<AuthoritiesEvents> {
  readonly #policy: BootstrapPolicy
  readonly #now: () => number
  readonly #entries = new Map<PeerId, Entry>()

  constructor({ policy, now = Date.now }: AuthoritiesOptions) {
    super()
    this.#policy = policy
    this.#now = now
  }

  /**
   * Makes a peer (its id or did:key) an authority. @returns false when it was one
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when the bootstrap policy does not admit it, `ERR_PEERLINE_INVALID`,
   *   `ERR_PEERLINE_LIMIT`
   */
  add(peer: string): boolean {
    const id = parsePeerId(peer)
    const entry = this.#entries.get(id)
    if (entry === undefined) this.#makeRoom()
    this.#policy.open(id, 'authority')
    if (entry !== undefined && entry.removed === undefined) return false
    this.#entries.set(id, { last: entry?.last ?? 0, removed: undefined })
    this.emit('change', { peer: id })
    return true
  }

  /** Its orders count no more. @returns false when it was none @throws PeerlineError `ERR_PEERLINE_INVALID` */
  remove(peer: string): boolean {
    const id = parsePeerId(peer)
    const entry = this.#entries.get(id)
    if (entry === undefined || entry.removed !== undefined) return false
    // its last sequence is kept while an order of it may live: it may be named again
    entry.removed = Math.floor(this.#now())
    this.emit('change', { peer: id })
    return true
  }

  /** True for one that was added and that the bootstrap policy admits. */
  has(peer: PeerId): boolean {
    const entry = this.#entries.get(peer)
    return entry !== undefined && entry.removed === undefined && this.#policy.admits(peer, 'authority')
  }

  /** Those that may give orders. */
  list(): readonly PeerId[] {
    return [...this.#entries.keys()].filter((peer) => this.has(peer))
  }

  /**
   * Verifies an order, and takes its sequence: the same bytes are refused from then on.
   *
   * @param options.self our peer id
   * @param options.from who brought it, when it must come from the authority itself. @default anybody may bring it
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when it is of no authority, or brought by another; `ERR_PEERLINE_REPLAY`
   *   when its sequence is not above the last; and as `openOrder`
   */
  verify(bytes: Uint8Array, { self, from }: { self: PeerId; from?: PeerId }): Order {
    const claimed = claimedAuthority(bytes)
    if (from !== undefined && from !== claimed) throw denied('who brings the order has not given it')
    if (!this.has(claimed)) throw denied(`${claimed} may give no orders to this peer`)
    const order = openOrder(bytes, { self, now: this.#now() })
    const entry = this.#entries.get(order.from)!
    if (order.sequence <= entry.last) {
      const recover = 'Sign the order with a sequence above the last.'
      const message = `an order with sequence ${entry.last} was taken already, this has ${order.sequence}`
      throw new PeerlineError('ERR_PEERLINE_REPLAY', message, { recover })
    }
    // the first that gives an order, where one of several that were loaded is to be the only one
    this.#policy.open(order.from, 'authority')
    entry.last = order.sequence
    this.emit('change', { peer: order.from })
    return order
  }

  /** Authorities and their last sequences, to be kept. */
  export(): AuthoritiesJson {
    const authorities = [...this.#entries].map(([id, { last, removed }]) => ({
      id,
      last,
      ...(removed === undefined ? {} : { removed }),
    }))
    return { version: 1, authorities }
  }

  /**
   * Takes over what {@link export} gave, instead of what there is, but for sequences that are higher by now. Either all of
   * it counts, or none. Whom the bootstrap policy does not admit is kept, and may give no orders.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  load(json: unknown): void {
    const loaded = readEntries(json)
    for (const [id, { last }] of this.#entries) {
      const entry = loaded.get(id)
      if (entry !== undefined) entry.last = Math.max(entry.last, last)
      else if (last > 0) loaded.set(id, { last, removed: Math.floor(this.#now()) })
    }
    if (loaded.size > MAX_AUTHORITIES) throw invalid(`there are more than ${MAX_AUTHORITIES} authorities`)
    const before = [...this.#entries.keys()]
    this.#entries.clear()
    for (const [id, entry] of loaded) this.#entries.set(id, entry)
    for (const peer of new Set([...before, ...loaded.keys()])) this.emit('change', { peer })
  }

  /** @throws PeerlineError `ERR_PEERLINE_LIMIT` */
  #makeRoom(): void {
    if (this.#entries.size < MAX_AUTHORITIES) return
    const over = this.#now() - FORGET_MS
    for (const [id, { removed }] of this.#entries) if (removed !== undefined && removed < over) this.#entries.delete(id)
    if (this.#entries.size < MAX_AUTHORITIES) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are ${MAX_AUTHORITIES} authorities, or were within a day`)
  }
}

function readEntries(json: unknown): Map<PeerId, Entry> {
  try {
    const all = fields(json, 'list of authorities')
    all.integer('version', { min: 1, max: 1 })
    const entries = new Map<PeerId, Entry>()
    for (const item of all.list('authorities', { max: MAX_AUTHORITIES })) {
      const one = fields(item, 'authority')
      const id = parsePeerId(one.text('id', { max: 64 }))
      if (entries.has(id)) throw invalid(`${id} is there twice`)
      const removed = one.optional('removed', (at) => one.integer(at, { max: MAX_TIME_MS }))
      entries.set(id, { last: one.integer('last'), removed })
    }
    return entries
  } catch (error) {
    throw invalid(asPeerlineError(error, 'ERR_PEERLINE_INVALID').message, error)
  }
}

function denied(message: string): PeerlineError {
  const recover = 'Only an authority that the owner of this peer has named may give it orders.'
  return new PeerlineError('ERR_PEERLINE_DENIED', message, { recover })
}
