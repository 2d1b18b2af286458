/** Every kind of rule, with each default: what becomes of what is asked for after it was set. */
import { describe, expect, test } from 'vitest'
import { defineProtocol, type Peer, type Session } from '../../src/index.ts'
import type { FirewallOptions } from '../../src/policy/firewall.ts'
import {
  DEFAULTS,
  DENIED,
  type Default,
  Owner,
  outcomeOf,
  ROWS,
  type Row,
  type Said,
  SEEN,
  seen,
  setDefault,
  setRow,
} from './policy-rows.ts'
import { once, startPeer } from './world.ts'

const EMPTY = new Uint8Array(0)

/** ms: long enough to answer at once, and short enough to wait for. */
const SILENCE_MS = 50

function guarded(owner: Owner, clock: { ms: number }, more: FirewallOptions = {}): FirewallOptions {
  return { ask: owner.ask, approveTimeoutMs: SILENCE_MS, now: () => clock.ms, rules: [], ...more }
}

/** A peer that decides, and one that asks and is always let in. */
async function startPair() {
  const [owner, clock] = [new Owner(), { ms: Date.now() }]
  const a = await startPeer()
  const rules = [{ subject: a.id, object: 'connection', direction: 'in', action: 'allow' }] as const
  const b = await startPeer({ firewall: guarded(owner, clock, { rules }) })
  return { a, b, owner, clock }
}

const dial = (a: Peer, b: Peer): Promise<Session> => a.connect(b.id, { addresses: b.addresses })

describe.each(DEFAULTS)('requests, the default being %s', (by: Default) => {
  test.each(['a session that is opened then', 'a session that is open'] as const)('%s', async (when) => {
    const { a, b, owner, clock } = await startPair()
    setDefault(b.firewall, by)
    const results: unknown[] = []
    const expected: unknown[] = []
    for (const [index, row] of [...ROWS, ...SEEN].entries()) {
      const object = `/row-${index}/1`
      let calls = 0
      const protocol = seen(object)
      const answer = <T>(body: T): T => {
        calls++
        return body
      }
      if (row.what === undefined) b.handle(object, answer)
      else b.handle(protocol, answer)
      const ask = () =>
        outcomeOf(row.what === undefined ? a.request(b.id, object, EMPTY) : a.request(b.id, protocol, row.what))
      if (when === 'a session that is open') await dial(a, b)
      owner.said = row.said ?? false
      const undo = setRow(b.firewall, row, { peer: a.id, object, direction: 'in', clock })
      const session = await dial(a, b)
      const [first, callsThen, second] = [await ask(), calls, await ask()]
      results.push([row.name, first, callsThen, second, calls, session.state])
      const [one, two] = [row.first(by), row.second(by)]
      const sure = one === 'answered' ? 1 : 0
      expected.push([row.name, one, sure, two, sure + (two === 'answered' ? 1 : 0), 'open'])
      undo()
      if (when === 'a session that is opened then') await session.close()
    }
    expect(results).toEqual(expected)
  })
})

describe.each(DEFAULTS)('requests of ours, the default being %s', (by: Default) => {
  test('are held to our own rules, before anything goes out', async () => {
    const [owner, clock] = [new Owner(), { ms: Date.now() }]
    const b = await startPeer()
    const rules = [{ subject: b.id, object: 'connection', direction: 'out', action: 'allow' }] as const
    const a = await startPeer({ firewall: guarded(owner, clock, { rules }) })
    setDefault(a.firewall, by, 'out')
    const session = await dial(a, b)
    const results: unknown[] = []
    const expected: unknown[] = []
    for (const [index, row] of ROWS.entries()) {
      const object = `/row-${index}/1`
      let calls = 0
      b.handle(object, (body) => {
        calls++
        return body
      })
      const ask = () => outcomeOf(a.request(b.id, object, EMPTY))
      owner.said = said(row, 'out')
      const undo = setRow(a.firewall, row, { peer: b.id, object, direction: 'out', clock })
      const [first, second] = [await ask(), await ask()]
      results.push([row.name, first, second, calls, session.state])
      const wanted = [row.first(by), row.second(by)]
      expected.push([row.name, ...wanted, wanted.filter((one) => one === 'answered').length, 'open'])
      undo()
    }
    expect(results).toEqual(expected)
  })
})

describe.each(DEFAULTS)('connections, the default being %s', (by: Default) => {
  test('from others', async () => {
    const [owner, clock] = [new Owner(), { ms: Date.now() }]
    const b = await startPeer({ firewall: guarded(owner, clock) })
    const a = await startPeer()
    setDefault(b.firewall, by)
    expect(await table(a, b, { owner, clock, peer: a, decider: b, direction: 'in' })).toEqual(wanted(by))
    expect(b.connections).toMatchObject({ pendingIn: 0, establishedIn: 0, total: 0 })
  })

  test('to others', async () => {
    const [owner, clock] = [new Owner(), { ms: Date.now() }]
    const a = await startPeer({ firewall: guarded(owner, clock) })
    const b = await startPeer()
    let reached = 0
    b.addEventListener('sessionEnd', () => reached++)
    setDefault(a.firewall, by, 'out')
    expect(await table(a, b, { owner, clock, peer: b, decider: a, direction: 'out' })).toEqual(wanted(by))
    const dialled = wanted(by).flatMap(([, ...tries]) => tries.filter((one) => one === 'answered'))
    expect(reached).toBe(dialled.length)
    expect(a.connections).toMatchObject({ pendingOut: 0, establishedOut: 0, total: 0 })
  })
})

