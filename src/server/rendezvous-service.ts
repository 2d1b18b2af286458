/**
 * The rendezvous: it knows which peers are online, and passes offers and answers that it cannot read.
 *
 * - Every peer is authenticated by its session; `peer` in a signal it passes on is the proven sender, never a claim.
 * - An answer is passed on only to the peer whose offer it answers, from the peer that the offer went to, once.
 * - One stream of a session is served at a time. Several registrations of one peer may stand, each in a session of its
 *   own; the newest gets the offers. It alone: two programs that share a key would each answer, and spoil it for each other.
 * - A registration may be dead without anybody having noticed, the newest too. When it has ended, its open offers go to the
 *   newest of the others. Those of the same link go to a new one at once: it is the same program, and answers the same.
 * - Whenever a registration comes, the older ones of its peer are told something: those that are dead show it in seconds.
 * - Once it is moving, nobody comes in any more; who is there stays, and signals pass until the end.
 */
import { equalBytes } from '../bytes/index.ts'
import type { ErrorCode } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { formatHostPort, parseHostPort, toSocketAddress } from '../network/address.ts'
import type { StreamContext } from '../peer/index.ts'
import { KeyedLimiter, type Rate } from '../policy/limits.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import {
  encodeSignal,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  type RendezvousRequest,
  readRendezvousRequest,
  type SignalMessage,
} from '../signaling/index.ts'
import { dismiss, turnAway } from './moving.ts'
import { type OpenOffer, OpenOffers } from './open-offers.ts'

/** Offers of one peer: what a busy client needs, far below what it takes to bother anybody. */
const OFFERS_PER_PEER: Rate = { rate: 50, burst: 500 }

/** Registrations of one peer: a few devices or programs that share a key. */
const MAX_REGISTRATIONS_PER_PEER = 8

interface Registration {
  readonly peer: PeerId
  readonly messages: MessageStream
  readonly observed: () => string
  link: Uint8Array | undefined
  listed: boolean
}

export class RendezvousService {
  /** Those that are listed, by peer, the newest last. */
  readonly #online = new Map<PeerId, Registration[]>()
  readonly #offers = new OpenOffers<Registration>()
  readonly #limiter = new KeyedLimiter(OFFERS_PER_PEER)
  readonly #served = new WeakSet<Session>()
  readonly #registrations = new Set<Registration>()
  /** ms on the monotonic clock when it ends. */
  #movingUntil: number | undefined
  /** What peers are told when they register: where else they may ask what they look like. */
  reflectors: readonly string[] = []
  /** A peer has left. */
  onLeave: (() => void) | undefined

  /** Peers that can be dialled. */
  get online(): number {
    return this.#online.size
  }

  /** Registrations that stand, those of peers that only dial among them. */
  get registrations(): number {
    return this.#registrations.size
  }

