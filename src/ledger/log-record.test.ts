import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  CHAIN_BYTES,
  HEADER_BYTES,
  type Leaf,
  MAX_AT_MS,
  MAX_LOG_MESSAGE_BYTES,
  newHeader,
  readHeader,
  readLeaf,
  readRecord,
  writeRecord,
} from './log-record.ts'
import { hashLeaf } from './merkle.ts'
import { hashEntry } from './tree-head.ts'

const leaf = fc.record({
  at: fc.integer({ min: 1, max: MAX_AT_MS * 1_000 }).map((us) => us / 1_000),
  sequence: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
  topic: fc.string({
    unit: fc.integer({ min: 0x21, max: 0x7e }).map((c) => String.fromCharCode(c)),
    minLength: 1,
    maxLength: 100,
  }),
  message: fc.uint8Array({ maxLength: 2_000 }),
})
const hash = fc.uint8Array({ minLength: CHAIN_BYTES, maxLength: CHAIN_BYTES })
const plain = ({ message, ...rest }: Leaf) => ({ ...rest, message: new Uint8Array(message) })

describe('a record', () => {
  test('is read as it was written, and only behind the hash that it was written behind', () => {
    fc.assert(
      fc.property(leaf, hash, hash, (entry, before, other) => {
        const record = writeRecord(before, entry)
        const found = readRecord(Buffer.concat([before, record]), CHAIN_BYTES)
        if (found.kind !== 'record') return expect.unreachable(found.kind)
        expect(plain(found.leaf)).toEqual(entry)
        expect(found.end).toBe(CHAIN_BYTES + record.length)
        expect(hashLeaf(found.bytes)).toEqual(hashEntry(entry.topic, entry)) // one form for all
        if (Buffer.compare(before, other) === 0) return
        expect(readRecord(Buffer.concat([other, record]), CHAIN_BYTES).kind).toBe('wrong')
      }),
    )
  })

  test('of the largest message is one, and of a larger one is none', () => {
    const before = new Uint8Array(CHAIN_BYTES)
    const entry = { at: 1, sequence: 1, topic: 't'.repeat(100) }
    for (const [length, kind] of [
      [MAX_LOG_MESSAGE_BYTES, 'record'],
      [MAX_LOG_MESSAGE_BYTES + 1, 'wrong'],
    ] as const) {
      const record = writeRecord(before, { ...entry, message: new Uint8Array(length) })
      expect(readRecord(Buffer.concat([before, record]), CHAIN_BYTES).kind).toBe(kind)
    }
    const small = { ...entry, topic: 't', message: new Uint8Array(MAX_LOG_MESSAGE_BYTES + 1) }
    expect(readRecord(Buffer.concat([before, writeRecord(before, small)]), CHAIN_BYTES).kind).toBe('wrong')
  })

  test.each([
    ['no topic', { topic: '' }],
    ['a topic that is too long', { topic: 'x'.repeat(101) }],
    ['a topic that cannot be printed', { topic: 'a\x7f' }],
    ['a time past 2109', { at: MAX_AT_MS + 1 }],
    ['the sequence 0', { sequence: 0 }],
  ])('with %s holds no entry', (_, change) => {
    const before = new Uint8Array(CHAIN_BYTES)
    const record = writeRecord(before, { at: 1, sequence: 1, topic: 't', message: new Uint8Array(3), ...change })
    expect(readRecord(Buffer.concat([before, record]), CHAIN_BYTES)).toMatchObject({ kind: 'wrong' })
  })
})

describe('any bytes', () => {
  test('are read as a record, a header or a leaf, or not', () => {
    const start = fc.constantFrom(
      new Uint8Array(),
      newHeader(),
      writeRecord(new Uint8Array(32), { at: 1, sequence: 1, topic: 't', message: new Uint8Array(9) }),
    )
    const some = fc.tuple(start, fc.nat(120), fc.uint8Array({ maxLength: 200 }))
    fc.assert(
      fc.property(some, ([first, cut, rest]) => {
        const bytes = Buffer.concat([first.subarray(0, cut), rest])
        expect(['record', 'cut', 'wrong']).toContain(readRecord(Buffer.concat([Buffer.alloc(32), bytes]), 32).kind)
        const header = readHeader(bytes)
        expect(header === 'cut' || 'wrong' in header || header.id.length === 32).toBe(true)
        const read = readLeaf(bytes)
        if (read !== undefined) expect(read.topic).toMatch(/^[\x21-\x7e]{1,100}$/)
      }),
      { numRuns: 2_000 },
    )
  })
})

test('two headers are not the same, and one says when it was made', () => {
  const [a, b] = [newHeader(), newHeader()]
  expect(a).toHaveLength(HEADER_BYTES)
  expect(a.equals(b)).toBe(false)
  const header = readHeader(a)
  expect(header).toEqual({ id: expect.any(Uint8Array), createdAt: expect.any(Number) })
  if (typeof header === 'object' && 'createdAt' in header)
    expect(Math.abs(header.createdAt - Date.now())).toBeLessThan(5_000)
})
