/**
 * The other end of a dial: offers that a medium brought become sessions, or go on with those that both sides have.
 *
 *     offer --> genuine, fresh? --> for a session of ours? --> that one goes on
 *                                \-> limits, leave --> read --> session, answer; join circuits; dial and punch as well
 *
 * - Two peers that dial each other at once: the offer of the one with the smaller id stands, the other's is dropped.
 * - What a stranger tells is read when it is let in; only whether it brings an invitation is looked at before, and only while
 *   there are any.
 */
import { asPeerlineError, PeerlineError } from '../errors.ts'
import {
  ANSWER_OVERHEAD_BYTES,
  MAX_OFFER_LIFETIME_MS,
  openOffer,
  type ReceivedOffer,
  type ReplayCache,
} from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import type { AnswerHow } from '../signaling/index.ts'
import type { Leave } from './acceptor.ts'
import { Answers } from './answers.ts'
import { type ConnectionBody, decodeBody, type EarlyRequest, encodeBody } from './candidate.ts'
import { type Claim, type Counted, held } from './counted.ts'
import type { Keeper } from './keeper.ts'
import type { OwnSide } from './own-side.ts'
import type { Making, SessionMaker } from './session-maker.ts'
import type { Vantage } from './ways.ts'

/** Longest wait before this side begins that is guessed: half of the longest round trip to a rendezvous that is believed. */
const MAX_FIRE_IN_MS = 1_000

/** ms that paths take once both sides have begun. */
export const PATHS_MS = 15_000

/** ms that paths of other sessions get to answer when their peer begins anew. */
const DOUBTED_MS = 4_000

export interface AnsweringOptions {
  readonly identity: Identity
  readonly tellRefusals: boolean
  /** Counts a connection. @throws PeerlineError when there are too many */
  readonly count: (claim: Claim) => Counted
  /**
   * Answers a request that came in the offer of a peer that was let in; undefined: it is to ask in the session. It must
   * not take long, nor reject: the answer to the offer waits for it. @default none is answered
   */
  readonly onEarly?: ((from: PeerId, request: EarlyRequest) => Promise<Uint8Array | undefined>) | undefined
  /** What we know of ourselves. */
  readonly vantage: () => Vantage
}

/** A dial of ours that is under way. */
export interface OwnDial {
  readonly leave: Leave | undefined
  /** Ends the dial with a session that came the other way. */
  readonly settle: (session: Session) => void
}

export interface AnsweringHost {
  readonly replay: ReplayCache
  readonly own: OwnSide
  readonly maker: SessionMaker
  readonly keeper: Keeper
  readonly dialling: ReadonlyMap<PeerId, OwnDial>
  /** Lets a peer in. */
  readonly admit: (offer: ReceivedOffer, counted: Counted) => Promise<Leave | undefined>
  /** How a session may be reached that another peer dials. `hidden`: that one shows no address, and dials none of ours. */
  readonly making: (hidden: boolean) => Making
  readonly closing: AbortSignal
}

export class Answering {
  readonly #options: AnsweringOptions
  readonly #host: AnsweringHost
  readonly #answers = new Answers()

  constructor(options: AnsweringOptions, host: AnsweringHost) {
    this.#options = options
    this.#host = host
  }

  /**
   * Answers an offer that a medium brought. Never rejects; undefined means silence. An offer that comes again, by another
   * medium or because the answer was lost, gets the same answer.
   */
  answer(message: Uint8Array, how: AnswerHow = {}): Promise<Uint8Array | undefined> {
    return this.#answers.of(message, () => this.#answer(message, how))
  }

