import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { fromHex } from './bytes.ts'
import { decodeZbase32, encodeZbase32 } from './zbase32.ts'

describe('z-base-32', () => {
  // whole bytes of the examples in the z-base-32 specification
  it.each([
    ['', ''],
    ['f0bfc7', '6n9hq'],
    ['d47a04', '4t7ye'],
    ['ff', '9h'],
    ['0000000000', 'yyyyyyyy'],
  ])('writes %s as %s and reads it back', (hex, text) => {
    expect(encodeZbase32(fromHex(hex))).toBe(text)
    expect(decodeZbase32(text)).toEqual(fromHex(hex))
  })

  it.each(['6N9HQ', 'v', 'l', '2', '6n9h q', 'y', 'yyy', 'yb', '9h=', 'ü', '😀'])('refuses %j', (text) => {
    expect(() => decodeZbase32(text)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  it('round-trips any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        expect(decodeZbase32(encodeZbase32(bytes))).toEqual(bytes)
      }),
    )
  })

  it('reads no two texts as the same bytes, and fails with typed errors only', () => {
    const letters = fc.constantFrom(...'ybndrfg8ejkmcpqxot1uwisza345h769', 'v', 'Y', '-')
    const text = fc.oneof(fc.string(), fc.string({ unit: letters, maxLength: 20 }))
    fc.assert(
      fc.property(text, (candidate) => {
        try {
          expect(encodeZbase32(decodeZbase32(candidate))).toBe(candidate)
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(error.code).toBe('ERR_PEERLINE_INVALID')
        }
      }),
      { numRuns: 1000 },
    )
  })
})
