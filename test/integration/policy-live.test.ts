/** Rules, groups and bans that change while sessions are open and requests run: what is not allowed any more is cut. */
import { describe, expect, test } from 'vitest'
import { defineProtocol, type Peer, requestKey, type Session, type Stream } from '../../src/index.ts'
import type { FirewallOptions } from '../../src/policy/firewall.ts'
import {
  DEFAULTS,
  DENIED,
  type Default,
  Owner,
  outcomeOf,
  ROWS,
  SEEN,
  seen,
  setDefault,
  setRow,
} from './policy-rows.ts'
import { once, startPeer, startServer, startWorld } from './world.ts'

const EMPTY = new Uint8Array(0)
const RESET = 'ERR_PEERLINE_RESET'
const code = (text: string) => expect.objectContaining({ code: text })

const dial = (a: Peer, b: Peer): Promise<Session> => a.connect(b.id, { addresses: b.addresses })

/** A handler that goes on until it is let go, or its signal fires. */
function pending() {
  let enter = () => {}
  let release = () => {}
  const entered = new Promise<void>((resolve) => {
    enter = resolve
  })
  const held = new Promise<void>((resolve) => {
    release = resolve
  })
  const state: { signal?: AbortSignal } = {}
  const handle = async (_: unknown, { signal }: { signal: AbortSignal }): Promise<Uint8Array> => {
    state.signal = signal
    enter()
    await Promise.race([held, new Promise((resolve) => signal.addEventListener('abort', resolve))])
    return EMPTY
  }
  return { entered, release, state, handle }
}

/** `b` decides; `a` asks. What `a` wants of `b` is let through until a test says otherwise. */
async function startPair(firewall: FirewallOptions = {}) {
  const a = await startPeer()
  const rules = [{ subject: a.id, object: 'connection', direction: 'in', action: 'allow' }] as const
  const b = await startPeer({ firewall: { rules, ...firewall } })
  b.handle('/probe/1', () => EMPTY)
  b.firewall.set({ subject: a.id, object: '/probe/1', direction: 'in', action: 'allow' })
  return { a, b }
}

describe.each(DEFAULTS)('a request that runs, the default being %s', (by: Default) => {
  test('goes on, or is cut, as the rule says that is set meanwhile', async () => {
    const [owner, clock] = [new Owner(), { ms: Date.now() }]
    const { a, b } = await startPair({ ask: owner.ask, approveTimeoutMs: 50, now: () => clock.ms })
    setDefault(b.firewall, by)
    const session = await dial(a, b)
    const results: unknown[] = []
    const expected: unknown[] = []
    for (const [index, row] of [...ROWS, ...SEEN].entries()) {
      const object = `/row-${index}/1`
      const { entered, release, state, handle } = pending()
      const protocol = seen(object)
      if (row.what === undefined) b.handle(object, handle)
      else
        b.handle(protocol, async (what, context) => {
          await handle(what, context)
          return what
        })
      owner.said = true
      // Of a rule for the peer, the group or everyone, the one that let it in has to go first.
      const leave = b.firewall.set({ subject: a.id, object, direction: 'in', action: 'allow' })
      const asking = outcomeOf(
        row.what === undefined ? a.request(b.id, object, EMPTY) : a.request(b.id, protocol, row.what),
      )
      await entered
      owner.said = row.said ?? false
      const undo = setRow(b.firewall, row, { peer: a.id, object, direction: 'in', clock })
      if (row.rule === undefined || row.subject !== undefined || row.late) b.firewall.remove(leave)
      // What was cut before is told before.
      await a.request(b.id, '/probe/1', EMPTY)
      const fired = state.signal!.aborted
      release()
      results.push([row.name, await asking, fired, session.state])
      const on = row.goesOn(by)
      expected.push([row.name, on ? 'answered' : RESET, !on, 'open'])
      undo()
      b.firewall.remove(leave)
    }
    expect(results).toEqual(expected)
  })
})

