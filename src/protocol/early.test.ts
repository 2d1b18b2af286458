import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { EARLY_MS, EarlyAnswers, EarlyAsk, type EarlyHandler } from './early.ts'
import { RequestError } from './failure.ts'
import type { RequestHandler } from './handler-context.ts'
import { EarlyPing, PING, PING_PROTOCOL, pingHandler } from './ping.ts'

const [ANNA, BERT] = [Identity.generate().peerId, Identity.generate().peerId]
const BODY = Buffer.from('hello')
const ASKED = { protocol: '/echo/1', body: BODY }
const OK = Uint8Array.of(0, ...BODY)

beforeEach(() => void vi.useFakeTimers())
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

function answersOf(
  handler: RequestHandler | EarlyHandler,
  permit: (from: PeerId, protocol: string) => boolean = () => true,
): EarlyAnswers {
  const found = typeof handler === 'function' ? { handler } : handler
  return new EarlyAnswers({ find: (protocol) => (protocol === '/echo/1' ? found : undefined), permit })
}

/** Handlers that run until they are told to end. */
function slow() {
  const ends: (() => void)[] = []
  const signals: AbortSignal[] = []
  const handler = vi.fn<RequestHandler>((body, { signal }) => {
    signals.push(signal)
    return new Promise((resolve) => void ends.push(() => resolve(body)))
  })
  return { handler, signals, end: () => ends.shift()?.() }
}

/** What becomes of a promise once everything has run that need not wait. */
async function settled<T>(promise: Promise<T>): Promise<T | 'waits'> {
  await vi.advanceTimersByTimeAsync(0)
  return Promise.race([promise, Promise.resolve('waits' as const)])
}

function told(response: Uint8Array | undefined): EarlyAsk {
  const ask = new EarlyAsk('/echo/1', BODY)
  if (response !== undefined) ask.answered(response)
  return ask
}

describe('what answers early requests', () => {
  test('runs the handler, with who asks and for what', async () => {
    const handler = vi.fn<RequestHandler>((body) => body)
    expect(await answersOf(handler).of(ANNA, ASKED)).toEqual(OK)
    expect(handler.mock.calls[0]?.[1]).toMatchObject({ from: ANNA, protocol: '/echo/1' })
    expect(handler.mock.calls[0]?.[1].signal.aborted).toBe(false)
  })

  test('waits for one that answers in time', async () => {
    const { handler, signals, end } = slow()
    const answer = answersOf(handler).of(ANNA, ASKED)
    await vi.advanceTimersByTimeAsync(EARLY_MS - 1)
    end()
    expect(await answer).toEqual(OK)
    await vi.advanceTimersByTimeAsync(EARLY_MS)
    expect(signals[0]?.aborted).toBe(false)
  })

  test('waits no longer than its time; the handler learns of it', async () => {
    const { handler, signals, end } = slow()
    const answer = answersOf(handler).of(ANNA, ASKED)
    await vi.advanceTimersByTimeAsync(EARLY_MS)
    expect(await settled(answer)).toBeUndefined()
    expect(signals[0]?.reason).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
    end()
  })

  test('asks nobody about a protocol that is not known', async () => {
    const permit = vi.fn(() => true)
    const answers = answersOf(pingHandler, permit)
    expect(await answers.of(ANNA, { protocol: '/other/1', body: BODY })).toBeUndefined()
    expect(permit).not.toHaveBeenCalled()
    await answers.of(ANNA, ASKED)
    expect(permit).toHaveBeenCalledWith(ANNA, '/echo/1')
  })

  test('does not run what is not permitted', async () => {
    const handler = vi.fn<RequestHandler>((body) => body)
    expect(await answersOf(handler, () => false).of(ANNA, ASKED)).toBeUndefined()
    expect(handler).not.toHaveBeenCalled()
  })

  test('shows a handler nothing above the limit of its protocol', async () => {
    const handler = vi.fn<RequestHandler>((body) => body)
    expect(await answersOf({ handler, maxRequestBytes: 4 }).of(ANNA, ASKED)).toBeUndefined()
    expect(handler).not.toHaveBeenCalled()
    expect(await answersOf({ handler, maxRequestBytes: 5 }).of(ANNA, ASKED)).toEqual(OK)
  })

  test.each<[string, RequestHandler, string]>([
    [
      'an error of ours',
      () => {
        throw new PeerlineError('ERR_PEERLINE_INVALID', 'no such place')
      },
      'ERR_PEERLINE_INVALID',
    ],
    ['another error', () => Promise.reject(new Error('secret')), 'ERR_PEERLINE_REMOTE'],
    ['an answer that is none', () => 'text' as never, 'ERR_PEERLINE_REMOTE'],
  ])('tells a failure as a response does: %s', async (_, handler, code) => {
    const response = await answersOf(handler).of(ANNA, ASKED)
    expect(() => told(response).answer()).toThrow(expect.objectContaining({ code, executed: 'yes' }))
    expect(Buffer.from(response!).toString()).not.toContain('secret')
  })

  test('runs four for one peer and 64 in all; one that is late counts until it has ended', async () => {
    const { handler, end } = slow()
    const answers = answersOf(handler)
    for (let count = 0; count < 5; count++) void answers.of(ANNA, ASKED)
    await vi.advanceTimersByTimeAsync(EARLY_MS)
    expect(handler).toHaveBeenCalledTimes(4)
    for (let count = 0; count < 70; count++) void answers.of(Identity.generate().peerId, ASKED)
    await vi.advanceTimersByTimeAsync(EARLY_MS)
    expect(handler).toHaveBeenCalledTimes(64)
    expect(await answers.of(BERT, ASKED)).toBeUndefined()
    end()
    await vi.advanceTimersByTimeAsync(0)
    void answers.of(ANNA, ASKED)
    await vi.advanceTimersByTimeAsync(EARLY_MS)
    expect(handler).toHaveBeenCalledTimes(65)
    for (let count = 0; count < 64; count++) end()
    await vi.advanceTimersByTimeAsync(0)
    expect(await answersOf(pingHandler).of(ANNA, ASKED)).toEqual(OK)
  })

  test('when it closes ends what is waited for at once, and takes no more', async () => {
    const { handler, signals, end } = slow()
    const answers = answersOf(handler)
    const answer = answers.of(ANNA, ASKED)
    expect(await settled(answer)).toBe('waits')
    answers.close()
    expect(vi.getTimerCount()).toBe(0)
    expect(await settled(answer)).toBeUndefined()
    expect(signals[0]?.reason).toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
    expect(await answers.of(BERT, ASKED)).toBeUndefined()
    expect(handler).toHaveBeenCalledTimes(1)
    end()
  })
})

