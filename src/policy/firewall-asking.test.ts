import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import type { Answer, Asked } from './asking.ts'
import { Firewall, type FirewallOptions } from './firewall.ts'
import type { Question } from './rule.ts'

const PEERS = Array.from({ length: 65 }, () => Identity.generate().peerId)
const [ALICE, BOB] = PEERS as [Question['peer'], Question['peer']]
const asks = (object: string, more: Partial<Question> = {}): Question => ({
  peer: ALICE,
  direction: 'in',
  object,
  ...more,
})
const outcome = (firewall: Firewall, question: Question, signal?: AbortSignal) =>
  firewall.admit(question, signal === undefined ? {} : { signal }).then(
    () => 'yes',
    (error: { code: string }) => error.code.slice('ERR_PEERLINE_'.length),
  )
const objects = ({ questions }: Asked) => questions.map(({ object }) => object)

/** A firewall whose owner answers when the test says so. */
function asking(options: FirewallOptions = {}) {
  const calls: {
    asked: Asked
    signal: AbortSignal
    answer: (value: Answer) => void
    fail: (error: unknown) => void
  }[] = []
  const firewall = new Firewall({
    ...options,
    ask: (asked, { signal }) =>
      new Promise((answer, fail) => {
        calls.push({ asked, signal, answer, fail })
      }),
  })
  firewall.remove('everyone anything out')
  return { firewall, calls, rules: () => firewall.list().length }
}

/** The turn ends: what was gathered is asked. */
const turn = () => vi.advanceTimersByTimeAsync(0)

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'] })
})

afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

