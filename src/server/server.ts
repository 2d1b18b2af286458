/**
 * The server: a peer with services switched on, behind one port.
 *
 *     serving --drain()--> draining --everybody has left, or time is over--> closed
 *        \________________________ close() ________________________________/
 */
import { DEFAULT_PORT, parseServerAddress, RELAY_PROTOCOL } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import type { Identity } from '../identity/index.ts'
import type { LeafSource } from '../ledger/tree-head.ts'
import { formatHostPort, localAddresses, parseHostPort, scopeOf } from '../network/address.ts'
import { Peer } from '../peer/index.ts'
import { MAX_REFLECTORS, RENDEZVOUS_PROTOCOL } from '../signaling/index.ts'
import { MAX_MOVING_MS } from '../signaling/rendezvous-wire.ts'
import { Alternates } from './alternates.ts'
import { DhtService } from './dht-service.ts'
import { LedgerService } from './ledger-service.ts'
import { Port } from './port.ts'
import { ReflectorLimits, serveStunTcp, UdpReflector } from './reflector.ts'
import { type RelayLimits, RelayService } from './relay-service.ts'
import { RendezvousService } from './rendezvous-service.ts'

/** Ports tried when any will do and UDP has the one that TCP was given. */
const PORT_ATTEMPTS = 10

/** Reflectors of others: half of what a reply holds. The own ones beside the main port are three at most. */
const MAX_NAMED_REFLECTORS = MAX_REFLECTORS / 2

/** ms that a server which drains waits for its peers: several times what they need to open another path. */
const DRAIN_MS = 10_000

export interface ServerOptions {
  /** `host:port`; an empty host is every interface, port 0 any free one. @default ':4400' */
  readonly listen?: string
  /** Who the server is. @default a new identity, and so a new URL, at each start */
  readonly identity?: Identity
  readonly identityFile?: string
  /** PEM certificate chain and key: the port then also speaks TLS, and the URL is a `wss:` one. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer }
  /** How others reach the server, when it is not where it listens: `wss://peer.example.org`. */
  readonly publicUrl?: string
  /** Quotas of the relay; false: be no relay. @default quotas on */
  readonly relay?: RelayLimits | false
  /**
   * A second port, UDP and TCP, that only reflects: asked at both, a peer sees whether its NAT maps it the same to each.
   * 0 is any free one; false: none. @default 0
   */
  readonly alternatePort?: number | false
  /** A second address of this machine to reflect at, which `listen` must name one beside: it tells a peer all about its NAT. */
  readonly alternateHost?: string
  /**
   * A ledger that peers may read and write: the file of one, which is made when it is not there, or one that is open. What it has
   * shown it must have for ever: one that loses something in a power cut is taken for one that was changed. @default none
   */
  readonly ledger?: string | LeafSource
  /**
   * A node of a DHT of one's own, for peers to begin with: `host:port` of IPv4 and UDP; an empty host is where the server listens, port
   * 0 any free one. Anybody who reaches it may be a node as well. It needs the package `bittorrent-dht`. @default none
   */
  readonly dht?: string
  /** Reflectors of others, `host:port`, that peers are told of: the more they are apart, the more a peer learns. At most 4. */
  readonly reflectors?: readonly string[]
}

export interface DrainOptions {
  /** Longest time that it takes, ms, up to an hour. 0: as {@link Server.close}. @default 10_000 */
  readonly ms?: number
  /** Ends it at once. */
  readonly signal?: AbortSignal
}

export class Server {
  readonly peer: Peer
  readonly #port: Port
  readonly #reflector: UdpReflector
  readonly #alternates: Alternates | undefined
  readonly #relay: RelayService | undefined
  readonly #rendezvous: RendezvousService
  readonly #ledger: LedgerService | undefined
  readonly #dht: DhtService | undefined
  readonly #address: string
  readonly #health: { status: 'ok' | 'draining' }
  #draining: Promise<void> | undefined
  /** Ends the wait of a server that drains. */
  #stopDraining: (() => void) | undefined
  #closing: Promise<void> | undefined
  readonly #cut = new AbortController()

  private constructor(parts: {
    peer: Peer
    port: Port
    reflector: UdpReflector
    alternates: Alternates | undefined
    relay: RelayService | undefined
    rendezvous: RendezvousService
    ledger: LedgerService | undefined
    dht: DhtService | undefined
    address: string
    health: { status: 'ok' | 'draining' }
  }) {
    this.peer = parts.peer
    this.#port = parts.port
    this.#reflector = parts.reflector
    this.#alternates = parts.alternates
    this.#relay = parts.relay
    this.#rendezvous = parts.rendezvous
    this.#ledger = parts.ledger
    this.#dht = parts.dht
    this.#address = parts.address
    this.#health = parts.health
  }

