import fc from 'fast-check'
import { expect, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { StreamCode } from '../session/index.ts'
import { sessionPair } from '../session/session-pair.compliance.ts'
import { type RequestContext, type RequestHandler, type ServeRequestOptions, serveRequest } from './index.ts'
import { request } from './request.ts'
import { useServedPair } from './served-pair.compliance.ts'

const from = Identity.generate().peerId
const BODY = new Uint8Array([1, 2, 3])

/** Takes what comes. */
const NOWHERE = { data: () => {}, end: () => {}, error: () => {} }

const pair = useServedPair()

function serve(handler: RequestHandler, options: Partial<ServeRequestOptions> = {}): void {
  pair.onStream = (stream) => serveRequest(stream, handler, { from, ...options })
}

/** A handler that waits, and what became of it. */
function waiting(): { handler: RequestHandler; signal: Promise<AbortSignal>; answer(bytes: Uint8Array): void } {
  let called!: (signal: AbortSignal) => void
  let answer!: (bytes: Uint8Array) => void
  const signal = new Promise<AbortSignal>((resolve) => {
    called = resolve
  })
  const answered = new Promise<Uint8Array>((resolve) => {
    answer = resolve
  })
  const handler: RequestHandler = (_body, context) => {
    called(context.signal)
    return answered
  }
  return { handler, signal, answer }
}

function aborted(signal: AbortSignal): Promise<unknown> {
  if (signal.aborted) return Promise.resolve(signal.reason)
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(signal.reason)))
}

test('bodies of every size go there and back, by a handler that answers at once or later', async () => {
  for (const later of [false, true]) {
    serve((body) => (later ? Promise.resolve(body) : body), { maxRequestBytes: 2_000_000 })
    for (const size of [0, 1, 64, 4_094, 4_095, 4_096, 65_536, 300_000, 1_048_576]) {
      const body = Buffer.alloc(size, `${size} bytes`)
      const echo = await request(pair.a, '/echo/1', body)
      expect(Buffer.compare(echo, body)).toBe(0)
    }
  }
  expect(pair.a.streams).toBe(0)
  expect(pair.b.streams).toBe(0)
})

test('the handler learns who asks and for what', async () => {
  let seen: RequestContext | undefined
  serve((body, context) => {
    seen = context
    return body
  })
  await request(pair.a, '/who/1', BODY)
  expect([seen?.from, seen?.protocol]).toEqual([from, '/who/1'])
})

test('more requests than there may be streams at once are all answered', async () => {
  serve((body) => Promise.resolve(body))
  const asked = Array.from({ length: 1_000 }, (_, i) => request(pair.a, '/echo/1', new Uint8Array([i >> 8, i & 255])))
  const answers = await Promise.all(asked)
  expect(answers.map((bytes) => bytes[0]! * 256 + bytes[1]!)).toEqual(Array.from({ length: 1_000 }, (_, i) => i))
})

test('what a handler throws: ours arrives as it is, of others no detail does', async () => {
  const cases: [RequestHandler, string, string][] = [
    [throwing(new PeerlineError('ERR_PEERLINE_LIMIT', 'five a day')), 'ERR_PEERLINE_LIMIT', 'five a day'],
    [throwing(new Error('password 123')), 'ERR_PEERLINE_REMOTE', 'the handler failed'],
    [throwing(undefined), 'ERR_PEERLINE_REMOTE', 'the handler failed'],
    [() => Promise.reject(new Error('later')), 'ERR_PEERLINE_REMOTE', 'the handler failed'],
    [() => 'no bytes' as unknown as Uint8Array, 'ERR_PEERLINE_REMOTE', 'the handler failed'],
    [() => Promise.resolve(undefined as unknown as Uint8Array), 'ERR_PEERLINE_REMOTE', 'the handler failed'],
  ]
  for (const [handler, code, message] of cases) {
    serve(handler)
    await expect(request(pair.a, '/fail/1', BODY)).rejects.toMatchObject({ code, message })
  }
})

function throwing(error: unknown): RequestHandler {
  return () => {
    throw error
  }
}

