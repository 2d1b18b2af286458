/** Orders of authorities, over real sessions: what is done, what is refused, and what is never looked at. */
import { readFile, writeFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { decodeCbor, encodeCbor } from '../../src/bytes/index.ts'
import {
  FileStore,
  Identity,
  type KnownTask,
  type OrderOutcome,
  type Peer,
  PeerlineError,
  type PeerOptions,
} from '../../src/index.ts'
import { signOrder } from '../../src/policy/order.ts'
import { encodeTask } from '../../src/tasks/index.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { outcomeOf } from './policy-rows.ts'
import { bytes, plain, startCompany, TASK_ROWS } from './task-rows.ts'
import { once, startPeer, startServer } from './world.ts'

const ORDER = '/peerline/order/1'
const code = (text: string) => expect.objectContaining({ code: text })
const SETTINGS = { kind: 'update-settings', settings: { size: 1 } } as const

/** A peer, its authority, and what was brought to it. */
async function startRule(options: PeerOptions = {}) {
  const authority = await startPeer()
  const settings: unknown[] = []
  const peer = await startPeer({
    firewall: {},
    bootstrap: { authorities: [authority.id] },
    onSettings: (some) => void settings.push(some),
    ...options,
  })
  let queued = 0
  peer.tasks.addEventListener('queued', () => queued++)
  return { authority, peer, settings, queued: () => queued }
}

const dialled = ({ addresses }: Peer) => ({ addresses })
const order = (from: Peer, to: Peer, task: KnownTask = SETTINGS) => from.order(to.id, task, dialled(to))

/** What a peer says to the bytes of an order. */
const bring = (from: Peer, to: Peer, order: Uint8Array) => from.request(to.id, ORDER, order, dialled(to))

const read = (answer: Uint8Array) => decodeCbor(answer, { maxBytes: 1_000 })

let last = Date.now()
const sign = (identity: Identity, to: Peer, more: Partial<Parameters<typeof signOrder>[1]> = {}) =>
  signOrder(identity, { to: to.id, sequence: ++last, task: encodeTask(SETTINGS), ...more })

describe('tasks of every kind', () => {
  /** How the order comes to the peer. */
  const WAYS = {
    'an authority that dials': async () => {
      const authority = await startPeer()
      const company = await startCompany({ bootstrap: { authorities: [authority.id] } })
      return { authority, company, how: dialled(company.doer) }
    },
    'an authority that was dialled': async () => {
      const authority = await startPeer()
      const company = await startCompany({ bootstrap: { authorities: [authority.id] } })
      await company.doer.connect(authority.id, dialled(authority))
      return { authority, company, how: {} }
    },
    'an authority that finds it at the rendezvous': async () => {
      const server = await startServer()
      const authority = await startPeer({ rendezvous: [server.url] })
      const company = await startCompany({ bootstrap: { authorities: [authority.id] }, rendezvous: [server.url] })
      await Promise.all([authority.online(), company.doer.online()])
      return { authority, company, how: {} }
    },
    'the rendezvous': async () => {
      const server = await startServer()
      const authority = server.peer
      const company = await startCompany({ bootstrap: { authorities: [authority.id] }, rendezvous: [server.url] })
      await company.doer.online()
      return { authority, company, how: {} }
    },
  }

  test.each(Object.keys(WAYS) as (keyof typeof WAYS)[])('by order of %s', async (way) => {
    const { authority, company, how } = await WAYS[way]()
    const before = authority.sessions.length
    const results: unknown[] = []
    for (const row of TASK_ROWS) {
      const outcome = await authority.order(company.doer.id, row.task(company), how)
      results.push([row.name, outcome.state, plain((outcome as { value?: unknown }).value)])
      await row.look?.(company)
    }
    expect(results).toEqual(TASK_ROWS.map(({ name, value }) => [name, 'done', value]))
    // The rendezvous has the session with it already, and dials nobody.
    if (way === 'the rendezvous') expect(authority.sessions.length).toBe(before)
  })

  test('which end the session itself: the order is done, and the authority sees it go', async () => {
    for (const kind of ['disconnect', 'block'] as const) {
      const { authority, peer } = await startRule()
      const over = once(peer, 'sessionEnd')
      const outcome = await order(authority, peer, { kind, peer: authority.id }).catch((error) => error)
      await over
      expect(outcome instanceof PeerlineError || outcome.state === 'done').toBe(true)
      expect(peer.bans.isBanned(authority.id)).toBe(kind === 'block')
      expect(await outcomeOf(order(authority, peer))).toBe(kind === 'block' ? 'ERR_PEERLINE_DENIED' : 'answered')
    }
  })
})

describe('an order is refused', () => {
  const GARBAGE = new Uint8Array(100).fill(0xff)

  // Elsewhere tasks were queued without a look at their signature, and any trusted peer could send them.
  test('of who is no authority, however trusted', async () => {
    const { peer, queued } = await startRule({ firewall: { allow: 'all' } })
    const friend = await startPeer()
    peer.firewall.allow(friend.id)
    await expect(order(friend, peer)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
    const trusting = await startPeer({ trust: {}, onSettings: () => expect.unreachable() })
    trusting.trust?.trust(friend.id)
    await expect(order(friend, trusting)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
    expect([queued(), trusting.tasks.size]).toEqual([0, 0])
  })

  test('of a rendezvous that is no authority: it hands out peers, and that is all', async () => {
    const server = await startServer()
    const settings = () => expect.unreachable()
    const peer = await startPeer({ rendezvous: [server.url], onSettings: settings })
    await peer.online()
    await expect(server.peer.order(peer.id, SETTINGS)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test.each<[string, string, (at: { authority: Peer; peer: Peer }) => Uint8Array]>([
    ['that is signed by another', 'ERR_PEERLINE_DENIED', ({ peer }) => sign(Identity.generate(), peer)],
    [
      'whose signature is wrong: nothing in it is read',
      'ERR_PEERLINE_RECORD',
      ({ authority, peer }) => {
        const forged = new Uint8Array(sign(authority.identity, peer, { task: GARBAGE }))
        forged[forged.length - 1]! ^= 1
        return forged
      },
    ],
    [
      'that is for another: nothing in it is read',
      'ERR_PEERLINE_WRONG_PEER',
      ({ authority }) => sign(authority.identity, authority, { task: GARBAGE }),
    ],
    [
      'that has expired: nothing in it is read',
      'ERR_PEERLINE_EXPIRED',
      ({ authority, peer }) => sign(authority.identity, peer, { task: GARBAGE, now: Date.now() - 600_000, lifeMs: 1 }),
    ],
    [
      'that is from the future',
      'ERR_PEERLINE_EXPIRED',
      ({ authority, peer }) => sign(authority.identity, peer, { now: Date.now() + 600_000 }),
    ],
    [
      'with a task that is none: it is told, and nothing ends',
      'ERR_PEERLINE_PROTOCOL',
      ({ authority, peer }) => sign(authority.identity, peer, { task: GARBAGE }),
    ],
    [
      'with a task that lacks something',
      'ERR_PEERLINE_PROTOCOL',
      ({ authority, peer }) => sign(authority.identity, peer, { task: encodeCbor({ kind: 'block' }) }),
    ],
    ['that is no order', 'ERR_PEERLINE_RECORD', () => GARBAGE],
    ['that is larger than any order', 'ERR_PEERLINE_TOO_LARGE', () => new Uint8Array(200_000)],
    ['of nothing', 'ERR_PEERLINE_RECORD', () => new Uint8Array(0)],
  ])('%s', async (_, refusal, make) => {
    const world = await startRule()
    const { authority, peer, settings, queued } = world
    await expect(bring(authority, peer, make(world))).rejects.toEqual(code(refusal))
    expect([queued(), settings]).toEqual([0, []])
    // Nothing was spent by it: what is right is done.
    expect(await order(authority, peer)).toEqual({ state: 'done' })
  })

  test('that was signed by an authority, and is brought by another peer', async () => {
    const { authority, peer, queued } = await startRule({ firewall: { allow: 'all' } })
    const thief = await startPeer()
    const stolen = sign(authority.identity, peer)
    await expect(bring(thief, peer, stolen)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
    expect(queued()).toBe(0)
    // It was not spent either.
    expect(read(await bring(authority, peer, stolen))).toEqual({ state: 'done' })
  })

  test('that was taken before, and each that is older', async () => {
    const { authority, peer, settings } = await startRule()
    const [older, taken] = [sign(authority.identity, peer), sign(authority.identity, peer)]
    await bring(authority, peer, taken)
    for (const again of [taken, older]) {
      await expect(bring(authority, peer, again)).rejects.toEqual(code('ERR_PEERLINE_REPLAY'))
    }
    expect(settings.length).toBe(1)
  })

  test('that was taken before a restart: it is on the disk before it is begun', async () => {
    const file = await temporaryFile('state.json')
    const saved: string[] = []
    const { authority, peer } = await startRule({
      store: new FileStore(file),
      onSettings: async () => void saved.push(await readFile(file, 'utf8')),
    })
    const taken = sign(authority.identity, peer)
    await bring(authority, peer, taken)
    expect(JSON.parse(saved[0]!).authorities.authorities).toEqual([{ id: authority.id, last }])
    await peer.close()
    let begun = 0
    const again = await startPeer({
      identity: peer.identity,
      store: new FileStore(file),
      firewall: {},
      bootstrap: { authorities: [authority.id] },
      onSettings: () => void begun++,
    })
    await expect(bring(authority, again, taken)).rejects.toEqual(code('ERR_PEERLINE_REPLAY'))
    expect(begun).toBe(0)
    expect(await order(authority, again)).toEqual({ state: 'done' })
    expect(begun).toBe(1)
  })

  test('where it cannot be kept that it was taken', async () => {
    let full = true
    const store = {
      load: async () => undefined,
      save: async () => {
        if (full) throw new PeerlineError('ERR_PEERLINE_DISK_FULL', 'no space')
      },
    }
    const { authority, peer, queued } = await startRule({ store })
    await expect(order(authority, peer)).rejects.toEqual(code('ERR_PEERLINE_DISK_FULL'))
    expect(queued()).toBe(0)
    full = false
    expect(await order(authority, peer)).toEqual({ state: 'done' })
  })

  test('of a peer without authorities', async () => {
    const [one, other] = [await startPeer(), await startPeer()]
    await expect(order(one, other)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })
})

describe('who is an authority', () => {
  test('may be changed while the peer is there: who is one no longer is cut at once', async () => {
    const { peer, settings } = await startRule()
    const late = await startPeer()
    expect(await outcomeOf(order(late, peer))).toBe('ERR_PEERLINE_DENIED')
    peer.authorities.add(late.id)
    expect(await order(late, peer)).toEqual({ state: 'done' })
    const cut = once<{ error: unknown }>(peer, 'sessionEnd')
    peer.authorities.remove(late.id)
    expect(await cut).toMatchObject({ error: { code: 'ERR_PEERLINE_DENIED' } })
    expect(await outcomeOf(order(late, peer))).toBe('ERR_PEERLINE_DENIED')
    expect(settings.length).toBe(1)
  })

  test('may give orders, and nothing else that no rule allows', async () => {
    const authority = await startPeer()
    const peer = await startPeer({ firewall: { rules: [] }, bootstrap: { authorities: [authority.id] } })
    peer.handle('/echo/1', (body) => body)
    await authority.connect(peer.id, dialled(peer))
    expect(await outcomeOf(authority.request(peer.id, '/echo/1', bytes('x')))).toBe('ERR_PEERLINE_DENIED')
  })

  test('is said by nobody else: a group by that name makes nobody one, and takes nothing from who is', async () => {
    const { authority, peer, queued } = await startRule()
    const other = await startPeer()
    peer.firewall.addToGroup('authorities', other.id)
    peer.firewall.removeFromGroup('authorities', authority.id)
    expect(peer.firewall.groups.get('authorities')).toEqual([authority.id])
    expect(await outcomeOf(order(other, peer))).toBe('ERR_PEERLINE_DENIED')
    expect(await outcomeOf(order(authority, peer))).toBe('answered')
    // All rules and groups are other ones: who is here is put out, and of the authority still the same is said.
    const ended = once(authority, 'sessionEnd')
    peer.firewall.load((await startPeer({ firewall: {} })).firewall.toJSON())
    await ended
    expect(await outcomeOf(order(authority, peer))).toBe('answered')
    expect(await outcomeOf(order(other, peer))).toBe('ERR_PEERLINE_DENIED')
    expect(queued()).toBe(2)
  })

  test('is refused by the rule of the owner about it, as anybody is', async () => {
    const { authority, peer } = await startRule()
    peer.firewall.set({ subject: authority.id, object: ORDER, direction: 'in', action: 'deny' })
    expect(await outcomeOf(order(authority, peer))).toBe('ERR_PEERLINE_DENIED')
  })

  test('is known, though what was kept of it is damaged', async () => {
    const file = await temporaryFile('state.json')
    const authorities = { version: 1, authorities: [], named: ['nobody'] }
    await writeFile(file, JSON.stringify({ version: 1, authorities }), { mode: 0o600 })
    const { authority, peer } = await startRule({ store: new FileStore(file) })
    expect(peer.damages).toMatchObject([{ section: 'authorities' }])
    expect(await outcomeOf(order(authority, peer))).toBe('answered')
  })

  test('does not change what the default says of others', async () => {
    const { peer } = await startRule()
    peer.handle('/echo/1', (body) => body)
    const other = await startPeer()
    peer.firewall.set({ subject: other.id, object: 'connection', direction: 'in', action: 'allow' })
    await other.connect(peer.id, dialled(peer))
    expect(await outcomeOf(other.request(peer.id, '/echo/1', bytes('x')))).toBe('answered')
    peer.firewall.setDefault('deny', 'in')
    expect(await outcomeOf(other.request(peer.id, '/echo/1', bytes('x')))).toBe('ERR_PEERLINE_DENIED')
  })

  test('is said by the options at each start; who was named at run time is kept', async () => {
    const file = await temporaryFile('state.json')
    const [one, other, late] = [await startPeer(), await startPeer(), await startPeer()]
    const identity = Identity.generate()
    const start = (...authorities: string[]) =>
      startPeer({
        identity,
        store: new FileStore(file),
        bootstrap: { authority: true, authorities },
        onSettings: () => {},
      })
    const who = async (peer: Peer) => {
      const asked = [one, other, late].map((from) => outcomeOf(order(from, peer)))
      return (await Promise.all(asked)).map((outcome) => outcome === 'answered')
    }
    const first = await start(one.id)
    expect(await who(first)).toEqual([true, false, false])
    first.authorities.add(late.id)
    await first.close()
    // What was kept does not hide who is named only now.
    const second = await start(other.id)
    expect(await who(second)).toEqual([false, true, true])
    second.authorities.remove(late.id)
    await second.close()
    const third = await start(one.id, other.id)
    expect(await who(third)).toEqual([true, true, false])
    expect(third.damages).toEqual([])
  })
})

describe('what became of an order', () => {
  test('is told: done with a value, failed and why, not known', async () => {
    const { authority, peer } = await startRule()
    const silent = Identity.generate().peerId
    const asked: [KnownTask, OrderOutcome][] = [
      [SETTINGS, { state: 'done' }],
      [
        { kind: 'unblock', peer: silent },
        { state: 'done', value: false },
      ],
      [
        { kind: 'ping', peer: peer.id },
        { state: 'failed', error: code('ERR_PEERLINE_INVALID') as unknown as PeerlineError },
      ],
    ]
    for (const [task, outcome] of asked) expect(await order(authority, peer, task)).toEqual(outcome)
    expect(peer.tasks.deadLetters).toMatchObject([{ task: { kind: 'ping' }, origin: authority.id }])
  })

  test('of a kind that is not known is told on both sides, and stops nothing', async () => {
    const { authority, peer } = await startRule()
    const told = once(peer.tasks, 'unknown')
    const strange = sign(authority.identity, peer, { task: encodeCbor({ kind: 'dance', steps: 3 }) })
    expect(read(await bring(authority, peer, strange))).toEqual({ state: 'unknown' })
    expect(await told).toMatchObject({ task: { name: 'dance' }, origin: authority.id })
    expect(await order(authority, peer)).toEqual({ state: 'done' })
  })

  test('that asks for what is none is an error of who orders, and nothing is sent', async () => {
    const { authority, peer, queued } = await startRule()
    const wrong = { kind: 'dance' } as unknown as KnownTask
    await expect(order(authority, peer, wrong)).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    expect([queued(), authority.sessions]).toEqual([0, []])
  })

  test('when the peer closes while it is done', async () => {
    let begin!: () => void
    const begun = new Promise<void>((resolve) => {
      begin = resolve
    })
    const onSettings = () => {
      begin()
      return new Promise<never>(() => {})
    }
    const { authority, peer } = await startRule({ onSettings })
    const outcome = order(authority, peer).catch((error) => error)
    await begun
    await peer.close()
    const told = await outcome
    expect(told instanceof PeerlineError ? told : told.error).toEqual(code('ERR_PEERLINE_CLOSED'))
  })
})

describe('many orders at once', () => {
  test('take half of the queue, and the others are told to come again; own tasks still have room', async () => {
    let free!: () => void
    const freed = new Promise<void>((resolve) => {
      free = resolve
    })
    const { authority, peer } = await startRule({
      tasks: { capacity: 10, concurrency: 1 },
      onSettings: () => freed,
    })
    await authority.connect(peer.id, dialled(peer))
    let [refused, all] = [0, () => {}]
    const refusedAll = new Promise<void>((resolve) => {
      all = resolve
    })
    const one = () =>
      order(authority, peer).catch((error: PeerlineError) => {
        if (++refused === 35) all()
        return error
      })
    const orders = Array.from({ length: 40 }, one)
    await refusedAll
    expect(peer.tasks.size).toBe(5)
    const own = Array.from({ length: 5 }, () => peer.tasks.add(SETTINGS))
    expect(() => peer.tasks.add(SETTINGS)).toThrow(code('ERR_PEERLINE_LIMIT'))
    free()
    const outcomes = await Promise.all(orders)
    expect(outcomes.filter((outcome) => !(outcome instanceof PeerlineError))).toEqual(Array(5).fill({ state: 'done' }))
    const busy = outcomes.filter((outcome) => outcome instanceof PeerlineError)
    expect(busy).toEqual(Array(35).fill(code('ERR_PEERLINE_BUSY')))
    for (const { result } of own) expect(await result).toMatchObject({ status: 'done' })
    expect(await order(authority, peer)).toEqual({ state: 'done' })
  })

  test('are all done, though small ones overtake large ones on a slow line', async () => {
    const { authority, peer } = await startRule()
    const slow = await startPeer({ limits: { rate: { out: { perSecond: 2_000_000, burst: 20_000 } } } })
    peer.authorities.add(slow.id)
    await slow.connect(peer.id, dialled(peer))
    slow.handle('/note/1', () => new Uint8Array(0))
    const large = { kind: 'send', peer: slow.id, protocol: '/note/1', body: new Uint8Array(65_400) } as const
    const outcomes = await Promise.all(
      Array.from({ length: 12 }, (_, at) => order(slow, peer, at % 2 === 0 ? large : SETTINGS)),
    )
    expect(outcomes).toEqual(Array(12).fill({ state: 'done' }))
    expect(await order(authority, peer)).toEqual({ state: 'done' })
  })
})
