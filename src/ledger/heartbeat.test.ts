import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Kind } from './envelope.ts'
import {
  DEAD_AFTER_MS,
  encodeHeartbeat,
  Heartbeats,
  type HeartbeatsOptions,
  heartbeatIntervalMs,
  Liveness,
  type LivenessState,
  livenessAt,
  MAX_DUE_MS,
  MAX_HEARTBEAT_BYTES,
  MIN_DUE_MS,
  readHeartbeat,
  SUSPECT_AFTER_MS,
} from './heartbeat.ts'
import type { AppendMessageOptions } from './topic-writer.ts'

const T0 = Date.UTC(2026, 0, 1)
const DUE = 60_000
const APPENDED = { sequence: 1, attempts: 1, receipt: {} }
const peer = Identity.generate().peerId

beforeEach(() => void vi.useFakeTimers({ now: T0 }))
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

describe('a heartbeat', () => {
  test('is read as it was written', () => {
    for (const one of [{ dueMs: DUE }, { dueMs: 0 }, { dueMs: MAX_DUE_MS }]) {
      expect(readHeartbeat(encodeHeartbeat(one))).toEqual(one)
    }
  })

  test('may say more than this version knows of', () => {
    expect(readHeartbeat(encodeCbor({ due: DUE, more: new Uint8Array(200) }))).toEqual({ dueMs: DUE })
  })

  test('in too much of a hurry is good for the least there is, and one for a week is none', () => {
    expect(readHeartbeat(encodeHeartbeat({ dueMs: 1 })).dueMs).toBe(MIN_DUE_MS)
    expect(() => readHeartbeat(encodeHeartbeat({ dueMs: MAX_DUE_MS + 1 }))).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' }),
    )
  })

  test('that is none fails typed, whatever it is', () => {
    const form = fc.record({ due: fc.oneof(fc.integer(), fc.boolean()) }, { requiredKeys: [] })
    const bytes = fc.oneof(fc.uint8Array(), form.map(encodeCbor), fc.constant(new Uint8Array(MAX_HEARTBEAT_BYTES + 1)))
    fc.assert(
      fc.property(bytes, (payload) => {
        try {
          const { dueMs } = readHeartbeat(payload)
          expect(dueMs === 0 || (dueMs >= MIN_DUE_MS && dueMs <= MAX_DUE_MS)).toBe(true)
        } catch (error) {
          expect(isPeerlineError(error), String(error)).toBe(true)
        }
      }),
    )
  })
})

