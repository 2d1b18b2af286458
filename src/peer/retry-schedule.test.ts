import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { RetrySchedule } from './retry-schedule.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** The shortest and the longest waits of the next attempts, when each fails at once. */
function spans(attempts: number, random: [number, number] = [0, 1]): [number, number][] {
  const [least, most] = random.map((value) => new RetrySchedule(() => value))
  return Array.from({ length: attempts }, () => [least!.next(), most!.next()])
}

describe('the waits before a server is dialled again', () => {
  test('begin below a second, and double to 4 s', () => {
    expect(spans(5)).toEqual([
      [100, 1_000],
      [100, 2_000],
      [100, 4_000],
      [100, 4_000],
      [100, 4_000],
    ])
  })

  test('stay at 4 s for two minutes, however many attempts that makes, and grow to 30 s from then on', () => {
    const schedule = new RetrySchedule(() => 1)
    for (let count = 0; count < 100; count++) {
      expect(schedule.next()).toBeLessThanOrEqual(4_000)
      vi.advanceTimersByTime(1_190)
    }
    vi.advanceTimersByTime(1_000)
    expect([1, 2, 3, 4, 5].map(() => schedule.next())).toEqual([8_000, 16_000, 30_000, 30_000, 30_000])
  })

  test('begin anew when the outage was over', () => {
    const schedule = new RetrySchedule(() => 1)
    for (let count = 0; count < 5; count++) schedule.next()
    vi.advanceTimersByTime(130_000)
    schedule.reset()
    expect([1, 2, 3, 4].map(() => schedule.next())).toEqual([1_000, 2_000, 4_000, 4_000])
  })

  test('are spread evenly over their whole span', () => {
    const firsts = Array.from({ length: 10_000 }, () => new RetrySchedule().next())
    for (let from = 100; from < 1_000; from += 100) {
      const share = firsts.filter((wait) => wait >= from && wait < from + 100).length / firsts.length
      expect(share).toBeGreaterThan(0.08)
      expect(share).toBeLessThan(0.145)
    }
  })
})
