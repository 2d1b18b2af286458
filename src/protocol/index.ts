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
export { PING_PROTOCOL, ping, pingHandler, servePing } from './ping.ts'
export { PIPE_PROTOCOL, pipeTo, type ServePipeOptions, servePipe } from './pipe.ts'
export { type RequestOptions, request } from './request.ts'
export { type RequestContext, type RequestHandler, type ServeRequestOptions, serveRequest } from './serve-request.ts'
