import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Stream } from '../session/index.ts'
import { noise } from '../session/memory-path.compliance.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { Refusal } from './failure.ts'
import type { RequestHandler } from './handler-context.ts'
import { Replies } from './replies.ts'
import { type RequestOptions, request } from './request.ts'
import { MAX_KEY_BYTES, onceHead, readOnceHead, requestKey, toKey } from './request-key.ts'
import { type ServeRequestOptions, serveRequest } from './serve-request.ts'

const from = 'asker' as PeerId
const BODY = new Uint8Array([1, 2, 3])

function deferred<T>(): { promise: Promise<T>; resolve(value: T): void } {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((given) => {
    resolve = given
  })
  return { promise, resolve }
}

describe('a request with a key', () => {
  let pair: SessionPair
  let replies: Replies
  let handler: RequestHandler
  let options: Partial<ServeRequestOptions>
  const serve = (stream: Stream) => serveRequest(stream, (...given) => handler(...given), { from, replies, ...options })
  const unhandled = vi.fn()

  beforeEach(async () => {
    process.on('unhandledRejection', unhandled)
    replies = new Replies()
    options = {}
    pair = await sessionPair({ onStreamB: serve })
  })
  afterEach(async () => {
    expect(pair.a.state).toBe('open')
    replies.close()
    await pair.close()
    expect([replies.size, replies.bytes]).toEqual([0, 0])
    process.off('unhandledRejection', unhandled)
    expect(unhandled).not.toHaveBeenCalled()
  })

  const ask = (key: string | Uint8Array, body: Uint8Array = BODY, more: RequestOptions = {}) =>
    request(pair.a, '/pay/1', body, { key, ...more })

  it('is answered as any other, with bodies of every size; what is confirmed is kept no longer', async () => {
    handler = (body, context) => {
      expect([context.from, context.protocol]).toEqual([from, '/pay/1'])
      return body
    }
    for (const size of [0, 1, 4_094, 65_536, 1_048_576]) {
      const body = noise(size)
      expect(Buffer.compare(await ask(requestKey(), body), body)).toBe(0)
    }
    await vi.waitFor(() => expect([replies.bytes, pair.a.streams, pair.b.streams]).toEqual([0, 0, 0]))
    expect(replies.size).toBe(5)
  })

  it('is executed once when it comes a thousand times, while it runs and after', async () => {
    let executed = 0
    const answer = deferred<Uint8Array>()
    handler = () => {
      executed++
      return answer.promise
    }
    const first = Array.from({ length: 700 }, () => ask('one'))
    await vi.waitFor(() => expect(executed).toBe(1))
    answer.resolve(BODY)
    const later = Array.from({ length: 300 }, () => ask('one'))
    for (const result of await Promise.allSettled([...first, ...later])) {
      // Once one asker has confirmed the answer it need not be kept; that it was executed is known for all that.
      if (result.status === 'fulfilled') expect(result.value).toEqual(BODY)
      else expect(result.reason).toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'yes' })
    }
    expect(executed).toBe(1)
    expect(replies.size).toBe(1)
  })

  it('that was late is answered when it is asked again, by the one execution', async () => {
    let executed = 0
    const answer = deferred<Uint8Array>()
    let signal: AbortSignal | undefined
    handler = (_body, context) => {
      executed++
      signal = context.signal
      return answer.promise
    }
    await expect(ask('late', BODY, { timeoutMs: 40 })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TIMEOUT',
      executed: 'unknown',
    })
    // That it has gone is known by now.
    await vi.waitFor(() => expect(pair.b.streams).toBe(0))
    expect(signal?.aborted).toBe(false)
    answer.resolve(Uint8Array.of(9))
    expect(await ask('late')).toEqual(Uint8Array.of(9))
    expect(executed).toBe(1)
  })

  it('whose handler is late fails for those who wait, and is answered later all the same', async () => {
    options = { timeoutMs: 40 }
    let executed = 0
    const answer = deferred<Uint8Array>()
    const told = deferred<unknown>()
    handler = (_body, { signal }) => {
      executed++
      signal.addEventListener('abort', () => told.resolve(signal.reason))
      return answer.promise
    }
    await expect(ask('slow')).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TIMEOUT',
      message: '/pay/1: the handler took too long',
      executed: 'yes',
    })
    expect(await told.promise).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
    answer.resolve(BODY)
    expect(await ask('slow')).toEqual(BODY)
    expect(executed).toBe(1)
  })

  it('cancelled by its last asker reaches the handler; by one of two, it does not', async () => {
    let signal: AbortSignal | undefined
    handler = (_body, context) => {
      signal = context.signal
      return new Promise(() => {})
    }
    const [one, two] = [new AbortController(), new AbortController()]
    const asked = [one, two].map(({ signal }) => ask('both', BODY, { signal }).catch((error: unknown) => error))
    await vi.waitFor(() => expect(pair.b.streams).toBe(2))
    one.abort()
    expect(await asked[0]).toMatchObject({ code: 'ERR_PEERLINE_ABORTED', executed: 'unknown' })
    await vi.waitFor(() => expect(pair.b.streams).toBe(1))
    expect(signal?.aborted).toBe(false)
    two.abort()
    await asked[1]
    await vi.waitFor(() => expect(signal?.aborted).toBe(true))
  })

  it('of another body, protocol or peer is another request', async () => {
    handler = (body) => body
    expect(await ask('key')).toEqual(BODY)
    await expect(ask('key', new Uint8Array([4]))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      executed: 'no',
    })
    const other = new Uint8Array([5])
    expect(await request(pair.a, '/other/1', other, { key: 'key' })).toEqual(other)
    options = { from: 'another' as PeerId }
    expect(await ask('key', other)).toEqual(other)
  })

  it('that failed has failed; one that was refused before it began may be asked again', async () => {
    let executed = 0
    handler = () => {
      executed++
      throw new PeerlineError('ERR_PEERLINE_LIMIT', 'no money')
    }
    await expect(ask('a')).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT', message: 'no money', executed: 'yes' })
    await expect(ask('a')).rejects.toMatchObject({ executed: 'yes' })
    expect(executed).toBe(1)
    handler = () => {
      throw new Refusal('ERR_PEERLINE_INVALID', 'no sum')
    }
    await expect(ask('b')).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID', executed: 'no' })
    handler = (body) => body
    expect(await ask('b')).toEqual(BODY)
    const closing = new AbortController()
    closing.abort()
    options = { closing: closing.signal }
    await expect(ask('c')).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED', executed: 'no' })
  })

  it('is refused by a side that remembers nothing, and by its size, before it has come', async () => {
    const called = vi.fn<RequestHandler>((body) => body)
    handler = called
    options = { maxRequestBytes: 100 }
    await expect(ask('k', new Uint8Array(101))).rejects.toMatchObject({
      code: 'ERR_PEERLINE_TOO_LARGE',
      executed: 'no',
    })
    expect((await ask('k', new Uint8Array(100))).length).toBe(100)
    const stream = await pair.a.open('/pay/1;once/1')
    await stream.write(onceHead(toKey('k'), 101))
    await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
    replies = undefined as unknown as Replies
    await expect(ask('k')).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_PROTOCOL', executed: 'no' })
    expect(called).toHaveBeenCalledTimes(1)
    replies = new Replies()
  })

  it('with a key that is none, or for a name that is none, is not sent', async () => {
    for (const key of ['', 'x'.repeat(65), new Uint8Array(0), new Uint8Array(65), '\ud800', 7 as unknown as string]) {
      await expect(ask(key)).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID', executed: 'no' })
    }
    await expect(request(pair.a, '/a;b', BODY, { key: 'k' })).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    expect(pair.a.streams).toBe(0)
  })

  it('that stops coming, or whose answer is not confirmed, is given up in time', async () => {
    options = { timeoutMs: 40 }
    handler = (body) => body
    const stalled = await pair.a.open('/pay/1;once/1')
    await stalled.write(onceHead(toKey('k'), 3))
    await expect(stalled.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
    const silent = await pair.a.open('/pay/1;once/1')
    await silent.write(Buffer.concat([onceHead(toKey('k'), 3), BODY]))
    expect([...(await silent.next()).value!]).toEqual([0, 1, 2, 3])
    await vi.waitFor(() => expect(pair.b.streams).toBe(0))
    // What was not confirmed is kept.
    expect(replies.bytes).toBe(4)
  })

  it('property: whatever comes in its place, the handler sees whole bodies, and nothing breaks', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ minLength: 1, maxLength: 80 }), { minLength: 1, maxLength: 4 }),
        fc.boolean(),
        async (chunks, end) => {
          const seen: Uint8Array[] = []
          handler = (body) => {
            seen.push(body)
            return body
          }
          const stream = await pair.a.open('/pay/1;once/1')
          for (const chunk of chunks) stream.write(chunk).catch(() => {})
          if (end) stream.end().catch(() => {})
          else stream.reset()
          await stream.next().catch(() => {})
          const bytes = Buffer.concat(chunks)
          for (const body of seen) expect(bytes.includes(Buffer.from(body))).toBe(true)
          if (!stream.done) stream.reset()
        },
      ),
      { numRuns: 150 },
    )
    handler = (body) => body
    expect(await ask(requestKey())).toEqual(BODY)
  })
})

describe('the head', () => {
  it('property: is read as it was written, from every beginning of it', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: MAX_KEY_BYTES }),
        fc.nat(0xffff_ffff),
        fc.nat(80),
        (key, bodyBytes, cut) => {
          const head = onceHead(key, bodyBytes)
          expect(readOnceHead(head)).toEqual({ key: Buffer.from(key), bodyBytes, headBytes: head.length })
          if (cut < head.length) expect(readOnceHead(head.subarray(0, cut))).toBeUndefined()
        },
      ),
    )
    for (const length of [0, 65, 255]) {
      expect(() => readOnceHead(Uint8Array.of(length))).toThrow(
        expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' }),
      )
    }
  })
})
