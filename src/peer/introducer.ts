/**
 * The introducer: a peer that passes offers and answers between two peers it has sessions with, when its owner wants that.
 * It reads neither.
 *
 *     asker --stream--> limits --{ to }--> limits, leave, session --{ offer }--> stream to the target
 *           <------------------------------------------ { answer } or { failed }
 *
 * - Both are proven by their sessions; nobody is introduced to itself, and the asker's word for who it is does not exist.
 * - In this order: how much of one asker, how much for one target, may it, and only then is more read.
 * - A peer that is not connected here and one that does not want to be introduced look the same: the asker hears
 *   `ERR_PEERLINE_OFFLINE`, and not before {@link OFFLINE_AFTER_MS}.
 * - One asker cannot use up what comes to a target; and who asks for many learns of few: {@link ASKED_PER_PEER}.
 * - What ends on one side ends on the other, at once. Nothing outlives {@link ANSWER_TIMEOUT_MS}.
 *
 * The wire is in `signaling/introduction-wire.ts`.
 */
import type { ErrorCode } from '../errors.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { KeyedLimiter, type Rate } from '../policy/limits.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import {
  ANSWER_TIMEOUT_MS,
  encodeIntroduced,
  INTRODUCED_PROTOCOL,
  type IntroductionReply,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  readAnswer,
  readOffer,
  readTo,
} from '../signaling/index.ts'

/** Introductions that one peer asks for: all of its hundred acquaintances when a server dies, and then one every 200 ms. */
export const ASKED_PER_PEER: Rate = { rate: 5, burst: 100 }

/** Offers for one peer, whoever asks: above what a single asker may. */
const OFFERED_PER_TARGET: Rate = { rate: 20, burst: 200 }

/** Introductions under way, for one asker and for all: each is two streams, and an offer in passing. */
const MAX_OPEN_PER_ASKER = 64
const MAX_OPEN = 1_024

/** ms before anybody is said not to be there: as a rule, one who does not want has said so by then. */
const OFFLINE_AFTER_MS = 500

export interface IntroducerOptions {
  /** The session with a peer, if there is one. Servers that we dialled are none. */
  readonly sessionWith: (peer: PeerId) => Session | undefined
  /** Who may be introduced to whom; both ids are proven or named, before anything else is looked at. */
  readonly allow: (from: PeerId, to: PeerId) => boolean
  /** Introductions that one peer may ask for. @default 5 a second, 100 at once */
  readonly rate?: Rate | undefined
}

export class Introducer {
  readonly #options: IntroducerOptions
  readonly #askers: KeyedLimiter
  readonly #targets = new KeyedLimiter(OFFERED_PER_TARGET)
  /** Sessions at whose other end nobody wants to be introduced. */
  readonly #unwilling = new WeakSet<Session>()
  readonly #openOf = new Map<PeerId, number>()
  #open = 0

  constructor(options: IntroducerOptions) {
    this.#options = options
    this.#askers = new KeyedLimiter(options.rate ?? ASKED_PER_PEER)
  }

  /** Introductions under way. */
  get open(): number {
    return this.#open
  }

  /** Serves one stream of `INTRODUCE_PROTOCOL` in a peer's session. */
  serve(stream: Stream, { from, session }: { readonly from: PeerId; readonly session: Session }): void {
    const open = this.#openOf.get(from) ?? 0
    if (this.#open >= MAX_OPEN || open >= MAX_OPEN_PER_ASKER || !this.#askers.take(from)) {
      return stream.reset(StreamCode.BUSY)
    }
    this.#open++
    this.#openOf.set(from, open + 1)
    const { sessionWith, allow } = this.#options
    new Introduction(stream, {
      rttMs: () => session.rttMs,
      target: (to) => {
        if (!this.#targets.take(to)) return 'ERR_PEERLINE_BUSY'
        // Nothing but true is leave: a promise, from who takes this for a place to wait, is none.
        if (allow(from, to) !== true) return 'ERR_PEERLINE_DENIED'
        const target = to === from ? undefined : sessionWith(to)
        return target?.state === 'open' && !this.#unwilling.has(target) ? target : 'ERR_PEERLINE_OFFLINE'
      },
      unwilling: (target) => this.#unwilling.add(target),
      done: () => this.#done(from),
    })
  }

  #done(from: PeerId): void {
    this.#open--
    const rest = (this.#openOf.get(from) ?? 1) - 1
    if (rest === 0) this.#openOf.delete(from)
    else this.#openOf.set(from, rest)
  }
}

interface IntroductionHost {
  /** Round trip to the asker, ms. */
  rttMs(): number | undefined
  /** The session to pass an offer for `to` on, or what the asker is told. */
  target(to: PeerId): Session | ErrorCode
  /** The other end does not want to be introduced. */
  unwilling(target: Session): void
  /** Nothing is left of it. */
  done(): void
}

/** One offer, from the asker's stream to its end. */
class Introduction {
  readonly #asker: Stream
  readonly #host: IntroductionHost
  readonly #messages: MessageStream
  readonly #began = performance.now()
  readonly #cancel = new AbortController()
  readonly #late: ReturnType<typeof setTimeout>
  #telling: ReturnType<typeof setTimeout> | undefined
  #next: 'to' | 'offer' | 'nothing' = 'to'
  /** Where the offer is to go; absent when the asker is refused. */
  #session: Session | undefined
  #target: Stream | undefined
  /** It is known what the asker hears. */
  #settled = false
  #over = false

