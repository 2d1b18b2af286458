/**
 * The peer: one identity, its sessions, and what it answers to. The facade that wires the rooms below.
 */
import { type Candidate, Connector, parseServerUrl, type Via } from '../connect/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { Identity, type PeerId, parsePeerId } from '../identity/index.ts'
import { loadOrCreateIdentity } from '../identity/key-file.ts'
import { parseHostPort, scopeOf } from '../network/address.ts'
import type { FramedPath } from '../path/index.ts'
import { Firewall, type FirewallOptions } from '../policy/firewall.ts'
import { type RequestHandler, type RequestOptions, request, serveRequest } from '../protocol/index.ts'
import { type Session, type Stream, StreamCode, TypedEventTarget } from '../session/index.ts'
import { Listener } from './listener.ts'
import { RendezvousLink } from './rendezvous-link.ts'

/** ms for a dial from first to last, when the caller sets no signal of its own. */
const CONNECT_MS = 30_000

/** ms that known addresses get before the rendezvous is asked as well. */
const DIRECT_FIRST_MS = 3_000

export interface PeerOptions {
  /** Who this peer is. @default a new identity for as long as the peer lives */
  readonly identity?: Identity
  /** A key file to read, and to make when it is missing; `~` is the home directory. Instead of `identity`. */
  readonly identityFile?: string
  /** Servers through which others are found, and find us: `ws://host:port#<peer id>`, `wss:`, `tcp:`. @default none */
  readonly rendezvous?: readonly string[]
  /** `host:port` to listen on for direct paths; port 0 is any free one. @default every interface, a free port */
  readonly listen?: readonly string[]
  /** Who may connect. @default nobody */
  readonly firewall?: FirewallOptions
  /** Be listed at the rendezvous, so that others can dial; false: only dial. @default true */
  readonly listed?: boolean
  /** Sessions open at once. @default 10_000 */
  readonly maxSessions?: number
  /** @internal Takes paths that ask for a circuit: what makes a relay. */
  readonly onCircuit?: (path: FramedPath, circuit: Uint8Array) => void
  /** @internal ms that a session may be without a path: a server wants to know at once who has gone. @default 5_000 */
  readonly pathlessMs?: number
}

export interface ConnectOptions {
  /** Known addresses of the peer (`host:port`), tried first. */
  readonly addresses?: readonly string[]
  /** `relay`: only relays, and none of our addresses is told; `direct`: no relay. @default 'auto' */
  readonly via?: Via
  /** Ends the attempt. @default after 30 s */
  readonly signal?: AbortSignal
}

/** What a handler of streams is told. */
export interface StreamContext {
  /** Who opened the stream; proven. */
  readonly from: PeerId
  readonly session: Session
}

export type StreamHandler = (stream: Stream, context: StreamContext) => void | Promise<void>

export type PeerEvents = {
  /** A session is open, whoever dialled. Sessions with the rendezvous are not told. */
  session: { readonly session: Session; readonly inbound: boolean }
  /** Registered at a rendezvous. */
  online: { readonly rendezvous: string }
  /** A rendezvous was lost, or not reached; it is tried again in `retryMs`. */
  offline: { readonly rendezvous: string; readonly error: PeerlineError; readonly retryMs: number }
}

export class Peer extends TypedEventTarget<PeerEvents> {
  readonly identity: Identity
  readonly firewall: Firewall
  readonly #connector: Connector
  readonly #listeners: Listener[] = []
  #links: RendezvousLink[] = []
  readonly #handlers = new Map<string, StreamHandler>()
  /** Sessions that we dialled to servers. */
  readonly #servers = new WeakSet<Session>()
  readonly #loopbackRendezvous: boolean
  /** The latest failure of each link, for whoever waits to be online. */
  readonly #failures = new Map<string, PeerlineError>()
  readonly #closing = new AbortController()

