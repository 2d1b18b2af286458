import { randomBytes } from 'node:crypto'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { MessageStream, type Stream } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { MAX_RENDEZVOUS_MESSAGE_BYTES, RENDEZVOUS_PROTOCOL } from '../signaling/index.ts'
import { RendezvousService } from './rendezvous-service.ts'

interface Message {
  readonly t: string
  readonly id?: Uint8Array
  readonly code?: string
  readonly observed?: string
}

/** A peer that is never there. */
const NOBODY = Identity.fromSeed(new Uint8Array(32).fill(99))

const OVER = new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over')
const pairs: SessionPair[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  vi.useRealTimers()
  for (const { a, b } of pairs) for (const session of [a, b]) session.abort(OVER)
  await Promise.all(pairs.splice(0).map((pair) => pair.close()))
})

/** A peer that says to the service what the test wants, with nothing in between. */
class RawPeer {
  readonly identity: Identity
  readonly pair: SessionPair
  readonly stream: Stream
  readonly got: Message[] = []
  readonly #messages: MessageStream
  ended: unknown

  private constructor(identity: Identity, pair: SessionPair, stream: Stream) {
    this.identity = identity
    this.pair = pair
    this.stream = stream
    this.#messages = new MessageStream(stream, {
      maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
      onMessage: (message) => this.got.push(message as Message),
      onEnd: (error) => {
        this.ended = error?.code ?? 'in order'
      },
    })
  }

  static async connect(service: RendezvousService, identity = Identity.generate()): Promise<RawPeer> {
    const pair: SessionPair = await sessionPair({
      onStreamB: (stream) => service.serve(stream, { from: identity.peerId, session: pair.b }),
    })
    pairs.push(pair)
    return new RawPeer(identity, pair, await pair.a.open(RENDEZVOUS_PROTOCOL))
  }

  /** Connected, and listed. */
  static async listed(service: RendezvousService, identity?: Identity): Promise<RawPeer> {
    const peer = await RawPeer.connect(service, identity)
    await peer.send({ t: 'register', listed: true })
    await peer.count(1)
    return peer
  }

  send(message: unknown): Promise<void> {
    return this.#messages.send(message)
  }

  async signal(t: string, to: RawPeer | Identity, id: Uint8Array, data = Uint8Array.of(1)): Promise<void> {
    const { publicKey } = to instanceof RawPeer ? to.identity : to
    await this.send({ t, peer: publicKey, id, data })
  }

  count(messages: number): Promise<void> {
    return vi.waitFor(() => expect(this.got.length).toBeGreaterThanOrEqual(messages), { interval: 5 })
  }

  /** Resolves when everything sent so far has been served: the service answers a stream in order. */
  async served(): Promise<void> {
    const marker = new Uint8Array(randomBytes(16))
    await this.signal('offer', NOBODY, marker)
    await vi.waitFor(() => expect(this.got.map(({ id }) => id)).toContainEqual(marker), { interval: 5 })
    this.got.splice(this.got.length - 1, 1)
  }

  /** What came after the registration. */
  get heard(): Message[] {
    return this.got.filter(({ t }) => t !== 'registered')
  }
}

const id = () => new Uint8Array(randomBytes(16))

