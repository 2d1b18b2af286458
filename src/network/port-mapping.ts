/**
 * Ports that the router maps to ours: PCP, NAT-PMP and UPnP, whichever it speaks.
 *
 *     look ──> a way that works ──> half of the lease ──> renew ──┐
 *      ^                                  ^───────────────────────┤ still works
 *      └── 15 s, 30 s, … 8 min, then quiet until `retry()` <──────┘ no longer
 *
 * - PCP is asked first: it is one round trip, tied to us by a nonce, and it says which address it gave. A router that
 *   answers none of it within 1.5 s is asked by UPnP, whose search has run meanwhile.
 * - A lease is short (30 min): a mapping outlives a crash by that at most (where a router knows only mappings without end,
 *   until it restarts), and a router that has forgotten it is asked anew after half of it. `close` takes the mappings
 *   back, in 2 s at most.
 * - Nothing here rejects or throws while it runs: without a router that maps there are no mappings, and `problem` says why.
 * - What the router says is not believed blindly. An address that none can have is refused; one that is not public means
 *   another NAT beyond this one, so the mapping is kept but not `reachable`.
 */
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { firstOf, under } from '../pause.ts'
import { type SocketAddress, scopeOf } from './address.ts'
import { defaultGateways } from './gateway.ts'
import {
  type Granted,
  type MappedProtocol,
  mapByNatPmp,
  mapByPcp,
  newNonce,
  type PcpRequest,
  unmapByNatPmp,
} from './pcp.ts'
import { findIgds, type Igd, mapByUpnp, unmapByUpnp } from './upnp.ts'

/** s that a mapping is asked for, see above. */
const LEASE_S = 1_800
/** ms between two rounds at least, whatever lease a router grants. */
const MIN_ROUND_MS = 15_000
/** Failed rounds in a row, 15 s, 30 s, … apart, after which only `retry` starts another: there is no such router here. */
const MAX_FAILURES = 6
/** ms for one whole look: a few routers, two languages, a search. */
const ROUND_MS = 15_000
/** ms to take the mappings back when closing. */
const RELEASE_MS = 2_000
/** The same for one that was asked for and not granted yet: three round trips to a router next door. */
const ASKED_RELEASE_MS = 300

export type MappingLanguage = 'upnp' | 'natpmp' | 'pcp'

/** A port outside that leads to one of ours. */
export interface PortMapping {
  readonly protocol: MappedProtocol
  readonly internalPort: number
  /** Our address as the router knows it. */
  readonly internalHost: string
  readonly external: SocketAddress
  /** False when the external address is not public: another NAT stands before the router. */
  readonly reachable: boolean
  /** ms since the epoch; it is renewed long before. */
  readonly expires: number
  readonly via: MappingLanguage
}

export interface PortMapperOptions {
  readonly tcpPort?: number
  readonly udpPort?: number
  /** As `close` does. */
  readonly signal?: AbortSignal
  /** The mappings are others now; renewals are not told. */
  readonly onChange?: (mappings: readonly PortMapping[]) => void
  /** In order of preference. @default ['pcp', 'natpmp', 'upnp'] */
  readonly languages?: readonly MappingLanguage[]
  /** The routers to ask by PCP and NAT-PMP. @default those of the default routes */
  readonly gateways?: readonly string[]
}

/** A port of ours. */
interface Port {
  readonly protocol: MappedProtocol
  readonly internalPort: number
}

/** One router in one language. */
interface Way {
  readonly via: MappingLanguage
  map(request: PcpRequest, options: { signal: AbortSignal }): Promise<Granted>
  unmap(mapping: Port & { readonly externalPort: number }, options: { signal: AbortSignal }): Promise<unknown>
}

export class PortMapper {
  readonly #options: PortMapperOptions
  readonly #ports: readonly Port[]
  /** Of PCP: who renews or ends a mapping must show the same one. */
  readonly #nonces = { tcp: newNonce(), udp: newNonce() }
  readonly #stop = new AbortController()
  readonly #running: Promise<void>
  /** Mappings by protocol, and the way each was made. */
  readonly #made = new Map<MappedProtocol, { mapping: PortMapping; way: Way }>()
  /** What is being asked for just now: it may have been granted when we are stopped. */
  #asking: { port: Port; way: Way; externalPort: number } | undefined
  #failures = 0
  #problem: PeerlineError | undefined
  #wake: () => void = () => {}
  #again = false
  #closing: Promise<void> | undefined

