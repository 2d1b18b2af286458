/**
 * Makes the sessions of a connector, and seeks direct paths for them; what the two sides tell each other inside a session
 * comes by here.
 */
import type { SessionKeys } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import { formatHostPort } from '../network/address.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import type { FramedPath, WebRtcAttempt } from '../path/index.ts'
import {
  type Explanation,
  type MemoryBudget,
  type Opening,
  type PathTiming,
  Session,
  type SessionRate,
  type SignalingAttempt,
  type Stream,
} from '../session/index.ts'
import type { Leave } from './acceptor.ts'
import { type Bond, Bonds, type FindRelays } from './bonds.ts'
import { type ConnectionBody, decodeBody } from './candidate.ts'
import type { OwnSide } from './own-side.ts'
import type { BirthdayBudget } from './punch-udp.ts'
import { Upgrade } from './upgrade.ts'
import type { Vantage, Way, WebRtcSetup } from './ways.ts'
import { explain } from './why.ts'

/** ms between two sets of circuits that the other side may have us come to, inside a session. */
const JOIN_EVERY_MS = 500

export interface SessionMakerOptions {
  /**
   * `server`: we dialled it for its services; it is not found by its peer id, and no other path to it will come. `leave`: what
   * the peer was let in by, or we may dial it by.
   */
  readonly onSession: (session: Session, options: { server: boolean; leave: Leave | undefined }) => void
  /** ms that a session may be without a path. @default 60_000 */
  readonly reconnectMs?: number | undefined
  /** How soon the end of a path is noticed. */
  readonly timing?: Partial<PathTiming> | undefined
  readonly onStream: (session: Session, stream: Stream) => void
  /** A peer told where it listens (`host:port`), of what may be dialled, and by which rendezvous it may be found. */
  readonly onTold: (peer: PeerId, addresses: readonly string[], rendezvous: readonly string[]) => void
  /** Streams open at once in one session, in each direction. */
  readonly maxStreams?: number | undefined
  /** Bytes per second of each session. */
  readonly rate?: SessionRate | undefined
  /** Memory that all sessions share. */
  readonly memory?: MemoryBudget | undefined
  /** Opens streams of ours, where we may; not in sessions with servers. */
  readonly opening: (session: Session, opening: Opening) => Promise<Stream>
  /** What we know of ourselves. */
  readonly vantage: () => Vantage
  /** Asks the reflectors anew. */
  readonly refresh: (signal: AbortSignal) => Promise<void>
  readonly openUdp: () => Promise<UdpSocket>
  readonly birthday?: BirthdayBudget | false | undefined
  readonly webrtc: WebRtcSetup | false
}

/** What a session is made with. */
export interface Making {
  readonly ways: ReadonlySet<Way>
  readonly relays?: FindRelays | undefined
  readonly joins?: boolean
  readonly addresses?: readonly string[]
  readonly server?: boolean
  readonly leave?: Leave | undefined
  /** ms for the first path, where the other side may begin late. */
  readonly firstPathMs?: number | undefined
  /** The media by which its offer went. */
  readonly signaled?: readonly SignalingAttempt[]
}

export interface MakerHost {
  readonly own: OwnSide
  /** Sees to it that a session has a path. */
  readonly keep: (bond: Bond) => void
  /** Takes a path that the other side opened. */
  readonly accept: (path: FramedPath) => void
  readonly closing: AbortSignal
}

export class SessionMaker {
  readonly bonds = new Bonds()
  readonly #options: SessionMakerOptions
  readonly #host: MakerHost
  /** When a session last had us come to circuits. */
  readonly #joinedAt = new WeakMap<Session, number>()

  constructor(options: SessionMakerOptions, host: MakerHost) {
    this.#options = options
    this.#host = host
  }

  make(keys: SessionKeys, peer: PeerId, making: Making): Bond {
    const { ways, relays, joins = true, addresses = [], server = false, leave, firstPathMs, signaled = [] } = making
    const reconnectMs = server ? 0 : this.#options.reconnectMs
    const session: Session = new Session({
      keys,
      peer,
      onStream: (stream) => this.#options.onStream(session, stream),
      explain: () => this.#explain(session),
      firstPathMs,
      timing: this.#options.timing,
      rate: this.#options.rate,
      memory: this.#options.memory,
      opening: server ? undefined : (opening) => this.#options.opening(session, opening),
      ...(reconnectMs === undefined ? {} : { reconnectMs }),
      ...(this.#options.maxStreams === undefined ? {} : { maxStreams: this.#options.maxStreams }),
    })
    const bond: Bond = { session, keys, ways, relays, joins, addresses, signaled, hidden: false, upgrade: undefined }
    this.bonds.add(bond, !server)
    session.addEventListener('candidates', (event) => this.#onCandidates(session, event.detail))
    if (reconnectMs !== 0) this.#host.keep(bond)
    this.#options.onSession(session, { server, leave })
    return bond
  }

  /** Begins the search for direct paths of a session; none where no address of either side may show. */
  seek(
    bond: Bond,
    begun: { fresh?: Promise<void> | undefined; webrtc?: WebRtcAttempt | undefined; relayed: boolean },
  ): Upgrade | undefined {
    const { session, keys, ways, hidden } = bond
    if (ways.size === 0 || hidden) return undefined
    const { vantage, refresh, openUdp, birthday, webrtc } = this.#options
    const { own, accept, closing } = this.#host
    bond.upgrade = new Upgrade({
      ...{ session, keys, ways, vantage, refresh, openUdp, birthday, webrtc, accept, closing },
      relayed: begun.relayed,
      fresh: begun.fresh,
      webrtcAttempt: begun.webrtc,
      mayDial: own.mayDial,
    })
    return bond.upgrade
  }

  /** Where a peer listens is worth remembering; where it is mapped to just now is not. */
  learn(peer: PeerId, { candidates, rendezvous = [] }: ConnectionBody): void {
    const listening = candidates.filter(({ kind, host }) => kind === 'tcp' && this.#host.own.mayDial(host))
    if (listening.length + rendezvous.length === 0) return
    this.#options.onTold(
      peer,
      listening.map(({ host, port }) => formatHostPort(host, port)),
      rendezvous,
    )
  }

  /** The other side told more of itself, within the session. */
  #onCandidates(session: Session, bytes: Uint8Array): void {
    const bond = this.bonds.get(session.id)
    if (bond === undefined) return
    try {
      const body = decodeBody(bytes)
      if (body.circuits.length === 0) return bond.upgrade?.onBody(body)
      const now = performance.now()
      if (!bond.joins || now - (this.#joinedAt.get(session) ?? Number.NEGATIVE_INFINITY) < JOIN_EVERY_MS) return
      this.#joinedAt.set(session, now)
      this.#host.own.join(body)
    } catch {
      // A malformed set is as good as none.
    }
  }

  #explain(session: Session): Explanation {
    const bond = this.bonds.get(session.id)
    return explain({
      session,
      vantage: this.#options.vantage(),
      remote: bond?.upgrade?.remote,
      attempts: bond?.upgrade?.attempts ?? [],
      signaling: bond?.signaled ?? [],
      hidden: bond?.ways.size === 0 ? 'here' : bond?.hidden ? 'there' : 'no',
    })
  }
}
