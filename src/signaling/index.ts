export { ByHand, type ByHandOptions, MAX_HAND_BYTES } from './by-hand.ts'
export {
  type IntroducedHandler,
  Introductions,
  type IntroductionsOptions,
} from './introduction.ts'
export {
  encodeIntroduced,
  INTRODUCE_PROTOCOL,
  INTRODUCED_PROTOCOL,
  type IntroductionReply,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  readAnswer,
  readOffer,
  readTo,
} from './introduction-wire.ts'
export { Lan, type LanOptions } from './lan.ts'
export { LedgerSignaling, type LedgerSignalingOptions } from './ledger.ts'
export { type LedgerState, readLedgerState } from './ledger-state.ts'
export { type RegisterOptions, Rendezvous } from './rendezvous.ts'
export {
  encodeSignal,
  MAX_REFLECTORS,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  RENDEZVOUS_PROTOCOL,
  type RendezvousRequest,
  readRendezvousRequest,
  type SignalMessage,
} from './rendezvous-wire.ts'
export {
  ANSWER_TIMEOUT_MS,
  type AnswerHow,
  type ExchangeOptions,
  MAX_SIGNAL_BYTES,
  type OfferHandler,
  type Signaling,
  type SignalingCost,
} from './signaling.ts'
