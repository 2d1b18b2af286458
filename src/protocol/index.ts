export {
  type CallOptions,
  type Codec,
  defineProtocol,
  Protocol,
  type ProtocolHandler,
  type ProtocolOptions,
  type TrimmedRequest,
} from './define.ts'
export { type Executed, RequestError } from './failure.ts'
export { safeFileName } from './file-name.ts'
export {
  type IncomingFile,
  type ReceivedFile,
  type ReceiveFileOptions,
  type ReceiveProgress,
  receiveFile,
} from './file-receive.ts'
export { type SendFileOptions, type SendProgress, type SentFile, sendFile } from './file-send.ts'
export { FILE_PROTOCOL } from './file-wire.ts'
export { checkName, type RequestForm, splitForm } from './form.ts'
export type { RequestContext, RequestHandler } from './handler-context.ts'
export { type OneWayFailure, type SendOptions, send } from './one-way.ts'
export type { PatienceLimits } from './patience.ts'
export {
  MAX_PEERS,
  PEERS_PROTOCOL,
  PeerExchange,
  type PeerExchangeOptions,
  type RequestPeersOptions,
  registerRecord,
  requestPeers,
  type ToldPeers,
} from './peer-exchange.ts'
export { PING, PING_PROTOCOL, ping, pingHandler, servePing } from './ping.ts'
export { PIPE_PROTOCOL, pipeTo, type ServePipeOptions, servePipe } from './pipe.ts'
export { Replies, type ReplyLimits } from './replies.ts'
export { type RequestOptions, request } from './request.ts'
export { requestKey } from './request-key.ts'
export { type Place, SEEN_PROTOCOL, SeenAddress, type SeenAddressOptions } from './seen-address.ts'
export { type AskQuorumOptions, askQuorum, type ObserverReport, type QuorumReport } from './seen-quorum.ts'
export { type ServeRequestOptions, serveRequest } from './serve-request.ts'
export {
  type ServeStreamOptions,
  type StreamAnswer,
  type StreamRequestContext,
  type StreamRequestHandler,
  serveStreamRequest,
} from './serve-stream.ts'
export { SchemaError, type SchemaIssue, type SchemaResult, type StandardSchema } from './standard-schema.ts'
export { requestStream, type StreamedAnswer, type StreamRequestOptions } from './stream-request.ts'
