/**
 * Requests that ride in the offer of a dial. Where it is to be shown that one did, the peers have no way to each other: no
 * address is told, and the server relays nothing.
 */
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { decodeBody, type EarlyRequest, encodeBody, parseServerAddress } from '../../src/connect/index.ts'
import { createOffer } from '../../src/handshake/index.ts'
import {
  defineProtocol,
  type FirewallOptions,
  Identity,
  type Peer,
  PING,
  pingHandler,
  type RequestHandler,
} from '../../src/index.ts'
import type { Server } from '../../src/server/index.ts'
import { Rendezvous } from '../../src/signaling/index.ts'
import { once, startPeer, startServer, startWorld } from './world.ts'

const ECHO = '/echo/1'
const BODY = Buffer.from('hello')
const SAFE = { replaySafe: true }
const NO_PATH = expect.objectContaining({ code: 'ERR_PEERLINE_NO_PATH' })

/** Two peers that can tell each other everything, and reach each other nowhere. */
function apart(firewall: FirewallOptions = { allow: 'all' }): Promise<{ a: Peer; b: Peer }> {
  return startWorld({ server: { relay: false }, a: { via: 'relay' }, b: { via: 'relay', firewall } })
}

/** A handler that echoes, and counts. */
function echo(): ReturnType<typeof vi.fn<RequestHandler>> {
  return vi.fn<RequestHandler>(async (body) => body)
}

/** One whose first request waits until nobody wants its answer any more. */
function slowOnce(): ReturnType<typeof vi.fn<RequestHandler>> {
  return vi
    .fn<RequestHandler>(async (body) => body)
    .mockImplementationOnce((_, { signal }) => {
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    })
}

async function ask(from: Peer, to: Peer, options: { replaySafe?: boolean; key?: string } = SAFE): Promise<string> {
  return Buffer.from(await from.request(to.id, ECHO, BODY, options)).toString()
}

describe('a request that is safe to replay', () => {
  test('is answered by the dial itself: there is no path yet, and none will be', async () => {
    const { a, b } = await apart()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    expect(await ask(a, b)).toBe('hello')
    expect(handler).toHaveBeenCalledTimes(1)
    expect(handler.mock.calls[0]?.[1]).toMatchObject({ from: a.id, protocol: ECHO })
    // It was this that there was no other way for.
    await expect(a.connect(b.id)).rejects.toThrow(NO_PATH)
    await expect(ask(a, b, {})).rejects.toThrow(NO_PATH)
  })

  test('is answered with its failure, too', async () => {
    const { a, b } = await apart()
    b.handle(ECHO, () => Promise.reject(new Error('secret')), SAFE)
    await expect(ask(a, b)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_REMOTE',
      message: 'the handler failed',
      executed: 'yes',
    })
  })

  test('may be one of a protocol that was defined so', async () => {
    const { a, b } = await apart()
    const options = { name: '/add/1', replaySafe: true } as const
    const add = defineProtocol<number[], number[], number, number>(options)
    b.handle(add, (numbers) => numbers.reduce((sum, number) => sum + number, 0))
    expect(await a.request(b.id, add, [1, 2, 3])).toBe(6)
    const careful = defineProtocol<number[], number[], number, number>({ ...options, replaySafe: false })
    await expect(a.request(b.id, careful, [1, 2, 3])).rejects.toThrow(NO_PATH)
    b.handle(careful, () => 0)
    await expect(a.request(b.id, add, [1, 2, 3])).rejects.toThrow(NO_PATH)
  })

  test('may be a ping', async () => {
    const { a, b } = await apart()
    b.handle(PING, pingHandler)
    expect(Buffer.from(await a.request(b.id, PING, BODY)).toString()).toBe('hello')
    // Above the limit of its protocol it is not even shown to the handler.
    await expect(a.request(b.id, PING.name, new Uint8Array(65), SAFE)).rejects.toThrow(NO_PATH)
  })

  test('leaves a session behind that opens as any other, and is used by what follows', async () => {
    const { a, b } = await startWorld()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    expect(await ask(a, b)).toBe('hello')
    const session = await a.connect(b.id)
    expect(await ask(a, b)).toBe('hello')
    expect(a.sessions.filter(({ peer }) => peer === b.id)).toEqual([session])
    expect(handler).toHaveBeenCalledTimes(2)
  })

  test('waits for the session where a dial is under way', async () => {
    const { a, b } = await startWorld()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    expect(await Promise.all([ask(a, b), ask(a, b)])).toEqual(['hello', 'hello'])
    expect(handler).toHaveBeenCalledTimes(2)
    expect(a.sessions.filter(({ peer }) => peer === b.id)).toHaveLength(1)
  })

  test('goes by the session where an address is known, and the handshake runs on a path', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    b.handle(ECHO, echo(), SAFE)
    const answer = await a.request(b.id, ECHO, BODY, { ...SAFE, addresses: b.addresses })
    expect(Buffer.from(answer).toString()).toBe('hello')
  })
})