describe('an offer', () => {
  test('goes to the callee, and the answer to the caller, each with the proven sender', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request, Uint8Array.of(1, 2))
    await b.count(2)
    expect(b.heard).toEqual([{ t: 'offer', peer: a.identity.publicKey, id: request, data: Uint8Array.of(1, 2) }])
    await b.signal('answer', a, request, Uint8Array.of(3))
    await a.count(2)
    expect(a.heard).toEqual([{ t: 'answer', peer: b.identity.publicKey, id: request, data: Uint8Array.of(3) }])
  })

  test('to a peer that is not there fails', async () => {
    const service = new RendezvousService()
    const a = await RawPeer.listed(service)
    const request = id()
    await a.signal('offer', Identity.generate(), request)
    await a.count(2)
    expect(a.heard).toEqual([{ t: 'failed', id: request, code: 'ERR_PEERLINE_OFFLINE' }])
  })

  test('to a peer that only dials fails, as if it were not there', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.connect(service)]
    await b.send({ t: 'register', listed: false })
    await b.count(1)
    await a.signal('offer', b, id())
    await a.count(2)
    expect(a.heard).toMatchObject([{ code: 'ERR_PEERLINE_OFFLINE' }])
    expect(service.online).toBe(1)
    // Who changes its mind is found from then on, and no longer.
    for (const listed of [true, false]) {
      await b.send({ t: 'register', listed })
      await b.served()
      expect(service.online).toBe(listed ? 2 : 1)
    }
  })

  test('to a peer that has left fails', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    await b.pair.a.close()
    await vi.waitFor(() => expect(service.online).toBe(1))
    await a.signal('offer', b, id())
    await a.count(2)
    expect(a.heard).toMatchObject([{ code: 'ERR_PEERLINE_OFFLINE' }])
  })

  test('goes to the newest registration, and to the one before it when that has gone', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const a = await RawPeer.listed(service)
    const [older, newer] = [await RawPeer.listed(service, identity), await RawPeer.listed(service, identity)]
    expect(service.online).toBe(2)
    await a.signal('offer', identity, id())
    await newer.count(2)
    expect(older.heard).toEqual([])
    await newer.pair.a.close()
    await vi.waitFor(async () => {
      await a.signal('offer', identity, id())
      expect(older.heard.length).toBeGreaterThan(0)
    })
    expect(service.online).toBe(2)
  })

  test('that is sent twice goes out once', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request)
    await a.signal('offer', b, request)
    await a.count(2)
    expect(a.heard).toEqual([{ t: 'failed', id: request, code: 'ERR_PEERLINE_BUSY' }])
    expect(b.heard.length).toBe(1)
  })

  test('is limited in its rate, be the callee there or not', async () => {
    const service = new RendezvousService()
    const [a, b, c] = [await RawPeer.listed(service), await RawPeer.listed(service), await RawPeer.listed(service)]
    const now = performance.now()
    vi.spyOn(performance, 'now').mockReturnValue(now)
    const absent = Identity.generate()
    for (let count = 0; count < 260; count++) {
      await a.signal('offer', b, id())
      await a.signal('offer', absent, id())
    }
    await b.count(251)
    await a.count(251 + 20)
    expect(b.heard.length).toBe(250)
    const codes = a.heard.map((message) => message.code)
    expect(codes.filter((code) => code === 'ERR_PEERLINE_OFFLINE').length).toBe(250)
    expect(codes.filter((code) => code === 'ERR_PEERLINE_BUSY').length).toBe(20)
    // Another peer has its own allowance.
    await c.signal('offer', b, id())
    await b.count(252)
  })
})

