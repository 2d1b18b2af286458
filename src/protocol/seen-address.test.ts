import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { UdpSocket } from '../network/udp-socket.ts'
import { MessageStream, type Stream, StreamCode } from '../session/index.ts'
import {
  type Here,
  type Place,
  readArrival,
  readHere,
  SEEN_PROTOCOL,
  SeenAddress,
  type SeenAddressOptions,
  TOKEN_BYTES,
} from './seen-address.ts'
import { useServedPair } from './served-pair.compliance.ts'

const HOST = '127.0.0.1'

const pair = useServedPair()
let udp: UdpSocket
const sockets: Socket[] = []

beforeEach(async () => {
  udp = await UdpSocket.open({ host: HOST })
})
afterEach(async () => {
  vi.useRealTimers()
  await udp.close()
  for (const socket of sockets.splice(0)) await new Promise<void>((resolve) => socket.close(() => resolve()))
})

const tcp: Place = { kind: 'tcp', host: HOST, port: 4_400 }
const places = () => [tcp, { kind: 'udp' as const, host: HOST, port: udp.port }]

/** Somebody who serves the session. */
function serve(options: Partial<SeenAddressOptions> = {}, from = Identity.generate().peerId): SeenAddress {
  const seen = new SeenAddress({ places, udp: () => udp, ...options })
  pair.onStream = (stream) => seen.serve(stream, { from, session: pair.b })
  return seen
}

/** The asker’s end: what it was told, one after the other. */
class Asker {
  readonly messages: unknown[] = []
  readonly stream: MessageStream
  readonly ended: Promise<string | undefined>
  #wake = () => {}

  constructor(stream: Stream) {
    let onEnd: (code: string | undefined) => void = () => {}
    this.ended = new Promise((resolve) => {
      onEnd = resolve
    })
    this.stream = new MessageStream(stream, {
      maxBytes: 1_024,
      onMessage: (message) => {
        this.messages.push(message)
        this.#wake()
      },
      onEnd: (error) => onEnd(error?.code),
    })
  }

