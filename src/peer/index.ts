export { CONNECTIONS_PER_SOURCE, Listener, listenOn } from './listener.ts'
export {
  type ConnectOptions,
  Peer,
  type PeerEvents,
  type PeerOptions,
  type RendezvousStatus,
  type StreamContext,
  type StreamHandler,
} from './peer.ts'
