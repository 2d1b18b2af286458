/** Requests and messages between peers: how they fail, and that nothing is lost, doubled or mixed up. */
import { createHash, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { defineProtocol, Identity, type Peer, PeerlineError, requestKey, type StandardSchema } from '../../src/index.ts'
import { later } from './policy-rows.ts'
import { cut, once, portOf, readAll, startPeer, startWorld, watchSockets } from './world.ts'

const EMPTY = new Uint8Array(0)
const BODY = Buffer.from('hello')
const textOf = (bytes: Uint8Array) => Buffer.from(bytes).toString('latin1')
const failure = (code: string, executed: string) => expect.objectContaining({ code: `ERR_PEERLINE_${code}`, executed })
const coded = (code: string) => expect.objectContaining({ code: `ERR_PEERLINE_${code}` })

async function startPair(): Promise<{ a: Peer; b: Peer; how: { addresses: readonly string[] } }> {
  const [a, b] = [await startPeer({ reconnectMs: 0 }), await startPeer({ reconnectMs: 0 })]
  return { a, b, how: { addresses: b.addresses } }
}

/** A handler that answers when it is let go, and tells when it is entered and when its signal fires. */
function pending() {
  const { promise: entered, resolve: enter } = later()
  const { promise: fired, resolve: fire } = later<unknown>()
  const { promise: held, resolve: release } = later<Uint8Array>()
  const handle = (_: unknown, { signal }: { signal: AbortSignal }): Promise<Uint8Array> => {
    signal.addEventListener('abort', () => fire(signal.reason))
    enter()
    return held
  }
  return { entered, fired, release, handle }
}

describe('a request that fails', () => {
  test('for want of a handler, or of a form of it', async () => {
    const { a, b, how } = await startPair()
    b.handleStream('/raw/1', (stream) => stream.reset(400))
    const lost = failure('NO_PROTOCOL', 'no')
    await expect(a.request(b.id, '/none/1', BODY, how)).rejects.toEqual(lost)
    await expect(a.request(b.id, '/raw/1', BODY, { ...how, key: requestKey() })).rejects.toEqual(lost)
    await expect(a.request(b.id, '/raw/1', BODY, how)).rejects.toEqual(failure('RESET', 'unknown'))
    await expect(a.requestStream(b.id, '/none/1', BODY, how)).rejects.toEqual(lost)
  })

  test('for want of time: at the asker, and at the handler, whose signal fires either way', async () => {
    const { a, b, how } = await startPair()
    const [ours, theirs] = [pending(), pending()]
    b.handle('/slow/1', ours.handle)
    await expect(a.request(b.id, '/slow/1', BODY, { ...how, timeoutMs: 60 })).rejects.toEqual(
      failure('TIMEOUT', 'unknown'),
    )
    expect(await ours.fired).toEqual(coded('ABORTED'))
    const brief = defineProtocol({ name: '/brief/1', encoding: 'bytes', timeoutMs: 60 })
    b.handle(brief, theirs.handle)
    await expect(a.request(b.id, brief, BODY, { ...how, timeoutMs: 5_000 })).rejects.toEqual(failure('TIMEOUT', 'yes'))
    expect(await theirs.fired).toEqual(coded('TIMEOUT'))
  })

  test('for being too large: the request, before the handler; the answer, after it', async () => {
    const { a, b, how } = await startPair()
    let entered = 0
    b.handle('/big/1', (body) => {
      entered++
      return new Uint8Array(body.length === 1 ? 2_000_000 : 1)
    })
    await expect(a.request(b.id, '/big/1', new Uint8Array(1_048_577), how)).rejects.toEqual(failure('TOO_LARGE', 'no'))
    expect(entered).toBe(0)
    await expect(a.request(b.id, '/big/1', new Uint8Array(1), how)).rejects.toEqual(failure('TOO_LARGE', 'yes'))
    expect(entered).toBe(1)
    const small = defineProtocol({ name: '/small/1', encoding: 'bytes', maxRequestBytes: 10, maxResponseBytes: 10 })
    b.handle(small, (body) => new Uint8Array(body.length === 1 ? 11 : 10))
    await expect(a.request(b.id, small, new Uint8Array(11), how)).rejects.toEqual(failure('TOO_LARGE', 'no'))
    // What knows no limit at its own side meets that of the other.
    await expect(a.request(b.id, '/small/1', new Uint8Array(11), how)).rejects.toEqual(failure('TOO_LARGE', 'no'))
    await expect(a.request(b.id, small, new Uint8Array(1), how)).rejects.toEqual(failure('TOO_LARGE', 'yes'))
    expect((await a.request(b.id, small, new Uint8Array(10), how)).length).toBe(10)
  })

  test('in its handler: what is ours is told, of anything else nothing', async () => {
    const { a, b, how } = await startPair()
    const thrown: Record<string, unknown> = {
      ours: new PeerlineError('ERR_PEERLINE_DISK_FULL', 'no room'),
      theirs: new Error('at /home/me/secret.txt'),
      nothing: undefined,
    }
    b.handle('/fail/1', (body) => {
      throw thrown[Buffer.from(body).toString()]
    })
    b.handle('/wrong/1', () => 'no bytes' as unknown as Uint8Array)
    const ask = (what: string) => a.request(b.id, '/fail/1', Buffer.from(what), how)
    await expect(ask('ours')).rejects.toMatchObject({
      code: 'ERR_PEERLINE_DISK_FULL',
      message: 'no room',
      executed: 'yes',
    })
    await expect(ask('theirs')).rejects.toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: 'the handler failed' })
    await expect(ask('nothing')).rejects.toEqual(failure('REMOTE', 'yes'))
    await expect(a.request(b.id, '/wrong/1', EMPTY, how)).rejects.toEqual(failure('REMOTE', 'yes'))
  })

  test('with its connection, whichever side lost it: both are told', async () => {
    const sockets = watchSockets()
    const { a, b, how } = await startPair()
    const { entered, fired, handle } = pending()
    b.handle('/run/1', handle)
    const asking = expect(a.request(b.id, '/run/1', BODY, how)).rejects.toEqual(failure('PATH_LOST', 'unknown'))
    await entered
    expect(cut(sockets, portOf(b.addresses[0]!))).toBe(1)
    await asking
    expect(await fired).toEqual(coded('ABORTED'))
  })

  test('because the other side shuts down: what has not begun says so', async () => {
    const { a, b, how } = await startPair()
    const { entered, fired, handle } = pending()
    b.handle('/run/1', handle)
    let begun = 0
    b.handle('/late/1', () => {
      begun++
      return EMPTY
    })
    const session = await a.connect(b.id, how)
    const running = expect(a.request(b.id, '/run/1', BODY, how)).rejects.toEqual(coded('CLOSED'))
    await entered
    // Half of a request is there when the peer closes.
    const late = await session.open('/late/1')
    await late.write(BODY)
    await a.request(b.id, '/late/1', EMPTY, how)
    const closing = b.close()
    const answer = late.end(BODY).then(() => readAll(late))
    await expect(answer.then((bytes) => bytes.toString('latin1'))).resolves.toMatch(
      /ERR_PEERLINE_CLOSED.*shutting down/,
    )
    await Promise.all([closing, running])
    expect(await fired).toEqual(coded('ABORTED'))
    expect(begun).toBe(1)
  })

  test('because it was cancelled: its handler is told', async () => {
    const { a, b, how } = await startPair()
    for (const key of [undefined, requestKey()]) {
      const { entered, fired, handle } = pending()
      b.handle('/run/1', handle)
      const cancel = new AbortController()
      const options = { ...how, signal: cancel.signal, ...(key === undefined ? {} : { key }) }
      const asking = expect(a.request(b.id, '/run/1', BODY, options)).rejects.toEqual(failure('ABORTED', 'unknown'))
      await entered
      cancel.abort()
      await asking
      expect(await fired).toEqual(coded('ABORTED'))
    }
    await expect(a.request(b.id, '/run/1', BODY, { ...how, signal: AbortSignal.abort() })).rejects.toEqual(
      coded('ABORTED'),
    )
  })

  test('for want of the peer: it is dialled by itself, and what that says is said', async () => {
    const { a, b } = await startWorld()
    b.handle('/echo/1', (body) => body)
    expect(a.sessions.filter(({ peer }) => peer === b.id)).toEqual([])
    expect(textOf(await a.request(b.id, '/echo/1', BODY))).toBe('hello')
    await expect(a.request(Identity.generate().peerId, '/echo/1', BODY)).rejects.toEqual(coded('OFFLINE'))
    const alone = await startPeer()
    await expect(alone.request(b.id, '/echo/1', BODY)).rejects.toEqual(coded('NO_ADDRESS'))
    await expect(a.request(b.id, '/echo/1', BODY, { attempts: 0 })).rejects.toEqual(failure('INVALID', 'no'))
    await expect(a.request(a.id, '/echo/1', BODY)).rejects.toEqual(coded('INVALID'))
  })

  test('because our peer is closed: whatever is called says so', async () => {
    const { a, b, how } = await startPair()
    b.handle('/echo/1', (body) => body)
    await a.close()
    const calls = [
      a.connect(b.id, how),
      a.reach(b.id, how),
      a.open(b.id, '/echo/1', how),
      a.request(b.id, '/echo/1', BODY, how),
      a.request(b.id, '/echo/1', BODY, { ...how, attempts: 3 }),
      a.send(b.id, '/echo/1', BODY, how),
      a.requestStream(b.id, '/echo/1', BODY, how),
      a.discover(b.addresses[0]!),
      a.listen('127.0.0.1:0'),
    ]
    expect(await Promise.all(calls.map((call) => call.catch((error: PeerlineError) => error.code)))).toEqual(
      calls.map(() => 'ERR_PEERLINE_CLOSED'),
    )
    a.firewall.addToGroup('all', b.id)
    expect(await a.sendToGroup('all', '/echo/1', BODY)).toEqual([{ peer: b.id, error: coded('CLOSED') }])
  })
})

