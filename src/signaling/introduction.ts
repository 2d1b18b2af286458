/**
 * Signaling through mutual peers: whoever has a session with both sides, and is willing, passes the offer on and brings
 * the answer back. No server takes part, and the introducer reads neither.
 *
 *     asking:  exchange --stream each--> the 8 nearest peers at once --first genuine answer--> the others are given up
 *     asked:   serve <--stream-- introducer: limits, one offer, the handler, its answer; silence stays silent
 *
 * - An introducer may refuse, lie, change or replay: what it brings is shown to `accept`, and while that says no, the
 *   others are waited for. It costs one look each: an introducer has one answer.
 * - A peer that does not introduce says so once, and its session is not asked again.
 * - Whoever gives up an exchange resets its streams: the introducer then gives up the target, at once.
 * - What is taken in is bounded before it is read: offers a second and at once, from one introducer and from all.
 *
 * What others learn: an introducer, and any peer asked to be one, whom we dial, and when. So where another medium may find
 * the peer it gets a moment's start: {@link IntroductionsOptions.delayMs}.
 *
 * The wire is in introduction-wire.ts, the introducer in `peer/introducer.ts`.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { awaitAnswer } from './answer-wait.ts'
import {
  encodeTo,
  INTRODUCE_PROTOCOL,
  type Introduced,
  type IntroductionReply,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  MAX_INTRODUCTION_RTT_MS,
  readIntroduced,
  readIntroductionReply,
} from './introduction-wire.ts'
import { ANSWER_TIMEOUT_MS, type ExchangeOptions, MAX_SIGNAL_BYTES, type Signaling } from './signaling.ts'

/** Peers asked for one introduction: one in eight that knows the other side, and is willing, is enough. */
const MAX_ASKED = 8

/** Own offers that wait for an answer at once: each holds up to eight streams. */
const MAX_WAITING = 256

/** Offers that are being decided on at once, from one introducer and from all; each may wait for an approver. */
const MAX_OPEN_PER_INTRODUCER = 32
const MAX_OPEN = 64

/** Offers a second, from one introducer and from all: each costs about 0.1 ms of handshake, as those of the local network. */
const MAX_OFFERS_PER_INTRODUCER = 200
const MAX_OFFERS = 400

/**
 * Takes an offer that an introducer passed on; resolves with the answer, or with nothing to stay silent. Never rejects.
 * `travelMs`: how long the answer will take from here to the asker.
 */
export type IntroducedHandler = (
  offer: Uint8Array,
  how: { readonly travelMs: number },
) => Promise<Uint8Array | undefined>

export interface IntroductionsOptions {
  /** Sessions with peers that may introduce us; those that are not open are left out. */
  readonly introducers: () => readonly Session[]
  readonly onOffer: IntroducedHandler
  /** False: only dial; nobody is introduced to us. */
  readonly listed: boolean
  /** ms before anybody is asked, when another medium may be faster: then nobody need learn whom we dial. @default 0 */
  readonly delayMs?: (() => number) | undefined
}

export class Introductions implements Signaling {
  readonly name = 'mutual peers'
  readonly #options: IntroductionsOptions
  readonly #intake = new Intake()
  /** Sessions at whose other end nobody introduces. */
  readonly #unable = new WeakSet<Session>()
  #waiting = 0

  constructor(options: IntroductionsOptions) {
    this.#options = options
  }

  /** Peers that may introduce us to somebody now, as far as is known. With none, nobody can be dialled. */
  get introducers(): number {
    return this.#able().length
  }

