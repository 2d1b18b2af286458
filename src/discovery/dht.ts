/**
 * Peers found by their id alone, with no server of ours: their signed records in the Mainline DHT of BitTorrent (BEP 5, BEP 44),
 * or in one of your own. Off unless it is opened; it needs the package `bittorrent-dht`.
 *
 *     publish --> look up the nodes nearest to SHA-1( peer id, salt ) --> put the record there --> again within the hour
 *     find    --> look them up, and ask each for the record --> the newest that is valid
 *
 * Who learns what:
 * - A record is public to whoever knows the peer id. By default it may hold no addresses: see `addresses`.
 * - The nodes asked learn the address of this machine, and that somebody there seeks this record, or publishes it. Peers that are
 *   to hide their address have no business here.
 * - This machine becomes a node as any other: it answers questions, and keeps up to a thousand items of strangers (1 MB).
 *
 * What nodes answer is believed only with both signatures of the peer that was asked for (dht-item.ts), and never goes back: an
 * older record than one that was seen before is no answer. What nodes may do to us: dht-socket.ts.
 */
import { setMaxListeners } from 'node:events'
import { isIPv4 } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import type { Client } from 'bittorrent-dht'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type Identity, openRecord, type PeerId, type PeerRecord } from '../identity/index.ts'
import { formatHostPort } from '../network/address.ts'
import { untilAborted, within } from '../pause.ts'
import { DhtEntry } from './dht-entry.ts'
import { DHT_SALT, MAX_ITEM_BYTES, signedPart, targetOf, verifyItem } from './dht-item.ts'
import { DhtSearches } from './dht-searches.ts'
import { DhtSocket } from './dht-socket.ts'

/** ms for one search, unless the caller says otherwise: in the public DHT one takes 3 to 8 s, most of it for nodes that are gone. */
const FIND_MS = 10_000

/** ms that newer records are waited for when there is one: nodes that were not reached at the last publishing hold older ones. */
const NEWER_MS = 1_000

/** ms for one publishing: a search to its end, and the puts. */
const PUBLISH_MS = 60_000

/** ms until a record is published again. BEP 44: once an hour, for nodes may forget it after two. */
const REPUBLISH_MS = 3_300_000

/** Part by which that is shorter or longer, at random: peers that were started together drift apart. */
const JITTER = 0.1

/** ms until it is tried again where it failed; doubled each time. */
const RETRY_MS = 60_000

/** What the library may do at once, and keep: questions; nodes of finished lookups; items, torrents' peers and for how many ms. */
const LIBRARY_LIMITS = { concurrency: 16, maxTables: 64, maxValues: 1_000, maxPeers: 1_000, maxAge: 1_800_000 }

export interface DhtSettings {
  /**
   * `host:port` of nodes to begin with. Those of a private DHT keep it apart from the public one; an empty list is for its first
   * node, which waits for others. @default routers of the public DHT
   */
  readonly bootstrap?: readonly string[]
  /** The IPv4 address to use. @default '0.0.0.0', every interface */
  readonly host?: string
  /** The UDP port. @default a free one */
  readonly port?: number
  /** Records with addresses may be published: everybody who knows the peer id learns where the peer is. @default false */
  readonly addresses?: boolean
}

export interface DhtOptions extends DhtSettings {
  /** Who publishes. @default nobody: it only finds */
  readonly identity?: Identity
  /** @internal ms between two publishings, before chance. */
  readonly republishMs?: number
}

export type DhtEvents = {
  /** Our record is at that many nodes. */
  published: { readonly sequence: number; readonly nodes: number }
  /** Publishing again has failed; it is tried again. */
  failed: { readonly error: PeerlineError }
}

export class Dht extends TypedEventTarget<DhtEvents> {
  readonly #options: DhtOptions
  readonly #socket: DhtSocket
  readonly #library: Client
  readonly #entry: DhtEntry
  readonly #searches: DhtSearches
  readonly #closing = new AbortController()
  /** Makes the record that is published. */
  #own: (() => Uint8Array) | undefined
  #timer: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined

