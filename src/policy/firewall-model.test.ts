/**
 * Whatever is done to the rules, in whatever order, nobody is let through whom they deny: a second, slow and simple
 * reading of the rules decides beside the firewall, and both must agree each time.
 */
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { Firewall } from './firewall.ts'
import type { Action, Direction, Question, RuleInput } from './rule.ts'

const PEERS = [Identity.generate().peerId, Identity.generate().peerId]
const OBJECTS = ['connection', '/a/1', '/a/2', '/b/1']
type Owner = 'yes' | 'no' | 'fails'

/** A rule of the model. */
interface Said {
  readonly subject: string
  readonly object: string
  readonly direction: Direction | 'both'
  readonly action: Action
  readonly permissions?: readonly string[]
  readonly expiresAt?: number
  uses?: number
  /** A remembered yes: the last to be looked at. */
  readonly gap?: true
}

/** The rules as a list, looked through from the most specific to the least. */
class Model {
  rules: Said[] = []
  members: [group: string, peer: string][] = []
  now = 1_000

  put(said: Said): void {
    this.rules = this.rules.filter(
      ({ subject, object, direction }) =>
        subject !== said.subject || object !== said.object || direction !== said.direction,
    )
    this.rules.push(said)
  }

  deciding({ peer, object, direction }: Question): Said[] {
    const groups = this.members.filter(([, member]) => member === peer).map(([group]) => `group:${group}`)
    const subjects = [[peer], groups, ['everyone']]
    const patterns = ['/a/*', '/*', '*'].filter((p) => object !== 'connection' && object.startsWith(p.slice(0, -1)))
    for (const gap of [false, true]) {
      for (const tier of subjects) {
        for (const written of [object, ...patterns, 'anything']) {
          for (const way of [direction, 'both']) {
            for (const action of ['deny', 'restrict', 'ask', 'allow']) {
              const found = this.rules.filter(
                (rule) =>
                  (rule.gap === true) === gap &&
                  tier.includes(rule.subject) &&
                  rule.object === written &&
                  rule.direction === way &&
                  rule.action === action &&
                  rule.uses !== 0 &&
                  !((rule.expiresAt ?? this.now + 1) <= this.now),
              )
              if (found.length > 0) return found
            }
          }
        }
      }
    }
    return []
  }

  isMember(group: string, peer: string): boolean {
    return this.members.some(([name, member]) => name === group && member === peer)
  }

  /** What the rules say, and takes what they count. */
  say(question: Question): 'allow' | 'deny' | 'ask' | 'nothing' {
    const found = this.deciding(question)
    const [first] = found
    if (first === undefined) return 'nothing'
    if (first.action === 'deny') return 'deny'
    if (first.action === 'ask') return 'ask'
    const needs = question.needs as string[]
    if (found.some(({ permissions }) => permissions !== undefined && !needs.every((n) => permissions.includes(n)))) {
      return 'deny'
    }
    this.take(found)
    return 'allow'
  }

  take(found: readonly Said[]): void {
    for (const rule of found) if (rule.uses !== undefined) rule.uses--
  }

  /** The end of a question that `before`, when it was put, was left to the owner. */
  answer(question: Question, before: 'ask' | 'nothing', owner: Owner): boolean {
    if (owner === 'fails') return false
    const after = this.say(question)
    if (after === 'allow' || after === 'deny') return after === 'allow'
    if (after === 'ask') {
      if (owner === 'yes') this.take(this.deciding(question))
      return owner === 'yes'
    }
    if (before === 'ask') return false
    const { peer, direction } = question
    const said = { subject: peer, object: 'anything', direction }
    this.put(owner === 'yes' ? { ...said, action: 'allow', gap: true } : { ...said, action: 'deny' })
    return owner === 'yes'
  }
}

const subject = fc.constantFrom<string>(...PEERS, 'group:g', 'group:h', 'everyone')
const object = fc.constantFrom(...OBJECTS, '/a/*', '/*', '*', 'anything')
const direction = fc.constantFrom<Direction>('in', 'out')
const ruled = fc.constantFrom<Direction | 'both'>('in', 'out', 'both')
const ends = fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined, freq: 3 })
const counts = fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined, freq: 3 })
const rule = fc
  .tuple(
    subject,
    object,
    ruled,
    fc.constantFrom<Action>('allow', 'deny', 'ask', 'restrict'),
    fc.subarray(['read', 'write']),
    ends,
    counts,
  )
  .map(([subject, object, direction, action, permissions, endsIn, uses]) => ({
    subject,
    object,
    direction,
    action,
    ...(action === 'restrict' ? { permissions } : {}),
    ...(action === 'deny' || uses === undefined ? {} : { uses }),
    endsIn,
  }))
