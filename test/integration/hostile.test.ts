import { createHash, randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import net from 'node:net'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { WebSocket } from 'ws'
import { encodeCbor } from '../../src/bytes/index.ts'
import { exchangeOverPath } from '../../src/connect/direct.ts'
import { isPeerlineError } from '../../src/errors.ts'
import { createOffer } from '../../src/handshake/index.ts'
import { Identity, type Peer } from '../../src/index.ts'
import { CIRCUIT_BYTES, connectTcp, mintCircuit, tcpPath } from '../../src/path/index.ts'
import { MessageStream } from '../../src/session/index.ts'
import { RENDEZVOUS_PROTOCOL } from '../../src/signaling/index.ts'
import { CertificateRoom } from './certificates.ts'
import { assault, besiege, flippingProxy, HostileSession, watchDials } from './siege.ts'
import { portOf, readAll, startPeer, startServer } from './world.ts'

/** What a run is made of; printed, and given back by PEERLINE_SEED, when one fails. */
const SEED = Number(process.env.PEERLINE_SEED ?? Math.floor(Math.random() * 2 ** 31))
const sample = <T>(arbitrary: fc.Arbitrary<T>, count: number): T[] =>
  fc.sample(arbitrary, { seed: SEED, numRuns: count })
const text = (value: string) => new TextEncoder().encode(value)

const junk = fc.uint8Array({ minLength: 1, maxLength: 600 })
/** Junk that begins as something that is served. */
const disguised = fc
  .tuple(
    fc.constantFrom(
      [0, 0, 0, 1],
      [0, 0, 0, 50, 1, 1],
      [0, 0, 0, 50, 1, 3],
      [0, 0, 0, 62, 1, 6],
      [0, 0, 0, 91, 1, 9],
      [0, 0, 0x44, 0, 1, 1, 1],
      [0, 0, 0, 0],
      [0, 0, 0x44, 1],
      [0, 0xff, 0xff, 0xff],
      [0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42],
      [0, 1, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42],
      [0x16, 3, 1, 0, 50, 1],
    ),
    junk,
  )
  .map(([head, rest]) => Uint8Array.of(...head, ...rest))

const http = [
  'GET / HTTP/9.9\r\n\r\n',
  'GET /healthz\r\n\r\n',
  `GET /${'x'.repeat(9_000)} HTTP/1.1\r\n\r\n`,
  `GET / HTTP/1.1\r\n${'A: b\r\n'.repeat(3_000)}\r\n`,
  'POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n',
  'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffff\r\n',
  'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 99\r\nSec-WebSocket-Key: x\r\n\r\n',
  `GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${'A'.repeat(22)}==\r\nSec-WebSocket-Protocol: \x01,,\r\n\r\n`,
  'CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n',
  'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'OPTIONS * HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n',
  'GET / HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(200),
]

describe(`under garbage on the wire (seed ${SEED})`, () => {
  test('raw bytes, at the server and at a peer', () =>
    besiege(async ({ port, portOfB }) => {
      const messages = [...sample(junk, 100), ...sample(disguised, 200), new Uint8Array(2_000_000).fill(0)]
      await Promise.all([assault(port, messages), assault(portOfB, messages)])
    }))

  test('HTTP', () =>
    besiege(async ({ port }) => {
      const mutated = sample(fc.tuple(fc.constantFrom(...http), fc.nat(), fc.integer({ min: 1, max: 255 })), 150)
      const altered = mutated.map(([request, at, by]) => {
        const bytes = Buffer.from(request, 'latin1')
        bytes[1 + (at % (bytes.length - 1))]! ^= by
        return new Uint8Array(bytes)
      })
      await assault(port, [...http.map(text), ...altered])
    }))

  test('WebSocket messages, binary and text, whole and in frames that break its rules', () =>
    besiege(async ({ port }) => {
      const one = async (message: Uint8Array, kind: number) => {
        const socket = new WebSocket(`ws://127.0.0.1:${port}`)
        socket.on('error', () => {})
        await once(socket, 'open')
        const closed = once(socket, 'close')
        if (kind === 0) socket.send(message)
        else if (kind === 1) socket.send(Buffer.from(message).toString('latin1'))
        else (socket as unknown as { _socket: net.Socket })._socket.write(message)
        const timer = setTimeout(() => socket.terminate(), 30)
        await closed
        clearTimeout(timer)
      }
      for (const kind of [0, 1, 2]) {
        const messages = [...sample(junk, 25), ...sample(disguised, 25), new Uint8Array(300_000)]
        await Promise.all(messages.map((message) => one(message, kind)))
      }
    }))

  test('TLS, before its handshake, in it, and after it', async () => {
    const room = await CertificateRoom.open()
    onTestFinished(() => room.close())
    const certificate = await room.make('server', '127.0.0.1', 2)
    const server = await startServer({ tls: certificate })
    await besiege(async () => {
      const port = portOf(server.url)
      const hello = [0x16, 3, 1, 0, 0x80, 1, 0, 0, 0x7c, 3, 3]
      await assault(
        port,
        sample(junk, 60).map((rest) => Uint8Array.of(...hello, ...rest)),
      )
      await assault(port, [...sample(junk, 30), ...sample(disguised, 30), ...http.map(text)], {
        secure: true,
        atOnce: 20,
      })
    })
    // It was attacked beside the others, and serves all the same.
    const peer = await startPeer({ rendezvous: [server.url.replace('wss:', 'tcp:')] })
    await peer.online()
  })

  test('STUN, over UDP and TCP', () =>
    besiege(async ({ port }) => {
      const header = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]
      const messages = sample(fc.tuple(fc.nat({ max: 255 }), fc.nat({ max: 255 }), junk), 200).map(
        ([type, length, rest]) => Uint8Array.of(0, type % 2, 0, length & 0xfc, ...header.slice(4), ...rest),
      )
      const socket = createSocket('udp4')
      const send = (bytes: Uint8Array) => new Promise((resolve) => socket.send(bytes, port, '127.0.0.1', resolve))
      for (const message of [...messages, ...sample(junk, 100)]) await send(message)
      socket.close()
      await assault(port, messages)
    }))

  test('hundreds of connections that say nothing, or only begin to', () =>
    besiege(async ({ port, portOfB, a, b }) => {
      const sockets: net.Socket[] = []
      for (const to of [port, portOfB]) {
        for (let count = 0; count < 300; count++) {
          const socket = net.connect(to, '127.0.0.1')
          socket.on('error', () => {})
          if (count % 3 === 1) socket.write(Uint8Array.of(0, 0, 0, 99, 1))
          if (count % 3 === 2) socket.write(to === port ? 'GET / HTTP/1.1\r\n' : Uint8Array.of(0, 0))
          sockets.push(socket)
        }
      }
      await Promise.all(sockets.map((socket) => socket.connecting && once(socket, 'connect')))
      const fresh = await startPeer({
        rendezvous: a.sessions.length > 0 ? [`ws://127.0.0.1:${port}#${await serverOf(a)}`] : [],
      })
      expect((await fresh.request(b.id, '/echo/1', text('let me in'))).length).toBe(9)
      for (const socket of sockets) socket.destroy()
    }))
})