test('a refusal is the error that its code says', async () => {
  const codes = { NO_PROTOCOL: 'NO_PROTOCOL', DENIED: 'DENIED', BUSY: 'BUSY', TOO_LARGE: 'TOO_LARGE', FAILED: 'REMOTE' }
  for (const [name, code] of Object.entries(codes)) {
    pair.onStream = (stream) => stream.reset(StreamCode[name as keyof typeof codes])
    await expect(request(pair.a, '/no/1', BODY)).rejects.toMatchObject({ code: `ERR_PEERLINE_${code}` })
  }
})

test('a request over the limit is refused while it comes; the handler never sees it', async () => {
  const handler = vi.fn<RequestHandler>((body) => body)
  serve(handler, { maxRequestBytes: 100_000 })
  await expect(request(pair.a, '/echo/1', new Uint8Array(100_001))).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TOO_LARGE',
  })
  const stream = await pair.a.open('/echo/1')
  stream.write(new Uint8Array(200_000)).catch(() => {})
  await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
  expect(handler).not.toHaveBeenCalled()
  expect((await request(pair.a, '/echo/1', new Uint8Array(100_000))).length).toBe(100_000)
})

test('an answer over the limit is given up while it comes', async () => {
  serve((body) => body)
  await expect(request(pair.a, '/echo/1', new Uint8Array(65), { maxResponseBytes: 64 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TOO_LARGE',
  })
  expect((await request(pair.a, '/echo/1', new Uint8Array(64), { maxResponseBytes: 64 })).length).toBe(64)
})

test('a late request fails in time, and the handler is told', async () => {
  const slow = waiting()
  serve(slow.handler)
  const start = performance.now()
  await expect(request(pair.a, '/slow/1', BODY, { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
  })
  expect(performance.now() - start).toBeGreaterThanOrEqual(50)
  expect(await aborted(await slow.signal)).toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  slow.answer(BODY)
})

test('a cancelled request fails at once, and the handler is told', async () => {
  const slow = waiting()
  serve(slow.handler)
  const controller = new AbortController()
  const asked = request(pair.a, '/slow/1', BODY, { signal: controller.signal })
  const signal = await slow.signal
  expect(signal.aborted).toBe(false)
  controller.abort()
  await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  await aborted(signal)
  await expect(request(pair.a, '/slow/1', BODY, { signal: controller.signal })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_ABORTED',
  })
})

test('a signal asked for after the asker has gone has fired', async () => {
  let context!: RequestContext
  let called!: () => void
  const asked = new Promise<void>((resolve) => {
    called = resolve
  })
  serve((_body, given) => {
    context = given
    called()
    return new Promise(() => {})
  })
  const controller = new AbortController()
  const failed = request(pair.a, '/slow/1', BODY, { signal: controller.signal }).catch(() => {})
  await asked
  controller.abort()
  await failed
  await vi.waitFor(() => expect(pair.b.streams).toBe(0))
  expect(context.signal.aborted).toBe(true)
})

test('the signal of a request that was answered never fires', async () => {
  let signal!: AbortSignal
  serve((body, context) => {
    signal = context.signal
    return body
  })
  await request(pair.a, '/echo/1', BODY)
  await request(pair.a, '/echo/1', BODY)
  expect(signal.aborted).toBe(false)
})

test('a handler over its time is answered for, and told', async () => {
  const slow = waiting()
  serve(slow.handler, { timeoutMs: 50 })
  await expect(request(pair.a, '/slow/1', BODY)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    message: '/slow/1: the handler took too long',
  })
  expect(await aborted(await slow.signal)).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  slow.answer(BODY)
})

test('a request that never ends is given up in time', async () => {
  serve((body) => body, { timeoutMs: 50 })
  const stream = await pair.a.open('/echo/1')
  await stream.write(BODY)
  await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
})

test('an answer that nobody reads is given up in time', async () => {
  serve(() => new Uint8Array(1_000_000), { timeoutMs: 50 })
  const stream = await pair.a.open('/bulk/1')
  await stream.end(BODY)
  await stream.closed
  expect(pair.b.streams).toBe(0)
  await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
})

