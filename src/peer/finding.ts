/**
 * How a peer finds others, and is found: its media, the relays where it may be met, the DHT, and the order in which all of
 * that is tried when it dials.
 */
import { type Candidate, type Connector, mayDial, type PinnedServerUrl, under } from '../connect/index.ts'
import type { LanNeighbour } from '../discovery/index.ts'
import type { Identity, PeerId, RecordContent } from '../identity/index.ts'
import { formatHostPort } from '../network/address.ts'
import type { Session } from '../session/index.ts'
import { DhtPlace } from './dht-place.ts'
import { Dialling } from './dialling.ts'
import type { Gate } from './gate.ts'
import type { Handlers } from './handlers.ts'
import { dialable } from './hearsay.ts'
import type { KeptLedgers } from './kept-ledgers.ts'
import { lanModeOf, Media, type MediaHost } from './media.ts'
import type { Memory } from './memory.ts'
import type { PeerOptions } from './options.ts'
import { Relays } from './relays.ts'
import { Visits } from './visits.ts'

/** What a record of ours may have of each: three topics for a ledger. */
const MAX_ADDRESSES = 16
const MAX_RENDEZVOUS = 8
const MAX_TOPICS = 24

/** Where this peer is, as a record of it says: where it listens as far as others may reach it, and where to ask for it. */
export type Place = Required<Pick<RecordContent, 'addresses' | 'rendezvous' | 'topics'>>

export interface FindingHost {
  readonly identity: Identity
  readonly memory: Memory
  readonly kept: KeptLedgers
  readonly connector: Connector
  readonly gate: Gate
  readonly handlers: Handlers
  /** Our rendezvous, and their URLs. */
  readonly urls: readonly PinnedServerUrl[]
  readonly named: readonly string[]
  readonly dialServer: MediaHost['dialServer']
  /** Where we listen, `host:port`, and the ways to us that others may be told of. */
  readonly listening: () => string[]
  readonly candidates: () => readonly Candidate[]
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  readonly onNeighbour: (found: LanNeighbour) => void
  /** Resolves when it is known how others see this peer. */
  readonly settled: () => Promise<void>
  readonly closing: AbortSignal
}

export class Finding {
  readonly media: Media
  readonly relays: Relays
  readonly #dialling: Dialling
  readonly #host: FindingHost
  readonly #options: PeerOptions
  #dht: DhtPlace | undefined

  constructor(host: FindingHost, options: PeerOptions) {
    this.#host = host
    this.#options = options
    const { identity, memory, kept, connector, gate, handlers, urls, named, listening, closing } = host
    this.relays = new Relays({
      links: () => this.media.links.all,
      dial: (url, signal) => connector.direct.server(url, { signal }),
    })
    this.media = new Media(
      {
        ...{ identity, known: memory.known, connector, handlers, kept, listening },
        rendezvous: options.listed === false ? [] : named,
        onNeighbour: host.onNeighbour,
        touch: () => memory.touch(),
        dialServer: host.dialServer,
      },
      options,
    )
    this.#dialling = new Dialling({
      ...{ connector, gate, known: memory.known, relays: this.relays, mayDial: this.#mayDial },
      visits: new Visits({
        ...{ connector, closing, mayDial: this.#mayDial },
        own: () => urls.map(({ address }) => address),
        isBanned: (peer) => memory.bans.isBanned(peer),
      }),
      seekIntroducers: (to) => {
        if (options.askPeers === false) return undefined
        return this.media.seekIntroducers(to, (...how) => this.#dialKnown(...how))
      },
      seekRecord: options.dht === undefined ? undefined : async (to, signal) => this.#dht?.seek(to, signal),
      isOnline: () => this.media.isOnline,
      hasRendezvous: () => this.media.standing,
      hasOthers: () => this.media.others,
      online: (signal) => this.online(signal),
      settled: host.settled,
    })
  }

  /** A session with a peer, where we may have one. @throws PeerlineError as `Peer.connect` */
  dial(...how: Parameters<Dialling['dial']>): Promise<Session> {
    return this.#dialling.dial(...how)
  }

  readonly #mayDial = (host: string): boolean => {
    const { loopback, gate } = this.#host
    return mayDial(host, { loopback: loopback() }) && gate.mayUse(host)
  }

  /** Dials a peer of the address book where it was, for what it may do for us. */
  async #dialKnown(id: PeerId, signal: AbortSignal): Promise<Session> {
    const { gate, memory, connector } = this.#host
    const leave = await gate.permit(id, signal)
    const addresses = await dialable(memory.known.get(id)?.addresses ?? [], this.#mayDial, signal)
    return connector.direct.dial(id, addresses, { signal, leave })
  }

  /**
   * Begins to look around, and to be found. `near`: also on the local network.
   * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED`, … as `Dht.open`
   */
  async open({ near, hidden }: { readonly near: boolean; readonly hidden: boolean }): Promise<void> {
    if (near) await this.media.joinLan(lanModeOf(this.#options))
    if (this.#options.dht !== undefined && !hidden) await this.#joinDht(this.#options.dht)
  }

  async #joinDht(settings: NonNullable<PeerOptions['dht']>): Promise<void> {
    const { identity, memory } = this.#host
    const content = () => (this.#options.listed === false ? {} : this.place())
    this.#dht = await DhtPlace.open({ identity, known: memory.known, content }, settings)
    this.#dht.tell()
  }

  place(): Place {
    const { candidates, named } = this.#host
    return {
      addresses: candidates()
        .filter(({ kind }) => kind === 'tcp')
        .slice(0, MAX_ADDRESSES)
        .map(({ host, port }) => formatHostPort(host, port)),
      rendezvous: named.slice(0, MAX_RENDEZVOUS),
      topics: this.media.ledgers.topicEntries.slice(0, MAX_TOPICS),
    }
  }

  /** Resolves when a rendezvous has us registered, or a ledger is open. @throws PeerlineError of the first when all have failed */
  async online(signal: AbortSignal | undefined): Promise<void> {
    const given = signal === undefined ? [] : [signal]
    await under([this.#host.closing, ...given], (limited) => this.media.online(limited))
  }

  /** The ways to us have changed. */
  tellChange(): void {
    this.#dht?.tell()
  }

  /** Says goodbye: nobody is found, and nothing is heard, any more. */
  async close(): Promise<void> {
    await Promise.all([this.media.close(), this.#dht?.close()])
  }

  /** Frees what answers had to go by. */
  end(): Promise<void> {
    return this.media.end()
  }
}
