/** How many connections there may be, and how much each may have going on: typed refusals, and nothing stays counted. */
import net from 'node:net'
import { describe, expect, test } from 'vitest'
import type { Peer, PeerOptions, Session } from '../../src/index.ts'
import { later } from './policy-rows.ts'
import { once, portOf, startPeer, startWorld } from './world.ts'

const EMPTY = new Uint8Array(0)
const coded = (code: string) => expect.objectContaining({ code: `ERR_PEERLINE_${code}` })
const NOTHING = {
  pendingIn: 0,
  pendingOut: 0,
  establishedIn: 0,
  establishedOut: 0,
  total: 0,
  peers: 0,
  prefixes: 0,
}

const dial = (a: Peer, b: Peer): Promise<Session> => a.connect(b.id, { addresses: b.addresses })

/** Asks until it holds; each time a little of what is under way goes on. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setImmediate(resolve))
}

async function startCrowd(
  limits: NonNullable<PeerOptions['limits']>,
  size: number,
): Promise<{ b: Peer; crowd: Peer[] }> {
  const b = await startPeer({ limits })
  return { b, crowd: await Promise.all(Array.from({ length: size }, () => startPeer())) }
}

describe('limits', () => {
  test.each([
    ['total', { total: 2 }],
    ['establishedIn', { establishedIn: 2 }],
    ['perPrefix', { perPrefix: 2 }],
  ] as const)('%s: the third is refused, and told which it was where it is known who it is', async (limit, limits) => {
    const { b, crowd } = await startCrowd(limits, 3)
    const [first, second, third] = crowd as [Peer, Peer, Peer]
    const session = await dial(first, b)
    await dial(second, b)
    expect(b.connections).toMatchObject({ establishedIn: 2, total: 2, peers: 2, prefixes: 1 })
    const refused = await dial(third, b).catch((error) => error)
    // What stands before the handshake is refused without a word.
    if (limit === 'establishedIn') expect(refused).toEqual(coded('BUSY'))
    else expect(refused.code).toMatch(/WRONG_PEER|UNREACHABLE/)
    if (limit === 'establishedIn') expect(refused.message).toContain('establishedIn')
    expect(third.connections).toEqual(NOTHING)
    await until(() => b.connections.total === 2)
    // Whoever goes makes room.
    await session.close()
    await dial(third, b)
    expect(b.connections).toMatchObject({ establishedIn: 2, total: 2 })
    await Promise.all([...second.sessions, ...third.sessions].map((open) => open.close()))
    await until(() => b.connections.total === 0)
    expect(b.connections).toEqual(NOTHING)
  })

  test('perPeer: of one who dials anew each time, and of offers by a rendezvous', async () => {
    const { a, b } = await startWorld({ b: { limits: { perPeer: 2 } } })
    const sessions = [
      await a.connect(b.id, { via: 'relay' }),
      await a.connect(b.id, { addresses: b.addresses, via: 'tcp' }),
    ]
    await until(() => b.connections.total === 2)
    await expect(a.connect(b.id, { addresses: b.addresses, via: 'direct' })).rejects.toEqual(coded('BUSY'))
    await expect(a.connect(b.id, { via: 'udp' })).rejects.toEqual(coded('BUSY'))
    // And what we want ourselves is our own limit.
    await expect(b.connect(a.id, { via: 'relay' })).rejects.toEqual(coded('LIMIT'))
    expect(b.connections).toMatchObject({ total: 2, peers: 1 })
    await Promise.all(sessions.map((session) => session.close()))
    await until(() => b.connections.total === 0)
    await b.connect(a.id)
    expect(b.connections).toMatchObject({ establishedOut: 1, total: 1, peers: 1 })
    await Promise.all(b.sessions.map((session) => session.peer === a.id && session.close()))
    expect(b.connections).toEqual(NOTHING)
  })

  test('pendingIn: those who say nothing are bounded, and give way to who comes; those who go count no more', async () => {
    const { b, crowd } = await startCrowd({ pendingIn: 2 }, 1)
    const [friend] = crowd as [Peer]
    const mute = [0, 1, 2].map(() => net.connect(portOf(b.addresses[0]!), '127.0.0.1').on('error', () => {}))
    const gone = new Set<net.Socket>()
    for (const socket of mute) socket.on('close', () => gone.add(socket))
    await until(() => gone.size === 1)
    expect(b.connections).toMatchObject({ pendingIn: 2, total: 2 })
    await dial(friend, b)
    for (const socket of mute) socket.destroy()
    await until(() => b.connections.pendingIn === 0)
    expect(b.connections).toMatchObject({ pendingIn: 0, establishedIn: 1, total: 1 })
  })

  test('pendingIn: peers that wait for the owner count, and those that leave do not', async () => {
    const answer = later<boolean>()
    const b = await startPeer({ limits: { pendingIn: 1 }, firewall: { ask: () => answer.promise, rules: [] } })
    const [a, c] = [await startPeer(), await startPeer()]
    const asked = once(b.firewall, 'question')
    const cancel = new AbortController()
    const first = expect(a.connect(b.id, { addresses: b.addresses, signal: cancel.signal })).rejects.toEqual(
      coded('ABORTED'),
    )
    await asked
    expect(b.connections).toMatchObject({ pendingIn: 1, total: 1 })
    await expect(dial(c, b)).rejects.toMatchObject({ code: expect.stringMatching(/WRONG_PEER|UNREACHABLE/) })
    cancel.abort()
    await first
    await until(() => b.connections.total === 0)
    answer.resolve(true)
    await answer.promise
    expect(b.sessions).toEqual([])
  })

  test('pendingOut and establishedOut: our own dials, which say which limit it is', async () => {
    const [b, c] = [await startPeer(), await startPeer()]
    const a = await startPeer({ limits: { establishedOut: 1, pendingOut: 1 } })
    const both = await Promise.allSettled([dial(a, b), dial(a, c)])
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    expect((both[1] as PromiseRejectedResult).reason).toMatchObject({
      code: 'ERR_PEERLINE_LIMIT',
      message: expect.stringContaining('pendingOut'),
    })
    await expect(dial(a, c)).rejects.toMatchObject({ message: expect.stringContaining('establishedOut') })
    await a.sessions[0]!.close()
    await dial(a, await startPeer())
    expect(a.connections).toMatchObject({ pendingOut: 0, establishedOut: 1, total: 1 })
  })

  test('dials that fail, are refused, or are cancelled leave nothing counted', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const gone = await startPeer()
    await gone.close()
    b.firewall.set({ subject: a.id, direction: 'in', action: 'deny' })
    await expect(dial(a, b)).rejects.toEqual(coded('DENIED'))
    await expect(a.connect(gone.id, { addresses: gone.addresses })).rejects.toEqual(coded('UNREACHABLE'))
    await expect(a.connect(gone.id, { addresses: b.addresses })).rejects.toEqual(coded('WRONG_PEER'))
    const signal = AbortSignal.abort()
    await expect(a.connect(b.id, { addresses: b.addresses, signal })).rejects.toEqual(coded('ABORTED'))
    // Who is asked who it is says so, and no more.
    const session = await a.discover(b.addresses[0]!)
    await session.closed
    await expect(session.open('/x')).rejects.toEqual(coded('DENIED'))
    expect(a.connections).toEqual(NOTHING)
    await until(() => b.connections.total === 0)
    expect(b.connections).toEqual(NOTHING)
  })

  test('streams: one more waits at its opener, and is refused where it does not; an end makes room', async () => {
    const b = await startPeer({ limits: { streams: 2 } })
    const [polite, rude] = [await startPeer({ limits: { streams: 2 } }), await startPeer()]
    const held = later<Uint8Array>()
    let running = 0
    let most = 0
    b.handle('/hold/1', async () => {
      most = Math.max(most, ++running)
      await held.promise
      running--
      return EMPTY
    })
    await Promise.all([dial(polite, b), dial(rude, b)])
    const asks = (peer: Peer) => [0, 1, 2].map(() => peer.request(b.id, '/hold/1', EMPTY))
    const [one, two, three] = asks(rude)
    await expect(three).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY', executed: 'no' })
    const waiting = asks(polite)
    await until(() => running === 4)
    held.resolve(EMPTY)
    expect((await Promise.all([one, two, ...waiting])).length).toBe(5)
    expect(most).toBe(4)
  })

  test('that are none are refused when the peer is made', async () => {
    for (const limits of [{ total: -1 }, { perPeer: 1.5 }, { pendingIn: Number.NaN }, { ipv4PrefixBits: 33 }]) {
      await expect(startPeer({ limits })).rejects.toEqual(coded('INVALID'))
    }
  })
})

describe('questions to the owner', () => {
  test('are bounded for each peer: the next is refused as busy, and those that leave make room', async () => {
    const answer = later<boolean>()
    const a = await startPeer()
    const rules = [{ subject: a.id, object: 'connection', direction: 'in', action: 'allow' }] as const
    const b = await startPeer({ firewall: { rules, ask: () => answer.promise } })
    let entered = 0
    const names = Array.from({ length: 17 }, (_, at) => `/ask-${at}/1`)
    for (const name of names) {
      b.handle(name, () => {
        entered++
        return EMPTY
      })
    }
    await dial(a, b)
    const cancel = new AbortController()
    const { signal } = cancel
    const asked = once(b.firewall, 'question')
    const waiting = names.slice(0, 16).map((name) => a.request(b.id, name, EMPTY, { signal }))
    const left = Promise.allSettled(waiting)
    await expect(a.request(b.id, names[16]!, EMPTY)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_BUSY',
      executed: 'no',
    })
    await asked
    cancel.abort()
    expect((await left).map(({ status }) => status)).toEqual(Array(16).fill('rejected'))
    // A yes that comes when nobody waits any more is nobody's, and is not remembered.
    const again = once(b.firewall, 'question')
    const late = a.request(b.id, names[16]!, EMPTY, { attempts: 5 })
    await again
    answer.resolve(true)
    await late
    expect(entered).toBe(1)
  })

  test('of one who has left: the yes changes nothing, and leaves nothing', async () => {
    const answer = later<boolean>()
    const b = await startPeer({ firewall: { ask: () => answer.promise, rules: [] } })
    const a = await startPeer()
    const asked = once<{ questions: unknown }>(b.firewall, 'question')
    const dialling = expect(a.connect(b.id, { addresses: b.addresses })).rejects.toEqual(coded('CLOSED'))
    await asked
    const before = b.firewall.list()
    await a.close()
    await dialling
    await until(() => b.connections.total === 0)
    answer.resolve(true)
    await answer.promise
    expect(b.sessions).toEqual([])
    expect(b.firewall.list()).toEqual(before)
    expect(b.firewall.audit.entries.at(-1)).toMatchObject({ action: 'deny', reason: 'left' })
  })
})
