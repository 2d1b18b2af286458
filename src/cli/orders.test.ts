import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Memory } from '../peer/memory.ts'
import type { Json } from './control-lines.ts'
import { answererAt } from './orders.ts'

const [ALICE, BOB] = [Identity.generate().peerId, Identity.generate().peerId]

/** What an identity remembers, and a log that somebody writes. */
async function desk() {
  const memory = await Memory.open(undefined, { rules: [] })
  const listeners = new Set<(line: Json) => void>()
  let flushed = 0
  const log = {
    tail: async (count: number) => [{ at: 1 }, { at: 2 }].slice(-count),
    follow: (count: number, listener: (line: Json) => void) => {
      listeners.add(listener)
      return { past: log.tail(count), stop: () => listeners.delete(listener) }
    },
  }
  const { firewall, bans, known, invitations } = memory
  const flush = async () => void flushed++
  const answer = answererAt({ firewall, bans, known, invitations, flush, log })
  const begin = (order: Json, signal = new AbortController().signal) => answer(order, { signal })
  const run = async (order: Json): Promise<{ items: Json[]; done: Json }> => {
    const items: Json[] = []
    const answering = begin(order)
    for (;;) {
      const { done, value } = await answering.next()
      if (done === true) return { items, done: value }
      items.push(value)
    }
  }
  return { ...{ memory, listeners, begin, run }, flushed: () => flushed }
}

describe('an order', () => {
  test('changes what is remembered, and is answered when that is saved', async () => {
    const { memory, run, flushed } = await desk()
    await run({ order: 'allow', subject: ALICE, objects: ['anything'] })
    expect(memory.firewall.decide({ peer: ALICE, direction: 'in', object: 'connection' }).action).toBe('allow')
    await run({ order: 'ban', target: ALICE, until: Date.now() + 1_000 })
    const again = await run({ order: 'allow', subject: ALICE, objects: ['/a/1'] })
    expect(again.done).toMatchObject({ banned: true, set: [{ object: '/a/1' }] })
    expect((await run({ order: 'deny', subject: 'everyone', objects: ['/a/1'] })).done.banned).toBe(false)
    expect((await run({ order: 'unban', target: ALICE })).done).toEqual({ was: true })
    expect(flushed()).toBe(5)
  })

  test('lists who is in the book or in a group, the one touched last first', async () => {
    const { memory, run } = await desk()
    await run({ order: 'know', peer: ALICE, name: 'alice', groups: ['b', 'a'] })
    await run({ order: 'know', peer: BOB, address: '192.0.2.1:1', groups: [] })
    const outsider = Identity.generate().peerId
    memory.firewall.addToGroup('a', outsider)
    const { items } = await run({ order: 'peers' })
    expect(items.map(({ peer, name, groups }) => [peer, name, groups])).toEqual([
      [BOB, null, []],
      [ALICE, 'alice', ['a', 'b']],
      [outsider, null, ['a']],
    ])
    expect((await run({ order: 'forget', peer: outsider })).done).toEqual({ was: true })
    expect((await run({ order: 'forget', peer: ALICE })).done).toEqual({ was: true })
    expect([...memory.firewall.groups]).toEqual([])
  })

  test('notes what a ticket says, and what came of it, without end', async () => {
    const { memory, run } = await desk()
    const url = `ws://192.0.2.1:4400#${BOB}`
    for (let port = 1; port <= 20; port++) {
      await run({
        order: 'know',
        peer: ALICE,
        addresses: [`192.0.2.1:${port}`, 'nowhere'],
        rendezvous: [url, 'nowhere'],
        topics: ['some/in=1'],
      })
    }
    expect((await run({ order: 'peers' })).items).toMatchObject([{ rendezvous: [url], lastMet: null }])
    expect(memory.known.addressesOf(ALICE)).toContain('192.0.2.1:20')
    expect(memory.known.topicsOf(ALICE)).toEqual(['some/in=1'])
    await run({ order: 'know', peer: ALICE, rendezvous: [], met: true, dialled: '192.0.2.1:9' })
    expect(memory.known.addressesOf(ALICE)[0]).toBe('192.0.2.1:9')
    expect((await run({ order: 'peers' })).items).toMatchObject([{ rendezvous: [url], lastMet: expect.any(Number) }])
  })

  test('follows the log until nobody listens any more', async () => {
    const { begin, listeners } = await desk()
    const stop = new AbortController()
    const answering = begin({ order: 'log', count: 1, follow: true }, stop.signal)
    expect((await answering.next()).value).toEqual({ at: 2 })
    const next = answering.next()
    for (const tell of listeners) tell({ at: 3 })
    expect((await next).value).toEqual({ at: 3 })
    for (let at = 4; at < 1_104; at++) for (const tell of listeners) tell({ at })
    for (let at = 4; at < 1_004; at++) expect((await answering.next()).value).toEqual({ at })
    expect((await answering.next()).value).toMatchObject({ skipped: 100 })
    const last = answering.next()
    stop.abort()
    expect((await last).done).toBe(true)
    expect(listeners.size).toBe(0)
  })

  test.each<[string, Json]>([
    ['unknown', { order: 'frobnicate' }],
    ['of the prototype', { order: 'constructor' }],
    ['no name', {}],
    ['for nobody', { order: 'allow', subject: 'somebody', objects: ['anything'] }],
    ['over already', { order: 'allow', subject: ALICE, objects: ['anything'], until: 1 }],
    ['too many', { order: 'deny', subject: ALICE, objects: Array(33).fill('/a/1') }],
    ['a log without end', { order: 'log', count: 1e9, follow: false }],
  ])('that is none is refused: %s', async (_, order) => {
    const { memory, run } = await desk()
    await expect(run(order)).rejects.toSatisfy(isPeerlineError)
    expect(memory.firewall.kept().rules).toEqual([])
  })

  test('of any shape is carried out or refused', async () => {
    const { run } = await desk()
    const name = fc.constantFrom(
      'hello',
      'allow',
      'deny',
      'ban',
      'unban',
      'rules',
      'remove',
      'peers',
      'know',
      'forget',
      'log',
    )
    const some = fc.oneof(fc.constantFrom<unknown>(ALICE, 'everyone', 'group:a', '192.0.2.1', 'x'), fc.jsonValue())
    const keys = ['subject', 'objects', 'until', 'target', 'why', 'id', 'peer', 'address', 'name', 'groups', 'count']
    keys.push('addresses', 'rendezvous', 'topics', 'met', 'dialled')
    const order = fc.record(
      { order: name, ...Object.fromEntries(keys.map((key) => [key, some])) },
      { requiredKeys: [] },
    )
    await fc.assert(
      fc.asyncProperty(order, async (given) => {
        await run({ ...given, follow: false }).catch((error) => expect(isPeerlineError(error)).toBe(true))
      }),
      { numRuns: 500 },
    )
  })
})