  constructor(asker: Stream, host: IntroductionHost) {
    this.#asker = asker
    this.#host = host
    this.#late = setTimeout(() => asker.reset(StreamCode.TIMEOUT), ANSWER_TIMEOUT_MS)
    this.#messages = new MessageStream(asker, {
      maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
      onMessage: (message) => this.#onMessage(message),
      // Also when the asker ended in order: it waits no longer.
      onEnd: () => this.#end(),
    })
  }

  #onMessage(message: unknown): void {
    switch (this.#next) {
      case 'to': {
        this.#next = 'offer'
        const target = this.#host.target(readTo(message))
        if (typeof target === 'string') this.#fail(target)
        else this.#session = target
        break
      }
      case 'offer': {
        this.#next = 'nothing'
        const offer = readOffer(message)
        // Of one who is refused it may have been on its way.
        if (this.#session !== undefined) this.#pass(this.#session, offer)
        break
      }
      case 'nothing':
        throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a stream is for one introduction')
    }
  }

  #pass(session: Session, offer: Uint8Array): void {
    const refused = (error: PeerlineError | undefined) => this.#refused(session, error)
    session.open(INTRODUCED_PROTOCOL, { signal: this.#cancel.signal }).then((stream) => {
      if (this.#settled) return stream.reset()
      this.#target = stream
      const messages = new MessageStream(stream, {
        maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES,
        onMessage: (message) => this.#settle({ answer: readAnswer(message) }),
        onEnd: refused,
      })
      messages.send(encodeIntroduced({ offer, rttMs: this.#host.rttMs() })).catch(refused)
    }, refused)
  }

  /** The target, or its session, gave it up. */
  #refused(session: Session, error: PeerlineError | undefined): void {
    if (this.#settled) return
    switch (error?.code) {
      case 'ERR_PEERLINE_NO_PROTOCOL':
        this.#host.unwilling(session)
        return this.#fail('ERR_PEERLINE_OFFLINE')
      case 'ERR_PEERLINE_BUSY':
      case 'ERR_PEERLINE_TIMEOUT':
        return this.#fail(error.code)
      default:
        return this.#fail('ERR_PEERLINE_OFFLINE')
    }
  }

  #fail(code: ErrorCode): void {
    const waitMs = code === 'ERR_PEERLINE_OFFLINE' ? this.#began + OFFLINE_AFTER_MS - performance.now() : 0
    this.#settle({ failed: code }, waitMs)
  }

  /** Nothing more is wanted of the target; the asker hears what came of it. */
  #settle(reply: IntroductionReply, waitMs = 0): void {
    if (this.#settled) return
    this.#settled = true
    this.#giveUpTarget()
    if (waitMs > 0) this.#telling = setTimeout(() => void this.#tell(reply), waitMs)
    else void this.#tell(reply)
  }

  async #tell(reply: IntroductionReply): Promise<void> {
    try {
      await this.#messages.send(reply)
      await this.#messages.end()
    } catch {
      // It has gone.
    }
    this.#end()
  }

  #giveUpTarget(): void {
    this.#cancel.abort()
    if (this.#target?.done === false) this.#target.reset()
  }

  #end(): void {
    if (this.#over) return
    this.#over = true
    this.#settled = true
    clearTimeout(this.#late)
    clearTimeout(this.#telling)
    this.#giveUpTarget()
    if (!this.#asker.done) this.#asker.reset()
    this.#host.done()
  }
}
