/**
 * The peer: one identity, its sessions, and what it answers to. The facade that wires the rooms below.
 */
import {
  type Candidate,
  Connector,
  type Leave,
  type PinnedServerUrl,
  parseServerUrl,
  untilAborted,
  type Via,
} from '../connect/index.ts'
import type { Damage, KnownPeers, LanNeighbour } from '../discovery/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { Identity, type PeerId, type PeerRecord, parsePeerId } from '../identity/index.ts'
import { loadOrCreateIdentity } from '../identity/key-file.ts'
import type { LivenessChange, LivenessState } from '../ledger/index.ts'
import { parseHostPort, scopeOf, watchAddresses } from '../network/address.ts'
import type { AddressVerdict } from '../network/address-quorum.ts'
import type { NatView } from '../network/nat.ts'
import type { FramedPath } from '../path/index.ts'
import type { Authorities } from '../policy/authorities.ts'
import type { Bans } from '../policy/bans.ts'
import type { Firewall } from '../policy/firewall.ts'
import type { Identifier } from '../policy/identifier-policy.ts'
import type { Invitations } from '../policy/invitations.ts'
import type { ConnectionLimits } from '../policy/peer-limits.ts'
import type { Trust } from '../policy/trust.ts'
import {
  type OneWayFailure,
  type Protocol,
  type ProtocolHandler,
  type RequestHandler,
  SEEN_PROTOCOL,
  type SendOptions,
  type ServeStreamOptions,
  type StreamedAnswer,
  type StreamRequestHandler,
  type StreamRequestOptions,
} from '../protocol/index.ts'
import {
  type IncomingOptions,
  type IncomingStreams,
  MemoryBudget,
  type Session,
  type Stream,
  TypedEventTarget,
} from '../session/index.ts'
import { ByHand, type ByHandOptions } from '../signaling/index.ts'
import type { KnownTask, Routines, TaskQueue } from '../tasks/index.ts'
import { Duties } from './duties.ts'
import { type Delivery, Exchanges } from './exchanges.ts'
import { Finding } from './finding.ts'
import { Gate } from './gate.ts'
import { type HandleOptions, Handlers, type StreamContext, type StreamHandler } from './handlers.ts'
import { KeptLedgers } from './kept-ledgers.ts'
import type { LedgerStatus } from './ledgers.ts'
import { Listener } from './listener.ts'
import { Memory } from './memory.ts'
import type { ConnectOptions, PeerOptions, PeerRequestOptions } from './options.ts'
import type { OrderOutcome } from './orders.ts'
import { Reachability } from './reachability.ts'
import type { RendezvousLinksEvents, RendezvousStatus } from './rendezvous-links.ts'
import { Standing } from './standing.ts'

/** Bytes for all sessions: sixteen transfers at 1 Gbit/s over 130 ms, both ends of them here. */
const MEMORY_BYTES = 536_870_912

/** ms for a dial from first to last, when the caller sets no signal of its own. */
const CONNECT_MS = 30_000

/** Local ports tried for a rendezvous, when one is in use. */
const PORT_ATTEMPTS = 4

/** ms that every path gets to answer when this machine has other addresses: a slow round trip, and one loss. */
const CHANGED_MS = 2_000

export type PeerEvents = RendezvousLinksEvents & {
  /** A session is open, whoever dialled. Sessions with the rendezvous are not told. */
  session: { readonly session: Session; readonly inbound: boolean }
  /** It has ended, also when it was never open; `error` is absent when either side closed it in order. */
  sessionEnd: { readonly session: Session; readonly error: PeerlineError | undefined }
  /** A peer that was to be dialled was not reached, or refused, or we may not dial it. */
  dialFailed: { readonly peer: PeerId; readonly error: PeerlineError }
  /** One more address is listened on. */
  listening: { readonly address: string }
  /** A message that nobody answers was not handled, or its handler failed. */
  messageFailed: OneWayFailure
  /** A peer told on the local network that it is there, or that it listens elsewhere. */
  neighbour: LanNeighbour
  /** A peer that was dialled by a ledger lives, or does not, as far as its heartbeats tell. */
  liveness: LivenessChange & { readonly ledger: string }
  /** A ledger is open. */
  ledgerOnline: { readonly ledger: string }
  /** A ledger could not be opened, and is tried again in `retryMs`; or something went wrong in it, and it goes on. */
  ledgerError: { readonly ledger: string; readonly error: PeerlineError; readonly retryMs?: number }
  /** What is remembered could not be saved; it is tried again. */
  storeError: { readonly error: PeerlineError }
}

