/**
 * Whatever rules, groups, defaults and bans change while two peers ask and send: no handler is entered that they do not allow
 * at that moment, none goes on with a signal that has not fired, and everything that was asked settles.
 */
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { defineProtocol, type Peer, type RequestContext, requestKey } from '../../src/index.ts'
import type { Firewall } from '../../src/policy/firewall.ts'
import { outcomeOf } from './policy-rows.ts'
import { startPeer } from './world.ts'

const RUNS = Number(process.env.PEERLINE_RUNS ?? 12)
const EMPTY = new Uint8Array(0)

const OBJECTS = ['/a/1', '/b/1', '/seen/1'] as const
const WHATS = ['read', 'write'] as const
const GROUPS = ['red', 'blue'] as const

/** Who is meant: one of the two peers. */
const who = fc.nat({ max: 1 })
const subject = fc.oneof(
  who.map((at) => ({ at })),
  fc.constantFrom<'everyone' | 'group:red' | 'group:blue'>('everyone', 'group:red', 'group:blue'),
)
const object = fc.constantFrom('anything', 'connection', '*', '/a/*', ...OBJECTS)
const does = fc.oneof(
  { weight: 3, arbitrary: fc.constant({ action: 'allow' as const }) },
  { weight: 2, arbitrary: fc.constant({ action: 'deny' as const }) },
  fc.constant({ action: 'ask' as const }),
  fc.subarray([...WHATS]).map((permissions) => ({ action: 'restrict' as const, permissions })),
  fc.constantFrom(...WHATS).map((what) => ({ action: 'restrict' as const, what })),
)

const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('set' as const),
      subject,
      object,
      does,
      direction: fc.constantFrom('in' as const, 'both' as const),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), at: fc.nat() }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('default' as const),
      rule: fc.constantFrom('allow' as const, 'deny' as const, 'ask' as const, undefined),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom('join' as const, 'leave' as const),
      group: fc.constantFrom(...GROUPS),
      at: who,
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('ban' as const, 'unban' as const), at: who }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('owner' as const), says: fc.boolean() }) },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('ask' as const),
      at: who,
      object: fc.constantFrom(...OBJECTS),
      form: fc.constantFrom('plain' as const, 'keyed' as const, 'message' as const),
      what: fc.constantFrom(...WHATS),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('wait' as const), turns: fc.integer({ min: 1, max: 4 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('release' as const) }) },
)
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never

/** It takes a turn to be read: time for a change. */
const slowly = async (value: unknown) => {
  await turn()
  return { value: value as string }
}

const slow = defineProtocol<string, string, string, string>({
  name: '/b/1',
  request: { '~standard': { version: 1, vendor: 'here', validate: slowly } },
})

const seen = defineProtocol<string, string, string, string>({
  name: '/seen/1',
  request: { '~standard': { version: 1, vendor: 'here', validate: slowly } },
  view: (what) => what,
  needs: (what) => [what],
})

/** A handler that was entered, and has not ended. */
interface Running {
  readonly from: Peer['id']
  readonly object: string
  readonly what?: string
  readonly signal: AbortSignal
}

class World {
  readonly b: Peer
  readonly askers: readonly Peer[]
  readonly running = new Set<Running>()
  readonly settled: Promise<string>[] = []
  readonly wrong: string[] = []
  says = true
  entered = 0
  #release: (() => void)[] = []

  constructor(b: Peer, askers: readonly Peer[]) {
    this.b = b
    this.askers = askers
    b.handle('/a/1', async (_, context) => {
      await this.#run('/a/1', context)
      return EMPTY
    })
    b.handle(slow, async (what, context) => {
      await this.#run('/b/1', context)
      return what
    })
    b.handle(seen, async (what, context) => {
      await this.#run('/seen/1', context, what)
      return what
    })
  }

  /** What the rules and bans say now of a handler that runs; of one that the owner was asked about, that it may. */
  allows({ from, object, what }: Omit<Running, 'signal'>): boolean {
    const { firewall, bans } = this.b
    const more = what === undefined ? {} : { view: what, needs: [what] }
    const of = (object: string, seen = {}) => firewall.decide({ peer: from, direction: 'in', object, ...seen }).action
    return !bans.isBanned(from) && of('connection') !== 'deny' && of(object, more) !== 'deny'
  }