describe('a connection that is open', () => {
  test.each(['in', 'out'] as const)(
    '%s: stays, or ends at both sides with what runs in it, as the rule says',
    async (direction) => {
      for (const by of DEFAULTS) {
        const [owner, clock] = [new Owner(), { ms: Date.now() }]
        const firewall = { ask: owner.ask, approveTimeoutMs: 50, now: () => clock.ms, rules: [] }
        const b = await startPeer(direction === 'in' ? { firewall } : {})
        const a = await startPeer(direction === 'out' ? { firewall } : {})
        const [decider, peer] = direction === 'in' ? [b, a] : [a, b]
        setDefault(decider.firewall, by, direction)
        const rest = { subject: peer.id, object: '*', direction, action: 'allow' } as const
        decider.firewall.set(rest)
        b.handle('/probe/1', () => EMPTY)
        const results: unknown[] = []
        const expected: unknown[] = []
        for (const row of ROWS) {
          const { entered, release, state, handle } = pending()
          b.handle('/run/1', handle)
          owner.said = true
          const about = { subject: peer.id, object: 'connection', direction } as const
          const leave = decider.firewall.set({ ...about, action: 'allow' })
          const session = await dial(a, b)
          const theirs = b.sessions.find(({ id }) => id === session.id)!
          const asking = outcomeOf(a.request(b.id, '/run/1', EMPTY))
          await entered
          owner.said = row.said ?? false
          const undo = setRow(decider.firewall, row, { peer: peer.id, object: 'connection', direction, clock })
          if (row.rule === undefined || row.subject !== undefined || row.late) decider.firewall.remove(leave)
          const on = row.goesOn(by)
          if (on) await session.open('/probe/1').then((stream) => stream.reset())
          else await Promise.all([session.closed, theirs.closed])
          const ended = on ? [] : [await outcomeOf(session.open('/x')), await outcomeOf(theirs.open('/x'))]
          const fired = state.signal!.aborted
          release()
          results.push([row.name, await asking, fired, session.state, theirs.state, ...ended])
          expected.push(
            on
              ? [row.name, 'answered', false, 'open', 'open']
              : [row.name, DENIED, true, 'closed', 'closed', DENIED, DENIED],
          )
          undo()
          decider.firewall.remove(leave)
          decider.firewall.set(rest)
          await Promise.all([session.close(), theirs.close()])
        }
        expect([by, results]).toEqual([by, expected])
        expect(decider.connections).toMatchObject({ total: 0, peers: 0 })
      }
    },
  )

  test('by a rendezvous as well: it ends at both sides, and what is dialled anew is refused', async () => {
    const { a, b } = await startWorld()
    const session = await a.connect(b.id, { via: 'relay' })
    const theirs = b.sessions.find(({ id }) => id === session.id)!
    b.firewall.set({ subject: a.id, direction: 'in', action: 'deny' })
    await Promise.all([session.closed, theirs.closed])
    await expect(session.open('/x')).rejects.toEqual(code(DENIED))
    await expect(a.connect(b.id, { via: 'relay' })).rejects.toEqual(code(DENIED))
    await expect(a.connect(b.id)).rejects.toEqual(code(DENIED))
    b.firewall.remove(`${a.id} anything in`)
    const again = await a.connect(b.id, { via: 'relay' })
    const ended = b.sessions.find(({ id }) => id === again.id)!.closed
    a.firewall.set({ subject: b.id, object: 'connection', direction: 'out', action: 'deny' })
    expect(again.state).toBe('closed')
    await ended
    await expect(a.connect(b.id)).rejects.toEqual(code(DENIED))
    expect([a.connections.total, b.connections.peers]).toEqual([0, 0])
  })

  test('ends when its rule is over by time, and when its peer leaves the group', async () => {
    const { a, b } = await startPair({ rules: [] })
    b.firewall.set({ subject: a.id, direction: 'in', action: 'allow', expiresAt: Date.now() + 300 })
    const first = await dial(a, b)
    await first.closed
    await expect(first.open('/x')).rejects.toEqual(code(DENIED))
    b.firewall.set({ subject: 'group:friends', direction: 'in', action: 'allow' })
    await expect(dial(a, b)).rejects.toEqual(code(DENIED))
    b.firewall.addToGroup('friends', a.id)
    const second = await dial(a, b)
    b.firewall.addToGroup('others', a.id)
    b.firewall.removeFromGroup('others', a.id)
    await second.open('/x').then((stream) => stream.reset())
    b.firewall.removeFromGroup('friends', a.id)
    await second.closed
    await expect(second.open('/x')).rejects.toEqual(code(DENIED))
  })
})

