/**
 * The search for direct paths of one session: right after the answer, and then, while there is something to win,
 * in rounds that both sides agree on inside the session.
 *
 *     initiator                                            responder
 *     answer comes ── round 0: both dial and punch at about the same moment ── answer goes out
 *        |-- ask (round n, fresh candidates) ------------------------------------>|
 *        |<-- ready (round n, fresh candidates) ----------------------------------|
 *        | fires at once                             fires half a round trip later |
 *        |-- go (round n, fresh candidates), when the responder's stay where they are -->|
 *        | fires half a round trip later                             fires at once |
 *
 * - Round 0 costs no round trip: the responder waits as long as its answer travels, by the round trips to the
 *   rendezvous that both sides have measured.
 * - Ports that a NAT counts up are asked for anew before each round, for they move on with every new connection.
 * - A round never harms what is there: paths only ever attach beside the others.
 * - Rounds are few, ever further apart, and end. A change of the network, or a lost path, begins them anew.
 * - What a remote asks for is limited: one round ends the one before, they are {@link MIN_ROUND_MS} apart at the least, and
 *   go to addresses that it may name.
 */
import { createHmac } from 'node:crypto'
import { asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
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
import type { PathAttempt, Session } from '../session/index.ts'
import { type Candidate, type ConnectionBody, encodeBody, mayDial, type NatHint, type PunchCall } from './candidate.ts'
import { pause } from './pause.ts'
import { punchTcp } from './punch-tcp.ts'
import { searchTcp } from './punch-tcp-search.ts'
import { type BirthdayBudget, type PortAllocation, punchUdp } from './punch-udp.ts'
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
}

export interface WebRtcSetup {
  /** STUN and TURN servers. */
  readonly iceServers: readonly IceServer[]
  readonly iceTransportPolicy?: 'all' | 'relay'
}

export interface UpgradeOptions {
  readonly session: Session
  readonly keys: SessionKeys
  readonly ways: ReadonlySet<Way>
  /** A relay path is on its way, to talk over before anything direct is there. */
  readonly relayed: boolean
  readonly vantage: () => Vantage
  /** Asks the reflectors anew, where that tells more than is known. */
  readonly refresh: (signal: AbortSignal) => Promise<void>
  /** Such a look that was begun already. */
  readonly fresh?: Promise<void> | undefined
  readonly openUdp: () => Promise<UdpSocket>
  /** Takes a path that the other side will attach. */
  readonly accept: (path: FramedPath) => void
  readonly loopback: () => boolean
  /** How WebRTC is to be tried; false: not at all. */
  readonly webrtc: WebRtcSetup | false
  /** What was begun already, and described in the offer or the answer. */
  readonly webrtcAttempt?: WebRtcAttempt | undefined
  /** The birthday search's; false: no such search. */
  readonly birthday: BirthdayBudget | false | undefined
  readonly closing: AbortSignal
}

/** ms for one round: the longest of its ways, a birthday search, has 5 s. */
const ROUND_MS = 7_000

/** ms between two rounds at the least. */
const MIN_ROUND_MS = 500

/** ms before each round after the first, as long as nothing direct is found. */
const ROUND_DELAYS_MS = [300, 2_000, 10_000]

/** The same when a direct path is there, and a second kind is wanted beside it. */
const EXTRA_ROUND_DELAYS_MS = [3_000]

/** ms for the other side to say that it is ready. */
const READY_MS = 5_000

/** ms that the answering side leaves the dialling side to attach a direct path before it tries itself. */
const ANSWERER_DELAY_MS = 250

/** Ports dialled ahead of a NAT that counts up: what a few other connections meanwhile may use up. */
const PREDICTED_PORTS = 12

/** Attempts remembered for the report. */
const MAX_ATTEMPTS = 32

