/**
 * The media by which a peer finds others, and is found: its rendezvous, the local network, mutual peers, ledgers. Each is used as
 * long as it works; none is needed.
 */
import type { Connector, parseServerUrl } from '../connect/index.ts'
import type { KnownPeers } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { INTRODUCE_PROTOCOL, INTRODUCED_PROTOCOL, Introductions, Lan, type Signaling } from '../signaling/index.ts'
import type { Handlers } from './handlers.ts'
import { Introducer } from './introducer.ts'
import type { PeerOptions } from './options.ts'
import { RendezvousLinks } from './rendezvous-links.ts'

/** ms that a rendezvous gets before mutual peers are asked: nobody need learn then whom we dial. */
const INTRODUCTION_DELAY_MS = 500

/** Peers of the address book that are sought to introduce us, and ms for that: a slow dial each, side by side. */
const MAX_SOUGHT = 8
const SEEK_MS = 4_000

export type ServerAddress = ReturnType<typeof parseServerUrl>

/** Dials a peer where it was. */
type Dial = (id: PeerId, addresses: readonly string[], signal: AbortSignal) => Promise<Session>

export interface MediaHost {
  readonly connector: Connector
  readonly handlers: Handlers
  /** Dials one of our rendezvous. */
  readonly dialServer: (
    url: ServerAddress,
    signal: AbortSignal,
  ) => Promise<{ session: Session; localPort: number | undefined }>
}

export class Media {
  readonly links = new RendezvousLinks()
  readonly #host: MediaHost
  readonly #listed: boolean
  readonly #introductions: Introductions
  #lan: Lan | undefined
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

  /** Finds peers on the local network, and is found there. Without multicast there is none of that. Never rejects. */
  async joinLan(): Promise<void> {
    const onOffer = (offer: Uint8Array) => this.#host.connector.answer(offer, { travelMs: 0 })
    const lan = await Lan.open({ onOffer, answering: this.#listed }).catch(() => undefined)
    if (this.#closed) await lan?.close()
    else this.#lan = lan
  }

  /** Begins to register at the rendezvous. */
  register(urls: readonly ServerAddress[]): void {
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
    ]
  }

  /**
   * Seeks mutual peers: connects to some of the address book, those met last, where they were.
   * @param dial dials one of them, where we may; what fails is passed over
   * @returns undefined when there is nobody to be asked; else what rejects with `ERR_PEERLINE_OFFLINE` when none of them is there
   */
  seekIntroducers(
    to: PeerId,
    known: KnownPeers,
    dial: Dial,
  ): ((signal: AbortSignal) => Promise<Signaling>) | undefined {
    const met = known
      .list()
      .filter(({ id, lastMet, addresses }) => id !== to && lastMet !== undefined && addresses.length > 0)
    if (met.length === 0) return undefined
    met.sort((a, b) => b.lastMet! - a.lastMet!)
    return async (signal) => {
      const limited = AbortSignal.any([signal, AbortSignal.timeout(SEEK_MS)])
      const away = met.slice(0, MAX_SOUGHT).filter(({ id }) => this.#host.connector.find(id) === undefined)
      await Promise.allSettled(away.map(({ id }) => dial(id, known.addressesOf(id), limited)))
      if (this.#introductions.introducers > 0) return this.#introductions
      const why = 'no other peer that we have met is where it was'
      throw new PeerlineError('ERR_PEERLINE_OFFLINE', `${to} is not to be reached by introduction: ${why}`)
    }
  }

  /** Something besides the rendezvous can be asked. */
  get others(): boolean {
    return this.#lan !== undefined || this.#introductions.introducers > 0
  }

  /** This machine has other addresses, or none. */
  networkChanged(): void {
    void this.#lan?.refresh()
    this.links.hurry()
  }

  /** No medium brings or takes anything any more. */
  close(): void {
    this.#closed = true
    this.links.close()
  }

  /** Frees the sockets, when nothing is to be said any more. */
  async end(): Promise<void> {
    await this.#lan?.close()
  }
}
