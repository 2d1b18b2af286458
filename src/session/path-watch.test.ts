import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { MemoryPath, useFakeTime } from './memory-path.compliance.ts'
import { PathWatch } from './path-watch.ts'
import { DRAIN_TIMEOUT_MS, newPathState } from './paths.ts'

beforeEach(useFakeTime)
afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

it('a path that drains slowly is not given up because the process slept meanwhile', () => {
  const state = newPathState(new MemoryPath('tcp', 'tcp', () => 1), 2, 'proven')
  const lost: number[] = []
  const watch = new PathWatch({
    paths: () => (lost.length === 0 ? [state] : []),
    active: () => undefined,
    fresh: () => undefined,
    initiator: true,
    sendLoose: () => {},
    busy: () => false,
    held: () => false,
    onBusy: () => {},
    onTrouble: () => {},
    choose: () => {},
    onAnswered: () => {},
    retire: () => {},
    lose: () => lost.push(performance.now()),
    closed: () => false,
    guard: (run) => run(),
  })
  state.rttMs = 10
  state.suspect = 'slow'
  state.suspectAt = performance.now()
  watch.ping(state, DRAIN_TIMEOUT_MS)
  vi.advanceTimersByTime(5_000)
  const { now } = performance
  vi.spyOn(performance, 'now').mockImplementation(() => now.call(performance) + 3_600_000)
  vi.advanceTimersByTime(DRAIN_TIMEOUT_MS - 1_000)
  expect(lost).toEqual([])
  vi.advanceTimersByTime(2_000)
  expect(lost.length).toBe(1)
  watch.close()
  expect(vi.getTimerCount()).toBe(0)
})
