/**
 * The media by which a peer finds others, and is found: its rendezvous, the local network, mutual peers, ledgers. Each is used as
 * long as it works; none is needed.
 */
import { type Connector, type PinnedServerUrl, parseServerUrl } from '../connect/index.ts'
import { type KnownPeers, LanDiscovery, type LanMode, type LanNeighbour } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { INTRODUCE_PROTOCOL, INTRODUCED_PROTOCOL, Introductions, Lan, type Signaling } from '../signaling/index.ts'
import type { Handlers } from './handlers.ts'
import { Introducer } from './introducer.ts'
import type { KeptLedgers } from './kept-ledgers.ts'
import { Ledgers } from './ledgers.ts'
import type { PeerOptions } from './options.ts'
import { RendezvousLinks } from './rendezvous-links.ts'

/** ms that a rendezvous gets before mutual peers are asked: nobody need learn then whom we dial. */
const INTRODUCTION_DELAY_MS = 500

/** Peers of the address book that are sought to introduce us, and ms for that: a slow dial each, side by side. */
const MAX_SOUGHT = 8
const SEEK_MS = 4_000

/** Dials a peer where it was. */
type Dial = (id: PeerId, signal: AbortSignal) => Promise<Session>

/** How much is told on the local network; who is not listed tells nothing. */
export function lanModeOf({ announce = 'listen', listed = true }: PeerOptions): LanMode {
  return announce === 'announce' && !listed ? 'listen' : announce
}

export interface MediaHost {
  readonly identity: Identity
  readonly known: KnownPeers
  /** URLs where we may be found. */
  readonly rendezvous: readonly string[]
  readonly kept: KeptLedgers
  /** Something that is kept has changed. */
  readonly touch: () => void
  readonly connector: Connector
  readonly handlers: Handlers
  /** Where we listen, `host:port`. */
  readonly listening: () => string[]
  /** A peer told on the local network that it is there. */
  readonly onNeighbour: (found: LanNeighbour) => void
  /** Dials one of our rendezvous. */
  readonly dialServer: (
    url: PinnedServerUrl,
    signal: AbortSignal,
  ) => Promise<{ session: Session; localPort: number | undefined }>
}

export class Media {
  readonly links = new RendezvousLinks()
  readonly #host: MediaHost
  readonly #listed: boolean
  readonly #introductions: Introductions
  readonly ledgers: Ledgers
  #lan: Lan | undefined
  #neighbours: LanDiscovery | undefined
  #closed = false