  private constructor(options: PortMapperOptions) {
    const { tcpPort, udpPort, signal } = options
    this.#options = options
    const ports: Port[] = []
    if (tcpPort !== undefined) ports.push({ protocol: 'tcp', internalPort: tcpPort })
    if (udpPort !== undefined) ports.push({ protocol: 'udp', internalPort: udpPort })
    this.#ports = ports
    this.#running = this.#run()
    const onAbort = () => void this.close()
    signal?.addEventListener('abort', onAbort, { once: true })
    this.#stop.signal.addEventListener('abort', () => signal?.removeEventListener('abort', onAbort))
    if (signal?.aborted === true) onAbort()
  }

  /** Starts to ask for mappings, and goes on in the background. */
  static start(options: PortMapperOptions): PortMapper {
    return new PortMapper(options)
  }

  /** The mappings there are now. */
  get mappings(): readonly PortMapping[] {
    return [...this.#made.values()].map(({ mapping }) => mapping)
  }

  /** Why the last look found no router that maps; undefined while there is one, or no look has ended. */
  get problem(): PeerlineError | undefined {
    return this.#problem
  }

  /** Looks again now, as when the network has changed. */
  retry(): void {
    this.#failures = 0
    this.#again = true // in case a round is under way: it has seen the network as it was
    this.#wake()
  }

  /** Takes the mappings back, within 2 s. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const asking = this.#asking
    this.#stop.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the port mapper was closed'))
    this.#wake()
    await this.#running
    const taken = [...this.#made.values()].map(({ mapping, way }) => ({
      way,
      port: mapping as Port,
      externalPort: mapping.external.port,
    }))
    this.#made.clear()
    const release = (all: typeof taken, ms: number) => {
      const signal = AbortSignal.timeout(ms)
      return all.map(({ way, port, externalPort }) => way.unmap({ ...port, externalPort }, { signal }))
    }
    // A router that does not answer forgets them by itself, later; and one that is asked just now may be no such router.
    const asked = asking === undefined ? [] : [asking]
    await Promise.allSettled([...release(taken, RELEASE_MS), ...release(asked, ASKED_RELEASE_MS)])
  }

  async #run(): Promise<void> {
    if (this.#ports.length === 0) return
    while (!this.#stop.signal.aborted) {
      const before = this.#fingerprint()
      const worked = await this.#round()
      if (this.#stop.signal.aborted) return
      this.#failures = worked ? 0 : this.#failures + 1
      this.#dropExpired()
      if (this.#fingerprint() !== before) this.#tell()
      await this.#sleep(this.#pauseMs(worked))
    }
  }

  #tell(): void {
    try {
      this.#options.onChange?.(this.mappings)
    } catch {
      // The listener's own failure must not end the renewals.
    }
  }

  /** ms until the next round. */
  #pauseMs(worked: boolean): number {
    const expires = [...this.#made.values()].map(({ mapping }) => mapping.expires - Date.now())
    const first = Math.min(...expires)
    if (worked) return Math.max(MIN_ROUND_MS, first / 2)
    const retry = this.#failures > MAX_FAILURES ? Number.POSITIVE_INFINITY : MIN_ROUND_MS * 2 ** (this.#failures - 1)
    // What runs out is to be dropped in time.
    return Math.max(0, Math.min(retry, first))
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = Number.isFinite(ms) ? setTimeout(resolve, ms) : undefined
      timer?.unref()
      this.#wake = () => {
        this.#again = false
        clearTimeout(timer)
        resolve()
      }
      if (this.#again || this.#stop.signal.aborted) this.#wake()
    })
  }

  /** Renews by the way that worked before, else looks for one. Never rejects. */
  #round(): Promise<boolean> {
    return under([this.#stop.signal, AbortSignal.timeout(ROUND_MS)], (signal) => this.#seek(signal))
  }

  async #seek(signal: AbortSignal): Promise<boolean> {
    const known = new Set([...this.#made.values()].map(({ way }) => way))
    for (const way of known) if (await this.#use(way, signal)) return true
    try {
      for await (const way of this.#ways(signal)) if (await this.#use(way, signal)) return true
    } catch (error) {
      this.#problem = asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
    }
    this.#problem ??= new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'no router that maps ports answers')
    return false
  }

  /** Every way there may be, in order of preference. */
  async *#ways(signal: AbortSignal): AsyncGenerator<Way> {
    const languages = this.#options.languages ?? ['pcp', 'natpmp', 'upnp']
    // The search takes its time: it runs while others are asked.
    const found = new AbortController()
    const searching = { signal: firstOf(signal, found.signal) }
    const igds = languages.includes('upnp') ? findIgds(searching) : Promise.resolve([])
    try {
      const gateways = this.#options.gateways ?? (await defaultGateways())
      for (const via of languages) {
        if (via === 'upnp') for (const igd of await igds) yield upnpWay(igd)
        else for (const gateway of gateways) yield via === 'pcp' ? pcpWay(gateway, this.#nonces) : natPmpWay(gateway)
      }
    } finally {
      found.abort()
    }
  }

  /** Maps or renews every port by one way; true when that did for one at least. */
  async #use(way: Way, signal: AbortSignal): Promise<boolean> {
    let worked = false
    for (const port of this.#ports) {
      const last = this.#made.get(port.protocol)?.mapping.external.port
      const externalPort = last ?? port.internalPort
      try {
        this.#asking = { port, way, externalPort }
        const granted = await way.map({ ...port, externalPort, lifetime: LEASE_S }, { signal })
        this.#made.set(port.protocol, { mapping: await this.#checked(port, granted, way), way })
        worked = true
      } catch (error) {
        this.#problem = asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
        // Who does not answer at all will not for the next port either.
        if (this.#problem.code !== 'ERR_PEERLINE_REMOTE') break
      } finally {
        this.#asking = undefined
      }
    }
    if (worked) this.#problem = undefined
    return worked
  }

  async #checked(port: Port, { external, internalHost, lifetime }: Granted, way: Way): Promise<PortMapping> {
    const scope = scopeOf(external.host)
    const sane = scope === 'public' || scope === 'private' || scope === 'reserved'
    if (!sane || external.port === 0 || lifetime === 0) {
      await way.unmap({ ...port, externalPort: external.port }, { signal: this.#stop.signal }).catch(() => {})
      throw new PeerlineError('ERR_PEERLINE_REMOTE', `the router gives a ${scope} address, which nobody can reach`)
    }
    const expires = Date.now() + Math.min(lifetime, LEASE_S) * 1_000
    return { ...port, internalHost, external, reachable: scope === 'public', expires, via: way.via }
  }

  #dropExpired(): void {
    const now = Date.now()
    for (const [protocol, { mapping }] of this.#made) if (mapping.expires <= now) this.#made.delete(protocol)
  }

  #fingerprint(): string {
    return JSON.stringify(this.mappings.map(({ expires: _, ...rest }) => rest))
  }
}

function pcpWay(gateway: string, nonces: Record<MappedProtocol, Uint8Array>): Way {
  return {
    via: 'pcp',
    map: (request, options) => mapByPcp(gateway, request, nonces[request.protocol], options),
    unmap: ({ protocol, internalPort }, options) =>
      mapByPcp(gateway, { protocol, internalPort, externalPort: 0, lifetime: 0 }, nonces[protocol], options),
  }
}

function natPmpWay(gateway: string): Way {
  return {
    via: 'natpmp',
    map: (request, options) => mapByNatPmp(gateway, request, options),
    unmap: (port, options) => unmapByNatPmp(gateway, port, options),
  }
}

function upnpWay(igd: Igd): Way {
  return {
    via: 'upnp',
    map: (request, options) => mapByUpnp(igd, request, options),
    unmap: (mapping, options) => unmapByUpnp(igd, mapping, options),
  }
}
