import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Patience } from './patience.ts'

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
})
afterEach(() => {
  vi.advanceTimersByTime(100)
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

/** Waits `ms`, and then gets `bytes`. */
async function wait(patience: Patience, ms: number, bytes: number): Promise<void> {
  let come!: (bytes: number) => void
  const given = patience.wait(
    new Promise<number>((resolve) => {
      come = resolve
    }),
    (count) => count,
  )
  for (let passed = 0; passed < ms; passed += 10) vi.advanceTimersByTime(10)
  come(bytes)
  await given
}

test('silence is borne for idleMs, and no longer', async () => {
  const out = vi.fn()
  const patience = new Patience({ idleMs: 1_000, minBytesPerSecond: 100 }, out)
  await wait(patience, 980, 0)
  expect(out).not.toHaveBeenCalled()
  await wait(patience, 60, 0)
  expect(out).toHaveBeenCalledTimes(1)
})

test('a byte before each end of it does not hold it for ever', async () => {
  const out = vi.fn()
  const patience = new Patience({ idleMs: 1_000, minBytesPerSecond: 100 }, out)
  let waited = 0
  for (; out.mock.calls.length === 0 && waited < 100_000; waited += 100) await wait(patience, 100, 1)
  expect(waited).toBeGreaterThanOrEqual(1_000)
  expect(waited).toBeLessThanOrEqual(1_300)
})

test('who is fast enough has all of it at any time, and no more than that', async () => {
  const out = vi.fn()
  const patience = new Patience({ idleMs: 1_000, minBytesPerSecond: 100 }, out)
  for (let i = 0; i < 100; i++) await wait(patience, 500, 60)
  await wait(patience, 10, 1_000_000)
  await wait(patience, 960, 0)
  expect(out).not.toHaveBeenCalled()
  await wait(patience, 100, 0)
  expect(out).toHaveBeenCalledTimes(1)
})

test('time in which nobody waits costs nothing', async () => {
  const out = vi.fn()
  const patience = new Patience({ idleMs: 1_000, minBytesPerSecond: 100 }, out)
  for (let i = 0; i < 10; i++) {
    vi.advanceTimersByTime(60_000)
    await wait(patience, 50, 0)
  }
  expect(out).not.toHaveBeenCalled()
})

test('a wait that fails leaves nothing armed', async () => {
  const patience = new Patience({ idleMs: 1_000 }, vi.fn())
  await expect(patience.wait(Promise.reject(new Error('x')), () => 0)).rejects.toThrow('x')
})
