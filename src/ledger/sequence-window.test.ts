import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { PeerId } from '../identity/index.ts'
import { SeenSequences, WINDOW } from './sequence-window.ts'

const [a, b, c] = ['a', 'b', 'c'] as unknown as [PeerId, PeerId, PeerId]

describe('the sequences seen', () => {
  test.each([
    ['the first, whatever it is', [], 1_000, true],
    ['0', [], 0, true],
    ['one above', [5], 6, true],
    ['one far above', [5], 2 ** 50, true],
    ['the same', [5], 5, false],
    ['the last of the window', [100], 100 - WINDOW + 1, true],
    ['one before the window', [100], 100 - WINDOW, false],
    ['a late one', [5, 7], 6, true],
    ['a late one again', [5, 7, 6], 6, false],
    ['one that a jump has put out of the window', [5, 5 + WINDOW], 5, false],
    ['one that a jump has left in it', [5, 6, 4 + WINDOW], 5, false],
    ['its neighbour, never seen', [5, 4 + WINDOW], 6, true],
  ])('%s', (_, before, sequence, isNew) => {
    const seen = new SeenSequences(10)
    for (const one of before) seen.add(a, one)
    expect(seen.isNew(a, sequence)).toBe(isNew)
  })

  test('are those of each sender alone', () => {
    const seen = new SeenSequences(10)
    seen.add(a, 5)
    expect(seen.isNew(b, 5)).toBe(true)
  })

  test('forget the sender heard longest ago, and no other', () => {
    const seen = new SeenSequences(2)
    seen.add(a, 1)
    seen.add(b, 1)
    seen.add(a, 2)
    seen.add(c, 1)
    expect(seen.size).toBe(2)
    expect([a, b, c].map((sender) => seen.isNew(sender, 1))).toEqual([false, true, false])
  })

  test('are as a set and the highest would have them', () => {
    const step = fc.oneof(fc.integer({ min: -80, max: 80 }), fc.constantFrom(0, -1, 1, 63, 64, -63, -64, 2 ** 40))
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const seen = new SeenSequences(1)
        const all = new Set<number>()
        let [at, highest] = [10_000, -1]
        for (const step of steps) {
          at = Math.max(0, at + step)
          const isNew = !all.has(at) && at > highest - WINDOW
          expect(seen.isNew(a, at)).toBe(isNew)
          if (!isNew) continue
          seen.add(a, at)
          all.add(at)
          highest = Math.max(highest, at)
        }
      }),
    )
  })
})