  exchange(to: PeerId, _requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    return awaitAnswer({ ...options, to, ms: ANSWER_TIMEOUT_MS }, (wait) => {
      this.#refuse(offer)
      if (this.#able(to).length === 0) throw nobody(to)
      this.#waiting++
      let asked: readonly Asked[] = []
      const failures: PeerlineError[] = []
      const onFailed = (session: Session, error: PeerlineError) => {
        if (error.code === 'ERR_PEERLINE_NO_PROTOCOL') this.#unable.add(session)
        failures.push(error)
        if (failures.length === asked.length) wait.fail(summary(to, failures))
      }
      const onReply = (session: Session, reply: IntroductionReply) => {
        if ('failed' in reply) return onFailed(session, new PeerlineError(reply.failed, `said by ${session.peer}`))
        if (wait.offered(reply.answer)) return
        onFailed(session, new PeerlineError('ERR_PEERLINE_HANDSHAKE', `${session.peer} brought a forged answer`))
      }
      const begin = () => {
        asked = this.#able(to)
          .slice(0, MAX_ASKED)
          .map(
            (session) =>
              new Asked(session, to, offer, {
                reply: (reply) => onReply(session, reply),
                failed: (error) => onFailed(session, error),
              }),
          )
        if (asked.length === 0) wait.fail(nobody(to))
      }
      const delayMs = this.#options.delayMs?.() ?? 0
      const timer = delayMs > 0 ? setTimeout(begin, delayMs) : undefined
      if (timer === undefined) begin()
      return () => {
        clearTimeout(timer)
        for (const one of asked) one.giveUp()
        this.#waiting--
      }
    })
  }

  /** @throws PeerlineError why no offer can go out now */
  #refuse(offer: Uint8Array): void {
    if (offer.length > MAX_SIGNAL_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `an offer of ${offer.length} bytes is over ${MAX_SIGNAL_BYTES}`)
    }
    if (this.#waiting < MAX_WAITING) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING} offers wait for introductions already`)
  }

  /** One session with each peer that may introduce us to `to`, the nearest first; last, those on which nothing answers. */
  #able(to?: PeerId): Session[] {
    const nearest = new Map<PeerId, Session>()
    for (const session of this.#options.introducers()) {
      const { peer, state } = session
      if (peer === to || state !== 'open' || this.#unable.has(session)) continue
      const known = nearest.get(peer)
      if (known === undefined || byNearness(session, known) <= 0) nearest.set(peer, session)
    }
    return [...nearest.values()].sort(byNearness)
  }

  // ---- being introduced ----

