/**
 * A standing connection to one rendezvous: dialled, registered, reserved at its relay, and dialled again when lost.
 *
 *     dialling --registered--> online --session ended--> waiting --after a while--> dialling
 *         \_____________________ failed ___________________/
 */

import type { parseServerUrl } from '../connect/index.ts'
import { Reservation } from '../connect/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import type { Session } from '../session/index.ts'
import { type OfferHandler, Rendezvous } from '../signaling/index.ts'

/** ms before the first new attempt; doubled each time, with up to as much again at random, so that peers of a server
 * that restarts do not all come at once. */
const FIRST_RETRY_MS = 500
const MAX_RETRY_MS = 30_000

/** ms for dialling, the handshake, registration and reservation together. */
const ONLINE_MS = 15_000

export interface RendezvousLinkOptions {
  readonly url: ReturnType<typeof parseServerUrl>
  readonly listed: boolean
  /** Dials the server; `localPort`: the port that it left from, when that was ours to choose. */
  readonly dial: (
    url: ReturnType<typeof parseServerUrl>,
    signal: AbortSignal,
  ) => Promise<{ session: Session; localPort: number | undefined }>
  readonly onOffer: OfferHandler
  readonly onOnline: () => void
  readonly onOffline: (error: PeerlineError, retryMs: number) => void
}

export class RendezvousLink {
  /** Without the peer id. */
  readonly address: string
  readonly host: string
  readonly port: number
  /** The local port of the connection, while online. */
  localPort: number | undefined
  /** The registration, while online. */
  rendezvous: Rendezvous | undefined
  /** The reservation, while online at a server that is a relay too. */
  reservation: Reservation | undefined
  readonly #options: RendezvousLinkOptions
  readonly #stop = new AbortController()
  #retryMs = FIRST_RETRY_MS
  #timer: ReturnType<typeof setTimeout> | undefined
  #session: Session | undefined

  constructor(options: RendezvousLinkOptions) {
    this.#options = options
    this.address = options.url.address
    this.host = options.url.host
    this.port = options.url.port
    void this.#run()
  }

  /** Round trip to the server, ms. */
  get rttMs(): number | undefined {
    return this.#session?.rttMs
  }

  async #run(): Promise<void> {
    const { url, dial, listed, onOffer } = this.#options
    const signal = AbortSignal.any([this.#stop.signal, AbortSignal.timeout(ONLINE_MS)])
    try {
      const { session, localPort } = await dial(url, signal)
      this.#session = session
      this.localPort = localPort
      const name = `rendezvous ${url.address}`
      const [rendezvous, reservation] = await Promise.all([
        Rendezvous.register(session, { name, listed, onOffer, signal }),
        // A server need not be a relay, and a relay may be full: the rendezvous is of use all the same.
        Reservation.reserve(session, url.address, { signal }).catch(() => undefined),
      ])
      if (session.state === 'closed') throw await ended(session)
      this.rendezvous = rendezvous
      this.reservation = reservation
      this.#retryMs = FIRST_RETRY_MS
      session.addEventListener('close', ({ detail }) => this.#lost(detail.error))
      // A registration may end by itself: nobody could dial us then, so both begin anew.
      void rendezvous.ended.then((error) => session.abort(error))
      this.#options.onOnline()
    } catch (error) {
      this.#session?.abort(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE'))
      this.#lost(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE'))
    }
  }

  #lost(error: PeerlineError | undefined): void {
    this.rendezvous = undefined
    this.reservation = undefined
    this.#session = undefined
    if (this.#stop.signal.aborted) return
    const wait = this.#retryMs * (1 + Math.random())
    this.#retryMs = Math.min(this.#retryMs * 2, MAX_RETRY_MS)
    this.#timer = setTimeout(() => void this.#run(), wait)
    this.#options.onOffline(
      error ?? asPeerlineError(new Error(`${this.address} closed the session`), 'ERR_PEERLINE_CLOSED'),
      wait,
    )
  }

  /** Ends the link; its session is closed with the others of the peer. */
  close(): void {
    this.#stop.abort()
    clearTimeout(this.#timer)
    // Nobody opens it another path: a goodbye would wait for one in vain.
    if (this.#session?.path === undefined) {
      this.#session?.abort(new PeerlineError('ERR_PEERLINE_CLOSED', `the link with ${this.address} was closed`))
    }
  }
}

function ended(session: Session): Promise<PeerlineError> {
  return session.closed.then(() => asPeerlineError(new Error('the session was closed'), 'ERR_PEERLINE_CLOSED'))
}
