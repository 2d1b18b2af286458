/**
 * Peerline: dial a device by its public key, and it stays connected.
 */

export type { Via } from './connect/index.ts'
export { type ErrorCode, isPeerlineError, PeerlineError } from './errors.ts'
export {
  fromDidKey,
  Identity,
  openRecord,
  type PeerId,
  type PeerRecord,
  parsePeerId,
  signRecord,
  toDidKey,
  verifySignature,
} from './identity/index.ts'
export { loadIdentity, loadOrCreateIdentity, saveIdentity } from './identity/key-file.ts'
export type { PathKind } from './path/index.ts'
export {
  type ConnectOptions,
  type HandleOptions,
  Peer,
  type PeerEvents,
  type PeerOptions,
  type PeerRequestOptions,
  type RendezvousStatus,
  type StreamContext,
  type StreamHandler,
} from './peer/index.ts'
export type { Approver, ConnectionRequest, FirewallOptions } from './policy/firewall.ts'
export * from './protocol/index.ts'
export {
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
  Stream,
  StreamCode,
  toNodeDuplex,
  toReadable,
  toWritable,
  type WatchOptions,
  watch,
} from './session/index.ts'
