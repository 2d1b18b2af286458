import fc from 'fast-check'
import { beforeEach, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { StreamCode } from '../session/index.ts'
import type { RequestHandler } from './handler-context.ts'
import { type OneWayFailure, send } from './one-way.ts'
import { request } from './request.ts'
import { type ServeRequestOptions, serveRequest } from './serve-request.ts'
import { useServedPair } from './served-pair.compliance.ts'

const from = Identity.generate().peerId
const BODY = new Uint8Array([1, 2, 3])

const pair = useServedPair()
let failures: OneWayFailure[]

beforeEach(() => {
  failures = []
})

function serve(handler: RequestHandler, options: Partial<ServeRequestOptions> = {}): void {
  const onFailure = (failure: OneWayFailure) => void failures.push(failure)
  pair.onStream = (stream) => serveRequest(stream, handler, { from, onFailure, ...options })
}

/** A request after it is served after it. */
async function flush(): Promise<void> {
  serve((body) => body)
  await request(pair.a, '/echo/1', BODY)
}

test('messages of every size arrive, in order, at the handler of their protocol', async () => {
  const got: [string, number][] = []
  serve(
    (body, { protocol }) => {
      got.push([protocol, body.length])
      return BODY
    },
    { maxRequestBytes: 2_000_000 },
  )
  const sizes = [0, 1, 4_095, 4_096, 300_000, 1_048_576]
  for (const size of sizes) await send(pair.a, '/note/1', new Uint8Array(size))
  await vi.waitFor(() => expect(got).toEqual(sizes.map((size) => ['/note/1', size])))
  expect(failures).toEqual([])
})

test('it resolves when the session has it, whatever becomes of it there', async () => {
  pair.onStream = (stream) => stream.reset(StreamCode.NO_PROTOCOL)
  await send(pair.a, '/no/1', BODY)
  await vi.waitFor(() => expect(pair.a.streams).toBe(0))
  serve(() => new Promise(() => {}), { timeoutMs: 20 })
  await send(pair.a, '/note/1', BODY)
  await vi.waitFor(() => expect(failures).toMatchObject([{ error: { code: 'ERR_PEERLINE_TIMEOUT' } }]))
})

test('a handler that fails tells the hook alone, and its stream is free before it ends', async () => {
  const error = new Error('password 123')
  for (const handler of [
    () => {
      throw error
    },
    () => Promise.reject(error),
  ] satisfies RequestHandler[]) {
    failures = []
    serve(handler)
    await send(pair.a, '/note/1', BODY)
    await vi.waitFor(() => expect(failures).toEqual([{ from, protocol: '/note/1', error }]))
  }
  let signal: AbortSignal | undefined
  serve((_body, context) => {
    signal = context.signal
    return new Promise(() => {})
  })
  await send(pair.a, '/note/1', BODY)
  await vi.waitFor(() => expect(signal).toBeDefined())
  await vi.waitFor(() => expect([pair.a.streams, pair.b.streams]).toEqual([0, 0]))
  // Nobody waits, so nobody gives up.
  expect(signal?.aborted).toBe(false)
  serve(
    () => {
      throw error
    },
    {
      onFailure: () => {
        throw new Error('a hook that fails')
      },
    },
  )
  await send(pair.a, '/note/1', BODY)
  await flush()
})

test('what is too large, never ends, or comes while we shut down does not reach the handler', async () => {
  const handler = vi.fn<RequestHandler>((body) => body)
  const closing = new AbortController()
  closing.abort()
  serve(handler, { maxRequestBytes: 100 })
  await send(pair.a, '/note/1', new Uint8Array(101)).catch(() => {})
  await vi.waitFor(() => expect(failures).toMatchObject([{ error: { code: 'ERR_PEERLINE_TOO_LARGE' } }]))
  serve(handler, { timeoutMs: 20 })
  const stream = await pair.a.open('/note/1;send/1')
  await stream.write(BODY)
  await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  serve(handler, { closing: closing.signal })
  await send(pair.a, '/note/1', BODY)
  await vi.waitFor(() => expect(failures).toHaveLength(3))
  expect(failures[2]).toMatchObject({ error: { code: 'ERR_PEERLINE_CLOSED' } })
  expect(handler).not.toHaveBeenCalled()
})

test('messages without end do not run any number of handlers', async () => {
  const flooder = Identity.generate().peerId
  let running = 0
  serve(
    () => {
      running++
      return new Promise(() => {})
    },
    { from: flooder, timeoutMs: 2_000 },
  )
  for (let i = 0; i < 700; i++) await send(pair.a, '/note/1', BODY)
  await vi.waitFor(() => expect([running, failures.length]).toEqual([512, 188]))
  expect(failures[0]).toMatchObject({ from: flooder, error: { code: 'ERR_PEERLINE_BUSY' } })
  await vi.waitFor(() => expect(failures).toHaveLength(700), { timeout: 4_000 })
})

test('what cannot be sent says that nothing was executed', async () => {
  const controller = new AbortController()
  controller.abort()
  const invalid = { code: 'ERR_PEERLINE_INVALID', executed: 'no' }
  await expect(send(pair.a, '/a;send/1', BODY)).rejects.toMatchObject(invalid)
  await expect(send(pair.a, '/a/1', BODY, { timeoutMs: 0 })).rejects.toMatchObject(invalid)
  await expect(send(pair.a, '/a/1', BODY, { signal: controller.signal })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_ABORTED',
    executed: 'no',
  })
})

test('a body that nobody takes is given up in time, and by its signal', async () => {
  const large = new Uint8Array(1_000_000)
  pair.onStream = () => {}
  await expect(send(pair.a, '/x/1', large, { timeoutMs: 40 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    executed: 'unknown',
  })
  const controller = new AbortController()
  const sent = send(pair.a, '/x/1', large, { signal: controller.signal })
  setImmediate(() => controller.abort())
  await expect(sent).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})

test('property: whatever comes as a message, the handler sees it whole, or not at all', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 100 }), { maxLength: 5 }),
      fc.boolean(),
      async (chunks, whole) => {
        const got: Uint8Array[] = []
        serve(
          (body) => {
            got.push(body)
            return body
          },
          { maxRequestBytes: 250 },
        )
        const stream = await pair.a.open('/note/1;send/1')
        for (const chunk of chunks) stream.write(chunk).catch(() => {})
        if (whole) stream.end().catch(() => {})
        else stream.reset()
        await stream.next().catch(() => {})
        const sent = Buffer.concat(chunks)
        if (whole) expect(got.map((body) => Buffer.compare(body, sent))).toEqual(sent.length <= 250 ? [0] : [])
        else expect(got).toEqual([])
        if (!stream.done) stream.reset()
      },
    ),
    { numRuns: 100 },
  )
})
