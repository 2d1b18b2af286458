/**
 * The address book: the peers that we know, where they were, and what the user calls them.
 *
 * - It never learns where an inbound connection came from: that port is one of many, gone with the connection. Dialable is
 *   what was dialled with success, what the peer itself or a record of it told, and what the user gave.
 * - {@link MAX_PEERS} at most. For one more, the peer goes that was touched longest ago: first of those we never had a
 *   session with, so that names called out on a network cannot flush out real acquaintances. Peers that the user has
 *   marked (a tag, name, note, address or way to dial) are never dropped.
 * - What the user does fails loudly; what others tell is taken as far as it is valid and fits.
 */
import { fields, strictly } from '../bytes/index.ts'
import { invalid, isPeerlineError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, type PeerRecord, parsePeerId } from '../identity/index.ts'
import { AddressList, dialableAddress, MAX_ADDRESSES } from './address-list.ts'
import {
  checkDial,
  checkLabel,
  checkNote,
  type DialSettings,
  type Entry,
  isMarked,
  isTopic,
  isUrl,
  type KnownPeer,
  MAX_RENDEZVOUS,
  MAX_TAGS,
  MAX_TOPICS,
  readEntry,
  view,
} from './known-peer.ts'

/** Peers in the book: with a few addresses each, some 10 MB of memory and 3 MB of file. */
export const MAX_PEERS = 10_000

/** What {@link KnownPeers.export} gives and `load` takes: plain JSON, the peer touched longest ago first. */
export type KnownPeersJson = readonly KnownPeer[]

export type KnownPeersEvents = {
  add: { peer: PeerId }
  /** `full`: it had to make place for another. */
  remove: { peer: PeerId; reason: 'forgotten' | 'full' }
  change: { peer: PeerId; what: 'addresses' | 'rendezvous' | 'topics' | 'met' | 'tags' | 'about' | 'dial' }
  /** Everything is another now. */
  load: { peers: number }
}

/** The peers in the order in which they were touched, and which of them may be dropped. */
class Book {
  readonly entries = new Map<PeerId, Entry>()
  /** Unmarked peers, in the same order: those never met, and those met. */
  readonly #strangers = new Set<PeerId>()
  readonly #acquaintances = new Set<PeerId>()

  /** Puts it last in the order, and where its marks have it. */
  touch(entry: Entry): void {
    this.delete(entry.id)
    this.entries.set(entry.id, entry)
    if (!isMarked(entry)) (entry.lastMet === undefined ? this.#strangers : this.#acquaintances).add(entry.id)
  }

  delete(id: PeerId): boolean {
    this.#strangers.delete(id)
    this.#acquaintances.delete(id)
    return this.entries.delete(id)
  }

  /** Who goes when another comes. */
  get victim(): PeerId | undefined {
    const [stranger] = this.#strangers
    const [acquaintance] = this.#acquaintances
    return stranger ?? acquaintance
  }
}

export class KnownPeers extends TypedEventTarget<KnownPeersEvents> {
  readonly #now: () => number
  #book = new Book()

  /** @param options `now`: ms since 1970, whole. @default Date.now */
  constructor(options: { now?: () => number } = {}) {
    super()
    this.#now = options.now ?? Date.now
  }

  get size(): number {
    return this.#book.entries.size
  }

  has(peer: PeerId): boolean {
    return this.#book.entries.has(peer)
  }

  get(peer: PeerId): KnownPeer | undefined {
    const entry = this.#book.entries.get(peer)
    return entry && view(entry)
  }

