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
    await b.signal('answer', identity as never, request)
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

  test('is one of eight of a peer at most: the oldest is let go', async () => {
    const service = new RendezvousService()
    const identity = Identity.generate()
    const all: RawPeer[] = []
    for (let count = 0; count < 9; count++) all.push(await RawPeer.listed(service, identity))
    await vi.waitFor(() => expect(all[0]!.ended).toBe('ERR_PEERLINE_RESET'))
    expect(all.slice(1).map(({ ended }) => ended)).toEqual(Array(8).fill(undefined))
    expect(service.online).toBe(1)
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
