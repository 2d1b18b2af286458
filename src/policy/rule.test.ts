import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import { definePermissions } from './permissions.ts'
import { policyFromJson, policyToJson } from './policy-json.ts'
import { compareRules, covers, parseRule, type RuleInput } from './rule.ts'

const ALICE = Identity.generate().peerId
const invalid = (text = '') =>
  expect.objectContaining({ code: 'ERR_PEERLINE_INVALID', message: expect.stringContaining(text) })
const rule = (more: Partial<RuleInput>) => parseRule({ subject: 'everyone', action: 'allow', ...more })

describe('a rule', () => {
  test('is for anything in both directions unless it says otherwise', () => {
    expect(parseRule({ subject: toDidKey(ALICE), action: 'deny' })).toEqual({
      id: `${ALICE} anything both`,
      subject: ALICE,
      object: 'anything',
      direction: 'both',
      action: 'deny',
    })
  })

  test('takes permissions as a set', () => {
    const kind = definePermissions(['write', 'read'])
    expect(rule({ action: 'restrict', permissions: kind.all }).permissions).toEqual(['read', 'write'])
  })

  test.each<[string, unknown]>([
    ['a rule is an object', null],
    ['a rule is an object', []],
    ['no "color"', { subject: 'everyone', action: 'allow', color: 1 }],
    ['no "answer"', { subject: 'everyone', action: 'allow', answer: true }],
    ['subject', { action: 'allow' }],
    ['peer id', { subject: 'nobody', action: 'allow' }],
    ['group', { subject: 'group:', action: 'allow' }],
    ['group', { subject: 'group:__proto__', action: 'allow' }],
    ['action', { subject: 'everyone' }],
    ['action', { subject: 'everyone', action: 'perhaps' }],
    ['direction', { subject: 'everyone', action: 'allow', direction: 'up' }],
    ['object', { subject: 'everyone', action: 'allow', object: '' }],
    ['object', { subject: 'everyone', action: 'allow', object: 'é'.repeat(65) }],
    ['object', { subject: 'everyone', action: 'allow', object: 7 }],
    ['pattern', { subject: 'everyone', action: 'allow', object: '/a*/1' }],
    ['pattern', { subject: 'everyone', action: 'allow', object: '/a**' }],
    ['restricts', { subject: 'everyone', action: 'restrict' }],
    ['restricts', { subject: 'everyone', action: 'allow', when: () => true }],
    ['restricts', { subject: 'everyone', action: 'deny', permissions: ['read'] }],
    ['when', { subject: 'everyone', action: 'restrict', when: 'yes' }],
    ['permissions', { subject: 'everyone', action: 'restrict', permissions: 'read' }],
    ['permission', { subject: 'everyone', action: 'restrict', permissions: [7] }],
    ['32', { subject: 'everyone', action: 'restrict', permissions: Array.from({ length: 33 }, (_, i) => `p${i}`) }],
    ['expiresAt', { subject: 'everyone', action: 'allow', expiresAt: Number.NaN }],
    ['expiresAt', { subject: 'everyone', action: 'allow', expiresAt: '2030' }],
    ['expiresAt', { subject: 'everyone', action: 'allow', expiresAt: 1e300 }],
    ['uses', { subject: 'everyone', action: 'allow', uses: 0 }],
    ['uses', { subject: 'everyone', action: 'allow', uses: 1.5 }],
    ['uses', { subject: 'everyone', action: 'deny', uses: 1 }],
    ['rate', { subject: 'everyone', action: 'allow', rate: 5 }],
    ['rate', { subject: 'everyone', action: 'allow', rate: { count: 1 } }],
    ['rate.count', { subject: 'everyone', action: 'allow', rate: { count: 0, perMs: 1 } }],
    ['rate.perMs', { subject: 'everyone', action: 'allow', rate: { count: 1, perMs: Number.POSITIVE_INFINITY } }],
  ])('is refused for its %s: %j', (part, input) => {
    expect(() => parseRule(input as RuleInput)).toThrow(invalid(part))
  })

  test.each([
    ['/a/1', '/a/1', true],
    ['/a/1', '/a/12', false],
    ['/a/*', '/a/1', true],
    ['/a/*', '/b/1', false],
    ['*', '/a/1', true],
    ['*', 'connection', false],
    ['connection*', 'connection', false],
    ['connection', 'connection', true],
    ['connection', '/a/1', false],
    ['anything', 'connection', true],
    ['anything', '/a/1', true],
  ])('for %s asked about %s: %s', (object, asked, expected) => {
    expect(covers(rule({ object }), { object: asked, direction: 'in' })).toBe(expected)
  })

  test('the order of specificity', () => {
    const group = { subject: 'group:g' }
    const peer = { subject: ALICE }
    const restrict = { action: 'restrict', permissions: ['read'] } as const
    // from the least specific: each decides against all before it
    const ladder = [
      parseRule({ subject: ALICE, object: '/a/1', action: 'allow' }, { answer: true }),
      rule({}),
      rule({ action: 'ask' }),
      rule(restrict),
      rule({ action: 'deny' }),
      rule({ direction: 'in' }),
      rule({ object: '*' }),
      rule({ object: '/*', action: 'deny' }),
      rule({ object: '/a*' }),
      rule({ object: '/a/1' }),
      rule({ object: '/a/1', direction: 'in' }),
      rule(group),
      rule({ ...group, object: '/a/1' }),
      rule(peer),
      parseRule({ ...peer, action: 'deny' }, { answer: true }),
      rule({ ...peer, object: '/a/1', direction: 'in', action: 'deny' }),
    ]
    for (const [low, a] of ladder.entries()) {
      for (const [high, b] of ladder.entries()) {
        expect(Math.sign(compareRules(a, b, { object: '/a/1' })), `${a.id} and ${b.id}`).toBe(Math.sign(low - high))
      }
    }
  })

  test('a pattern is not exact for a protocol with its own name', () => {
    const [pattern, longer] = [rule({ object: '/a*' }), rule({ object: '/a*', direction: 'in' })]
    expect(compareRules(pattern, longer, { object: '/a*' })).toBeLessThan(0)
    expect(compareRules(rule({ object: '/a' }), pattern, { object: '/a' })).toBeGreaterThan(0)
  })
})

