import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { NoneSucceeded, staggered, type Tier } from './staggered.ts'

/** A way that ends when it is told to, or with the signal. */
class Way {
  readonly began: Promise<number>
  #begin!: (at: number) => void
  succeed!: (made: string) => void
  fail!: (error: unknown) => void

  constructor() {
    this.began = new Promise((resolve) => {
      this.#begin = resolve
    })
  }

  run(signal: AbortSignal): Promise<string> {
    this.#begin(Date.now())
    return new Promise((resolve, reject) => {
      this.succeed = resolve
      this.fail = reject
      signal.addEventListener('abort', () => reject(signal.reason))
    })
  }
}

const tier = (...ways: Way[]): Tier<Way> => ({ ways, afterMs: 100 })
const run = (way: Way, signal: AbortSignal) => way.run(signal)
const { signal } = new AbortController()

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'], now: 0 })
})
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

test('a tier begins when its time has come, or when all that were begun have failed', async () => {
  const [a, b, c, d] = [new Way(), new Way(), new Way(), new Way()]
  const made = staggered([tier(a, b), tier(c), tier(d)], { run, signal })
  await vi.advanceTimersByTimeAsync(40)
  a.fail('a')
  await vi.advanceTimersByTimeAsync(60)
  expect(await c.began).toBe(100)
  c.fail('c')
  await vi.advanceTimersByTimeAsync(10)
  b.fail('b')
  expect(await d.began).toBe(110)
  d.succeed('d')
  expect(await made).toBe('d')
})

test('the first success ends the others, and those not begun; what comes later is handed over', async () => {
  const [a, b, c] = [new Way(), new Way(), new Way()]
  const late = vi.fn()
  const ended = vi.fn()
  const made = staggered([tier(a, b), tier(c)], {
    run: (way, each) => {
      each.addEventListener('abort', () => ended())
      return new Promise((resolve) => {
        way.succeed = resolve
      })
    },
    late,
    signal,
  })
  b.succeed('b')
  expect(await made).toBe('b')
  expect(ended).toHaveBeenCalledTimes(2)
  a.succeed('a')
  await vi.advanceTimersByTimeAsync(1_000)
  expect(late.mock.calls).toEqual([['a', a]])
})

test('when none succeeds, every failure is told, and which was the last', async () => {
  const [a, b] = [new Way(), new Way()]
  const made = staggered([tier(a, b)], { run, signal }).catch((error) => error)
  b.fail('b')
  a.fail('a')
  const error = await made
  expect(error).toBeInstanceOf(NoneSucceeded)
  expect(error.cutShort).toBe(false)
  expect([[...error.failures], error.last]).toEqual([
    [
      [b, 'b'],
      [a, 'a'],
    ],
    'a',
  ])
})

test('a final failure ends it', async () => {
  const [a, b, c] = [new Way(), new Way(), new Way()]
  const made = staggered([tier(a, b), tier(c)], { run, signal, final: (error) => error === 'no' }).catch((e) => e)
  b.fail('no')
  const { failures, cutShort } = await made
  expect([...failures]).toEqual([[b, 'no']])
  expect(cutShort).toBe(true)
})

test('the signal ends it, and nothing is begun after it', async () => {
  const [a, b] = [new Way(), new Way()]
  const stop = new AbortController()
  const made = staggered([tier(a), tier(b)], { run, signal: stop.signal }).catch((e) => e)
  stop.abort('enough')
  expect(await made).toMatchObject({ last: 'enough', cutShort: true })
})
