import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, type PeerId, toDidKey } from '../identity/index.ts'
import { Firewall, type FirewallOptions } from './firewall.ts'
import { type Arrival, type Exchange, type Handshake, Trust, type TrustOptions } from './trust.ts'

const SELF = Identity.generate().peerId
const ALICE = Identity.generate().peerId
const BOB = Identity.generate().peerId
const PING = '/peerline/ping/1'
const fails = (code: string) => expect.objectContaining({ code })
const denied = fails('ERR_PEERLINE_DENIED')
const nothing: Exchange = { request: () => Promise.reject(new Error('nobody asks')) }

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance', 'Date'] })
})
const worlds: { trust: Trust; firewall: Firewall }[] = []
afterEach(() => {
  for (const { trust, firewall } of worlds.splice(0)) {
    trust.close()
    firewall.close()
    expect(firewall.groups.get('elevated')).toBeUndefined() // whatever happened, it outlives nothing
  }
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

/** What is told, as lines, and promises that tell when. */
function world(options: TrustOptions = {}, more: Omit<FirewallOptions, 'approve'> = {}) {
  const trust = new Trust(options)
  const firewall = new Firewall({
    approveTimeoutMs: 3_600_000,
    ...more,
    ask: trust.ask,
    rules: [...trust.rules, ...(more.rules ?? [])],
  })
  trust.attach(firewall, { self: SELF })
  worlds.push({ trust, firewall })
  const lines: string[] = []
  const names = new Map<string, string>([
    [ALICE, 'alice'],
    [BOB, 'bob'],
  ])
  const tell = (peer: PeerId, what: string) => lines.push(`${names.get(peer)} ${what}`)
  const arrivals: Arrival[] = []
  trust.addEventListener('arrival', ({ detail }) => arrivals.push(detail))
  trust.addEventListener('trusted', ({ detail: { peer } }) => tell(peer, 'trusted'))
  trust.addEventListener('distrusted', ({ detail: { peer } }) => tell(peer, 'distrusted'))
  trust.addEventListener('elevated', ({ detail: { peer } }) => tell(peer, 'elevated'))
  trust.addEventListener('demoted', ({ detail: { peer, reason } }) => tell(peer, `demoted ${reason}`))
  trust.addEventListener('handshake', ({ detail: { peer, error } }) => tell(peer, `handshake ${error?.code ?? 'ok'}`))
  return {
    trust,
    firewall,
    lines,
    arrivals,
    connect: (peer: PeerId, signal?: AbortSignal) =>
      firewall.admit({ peer, direction: 'in', object: 'connection' }, signal === undefined ? {} : { signal }),
    may: (peer: PeerId, object: string) => firewall.decide({ peer, direction: 'in', object }).action,
    rulesOf: (peer: PeerId) => firewall.list().filter(({ subject }) => subject === peer),
  }
}

/** A handshake that the test ends. */
function stepped() {
  const running: {
    context: Parameters<Handshake>[0]
    resolve: (yes: boolean) => void
    reject: (e: unknown) => void
  }[] = []
  const handshake = vi.fn<Handshake>(
    (context) => new Promise<boolean>((resolve, reject) => running.push({ context, resolve, reject })),
  )
  return { handshake, running }
}

/** Lets everything that can happen now happen. */
const settle = () => vi.advanceTimersByTimeAsync(0)
/** What comes of it now: questions are gathered until the turn ends. */
async function now<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {})
  await settle()
  return promise
}

describe('a peer that no rule names, without placement', () => {
  test('is let in for default communication, which is a ping, and for nothing else', async () => {
    const { connect, may, firewall, rulesOf } = world()
    await connect(ALICE)
    expect([may(ALICE, PING), may(ALICE, '/app/1')]).toEqual(['allow', 'deny'])
    // what is denied is not even offered
    expect(firewall.offers({ peer: ALICE, direction: 'in', object: '/app/1' })).toBe(false)
    expect(rulesOf(ALICE)).toEqual([])
  })

  test('may use what the list says', async () => {
    const { connect, may } = world({ defaultCommunication: ['/hello/*', '/news/1'] })
    await connect(ALICE)
    expect([PING, '/hello/2', '/news/1', '/news/2'].map((name) => may(ALICE, name))).toEqual([
      'deny',
      'allow',
      'allow',
      'deny',
    ])
  })

  test('may use everything where the list says that', async () => {
    const { may } = world({ defaultCommunication: ['*'] })
    expect(may(ALICE, '/app/1')).toBe('allow')
  })

  test.each<[string, TrustOptions]>([
    ['off', { defaultCommunication: false }],
    ['empty', { defaultCommunication: [] }],
  ])('is refused where default communication is %s, and that is not remembered', async (_, options) => {
    const { connect, rulesOf } = world(options)
    await expect(now(connect(ALICE))).rejects.toEqual(denied)
    expect(rulesOf(ALICE)).toEqual([])
  })

  test('is not trusted for any number of pings', async () => {
    const { trust, may, connect } = world()
    await connect(ALICE)
    await trust.arrived(ALICE, nothing, { signal: new AbortController().signal })
    for (let n = 0; n < 20; n++) expect(may(ALICE, PING)).toBe('allow')
    expect([trust.isTrusted(ALICE), may(ALICE, '/app/1')]).toEqual([false, 'deny'])
  })

  test('is no reason to open what the owner asked to be asked about', async () => {
    const rules = [{ subject: 'everyone', object: '/safe/1', direction: 'in', action: 'ask' }] as const
    const { firewall } = world({}, { rules })
    await expect(now(firewall.admit({ peer: ALICE, direction: 'in', object: '/safe/1' }))).rejects.toEqual(denied)
  })
})

