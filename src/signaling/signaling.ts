/**
 * Signaling: any medium that carries an offer to a peer and an answer back. It cannot read either.
 */
import type { PeerId } from '../identity/index.ts'

/** Bytes of the largest signal any medium must carry: an offer or an answer. */
export const MAX_SIGNAL_BYTES = 16_384

/** ms that an offer waits for its answer: the callee's approver may be a person. */
export const ANSWER_TIMEOUT_MS = 30_000

/** Takes an offer that came by a medium; resolves with the answer, or with nothing to stay silent. Never rejects. */
export type OfferHandler = (offer: Uint8Array) => Promise<Uint8Array | undefined>

/** One medium. */
export interface Signaling {
  /** For people and reports: `rendezvous ws://…`. */
  readonly name: string
  /**
   * Carries `offer` to `to` and resolves with the answer that came back, unread.
   * @param requestId 16 bytes that tie the answer to the offer
   * @param options.accept says whether an answer is genuine, where a medium lets anybody answer; until it says so, the
   *   medium waits on. What it throws ends the exchange. Media that know who answers may leave it alone.
   * @throws PeerlineError `ERR_PEERLINE_OFFLINE` when the medium knows that the peer is not there, `ERR_PEERLINE_BUSY`,
   *   `ERR_PEERLINE_TIMEOUT`, or what the signal says
   */
  exchange(
    to: PeerId,
    requestId: Uint8Array,
    offer: Uint8Array,
    options: { signal: AbortSignal; accept?: (answer: Uint8Array) => boolean },
  ): Promise<Uint8Array>
}
