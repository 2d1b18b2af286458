/**
 * The relays of a peer: those of its rendezvous, and those that were chosen for a dial.
 */
import { type PinnedServerUrl, parseServerAddress, parseServerUrl, Reservation } from '../connect/index.ts'
import type { Session } from '../session/index.ts'
import type { RendezvousLink } from './rendezvous-link.ts'

/** The relay to use, by its URL, before others; `exclusive`: no other. */
export interface ChosenRelay {
  readonly url: string
  readonly exclusive?: boolean
}

export interface RelaysOptions {
  readonly links: () => readonly RendezvousLink[]
  readonly dial: (url: PinnedServerUrl, signal: AbortSignal) => Promise<Session>
}

export class Relays {
  readonly #options: RelaysOptions
  /** Reservations at relays that were chosen for a dial, by address. */
  readonly #chosen = new Map<string, Promise<Reservation>>()

  constructor(options: RelaysOptions) {
    this.#options = options
  }

  /** Where circuits may be had now, best first: at the chosen relay, and at those of the rendezvous unless that is exclusive. */
  async find(chosen: ChosenRelay | undefined, signal: AbortSignal): Promise<Reservation[]> {
    const own = this.#options.links().flatMap(({ reservation }) => (reservation?.live ? reservation : []))
    if (chosen === undefined) return own
    const { address } = parseServerAddress(chosen.url)
    const known = own.find((reservation) => reservation.address === address)
    if (known === undefined && !chosen.exclusive && own.length > 0 && this.#isKnown(address)) {
      // It is one of ours, and not there now: the others do.
      return own
    }
    const first = known ?? (await this.#reserveAt(chosen.url, signal))
    return chosen.exclusive ? [first] : [first, ...own.filter((reservation) => reservation !== first)]
  }

  #isKnown(address: string): boolean {
    return this.#options.links().some((link) => link.address === address)
  }

  /** A reservation at a relay that is none of our rendezvous; kept for the next dial. */
  async #reserveAt(text: string, signal: AbortSignal): Promise<Reservation> {
    const url = parseServerUrl(text)
    const known = this.#chosen.get(url.address)
    if (known !== undefined) {
      const reservation = await known.catch(() => undefined)
      if (reservation?.live) return reservation
    }
    const reserving = this.#options.dial(url, signal).then(async (session) => {
      session.addEventListener('close', () => this.#chosen.delete(url.address))
      return Reservation.reserve(session, url.address, { signal })
    })
    this.#chosen.set(url.address, reserving)
    reserving.catch(() => this.#chosen.delete(url.address))
    return reserving
  }
}
