import { afterEach, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { PerMinute } from './per-minute.ts'

afterEach(() => void vi.restoreAllMocks())

test('each has its own number, and a new one when its minute is over', () => {
  const now = vi.spyOn(performance, 'now').mockReturnValue(1_000)
  const [one, other] = [Identity.generate().peerId, Identity.generate().peerId]
  const limit = new PerMinute(2)
  expect([limit.take(one), limit.take(one), limit.take(one), limit.take(other)]).toEqual([true, true, false, true])
  now.mockReturnValue(60_999)
  expect(limit.take(one)).toBe(false)
  now.mockReturnValue(61_000)
  expect([limit.take(one), limit.take(one), limit.take(one)]).toEqual([true, true, false])
})
