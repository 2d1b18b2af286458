/**
 * Peerline: dial a device by its public key, and it stays connected.
 */

export type { Via } from './connect/index.ts'
export {
  type Damage,
  type DhtSettings,
  type DialSettings,
  FileStore,
  type KnownAddress,
  type KnownPeer,
  type KnownPeers,
  type KnownPeersEvents,
  type LanMode,
  type LanNeighbour,
  type Store,
} from './discovery/index.ts'
export { type ErrorCode, isPeerlineError, PeerlineError } from './errors.ts'
export {
  fromDidKey,
  Identity,
  openRecord,
  type PeerId,
  type PeerRecord,
  parsePeerId,
  readTicket,
  signRecord,
  type Ticket,
  type TicketContent,
  toDidKey,
  verifySignature,
  writeTicket,
} from './identity/index.ts'
export { loadIdentity, loadOrCreateIdentity, saveIdentity } from './identity/key-file.ts'
export type {
  AppendOptions,
  Entry,
  Ledger,
  LivenessChange,
  LivenessState,
  Price,
  ReadOptions,
  Receipt,
  Topics,
} from './ledger/index.ts'
export { LogLedger, type LogLedgerOptions } from './ledger/log.ts'
export type { AddressVerdict, QuorumSettings } from './network/address-quorum.ts'
export type { PublicAddressSettings } from './network/public-address.ts'
export type { PathKind } from './path/index.ts'
export {
  type BootstrapSettings,
  type ConnectOptions,
  type Delivery,
  type HandleOptions,
  type LedgerSettings,
  type LedgerStatus,
  Memory,
  type OrderOutcome,
  Peer,
  type PeerEvents,
  type PeerLimits,
  type PeerOptions,
  type PeerRequestOptions,
  type RendezvousStatus,
  type SettingsHandler,
  type StreamContext,
  type StreamHandler,
  VERIFY_PROTOCOL,
} from './peer/index.ts'
export * from './policy/index.ts'
export * from './protocol/index.ts'
export {
  type ByteRate,
  Channel,
  type ChannelOptions,
  type ChannelPolicy,
  type DatagramCounts,
  type Datagrams,
  FIRST_APPLICATION_CODE,
  type Incoming,
  type IncomingOptions,
  type IncomingStreams,
  MAX_DATAGRAM_BYTES,
  type PathChange,
  type PathTiming,
  Session,
  type SessionEvents,
  type SessionRate,
  Stream,
  StreamCode,
  toNodeDuplex,
  toReadable,
  toWritable,
  type WatchOptions,
  watch,
} from './session/index.ts'
export { ByHand, type ExchangeOptions, type Signaling, type SignalingCost } from './signaling/index.ts'
export type {
  AddTaskOptions,
  DeadLetter,
  KnownTask,
  OverlapPolicy,
  RoutineOptions,
  RoutineStatus,
  Routines,
  Setting,
  Task,
  TaskHandle,
  TaskKind,
  TaskOrigin,
  TaskQueue,
  TaskResult,
} from './tasks/index.ts'
