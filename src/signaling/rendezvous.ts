/**
 * Signaling through a rendezvous: one registration on one session with it.
 *
 *     registering --registered--> standing --moving--> standing, for a while --the stream ends--> ended
 *
 * What waits for an answer ends with the registration, unless another one takes its place: then it is asked for again there.
 */
import { randomBytes } from 'node:crypto'
import { toHex } from '../bytes/index.ts'
import { abortError, type ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { MessageStream } from '../session/index.ts'
import { awaitAnswer } from './answer-wait.ts'
import {
  encodeSignal,
  LINK_BYTES,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  RENDEZVOUS_PROTOCOL,
  type RendezvousReply,
  readRendezvousReply,
  type SignalMessage,
} from './rendezvous-wire.ts'
import {
  ANSWER_TIMEOUT_MS,
  type ExchangeOptions,
  MAX_SIGNAL_BYTES,
  type OfferHandler,
  type Signaling,
} from './signaling.ts'

/** Offers that a peer takes on at once; each may wait for an approver. More are left unanswered. */
const MAX_OPEN_OFFERS = 64

/** Answers to one offer that are looked at. */
const MAX_ANSWERS = 16

/** Own offers that wait for an answer at once. */
const MAX_WAITING = 1_024

export interface RegisterOptions {
  /** The rendezvous, for people. */
  readonly name: string
  /** False: only dial; others are told that we are not online. */
  readonly listed: boolean
  readonly onOffer: OfferHandler
  /** What registrations that follow each other have in common; see {@link Rendezvous.newLink}. @default none */
  readonly link?: Uint8Array
  /** The rendezvous is going away, in `ms` at the latest; the registration stands until then. Called once. */
  readonly onMoving?: (ms: number) => void
  readonly signal: AbortSignal
}

interface Waiting<T> {
  resolve(value: T): void
  reject(error: PeerlineError): void
}

/** An offer that waits for its answer; `home` is the registration that it waits at. */
interface Exchange extends Waiting<Uint8Array> {
  readonly offer: SignalMessage
  home: Rendezvous
}

/** A registration. It ends with its session. */
export class Rendezvous implements Signaling {
  readonly name: string
  /** The address the rendezvous sees us from, `host:port`. */
  observed = ''
  /** What its clock showed less what ours showed, ms. */
  clockOffsetMs = 0
  /** Where else it says that we may ask what we look like: `host:port`, or `:port` of the host it was reached at. */
  reflectors: readonly string[] = []
  /** Resolves with the reason when the registration has ended, be it with its session still open. */
  readonly ended: Promise<PeerlineError>
  #tellEnded!: (error: PeerlineError) => void
  readonly #messages: MessageStream
  readonly #options: RegisterOptions
  readonly #waiting = new Map<string, Exchange>()
  #openOffers = 0
  #ended: PeerlineError | undefined
  #registered = false
  #moving = false
  #heardAt = performance.now()
  /** Who waits for the next `registered`. */
  readonly #registering = new Set<Waiting<void>>()

  private constructor(stream: Awaited<ReturnType<Session['open']>>, options: RegisterOptions) {
    this.name = options.name
    this.#options = options
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve
    })
    this.#messages = new MessageStream(stream, {
      maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
      onMessage: (message) => {
        this.#heardAt = performance.now()
        const reply = readRendezvousReply(message)
        if (reply !== undefined) this.#onReply(reply)
      },
      onEnd: (error) =>
        this.#end(error ?? new PeerlineError('ERR_PEERLINE_CLOSED', `${options.name} ended the registration`)),
    })
  }

  /** A new link: what each registration of it tells the rendezvous. */
  static newLink(): Uint8Array {
    return new Uint8Array(randomBytes(LINK_BYTES))
  }

  /**
   * Registers with the rendezvous at the other end of `session`.
   * @throws PeerlineError what ended the stream (`ERR_PEERLINE_NO_PROTOCOL` when the peer is no rendezvous),
   *   `ERR_PEERLINE_BUSY` when it is going away, or what the signal says
   */
  static async register(session: Session, options: RegisterOptions): Promise<Rendezvous> {
    const rendezvous = new Rendezvous(await session.open(RENDEZVOUS_PROTOCOL, options), options)
    try {
      await rendezvous.refresh(options)
    } catch (error) {
      if (options.signal.aborted) rendezvous.#end(abortError(options.signal, `registering with ${options.name}`))
      throw error
    }
    return rendezvous
  }

  /** It goes away soon: signals still pass. */
  get moving(): boolean {
    return this.#moving
  }

  /** ms since the rendezvous was last heard here. */
  get silentMs(): number {
    return performance.now() - this.#heardAt
  }

  /**
   * Registers once more: of several registrations of this peer it is the newest then. Resolves when the rendezvous has
   * answered, so it shows that it is there.
   * @throws PeerlineError what ended the registration, or what the signal says
   */
  async refresh({ signal }: { signal: AbortSignal }): Promise<void> {
    if (signal.aborted) throw abortError(signal, `registering with ${this.name}`)
    if (this.#ended !== undefined) throw this.#ended
    const { listed, link } = this.#options
    let onAbort: (() => void) | undefined
    let waiting: Waiting<void> | undefined
    const registered = new Promise<void>((resolve, reject) => {
      waiting = { resolve, reject }
      this.#registering.add(waiting)
      onAbort = () => reject(abortError(signal, `registering with ${this.name}`))
      signal.addEventListener('abort', onAbort)
    })
    try {
      this.#send({ t: 'register', listed, ...(link === undefined ? {} : { link }) })
      await registered
    } finally {
      signal.removeEventListener('abort', onAbort!)
      this.#registering.delete(waiting!)
    }
  }

  /** This registration is to end, and `next` takes its place: what waits for an answer asks for it there. */
  handOver(next: Rendezvous): void {
    if (next.#ended !== undefined) return
    for (const [key, exchange] of this.#waiting) {
      this.#waiting.delete(key)
      exchange.home = next
      next.#waiting.set(key, exchange)
      next.#send(encodeSignal(exchange.offer))
    }
  }

  exchange(to: PeerId, requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    // A rendezvous is not trusted with more than passing on: what it makes up ends no dial.
    return awaitAnswer({ ...options, to, ms: ANSWER_TIMEOUT_MS, maxAnswers: MAX_ANSWERS }, (wait) => {
      if (this.#ended !== undefined) throw this.#gone(this.#ended)
      if (offer.length > MAX_SIGNAL_BYTES) {
        const error = `an offer of ${offer.length} bytes is over ${MAX_SIGNAL_BYTES}`
        throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', error)
      }
      if (this.#waiting.size >= MAX_WAITING) {
        throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING} offers wait for answers already`)
      }
      const key = toHex(requestId)
      const waiting: Exchange = {
        offer: { t: 'offer', peer: to, id: requestId, data: offer },
        home: this,
        resolve: wait.offered,
        reject: wait.fail,
      }
      this.#waiting.set(key, waiting)
      this.#send(encodeSignal(waiting.offer))
      return () => waiting.home.#waiting.delete(key)
    })
  }

  #send(message: unknown): void {
    this.#messages.send(message).catch((error) => this.#end(error))
  }

  #onReply(reply: RendezvousReply): void {
    switch (reply.t) {
      case 'registered':
        this.observed = reply.observed
        this.clockOffsetMs = reply.now - Date.now()
        this.reflectors = reply.reflectors
        this.#registered = true
        for (const waiting of [...this.#registering]) waiting.resolve()
        break
      case 'moving':
        this.#onMoving(reply.ms)
        break
      case 'answer':
        this.#waiting.get(toHex(reply.id))?.resolve(reply.data)
        break
      case 'failed':
        this.#waiting.get(toHex(reply.id))?.reject(failure(reply.code, this.name))
        break
      case 'offer':
        void this.#onOffer(reply)
        break
    }
  }

  #onMoving(ms: number): void {
    if (this.#moving) return
    this.#moving = true
    // Said to whoever comes now, it is a refusal.
    if (!this.#registered) {
      const { name } = this.#options
      return this.#end(new PeerlineError('ERR_PEERLINE_BUSY', `${name} is going away, and takes nobody in any more`))
    }
    this.#options.onMoving?.(ms)
  }

  async #onOffer(offer: SignalMessage): Promise<void> {
    if (this.#openOffers >= MAX_OPEN_OFFERS || !this.#options.listed) return
    this.#openOffers++
    try {
      const answer = await this.#options.onOffer(offer.data)
      // One that is too large would end the registration.
      if (answer === undefined || answer.length > MAX_SIGNAL_BYTES) return
      this.#send(encodeSignal({ ...offer, t: 'answer', data: answer }))
    } finally {
      this.#openOffers--
    }
  }

  #end(error: PeerlineError): void {
    if (this.#ended !== undefined) return
    this.#ended = error
    this.#messages.reset()
    this.#tellEnded(error)
    for (const waiting of [...this.#registering]) waiting.reject(error)
    for (const waiting of [...this.#waiting.values()]) waiting.reject(this.#gone(error))
  }

  /** Why the registration ended says nothing of the peer that was to be dialled, such as that it refuses. */
  #gone(cause: PeerlineError): PeerlineError {
    if (cause.code === 'ERR_PEERLINE_CLOSED') return cause
    return new PeerlineError('ERR_PEERLINE_CLOSED', `the registration with ${this.name} has ended: ${cause.message}`, {
      cause,
    })
  }
}

function failure(code: ErrorCode, name: string): PeerlineError {
  switch (code) {
    case 'ERR_PEERLINE_OFFLINE':
      return new PeerlineError(code, `the peer is not online at ${name}`)
    case 'ERR_PEERLINE_BUSY':
      return new PeerlineError(code, `${name} takes no more offers now`)
    default:
      // Whether the peer refuses, nobody else can say.
      return new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${name} could not pass on the offer: ${code}`)
  }
}