describe('an offer whose callee has gone', () => {
  test('goes to the newest of its other registrations, once each', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const a = await RawPeer.listed(service)
    const all: RawPeer[] = []
    for (let count = 0; count < 3; count++) all.push(await RawPeer.listed(service, identity))
    const request = id()
    await a.signal('offer', identity, request, Uint8Array.of(7))
    for (const at of [2, 1, 0]) {
      await vi.waitFor(() => expect(all[at]!.heard.map(({ t }) => t)).toEqual(['offer']))
      if (at > 0) await all[at]!.pair.a.close()
    }
    expect(all[0]!.heard).toEqual([{ t: 'offer', peer: a.identity.publicKey, id: request, data: Uint8Array.of(7) }])
    await all[0]!.signal('answer', a, request, Uint8Array.of(8))
    await a.count(2)
    expect(a.heard).toMatchObject([{ t: 'answer', id: request, data: Uint8Array.of(8) }])
  })

  test('waits for it to come back', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service, identity)]
    await a.signal('offer', identity, id())
    await b.count(2)
    await b.pair.a.close()
    await vi.waitFor(() => expect(service.online).toBe(1))
    const back = await RawPeer.listed(service, identity)
    await back.count(2)
    expect(back.heard).toMatchObject([{ t: 'offer' }])
  })

  test('goes to the next registration of its link at once, for the one before may be dead', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const [a, link] = [await RawPeer.listed(service), id()]
    const before = await RawPeer.connect(service, identity)
    await before.send({ t: 'register', listed: true, link })
    await before.count(1)
    const request = id()
    await a.signal('offer', identity, request)
    await before.count(2)
    // Another program with the same key is none of it: both would answer, each with a session of its own.
    for (const other of [undefined, id()]) {
      const stranger = await RawPeer.connect(service, identity)
      await stranger.send({ t: 'register', listed: true, ...(other === undefined ? {} : { link: other }) })
      await stranger.served()
      expect(stranger.heard).toEqual([])
    }
    const next = await RawPeer.connect(service, identity)
    await next.send({ t: 'register', listed: true, link })
    await next.count(2)
    expect(next.heard).toMatchObject([{ t: 'offer', id: request }])
    // Whichever of them answers, it counts once.
    await before.signal('answer', a, request, Uint8Array.of(1))
    await before.served()
    await next.signal('answer', a, request, Uint8Array.of(2))
    await next.served()
    await a.served()
    expect(a.heard).toMatchObject([{ t: 'answer', data: Uint8Array.of(1) }])
  })

  test('is answered to the registration that asked for it last', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const [before, next, b] = [
      await RawPeer.listed(service, identity),
      await RawPeer.listed(service, identity),
      await RawPeer.listed(service),
    ]
    const request = id()
    await before.signal('offer', b, request)
    await b.count(2)
    await next.signal('offer', b, request)
    await next.served()
    await b.signal('answer', identity, request)
    await next.count(2)
    await before.served()
    await b.served()
    expect([before.heard.length, next.heard.length, b.heard.length]).toEqual([0, 1, 1])
  })
})

describe('a rendezvous that is moving', () => {
  test('tells those who understand it, lets nobody in, and passes signals on', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.connect(service), await RawPeer.listed(service)]
    const late = await RawPeer.connect(service)
    await a.send({ t: 'register', listed: true, link: id() })
    await a.count(1)
    service.move(5_000)
    service.move(9_000)
    await a.count(2)
    expect(a.heard).toEqual([{ t: 'moving', ms: 5_000 }])
    for (const peer of [late, await RawPeer.connect(service)]) {
      const request = id()
      await peer.signal('offer', b, request).catch(() => {})
      await peer.send({ t: 'register', listed: true }).catch(() => {})
      await vi.waitFor(() => expect(peer.ended).toBe('in order'))
      expect(peer.got.at(-1)).toEqual({ t: 'moving', ms: expect.any(Number) })
      expect((peer.got.at(-1) as unknown as { ms: number }).ms).toBeLessThanOrEqual(5_000)
    }
    const request = id()
    await a.signal('offer', b, request)
    await b.count(2)
    await b.signal('answer', a, request)
    await a.count(3)
    expect([a.heard.at(-1)!.t, b.heard.map(({ t }) => t)]).toEqual(['answer', ['offer']])
    expect([service.online, service.registrations]).toEqual([2, 2])
  })

  test('gives up whoever does not hang up', async () => {
    const service = new RendezvousService()
    service.move(60_000)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const peer = await RawPeer.connect(service)
    while (peer.ended === undefined) await new Promise((resolve) => setImmediate(resolve))
    expect(peer.stream.done).toBe(false)
    vi.advanceTimersByTime(2_000)
    vi.useRealTimers()
    await vi.waitFor(() => expect(peer.stream.done).toBe(true))
  })

  test('notes who leaves', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.connect(service)]
    await b.send({ t: 'register', listed: false })
    await b.count(1)
    const left: number[] = []
    service.onLeave = () => left.push(service.registrations)
    service.move(60_000)
    for (const peer of [a, b]) {
      await peer.pair.a.close()
      await vi.waitFor(() => expect(left.length).toBe(peer === a ? 1 : 2))
    }
    expect(left).toEqual([1, 0])
  })
})

