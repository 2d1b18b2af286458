/**
 * Rendezvous of others: where a peer said that it may be found, asked when none of ours finds it. We are a guest there: not
 * listed, and gone again soon.
 *
 * What a peer names is dialled for it, so its URLs are judged as its addresses are: a name is looked up first, and nobody is
 * visited in a private network, which a stranger could make us talk to.
 */
import { isIP } from 'node:net'
import { type Connector, firstOf, mayDial, parseServerUrl } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { formatHostPort, scopeOf } from '../network/address.ts'
import { resolveReflectors } from '../network/nat-reflectors.ts'
import type { Session } from '../session/index.ts'
import { type ExchangeOptions, Rendezvous, type Signaling } from '../signaling/index.ts'

/** Rendezvous visited for one peer. */
const MAX_VISITS = 4

/** ms that a visit lasts after the offer: a second dial, or the same peer again, comes within that or not at all. */
const LINGER_MS = 20_000

type ServerUrl = ReturnType<typeof parseServerUrl>

export interface VisitsHost {
  readonly connector: Connector
  /** Those of our own, by address: these are asked anyway. */
  readonly own: () => readonly string[]
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  readonly isBanned: (peer: PeerId) => boolean
  readonly closing: AbortSignal
}

export class Visits {
  readonly #host: VisitsHost
  /** By address. */
  readonly #open = new Map<string, Promise<Rendezvous>>()

  constructor(host: VisitsHost) {
    this.#host = host
  }

  /** The media at these URLs, of those that may be visited, and are none of ours. What is no URL is passed over. */
  media(urls: readonly string[]): (Signaling & { readonly url: string })[] {
    const own = new Set(this.#host.own())
    return urls.slice(0, MAX_VISITS).flatMap((text) => {
      const url = read(text)
      if (url === undefined || own.has(url.address) || this.#host.isBanned(url.peer)) return []
      const exchange = (to: PeerId, id: Uint8Array, offer: Uint8Array, options: ExchangeOptions) =>
        this.#exchange(url, to, id, offer, options)
      return [{ name: `visiting ${url.address}`, url: text, exchange }]
    })
  }

  async #exchange(
    url: ServerUrl,
    to: PeerId,
    id: Uint8Array,
    offer: Uint8Array,
    options: ExchangeOptions,
  ): Promise<Uint8Array> {
    const visit = this.#open.get(url.address) ?? this.#begin(url)
    return (await visit).exchange(to, id, offer, options)
  }

  #begin(url: ServerUrl): Promise<Rendezvous> {
    const visit = this.#visit(url)
    this.#open.set(url.address, visit)
    const over = () => {
      if (this.#open.get(url.address) === visit) this.#open.delete(url.address)
    }
    visit.then(({ ended }) => ended.then(over), over)
    return visit
  }

  async #visit(url: ServerUrl): Promise<Rendezvous> {
    const { connector, closing } = this.#host
    const over = new AbortController()
    const signal = firstOf(closing, over.signal)
    try {
      await this.#check(url, signal)
      const session = await connector.direct.server(url, { signal })
      const timer = setTimeout(() => void leave(session), LINGER_MS)
      timer.unref?.()
      session.addEventListener('close', () => clearTimeout(timer))
      return await Rendezvous.register(session, {
        name: `visiting ${url.address}`,
        listed: false,
        onOffer: async () => undefined,
        signal,
      })
    } finally {
      over.abort()
    }
  }

  /** @throws PeerlineError `ERR_PEERLINE_DENIED` for a place that no peer may send us to */
  async #check({ host, port, address }: ServerUrl, signal: AbortSignal): Promise<void> {
    const loopback = this.#host.loopback()
    const found =
      isIP(host) > 0 ? [host] : (await resolveAll(formatHostPort(host, port), signal)).map((place) => place.host)
    const allowed = (place: string) => mayDial(place, { loopback }) && scopeOf(place) !== 'private'
    if (found.length > 0 && found.every(allowed)) return
    throw new PeerlineError('ERR_PEERLINE_DENIED', `${address} is no place that a peer may send us to`, {
      recover: 'Make it a rendezvous of your own, if you trust it.',
    })
  }
}

function resolveAll(name: string, signal: AbortSignal): Promise<{ readonly host: string }[]> {
  // Judged here, so nothing is left out before.
  return resolveReflectors([name], { signal, trusted: true })
}

function read(text: string): ServerUrl | undefined {
  try {
    return parseServerUrl(text)
  } catch {
    return undefined
  }
}

function leave(session: Session): Promise<void> {
  return session.close().catch(() => {})
}
