/**
 * Searches for peers' records in the DHT, and the newest record of each peer that was seen.
 *
 * - Who wants the same shares a search. It ends with the last who waits for it, by asking nobody any more: the library, which
 *   has no way to end one, is done when those that it has asked have answered, or had their time.
 * - A record that was seen is never replaced by an older one, also when it is over by now.
 */
import type { Client, Item, Verify } from 'bittorrent-dht'
import { PeerlineError } from '../errors.ts'
import type { PeerId, PeerRecord } from '../identity/index.ts'
import { untilAborted } from '../pause.ts'
import { DHT_SALT, readItem, signedPart, targetOf } from './dht-item.ts'
import type { DhtSocket } from './dht-socket.ts'

/** Searches at once. */
const MAX_SEARCHES = 16

/** Peers whose newest record is kept: 1 MB at most. */
const MAX_KNOWN = 1_000

/** One search of the library, for all who wait for it. */
export interface Search {
  readonly target: Buffer
  /** The newest sequence that was found, and how many nodes hold it. */
  found: { readonly sequence: number; readonly nodes: number }
  /** Resolves with the first record. */
  readonly first: Promise<void>
  /** Resolves when no nearer node is left. */
  readonly finished: Promise<void>
  waiting: number
}

export class DhtSearches {
  readonly #library: Client
  readonly #socket: DhtSocket
  readonly #searches = new Map<PeerId, Search>()
  /** Those that the library is at, also when nobody waits for them any more. */
  #running = 0
  /** The newest record of each peer; the one seen longest ago first. */
  readonly #known = new Map<PeerId, PeerRecord>()

  constructor(library: Client, socket: DhtSocket) {
    this.#library = library
    this.#socket = socket
  }

  /** The newest record of `peer` that was seen, unless it is over. */
  newest(peer: PeerId): PeerRecord | undefined {
    const newest = this.#known.get(peer)
    return newest !== undefined && newest.expiresAt > Date.now() ? newest : undefined
  }

  /**
   * Joins the search for the record of `peer`, or begins one; it ends with the last who waits for it.
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when 16 others are sought; what `wait` throws
   */
  async search<T>(peer: PeerId, wait: (search: Search) => Promise<T>): Promise<T> {
    const search = this.#searches.get(peer) ?? this.#begin(peer)
    search.waiting++
    try {
      return await wait(search)
    } finally {
      if (--search.waiting === 0) this.#end(peer, search)
    }
  }

  #begin(peer: PeerId): Search {
    if (this.#running >= MAX_SEARCHES) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_SEARCHES} records are sought in the DHT already`)
    }
    let onFirst = () => {}
    let onFinished = () => {}
    const search: Search = {
      target: Buffer.from(targetOf(peer)),
      found: { sequence: -1, nodes: 0 },
      first: new Promise((resolve) => (onFirst = resolve)),
      finished: new Promise((resolve) => (onFinished = resolve)),
      waiting: 0,
    }
    const take = (record: PeerRecord): void => {
      const { sequence, nodes } = search.found
      if (record.sequence < sequence) return
      search.found = { sequence: record.sequence, nodes: record.sequence === sequence ? nodes + 1 : 1 }
      this.#remember(record)
      onFirst()
    }
    const verify: Verify = (signature, signed, key) => {
      const record = readItem(peer, signature, signed, key)
      if (record !== undefined) take(record)
      return record !== undefined
    }
    const done = (_error: Error | null, item?: Item | null): void => {
      // What this node keeps itself was not answered by any.
      if (item?.seq !== undefined && item.seq > search.found.sequence) {
        verify(item.sig, signedPart(item.seq, item.v), item.k)
      }
      this.#running--
      this.#end(peer, search)
      onFinished()
    }
    this.#running++
    this.#searches.set(peer, search)
    this.#socket.beginLookup(search.target)
    this.#library.get(search.target, { salt: Buffer.from(DHT_SALT), verify, cache: false }, done)
    return search
  }

  #end(peer: PeerId, search: Search): void {
    if (this.#searches.get(peer) !== search) return
    this.#searches.delete(peer)
    this.#socket.endLookup(search.target)
  }

  #remember(record: PeerRecord): void {
    const before = this.#known.get(record.peerId)
    if (before !== undefined && before.sequence >= record.sequence) return
    this.#known.delete(record.peerId)
    this.#known.set(record.peerId, record)
    if (this.#known.size <= MAX_KNOWN) return
    for (const oldest of this.#known.keys()) {
      this.#known.delete(oldest)
      break
    }
  }

  /**
   * Finds the nodes nearest to `target`, whatever they hold, for the library to put something there.
   * @throws PeerlineError what the signal says
   */
  async nearest(target: Uint8Array, signal: AbortSignal): Promise<void> {
    this.#socket.beginLookup(target)
    try {
      const found = new Promise<void>((resolve) => this.#library.lookup(Buffer.from(target), () => resolve()))
      await untilAborted(found, signal, 'finding nodes')
    } finally {
      this.#socket.endLookup(target)
    }
  }
}
