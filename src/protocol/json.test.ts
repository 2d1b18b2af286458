import fc from 'fast-check'
import { expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { decodeJson, encodeJson } from './json.ts'

const bytes = (text: string) => new TextEncoder().encode(text)
const refused = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })

test('property: what can be written is read as it was', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 6 }), (value) => {
      const text = JSON.stringify(value)
      if (text.includes('__proto__')) return
      expect(decodeJson(encodeJson(value))).toEqual(JSON.parse(text))
    }),
    { numRuns: 300 },
  )
  expect(decodeJson(encodeJson(undefined))).toBeUndefined()
})

test('property: whatever comes is a value or a typed error', () => {
  const piece = fc.constantFrom('{', '}', '[', ']', '"', '\\', ',', ':', '1', 'null', ' ', '"a"', '\u00e9')
  const texts = fc.array(piece, { maxLength: 60 }).map((pieces) => bytes(pieces.join('')))
  fc.assert(
    fc.property(fc.oneof(texts, fc.uint8Array({ maxLength: 100 })), (body) => {
      try {
        decodeJson(body)
      } catch (error) {
        expect(isPeerlineError(error)).toBe(true)
      }
    }),
    { numRuns: 500 },
  )
})

test('depth and number of values are bounded, in texts they do not count', () => {
  const nested = (depth: number) => bytes('['.repeat(depth) + ']'.repeat(depth))
  expect(() => decodeJson(nested(32))).not.toThrow()
  expect(() => decodeJson(nested(33))).toThrow(refused)
  expect(() => decodeJson(nested(500_000))).toThrow(refused)
  const list = (count: number) => bytes(`[${Array(count).fill('[]').join(',')}]`)
  expect(() => decodeJson(list(30_000))).not.toThrow()
  expect(() => decodeJson(list(40_000))).toThrow(refused)
  const text = '[{,:"\\'.repeat(50_000)
  expect(decodeJson(encodeJson(text))).toBe(text)
})

test('a key __proto__, a byte order mark, and bytes that are no text are refused', () => {
  for (const text of ['{"__proto__":1}', '[{"a":{"\\u005f_proto__":{}}}]', '\ufeff1', '1 2', '{a:1}', "'a'"]) {
    expect(() => decodeJson(bytes(text)), text).toThrow(refused)
  }
  expect(() => decodeJson(Uint8Array.of(0x22, 0xff, 0x22))).toThrow(refused)
})
