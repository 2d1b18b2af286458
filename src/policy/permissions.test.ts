import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { definePermissions } from './permissions.ts'

const NAMES = Array.from({ length: 32 }, (_, index) => `p${index}`)
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })

describe('permissions', () => {
  test('are added, removed, joined and compared', () => {
    const access = definePermissions(['read', 'write', 'admin'])
    const reader = access.of('read')
    const writer = reader.add('write')
    expect(reader.names).toEqual(['read'])
    expect(writer.names).toEqual(['read', 'write'])
    expect(writer.remove('read').names).toEqual(['write'])
    expect(reader.union(access.of('admin')).names).toEqual(['read', 'admin'])
    expect([writer.permits('write'), reader.permits('write'), writer.permits(reader), reader.permits(writer)]).toEqual([
      true,
      false,
      true,
      false,
    ])
    expect(access.none.permits(access.none)).toBe(true)
    expect(access.all.names).toEqual(['read', 'write', 'admin'])
    expect(JSON.stringify(writer)).toBe('["read","write"]')
  })

  test('do what sets do, to the last of the 32', () => {
    const kind = definePermissions(NAMES)
    const some = fc.subarray(NAMES)
    fc.assert(
      fc.property(some, some, (a, b) => {
        const [has, other] = [kind.of(...a), kind.of(...b)]
        expect(new Set(has.union(other))).toEqual(new Set([...a, ...b]))
        expect(has.remove(...b).names).toEqual(a.filter((name) => !b.includes(name)))
        expect(has.permits(other)).toBe(b.every((name) => a.includes(name)))
      }),
    )
  })

  test.each([[[]], [[...NAMES, 'one more']], [['a', 'a']], [['with space']], [['']], [['__proto__']]])(
    'cannot be defined as %j',
    (names) => {
      expect(() => definePermissions(names)).toThrow(invalid)
    },
  )

  test('of another definition, or undefined ones, are refused', () => {
    const [one, two] = [definePermissions(['read']), definePermissions(['read'])]
    expect(() => one.all.permits(two.all)).toThrow(invalid)
    expect(() => one.all.union(two.all)).toThrow(invalid)
    expect(() => one.of('write' as 'read')).toThrow(invalid)
    expect(() => one.all.permits('write' as 'read')).toThrow(invalid)
  })
})
