import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { failureOf } from '../failure.compliance.ts'
import { fromHex, toHex } from './bytes.ts'
import { decodeCbor, encodeCbor } from './cbor.ts'

const LIMITS = { maxBytes: 1 << 20 }

/** Values that the format has, as deep as it may be. */
const anyValue = fc.letrec((tie) => ({
  value: fc.oneof(
    { maxDepth: 7, depthSize: 'small' },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.integer({ min: -300, max: 70_000 }),
    fc.string({ unit: 'grapheme', maxLength: 40 }),
    fc.uint8Array({ maxLength: 40 }),
    fc.array(tie('value'), { maxLength: 5 }),
    fc.dictionary(fc.string({ unit: 'grapheme' }), tie('value'), { maxKeys: 6, noNullPrototype: true }),
  ),
})).value

const failure = (bytes: Uint8Array, limits: Parameters<typeof decodeCbor>[1] = LIMITS) =>
  failureOf(() => decodeCbor(bytes, limits))

describe('encodeCbor', () => {
  // RFC 8949 appendix A
  it.each([
    [0, '00'],
    [24, '1818'],
    [1000, '1903e8'],
    [1_000_000_000_000, '1b000000e8d4a51000'],
    [-1, '20'],
    [-1000, '3903e7'],
    [false, 'f4'],
    [null, 'f6'],
    [Uint8Array.of(1, 2, 3, 4), '4401020304'],
    ['ü', '62c3bc'],
    [[1, [2, 3], [4, 5]], '8301820203820405'],
    [{ a: 'A', b: 'B', c: 'C', d: 'D', e: 'E' }, 'a56161614161626142616361436164614461656145'],
    [-0, '00'],
  ])('writes %j as %s', (value, hex) => {
    expect(toHex(encodeCbor(value))).toBe(hex)
  })

  it('orders keys bytewise by their encoding (RFC 8949 section 4.2.1) and leaves out what is undefined', () => {
    expect(toHex(encodeCbor({ aa: 1, b: 2, a: 3, x: undefined }))).toBe('a3' + '616103' + '616202' + '62616101')
  })

  it.each([
    [1.5],
    [Number.NaN],
    [Number.POSITIVE_INFINITY],
    [2 ** 53],
    [1n],
    [undefined],
    [[undefined]],
    [new Map([[1, 2]])],
    [new Date(0)],
    [() => 1],
    [Symbol('x')],
    ['\ud800'],
    [{ '\udfff': 1 }],
  ])('refuses %s', (value) => {
    expect(() => encodeCbor(value)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  it('refuses a value that holds itself', () => {
    const value: unknown[] = []
    value.push(value)
    expect(() => encodeCbor(value)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    expect(toHex(encodeCbor(1))).toBe('01') // and nothing of it is left for the next
  })
})

describe('decodeCbor', () => {
  it.each([
    ['9f01ff', 'a list of indefinite length'],
    ['bf616101ff', 'a map of indefinite length'],
    ['7f6161ff', 'text of indefinite length'],
    ['5f4101ff', 'bytes of indefinite length'],
    ['ff', 'a stray break'],
    ['f7', 'undefined'],
    ['f97e00', 'NaN'],
    ['f97c00', 'Infinity'],
    ['fb3ff8000000000000', 'floating point'],
    ['f0', 'an unassigned simple value'],
    ['f820', 'a simple value in two bytes'],
    ['1817', 'an integer in more bytes than needed'],
    ['1900ff', 'an integer in more bytes than needed'],
    ['5801aa', 'a length in more bytes than needed'],
    ['780161', 'a text length in more bytes than needed'],
    ['980101', 'a list length in more bytes than needed'],
    ['1b0020000000000000', 'an integer above 2^53 - 1'],
    ['3b001fffffffffffff', 'an integer below -(2^53 - 1)'],
    ['c24101', 'a big number'],
    ['c11a514b67b0', 'a date tag'],
    ['d81800', 'a tag'],
    ['a10102', 'a key that is an integer'],
    ['a1410102', 'a key that is bytes'],
    ['a1800102', 'a key that is a list'],
    ['a1a00102', 'a key that is a map'],
    ['a1f602', 'a key that is null'],
    ['a2616101616102', 'a key twice'],
    ['a2616201616102', 'keys out of order'],
    ['a262616101616202', 'keys out of order by length'],
    ['0000', 'bytes after the value'],
    ['', 'nothing'],
    ['61', 'text cut off'],
    ['8201', 'a list cut off'],
    ['a16161', 'a map cut off'],
    ['9b7fffffffffffffff', 'a list of 2^63 - 1'],
    ['9affffffff01', 'a list of 2^32 - 1'],
    ['baffffffff', 'a map of 2^32 - 1'],
    ['5affffffff00', 'bytes of 2^32 - 1'],
    ['61ff', 'text that is not UTF-8'],
    ['62c328', 'text that is not UTF-8'],
    ['63eda080', 'text with a surrogate'],
    ['1c', 'a reserved additional value'],
  ])('refuses %s: %s', (hex) => {
    expect(failure(fromHex(hex))?.code).toBe('ERR_PEERLINE_PROTOCOL')
  })

  it('checks the size before anything else', () => {
    expect(failure(new Uint8Array(11).fill(0xff), { maxBytes: 10 })?.code).toBe('ERR_PEERLINE_TOO_LARGE')
    expect(failure(encodeCbor('123456789'), { maxBytes: 10 })).toBeUndefined()
  })

  it.each([0x81, 0x9f, 0xc1, 0xa1])('meets 64 KiB of nesting (0x%x) with a typed error', (byte) => {
    expect(failure(new Uint8Array(65_536).fill(byte), LIMITS)?.code).toBe('ERR_PEERLINE_PROTOCOL')
    const maps = new Uint8Array(65_536).map((_, i) => [0xa1, 0x61, 0x61][i % 3]!)
    expect(failure(maps)?.message).toContain('nested deeper than 8')
  })

  it('counts lists and maps in each other, empty ones too, and not those beside each other', () => {
    expect(failure(fromHex('8180'), { ...LIMITS, maxDepth: 1 })?.code).toBe('ERR_PEERLINE_PROTOCOL')
    expect(failure(fromHex('8180'), { ...LIMITS, maxDepth: 2 })).toBeUndefined()
    expect(failure(fromHex('838180818081a0'), { ...LIMITS, maxDepth: 3 })).toBeUndefined()
    expect(failure(fromHex('80'), { ...LIMITS, maxDepth: 0 })?.code).toBe('ERR_PEERLINE_PROTOCOL')
    expect(failure(fromHex('8181818181818180'))).toBeUndefined()
    expect(failure(fromHex('818181818181818180'))?.code).toBe('ERR_PEERLINE_PROTOCOL')
  })

  it('keeps __proto__ an ordinary key', () => {
    const bytes = encodeCbor(JSON.parse('{"__proto__":{"polluted":true},"constructor":1}'))
    const value = decodeCbor(bytes, LIMITS) as Record<string, unknown>
    expect(Object.getPrototypeOf(value)).toBe(Object.prototype)
    expect(Object.keys(value)).toEqual(['__proto__', 'constructor'])
    expect(value.polluted).toBeUndefined()
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })

  it('keeps a byte order mark: it is part of the text', () => {
    expect(decodeCbor(encodeCbor('\ufeffa'), LIMITS)).toBe('\ufeffa')
    expect(decodeCbor(encodeCbor('\ufffd'), LIMITS)).toBe('\ufffd')
  })

  it('gives back plain bytes that outlive the message, also from a Buffer', () => {
    const message = Buffer.from(encodeCbor([Uint8Array.of(1, 2, 3)]))
    const [bytes] = decodeCbor(message, LIMITS) as [Uint8Array]
    message.fill(0)
    expect(bytes).toEqual(Uint8Array.of(1, 2, 3))
    expect(Buffer.isBuffer(bytes)).toBe(false)
  })

  it('round-trips every value', () => {
    fc.assert(
      fc.property(anyValue, (value) => {
        expect(decodeCbor(encodeCbor(value), LIMITS)).toEqual(value)
      }),
      { numRuns: 300 },
    )
  })

  it('accepts one encoding for each value, and fails with typed errors only', () => {
    const edits = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 })
    const mutated = fc.tuple(anyValue, edits, fc.nat(4)).map(([value, changes, cut]) => {
      const bytes = encodeCbor(value).slice()
      for (const [at, byte] of changes) bytes[at % bytes.length] = byte
      return bytes.subarray(0, bytes.length - cut)
    })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 64 }), mutated), (bytes) => {
        const error = failure(bytes)
        if (error === undefined) expect(toHex(encodeCbor(decodeCbor(bytes, LIMITS)))).toBe(toHex(bytes))
        else expect(error.code).toBe('ERR_PEERLINE_PROTOCOL')
      }),
      { numRuns: 2000 },
    )
  })
})
