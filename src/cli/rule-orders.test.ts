import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Identity } from '../identity/index.ts'
import { Firewall } from '../policy/firewall.ts'
import type { RuleInput } from '../policy/rule.ts'
import { allow, deny } from './rule-orders.ts'

const PEER = Identity.generate().peerId
const HOUR_MS = 3_600_000

const make = (...rules: Omit<RuleInput, 'subject'>[]) =>
  new Firewall({ rules: rules.map((rule) => ({ subject: PEER, direction: 'in', ...rule })) })
const may = (firewall: Firewall, object: string) =>
  firewall.decide({ peer: PEER, direction: 'in', object }).action === 'allow'
const ids = (rules: readonly { id: string }[]) => rules.map(({ id }) => id.replace(`${PEER} `, ''))

describe('allow', () => {
  test('a peer lets it in, to use anything', () => {
    const firewall = make()
    const change = allow(firewall, { subject: PEER, objects: ['anything'] })
    expect(ids(change.set)).toEqual(['anything in'])
    expect(['connection', '/a/1'].map((object) => may(firewall, object))).toEqual([true, true])
  })

  test('a protocol opens the connection that it needs, and nothing else', () => {
    const firewall = make({ object: 'connection', action: 'deny' })
    const change = allow(firewall, { subject: PEER, objects: ['/a/1', '/b/*'] })
    expect(ids(change.gone)).toEqual(['connection in'])
    expect(['connection', '/a/1', '/b/2', '/c/1'].map((object) => may(firewall, object))).toEqual([
      true,
      true,
      true,
      false,
    ])
  })

  test('for a time lets a connection in for no longer, and leaves one that lasts alone', () => {
    const until = Date.now() + HOUR_MS
    const brief = make()
    expect(ids(allow(brief, { subject: PEER, objects: ['/a/1'], until }).set)).toEqual(['/a/1 in', 'connection in'])
    expect(brief.list().flatMap(({ subject, expiresAt }) => (subject === PEER ? [expiresAt] : []))).toEqual([
      until,
      until,
    ])
    for (const lasting of [
      { object: 'connection' },
      { object: 'anything' },
      { object: 'connection', expiresAt: until },
    ]) {
      const firewall = make({ ...lasting, action: 'allow' })
      expect(ids(allow(firewall, { subject: PEER, objects: ['/a/1'], until }).set)).toEqual(['/a/1 in'])
    }
    const sooner = make({ object: 'connection', action: 'allow', expiresAt: until - 1_000 })
    allow(sooner, { subject: PEER, objects: ['/a/1'], until })
    expect(sooner.list().find(({ object }) => object === 'connection')?.expiresAt).toBe(until)
    const counted = make({ object: 'connection', action: 'allow', uses: 1 })
    expect(ids(allow(counted, { subject: PEER, objects: ['/a/1'] }).set)).toContain('connection in')
  })

  test('a peer undoes that it was denied, but not what was denied by name, and tells of that', () => {
    const firewall = make(
      { action: 'deny' },
      { object: 'connection', action: 'deny' },
      { object: '/shell/1', action: 'deny' },
    )
    const change = allow(firewall, { subject: PEER, objects: ['anything'] })
    expect(ids(change.gone).sort()).toEqual(['anything in', 'connection in'])
    expect(ids(change.except)).toEqual(['/shell/1 in'])
    expect(['connection', '/a/1', '/shell/1'].map((object) => may(firewall, object))).toEqual([true, true, false])
  })

  test('tells that a rule for good ends with the one that takes its place', () => {
    const firewall = make({ action: 'allow' })
    const change = allow(firewall, { subject: PEER, objects: ['anything'], until: Date.now() + HOUR_MS })
    expect(ids(change.gone)).toEqual(['anything in'])
    expect(allow(firewall, { subject: PEER, objects: ['anything'] }).gone).toEqual([])
  })
})