describe('a request with a key', () => {
  test('is executed once, though every path is cut while it runs', async () => {
    const sockets = watchSockets()
    const { a, b, how } = await startPair()
    let executed = 0
    const { promise: both, resolve } = later()
    b.handle('/pay/1', async (body) => {
      executed++
      expect(cut(sockets, portOf(b.addresses[0]!))).toBe(1)
      // It answers when the asker is there again.
      await both
      return body
    })
    b.addEventListener('session', () => {
      if (executed > 0) resolve()
    })
    const key = requestKey()
    const options = { ...how, key, attempts: 5 }
    expect(textOf(await a.request(b.id, '/pay/1', BODY, options))).toBe('hello')
    expect(executed).toBe(1)
    // Asked for again, with the answer had: it is known to have been executed.
    await expect(a.request(b.id, '/pay/1', BODY, options)).rejects.toEqual(failure('TOO_LARGE', 'yes'))
    await expect(a.request(b.id, '/pay/1', EMPTY, options)).rejects.toEqual(failure('INVALID', 'no'))
    expect(executed).toBe(1)
  })

  test('without one it is not asked again once it may have run; refused for now, it is', async () => {
    const sockets = watchSockets()
    const { a, b, how } = await startPair()
    let executed = 0
    b.handle('/pay/1', () => {
      executed++
      cut(sockets, portOf(b.addresses[0]!))
      return new Promise<Uint8Array>(() => {})
    })
    await expect(a.request(b.id, '/pay/1', BODY, { ...how, attempts: 5 })).rejects.toEqual(
      failure('PATH_LOST', 'unknown'),
    )
    expect(executed).toBe(1)
    let refused = 0
    b.handle('/busy/1', (body) => body)
    b.firewall.set({
      subject: a.id,
      object: '/busy/1',
      direction: 'in',
      action: 'allow',
      rate: { count: 1, perMs: 200 },
    })
    b.firewall.addEventListener('decision', ({ detail: { reason } }) => {
      if (reason === 'rate') refused++
    })
    await a.request(b.id, '/busy/1', BODY, how)
    expect(textOf(await a.request(b.id, '/busy/1', BODY, { ...how, attempts: 5 }))).toBe('hello')
    expect(refused).toBeGreaterThan(0)
  })

  test('ends in its time, whatever becomes of the attempts', async () => {
    const a = await startPeer()
    const gone = await startPeer()
    const how = { addresses: gone.addresses, attempts: 1_000, timeoutMs: 300, key: requestKey() }
    await gone.close()
    const begun = performance.now()
    await expect(a.request(gone.id, '/x/1', BODY, how)).rejects.toMatchObject({ code: /TIMEOUT|UNREACHABLE/ })
    expect(performance.now() - begun).toBeLessThan(5_000)
  })
})

