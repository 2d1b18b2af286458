/**
 * Where a peer is to be found: where it listens, the ports that its NAT maps, and how that NAT behaves.
 *
 *     listeners ──────────────────────────────┐
 *     TCP port of the rendezvous connection ──┤
 *     UDP socket, seen by reflectors ─────────┼──> candidates, for offers, answers and rounds of punching
 *     mappings that the router was asked for ─┤
 *     public address, listeners' ports ───────┤   when the user names services that tell it
 *     what peers agree that they see ─────────┘   when there is neither rendezvous nor reflector
 *
 * - Nothing is asked while a dial waits: what others see is learned when a rendezvous is reached, and kept fresh.
 * - The UDP socket sends a request every 20 s, or more often where the NAT turns out to forget sooner; that holds its
 *   mapping, and tells when it has changed.
 * - What is missing (no UDP here, no reflector, no router that maps) is left out: the rest serves.
 */
import { type Candidate, firstOf, type Vantage } from '../connect/index.ts'
import { formatHostPort, localAddresses, parseHostPort, type SocketAddress, scopeOf } from '../network/address.ts'
import { type AddressVerdict, type Quorum, type QuorumSettings, readQuorum } from '../network/address-quorum.ts'
import {
  classifyTcp,
  type NatMapping,
  type NatView,
  observeTcp,
  observeUdp,
  type TransportView,
} from '../network/nat.ts'
import { KEEP_ALIVE_MS, measureMappingLife } from '../network/nat-lifetime.ts'
import { resolveReflectors } from '../network/nat-reflectors.ts'
import { PortMapper } from '../network/port-mapping.ts'
import { PublicAddress, type PublicAddressSettings } from '../network/public-address.ts'
import { reflectTcp, reflectUdp } from '../network/reflect.ts'
import { UdpSocket } from '../network/udp-socket.ts'
import { askQuorum, type Place, SeenAddress } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { Listener } from './listener.ts'
import type { RendezvousLink } from './rendezvous-link.ts'

/** ms for one fresh look at a port that a NAT counts up: two slow round trips, or else old numbers have to do. */
const REFRESH_MS = 500

/** Ports to dial rendezvous from: those that Linux takes ephemeral ones from, so that no service has them. */
const FIRST_PORT = 32_768
const LAST_PORT = 60_999

/** ms before each further look at what the first one did not show. */
const LOOK_AGAIN_MS = [1_000, 5_000, 30_000]

/** ms after a look at the network until things have calmed down. */
const CALM_MS = 1_000

/** ms before peers are asked again: they answer six times a minute. */
const ASK_AGAIN_MS = 15_000

const UNKNOWN: TransportView = { state: 'unknown', mapping: 'unknown', mapped: [] }

export interface ReachabilityOptions {
  readonly listeners: () => readonly Listener[]
  readonly links: () => readonly RendezvousLink[]
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  /** Reflectors besides the servers' own, `host:port`. */
  readonly reflectors: readonly string[]
  /** Open a UDP socket, where the optional package is installed. */
  readonly udp: boolean
  /** Ask the router to map our ports. */
  readonly portMapping: boolean
  /** Services that tell our public address. @default none */
  readonly publicAddress?: PublicAddressSettings | undefined
  /** Sessions with peers, who may be asked what they see of us. */
  readonly observers: () => readonly Session[]
  /** How many of them have to agree. @default 3, in 2 networks */
  readonly addressQuorum?: QuorumSettings | undefined
  /** False for an address that is shut out. */
  readonly mayUse: (host: string) => boolean
  /** Ask reflectors; false where nobody is told of what they see. */
  readonly observe: boolean
  /** The ways to us are others now. */
  readonly onChange: () => void
  /** UDP paths need a word more or less often than was thought, ms. */
  readonly onKeepAlive: (ms: number) => void
}

