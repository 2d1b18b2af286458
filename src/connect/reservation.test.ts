import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { MessageStream, type Stream } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { MAX_RELAY_MESSAGE_BYTES, Reservation } from './reservation.ts'

const code = (value: string) => expect.objectContaining({ name: 'PeerlineError', code: value })
const pairs: SessionPair[] = []
afterEach(async () => {
  vi.useRealTimers()
  const over = new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over')
  for (const { a, b } of pairs) for (const session of [a, b]) session.abort(over)
  await Promise.all(pairs.splice(0).map((pair) => pair.close()))
})

const RESERVED = { t: 'reserved', id: new Uint8Array(16).fill(1), secret: new Uint8Array(32), ttl: 60_000, raw: true }

/** A relay that is none but the test: `answer` says what it answers to each request, one after the other. */
async function relay(answer: (request: number) => unknown) {
  const got: unknown[] = []
  let messages: MessageStream | undefined
  let stream: Stream | undefined
  const pair = await sessionPair({
    onStreamB: (opened) => {
      stream = opened
      messages = new MessageStream(opened, {
        maxBytes: MAX_RELAY_MESSAGE_BYTES,
        onMessage: (message) => {
          const reply = answer(got.push(message))
          if (reply !== undefined) void messages!.send(reply)
        },
        onEnd: () => {},
      })
    },
  })
  pairs.push(pair)
  const told: number[] = []
  const onMoving = (ms: number) => void told.push(ms)
  const reserving = Reservation.reserve(pair.a, 'ws://relay.example', { onMoving, signal: AbortSignal.timeout(5_000) })
  return {
    pair,
    got,
    told,
    reserving,
    say: (message: unknown) => messages!.send(message),
    reset: (code: number) => stream!.reset(code),
  }
}

describe('a reservation', () => {
  test('is renewed at half of its time, and goes on with what the relay says then', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: 1_000_000 })
    const { reserving, got } = await relay((request) => ({ ...RESERVED, id: new Uint8Array(16).fill(request) }))
    const reservation = await reserving
    const idOf = () => reservation.mint().own[2]
    expect([reservation.live, got.length, idOf()]).toEqual([true, 1, 1])
    for (const request of [2, 3]) {
      await vi.advanceTimersByTimeAsync(30_000)
      await vi.waitFor(() => expect(idOf()).toBe(request))
      expect([reservation.live, got.length]).toEqual([true, request])
    }
  })

  test('that the relay does not renew mints nothing once its time is over', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: 1_000_000 })
    const { reserving } = await relay((request) => (request === 1 ? RESERVED : undefined))
    const reservation = await reserving
    await vi.advanceTimersByTimeAsync(59_999)
    expect(reservation.live).toBe(true)
    await vi.advanceTimersByTimeAsync(1)
    expect(reservation.live).toBe(false)
  })

  test('says when it has ended by itself, with its session still open', async () => {
    const { reserving, reset, pair } = await relay(() => RESERVED)
    const reservation = await reserving
    reset(3)
    expect(await reservation.ended).toEqual(code('ERR_PEERLINE_BUSY'))
    expect([reservation.live, pair.a.state]).toEqual([false, 'open'])
  })

  test('passes over kinds of messages that it does not know', async () => {
    const { reserving, say } = await relay(() => RESERVED)
    const reservation = await reserving
    for (const t of ['hello', 'reserve', 'toString']) await say({ t })
    await say({ ...RESERVED, id: new Uint8Array(16).fill(7) })
    await vi.waitFor(() => expect(reservation.mint().own[2]).toBe(7))
    expect(reservation.live).toBe(true)
  })

  test.each<[string, unknown]>([
    ['no map', 7],
    ['no kind', {}],
    ['half an id', { ...RESERVED, id: new Uint8Array(8) }],
    ['a time without end', { ...RESERVED, ttl: Number.MAX_SAFE_INTEGER }],
    ['no time to renew', { ...RESERVED, ttl: 1 }],
    ['a move in a year', { t: 'moving', ms: 31_557_600_000 }],
  ])('is refused, typed, with %s', async (_, reply) => {
    const { reserving } = await relay(() => reply)
    await expect(reserving).rejects.toEqual(code('ERR_PEERLINE_PROTOCOL'))
  })
})

describe('a relay that goes away', () => {
  test('says so once; nothing is minted any more, nor renewed', async () => {
    const { reserving, say, told, got } = await relay(() => RESERVED)
    const reservation = await reserving
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    for (const ms of [9_000, 8_000]) await say({ t: 'moving', ms })
    await vi.waitFor(() => expect(told.length).toBeGreaterThan(0))
    await say(RESERVED)
    await vi.advanceTimersByTimeAsync(60_000)
    expect([told, reservation.live, reservation.moving, got.length]).toEqual([[9_000], false, true, 1])
  })

  test('refuses whoever comes then, typed and in words', async () => {
    const { reserving, told } = await relay(() => ({ t: 'moving', ms: 9_000 }))
    await expect(reserving).rejects.toMatchObject({
      code: 'ERR_PEERLINE_BUSY',
      message: expect.stringContaining('going away'),
    })
    expect(told).toEqual([])
  })
})
