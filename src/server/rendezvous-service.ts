/**
 * The rendezvous: it knows which peers are online, and passes offers and answers that it cannot read.
 *
 * - Every peer is authenticated by its session; `peer` in a signal it passes on is the proven sender, never a claim.
 * - An answer is passed on only to the peer whose offer it answers, from the peer that the offer went to, once.
 * - One stream of a session is served at a time. Several registrations of one peer may stand, each in a session of its
 *   own; the newest gets the offers.
 */
import { toHex } from '../bytes/index.ts'
import type { ErrorCode } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { formatHostPort, parseHostPort, toSocketAddress } from '../network/address.ts'
import type { StreamContext } from '../peer/index.ts'
import { KeyedLimiter, type Rate } from '../policy/limits.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import {
  ANSWER_TIMEOUT_MS,
  encodeSignal,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  type RendezvousRequest,
  readRendezvousRequest,
  type SignalMessage,
} from '../signaling/index.ts'

/** Offers of one peer: what a busy client needs, far below what it takes to bother anybody. */
const OFFERS_PER_PEER: Rate = { rate: 50, burst: 500 }

/** Offers that wait for an answer, all peers together: about 200 bytes each. */
const MAX_OPEN_OFFERS = 65_536

/** Registrations of one peer: a few devices or programs that share a key. */
const MAX_REGISTRATIONS_PER_PEER = 8

interface Registration {
  readonly peer: PeerId
  readonly messages: MessageStream
  listed: boolean
}

interface OpenOffer {
  readonly from: Registration
  readonly to: PeerId
  readonly until: number
}

export class RendezvousService {
  readonly #online = new Map<PeerId, Registration[]>()
  /** In order of arrival, which is the order of expiry. */
  readonly #offers = new Map<string, OpenOffer>()
  readonly #limiter = new KeyedLimiter(OFFERS_PER_PEER)
  readonly #served = new WeakSet<Session>()
  /** What peers are told when they register: where else they may ask what they look like. */
  reflectors: readonly string[] = []

  /** Peers that can be dialled. */
  get online(): number {
    return this.#online.size
  }

  /** Serves one stream of a peer's session. */
  serve(stream: Stream, { from, session }: StreamContext): void {
    if (this.#served.has(session)) return stream.reset(StreamCode.BUSY)
    this.#served.add(session)
    const registration: Registration = {
      peer: from,
      listed: false,
      messages: new MessageStream(stream, {
        maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
        onMessage: (message) => this.#onRequest(registration, readRendezvousRequest(message), observed(session.remote)),
        onEnd: () => {
          this.#served.delete(session)
          this.#unlist(registration)
          if (!stream.done) stream.reset()
        },
      }),
    }
  }

  #onRequest(registration: Registration, request: RendezvousRequest, address: string): void {
    switch (request.t) {
      case 'register':
        this.#unlist(registration)
        registration.listed = request.listed
        if (request.listed) this.#list(registration)
        this.#tell(registration, {
          t: 'registered',
          observed: address,
          now: Date.now(),
          reflectors: this.reflectors,
        })
        break
      case 'offer':
        this.#onOffer(registration, request)
        break
      case 'answer':
        this.#onAnswer(registration, request)
        break
    }
  }

  #list(registration: Registration): void {
    const all = this.#online.get(registration.peer) ?? []
    all.push(registration)
    this.#online.set(registration.peer, all)
    if (all.length > MAX_REGISTRATIONS_PER_PEER) all.shift()!.messages.reset()
  }

  #unlist(registration: Registration): void {
    const all = this.#online.get(registration.peer)
    const rest = all?.filter((other) => other !== registration)
    if (rest === undefined) return
    if (rest.length === 0) this.#online.delete(registration.peer)
    else this.#online.set(registration.peer, rest)
  }

  #onOffer(from: Registration, { peer: to, id, data }: SignalMessage): void {
    // First of all, so that nobody can ask about others without end.
    if (!this.#limiter.take(from.peer)) return this.#fail(from, id, 'ERR_PEERLINE_BUSY')
    this.#forgetExpired()
    const key = `${from.peer} ${to} ${toHex(id)}`
    const callee = this.#online.get(to)?.at(-1)
    if (callee === undefined) return this.#fail(from, id, 'ERR_PEERLINE_OFFLINE')
    if (this.#offers.size >= MAX_OPEN_OFFERS || this.#offers.has(key)) return this.#fail(from, id, 'ERR_PEERLINE_BUSY')
    this.#offers.set(key, { from, to, until: performance.now() + ANSWER_TIMEOUT_MS })
    this.#tell(callee, encodeSignal({ t: 'offer', peer: from.peer, id, data }))
  }

  #onAnswer(from: Registration, { peer: to, id, data }: SignalMessage): void {
    this.#forgetExpired()
    const key = `${to} ${from.peer} ${toHex(id)}`
    const offer = this.#offers.get(key)
    if (offer === undefined) return
    this.#offers.delete(key)
    this.#tell(offer.from, encodeSignal({ t: 'answer', peer: from.peer, id, data }))
  }

  #forgetExpired(): void {
    const now = performance.now()
    for (const [key, { until }] of this.#offers) {
      if (until > now) break
      this.#offers.delete(key)
    }
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