describe('a policy as JSON', () => {
  const NOW = 1_000
  const policy = {
    rules: [
      parseRule({ subject: ALICE, object: '/a/*', direction: 'in', action: 'allow', uses: 3, expiresAt: 5_000 }),
      parseRule({ subject: 'group:g', action: 'restrict', permissions: ['read'], rate: { count: 2, perMs: 60_000 } }),
      parseRule({ subject: ALICE, direction: 'out', action: 'deny' }, { answer: true }),
    ],
    groups: new Map([['g', [ALICE]]]),
  }

  test('comes back as it went', () => {
    const text = JSON.stringify(policyToJson(policy))
    expect(policyFromJson(JSON.parse(text), NOW)).toEqual(policy)
  })

  test('a function does not come back; its rule does, and refuses', () => {
    const when = () => true
    const json = policyToJson({ rules: [rule({ action: 'restrict', when })], groups: new Map() })
    const [read] = policyFromJson(JSON.parse(JSON.stringify(json)), NOW).rules
    expect(read).toMatchObject({ id: 'everyone anything both', action: 'restrict' })
    expect(read!.when!({ peer: ALICE, direction: 'in', object: '/a/1' })).toBe(false)
    expect(policyToJson({ rules: [read!], groups: new Map() })).toEqual(json)
  })

  test('leaves out what has ended', () => {
    expect(policyFromJson(policyToJson(policy), 5_000).rules.length).toBe(2)
  })

  const good = policyToJson(policy)
  test.each<[string, unknown]>([
    ['policy', null],
    ['version', { ...good, version: 2 }],
    ['"more"', { ...good, more: 1 }],
    ['rules', { ...good, rules: {} }],
    ['rules[0]', { ...good, rules: [null] }],
    ['rules[1]: uses', { ...good, rules: [good.rules[0], { ...good.rules[1], uses: -1 }] }],
    ['rules[0]', { ...good, rules: [{ ...good.rules[0], when: 'true' }] }],
    ['rules[0]', { ...good, rules: [{ ...good.rules[0], answer: 1 }] }],
    ['rules[0]', { ...good, rules: [{ subject: 'everyone', action: 'restrict', permissions: { length: 1 } }] }],
    ['two rules', { ...good, rules: [good.rules[0], good.rules[0]] }],
    ['groups', { ...good, groups: [] }],
    ['groups.g', { ...good, groups: { g: 'everyone' } }],
    ['groups.g', { ...good, groups: { g: ['nobody'] } }],
    ['groups.a b', { ...good, groups: { 'a b': [] } }],
  ])('is refused, and said where: %s', (part, json) => {
    expect(() => policyFromJson(json, NOW)).toThrow(invalid(part))
  })

  test('whatever is read is a policy, or one typed error', () => {
    const change = fc.tuple(fc.constantFrom(...Object.keys({ ...good.rules[0], ...good.rules[1] })), fc.jsonValue())
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), change), (value) => {
        const json =
          Array.isArray(value) && typeof value[0] === 'string'
            ? { ...good, rules: [{ ...good.rules[0], [value[0]]: value[1] }] }
            : value
        try {
          policyFromJson(json, NOW)
        } catch (error) {
          expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_INVALID')
        }
      }),
      { numRuns: 300 },
    )
  })
})
