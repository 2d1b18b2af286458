/**
 * The rendezvous of a peer together: a link to each, and whether any of them has it registered.
 */
import { abortError, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { Signaling } from '../signaling/index.ts'
import { RendezvousLink, type RendezvousLinkOptions } from './rendezvous-link.ts'

/** How a peer stands with one of its rendezvous. */
export interface RendezvousStatus {
  /** Its URL without the peer id. */
  readonly address: string
  /** Registered there now. */
  readonly online: boolean
  /** It has said that it goes away soon. */
  readonly moving: boolean
  /** Round trip, ms. */
  readonly rttMs?: number
}

export type RendezvousLinksEvents = {
  /** Registered at a rendezvous. */
  online: { readonly rendezvous: string }
  /** A rendezvous was lost, or not reached; it is tried again in `retryMs`. */
  offline: { readonly rendezvous: string; readonly error: PeerlineError; readonly retryMs: number }
}

export class RendezvousLinks extends TypedEventTarget<RendezvousLinksEvents> {
  #links: readonly RendezvousLink[] = []
  /** The latest failure of each, for whoever waits to be online. */
  readonly #failures = new Map<string, PeerlineError>()

  /** Begins to register, everywhere at once. */
  open(all: readonly Omit<RendezvousLinkOptions, 'onOnline' | 'onOffline'>[]): void {
    this.#links = all.map((options) => {
      const { address } = options.url
      return new RendezvousLink({
        ...options,
        onOnline: () => {
          this.#failures.delete(address)
          this.emit('online', { rendezvous: address })
        },
        onOffline: (error, retryMs) => {
          this.#failures.set(address, error)
          this.emit('offline', { rendezvous: address, error, retryMs })
        },
      })
    })
  }

  get all(): readonly RendezvousLink[] {
    return this.#links
  }

  get status(): readonly RendezvousStatus[] {
    return this.#links.map(({ address, rendezvous, moving, rttMs }) => {
      return { address, online: rendezvous !== undefined, moving, ...(rttMs === undefined ? {} : { rttMs }) }
    })
  }

  /** Those where the peer is registered now. */
  get media(): readonly Signaling[] {
    return this.#links.flatMap(({ rendezvous }) => rendezvous ?? [])
  }

  /** Who waits to dial again does so now. */
  hurry(): void {
    for (const link of this.#links) link.hurry()
  }

  /**
   * Resolves when at least one has the peer registered.
   * @throws PeerlineError of the first one when all have failed, or what the signal says
   */
  async online(signal: AbortSignal): Promise<void> {
    if (this.#links.length === 0) throw new PeerlineError('ERR_PEERLINE_NO_ADDRESS', 'no rendezvous was given')
    const check = (): boolean => {
      if (this.media.length > 0) return true
      if (signal.aborted) throw abortError(signal, 'registering')
      if (this.#failures.size === this.#links.length) throw [...this.#failures.values()][0]!
      return false
    }
    if (check()) return
    await new Promise<void>((resolve, reject) => {
      const look = () => {
        try {
          if (!check()) return
          resolve()
        } catch (error) {
          reject(error)
        }
        this.removeEventListener('online', look)
        this.removeEventListener('offline', look)
        signal.removeEventListener('abort', look)
      }
      this.addEventListener('online', look)
      this.addEventListener('offline', look)
      signal.addEventListener('abort', look)
    })
  }

  close(): void {
    for (const link of this.#links) link.close()
  }
}