  /** Takes one stream of {@link INTRODUCED_PROTOCOL}. */
  serve(stream: Stream, { session }: { readonly session: Session }): void {
    if (!this.#options.listed) return stream.reset(StreamCode.NO_PROTOCOL)
    if (!this.#intake.pass(session)) return stream.reset(StreamCode.BUSY)
    const timer = setTimeout(() => stream.reset(StreamCode.TIMEOUT), ANSWER_TIMEOUT_MS)
    let taken = false
    const messages: MessageStream = new MessageStream(stream, {
      maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
      onMessage: (message) => {
        if (taken) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an introducer sent a second offer')
        taken = true
        const introduced = readIntroduced(message)
        if (!this.#intake.open(session)) return stream.reset(StreamCode.BUSY)
        void this.#answer(introduced, session, () => messages)
      },
      // Also when the introducer ended in order: the asker waits no longer.
      onEnd: () => {
        clearTimeout(timer)
        if (!stream.done) stream.reset()
      },
    })
  }

  async #answer({ offer, rttMs = 0 }: Introduced, session: Session, messages: () => MessageStream): Promise<void> {
    try {
      const travelMs = (Math.min(session.rttMs ?? 0, MAX_INTRODUCTION_RTT_MS) + rttMs) / 2
      const answer = await this.#options.onOffer(offer, { travelMs })
      // Silence is kept until the introducer gives up: who is refused and who is thought about look the same to it.
      if (answer === undefined || answer.length > MAX_SIGNAL_BYTES) return
      await messages().send({ answer })
      await messages().end()
      messages().reset()
    } catch {
      // The introducer has gone, or given up: nobody waits for the answer.
    } finally {
      this.#intake.close(session)
    }
  }
}

/** One offer at one introducer; it is told once what came of it. */
class Asked {
  readonly #cancel = new AbortController()
  #stream: Stream | undefined
  #over = false

  constructor(
    session: Session,
    to: PeerId,
    offer: Uint8Array,
    tell: { reply(reply: IntroductionReply): void; failed(error: PeerlineError): void },
  ) {
    const failed = (error: PeerlineError) => {
      if (this.#over) return
      this.giveUp()
      tell.failed(error)
    }
    session.open(INTRODUCE_PROTOCOL, { signal: this.#cancel.signal }).then((stream) => {
      if (this.#over) return stream.reset()
      this.#stream = stream
      const messages = new MessageStream(stream, {
        maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
        onMessage: (message) => {
          const reply = readIntroductionReply(message)
          this.giveUp()
          tell.reply(reply)
        },
        onEnd: (error) => failed(error ?? new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the introducer says nothing')),
      })
      messages.send(encodeTo(to)).catch(failed)
      messages.send({ offer }).catch(failed)
    }, failed)
  }

  /** Nothing more is wanted of it. */
  giveUp(): void {
    if (this.#over) return
    this.#over = true
    this.#cancel.abort()
    if (this.#stream?.done === false) this.#stream.reset()
  }
}

/** What is taken in from introducers: counted within whole seconds, and while it is decided on. */
class Intake {
  readonly #ofSession = new WeakMap<Session, Load>()
  readonly #all: Load = { since: 0, offers: 0, open: 0 }

  /** One more offer comes. */
  pass(session: Session): boolean {
    const one = this.#load(session)
    const now = performance.now()
    for (const load of [one, this.#all]) {
      if (now - load.since < 1_000) continue
      load.since = now
      load.offers = 0
    }
    if (one.offers >= MAX_OFFERS_PER_INTRODUCER || this.#all.offers >= MAX_OFFERS) return false
    one.offers++
    this.#all.offers++
    return true
  }

  /** It is to be decided on. */
  open(session: Session): boolean {
    const one = this.#load(session)
    if (one.open >= MAX_OPEN_PER_INTRODUCER || this.#all.open >= MAX_OPEN) return false
    one.open++
    this.#all.open++
    return true
  }

  /** It has been. */
  close(session: Session): void {
    this.#load(session).open--
    this.#all.open--
  }

  #load(session: Session): Load {
    const known = this.#ofSession.get(session)
    if (known !== undefined) return known
    const fresh: Load = { since: 0, offers: 0, open: 0 }
    this.#ofSession.set(session, fresh)
    return fresh
  }
}

interface Load {
  /** ms: when its second began. */
  since: number
  offers: number
  open: number
}

function byNearness(a: Session, b: Session): number {
  const rttOf = ({ rttMs }: Session) => rttMs ?? Number.MAX_SAFE_INTEGER
  return Number(a.needsPath) - Number(b.needsPath) || rttOf(a) - rttOf(b)
}

/** What all failures come to: a peer that was asked and is silent, limits everywhere, or nobody who knows it. */
function summary(to: PeerId, failures: readonly PeerlineError[]): PeerlineError {
  const silent = failures.find(({ code }) => code === 'ERR_PEERLINE_TIMEOUT')
  if (silent !== undefined) {
    return new PeerlineError('ERR_PEERLINE_TIMEOUT', `${to} does not answer the offer`, { cause: silent })
  }
  if (failures.every(({ code }) => code === 'ERR_PEERLINE_BUSY')) {
    return new PeerlineError(
      'ERR_PEERLINE_BUSY',
      `the peers that could introduce us to ${to} take no more offers now`,
      {
        cause: failures[0],
      },
    )
  }
  return offline(to, `${failures.length} peers were asked, and none introduces us`, failures.at(-1))
}

function nobody(to: PeerId): PeerlineError {
  return offline(to, 'no peer that we are connected to introduces others')
}

function offline(to: PeerId, why: string, cause?: PeerlineError): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_OFFLINE', `${to} is not to be reached by introduction: ${why}`, {
    cause,
    recover: 'Connect to a peer that knows the other side and introduces others, or to a rendezvous.',
  })
}