  /**
   * Starts a server.
   * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_TLS`, `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_KEY_FILE`;
   *   as `LogLedger.open`, and as `Dht.open`
   */
  static async create(options: ServerOptions = {}): Promise<Server> {
    const { host, port: wanted } = parseHostPort(options.listen ?? `:${DEFAULT_PORT}`, { defaultPort: DEFAULT_PORT })
    const publicUrl = options.publicUrl === undefined ? undefined : parseServerAddress(options.publicUrl).address
    const elsewhere = (options.reflectors ?? []).map(checkReflector)
    if (elsewhere.length > MAX_NAMED_REFLECTORS) {
      throw new PeerlineError(
        'ERR_PEERLINE_INVALID',
        `at most ${MAX_NAMED_REFLECTORS} reflectors of others can be named`,
      )
    }
    if (options.alternatePort === false && options.alternateHost !== undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'an alternate host needs an alternate port')
    }
    const relay = options.relay === false ? undefined : new RelayService(options.relay, publicUrl === undefined)
    const rendezvous = new RendezvousService()
    const peer = await Peer.create({
      ...(options.identity === undefined ? {} : { identity: options.identity }),
      ...(options.identityFile === undefined ? {} : { identityFile: options.identityFile }),
      listen: [],
      // It is where it is: it seeks no way out, and nobody's network but its own.
      udp: false,
      lan: false,
      webrtc: false,
      // Whoever proves an identity may use the services; they are all there is.
      firewall: { allow: 'all' },
      // As many as a large site behind one address may have, beside others.
      limits: { total: 50_000, establishedIn: 50_000, pendingIn: 4_096, perPrefix: 12_500 },
      reconnectMs: 0,
      handOutPeers: true,
      ...(relay === undefined ? {} : { onCircuit: (path, circuit) => relay.onCircuit(path, circuit) }),
    })
    peer.handleStream(RENDEZVOUS_PROTOCOL, (stream, context) => rendezvous.serve(stream, context))
    if (relay !== undefined) peer.handleStream(RELAY_PROTOCOL, (stream, context) => relay.serve(stream, context))
    let ledger: LedgerService | undefined
    const limits = new ReflectorLimits()
    const health: { status: 'ok' | 'draining' } = { status: 'ok' }
    const started = performance.now()
    const makePort = () =>
      new Port({
        tls: options.tls,
        onPath: (path) => void peer.accept(path),
        onStun: (socket, head) => serveStunTcp(socket, head, { limits }),
        health: () => ({
          ...health,
          peerId: peer.id,
          uptimeSeconds: Math.floor((performance.now() - started) / 1000),
          peers: rendezvous.online,
          reservations: relay?.reservations ?? 0,
          circuits: relay?.circuits ?? 0,
        }),
      })
    try {
      if (options.ledger !== undefined) ledger = await LedgerService.open(options.ledger, peer)
      const { port, reflector, bound } = await bindBoth(makePort, limits, host, wanted)
      let alternates: Alternates | undefined
      let dht: DhtService | undefined
      try {
        alternates = await openAlternates(options, reflector, limits)
        if (options.dht !== undefined) {
          const publicHost = publicUrl === undefined ? undefined : parseServerAddress(publicUrl).host
          dht = await DhtService.open({ listen: options.dht, beside: bound.host, publicHost, reachable: reachableHost })
        }
      } catch (error) {
        await Promise.all([port.close(), reflector.close(), alternates?.close()])
        throw error
      }
      rendezvous.reflectors = [...named(alternates, bound.host), ...elsewhere]
      const scheme = options.tls === undefined ? 'ws' : 'wss'
      const address = publicUrl ?? `${scheme}://${formatHostPort(reachableHost(bound.host), bound.port)}`
      return new Server({ peer, port, reflector, alternates, relay, rendezvous, ledger, dht, address, health })
    } catch (error) {
      await peer.close()
      await ledger?.close()
      throw error
    }
  }

  /** What peers are given: `ws://host:port#<peer id>`. */
  get url(): string {
    return `${this.#address}#${this.peer.id}`
  }

  /** The reflectors that peers are told of beside the main port; `:port` is at the server's own host. */
  get reflectors(): readonly string[] {
    return this.#rendezvous.reflectors
  }

  /** Peers that are online here. */
  get online(): number {
    return this.#rendezvous.online
  }

  /** The ledger that peers may read and write. */
  get ledger(): LeafSource | undefined {
    return this.#ledger?.ledger
  }

  /** Where peers find the node of a DHT: `host:port`; undefined without one. */
  get dht(): string | undefined {
    return this.#dht?.address
  }

  /** Circuits joined now. */
  get circuits(): number {
    return this.#relay?.circuits ?? 0
  }

  /** Peers that are here, those that only dial among them; a program that came in twice counts twice. */
  get peers(): number {
    return this.#rendezvous.registrations
  }

  /**
   * Goes away without cutting anybody short. From now on nobody is let in any more, and every peer is told to move; signals
   * still pass and circuits that are joined go on, until all have left or `ms` are over. Then it closes.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  async drain(options: DrainOptions = {}): Promise<void> {
    const { ms = DRAIN_MS } = options
    if (!(ms >= 0 && ms <= MAX_MOVING_MS)) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `a server drains for 0 to ${MAX_MOVING_MS} ms, not ${ms}`)
    }
    this.#draining ??= this.#drain(Math.round(ms), options.signal)
    await this.#draining
    await this.close(options)
  }

  /** Resolves when everybody has left, `ms` are over, `signal` fires, or the server is closed. */
  #drain(ms: number, signal: AbortSignal | undefined): Promise<void> {
    const [rendezvous, relay] = [this.#rendezvous, this.#relay]
    const deserted = () => rendezvous.registrations === 0 && (relay === undefined || relay.idle)
    if (this.#closing !== undefined || ms === 0 || deserted() || signal?.aborted) return Promise.resolve()
    this.#health.status = 'draining'
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        this.#stopDraining = undefined
        resolve()
      }
      const timer = setTimeout(done, ms)
      signal?.addEventListener('abort', done)
      this.#stopDraining = done
      const onLeave = () => {
        if (deserted()) done()
      }
      rendezvous.onLeave = onLeave
      if (relay !== undefined) relay.onLeave = onLeave
      relay?.move(ms)
      rendezvous.move(ms)
    })
  }

  /** Ends in order: sessions are closed, circuits drained, the port given up. When the signal fires, at once. */
  async close({ signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const cut = () => this.#cut.abort()
    if (signal?.aborted) cut()
    signal?.addEventListener('abort', cut)
    try {
      this.#closing ??= this.#close()
      await this.#closing
    } finally {
      signal?.removeEventListener('abort', cut)
    }
  }

  async #close(): Promise<void> {
    this.#stopDraining?.()
    this.#relay?.close()
    await this.peer.close({ signal: this.#cut.signal })
    const [port, reflector, alternates] = [this.#port, this.#reflector, this.#alternates]
    await Promise.all([port, reflector, alternates, this.#ledger, this.#dht].map((one) => one?.close()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

/** Binds TCP and UDP to one port number. */
async function bindBoth(
  makePort: () => Port,
  limits: ReflectorLimits,
  host: string,
  wanted: number,
): Promise<{ port: Port; reflector: UdpReflector; bound: { host: string; port: number } }> {
  for (let attempt = 1; ; attempt++) {
    const port = makePort()
    const bound = await port.listen(host, wanted)
    const reflector = new UdpReflector({ limits })
    try {
      await reflector.bind(bound.host, bound.port)
      return { port, reflector, bound }
    } catch (error) {
      await port.close()
      if (
        wanted !== 0 ||
        attempt === PORT_ATTEMPTS ||
        (error as PeerlineError).code !== 'ERR_PEERLINE_ADDRESS_IN_USE'
      ) {
        throw error
      }
    }
  }
}

function openAlternates(
  { alternatePort = 0, alternateHost: host }: ServerOptions,
  reflector: UdpReflector,
  limits: ReflectorLimits,
): Promise<Alternates | undefined> {
  if (alternatePort === false) return Promise.resolve(undefined)
  return Alternates.open({ reflector, limits, port: alternatePort, host })
}

/** As peers are told: a port alone is at the host at which they reached the server, whatever that is called. */
function named(alternates: Alternates | undefined, own: string): string[] {
  const addresses = alternates?.addresses ?? []
  return addresses.map(({ host, port }) => (host === own ? `:${port}` : formatHostPort(host, port)))
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` */
function checkReflector(text: string): string {
  const { host, port } = parseHostPort(text)
  if (host === '' || port === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', `${text}: a reflector is host:port`)
  return formatHostPort(host, port)
}

/** A host that others can dial, for one that we listen on. */
function reachableHost(bound: string): string {
  if (scopeOf(bound) !== 'unspecified') return bound
  return localAddresses().find(({ family }) => family === 4)?.host ?? '127.0.0.1'
}
