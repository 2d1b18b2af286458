/**
 * The sessions of a peer, each with what the connecting room knows of it beside; and how those ended that have ended
 * lately, for the other side may ask.
 */
import type { ErrorCode, PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session, SignalingAttempt } from '../session/index.ts'
import type { Reservation } from './reservation.ts'
import type { Upgrade } from './upgrade.ts'
import type { Way } from './ways.ts'

/** Ended sessions remembered: all of a busy peer's last minute, in about 400 bytes each. */
const MAX_ENDED = 4_096

/** ms for which they are: nobody seeks a session for longer that goes on trying for a minute, and a call takes seconds. */
const ENDED_MS = 90_000

/** Relays where a session may have circuits now, best first. */
export type FindRelays = (signal: AbortSignal) => Promise<readonly Reservation[]>

/** A session, and how paths for it may be had. */
export interface Bond {
  readonly session: Session
  readonly keys: SessionKeys
  /** The direct ways that it may use; none where no address of ours may show. */
  readonly ways: ReadonlySet<Way>
  /** Where it may have circuits; undefined where no relay may be used, or none of another's choice. */
  readonly relays: FindRelays | undefined
  /** Comes to circuits that the other side offers. */
  readonly joins: boolean
  /** Addresses at which the other side was dialled. */
  readonly addresses: readonly string[]
  /** The media by which its offer went. */
  readonly signaled: readonly SignalingAttempt[]
  /** The other side shows no address. */
  hidden: boolean
  /** The search for direct paths, where there is one. */
  upgrade: Upgrade | undefined
}

/** How a session ended. */
export interface Ending {
  readonly peer: PeerId
  readonly code: ErrorCode
  readonly message: string
}

export class Bonds {
  readonly #bonds = new Map<string, Bond>()
  readonly #byPeer = new Map<PeerId, Set<Session>>()
  /** The longest ended first. */
  readonly #ended = new Map<string, Ending & { readonly at: number }>()

  get size(): number {
    return this.#bonds.size
  }

  [Symbol.iterator](): IterableIterator<Bond> {
    return this.#bonds.values()
  }

  /** By the session's public name, hex. */
  get(id: string): Bond | undefined {
    return this.#bonds.get(id)
  }

  /** How a session ended, when that was lately. */
  ending(id: string): Ending | undefined {
    const ending = this.#ended.get(id)
    return ending === undefined || performance.now() - ending.at >= ENDED_MS ? undefined : ending
  }

  /** True for a peer that we have a session with, or had lately. */
  knows(peer: PeerId): boolean {
    if (this.#byPeer.has(peer)) return true
    for (const ending of this.#ended.values()) if (ending.peer === peer) return true
    return false
  }

  /** Sessions with a peer, those with servers that we dialled as such left out; the oldest first. */
  of(peer: PeerId): Session[] {
    return [...(this.#byPeer.get(peer) ?? [])]
  }

  /** Sessions with peers, not those with servers that we dialled as such. */
  get filed(): Session[] {
    return [...this.#byPeer.values()].flatMap((sessions) => [...sessions])
  }

  /** @param filed it is to be found by its peer id */
  add(bond: Bond, filed: boolean): void {
    const { session } = bond
    this.#bonds.set(session.id, bond)
    if (filed) this.#file(session)
    session.addEventListener('close', ({ detail: { error } }) => {
      this.#bonds.delete(session.id)
      this.#remember(session, error)
    })
  }

  #remember({ id, peer }: Session, error: PeerlineError | undefined): void {
    const now = performance.now()
    for (const [old, { at }] of this.#ended) {
      if (this.#ended.size < MAX_ENDED && now - at < ENDED_MS) break
      this.#ended.delete(old)
    }
    const code = error?.code ?? 'ERR_PEERLINE_CLOSED'
    this.#ended.set(id, { peer, code, message: error?.message ?? 'the session was closed', at: now })
  }

  #file(session: Session): void {
    const { peer } = session
    const ofPeer = this.#byPeer.get(peer) ?? new Set()
    this.#byPeer.set(peer, ofPeer.add(session))
    session.addEventListener('close', () => {
      ofPeer.delete(session)
      if (ofPeer.size === 0 && this.#byPeer.get(peer) === ofPeer) this.#byPeer.delete(peer)
    })
  }
}
