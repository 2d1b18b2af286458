/**
 * Signaling through a rendezvous: one registration on one session with it.
 */
import { toHex } from '../bytes/index.ts'
import { abortError, type ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import { MessageStream } from '../session/index.ts'
import {
  encodeSignal,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  RENDEZVOUS_PROTOCOL,
  type RendezvousReply,
  readRendezvousReply,
  type SignalMessage,
} from './rendezvous-wire.ts'
import { ANSWER_TIMEOUT_MS, type OfferHandler, type Signaling } from './signaling.ts'

/** Offers that a peer takes on at once; each may wait for an approver. More are left unanswered. */
const MAX_OPEN_OFFERS = 64

/** Own offers that wait for an answer at once. */
const MAX_WAITING = 1_024

export interface RegisterOptions {
  /** The rendezvous, for people. */
  readonly name: string
  /** False: only dial; others are told that we are not online. */
  readonly listed: boolean
  readonly onOffer: OfferHandler
  readonly signal: AbortSignal
}

interface Waiting<T> {
  resolve(value: T): void
  reject(error: PeerlineError): void
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
  readonly #waiting = new Map<string, Waiting<Uint8Array>>()
  #openOffers = 0
  #ended: PeerlineError | undefined
  #tellRegistered: Waiting<void> | undefined

  private constructor(stream: Awaited<ReturnType<Session['open']>>, options: RegisterOptions) {
    this.name = options.name
    this.#options = options
    this.ended = new Promise((resolve) => {
      this.#tellEnded = resolve
    })
    this.#messages = new MessageStream(stream, {
      maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
      onMessage: (message) => this.#onReply(readRendezvousReply(message)),
      onEnd: (error) =>
        this.#end(error ?? new PeerlineError('ERR_PEERLINE_CLOSED', `${options.name} ended the registration`)),
    })
  }

  /**
   * Registers with the rendezvous at the other end of `session`.
   * @throws PeerlineError what ended the stream (`ERR_PEERLINE_NO_PROTOCOL` when the peer is no rendezvous), or what the
   *   signal says
   */
  static async register(session: Session, options: RegisterOptions): Promise<Rendezvous> {
    const rendezvous = new Rendezvous(await session.open(RENDEZVOUS_PROTOCOL, options), options)
    const registered = new Promise<void>((resolve, reject) => {
      rendezvous.#tellRegistered = { resolve, reject }
    })
    const onAbort = () => rendezvous.#end(abortError(options.signal, `registering with ${options.name}`))
    options.signal.addEventListener('abort', onAbort)
    try {
      if (rendezvous.#ended !== undefined) throw rendezvous.#ended
      await rendezvous.#messages.send({ t: 'register', listed: options.listed })
      await registered
    } finally {
      options.signal.removeEventListener('abort', onAbort)
      rendezvous.#tellRegistered = undefined
      registered.catch(() => {})
    }
    return rendezvous
  }

  exchange(
    to: PeerId,
    requestId: Uint8Array,
    offer: Uint8Array,
    options: { signal: AbortSignal },
  ): Promise<Uint8Array> {
    const { signal } = options
    if (signal.aborted) return Promise.reject(abortError(signal, `dialling ${to}`))
    if (this.#ended !== undefined) return Promise.reject(this.#ended)
    if (this.#waiting.size >= MAX_WAITING) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING} offers wait for answers already`))
    }
    const key = toHex(requestId)
    return new Promise<Uint8Array>((resolve, reject) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(key)
      }
      const waiting: Waiting<Uint8Array> = {
        resolve: (answer) => {
          done()
          resolve(answer)
        },
        reject: (error) => {
          done()
          reject(error)
        },
      }
      const onAbort = () => waiting.reject(abortError(signal, `dialling ${to}`))
      const timer = setTimeout(
        () => waiting.reject(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${to} does not answer the offer`)),
        ANSWER_TIMEOUT_MS,
      )
      signal.addEventListener('abort', onAbort)
      this.#waiting.set(key, waiting)
      this.#send({ t: 'offer', peer: to, id: requestId, data: offer })
    })
  }

  #send(message: SignalMessage): void {
    this.#messages.send(encodeSignal(message)).catch((error) => this.#end(error))
  }

  #onReply(reply: RendezvousReply): void {
    switch (reply.t) {
      case 'registered':
        this.observed = reply.observed
        this.clockOffsetMs = reply.now - Date.now()
        this.reflectors = reply.reflectors
        this.#tellRegistered?.resolve()
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

  async #onOffer(offer: SignalMessage): Promise<void> {
    if (this.#openOffers >= MAX_OPEN_OFFERS || !this.#options.listed) return
    this.#openOffers++
    try {
      const answer = await this.#options.onOffer(offer.data)
      if (answer !== undefined) this.#send({ t: 'answer', peer: offer.peer, id: offer.id, data: answer })
    } finally {
      this.#openOffers--
    }
  }

  #end(error: PeerlineError): void {
    if (this.#ended !== undefined) return
    this.#ended = error
    this.#tellEnded(error)
    this.#tellRegistered?.reject(error)
    for (const waiting of [...this.#waiting.values()]) waiting.reject(error)
  }
}

function failure(code: ErrorCode, name: string): PeerlineError {
  switch (code) {
    case 'ERR_PEERLINE_OFFLINE':
      return new PeerlineError(code, `the peer is not online at ${name}`)
    case 'ERR_PEERLINE_BUSY':
      return new PeerlineError(code, `${name} takes no more offers now`)
    default:
      return new PeerlineError(code, `${name} could not pass on the offer`)
  }
}