  /** From now on nobody comes in, and those who are there are told that it ends in `ms`. */
  move(ms: number): void {
    if (this.#movingUntil !== undefined) return
    this.#movingUntil = performance.now() + ms
    for (const registration of this.#registrations) {
      // One that names no link is of before, and would take it for an error.
      if (registration.link !== undefined) this.#tell(registration, { t: 'moving', ms })
    }
  }

  /** Serves one stream of a peer's session. */
  serve(stream: Stream, { from, session }: StreamContext): void {
    if (this.#served.has(session)) return stream.reset(StreamCode.BUSY)
    if (this.#movingUntil !== undefined) {
      return turnAway(stream, this.#movingUntil, MAX_RENDEZVOUS_MESSAGE_BYTES)
    }
    this.#served.add(session)
    const registration: Registration = {
      peer: from,
      link: undefined,
      listed: false,
      observed: () => observed(session.remote),
      messages: new MessageStream(stream, {
        maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
        onMessage: (message) => this.#onRequest(registration, readRendezvousRequest(message)),
        onEnd: () => {
          this.#served.delete(session)
          this.#registrations.delete(registration)
          this.#unlist(registration)
          if (!stream.done) stream.reset()
          this.onLeave?.()
        },
      }),
    }
  }

  #onRequest(registration: Registration, request: RendezvousRequest): void {
    switch (request.t) {
      case 'register':
        this.#onRegister(registration, request)
        break
      case 'offer':
        this.#onOffer(registration, request)
        break
      case 'answer':
        this.#onAnswer(registration, request)
        break
    }
  }

  #onRegister(registration: Registration, { listed, link }: RendezvousRequest & { t: 'register' }): void {
    if (this.#movingUntil !== undefined && !this.#registrations.has(registration)) {
      return void dismiss(registration.messages, this.#movingUntil)
    }
    this.#registrations.add(registration)
    registration.link = link
    if (!listed) this.#unlist(registration)
    else if (!this.#list(registration)) return registration.messages.reset(StreamCode.BUSY)
    this.#tellRegistered(registration)
  }

  /** Makes it the newest of its peer; false when there are too many. */
  #list(registration: Registration): boolean {
    const { peer, link } = registration
    const others = (this.#online.get(peer) ?? []).filter((other) => other !== registration)
    // Dead ones show themselves by what they are told, and those who come again are let in then. To push out the oldest
    // instead would set one living program more than there is room for to pushing out the others, without end.
    if (!registration.listed) for (const other of others) this.#tellRegistered(other)
    if (others.length >= MAX_REGISTRATIONS_PER_PEER) return false
    registration.listed = true
    this.#online.set(peer, [...others, registration])
    const mine = (at: Registration | undefined) =>
      at === undefined ||
      (at !== registration && link !== undefined && at.link !== undefined && equalBytes(at.link, link))
    this.#redirect(peer, mine, registration)
    return true
  }

  #unlist(registration: Registration): void {
    const all = this.#online.get(registration.peer)
    if (!registration.listed || all === undefined) return
    registration.listed = false
    const rest = all.filter((other) => other !== registration)
    if (rest.length === 0) this.#online.delete(registration.peer)
    else this.#online.set(registration.peer, rest)
    this.#redirect(registration.peer, (at) => at === registration, rest.at(-1))
  }

  #redirect(to: PeerId, wanted: (at: Registration | undefined) => boolean, next: Registration | undefined): void {
    this.#offers.redirect(to, wanted, next, (offer, data) => this.#passOn(offer, data))
  }

  #onOffer(from: Registration, signal: SignalMessage): void {
    const { peer: to, id, data } = signal
    // First of all, so that nobody can ask about others without end.
    const stranger = this.#movingUntil !== undefined && !this.#registrations.has(from)
    if (stranger || !this.#limiter.take(from.peer)) return this.#fail(from, id, 'ERR_PEERLINE_BUSY')
    const open = this.#offers.find(from, signal)
    if (open !== undefined) {
      if (open.from === from) return this.#fail(from, id, 'ERR_PEERLINE_BUSY')
      // Whoever asked has another registration now, which waits for the answer in its stead.
      open.from = from
      return
    }
    const callee = this.#online.get(to)?.at(-1)
    if (callee === undefined) return this.#fail(from, id, 'ERR_PEERLINE_OFFLINE')
    if (!this.#offers.add(from, signal, callee)) return this.#fail(from, id, 'ERR_PEERLINE_BUSY')
    this.#passOn({ from, to, id, at: callee }, data)
  }

  #passOn({ from, id, at }: OpenOffer<Registration>, data: Uint8Array): void {
    this.#tell(at!, encodeSignal({ t: 'offer', peer: from.peer, id, data }))
  }

  #onAnswer(from: Registration, signal: SignalMessage): void {
    const offer = this.#offers.take(from, signal)
    if (offer === undefined) return
    const { id, data } = signal
    this.#tell(offer.from, encodeSignal({ t: 'answer', peer: from.peer, id, data }))
  }

  #tellRegistered(to: Registration): void {
    const { reflectors } = this
    this.#tell(to, { t: 'registered', observed: to.observed(), now: Date.now(), reflectors })
  }

  #fail(to: Registration, id: Uint8Array, code: ErrorCode): void {
    this.#tell(to, { t: 'failed', id, code })
  }

  /** A peer that does not read what it is told is let go, before it costs memory. */
  #tell(to: Registration, message: unknown): void {
    to.messages.send(message).catch(() => this.#unlist(to))
  }
}

/** Where a peer is seen, as the reflectors tell it: IPv4 as IPv4, also on a socket that takes both. */
function observed(remote: string | undefined): string {
  try {
    const { host, port } = parseHostPort(remote ?? '')
    const address = toSocketAddress(host, port)
    return address === undefined ? 'unknown' : formatHostPort(address.host, address.port)
  } catch {
    return 'unknown'
  }
}
