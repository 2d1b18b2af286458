import { expect, test } from 'vitest'
import { discard } from './discard.ts'

test('a large chunk with its memory to itself is freed at once', () => {
  const chunk = Buffer.allocUnsafeSlow(65_536)
  discard(chunk)
  expect(chunk.length).toBe(0)
})

test('a small chunk, and a piece of somebody else’s memory, stay as they are', () => {
  const small = Buffer.allocUnsafeSlow(1_000)
  const shared = Buffer.allocUnsafeSlow(200_000)
  discard(small)
  discard(shared.subarray(0, 65_536))
  expect([small.length, shared.length]).toEqual([1_000, 200_000])
})
