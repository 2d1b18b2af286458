/**
 * The peer: one identity, its sessions, and what it answers to. The facade that wires the rooms below.
 */
import {
  type BirthdayBudget,
  type Candidate,
  Connector,
  parseServerUrl,
  under,
  untilAborted,
  type Via,
  type WebRtcSetup,
} from '../connect/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { Identity, type PeerId, parsePeerId } from '../identity/index.ts'
import { loadOrCreateIdentity } from '../identity/key-file.ts'
import { parseHostPort, scopeOf, watchAddresses } from '../network/address.ts'
import type { NatView } from '../network/nat.ts'
import type { FramedPath } from '../path/index.ts'
import { Firewall, type FirewallOptions } from '../policy/firewall.ts'
import { type RequestHandler, type RequestOptions, request, serveRequest } from '../protocol/index.ts'
import {
  type IncomingOptions,
  IncomingStreams,
  type PathTiming,
  type Session,
  type Stream,
  StreamCode,
  TypedEventTarget,
} from '../session/index.ts'
import { INTRODUCE_PROTOCOL, INTRODUCED_PROTOCOL, Introductions, Lan } from '../signaling/index.ts'
import { Introducer } from './introducer.ts'
import { Listener } from './listener.ts'
import { Reachability } from './reachability.ts'
import { type ChosenRelay, Relays } from './relays.ts'
import { RendezvousLink } from './rendezvous-link.ts'

/** ms for a dial from first to last, when the caller sets no signal of its own. */
const CONNECT_MS = 30_000

/** Local ports tried for a rendezvous, when one is in use. */
const PORT_ATTEMPTS = 4

/** ms that every path gets to answer when this machine has other addresses: a slow round trip, and one loss. */
const CHANGED_MS = 2_000

/** ms that a rendezvous gets before mutual peers are asked: nobody need learn then whom we dial. */
const INTRODUCTION_DELAY_MS = 500

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
  /**
   * Ways that sessions may use, whoever dials, unless a dial says otherwise. `relay`: no address of this peer is ever
   * told to anybody but its rendezvous. @default 'auto'
   */
  readonly via?: Via
  /** Use UDP, where the optional package `udx-native` is installed. @default true */
  readonly udp?: boolean
  /** Find peers on the local network by multicast. @default true with a rendezvous that is not on this machine */
  readonly lan?: boolean
  /** Ask the router to map our ports (UPnP, NAT-PMP, PCP). @default as `lan` */
  readonly portMapping?: boolean
  /** STUN servers (`host:port`) to ask for our address, besides those of the rendezvous. @default none */
  readonly reflectors?: readonly string[]
  /**
   * WebRTC, where `node-datachannel` is installed: tried when nothing else is direct and there are `iceServers`, or with
   * `via: 'webrtc'`. Give STUN and TURN servers of your own here; false switches it off. @default no servers
   */
  readonly webrtc?: Partial<WebRtcSetup> | false
  /** The search for the way to a NAT with random ports: its budget, or false for none. @default 256 sockets, 1,000 probes/s, 5 s */
  readonly birthday?: BirthdayBudget | false
  /**
   * Pass offers and answers, unread, between peers that this one has sessions with; a function says for which two.
   * @default false
   */
  readonly introduce?: boolean | ((from: PeerId, to: PeerId) => boolean)
  /** Be found through peers that introduce, as by a rendezvous. @default true */
  readonly introducible?: boolean
  /** @internal Takes paths that ask for a circuit: what makes a relay. */
  readonly onCircuit?: (path: FramedPath, circuit: Uint8Array) => void
  /**
   * ms that a session may be without any path, `reconnecting`, while another is sought, before it fails; 0: it fails at
   * once. @default 60_000
   */
  readonly reconnectMs?: number
  /** How soon the end of a path is noticed. @default 300 ms to the first question, 4 s to the end */
  readonly timing?: Partial<PathTiming>
  /** Keep a path by a relay beside a direct one, to take over at once when that fails. @default true */
  readonly standbyRelay?: boolean
}