describe('heartbeats', () => {
  type Append = HeartbeatsOptions['out']['append']

  function beating(options: Partial<HeartbeatsOptions> = {}, append: Append = async () => APPENDED) {
    const out = vi.fn(append)
    const heartbeats = new Heartbeats({
      out: { append: out },
      intervalMs: 30_000,
      latencyMs: 2_000,
      ...options,
    })
    const written = () =>
      out.mock.calls.map(([kind, payload]) => {
        expect(kind).toBe(Kind.HEARTBEAT)
        return readHeartbeat(payload)
      })
    const close = () => heartbeats.close({ signal: new AbortController().signal })
    return { out, written, close }
  }

  test('come at once and then in their interval, each good beyond the next, and end with a goodbye', async () => {
    const { written, out, close } = beating()
    expect(written()).toEqual([{ dueMs: 49_000 }])
    await vi.advanceTimersByTimeAsync(60_000)
    expect(written().length).toBe(3)
    // The place of the first tells what time it is at the ledger.
    expect(out.mock.calls.map(([, , { wait }]) => wait)).toEqual(['consensus', 'sent', 'sent'])
    await close()
    await close()
    expect(written().map(({ dueMs }) => dueMs)).toEqual([49_000, 49_000, 49_000, 0])
    await vi.advanceTimersByTimeAsync(60_000)
    expect(written().length).toBe(4)
  })

  test('are over for all who end them when the goodbye is written', async () => {
    let write = () => {}
    const { close } = beating(
      {},
      () =>
        new Promise((resolve) => {
          write = () => resolve(APPENDED)
        }),
    )
    void close()
    const again = vi.fn()
    const closing = close().then(again)
    await vi.advanceTimersByTimeAsync(10)
    expect(again).not.toHaveBeenCalled()
    write()
    await closing
  })

  test('come minutes apart where each costs money', () => {
    expect(heartbeatIntervalMs({ amount: 0, unit: 'USD' })).toBe(30_000)
    expect(heartbeatIntervalMs({ amount: 0.0001, unit: 'USD' })).toBe(600_000)
  })

  test('promise no more than a day', async () => {
    const { written, close } = beating({ intervalMs: MAX_DUE_MS })
    expect(written()).toEqual([{ dueMs: MAX_DUE_MS }])
    await close()
  })

  test('that fail are told of, and the next ones are written', async () => {
    const onError = vi.fn()
    let broke = true
    const { out, close } = beating({ onError }, async () => {
      if (broke) throw new PeerlineError('ERR_PEERLINE_PAYMENT', 'no money')
      return APPENDED
    })
    await vi.advanceTimersByTimeAsync(1)
    expect(onError).toHaveBeenCalledWith(expect.objectContaining({ code: 'ERR_PEERLINE_PAYMENT' }))
    broke = false
    await vi.advanceTimersByTimeAsync(30_000)
    expect(out).toHaveBeenCalledTimes(2)
    expect(onError).toHaveBeenCalledTimes(1)
    broke = true
    await close()
  })

  test('that are being written when it closes are given up, and nobody is told', async () => {
    const onError = vi.fn()
    const { out, close } = beating({ onError }, (_kind, payload, { signal }: AppendMessageOptions) => {
      if (readHeartbeat(payload).dueMs === 0) return Promise.resolve(APPENDED)
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    })
    await close()
    await vi.advanceTimersByTimeAsync(1)
    expect(out).toHaveBeenCalledTimes(2)
    expect(onError).not.toHaveBeenCalled()
  })
})

describe('what is thought of a peer', () => {
  test.each<[string, { dueMs: number } | undefined, number, LivenessState]>([
    ['was never heard', undefined, 0, 'unknown'],
    ['was heard now', { dueMs: DUE }, 0, 'alive'],
    ['was heard, by a clock that is behind', { dueMs: DUE }, -5_000, 'alive'],
    ['is late by less than the grace', { dueMs: DUE }, DUE + SUSPECT_AFTER_MS - 1, 'alive'],
    ['is late', { dueMs: DUE }, DUE + SUSPECT_AFTER_MS, 'suspect'],
    ['is late, but not for long', { dueMs: DUE }, DUE + DEAD_AFTER_MS - 1, 'suspect'],
    ['is late for too long', { dueMs: DUE }, DUE + DEAD_AFTER_MS, 'dead'],
    ['has said goodbye', { dueMs: 0 }, 0, 'offline'],
    ['has said goodbye a year ago', { dueMs: 0 }, 31_536_000_000, 'offline'],
  ])('that %s', (_, heard, after, state) => {
    expect(livenessAt(heard === undefined ? undefined : { sequence: 1, at: T0, ...heard }, T0 + after)).toBe(state)
  })
})

