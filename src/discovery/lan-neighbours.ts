/**
 * The peers that were heard on the local network.
 *
 *                 record, signed and new            goodbye, or not heard for 210 s, or expired
 *     unknown --------------------------> found --------------------------------------------------> lost
 *                                          |  ^
 *                     newer record: found again, with what is new
 *
 * - Whoever is on the network can send anything. A record that is known is known by its digest; of others, each costs a
 *   signature, and so many are looked at in a second, of one source and of all.
 * - The newest record of a peer counts; a replay of an older one is passed over, also when the peer is gone.
 * - {@link MAX_NEIGHBOURS} at most, {@link MAX_PER_SOURCE} of one source: for one more, the one goes that was heard longest
 *   ago. Who is there will be heard again.
 */
import { createHash } from 'node:crypto'
import type { RemoteInfo } from 'node:dgram'
import { isPeerlineError } from '../errors.ts'
import { openRecord, type PeerId, type PeerRecord } from '../identity/index.ts'
import type { LocalAddress } from '../network/address.ts'
import { SourceGate, sourceOf } from '../network/source-gate.ts'
import { believedAddresses, MAX_LAN_RECORD_BYTES, saysGoodbye } from './lan-record.ts'
import { SLOWEST_MS } from './lan-schedule.ts'

/** Peers of one network that are kept, with about 2 kB each. */
export const MAX_NEIGHBOURS = 1_024

/** The same, of one source: more than one machine has, and few enough that no one of them drives out all others. */
const MAX_PER_SOURCE = 64

/** Peers that are gone whose last word is remembered. */
const MAX_GONE = 1_024

/** ms without a word after which a peer is gone: it was to speak three times, and the fourth is overdue. */
const SILENT_MS = 3.5 * SLOWEST_MS

/** Signatures a second that are verified, of one source and of all, at some 0.1 ms each. */
const MAX_SIGNATURES = { perSource: 20, all: 200 }

/** How a peer was heard. */
export type LanMedium = 'mdns' | 'beacon'

/** A peer on the local network. */
export interface LanNeighbour {
  readonly peer: PeerId
  readonly record: PeerRecord
  /** Where to dial it, `host:port`, the best first. */
  readonly addresses: readonly string[]
  /** How its record came first. */
  readonly by: LanMedium
}

/** `full`: it had to make place for another. */
export type LanLoss = 'goodbye' | 'silent' | 'expired' | 'full'

export interface Heard {
  readonly record: Uint8Array
  readonly from: Pick<RemoteInfo, 'address'>
  readonly by: LanMedium
  /** Of the interfaces it may have come by. */
  readonly locals: readonly LocalAddress[]
  /** Whose record it is said to be. */
  readonly claimed?: string
}

export interface NeighboursOptions {
  /** Ourselves, who are not to be found. */
  readonly own: PeerId | undefined
  readonly onFound: (neighbour: LanNeighbour) => void
  readonly onLost: (peer: PeerId, reason: LanLoss) => void
}

interface Entry {
  readonly neighbour: LanNeighbour
  readonly digest: string
  readonly source: string
  /** When it was last heard, and last by multicast DNS. */
  heardAt: number
  heardByMdnsAt: number
}

export class Neighbours {
  readonly #options: NeighboursOptions
  readonly #gate = new SourceGate(MAX_SIGNATURES)
  /** The one heard longest ago first. */
  readonly #entries = new Map<PeerId, Entry>()
  readonly #byDigest = new Map<string, PeerId>()
  /** Of those that are gone: the sequence that a record of theirs has to be above. */
  readonly #gone = new Map<PeerId, number>()

  constructor(options: NeighboursOptions) {
    this.#options = options
  }

  get size(): number {
    return this.#entries.size
  }