describe('a request of ours that runs', () => {
  test('is given up when our own rules no longer allow it, and its handler is told', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const { entered, state, handle } = pending()
    b.handle('/run/1', handle)
    b.handle('/probe/1', () => EMPTY)
    const session = await dial(a, b)
    const asking = outcomeOf(a.request(b.id, '/run/1', EMPTY))
    await entered
    a.firewall.set({ subject: b.id, object: '/run/*', direction: 'out', action: 'deny' })
    expect(await asking).toBe('ERR_PEERLINE_CLOSED')
    await a.request(b.id, '/probe/1', EMPTY)
    expect(state.signal!.aborted).toBe(true)
    await expect(session.open('/run/1')).rejects.toEqual(code(DENIED))
    expect(session.state).toBe('open')
  })
})

describe('handlers that do not depend on their streams', () => {
  test('of a message: the signal fires when the rule goes, and the ban comes', async () => {
    for (const change of ['rule', 'ban', 'connection'] as const) {
      const { a, b } = await startPair()
      const { entered, state, handle } = pending()
      b.handle('/news/1', handle)
      b.firewall.set({ subject: a.id, object: '/news/*', direction: 'in', action: 'allow' })
      await dial(a, b)
      await a.send(b.id, '/news/1', EMPTY)
      await entered
      // The message is here: its stream has ended already.
      expect(state.signal!.aborted).toBe(false)
      if (change === 'rule') b.firewall.set({ subject: a.id, object: '/news/1', direction: 'in', action: 'deny' })
      else if (change === 'ban') b.bans.ban(a.id)
      else b.firewall.set({ subject: a.id, object: 'connection', direction: 'in', action: 'deny' })
      expect(state.signal).toMatchObject({ aborted: true, reason: { code: DENIED } })
    }
  })

  test('of a request with a key: also when its session has ended before', async () => {
    for (const lost of [false, true]) {
      for (const change of ['rule', 'ban', 'connection'] as const) {
        const { a, b } = await startPair()
        const { entered, state, handle } = pending()
        const protocol = seen('/pay/1')
        b.handle(protocol, async (what, context) => {
          await handle(what, context)
          return what
        })
        b.firewall.set({ subject: a.id, object: '/pay/1', direction: 'in', action: 'restrict', permissions: ['pay'] })
        const session = await dial(a, b)
        const asking = outcomeOf(a.request(b.id, protocol, 'pay', { key: requestKey() }))
        await entered
        if (lost) {
          const gone = once(b, 'sessionEnd')
          await Promise.all([session.close(), gone])
        }
        expect(state.signal!.aborted).toBe(false)
        if (change === 'rule') {
          b.firewall.set({
            subject: a.id,
            object: '/pay/1',
            direction: 'in',
            action: 'restrict',
            permissions: ['look'],
          })
        } else if (change === 'ban') b.bans.ban(a.id)
        else b.firewall.set({ subject: a.id, object: 'connection', direction: 'in', action: 'deny' })
        expect(state.signal).toMatchObject({ aborted: true, reason: { code: DENIED } })
        expect(await asking).toBe(lost ? 'ERR_PEERLINE_CLOSED' : change === 'rule' ? RESET : DENIED)
      }
    }
  })

  test('are not entered at all when the rule goes while the request is read, or is decided about', async () => {
    for (const form of ['plain', 'keyed', 'one-way'] as const) {
      for (const change of ['rule', 'ban'] as const) {
        const { a, b } = await startPair()
        let validating = () => {}
        const read = new Promise<void>((resolve) => {
          validating = resolve
        })
        let go = () => {}
        const gone = new Promise<void>((resolve) => {
          go = resolve
        })
        const validate = async (value: unknown) => {
          validating()
          await gone
          return { value: value as string }
        }
        const name = '/slow/1'
        const bare = defineProtocol<string, string, string, string>({ name })
        const slow = defineProtocol<string, string, string, string>({
          name,
          request: { '~standard': { version: 1, vendor: 'here', validate } },
        })
        let entered = 0
        b.handle(slow, (value) => {
          entered++
          return value
        })
        b.firewall.set({ subject: a.id, object: name, direction: 'in', action: 'allow' })
        await dial(a, b)
        const failed = form === 'one-way' ? once(b, 'messageFailed') : undefined
        const asking = outcomeOf(
          form === 'one-way'
            ? a.send(b.id, bare, 'x')
            : a.request(b.id, bare, 'x', form === 'keyed' ? { key: requestKey() } : {}),
        )
        await read
        if (change === 'ban') b.bans.ban(a.id)
        else b.firewall.set({ subject: a.id, object: name, direction: 'in', action: 'deny' })
        go()
        if (form === 'one-way') expect(await failed).toMatchObject({ from: a.id, error: { code: DENIED } })
        expect(await asking).toBe(form === 'one-way' ? 'answered' : change === 'ban' ? DENIED : RESET)
        expect(entered).toBe(0)
      }
    }
  })

  test('are not entered when whoever is told of the decision denies it', async () => {
    const { a, b } = await startPair()
    let entered = 0
    b.handle('/late/1', () => {
      entered++
      return EMPTY
    })
    b.firewall.set({ subject: a.id, object: '/late/1', direction: 'in', action: 'allow' })
    const session = await dial(a, b)
    b.firewall.addEventListener('decision', ({ detail: { action, question } }) => {
      if (action === 'allow' && question.object === '/late/1') {
        b.firewall.set({ subject: a.id, object: '/late/1', direction: 'in', action: 'deny' })
      }
    })
    expect(await outcomeOf(a.request(b.id, '/late/1', EMPTY))).toBe(DENIED)
    expect([entered, session.state]).toEqual([0, 'open'])
  })

  test('no session comes of a dial that is let in and denied in the same turn', async () => {
    const owner = new Owner()
    owner.said = true
    const b = await startPeer({ firewall: { ask: owner.ask, rules: [] } })
    const a = await startPeer()
    b.firewall.addEventListener('decision', ({ detail: { action, question } }) => {
      if (action === 'allow' && question.object === 'connection') {
        b.firewall.set({ subject: question.peer, object: 'connection', direction: 'in', action: 'deny' })
      }
    })
    expect(await outcomeOf(dial(a, b))).toBe(DENIED)
    expect([a.sessions, b.sessions]).toEqual([[], []])
    expect(b.connections.total).toBe(0)
  })
})