describe('trust', () => {
  test('is membership in a group, whoever gives it', () => {
    const { trust, firewall, lines, may } = world({ defaultCommunication: false })
    trust.trust(ALICE)
    firewall.addToGroup('trusted', BOB)
    expect([trust.isTrusted(ALICE), trust.isTrusted(BOB), may(ALICE, '/app/1'), may(BOB, 'connection')]).toEqual([
      true,
      true,
      'allow',
      'allow',
    ])
    trust.distrust(ALICE)
    firewall.removeFromGroup('trusted', BOB)
    expect([trust.isTrusted(ALICE), may(ALICE, '/app/1'), trust.isTrusted(BOB)]).toEqual([false, 'deny', false])
    expect(lines).toEqual(['alice trusted', 'bob trusted', 'alice distrusted', 'bob distrusted'])
  })

  test('is kept with the rules, and gives way to a rule of the peer', () => {
    const before = world()
    before.trust.trust(ALICE)
    const { trust, firewall, lines, may } = world({}, { policy: JSON.parse(JSON.stringify(before.firewall.toJSON())) })
    expect([trust.isTrusted(ALICE), may(ALICE, '/app/1')]).toEqual([true, 'allow'])
    firewall.set({ subject: ALICE, direction: 'in', action: 'deny' })
    expect([may(ALICE, '/app/1'), may(ALICE, 'connection')]).toEqual(['deny', 'deny'])
    trust.trust(ALICE) // again
    expect(lines).toEqual([])
  })

  test('follows what is loaded', () => {
    const { trust, firewall, lines } = world()
    trust.trust(ALICE)
    const kept = firewall.toJSON()
    firewall.load({ ...kept, groups: { trusted: [BOB] } })
    expect([trust.isTrusted(ALICE), trust.isTrusted(BOB)]).toEqual([false, true])
    expect(lines).toEqual(['alice trusted', 'alice distrusted', 'bob trusted'])
  })

  test('needs a firewall, and takes one', () => {
    const trust = new Trust()
    expect(trust.isTrusted(ALICE)).toBe(false)
    expect(() => trust.trust(ALICE)).toThrow(fails('ERR_PEERLINE_INVALID'))
    const { trust: other, firewall } = world()
    expect(() => other.attach(firewall, { self: SELF })).toThrow(fails('ERR_PEERLINE_INVALID'))
    expect(() => other.trust('nobody' as PeerId)).toThrow(fails('ERR_PEERLINE_INVALID'))
  })

  test.each<[string, object]>([
    ['defaultCommunication', { defaultCommunication: ['anything'] }], // it would let everybody in
    ['defaultCommunication', { defaultCommunication: ['connection'] }],
    ['defaultCommunication', { defaultCommunication: [''] }],
    ['defaultCommunication', { defaultCommunication: '/app/1' }],
    ['elevation', { elevation: ['anything'] }],
    ['elevation', { elevation: ['/a*b'] }],
    ['placement', { placement: 'queues' }],
    ['enhancedExchange', { enhancedExchange: 'yes' }],
    ['handshake', { handshake: true }],
    ['handshake', { handshake: { run: () => true } }],
    ['handshakeTimeoutMs', { handshakeTimeoutMs: 0 }],
    ['handshakeTimeoutMs', { handshakeTimeoutMs: 86_400_001 }],
    ['decideMs', { decideMs: Number.NaN }],
    ['queueCapacity', { queueCapacity: 1_001 }],
  ])('is not made with a wrong %s', (_, options) => {
    expect(() => new Trust(options)).toThrow(fails('ERR_PEERLINE_INVALID'))
  })
})

