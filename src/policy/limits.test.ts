import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { KeyedLimiter, TokenBucket } from './limits.ts'

/** A clock that moves only when told to. */
function fakeClock(): { now: () => number; advance(ms: number): void } {
  let at = 1_000
  return {
    now: () => at,
    advance(ms) {
      at += ms
    },
  }
}

describe('TokenBucket', () => {
  test('grants its burst at once, then its rate', () => {
    const clock = fakeClock()
    const bucket = new TokenBucket({ rate: 2, burst: 3, now: clock.now })
    expect([bucket.take(), bucket.take(), bucket.take(), bucket.take()]).toEqual([true, true, true, false])
    clock.advance(499)
    expect(bucket.take()).toBe(false)
    clock.advance(1)
    expect(bucket.take()).toBe(true)
    expect(bucket.take()).toBe(false)
  })

  test('an idle bucket saves up no more than its burst', () => {
    const clock = fakeClock()
    const bucket = new TokenBucket({ rate: 10, burst: 5, now: clock.now })
    clock.advance(3_600_000)
    expect(bucket.take(6)).toBe(false)
    expect(bucket.take(5)).toBe(true)
    expect(bucket.take()).toBe(false)
  })

  test('a refused take costs nothing', () => {
    const bucket = new TokenBucket({ rate: 0, burst: 5, now: fakeClock().now })
    expect(bucket.take(6)).toBe(false)
    expect(bucket.take(5)).toBe(true)
  })

  test('odd amounts neither pass nor refill', () => {
    const bucket = new TokenBucket({ rate: 0, burst: 1, now: fakeClock().now })
    expect(bucket.take(Number.NaN)).toBe(false)
    expect(bucket.take(-5)).toBe(false)
    expect(bucket.take()).toBe(true)
    expect(bucket.take()).toBe(false)
  })

  test('a clock that steps back takes nothing away and gives nothing twice', () => {
    const clock = fakeClock()
    const bucket = new TokenBucket({ rate: 1, burst: 2, now: clock.now })
    bucket.take(2)
    clock.advance(-500)
    expect(bucket.take()).toBe(false)
    clock.advance(1_499)
    expect(bucket.take()).toBe(false)
    clock.advance(1)
    expect(bucket.take()).toBe(true)
  })

  test('msUntil is Infinity for what can never be', () => {
    const clock = fakeClock()
    expect(new TokenBucket({ rate: 1, burst: 2, now: clock.now }).msUntil(3)).toBe(Number.POSITIVE_INFINITY)
    const dry = new TokenBucket({ rate: 0, burst: 1, now: clock.now })
    dry.take()
    expect(dry.msUntil()).toBe(Number.POSITIVE_INFINITY)
  })

  test('after msUntil the take succeeds, and not before', () => {
    const number = fc.double({ min: 0.01, max: 1e6, noNaN: true })
    fc.assert(
      fc.property(number, fc.integer({ min: 1, max: 1_000 }), fc.integer({ min: 1, max: 1_000 }), (rate, burst, n) => {
        fc.pre(n <= burst)
        const clock = fakeClock()
        const bucket = new TokenBucket({ rate, burst, now: clock.now })
        bucket.take(burst)
        const wait = bucket.msUntil(n)
        clock.advance(wait - 2)
        const early = wait > 2 && bucket.msUntil(n) === 0
        clock.advance(2)
        // two refills round twice: allow the next whole millisecond
        const left = bucket.msUntil(n)
        clock.advance(left)
        return !early && left <= 1 && bucket.take(n)
      }),
      { numRuns: 300 },
    )
  })

  test('never grants more than burst + rate * time', () => {
    const steps = fc.array(fc.tuple(fc.integer({ min: 0, max: 2_000 }), fc.integer({ min: 0, max: 20 })), {
      maxLength: 60,
    })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 50 }), fc.integer({ min: 1, max: 50 }), steps, (rate, burst, asks) => {
        const clock = fakeClock()
        const start = clock.now()
        const bucket = new TokenBucket({ rate, burst, now: clock.now })
        let granted = 0
        for (const [ms, n] of asks) {
          clock.advance(ms)
          if (bucket.take(n)) granted += n
          if (granted > burst + (rate * (clock.now() - start)) / 1000 + 1e-6) return false
        }
        return true
      }),
      { numRuns: 200 },
    )
  })

  test.each([
    { rate: -1, burst: 1 },
    { rate: Number.NaN, burst: 1 },
    { rate: 1, burst: 0 },
    { rate: 1, burst: Number.POSITIVE_INFINITY },
  ])('refuses %o', (options) => {
    expect(() => new TokenBucket(options)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    expect(() => new KeyedLimiter(options)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})

describe('KeyedLimiter', () => {
  test('keys do not share tokens', () => {
    const limiter = new KeyedLimiter({ rate: 1, burst: 1, now: fakeClock().now })
    expect(limiter.take('a')).toBe(true)
    expect(limiter.take('a')).toBe(false)
    expect(limiter.take('b')).toBe(true)
    expect(limiter.msUntil('a')).toBe(1_000)
    expect(limiter.msUntil('never seen')).toBe(0)
    expect(limiter.size).toBe(2)
  })

  test('forgets the least recently used key first', () => {
    const limiter = new KeyedLimiter({ rate: 0, burst: 1, capacity: 2, now: fakeClock().now })
    limiter.take('a')
    limiter.take('b')
    limiter.take('a') // refused, but a use: b is the oldest now
    limiter.take('c')
    expect(limiter.take('a')).toBe(false) // still remembered
    expect(limiter.take('b')).toBe(true) // forgotten, so full again
  })

  test('a flood of keys stays within the capacity', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 8 }),
        fc.array(fc.string({ maxLength: 2 }), { maxLength: 100 }),
        (c, keys) => {
          const limiter = new KeyedLimiter({ rate: 1, burst: 1, capacity: c, now: fakeClock().now })
          return keys.every((key) => {
            limiter.take(key)
            return limiter.size <= c
          })
        },
      ),
    )
  })

  test.each([0, -1, 1.5, Number.NaN])('refuses capacity %d', (capacity) => {
    expect(() => new KeyedLimiter({ rate: 1, burst: 1, capacity })).toThrow(/capacity/)
  })
})