  /** All of them, the one touched longest ago first. */
  list(): KnownPeer[] {
    return [...this.#book.entries.values()].map(view)
  }

  /** Somebody was met, other than `except`, and may be where that was. */
  hasMet(except: PeerId): boolean {
    for (const _ of this.#met(except)) return true
    return false
  }

  /** All of those, the one met last first. */
  met(except: PeerId): PeerId[] {
    return [...this.#met(except)].sort((a, b) => b.lastMet! - a.lastMet!).map(({ id }) => id)
  }

  *#met(except: PeerId): Generator<Entry, void, undefined> {
    for (const entry of this.#book.entries.values()) {
      if (entry.lastMet !== undefined && entry.id !== except && entry.addresses.all.length > 0) yield entry
    }
  }

  /** Where to dial a peer (`host:port`), in this order; nothing when it is not known. */
  addressesOf(peer: PeerId): string[] {
    return (this.#book.entries.get(peer)?.addresses.all ?? []).map(({ address }) => address)
  }

  /** URLs of the rendezvous where a peer was last to be found. */
  rendezvousOf(peer: PeerId): readonly string[] {
    return this.#book.entries.get(peer)?.rendezvous ?? []
  }

  /** Its topics at ledgers, as a record names them. */
  topicsOf(peer: PeerId): readonly string[] {
    return this.#book.entries.get(peer)?.topics ?? []
  }

  // ---- what happens on the network ----

  /**
   * A record that a peer has signed was found: where it listens, and where it is to be asked for. Whoever passes records on may
   * pass on an old one: what is older than one that was read before is passed over.
   */
  learnRecord({ peerId, sequence, addresses, rendezvous, topics }: PeerRecord): void {
    if (sequence < (this.#book.entries.get(peerId)?.sequence ?? 0)) return
    this.learn(peerId, addresses, 'record')
    this.learnRendezvous(peerId, rendezvous)
    this.learnTopics(peerId, topics)
    const entry = this.#book.entries.get(peerId)
    if (entry !== undefined) entry.sequence = sequence
  }

  /**
   * Others told of a peer: itself (`told`; of its candidates, those where it listens), a record that it signed, or the
   * local network. At most 16 are looked at; what is no address is passed over, and a name but in a record as well.
   * @returns how many were new
   */
  learn(peer: PeerId, addresses: readonly string[], source: 'told' | 'record' | 'lan'): number {
    const name = source === 'record'
    const valid = addresses
      .slice(0, MAX_ADDRESSES)
      .flatMap((text) => canonical(text, { zone: source === 'lan', name }) ?? [])
    const entry = valid.length === 0 ? undefined : this.#entry(peer)
    if (entry === undefined) return 0
    const learned = valid.filter((address) => entry.addresses.learn(address, source)).length
    this.#touched(entry, learned > 0 ? 'addresses' : undefined)
    return learned
  }

  /** A peer told, or a record of it, where it is to be found: instead of what was told before. At most 4 are kept. */
  learnRendezvous(peer: PeerId, urls: readonly string[]): void {
    this.#instead(peer, 'rendezvous', urls.filter(isUrl), MAX_RENDEZVOUS)
  }

  /** The same of its topics at ledgers. At most 12 are kept. */
  learnTopics(peer: PeerId, topics: readonly string[]): void {
    this.#instead(peer, 'topics', topics.filter(isTopic), MAX_TOPICS)
  }

  #instead(peer: PeerId, what: 'rendezvous' | 'topics', told: readonly string[], max: number): void {
    const valid = [...new Set(told)].slice(0, max)
    const entry = valid.length === 0 ? undefined : this.#entry(peer)
    if (entry === undefined) return
    const changed = valid.join() !== entry[what].join()
    entry[what] = valid
    this.#touched(entry, changed ? what : undefined)
  }

  /**
   * A session with a peer has opened. Only of one that we dialled is the address kept, and goes to the front: where an
   * inbound connection came from says nothing about where the peer listens.
   * @param how `address`: that of the listener that was dialled, `host:port`; none for a path by a relay
   */
  connected(peer: PeerId, how: { direction: 'in' | 'out'; address?: string | undefined }): void {
    const entry = this.#entry(peer)
    if (entry === undefined) return
    const now = this.#now()
    entry.lastMet = now
    const address = how.direction === 'out' && how.address !== undefined ? canonical(how.address) : undefined
    if (address !== undefined) entry.addresses.succeeded(address, now)
    this.#touched(entry, address === undefined ? 'met' : 'addresses')
  }

  /** A dial of this address of a peer failed: it goes to the back. What was not known stays unknown. */
  failed(peer: PeerId, address: string): void {
    const entry = this.#book.entries.get(peer)
    const known = entry && canonical(address)
    // Failing is no sign of life: the peer keeps its place among those that may be dropped.
    if (known !== undefined && entry!.addresses.failed(known, this.#now())) {
      this.emit('change', { peer, what: 'addresses' })
    }
  }

  // ---- what the user does ----

  /**
   * Notes a peer, and an address (`host:port`) of it.
   * @param peer a peer id or did:key
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_LIMIT` when it has 16 addresses that the user gave, or
   *   there are 10,000 peers that the user has marked
   */
  give(peer: string, address?: string): void {
    const id = parsePeerId(peer)
    const given = address === undefined ? undefined : dialableAddress(address)
    const entry = this.#made(id)
    const changed = given !== undefined && entry.addresses.learn(given, 'given')
    this.#touched(entry, changed ? 'addresses' : undefined)
  }

  /**
   * Names a peer, or notes something about it; an empty text takes it back.
   * @param about `name`: at most 64 characters; `note`: at most 1,000, in several lines if need be
   * @throws PeerlineError as {@link give}
   */
  describe(peer: PeerId, about: { name?: string; note?: string }): void {
    const { name, note } = about
    if (name !== undefined && name !== '') checkLabel(name, 'name')
    if (note !== undefined) checkNote(note)
    const entry = this.#made(parsePeerId(peer))
    if (name !== undefined) entry.name = name || undefined
    if (note !== undefined) entry.note = note || undefined
    this.#touched(entry, 'about')
  }

  /**
   * Says how a peer is dialled, unless a dial says otherwise: which ways, and by which relay; `{}` takes it back.
   * @throws PeerlineError as {@link give}
   */
  prefer(peer: PeerId, settings: DialSettings): void {
    const dial = checkDial(settings)
    const entry = this.#made(parsePeerId(peer))
    entry.dial = dial
    this.#touched(entry, 'dial')
  }

  /** How the user wants a peer dialled. */
  settingsOf(peer: PeerId): DialSettings {
    return this.#book.entries.get(peer)?.dial ?? {}
  }

  /** @throws PeerlineError as {@link give}; `ERR_PEERLINE_LIMIT` also for more than 32 tags */
  tag(peer: PeerId, tag: string): void {
    checkLabel(tag, 'tag')
    const known = this.#book.entries.get(peer)?.tags ?? []
    if (known.includes(tag)) return
    if (known.length >= MAX_TAGS) throw new PeerlineError('ERR_PEERLINE_LIMIT', `a peer has at most ${MAX_TAGS} tags`)
    const entry = this.#made(parsePeerId(peer))
    entry.tags = [...known, tag].sort()
    this.#touched(entry, 'tags')
  }

  /** @returns false when the peer did not have it */
  untag(peer: PeerId, tag: string): boolean {
    const entry = this.#book.entries.get(peer)
    if (entry === undefined || !entry.tags.includes(tag)) return false
    entry.tags = entry.tags.filter((one) => one !== tag)
    this.#touched(entry, 'tags')
    return true
  }

  /** Knows a peer no longer, or one address of it. @returns false when it did not */
  forget(peer: PeerId, address?: string): boolean {
    if (address === undefined) {
      const known = this.#book.delete(peer)
      if (known) this.emit('remove', { peer, reason: 'forgotten' })
      return known
    }
    const entry = this.#book.entries.get(peer)
    if (entry === undefined || !entry.addresses.remove(dialableAddress(address))) return false
    this.#touched(entry, 'addresses')
    return true
  }

  // ---- keeping ----

  /** Everything, as plain JSON. */
  export(): KnownPeersJson {
    return this.list()
  }

  /**
   * Takes over what {@link export} gave, instead of what is known; all of it or, when something is wrong with it, nothing.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  load(json: unknown): void {
    const book = new Book()
    for (const item of strictly(() => fields({ peers: json }, 'address book').list('peers', { max: MAX_PEERS }))) {
      const entry = strictly(() => readEntry(item))
      if (book.entries.has(entry.id)) throw invalid(`the address book has ${entry.id} twice`)
      book.touch(entry)
    }
    this.#book = book
    this.emit('load', { peers: this.size })
  }

  /** What is known of a peer, from now on if need be; undefined when there is no place for it. */
  #entry(id: PeerId): Entry | undefined {
    const known = this.#book.entries.get(id)
    if (known !== undefined) return known
    if (this.size >= MAX_PEERS) {
      const { victim } = this.#book
      if (victim === undefined) return undefined
      this.#book.delete(victim)
      this.emit('remove', { peer: victim, reason: 'full' })
    }
    const addresses = new AddressList()
    const entry: Entry = {
      ...{ id, addresses, tags: [], rendezvous: [], topics: [] },
      ...{ name: undefined, note: undefined, dial: undefined, lastMet: undefined, sequence: 0 },
    }
    this.#book.touch(entry)
    this.emit('add', { peer: id })
    return entry
  }

  /** As `#entry`, for the user. */
  #made(id: PeerId): Entry {
    const entry = this.#entry(id)
    if (entry !== undefined) return entry
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are ${MAX_PEERS} peers that you have marked: forget one first`)
  }

  #touched(entry: Entry, what: KnownPeersEvents['change']['what'] | undefined): void {
    this.#book.touch(entry)
    if (what !== undefined) this.emit('change', { peer: entry.id, what })
  }
}

/** An address that others named, in its one form, or undefined when it is none. */
function canonical(text: string, options: { zone?: boolean; name?: boolean } = {}): string | undefined {
  try {
    return dialableAddress(text, options)
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}
