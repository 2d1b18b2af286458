export { discard } from './discard.ts'
export { FramedPath, LENGTH_BYTES } from './framing.ts'
export { MAX_FIRST_MESSAGE_BYTES, MAX_MESSAGE_BYTES, type Path, type PathHandler, type PathKind } from './path.ts'
export { PIPE_HIGH_WATER_BYTES, type Pipe, type PipeHandler } from './pipe.ts'
export {
  CIRCUIT_BYTES,
  type CircuitClaim,
  type CircuitSide,
  mintCircuit,
  RefusedCode,
  RelayPath,
  readCircuit,
  refusalError,
  verifyCircuit,
} from './relay.ts'
export { connectTcp, dialError, SocketPipe, tcpPath } from './tcp.ts'
export { type Reader, turns } from './turns.ts'
export { destroyStream, UDP_WINDOW_BYTES, UdxPipe, type UdxStream, udpPath } from './udp.ts'
export { ATTEMPT_MS, GATHER_MS, WebRtcAttempt, type WebRtcOptions } from './webrtc.ts'
export { MAX_DESCRIPTION_BYTES } from './webrtc-description.ts'
export type { DataChannelPipe } from './webrtc-pipe.ts'
export { type IceServer, loadPeerConnection, type PeerConnectionConstructor } from './webrtc-platform.ts'
export {
  connectWebSocket,
  MAX_WEBSOCKET_MESSAGE_BYTES,
  WEBSOCKET_PROTOCOL,
  WebSocketPipe,
} from './websocket.ts'