  constructor(host: MediaHost, options: PeerOptions) {
    this.#host = host
    this.#listed = options.listed ?? true
    const { connector } = host
    this.#introductions = new Introductions({
      introducers: () => connector.peerSessions,
      onOffer: (offer, { travelMs }) => connector.answer(offer, { travelMs }),
      listed: this.#listed,
      delayMs: () => (this.links.media.length > 0 ? INTRODUCTION_DELAY_MS : 0),
    })
    this.ledgers = new Ledgers(options.ledgers ?? [], {
      identity: host.identity,
      known: host.known,
      listed: this.#listed,
      onOffer: (offer, how) => connector.answer(offer, how),
      dial: async (url, signal) => connector.direct.server(url, { signal }),
      parse: parseServerUrl,
      rendezvous: host.rendezvous,
      kept: host.kept,
      touch: host.touch,
    })
    this.#takePart(options)
  }

  /** Takes part in introductions, as far as its owner wants that. */
  #takePart({ introduce = false, introducible = true }: PeerOptions): void {
    const { handlers, connector } = this.#host
    if (introducible) {
      handlers.stream(INTRODUCED_PROTOCOL, (stream, context) => this.#introductions.serve(stream, context))
    }
    if (!introduce) return
    const introducer = new Introducer({
      sessionWith: (peer: PeerId) => connector.find(peer),
      allow: typeof introduce === 'function' ? introduce : () => true,
    })
    handlers.stream(INTRODUCE_PROTOCOL, (stream, context) => introducer.serve(stream, context))
  }

  /**
   * Finds peers on the local network by their ids, and is found there; and, as far as its owner wants that, tells who it is and
   * hears who else is there. Without multicast there is none of that. Never rejects.
   */
  async joinLan(mode: LanMode): Promise<void> {
    await Promise.all([this.#openLan(), this.#openDiscovery(mode)])
  }

  /** Peers that have told on the local network that they are there. */
  get neighbours(): readonly LanNeighbour[] {
    return this.#neighbours?.peers ?? []
  }

  async #openDiscovery(mode: LanMode): Promise<void> {
    if (mode === 'off') return
    const { identity, listening, onNeighbour } = this.#host
    const found = await LanDiscovery.open({ identity, listening, mode }).catch(() => undefined)
    if (this.#closed) return found?.close()
    this.#neighbours = found
    found?.addEventListener('found', ({ detail }) => onNeighbour(detail))
  }

  async #openLan(): Promise<void> {
    const onOffer = (offer: Uint8Array) => this.#host.connector.answer(offer, { travelMs: 0 })
    const lan = await Lan.open({ onOffer, answering: this.#listed }).catch(() => undefined)
    if (this.#closed) await lan?.close()
    else this.#lan = lan
  }

  /** Begins to register at the rendezvous, and to open the ledgers. */
  register(urls: readonly PinnedServerUrl[]): void {
    this.ledgers.open()
    const { connector, dialServer } = this.#host
    this.links.open(
      urls.map((url) => ({
        url,
        listed: this.#listed,
        dial: dialServer,
        onOffer: (offer) => connector.answer(offer),
        urgent: () => connector.keeper.urgent,
        onMoving: () => connector.keeper.leaveRelay(url.address),
      })),
    )
  }

  /** Those that work now. `hidden`: only those that do not tell our address. */
  working({ hidden }: { readonly hidden: boolean }): readonly Signaling[] {
    return [
      // Who is heard on the local network has told its address.
      ...(hidden || this.#lan === undefined ? [] : [this.#lan]),
      ...(this.#introductions.introducers === 0 ? [] : [this.#introductions]),
      ...this.links.media,
      ...this.ledgers.media,
    ]
  }

  /**
   * Seeks mutual peers: connects to some of the address book, those met last, where they were.
   * @param dial dials one of them, where we may; what fails is passed over
   * @returns undefined when there is nobody to be asked; else what rejects with `ERR_PEERLINE_OFFLINE` when none of them is there
   */
  seekIntroducers(to: PeerId, dial: Dial): ((signal: AbortSignal) => Promise<Signaling>) | undefined {
    const { known } = this.#host
    if (!known.hasMet(to)) return undefined
    return async (signal) => {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(SEEK_MS)])
      const sought = known.met(to).slice(0, MAX_SOUGHT)
      const away = sought.filter((id) => this.#host.connector.find(id) === undefined)
      await Promise.allSettled(away.map((id) => dial(id, limited)))
      if (this.#introductions.introducers > 0) return this.#introductions
      const why = 'no other peer that we have met is where it was'
      throw new PeerlineError('ERR_PEERLINE_OFFLINE', `${to} is not to be reached by introduction: ${why}`)
    }
  }

  /** There are media that take a moment to be there: rendezvous, and ledgers. */
  get standing(): boolean {
    return this.links.all.length > 0 || this.ledgers.status.length > 0
  }

  /** One of those is there. */
  get isOnline(): boolean {
    return this.links.media.length > 0 || this.ledgers.media.length > 0
  }

  /**
   * Resolves when one of those is there.
   * @throws PeerlineError of the first one when all have failed, or what the signal says
   */
  async online(signal: AbortSignal): Promise<void> {
    const waits = [
      ...(this.links.all.length > 0 || !this.standing ? [this.links.online(signal)] : []),
      ...(this.ledgers.status.length > 0 ? [this.ledgers.online(signal)] : []),
    ]
    await Promise.any(waits).catch((error: AggregateError) => Promise.reject(error.errors[0]))
  }

  /** Something besides those can be asked. */
  get others(): boolean {
    return this.#lan !== undefined || this.#introductions.introducers > 0
  }

  /** We listen elsewhere, or are to be found at other addresses. */
  listeningChanged(): void {
    void this.#neighbours?.refresh()
  }

  /** A session is open: there is less hurry to find somebody. */
  settle(): void {
    this.#neighbours?.settle()
  }

  /** This machine has other addresses, or none. */
  networkChanged(): void {
    void this.#lan?.refresh()
    this.listeningChanged()
    this.links.hurry()
  }

  /** No medium brings or takes anything any more. Resolves when goodbye has been said, which takes sessions with servers. */
  async close(): Promise<void> {
    this.#closed = true
    this.links.close()
    await Promise.all([this.ledgers.close(), this.#neighbours?.close()])
  }

  /** Frees the sockets, when nothing is to be said any more. */
  async end(): Promise<void> {
    await this.#lan?.close()
  }
}
