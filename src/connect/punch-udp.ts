/**
 * UDP hole punching: finds a way for datagrams between two peers that share a secret, and opens a udx stream on it.
 *
 *     both        probe ──────────> every address of the other side, at once, then again and again
 *                 <────────── answer    to the address that the probe came from, which becomes a pair, too
 *     initiator   nominate ───────> on the best pair with a confirmed round trip, until it is accepted
 *     responder   <────────── accept    and takes the stream into use
 *
 * - Both sides send from the first moment on: the first datagram of each opens its own NAT for those of the other.
 * - What counts is where an authentic probe comes from, not what was told: peer-reflexive, RFC 8445 section 7.3.1.3.
 * - A pair is confirmed by an answer that comes from where its probe went (section 7.2.5.2.1).
 * - Either side's stream stands before the other can use it: the initiator's before it nominates, the responder's before
 *   it accepts. The ids travel in every probe.
 * - `punch-plan.ts` says what is tried when NATs give a new port to every destination.
 *
 * Limits: an attempt ends by itself, sends a bounded number of datagrams and keeps a bounded number of pairs; answers are
 * as long as what they answer, and not more than {@link ANSWERS_PER_SECOND}. Where the probes go is what the other
 * side has told: it is the caller's to decide which addresses may be probed for whom.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { formatHostPort, type SocketAddress, scopeOf } from '../network/address.ts'
import { canonical, type UdpSocket } from '../network/udp-socket.ts'
import type { FramedPath } from '../path/index.ts'
import { Cookies, type Local, type Pair, Pairs, type PunchSocket } from './punch-pair.ts'
import {
  type BirthdayBudget,
  DEFAULT_BUDGET,
  limitBudget,
  type PortAllocation,
  planPunch,
  predictPorts,
} from './punch-plan.ts'
import { HOWS, type How, type Probe, ProbeCodec, ProbeType } from './punch-probe.ts'
import { openSockets, probePorts } from './punch-search.ts'

export type { PunchSocket } from './punch-pair.ts'
export type { BirthdayBudget, PortAllocation } from './punch-plan.ts'

/** ms between two probes to the same address, and how much it varies, lest both sides stay in step with a queue. */
const PROBE_MS = 50
const PROBE_JITTER_MS = 40

/** ms after which probing slows down, and ms between two probes then: by that time both sides have begun. */
const EAGER_MS = 1_000
const PATIENT_MS = 200

/** ms between two probes of one of the many sockets of a search: its filter has to stay open, no more. */
const OPENED_MS = 300

/** ms that an attempt takes without a search: five slow round trips, and the other side may begin a second later. */
const ATTEMPT_MS = 5_000

/** ms after the last probe of a search in which its answer may come. */
const SEARCH_TAIL_MS = 1_000

/** ms that the direct way has before a search begins. First the sockets, then the probes for them. */
const OPEN_AFTER_MS = 100
const SEARCH_AFTER_MS = 150

/** ms that a search rests when something new was heard. */
const SEARCH_REST_MS = 400

/** ms that the direct way has before ports are guessed. */
const GUESS_AFTER_MS = 300

/** Predicted ports that are tried at first, and with each further probe: all at once would take ports of a NAT in vain. */
const PREDICT_FIRST = 8
const PREDICT_MORE = 4

/** ms that a nearer address gets to be confirmed, too, when a farther one was first. */
const GRACE_MS = 15

/** ms that pass at least between two probes to an address that is heard from. */
const TRIGGER_MS = 10

/** ms between two nominations. */
const NOMINATE_MS = 40

/** ms for which the responder still answers nominations: the accepting datagram may have been lost. */
const LINGER_MS = 3_000

/** Addresses of the other side that are probed; more are left out. */
const MAX_REMOTES = 16

/** Addresses that were not told, but heard from. */
const MAX_REFLEXIVE = 64

const ANSWERS_PER_SECOND = 200
const ANSWER_BURST = 100