  async #answer(message: Uint8Array, how: AnswerHow): Promise<Uint8Array | undefined> {
    const { replay, maker, keeper, dialling } = this.#host
    try {
      const offer = openOffer(this.#options.identity, message, { replay })
      const own = dialling.get(offer.from)
      // What a stranger tells is read when it is let in.
      const told = own !== undefined || maker.bonds.knows(offer.from) ? decodeBody(offer.body) : undefined
      if (told?.session !== undefined) return await keeper.answer(offer, told, this.#resumed(told, how))
      if (own === undefined || told === undefined) return await this.#letIn(offer, told, how)
      // Who dials a peer has let it in: its offer needs no further leave, and counts already.
      if (this.#dialsFirst(offer.from)) return undefined
      const { session, answer } = await this.#take(offer, told, own.leave, how)
      own.settle(session)
      return answer
    } catch {
      // Whatever a stranger sent: it was not for us, not in time, or not whole. It hears nothing.
      return undefined
    }
  }

  /** @param known what it tells, where that is read already */
  async #letIn(
    offer: ReceivedOffer,
    known: ConnectionBody | undefined,
    how: AnswerHow,
  ): Promise<Uint8Array | undefined> {
    let counted: Counted | undefined
    let leave: Leave | undefined
    try {
      counted = this.#options.count({ direction: 'in', peer: offer.from })
      leave = await this.#host.admit(offer, counted)
    } catch (cause) {
      counted?.release()
      const error = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      return this.#options.tellRefusals ? offer.refuse(error.code, error.message) : undefined
    }
    const { session, answer } = await held<{ session?: Session; answer: Uint8Array | undefined }>(counted, async () => {
      const told = known ?? decodeBody(offer.body)
      if (told.session !== undefined) {
        return { answer: await this.#host.keeper.answer(offer, told, this.#resumed(told, how)) }
      }
      return this.#take(offer, told, leave, how)
    })
    // We may have dialled it since.
    if (session !== undefined) this.#host.dialling.get(offer.from)?.settle(session)
    return answer
  }

  /** Makes the session that an offer is for, and the answer. @throws PeerlineError when there is to be none any more */
  async #take(
    offer: ReceivedOffer,
    told: ConnectionBody,
    leave: Leave | undefined,
    how: AnswerHow,
  ): Promise<{ session: Session; answer: Uint8Array }> {
    const { from } = offer
    const { own, maker, keeper, closing } = this.#host
    const before = maker.bonds.of(from)
    // First of all: the other side comes to the relay as soon as it has the answer.
    own.join(told)
    const firstPathMs = firstPathMsOf(how)
    const making = { ...this.#host.making(told.hidden === true), leave, firstPathMs }
    const [webrtc, earlyAnswer] = await Promise.all([
      told.webrtc === undefined ? undefined : own.describe(making.ways, told),
      told.early === undefined ? undefined : this.#options.onEarly?.(from, told.early),
    ])
    // That took its time: we may be closing, or have dialled it ourselves.
    if (closing.aborted || (this.#dialsFirst(from) && this.#dialledSince(from, before))) {
      webrtc?.close()
      throw new PeerlineError('ERR_PEERLINE_CLOSED', 'this offer leads to no session any more')
    }
    const body = { ...own.body(making.ways), webrtc: webrtc?.description, earlyAnswer }
    let accepted: ReturnType<ReceivedOffer['accept']>
    try {
      accepted = offer.accept(encodeBody(body, roomOf(how)))
    } catch (error) {
      // A copy of it was accepted meanwhile.
      webrtc?.close()
      throw error
    }
    const { message: answer, keys } = accepted
    const bond = maker.make(keys, from, making)
    const { session } = bond
    bond.hidden = told.hidden === true
    maker.learn(from, told)
    const upgrade = maker.seek(bond, { webrtc, relayed: told.circuits.length > 0 })
    void upgrade?.begin(told, this.#travel(told, how), how.patientMs)
    // It begins anew with us, as one does that was started again: do the others still stand?
    for (const other of maker.bonds.of(from)) if (other !== session) other.probe(DOUBTED_MS)
    keeper.standBy(bond)
    return { session, answer }
  }

  /** Of two peers that dial each other, the offer of this one stands. */
  #dialsFirst(other: PeerId): boolean {
    return this.#options.identity.peerId < other
  }

  /** An offer of ours is on its way, or has made a session that was not there `before`: the other side has dropped its own. */
  #dialledSince(to: PeerId, before: readonly Session[]): boolean {
    const { bonds } = this.#host.maker
    const signaled = ({ id, initiator }: Session) => initiator && bonds.get(id)?.addresses.length === 0
    return this.#host.dialling.has(to) || bonds.of(to).some((session) => !before.includes(session) && signaled(session))
  }

  #resumed(told: ConnectionBody, how: AnswerHow): { travelMs: number | Promise<number>; maxBytes: number | undefined } {
    return { travelMs: this.#travel(told, how), ...roomOf(how) }
  }

  /** ms until the answer is where the offer came from: half of both round trips to the rendezvous, when nobody knows better. */
  #travel({ rendezvousRttMs = 0 }: ConnectionBody, { travelMs }: AnswerHow): number | Promise<number> {
    if (typeof travelMs === 'object') return travelMs
    const mine = this.#options.vantage().rendezvousRttMs ?? 0
    return Math.min(travelMs ?? (rendezvousRttMs + mine) / 2, MAX_FIRE_IN_MS)
  }
}

/** Bytes of the largest body that the medium takes in an answer. */
function roomOf({ maxBytes }: AnswerHow): { maxBytes: number | undefined } {
  return { maxBytes: maxBytes === undefined ? undefined : maxBytes - ANSWER_OVERHEAD_BYTES }
}

/** ms for the first path, where the answer takes long: as long as it may take, and what paths take beside. */
function firstPathMsOf({ travelMs, patientMs }: AnswerHow): number | undefined {
  const onItsWayMs = typeof travelMs === 'object' ? MAX_OFFER_LIFETIME_MS : 0
  if (patientMs === undefined && onItsWayMs === 0) return undefined
  return onItsWayMs + (patientMs ?? 0) + PATHS_MS
}