export interface ConnectOptions {
  /** Known addresses of the peer (`host:port`), tried first. */
  readonly addresses?: readonly string[]
  /**
   * `relay`: only relays, and none of our addresses is told; `direct`: no relay; `tcp`, `udp`, `webrtc`: only direct
   * paths of that kind. @default the peer's
   */
  readonly via?: Via
  /** The relay to use, by its URL, before others; `exclusive`: no other, and no direct path. @default those of the rendezvous */
  readonly relay?: ChosenRelay
  /** Ends the attempt. @default after 30 s */
  readonly signal?: AbortSignal
}

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
  readonly #loopbackRendezvous: boolean
  readonly #via: Via
  /** The networks around this machine may be asked: for peers, and for mappings at the router. */
  readonly #near: boolean
  readonly #reachability: Reachability
  #lan: Lan | undefined
  #stopWatching: (() => void) | undefined
  readonly #relays: Relays
  readonly #introductions: Introductions
  /** The latest failure of each link, for whoever waits to be online. */
  readonly #failures = new Map<string, PeerlineError>()
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  private constructor(identity: Identity, options: PeerOptions, urls: readonly ReturnType<typeof parseServerUrl>[]) {
    super()
    this.identity = identity
    this.firewall = new Firewall(options.firewall)
    this.#loopbackRendezvous = urls.some(({ host }) => host === 'localhost' || scopeOf(host) === 'loopback')
    this.#via = options.via ?? 'auto'
    this.#near = options.lan ?? (urls.length > 0 && !this.#loopbackRendezvous)
    this.#reachability = new Reachability({
      listeners: () => this.#listeners,
      links: () => this.#links,
      loopback: () => this.#loopback,
      reflectors: options.reflectors ?? [],
      udp: options.udp !== false && this.#via !== 'relay' && this.#via !== 'tcp',
      portMapping: (options.portMapping ?? this.#near) && this.#via !== 'relay',
      observe: this.#via !== 'relay',
      onChange: () => this.#tellChange(),
      onKeepAlive: (udp) => {
        for (const session of this.sessions) session.keepAliveMs = { udp }
      },
    })
    this.#connector = new Connector({
      identity,
      admit: (from, how) => this.firewall.admit({ from, how }),
      tellRefusals: this.firewall.tellRefusals,
      onSession: (session, { server }) => this.#onSession(session, server),
      reconnectMs: options.reconnectMs,
      timing: options.timing,
      standbyRelay: options.standbyRelay ?? true,
      relays: (signal) => this.#relays.find(undefined, signal),
      hurry: () => {
        for (const link of this.#links) link.hurry()
      },
      onStream: (session, stream) => this.#onStream(session, stream),
      signaling: ({ hidden }) => [
        // Who is heard on the local network has told its address.
        ...(hidden || this.#lan === undefined ? [] : [this.#lan]),
        ...(this.#introductions.introducers === 0 ? [] : [this.#introductions]),
        ...this.#links.flatMap(({ rendezvous }) => rendezvous ?? []),
      ],
      vantage: () => this.#reachability.view(),
      refresh: (signal) => this.#reachability.refresh(signal),
      openUdp: this.#reachability.openUdp,
      birthday: options.birthday,
      webrtc: options.webrtc === false ? false : { iceServers: [], ...options.webrtc },
      answerVia: this.#via,
      loopback: () => this.#loopback,
      knownRelays: () => this.#links.map(({ address }) => address),
      onCircuit: options.onCircuit,
      maxSessions: options.maxSessions,
    })
    this.#relays = new Relays({
      links: () => this.#links,
      dial: (url, signal) => this.#connector.dialServer(url, { signal }),
    })
    this.#introductions = new Introductions({
      introducers: () => this.#connector.peerSessions,
      onOffer: (offer, { travelMs }) => this.#connector.answer(offer, { travelMs }),
      listed: options.listed ?? true,
      delayMs: () => (this.#links.some(({ rendezvous }) => rendezvous !== undefined) ? INTRODUCTION_DELAY_MS : 0),
    })
    this.#offerIntroductions(options)
  }

  /** Takes part in introductions, as far as its owner wants that. */
  #offerIntroductions({ introduce = false, introducible = true }: PeerOptions): void {
    if (introducible) {
      this.#handlers.set(INTRODUCED_PROTOCOL, (stream, context) => this.#introductions.serve(stream, context))
    }
    if (!introduce) return
    const introducer = new Introducer({
      sessionWith: (peer) => this.#connector.find(peer),
      allow: typeof introduce === 'function' ? introduce : () => true,
    })
    this.#handlers.set(INTRODUCE_PROTOCOL, (stream, context) => introducer.serve(stream, context))
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
      // Who is to be reached through relays alone need not listen.
      for (const address of options.listen ?? (peer.#via === 'relay' ? [] : [':0'])) await peer.listen(address)
      await peer.#reachability.start()
      if (peer.#near) await peer.#joinLan(options.listed ?? true)
    } catch (error) {
      await peer.close()
      throw error
    }
    peer.#stopWatching = watchAddresses(() => peer.#onNetworkChange())
    peer.#links = urls.map(
      (url) =>
        new RendezvousLink({
          url,
          listed: options.listed ?? true,
          dial: (to, signal) => peer.#dialServer(to, signal),
          onOffer: (offer) => peer.#connector.answer(offer),
          urgent: () => peer.#connector.keeper.urgent,
          onMoving: () => peer.#connector.keeper.leaveRelay(url.address),
          onOnline: () => {
            peer.#failures.delete(url.address)
            peer.#connector.keeper.wake()
            void peer.#reachability.onOnline()
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

  /** The rendezvous of this peer: `online`: registered there; `moving`: it has said that it goes away; `rttMs`: the round trip. */
  get rendezvous(): readonly RendezvousStatus[] {
    return this.#links.map(({ address, rendezvous, moving, rttMs }) => {
      return { address, online: rendezvous !== undefined, moving, ...(rttMs === undefined ? {} : { rttMs }) }
    })
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
    for (const session of this.sessions) this.#connector.upgradeOf(session)?.tell()
    return listener.address
  }

  /** Finds peers on the local network, and is found there. Without multicast there is none of that. */
  async #joinLan(answering: boolean): Promise<void> {
    if (this.#via === 'relay') return
    const onOffer = (offer: Uint8Array) => this.#connector.answer(offer, { travelMs: 0 })
    const lan = await Lan.open({ onOffer, answering }).catch(() => undefined)
    if (this.#closing.signal.aborted) await lan?.close()
    else this.#lan = lan
  }

  /** This machine has other addresses, or none: what is there may be dead, and has to show that it is not. */
  #onNetworkChange(): void {
    void this.#reachability.networkChanged()
    void this.#lan?.refresh()
    for (const link of this.#links) link.hurry()
    this.#connector.probe(CHANGED_MS)
    this.#tellChange()
  }

  /** The ways to us have changed: sessions that want a better path seek it anew, and those without any tell it at once. */
  #tellChange(): void {
    this.#connector.keeper.wake()
    for (const session of this.sessions) this.#connector.upgradeOf(session)?.again()
  }

  /** Dials a server from the port whose mapping it is to tell us, or another one if that is in use. */
  async #dialServer(
    url: ReturnType<typeof parseServerUrl>,
    signal: AbortSignal,
  ): Promise<{ session: Session; localPort: number }> {
    for (let attempt = 1; ; attempt++) {
      const localPort = this.#reachability.tcpPort
      try {
        return { session: await this.#connector.dialServer(url, { signal, localPort }), localPort }
      } catch (error) {
        if ((error as PeerlineError).code !== 'ERR_PEERLINE_ADDRESS_IN_USE' || attempt === PORT_ATTEMPTS) throw error
        if (localPort === this.#reachability.tcpPort) this.#reachability.changeTcpPort()
      }
    }
  }

  /**
   * Resolves when at least one rendezvous has registered us.
   * @throws PeerlineError of the first one when all have failed (they are tried again all the same), or what the signal says
   */
  async online(options: { signal?: AbortSignal } = {}): Promise<void> {
    const given = options.signal === undefined ? [] : [options.signal]
    await under([this.#closing.signal, ...given], (signal) => this.#online(signal))
  }

  async #online(signal: AbortSignal): Promise<void> {
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

  /** How the NAT in front of this peer behaves, as far as it is known. */
  get nat(): NatView {
    return this.#reachability.nat
  }

  /** The ways to this peer that it tells others, best first. */
  get candidates(): readonly Candidate[] {
    return this.#reachability.view().candidates
  }

  /** Resolves when this peer has asked what others see of it; {@link nat} and {@link candidates} say what came of it. */
  async settled(): Promise<void> {
    await this.#reachability.settled()
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
    const { relay, addresses = [] } = options
    const via = relay?.exclusive ? 'relay' : (options.via ?? this.#via)
    const signal = options.signal ?? AbortSignal.timeout(CONNECT_MS)
    if (this.#via === 'relay' && via !== 'relay') {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'this peer was made to use relays alone')
    }
    if (via === this.#via && relay === undefined) {
      const open = this.#connector.find(id)
      if (open !== undefined) return open
    }
    if (addresses.length > 0 && (via === 'auto' || via === 'direct' || via === 'tcp')) {
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
    if (this.#links.length > 0) {
      await this.online({ signal }).catch((error) => {
        // The local network, and mutual peers, answer by themselves, should no rendezvous be reached.
        if ((this.#lan === undefined && this.#introductions.introducers === 0) || signal.aborted) throw error
      })
    }
    // Without a relay there is no second chance to say where we are: it must be known when the offer goes out.
    if (via !== 'auto' && via !== 'relay') await untilAborted(this.settled(), signal, `dialling ${id}`)
    const relays =
      via === 'auto' || via === 'relay' ? (given: AbortSignal) => this.#relays.find(relay, given) : undefined
    return this.#connector.dial(id, { via, relays, exclusive: relay?.exclusive, signal })
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

  /**
   * The streams for `protocol` as a queue for one consumer, `for await (const { stream, from } of …)`, which says what
   * happens when it is slow. Replaces what took them before. Leaving the loop, or closing the peer, ends it.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a policy or capacity that is none
   */
  streams(protocol: string, options: IncomingOptions = {}): IncomingStreams<StreamContext> {
    const { signal } = this.#closing
    const leave = () => void incoming.return()
    const take: StreamHandler = (stream, context) => incoming.take(stream, context)
    const incoming = new IncomingStreams<StreamContext>(options, () => {
      signal.removeEventListener('abort', leave)
      if (this.#handlers.get(protocol) === take) this.#handlers.delete(protocol)
    })
    this.#handlers.set(protocol, take)
    if (signal.aborted) leave()
    else signal.addEventListener('abort', leave)
    return incoming
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
    if (server) return
    session.keepAliveMs = { udp: this.#reachability.keepAliveMs }
    session.addEventListener('open', () => this.emit('session', { session, inbound: !session.initiator }))
  }

  get #loopback(): boolean {
    return this.#loopbackRendezvous || this.#listeners.some(({ onLoopback }) => onLoopback)
  }

  // ---- the end ----

  /** Ends everything in order: no handle, timer or socket stays. When the signal fires, at once. */
  close(options: { signal?: AbortSignal } = {}): Promise<void> {
    this.#closed ??= this.#close(options)
    return this.#closed
  }

  async #close(options: { signal?: AbortSignal }): Promise<void> {
    this.#closing.abort(closedError())
    this.firewall.close()
    this.#stopWatching?.()
    for (const link of this.#links) link.close()
    const listening = this.#listeners.map((listener) => listener.close())
    await this.#connector.close(options)
    await Promise.all([...listening, this.#reachability.close(), this.#lan?.close()])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function closedError(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed')
}