export interface PunchUdpOptions<S extends PunchSocket = UdpSocket> {
  /** Ours, the mapped address of which the other side was told. */
  readonly socket: S
  /** More sockets, for a search when our ports are the random ones. Without it there is no such search. */
  readonly openSocket?: (() => Promise<S>) | undefined
  /** 32 bytes that both sides share, and nobody else. */
  readonly secret: Uint8Array
  /** Counts the attempts under one secret; the same on both sides. */
  readonly attempt: number
  /** Exactly one side: it nominates. */
  readonly initiator: boolean
  /** The UDP addresses of the other side, best first. The first 16 are used. */
  readonly remotes: readonly SocketAddress[]
  /**
   * Its latest mapped address, from which ports are predicted and at which they are searched.
   * @default the first public IPv4 address among `remotes`
   */
  readonly remoteReflexive?: SocketAddress | undefined
  readonly localPorts: PortAllocation
  readonly remotePorts: PortAllocation
  /** What a search for a random port may cost; false: none. @default 256 sockets, 1,000 probes a second, 5 s */
  readonly budget?: BirthdayBudget | false | undefined
  readonly signal: AbortSignal
}

export interface Punched<S extends PunchSocket = UdpSocket> {
  readonly path: FramedPath
  /** What the path goes through: the given socket, or one of `openSocket`, which closes itself after the path. */
  readonly socket: S
  readonly remote: SocketAddress
  readonly rttMs: number
  readonly how: How
}

/**
 * Punches a hole and opens a path through it. Both sides call it at about the same time.
 * @throws PeerlineError `ERR_PEERLINE_NO_PATH` when no datagram came through in time, or none can;
 * `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_LIMIT`, or what the signal says
 */
export async function punchUdp<S extends PunchSocket>(options: PunchUdpOptions<S>): Promise<Punched<S>> {
  const { signal, localPorts, remotePorts } = options
  if (signal.aborted) throw abortError(signal, 'UDP hole punching')
  const codec = new ProbeCodec(options.secret, options.attempt, options.initiator)
  const { hopeless } = planPunch(localPorts, remotePorts)
  if (hopeless !== undefined) throw new PeerlineError('ERR_PEERLINE_NO_PATH', `no use in punching UDP: ${hopeless}`)
  const punch = new Punch(options, codec)
  return punch.run()
}

class Punch<S extends PunchSocket> {
  readonly #options: PunchUdpOptions<S>
  readonly #codec: ProbeCodec
  readonly #started = performance.now()
  readonly #streamId: number
  readonly #locals: Local<S>[] = []
  readonly #pairs = new Pairs<S>()
  readonly #cookies = new Cookies()
  readonly #timers = new Set<ReturnType<typeof setTimeout>>()
  /** Ends a search. */
  readonly #stop = new AbortController()
  #opening: Promise<void> | undefined
  readonly #searched = new Set<number>()
  /** The mapped address of the other side, from which ports are predicted and at which they are searched. */
  readonly #base: SocketAddress | undefined
  /** Ports that were predicted, and not tried so far. */
  #predicted: number[] = []
  #predicting = false
  #reflexive = 0
  /** The other side's stream. */
  #remoteId: number | undefined
  #answers = ANSWER_BURST
  #answersAt = this.#started
  #heardAt = Number.NEGATIVE_INFINITY
  #grace: 'not yet' | 'runs' | 'over' = 'not yet'
  #chosen: { readonly pair: Pair<S>; readonly path: FramedPath } | undefined
  #sent = 0
  #ended = false
  #resolve!: (punched: Punched<S>) => void
  #reject!: (error: PeerlineError) => void

  constructor(options: PunchUdpOptions<S>, codec: ProbeCodec) {
    this.#options = options
    this.#codec = codec
    const isPublic = ({ host, family }: SocketAddress): boolean => family === 4 && scopeOf(host) === 'public'
    const base = options.remoteReflexive ?? options.remotes.find(isPublic)
    this.#base = base === undefined ? undefined : canonical(base)
    this.#streamId = options.socket.reserveId()
  }

