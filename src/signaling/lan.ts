/**
 * Signaling on the local network: the offer goes to everyone there, the answer straight back. No server takes part.
 *
 *     dialler                                     everyone on the link
 *     |== offer, multicast: 0, 60, 200, 500, 1000 ms ===>|  the one who can open it works out the answer
 *     |<------------------------------ answer, unicast --|  once; a resent offer gets the same one again
 *
 * - Nobody says "not me": silence for 1.5 s is all there is to learn about a peer that is not there, or does not want.
 * - Anyone on the network can send anything. Before any cryptography: only from a subnet of ours, so many offers a second
 *   from one source and from all, so many at once. What looks like an answer is shown to `accept`, and while that says no,
 *   the wait goes on: a forged answer ends no dial, and fewer than 64 do not hide the genuine one.
 * - The answers given lately are kept (5 s, 1,024 of them), so that an offer that comes twice is opened once.
 *
 * What others on the network learn: that this machine dials somebody now, and how long the offer is. Neither who nor
 * whom: an offer is Noise IK's first message, a fresh key and what is sealed to the responder. Who watches the answer,
 * or sends a copy of the offer within those 5 s to see who answers it, learns which machine has been dialled.
 *
 * The wire is in lan-wire.ts, the sockets in network/lan-sockets.ts.
 */
import type { RemoteInfo } from 'node:dgram'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { InterfaceFilter, Interfaces } from '../network/address.ts'
import { LanSockets } from '../network/lan-sockets.ts'
import { SourceGate } from '../network/source-gate.ts'
import { awaitAnswer } from './answer-wait.ts'
import {
  encodeLanAnswer,
  encodeLanOffer,
  LAN_GROUP_V4,
  LAN_GROUP_V6,
  LAN_PORT,
  readLanDatagram,
  tagOf,
} from './lan-wire.ts'
import { type ExchangeOptions, MAX_SIGNAL_BYTES, type OfferHandler, type Signaling } from './signaling.ts'

/** ms after the start at which an offer is sent: wireless multicast is neither acknowledged nor repeated. */
const SEND_AT_MS = [0, 60, 200, 500, 1_000]

/** The sendings, by index, from which on subnet broadcast helps out: by then multicast should have been answered. */
const BROADCAST_FROM = 2

/** ms: the last offer, and time for its answer through a sleeping wireless card. */
const DEADLINE_MS = 1_500

/** Own offers that wait for an answer at once: each is sent to the whole network. */
const MAX_WAITING = 256

/** Offers that are being decided on at once; each may wait for an approver. */
const MAX_OPEN_OFFERS = 64

/** Copies of one offer that are answered: five sendings on two families, and some for further interfaces. */
const MAX_COPIES = 32

/** Answers kept for resent offers, and ms for which: an offer is resent for one second. */
const MAX_KEPT = 1_024
const KEEP_MS = 5_000

/** Answers to one offer that are looked at, from one source and in all: each costs about 0.15 ms of handshake. */
const MAX_ANSWERS_PER_SOURCE = 4
const MAX_ANSWERS = 64

/**
 * Offers a second, from one source and from all: to find that one is not for us costs about 0.1 ms, so that a flood takes
 * a twentieth of a core. A machine that dials forty peers at once, sending thrice to each in the first second, stays below.
 */
const MAX_OFFERS_PER_SOURCE = 200
const MAX_OFFERS = 400

/** ms between two looks at the interfaces. */
const REFRESH_MS = 5_000

export interface LanOptions {
  readonly onOffer: OfferHandler
  /** False: only dial. Nothing is heard then but the answers to own offers. */
  readonly answering: boolean
  /** UDP port, the same for all peers of a network. @default 61_456 */
  readonly port?: number
  /** Multicast groups, the same for all peers of a network. @default 239.255.112.108 and ff12::f065:706c */
  readonly groups?: { readonly v4: string; readonly v6: string }
  /** Which interfaces; loopback only when asked. @default all but bridges and tunnels */
  readonly interfaces?: InterfaceFilter & { readonly loopback?: boolean }
  /** What to look at. @default os.networkInterfaces */
  readonly listInterfaces?: () => Interfaces
}

interface Waiting {
  /** Shows it an answer. */
  readonly offered: (answer: Uint8Array, source: string) => void
  readonly reject: (error: PeerlineError) => void
}

interface Kept {
  readonly answer: Promise<Uint8Array | undefined>
  readonly at: number
  copies: number
}

export class Lan implements Signaling {
  readonly name = 'lan'
  readonly #options: LanOptions
  readonly #gate = new SourceGate({ perSource: MAX_OFFERS_PER_SOURCE, all: MAX_OFFERS })
  /** Own offers, by tag. Two exchanges of the same offer share its answer. */
  readonly #waiting = new Map<string, Set<Waiting>>()
  /** Offers that came in, by tag, oldest first. */
  readonly #kept = new Map<string, Kept>()
  #sockets!: LanSockets
  #waitingCount = 0
  #openOffers = 0
  #timer: NodeJS.Timeout | undefined
  #ended: PeerlineError | undefined

