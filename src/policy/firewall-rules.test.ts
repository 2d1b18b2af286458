import { afterEach, describe, expect, test, vi } from 'vitest'
import { Identity, toDidKey } from '../identity/index.ts'
import { Firewall, type FirewallOptions } from './firewall.ts'
import { definePermissions } from './permissions.ts'
import type { Direction, Question, RuleInput } from './rule.ts'

const [ALICE, BOB, CAROL] = [0, 1, 2].map(() => Identity.generate().peerId) as [
  Question['peer'],
  Question['peer'],
  Question['peer'],
]
const code = (name: string) => expect.objectContaining({ code: `ERR_PEERLINE_${name}` })
const asks = (object: string, more: Partial<Question> = {}): Question => ({
  peer: ALICE,
  direction: 'in',
  object,
  ...more,
})

/** What comes of a question: `yes`, or the code it is refused with. */
const outcome = (firewall: Firewall, question: Question) =>
  firewall.admit(question).then(
    () => 'yes',
    (error: { code: string }) => error.code.slice('ERR_PEERLINE_'.length),
  )

/** Time that moves when told to: of day, of rates, and of timers. */
function clocks() {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] })
  return (ms: number) => vi.advanceTimersByTime(ms)
}

afterEach(() => {
  vi.useRealTimers()
})

describe('every rule, default and direction', () => {
  type Kind = { readonly name: string; readonly rule?: Partial<RuleInput>; readonly says: 'yes' | 'no' | 'default' }
  const kinds: readonly Kind[] = [
    { name: 'none', says: 'default' },
    { name: 'allow', rule: { action: 'allow' }, says: 'yes' },
    { name: 'deny', rule: { action: 'deny' }, says: 'no' },
    { name: 'function: yes', rule: { action: 'restrict', when: ({ view }) => view === 'small' }, says: 'yes' },
    { name: 'function: no', rule: { action: 'restrict', when: ({ view }) => view === 'large' }, says: 'no' },
    { name: 'permitted', rule: { action: 'restrict', permissions: ['read'] }, says: 'yes' },
    { name: 'not permitted', rule: { action: 'restrict', permissions: ['write'] }, says: 'no' },
    { name: 'ask', rule: { action: 'ask' }, says: 'default' },
  ]
  const cases = kinds.flatMap((kind) =>
    (['allow', 'deny', 'ask', undefined] as const).flatMap((otherwise) =>
      (['in', 'out'] as const).flatMap((direction) =>
        (['in', 'out', 'both'] as const).flatMap((ruled) =>
          [true, false].map((owner) => ({ kind, otherwise, direction, ruled, owner })),
        ),
      ),
    ),
  )

  test.each(cases)('$kind.name $ruled, by default $otherwise, asked $direction, the owner says $owner', async (at) => {
    const { kind, otherwise, direction, ruled, owner } = at
    const ask = vi.fn(() => owner)
    const firewall = new Firewall({ ask })
    const question = asks('/a/1', { direction, view: 'small', needs: ['read'] })
    const byDefault = () => (otherwise === undefined || otherwise === 'ask' ? owner : otherwise === 'allow')
    const covered = kind.rule !== undefined && (ruled === 'both' || ruled === direction)
    const isAsk = covered && kind.rule?.action === 'ask'
    const ruledYes = !covered ? byDefault() : isAsk ? owner : kind.says === 'yes'
    const set = () => firewall.set({ ...kind.rule, subject: ALICE, direction: ruled, action: kind.rule!.action! })
    const expectNow = async (yes: boolean, asked: boolean) => {
      ask.mockClear()
      const { action } = firewall.decide(question)
      expect(action).toBe(asked ? 'ask' : yes ? 'allow' : 'deny')
      expect(await outcome(firewall, question)).toBe(yes ? 'yes' : 'DENIED')
      expect(ask).toHaveBeenCalledTimes(asked ? 1 : 0)
    }
    const defaultAsks = otherwise === undefined || otherwise === 'ask'
    firewall.setDefault(otherwise)
    if (kind.rule !== undefined) set()
    await expectNow(ruledYes, covered ? isAsk : defaultAsks)
    // an answer where no rule was is remembered; this looks at rules alone
    const forget = () => {
      for (const { id, answer } of firewall.list()) if (answer) firewall.remove(id)
    }
    forget()
    // live: the rule goes, the default speaks; and comes again
    if (kind.rule !== undefined) {
      const id = set()
      expect(firewall.remove(id)).toBe(true)
      expect(firewall.remove(id)).toBe(false)
      await expectNow(byDefault(), defaultAsks)
      forget()
      set()
      await expectNow(ruledYes, covered ? isAsk : defaultAsks)
      forget()
    }
    // live: the default turns round
    const turned = byDefault() ? 'deny' : 'allow'
    firewall.setDefault(turned)
    await expectNow(covered ? ruledYes : turned === 'allow', isAsk)
    firewall.close()
  })
})