/** The id of the server that a peer is registered with. */
async function serverOf(peer: Peer): Promise<string> {
  return peer.sessions.find((session) => session.initiator && session.path === 'tcp')!.peer
}

describe('under a peer that is authenticated, and hostile', () => {
  test('malformed frames in valid records end that session, whatever they are', () =>
    besiege(async ({ server, port, b, portOfB }) => {
      for (const [to, at] of [
        [server.peer, port],
        [b, portOfB],
      ] as const) {
        const frames = sample(fc.uint8Array({ minLength: 1, maxLength: 60 }), 60)
        await Promise.all(
          frames.map(async (bytes, count) => {
            const hostile = await HostileSession.open(to, at)
            hostile.ordered(bytes)
            // No frame is of this type: whatever came before, this ends it.
            if (count % 2 === 0) hostile.ordered(Uint8Array.of(0x3f))
            else hostile.loose(Uint8Array.of(0x3f))
            await hostile.ended
          }),
        )
      }
    }))

  test('records that break the rules end the path or the session: forged, repeated, from the future', () =>
    besiege(async ({ b, portOfB }) => {
      const ways: ((hostile: HostileSession) => void)[] = [
        ({ path }) => path.send([new Uint8Array(24)]),
        ({ path }) => path.send([Uint8Array.of(1)]),
        ({ path }) => path.send([randomBytes(2_000)]),
        ({ path, sealer }) => {
          const record = Buffer.concat(sealer.ordered(Uint8Array.of(7, 1, 2, 3, 4, 5, 6, 7, 8), undefined))
          record[record.length - 1]! ^= 1
          path.send([record])
        },
        ({ path, sealer }) => {
          const record = Buffer.concat(sealer.loose(Uint8Array.of(6, 1, 2, 3, 4, 5, 6, 7, 8), 0))
          path.send([record])
          path.send([record])
        },
        // A future that distant is not kept.
        (hostile) => hostile.orderedAs(262_145, Uint8Array.of(5, 0)),
        // What came already, under its old number, is not what came.
        (hostile) => {
          hostile.ordered((frames) => frames.ack(0))
          hostile.path.send([Buffer.concat([new Uint8Array(8), randomBytes(60)])])
        },
        (hostile) => hostile.ordered((frames) => frames.ack(1_000)),
        (hostile) => hostile.ordered((frames) => frames.ping(new Uint8Array(8))),
        (hostile) => hostile.loose((frames) => frames.open(0, '/echo/1')),
        (hostile) => hostile.ordered((frames) => frames.open(2, '/echo/1')),
        (hostile) => hostile.ordered((frames) => frames.open(1, '/echo/1')),
        (hostile) => hostile.ordered((frames) => frames.data(0, text('x'), true)),
      ]
      await Promise.all(
        ways.map(async (way) => {
          const hostile = await HostileSession.open(b, portOfB)
          way(hostile)
          await hostile.ended
        }),
      )
    }))

  test('floods of OPEN, PING, CANDIDATES and of data that nobody reads cost little', () =>
    besiege(async ({ server, port, b, portOfB }) => {
      const dials = watchDials()
      const canary = await listenForConnections()
      const body = encodeCbor({ c: Array.from({ length: 16 }, () => ['tcp', '127.0.0.1', canary.port]) })
      for (const [to, at] of [
        [server.peer, port],
        [b, portOfB],
      ] as const) {
        const opens = await HostileSession.open(to, at)
        for (let count = 0; count < 5_000; count++) {
          opens.ordered((frames) => frames.open(2 * count, count % 2 === 0 ? '/echo/1' : RENDEZVOUS_PROTOCOL))
        }
        const pings = await HostileSession.open(to, at)
        for (let count = 0; count < 5_000; count++) pings.loose((frames) => frames.ping(randomBytes(8)))
        const candidates = await HostileSession.open(to, at)
        for (let count = 0; count < 500; count++) candidates.ordered((frames) => frames.candidates(body))
        const data = await HostileSession.open(to, at)
        data.ordered((frames) => frames.open(0, '/echo/1'))
        for (let count = 0; count < 600; count++) data.ordered((frames) => frames.data(0, new Uint8Array(4_000), false))
        await vi.waitFor(() =>
          expect([pings.received > 0 || pings.closed, data.received > 0 || data.closed]).toEqual([true, true]),
        )
      }
      // Who came over a direct path has that: nothing that it names is dialled.
      expect(canary.count()).toBe(0)
      expect(dials.filter((dial) => dial.endsWith(`:${canary.port}`))).toEqual([])
    }))

  test('malformed messages to the rendezvous and the relay, forged answers, tokens of nobody', () =>
    besiege(async ({ server, port, a, b }) => {
      const hostile = await startPeer({ listen: [] })
      const session = await hostile.connect(server.peer.id, { addresses: [`127.0.0.1:${port}`] })
      for (const protocol of [RENDEZVOUS_PROTOCOL, '/peerline/relay/1', '/peerline/none/1']) {
        for (const bytes of [
          ...sample(junk, 20),
          Uint8Array.of(255, 255, 255, 255, 0),
          Uint8Array.of(0, 0, 0, 1, 0x9f),
          ...sample(
            fc.dictionary(fc.constantFrom('t', 'peer', 'id', 'data', 'listed'), fc.oneof(fc.string(), fc.nat())),
            20,
          ).map(framed),
        ]) {
          const stream = await session.open(protocol)
          stream.end(bytes).catch(() => {})
          await stream.next().catch(() => {})
          if (!stream.done) stream.reset()
        }
      }
      const stream = await session.open(RENDEZVOUS_PROTOCOL)
      const got: { t: string }[] = []
      const messages = new MessageStream(stream, {
        maxBytes: 20_000,
        onMessage: (one) => got.push(one as never),
        onEnd: () => {},
      })
      await messages.send({ t: 'register', listed: true })
      for (let count = 0; count < 300; count++) {
        const { publicKey: peer } = count % 2 === 0 ? a.identity : b.identity
        await messages.send({ t: 'answer', peer, id: randomBytes(16), data: randomBytes(200) })
        await messages.send({ t: 'offer', peer, id: randomBytes(16), data: randomBytes(count) })
      }
      await vi.waitFor(() => expect(got.length).toBeGreaterThan(0))
      expect(got.filter(({ t }) => t === 'answer')).toEqual([])
      const tokens = Array.from(
        { length: 50 },
        () => mintCircuit(randomBytes(16), randomBytes(32), Date.now() + 9_000)[0],
      )
      await assault(
        port,
        tokens.map((token) => Buffer.concat([Uint8Array.of(0, 0, 0, CIRCUIT_BYTES), token])),
      )
    }))

  test('offers that name places where nobody should be sent: nothing is dialled there', () =>
    besiege(async ({ server, port, b }) => {
      const dials = watchDials()
      const canary = await listenForConnections()
      const [token] = mintCircuit(randomBytes(16), randomBytes(32), Date.now() + 9_000)
      const bad = ['169.254.169.254', '::ffff:169.254.169.254', 'fe80::1', '0.0.0.0', '::', '224.0.0.1', '192.0.2.1']
      const relays = [
        'ws://169.254.169.254:80/latest/meta-data',
        'tcp://[::ffff:169.254.169.254]:80',
        'ws://10.0.0.1:80',
        'tcp://192.168.1.1:22',
        'ws://metadata.google.internal',
        'http://169.254.169.254',
        'ws://127.0.0.1@169.254.169.254/',
        'tcp://[fe80::1]:1',
      ]
      const bodies: [boolean, unknown][] = [
        [true, { c: bad.map((host) => ['tcp', host, 80]) }],
        ...relays.map((relay): [boolean, unknown] => [true, { r: [[relay, token]] }]),
        [false, { c: Array.from({ length: 200 }, () => ['tcp', '127.0.0.1', canary.port]) }],
        [false, { c: [['tcp', 'localhost', canary.port]] }],
        [false, { c: 'garbage' }],
        [false, { r: [['ws://127.0.0.1', randomBytes(3)]] }],
        [false, [1, 2, 3]],
      ]
      const offer = (body: Uint8Array) => signal(server, port, b, body)
      for (const [answered, body] of bodies) {
        const { heard } = await offer(encodeCbor(body))
        expect([body, heard]).toEqual([body, answered ? 1 : 0])
      }
      for (const garbage of sample(junk, 20)) await offer(garbage)
      expect(canary.count()).toBe(0)
      // Were it not so, it would be seen: this one is dialled.
      await offer(encodeCbor({ c: [['tcp', '127.0.0.1', canary.port]] }))
      await vi.waitFor(() => expect(canary.count()).toBe(1), { timeout: 3_000 })
      const strange = dials.filter((dial) => !dial.startsWith('127.0.0.1'))
      expect(strange).toEqual([])
      expect(dials).toContain(`127.0.0.1:${canary.port}`)
    }))

  test('an offer that is sent again gets the same answer, and no second session, whatever id it travels under', () =>
    besiege(async ({ server, port, b }) => {
      const { again, answers, from } = await signal(server, port, b, encodeCbor({}))
      for (let count = 1; count < 6; count++) await again()
      await vi.waitFor(() => expect(answers()).toBe(6), { timeout: 5_000 })
      // That of the offer, and that of the direct dial by which the test knows how far things are.
      expect(b.sessions.filter(({ peer }) => peer === from).length).toBe(2)
    }))
})

