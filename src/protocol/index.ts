export { PING_PROTOCOL, ping, pingHandler, servePing } from './ping.ts'
export { type RequestOptions, request } from './request.ts'
export { type RequestContext, type RequestHandler, type ServeRequestOptions, serveRequest } from './serve-request.ts'
