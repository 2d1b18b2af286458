import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { type Resort, together, tryAll } from './last-resorts.ts'

const signal = new AbortController().signal
const offline = (text = 'not there') => new PeerlineError('ERR_PEERLINE_OFFLINE', text)

/** One that does what it is told, and notes what happens to it. */
class Fake implements Resort<string> {
  readonly lates: string[] = []
  readonly telling: boolean
  begunAt: number | undefined
  stopped = false
  resolve!: (made: string) => void
  reject!: (error: unknown) => void

  constructor(telling = false) {
    this.telling = telling
  }

  readonly run = (each: AbortSignal): Promise<string> => {
    this.begunAt = Date.now()
    each.addEventListener('abort', () => {
      this.stopped = true
    })
    return new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
  }
  readonly late = (made: string): void => void this.lates.push(made)
}

let start: number
beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  start = Date.now()
})
afterEach(() => {
  vi.useRealTimers()
})

test('each has a head start; all go on until one works, which ends the others', async () => {
  const all = [new Fake(), new Fake(), new Fake()]
  const made = tryAll(all, signal)
  await vi.advanceTimersByTimeAsync(10_000)
  expect(all.map(({ begunAt }) => begunAt! - start)).toEqual([0, 3_000, 6_000])
  all[1]!.resolve('second')
  expect(await made).toBe('second')
  expect(all.map(({ stopped }) => stopped)).toEqual([true, true, true])
  // What comes too late is of no use.
  all[0]!.resolve('first')
  await vi.advanceTimersByTimeAsync(0)
  expect(all[0]!.lates).toEqual(['first'])
  expect(vi.getTimerCount()).toBe(0)
})

test('one that is to go beside another begins with it, and the next waits for both', async () => {
  const all = [new Fake(), Object.assign(new Fake(), { beside: true }), new Fake()]
  const made = tryAll(all, signal)
  await vi.advanceTimersByTimeAsync(1_000)
  expect(all.map(({ begunAt }) => begunAt)).toEqual([start, start, undefined])
  all[0]!.reject(offline())
  await vi.advanceTimersByTimeAsync(500)
  expect(all[2]!.begunAt).toBeUndefined()
  all[1]!.reject(offline())
  await vi.advanceTimersByTimeAsync(0)
  expect(all[2]!.begunAt! - start).toBe(1_500)
  all[2]!.resolve('third')
  expect(await made).toBe('third')
})

test('where one has failed the next begins at once', async () => {
  const all = [new Fake(), new Fake()]
  const made = tryAll(all, signal)
  all[0]!.reject(offline())
  await vi.advanceTimersByTimeAsync(0)
  expect(all[1]!.begunAt).toBe(start)
  all[1]!.resolve('second')
  expect(await made).toBe('second')
})

test.each(['ERR_PEERLINE_DENIED', 'ERR_PEERLINE_INVALID', 'ERR_PEERLINE_LIMIT'] as const)(
  '%s ends it: nothing else is tried',
  async (code) => {
    const all = [new Fake(), new Fake()]
    const made = expect(tryAll(all, signal)).rejects.toMatchObject({ code })
    all[0]!.reject(new PeerlineError(code, 'no'))
    await made
    await vi.advanceTimersByTimeAsync(10_000)
    expect(all[1]!.begunAt).toBeUndefined()
  },
)

test('unless it is said by a place that we were only sent to: then the next is tried', async () => {
  const sent: Fake & { final?: boolean } = Object.assign(new Fake(), { final: false })
  const all = [sent, new Fake()]
  const made = tryAll(all, signal)
  sent.reject(new PeerlineError('ERR_PEERLINE_DENIED', 'no'))
  await vi.advanceTimersByTimeAsync(0)
  all[1]!.resolve('second')
  expect(await made).toBe('second')
})

test.each([
  ['the first', [false, false], 'ERR_PEERLINE_OFFLINE', 'one; two'],
  ['the telling one', [false, true], 'ERR_PEERLINE_TIMEOUT', 'two; one'],
] as const)('when none works, the failure of %s is told, with the others', async (_, telling, code, message) => {
  const all = telling.map((one) => new Fake(one))
  const made = expect(tryAll(all, signal)).rejects.toMatchObject({ code, message })
  all[0]!.reject(offline('one'))
  await vi.advanceTimersByTimeAsync(0)
  all[1]!.reject(new PeerlineError('ERR_PEERLINE_TIMEOUT', 'two'))
  await made
})

test('what fails twice for one reason says so once, and what is no failure of ours is left as it is', () => {
  const one = offline('one')
  expect(together(one, [one, offline('one'), undefined])).toBe(one)
  const other = new Error('a bug')
  expect(together(other, [one])).toBe(other)
})

test('the caller ends it', async () => {
  const cancel = new AbortController()
  const all = [new Fake(), new Fake()]
  const made = expect(tryAll(all, cancel.signal)).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  cancel.abort()
  expect(all[0]!.stopped).toBe(true)
  all[0]!.reject(new PeerlineError('ERR_PEERLINE_ABORTED', 'cancelled'))
  await made
  await vi.advanceTimersByTimeAsync(10_000)
  expect(all[1]!.begunAt).toBeUndefined()
})

test('with nothing to try, there is no address', async () => {
  await expect(tryAll([], signal)).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_ADDRESS' })
})
