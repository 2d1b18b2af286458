import { describe, expect, test } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { Firewall, type FirewallOptions } from './firewall.ts'

const [ALICE, BOB] = [1, 2].map(() => Identity.generate().peerId) as [PeerId, PeerId]

/** A firewall of the next start, with other options. */
function next(before: Firewall, options: FirewallOptions = {}): Firewall {
  const firewall = new Firewall(options)
  firewall.restore(JSON.parse(JSON.stringify(before.kept())))
  return firewall
}

const letsIn = (firewall: Firewall, peer: PeerId) =>
  firewall.decide({ peer, direction: 'in', object: 'connection' }).action === 'allow'

describe('what a firewall keeps from one start to the next', () => {
  test('is nothing of what the options say', () => {
    const first = new Firewall({ allow: [ALICE], rules: [{ subject: BOB, action: 'allow' }], groups: { club: [BOB] } })
    expect(first.kept()).toEqual({ version: 1, rules: [], groups: {} })
    const second = next(first)
    expect([letsIn(second, ALICE), letsIn(second, BOB)]).toEqual([false, false])
  })

  test('is what was set since, beside what the options say then', () => {
    const first = new Firewall({ allow: [ALICE] })
    first.set({ subject: BOB, direction: 'in', action: 'allow' })
    first.addToGroup('club', BOB)
    const second = next(first, { allow: [ALICE], groups: { club: [ALICE] } })
    expect([letsIn(second, ALICE), letsIn(second, BOB)]).toEqual([true, true])
    expect(second.groups.get('club')).toEqual([ALICE, BOB])
    expect(second.kept()).toEqual(first.kept())
  })

  test('is covered by an option for as long as that is there, and kept', () => {
    const first = new Firewall()
    first.set({ subject: ALICE, direction: 'in', action: 'deny' })
    const second = next(first, { allow: [ALICE] })
    expect(letsIn(second, ALICE)).toBe(true)
    const third = next(second, { allow: 'all' })
    expect([letsIn(third, ALICE), letsIn(third, BOB)]).toEqual([false, true])
  })

  test('is what took the place of an option, or of the lack of one', () => {
    const first = new Firewall({ allow: [ALICE] })
    first.set({ subject: ALICE, direction: 'in', action: 'deny' })
    first.setDefault('deny', 'out')
    const second = next(first)
    expect(letsIn(second, ALICE)).toBe(false)
    expect(second.decide({ peer: BOB, direction: 'out', object: 'connection' }).action).toBe('deny')
  })

  test('is no rule that was removed', () => {
    const first = new Firewall()
    const id = first.set({ subject: BOB, direction: 'in', action: 'allow' })
    const second = next(first)
    expect(second.remove(id)).toBe(true)
    const third = next(second, { allow: [BOB] })
    third.remove(id)
    expect(letsIn(next(third), BOB)).toBe(false)
  })

  test('is all of it or nothing', () => {
    const firewall = new Firewall()
    const rule = { subject: BOB, object: 'anything', direction: 'in', action: 'allow' }
    expect(() => firewall.restore({ version: 1, rules: [rule, { ...rule, action: 'perhaps' }], groups: {} })).toThrow()
    expect(letsIn(firewall, BOB)).toBe(false)
  })
})