describe('bans', () => {
  test('of a peer: end what is open at both sides, and refuse both ways at once; lifted, all is as before', async () => {
    const { a, b } = await startWorld()
    const { entered, state, handle } = pending()
    b.handle('/run/1', handle)
    const session = await a.connect(b.id)
    const theirs = b.sessions.find(({ id }) => id === session.id)!
    const asking = outcomeOf(a.request(b.id, '/run/1', EMPTY))
    await entered
    b.bans.ban(a.id)
    expect(theirs.state).toBe('closed')
    await session.closed
    expect(await asking).toBe(DENIED)
    expect(state.signal!.aborted).toBe(true)
    const tries = [a.connect(b.id), a.connect(b.id, { via: 'relay' }), dial(a, b), b.connect(a.id), dial(b, a)]
    expect(await Promise.all(tries.map(outcomeOf))).toEqual(Array(5).fill(DENIED))
    b.bans.unban(a.id)
    expect(await outcomeOf(dial(a, b))).toBe('answered')
    await b.connect(a.id)
  })

  test('of an address: end what is open over it, and refuse both ways at once', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const session = await dial(a, b)
    b.bans.ban('127.0.0.0/8')
    await session.closed
    await expect(session.open('/x')).rejects.toEqual(code(DENIED))
    // Nothing is said to a stranger from there: not even that it is banned.
    const refused = await dial(a, b).catch((error) => error)
    expect(refused.code).toMatch(/WRONG_PEER|UNREACHABLE|PROTOCOL/)
    await expect(dial(b, a)).rejects.toEqual(code(DENIED))
    await expect(b.discover(a.addresses[0]!)).rejects.toEqual(code(DENIED))
    await expect(b.discover(`localhost:${a.addresses[0]!.split(':').at(-1)}`)).rejects.toEqual(code(DENIED))
    b.bans.unban('127.0.0.0/8')
    await dial(a, b)
    await b.connect(a.id)
    expect(a.connections.total).toBe(1)
  })

  test('of an address, while its peer waits for the owner: the yes comes too late', async () => {
    let answer = (_: boolean) => {}
    const said = new Promise<boolean>((resolve) => {
      answer = resolve
    })
    const b = await startPeer({ firewall: { ask: () => said, rules: [] } })
    const a = await startPeer()
    const asked = once(b.firewall, 'question')
    const dialling = dial(a, b)
    await asked
    b.bans.ban('127.0.0.1')
    answer(true)
    const session = await dialling.catch(() => undefined)
    await session?.closed
    expect([a.sessions, b.sessions]).toEqual([[], []])
    expect(b.connections.total).toBe(0)
  })

  test('of a peer, while it waits for the owner: the yes comes too late', async () => {
    let answer = (_: boolean) => {}
    const said = new Promise<boolean>((resolve) => {
      answer = resolve
    })
    const b = await startPeer({ firewall: { ask: () => said, rules: [] } })
    const a = await startPeer()
    const asked = once(b.firewall, 'question')
    const dialling = outcomeOf(dial(a, b))
    await asked
    b.bans.ban(a.id)
    answer(true)
    expect(await dialling).toBe(DENIED)
    expect(b.sessions).toEqual([])
  })

  test('end by themselves', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const until = Date.now() + 200
    b.bans.ban(a.id, { until })
    const refused: string[] = []
    for (;;) {
      const outcome = await outcomeOf(dial(a, b))
      if (outcome === 'answered') break
      refused.push(outcome)
    }
    expect(Date.now()).toBeGreaterThanOrEqual(until)
    expect(new Set(refused)).toEqual(new Set([DENIED]))
  })
})

