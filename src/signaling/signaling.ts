/**
 * Signaling: any medium that carries an offer to a peer and an answer back. It cannot read either.
 */
import type { PeerId } from '../identity/index.ts'

/** Bytes of the largest signal a medium must carry, unless it says otherwise: an offer or an answer. */
export const MAX_SIGNAL_BYTES = 16_384

/** ms that an offer waits for its answer, unless the medium says otherwise: the callee's approver may be a person. */
export const ANSWER_TIMEOUT_MS = 30_000

/** What the answering side is told of the medium. */
export interface AnswerHow {
  /**
   * ms until the answer is with the other side, so that both may begin at once. A promise, where the medium learns that only
   * when the answer is on its way: it resolves with the ms that are left then, and rejects when the answer did not get out.
   */
  readonly travelMs?: number | Promise<number>
  /**
   * ms within which the answer will be with the other side, where nobody knows when, as with a person who carries it: for so long
   * the other side may begin at any moment. @default `travelMs` is good enough
   */
  readonly patientMs?: number
  /** Bytes of the largest answer that the medium carries. @default {@link MAX_SIGNAL_BYTES} */
  readonly maxBytes?: number
}

/** Takes an offer that came by a medium; resolves with the answer, or with nothing to stay silent. Never rejects. */
export type OfferHandler = (offer: Uint8Array, how?: AnswerHow) => Promise<Uint8Array | undefined>

/** What one exchange costs the side that dials, as far as the medium can say. */
export interface SignalingCost {
  /** Messages that the medium keeps, or carries, for one offer of a usual size: 0 for those of a session that is open. */
  readonly messages: number
  /** Money, where there is any to pay. */
  readonly price?: { readonly amount: number; readonly unit: string }
}

export interface ExchangeOptions {
  readonly signal: AbortSignal
  /**
   * Says whether an answer is the genuine one; until it says so, others are waited for. What it throws ends the exchange. A
   * medium that knows who answers may leave it alone. `fireInMs`: when the other side begins, where the medium knows that.
   * @default the first answer is taken
   */
  readonly accept?: ((answer: Uint8Array, how?: { readonly fireInMs: number }) => boolean) | undefined
}

/** One medium. */
export interface Signaling {
  /** For people and reports: `rendezvous ws://…`. */
  readonly name: string
  /** Bytes of the largest signal it carries. @default {@link MAX_SIGNAL_BYTES} */
  readonly maxSignalBytes?: number
  /** ms that an offer waits for its answer: the offer is made to live that long. @default {@link ANSWER_TIMEOUT_MS} */
  readonly patienceMs?: number
  /** What an exchange with `to` costs us. @default nothing that counts */
  cost?(to: PeerId): SignalingCost
  /**
   * Carries `offer` to `to` and resolves with the answer that came back, unread.
   * @param requestId 16 bytes that tie the answer to the offer
   * @throws PeerlineError `ERR_PEERLINE_OFFLINE` when the medium knows that the peer is not there, `ERR_PEERLINE_BUSY`,
   *   `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_TOO_LARGE`, or what the signal says
   */
  exchange(to: PeerId, requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array>
}
