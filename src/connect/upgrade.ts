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
import type { PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import type { WebRtcAttempt } from '../path/index.ts'
import { firstOf, pause, under } from '../pause.ts'
import type { PathAttempt } from '../session/index.ts'
import { type Candidate, type ConnectionBody, encodeBody, type PunchCall } from './candidate.ts'
import { isSequential, type Way, Ways, type WaysOptions, wayOf } from './ways.ts'

export interface UpgradeOptions extends Omit<WaysOptions, 'secret' | 'signal'> {
  readonly keys: SessionKeys
  /** A relay path is on its way, to talk over before anything direct is there. */
  readonly relayed: boolean
  /** Asks the reflectors anew, where that tells more than is known. */
  readonly refresh: (signal: AbortSignal) => Promise<void>
  /** Such a look that was begun already. */
  readonly fresh?: Promise<void> | undefined
  readonly closing: AbortSignal
}

/** ms for one round: the longest of its ways, a birthday search, has 5 s. */
const ROUND_MS = 7_000

/** ms between two tries at least, while the other side may begin at any moment. */
const PATIENT_EVERY_MS = 2_000

/**
 * ms that such a try searches, which takes 6 s with what it waits for. The ways in that it opens last for half a minute or more:
 * there are 2,500 then, of which the other side meets 10 when it comes with its sockets, and a router keeps 10,000 at most.
 */
const PATIENT_SEARCH_MS = 500

/** ms between two rounds at the least. */
const MIN_ROUND_MS = 500

/** ms before each round after the first, as long as nothing direct is found. */
const ROUND_DELAYS_MS = [300, 2_000, 10_000]

/** ms after a round before another one begins without delay. */
const CALM_MS = 5_000

/** The same when a direct path is there, and a second kind is wanted beside it. */
const EXTRA_ROUND_DELAYS_MS = [3_000]

/** Rounds are counted up to here, and from 1 again: 16 bits, of which the last number is the one of knocking. */
const MAX_ROUND = 0xfffe
const KNOCK_ROUND = 0xffff

/** One attempt in so many lets UDP out towards the last known addresses as well, for that many ms. */
const KNOCK_UDP_EVERY = 3
const KNOCK_UDP_MS = 2_500

/** ms for the other side to say that it is ready. */
const READY_MS = 5_000

export class Upgrade {
  readonly #options: UpgradeOptions
  readonly #ways: Ways
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
  /** Ends it: there are newer ones. */
  #stopDialling: AbortController | undefined
  /** Ends the plan under way: another takes its place. */
  #plan: AbortController | undefined
  #onReady: ((body: ConnectionBody) => void) | undefined

  constructor(options: UpgradeOptions) {
    this.#options = options
    const { session, keys, closing } = options
    // Both sides know both attach keys; the initiator's is as good as a third one, behind a label of its own.
    const secret = createHmac('sha256', keys.initiator ? keys.attachSend : keys.attachReceive)
      .update('peerline/1 punch')
      .digest()
    this.#fresh = options.fresh
    this.#signal = firstOf(this.#over.signal, closing)
    this.#ways = new Ways({ ...options, secret, signal: this.#signal })
    session.addEventListener('close', () => this.#over.abort())
    session.addEventListener('path', ({ detail }) => {
      if (detail.reason === 'lost') this.again()
    })
  }

  /** True when the other side may dial us by itself. */
  get mayBeDialled(): boolean {
    const { ways, vantage } = this.#options
    return ways.has('tcp') && vantage().candidates.some(({ kind }) => kind === 'tcp')
  }

  /** What was tried, the latest last. */
  get attempts(): readonly PathAttempt[] {
    return this.#ways.attempts
  }

  /** The error of a session for which nothing worked. */
  failure(): PeerlineError | undefined {
    return this.#ways.failure()
  }

  /** What the other side last told of itself. */
  get remote(): ConnectionBody | undefined {
    return this.#remote
  }

  /**
   * Begins, with what offer and answer told.
   * @param fireInMs until the other side is about to fire as well; a promise, where that is not known yet
   * @param patientMs ms within which the other side will fire, when nobody knows when: round 0 goes on for as long
   * @returns when round 0 is over. Never rejects.
   */
  async begin(remote: ConnectionBody, fireInMs: number | Promise<number>, patientMs = 0): Promise<void> {
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
    const described = this.#ways.described(remote)
    if (this.#initiator) void this.#follow(punched, talkFirst ? [0, ...ROUND_DELAYS_MS] : ROUND_DELAYS_MS)
    await Promise.all([dialled, punched, described])
    await this.#wait(remote, patientMs)
  }

  /**
   * The other side may begin at any moment: until it does, or time is over, round 0 is begun again and again. Never rejects.
   * Ports that were counted on are others by then: of the other NAT it only counts whether it gives random ones, which are searched a
   * little each time.
   */
  async #wait(remote: ConnectionBody, ms: number): Promise<void> {
    const { session } = this.#options
    const until = performance.now() + ms
    const random = remote.nat?.udp === 'random'
    const known: ConnectionBody = { ...remote, nat: random ? { tcp: 'unknown', udp: 'random', step: 0 } : undefined }
    while (performance.now() < until && session.state === 'connecting' && !this.#signal.aborted) {
      const began = performance.now()
      await Promise.all([this.#dial(0, known), this.#punch(0, known, 0, PATIENT_SEARCH_MS)])
      // Where there is nothing to punch it takes no time.
      await pause(Math.max(0, PATIENT_EVERY_MS - (performance.now() - began)), this.#signal).catch(() => {})
    }
  }

  /** The number of the next round: what an offer for a session that has lost its paths proposes. */
  get nextRound(): number {
    return (this.#round % MAX_ROUND) + 1
  }

  /**
   * Begins anew, with what an offer and its answer told: the paths are gone, or do not answer.
   * @param round the number that the offer proposed; the higher one stands when both sides have offered
   * @param fireInMs until the other side is about to fire as well
   */
  resume(remote: ConnectionBody, round: number, fireInMs: number | Promise<number>): void {
    this.#remote = remote
    this.#stopDialling?.abort()
    void this.#dial(round, remote)
    if (round <= this.#round && this.#punching?.signal.aborted === false) return
    this.#round = Math.max(this.#round, round)
    const punched = this.#freshen().then(() => this.#punch(round, remote, fireInMs))
    if (this.#initiator) void this.#follow(punched, ROUND_DELAYS_MS)
  }

  /** True while WebRTC is being connected. */
  get describes(): boolean {
    return this.#ways.describes
  }

  /** Goes on with what both sides have described of WebRTC; `answer`: what the other side said to ours. Never rejects. */
  connectDescribed(round: number, attempt: WebRtcAttempt, answer?: Uint8Array): Promise<void> {
    return this.#ways.connectDescribed(round, attempt, answer)
  }

  /** Dials what is known of the other side, and lets UDP out towards it: nobody may be there. Never rejects. */
  async knock(attempt: number, signal: AbortSignal): Promise<void> {
    const remote = this.#remote
    if (remote === undefined) return
    const knocked: Promise<void>[] = [this.#dial(this.#round, remote)]
    if (attempt % KNOCK_UDP_EVERY === 0) {
      const known = { ...remote, nat: undefined }
      const probe = (stop: AbortSignal) => [this.#ways.probe(KNOCK_ROUND, known, Promise.resolve(), stop)]
      const limits = [signal, AbortSignal.timeout(KNOCK_UDP_MS)]
      knocked.push(under(limits, (limited) => this.#ways.until('udp', limited, probe)))
    }
    await Promise.all(knocked)
  }

  /** Begins the rounds anew: a path was lost, or the network has changed. */
  again(): void {
    if (this.#signal.aborted) return
    const { session } = this.#options
    if (session.path === undefined) {
      // There is nothing to agree by yet, and a round that only one side knows of would end round 0 here.
      if (session.state === 'connecting') session.addEventListener('open', () => this.again(), { once: true })
      return
    }
    // At once, unless that was done just now: a path that comes and goes is no reason to hurry.
    const hurry = performance.now() - this.#punchedAt >= CALM_MS || this.#round === 0
    if (this.#initiator) void this.#follow(Promise.resolve(), hurry ? [0, ...ROUND_DELAYS_MS] : ROUND_DELAYS_MS)
    // The initiator leads: it hears that we have moved, and asks.
    else this.tell()
  }

  /** Tells the other side where we are now. */
  tell(): void {
    this.#options.session.sendCandidates(encodeBody(this.#body()))
  }

  /** The other side said something, inside the session. */
  onBody(body: ConnectionBody): void {
    if (body.webrtc !== undefined) return this.#ways.onDescription(this.#round, body.webrtc)
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
    const signal = firstOf(plan.signal, this.#signal)
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
      if (!this.#direct && this.#ways.wantsWebRtc) await this.#ways.offerWebRtc(this.#round, signal)
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
    const round = this.nextRound
    this.#round = round
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
      const answer = await Promise.race([ready, pause(READY_MS, firstOf(signal, late.signal))])
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
    if (this.#dialling !== undefined && this.#stopDialling?.signal.aborted !== true) return this.#dialling
    const stop = new AbortController()
    this.#stopDialling = stop
    const dialling = this.#ways
      .until('tcp', firstOf(this.#signal, stop.signal), (found) => [this.#ways.call(round, remote, found)])
      .finally(() => {
        stop.abort()
        if (this.#dialling === dialling) this.#dialling = undefined
      })
    this.#dialling = dialling
    return dialling
  }

  /** Punches, in place of the round before. Never rejects. */
  async #punch(
    round: number,
    remote: ConnectionBody,
    when: number | Promise<number>,
    searchMs?: number,
  ): Promise<void> {
    // Where the answer did not get out, nobody comes: a round does no harm.
    const fireInMs = typeof when === 'number' ? when : await when.catch(() => 0)
    if (this.#signal.aborted || round < this.#round) return
    this.#punching?.abort()
    const punching = new AbortController()
    this.#punching = punching
    this.#punchedAt = performance.now()
    this.#fresh = undefined
    const signal = firstOf(this.#signal, punching.signal, AbortSignal.timeout(Math.ceil(fireInMs) + ROUND_MS))
    const fire = this.#fire(fireInMs, signal)
    await Promise.all([
      // UDP goes first: where a NAT counts up, the other side aims at the very next port.
      this.#ways.until('udp', signal, (stop) => [this.#ways.probe(round, remote, fire, stop, searchMs)]),
      this.#ways.until('tcp', signal, (stop) => [this.#ways.open(round, remote, fire, stop)]),
    ])
    // What comes under this number from now on is another round.
    punching.abort()
  }

  /** Waits until the other side fires too: for `ms`, or less when it is heard before. */
  #fire(ms: number, signal: AbortSignal): Promise<void> {
    if (ms <= 0) return Promise.resolve()
    const { session } = this.#options
    const heard = new AbortController()
    // Whoever attaches a path has the answer, and is firing.
    const onOpen = () => heard.abort()
    if (!this.#initiator) session.addEventListener('open', onOpen)
    return pause(ms, firstOf(signal, heard.signal))
      .catch(() => {})
      .finally(() => {
        session.removeEventListener('open', onOpen)
        heard.abort()
      })
  }
}
