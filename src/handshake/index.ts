export {
  type AcceptedExchange,
  acceptExchange,
  MAX_EXCHANGE_BODY_BYTES,
  MAX_EXCHANGE_BYTES,
  type StartedExchange,
  startExchange,
} from './exchange.ts'
export { SESSION_ID_BYTES, type SessionKeys, sessionKeys } from './keys.ts'
export { MAX_NOISE_BYTES, NoiseHandshake, type NoiseOptions, type NoisePattern } from './noise.ts'
export {
  ANSWER_OVERHEAD_BYTES,
  createOffer,
  MAX_ANSWER_BODY_BYTES,
  MAX_ANSWER_BYTES,
  MAX_OFFER_BODY_BYTES,
  MAX_OFFER_BYTES,
  MAX_OFFER_LIFETIME_MS,
  OFFER_OVERHEAD_BYTES,
  type Offer,
  type OfferOptions,
  type OpenOptions,
  openOffer,
  REQUEST_ID_BYTES,
  type ReceivedOffer,
} from './offer.ts'
export { CLOCK_SKEW_MS, ReplayCache } from './replay.ts'
export { rekey, TAG_BYTES } from './symmetric-state.ts'
