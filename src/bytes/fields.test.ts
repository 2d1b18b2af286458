import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { fields } from './fields.ts'

const f = fields(
  {
    name: 'ada',
    id: Uint8Array.of(1, 2),
    size: 7,
    on: true,
    list: [1, 'a'],
    texts: ['a', 'bb'],
    nothing: null,
    in: { x: 1 },
  },
  'offer',
)

describe('fields', () => {
  it('reads what fits', () => {
    expect(f.text('name', { max: 3 })).toBe('ada')
    expect(f.bytes('id', { length: 2 })).toEqual(Uint8Array.of(1, 2))
    expect(f.bytes('id', { max: 2 })).toEqual(Uint8Array.of(1, 2))
    expect(f.integer('size')).toBe(7)
    expect(f.boolean('on')).toBe(true)
    expect(f.list('list', { max: 2 })).toEqual([1, 'a'])
    expect(f.texts('texts', { max: 2, maxLength: 2 })).toEqual(['a', 'bb'])
    expect(f.oneOf('name', ['bob', 'ada'])).toBe('ada')
    expect(f.map('in').integer('x')).toBe(1)
  })

  it.each<[string, () => unknown]>([
    ['name', () => f.text('name', { max: 2 })],
    ['name', () => f.text('name', { min: 4, max: 9 })],
    ['size', () => f.text('size', { max: 9 })],
    ['id', () => f.bytes('id', { length: 3 })],
    ['id', () => f.bytes('id', { max: 1 })],
    ['name', () => f.bytes('name', { max: 9 })],
    ['size', () => f.integer('size', { min: 8 })],
    ['size', () => f.integer('size', { max: 6 })],
    ['name', () => f.integer('name')],
    ['size', () => f.boolean('size')],
    ['list', () => f.list('list', { max: 1 })],
    ['name', () => f.list('name', { max: 9 })],
    ['list', () => f.texts('list', { max: 9, maxLength: 9 })],
    ['texts', () => f.texts('texts', { max: 9, maxLength: 1 })],
    ['name', () => f.oneOf('name', ['bob'])],
    ['list', () => f.map('list')],
    ['absent', () => f.integer('absent')],
    ['nothing', () => f.text('nothing', { max: 9 })],
    ['constructor', () => f.map('constructor')],
    ['__proto__', () => f.map('__proto__')],
  ])('names %s when it does not fit', (name, read) => {
    const message = expect.stringContaining(`${name} of the offer`)
    expect(read).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL', message }))
  })

  it('takes absent and null optional fields as undefined, and still checks those that are there', () => {
    expect(f.optional('absent', (at) => f.integer(at))).toBeUndefined()
    expect(f.optional('nothing', (at) => f.integer(at))).toBeUndefined()
    expect(f.optional('size', (at) => f.integer(at))).toBe(7)
    expect(() => f.optional('name', (at) => f.integer(at))).toThrow(PeerlineError)
    expect([f.has('size'), f.has('nothing'), f.has('toString')]).toEqual([true, false, false])
  })

  it('fails with typed errors only, whatever the value', () => {
    fc.assert(
      fc.property(fc.anything(), fc.string(), (value, name) => {
        try {
          expect(Number.isSafeInteger(fields(value).integer(name))).toBe(true)
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(error.code).toBe('ERR_PEERLINE_PROTOCOL')
        }
      }),
    )
  })
})