describe('a peer that is placed', () => {
  test.each(['event', 'queue', 'both'] as const)(
    'by %s is let in when it is accepted, and not before',
    async (placement) => {
      const { connect, trust, arrivals, may, rulesOf } = world({ placement })
      const queue = trust.arrivals[Symbol.asyncIterator]()
      const admitted = vi.fn()
      const connecting = connect(ALICE).then(admitted)
      await settle()
      await vi.advanceTimersByTimeAsync(9_000)
      expect(admitted).not.toHaveBeenCalled()
      expect(may(ALICE, 'connection')).toBe('ask')
      expect(arrivals).toHaveLength(placement === 'queue' ? 0 : 1)
      const arrival = placement === 'event' ? arrivals[0]! : (await queue.next()).value!
      expect(arrival.peer).toBe(ALICE)
      expect(arrival.questions).toMatchObject([{ object: 'connection', direction: 'in', why: 'no-rule' }])
      expect([arrival.accept(), arrival.accept(), arrival.refuse()]).toEqual([true, false, false])
      await connecting
      expect(admitted).toHaveBeenCalledTimes(1)
      // for this time, for default communication, and nothing is remembered
      expect([may(ALICE, 'connection'), may(ALICE, PING), may(ALICE, '/app/1')]).toEqual(['ask', 'allow', 'deny'])
      expect(rulesOf(ALICE)).toEqual([])
      expect([arrival.waits, arrival.signal.aborted]).toEqual([false, false])
    },
  )

  test('goes on when it was let in for this time, until a rule says otherwise', async () => {
    const { connect, arrivals, firewall } = world({ placement: 'event' })
    const connecting = connect(ALICE)
    await settle()
    arrivals[0]!.accept()
    const decision = await connecting
    expect(firewall.stands(decision)).toBe(true)
    firewall.set({ subject: ALICE, action: 'deny' })
    expect(firewall.stands(decision)).toBe(false)
  })

  test('in all its attempts at once is one arrival', async () => {
    const { firewall, arrivals } = world({ placement: 'event' })
    const both = Promise.all(
      (['direct', 'signaled'] as const).map((how) =>
        firewall.admit({ peer: ALICE, direction: 'in', object: 'connection', how }),
      ),
    )
    await settle()
    expect(arrivals).toHaveLength(1)
    arrivals[0]!.accept()
    await both
  })

  test('is refused when nobody decides in time, and that is not remembered', async () => {
    const { connect, arrivals, rulesOf } = world({ placement: 'event', decideMs: 500 })
    const refusal = expect(connect(ALICE)).rejects.toEqual(denied)
    await settle()
    await vi.advanceTimersByTimeAsync(499)
    expect(arrivals[0]!.waits).toBe(true)
    await vi.advanceTimersByTimeAsync(1)
    await refusal
    expect(arrivals[0]!.signal.reason).toEqual(fails('ERR_PEERLINE_TIMEOUT'))
    expect([arrivals[0]!.accept({ trust: true }), rulesOf(ALICE)]).toEqual([false, []])
    // and is placed again when it comes again
    const again = connect(ALICE)
    await settle()
    arrivals[1]!.accept()
    await again
  })

  test('is refused when it is, and only what is to be remembered is', async () => {
    const { connect, arrivals, may } = world({ placement: 'event' })
    for (const options of [{}, { remember: true }]) {
      const refusal = expect(connect(ALICE)).rejects.toEqual(denied)
      await settle()
      arrivals.at(-1)!.refuse(options)
      await refusal
      expect(may(ALICE, 'connection')).toBe('remember' in options ? 'deny' : 'ask')
    }
    await expect(now(connect(ALICE))).rejects.toEqual(denied)
    expect(arrivals).toHaveLength(2)
  })

  test('is let in from now on when that is to be remembered, and trusted with nothing by it', async () => {
    const { connect, arrivals, may, trust } = world({ placement: 'event' })
    const connecting = connect(ALICE)
    await settle()
    arrivals[0]!.accept({ remember: true })
    await connecting
    await connect(ALICE)
    expect(arrivals).toHaveLength(1)
    expect([may(ALICE, '/app/1'), may(ALICE, PING), trust.isTrusted(ALICE)]).toEqual(['deny', 'allow', false])
  })

  test('is trusted at once when it is accepted so', async () => {
    const { connect, arrivals, may, lines, rulesOf } = world({ placement: 'event' })
    const connecting = connect(ALICE)
    await settle()
    arrivals[0]!.accept({ trust: true })
    expect(may(ALICE, '/app/1')).toBe('allow')
    await connecting
    await connect(ALICE)
    expect([lines, rulesOf(ALICE), arrivals.length]).toEqual([['alice trusted'], [], 1])
  })

  test('leaves the queue when it leaves', async () => {
    const { connect, trust } = world({ placement: 'queue' })
    const leaving = new AbortController()
    const left = expect(connect(ALICE, leaving.signal)).rejects.toEqual(fails('ERR_PEERLINE_ABORTED'))
    await settle()
    leaving.abort()
    await left
    const connecting = connect(BOB)
    await settle()
    for await (const arrival of trust.arrivals) {
      expect(arrival.peer).toBe(BOB)
      arrival.accept()
      break
    }
    await connecting
  })

  test('beyond what the queue holds is refused at once, and nobody else is', async () => {
    const { connect, trust } = world({ placement: 'queue', queueCapacity: 2 })
    const peers = Array.from({ length: 3 }, () => Identity.generate().peerId)
    const results = peers.map((peer) =>
      connect(peer).then(
        () => 'in',
        ({ code }) => code,
      ),
    )
    await settle()
    expect(await results[2]).toBe('ERR_PEERLINE_DENIED')
    const queue = trust.arrivals[Symbol.asyncIterator]()
    for (const peer of peers.slice(0, 2)) {
      const { value } = await queue.next()
      expect(value!.peer).toBe(peer)
      value!.accept()
    }
    expect(await Promise.all(results)).toEqual(['in', 'in', 'ERR_PEERLINE_DENIED'])
  })

  test('is answered by whoever is first, of event and queue', async () => {
    const { connect, trust, arrivals } = world({ placement: 'both', queueCapacity: 1 })
    const first = connect(ALICE)
    const second = connect(BOB) // no room in the queue, but there is the event
    await settle()
    expect(arrivals.map(({ peer }) => peer)).toEqual([ALICE, BOB])
    for (const arrival of arrivals) arrival.accept()
    await Promise.all([first, second])
    const third = connect(Identity.generate().peerId)
    await settle()
    const { value } = await trust.arrivals[Symbol.asyncIterator]().next()
    expect(value).toBe(arrivals[2]) // those that were answered are not in it
    value!.accept()
    await third
  })

  test('is decided by a rule that comes meanwhile', async () => {
    const { connect, arrivals, firewall } = world({ placement: 'both' })
    const refusal = expect(connect(ALICE)).rejects.toEqual(denied)
    await settle()
    firewall.set({ subject: ALICE, direction: 'in', action: 'deny' })
    await refusal
    expect([arrivals[0]!.signal.aborted, arrivals[0]!.waits, arrivals[0]!.accept()]).toEqual([true, false, false])
  })

  test('for what a rule has asked each time, is asked each time', async () => {
    const rules = [{ subject: 'everyone', object: '/safe/1', direction: 'in', action: 'ask' }] as const
    const { firewall, arrivals, connect, rulesOf } = world({ placement: 'event' }, { rules })
    const open = () => firewall.admit({ peer: ALICE, direction: 'in', object: '/safe/1' })
    const all = Promise.all([connect(ALICE), open()])
    await settle()
    expect(arrivals[0]!.questions.map(({ object }) => object)).toEqual(['connection', '/safe/1'])
    arrivals[0]!.accept()
    await all
    for (const remember of [true, false]) {
      const opening = open()
      await settle()
      arrivals.at(-1)!.accept({ remember })
      await opening
    }
    expect([arrivals.length, rulesOf(ALICE)]).toEqual([3, []])
  })

  test('is not placed again while it is here', async () => {
    const { connect, arrivals, trust } = world({ placement: 'event' })
    const session = new AbortController()
    const connecting = connect(ALICE)
    await settle()
    arrivals[0]!.accept()
    await connecting
    await trust.arrived(ALICE, nothing, { signal: session.signal })
    await now(connect(ALICE))
    expect(arrivals).toHaveLength(1)
    session.abort()
    const again = expect(connect(ALICE)).rejects.toEqual(denied)
    await settle()
    expect(arrivals).toHaveLength(2)
    arrivals[1]!.refuse()
    await again
  })

  test('can be accepted where its rule is another in the end: nothing is remembered that was not to be', async () => {
    const { firewall, arrivals, rulesOf, trust } = world({ placement: 'event' })
    for (const { id } of firewall.list()) firewall.remove(id) // not a rule is left that Trust relies on
    const opening = expect(firewall.admit({ peer: ALICE, direction: 'in', object: '/app/1' })).rejects.toEqual(denied)
    await settle()
    expect(() => arrivals[0]!.accept({ trust: true })).toThrow(denied)
    await opening
    expect([rulesOf(ALICE), trust.isTrusted(ALICE)]).toEqual([[], true])
  })

  test('is not what we ourselves do', async () => {
    const { firewall, arrivals } = world({ placement: 'event' })
    firewall.removeDefault('out')
    await expect(now(firewall.admit({ peer: ALICE, direction: 'out', object: 'connection' }))).rejects.toEqual(denied)
    expect(arrivals).toEqual([])
  })

  test('is refused when the trust is closed, and nobody waits for the next', async () => {
    const { connect, trust, arrivals } = world({ placement: 'both' })
    const queue = trust.arrivals[Symbol.asyncIterator]()
    const refusal = expect(connect(ALICE)).rejects.toEqual(denied)
    await settle()
    expect((await queue.next()).value).toBe(arrivals[0])
    const next = queue.next()
    trust.close()
    await refusal
    expect([await next, await queue.next()]).toEqual([
      { done: true, value: undefined },
      { done: true, value: undefined },
    ])
    await expect(now(connect(BOB))).rejects.toEqual(denied)
    expect(arrivals).toHaveLength(1)
  })

  test('goes to one of those who take from the queue, and to none that has left', async () => {
    const { connect, trust } = world({ placement: 'queue' })
    const [one, two] = [trust.arrivals[Symbol.asyncIterator](), trust.arrivals[Symbol.asyncIterator]()]
    const [first, second] = [one.next(), two.next()]
    await one.return!()
    expect([(await first).done, (await one.next()).done]).toEqual([true, true])
    const connecting = connect(ALICE)
    await settle()
    const { value } = await second
    value!.accept()
    await connecting
  })
})

