import fc from 'fast-check'
import { expect, test } from 'vitest'
import { concatBytes } from '../bytes/index.ts'
import { Collector } from './collector.ts'

const chunks = fc.array(fc.uint8Array({ minLength: 1, maxLength: 300 }), { maxLength: 40 })

test('what went in comes out, whole', () => {
  fc.assert(
    fc.property(chunks, (parts) => {
      const collector = new Collector(100_000)
      for (const part of parts) expect(collector.add(part)).toBe(true)
      expect([...collector.take()]).toEqual([...concatBytes(parts)])
    }),
    { numRuns: 100 },
  )
})

test('the limit is exact, and what would pass it is not taken', () => {
  fc.assert(
    fc.property(chunks, fc.nat(3_000), (parts, max) => {
      const collector = new Collector(max)
      let taken = 0
      for (const part of parts) {
        const fits = taken + part.length <= max
        expect(collector.add(part)).toBe(fits)
        if (fits) taken += part.length
      }
      expect(collector.take().length).toBe(taken)
    }),
    { numRuns: 100 },
  )
})

test('a chunk that was given is never written to', () => {
  const first = Buffer.alloc(10, 1)
  const view = first.subarray(0, 5)
  const collector = new Collector(100)
  collector.add(view)
  collector.add(new Uint8Array([9, 9]))
  collector.take()
  expect([...first]).toEqual(new Array(10).fill(1))
})

test('a body in chunks of one byte costs at most twice its limit', () => {
  const collector = new Collector(65_536)
  const one = new Uint8Array(1)
  for (let i = 0; i < 65_536; i++) collector.add(one)
  expect(collector.add(one)).toBe(false)
  expect(collector.take().buffer.byteLength).toBeLessThanOrEqual(131_072)
})

test('what has come so far can be looked at', () => {
  const collector = new Collector(100)
  expect([collector.first, collector.length]).toEqual([undefined, 0])
  collector.add(new Uint8Array([7, 8]))
  collector.add(new Uint8Array([9]))
  expect([collector.first, collector.length, [...collector.peek()]]).toEqual([7, 3, [7, 8, 9]])
  expect([...collector.take()]).toEqual([7, 8, 9])
})