describe('an answer', () => {
  test('without an offer is dropped', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    await b.signal('answer', a, id())
    await b.served()
    await a.served()
    expect([a.heard, b.heard]).toEqual([[], []])
  })

  test('from another peer than the callee is dropped, and the genuine one still passes', async () => {
    const service = new RendezvousService()
    const [a, b, eve] = [await RawPeer.listed(service), await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request)
    await b.count(2)
    await eve.signal('answer', a, request, Uint8Array.of(66))
    await eve.served()
    await a.served()
    expect(a.heard).toEqual([])
    await b.signal('answer', a, request, Uint8Array.of(1))
    await a.count(2)
    expect(a.heard).toMatchObject([{ t: 'answer', peer: b.identity.publicKey, data: Uint8Array.of(1) }])
  })

  test('for another id, or to another peer than the caller, is dropped', async () => {
    const service = new RendezvousService()
    const [a, b, c] = [await RawPeer.listed(service), await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request)
    await b.count(2)
    await b.signal('answer', a, id())
    await b.signal('answer', c, request)
    await b.served()
    for (const peer of [a, c]) {
      await peer.served()
      expect(peer.heard).toEqual([])
    }
  })

  test('passes once', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request)
    await b.count(2)
    for (let count = 0; count < 3; count++) await b.signal('answer', a, request)
    await b.served()
    await a.served()
    expect(a.heard.length).toBe(1)
  })

  test('goes to the registration that asked, not to another of the same peer', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const [asking, newer, b] = [
      await RawPeer.listed(service, identity),
      await RawPeer.listed(service, identity),
      await RawPeer.listed(service),
    ]
    const request = id()
    await asking.signal('offer', b, request)
    await b.count(2)
    await b.signal('answer', identity, request)
    await asking.count(2)
    await newer.served()
    expect([asking.heard.length, newer.heard.length]).toEqual([1, 0])
  })

  test('that comes when the offer has expired is dropped, and its id is free again', async () => {
    const service = new RendezvousService()
    const [a, b] = [await RawPeer.listed(service), await RawPeer.listed(service)]
    const request = id()
    await a.signal('offer', b, request)
    await b.count(2)
    const real = performance.now.bind(performance)
    vi.spyOn(performance, 'now').mockImplementation(() => real() + 30_001)
    await b.signal('answer', a, request)
    await b.served()
    await a.served()
    expect(a.heard).toEqual([])
    await a.signal('offer', b, request)
    await b.count(3)
  })
})