describe('a handshake', () => {
  const EVERY = { elevation: ['/proof/1'] }
  const session = () => new AbortController()

  test('that passes makes its peer trusted', async () => {
    const { trust, lines, may } = world({ handshake: ({ peer }) => peer === ALICE })
    expect(await trust.arrived(ALICE, nothing, { signal: session().signal })).toBe(true)
    expect(await trust.arrived(BOB, nothing, { signal: session().signal })).toBe(false)
    expect(lines).toEqual(['alice trusted', 'alice handshake ok', 'bob handshake ERR_PEERLINE_DENIED'])
    expect([may(ALICE, '/app/1'), may(BOB, '/app/1')]).toEqual(['allow', 'deny'])
    await expect(trust.arrived(ALICE, nothing, { signal: session().signal })).resolves.toBe(true)
    expect(lines).toHaveLength(3) // it is not run with who is trusted
  })

  test('asks its peer, and knows who both are', async () => {
    const request = vi.fn<Exchange['request']>(async () => Uint8Array.of(7))
    let seen: unknown
    const { trust } = world({
      handshake: async ({ self, peer, request: ask }) => {
        seen = [self, peer, await ask('/proof/1', Uint8Array.of(1), { timeoutMs: 5 })]
        return true
      },
    })
    await trust.arrived(ALICE, { request }, { signal: session().signal })
    expect(seen).toEqual([SELF, ALICE, Uint8Array.of(7)])
    expect(request).toHaveBeenCalledWith('/proof/1', Uint8Array.of(1), {
      timeoutMs: 5,
      signal: expect.any(AbortSignal),
    })
  })

  test.each<[string, Handshake]>([
    [
      'throws',
      () => {
        throw new Error('boom')
      },
    ],
    ['rejects', () => Promise.reject(new Error('boom'))],
    ['says nothing', (() => undefined) as never],
    ['says something like yes', (() => 1) as never],
    ['says yes in another way', (async () => 'true') as never],
  ])('that %s trusts nobody', async (_, handshake) => {
    const { trust, lines } = world({ handshake })
    expect(await trust.arrived(ALICE, nothing, { signal: session().signal })).toBe(false)
    expect(lines).toEqual(['alice handshake ERR_PEERLINE_DENIED'])
  })

  test('elevates while it runs', async () => {
    const { handshake, running } = stepped()
    const { trust, lines, may } = world({ ...EVERY, handshake })
    const arriving = trust.arrived(ALICE, nothing, { signal: session().signal })
    expect(may(ALICE, '/proof/1')).toBe('deny') // not before it says so
    running[0]!.context.elevate()
    expect([may(ALICE, '/proof/1'), may(ALICE, '/app/1'), may(BOB, '/proof/1')]).toEqual(['allow', 'deny', 'deny'])
    running[0]!.resolve(false)
    expect(await arriving).toBe(false)
    expect(may(ALICE, '/proof/1')).toBe('deny')
    expect(lines).toEqual(['alice elevated', 'alice demoted over', 'alice handshake ERR_PEERLINE_DENIED'])
  })

  test('elevates for a time', async () => {
    const { handshake, running } = stepped()
    const { trust, lines, may } = world({ ...EVERY, handshake })
    const arriving = trust.arrived(ALICE, nothing, { signal: session().signal })
    const { elevate } = running[0]!.context
    elevate(100)
    await vi.advanceTimersByTimeAsync(99)
    elevate(200) // from now on
    await vi.advanceTimersByTimeAsync(199)
    expect(may(ALICE, '/proof/1')).toBe('allow')
    await vi.advanceTimersByTimeAsync(1)
    expect(may(ALICE, '/proof/1')).toBe('deny')
    for (const ms of [0, -1, 0.5, Number.NaN]) expect(() => elevate(ms)).toThrow(fails('ERR_PEERLINE_INVALID'))
    elevate(100)
    running[0]!.resolve(true)
    expect(await arriving).toBe(true)
    await vi.advanceTimersByTimeAsync(1_000)
    expect(lines).toEqual([
      'alice elevated',
      'alice elevated',
      'alice demoted time',
      'alice elevated',
      'alice demoted trusted',
      'alice trusted',
      'alice handshake ok',
    ])
  })

  test('that hangs is over at its time, and has no effect later', async () => {
    const { handshake, running } = stepped()
    const { trust, lines, may, firewall } = world({ ...EVERY, handshake, handshakeTimeoutMs: 300 })
    const request = vi.fn<Exchange['request']>(async () => new Uint8Array())
    const arriving = trust.arrived(ALICE, { request }, { signal: session().signal })
    const { context, resolve } = running[0]!
    context.elevate()
    await vi.advanceTimersByTimeAsync(300)
    expect(await arriving).toBe(false)
    resolve(true)
    await settle()
    expect(() => context.elevate()).toThrow(fails('ERR_PEERLINE_TIMEOUT'))
    await expect(context.request('/proof/1', new Uint8Array())).rejects.toEqual(fails('ERR_PEERLINE_TIMEOUT'))
    expect([context.signal.aborted, request.mock.calls, may(ALICE, '/proof/1')]).toEqual([true, [], 'deny'])
    expect([trust.isTrusted(ALICE), firewall.groups.size]).toEqual([false, 0])
    expect(lines).toEqual(['alice elevated', 'alice demoted over', 'alice handshake ERR_PEERLINE_TIMEOUT'])
  })

  test('has no effect after it has ended well, either', async () => {
    const { handshake, running } = stepped()
    const { trust, firewall } = world({ ...EVERY, handshake })
    const arriving = trust.arrived(ALICE, nothing, { signal: session().signal })
    running[0]!.resolve(false)
    await arriving
    expect(() => running[0]!.context.elevate()).toThrow(fails('ERR_PEERLINE_ABORTED'))
    expect(firewall.groups.size).toBe(0)
  })

  test('ends when its peer leaves, and trusts it no more', async () => {
    const { handshake, running } = stepped()
    const { trust, lines, firewall } = world({ ...EVERY, handshake })
    const here = session()
    const arriving = trust.arrived(ALICE, nothing, { signal: here.signal })
    running[0]!.context.elevate()
    here.abort()
    expect(firewall.groups.size).toBe(0) // at once
    running[0]!.resolve(true)
    expect(await arriving).toBe(false)
    expect(trust.isTrusted(ALICE)).toBe(false)
    expect(lines).toEqual(['alice elevated', 'alice demoted gone', 'alice handshake ERR_PEERLINE_ABORTED'])
  })

  test('that passes in the turn in which its peer leaves, or is distrusted, trusts nobody', async () => {
    for (const end of ['leaves', 'is distrusted'] as const) {
      const { handshake, running } = stepped()
      const { trust } = world({ handshake })
      const here = session()
      const arriving = trust.arrived(ALICE, nothing, { signal: here.signal })
      running[0]!.resolve(true)
      for (let turns = 0; turns < 3; turns++) await Promise.resolve()
      if (trust.isTrusted(ALICE))
        trust.distrust(ALICE) // it was quicker
      else if (end === 'leaves') here.abort()
      else trust.distrust(ALICE)
      expect(await arriving).toBe(false)
      expect(trust.isTrusted(ALICE)).toBe(false)
    }
  })

  test('ends when its peer is distrusted, in whatever form that is named', async () => {
    const { handshake, running } = stepped()
    const { trust } = world({ handshake })
    const arriving = trust.arrived(ALICE, nothing, { signal: session().signal })
    trust.distrust(toDidKey(ALICE) as PeerId)
    running[0]!.resolve(true)
    expect(await arriving).toBe(false)
    expect(trust.isTrusted(ALICE)).toBe(false)
  })

  test('is one, whatever the number of sessions', async () => {
    const { handshake, running } = stepped()
    const { trust } = world({ handshake })
    const all = Array.from({ length: 5 }, () => trust.arrived(ALICE, nothing, { signal: session().signal }))
    await settle()
    expect(handshake).toHaveBeenCalledTimes(1)
    running[0]!.resolve(false)
    expect(await Promise.all(all)).toEqual([false, false, false, false, false])
    expect(handshake).toHaveBeenCalledTimes(1) // a no is a no to all of them
    const later = trust.arrived(ALICE, nothing, { signal: session().signal })
    running[1]!.resolve(true)
    expect(await later).toBe(true)
  })

  test('goes on in another session when its own ends', async () => {
    const { handshake, running } = stepped()
    const { trust, lines } = world({ ...EVERY, handshake })
    const [one, two] = [session(), session()]
    const first = trust.arrived(ALICE, nothing, { signal: one.signal })
    const second = trust.arrived(ALICE, nothing, { signal: two.signal })
    running[0]!.context.elevate()
    one.abort()
    expect(await first).toBe(false)
    await settle()
    expect(handshake).toHaveBeenCalledTimes(2)
    running[1]!.resolve(true)
    expect(await second).toBe(true)
    expect(lines).toEqual([
      'alice elevated',
      'alice demoted over',
      'alice handshake ERR_PEERLINE_ABORTED',
      'alice trusted',
      'alice handshake ok',
    ])
  })

  test('of a visit that is over takes nothing from the next', async () => {
    const { handshake, running } = stepped()
    const { trust, may } = world({ ...EVERY, handshake })
    const here = session()
    const first = trust.arrived(ALICE, nothing, { signal: here.signal })
    here.abort()
    const second = trust.arrived(ALICE, nothing, { signal: session().signal })
    running[1]!.context.elevate()
    expect(await first).toBe(false)
    expect(may(ALICE, '/proof/1')).toBe('allow')
    running[1]!.resolve(true)
    expect(await second).toBe(true)
  })

  test('that distrusts its peer itself, before anything else, trusts nobody', async () => {
    const made: Trust[] = []
    const { trust, lines } = world({
      handshake: ({ peer }) => {
        made[0]!.distrust(peer)
        return true
      },
    })
    made.push(trust)
    expect(await trust.arrived(ALICE, nothing, { signal: session().signal })).toBe(false)
    expect(lines).toEqual(['alice handshake ERR_PEERLINE_ABORTED'])
  })

  test('is ended by distrust, and its yes counts for nothing', async () => {
    const { handshake, running } = stepped()
    const { trust, lines, firewall } = world({ ...EVERY, handshake })
    const all = [1, 2].map(() => trust.arrived(ALICE, nothing, { signal: session().signal }))
    running[0]!.context.elevate()
    trust.distrust(ALICE)
    running[0]!.resolve(true)
    expect(await Promise.all(all)).toEqual([false, false])
    expect([handshake.mock.calls.length, firewall.groups.size]).toEqual([1, 0])
    expect(lines).toEqual(['alice elevated', 'alice demoted distrusted', 'alice handshake ERR_PEERLINE_ABORTED'])
  })

  test('is needed no more when the owner trusts its peer meanwhile', async () => {
    const { handshake, running } = stepped()
    const { trust, firewall, lines } = world({ ...EVERY, handshake })
    const arriving = trust.arrived(ALICE, nothing, { signal: session().signal })
    running[0]!.context.elevate()
    firewall.addToGroup('trusted', ALICE)
    expect([running[0]!.context.signal.aborted, firewall.groups.has('elevated')]).toEqual([true, false])
    expect(await arriving).toBe(true)
    expect(lines).toEqual([
      'alice elevated',
      'alice demoted trusted',
      'alice trusted',
      'alice handshake ERR_PEERLINE_ABORTED',
    ])
  })

  test('ends with the trust', async () => {
    const { handshake, running } = stepped()
    const { trust, firewall, lines } = world({ ...EVERY, handshake })
    const all = [session(), session()].map(({ signal }) => trust.arrived(ALICE, nothing, { signal }))
    running[0]!.context.elevate()
    trust.close()
    expect(firewall.groups.size).toBe(0)
    running[0]!.resolve(true)
    expect(await Promise.all(all)).toEqual([false, false])
    expect(await trust.arrived(BOB, nothing, { signal: session().signal })).toBe(false)
    expect(handshake).toHaveBeenCalledTimes(1)
    expect(lines).toEqual(['alice elevated', 'alice demoted closed', 'alice handshake ERR_PEERLINE_CLOSED'])
  })

  test('leaves nothing at a signal', async () => {
    const { trust } = world({ handshake: () => false })
    const here = session()
    const added = vi.spyOn(here.signal, 'addEventListener')
    const removed = vi.spyOn(here.signal, 'removeEventListener')
    await trust.arrived(ALICE, nothing, { signal: here.signal })
    expect(added.mock.calls.length - removed.mock.calls.length).toBe(1) // that it leaves
    trust.close()
    expect(added.mock.calls.length - removed.mock.calls.length).toBe(0)
    await trust.arrived(ALICE, nothing, { signal: AbortSignal.abort() })
  })

  test('is not run with who is gone already', async () => {
    const { handshake } = stepped()
    const { trust } = world({ handshake })
    expect(await trust.arrived(ALICE, nothing, { signal: AbortSignal.abort() })).toBe(false)
    expect(handshake).not.toHaveBeenCalled()
  })
})