  private constructor(options: LanOptions) {
    this.#options = options
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_UNSUPPORTED` when it cannot listen */
  static async open(options: LanOptions): Promise<Lan> {
    const lan = new Lan(options)
    lan.#sockets = await LanSockets.open({
      port: options.port ?? LAN_PORT,
      groups: options.groups ?? { v4: LAN_GROUP_V4, v6: LAN_GROUP_V6 },
      filter: options.interfaces ?? {},
      listen: options.answering,
      onDatagram: (bytes, from) => lan.#onDatagram(bytes, from),
      ...(options.listInterfaces === undefined ? {} : { interfaces: options.listInterfaces }),
    })
    lan.#timer = setInterval(() => {
      lan.#forgetOld()
      void lan.#sockets.refresh()
    }, REFRESH_MS)
    lan.#timer.unref()
    return lan
  }

  /** Interfaces in use, each counted once for IPv4 and once for IPv6. With none, nobody can be dialled. */
  get links(): number {
    return this.#sockets.links
  }

  /** Looks at the interfaces now, as when the network is known to have changed. */
  refresh(): Promise<void> {
    return this.#sockets.refresh()
  }

  exchange(to: PeerId, _requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    const late = () =>
      new PeerlineError('ERR_PEERLINE_OFFLINE', `${to} does not answer on the local network`, { recover: RECOVER })
    return awaitAnswer({ ...options, to, ms: DEADLINE_MS, late, maxAnswers: MAX_ANSWERS }, (wait) => {
      this.#refuse(offer)
      const tag = tagOf(offer)
      const datagram = encodeLanOffer(offer)
      const looks = new Map<string, number>()
      const waiting: Waiting = {
        reject: wait.fail,
        offered: (answer, source) => {
          const bySource = (looks.get(source) ?? 0) + 1
          if (bySource > MAX_ANSWERS_PER_SOURCE) return
          looks.set(source, bySource)
          wait.offered(answer)
        },
      }
      this.#remember(tag, waiting)
      const timers = SEND_AT_MS.flatMap((ms, nth) => {
        const send = () => this.#sockets.sendToAll(datagram, { broadcast: nth >= BROADCAST_FROM })
        if (ms > 0) return setTimeout(send, ms)
        send()
        return []
      })
      return () => {
        for (const timer of timers) clearTimeout(timer)
        this.#forget(tag, waiting)
      }
    })
  }

  /** Ends every exchange, and frees the sockets. */
  async close(): Promise<void> {
    this.#ended ??= new PeerlineError('ERR_PEERLINE_CLOSED', 'signaling on the local network was closed')
    clearInterval(this.#timer)
    for (const ofTag of [...this.#waiting.values()]) for (const waiting of [...ofTag]) waiting.reject(this.#ended)
    this.#kept.clear()
    await this.#sockets.close()
  }

  /** @throws PeerlineError why no offer can go out now */
  #refuse(offer: Uint8Array): void {
    if (this.#ended !== undefined) throw this.#ended
    if (offer.length > MAX_SIGNAL_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `an offer of ${offer.length} bytes is over ${MAX_SIGNAL_BYTES}`)
    }
    if (this.#waitingCount >= MAX_WAITING) {
      const message = `${MAX_WAITING} offers wait for answers on the local network already`
      throw new PeerlineError('ERR_PEERLINE_LIMIT', message)
    }
    if (this.#sockets.links > 0) return
    throw new PeerlineError('ERR_PEERLINE_OFFLINE', 'this machine is on no local network', { recover: RECOVER })
  }

  #remember(tag: string, waiting: Waiting): void {
    const ofTag = this.#waiting.get(tag) ?? new Set()
    this.#waiting.set(tag, ofTag.add(waiting))
    this.#waitingCount++
  }

  #forget(tag: string, waiting: Waiting): void {
    const ofTag = this.#waiting.get(tag)
    if (ofTag?.delete(waiting) !== true) return
    this.#waitingCount--
    if (ofTag.size === 0) this.#waiting.delete(tag)
  }

  // ---- what comes in, from anyone on the network ----

  #onDatagram(bytes: Uint8Array, from: RemoteInfo): void {
    if (this.#ended !== undefined) return
    const datagram = readLanDatagram(bytes)
    if (datagram?.kind === 'answer') {
      for (const waiting of [...(this.#waiting.get(datagram.tag) ?? [])])
        waiting.offered(datagram.message, from.address)
    }
    if (datagram?.kind === 'offer' && this.#options.answering && this.#gate.pass(from.address)) {
      this.#onOffer(datagram.message, from)
    }
  }

  #onOffer(offer: Uint8Array, from: RemoteInfo): void {
    const tag = tagOf(offer)
    if (this.#waiting.has(tag)) return // our own, heard by ourselves
    const kept = this.#kept.get(tag) ?? this.#take(tag, offer)
    if (kept === undefined || ++kept.copies > MAX_COPIES) return
    void kept.answer.then((answer) => {
      if (answer !== undefined && this.#ended === undefined) this.#sockets.sendTo(encodeLanAnswer(tag, answer), from)
    })
  }

  /** Has a new offer decided on. */
  #take(tag: string, offer: Uint8Array): Kept | undefined {
    if (this.#openOffers >= MAX_OPEN_OFFERS) return undefined
    this.#openOffers++
    const answer = this.#options
      .onOffer(offer)
      .then(
        (answer) => (answer !== undefined && answer.length <= MAX_SIGNAL_BYTES ? answer : undefined),
        () => undefined,
      )
      .finally(() => this.#openOffers--)
    const kept: Kept = { answer, at: performance.now(), copies: 0 }
    this.#kept.set(tag, kept)
    this.#forgetOld()
    return kept
  }

  #forgetOld(): void {
    const since = performance.now() - KEEP_MS
    for (const [tag, { at }] of this.#kept) {
      if (at >= since && this.#kept.size <= MAX_KEPT) break
      this.#kept.delete(tag)
    }
  }
}

const RECOVER = 'Start the peer on this network, or give a rendezvous URL or an address of it.'