describe('what each setting does', () => {
  test('the time that the owner gets is that, and changes nothing of sessions', async () => {
    const never = () => new Promise<boolean>(() => {})
    const rules = [{ subject: 'everyone', object: 'connection', direction: 'in', action: 'allow' }] as const
    const [a, quick] = [await startPeer(), await startPeer({ firewall: { ask: never, approveTimeoutMs: 30, rules } })]
    const slow = await startPeer({ firewall: { ask: never, approveTimeoutMs: 60_000, rules } })
    for (const b of [quick, slow]) b.handle('/x/1', () => EMPTY)
    const [one, other] = [await dial(a, quick), await dial(a, slow)]
    const asking = a.request(slow.id, '/x/1', EMPTY, { timeoutMs: 400 })
    const late = outcomeOf(asking)
    expect(await outcomeOf(a.request(quick.id, '/x/1', EMPTY))).toBe(DENIED)
    expect(quick.firewall.audit.entries.at(-1)).toMatchObject({ reason: 'unanswered' })
    expect(await late).toBe('ERR_PEERLINE_TIMEOUT')
    expect([one.state, other.state]).toEqual(['open', 'open'])
    expect(quick.sessions[0]!.keepAliveMs).toEqual(slow.sessions[0]!.keepAliveMs)
    // Nobody was answered, so nothing is remembered, and it is asked again.
    expect(quick.firewall.list().filter(({ subject }) => subject === a.id)).toEqual([])
  })

  test('a default that is removed holds no more, for what is new and for what runs', async () => {
    const { a, b } = await startPair()
    const { entered, state, handle } = pending()
    b.handle('/x/1', () => EMPTY)
    b.handle('/run/1', handle)
    b.firewall.setDefault('allow', 'in')
    await dial(a, b)
    expect(await outcomeOf(a.request(b.id, '/x/1', EMPTY))).toBe('answered')
    const running = outcomeOf(a.request(b.id, '/run/1', EMPTY))
    await entered
    b.firewall.removeDefault('in')
    expect(await outcomeOf(a.request(b.id, '/x/1', EMPTY))).toBe(DENIED)
    expect(await running).toBe(RESET)
    expect(state.signal!.aborted).toBe(true)
    b.firewall.setDefault('deny', 'in')
    b.firewall.removeDefault('in')
    b.firewall.set({ subject: a.id, object: '/x/1', direction: 'in', action: 'allow' })
    expect(await outcomeOf(a.request(b.id, '/x/1', EMPTY))).toBe('answered')
  })
})