describe('rules', () => {
  test('removing the default really clears it: nobody is let in by what it said', async () => {
    const firewall = new Firewall({ rules: [] })
    firewall.setDefault('allow')
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    firewall.removeDefault()
    expect(firewall.list()).toEqual([])
    expect(firewall.decide(asks('/a/1'))).toMatchObject({ action: 'deny', reason: 'no-rule' })
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(await outcome(firewall, asks('connection', { direction: 'out' }))).toBe('DENIED')
  })

  test.each<[Direction, string, string]>([
    ['in', 'DENIED', 'yes'],
    ['out', 'yes', 'DENIED'],
  ])('a default for both is left for the other direction when that of %s is removed', async (direction, i, o) => {
    const firewall = new Firewall({ rules: [{ subject: 'everyone', action: 'allow' }] })
    firewall.remove('everyone anything out')
    firewall.removeDefault(direction)
    expect(await outcome(firewall, asks('/a/1'))).toBe(i)
    expect(await outcome(firewall, asks('/a/1', { direction: 'out' }))).toBe(o)
  })

  test('a default speaks for all that the shorthands say', async () => {
    const approve = vi.fn(() => true)
    const firewall = new Firewall({ approve })
    expect(await outcome(firewall, asks('connection'))).toBe('yes')
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    firewall.setDefault('deny')
    expect(await outcome(firewall, asks('connection'))).toBe('DENIED')
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(approve).toHaveBeenCalledTimes(1)
  })

  test('an approver is asked about each connection, also beside rules, and about none that a kept rule decides', async () => {
    const approve = vi.fn(() => true)
    const firewall = new Firewall({ approve, rules: [{ subject: BOB, action: 'allow' }] })
    for (const times of [1, 2]) {
      expect(await outcome(firewall, asks('connection'))).toBe('yes')
      expect(approve).toHaveBeenCalledTimes(times)
    }
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(await outcome(firewall, asks('connection', { peer: BOB }))).toBe('yes')
    firewall.set({ subject: 'everyone', object: 'connection', direction: 'in', action: 'deny' })
    const kept = Firewall.fromJSON(firewall.toJSON(), { approve })
    expect(await outcome(kept, asks('connection'))).toBe('DENIED')
    expect(approve).toHaveBeenCalledTimes(2)
  })

  test('an approver of connections is asked about nothing else', async () => {
    const approve = vi.fn(() => true)
    const firewall = new Firewall({ approve, rules: [] })
    firewall.setDefault(undefined)
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(await outcome(firewall, asks('connection', { direction: 'out' }))).toBe('DENIED')
    expect(approve).not.toHaveBeenCalled()
    expect(await outcome(firewall, asks('connection', { how: 'signaled' }))).toBe('yes')
    expect(approve).toHaveBeenCalledWith({ from: ALICE, how: 'signaled' }, expect.anything())
  })

  test('a group is its members of now', async () => {
    const firewall = new Firewall({ rules: [{ subject: 'group:friends', action: 'allow' }] })
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    firewall.addToGroup('friends', ALICE, BOB)
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    expect(firewall.concerns(['group:friends'], ALICE)).toBe(true)
    firewall.removeFromGroup('friends', ALICE)
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(firewall.groups).toEqual(new Map([['friends', [BOB]]]))
    expect(firewall.concerns(['group:friends'], ALICE)).toBe(false)
    expect(() => firewall.addToGroup('no name', ALICE)).toThrow(code('INVALID'))
  })

  test('of two groups that restrict, both must let it through', async () => {
    const firewall = new Firewall({
      groups: { readers: [ALICE], guests: [ALICE] },
      rules: [
        { subject: 'group:readers', action: 'restrict', permissions: ['read', 'list'] },
        { subject: 'group:guests', action: 'restrict', permissions: ['list'] },
      ],
    })
    expect(await outcome(firewall, asks('/a/1', { needs: ['list'] }))).toBe('yes')
    expect(await outcome(firewall, asks('/a/1', { needs: ['read'] }))).toBe('DENIED')
  })

  test('a function that throws, promises or merely nearly says yes lets nobody through', async () => {
    for (const when of [
      () => {
        throw new Error('boom')
      },
      async () => true,
      () => 1,
    ]) {
      const rules = [{ subject: ALICE, action: 'restrict', when: when as unknown as () => boolean }] as const
      expect(await outcome(new Firewall({ rules }), asks('/a/1'))).toBe('DENIED')
    }
  })

  test('permissions: a request that does not say what it needs is refused, and one may say it for all', async () => {
    const kind = definePermissions(['read', 'write'])
    const rules: RuleInput[] = [{ subject: ALICE, action: 'restrict', permissions: kind.of('read') }]
    const silent = new Firewall({ rules })
    expect(silent.decide(asks('/a/1'))).toMatchObject({ action: 'deny', reason: 'permissions' })
    expect(silent.decide(asks('connection')).action).toBe('allow')
    const needs = ({ view }: Question) => (view === 'put' ? kind.of('write') : kind.of('read'))
    const told = new Firewall({ rules, needs })
    expect(told.decide(asks('/a/1', { view: 'get' })).action).toBe('allow')
    expect(told.decide(asks('/a/1', { view: 'put' })).action).toBe('deny')
    // what can be read only once would seem to need nothing the second time
    const once = ['write'].values() as unknown as readonly string[]
    expect(told.decide(asks('/a/1', { needs: once })).action).toBe('deny')
    silent.set({ subject: ALICE, action: 'restrict', permissions: kind.none })
    expect(silent.decide(asks('connection')).action).toBe('deny')
  })

  test('what is denied is not offered; what somebody may still be let through for is', () => {
    const firewall = new Firewall({
      rules: [
        { subject: 'everyone', object: '/closed/1', action: 'deny' },
        { subject: BOB, object: '/closed/1', action: 'allow' },
        { subject: 'everyone', object: '/asked/1', action: 'ask' },
        { subject: 'everyone', object: '/open/*', action: 'restrict', when: () => false },
        { subject: 'everyone', object: '/open/1', direction: 'in', action: 'allow', rate: { count: 1, perMs: 1_000 } },
      ],
    })
    const offered = (object: string, peer = ALICE) => firewall.offers({ peer, direction: 'in', object })
    expect(offered('/closed/1')).toBe(false)
    expect(offered('/closed/1', BOB)).toBe(true)
    expect(offered('/asked/1')).toBe(false) // nobody is there to be asked
    expect(offered('/other/1')).toBe(false)
    expect(offered('/open/2')).toBe(true)
    expect(offered('/open/1')).toBe(true)
    firewall.remove('everyone /closed/1 both')
    firewall.setDefault('allow')
    expect(offered('/closed/1')).toBe(true)
    firewall.close()
    expect(offered('/closed/1')).toBe(false)
  })

  test('only so many are kept', () => {
    const firewall = new Firewall({ rules: [] })
    const fill = () => {
      for (let i = 0; ; i++) firewall.set({ subject: 'everyone', object: `/${i}`, action: 'deny' })
    }
    expect(fill).toThrow(code('LIMIT'))
    expect(firewall.list().length).toBe(20_000)
    firewall.set({ subject: 'everyone', object: '/0', action: 'allow' }) // in place of one
  })
})

