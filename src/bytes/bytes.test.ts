import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { concatBytes, equalBytes, fromHex, toHex } from './bytes.ts'

describe('byte helpers', () => {
  it('concatenates like a list does', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array()), (parts) => {
        expect([...concatBytes(parts)]).toEqual(parts.flatMap((part) => [...part]))
      }),
    )
  })

  it('compares content, whatever array it stands in', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1 }), fc.nat(), fc.integer({ min: 1, max: 255 }), (bytes, at, flip) => {
        expect(equalBytes(bytes, Buffer.from(bytes))).toBe(true)
        const other = bytes.slice()
        other[at % other.length]! ^= flip
        expect(equalBytes(bytes, other)).toBe(false)
        expect(equalBytes(bytes, bytes.subarray(1))).toBe(false)
      }),
    )
  })

  it('round-trips hexadecimal in either case', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(fromHex(toHex(bytes))).toEqual(bytes)
        expect(fromHex(toHex(bytes).toUpperCase())).toEqual(bytes)
      }),
    )
  })

  it.each(['0', 'zz', '0x00', '00 ', ' 00', '0g'])('refuses %j as hexadecimal, without quoting it', (text) => {
    let caught: unknown
    try {
      fromHex(text)
    } catch (error) {
      caught = error
    }
    expect(caught).toMatchObject({ code: 'ERR_PEERLINE_INVALID', message: 'The text is not hexadecimal' })
    expect((caught as Error).cause).toBeUndefined()
  })
})