  private constructor(options: DhtOptions, socket: DhtSocket, library: Client, entry: DhtEntry) {
    super()
    this.#options = options
    this.#socket = socket
    this.#library = library
    this.#entry = entry
    this.#searches = new DhtSearches(library, socket)
    setMaxListeners(0, this.#closing.signal)
  }

  /**
   * Becomes a node, and begins to look for others. It keeps the process alive until it is closed.
   * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when `bittorrent-dht` is not installed; `ERR_PEERLINE_ADDRESS_IN_USE`;
   *   `ERR_PEERLINE_INVALID` for options
   */
  static async open(options: DhtOptions = {}): Promise<Dht> {
    const { host = '0.0.0.0', port = 0 } = options
    if (!isIPv4(host) || !(Number.isInteger(port) && port >= 0 && port < 65_536)) {
      throw new PeerlineError(
        'ERR_PEERLINE_INVALID',
        `the DHT needs an IPv4 address and a port, not ${host} and ${port}`,
      )
    }
    const entry = new DhtEntry(options.bootstrap)
    const Library = await load()
    const socket = await DhtSocket.open(host, port, (ip) => entry.allows(ip))
    const library = new Library({ ...LIBRARY_LIMITS, bootstrap: false, socket, verify: verifyItem })
    library.on('error', () => {}) // of a datagram: the socket is open
    library.listen()
    const dht = new Dht(options, socket, library, entry)
    dht.#join(dht.#closing.signal).catch(() => {}) // closed meanwhile
    return dht
  }

  /** Where this node is, `host:port` as it was bound. */
  get address(): string {
    const { address, port } = this.#socket.address()
    return formatHostPort(address, port)
  }

  /** How many other nodes are known. */
  get nodes(): number {
    return this.#library.nodes.count()
  }

  /** Datagrams that were not taken: too many, not well-formed, or from where nobody was asked. */
  get dropped(): number {
    return this.#socket.dropped
  }

  /**
   * The newest valid record of `peer`; undefined when there is none, or none was found in time.
   * @param options.timeoutMs ms at most; what was found until then counts. @default 10_000
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when 16 others are sought, `ERR_PEERLINE_CLOSED`, or what the signal says
   */
  async find(
    peer: PeerId,
    options: { signal?: AbortSignal; timeoutMs?: number } = {},
  ): Promise<PeerRecord | undefined> {
    const what = `finding ${peer}`
    const overdue = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what} took too long`)
    try {
      await this.#within(options.timeoutMs ?? FIND_MS, overdue, options.signal, async (limited) => {
        // Again, should all nodes that we know turn out to be gone.
        for (let attempt = 0; attempt < 2; attempt++) {
          await this.#join(limited)
          await this.#searches.search(peer, async ({ first, finished }) => {
            await untilAborted(Promise.race([first, finished]), limited, what)
            await untilAborted(Promise.race([finished, pause(NEWER_MS, undefined, { signal: limited })]), limited, what)
          })
          if (this.nodes > 0) break
        }
      })
    } catch (error) {
      if (error !== overdue) throw error
    }
    return this.#searches.newest(peer)
  }

  /**
   * Publishes the record of our identity, now and then every hour until this node is closed, or another is published. What fails
   * now is tried again as well.
   * @param record of {@link MAX_ITEM_BYTES} at most, as `signDhtRecord` makes it; or what makes a new one each time, for a
   *   record is over some day
   * @returns how many nodes hold it
   * @throws PeerlineError `ERR_PEERLINE_INVALID` without an identity, for a record of another, for one with addresses that are not
   *   to be published, and when a newer one is there; `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_EXPIRED`, `ERR_PEERLINE_RECORD`;
   *   `ERR_PEERLINE_UNREACHABLE` when no node takes it; `ERR_PEERLINE_TIMEOUT` after 60 s, `ERR_PEERLINE_CLOSED`, or what the signal
   *   says
   */
  async publish(record: Uint8Array | (() => Uint8Array), { signal }: { signal?: AbortSignal } = {}): Promise<number> {
    const make = typeof record === 'function' ? record : () => record
    this.#check(make())
    this.#own = make
    return this.#publish(make, 0, signal)
  }

  /** Leaves, and frees everything. What is published stays at the nodes until they forget it. */
  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => {
      this.#closing.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the node of the DHT was closed'))
      clearTimeout(this.#timer)
      this.#library.destroy(resolve)
    })
    return this.#closed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #publish(make: () => Uint8Array, failures: number, signal?: AbortSignal): Promise<number> {
    const { republishMs = REPUBLISH_MS } = this.#options
    try {
      const published = await this.#put(make(), signal)
      this.#publishIn(republishMs, make, 0)
      this.emit('published', published)
      return published.nodes
    } catch (error) {
      this.#publishIn(Math.min(RETRY_MS * 2 ** failures, republishMs), make, failures + 1)
      throw asPeerlineError(error, 'ERR_PEERLINE_INVALID', 'no record can be made')
    }
  }

  #publishIn(ms: number, make: () => Uint8Array, failures: number): void {
    if (this.#closing.signal.aborted || this.#own !== make) return
    clearTimeout(this.#timer)
    const again = () => this.#publish(make, failures).catch((error) => this.emit('failed', { error }))
    this.#timer = setTimeout(again, ms * (1 - JITTER + 2 * JITTER * Math.random()))
  }

  async #put(value: Uint8Array, signal: AbortSignal | undefined): Promise<DhtEvents['published']> {
    const { identity, sequence } = this.#check(value)
    const what = 'publishing in the DHT'
    const overdue = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what} took too long`)
    return this.#within(PUBLISH_MS, overdue, signal, async (limited) => {
      await this.#join(limited)
      // The library puts it at those that its last search has found. One for the record may end at nodes that hold it already.
      const [there] = await Promise.all([
        this.#searches.search(identity.peerId, async (search) => {
          await untilAborted(search.finished, limited, what)
          return search.found
        }),
        this.#searches.nearest(targetOf(identity.peerId), limited),
      ])
      if (there.sequence > sequence) {
        throw new PeerlineError('ERR_PEERLINE_INVALID', `a newer record is in the DHT, with sequence ${there.sequence}`)
      }
      const holders = there.sequence === sequence ? there.nodes : 0
      const item = {
        k: Buffer.from(identity.publicKey),
        salt: Buffer.from(DHT_SALT),
        seq: sequence,
        v: Buffer.from(value),
        sig: Buffer.from(identity.sign(signedPart(sequence, value))),
      }
      const put = new Promise<number>((resolve, reject) => {
        this.#library.put(item, (error, _target, takers = 0) => {
          // Some nodes refuse what they hold already, as no newer.
          const nodes = Math.max(takers, holders)
          if (nodes > 0) return resolve(nodes)
          const why = error?.message ?? 'nobody answers'
          reject(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `no node of the DHT takes the record: ${why}`))
        })
      })
      return { sequence, nodes: await untilAborted(put, limited, what) }
    })
  }

  /** What may be published. */
  #check(value: Uint8Array): { readonly identity: Identity; readonly sequence: number } {
    const { identity, addresses: told = false } = this.#options
    if (identity === undefined) throw new PeerlineError('ERR_PEERLINE_INVALID', 'who publishes needs an identity')
    const { peerId, sequence, addresses } = openRecord(value, { maxBytes: MAX_ITEM_BYTES })
    if (peerId !== identity.peerId) throw new PeerlineError('ERR_PEERLINE_INVALID', `the record is of ${peerId}`)
    if (addresses.length > 0 && !told) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'the record holds addresses, which would be public', {
        recover: 'Leave them out, or open the DHT with `addresses: true`.',
      })
    }
    return { identity, sequence }
  }

  async #join(signal: AbortSignal): Promise<void> {
    await untilAborted(this.#entry.join(this.#library, this.#socket, this.#closing.signal), signal, 'joining the DHT')
  }

  /** Does `work` under a signal that fires with `signal`, after `ms`, or when this node is closed, and leaves nothing at either. */
  async #within<T>(
    ms: number,
    overdue: PeerlineError,
    signal: AbortSignal | undefined,
    work: (limited: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signals = [this.#closing.signal, ...(signal === undefined ? [] : [signal])]
    return within(ms, overdue, signals, async (limited) => {
      setMaxListeners(0, limited)
      if (limited.aborted) throw abortError(limited, 'using the DHT')
      return work(limited)
    })
  }
}

async function load(): Promise<typeof Client> {
  try {
    return (await import('bittorrent-dht')).Client
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', 'the DHT needs the package bittorrent-dht', {
      cause,
      recover: 'Install it: npm install bittorrent-dht',
    })
  }
}
