import { afterAll, beforeAll, expect, test } from 'vitest'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { PING_PROTOCOL, ping, pingHandler, servePing } from './ping.ts'
import { request } from './request.ts'
import { serveRequest } from './serve-request.ts'

let pair: SessionPair
let lie = false

beforeAll(async () => {
  pair = await sessionPair({
    onStreamB: (stream) => {
      const from = pair.b.peer
      if (lie) serveRequest(stream, () => new Uint8Array(16), { from })
      else servePing(stream, { from })
    },
  })
})
afterAll(() => pair.close())

test('measures a round trip', async () => {
  const start = performance.now()
  const rttMs = await ping(pair.a)
  expect(rttMs).toBeGreaterThan(0)
  expect(rttMs).toBeLessThanOrEqual(performance.now() - start)
})

test('64 bytes come back, 65 are refused', async () => {
  const body = Buffer.alloc(64, 'ping')
  expect(Buffer.compare(await request(pair.a, PING_PROTOCOL, body), body)).toBe(0)
  await expect(request(pair.a, PING_PROTOCOL, new Uint8Array(65))).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TOO_LARGE',
  })
  expect(pingHandler(body, { from: pair.b.peer, protocol: PING_PROTOCOL, signal: AbortSignal.abort() })).toBe(body)
})

test('an echo of something else is no round trip', async () => {
  lie = true
  await expect(ping(pair.a)).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
  lie = false
})

test('a side that does not answer pings says so', async () => {
  await expect(ping(pair.b, { timeoutMs: 1_000 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_PROTOCOL' })
})