export class Upgrade {
  readonly #options: UpgradeOptions
  readonly #secret: Uint8Array
  /** Ends everything with the session. */
  readonly #over = new AbortController()
  readonly #signal: AbortSignal
  #remote: ConnectionBody | undefined
  #round = 0
  /** The punching under way: the next round ends it. */
  #punching: AbortController | undefined
  #punchedAt = Number.NEGATIVE_INFINITY
  /** The look at ports that the NAT counts up that still holds: since then nothing of ours has used any. */
  #fresh: Promise<void> | undefined
  /** Round trip over a relay, as the two round trips to it make one think, ms. */
  #relayRttMs = 0
  /** The dialling of addresses where the other side listens. */
  #dialling: Promise<void> | undefined
  /** Ends the plan under way: another takes its place. */
  #plan: AbortController | undefined
  #onReady: ((body: ConnectionBody) => void) | undefined
  #onAnswerDescription: ((description: Uint8Array) => void) | undefined
  /** A WebRTC description of the other side is being answered. */
  #answering = false
  readonly #attempts: PathAttempt[] = []

  constructor(options: UpgradeOptions) {
    this.#options = options
    const { session, keys, closing } = options
    // Both sides know both attach keys; the initiator's is as good as a third one, behind a label of its own.
    this.#secret = createHmac('sha256', keys.initiator ? keys.attachSend : keys.attachReceive)
      .update('peerline/1 punch')
      .digest()
    this.#fresh = options.fresh
    this.#signal = AbortSignal.any([this.#over.signal, closing])
    session.addEventListener('close', () => this.#over.abort())
    session.addEventListener('path', ({ detail }) => {
      if (detail.reason === 'lost' && detail.to === 'relay') this.again()
    })
  }

  /** True when the other side may dial us by itself. */
  get mayBeDialled(): boolean {
    const { ways, vantage } = this.#options
    return ways.has('tcp') && vantage().candidates.some(({ kind }) => kind === 'tcp')
  }

  /** What was tried, the latest last. */
  get attempts(): readonly PathAttempt[] {
    return this.#attempts
  }

  /** What the other side last told of itself. */
  get remote(): ConnectionBody | undefined {
    return this.#remote
  }

  /**
   * Begins, with what offer and answer told.
   * @param fireInMs until the other side is about to fire as well
   * @returns when round 0 is over. Never rejects.
   */
  async begin(remote: ConnectionBody, fireInMs: number): Promise<void> {
    this.#remote = remote
    // Numbers that a NAT counts up are stale already; with a relay to talk over, both sides first look again.
    const stale = [this.#options.vantage().nat, remote.nat].some((nat) => nat !== undefined && isSequential(nat))
    const talkFirst = stale && this.#options.relayed
    const mine = this.#options.vantage().rendezvousRttMs ?? 0
    this.#relayRttMs = mine + (remote.rendezvousRttMs ?? 0)
    // The other side will ask: what it will want to know is looked up while its question travels.
    if (talkFirst && !this.#initiator) void this.#freshen()
    const dialled = this.#dial(0, remote)
    const punched = talkFirst ? Promise.resolve() : this.#punch(0, remote, fireInMs)
    const described = this.#describedBefore(remote)
    if (this.#initiator) void this.#follow(punched, talkFirst ? [0, ...ROUND_DELAYS_MS] : ROUND_DELAYS_MS)
    await Promise.all([dialled, punched, described])
  }

  /** Begins the rounds anew: a path was lost, or the network has changed. */
  again(): void {
    if (this.#signal.aborted) return
    if (this.#initiator) void this.#follow(Promise.resolve(), ROUND_DELAYS_MS)
    // The initiator leads: it hears that we have moved, and asks.
    else this.tell()
  }

  /** Tells the other side where we are now. */
  tell(): void {
    this.#options.session.sendCandidates(encodeBody(this.#body()))
  }

  /** The other side said something, inside the session. */
  onBody(body: ConnectionBody): void {
    if (body.webrtc !== undefined) return this.#onDescription(body.webrtc)
    this.#remote = body
    if (body.punch?.phase === 'ready') return this.#onReady?.(body)
    void this.#dial(this.#round, body)
    if (this.#initiator) {
      // The other side has moved, or has more to offer.
      if (body.punch === undefined) void this.#follow(Promise.resolve(), ROUND_DELAYS_MS)
    } else if (body.punch !== undefined && performance.now() - this.#punchedAt >= MIN_ROUND_MS) {
      this.#punchedAt = performance.now()
      void this.#answerCall(body, body.punch)
    }
  }

  get #initiator(): boolean {
    return this.#options.session.initiator
  }

  #body(punch?: ConnectionBody['punch']): Partial<ConnectionBody> {
    const { candidates, nat } = this.#options.vantage()
    return { candidates: candidates.filter(({ kind }) => this.#options.ways.has(wayOf(kind))), nat, punch }
  }

  // ---- rounds ----

  /** Asks for further rounds until nothing is left to win. Never rejects. */
  async #follow(before: Promise<void>, delays: readonly number[]): Promise<void> {
    this.#plan?.abort()
    const plan = new AbortController()
    this.#plan = plan
    const signal = AbortSignal.any([plan.signal, this.#signal])
    try {
      await before
      let waits = delays
      for (let at = 0; at < waits.length; at++) {
        if (this.#missing().size === 0) return
        if (this.#direct && waits !== EXTRA_ROUND_DELAYS_MS) {
          waits = EXTRA_ROUND_DELAYS_MS
          at = 0
        }
        await pause(waits[at]! * (1 + Math.random() / 4), signal)
        if (this.#missing().size === 0) return
        await this.#ask(signal)
      }
      if (!this.#direct && this.#wantsWebRtc) await this.#offerWebRtc(signal)
    } catch {
      // It ended, or another plan has taken over: nobody waits for this one.
    }
  }

  get #direct(): boolean {
    return this.#options.session.paths.some((kind) => kind !== 'relay')
  }

  /** Kinds of path that are wanted, might be had, and are not there. */
  #missing(): Set<Way> {
    const { session, ways, vantage } = this.#options
    const mine = vantage()
    const theirs = this.#remote
    const missing = new Set<Way>()
    if (session.state === 'closed') return missing
    const has = (body: { candidates: readonly Candidate[] } | undefined, way: Way) =>
      body === undefined || body.candidates.some(({ kind }) => wayOf(kind) === way)
    for (const way of ['tcp', 'udp'] as const) {
      if (ways.has(way) && !session.paths.includes(way) && has(mine, way) && has(theirs, way)) missing.add(way)
    }
    return missing
  }

  async #ask(signal: AbortSignal): Promise<void> {
    const { session } = this.#options
    await this.#freshen()
    const round = ++this.#round
    const remote = this.#remote
    if (remote?.nat !== undefined && !isSequential(remote.nat)) {
      // It is where it was: no need to ask first.
      session.sendCandidates(encodeBody(this.#body({ round, phase: 'go' })))
      return this.#punch(round, remote, this.#rttMs / 2)
    }
    const late = new AbortController()
    const ready = new Promise<ConnectionBody>((resolve) => {
      this.#onReady = (body) => {
        if (body.punch?.round === round) resolve(body)
      }
    })
    session.sendCandidates(encodeBody(this.#body({ round, phase: 'ask' })))
    try {
      const answer = await Promise.race([ready, pause(READY_MS, AbortSignal.any([signal, late.signal]))])
      if (answer === undefined) return
      void this.#dial(round, answer)
      await this.#punch(round, answer, 0)
    } finally {
      this.#onReady = undefined
      late.abort()
    }
  }

  async #answerCall(body: ConnectionBody, { round, phase }: PunchCall): Promise<void> {
    this.#round = round
    if (phase === 'go') return this.#punch(round, body, 0)
    await this.#freshen()
    this.#options.session.sendCandidates(encodeBody(this.#body({ round, phase: 'ready' })))
    await this.#punch(round, body, this.#rttMs / 2)
  }

  /** Round trip within the session, measured or guessed, ms. */
  get #rttMs(): number {
    return this.#options.session.rttMs ?? this.#relayRttMs
  }

  /** Looks again at ports that our NAT counts up, unless that was just done. Never rejects. */
  #freshen(): Promise<void> {
    const { refresh, vantage } = this.#options
    if (!isSequential(vantage().nat)) return Promise.resolve()
    // What was known before has to do when it fails.
    this.#fresh ??= refresh(this.#signal).catch(() => {})
    return this.#fresh
  }

  /** Dials the addresses where the other side listens; one set at a time. Never rejects. */
  #dial(round: number, remote: ConnectionBody): Promise<void> {
    this.#dialling ??= this.#while('tcp', this.#signal, (stop) => [this.#call(round, remote, stop)]).finally(() => {
      this.#dialling = undefined
    })
    return this.#dialling
  }

  /** Punches, in place of the round before. Never rejects. */
  async #punch(round: number, remote: ConnectionBody, fireInMs: number): Promise<void> {
    this.#punching?.abort()
    const punching = new AbortController()
    this.#punching = punching
    this.#punchedAt = performance.now()
    this.#fresh = undefined
    const signal = AbortSignal.any([this.#signal, punching.signal, AbortSignal.timeout(ROUND_MS)])
    const fire = this.#fire(fireInMs, signal)
    await Promise.all([
      // UDP goes first: where a NAT counts up, the other side aims at the very next port.
      this.#while('udp', signal, (stop) => [this.#probe(round, remote, fire, stop)]),
      this.#while('tcp', signal, (stop) => [this.#open(round, remote, fire, stop)]),
    ])
  }

  /** Waits until the other side fires too: for `ms`, or less when it is heard before. */
  #fire(ms: number, signal: AbortSignal): Promise<void> {
    if (ms <= 0) return Promise.resolve()
    const { session } = this.#options
    const heard = new AbortController()
    // Whoever attaches a path has the answer, and is firing.
    const onOpen = () => heard.abort()
    session.addEventListener('open', onOpen)
    return pause(ms, AbortSignal.any([signal, heard.signal]))
      .catch(() => {})
      .finally(() => session.removeEventListener('open', onOpen))
  }

  /** Runs what seeks a path of one kind until there is one. */
  async #while(way: Way, signal: AbortSignal, begin: (stop: AbortSignal) => Promise<void>[]): Promise<void> {
    const { session, ways } = this.#options
    if (!ways.has(way) || session.paths.includes(way)) return
    const found = new AbortController()
    const look = () => {
      if (session.paths.includes(way)) found.abort()
    }
    session.addEventListener('open', look)
    session.addEventListener('path', look)
    await Promise.all(begin(AbortSignal.any([signal, found.signal])))
    session.removeEventListener('open', look)
    session.removeEventListener('path', look)
  }

  // ---- the ways ----

  /** Dials the addresses where the other side listens. */
  async #call(round: number, remote: ConnectionBody, signal: AbortSignal): Promise<void> {
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
  async #open(round: number, remote: ConnectionBody, fire: Promise<void>, signal: AbortSignal): Promise<void> {
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

  /** Punches UDP. */
  async #probe(round: number, remote: ConnectionBody, fire: Promise<void>, signal: AbortSignal): Promise<void> {
    const { vantage, openUdp, birthday } = this.#options
    const { udp, nat } = vantage()
    const reflexive = this.#targets(remote, 'udp-srflx')
    const targets = [...this.#targets(remote, 'udp'), ...reflexive]
    if (udp === undefined) return this.#skip(round, 'udp', [], 'no UDP socket on this side')
    if (targets.length === 0) return this.#skip(round, 'udp', [], 'the other side has no UDP address')
    await this.#attempt(round, 'udp', targets, signal, async () => {
      // A NAT that counts remembers where a socket sent before: a fresh one gets the ports that the other side expects.
      const socket = nat.udp === 'sequential' ? await openUdp() : udp
      await fire
      const [remoteReflexive] = reflexive
      const { path, how, rttMs } = await punchUdp({
        socket,
        openSocket: openUdp,
        secret: this.#secret,
        attempt: round,
        initiator: this.#initiator,
        remotes: targets,
        ...(remoteReflexive === undefined ? {} : { remoteReflexive }),
        localPorts: allocation(nat.udp, nat.step),
        remotePorts: allocation(remote.nat?.udp ?? 'unknown', remote.nat?.step ?? 0),
        ...(birthday === undefined ? {} : { budget: birthday }),
        signal,
      }).finally(() => {
        if (socket !== udp) socket.retire()
      })
      return `${this.#take(path)}, ${how}, ${Math.round(rttMs)} ms round trip`
    })
  }

  // ---- WebRTC ----

  get #webrtcOptions(): WebRtcOptions {
    const loopback = this.#options.loopback()
    return webRtcOptions(this.#options.webrtc, (host) => mayDial(host, { loopback }), this.#signal)
  }

  /**
   * Worth trying where the rounds found nothing: when there are servers that know more ways than we do, or no UDP of our
   * own.
   */
  get #wantsWebRtc(): boolean {
    const { ways, webrtc, vantage } = this.#options
    return ways.has('webrtc') && webrtc !== false && (webrtc.iceServers.length > 0 || vantage().udp === undefined)
  }