/** What the owner says, where that is a rule for this direction. */
function said({ said: answer = false }: Row, direction: 'in' | 'out'): Said {
  return typeof answer === 'object' && 'action' in answer ? { ...answer, direction } : answer
}

/** Dials from `a` to `b`, twice for each rule that `decider` has about `peer`. */
async function table(
  a: Peer,
  b: Peer,
  how: { owner: Owner; clock: { ms: number }; peer: Peer; decider: Peer; direction: 'in' | 'out' },
): Promise<[string, string, string][]> {
  const { owner, clock, peer, decider, direction } = how
  const results: [string, string, string][] = []
  for (const row of ROWS) {
    owner.said = said(row, direction)
    const undo = setRow(decider.firewall, row, { peer: peer.id, object: 'connection', direction, clock })
    const attempt = async () => {
      const outcome = await outcomeOf(dial(a, b))
      await Promise.all([...a.sessions, ...b.sessions].map((session) => session.close()))
      return outcome
    }
    results.push([row.name, await attempt(), await attempt()])
    undo()
  }
  return results
}

function wanted(by: Default): [string, string, string][] {
  return ROWS.map((row) => [row.name, row.first(by), row.second(by)])
}

describe('what is refused', () => {
  test('says so, or nothing at all, as the owner likes it; nobody learns which rule it was', async () => {
    for (const tellRefusals of [true, false]) {
      const rules = [
        { subject: 'everyone', object: 'connection', direction: 'in', action: 'allow' },
        { subject: 'everyone', object: '/secret/*', direction: 'in', action: 'deny' },
      ] as const
      const b = await startPeer({ firewall: { rules, tellRefusals } })
      const a = await startPeer()
      b.handle('/secret/1', () => EMPTY)
      await dial(a, b)
      const known = await a.request(b.id, '/secret/1', EMPTY).catch((error) => error)
      const unknown = await a.request(b.id, '/nothing/1', EMPTY).catch((error) => error)
      expect(known).toMatchObject({ code: tellRefusals ? DENIED : 'ERR_PEERLINE_NO_PROTOCOL', executed: 'no' })
      expect(unknown).toMatchObject({ code: 'ERR_PEERLINE_NO_PROTOCOL', executed: 'no' })
      // A protocol that is denied is as one that is not there.
      if (!tellRefusals) expect(known.message.replace('/secret/1', '')).toBe(unknown.message.replace('/nothing/1', ''))
      expect(known.message).not.toMatch(/rule|everyone|\*/)
    }
  })

  test('what is denied is not asked about, nor read: the body is never taken', async () => {
    const b = await startPeer()
    const a = await startPeer()
    b.firewall.set({ subject: a.id, object: '/big/1', direction: 'in', action: 'deny' })
    let decoded = 0
    const codec = { encode: () => new Uint8Array(1_000_000), decode: () => ++decoded }
    const big = defineProtocol<number, number, number, number>({ name: '/big/1', encoding: codec, view: (n) => n })
    b.handle(big, (n) => n)
    await dial(a, b)
    await expect(a.request(b.id, big, 1)).rejects.toMatchObject({ code: DENIED, executed: 'no' })
    expect(decoded).toBe(0)
  })

  test('an owner is asked once about what waits, however often it is asked for; and told of what to whom', async () => {
    const owner = new Owner()
    const b = await startPeer({ firewall: guarded(owner, { ms: Date.now() }) })
    const a = await startPeer()
    b.handle('/one/1', () => EMPTY)
    owner.said = true
    const asked = once<{ peer: string; questions: readonly { object: string }[] }>(b.firewall, 'question')
    await dial(a, b)
    expect(await asked).toMatchObject({ peer: a.id, questions: [{ object: 'connection', why: 'no-rule' }] })
    // The yes was to whatever it wants.
    await Promise.all([a.request(b.id, '/one/1', EMPTY), a.request(b.id, '/one/1', EMPTY)])
    expect(owner.asked).toBe(1)
    const log = b.firewall.audit.entries.map(({ object, action, reason }) => [object, action, reason])
    expect(log).toEqual([
      ['connection', 'allow', 'approved'],
      ['/one/1', 'allow', 'rule'],
      ['/one/1', 'allow', 'rule'],
    ])
  })

  test('an owner who says no to everything ends the session; one who says no to one thing does not', async () => {
    for (const [answer, state] of [
      [false, 'closed'],
      [[false], 'open'],
    ] as const) {
      const owner = new Owner()
      const rules = [{ subject: 'everyone', object: 'connection', direction: 'in', action: 'allow' }] as const
      const b = await startPeer({ firewall: guarded(owner, { ms: Date.now() }, { rules }) })
      const a = await startPeer()
      b.handle('/one/1', () => EMPTY)
      const session = await dial(a, b)
      owner.said = answer
      expect(await outcomeOf(a.request(b.id, '/one/1', EMPTY))).toBe(DENIED)
      expect(session.state).toBe(state)
      expect(b.firewall.list().map(({ id }) => id)).toContain(`${a.id} ${answer === false ? 'anything' : '/one/1'} in`)
    }
  })
})