describe('messages', () => {
  test('all of a turn arrive, each once, with whatever is in them', async () => {
    const { a, b, how } = await startPair()
    const all = later()
    const came: string[] = []
    b.handle('/note/1', (body) => {
      came.push(Buffer.from(body).toString('latin1'))
      if (came.length === 500) all.resolve()
      return EMPTY
    })
    await a.connect(b.id, how)
    const sent = Array.from({ length: 500 }, (_, at) => `<Message>${at}</Message>\0\r\n\xff{"Data":"</Message>"}`)
    await Promise.all(sent.map((text) => a.send(b.id, '/note/1', Buffer.from(text, 'latin1'))))
    await all.promise
    expect(came.sort()).toEqual(sent.sort())
  })

  test('that are not handled, or whose handler fails, are told of where they came to', async () => {
    const { a, b, how } = await startPair()
    b.handle('/note/1', () => {
      throw new Error('of mine')
    })
    const failed = once(b, 'messageFailed')
    await a.send(b.id, '/note/1', BODY, how)
    expect(await failed).toMatchObject({ from: a.id, protocol: '/note/1', error: { message: 'of mine' } })
  })

  test('go to every member of a group; each fails for itself', async () => {
    const { a, b } = await startWorld()
    const [c, gone] = [await startPeer(), Identity.generate().peerId]
    const news = defineProtocol<string, string, null, null>({ name: '/news/1' })
    const came: string[] = []
    const both = later()
    for (const peer of [b, c]) {
      peer.handle(news, (text, { from }) => {
        came.push(`${peer.id} ${from} ${text}`)
        if (came.length === 2) both.resolve()
        return null
      })
    }
    await a.connect(c.id, { addresses: c.addresses })
    a.firewall.addToGroup('friends', b.id, c.id, gone, a.id)
    const deliveries = await a.sendToGroup('friends', news, 'hello')
    const errors = new Map(deliveries.map(({ peer, error }) => [peer, error?.code]))
    expect(errors).toEqual(
      new Map([
        [b.id, undefined],
        [c.id, undefined],
        [gone, 'ERR_PEERLINE_OFFLINE'],
        [a.id, 'ERR_PEERLINE_INVALID'],
      ]),
    )
    await both.promise
    expect(came.sort()).toEqual([`${b.id} ${a.id} hello`, `${c.id} ${a.id} hello`].sort())
    expect(await a.sendToGroup('nobody', news, 'hello')).toEqual([])
  })
})