  /** Goes on with what offer and answer have described. Never rejects. */
  async #describedBefore(remote: ConnectionBody): Promise<void> {
    const { webrtcAttempt: attempt } = this.#options
    if (attempt === undefined) return
    if (this.#initiator && remote.webrtc === undefined) {
      attempt.close()
      return this.#skip(0, 'webrtc', [], 'the other side has no WebRTC')
    }
    await this.#attempt(0, 'webrtc', [], this.#signal, async () => {
      return this.#take(await attempt.connect(this.#initiator ? remote.webrtc : undefined))
    })
  }

  /** Describes our side inside the session, and connects with the answer. Never rejects. */
  async #offerWebRtc(signal: AbortSignal): Promise<void> {
    const late = new AbortController()
    await this.#attempt(this.#round, 'webrtc', [], signal, async () => {
      const attempt = await WebRtcAttempt.offer(this.#webrtcOptions)
      try {
        const answered = new Promise<Uint8Array>((resolve) => {
          this.#onAnswerDescription = resolve
        })
        this.#options.session.sendCandidates(encodeBody({ webrtc: attempt.description }))
        const answer = await Promise.race([answered, pause(READY_MS, AbortSignal.any([signal, late.signal]))])
        if (answer === undefined) throw new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the other side describes no WebRTC')
        return this.#take(await attempt.connect(answer))
      } finally {
        this.#onAnswerDescription = undefined
        late.abort()
        attempt.close()
      }
    })
  }

  #onDescription(description: Uint8Array): void {
    if (this.#initiator) return this.#onAnswerDescription?.(description)
    const { ways, webrtc, session } = this.#options
    if (!ways.has('webrtc') || webrtc === false || this.#answering) return
    this.#answering = true
    void this.#attempt(this.#round, 'webrtc', [], this.#signal, async () => {
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
    const loopback = this.#options.loopback()
    const targets = remote.candidates.flatMap((candidate) => {
      if (candidate.kind !== kind || !mayDial(candidate.host, { loopback })) return []
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

/** What a WebRTC attempt needs. */
export function webRtcOptions(
  setup: WebRtcSetup | false,
  mayDial: (host: string) => boolean,
  signal: AbortSignal,
): WebRtcOptions {
  return { ...(setup === false ? {} : setup), mayDial, signal }
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
