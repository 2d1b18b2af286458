import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { StreamCode } from '../session/index.ts'
import { noise } from '../session/memory-path.compliance.ts'
import { request } from './request.ts'
import { tooManyRun } from './running.ts'
import { serveRequest } from './serve-request.ts'
import {
  type ServeStreamOptions,
  type StreamRequestContext,
  type StreamRequestHandler,
  serveStreamRequest,
} from './serve-stream.ts'
import { useServedPair } from './served-pair.compliance.ts'
import { requestStream } from './stream-request.ts'

const from = Identity.generate().peerId
const BODY = new Uint8Array([1, 2, 3])

const pair = useServedPair()

function serve(handler: StreamRequestHandler, options: Partial<ServeStreamOptions> = {}): void {
  pair.onStream = (stream) => serveStreamRequest(stream, handler, { from, ...options })
}

async function all(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const read: Uint8Array[] = []
  for await (const chunk of chunks) read.push(chunk)
  return Buffer.concat(read)
}

/** A body of `count` chunks of `size`, and how far it has been read. */
function source(count: number, size: number) {
  const chunk = noise(size)
  const state = { given: 0, left: false, hash: createHash('sha256') }
  async function* chunks(): AsyncGenerator<Uint8Array> {
    try {
      for (; state.given < count; state.given++) {
        state.hash.update(chunk)
        yield chunk
      }
    } finally {
      state.left = true
    }
  }
  return { state, chunks: chunks() }
}

function fired(signal: AbortSignal): Promise<unknown> {
  if (signal.aborted) return Promise.resolve(signal.reason)
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(signal.reason)))
}

/** A handler that waits, and what it was told. */
function waiting() {
  let called!: (context: StreamRequestContext) => void
  const context = new Promise<StreamRequestContext>((resolve) => {
    called = resolve
  })
  const handler: StreamRequestHandler = (_body, given) => {
    called(given)
    return new Promise(() => {})
  }
  return { handler, context }
}

test('bodies go there and come back as they come, however the handler gives them', async () => {
  const handlers: StreamRequestHandler[] = [
    (body) => body,
    async function* (body) {
      for await (const chunk of body) yield chunk
    } as StreamRequestHandler,
    async (body, { write }) => {
      for await (const chunk of body) await write(chunk)
    },
    async (body) => all(body),
  ]
  for (const handler of handlers) {
    serve(handler)
    for (const [count, size] of [
      [0, 1],
      [1, 0],
      [300, 7],
      [40, 100_000],
    ] as const) {
      const sent = source(count, size)
      const answer = await all(await requestStream(pair.a, '/echo/1', sent.chunks))
      expect(answer.length).toBe(count * size)
      expect(createHash('sha256').update(answer).digest('hex')).toBe(sent.state.hash.digest('hex'))
    }
  }
})

test('a side that streams and one that does not understand each other', async () => {
  serve(async (body) => all(body))
  expect(await request(pair.a, '/echo/1', BODY)).toEqual(BODY)
  pair.onStream = (stream) => serveRequest(stream, (body) => body, { from })
  expect(await all(await requestStream(pair.a, '/echo/1', BODY))).toEqual(Buffer.from(BODY))
})

test('back-pressure reaches from the reader of the answer to the source of the request', async () => {
  serve((body) => body)
  const sent = source(1_000, 65_536)
  const answer = await requestStream(pair.a, '/echo/1', sent.chunks)
  await answer.next()
  // Nothing more is read: what is under way fills the windows, and then the source is asked no more.
  let before = -1
  await vi.waitFor(
    () => {
      const same = sent.state.given === before
      before = sent.state.given
      expect(same).toBe(true)
    },
    { interval: 100, timeout: 5_000 },
  )
  expect(sent.state.given).toBeLessThan(500)
  await answer.return?.()
  await vi.waitFor(() => expect(sent.state.left).toBe(true))
})

