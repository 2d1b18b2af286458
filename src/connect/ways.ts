/**
 * The direct ways between the two peers of a session: each of them tried once per call, and noted for the report.
 *
 *     tcp      dialled where the other side listens
 *     tcp-so   opened from both sides at once, at a mapped port, a predicted one, or one that is searched
 *     udp      punched, predicted, or searched
 *     webrtc   described to each other, in offer and answer or inside the session
 *
 * A path that opens is attached by the initiator, and awaited by the other side. When to try what is decided by
 * `upgrade.ts`; here is how.
 */
import { asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import {
  formatHostPort,
  localAddresses,
  type SocketAddress,
  sortByNearness,
  toSocketAddress,
} from '../network/address.ts'
import type { NatMapping } from '../network/nat.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import { type FramedPath, type IceServer, tcpPath, WebRtcAttempt, type WebRtcOptions } from '../path/index.ts'
import { firstOf, pause } from '../pause.ts'
import type { PathAttempt, Session } from '../session/index.ts'
import { type Candidate, type ConnectionBody, encodeBody, type NatHint } from './candidate.ts'
import { type BirthdayBudget, DEFAULT_BUDGET, type PortAllocation } from './punch-plan.ts'
import { punchTcp } from './punch-tcp.ts'
import { searchTcp } from './punch-tcp-search.ts'
import { punchUdp } from './punch-udp.ts'
import { raceTcp } from './race.ts'
/** A kind of direct path. */
export type Way = 'tcp' | 'udp' | 'webrtc'

/** What a peer knows of itself at the moment. */
export interface Vantage {
  /** The ways to us, best first. */
  readonly candidates: readonly Candidate[]
  readonly nat: NatHint
  /** Round trip to the rendezvous, ms. */
  readonly rendezvousRttMs: number | undefined
  /** The local TCP port whose mapping the `tcp-so` candidates name. */
  readonly tcpPort: number | undefined
  /** The socket whose addresses the `udp` candidates name. */
  readonly udp: UdpSocket | undefined
  /** STUN servers that are known to answer, nearest first. */
  readonly reflectors: readonly SocketAddress[]
}

export interface WebRtcSetup {
  /** STUN and TURN servers. */
  readonly iceServers: readonly IceServer[]
  readonly iceTransportPolicy?: 'all' | 'relay'
}

export interface WaysOptions {
  readonly session: Session
  /** 32 bytes that both sides share, and nobody else. */
  readonly secret: Uint8Array
  readonly ways: ReadonlySet<Way>
  readonly vantage: () => Vantage
  readonly openUdp: () => Promise<UdpSocket>
  /** Takes a path that the other side will attach. */
  readonly accept: (path: FramedPath) => void
  /** Whether an address that a remote named may be dialled. */
  readonly mayDial: (host: string) => boolean
  /** How WebRTC is to be tried; false: not at all. */
  readonly webrtc: WebRtcSetup | false
  /** What was begun already, and described in the offer or the answer. */
  readonly webrtcAttempt?: WebRtcAttempt | undefined
  /** The birthday search's; false: no such search. */
  readonly birthday: BirthdayBudget | false | undefined
  /** Ends everything with the session. */
  readonly signal: AbortSignal
}

/** ms that the answering side leaves the dialling side to attach a direct path before it tries itself. */
const ANSWERER_DELAY_MS = 250

/** ms that a search waits: the relay's path, and the first data on it, go first. */
const SEARCH_GRACE_MS = 20

/** ms for the other side to describe its WebRTC. */
const DESCRIBE_MS = 5_000

/** Ports dialled ahead of a NAT that counts up: what a few other connections meanwhile may use up. */
const PREDICTED_PORTS = 12

/** Attempts remembered for the report. */
const MAX_ATTEMPTS = 32

export class Ways {
  readonly #options: WaysOptions
  #onAnswerDescription: ((description: Uint8Array) => void) | undefined
  /** A WebRTC description of the other side is being answered. */
  #answering = false
  /** What was described and is being connected. */
  #describing = 0
  readonly #attempts: PathAttempt[] = []

  constructor(options: WaysOptions) {
    this.#options = options
  }

  /** What was tried, the latest last. */
  get attempts(): readonly PathAttempt[] {
    return this.#attempts
  }

  get #initiator(): boolean {
    return this.#options.session.initiator
  }

  /** Runs what seeks a path of one kind until there is one. */
  async until(way: Way, signal: AbortSignal, begin: (stop: AbortSignal) => Promise<void>[]): Promise<void> {
    const { session, ways } = this.#options
    if (!ways.has(way) || session.paths.includes(way)) return
    const found = new AbortController()
    const look = () => {
      if (session.paths.includes(way)) found.abort()
    }
    session.addEventListener('paths', look)
    await Promise.all(begin(firstOf(signal, found.signal)))
    session.removeEventListener('paths', look)
    found.abort()
  }

  /** Dials the addresses where the other side listens. */
  async call(round: number, remote: ConnectionBody, signal: AbortSignal): Promise<void> {
    const targets = this.#targets(remote, 'tcp')
    if (targets.length === 0) return
    await this.#attempt(round, 'tcp', targets, signal, async () => {
      if (!this.#initiator) await pause(ANSWERER_DELAY_MS, signal)
      const path = await raceTcp(targets, signal)
      this.#options.session.attach(path)
      return path.remote
    })
  }

  /** Opens TCP simultaneously. */
  async open(round: number, remote: ConnectionBody, fire: Promise<void>, signal: AbortSignal): Promise<void> {
    const { vantage } = this.#options
    const targets = this.#targets(remote, 'tcp-so')
    const { tcpPort, nat } = vantage()
    if (targets.length === 0 || tcpPort === undefined) return
    if (nat.tcp === 'random' || remote.nat?.tcp === 'random') return this.#search(round, remote, fire, signal)
    const remotes = remote.nat?.tcp === 'sequential' ? ahead(targets, remote.nat.step) : targets
    // A NAT that counts remembers where this port went before: the other side counts on new ports.
    const localPort = nat.tcp === 'sequential' ? undefined : tcpPort
    await this.#attempt(round, 'tcp-so', targets, signal, async () => {
      await fire
      let opened = ''
      this.#options.session.vacate(new Set(remotes.map(({ host, port }) => formatHostPort(host, port))))
      await punchTcp({
        localPort,
        remotes,
        signal,
        onSocket: (socket) => {
          opened = this.#take(tcpPath(socket))
        },
      })
      return opened
    })
  }

  /** Searches the way to a NAT that gives every TCP connection a random port: where UDP does not get through. */
  async #search(round: number, remote: ConnectionBody, fire: Promise<void>, signal: AbortSignal): Promise<void> {
    const { vantage, birthday } = this.#options
    const { nat, tcpPort, udp } = vantage()
    const [target] = this.#targets(remote, 'tcp-so')
    const mine = nat.tcp === 'random'
    const theirs = remote.nat?.tcp ?? 'unknown'
    if (target === undefined) return
    const skip = (why: string) => this.#skip(round, 'tcp-so', [target], why)
    if (mine ? theirs === 'random' || theirs === 'sequential' : nat.tcp === 'sequential') {
      return skip('one NAT gives every TCP connection a random port, and the other one a new port')
    }
    if (birthday === false) return skip('a NAT gives every TCP connection a random port, and searching is switched off')
    const byUdp = udp !== undefined && nat.udp !== 'unknown' && (remote.nat?.udp ?? 'unknown') !== 'unknown'
    if (byUdp) return skip('a NAT gives every TCP connection a random port: UDP is searched, which costs less')
    await this.#attempt(round, 'tcp-so', [target], signal, async () => {
      await fire
      await pause(SEARCH_GRACE_MS, signal)
      let opened = ''
      await searchTcp({
        side: mine ? 'random' : 'fixed',
        localPort: tcpPort,
        remote: target,
        signal,
        onSocket: (socket) => {
          opened = this.#take(tcpPath(socket))
        },
      })
      return `${opened}, searched`
    })
  }

  /** Takes a path that both sides have opened: one of them attaches it. */
  #take(path: FramedPath): string {
    if (this.#initiator) this.#options.session.attach(path)
    else this.#options.accept(path)
    return path.remote
  }

  /** Punches UDP. @param searchMs ms that a search takes at most; @default as the options say */
  async probe(
    round: number,
    remote: ConnectionBody,
    fire: Promise<void>,
    signal: AbortSignal,
    searchMs = Number.POSITIVE_INFINITY,
  ): Promise<void> {
    const { vantage, openUdp, birthday = DEFAULT_BUDGET } = this.#options
    const budget = birthday && { ...birthday, ms: Math.min(birthday.ms, searchMs) }
    const { udp, nat } = vantage()
    const reflexive = this.#targets(remote, 'udp-srflx')
    const targets = [...this.#targets(remote, 'udp'), ...reflexive]
    if (udp === undefined) return this.#skip(round, 'udp', [], 'no UDP socket on this side')
    if (targets.length === 0) return this.#skip(round, 'udp', [], 'the other side has no UDP address')
    await this.#attempt(round, 'udp', targets, signal, async () => {
      // A NAT that counts remembers where a socket sent before: a fresh one gets the ports that the other side expects.
      const socket = nat.udp === 'sequential' ? await openUdp() : udp
      await fire
      if (nat.udp === 'random') await pause(SEARCH_GRACE_MS, signal)
      const [remoteReflexive] = reflexive
      const { path, how, rttMs } = await punchUdp({
        socket,
        openSocket: openUdp,
        secret: this.#options.secret,
        attempt: round,
        initiator: this.#initiator,
        remotes: targets,
        ...(remoteReflexive === undefined ? {} : { remoteReflexive }),
        localPorts: allocation(nat.udp, nat.step),
        remotePorts: allocation(remote.nat?.udp ?? 'unknown', remote.nat?.step ?? 0),
        budget,
        signal,
      }).finally(() => {
        if (socket !== udp) socket.retire()
      })
      return `${this.#take(path)}, ${how}, ${Math.round(rttMs)} ms round trip`
    })
  }

  // ---- WebRTC ----

  get #webrtcOptions(): WebRtcOptions {
    const { webrtc, vantage, mayDial, signal } = this.#options
    return webRtcOptions(webrtc, vantage().reflectors, mayDial, signal)
  }

  /**
   * Worth trying where the rounds found nothing: when there are servers that know more ways than we do, or no UDP of our
   * own.
   */
  get wantsWebRtc(): boolean {
    const { ways, webrtc, vantage } = this.#options
    return ways.has('webrtc') && webrtc !== false && (webrtc.iceServers.length > 0 || vantage().udp === undefined)
  }

  /** Goes on with what offer and answer have described. Never rejects. */
  async described(remote: ConnectionBody): Promise<void> {
    const { webrtcAttempt: attempt } = this.#options
    if (attempt === undefined) return
    await this.connectDescribed(0, attempt, this.#initiator ? remote.webrtc : undefined)
  }

  /** True while what was described is being connected. */
  get describes(): boolean {
    return this.#describing > 0
  }

  /**
   * Connects what both sides have described.
   * @param answer what the other side described in answer to ours; undefined where ours is the answer. Never rejects.
   */
  async connectDescribed(round: number, attempt: WebRtcAttempt, answer: Uint8Array | undefined): Promise<void> {
    if (attempt.role === 'offer' && answer === undefined) {
      attempt.close()
      return this.#skip(round, 'webrtc', [], 'the other side has no WebRTC')
    }
    this.#describing++
    await this.#attempt(round, 'webrtc', [], this.#options.signal, async () =>
      this.#take(await attempt.connect(answer)),
    )
    this.#describing--
  }

  /** Describes our side inside the session, and connects with the answer. Never rejects. */
  async offerWebRtc(round: number, signal: AbortSignal): Promise<void> {
    const late = new AbortController()
    await this.#attempt(round, 'webrtc', [], signal, async () => {
      const attempt = await WebRtcAttempt.offer(this.#webrtcOptions)
      try {
        const answered = new Promise<Uint8Array>((resolve) => {
          this.#onAnswerDescription = resolve
        })
        this.#options.session.sendCandidates(encodeBody({ webrtc: attempt.description }))
        const answer = await Promise.race([answered, pause(DESCRIBE_MS, firstOf(signal, late.signal))])
        if (answer === undefined) throw new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the other side describes no WebRTC')
        return this.#take(await attempt.connect(answer))
      } finally {
        this.#onAnswerDescription = undefined
        late.abort()
        attempt.close()
      }
    })
  }

  onDescription(round: number, description: Uint8Array): void {
    if (this.#initiator) return this.#onAnswerDescription?.(description)
    const { ways, webrtc, session } = this.#options
    if (!ways.has('webrtc') || webrtc === false || this.#answering) return
    this.#answering = true
    void this.#attempt(round, 'webrtc', [], this.#options.signal, async () => {
      const attempt = await WebRtcAttempt.answer(description, this.#webrtcOptions)
      try {
        session.sendCandidates(encodeBody({ webrtc: attempt.description }))
        return this.#take(await attempt.connect())
      } finally {
        attempt.close()
      }
    }).finally(() => {
      this.#answering = false
    })
  }

  // ---- tools ----

  #targets(remote: ConnectionBody, kind: Candidate['kind']): SocketAddress[] {
    const targets = remote.candidates.flatMap((candidate) => {
      if (candidate.kind !== kind || !this.#options.mayDial(candidate.host)) return []
      return toSocketAddress(candidate.host, candidate.port) ?? []
    })
    return sortByNearness(targets, localAddresses())
  }

  async #attempt(
    round: number,
    way: PathAttempt['way'],
    targets: readonly SocketAddress[],
    signal: AbortSignal,
    run: () => Promise<string>,
  ): Promise<void> {
    const started = performance.now()
    const note = (outcome: PathAttempt['outcome'], detail: string) =>
      this.#note({ round, way, targets: shown(targets), outcome, detail, ms: Math.round(performance.now() - started) })
    try {
      note('connected', await run())
    } catch (cause) {
      if (signal.aborted && isPeerlineError(cause) && cause.code === 'ERR_PEERLINE_ABORTED') {
        note('skipped', 'another way was there first')
      } else note('failed', asPeerlineError(cause, 'ERR_PEERLINE_NO_PATH').message)
    }
  }

  #skip(round: number, way: PathAttempt['way'], targets: readonly SocketAddress[], detail: string): void {
    this.#note({ round, way, targets: shown(targets), outcome: 'skipped', detail, ms: 0 })
  }

  #note(attempt: PathAttempt): void {
    this.#attempts.push(attempt)
    if (this.#attempts.length > MAX_ATTEMPTS) this.#attempts.shift()
  }

  /** The error of a session for which nothing worked. */
  failure(): PeerlineError | undefined {
    const tried = this.#attempts
      .filter(({ outcome }) => outcome !== 'connected')
      .map(({ way, detail }) => `${way}: ${detail}`)
    return tried.length === 0 ? undefined : new PeerlineError('ERR_PEERLINE_NO_PATH', tried.join('; '))
  }
}

