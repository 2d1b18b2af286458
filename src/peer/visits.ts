/**
 * Rendezvous of others: where a peer said that it may be found, asked when none of ours finds it. We are a guest there: not
 * listed, and gone again soon.
 *
 * What a peer names is dialled for it, so its URLs are judged as its addresses are: a name is looked up first, and dialled as
 * what it was found to be. Nobody is visited in a private network, which a stranger could make us talk to.
 */
import { isIP } from 'node:net'
import {
  type Connector,
  type PinnedServerUrl,
  parseServerUrl,
  Reservation,
  under,
  untilAborted,
} from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { formatHostPort, scopeOf } from '../network/address.ts'
import type { Session } from '../session/index.ts'
import { type ExchangeOptions, Rendezvous, type Signaling } from '../signaling/index.ts'
import { type NoneSucceeded, STAGGER_MS, staggered } from '../staggered.ts'
import { lookUp } from './hearsay.ts'

/** Rendezvous visited for one peer. */
const MAX_VISITS = 4

/** ms to get there, and ms that a visit lasts: an offer, its answer, and a second dial of the same peer. */
const GO_MS = 10_000
const LINGER_MS = 40_000

export interface VisitsHost {
  readonly connector: Connector
  /** Those of our own, by address: these are asked anyway. */
  readonly own: () => readonly string[]
  /** Whether an address that a peer named may be dialled. */
  readonly mayDial: (host: string) => boolean
  readonly isBanned: (peer: PeerId) => boolean
  readonly closing: AbortSignal
}

/** One rendezvous that may be visited: a medium, and a relay. */
export interface Visit {
  readonly medium: Signaling
  /** A reservation at its relay; none where it is no relay, or has no room. */
  readonly relays: (signal: AbortSignal) => Promise<readonly Reservation[]>
}

/** We are there. */
interface Stay {
  readonly session: Session
  readonly rendezvous: Rendezvous
  reservation: Promise<Reservation> | undefined
}

export class Visits {
  readonly #host: VisitsHost
  /** By address. */
  readonly #stays = new Map<string, Promise<Stay>>()

  constructor(host: VisitsHost) {
    this.#host = host
  }

  /** Those at these URLs that may be visited, and are none of ours. What is no URL is passed over. */
  at(urls: readonly string[]): Visit[] {
    const own = new Set(this.#host.own())
    return urls.slice(0, MAX_VISITS).flatMap((text) => {
      const url = read(text)
      if (url === undefined || own.has(url.address) || this.#host.isBanned(url.peer)) return []
      const exchange = async (to: PeerId, id: Uint8Array, offer: Uint8Array, options: ExchangeOptions) =>
        (await this.#stay(url, options.signal)).rendezvous.exchange(to, id, offer, options)
      const medium = { name: `visiting ${url.address}`, exchange }
      return [{ medium, relays: (signal) => this.#relays(url, signal) }]
    })
  }

  async #relays(url: PinnedServerUrl, signal: AbortSignal): Promise<readonly Reservation[]> {
    const stay = await this.#stay(url, signal)
    stay.reservation ??= Reservation.reserve(stay.session, url.address, { signal })
    const reservation = await stay.reservation.catch(() => {
      stay.reservation = undefined
    })
    return reservation?.live ? [reservation] : []
  }

  /** @throws PeerlineError when we may not go there, or it is not reached; what the signal says */
  #stay(url: PinnedServerUrl, signal: AbortSignal): Promise<Stay> {
    let stay = this.#stays.get(url.address)
    if (stay === undefined) {
      const going = this.#go(url)
      const over = () => {
        if (this.#stays.get(url.address) === going) this.#stays.delete(url.address)
      }
      going.then(({ session, rendezvous }) => Promise.race([session.closed, rendezvous.ended]).then(over), over)
      this.#stays.set(url.address, going)
      stay = going
    }
    return untilAborted(stay, signal, `visiting ${url.address}`)
  }

  async #go(url: PinnedServerUrl): Promise<Stay> {
    const { connector, closing } = this.#host
    return under([closing, AbortSignal.timeout(GO_MS)], async (signal) => {
      const tiers = (await this.#places(url, signal)).map((place) => ({ ways: [place], afterMs: STAGGER_MS }))
      const leave = (session: Session) => void session.close().catch(() => {})
      const session = await staggered(tiers, {
        run: (place, each) => connector.direct.server(place, { signal: each }),
        late: leave,
        signal,
      }).catch(({ last }: NoneSucceeded<PinnedServerUrl>) => Promise.reject(last))
      const timer = setTimeout(() => leave(session), LINGER_MS)
      timer.unref?.()
      session.addEventListener('close', () => clearTimeout(timer))
      try {
        const rendezvous = await Rendezvous.register(session, {
          name: `visiting ${url.address}`,
          listed: false,
          onOffer: async () => undefined,
          signal,
        })
        return { session, rendezvous, reservation: undefined }
      } catch (error) {
        leave(session)
        throw error
      }
    })
  }

  /** Where it is to be dialled. @throws PeerlineError `ERR_PEERLINE_DENIED` for a place that no peer may send us to */
  async #places(url: PinnedServerUrl, signal: AbortSignal): Promise<PinnedServerUrl[]> {
    const found = (await lookUp(url.host, url.port, signal)).map(({ host }) => host)
    const allowed = (host: string) => this.#host.mayDial(host) && scopeOf(host) !== 'private'
    if (found.length === 0 || !found.every(allowed)) {
      throw new PeerlineError('ERR_PEERLINE_DENIED', `${url.address} is no place that a peer may send us to`, {
        recover: 'Make it a rendezvous of your own, if you trust it.',
      })
    }
    // Whoever answers for a name by TLS has to prove it before anything is sent: what is in a private network cannot.
    if (url.scheme === 'wss' && isIP(url.host) === 0) return [url]
    return found.map((host) => at(url, host))
  }
}

/** The same server, by an address of its host. */
function at(url: PinnedServerUrl, host: string): PinnedServerUrl {
  const [, path = ''] = /^\w+:\/\/[^/]+(.*)$/.exec(url.address) ?? []
  return { ...url, host, address: `${url.scheme}://${formatHostPort(host, url.port)}${path}` }
}

function read(text: string): PinnedServerUrl | undefined {
  try {
    return parseServerUrl(text)
  } catch {
    return undefined
  }
}
