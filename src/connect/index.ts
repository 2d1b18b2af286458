export { firstOf, pause, under, untilAborted } from '../pause.ts'
export type { Admit, AdmitHow, Leave } from './acceptor.ts'
export type { FindRelays } from './bonds.ts'
export {
  type Candidate,
  type CandidateKind,
  type ConnectionBody,
  decodeBody,
  type EarlyRequest,
  encodeBody,
  mayDial,
  type NatHint,
} from './candidate.ts'
export { Connector, type ConnectorOptions } from './connector.ts'
export type { Claim, Counted } from './counted.ts'
export type { SignalingOrder } from './exchange.ts'
export type { BirthdayBudget } from './punch-udp.ts'
export { MAX_RELAY_MESSAGE_BYTES, RELAY_PROTOCOL, Reservation } from './reservation.ts'
export { DEFAULT_PORT, type PinnedServerUrl, parseServerAddress, parseServerUrl, type ServerUrl } from './url.ts'
export type { Via } from './via.ts'
export type { Vantage, Way, WebRtcSetup } from './ways.ts'
