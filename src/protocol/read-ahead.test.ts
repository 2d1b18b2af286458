import { createHash, randomBytes } from 'node:crypto'
import { type FileHandle, mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hashRange, ReadAhead } from './read-ahead.ts'

const SIZE = 700_001
const content = randomBytes(SIZE)
let directory: string
let handle: FileHandle

beforeAll(async () => {
  directory = await mkdtemp(path.join(os.tmpdir(), 'peerline-read-'))
  await writeFile(path.join(directory, 'a'), content)
  handle = await open(path.join(directory, 'a'))
})
afterAll(async () => {
  await handle.close()
  await rm(directory, { recursive: true })
})

test('property: any range, in pieces of any size, is read in order', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(SIZE), fc.nat(SIZE), fc.integer({ min: 3_000, max: 100_000 }), async (a, b, pieceBytes) => {
      const [start, end] = [Math.min(a, b), Math.max(a, b)]
      const pieces = new ReadAhead(handle, start, end, pieceBytes)
      const got: Buffer[] = []
      for (;;) {
        const piece = await pieces.next()
        if (piece === undefined) break
        got.push(Buffer.from(piece))
      }
      expect(Buffer.compare(Buffer.concat(got), content.subarray(start, end))).toBe(0)
    }),
    { numRuns: 40 },
  )
})

test('a file shorter than the range is an error, and no byte is made up', async () => {
  const pieces = new ReadAhead(handle, 0, SIZE + 1)
  for (let at = 0; at + 65_536 <= SIZE; at += 65_536) expect((await pieces.next())?.length).toBe(65_536)
  await expect(pieces.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
})

test('a range is hashed, and can be stopped', async () => {
  const expected = createHash('sha256').update(content.subarray(0, 300_000)).digest('hex')
  expect((await hashRange(handle, 300_000, () => {})).digest('hex')).toBe(expected)
  expect((await hashRange(handle, 0, () => {})).digest('hex')).toBe(createHash('sha256').digest('hex'))
  const stop = () => {
    throw new Error('stop')
  }
  await expect(hashRange(handle, 300_000, stop)).rejects.toThrow('stop')
})