describe('what counts', () => {
  test('a use is taken once, also when asked at the same time, and not by a dry run', async () => {
    const rules: RuleInput[] = [{ subject: ALICE, action: 'allow', uses: 2 }]
    const firewall = new Firewall({ rules })
    for (let i = 0; i < 10; i++) expect(firewall.decide(asks('/a/1')).action).toBe('allow')
    const all = await Promise.all(Array.from({ length: 5 }, () => outcome(firewall, asks('/a/1'))))
    expect(all.filter((one) => one === 'yes').length).toBe(2)
    expect(firewall.list().filter(({ subject }) => subject === ALICE)).toEqual([])
  })

  test('the uses that are left are listed and kept', async () => {
    const rules: RuleInput[] = [{ subject: ALICE, action: 'allow', uses: 2 }]
    const firewall = new Firewall({ rules })
    await firewall.admit(asks('/a/1'))
    const read = Firewall.fromJSON(JSON.parse(JSON.stringify(firewall)))
    expect(read.list()).toEqual(firewall.list())
    expect(await outcome(read, asks('/a/1'))).toBe('yes')
    expect(await outcome(read, asks('/a/1'))).toBe('DENIED')
  })

  test('what a rule for one use let in stands when it is used up, until a rule denies it', async () => {
    const rules: RuleInput[] = [
      { subject: 'everyone', direction: 'in', action: 'deny' },
      { subject: ALICE, action: 'allow', uses: 1 },
    ]
    const firewall = new Firewall({ rules })
    const admitted = await firewall.admit(asks('connection'))
    expect(await outcome(firewall, asks('connection'))).toBe('DENIED')
    expect(firewall.stands(admitted)).toBe(true)
    firewall.set({ subject: ALICE, action: 'deny' })
    expect(firewall.stands(admitted)).toBe(false)
  })

  test('what a rule for several uses let in ends when the rule is removed', async () => {
    for (const end of [
      (firewall: Firewall, id: string) => firewall.remove(id),
      (firewall: Firewall) => firewall.disallow(ALICE),
      (firewall: Firewall) => firewall.disallow(toDidKey(ALICE) as Question['peer']),
      (firewall: Firewall) => firewall.load({ version: 1, rules: [], groups: {} }),
    ]) {
      const firewall = new Firewall({ rules: [] })
      const id = firewall.set({ subject: ALICE, direction: 'in', action: 'allow', uses: 3 })
      const [first, second] = [await firewall.admit(asks('connection')), await firewall.admit(asks('connection'))]
      expect([first, second].map((one) => firewall.stands(one))).toEqual([true, true])
      end(firewall, id)
      expect([first, second].map((one) => firewall.stands(one))).toEqual([false, false])
    }
  })

  test('a decision names the rule that counts, where several decide together', () => {
    const firewall = new Firewall({ rules: [], groups: { a: [ALICE], b: [ALICE] } })
    firewall.set({ subject: 'group:a', direction: 'in', action: 'allow' })
    firewall.set({ subject: 'group:b', direction: 'in', action: 'allow', uses: 1 })
    expect(firewall.decide(asks('/a/1')).rule).toMatchObject({ subject: 'group:b', uses: 1 })
    expect(firewall.settle(asks('/a/1'))).toMatchObject({ action: 'allow', rule: { subject: 'group:b' } })
    expect(firewall.decide(asks('/a/1')).rule).toMatchObject({ subject: 'group:a' })
  })

  test('a rule that takes the place of one that is used up decides alone', async () => {
    let yes = true
    const rules: RuleInput[] = [{ subject: ALICE, action: 'restrict', when: () => yes, uses: 1 }]
    const firewall = new Firewall({ rules })
    const admitted = await firewall.admit(asks('connection'))
    yes = false
    expect(firewall.stands(admitted)).toBe(false)
    firewall.set({ subject: ALICE, action: 'allow' })
    expect(firewall.stands(admitted)).toBe(true)
  })

  test('a default that is used up is none for the other direction either', async () => {
    const expiresAt = Date.now() + 60_000
    const firewall = new Firewall({ rules: [{ subject: 'everyone', action: 'allow', uses: 1, expiresAt }] })
    firewall.remove('everyone anything out')
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    firewall.setDefault('deny', 'out')
    expect(firewall.list().map(({ id }) => id)).toEqual(['everyone anything out'])
    firewall.close()
  })

  test('a rate is for each peer, comes back with time, and is not taken by a dry run', async () => {
    const advance = clocks()
    const rules: RuleInput[] = [{ subject: 'everyone', action: 'allow', rate: { count: 2, perMs: 1_000 } }]
    const firewall = new Firewall({ rules })
    firewall.remove('everyone anything out')
    for (let i = 0; i < 5; i++) expect(firewall.decide(asks('/a/1')).action).toBe('allow')
    const three = () => Promise.all([0, 1, 2].map(() => outcome(firewall, asks('/a/1'))))
    expect(await three()).toEqual(['yes', 'yes', 'BUSY'])
    expect(await outcome(firewall, asks('/a/1', { peer: BOB }))).toBe('yes')
    advance(499)
    expect(await outcome(firewall, asks('/a/1'))).toBe('BUSY')
    advance(1)
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    advance(60_000)
    expect(await three()).toEqual(['yes', 'yes', 'BUSY'])
  })

  test('what a rate let in stands while the rate is used up', async () => {
    const rules: RuleInput[] = [{ subject: ALICE, action: 'allow', rate: { count: 1, perMs: 60_000 } }]
    const firewall = new Firewall({ rules })
    const admitted = await firewall.admit(asks('/a/1'))
    expect(firewall.decide(asks('/a/1'))).toMatchObject({ action: 'deny', reason: 'rate' })
    expect(firewall.stands(admitted)).toBe(true)
  })

  test('a rule ends with its time, to the millisecond, and says so', async () => {
    const advance = clocks()
    const firewall = new Firewall({ rules: [] })
    firewall.set({ subject: ALICE, action: 'allow', expiresAt: Date.now() + 90_000 })
    const changes: unknown[] = []
    firewall.addEventListener('change', ({ detail }) => changes.push(detail))
    const admitted = await firewall.admit(asks('/a/1'))
    advance(89_999)
    expect([firewall.stands(admitted), changes]).toEqual([true, []])
    advance(1)
    expect(firewall.stands(admitted)).toBe(false)
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(changes).toEqual([{ subjects: [ALICE] }])
    expect(vi.getTimerCount()).toBe(0)
    expect(() => firewall.set({ subject: ALICE, action: 'allow', expiresAt: Date.now() })).toThrow(code('INVALID'))
  })

  test('a clock set forward ends a rule at once, and within a minute it is said', () => {
    const advance = clocks()
    let skipped = 0
    const firewall = new Firewall({ rules: [], now: () => Date.now() + skipped })
    firewall.set({ subject: ALICE, action: 'allow', expiresAt: Date.now() + 86_400_000 })
    const changed = vi.fn()
    firewall.addEventListener('change', changed)
    skipped = 86_400_000
    expect(firewall.decide(asks('/a/1')).action).toBe('deny')
    expect(firewall.list().map(({ subject }) => subject)).not.toContain(ALICE)
    advance(60_000)
    expect(changed).toHaveBeenCalledTimes(1)
  })

  test('what a rule for one use let in ends with the time of the rule', async () => {
    const advance = clocks()
    const firewall = new Firewall({ rules: [] })
    firewall.set({ subject: ALICE, action: 'allow', uses: 1, expiresAt: Date.now() + 1_000 })
    const admitted = await firewall.admit(asks('connection'))
    expect(await outcome(firewall, asks('connection'))).toBe('DENIED')
    expect(firewall.list().map(({ subject }) => subject)).not.toContain(ALICE)
    const stood: boolean[] = [firewall.stands(admitted)]
    firewall.addEventListener('change', () => stood.push(firewall.stands(admitted)))
    advance(1_000)
    expect(stood).toEqual([true, false])
  })

  test('a firewall that is refused leaves no timer', () => {
    clocks()
    const rules = [{ subject: ALICE, action: 'allow', expiresAt: Date.now() + 1_000 }, {}] as RuleInput[]
    expect(() => new Firewall({ rules })).toThrow(code('INVALID'))
    expect(vi.getTimerCount()).toBe(0)
  })

  test('closing leaves no timer', () => {
    clocks()
    const firewall = new Firewall({ rules: [{ subject: ALICE, action: 'allow', expiresAt: Date.now() + 1_000 }] })
    expect(vi.getTimerCount()).toBe(1)
    firewall.close()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('keeping and telling', () => {
  test('a firewall is the same after it was kept, with what the options add', async () => {
    const firewall = new Firewall({
      groups: { friends: [ALICE] },
      rules: [
        { subject: 'group:friends', object: '/a/*', direction: 'in', action: 'allow' },
        { subject: BOB, action: 'restrict', when: () => true },
      ],
    })
    firewall.removeDefault('out')
    const read = Firewall.fromJSON(JSON.parse(JSON.stringify(firewall)), { allow: [CAROL] })
    expect(read.list().map(({ id }) => id)).toEqual([...firewall.list().map(({ id }) => id), `${CAROL} anything in`])
    expect(await outcome(read, asks('/a/1'))).toBe('yes')
    expect(await outcome(read, asks('/a/1', { direction: 'out' }))).toBe('DENIED')
    expect(await outcome(firewall, asks('/a/1', { peer: BOB }))).toBe('yes')
    expect(await outcome(read, asks('/a/1', { peer: BOB }))).toBe('DENIED') // until the function is set again
    read.set({ subject: BOB, action: 'restrict', when: () => true })
    expect(await outcome(read, asks('/a/1', { peer: BOB }))).toBe('yes')
  })

  test('what cannot be read changes nothing, and nothing is no policy', () => {
    const firewall = new Firewall({ allow: [ALICE] })
    const before = firewall.list()
    expect(() => firewall.load({ version: 1, rules: [{}], groups: {} })).toThrow(code('INVALID'))
    expect(firewall.list()).toEqual(before)
    expect(() => Firewall.fromJSON(undefined)).toThrow(code('INVALID'))
    firewall.load({ version: 1, rules: [], groups: {} })
    expect(firewall.list()).toEqual([])
  })

  test('each decision is told and written down, with its reason; a failing sink disturbs nobody', async () => {
    const sink = () => {
      throw new Error('disk full')
    }
    const firewall = new Firewall({ rules: [{ subject: ALICE, action: 'allow' }], audit: { sink }, now: () => 7 })
    const told: string[] = []
    firewall.addEventListener('decision', ({ detail }) => told.push(detail.reason))
    await outcome(firewall, asks('/a/1'))
    await outcome(firewall, asks('connection', { peer: BOB }))
    expect(firewall.audit.entries).toEqual([
      {
        at: 7,
        peer: ALICE,
        object: '/a/1',
        direction: 'in',
        action: 'allow',
        rule: `${ALICE} anything both`,
        reason: 'rule',
      },
      { at: 7, peer: BOB, object: 'connection', direction: 'in', action: 'deny', reason: 'no-rule' },
    ])
    expect(told).toEqual(['rule', 'no-rule'])
  })

  test('a refusal is explicit, and tells neither rule nor reason', async () => {
    const firewall = new Firewall({
      rules: [{ subject: 'group:enemies', action: 'deny' }],
      groups: { enemies: [ALICE] },
    })
    const error = (await firewall.admit(asks('/a/1')).catch((thrown: unknown) => thrown)) as Error
    expect(error).toEqual(code('DENIED'))
    expect(`${error.message} ${JSON.stringify(error)}`).not.toMatch(/enemies|rule/)
  })

  test('changes name whom they concern', () => {
    const firewall = new Firewall()
    const seen: unknown[] = []
    firewall.addEventListener('change', ({ detail }) => seen.push([detail.subjects, detail.rule?.action]))
    firewall.set({ subject: 'group:g', action: 'deny' })
    firewall.addToGroup('g', ALICE)
    firewall.addToGroup('g', ALICE)
    firewall.setDefault('allow')
    firewall.remove('group:g anything both')
    expect(seen).toEqual([
      [['group:g'], 'deny'],
      [[ALICE], undefined],
      [['everyone'], 'allow'],
      [['group:g'], undefined],
    ])
    expect(firewall.concerns(['everyone'], BOB)).toBe(true)
    expect(firewall.concerns([ALICE], BOB)).toBe(false)
  })

  test.each<FirewallOptions>([
    { approve: () => true, ask: () => true },
    { approveTimeoutMs: 0 },
    { approveTimeoutMs: Number.NaN },
    { approveTimeoutMs: 2 ** 31 },
    { rules: [{ subject: 'me', action: 'allow' }] },
    { groups: { g: ['me'] } },
    { policy: 'none' },
  ])('options that are none are refused: %o', (options) => {
    expect(() => new Firewall(options)).toThrow(code('INVALID'))
  })
})
