import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Pacer } from './byte-rate.ts'
import { useFakeTime } from './memory-path.compliance.ts'

beforeEach(useFakeTime)
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

describe('a pacer', () => {
  it('lets through the burst and then its rate, whatever is asked and however long is waited', () => {
    const step = fc.record({ ms: fc.integer({ min: 0, max: 400 }), bytes: fc.integer({ min: 1, max: 3_000 }) })
    const rate = fc.record({
      perSecond: fc.integer({ min: 1, max: 200_000 }),
      burst: fc.integer({ min: 1, max: 10_000 }),
    })
    fc.assert(
      fc.property(rate, fc.array(step, { maxLength: 50 }), fc.boolean(), (given, steps, small) => {
        const pacer = new Pacer(given, () => {})
        const start = performance.now()
        let passed = 0
        for (const { ms, bytes } of steps) {
          vi.advanceTimersByTime(ms)
          const may = small ? (pacer.take(bytes) ? bytes : 0) : Math.min(bytes, pacer.room)
          if (!small) pacer.spend(may)
          passed += may
          expect(passed).toBeLessThanOrEqual(
            given.burst + ((performance.now() - start) * given.perSecond) / 1_000 + 1e-3,
          )
          expect(pacer.debt).toBe(0)
        }
      }),
      { numRuns: 300 },
    )
  })

  it('has no room below a quantum, a fiftieth of a second, so that a slow rate makes no tiny pieces', () => {
    const pacer = new Pacer({ perSecond: 10_000, burst: 1_000 }, () => {})
    expect(pacer.room).toBe(1_000)
    pacer.spend(1_000)
    vi.advanceTimersByTime(19)
    expect(pacer.room).toBe(0)
    vi.advanceTimersByTime(1)
    expect(pacer.room).toBe(200)
    vi.advanceTimersByTime(60_000)
    expect(pacer.room).toBe(1_000)
  })

  it('pays off a debt first', () => {
    const pacer = new Pacer({ perSecond: 1_000, burst: 500 }, () => {})
    pacer.spend(2_500)
    expect([pacer.debt, pacer.room, pacer.take(1)]).toEqual([2_000, 0, false])
    vi.advanceTimersByTime(1_999)
    expect(pacer.debt).toBe(1)
    vi.advanceTimersByTime(21)
    expect([pacer.debt, pacer.room]).toEqual([0, 20])
  })

  it('is given back what was not used, up to the burst', () => {
    const pacer = new Pacer({ perSecond: 1_000, burst: 500 }, () => {})
    pacer.spend(400)
    pacer.refund(300)
    expect(pacer.room).toBe(400)
    pacer.refund(300)
    expect(pacer.room).toBe(500)
  })

  it('wakes who waits, once, when there is room; nobody gets past him with a few bytes', () => {
    let woken = 0
    const pacer = new Pacer({ perSecond: 10_000, burst: 1_000 }, () => woken++)
    pacer.spend(1_000)
    pacer.wait()
    pacer.wait()
    expect([vi.getTimerCount(), pacer.waiting]).toEqual([1, true])
    vi.advanceTimersByTime(19)
    expect([woken, pacer.take(100), pacer.take(0)]).toEqual([0, false, true])
    vi.advanceTimersByTime(1)
    expect([woken, pacer.waiting, pacer.take(100)]).toEqual([1, false, true])
    vi.advanceTimersByTime(60_000)
    expect(woken).toBe(1)
  })

  it('that owes much wakes each minute, for a timer holds no more than 2^31 ms; one that is fast, each ms', () => {
    let woken = 0
    const slow = new Pacer({ perSecond: 1, burst: 1 }, () => woken++)
    slow.spend(1e9)
    slow.wait()
    vi.advanceTimersByTime(59_999)
    expect(woken).toBe(0)
    vi.advanceTimersByTime(1)
    expect(woken).toBe(1)
    const fast = new Pacer({ perSecond: 1e12, burst: 100 }, () => woken++)
    fast.spend(100)
    fast.wait()
    vi.advanceTimersByTime(0)
    expect(woken).toBe(1)
    vi.advanceTimersByTime(1)
    expect(woken).toBe(2)
  })

  it('that is closed wakes nobody and leaves no timer', () => {
    const pacer = new Pacer({ perSecond: 10, burst: 10 }, () => expect.fail('it was closed'))
    pacer.spend(100)
    pacer.wait()
    pacer.close()
    pacer.wait()
    expect(vi.getTimerCount()).toBe(0)
  })

  it.each([
    { perSecond: 0, burst: 1 },
    { perSecond: 1, burst: 0 },
    { perSecond: 1.5, burst: 1 },
    { perSecond: Number.POSITIVE_INFINITY, burst: 1 },
    { perSecond: Number.NaN, burst: 1 },
    { perSecond: 1, burst: -1 },
  ])('has no rate %o', (rate) => {
    expect(() => new Pacer(rate, () => {})).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})