/** An offer with this body, through the rendezvous; how many answers were heard when all that was sent is served. */
async function signal(
  server: { peer: Peer },
  port: number,
  to: Peer,
  body: Uint8Array,
): Promise<{ heard: number; from: string; again: () => Promise<number>; answers: () => number }> {
  // A peer of its own for each: one is let have eight sessions.
  const hostile = await startPeer({ listen: [] })
  const session = await hostile.connect(server.peer.id, { addresses: [`127.0.0.1:${port}`] })
  const heard: string[] = []
  const messages = new MessageStream(await session.open(RENDEZVOUS_PROTOCOL), {
    maxBytes: 20_000,
    onMessage: (message) => heard.push((message as { t: string }).t),
    onEnd: () => {},
  })
  const peer = to.identity.publicKey
  const { message } = createOffer(hostile.identity, to.id, { body })
  const send = async () => {
    await messages.send({ t: 'offer', peer, id: randomBytes(16), data: message })
    // The peer answers what comes to it in order, so when this is answered, the one before it was dealt with.
    const marker = createOffer(hostile.identity, to.id, { body: encodeCbor({ c: 'no session comes of this' }) })
    await messages.send({ t: 'offer', peer, id: marker.requestId, data: marker.message })
    const ping = await hostile.request(to.id, '/echo/1', Uint8Array.of(1), { addresses: to.addresses })
    expect(ping.length).toBe(1)
    return answers()
  }
  const answers = () => heard.filter((t) => t === 'answer').length
  return { heard: await send(), from: hostile.id, again: send, answers }
}