test('requests that are asked and given up without end do not run any number of handlers', async () => {
  let running = 0
  let refused = 0
  const flooder = Identity.generate().peerId
  const never: RequestHandler = () => {
    running++
    return new Promise(() => {})
  }
  pair.onStream = (stream) => serveRequest(stream, never, { from: flooder, timeoutMs: 1_000 })
  for (let round = 1; round <= 4; round++) {
    const controller = new AbortController()
    const asked = Array.from({ length: 200 }, () =>
      request(pair.a, '/slow/1', BODY, { signal: controller.signal }).catch((error: PeerlineError) => {
        if (error.code === 'ERR_PEERLINE_BUSY') refused++
      }),
    )
    await vi.waitFor(() => expect(running + refused).toBe(round * 200), { interval: 5 })
    controller.abort()
    await Promise.all(asked)
  }
  expect([running, refused]).toEqual([512, 288])
  // Nobody else is refused for it, and when the time of those is up, it is served again.
  serve((body) => body)
  expect(await request(pair.a, '/echo/1', BODY)).toEqual(BODY)
  serve((body) => body, { from: flooder })
  const again = () => request(pair.a, '/echo/1', BODY)
  await expect(again()).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
  await vi.waitFor(async () => expect(await again()).toEqual(BODY), { timeout: 3_000 })
})

test('arguments that make no sense are refused', async () => {
  for (const timeoutMs of [0, -1, Number.NaN]) {
    await expect(request(pair.a, '/echo/1', BODY, { timeoutMs })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
    })
  }
  await expect(request(pair.a, '', BODY)).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
})

test('a request that waits for its turn to open, and is late, is not sent', async () => {
  const handler = vi.fn<RequestHandler>((body) => body)
  const small = await sessionPair({
    maxStreams: 1,
    onStreamB: (stream) => {
      if (stream.protocol === '/echo/1') serveRequest(stream, handler, { from })
    },
  })
  const first = await small.a.open('/hold/1')
  await expect(request(small.a, '/echo/1', BODY, { timeoutMs: 30 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
  })
  first.reset()
  expect(await request(small.a, '/echo/1', BODY)).toEqual(BODY)
  expect(handler).toHaveBeenCalledTimes(1)
  await small.close()
})

test('the end of the session fails what is under way, on both sides', async () => {
  const slow = waiting()
  const own = await sessionPair({ onStreamB: (stream) => serveRequest(stream, slow.handler, { from }) })
  const asked = request(own.a, '/slow/1', BODY)
  const signal = await slow.signal
  own.b.abort(new PeerlineError('ERR_PEERLINE_LIMIT', 'enough'))
  await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT' })
  await aborted(signal)
  slow.answer(BODY)
  await expect(request(own.a, '/slow/1', BODY)).rejects.toSatisfy(isPeerlineError)
  await own.close()
})

test('property: whatever is sent as an answer, the asker gets it or a typed error, in time', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 5 }),
      fc.constantFrom('end', 'reset', 'cancel'),
      fc.nat(300),
      async (chunks, last, code) => {
        pair.onStream = (stream) => {
          stream.pipeTo(NOWHERE)
          for (const chunk of chunks) stream.write(chunk).catch(() => {})
          if (last === 'end') stream.end().catch(() => {})
          else if (last === 'reset') stream.reset(code)
          else {
            stream.cancel(code)
            stream.end().catch(() => {})
          }
        }
        const sent = Buffer.concat(chunks)
        const got = await request(pair.a, '/any/1', BODY, { timeoutMs: 5_000 }).then(
          (answer) => ({ answer }),
          (error: unknown) => ({ error }),
        )
        if ('answer' in got) expect(Buffer.concat([Buffer.of(0), got.answer])).toEqual(sent)
        else expect(isPeerlineError(got.error)).toBe(true)
        if ('error' in got) expect(String(got.error)).not.toContain('no answer in time')
        if (last !== 'reset') expect('answer' in got).toBe(sent[0] === 0)
      },
    ),
    { numRuns: 200 },
  )
})