describe('what an early request is answered with', () => {
  test('is the body', () => {
    expect(told(OK).answer()).toEqual(Uint8Array.from(BODY))
    expect(told(Uint8Array.of(0)).answer()).toEqual(new Uint8Array(0))
    const ask = told(OK)
    ask.answer()
    expect(ask.answer()).toBeUndefined()
  })

  test.each([
    ['nothing', undefined],
    ['no status', new Uint8Array(0)],
    ['a status of another version', Uint8Array.of(2, 1)],
  ])('is to be asked again where there is %s', (_, response) => {
    expect(told(response).answer()).toBeUndefined()
  })

  test('is refused above the limit of who asks', () => {
    const error = expect.objectContaining({ code: 'ERR_PEERLINE_TOO_LARGE', executed: 'yes' })
    expect(() => told(OK).answer(4)).toThrow(error)
    expect(told(OK).answer(5)).toBeDefined()
  })

  test('is, of random bytes, an answer, none, or a typed error', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat({ max: 2 }), (bytes, status) => {
        const response = Uint8Array.of(status, ...bytes)
        try {
          const answer = told(response).answer()
          expect(answer === undefined ? status : 0).toBe(status)
          if (answer !== undefined) expect(answer).toEqual(bytes)
        } catch (error) {
          expect(status).toBe(1)
          expect(error).toBeInstanceOf(RequestError)
        }
      }),
    )
  })
})

describe('a ping that rides in an offer', () => {
  test('is echoed', async () => {
    const ping = new EarlyPing()
    const found = { handler: PING.handler(pingHandler), maxRequestBytes: PING.maxRequestBytes }
    const answers = new EarlyAnswers({
      find: (protocol) => (protocol === PING_PROTOCOL && PING.replaySafe ? found : undefined),
      permit: () => true,
    })
    expect(ping.echoed).toBe(false)
    ping.answered((await answers.of(ANNA, ping))!)
    expect(ping.echoed).toBe(true)
  })

  test('is not echoed by an answer made beforehand', () => {
    const ping = new EarlyPing()
    ping.answered(new Uint8Array(17))
    expect(() => ping.echoed).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' }))
  })
})