describe('deny', () => {
  test('a peer shuts all that narrower rules of it opened, and leaves the way out alone', () => {
    const firewall = make(
      { object: 'connection', action: 'allow' },
      { object: '/a/1', action: 'allow', direction: 'both' },
      { object: '/b/*', action: 'ask' },
      { object: '/c/1', action: 'allow', direction: 'out' },
      { object: '/d/1', action: 'deny' },
    )
    const change = deny(firewall, { subject: PEER, objects: ['anything'] })
    expect(ids(change.gone).sort()).toEqual(['/a/1 both', '/b/* in', 'connection in'])
    expect(['connection', '/a/1', '/b/1', '/z/1'].map((object) => may(firewall, object))).toEqual(Array(4).fill(false))
    const out = (object: string) => firewall.decide({ peer: PEER, direction: 'out', object })
    expect([out('/a/1').rule?.id, out('/c/1').rule?.id].map((id) => id?.replace(`${PEER} `, ''))).toEqual([
      '/a/1 out',
      '/c/1 out',
    ])
  })

  test('a pattern shuts what begins so, and no more', () => {
    const firewall = make(
      { action: 'allow' },
      { object: '/chat/1', action: 'allow' },
      { object: '/chat/admin/*', action: 'allow' },
    )
    deny(firewall, { subject: PEER, objects: ['/chat/*'] })
    expect(['connection', '/chat/1', '/chat/admin/1', '/cha'].map((object) => may(firewall, object))).toEqual([
      true,
      false,
      false,
      true,
    ])
  })

  test('all protocols is not the connection', () => {
    const firewall = make({ object: 'connection', action: 'allow' }, { object: '/a/1', action: 'allow' })
    deny(firewall, { subject: PEER, objects: ['*'] })
    expect([may(firewall, 'connection'), may(firewall, '/a/1')]).toEqual([true, false])
  })

  test('everyone leaves those with rules of their own alone', () => {
    const firewall = make({ action: 'allow' })
    firewall.set({ subject: 'everyone', action: 'allow', direction: 'in' })
    deny(firewall, { subject: 'everyone', objects: ['anything'] })
    const stranger = Identity.generate().peerId
    expect(may(firewall, 'connection')).toBe(true)
    expect(firewall.decide({ peer: stranger, direction: 'in', object: 'connection' }).action).toBe('deny')
  })
})

test('whatever rules there are, what was denied last is shut and what was allowed last is open', () => {
  const object = fc.constantFrom('anything', 'connection', '/a/1', '/a/2', '/b/1', '/a/*', '/*', '*')
  const rule = fc.record({
    object,
    direction: fc.constantFrom('in' as const, 'out' as const, 'both' as const),
    action: fc.constantFrom('allow' as const, 'deny' as const, 'ask' as const),
  })
  const exact = ['connection', '/a/1', '/a/2', '/b/1', '/c/1']
  const within = (one: string, other: string) =>
    other === 'anything' ||
    one === other ||
    (one !== 'connection' && other.endsWith('*') && one.startsWith(other.slice(0, -1)))
  fc.assert(
    fc.property(fc.array(rule), fc.array(object, { minLength: 1, maxLength: 3 }), (rules, objects) => {
      const [shut, open] = [make(...rules), make(...rules)]
      const out = (firewall: Firewall) =>
        exact.map((one) => firewall.decide({ peer: PEER, direction: 'out', object: one }).action)
      const before = out(shut)
      const meant = (one: string) => objects.some((other) => within(one, other))
      deny(shut, { subject: PEER, objects })
      for (const one of exact) expect(may(shut, one)).toBe(meant(one) ? false : may(open, one))
      const { except } = allow(open, { subject: PEER, objects })
      expect(may(open, 'connection')).toBe(true)
      for (const one of exact) {
        const shutByName = except.some((other) => within(one, other.object))
        if (!shutByName && meant(one)) expect(may(open, one)).toBe(true)
      }
      expect([out(shut), out(open)]).toEqual([before, before])
    }),
  )
})