test('leaving the answer, or the signal, reaches the handler and what it gives', async () => {
  for (const by of ['break', 'signal'] as const) {
    const given = source(100_000, 1_000)
    let signal!: AbortSignal
    serve((_body, context) => {
      signal = context.signal
      return given.chunks
    })
    const controller = new AbortController()
    const answer = await requestStream(pair.a, '/bulk/1', BODY, { signal: controller.signal })
    const read = (async () => {
      for await (const _ of answer) {
        if (by === 'break') break
        controller.abort()
      }
    })()
    if (by === 'break') await read
    else await expect(read).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED', executed: 'yes' })
    expect(await fired(signal)).toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    await vi.waitFor(() => expect(given.state.left).toBe(true))
    if (by === 'break') expect(await answer.next()).toMatchObject({ done: true })
    else await expect(answer.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  }
})

test('cancelling reaches a handler that neither reads nor writes, with the request unread', async () => {
  const slow = waiting()
  serve(slow.handler)
  const controller = new AbortController()
  const asked = requestStream(pair.a, '/slow/1', source(3, 1_000).chunks, { signal: controller.signal })
  const { signal, write } = await slow.context
  controller.abort()
  await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED', executed: 'unknown' })
  expect(await fired(signal)).toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  await expect(write(BODY)).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})

test('what a handler throws is told before the answer has begun, and ends it after', async () => {
  serve(() => {
    throw new PeerlineError('ERR_PEERLINE_LIMIT', 'five a day')
  })
  await expect(requestStream(pair.a, '/x/1', source(50, 50_000).chunks)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_LIMIT',
    message: 'five a day',
    executed: 'yes',
  })
  serve(() => Promise.reject(new Error('password 123')))
  await expect(requestStream(pair.a, '/x/1', BODY)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_REMOTE',
    message: 'the handler failed',
  })
  serve(() => 'text' as unknown as Uint8Array)
  await expect(requestStream(pair.a, '/x/1', BODY)).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE' })
  serve(async function* () {
    yield BODY
    throw new Error('password 123')
  } as StreamRequestHandler)
  const answer = await requestStream(pair.a, '/x/1', BODY)
  await expect(all(answer)).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', executed: 'yes' })
})

test('a body of the caller that fails cancels the request', async () => {
  serve(async (body) => all(body))
  const cases: [unknown, string][] = [
    [new PeerlineError('ERR_PEERLINE_FILE', 'gone'), 'ERR_PEERLINE_FILE'],
    [new Error('x'), 'ERR_PEERLINE_ABORTED'],
  ]
  for (const [error, code] of cases) {
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield BODY
      throw error
    }
    await expect(requestStream(pair.a, '/x/1', broken())).rejects.toMatchObject({ code, executed: 'unknown' })
  }
  async function* text(): AsyncGenerator<Uint8Array> {
    yield 'text' as unknown as Uint8Array
  }
  await expect(requestStream(pair.a, '/x/1', text())).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
})

test('each body is held to its limit, at the side that sends it and at the one that takes it', async () => {
  serve((body) => body, { maxRequestBytes: 10_000, maxResponseBytes: 5_000 })
  const send = (bytes: number, options = {}) =>
    requestStream(pair.a, '/echo/1', source(bytes / 1_000, 1_000).chunks, options).then(all)
  expect((await send(5_000)).length).toBe(5_000)
  await expect(send(6_000)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'yes' })
  await expect(send(6_000, { maxRequestBytes: 5_999 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
  await expect(send(4_000, { maxResponseBytes: 3_999 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TOO_LARGE',
    executed: 'yes',
  })
  let got = 0
  serve(
    async (body) => {
      for await (const chunk of body) got += chunk.length
    },
    { maxRequestBytes: 10_000 },
  )
  await expect(send(1_000_000)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'yes' })
  expect(got).toBeLessThanOrEqual(10_000)
})

test('a request that drips in is given up, however little it pauses at a time; so is an answer', async () => {
  let signal!: AbortSignal
  serve(
    async (body, context) => {
      signal = context.signal
      await all(body)
    },
    { idleMs: 200 },
  )
  const stream = await pair.a.open('/drip/1')
  const drip = setInterval(() => stream.write(BODY.subarray(0, 1)).catch(() => {}), 40)
  const answer = Buffer.from((await stream.next()).value ?? [])
  clearInterval(drip)
  expect(answer[0]).toBe(1)
  expect(answer.toString('latin1')).toContain('ERR_PEERLINE_TIMEOUT')
  expect(await fired(signal)).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  stream.reset()

  let dripping: ReturnType<typeof setInterval> | undefined
  pair.onStream = (served) => {
    served.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
    served.write(Uint8Array.of(0)).catch(() => {})
    dripping = setInterval(() => served.write(BODY.subarray(0, 1)).catch(() => clearInterval(dripping)), 40)
  }
  await expect(requestStream(pair.a, '/drip/1', BODY, { idleMs: 200 }).then(all)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    executed: 'yes',
  })
  clearInterval(dripping)
})

test('a streamed answer that nobody reads is given up in time', async () => {
  let signal!: AbortSignal
  serve(
    (_body, context) => {
      signal = context.signal
      return source(100, 100_000).chunks
    },
    { stallMs: 100 },
  )
  const stream = await pair.a.open('/bulk/1')
  await stream.end(BODY)
  await stream.closed
  expect(signal.reason).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
})

test('a handler that does nothing is given up, and counts until it has ended', async () => {
  const other = Identity.generate().peerId
  const slow = waiting()
  serve(slow.handler, { silenceMs: 500, from: other })
  await expect(requestStream(pair.a, '/slow/1', BODY)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    message: '/slow/1: the handler took too long',
    executed: 'yes',
  })
  expect((await slow.context).signal.aborted).toBe(true)
  expect(tooManyRun(other)).toBe(false)
})

