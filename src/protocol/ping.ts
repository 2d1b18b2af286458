/**
 * `/peerline/ping/1`: a request of up to 64 bytes comes back as it is.
 *
 * It measures what an application sees: both event loops and everything that waits before it, not the path alone.
 */
import { randomBytes } from 'node:crypto'
import { equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session, Stream } from '../session/index.ts'
import { defineProtocol } from './define.ts'
import { EarlyAsk } from './early.ts'
import { request } from './request.ts'
import { type RequestHandler, serveRequest } from './serve-request.ts'

export const PING_PROTOCOL = '/peerline/ping/1'

/** Bytes of the largest ping: a ping carries a token, no goods. */
const MAX_PING_BYTES = 64

/** Bytes of our own: no answer made beforehand can match it. */
const TOKEN_BYTES = 16

/** Echoes. */
export const pingHandler: RequestHandler = (body) => body

/** Pings, for `Peer.handle` with {@link pingHandler}: an echo may be given any number of times. */
export const PING = defineProtocol({
  name: PING_PROTOCOL,
  encoding: 'bytes',
  maxRequestBytes: MAX_PING_BYTES,
  maxResponseBytes: MAX_PING_BYTES,
  replaySafe: true,
})

/** Answers one ping. Never throws. */
export function servePing(stream: Stream, options: { from: PeerId }): void {
  serveRequest(stream, pingHandler, { from: options.from, maxRequestBytes: MAX_PING_BYTES })
}

/**
 * The round-trip time to the other side's program and back, ms.
 * @throws PeerlineError as `request`; `ERR_PEERLINE_PROTOCOL` when something else comes back
 */
export async function ping(
  session: Session,
  options: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<number> {
  const token = randomBytes(TOKEN_BYTES)
  const start = performance.now()
  const echo = await request(session, PING_PROTOCOL, token, { ...options, maxResponseBytes: MAX_PING_BYTES })
  const rttMs = performance.now() - start
  checkEcho(echo, token)
  return rttMs
}

/** A ping that rides in the offer of a dial. */
export class EarlyPing extends EarlyAsk {
  constructor() {
    super(PING_PROTOCOL, randomBytes(TOKEN_BYTES))
  }

  /** True when the dial brought its echo. @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when something else came back */
  get echoed(): boolean {
    const echo = this.answer(MAX_PING_BYTES)
    if (echo !== undefined) checkEcho(echo, this.body)
    return echo !== undefined
  }
}

function checkEcho(echo: Uint8Array, token: Uint8Array): void {
  if (equalBytes(echo, token)) return
  throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${PING_PROTOCOL}: another echo came`)
}
