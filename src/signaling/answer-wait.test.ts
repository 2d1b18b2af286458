import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { type AnswerWait, type AnswerWaitOptions, awaitAnswer } from './answer-wait.ts'

const to = Identity.generate().peerId
const ONE = Uint8Array.of(1)
const code = (text: string) => expect.objectContaining({ code: text })

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

/** A wait, what its medium has of it, and how often it was left. */
function begun(options: Partial<AnswerWaitOptions> = {}) {
  const caller = new AbortController()
  let wait!: AnswerWait
  const leave = vi.fn()
  const answer = awaitAnswer({ to, ms: 1_000, signal: caller.signal, ...options }, (given) => {
    wait = given
    return leave
  })
  answer.catch(() => {})
  const isClean = () => vi.getTimerCount() === 0 && getEventListeners(caller.signal, 'abort').length === 0
  return { answer, wait, leave, caller, isClean }
}

test('the first answer that is accepted ends it, and nothing after that counts', async () => {
  const { answer, wait, leave, caller, isClean } = begun({ accept: ([first]) => first === 1 })
  expect([wait.offered(Uint8Array.of(2)), wait.offered(ONE), wait.offered(ONE)]).toEqual([false, true, false])
  wait.fail(new PeerlineError('ERR_PEERLINE_BUSY', 'late'))
  caller.abort()
  expect(await answer).toEqual(ONE)
  expect([leave.mock.calls.length, isClean()]).toEqual([1, true])
})

test('what `accept` throws ends it, and was the answer', async () => {
  const { answer, wait, leave } = begun({
    accept: () => {
      throw new PeerlineError('ERR_PEERLINE_DENIED', 'no')
    },
  })
  expect(wait.offered(ONE)).toBe(true)
  await expect(answer).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  expect(leave).toHaveBeenCalledTimes(1)
})

test('only so many answers are looked at', async () => {
  const accept = vi.fn(() => false)
  const { wait } = begun({ accept, maxAnswers: 2 })
  for (let i = 0; i < 5; i++) wait.offered(ONE)
  expect(accept).toHaveBeenCalledTimes(2)
})

test.each([
  ['as usual', {}, 'ERR_PEERLINE_TIMEOUT'],
  ['as the medium says', { late: () => new PeerlineError('ERR_PEERLINE_OFFLINE', 'gone') }, 'ERR_PEERLINE_OFFLINE'],
])('is late %s', async (_, options, text) => {
  const { answer, leave, isClean } = begun(options)
  vi.advanceTimersByTime(1_000)
  await expect(answer).rejects.toEqual(code(text))
  expect([leave.mock.calls.length, isClean()]).toEqual([1, true])
})

test('the caller gives it up, before it begins or later', async () => {
  const { answer, caller, leave, isClean } = begun()
  caller.abort()
  await expect(answer).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
  expect([leave.mock.calls.length, isClean()]).toEqual([1, true])
  const begin = vi.fn()
  const late = awaitAnswer({ to, ms: 1_000, signal: caller.signal }, begin)
  await expect(late).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
  expect(begin).not.toHaveBeenCalled()
})

test('what cannot begin fails, and what is over at once is left all the same', async () => {
  const { signal } = new AbortController()
  const refused = awaitAnswer({ to, ms: 1_000, signal }, () => {
    throw new PeerlineError('ERR_PEERLINE_LIMIT', 'too many')
  })
  await expect(refused).rejects.toEqual(code('ERR_PEERLINE_LIMIT'))
  const leave = vi.fn()
  const atOnce = awaitAnswer({ to, ms: 1_000, signal }, ({ offered }) => {
    offered(ONE)
    return leave
  })
  expect(await atOnce).toEqual(ONE)
  expect([leave.mock.calls.length, vi.getTimerCount()]).toEqual([1, 0])
})