describe('bodies', () => {
  test('of any bytes come as they went', async () => {
    const { a, b, how } = await startPair()
    b.handle('/echo/1', (body) => body)
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 20_000 }), async (body) => {
        expect(Buffer.from(await a.request(b.id, '/echo/1', body, how)).equals(body)).toBe(true)
      }),
      { numRuns: 30 },
    )
  })

  test('that are streamed go both ways at the pace of whoever reads', async () => {
    const { a, b, how } = await startPair()
    const total = 64
    const chunk = randomBytes(1 << 20)
    let given = 0
    async function* source(): AsyncGenerator<Uint8Array> {
      for (; given < total; given++) yield chunk
    }
    const { promise: reading, resolve: read } = later()
    let written = 0
    b.handleRequestStream('/copy/1', async (body, context) => {
      await reading
      const hash = createHash('sha256')
      for await (const part of body) {
        hash.update(part)
        await context.write(part)
        written += part.length
      }
      return hash.digest()
    })
    const answer = a.requestStream(b.id, '/copy/1', source(), how)
    // Nobody reads: what was taken of the source is what the windows hold, and stays that.
    let before = -1
    while (before !== given) {
      before = given
      for (let turns = 0; turns < 20; turns++) await a.connect(b.id, how).then(probe)
    }
    async function probe() {
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(given).toBeLessThan(4)
    read()
    const coming = await answer
    const first = await coming.next()
    // Now nobody reads the answer.
    for (let same = -1; same !== written; ) {
      same = written
      for (let turns = 0; turns < 20; turns++) await probe()
    }
    expect(written).toBeLessThan(total << 20)
    const rest = await readAll(coming)
    const all = Buffer.concat([first.value!, rest])
    expect(all.length).toBe((total << 20) + 32)
    const hash = createHash('sha256')
    for (let at = 0; at < total; at++) hash.update(chunk)
    expect(all.subarray(-32).equals(hash.digest())).toBe(true)
  })

  test('that are left are given up at both sides', async () => {
    const { a, b, how } = await startPair()
    const { promise: ended, resolve: end } = later<unknown>()
    b.handleRequestStream('/endless/1', async function* (this: void, _, { signal }) {
      signal.addEventListener('abort', () => end(signal.reason))
      for (;;) yield new Uint8Array(1_000)
    } as Parameters<Peer['handleRequestStream']>[1])
    let sourceLeft = false
    async function* source(): AsyncGenerator<Uint8Array> {
      try {
        for (;;) yield new Uint8Array(1_000)
      } finally {
        sourceLeft = true
      }
    }
    const answer = await a.requestStream(b.id, '/endless/1', source(), how)
    for await (const _ of answer) break
    expect(await ended).toEqual(coded('ABORTED'))
    expect(sourceLeft).toBe(true)
  })
})