describe('asking', () => {
  test('all that a peer asks in a turn is one question, complete and closed', async () => {
    const { firewall, calls } = asking()
    const all = ['connection', '/a/1', '/b/1', '/a/1'].map((object) => outcome(firewall, asks(object)))
    const bob = outcome(firewall, asks('/a/1', { peer: BOB }))
    await Promise.resolve()
    all.push(outcome(firewall, asks('/c/1')))
    expect(calls).toEqual([])
    await turn()
    expect(calls.map(({ asked }) => [asked.peer, objects(asked)])).toEqual([
      [ALICE, ['connection', '/a/1', '/b/1', '/c/1']],
      [BOB, ['/a/1']],
    ])
    expect(Object.isFrozen(calls[0]!.asked.questions)).toBe(true)
    calls[0]!.answer(true)
    calls[1]!.answer(false)
    expect(await Promise.all(all)).toEqual(['yes', 'yes', 'yes', 'yes', 'yes'])
    expect(await bob).toBe('DENIED')
  })

  test('asked once: the answer is remembered as a rule of the peer, and kept', async () => {
    const { firewall, calls } = asking()
    const first = outcome(firewall, asks('connection'))
    await turn()
    calls[0]!.answer(true)
    expect(await first).toBe('yes')
    expect(await outcome(firewall, asks('/a/1'))).toBe('yes')
    expect(firewall.list()).toMatchObject([{ subject: ALICE, object: 'anything', action: 'allow', answer: true }])
    expect(await outcome(Firewall.fromJSON(JSON.parse(JSON.stringify(firewall))), asks('/a/1'))).toBe('yes')
    expect(calls.length).toBe(1)
    const out = outcome(firewall, asks('/a/1', { direction: 'out' })) // another direction is another matter
    await turn()
    calls[1]!.answer(false)
    expect(await out).toBe('DENIED')
    expect(firewall.offers(asks('/a/1', { direction: 'out' }))).toBe(false)
  })

  test('a remembered yes opens nothing that a rule keeps shut; a remembered no stays', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', object: '/admin/*', action: 'deny' }] })
    const both = [ALICE, BOB].map((peer) => outcome(firewall, asks('/a/1', { peer })))
    await turn()
    calls[0]!.answer(true)
    calls[1]!.answer(false)
    expect(await Promise.all(both)).toEqual(['yes', 'DENIED'])
    expect(await outcome(firewall, asks('/admin/1'))).toBe('DENIED')
    firewall.setDefault('allow')
    expect(await outcome(firewall, asks('/a/1', { peer: BOB }))).toBe('DENIED')
    firewall.setDefault('deny')
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
  })

  test('a rule to ask is asked each time, and its answer is for that time', async () => {
    const { firewall, calls, rules } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    for (const [index, yes] of [true, false, true].entries()) {
      const one = outcome(firewall, asks('/a/1'))
      await turn()
      expect(calls[index]!.asked.questions).toMatchObject([{ why: 'rule', rule: 'everyone anything both' }])
      calls[index]!.answer(yes)
      expect(await one).toBe(yes ? 'yes' : 'DENIED')
    }
    expect(rules()).toBe(1)
  })

  test('an answer covers nothing that was not shown: what comes later is asked later', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    const chat = outcome(firewall, asks('/chat/1'))
    await turn()
    const later = [outcome(firewall, asks('/chat/1')), outcome(firewall, asks('/admin/1'))]
    await turn()
    calls[0]!.answer(true)
    expect(await Promise.all([chat, later[0]])).toEqual(['yes', 'yes'])
    expect(objects(calls[1]!.asked)).toEqual(['/admin/1'])
    calls[1]!.answer(false)
    expect(await later[1]).toBe('DENIED')
  })

  test('two requests of one protocol are two questions, each with what may be seen of it', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    const views = ['small', 'large']
    const all = views.map((view) => outcome(firewall, asks('/a/1', { view })))
    all.push(...['read', 'write'].map((need) => outcome(firewall, asks('/b/1', { needs: [need] }))))
    await turn()
    expect(calls[0]!.asked.questions.map(({ view, needs }) => view ?? needs)).toEqual([...views, ['read'], ['write']])
    const later = outcome(firewall, asks('/a/1', { view: 'huge' }))
    calls[0]!.answer([true, false, true, false])
    expect(await Promise.all(all)).toEqual(['yes', 'DENIED', 'yes', 'DENIED'])
    await turn()
    expect(calls[1]!.asked.questions).toMatchObject([{ view: 'huge' }])
    calls[1]!.answer(false)
    expect(await later).toBe('DENIED')
  })

  test('an owner who answers at once has seen all of the turn', async () => {
    const ask = vi.fn(({ questions }: Asked) => questions.every(({ object }) => object === '/chat/1'))
    const firewall = new Firewall({ ask })
    const both = ['/chat/1', '/admin/1'].map((object) => outcome(firewall, asks(object)))
    await turn()
    expect(await Promise.all(both)).toEqual(['DENIED', 'DENIED'])
    expect(ask).toHaveBeenCalledTimes(1)
  })

  test('once lets in all that was asked, and is not remembered', async () => {
    const { firewall, calls, rules } = asking()
    const before = rules()
    const all = ['connection', '/a/1'].map((object) => firewall.admit(asks(object)))
    await turn()
    calls[0]!.answer('once')
    const decisions = await Promise.all(all)
    expect(decisions.map(({ reason }) => reason)).toEqual(['approved', 'approved'])
    expect(rules()).toBe(before)
    const stand = () => decisions.map((decision) => firewall.stands(decision))
    expect(stand()).toEqual([true, true])
    const again = outcome(firewall, asks('/a/1'))
    await turn()
    expect(calls.length).toBe(2)
    calls[1]!.answer(false)
    expect(await again).toBe('DENIED')
    // That no is remembered, and ends what was let in.
    expect(stand()).toEqual([false, false])
  })

  test('a list of answers is remembered for each by itself', async () => {
    const { firewall, calls } = asking()
    const all = ['/a/1', '/b/1', '/a*b'].map((object) => outcome(firewall, asks(object)))
    await turn()
    calls[0]!.answer([true, false, true])
    expect(await Promise.all(all)).toEqual(['yes', 'DENIED', 'yes'])
    // the last name would be a pattern: it is not remembered
    expect(firewall.list().map(({ object, action }) => [object, action])).toEqual([
      ['/a/1', 'allow'],
      ['/b/1', 'deny'],
    ])
  })

  test('a rule may be the answer; what it does not let through is refused', async () => {
    const { firewall, calls } = asking()
    const both = [outcome(firewall, asks('/a/1')), outcome(firewall, asks('/b/1'))]
    await turn()
    calls[0]!.answer({ object: '/a/*', action: 'allow', expiresAt: Date.now() + 1_000 })
    expect(await Promise.all(both)).toEqual(['yes', 'DENIED'])
    expect(firewall.list()).toMatchObject([{ subject: ALICE, object: '/a/*', action: 'allow' }])
    firewall.close()
  })

  test('a rule for one use that is the answer lets one through', async () => {
    const { firewall, calls, rules } = asking({ rules: [{ subject: ALICE, object: '/b/1', action: 'ask' }] })
    const all = ['/a/1', '/a/2', '/b/1'].map((object) => outcome(firewall, asks(object)))
    await turn()
    calls[0]!.answer({ action: 'allow', uses: 1 })
    expect(await Promise.all(all)).toEqual(['yes', 'DENIED', 'DENIED'])
    expect(rules()).toBe(1)
  })

  test('a rule to ask for one use lets one through, whatever the owner says to all', async () => {
    const { firewall, calls, rules } = asking({ rules: [{ subject: 'everyone', action: 'ask', uses: 1 }] })
    const all = ['/a/1', '/a/2'].map((object) => outcome(firewall, asks(object)))
    await turn()
    calls[0]!.answer(true)
    expect(await Promise.all(all)).toEqual(['yes', 'DENIED'])
    expect(rules()).toBe(0)
  })

  test('the rate of a rule to ask is how often a peer may ask', async () => {
    const rate = { count: 2, perMs: 60_000 }
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', action: 'ask', rate }] })
    for (const index of [0, 1]) {
      const one = outcome(firewall, asks('/a/1'))
      await turn()
      calls[index]!.answer(index === 1)
      expect(await one).toBe(index === 1 ? 'yes' : 'DENIED')
    }
    expect(await outcome(firewall, asks('/a/1'))).toBe('BUSY')
    expect(calls.length).toBe(2)
  })

  test('what is asked is told', async () => {
    const { firewall, calls } = asking()
    const told: string[][] = []
    firewall.addEventListener('question', ({ detail }) => told.push(objects(detail)))
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    calls[0]!.answer(false)
    await one
    expect(told).toEqual([['/a/1']])
  })
})

describe('no answer', () => {
  test('in time: refused, cancelled, nothing remembered; by the time-out that was set, and only that', async () => {
    const { firewall, calls, rules } = asking({ approveTimeoutMs: 2_000 })
    const first = outcome(firewall, asks('/a/1'))
    await turn()
    const queued = outcome(firewall, asks('/b/1'))
    await vi.advanceTimersByTimeAsync(1_999)
    expect(calls[0]!.signal.aborted).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(await Promise.all([first, queued])).toEqual(['DENIED', 'DENIED'])
    expect(calls[0]!.signal.aborted).toBe(true)
    expect(firewall.audit.entries.map(({ reason }) => reason)).toEqual(['unanswered', 'unanswered'])
    calls[0]!.answer(true) // too late
    await turn()
    expect(rules()).toBe(0)
    // and asked again next time
    const again = outcome(firewall, asks('/a/1'))
    await turn()
    calls[1]!.answer(true)
    expect(await again).toBe('yes')
  })

  test('within 10 s, when nothing else was set', async () => {
    const { firewall } = asking()
    const one = outcome(firewall, asks('/a/1'))
    let settled = false
    void one.then(() => {
      settled = true
    })
    await turn()
    await vi.advanceTimersByTimeAsync(9_999)
    expect(settled).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    expect(await one).toBe('DENIED')
  })

  test.each<[string, FirewallOptions['ask']]>([
    [
      'throws',
      () => {
        throw new Error('boom')
      },
    ],
    ['rejects', () => Promise.reject(new Error('boom'))],
    ['says undefined', () => undefined as unknown as boolean],
    ['nearly says yes', () => 'yes' as unknown as boolean],
    ['says 1', () => 1 as unknown as boolean],
    ['answers too many', () => [true, true]],
    ['answers too few', () => []],
    ['answers no booleans', () => [1] as unknown as boolean[]],
    ['gives a rule that is none', () => ({ action: 'allow', object: '' })],
    ['gives a rule that has ended', () => ({ action: 'allow', expiresAt: 1 })],
    ['gives a rule that asks', () => ({ action: 'ask', object: 'connection' })],
    // biome-ignore lint/suspicious/noThenProperty: this is what is tried
    ['is no promise, and fails', () => ({ then: (_: unknown, no: (e: unknown) => void) => no(1) }) as never],
  ])('an approver that %s means no, and nothing is let in by it', async (_, ask) => {
    const firewall = new Firewall({ ask: ask! })
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    expect(await one).toBe('DENIED')
    expect(firewall.list().filter(({ action, direction }) => action === 'allow' && direction !== 'out')).toEqual([])
  })

  test('the failure of the approver is the cause', async () => {
    const failing = new Firewall({ approve: () => Promise.reject(new Error('boom')) })
    const error = await failing.admit({ from: ALICE, how: 'direct' }).catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ code: 'ERR_PEERLINE_DENIED', cause: { message: 'boom' } })
  })

  test('an approver that answers twice is heard once', async () => {
    const twice = (yes: (value: boolean) => void, no: (error: unknown) => void) => {
      yes(false)
      yes(true)
      no(new Error('boom'))
    }
    // biome-ignore lint/suspicious/noThenProperty: this is what is tried
    const firewall = new Firewall({ ask: () => ({ then: twice }) as never })
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    expect(await one).toBe('DENIED')
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
  })

  test('without an approver: refused, and nothing remembered', async () => {
    const firewall = new Firewall({ rules: [{ subject: 'everyone', object: '/a/1', action: 'ask' }] })
    const before = firewall.list()
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(await outcome(firewall, asks('/b/1'))).toBe('DENIED')
    expect(firewall.audit.entries.map(({ reason }) => reason)).toEqual(['no-approver', 'no-rule'])
    expect(firewall.list()).toEqual(before)
  })
})

describe('a peer that leaves', () => {
  test('while the owner thinks: cancelled, and the answer changes nothing and leaks nothing', async () => {
    const { firewall, calls, rules } = asking()
    const left = new AbortController()
    const one = outcome(firewall, asks('/a/1'), left.signal)
    await turn()
    left.abort()
    expect(await one).toBe('ABORTED')
    expect(calls[0]!.signal.aborted).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
    calls[0]!.answer(true)
    await turn()
    expect(rules()).toBe(0)
    expect(firewall.decide(asks('/a/1')).action).toBe('ask')
    expect(firewall.audit.entries.map(({ reason }) => reason)).toEqual(['left'])
    // the place is free: 16 fit again
    const again = Array.from({ length: 17 }, (_, i) => outcome(firewall, asks(`/${i}`)))
    await turn()
    calls[1]!.answer(true)
    expect((await Promise.all(again)).filter((said) => said === 'yes').length).toBe(16)
  })

  test('within the turn asks nothing', async () => {
    const { firewall, calls } = asking()
    const left = new AbortController()
    const gone = outcome(firewall, asks('/a/1'), left.signal)
    const stays = outcome(firewall, asks('/b/1'))
    left.abort()
    expect(await gone).toBe('ABORTED')
    await turn()
    expect(objects(calls[0]!.asked)).toEqual(['/b/1'])
    calls[0]!.answer([true])
    expect(await stays).toBe('yes')
  })

  test('in one of its sessions leaves the questions of the other, in its turn', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    const left = new AbortController()
    const gone = outcome(firewall, asks('/a/1'), left.signal)
    await turn()
    const queued = outcome(firewall, asks('/b/1'))
    left.abort()
    expect(await gone).toBe('ABORTED')
    expect(objects(calls[1]!.asked)).toEqual(['/b/1'])
    calls[0]!.answer(true)
    await turn()
    calls[1]!.answer(false)
    expect(await queued).toBe('DENIED')
  })

  test('before it asks is not asked about', async () => {
    const { firewall, calls } = asking()
    expect(await outcome(firewall, asks('/a/1'), AbortSignal.abort())).toBe('ABORTED')
    await turn()
    expect(calls).toEqual([])
  })

  test('no listener stays at a signal that lives on', async () => {
    const { firewall, calls } = asking()
    const { signal } = new AbortController()
    const all = ['/a/1', '/b/1'].map((object) => outcome(firewall, asks(object), signal))
    await turn()
    all.push(outcome(firewall, asks('/c/1'), signal))
    calls[0]!.answer(true)
    await Promise.all(all)
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })
})

describe('bounds', () => {
  test('64 peers are asked about at once, and 16 questions of one', async () => {
    const { firewall, calls } = asking()
    const all = PEERS.map((peer) => outcome(firewall, asks('/a/1', { peer })))
    expect(await all[64]).toBe('BUSY')
    const more = Array.from({ length: 16 }, (_, i) => outcome(firewall, asks(`/more/${i}`)))
    expect(await more[15]).toBe('BUSY')
    await turn()
    expect(calls.length).toBe(64)
    expect(calls[0]!.asked.questions.length).toBe(16)
    firewall.close()
    expect(await Promise.all(all.slice(0, 64))).toEqual(Array(64).fill('DENIED'))
    expect(calls.every(({ signal }) => signal.aborted)).toBe(true)
  })

  test('those that wait for the next call count as well', async () => {
    const { firewall } = asking()
    const first = outcome(firewall, asks('/first/1'))
    await turn()
    const more = Array.from({ length: 16 }, (_, i) => outcome(firewall, asks(`/more/${i}`)))
    expect(await more[15]).toBe('BUSY')
    firewall.close()
    expect(await Promise.all([first, ...more.slice(0, 15)])).toEqual(Array(16).fill('DENIED'))
  })

  test('after the end nobody is asked, nor let in', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: ALICE, action: 'allow' }] })
    const waits = outcome(firewall, asks('/a/1', { peer: BOB }))
    firewall.close()
    expect(await waits).toBe('DENIED')
    expect(await outcome(firewall, asks('/a/1'))).toBe('DENIED')
    expect(await outcome(firewall, asks('/a/1', { peer: BOB }))).toBe('DENIED')
    expect(calls).toEqual([])
    firewall.close()
  })
})

describe('rules that change while the owner thinks', () => {
  test('decide what waits, at once; the call ends when nobody waits any more', async () => {
    const { firewall, calls } = asking()
    const [a, b] = [outcome(firewall, asks('/a/1')), outcome(firewall, asks('/b/1'))]
    await turn()
    const queued = outcome(firewall, asks('/a/2'))
    firewall.set({ subject: 'everyone', object: '/a/*', action: 'allow' })
    expect(await Promise.all([a, queued])).toEqual(['yes', 'yes'])
    expect(calls[0]!.signal.aborted).toBe(false)
    firewall.setDefault('deny')
    expect(await b).toBe('DENIED')
    expect(calls[0]!.signal.aborted).toBe(true)
    expect(calls.length).toBe(1)
  })

  test('a yes that meets a new denial is a no', async () => {
    const { firewall, calls } = asking()
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    calls[0]!.answer(true)
    firewall.set({ subject: ALICE, action: 'deny' })
    expect(await one).toBe('DENIED')
  })

  test('a denial between the answer and its arrival is heeded', async () => {
    const { firewall, calls } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    calls[0]!.answer(true)
    await Promise.resolve() // the answer is taken, and on its way to who waits
    firewall.set({ subject: ALICE, action: 'deny' })
    expect(await one).toBe('DENIED')
  })

  test('a yes for this time does not become a rule when the rule to ask goes', async () => {
    const { firewall, calls, rules } = asking({ rules: [{ subject: 'everyone', action: 'ask' }] })
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    firewall.remove('everyone anything both')
    calls[0]!.answer(true)
    expect(await one).toBe('DENIED')
    expect(rules()).toBe(0)
  })

  test('a default that now asks takes over who waits for a rule', async () => {
    const { firewall, calls, rules } = asking()
    const one = outcome(firewall, asks('/a/1'))
    await turn()
    firewall.setDefault('ask', 'in')
    calls[0]!.answer(true)
    expect(await one).toBe('yes')
    expect(rules()).toBe(1) // the default: the yes was for this time
  })
})