describe('liveness', () => {
  function observer(options: { now?: () => number; maxPeers?: number } = {}) {
    const liveness = new Liveness({ now: Date.now, ...options })
    const changes: string[] = []
    liveness.addEventListener('change', ({ detail: { from, to } }) => changes.push(`${from} ${to}`))
    return { liveness, changes }
  }

  test('is told when it changes by itself, each time once', async () => {
    const { liveness, changes } = observer()
    expect(liveness.of(peer)).toBe('unknown')
    liveness.heard(peer, { sequence: 1, at: T0, dueMs: DUE })
    await vi.advanceTimersByTimeAsync(DUE + SUSPECT_AFTER_MS - 1)
    expect([changes, liveness.of(peer)]).toEqual([['unknown alive'], 'alive'])
    await vi.advanceTimersByTimeAsync(1)
    expect([changes.at(-1), liveness.of(peer)]).toEqual(['alive suspect', 'suspect'])
    await vi.advanceTimersByTimeAsync(DEAD_AFTER_MS - SUSPECT_AFTER_MS)
    expect([changes.at(-1), liveness.of(peer)]).toEqual(['suspect dead', 'dead'])
    liveness.heard(peer, { sequence: 2, at: Date.now(), dueMs: DUE })
    liveness.heard(peer, { sequence: 3, at: Date.now(), dueMs: DUE })
    liveness.heard(peer, { sequence: 4, at: Date.now(), dueMs: 0 })
    expect(changes.slice(3)).toEqual(['dead alive', 'alive offline'])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('goes by the highest sequence, however they come', () => {
    fc.assert(
      fc.property(
        fc.shuffledSubarray([1, 2, 3, 4, 5, 6], { minLength: 1 }),
        fc.array(fc.boolean(), { minLength: 7, maxLength: 7 }),
        (order, goodbyes) => {
          const { liveness } = observer()
          for (const sequence of order) {
            liveness.heard(peer, { sequence, at: T0 + sequence, dueMs: goodbyes[sequence] ? 0 : DUE })
          }
          expect(liveness.of(peer)).toBe(goodbyes[Math.max(...order)] ? 'offline' : 'alive')
          liveness.close()
        },
      ),
    )
  })

  test('goes by the clock of the ledger: that of this machine may be wrong by a day', async () => {
    const { liveness, changes } = observer({ now: () => Date.now() + 86_400_000 })
    liveness.heard(peer, { sequence: 1, at: T0 + 86_400_000, dueMs: DUE })
    await vi.advanceTimersByTimeAsync(DUE + SUSPECT_AFTER_MS)
    expect(changes).toEqual(['unknown alive', 'alive suspect'])
    liveness.close()
  })

  test('waits on when the estimate of that clock has moved', async () => {
    let ahead = 5_000
    const { liveness, changes } = observer({ now: () => Date.now() + ahead })
    liveness.heard(peer, { sequence: 1, at: T0, dueMs: DUE })
    ahead = 0
    await vi.advanceTimersByTimeAsync(DUE + SUSPECT_AFTER_MS - 1)
    expect(changes).toEqual(['unknown alive'])
    await vi.advanceTimersByTimeAsync(1)
    expect(changes).toEqual(['unknown alive', 'alive suspect'])
    liveness.close()
  })

  test('holds so many peers: whoever was heard least lately is forgotten', () => {
    const { liveness, changes } = observer({ maxPeers: 2 })
    const peers = [1, 2, 3].map(() => Identity.generate().peerId)
    const hear = (at: number, sequence: number) => liveness.heard(peers[at]!, { sequence, at: T0, dueMs: DUE })
    hear(0, 1)
    hear(1, 1)
    hear(0, 2)
    hear(2, 1)
    expect([liveness.size, ...peers.map((one) => liveness.of(one))]).toEqual([2, 'alive', 'unknown', 'alive'])
    expect(changes.at(-1)).toBe('alive unknown')
    liveness.close()
    expect(liveness.size).toBe(0)
  })

  test('leaves no timer behind where a listener forgets, or hears more', () => {
    const { liveness } = observer()
    liveness.addEventListener('change', ({ detail }) => {
      if (detail.to === 'alive') liveness.heard(peer, { sequence: 9, at: T0, dueMs: 0 })
    })
    liveness.heard(peer, { sequence: 1, at: T0, dueMs: DUE })
    expect(liveness.of(peer)).toBe('offline')
    liveness.forget(peer)
    expect(liveness.of(peer)).toBe('unknown')
  })
})