// biome-ignore lint/suspicious/noExplicitAny: any protocol at all
type AnyProtocol = Protocol<any, any, any, any>

export class Peer extends TypedEventTarget<PeerEvents> {
  readonly identity: Identity
  readonly #connector: Connector
  readonly #listeners: Listener[] = []
  readonly #finding: Finding
  readonly #gate: Gate
  readonly #handlers: Handlers
  readonly #exchanges: Exchanges
  readonly #memory: Memory
  readonly #standing: Standing
  readonly #duties: Duties
  readonly #loopbackRendezvous: boolean
  readonly #via: Via
  /** The networks around this machine may be asked: for peers, and for mappings at the router. */
  readonly #near: boolean
  readonly #reachability: Reachability
  #stopWatching: (() => void) | undefined
  readonly #closing = new AbortController()
  #closed: Promise<void> | undefined

  private constructor(
    identity: Identity,
    memory: Memory,
    standing: Standing,
    kept: KeptLedgers,
    options: PeerOptions,
    urls: readonly PinnedServerUrl[],
  ) {
    super()
    this.identity = identity
    this.#memory = memory
    this.#standing = standing
    standing.onChange(() => memory.touch())
    memory.addEventListener('error', ({ detail }) => this.emit('storeError', detail))
    const { streams: maxStreams, rate, memoryBytes = MEMORY_BYTES, ...limits } = options.limits ?? {}
    this.#gate = new Gate({
      ...{ firewall: memory.firewall, bans: memory.bans, limits },
      settling: (peer) => standing.trust?.settling(peer),
      redeem: () => (memory.invitations.size === 0 ? undefined : memory.redeem),
    })
    this.#handlers = new Handlers({
      gate: this.#gate,
      closing: this.#closing.signal,
      onFailure: (failure) => this.emit('messageFailed', failure),
    })
    this.#exchanges = new Exchanges({
      reach: (to, how) => this.reach(to, how),
      mayRide: (to, protocol) => this.#gate.mayRide(parsePeerId(to), protocol, 'out'),
      members: (group) => this.firewall.groups.get(group) ?? [],
      closing: this.#closing.signal,
    })
    const named = urls.map(({ address, peer }) => `${address}#${peer}`)
    this.#loopbackRendezvous = urls.some(({ host }) => host === 'localhost' || scopeOf(host) === 'loopback')
    this.#via = options.via ?? 'auto'
    this.#near = options.lan ?? (urls.length > 0 && !this.#loopbackRendezvous)
    this.#reachability = new Reachability({
      listeners: () => this.#listeners,
      links: () => this.#finding.media.links.all,
      loopback: () => this.#loopback,
      reflectors: options.reflectors ?? [],
      publicAddress: options.publicAddress,
      udp: options.udp !== false && this.#via !== 'relay' && this.#via !== 'tcp',
      // Who has only a relayed path may not be meant to learn our address.
      observers: () =>
        this.#connector.peerSessions.filter(({ paths }) => paths.some((kind) => kind === 'tcp' || kind === 'udp')),
      mayUse: this.#gate.mayUse,
      addressQuorum: options.addressQuorum,
      portMapping: (options.portMapping ?? this.#near) && this.#via !== 'relay',
      observe: this.#via !== 'relay',
      onChange: () => this.#tellChange(),
      onKeepAlive: (udp) => {
        for (const session of this.sessions) session.keepAliveMs = { udp }
      },
    })
    this.#handlers.stream(SEEN_PROTOCOL, (stream, context) => this.#reachability.seen.serve(stream, context))
    this.#connector = new Connector({
      identity,
      admit: this.#gate.admit,
      mayUse: this.#gate.mayUse,
      count: this.#gate.count,
      tellRefusals: memory.firewall.tellRefusals,
      onSession: (session, how) => this.#onSession(session, how),
      onTold: (peer, addresses, rendezvous) => {
        memory.known.learn(peer, addresses, 'told')
        memory.known.learnRendezvous(peer, rendezvous)
      },
      maxStreams,
      rate,
      memory: new MemoryBudget(memoryBytes),
      opening: this.#gate.opening,
      reconnectMs: options.reconnectMs,
      timing: options.timing,
      standbyRelay: options.standbyRelay ?? true,
      relays: (signal) => this.#finding.relays.find(undefined, signal),
      hurry: () => this.#finding.media.links.hurry(),
      onStream: (session, stream) => this.#handlers.onStream(session, stream),
      onEarly: (from, asked) => this.#handlers.onEarly(from, asked),
      signaling: (how) => this.#finding.media.working(how),
      signalingOrder: options.signaling,
      vantage: () => this.#reachability.view(),
      refresh: (signal) => this.#reachability.refresh(signal),
      openUdp: this.#reachability.openUdp,
      birthday: options.birthday,
      webrtc: options.webrtc === false ? false : { iceServers: [], ...options.webrtc },
      answerVia: this.#via,
      loopback: () => this.#loopback,
      rendezvous: () => (options.listed === false ? [] : named),
      knownRelays: () => this.#finding.media.links.all.map(({ address }) => address),
      onCircuit: options.onCircuit,
      onProbe: (token, remote) => this.#reachability.seen.onProbe(token, remote),
    })
    this.#finding = new Finding(
      {
        ...{ identity, memory, kept, urls, named, gate: this.#gate, handlers: this.#handlers },
        connector: this.#connector,
        dialServer: (url, signal) => this.#dialServer(url, signal),
        listening: () => this.addresses,
        candidates: () => this.candidates,
        loopback: () => this.#loopback,
        onNeighbour: (found) => this.#onNeighbour(found),
        settled: () => this.settled(),
        closing: this.#closing.signal,
      },
      options,
    )
    this.#duties = new Duties(
      {
        ...{ identity, memory, standing, exchanges: this.#exchanges, handlers: this.#handlers },
        sessions: () => this.#connector.peerSessions,
        nodes: () => this.#nodes(urls),
        place: () => this.#finding.place(),
        reach: (peer, how) => this.reach(peer, how),
        closing: this.#closing.signal,
      },
      options,
    )
    this.#finding.media.ledgers.addEventListener('online', ({ detail }) => {
      void this.#reachability.onOnline()
      this.#connector.keeper.wake()
      this.emit('ledgerOnline', detail)
    })
    this.#finding.media.ledgers.addEventListener('liveness', ({ detail }) => this.emit('liveness', detail))
    this.#finding.media.ledgers.addEventListener('error', ({ detail }) => this.emit('ledgerError', detail))
    this.#finding.media.links.addEventListener('online', ({ detail }) => {
      this.#connector.keeper.wake()
      void this.#reachability.onOnline()
      this.emit('online', detail)
    })
    this.#finding.media.links.addEventListener('offline', ({ detail }) => this.emit('offline', detail))
  }

  /**
   * Makes a peer: reads its identity, listens, and begins to register. It resolves without waiting for the rendezvous;
   * see {@link online}.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_KEY_FILE`, `ERR_PEERLINE_ADDRESS_IN_USE`; `ERR_PEERLINE_FILE`,
   *   `ERR_PEERLINE_VERSION` of the store
   */
  static async create(options: PeerOptions = {}): Promise<Peer> {
    const urls = (options.rendezvous ?? []).map(parseServerUrl)
    for (const address of options.listen ?? []) parseHostPort(address)
    const identity =
      options.identity ??
      (options.identityFile === undefined ? Identity.generate() : await loadOrCreateIdentity(options.identityFile))
    const { trust, bootstrap, naming } = options
    const standing = new Standing({ trust, bootstrap, naming, nodes: urls.map(({ peer }) => peer) })
    const kept = new KeptLedgers()
    const sections = { ...standing.sections, ledgers: kept.section }
    const memory = await Memory.open(options.store, standing.firewall(options.firewall), sections)
    let peer: Peer
    try {
      peer = new Peer(identity, memory, standing, kept, options, urls)
    } catch (error) {
      await memory.close()
      throw error
    }
    try {
      // Who is to be reached through relays alone need not listen.
      for (const address of options.listen ?? (peer.#via === 'relay' ? [] : [':0'])) await peer.listen(address)
      await peer.#reachability.start()
      const hidden = peer.#via === 'relay'
      await peer.#finding.open({ near: peer.#near && !hidden, hidden })
    } catch (error) {
      await peer.close()
      throw error
    }
    peer.#stopWatching = watchAddresses(() => peer.#onNetworkChange())
    peer.#finding.media.register(urls)
    return peer
  }

  /** This peer's id. */
  get id(): PeerId {
    return this.identity.peerId
  }

  /** Who may connect, and who may do what. Changes reach what is open. */
  get firewall(): Firewall {
    return this.#memory.firewall
  }

  /** Who is shut out, both ways, whatever the rules say: peers, and addresses. */
  get bans(): Bans {
    return this.#memory.bans
  }

  /** Secrets that let in whoever brings one, so many times, until their time is over. */
  get invitations(): Invitations {
    return this.#memory.invitations
  }

  /** What this peer says of itself until `expiresAt`, signed. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  record(expiresAt: number): Uint8Array {
    return this.#duties.bootstrap.record(expiresAt)
  }

  /**
   * A medium that a person carries, for `connect` with it as the `medium`, and to answer offers that were pasted here. Closed with
   * this peer.
   * @param show is given the offers of this peer; the answers are to be given to `take`
   */
  byHand(show: ByHandOptions['show']): ByHand {
    const hand = new ByHand({ show, onOffer: (offer, how) => this.#connector.answer(offer, how) })
    if (this.#closing.signal.aborted) hand.close()
    else this.#closing.signal.addEventListener('abort', () => hand.close())
    return hand
  }

  /** The address book. */
  get known(): KnownPeers {
    return this.#memory.known
  }

  /** Whom this peer trusts of those that come to it; undefined unless it was made with `trust`. */
  get trust(): Trust | undefined {
    return this.#standing.trust
  }

  /** What this peer has to do on the network, for itself or an authority. */
  get tasks(): TaskQueue {
    return this.#duties.tasks
  }

  /** Named jobs that run again and again; those that are there by default are not started. */
  get routines(): Routines {
    return this.#duties.routines
  }

  /** Who may give this peer orders. */
  get authorities(): Authorities {
    return this.#standing.authorities
  }

  /** What this peer is called by people; its id is its key. */
  get identifier(): Identifier {
    return this.#standing.identifier
  }

  /** Resolves when what is remembered is saved. @throws PeerlineError of the store */
  async saved(): Promise<void> {
    await this.#memory.flush()
  }

  /** What the store held and could not be read: it was set aside, and began empty. */
  get damages(): readonly Damage[] {
    return this.#memory.damages
  }

  /** How many connections there are, of how many peers, and from how many prefixes of addresses. */
  get connections(): ConnectionLimits['counts'] {
    return this.#gate.counts
  }

  /** `host:port` of each listener. */
  get addresses(): string[] {
    return this.#listeners.map(({ address }) => address)
  }

  /** The rendezvous of this peer: `online`: registered there; `moving`: it has said that it goes away; `rttMs`: the round trip. */
  get rendezvous(): readonly RendezvousStatus[] {
    return this.#finding.media.links.status
  }

  /** Peers that have told on the local network that they are there. */
  get neighbours(): readonly LanNeighbour[] {
    return this.#finding.media.neighbours
  }

  /**
   * Whether a peer that was dialled by a ledger lives, as far as the heartbeats tell that were read meanwhile: `suspect` 30 s after the time by which it said
   * it would be back, `dead` after two minutes, `offline` when it has said goodbye.
   */
  liveness(peer: string): LivenessState {
    return this.#finding.media.ledgers.livenessOf(parsePeerId(peer))
  }

  /** The ledgers of this peer: `online`: open; `topics`: where others may dial us there. */
  get ledgers(): readonly LedgerStatus[] {
    return this.#finding.media.ledgers.status
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
    this.#finding.media.listeningChanged()
    this.emit('listening', { address: listener.address })
    return listener.address
  }

  /** This machine has other addresses, or none: what is there may be dead, and has to show that it is not. */
  #onNetworkChange(): void {
    void this.#reachability.networkChanged()
    this.#finding.media.networkChanged()
    this.#connector.probe(CHANGED_MS)
    this.#tellChange()
  }

  /** The ways to us have changed: sessions that want a better path seek it anew, and those without any tell it at once. */
  #tellChange(): void {
    this.#finding.tellChange()
    this.#connector.keeper.wake()
    for (const session of this.sessions) this.#connector.upgradeOf(session)?.again()
  }

  /** Dials a server from the port whose mapping it is to tell us, or another one if that is in use. */
  async #dialServer(url: PinnedServerUrl, signal: AbortSignal): Promise<{ session: Session; localPort: number }> {
    if (this.bans.isBanned(url.peer)) {
      const recover = 'Lift the ban, or use another rendezvous.'
      throw new PeerlineError('ERR_PEERLINE_DENIED', `this peer has banned its rendezvous ${url.peer}`, { recover })
    }
    for (let attempt = 1; ; attempt++) {
      const localPort = this.#reachability.tcpPort
      try {
        return { session: await this.#connector.direct.server(url, { signal, localPort }), localPort }
      } catch (error) {
        if ((error as PeerlineError).code !== 'ERR_PEERLINE_ADDRESS_IN_USE' || attempt === PORT_ATTEMPTS) throw error
        if (localPort === this.#reachability.tcpPort) this.#reachability.changeTcpPort()
      }
    }
  }

  /**
   * Resolves when at least one rendezvous has registered us, or one ledger is open.
   * @throws PeerlineError of the first one when all have failed (they are tried again all the same), or what the signal says
   */
  async online(options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#finding.online(options.signal)
  }

  /** How the NAT in front of this peer behaves, as far as it is known. */
  get nat(): NatView {
    return this.#reachability.nat
  }

  /**
   * What the peers that were asked see of this one, of IPv4 and IPv6: an address that enough of them agree on, with those who say
   * something else; or why there is none. Nothing where rendezvous or reflectors tell.
   */
  get seenByPeers(): readonly AddressVerdict[] {
    return this.#reachability.agreed
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
    if (this.#closing.signal.aborted) throw closedError()
    const { relay } = options
    const via = relay?.exclusive ? 'relay' : (options.via ?? this.#via)
    const any = via === this.#via && relay === undefined
    // As a rule it is open: then there is nothing to be read, and nothing to be waited for.
    const before = any ? this.#connector.find(to as PeerId) : undefined
    if (before !== undefined) return before
    const id = parsePeerId(to)
    if (id === this.id) throw new PeerlineError('ERR_PEERLINE_INVALID', 'a peer cannot dial itself')
    if (this.#via === 'relay' && via !== 'relay') {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'this peer was made to use relays alone')
    }
    const open = any ? this.#connector.find(id) : undefined
    if (open !== undefined) return open
    const signal = options.signal ?? AbortSignal.timeout(CONNECT_MS)
    const how =
      options.via === undefined && relay === undefined ? { ...options, ...this.known.settingsOf(id) } : options
    const way = how.relay?.exclusive || this.#via === 'relay' ? 'relay' : (how.via ?? via)
    try {
      return await this.#finding.dial(id, { ...how, via: way, signal })
    } catch (error) {
      this.emit('dialFailed', { peer: id, error: asPeerlineError(error, 'ERR_PEERLINE_NO_PATH') })
      throw error
    }
  }

  /**
   * A session with whoever answers at `address` (`host:port`), when its id is not known; `session.peer` tells it.
   * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_DENIED`, …
   */
  async discover(address: string, options: { signal?: AbortSignal } = {}): Promise<Session> {
    const signal = options.signal ?? AbortSignal.timeout(CONNECT_MS)
    const session = await this.#connector.direct.discover(address, { signal, permit: this.#gate.permit })
    this.known.connected(session.peer, { direction: 'out', address: session.remote })
    return session
  }

  // ---- asking ----

  /** Opens a stream for `protocol` to a peer, dialling it first if need be. @throws as {@link connect} */
  async open(to: string, protocol: string, options: ConnectOptions = {}): Promise<Stream> {
    const session = await this.reach(to, options)
    return session.open(protocol, options)
  }

  /**
   * Sends a request to a peer, dialling it first if need be: bytes for a protocol by its name, or a value for one that was
   * defined.
   * @throws as {@link connect} and `request`
   */
  request(to: string, protocol: string, body: Uint8Array, options?: PeerRequestOptions): Promise<Uint8Array>
  request<ReqIn, ReqOut, ResIn, ResOut>(
    to: string,
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    value: ReqIn,
    options?: PeerRequestOptions,
  ): Promise<ResOut>
  request<ReqIn, ReqOut, ResIn, ResOut>(
    to: string,
    protocol: string | Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    value: Uint8Array | ReqIn,
    options: PeerRequestOptions = {},
  ): Promise<Uint8Array | ResOut> {
    if (typeof protocol === 'string') return this.#exchanges.request(to, protocol, value as Uint8Array, options)
    return this.#exchanges.requestTyped(to, protocol, value as ReqIn, options)
  }

  /**
   * Sends a message to a peer, and resolves when the session has it; nobody answers it.
   * @throws as {@link connect} and `send`
   */
  send(to: string, protocol: string, body: Uint8Array, options?: ConnectOptions & SendOptions): Promise<void>
  send<ReqIn, ReqOut, ResIn, ResOut>(
    to: string,
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    value: ReqIn,
    options?: ConnectOptions & SendOptions,
  ): Promise<void>
  send(to: string, protocol: string | AnyProtocol, value: unknown, options = {}): Promise<void> {
    return this.#exchanges.send(to, protocol, value, options)
  }

  /** Sends a message to every member of a group of the firewall; each succeeds or fails for itself. Never rejects. */
  sendToGroup(
    group: string,
    protocol: string,
    body: Uint8Array,
    options?: ConnectOptions & SendOptions,
  ): Promise<Delivery[]>
  sendToGroup<ReqIn, ReqOut, ResIn, ResOut>(
    group: string,
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    value: ReqIn,
    options?: ConnectOptions & SendOptions,
  ): Promise<Delivery[]>
  sendToGroup(group: string, protocol: string | AnyProtocol, value: unknown, options = {}): Promise<Delivery[]> {
    return this.#exchanges.sendToGroup(group, protocol, value, options)
  }

  /** Sends a request whose body, and whose answer, are streams. @throws as {@link connect} and `requestStream` */
  requestStream(
    to: string,
    protocol: string,
    body: Parameters<Exchanges['requestStream']>[2],
    options: ConnectOptions & StreamRequestOptions = {},
  ): Promise<StreamedAnswer> {
    return this.#exchanges.requestStream(to, protocol, body, options)
  }

  /**
   * Orders a peer to do a task, where this one is an authority of it; dials it first if need be.
   * @throws PeerlineError `ERR_PEERLINE_DENIED` when it takes no orders of ours; as {@link connect} and `request`
   */
  async order(to: string, task: KnownTask, options: PeerRequestOptions = {}): Promise<OrderOutcome> {
    return this.#duties.order(parsePeerId(to), task, options)
  }

  /**
   * Asks the bootstrap nodes, which are the rendezvous, for peers that are listed there; the address book learns of them.
   * @throws PeerlineError of the first node when none answers; `ERR_PEERLINE_OFFLINE` when none is reached
   */
  async findPeers(options: { signal?: AbortSignal; max?: number; capability?: string } = {}): Promise<PeerRecord[]> {
    return this.#duties.bootstrap.find(options)
  }

  /**
   * Has the bootstrap nodes list this peer: whoever asks learns its id and where it listens.
   * @returns ms until it has to be done again @throws PeerlineError as {@link findPeers}
   */
  async listSelf(options: { signal?: AbortSignal; capabilities?: readonly string[] } = {}): Promise<number> {
    return this.#duties.bootstrap.list(options)
  }

  #nodes(urls: readonly { readonly peer: PeerId }[]): Session[] {
    const nodes = new Set(urls.map(({ peer }) => peer))
    return this.sessions.filter(({ peer, state }) => nodes.has(peer) && state === 'open')
  }

  // ---- answering ----

  /**
   * Answers requests for a protocol, of every form, and messages. Replaces what answered before.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that no protocol may have
   */
  handle(protocol: string, handler: RequestHandler, options?: HandleOptions): void
  handle<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: ProtocolHandler<ReqOut, ResIn>,
  ): void
  handle(
    protocol: string | AnyProtocol,
    handler: RequestHandler | ProtocolHandler<unknown, unknown>,
    options?: HandleOptions,
  ): void {
    this.#handlers.request(protocol as string, handler as RequestHandler, options)
  }

  /** Answers requests whose bodies are streams. Replaces what answered before. @throws as {@link handle} */
  handleRequestStream(
    protocol: string,
    handler: StreamRequestHandler,
    options: Omit<ServeStreamOptions, 'from' | 'closing'> = {},
  ): void {
    this.#handlers.requestStream(protocol, handler, options)
  }

  /** Takes streams for `protocol`. Replaces what took them before. A handler that throws resets its stream. @throws as {@link handle} */
  handleStream(protocol: string, handler: StreamHandler): void {
    this.#handlers.stream(protocol, handler)
  }

  /**
   * The streams for `protocol` as a queue for one consumer, `for await (const { stream, from } of …)`, which says what
   * happens when it is slow. Replaces what took them before. Leaving the loop, or closing the peer, ends it.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a policy or capacity that is none
   */
  streams(protocol: string, options: IncomingOptions = {}): IncomingStreams<StreamContext> {
    return this.#handlers.streams(protocol, options)
  }

  /** Answers for `protocol` no longer; exchanges under way go on. */
  unhandle(protocol: string): void {
    this.#handlers.remove(protocol)
  }

  /** @internal Takes a path that somebody opened to us on a port of the server. */
  accept(path: FramedPath): Promise<void> {
    return this.#connector.acceptor.accept(path)
  }

  #onSession(session: Session, { server, leave }: { server: boolean; leave: Leave | undefined }): void {
    this.#gate.watch(session, leave, server)
    if (server) return
    if (!session.initiator) this.#duties.meet(session)
    session.keepAliveMs = { udp: this.#reachability.keepAliveMs }
    session.addEventListener('open', () => {
      this.#reachability.onSession()
      this.known.connected(session.peer, { direction: session.initiator ? 'out' : 'in' })
      this.#finding.media.settle()
      this.emit('session', { session, inbound: !session.initiator })
    })
    session.addEventListener('reconnected', () => this.#reachability.onSession())
    session.addEventListener('close', ({ detail: { error } }) => this.emit('sessionEnd', { session, error }))
  }

  /** It has told where it listens, on this network. */
  #onNeighbour(found: LanNeighbour): void {
    if (found.peer === this.id) return
    this.known.learn(found.peer, found.addresses, 'lan')
    this.#connector.keeper.wake()
    this.emit('neighbour', found)
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
    this.#duties.close()
    this.firewall.close()
    this.#handlers.close()
    this.#stopWatching?.()
    const goodbye = this.#finding.close()
    const listening = this.#listeners.map((listener) => listener.close())
    // Some media go by sessions of ours.
    await untilOver(goodbye, options.signal)
    await this.#connector.close(options)
    await Promise.all([...listening, this.#reachability.close(), this.#finding.end()])
    await this.#memory.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

function closedError(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed')
}

/** Resolves with the promise, or as soon as the signal fires. */
async function untilOver(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  await (signal === undefined ? promise : untilAborted(promise, signal, 'closing')).catch(() => {})
}
