/**
 * What a peer has to tell of itself in an offer, an answer or a session, and which addresses of others it may dial.
 */
import type { FramedPath } from '../path/index.ts'
import { WebRtcAttempt, type WebRtcOptions } from '../path/index.ts'
import { type ConnectionBody, mayDial } from './candidate.ts'
import { joinCircuits } from './circuit.ts'
import { type Vantage, type Way, type WebRtcSetup, wayOf, webRtcOptions } from './ways.ts'

export interface OwnSideOptions {
  /** What we know of ourselves. */
  readonly vantage: () => Vantage
  /** URLs of the rendezvous where we may be found. */
  readonly rendezvous: () => readonly string[]
  /** Asks the reflectors anew. */
  readonly refresh: (signal: AbortSignal) => Promise<void>
  readonly webrtc: WebRtcSetup | false
  /** False for an address (an IP literal) that is shut out, both ways. */
  readonly mayUse: (host: string) => boolean
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  /** Relays of our own choice: these may have any address. */
  readonly knownRelays: () => readonly string[]
}

export class OwnSide {
  readonly #options: OwnSideOptions
  readonly #accept: (path: FramedPath) => void
  readonly #closing: AbortSignal

  /**
   * @param accept takes a path on which the other side will say what it is for
   * @param closing fires when nothing is wanted any more
   */
  constructor(options: OwnSideOptions, accept: (path: FramedPath) => void, closing: AbortSignal) {
    this.#options = options
    this.#accept = accept
    this.#closing = closing
  }

  /** What we tell of ourselves where only `ways` may be used: nothing at all where none may. */
  body(ways: ReadonlySet<Way>): Partial<ConnectionBody> {
    const rendezvous = this.#options.rendezvous()
    if (ways.size === 0) return { hidden: true, rendezvous }
    const { candidates, nat, rendezvousRttMs } = this.#options.vantage()
    return { candidates: candidates.filter(({ kind }) => ways.has(wayOf(kind))), nat, rendezvousRttMs, rendezvous }
  }

  /** Whether an address that a remote named may be dialled. */
  readonly mayDial = (host: string): boolean => {
    const { loopback, mayUse } = this.#options
    return mayDial(host, { loopback: loopback() }) && mayUse(host)
  }

  /** Looks at the ports that our NAT gives now. Never rejects. */
  refresh(signal: AbortSignal): Promise<void> {
    return this.#options.refresh(signal).catch(() => {})
  }

  /** Our side of WebRTC, described first. @throws PeerlineError when it cannot be */
  offerWebRtc(): Promise<WebRtcAttempt> {
    return WebRtcAttempt.offer(this.#webrtcOptions())
  }

  /**
   * Our side, described first or, with `told`, in answer to what the other side describes; undefined when there is nothing, or we
   * have no WebRTC. Never rejects.
   */
  async describe(ways: ReadonlySet<Way>, told?: ConnectionBody): Promise<WebRtcAttempt | undefined> {
    if (this.#options.webrtc === false) return undefined
    if (told === undefined) return this.offerWebRtc().catch(() => undefined)
    if (told.webrtc === undefined || !ways.has('webrtc')) return undefined
    return WebRtcAttempt.answer(told.webrtc, this.#webrtcOptions()).catch(() => undefined)
  }

  /** Comes to circuits that the other side offers, where we may. */
  join({ circuits }: ConnectionBody): void {
    joinCircuits(circuits, {
      knownRelays: this.#options.knownRelays,
      mayDial: this.mayDial,
      accept: this.#accept,
      signal: this.#closing,
    })
  }

  #webrtcOptions(): WebRtcOptions {
    const { webrtc, vantage } = this.#options
    return webRtcOptions(webrtc, vantage().reflectors, this.mayDial, this.#closing)
  }
}