/** What a WebRTC attempt needs. ICE asks the servers of the user's choice first, and then the reflectors that we ask. */
export function webRtcOptions(
  setup: WebRtcSetup | false,
  reflectors: readonly SocketAddress[],
  mayDial: (host: string) => boolean,
  signal: AbortSignal,
): WebRtcOptions {
  const { iceServers = [], ...rest } = setup === false ? {} : setup
  const stun = reflectors.slice(0, 2).map(({ host, port }) => ({ urls: `stun:${formatHostPort(host, port)}` }))
  return { ...rest, iceServers: [...iceServers, ...stun], mayDial, signal }
}

function shown(targets: readonly SocketAddress[]): string[] {
  return targets.map(({ host, port }) => formatHostPort(host, port))
}

export function wayOf(kind: Candidate['kind']): Way {
  return kind === 'tcp' || kind === 'tcp-so' ? 'tcp' : 'udp'
}

export function isSequential(nat: NatHint): boolean {
  return nat.udp === 'sequential' || nat.tcp === 'sequential'
}

function allocation(mapping: NatMapping, step: number): PortAllocation {
  switch (mapping) {
    case 'endpoint-independent':
      return { kind: 'fixed' }
    case 'sequential':
      return { kind: 'sequential', step }
    default:
      return { kind: mapping }
  }
}

/** The ports that a NAT which counts up will give next, the likeliest first. */
function ahead(targets: readonly SocketAddress[], step: number): SocketAddress[] {
  return targets.flatMap((target) =>
    Array.from({ length: PREDICTED_PORTS }, (_, at) => ({ ...target, port: target.port + step * (at + 1) })).filter(
      ({ port }) => port > 0 && port < 65_536,
    ),
  )
}