function framed(value: unknown): Uint8Array {
  const body = encodeCbor(value)
  return Uint8Array.of(0, 0, body.length >> 8, body.length & 255, ...body)
}

/** A port of this machine at which nobody should ever knock. */
async function listenForConnections(): Promise<{ port: number; count: () => number }> {
  let count = 0
  const server = net.createServer((socket) => {
    count++
    socket.on('error', () => {})
    socket.destroy()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return { port: (server.address() as net.AddressInfo).port, count: () => count }
}

describe(`a byte flipped on the way (seed ${SEED})`, () => {
  /** Sends through `connect`'s session until it ends or all is through; never anything but the truth arrives. */
  async function transfer(a: Peer, b: Peer, addresses: string[]): Promise<string> {
    const sent = randomBytes(60_000)
    try {
      const signal = AbortSignal.timeout(15_000)
      const stream = await a.open(b.id, '/mirror/1', { addresses, signal })
      const answer = readAll(stream)
      answer.catch(() => {})
      for (let at = 0; at < sent.length; at += 3_000) {
        await stream.write(sent.subarray(at, at + 3_000))
        if (at % 12_000 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
      await stream.end()
      const got = await answer
      expect(createHash('sha256').update(got).digest()).toEqual(createHash('sha256').update(sent).digest())
      return 'whole'
    } catch (error) {
      if (!isPeerlineError(error)) throw error
      return error.code
    }
  }

  test('between two peers ends the path, typed, or is made good; wrong data never arrives, and nothing hangs', async () => {
    const flips = sample(
      fc.record({
        // The handshake, the first records, and somewhere in the middle. The length of the very first message is left
        // alone: whoever waits for the rest of it waits for the ten seconds that a stranger has.
        at: fc.oneof(...[500, 5_000, 60_000].map((max) => fc.integer({ min: 4, max }))),
        by: fc.integer({ min: 0, max: 7 }).map((bit) => 1 << bit),
        towards: fc.constantFrom('server' as const, 'client' as const),
      }),
      60,
    )
    const outcomes = await Promise.all(
      flips.map(async (flip) => {
        const [a, b] = [await startPeer({ listen: [] }), await startPeer()]
        const wrong: unknown[] = []
        b.handleStream('/mirror/1', async (stream) => {
          for await (const chunk of stream) await stream.write(chunk)
          await stream.end()
        })
        b.addEventListener('session', ({ detail }) => {
          detail.session.addEventListener('close', ({ detail: { error } }) => {
            if (error !== undefined && !isPeerlineError(error)) wrong.push(error)
          })
        })
        const proxy = await flippingProxy(portOf(b.addresses[0]!), flip)
        const outcome = await transfer(a, b, [`127.0.0.1:${proxy.port}`])
        expect(wrong).toEqual([])
        await Promise.all([a, b].map((peer) => peer.close({ signal: AbortSignal.abort() })))
        return `${outcome} ${proxy.flipped()}`
      }),
    )
    for (const outcome of outcomes) {
      expect(outcome).toMatch(/^(whole (true|false)|ERR_PEERLINE_[A-Z_]+ true)$/)
    }
    const failed = outcomes.filter((outcome) => outcome.startsWith('ERR_PEERLINE'))
    expect(failed.length).toBeGreaterThan(10)
    // A session is given up when its path is, and some seconds later at most; nothing waits for the dial's own deadline.
    expect(failed.filter((outcome) => outcome.startsWith('ERR_PEERLINE_TIMEOUT'))).toEqual([])
  }, 30_000)

  test('between a peer and its server costs a new registration at most', async () => {
    const server = await startServer()
    const b = await startPeer({ rendezvous: [server.url] })
    await b.online()
    b.handle('/echo/1', (request) => request)
    const spots = sample(
      fc.tuple(fc.integer({ min: 4, max: 1_200 }), fc.constantFrom('server' as const, 'client' as const)),
      16,
    )
    await Promise.all(
      spots.map(async ([at, towards]) => {
        const proxy = await flippingProxy(portOf(server.url), { at, by: 4, towards })
        const a = await startPeer({ rendezvous: [`tcp://127.0.0.1:${proxy.port}#${server.peer.id}`], listed: false })
        const reply = await vi.waitFor(
          async () => {
            const body = text(`flip at ${at}`)
            const reply = await a.request(b.id, '/echo/1', body, { timeoutMs: 2_000 })
            return Buffer.from(reply).toString()
          },
          { timeout: 20_000, interval: 200 },
        )
        expect(reply).toBe(`flip at ${at}`)
      }),
    )
  }, 30_000)
})

test('what a stranger tells is not read before it is let in: it hears that it is refused, not that it is malformed', async () => {
  const victim = await startPeer({ firewall: {} })
  const path = tcpPath(await connectTcp('127.0.0.1', portOf(victim.addresses[0]!)))
  onTestFinished(() => path.destroy())
  const offer = createOffer(Identity.generate(), victim.id, { body: text('no body at all') })
  const signal = AbortSignal.timeout(10_000)
  await expect(exchangeOverPath(offer, path, { signal })).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
})

test('identities of strangers cost nothing that stays: a thousand handshakes that lead nowhere', () =>
  besiege(async ({ server, port }) => {
    const to = server.peer.id
    const offers = Array.from({ length: 500 }, () => {
      const { message } = createOffer(Identity.generate(), to, { body: new Uint8Array(0) })
      return Buffer.concat([Uint8Array.of(0, 0, message.length >> 8, message.length & 255), message])
    })
    await assault(port, [...offers, ...offers])
    await vi.waitFor(() => expect(server.peer.sessions.length).toBeLessThan(700))
  }))