  async run(): Promise<Punched<S>> {
    const { signal } = this.#options
    const onAbort = (): void => this.#fail(abortError(signal, 'UDP hole punching'))
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      return await new Promise((resolve, reject) => {
        this.#resolve = resolve
        this.#reject = reject
        this.#begin()
      })
    } catch (error) {
      this.#fail(asPeerlineError(error, 'ERR_PEERLINE_NO_PATH'))
      await this.#opening
      await Promise.all(this.#locals.slice(1).map(({ socket }) => socket.close()))
      throw error
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  #begin(): void {
    const { socket, localPorts, remotePorts, initiator, budget } = this.#options
    const local = this.#listen(socket)
    const plan = planPunch(localPorts, remotePorts)
    const base = this.#base
    if (base !== undefined && plan.predict !== 'no') {
      this.#predicted = predictPorts(base.port, localPorts, remotePorts, initiator)
      if (plan.predict === 'now') this.#predict(PREDICT_FIRST)
      else this.#after(GUESS_AFTER_MS, () => this.#predict(PREDICT_FIRST))
    }
    for (const remote of this.#targets()) this.#add(local, remote, 'direct')
    let limitMs = ATTEMPT_MS
    if (base !== undefined && plan.search !== 'no' && budget !== false) {
      const limited = limitBudget(budget ?? DEFAULT_BUDGET)
      limitMs = Math.max(limitMs, SEARCH_AFTER_MS + limited.ms + SEARCH_TAIL_MS)
      if (plan.search === 'open') this.#after(OPEN_AFTER_MS, () => this.#open(limited.sockets, base))
      else this.#after(SEARCH_AFTER_MS, () => this.#search(limited, base))
    }
    this.#again(() => this.#probeAll())
    this.#after(limitMs, () => this.#fail(this.#nothing()))
  }

  // ---- what is probed ----

  #listen(socket: S): Local<S> {
    const number = this.#locals.length
    const unroute = socket.route(this.#codec.tag, (datagram, from) => this.#onDatagram(local, datagram, from))
    const local: Local<S> = { socket, number, unroute }
    this.#locals.push(local)
    return local
  }

  /**
   * The addresses that were told, in the order in which they are probed. A NAT that counts gives its next port to whom
   * we send to first, and the other side counts on being that one.
   */
  #targets(): SocketAddress[] {
    const { remotes, localPorts, remotePorts } = this.#options
    const usable = remotes.slice(0, MAX_REMOTES).map(canonical)
    const base = this.#base
    if (localPorts.kind !== 'sequential' || base === undefined) return usable
    const isBase = ({ host, port }: SocketAddress): boolean => host === base.host && port === base.port
    const others = usable.filter((remote) => !isBase(remote))
    if (remotePorts.kind !== 'sequential') return [...usable.filter(isBase), ...others]
    // Theirs counts, too, and there it began: that port has its turn after the predicted ones.
    this.#predicted.push(base.port)
    return others
  }

  /** Probes a pair from now on. */
  #add(local: Local<S>, remote: SocketAddress, how: How, everyMs = PROBE_MS): Pair<S> | undefined {
    const pair = this.#pairs.add(local, remote, how, everyMs)
    if (pair !== undefined) this.#probe(pair)
    return pair
  }