const question = fc.record({
  peer: fc.constantFrom(...PEERS),
  direction,
  object: fc.constantFrom(...OBJECTS),
  needs: fc.subarray(['read', 'write'], { minLength: 1 }),
})
const change = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('set' as const), rule }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('remove' as const), at: fc.nat({ max: 30 }) }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('default' as const),
      action: fc.constantFrom<'allow' | 'deny' | 'ask' | undefined>('allow', 'deny', 'ask', undefined),
      direction: ruled,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom<'join' | 'leave'>('join', 'leave'),
      group: fc.constantFrom('g', 'h'),
      peer: fc.constantFrom(...PEERS),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 15 }) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('reload' as const) }) },
)
type Change = typeof change extends fc.Arbitrary<infer C> ? C : never
const admission = fc.record({
  do: fc.constant('admit' as const),
  question,
  owner: fc.constantFrom<Owner>('yes', 'no', 'fails'),
  /** What happens while the owner thinks. */
  meanwhile: fc.array(change, { maxLength: 2 }),
})

/** Does the same to both. True when it is one that what waits is looked at again for. */
function apply(step: Change, firewall: Firewall, model: Model): boolean {
  if (step.do === 'set') {
    const { endsIn, ...bare } = step.rule
    const said = { ...bare, ...(endsIn === undefined ? {} : { expiresAt: model.now + endsIn }) }
    firewall.set(said as RuleInput)
    model.put({ ...said })
  } else if (step.do === 'remove') {
    const all = firewall.list()
    const gone = all[step.at % Math.max(1, all.length)]
    if (gone === undefined) return false
    firewall.remove(gone.id)
    model.rules = model.rules.filter((r) => `${r.subject} ${r.object} ${r.direction}` !== gone.id)
  } else if (step.do === 'default') {
    firewall.setDefault(step.action, step.direction)
    const isDefault = (r: Said) => r.subject === 'everyone' && r.object === 'anything'
    const stays = (['in', 'out'] as const).filter((way) => step.direction !== 'both' && step.direction !== way)
    const both = model.rules.find((r) => isDefault(r) && r.direction === 'both')
    const kept = stays.flatMap((way) => {
      const own = model.rules.find((r) => isDefault(r) && r.direction === way)
      return own !== undefined ? [own] : both !== undefined ? [{ ...both, direction: way }] : []
    })
    const made = (['in', 'out'] as const).flatMap((way) =>
      stays.includes(way) || step.action === undefined
        ? []
        : [{ subject: 'everyone', object: 'anything', direction: way, action: step.action }],
    )
    model.rules = [...model.rules.filter((r) => !isDefault(r)), ...kept, ...made]
  } else if (step.do === 'join') {
    firewall.addToGroup(step.group, step.peer)
    if (model.isMember(step.group, step.peer)) return false
    model.members.push([step.group, step.peer])
  } else if (step.do === 'leave') {
    firewall.removeFromGroup(step.group, step.peer)
    if (!model.isMember(step.group, step.peer)) return false
    model.members = model.members.filter(([group, peer]) => group !== step.group || peer !== step.peer)
  } else if (step.do === 'reload') {
    firewall.load(JSON.parse(JSON.stringify(firewall)))
  } else if (step.do === 'wait') {
    model.now += step.ms
    return false
  }
  return true
}

/** What is under way comes to rest; no time passes. */
const rest = () => vi.advanceTimersByTimeAsync(0)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
})

afterEach(() => {
  vi.useRealTimers()
})

test('no sequence of changes lets through what the rules deny, nor denies what they let through', async () => {
  let through = 0
  let denied = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof({ weight: 1, arbitrary: change }, { weight: 1, arbitrary: admission }), {
        minLength: 5,
        maxLength: 40,
        size: 'max',
      }),
      async (steps) => {
        const model = new Model()
        let owner: Owner = 'no'
        let asked = false
        let answer = () => {}
        const firewall = new Firewall({
          rules: [],
          now: () => model.now,
          ask: async () => {
            asked = true
            await new Promise<void>((resolve) => {
              answer = resolve
            })
            if (owner === 'fails') throw new Error('boom')
            return owner === 'yes'
          },
        })
        firewall.remove('everyone anything out')
        for (const step of steps) {
          if (step.do !== 'admit') {
            apply(step, firewall, model)
            continue
          }
          owner = step.owner
          asked = false
          const before = model.say(step.question)
          expect(firewall.decide(step.question).action).toBe(before === 'nothing' ? 'ask' : before)
          expect(firewall.offers(step.question) || before === 'deny').toBe(true)
          const admitted = firewall.admit(step.question).then(
            () => true,
            () => false,
          )
          let expected = before === 'allow'
          if (before === 'ask' || before === 'nothing') {
            await rest()
            expect(asked).toBe(true)
            let settled: boolean | undefined
            for (const each of step.meanwhile) {
              const looked = apply(each, firewall, model)
              await rest()
              if (settled !== undefined || !looked) continue
              const said = model.say(step.question)
              if (said === 'allow' || said === 'deny') settled = said === 'allow'
            }
            answer()
            expected = settled ?? model.answer(step.question, before, owner)
          }
          const was = await admitted
          expect(was).toBe(expected)
          if (was) through++
          else denied++
        }
        firewall.close()
      },
    ),
    { numRuns: 300 },
  )
  // the property has looked at both
  expect(Math.min(through, denied)).toBeGreaterThan(500)
})