describe('a registration', () => {
  test('is told where it is seen from: IPv4 as IPv4', async () => {
    const service = new RendezvousService()
    const a = await RawPeer.listed(service)
    expect(a.got[0]!.observed).toBe(a.pair.b.remote)
    vi.spyOn(a.pair.b, 'remote', 'get').mockReturnValue('[::ffff:198.41.0.4]:5')
    await a.send({ t: 'register', listed: true })
    await a.count(2)
    expect(a.got[1]!.observed).toBe('198.41.0.4:5')
    vi.spyOn(a.pair.b, 'remote', 'get').mockReturnValue('relay ws://example.org')
    await a.send({ t: 'register', listed: true })
    await a.count(3)
    expect(a.got[2]!.observed).toBe('unknown')
  })

  test('made anew on the same stream counts once', async () => {
    const service = new RendezvousService()
    const a = await RawPeer.listed(service)
    for (let count = 0; count < 20; count++) await a.send({ t: 'register', listed: true })
    await a.count(21)
    expect(service.online).toBe(1)
    expect(a.ended).toBeUndefined()
    await a.pair.a.close()
    await vi.waitFor(() => expect(service.online).toBe(0))
  })

  test('has one stream in a session; a second one is refused, and may come when the first has ended', async () => {
    const service = new RendezvousService()
    const a = await RawPeer.listed(service)
    const second = await a.pair.a.open(RENDEZVOUS_PROTOCOL)
    await expect(second.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
    a.stream.reset()
    await vi.waitFor(() => expect(service.online).toBe(0))
    const third = await a.pair.a.open(RENDEZVOUS_PROTOCOL)
    const messages = new MessageStream(third, {
      maxBytes: 1_000,
      onMessage: (got) => a.got.push(got as Message),
      onEnd: () => {},
    })
    await messages.send({ t: 'register', listed: true })
    await a.count(2)
    expect(service.online).toBe(1)
  })

  test('is one of eight of a peer at most: a ninth is refused, and the others are asked whether they live', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const all: RawPeer[] = []
    for (let count = 0; count < 8; count++) all.push(await RawPeer.listed(service, identity))
    const ninth = await RawPeer.connect(service, identity)
    await ninth.send({ t: 'register', listed: true })
    await vi.waitFor(() => expect(ninth.ended).toBe('ERR_PEERLINE_BUSY'))
    // One word for itself, and one for each that came after it.
    await vi.waitFor(() => expect(all.map(({ got }) => got.length)).toEqual([9, 8, 7, 6, 5, 4, 3, 2]))
    expect(all.map(({ ended }) => ended)).toEqual(Array(8).fill(undefined))
    // Nobody is pushed out; whoever leaves makes room.
    await all[3]!.pair.a.close()
    await vi.waitFor(async () => {
      const next = await RawPeer.connect(service, identity)
      await next.send({ t: 'register', listed: true })
      await next.count(1)
    })
    expect(service.online).toBe(1)
  })

  test('made anew on the same stream is the newest again, and asks nobody anything', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const a = await RawPeer.listed(service)
    const [older, newer] = [await RawPeer.listed(service, identity), await RawPeer.listed(service, identity)]
    await older.count(2)
    for (let count = 0; count < 20; count++) await older.send({ t: 'register', listed: true })
    await older.count(22)
    await a.signal('offer', identity, id())
    await older.count(23)
    await newer.served()
    expect(newer.got.length).toBe(1)
  })

  test.each<[string, Uint8Array]>([
    ['a length without end', Uint8Array.of(255, 255, 255, 255)],
    ['no CBOR', Uint8Array.of(0, 0, 0, 1, 255)],
    ['no request', Uint8Array.of(0, 0, 0, 1, 0xf6)],
    ['HTTP', new TextEncoder().encode('GET / HTTP/1.1\r\n\r\n')],
  ])('that sends %s ends, and is found no longer', async (_, bytes) => {
    const service = new RendezvousService()
    const a = await RawPeer.listed(service)
    await a.stream.write(bytes)
    await vi.waitFor(() => expect(a.ended).toBe('ERR_PEERLINE_REMOTE'))
    expect(service.online).toBe(0)
  })

  test('of a peer that does not read what it is told is let go, before it costs memory', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const pair: SessionPair = await sessionPair({
      onStreamB: (stream) => service.serve(stream, { from: identity.peerId, session: pair.b }),
    })
    pairs.push(pair)
    // Nobody reads this stream, so no window is ever granted beyond the first.
    const deaf = await pair.a.open(RENDEZVOUS_PROTOCOL)
    const register = Buffer.from('a26174687265676973746572666c6973746564f5', 'hex')
    await deaf.write(Buffer.concat([Uint8Array.of(0, 0, 0, register.length), register]))
    await vi.waitFor(() => expect(service.online).toBe(1))
    const senders = await Promise.all([RawPeer.listed(service), RawPeer.listed(service)])
    const data = new Uint8Array(16_000)
    for (let count = 0; count < 240; count++)
      for (const sender of senders) await sender.signal('offer', identity, id(), data)
    await vi.waitFor(() => expect(service.online).toBe(2))
    await vi.waitFor(() => expect(deaf.done).toBe(true))
  })
})