describe('elevated', () => {
  test('is nobody whom this run has not elevated', () => {
    const left = { trusted: [BOB], elevated: [ALICE] }
    const { trust, firewall, may, lines } = world({ elevation: ['/proof/1'] }, { groups: left })
    expect([may(ALICE, '/proof/1'), firewall.groups.has('elevated'), trust.isTrusted(BOB)]).toEqual([
      'deny',
      false,
      true,
    ])
    firewall.addToGroup('elevated', ALICE)
    expect(may(ALICE, '/proof/1')).toBe('deny')
    firewall.load({ ...firewall.toJSON(), groups: left })
    expect([may(ALICE, '/proof/1'), firewall.groups.has('elevated')]).toEqual(['deny', false])
    expect(lines).toEqual([])
  })
})

describe('enhanced exchange', () => {
  test('trusts whoever is let in, for as long as it is here', async () => {
    const handshake = vi.fn<Handshake>(() => false)
    const { trust, may, lines, firewall } = world({ enhancedExchange: true, handshake })
    const [one, two] = [new AbortController(), new AbortController()]
    expect(may(ALICE, '/app/1')).toBe('deny')
    expect(await trust.arrived(ALICE, nothing, { signal: one.signal })).toBe(true)
    expect(await trust.arrived(ALICE, nothing, { signal: two.signal })).toBe(true)
    expect(may(ALICE, '/app/1')).toBe('allow')
    one.abort()
    expect(trust.isTrusted(ALICE)).toBe(true)
    two.abort()
    expect([trust.isTrusted(ALICE), firewall.groups.size]).toEqual([false, 0])
    expect(lines).toEqual(['alice trusted', 'alice distrusted'])
    expect(handshake).not.toHaveBeenCalled()
  })

  test('fills no group with strangers, not even after a crash', async () => {
    const before = world({ enhancedExchange: true })
    before.trust.trust(BOB)
    await before.trust.arrived(ALICE, nothing, { signal: new AbortController().signal })
    const policy = JSON.parse(JSON.stringify(before.firewall.toJSON()))
    const { trust, firewall } = world({}, { policy })
    expect([trust.isTrusted(ALICE), trust.isTrusted(BOB), firewall.groups.has('elevated')]).toEqual([
      false,
      true,
      false,
    ])
    firewall.load(policy)
    expect([trust.isTrusted(ALICE), trust.isTrusted(BOB), firewall.groups.has('elevated')]).toEqual([
      false,
      true,
      false,
    ])
  })

  test('gives way to the owner, both ways', async () => {
    const { trust, lines } = world({ enhancedExchange: true })
    const here = [new AbortController(), new AbortController()]
    await trust.arrived(ALICE, nothing, { signal: here[0]!.signal })
    trust.trust(ALICE) // for good
    here[0]!.abort()
    expect(trust.isTrusted(ALICE)).toBe(true)
    await trust.arrived(BOB, nothing, { signal: here[1]!.signal })
    trust.distrust(BOB)
    expect(trust.isTrusted(BOB)).toBe(false)
    here[1]!.abort()
    expect(lines).toEqual(['alice trusted', 'bob trusted', 'bob distrusted'])
  })
})

