import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hostileJson } from '../discovery/hostile-json.compliance.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import { type BootstrapOptions, BootstrapPolicy } from './bootstrap-policy.ts'

const ALICE = Identity.generate().peerId
const BOB = Identity.generate().peerId
const denied = expect.objectContaining({ code: 'ERR_PEERLINE_DENIED' })
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })

const FLAGS = ['trustless', 'authority', 'mustBeAuthority', 'firstSingleLockingAuthority'] as const
const flag = fc.option(fc.boolean(), { nil: undefined })
const anyOptions = fc.record({
  trustless: flag,
  authority: flag,
  mustBeAuthority: flag,
  firstSingleLockingAuthority: flag,
})

describe('the flags', () => {
  test.each<[BootstrapOptions, [boolean, boolean, boolean, boolean]]>([
    [{}, [true, false, false, false]],
    [{ authority: true }, [true, true, false, false]],
    [{ mustBeAuthority: true }, [false, true, true, false]],
    [{ trustless: false, authority: true }, [false, true, true, false]],
    [{ firstSingleLockingAuthority: true }, [false, true, true, true]],
    [{ firstSingleLockingAuthority: true, authority: true, trustless: false }, [false, true, true, true]],
    [{ mustBeAuthority: false, authority: true }, [true, true, false, false]],
  ])('%j imply the others', (options, expected) => {
    const { flags } = new BootstrapPolicy(options)
    expect(FLAGS.map((name) => flags[name])).toEqual(expected)
    expect(Object.isFrozen(flags)).toBe(true)
  })

  test.each<[BootstrapOptions, keyof BootstrapOptions, keyof BootstrapOptions]>([
    [{ mustBeAuthority: true, trustless: true }, 'mustBeAuthority', 'trustless'],
    [{ mustBeAuthority: true, authority: false }, 'mustBeAuthority', 'authority'],
    [{ firstSingleLockingAuthority: true, mustBeAuthority: false }, 'firstSingleLockingAuthority', 'mustBeAuthority'],
    [{ firstSingleLockingAuthority: true, authority: false }, 'firstSingleLockingAuthority', 'authority'],
    [{ firstSingleLockingAuthority: true, trustless: true }, 'firstSingleLockingAuthority', 'trustless'],
    [{ trustless: false }, 'trustless', 'authority'],
    [{ trustless: false, authority: false }, 'trustless', 'authority'],
    [{ trustless: false, authority: true, mustBeAuthority: false }, 'mustBeAuthority', 'trustless'],
  ])('%j contradict each other, and both are named', (options, one, other) => {
    expect(() => new BootstrapPolicy(options)).toThrow(invalid)
    expect(() => new BootstrapPolicy(options)).toThrow(new RegExp(`${one}.*${other}`))
  })

  test('are as given, consistent and obeyed, or refused', () => {
    fc.assert(
      fc.property(anyOptions, (options) => {
        let policy: BootstrapPolicy
        try {
          policy = new BootstrapPolicy(options as BootstrapOptions)
        } catch (error) {
          return isPeerlineError(error) && error.code === 'ERR_PEERLINE_INVALID'
        }
        const { flags } = policy
        for (const name of FLAGS) if (options[name] !== undefined) expect(flags[name]).toBe(options[name])
        expect(flags.trustless || flags.authority).toBe(true)
        expect(flags.mustBeAuthority).toBe(!flags.trustless)
        if (flags.firstSingleLockingAuthority) expect(flags.mustBeAuthority).toBe(true)
        // consulted whenever a node is opened
        for (const role of ['trustless', 'authority'] as const) {
          expect(policy.admits(ALICE, role)).toBe(flags[role])
          if (flags[role]) policy.open(ALICE, role)
          else expect(() => policy.open(ALICE, role)).toThrow(denied)
        }
        return true
      }),
    )
  })

  test('are true or false, and known', () => {
    for (const options of [{ authority: 1 }, { trustless: null }, { mustBeAuthorty: true }]) {
      expect(() => new BootstrapPolicy(options as never)).toThrow(invalid)
    }
  })
})

describe('the first single authority', () => {
  const first = () => new BootstrapPolicy({ firstSingleLockingAuthority: true })

  test('is the only one from then on, and may come again', () => {
    const policy = first()
    const locked: string[] = []
    policy.addEventListener('locked', ({ detail: { peer } }) => locked.push(peer))
    expect([policy.admits(ALICE, 'authority'), policy.admits(BOB, 'authority'), policy.locked]).toEqual([
      true,
      true,
      undefined,
    ])
    policy.open(toDidKey(ALICE) as never, 'authority')
    policy.open(ALICE, 'authority')
    expect(() => policy.open(BOB, 'authority')).toThrow(denied)
    // the one that is locked cannot be used as less than it is, either
    expect(() => policy.open(ALICE, 'trustless')).toThrow(denied)
    expect([locked, policy.locked, policy.admits(BOB, 'authority')]).toEqual([[ALICE], ALICE, false])
  })

  test('is not locked by one that is no peer, or by asking', () => {
    const policy = first()
    expect(() => policy.open('nobody' as never, 'authority')).toThrow(invalid)
    expect(() => policy.open(ALICE, 'owner' as never)).toThrow(invalid)
    policy.admits(ALICE, 'authority')
    expect(policy.locked).toBeUndefined()
  })

  test('is still the only one after a restart', () => {
    const before = first()
    expect(before.export()).toEqual({ version: 1 })
    before.open(ALICE, 'authority')
    const after = first()
    after.load(JSON.parse(JSON.stringify(before.export())))
    expect(() => after.open(BOB, 'authority')).toThrow(denied)
    after.open(ALICE, 'authority')
    // a lock that comes too late does not replace the one there is
    const late = first()
    late.open(BOB, 'authority')
    expect(() => late.load(before.export())).toThrow(invalid)
    expect(late.locked).toBe(BOB)
    late.load({ version: 1 })
    expect(late.locked).toBe(BOB)
  })

  test('stays locked while the flags ask for none, and binds nobody then', () => {
    const open = new BootstrapPolicy({ authority: true })
    open.load({ version: 1, locked: ALICE })
    open.open(BOB, 'authority')
    expect(open.export()).toEqual({ version: 1, locked: ALICE })
  })

  test('is of one policy: another knows nothing of it', () => {
    const [one, two] = [first(), first()]
    one.open(ALICE, 'authority')
    two.open(BOB, 'authority')
    expect([one.locked, two.locked]).toEqual([ALICE, BOB])
  })

  test('does not come of a damaged file', () => {
    fc.assert(
      fc.property(hostileJson({ version: 1, locked: ALICE }), (json) => {
        const policy = first()
        try {
          policy.load(json)
        } catch (error) {
          expect(error).toEqual(invalid)
          expect(policy.locked).toBeUndefined()
          return
        }
        expect([ALICE, undefined]).toContain(policy.locked)
      }),
    )
  })
})