export class Reachability {
  /** The port that rendezvous are dialled from, so that its mapping is known. */
  tcpPort: number = randomPort()
  readonly #options: ReachabilityOptions
  readonly #stop = new AbortController()
  #udp: UdpSocket | undefined
  #udpView: TransportView = UNKNOWN
  #tcpView: TransportView = UNKNOWN
  #mapper: PortMapper | undefined
  readonly #public: PublicAddress | undefined
  #reflectors: readonly SocketAddress[] = []
  #lastTcpPort: number | undefined
  #observing: Promise<void> | undefined
  #keepTimer: ReturnType<typeof setInterval> | undefined
  #keepAliveMs = KEEP_ALIVE_MS
  #calmTimer: ReturnType<typeof setTimeout> | undefined
  #lookTimer: ReturnType<typeof setTimeout> | undefined
  /** Looks that came after the first one in this network. */
  #looks = 0
  #askedAt = Number.NEGATIVE_INFINITY
  #askTimer: ReturnType<typeof setTimeout> | undefined
  #asking: Promise<void> | undefined
  #agreed: readonly AddressVerdict[] = []
  /** Tells peers what we see of them. */
  readonly seen = new SeenAddress({
    places: (session) => this.#places(session),
    knows: () => this.#candidates(this.#lastTcpPort).some(({ host }) => scopeOf(host) === 'public'),
    udp: () => this.#udp,
  })
  readonly #quorum: Quorum
  /** Others were asked since the network was last another one. */
  #observed = false
  /** The life of a UDP mapping is, or was, measured in this network. */
  #measured = false

  constructor(options: ReachabilityOptions) {
    this.#options = options
    this.#quorum = readQuorum(options.addressQuorum ?? {})
    if (options.publicAddress === undefined || !options.observe) return
    this.#public = new PublicAddress(options.publicAddress, { signal: this.#stop.signal })
  }

  /** Opens the UDP socket and asks the router for mappings. Never rejects: what is not to be had is left out. */
  async start(): Promise<void> {
    const { udp, portMapping, listeners } = this.#options
    if (udp) this.#udp = await this.#openUdp().catch(() => undefined)
    if (this.#stop.signal.aborted) return void this.#udp?.close()
    this.#keepOften()
    void this.#lookUp()
    // Those of the options are there without a rendezvous, too; who is dialled had better know by then.
    if (this.#options.reflectors.length > 0) void this.onOnline()
    const listener = listeners().find(({ onLoopback }) => !onLoopback)
    if (!portMapping || listener === undefined) return
    this.#mapper = PortMapper.start({
      tcpPort: listener.port,
      ...(this.#udp === undefined ? {} : { udpPort: this.#udp.port }),
      signal: this.#stop.signal,
      onChange: () => this.#options.onChange(),
    })
  }

  #openUdp(): Promise<UdpSocket> {
    // Who listens on loopback alone is not to be found elsewhere over UDP either.
    const listeners = this.#options.listeners()
    const inside = listeners.length > 0 && listeners.every(({ onLoopback }) => onLoopback)
    return UdpSocket.open(inside ? { host: '127.0.0.1' } : {})
  }

  /** One more socket, for a search that needs many. */
  readonly openUdp = (): Promise<UdpSocket> => this.#openUdp()

  /** Takes another port for rendezvous: this one is in use, or its last connection with this server is not forgotten. */
  changeTcpPort(): void {
    this.tcpPort = randomPort()
  }