describe('whatever happens', () => {
  test('nobody is elevated without a handshake, or trusted whom nobody trusts', async () => {
    const step = fc.oneof(
      fc.record({
        do: fc.constantFrom('arrive', 'leave', 'elevate', 'pass', 'fail', 'trust', 'distrust'),
        n: fc.nat(1),
      }),
      fc.record({ do: fc.constant('wait'), n: fc.integer({ min: 1, max: 400 }) }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const peers = [ALICE, BOB]
        const { handshake, running } = stepped()
        const { trust, firewall } = world({ handshake, elevation: ['/proof/1'], handshakeTimeoutMs: 500 })
        const here: AbortController[][] = [[], []]
        const given: boolean[] = [false, false]
        const live = (n: number) => running.find(({ context }) => context.peer === peers[n] && !context.signal.aborted)
        for (const { do: what, n } of steps) {
          const peer = peers[n]!
          if (what === 'arrive') {
            const session = new AbortController()
            here[n]!.push(session)
            void trust.arrived(peer, nothing, { signal: session.signal })
          } else if (what === 'leave') here[n]!.shift()?.abort()
          else if (what === 'elevate') live(n)?.context.elevate(100)
          else if (what === 'fail') live(n)?.resolve(false)
          else if (what === 'pass') {
            if (live(n) !== undefined) given[n] = true
            live(n)?.resolve(true)
          } else if (what === 'trust') {
            trust.trust(peer)
            given[n] = true
          } else if (what === 'distrust') {
            trust.distrust(peer)
            given[n] = false
          } else await vi.advanceTimersByTimeAsync(n)
          await settle()
          for (const [index, one] of peers.entries()) {
            const elevated = firewall.groups.get('elevated')?.includes(one) === true
            expect(trust.isTrusted(one)).toBe(given[index])
            if (elevated)
              expect([live(index) !== undefined, here[index]!.length > 0, given[index]]).toEqual([true, true, false])
          }
        }
        for (const session of here.flat()) session.abort()
        await settle()
        expect(firewall.groups.has('elevated')).toBe(false)
        trust.close()
        firewall.close()
        await settle()
        expect(vi.getTimerCount()).toBe(0)
      }),
      { numRuns: 200 },
    )
  })
})