describe('a stranger', () => {
  test('that orders a disconnect, in whatever words, disconnects nobody', async () => {
    const [a, b, stranger] = [await startPeer(), await startPeer(), await startPeer()]
    b.handle('/note/1', () => EMPTY)
    const session = await dial(a, b)
    await dial(stranger, b)
    const order = { type: 'disconnect', peer: a.id, ip: '127.0.0.1', port: session.remote }
    const words = Buffer.from(`<Disconnect>${JSON.stringify(order)}</Disconnect>`)
    await outcomeOf(stranger.request(b.id, '/note/1', words))
    for (const protocol of ['/peerline/order/1', '/peerline/disconnect/1', '/disconnect']) {
      expect(await outcomeOf(stranger.request(b.id, protocol, words))).not.toBe('answered')
    }
    // Nor does its own going away.
    await Promise.all(stranger.sessions.map((open) => open.close()))
    await stranger.close()
    expect(await outcomeOf(a.request(b.id, '/note/1', EMPTY))).toBe('answered')
    expect(session.state).toBe('open')
  })
})

describe('a server that we dialled', () => {
  test.each(['ws', 'tcp'])('over %s is left when its address is banned, and not dialled again', async (scheme) => {
    const server = await startServer()
    const a = await startPeer({ rendezvous: [server.url.replace(/^ws/, scheme)] })
    await a.online()
    const [session] = a.sessions
    const offline = once(a, 'offline', ({ error }: { error?: { code: string } }) => error?.code === DENIED)
    a.bans.ban('::ffff:127.0.0.0/104')
    await Promise.all([session!.closed, offline])
    const again = once(
      a,
      'offline',
      ({ error }: { error?: { message: string } }) => error?.message.includes('banned') === true,
    )
    await again
    expect([a.sessions, server.peer.sessions]).toEqual([[], []])
  })

  test('may no longer what a rule of its own let it, though everyone who was let in may', async () => {
    const server = await startServer()
    const a = await startPeer({ rendezvous: [server.url] })
    await a.online()
    const { id } = server.peer
    const streams: Stream[] = []
    a.handleStream('/x/1', (stream) => void streams.push(stream))
    const session = server.peer.sessions.find(({ peer }) => peer === a.id)!
    const open = async () => {
      const stream = await session.open('/x/1')
      await stream.write(Uint8Array.of(1)).catch(() => {})
      return stream
    }
    await expect((await open()).next()).rejects.toEqual(code(DENIED))
    for (const uses of [undefined, 2]) {
      const rule = a.firewall.set({
        subject: id,
        object: '/x/1',
        direction: 'in',
        action: 'allow',
        ...(uses && { uses }),
      })
      await open()
      await expect.poll(() => streams.length).toBe(1)
      a.firewall.set({ subject: 'everyone', object: '/other/1', action: 'deny' })
      expect(streams[0]!.done).toBe(false)
      a.firewall.remove(rule)
      expect(streams.splice(0)[0]!.done).toBe(true)
    }
  })
})
