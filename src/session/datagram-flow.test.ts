import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { DatagramFlow } from './datagram-flow.ts'
import { Link, useFakeTime } from './memory-path.compliance.ts'
import { newPathState, noteRtt, type PathState } from './paths.ts'

let pings: number
let path: PathState
let flow: DatagramFlow

beforeEach(() => {
  useFakeTime()
  pings = 0
  path = newPathState(new Link('tcp', 'test').ends[0], 2, 'proven')
  noteRtt(path, 20)
  vi.advanceTimersByTime(1)
  flow = new DatagramFlow(ping, () => {})
})
afterEach(() => {
  flow.close()
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

function ping(state: PathState): void {
  pings++
  state.pingedAt = performance.now()
}

/** The answer comes, `ms` after now. */
function answer(ms: number): boolean {
  vi.advanceTimersByTime(ms)
  path.heardAt = performance.now()
  noteRtt(path, performance.now() - path.pingedAt!)
  path.pingedAt = undefined
  return flow.onPong(path)
}

/** Sends until the window is used up; returns how many bytes that took. */
function fill(): number {
  let bytes = 0
  while (flow.open(path)) {
    flow.sent(path, 1_000)
    bytes += 1_000
  }
  flow.hold(path)
  return bytes
}

it('a ping goes along when a quarter of the window is on its way, and one at a time', () => {
  expect(flow.open(path)).toBe(true)
  for (let n = 0; n < 4; n++) flow.sent(path, 1_000)
  expect(pings).toBe(0)
  flow.sent(path, 1_000)
  expect(pings).toBe(1)
  fill()
  expect(pings).toBe(1)
})

it('everything before the ping has arrived with its answer, and nothing behind it', () => {
  expect(fill()).toBe(17_000)
  expect(flow.open(path)).toBe(false)
  expect(answer(20)).toBe(true)
  // 5,000 came before the ping; the window has doubled.
  expect(fill()).toBe(33_000 - 12_000)
})

it('the window shrinks when answers come late, and does not grow when nothing waits for it', () => {
  fill()
  answer(500)
  expect(fill()).toBe(0)
  answer(500)
  fill()
  answer(500)
  expect(fill()).toBeLessThan(5_000)

  const idle = new DatagramFlow(ping, () => {})
  idle.open(path)
  idle.sent(path, 10_000)
  path.heardAt = performance.now()
  noteRtt(path, 0)
  idle.onPong(path)
  let bytes = 0
  for (; idle.open(path); bytes += 1_000) idle.sent(path, 1_000)
  expect(bytes).toBe(17_000)
})

it('bulk data on its way makes room beside it', () => {
  path.unackedBytes = 1_000_000
  expect(fill()).toBe(250_000)
})

it('somebody else’s ping that is under way is waited for', () => {
  vi.advanceTimersByTime(10)
  path.pingedAt = performance.now()
  fill()
  expect(pings).toBe(0)
  vi.advanceTimersByTime(10)
  path.heardAt = performance.now()
  flow.hold(path)
  expect(pings).toBe(1)
})

it('a path that was silent for a second is asked, whatever is sent', () => {
  flow.open(path)
  flow.sent(path, 1)
  expect(pings).toBe(0)
  vi.advanceTimersByTime(1_000)
  flow.sent(path, 1)
  expect(pings).toBe(1)
})

it('a path that is being attached is not asked', () => {
  path.stage = 'attaching'
  fill()
  expect(pings).toBe(0)
})

it('an answer that nobody waited for is none', () => {
  fill()
  vi.advanceTimersByTime(20)
  expect(flow.onPong(path)).toBe(false)
  expect(flow.open(path)).toBe(false)
})