  /** What is known now. */
  view(): Vantage {
    const link = this.#options.links().find(({ rendezvous }) => rendezvous !== undefined)
    // Without a rendezvous the port that was last mapped is as good a guess as any.
    this.#lastTcpPort = link?.localPort ?? this.#lastTcpPort
    return {
      candidates: this.#candidates(this.#lastTcpPort),
      nat: {
        // A NAT that gives every flow over UDP a new port does so over TCP, as far as anybody has seen.
        tcp: this.#tcpView.mapping === 'unknown' ? counted(this.#udpView.mapping) : this.#tcpView.mapping,
        udp: this.#udpView.mapping,
        step: this.#udpView.step ?? this.#tcpView.step ?? 0,
      },
      rendezvousRttMs: shortest(link?.rttMs, this.#udpView.rttMs, this.#tcpView.rttMs),
      tcpPort: this.#lastTcpPort,
      udp: this.#udp,
      reflectors: this.#reflectors,
    }
  }

  /** How the NAT behaves, as far as it is known. */
  get nat(): NatView {
    return { udp: this.#udpView, tcp: this.#tcpView }
  }

  /** The mappings that the router has made for us. */
  get portMappings(): PortMapper['mappings'] {
    return this.#mapper?.mappings ?? []
  }

  #candidates(tcpPort: number | undefined): Candidate[] {
    const loopback = this.#options.loopback()
    const found: Candidate[] = this.#options.listeners().flatMap((listener) => listener.candidates(loopback))
    for (const { protocol, external, reachable } of this.portMappings) {
      const kind = protocol === 'tcp' ? 'tcp' : 'udp-srflx'
      if (reachable) found.push({ kind, host: external.host, port: external.port })
    }
    found.push(...this.#forwarded())
    const own = localAddresses({ loopback: false })
    if (this.#udp !== undefined) {
      const { port, loopbackOnly } = this.#udp
      if (loopbackOnly) found.push({ kind: 'udp', host: '127.0.0.1', port })
      else for (const { host } of own) found.push({ kind: 'udp', host, port })
      for (const { host, port } of this.#udpView.mapped) found.push({ kind: 'udp-srflx', host, port })
    }
    if (tcpPort !== undefined) {
      for (const { host, port } of this.#tcpView.mapped) found.push({ kind: 'tcp-so', host, port })
      // IPv6 is not mapped as a rule, but firewalled: the same port, opened from both sides.
      for (const { host, family, scope } of own) {
        if (family === 6 && scope === 'public') found.push({ kind: 'tcp-so', host, port: tcpPort })
      }
    }
    const seen = new Set<string>()
    return found.filter(({ kind, host, port }) => {
      if (scopeOf(host) === 'loopback' && !loopback) return false
      const key = `${kind} ${formatHostPort(host, port)}`
      return !seen.has(key) && seen.add(key)
    })
  }

  /** Where a router that forwards our ports as they are, by its owner's hand, has us listen; a mapping that it told is surer. */
  #forwarded(): Candidate[] {
    const mapped = this.portMappings.filter(({ protocol, reachable }) => protocol === 'tcp' && reachable)
    const hosts = (this.#public?.addresses ?? []).filter(
      (host) => !mapped.some(({ external }) => external.host === host),
    )
    const listeners = this.#options.listeners().filter(({ onLoopback }) => !onLoopback)
    return hosts.flatMap((host) => listeners.map(({ port }): Candidate => ({ kind: 'tcp', host, port })))
  }

  /**
   * Where the other side of a session reaches us: at public addresses of our own, at what the router maps, and at our UDP
   * socket as others see it, when the session has a path to that.
   */
  #places({ pathInfo }: Pick<Session, 'pathInfo'>): Place[] {
    if (!this.#options.observe) return []
    const own = new Set(localAddresses().map(({ host }) => host))
    const overUdp = pathInfo.some(({ kind }) => kind === 'udp')
    return this.#candidates(undefined).flatMap(({ kind, host, port }): Place[] => {
      if (scopeOf(host) !== 'public') return []
      if (kind === 'tcp') return [{ kind, host, port }]
      const mapped = this.portMappings.some(({ external }) => external.host === host && external.port === port)
      const reached = kind === 'udp' ? own.has(host) : mapped || overUdp
      return kind !== 'tcp-so' && reached ? [{ kind: 'udp', host, port }] : []
    })
  }

  // ---- what others see ----

  /** What peers agreed on last, of IPv4 and IPv6. Nothing before the first look. */
  get agreed(): readonly AddressVerdict[] {
    return this.#agreed
  }

  /** A session with a peer is open: where nobody else tells what he sees of us, there may be peers enough now. */
  onSession(): void {
    if (!this.#wantsPeers) return
    clearTimeout(this.#askTimer)
    const wait = Math.max(CALM_MS, this.#askedAt + ASK_AGAIN_MS - performance.now())
    this.#askTimer = setTimeout(() => void this.#askPeers(), wait)
    this.#askTimer.unref?.()
  }

  /** What peers see of us would be news. */
  get #wantsPeers(): boolean {
    if (!this.#options.observe || this.#isTold) return false
    const known = this.#udp === undefined || this.#udpView.mapping !== 'unknown'
    return !(known && this.#agreed.some(({ kind }) => kind === 'agreed'))
  }

  /** Asks those who are there at once, where they are enough and were not asked just now. */
  async #hearPeers(): Promise<void> {
    if (this.#asking !== undefined) return this.#asking
    if (!this.#wantsPeers || performance.now() - this.#askedAt < ASK_AGAIN_MS) return
    const asked = new Set(this.#options.observers().map(({ peer }) => peer))
    if (asked.size < this.#quorum.quorum) return
    clearTimeout(this.#askTimer)
    await this.#askPeers()
  }

  /** A rendezvous or a reflector is there to tell what it sees. */
  get #isTold(): boolean {
    return (
      this.#options.reflectors.length > 0 || this.#options.links().some(({ rendezvous }) => rendezvous !== undefined)
    )
  }

  /** Asks peers. Never rejects. */
  #askPeers(): Promise<void> {
    const asking = this.#hear().finally(() => {
      if (this.#asking === asking) this.#asking = undefined
    })
    this.#asking = asking
    return asking
  }

  async #hear(): Promise<void> {
    const { observers, mayUse } = this.#options
    this.#askedAt = performance.now()
    const { signal } = this.#stop
    const [udp, tcpPort] = [this.#udp, this.#lastTcpPort ?? this.tcpPort]
    const agreed = this.#agreed
    const options = { sessions: observers(), signal, local: localAddresses(), udp, tcpPort, mayUse }
    const report = await askQuorum({ ...options, ...this.#quorum }).catch(() => undefined)
    // Closed; or the network is another one, or somebody else has told meanwhile.
    if (report === undefined || this.#agreed !== agreed || this.#isTold) return
    const before = this.#known
    this.#agreed = [report.v4, report.v6]
    const verdict = this.#agreed.find(({ kind }) => kind === 'agreed')
    if (verdict?.kind !== 'agreed') return
    if (verdict.udp.state === 'ok') this.#udpView = verdict.udp
    if (verdict.tcp.state === 'ok') {
      this.#tcpView = verdict.tcp
      this.#lastTcpPort = tcpPort
    }
    if (this.#known !== before) this.#options.onChange()
  }

  /** Asks for the public address, where somebody is named who tells it. Never rejects. */
  async #lookUp(): Promise<void> {
    if (this.#public === undefined) return
    const before = this.#public.addresses.join()
    await this.#public.refresh()
    if (!this.#stop.signal.aborted && this.#public.addresses.join() !== before) this.#options.onChange()
  }

  /** A rendezvous was reached: it has seen our TCP port, and knows reflectors. */
  onOnline(): Promise<void> {
    if (!this.#options.observe) return Promise.resolve()
    void this.#lookUp()
    this.#observing ??= this.#observe().finally(() => {
      this.#observing = undefined
    })
    return this.#observing
  }

  /** Resolves when others have been asked what they see of us, at least once since the network was last another one. */
  async settled(): Promise<void> {
    const known = this.#observed || !this.#isTold
    await (this.#observing ?? (known ? undefined : this.onOnline()))
    if (!this.#observed) await this.#hearPeers()
  }

  async #observe(): Promise<void> {
    const { signal } = this.#stop
    const before = this.#known
    // What the rendezvous themselves have seen is known at once; the reflectors' answers come later.
    const local = localAddresses({ loopback: true })
    const options = { signal, local, online: true }
    const seen = this.#seenByRendezvous()
    // Nobody is there to ask: what was seen before is the best there is.
    if (seen.length === 0 && this.#options.reflectors.length === 0) return
    this.#tcpView = classifyTcp(seen, local)
    try {
      this.#reflectors = await this.#findReflectors(signal)
      // What did not answer in time is not known.
      await Promise.all([this.#observeTcp(options), this.#observeUdp(options)])
    } catch {
      return // closed meanwhile
    }
    this.#observed = true
    if (this.#known !== before) this.#options.onChange()
    void this.#measureLife()
    this.#lookAgain()
    // Right after the start much else is going on: a round trip that is measured a moment later is a better one.
    clearTimeout(this.#calmTimer)
    this.#calmTimer = setTimeout(() => void this.#keepMapped(), CALM_MS)
    this.#calmTimer.unref?.()
  }

  /** Some answers are late, or lost: what is not known is asked for again, a few times. */
  #lookAgain(): void {
    clearTimeout(this.#lookTimer)
    const unknown = (view: TransportView) => view.state === 'ok' && view.mapping === 'unknown'
    if (!unknown(this.#tcpView) && !(this.#udp !== undefined && unknown(this.#udpView))) return
    const wait = LOOK_AGAIN_MS[this.#looks]
    if (wait === undefined) return
    this.#looks++
    this.#lookTimer = setTimeout(() => void this.onOnline(), wait)
    this.#lookTimer.unref?.()
  }

  /** What is known, to be compared. */
  get #known(): string {
    const agreed = this.#agreed.map((one) => (one.kind === 'agreed' ? one.address : undefined))
    const views = [this.#tcpView, this.#udpView].map(({ mapping, mapped }) => [mapping, mapped])
    return JSON.stringify([agreed, views])
  }

  #seenByRendezvous(): { localPort: number; mapped: { host: string; port: number } }[] {
    return this.#options.links().flatMap(({ rendezvous, localPort }) => {
      if (rendezvous === undefined || localPort === undefined) return []
      try {
        return { localPort, mapped: parseHostPort(rendezvous.observed) }
      } catch {
        return []
      }
    })
  }

  /** Every reflector that is known: those of the options, the rendezvous themselves, and those that they name. */
  async #findReflectors(signal: AbortSignal): Promise<SocketAddress[]> {
    const ofLinks = this.#options.links().map(async ({ host, port, rendezvous }) => {
      if (rendezvous === undefined) return []
      const itself = await resolveReflectors([formatHostPort(host, port)], { signal, trusted: true })
      return [...itself, ...(await resolveReflectors(rendezvous.reflectors, { signal, at: host }))]
    })
    const own = resolveReflectors(this.#options.reflectors, { signal, trusted: true })
    const all = (await Promise.all([...ofLinks, own])).flat()
    // IPv4 first: NATs are a matter of IPv4.
    return all.sort((a, b) => a.family - b.family)
  }

  async #observeUdp(options: Parameters<typeof observeUdp>[2]): Promise<void> {
    if (this.#udp === undefined) return
    this.#udpView = await observeUdp(this.#udp, this.#reflectors, options)
  }

  /**
   * The rendezvous has seen our port; how the NAT came by it, a port that nothing else uses tells, for it can be seen from
   * several sides at once.
   */
  async #observeTcp(options: Parameters<typeof observeTcp>[1]): Promise<void> {
    const { mapping, step, rttMs } = await observeTcp(this.#reflectors, options)
    const seen = classifyTcp(this.#seenByRendezvous(), options.local)
    this.#tcpView = {
      ...seen,
      mapping,
      ...(step === undefined ? {} : { step }),
      // A connection takes one round trip, and the question another one.
      ...(rttMs === undefined ? {} : { rttMs: rttMs / 2 }),
    }
  }

  /** Looks again at ports that the NAT counts up: the last one that it gave. Never rejects. */
  async refresh(signal: AbortSignal): Promise<void> {
    const [reflector] = this.#reflectors
    if (reflector === undefined) return
    const { host, port } = reflector
    const limited = firstOf(signal, this.#stop.signal, AbortSignal.timeout(REFRESH_MS))
    const look = async (view: TransportView, ask: () => Promise<{ host: string; port: number; family: 4 | 6 }>) => {
      if (view.mapping !== 'sequential') return view
      return { ...view, mapped: [await ask()] }
    }
    const [tcp, udp] = await Promise.allSettled([
      look(this.#tcpView, () => reflectTcp(host, port, { signal: limited })),
      look(this.#udpView, () => reflectUdp(host, port, { signal: limited, rtoMs: 150 })),
    ])
    if (tcp.status === 'fulfilled') this.#tcpView = tcp.value
    if (udp.status === 'fulfilled') this.#udpView = udp.value
  }

  /** ms of silence after which a UDP path needs a word, so that no NAT on the way forgets it. */
  get keepAliveMs(): number {
    return this.#keepAliveMs
  }

  #keepOften(): void {
    clearInterval(this.#keepTimer)
    this.#keepTimer = setInterval(() => void this.#keepMapped(), this.#keepAliveMs)
    this.#keepTimer.unref?.()
  }

  /** Learns by trying whether the NAT remembers UDP for 25 s, once in each network. Never rejects. */
  async #measureLife(): Promise<void> {
    const { state, mapping } = this.#udpView
    const [reflector] = this.#reflectors
    if (this.#measured || state !== 'ok' || mapping === 'none' || reflector === undefined) return
    this.#measured = true
    try {
      const { keepAliveMs } = await measureMappingLife(reflector, { signal: this.#stop.signal })
      if (keepAliveMs === this.#keepAliveMs) return
      this.#keepAliveMs = keepAliveMs
      this.#keepOften()
      this.#options.onKeepAlive(keepAliveMs)
    } catch {
      // Closed meanwhile.
    }
  }

  /** Holds the mapping of the UDP socket, and learns when it has changed. */
  async #keepMapped(): Promise<void> {
    const [reflector] = this.#reflectors
    if (this.#udp === undefined || reflector === undefined || this.#udpView.state !== 'ok') return
    const asked = performance.now()
    try {
      const now = await this.#udp.reflect(reflector.host, reflector.port, { signal: this.#stop.signal })
      const { mapping, mapped } = this.#udpView
      this.#udpView = { ...this.#udpView, rttMs: performance.now() - asked }
      if (mapping === 'sequential' || mapping === 'random') return
      if (!mapped.some(({ host, port }) => host === now.host && port === now.port)) await this.onOnline()
    } catch {
      // One lost answer is nothing; the next request comes soon.
    }
  }

  /** The addresses of this machine have changed: what was seen before holds no longer. */
  async networkChanged(): Promise<void> {
    this.#udpView = UNKNOWN
    this.#tcpView = UNKNOWN
    this.#lastTcpPort = undefined
    this.#measured = false
    this.#looks = 0
    this.#observed = false
    this.#agreed = []
    this.onSession()
    this.#mapper?.retry()
    this.#public?.forget()
    await this.onOnline()
  }

  async close(): Promise<void> {
    this.#stop.abort()
    clearInterval(this.#keepTimer)
    clearTimeout(this.#lookTimer)
    clearTimeout(this.#calmTimer)
    clearTimeout(this.#askTimer)
    this.seen.close()
    await Promise.all([this.#udp?.close(), this.#mapper?.close()])
  }
}

function counted(mapping: NatMapping): NatMapping {
  return mapping === 'random' || mapping === 'sequential' ? mapping : 'unknown'
}

function randomPort(): number {
  return FIRST_PORT + Math.floor(Math.random() * (LAST_PORT - FIRST_PORT + 1))
}

/** The smallest of several measurements: whatever is above it was somebody's delay. */
function shortest(...measured: readonly (number | undefined)[]): number | undefined {
  const known = measured.filter((ms) => ms !== undefined)
  return known.length === 0 ? undefined : Math.min(...known)
}
