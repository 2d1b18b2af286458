import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hostileJson } from '../discovery/hostile-json.compliance.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import { Identifier, type IdentifierPolicy } from './identifier-policy.ts'

const AUTHORITY = Identity.generate().peerId
const STRANGER = Identity.generate().peerId
const denied = expect.objectContaining({ code: 'ERR_PEERLINE_DENIED' })
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
const authorities = { has: (peer: string) => peer === AUTHORITY }
const made = (policy?: IdentifierPolicy) => new Identifier({ authorities, ...(policy === undefined ? {} : { policy }) })

const TABLE: readonly (readonly [IdentifierPolicy, { local: boolean; remote: boolean; locks: boolean }])[] = [
  ['strict-local', { local: true, remote: false, locks: true }],
  ['local', { local: true, remote: false, locks: false }],
  ['local-and-remote', { local: true, remote: true, locks: false }],
  ['remote', { local: false, remote: true, locks: false }],
  ['strict-remote', { local: false, remote: true, locks: true }],
]

describe.each(TABLE)('%s', (policy, { local, remote, locks }) => {
  test.each([
    ['its owner', 'local', local],
    ['an authority', AUTHORITY, remote],
    ['a peer that is none', STRANGER, false],
  ] as const)('is set by %s as it says', (_, by, may) => {
    const identifier = made(policy)
    if (may) {
      identifier.set('kitchen', by)
      expect([identifier.name, identifier.by, identifier.locked]).toEqual(['kitchen', by, locks])
    } else {
      expect(() => identifier.set('kitchen', by)).toThrow(denied)
      expect([identifier.name, identifier.by, identifier.locked]).toEqual([undefined, undefined, false])
    }
  })

  test(locks ? 'locks at the first name, itself as well' : 'locks nothing', () => {
    const identifier = made(policy)
    const by = local ? 'local' : AUTHORITY
    identifier.set('kitchen', by)
    if (!locks) {
      identifier.set('cellar', by)
      identifier.setPolicy('local')
      expect([identifier.name, identifier.policy]).toEqual(['cellar', 'local'])
      return
    }
    for (const again of ['cellar', 'kitchen']) expect(() => identifier.set(again, by)).toThrow(denied)
    for (const [other] of TABLE) expect(() => identifier.setPolicy(other)).toThrow(denied)
    expect([identifier.name, identifier.policy]).toEqual(['kitchen', policy])
  })

  test('is after a restart as it was', () => {
    const before = made(policy)
    const by = local ? 'local' : AUTHORITY
    before.set('kitchen', by)
    const saved = JSON.parse(JSON.stringify(before.export()))
    for (const [option] of TABLE) {
      const after = made(option)
      after.load(saved)
      // an option of the next start does not undo a lock
      const expected = ['kitchen', by, locks, locks ? policy : option]
      expect([after.name, after.by, after.locked, after.policy]).toEqual(expected)
      if (locks) expect(() => after.set('cellar', by)).toThrow(denied)
      if (locks) expect(() => after.setPolicy('local')).toThrow(denied)
    }
  })
})

describe('a name', () => {
  test('is set by both by default, and by no authority where nobody is one', () => {
    expect(made().policy).toBe('local-and-remote')
    expect(() => new Identifier().set('kitchen', AUTHORITY)).toThrow(denied)
  })

  test('is one line that can be seen, and no peer id', () => {
    const identifier = made('strict-local')
    for (const wrong of ['', ' a', 'a ', 'a\nb', '\u202eabc', 'x'.repeat(65), '\ud800', STRANGER, toDidKey(STRANGER)]) {
      expect(() => identifier.set(wrong, 'local'), JSON.stringify(wrong)).toThrow(invalid)
    }
    for (const wrong of [undefined, null, 7, {}]) expect(() => identifier.set(wrong as never, 'local')).toThrow(invalid)
    expect(identifier.locked).toBe(false) // what was refused locks nothing
    identifier.set('x'.repeat(64), 'local')
  })

  test('is not set by who is nobody', () => {
    for (const by of ['', 'Local', 'remote', undefined]) {
      expect(() => made().set('kitchen', by as never)).toThrow(invalid)
    }
  })

  test('is told of when it changes, and only then', () => {
    const identifier = made()
    const told: unknown[] = []
    identifier.addEventListener('change', ({ detail }) => told.push(detail))
    identifier.set('kitchen', 'local')
    identifier.set('kitchen', 'local')
    identifier.setPolicy('strict-remote')
    identifier.setPolicy('strict-remote')
    expect(() => identifier.set('cellar', 'local')).toThrow(denied)
    identifier.set('cellar', AUTHORITY)
    expect(told).toEqual([
      { name: 'kitchen', policy: 'local-and-remote', locked: false },
      { name: 'kitchen', policy: 'strict-remote', locked: false },
      { name: 'cellar', policy: 'strict-remote', locked: true },
    ])
  })

  test('has a policy that is one of five', () => {
    expect(() => new Identifier({ policy: 'strict' as never })).toThrow(invalid)
    expect(() => made().setPolicy('toString' as never)).toThrow(invalid)
  })

  test('that is locked is not replaced by what is loaded', () => {
    const identifier = made('strict-local')
    identifier.set('kitchen', 'local')
    const own = identifier.export()
    expect(() => identifier.load({ ...own, name: 'cellar' })).toThrow(denied)
    expect(() => identifier.load({ version: 1, policy: 'local', locked: false })).toThrow(denied)
    identifier.load(own)
    expect(identifier.export()).toEqual(own)
  })

  test.each([
    ['nobody set', { version: 1, policy: 'local', name: 'kitchen', locked: false }],
    ['nothing was set to', { version: 1, policy: 'local', by: 'local', locked: false }],
    ['a policy locks that does not', { version: 1, policy: 'local', name: 'kitchen', by: 'local', locked: true }],
    ['is locked and not there', { version: 1, policy: 'strict-local', locked: true }],
    ['was locked by the wrong side', { version: 1, policy: 'strict-remote', name: 'k', by: 'local', locked: true }],
    ['is of a later version', { version: 2, policy: 'local', locked: false }],
  ])('that %s is not loaded', (_, json) => {
    const identifier = made()
    expect(() => identifier.load(json)).toThrow(invalid)
    expect(identifier.name).toBeUndefined()
  })

  test('comes whole of a file, or not at all', () => {
    const valid = { version: 1, policy: 'strict-remote', name: 'kitchen', by: AUTHORITY, locked: true }
    fc.assert(
      fc.property(hostileJson(valid), (json) => {
        const identifier = made()
        const before = identifier.export()
        try {
          identifier.load(json)
        } catch (error) {
          expect(error).toEqual(invalid)
          expect(identifier.export()).toEqual(before)
          return
        }
        made().load(identifier.export()) // what was taken is valid
      }),
    )
  })
})
