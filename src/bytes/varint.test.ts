import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { codeOf } from '../failure.compliance.ts'
import { fromHex, toHex } from './bytes.ts'
import { Cursor } from './cursor.ts'
import { varintSize, writeUint64, writeVarint } from './varint.ts'

const anyInteger = fc.oneof(
  fc.maxSafeNat(),
  fc.nat(),
  fc.nat(20_000),
  fc.constantFrom(0, 63, 64, 16383, 16384, 2 ** 30 - 1, 2 ** 30, 2 ** 32, Number.MAX_SAFE_INTEGER),
)

function written(value: number): Uint8Array {
  const target = new Uint8Array(varintSize(value))
  expect(writeVarint(target, 0, value)).toBe(target.length)
  return target
}

describe('variable-length integers', () => {
  // RFC 9000 appendix A.1
  it.each([
    ['9d7f3e7d', 494_878_333],
    ['7bbd', 15_293],
    ['25', 37],
  ])('reads and writes the example %s of RFC 9000', (hex, value) => {
    expect(new Cursor(fromHex(hex)).readVarint()).toBe(value)
    expect(toHex(written(value))).toBe(hex)
  })

  it('reads a longer form than needed, as RFC 9000 says', () => {
    expect(new Cursor(fromHex('4025')).readVarint()).toBe(37)
    expect(new Cursor(fromHex('c000000000000025')).readVarint()).toBe(37)
  })

  it('refuses what a number cannot hold', () => {
    expect(codeOf(() => new Cursor(fromHex('c2197c5eff14e88c')).readVarint())).toBe('ERR_PEERLINE_PROTOCOL')
    expect(codeOf(() => new Cursor(fromHex('c020000000000000')).readVarint())).toBe('ERR_PEERLINE_PROTOCOL')
    expect(new Cursor(fromHex('c01fffffffffffff')).readVarint()).toBe(Number.MAX_SAFE_INTEGER)
  })

  it.each([-1, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY])('does not write %s', (value) => {
    expect(codeOf(() => varintSize(value))).toBe('ERR_PEERLINE_INVALID')
    expect(codeOf(() => writeVarint(new Uint8Array(8), 0, value))).toBe('ERR_PEERLINE_INVALID')
    expect(codeOf(() => writeUint64(new Uint8Array(8), 0, value))).toBe('ERR_PEERLINE_INVALID')
  })

  it('does not write past the end of the target', () => {
    expect(codeOf(() => writeVarint(new Uint8Array(3), 2, 64))).toBe('ERR_PEERLINE_INVALID')
    expect(codeOf(() => writeUint64(new Uint8Array(8), 1, 1))).toBe('ERR_PEERLINE_INVALID')
  })

  it('round-trips every value at any offset and touches nothing else', () => {
    fc.assert(
      fc.property(anyInteger, fc.nat(9), (value, offset) => {
        const size = varintSize(value)
        const target = new Uint8Array(offset + size + 3).fill(0xaa)
        expect(writeVarint(target, offset, value)).toBe(offset + size)
        const cursor = new Cursor(target, offset)
        expect(cursor.readVarint()).toBe(value)
        expect(cursor.offset).toBe(offset + size)
        expect([...target.subarray(0, offset), ...target.subarray(offset + size)].every((byte) => byte === 0xaa)).toBe(
          true,
        )
      }),
      { numRuns: 500 },
    )
  })

  it('refuses every truncation', () => {
    fc.assert(
      fc.property(anyInteger, (value) => {
        const whole = written(value)
        for (let length = 0; length < whole.length; length++) {
          expect(codeOf(() => new Cursor(whole.subarray(0, length)).readVarint())).toBe('ERR_PEERLINE_PROTOCOL')
        }
      }),
      { numRuns: 200 },
    )
  })
})

describe('Cursor', () => {
  it('reads 8-byte integers up to 2^53 - 1', () => {
    fc.assert(
      fc.property(anyInteger, (value) => {
        const target = new Uint8Array(8)
        expect(writeUint64(target, 0, value)).toBe(8)
        expect(new DataView(target.buffer).getBigUint64(0)).toBe(BigInt(value))
        expect(new Cursor(target).readUint64()).toBe(value)
      }),
      { numRuns: 300 },
    )
    expect(codeOf(() => new Cursor(fromHex('0020000000000000')).readUint64())).toBe('ERR_PEERLINE_PROTOCOL')
    expect(codeOf(() => new Cursor(fromHex('ffffffffffffffff')).readUint64())).toBe('ERR_PEERLINE_PROTOCOL')
    expect(codeOf(() => new Cursor(new Uint8Array(7)).readUint64())).toBe('ERR_PEERLINE_PROTOCOL')
  })

  it('hands out views and counts what remains', () => {
    const bytes = Uint8Array.of(7, 1, 2, 3, 4)
    const cursor = new Cursor(bytes)
    expect(cursor.readUint8()).toBe(7)
    const view = cursor.readBytes(2)
    expect(view.buffer).toBe(bytes.buffer)
    expect([...view]).toEqual([1, 2])
    expect(cursor.remaining).toBe(2)
    expect([...cursor.readRest()]).toEqual([3, 4])
    expect(codeOf(() => cursor.readUint8())).toBe('ERR_PEERLINE_PROTOCOL')
  })

  it.each([3, -1, Number.NaN, 2 ** 53])('refuses to read %s bytes of two, and stays where it was', (length) => {
    const cursor = new Cursor(new Uint8Array(2))
    expect(codeOf(() => cursor.readBytes(length))).toBe('ERR_PEERLINE_PROTOCOL')
    expect(cursor.offset).toBe(0)
  })

  it('survives any reads of any bytes with typed errors only', () => {
    const read = fc.constantFrom('readUint8', 'readVarint', 'readUint64', 'readBytes')
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.array(read, { maxLength: 20 }), (bytes, reads) => {
        const cursor = new Cursor(bytes)
        for (const name of reads) {
          const code = codeOf(() => (name === 'readBytes' ? cursor.readBytes(cursor.readVarint()) : cursor[name]()))
          expect([undefined, 'ERR_PEERLINE_PROTOCOL']).toContain(code)
          expect(cursor.remaining).toBeGreaterThanOrEqual(0)
        }
      }),
      { numRuns: 500 },
    )
  })
})
