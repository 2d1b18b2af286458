import { describe, expect, test } from 'vitest'
import { judge, median, type Point, slopeOf } from './flat.js'

/** Numbers that are the same in every run, from -1 to 1. */
function noise(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 31 - 1
  }
}

/** A sample a second. */
function series(length: number, value: (second: number) => number): Point[] {
  return Array.from({ length }, (_, second) => ({ atMs: second * 1_000, value: value(second) }))
}

const MB = 2 ** 20

describe('what stays flat', () => {
  test.each([1, 2, 3])('is noise about a level, seed %i', (seed) => {
    const random = noise(seed)
    const points = series(180, () => 20 * MB + random() * 3 * MB)
    expect(judge(points, { atLeast: 2 * MB }).flat).toBe(true)
  })

  test('may have grown while it was warming up', () => {
    const points = series(180, (second) => 20 * MB - 10 * MB * Math.exp(-second / 10))
    expect(judge(points, { atLeast: MB })).toMatchObject({ flat: true, tooFew: false })
  })

  test('may jump for a moment, be it the last one', () => {
    const points = series(180, (second) => (second % 30 === 29 ? 90 * MB : 20 * MB))
    expect(judge(points, { atLeast: 1 })).toMatchObject({ flat: true, growth: 0, perHour: 0 })
  })

  test('may shrink', () => {
    expect(
      judge(
        series(60, (second) => 100 - second),
        { atLeast: 0 },
      ).flat,
    ).toBe(true)
  })
})

describe('what leaks', () => {
  test.each([1, 2, 3])('a little every second is found below the noise, seed %i', (seed) => {
    const random = noise(seed)
    const leaking = judge(
      series(180, (second) => 20 * MB + random() * 3 * MB + second * 0.05 * MB),
      { atLeast: 2 * MB },
    )
    expect(leaking.flat).toBe(false)
    expect(leaking.perHour / MB).toBeGreaterThan(150)
    expect(leaking.perHour / MB).toBeLessThan(210)
  })

  test('one handle at long intervals is found', () => {
    const points = series(180, (second) => 31 + Math.floor(second / 20))
    expect(judge(points, { atLeast: 3 })).toMatchObject({ flat: false, first: 34, last: 38, growth: 4 })
  })

  test('is measured against a share of what there was', () => {
    const points = series(120, (second) => 100 + second / 10)
    expect(judge(points, { atLeast: 1, share: 0.02 }).flat).toBe(false)
    expect(judge(points, { atLeast: 1, share: 0.2 })).toMatchObject({ flat: true, allowed: expect.closeTo(20.8, 0) })
  })
})

test('too few samples are no proof', () => {
  expect(
    judge(
      series(14, () => 1),
      { atLeast: 1 },
    ),
  ).toMatchObject({ flat: false, tooFew: true })
  expect(
    judge(
      series(15, () => 1),
      { atLeast: 1 },
    ),
  ).toMatchObject({ flat: true, tooFew: false })
})

test('medians and slopes', () => {
  expect(median([3, 1, 2])).toBe(2)
  expect(median([4, 1, 2, 3])).toBe(2.5)
  expect(slopeOf(series(1_000, (second) => 2 * second))).toBeCloseTo(0.002)
  expect(slopeOf(series(1, () => 5))).toBe(0)
})