test('property: however a request is cut up and given up, the handler sees whole ones only', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ minLength: 1, maxLength: 100 }), { maxLength: 6 }),
      fc.boolean(),
      async (chunks, whole) => {
        const bodies: Uint8Array[] = []
        serve(
          (body) => {
            bodies.push(body)
            return body
          },
          { maxRequestBytes: 300 },
        )
        const stream = await pair.a.open('/echo/1')
        for (const chunk of chunks) stream.write(chunk).catch(() => {})
        if (whole) stream.end().catch(() => {})
        else stream.reset()
        const ended = stream.next().then(
          ({ value }) => value,
          () => undefined,
        )
        // A request after it is served after it.
        await request(pair.a, '/echo/1', BODY)
        const sent = Buffer.concat(chunks)
        const served = whole && sent.length <= 300
        expect(bodies.map((body) => Buffer.from(body).toString('hex'))).toEqual([
          ...(served ? [sent.toString('hex')] : []),
          '010203',
        ])
        const answer = await ended
        if (served) expect(answer?.length).toBe(1 + sent.length)
      },
    ),
    { numRuns: 100 },
  )
})

test('every failure says whether the handler may have run', async () => {
  const ask = (options = {}) => request(pair.a, '/x/1', BODY, options)
  const gone = new AbortController()
  gone.abort()
  await expect(ask({ signal: gone.signal })).rejects.toMatchObject({ executed: 'no' })
  await expect(ask({ timeoutMs: 0 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID', executed: 'no' })
  for (const [code, executed] of [
    ['NO_PROTOCOL', 'no'],
    ['DENIED', 'no'],
    ['BUSY', 'no'],
    ['TOO_LARGE', 'no'],
    ['FAILED', 'unknown'],
    ['CANCELLED', 'unknown'],
    ['TIMEOUT', 'unknown'],
  ] as const) {
    pair.onStream = (stream) => stream.reset(StreamCode[code])
    await expect(ask(), code).rejects.toMatchObject({ executed })
  }
  serve((body) => body, { maxRequestBytes: 2 })
  await expect(ask()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'no' })
  serve((body) => body)
  await expect(ask({ maxResponseBytes: 2 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'yes' })
  serve(throwing(new Error('x')))
  await expect(ask()).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', executed: 'yes' })
  const closing = new AbortController()
  closing.abort()
  const handler = vi.fn<RequestHandler>((body) => body)
  serve(handler, { closing: closing.signal })
  await expect(ask()).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED', executed: 'no' })
  expect(handler).not.toHaveBeenCalled()
  serve(waiting().handler)
  await expect(ask({ timeoutMs: 30 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT', executed: 'unknown' })
  // As much as a peer of before tells.
  pair.onStream = (stream) => {
    stream.pipeTo(NOWHERE)
    stream.end(Buffer.concat([Buffer.of(1), encodeCbor({ code: 'X', message: 'x' })])).catch(() => {})
  }
  await expect(ask()).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', executed: 'unknown' })
})

test('an answer that stops in the middle was given by a handler that ran', async () => {
  pair.onStream = (stream) => {
    stream.pipeTo(NOWHERE)
    stream.write(Uint8Array.of(0, 1, 2)).catch(() => {})
  }
  await expect(request(pair.a, '/x/1', BODY, { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_TIMEOUT',
    executed: 'yes',
  })
})

test('the end of a session is no refusal, whatever its code', async () => {
  const slow = waiting()
  const own = await sessionPair({ onStreamB: (stream) => serveRequest(stream, slow.handler, { from }) })
  const asked = request(own.a, '/slow/1', BODY)
  await slow.signal
  own.b.abort(new PeerlineError('ERR_PEERLINE_DENIED', 'no longer'))
  await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED', executed: 'unknown' })
  await expect(request(own.a, '/slow/1', BODY)).rejects.toMatchObject({ executed: 'no' })
  slow.answer(BODY)
  await own.close()
})