  get list(): LanNeighbour[] {
    return [...this.#entries.values()].map(({ neighbour }) => neighbour)
  }

  /** Those heard by multicast DNS within `ms`, the latest first. */
  recentByMdns(ms: number): PeerId[] {
    const since = performance.now() - ms
    return [...this.#entries.values()]
      .filter(({ heardByMdnsAt }) => heardByMdnsAt >= since)
      .map(({ neighbour }) => neighbour.peer)
      .reverse()
  }

  /** Takes a record from anyone. @returns true when it told something new: a peer, or a newer record of one */
  take(heard: Heard): boolean {
    const { record: bytes, from, by, claimed } = heard
    const digest = createHash('sha256').update(bytes).digest('base64')
    const known = this.#entries.get(this.#byDigest.get(digest) as PeerId)
    if (known !== undefined) {
      if (claimed === undefined || claimed === known.neighbour.peer) this.#touch(known, by)
      return false
    }
    if (!this.#gate.pass(from.address)) return false
    const record = opened(bytes)
    if (record === undefined || record.peerId === this.#options.own) return false
    if (claimed !== undefined && claimed !== record.peerId) return false
    const before = this.#entries.get(record.peerId)
    const last = before?.neighbour.record.sequence ?? this.#gone.get(record.peerId)
    if (last !== undefined && record.sequence <= last) return false
    if (saysGoodbye(record)) {
      if (before !== undefined) this.#lose(before, 'goodbye')
      this.#remember(record.peerId, record.sequence)
      return before !== undefined
    }
    const addresses = believedAddresses(record, from, heard.locals)
    if (addresses.length === 0) return false
    this.#enter({ peer: record.peerId, record, addresses, by }, digest, sourceOf(from.address))
    return true
  }

  /** Forgets those that were not heard for long, and those whose record has ended. */
  sweep(): void {
    const silentSince = performance.now() - SILENT_MS
    const now = Date.now()
    for (const entry of [...this.#entries.values()]) {
      if (entry.heardAt < silentSince) this.#lose(entry, 'silent')
      else if (now >= entry.neighbour.record.expiresAt) this.#lose(entry, 'expired')
    }
  }

  #enter(neighbour: LanNeighbour, digest: string, source: string): void {
    const before = this.#entries.get(neighbour.peer)
    if (before !== undefined) this.#delete(before)
    else this.#makeRoom(source)
    const now = performance.now()
    const heardByMdnsAt = neighbour.by === 'mdns' ? now : (before?.heardByMdnsAt ?? Number.NEGATIVE_INFINITY)
    this.#entries.set(neighbour.peer, { neighbour, digest, source, heardAt: now, heardByMdnsAt })
    this.#byDigest.set(digest, neighbour.peer)
    this.#gone.delete(neighbour.peer)
    this.#options.onFound(neighbour)
  }

  #touch(entry: Entry, by: LanMedium): void {
    entry.heardAt = performance.now()
    if (by === 'mdns') entry.heardByMdnsAt = entry.heardAt
    this.#entries.delete(entry.neighbour.peer)
    this.#entries.set(entry.neighbour.peer, entry)
  }

  #makeRoom(source: string): void {
    const ofSource = [...this.#entries.values()].filter((entry) => entry.source === source)
    const [victim] = ofSource.length >= MAX_PER_SOURCE ? ofSource : this.#entries.values()
    if (ofSource.length < MAX_PER_SOURCE && this.size < MAX_NEIGHBOURS) return
    if (victim !== undefined) this.#lose(victim, 'full')
  }

  #lose(entry: Entry, reason: LanLoss): void {
    const { peer, record } = entry.neighbour
    this.#delete(entry)
    // Who has not said goodbye may be heard again as it was.
    this.#remember(peer, record.sequence - 1)
    this.#options.onLost(peer, reason)
  }

  #remember(peer: PeerId, sequence: number): void {
    this.#gone.delete(peer)
    this.#gone.set(peer, sequence)
    for (const oldest of this.#gone.keys()) {
      if (this.#gone.size <= MAX_GONE) break
      this.#gone.delete(oldest)
    }
  }

  #delete({ neighbour, digest }: Entry): void {
    this.#entries.delete(neighbour.peer)
    this.#byDigest.delete(digest)
  }
}

function opened(bytes: Uint8Array): PeerRecord | undefined {
  try {
    return openRecord(bytes, { maxBytes: MAX_LAN_RECORD_BYTES })
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}