  /** Takes up the next predicted ports. */
  #predict(count: number): void {
    this.#predicting = true
    for (const port of this.#predicted.splice(0, count)) {
      this.#add(this.#locals[0]!, { ...this.#base!, port }, 'predicted')
    }
  }

  #open(count: number, remote: SocketAddress): void {
    const { openSocket } = this.#options
    if (openSocket === undefined) return
    const onSocket = (socket: S): void => void this.#add(this.#listen(socket), remote, 'birthday', OPENED_MS)
    this.#opening = openSockets(count, openSocket, onSocket, this.#stop.signal)
  }

  #search(budget: BirthdayBudget, base: SocketAddress): void {
    const local = this.#locals[0]!
    if (!local.socket.families.includes(base.family)) return
    const send = (port: number): void => {
      this.#searched.add(port)
      this.#send(local, { ...base, port }, ProbeType.probe)
    }
    const rests = (): boolean => performance.now() - this.#heardAt < SEARCH_REST_MS
    probePorts(budget, send, rests, this.#stop.signal)
  }

  #probeAll(): void {
    const now = performance.now()
    const patient = now - this.#started > EAGER_MS
    for (const pair of this.#pairs) {
      const wait = pair.heardAt !== undefined ? PROBE_MS : patient ? Math.max(pair.everyMs, PATIENT_MS) : pair.everyMs
      if (now - pair.probedAt >= wait) this.#probe(pair)
    }
    if (this.#predicting) this.#predict(PREDICT_MORE)
  }

  #probe(pair: Pair<S>): void {
    pair.probedAt = performance.now()
    this.#send(pair.local, pair.remote, ProbeType.probe)
  }

  // ---- what comes ----

  #onDatagram(local: Local<S>, datagram: Uint8Array, from: SocketAddress): void {
    const probe = this.#codec.open(datagram)
    if (probe === undefined) return
    this.#remoteId ??= probe.streamId
    if (probe.streamId !== this.#remoteId) return
    if (this.#ended) {
      // Our accepting datagram was lost.
      const pair = this.#pairs.get(local, from)
      if (probe.type === ProbeType.nominate && pair !== undefined && pair === this.#chosen?.pair) this.#accept(pair)
      return
    }
    const pair = this.#heard(local, from)
    if (probe.type === ProbeType.probe) this.#answer(local, from, probe.cookie)
    if (pair === undefined) return
    if (probe.type === ProbeType.answer) this.#confirm(pair, probe.cookie)
    if (probe.type === ProbeType.nominate && !this.#options.initiator) this.#onNominate(pair, probe)
    if (probe.type === ProbeType.accept && this.#options.initiator && pair === this.#chosen?.pair) {
      this.#succeed(pair.rttMs!, probe.how)
    }
  }

  /** The pair of what came in: a new one, when its address was not told. */
  #heard(local: Local<S>, from: SocketAddress): Pair<S> | undefined {
    let pair = this.#pairs.get(local, from)
    if (pair === undefined) {
      if (this.#reflexive >= MAX_REFLEXIVE) return undefined
      this.#reflexive++
      const found = local.number > 0 || this.#searched.has(from.port)
      pair = this.#add(local, from, found ? 'birthday' : 'direct')
      if (pair === undefined) return undefined
    }
    const now = performance.now()
    if (pair.heardAt === undefined) {
      pair.heardAt = now
      this.#heardAt = now
    }
    if (pair.rttMs === undefined && this.#chosen === undefined && now - pair.probedAt >= TRIGGER_MS) this.#probe(pair)
    return pair
  }

  #answer(local: Local<S>, to: SocketAddress, cookie: Uint8Array): void {
    const now = performance.now()
    const earned = ((now - this.#answersAt) / 1_000) * ANSWERS_PER_SECOND
    this.#answers = Math.min(ANSWER_BURST, this.#answers + earned)
    this.#answersAt = now
    if (this.#answers < 1) return
    this.#answers--
    this.#send(local, to, ProbeType.answer, { cookie })
  }

  #confirm(pair: Pair<S>, cookie: Uint8Array): void {
    const rttMs = this.#cookies.rttMs(cookie, pair.remote)
    if (rttMs === undefined) return
    pair.rttMs = Math.min(rttMs, pair.rttMs ?? rttMs)
    if (this.#options.initiator) this.#consider()
  }

  // ---- the choice ----

  #consider(): void {
    const best = this.#pairs.best()
    if (best === undefined || this.#chosen !== undefined) return
    if (this.#grace === 'over' || !this.#pairs.nearerThan(best)) return this.#nominate(best)
    if (this.#grace === 'runs') return
    this.#grace = 'runs'
    this.#after(GRACE_MS, () => {
      this.#grace = 'over'
      this.#consider()
    })
  }

  #nominate(pair: Pair<S>): void {
    if (!this.#choose(pair)) return
    this.#clearTimers()
    const { rttMs = 0, how } = pair
    const nominate = (): void => this.#send(pair.local, pair.remote, ProbeType.nominate, { rttMs, how })
    nominate()
    this.#again(nominate, NOMINATE_MS)
    this.#after(ATTEMPT_MS, () => this.#fail(this.#nothing()))
  }

  #onNominate(pair: Pair<S>, { rttMs, how }: Probe): void {
    if (this.#chosen !== undefined || !this.#choose(pair)) return
    this.#accept(pair)
    this.#succeed(pair.rttMs ?? rttMs, how)
  }

  #accept(pair: Pair<S>): void {
    this.#send(pair.local, pair.remote, ProbeType.accept, { how: pair.how })
  }

  /** Opens the stream: from now on what the other side sends on it is kept. */
  #choose(pair: Pair<S>): boolean {
    this.#stop.abort()
    try {
      const ids = { localId: this.#streamId, remoteId: this.#remoteId! }
      this.#chosen = { pair, path: pair.local.socket.connect({ ...ids, remote: pair.remote }) }
      return true
    } catch (error) {
      this.#fail(asPeerlineError(error, 'ERR_PEERLINE_NO_PATH'))
      return false
    }
  }

  // ---- the end ----

  #succeed(rttMs: number, theirs: How): void {
    const { pair, path } = this.#chosen!
    const how = HOWS[Math.max(HOWS.indexOf(pair.how), HOWS.indexOf(theirs))]!
    this.#finish()
    this.#resolve({ path, socket: pair.local.socket, remote: pair.remote, rttMs, how })
  }

  #fail(error: PeerlineError): void {
    if (this.#ended) return
    this.#chosen?.path.destroy()
    this.#chosen = undefined
    this.#finish()
    this.#options.socket.releaseId(this.#streamId)
    this.#reject(error)
  }

  /** Leaves nothing behind but the chosen socket, and for a while the responder's ear on it. */
  #finish(): void {
    this.#ended = true
    this.#stop.abort()
    this.#clearTimers()
    const chosen = this.#chosen?.pair.local
    for (const local of this.#locals) {
      if (local !== chosen) local.unroute()
      if (local !== chosen && local.number > 0) void local.socket.close()
    }
    if (chosen === undefined) return
    const leave = (): void => {
      chosen.unroute()
      if (chosen.number > 0) chosen.socket.retire()
    }
    if (this.#options.initiator) leave()
    else setTimeout(leave, LINGER_MS).unref()
  }

  #nothing(): PeerlineError {
    const seconds = Math.round((performance.now() - this.#started) / 100) / 10
    const heard = this.#remoteId === undefined ? 'nothing was heard' : 'the other side was heard, but did not hear us'
    const where = this.#searched.size === 0 ? '' : `, and searched ${this.#searched.size} ports`
    const to = [...this.#pairs].slice(0, 4).map(({ remote }) => formatHostPort(remote.host, remote.port))
    const what = `sent ${this.#sent} datagrams to ${this.#pairs.size} addresses (${to.join(', ')})${where}`
    return new PeerlineError('ERR_PEERLINE_NO_PATH', `punching UDP: ${heard} in ${seconds} s; ${what}`)
  }

  // ---- tools ----

  #send(
    local: Local<S>,
    to: SocketAddress,
    type: ProbeType,
    { how = 'direct', rttMs = 0, cookie = this.#cookies.make(to) }: Partial<Omit<Probe, 'type' | 'streamId'>> = {},
  ): void {
    this.#sent++
    local.socket.send(this.#codec.seal({ type, how, rttMs, streamId: this.#streamId, cookie }), to)
  }

  #after(ms: number, run: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      run()
    }, ms)
    this.#timers.add(timer)
  }

  /** Runs again and again, not quite regularly. */
  #again(run: () => void, ms = PROBE_MS): void {
    this.#after(ms + Math.random() * PROBE_JITTER_MS, () => {
      run()
      if (!this.#ended) this.#again(run, ms)
    })
  }

  #clearTimers(): void {
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
  }
}
