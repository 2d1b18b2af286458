import { afterEach, expect, test, vi } from 'vitest'
import { Answers } from './answers.ts'

afterEach(() => void vi.useRealTimers())

const offer = (number: number) => Buffer.from(`offer ${number}`)

test('an offer that comes again gets the same answer, and no second thought', async () => {
  const answers = new Answers()
  const work = vi.fn(async () => Uint8Array.of(1))
  const [first, second] = [answers.of(offer(1), work), answers.of(offer(1), work)]
  expect(await second).toBe(await first)
  await answers.of(offer(2), work)
  expect(work).toHaveBeenCalledTimes(2)
})

test('silence is remembered, too', async () => {
  const answers = new Answers()
  const work = vi.fn(async () => undefined)
  expect(await answers.of(offer(1), work)).toBeUndefined()
  expect(await answers.of(offer(1), work)).toBeUndefined()
  expect(work).toHaveBeenCalledTimes(1)
})

test('after half a minute, or 1,024 others, it is forgotten', async () => {
  vi.useFakeTimers()
  const answers = new Answers()
  const work = vi.fn(async () => Uint8Array.of(1))
  await answers.of(offer(1), work)
  vi.advanceTimersByTime(29_000)
  await answers.of(offer(1), work)
  expect(work).toHaveBeenCalledTimes(1)
  vi.advanceTimersByTime(2_000)
  await answers.of(offer(1), work)
  expect(work).toHaveBeenCalledTimes(2)
  for (let number = 2; number < 1_030; number++) await answers.of(offer(number), async () => undefined)
  await answers.of(offer(1), work)
  expect(work).toHaveBeenCalledTimes(3)
})