test('an answer that does not begin in time fails, counted from the end of the request', async () => {
  const slow = waiting()
  serve(slow.handler)
  await expect(requestStream(pair.a, '/slow/1', BODY, { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    executed: 'unknown',
  })
})

test('refusals say that nothing was executed', async () => {
  for (const code of ['NO_PROTOCOL', 'DENIED', 'BUSY', 'TOO_LARGE'] as const) {
    pair.onStream = (stream) => stream.reset(StreamCode[code])
    await expect(requestStream(pair.a, '/no/1', BODY)).rejects.toMatchObject({
      code: `ERR_PEERLINE_${code}`,
      executed: 'no',
    })
  }
  const closing = new AbortController()
  closing.abort()
  const handler = vi.fn<StreamRequestHandler>((body) => body)
  serve(handler, { closing: closing.signal })
  await expect(requestStream(pair.a, '/no/1', BODY)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_CLOSED',
    executed: 'no',
  })
  serve(handler)
  await expect(request(pair.a, '/no/1', BODY, { key: 'k' })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_NO_PROTOCOL',
    executed: 'no',
  })
  await expect(requestStream(pair.a, '/no/1', BODY, { timeoutMs: 0 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_INVALID',
    executed: 'no',
  })
  await expect(requestStream(pair.a, '/no/1', BODY, { signal: closing.signal })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_ABORTED',
    executed: 'no',
  })
  expect(handler).not.toHaveBeenCalled()
})

test('property: whatever comes as an answer, the asker reads it or a typed error', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 200 }), { maxLength: 5 }),
      fc.constantFrom('end', 'reset'),
      async (chunks, last) => {
        pair.onStream = (stream) => {
          stream.pipeTo({ data: () => {}, end: () => {}, error: () => {} })
          for (const chunk of chunks) stream.write(chunk).catch(() => {})
          if (last === 'end') stream.end().catch(() => {})
          else stream.reset(300)
        }
        const sent = Buffer.concat(chunks)
        const got = await requestStream(pair.a, '/any/1', BODY, { timeoutMs: 5_000 })
          .then(all)
          .catch((error: unknown) => error)
        if (Buffer.isBuffer(got)) expect(Buffer.concat([Buffer.of(0), got])).toEqual(sent)
        else {
          expect(isPeerlineError(got)).toBe(true)
          expect((got as PeerlineError).code).not.toBe('ERR_PEERLINE_TIMEOUT')
        }
        if (last === 'end') expect(Buffer.isBuffer(got)).toBe(sent[0] === 0)
      },
    ),
    { numRuns: 150 },
  )
})

test('a failure is told whatever the limit for answers', async () => {
  serve(() => {
    throw new PeerlineError('ERR_PEERLINE_LIMIT', 'five a day')
  })
  for (const asked of [
    request(pair.a, '/x/1', BODY, { maxResponseBytes: 1 }),
    requestStream(pair.a, '/x/1', BODY, { maxResponseBytes: 1 }),
  ]) {
    await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT', executed: 'yes' })
  }
})

test('a handler may answer without reading, and its signal does not fire for that', async () => {
  let signal!: AbortSignal
  serve((_body, context) => {
    signal = context.signal
    return BODY
  })
  for (const count of [1, 3, 100]) {
    expect(await all(await requestStream(pair.a, '/x/1', source(count, 1_000).chunks))).toEqual(Buffer.from(BODY))
    await vi.waitFor(() => expect([pair.a.streams, pair.b.streams]).toEqual([0, 0]))
    expect(signal.aborted).toBe(false)
  }
})
