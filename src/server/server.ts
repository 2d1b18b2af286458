/**
 * The server: a peer with services switched on, behind one port.
 */
import { DEFAULT_PORT, parseServerAddress, RELAY_PROTOCOL } from '../connect/index.ts'
import type { PeerlineError } from '../errors.ts'
import type { Identity } from '../identity/index.ts'
import { formatHostPort, localAddresses, parseHostPort, scopeOf } from '../network/address.ts'
import { Peer } from '../peer/index.ts'
import { RENDEZVOUS_PROTOCOL } from '../signaling/index.ts'
import { Port } from './port.ts'
import { ReflectorLimits, serveStunTcp, UdpReflector } from './reflector.ts'
import { type RelayLimits, RelayService } from './relay-service.ts'
import { RendezvousService } from './rendezvous-service.ts'

/** Ports tried when any will do and UDP has the one that TCP was given. */
const PORT_ATTEMPTS = 10

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
}

export class Server {
  readonly peer: Peer
  readonly #port: Port
  readonly #reflector: UdpReflector
  readonly #relay: RelayService | undefined
  readonly #rendezvous: RendezvousService
  readonly #address: string

  private constructor(parts: {
    peer: Peer
    port: Port
    reflector: UdpReflector
    relay: RelayService | undefined
    rendezvous: RendezvousService
    address: string
  }) {
    this.peer = parts.peer
    this.#port = parts.port
    this.#reflector = parts.reflector
    this.#relay = parts.relay
    this.#rendezvous = parts.rendezvous
    this.#address = parts.address
  }

  /**
   * Starts a server.
   * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_TLS`, `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_KEY_FILE`
   */
  static async create(options: ServerOptions = {}): Promise<Server> {
    const { host, port: wanted } = parseHostPort(options.listen ?? `:${DEFAULT_PORT}`, { defaultPort: DEFAULT_PORT })
    const publicUrl = options.publicUrl === undefined ? undefined : parseServerAddress(options.publicUrl).address
    const relay = options.relay === false ? undefined : new RelayService(options.relay, publicUrl === undefined)
    const rendezvous = new RendezvousService()
    const peer = await Peer.create({
      ...(options.identity === undefined ? {} : { identity: options.identity }),
      ...(options.identityFile === undefined ? {} : { identityFile: options.identityFile }),
      listen: [],
      // Whoever proves an identity may use the services; they are all there is.
      firewall: { allow: 'all' },
      maxSessions: 50_000,
      pathlessMs: 0,
      ...(relay === undefined ? {} : { onCircuit: (path, circuit) => relay.onCircuit(path, circuit) }),
    })
    peer.handleStream(RENDEZVOUS_PROTOCOL, (stream, context) => rendezvous.serve(stream, context))
    if (relay !== undefined) peer.handleStream(RELAY_PROTOCOL, (stream, context) => relay.serve(stream, context))
    const limits = new ReflectorLimits()
    const started = performance.now()
    const makePort = () =>
      new Port({
        tls: options.tls,
        onPath: (path) => void peer.accept(path),
        onStun: (socket, head) => serveStunTcp(socket, head, { limits }),
        health: () => ({
          status: 'ok',
          peerId: peer.id,
          uptimeSeconds: Math.floor((performance.now() - started) / 1000),
          peers: rendezvous.online,
          reservations: relay?.reservations ?? 0,
          circuits: relay?.circuits ?? 0,
        }),
      })
    try {
      const { port, reflector, bound } = await bindBoth(makePort, limits, host, wanted)
      const scheme = options.tls === undefined ? 'ws' : 'wss'
      const address = publicUrl ?? `${scheme}://${formatHostPort(reachableHost(bound.host), bound.port)}`
      return new Server({ peer, port, reflector, relay, rendezvous, address })
    } catch (error) {
      await peer.close()
      throw error
    }
  }

  /** What peers are given: `ws://host:port#<peer id>`. */
  get url(): string {
    return `${this.#address}#${this.peer.id}`
  }

  /** Peers that are online here. */
  get online(): number {
    return this.#rendezvous.online
  }

  /** Circuits joined now. */
  get circuits(): number {
    return this.#relay?.circuits ?? 0
  }

  /** Ends in order: sessions are closed, circuits drained, the port given up. */
  async close(options: { signal?: AbortSignal } = {}): Promise<void> {
    this.#relay?.close()
    await this.peer.close(options)
    await Promise.all([this.#port.close(), this.#reflector.close()])
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

/** A host that others can dial, for one that we listen on. */
function reachableHost(bound: string): string {
  if (scopeOf(bound) !== 'unspecified') return bound
  return localAddresses().find(({ family }) => family === 4)?.host ?? '127.0.0.1'
}