describe('what is not asked early, or not answered', () => {
  test.each<[string, { replaySafe?: boolean; key?: string }, { replaySafe?: boolean }]>([
    ['a request that does not say that it is safe', {}, SAFE],
    ['one with a key, which is to be executed once', { ...SAFE, key: 'k' }, SAFE],
    ['one for a handler that does not say that it is', SAFE, {}],
  ])('%s never comes with an offer', async (_, asking, handling) => {
    const { a, b } = await apart()
    const handler = echo()
    b.handle(ECHO, handler, handling)
    await expect(ask(a, b, asking)).rejects.toThrow(NO_PATH)
    expect(handler).not.toHaveBeenCalled()
  })

  test('one for a handler that was replaced, or taken away', async () => {
    const { a, b } = await apart()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    b.handle(ECHO, handler)
    await expect(ask(a, b)).rejects.toThrow(NO_PATH)
    b.handle(ECHO, handler, SAFE)
    b.unhandle(ECHO)
    await expect(ask(a, b)).rejects.toThrow(NO_PATH)
    expect(handler).not.toHaveBeenCalled()
  })

  test.each([
    ['a request of 513 bytes', 513, 1],
    ['an answer of 513 bytes', 1, 513],
  ])('%s is asked in the session', async (_, asked, answered) => {
    const { a, b } = await startWorld()
    const handler = vi.fn<RequestHandler>(() => new Uint8Array(answered))
    b.handle(ECHO, handler, SAFE)
    expect((await a.request(b.id, ECHO, new Uint8Array(asked), SAFE)).length).toBe(answered)
    expect(handler).toHaveBeenCalledTimes(asked > 512 ? 1 : 2)
  })

  test('what takes too long is asked again in the session', async () => {
    const { a, b } = await startWorld()
    const handler = slowOnce()
    b.handle(ECHO, handler, SAFE)
    expect(await ask(a, b)).toBe('hello')
    expect(handler).toHaveBeenCalledTimes(2)
    expect(handler.mock.calls[0]?.[1].signal.reason).toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  })

  test('a stranger is refused before its request is looked at', async () => {
    const { a, b } = await apart({})
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    await expect(ask(a, b)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    expect(handler).not.toHaveBeenCalled()
  })

  test.each<[string, FirewallOptions]>([
    ['denied', { rules: [{ subject: 'everyone', object: ECHO, action: 'deny' }] }],
    ['for the owner to decide', { rules: [{ subject: 'everyone', object: ECHO, action: 'ask' }] }],
    ['allowed once', { rules: [{ subject: 'everyone', object: ECHO, action: 'allow', uses: 1 }] }],
    [
      'allowed so often',
      { rules: [{ subject: 'everyone', object: ECHO, action: 'allow', rate: { count: 9, perMs: 9 } }] },
    ],
  ])('a protocol that is %s is left to the session', async (_, firewall) => {
    const owner = vi.fn(() => true)
    const { a, b } = await apart({ allow: 'all', ask: owner, ...firewall })
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    await expect(ask(a, b)).rejects.toThrow(NO_PATH)
    expect(handler).not.toHaveBeenCalled()
    expect(owner).not.toHaveBeenCalled()
    expect(b.firewall.list().find(({ object }) => object === ECHO)?.uses).toBe(firewall.rules?.[0]?.uses)
  })
})

describe('what rules say of a request', () => {
  test('that is denied is told by the session, and no handler runs', async () => {
    const rules = [{ subject: 'everyone', object: ECHO, direction: 'in', action: 'deny' }] as const
    const { a, b } = await startWorld({ b: { firewall: { allow: 'all', rules } } })
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    await expect(ask(a, b)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    expect(handler).not.toHaveBeenCalled()
  })

  test('holds until its handler begins: what is denied while it is read is not executed', async () => {
    const { a, b } = await apart()
    const options = { name: ECHO, replaySafe: true } as const
    const validate = async (value: unknown) => {
      b.firewall.set({ subject: a.id, object: ECHO, action: 'deny' })
      return { value }
    }
    const handler = vi.fn(() => 0)
    b.handle(
      defineProtocol({ ...options, request: { '~standard': { version: 1, vendor: 'test', validate } } }),
      handler,
    )
    await expect(a.request(b.id, defineProtocol(options), 1)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_DENIED',
      executed: 'no',
    })
    expect(handler).not.toHaveBeenCalled()
  })

  test('that we may not make holds for the offer', async () => {
    const { a, b } = await apart()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    a.firewall.set({ subject: b.id, object: ECHO, direction: 'out', action: 'deny' })
    await expect(ask(a, b)).rejects.toThrow()
    expect(handler).not.toHaveBeenCalled()
  })

  test('that was executed is recorded', async () => {
    const { a, b } = await apart()
    b.handle(ECHO, echo(), SAFE)
    await ask(a, b)
    const told = b.firewall.audit.entries.filter(({ object }) => object === ECHO)
    expect(told).toEqual([expect.objectContaining({ peer: a.id, direction: 'in', action: 'allow' })])
  })
})

describe('two peers at once', () => {
  test('that ask each other: both are answered, and have one session', async () => {
    const { a, b } = await startWorld()
    for (const peer of [a, b]) peer.handle(ECHO, echo(), SAFE)
    expect(await Promise.all([ask(a, b), ask(b, a)])).toEqual(['hello', 'hello'])
    expect((await a.connect(b.id)).id).toBe((await b.connect(a.id)).id)
  })

  // Which of two offers stands depends on the ids.
  test.each([1, -1])('one of which asks back before it answers: both are answered', async (order) => {
    const [first, second] = [Identity.generate(), Identity.generate()].sort(
      (one, other) => (one.peerId < other.peerId ? -1 : 1) * order,
    )
    const { a, b } = await startWorld({ a: { identity: first! }, b: { identity: second! } })
    a.handle('/back/1', async (body) => body)
    const backs: Promise<Uint8Array>[] = []
    const askBack: RequestHandler = (body, { from }) => {
      const back = b.request(from, '/back/1', body)
      backs.push(back)
      return back
    }
    b.handle(ECHO, askBack, SAFE)
    expect(await ask(a, b)).toBe('hello')
    // What was answered may still become a session until the turn is over.
    await Promise.all(backs)
    await new Promise(setImmediate)
    const sessions = [a.sessions, b.sessions].map((all) => all.filter(({ peer }) => peer === a.id || peer === b.id))
    expect(sessions.map((some) => some.map(({ id }) => id))).toEqual([[expect.any(String)], [sessions[0]![0]!.id]])
  })

  test('one of which closes while it answers: it makes no session any more', async () => {
    const { a, b } = await startWorld()
    const called = new Promise<AbortSignal>((resolve) => {
      b.handle(ECHO, (_, { signal }) => new Promise(() => resolve(signal)), SAFE)
    })
    const stop = new AbortController()
    const asking = a.request(b.id, ECHO, BODY, { ...SAFE, signal: stop.signal })
    const failed = expect(asking).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    const signal = await called
    const closed = b.close()
    expect(signal.reason).toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
    await closed
    expect(b.sessions).toEqual([])
    stop.abort()
    await failed
  })
})

describe('an offer with a request', () => {
  /** Whoever holds it sends it by a registration of its own. */
  async function send(server: Server, to: Peer, offer: ReturnType<typeof createOffer>): Promise<Uint8Array> {
    const anybody = await startPeer()
    const { port } = parseServerAddress(server.url)
    const addresses = [`127.0.0.1:${port}`]
    const session = await anybody.connect(server.peer.id, { addresses, via: 'direct' })
    const stop = new AbortController()
    onTestFinished(() => stop.abort())
    const { signal } = stop
    const own = await Rendezvous.register(session, {
      name: 'test',
      listed: false,
      onOffer: async () => undefined,
      signal,
    })
    return own.exchange(to.id, offer.requestId, offer.message, { signal })
  }

  function offerTo(to: Peer, early: EarlyRequest): ReturnType<typeof createOffer> {
    return createOffer(Identity.generate(), to.id, { body: encodeBody({ hidden: true, early }) })
  }

  test('that comes by two media, or again from somebody who copied it, is answered alike and executed once', async () => {
    const servers = [await startServer(), await startServer()]
    const b = await startPeer({ rendezvous: servers.map(({ url }) => url) })
    while (!b.rendezvous.every((status) => status.online)) await once(b, 'online')
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    const offer = offerTo(b, { protocol: ECHO, body: BODY })
    const answers = await Promise.all([...servers, ...servers].map((server) => send(server, b, offer)))
    for (const answer of answers) expect(answer).toEqual(answers[0])
    const { earlyAnswer } = decodeBody(offer.complete(answers[0]!).body)
    expect(earlyAnswer).toEqual(Uint8Array.of(0, ...BODY))
    expect(handler).toHaveBeenCalledTimes(1)
  })

  test.each([
    ['of a form of its protocol', { protocol: `${ECHO};once/1`, body: BODY }],
    ['of a protocol that is none', { protocol: '__proto__', body: BODY }],
    ['for a stream that is no request', { protocol: '/stream/1', body: BODY }],
  ])('%s has its answer without one', async (_, early) => {
    const server = await startServer()
    const b = await startPeer({ rendezvous: [server.url] })
    await b.online()
    const handler = echo()
    b.handle(ECHO, handler, SAFE)
    b.handleStream('/stream/1', () => handler(BODY, undefined as never) as never)
    const offer = offerTo(b, early)
    const told = decodeBody(offer.complete(await send(server, b, offer)).body)
    expect(told).not.toHaveProperty('earlyAnswer')
    expect(handler).not.toHaveBeenCalled()
  })
})
