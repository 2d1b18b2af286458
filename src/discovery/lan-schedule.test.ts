import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { FASTEST_MS, LanSchedule, SLOWEST_MS } from './lan-schedule.ts'

describe('when a peer speaks up', () => {
  let turns: number[]
  let others: number
  let schedule: LanSchedule
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    turns = []
    others = 0
    schedule = make(0.5)
  })
  afterEach(() => {
    schedule.stop()
    vi.useRealTimers()
  })

  function make(random: number): LanSchedule {
    const began = performance.now()
    return new LanSchedule({
      onTurn: () => turns.push(Math.round(performance.now() - began)),
      others: () => others,
      random: () => random,
    })
  }

  /** ms between the turns of so long a time. */
  function pauses(ms: number): number[] {
    turns = []
    vi.advanceTimersByTime(ms)
    return turns.slice(1).map((turn, at) => turn - turns[at]!)
  }

  test('it begins at once, and its pauses double up to a minute', () => {
    schedule.hurry()
    expect(pauses(300_000)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000])
    expect(turns[0]).toBe(70)
  })

  test.each([
    [0, 20, 900],
    [1, 120, 1_100],
  ])('chance %d: the first turn comes after %d ms, and the second %d ms later', (random, first, second) => {
    schedule = make(random)
    schedule.hurry()
    expect(pauses(2_000)).toEqual([second])
    expect(turns[0]).toBe(first)
  })

  test('before it is told to, it says nothing', () => {
    schedule.settle()
    expect(pauses(200_000)).toEqual([])
    expect(turns).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('settled, it speaks up once a minute', () => {
    schedule.hurry()
    vi.advanceTimersByTime(1_500)
    schedule.settle()
    expect(pauses(200_000)).toEqual([60_000, 60_000])
    expect(turns[0]).toBe(61_500)
  })

  test('it hurries again when something is new, but speaks no more than once a second', () => {
    schedule.hurry()
    vi.advanceTimersByTime(500_000)
    schedule.hurry()
    expect(pauses(4_000)).toEqual([1_000, 2_000])
    expect(turns[0]).toBe(500_070)
    schedule.hurry()
    schedule.hurry()
    turns = []
    vi.advanceTimersByTime(FASTEST_MS)
    expect(turns.length).toBe(1)
  })

  test('however often something is new, its turn comes', () => {
    schedule.hurry()
    for (let at = 0; at < 200; at++) {
      vi.advanceTimersByTime(10)
      schedule.hurry()
    }
    expect(turns).toEqual([70, 1_070])
  })

  test('a thousand of them together speak twenty times a second', () => {
    others = 1_000
    schedule.hurry()
    expect(pauses(200_000)).toEqual([50_000, 50_000, 50_000])
    others = 5_000
    expect(schedule.pauseMs).toBe(SLOWEST_MS)
  })

  test('stopped, it stays so', () => {
    schedule.hurry()
    schedule.stop()
    schedule.hurry()
    schedule.settle()
    vi.advanceTimersByTime(200_000)
    expect(turns).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })
})