  async #run(object: string, context: RequestContext, what?: string): Promise<void> {
    const { from, signal } = context
    const running = { from, object, ...(what === undefined ? {} : { what }), signal }
    this.entered++
    if (!this.allows(running)) this.wrong.push(`${object} was entered`)
    this.running.add(running)
    await new Promise<void>((resolve) => {
      this.#release.push(resolve)
      if (signal.aborted) resolve()
      signal.addEventListener('abort', () => resolve())
    })
    this.running.delete(running)
  }

  release(): void {
    for (const resolve of this.#release.splice(0)) resolve()
  }

  /** After each step, and at the latest a turn later. */
  check(after: string): void {
    for (const running of this.running) {
      if (!running.signal.aborted && !this.allows(running)) this.wrong.push(`${running.object} goes on after ${after}`)
    }
  }

  take(one: Step): void {
    const { b, askers } = this
    const { firewall, bans } = b
    switch (one.do) {
      case 'set': {
        const { subject, object, does, direction } = one
        const { what, ...rest } = does as { action: 'restrict'; what?: string }
        const when =
          what === undefined ? {} : { when: ({ view }: { view?: unknown }) => view === what || view === undefined }
        const id = typeof subject === 'string' ? subject : askers[subject.at]!.id
        firewall.set({ ...rest, ...when, subject: id, object, direction })
        return
      }
      case 'remove':
        return removeOne(firewall, one.at)
      case 'default':
        return firewall.setDefault(one.rule, 'in')
      case 'join':
        return firewall.addToGroup(one.group, askers[one.at]!.id)
      case 'leave':
        return firewall.removeFromGroup(one.group, askers[one.at]!.id)
      case 'ban':
        bans.ban(askers[one.at]!.id)
        return
      case 'unban':
        bans.unban(askers[one.at]!.id)
        return
      case 'owner':
        this.says = one.says
        return
      case 'release':
        return this.release()
      case 'ask':
        this.settled.push(outcomeOf(this.#ask(one)))
    }
  }

  #ask({ at, object, form, what }: Extract<Step, { do: 'ask' }>): Promise<unknown> {
    const { b } = this
    const asker = this.askers[at]!
    const how = {
      addresses: b.addresses,
      timeoutMs: 5_000,
      ...(form === 'keyed' ? { key: requestKey(), attempts: 2 } : {}),
    }
    if (object !== '/a/1') {
      const protocol = object === '/b/1' ? slow : seen
      return form === 'message' ? asker.send(b.id, protocol, what, how) : asker.request(b.id, protocol, what, how)
    }
    return form === 'message' ? asker.send(b.id, object, EMPTY, how) : asker.request(b.id, object, EMPTY, how)
  }
}

function removeOne(firewall: Firewall, at: number): void {
  const rules = firewall.list()
  if (rules.length > 0) firewall.remove(rules[at % rules.length]!.id)
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

describe('no sequence of changes', () => {
  test('lets a request reach a handler, or go on there, that is not allowed then', {
    timeout: 20_000 + RUNS * 1_000,
  }, async () => {
    const askers = [await startPeer({ reconnectMs: 0 }), await startPeer({ reconnectMs: 0 })]
    let entered = 0
    const outcomes = new Map<string, number>()
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 80 }), async (steps) => {
        let world: World | undefined
        const ask = async () => world?.says ?? false
        const rules = [{ subject: 'everyone', object: 'connection', direction: 'in', action: 'allow' }] as const
        const b = await startPeer({ firewall: { ask, rules, approveTimeoutMs: 1_000 } })
        world = new World(b, askers)
        b.firewall.setDefault('allow', 'in')
        await Promise.all(askers.map((asker) => asker.connect(b.id, { addresses: b.addresses })))
        for (const one of steps) {
          if (one.do === 'wait') for (let turns = 0; turns < one.turns; turns++) await turn()
          else world.take(one)
          if (one.do === 'wait' || one.do === 'set') await turn()
          // A signal that follows the end of a stream fires a moment later.
          for (let moment = 0; moment < 8; moment++) await Promise.resolve()
          world.check(JSON.stringify(one))
        }
        // Whatever still runs is let go, as often as something else comes of that.
        const all = Promise.all(world.settled)
        const done = all.then(() => true)
        while (!(await Promise.race([done, turn().then(() => false)]))) world.release()
        for (const outcome of await all) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
        expect(world.wrong).toEqual([])
        entered += world.entered
        world.release()
        await b.close({ signal: AbortSignal.timeout(100) })
        await Promise.all(askers.flatMap(({ sessions }) => sessions.map((session) => session.closed)))
      }),
      { numRuns: RUNS, interruptAfterTimeLimit: 15_000 + RUNS * 500, markInterruptAsFailure: true },
    )
    // It was about something: some were entered, some refused, some cut, and nothing waited in vain.
    expect(entered).toBeGreaterThan(RUNS)
    expect(outcomes.get('ERR_PEERLINE_DENIED')).toBeGreaterThan(0)
    expect(outcomes.get('answered')).toBeGreaterThan(0)
    expect([...outcomes.keys()]).not.toContain('ERR_PEERLINE_TIMEOUT')
    if (process.env.PEERLINE_RUNS !== undefined) console.log(entered, outcomes)
  })
})