/** Takes a whole number, or text that is one, and makes a number of it. */
const wholeNumber: StandardSchema<number | string, number> = {
  '~standard': {
    version: 1,
    vendor: 'by hand',
    validate: (value) => {
      const number = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
      if (Number.isSafeInteger(number)) return { value: number as number }
      return { issues: [{ message: 'must be a whole number', path: ['n'] }] }
    },
  },
}

describe('a schema', () => {
  test('holds at both sides, and makes of a value what its user wants', async () => {
    const { a, b, how } = await startPair()
    const options = { name: '/double/1', request: wholeNumber, response: wholeNumber }
    const double = defineProtocol(options)
    const bare = defineProtocol<unknown, unknown, unknown, unknown>({ name: '/double/1' })
    const seen: unknown[] = []
    b.handle(double, (n) => {
      seen.push(n)
      return n === 13 ? ('unlucky' as unknown as number) : String(n * 2)
    })
    expect(await a.request(b.id, double, '21', how)).toBe(42)
    // At its own side nothing is sent of what is not valid.
    await expect(a.request(b.id, double, 'x', how)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      executed: 'no',
    })
    // Who does not hold to it is refused before the handler.
    await expect(a.request(b.id, bare, { n: 1 }, how)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      executed: 'no',
      message: expect.stringContaining('n: must be a whole number'),
    })
    // An answer that is not valid is the failure of its handler, of which no more is said.
    await expect(a.request(b.id, double, 13, how)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_REMOTE',
      executed: 'yes',
    })
    b.handle(bare, () => 'nonsense')
    await expect(a.request(b.id, double, 1, how)).rejects.toEqual(failure('PROTOCOL', 'yes'))
    expect(seen).toEqual([21, 13])
  })
})

describe('several peers', () => {
  test('behind one address are told apart, whatever one of them does', async () => {
    const b = await startPeer()
    const others = await Promise.all(Array.from({ length: 6 }, () => startPeer()))
    b.handle('/who/1', (_, { from }) => Buffer.from(from))
    const who = (peer: Peer) =>
      peer.request(b.id, '/who/1', EMPTY, { addresses: b.addresses }).then((id) => Buffer.from(id).toString())
    expect(await Promise.all(others.map(who))).toEqual(others.map(({ id }) => id))
    expect(b.connections).toMatchObject({ total: 6, peers: 6, prefixes: 1 })
    await others[0]!.close()
    expect(await Promise.all(others.slice(1).map(who))).toEqual(others.slice(1).map(({ id }) => id))
    expect(new Set(b.sessions.map(({ peer }) => peer)).has(others[0]!.id)).toBe(false)
  })

  test('that dial each other at once, several times, all come to a session', async () => {
    const { a, b } = await startWorld()
    const sessions = await Promise.all([a.connect(b.id), b.connect(a.id), a.connect(b.id), b.connect(a.id)])
    expect(new Set(sessions.map(({ id }) => id)).size).toBe(1)
    const [c, d] = [await startPeer(), await startPeer()]
    const how = { addresses: d.addresses }
    const direct = await Promise.all([
      c.connect(d.id, how),
      c.connect(d.id, how),
      d.connect(c.id, { addresses: c.addresses }),
    ])
    for (const session of direct) expect(session.state).toBe('open')
  })
})

describe('dials of one peer', () => {
  test('under way at once share a session: any number of requests come through, and one limit for all holds', async () => {
    const { a, b, how } = await startPair()
    b.handle('/echo/1', (body) => body)
    const asked = Array.from({ length: 50 }, () => a.request(b.id, '/echo/1', BODY, how).then(textOf))
    expect(await Promise.all(asked)).toEqual(Array(50).fill('hello'))
    expect(a.connections).toMatchObject({ establishedOut: 1, total: 1 })
  })

  test.each(['direct', 'by a rendezvous'])('%s: one who gives up takes none of the others along', async (way) => {
    const { a, b } = await startWorld()
    const how = way === 'direct' ? { addresses: b.addresses } : {}
    const cancel = new AbortController()
    const first = expect(a.connect(b.id, { ...how, signal: cancel.signal })).rejects.toEqual(coded('ABORTED'))
    const second = a.connect(b.id, how)
    cancel.abort()
    await first
    expect((await second).state).toBe('open')
  })
})