  async next(): Promise<unknown> {
    if (this.messages.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.messages.shift()
  }
}

const open = async () => new Asker(await pair.a.open(SEEN_PROTOCOL))

async function begin(): Promise<{ asker: Asker; here: Here; tcpToken: Uint8Array; udpToken: Uint8Array }> {
  const asker = await open()
  const here = readHere(await asker.next())
  const [first, second] = here.places
  return { asker, here, tcpToken: first!.token, udpToken: second!.token }
}

async function sender(host = HOST): Promise<{ port: number; send: (bytes: Uint8Array) => Promise<void> }> {
  const socket = createSocket('udp4').bind(0, host)
  sockets.push(socket)
  await once(socket, 'listening')
  const send = (bytes: Uint8Array) =>
    new Promise<void>((resolve) => socket.send(bytes, udp.port, HOST, () => resolve()))
  return { port: socket.address().port, send }
}

const PROOF = Uint8Array.from({ length: 16 }, (_, at) => at)
const probe = (token: Uint8Array) => Uint8Array.of(...token, ...PROOF)

const codeOf = (read: () => unknown): string | undefined => {
  try {
    read()
    return undefined
  } catch (error) {
    return isPeerlineError(error) ? error.code : `another: ${error}`
  }
}

describe('who is asked', () => {
  test('says what it sees of the session, and where it can be reached', async () => {
    serve()
    const { asker, here } = await begin()
    expect(here).toMatchObject({ public: true, places: places() })
    const [path] = pair.b.pathInfo
    expect(here.seen.map(({ kind, host, port }) => `${kind} ${host}:${port}`)).toEqual([`tcp ${path!.remote}`])
    asker.stream.reset()
  })

  test('takes a stream that has ended before it is served, as after a question to the owner', () => {
    const reset = vi.fn()
    const ended = { done: false, reset, write: vi.fn(), pipeTo: (sink: { end(): void }) => sink.end() }
    const seen = serve({ asksPerMinute: 100 })
    const from = Identity.generate().peerId
    // More than may be open at once: none of them is.
    for (let i = 0; i < 65; i++) seen.serve(ended as unknown as Stream, { from, session: pair.b })
    expect(reset.mock.calls).toEqual(Array(65).fill([StreamCode.CANCELLED]))
    expect(ended.write).not.toHaveBeenCalled()
  })

  test('tells the direct paths that have been attached, and of no others', async () => {
    const [info] = pair.b.pathInfo
    const at = (kind: 'tcp' | 'udp' | 'relay' | 'webrtc', remote: string, stage = info!.stage) => ({
      ...{ ...info!, kind, remote, stage },
    })
    const pathInfo = [
      at('tcp', '203.0.113.7:1', 'attaching'),
      at('udp', '[::ffff:203.0.113.7]:2', 'unproven'),
      at('tcp', '[2A05:0:0::1]:3'),
      at('tcp', 'wss://example.com:443'),
      at('relay', '203.0.113.7:4'),
      at('webrtc', '203.0.113.7:5'),
    ]
    const seen = new SeenAddress({ places: () => [] })
    pair.onStream = (stream) => seen.serve(stream, { from: Identity.generate().peerId, session: { pathInfo } })
    const asker = await open()
    expect(readHere(await asker.next()).seen).toEqual([
      { kind: 'udp', host: '203.0.113.7', port: 2 },
      { kind: 'tcp', host: '2a05::1', port: 3 },
    ])
    asker.stream.reset()
  })

  test('says that it does not know its own address', async () => {
    serve({ places: () => [] })
    const asker = await open()
    expect(readHere(await asker.next())).toMatchObject({ public: false, places: [] })
    asker.stream.reset()
  })

  test('may know it, and be reached nowhere', async () => {
    serve({ places: () => [], knows: () => true })
    const asker = await open()
    expect(readHere(await asker.next())).toMatchObject({ public: true, places: [], seen: [{ kind: 'tcp' }] })
    asker.stream.reset()
  })

  test('without a UDP socket, gives no token for UDP', async () => {
    serve({ udp: () => undefined })
    const asker = await open()
    expect(readHere(await asker.next()).places.map(({ kind }) => kind)).toEqual(['tcp'])
    asker.stream.reset()
  })

  test('gives other tokens each time, that a UDP socket can tell', async () => {
    serve()
    const all = await Promise.all([begin(), begin(), begin()])
    const tokens = all.flatMap(({ here }) => here.places.map(({ token }) => Buffer.from(token)))
    expect(new Set(tokens.map((token) => token.toString('hex'))).size).toBe(6)
    expect(tokens.every((token) => token.length === TOKEN_BYTES && token[0]! >> 6 === 0b10)).toBe(true)
    for (const { asker } of all) asker.stream.reset()
  })

  test('names four places at most, and the longest fit', async () => {
    const long: Place = { kind: 'tcp', host: '2a05:1111:2222:3333:4444:5555:6666:7777', port: 65_535 }
    serve({ places: () => Array(9).fill(long) })
    const asker = await open()
    expect(readHere(await asker.next()).places.length).toBe(4)
    asker.stream.reset()
  })
})

describe('a token over UDP', () => {
  test('is told with where it came from, once for each place, twice at most', async () => {
    serve()
    const { asker, udpToken } = await begin()
    const [one, two, three] = await Promise.all([sender(), sender('127.0.0.2'), sender('127.0.0.3')])
    for (const from of [one, one, two]) await from.send(probe(udpToken))
    expect(readArrival(await asker.next())).toMatchObject({
      place: 1,
      from: { host: HOST, port: one.port },
      proof: PROOF,
    })
    expect(readArrival(await asker.next())).toMatchObject({ place: 1, from: { host: '127.0.0.2', port: two.port } })
    await three.send(probe(udpToken))
    // What comes on another stream came later.
    const other = await begin()
    await one.send(probe(other.udpToken))
    await other.asker.next()
    expect(asker.messages).toEqual([])
    for (const one of [asker, other.asker]) one.stream.reset()
  })

  test('counts whole: what only begins like it, or has more, is nothing', async () => {
    serve()
    const { asker, udpToken } = await begin()
    const [wrong, right] = await Promise.all([sender(), sender()])
    const other = Uint8Array.from(udpToken)
    other[15]! ^= 1
    const whole = probe(udpToken)
    for (const bytes of [
      udpToken,
      whole.subarray(0, 8),
      whole.subarray(0, 31),
      probe(other),
      Uint8Array.of(...whole, 0),
    ]) {
      await wrong.send(bytes)
    }
    await right.send(probe(udpToken))
    expect(readArrival(await asker.next()).from.port).toBe(right.port)
    expect(asker.messages).toEqual([])
    asker.stream.reset()
  })

  test('is never answered where it came from', async () => {
    serve()
    const { asker, udpToken } = await begin()
    const answered = vi.fn()
    const { send } = await sender()
    sockets[0]!.on('message', answered)
    await send(probe(udpToken))
    await asker.next()
    expect(answered).not.toHaveBeenCalled()
    asker.stream.reset()
  })
})

describe('a token over TCP', () => {
  test('is told with where it came from', async () => {
    const seen = serve()
    const { asker, tcpToken } = await begin()
    expect(seen.onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(true)
    expect(readArrival(await asker.next())).toEqual({
      place: 0,
      from: { host: '203.0.113.7', port: 4_000, family: 4 },
      proof: PROOF,
    })
    expect(seen.onProbe(probe(tcpToken), '[::ffff:203.0.113.8]:4001')).toBe(true)
    expect(readArrival(await asker.next()).from.host).toBe('203.0.113.8')
    asker.stream.reset()
  })

  test('is nothing when nobody waits for it, when it came over a relay, or when it has another length', async () => {
    const seen = serve()
    const { asker, tcpToken, udpToken } = await begin()
    const from = '203.0.113.7:4000'
    expect(seen.onProbe(probe(udpToken), from)).toBe(false)
    expect(seen.onProbe(probe(tcpToken), 'relay ws://203.0.113.7:4400')).toBe(false)
    const whole = probe(tcpToken)
    for (const bytes of [
      new Uint8Array(0),
      tcpToken,
      whole.subarray(1),
      Uint8Array.of(...whole, 0),
      new Uint8Array(32),
    ]) {
      expect(seen.onProbe(bytes, from)).toBe(false)
    }
    asker.stream.reset()
    await vi.waitFor(() => expect(seen.onProbe(probe(tcpToken), from)).toBe(false))
  })

  test('is good for the peer’s own service alone', async () => {
    serve()
    const { asker, tcpToken } = await begin()
    expect(new SeenAddress({ places }).onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(false)
    asker.stream.reset()
  })
})

describe('it is bounded', () => {
  test('who asks too often is told that it is busy, and others are answered', async () => {
    const often = Identity.generate().peerId
    const seen = serve({}, often)
    for (let at = 0; at < 6; at++) (await begin()).asker.stream.reset()
    expect(await (await open()).ended).toBe('ERR_PEERLINE_BUSY')
    pair.onStream = (stream) => seen.serve(stream, { from: Identity.generate().peerId, session: pair.b })
    ;(await begin()).asker.stream.reset()
  })

  test('64 streams at once', async () => {
    const seen = serve({ asksPerMinute: 1_000 })
    const all = await Promise.all(Array.from({ length: 64 }, begin))
    expect(await (await open()).ended).toBe('ERR_PEERLINE_BUSY')
    all[0]!.asker.stream.reset()
    await vi.waitFor(async () => {
      const asker = await open()
      expect(await Promise.race([asker.next(), asker.ended])).toMatchObject({ public: true })
    })
    seen.close()
    expect(await all[1]!.asker.ended).toBe('ERR_PEERLINE_RESET')
  })

  test('who says anything is given up, with its tokens', async () => {
    const seen = serve()
    const { asker, tcpToken } = await begin()
    asker.stream.send('hello').catch(() => {})
    expect(await asker.ended).toBe('ERR_PEERLINE_REMOTE')
    expect(seen.onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(false)
  })

  test('who ends its side is done with', async () => {
    const seen = serve()
    const { asker, tcpToken } = await begin()
    await asker.stream.end()
    await asker.ended
    expect(seen.onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(false)
  })

  test('five seconds', async () => {
    const seen = serve()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { asker, tcpToken } = await begin()
    vi.advanceTimersByTime(4_999)
    expect(seen.onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(true)
    vi.advanceTimersByTime(1)
    expect(seen.onProbe(probe(tcpToken), '203.0.113.7:4000')).toBe(false)
    expect(await asker.ended).toBe('ERR_PEERLINE_TIMEOUT')
  })
})

describe('what the asker reads', () => {
  const item = fc.oneof(
    fc.tuple(fc.constantFrom('udp', 'tcp'), fc.oneof(fc.ipV4(), fc.ipV6()), fc.integer({ min: 0, max: 70_000 })),
    fc.jsonValue(),
  )
  const token = fc.uint8Array({ minLength: 15, maxLength: 17 })

  test('property: anything is read, or breaks the protocol', () => {
    const place = fc.tuple(item, token).map(([one, secret]) => (Array.isArray(one) ? [...one, secret] : one))
    const here = fc.record({ public: fc.boolean(), seen: fc.array(item), places: fc.array(place) })
    const arrival = fc.record({
      ...{ place: fc.integer(), host: fc.oneof(fc.ipV4(), fc.string()), port: fc.integer() },
      proof: token,
    })
    let read = 0
    fc.assert(
      fc.property(fc.oneof(here, arrival, fc.jsonValue()), (value) => {
        for (const reader of [readHere, readArrival]) {
          const code = codeOf(() => reader(value))
          if (code === undefined) read++
          expect([undefined, 'ERR_PEERLINE_PROTOCOL']).toContain(code)
        }
      }),
      { numRuns: 1_000 },
    )
    expect(read).toBeGreaterThan(0)
  })

  test('property: an honest answer comes through the wire as it was, in one form', () => {
    const address = fc.tuple(
      fc.constantFrom('udp', 'tcp'),
      fc.oneof(fc.ipV4(), fc.ipV6()),
      fc.integer({ min: 1, max: 65_535 }),
    )
    fc.assert(
      fc.property(fc.array(address, { maxLength: 4 }), (seen) => {
        const bytes = encodeCbor({ public: true, seen, places: [] })
        const once = readHere(decodeCbor(bytes, { maxBytes: 1_024 })).seen
        const again = readHere({
          public: true,
          seen: once.map(({ kind, host, port }) => [kind, host, port]),
          places: [],
        })
        expect(again.seen).toEqual(once)
        expect(once.map(({ port }) => port)).toEqual(seen.map(([, , port]) => port))
      }),
    )
  })

  test.each([
    [{ seen: [], places: [] }],
    [{ public: true, seen: [['sctp', HOST, 1]], places: [] }],
    [{ public: true, seen: [['tcp', 'fe80::1%eth0', 1]], places: [] }],
    [{ public: true, seen: [['tcp', 'localhost', 1]], places: [] }],
    [{ public: true, seen: [['tcp', HOST, 0]], places: [] }],
    [{ public: true, seen: [['tcp', HOST, 65_536]], places: [] }],
    [{ public: true, seen: [['tcp', HOST, 1, 2]], places: [] }],
    [{ public: true, seen: Array(5).fill(['tcp', HOST, 1]), places: [] }],
    [{ public: true, seen: [], places: [['tcp', HOST, 1, new Uint8Array(15)]] }],
  ])('%j is none', (value) => {
    expect(codeOf(() => readHere(value))).toBe('ERR_PEERLINE_PROTOCOL')
  })
})
