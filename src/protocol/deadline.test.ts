import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Deadline } from './deadline.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
})
afterEach(() => {
  vi.advanceTimersByTime(100)
  vi.useRealTimers()
})

class Alarm extends Deadline {
  rangAt: number[] = []
  onExpired: (() => void) | undefined
  protected expired(): void {
    this.rangAt.push(performance.now())
    this.onExpired?.()
  }
}

function alarm(ms: number): Alarm {
  const made = new Alarm()
  made.arm(ms)
  return made
}

test('passes not early, and late by two ticks at most, for short and for several turns of the wheel', () => {
  const start = performance.now()
  const spans = [1, 19, 20, 21, 5_000, 10_000, 10_239, 10_240, 10_241, 35_000]
  const alarms = spans.map((ms) => alarm(ms))
  for (let i = 0; i < 4_000; i++) vi.advanceTimersByTime(10)
  for (const [i, ms] of spans.entries()) {
    const rang = alarms[i]!.rangAt
    expect(rang, `${ms} ms`).toHaveLength(1)
    expect(rang[0]! - start).toBeGreaterThanOrEqual(ms)
    expect(rang[0]! - start).toBeLessThanOrEqual(ms + 40)
  }
})

test('disarmed, it does not pass; armed anew, only the later time counts', () => {
  const off = alarm(100)
  const again = alarm(100)
  off.disarm()
  off.disarm()
  vi.advanceTimersByTime(60)
  again.arm(100)
  vi.advanceTimersByTime(60)
  expect(again.rangAt).toHaveLength(0)
  vi.advanceTimersByTime(100)
  expect(off.rangAt).toHaveLength(0)
  expect(again.rangAt).toHaveLength(1)
})

test('neighbours in a slot survive the removal of any of them', () => {
  const alarms = Array.from({ length: 9 }, () => alarm(100))
  for (const i of [0, 4, 8]) alarms[i]!.disarm()
  vi.advanceTimersByTime(200)
  expect(alarms.map((one) => one.rangAt.length)).toEqual([0, 1, 1, 1, 0, 1, 1, 1, 0])
})

test('one that passes may disarm another that is due with it, or arm itself', () => {
  const first = alarm(100)
  const second = alarm(100)
  first.onExpired = () => second.disarm()
  second.onExpired = () => first.disarm()
  const self = alarm(100)
  self.onExpired = () => {
    if (self.rangAt.length < 3) self.arm(50)
  }
  vi.advanceTimersByTime(1_000)
  expect(first.rangAt.length + second.rangAt.length).toBe(1)
  expect(self.rangAt).toHaveLength(3)
})

test('the timer exists only while something is armed', () => {
  vi.advanceTimersByTime(100)
  expect(vi.getTimerCount()).toBe(0)
  const one = alarm(1_000)
  expect(vi.getTimerCount()).toBe(1)
  one.disarm()
  vi.advanceTimersByTime(20)
  expect(vi.getTimerCount()).toBe(0)
})

test('a process that slept for longer than a turn lets all that is due pass at once', () => {
  const alarms = [50, 9_000, 11_000, 30_000].map((ms) => alarm(ms))
  const later = alarm(200_000)
  const slept = vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 100_000)
  vi.advanceTimersByTime(20)
  expect(alarms.map((one) => one.rangAt.length)).toEqual([1, 1, 1, 1])
  expect(later.rangAt).toHaveLength(0)
  slept.mockRestore()
  later.disarm()
})