  private constructor(identity: Identity, options: PeerOptions, urls: readonly ReturnType<typeof parseServerUrl>[]) {
    super()
    this.identity = identity
    this.firewall = new Firewall(options.firewall)
    this.#loopbackRendezvous = urls.some(({ host }) => host === 'localhost' || scopeOf(host) === 'loopback')
    this.#connector = new Connector({
      identity,
      admit: (from, how) => this.firewall.admit({ from, how }),
      tellRefusals: this.firewall.tellRefusals,
      onSession: (session, { server }) => this.#onSession(session, server),
      pathlessMs: options.pathlessMs,
      onStream: (session, stream) => this.#onStream(session, stream),
      signaling: () => this.#links.flatMap(({ rendezvous }) => rendezvous ?? []),
      reservations: () => this.#links.flatMap(({ reservation }) => (reservation?.live ? reservation : [])),
      candidates: () => this.#candidates(),
      loopback: () => this.#loopback,
      knownRelays: () => this.#links.map(({ address }) => address),
      onCircuit: options.onCircuit,
      maxSessions: options.maxSessions,
    })
  }

  /**
   * Makes a peer: reads its identity, listens, and begins to register. It resolves without waiting for the rendezvous;
   * see {@link online}.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_KEY_FILE`, `ERR_PEERLINE_ADDRESS_IN_USE`
   */
  static async create(options: PeerOptions = {}): Promise<Peer> {
    const urls = (options.rendezvous ?? []).map(parseServerUrl)
    for (const address of options.listen ?? []) parseHostPort(address)
    const identity =
      options.identity ??
      (options.identityFile === undefined ? Identity.generate() : await loadOrCreateIdentity(options.identityFile))
    const peer = new Peer(identity, options, urls)
    try {
      for (const address of options.listen ?? [':0']) await peer.listen(address)
    } catch (error) {
      await peer.close()
      throw error
    }
    peer.#links = urls.map(
      (url) =>
        new RendezvousLink({
          url,
          listed: options.listed ?? true,
          dial: (to, signal) => peer.#connector.dialServer(to, signal),
          onOffer: (offer) => peer.#connector.answer(offer),
          onOnline: () => {
            peer.#failures.delete(url.address)
            peer.emit('online', { rendezvous: url.address })
          },
          onOffline: (error, retryMs) => {
            peer.#failures.set(url.address, error)
            peer.emit('offline', { rendezvous: url.address, error, retryMs })
          },
        }),
    )
    return peer
  }

  /** This peer's id. */
  get id(): PeerId {
    return this.identity.peerId
  }

  /** `host:port` of each listener. */
  get addresses(): string[] {
    return this.#listeners.map(({ address }) => address)
  }

  /** Sessions that have not ended, those with the rendezvous among them. */
  get sessions(): Session[] {
    return this.#connector.sessions
  }

  /**
   * Listens on one more address (`host:port`), and tells the sessions that are open of it: those on a relay may move.
   * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID`
   * @returns the address as it was bound
   */
  async listen(address: string): Promise<string> {
    const listener = await Listener.listen(address, (path) => void this.#connector.acceptor.accept(path))
    if (this.#closing.signal.aborted) {
      await listener.close()
      throw closedError()
    }
    this.#listeners.push(listener)
    for (const session of this.sessions) {
      if (!this.#servers.has(session)) this.#connector.tellCandidates(session)
    }
    return listener.address
  }

  /**
   * Resolves when at least one rendezvous has registered us.
   * @throws PeerlineError of the first one when all have failed (they are tried again all the same), or what the signal says
   */
  async online(options: { signal?: AbortSignal } = {}): Promise<void> {
    const signal = AbortSignal.any([this.#closing.signal, ...(options.signal === undefined ? [] : [options.signal])])
    if (this.#links.length === 0) throw new PeerlineError('ERR_PEERLINE_NO_ADDRESS', 'no rendezvous was given')
    const check = (): boolean => {
      if (this.#links.some(({ rendezvous }) => rendezvous !== undefined)) return true
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

  // ---- dialling ----

  /**
   * A session with a peer, by its id, open on a proven path. An open one is used again.
   * @throws PeerlineError `ERR_PEERLINE_OFFLINE`, `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_NO_PATH`,
   *   `ERR_PEERLINE_NO_ADDRESS`, `ERR_PEERLINE_TIMEOUT`, …
   */
  async connect(to: string, options: ConnectOptions = {}): Promise<Session> {
    const signal = options.signal ?? AbortSignal.timeout(CONNECT_MS)
    const session = await this.reach(to, { ...options, signal })
    await session.opened({ signal })
    return session
  }

  /**
   * As {@link connect}, but resolves as soon as the other side has consented and both own the keys: what is sent then
   * goes out with the first path, a round trip earlier.
   */
  async reach(to: string, options: ConnectOptions = {}): Promise<Session> {
    const id = parsePeerId(to)
    if (id === this.id) throw new PeerlineError('ERR_PEERLINE_INVALID', 'a peer cannot dial itself')
    if (this.#closing.signal.aborted) throw closedError()
    const { via = 'auto', addresses = [] } = options
    const signal = options.signal ?? AbortSignal.timeout(CONNECT_MS)
    if (via === 'auto') {
      const open = this.#connector.find(id)
      if (open !== undefined) return open
    }
    if (addresses.length > 0 && via !== 'relay') {
      const alone = this.#links.length === 0
      const limited = alone ? signal : AbortSignal.any([signal, AbortSignal.timeout(DIRECT_FIRST_MS)])
      try {
        return await this.#connector.dialDirect(id, addresses, limited)
      } catch (error) {
        // Whoever was reached and refused would refuse again.
        const { code } = error as PeerlineError
        if (alone || signal.aborted || code === 'ERR_PEERLINE_DENIED') throw error
      }
    }
    if (this.#links.length > 0) await this.online({ signal })
    return this.#connector.dial(id, via, signal)
  }

  /**
   * A session with whoever answers at `address` (`host:port`), when its id is not known; `session.peer` tells it.
   * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_DENIED`, …
   */
  async discover(address: string, options: { signal?: AbortSignal } = {}): Promise<Session> {
    return this.#connector.discover(address, options.signal ?? AbortSignal.timeout(CONNECT_MS))
  }

  /** Opens a stream for `protocol` to a peer, dialling it first if need be. @throws as {@link connect} */
  async open(to: string, protocol: string, options: ConnectOptions = {}): Promise<Stream> {
    const session = await this.reach(to, options)
    return session.open(protocol, options)
  }

  /** Sends a request to a peer, dialling it first if need be. @throws as {@link connect} and `request` */
  async request(
    to: string,
    protocol: string,
    body: Uint8Array,
    options: ConnectOptions & RequestOptions = {},
  ): Promise<Uint8Array> {
    return request(await this.reach(to, options), protocol, body, options)
  }

  // ---- answering ----

  /** Answers requests for `protocol`. Replaces what answered before. */
  handle(protocol: string, handler: RequestHandler): void {
    this.#handlers.set(protocol, (stream, { from }) => serveRequest(stream, handler, { from }))
  }

  /** Takes streams for `protocol`. Replaces what took them before. A handler that throws resets its stream. */
  handleStream(protocol: string, handler: StreamHandler): void {
    this.#handlers.set(protocol, handler)
  }

  /** Answers for `protocol` no longer; exchanges under way go on. */
  unhandle(protocol: string): void {
    this.#handlers.delete(protocol)
  }

  /** @internal Takes a path that somebody opened to us on a port of the server. */
  accept(path: FramedPath): Promise<void> {
    return this.#connector.acceptor.accept(path)
  }

  #onStream(session: Session, stream: Stream): void {
    const handler = this.#handlers.get(stream.protocol)
    if (handler === undefined) return stream.reset(StreamCode.NO_PROTOCOL)
    try {
      const handling = handler(stream, { from: session.peer, session })
      if (handling !== undefined) handling.catch(() => stream.reset(StreamCode.FAILED))
    } catch {
      stream.reset(StreamCode.FAILED)
    }
  }

  #onSession(session: Session, server: boolean): void {
    if (server) {
      this.#servers.add(session)
      return
    }
    session.addEventListener('open', () => this.emit('session', { session, inbound: !session.initiator }))
  }

  get #loopback(): boolean {
    return this.#loopbackRendezvous || this.#listeners.some(({ onLoopback }) => onLoopback)
  }

  #candidates(): Candidate[] {
    return this.#listeners.flatMap((listener) => listener.candidates(this.#loopback))
  }

  // ---- the end ----

  /** Ends everything in order: no handle, timer or socket stays. When the signal fires, at once. */
  async close(options: { signal?: AbortSignal } = {}): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(closedError())
    for (const link of this.#links) link.close()
    const listening = this.#listeners.map((listener) => listener.close())
    await this.#connector.close(options)
    await Promise.all(listening)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function closedError(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed')
}
