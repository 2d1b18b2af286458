import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { MemoryPath, useFakeTime } from './memory-path.compliance.ts'
import { PathChooser } from './path-chooser.ts'
import { PathLog } from './path-log.ts'
import { FOLLOW_HOLD_MS, FOLLOW_SILENCE_MS, newPathState, type PathState } from './paths.ts'

beforeEach(useFakeTime)
afterEach(() => {
  vi.useRealTimers()
})

it('two changes that follow the other side are five seconds apart', () => {
  const paths = [2, 4].map((number) => newPathState(new MemoryPath('tcp', `tcp-${number}`, () => 1), number, 'proven'))
  const [first, second] = paths as [PathState, PathState]
  const chooser = new PathChooser(
    {
      paths: () => paths,
      has: () => true,
      ping: () => {},
      late: () => false,
      load: () => ({ inFlight: 0, acked: 0, held: false, oldestPath: undefined, takeBack: () => {} }),
      onSwitch: () => {},
      onUsable: () => {},
      onChange: () => {},
      closed: () => false,
      guard: (run) => run(),
    },
    new PathLog(),
  )
  chooser.choose()
  const heard = (state: PathState, ms: number) => {
    for (let count = 0; count < 4; count++) {
      vi.advanceTimersByTime(ms / 4)
      state.heardAt = performance.now()
      chooser.onHeard(state, true, performance.now())
    }
  }
  expect(chooser.active).toBe(first)
  heard(second, FOLLOW_SILENCE_MS)
  expect(chooser.active).toBe(second)
  chooser.onAnswered(first)
  heard(first, FOLLOW_HOLD_MS - 100)
  expect(chooser.active).toBe(second)
  heard(first, 200)
  expect(chooser.active).toBe(first)
  chooser.close()
})
