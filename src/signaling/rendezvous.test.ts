import { setMaxListeners } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { RendezvousService } from '../server/rendezvous-service.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { type RegisterOptions, Rendezvous } from './rendezvous.ts'
import { MAX_RENDEZVOUS_MESSAGE_BYTES } from './rendezvous-wire.ts'
import { type Medium, signalingCompliance, type Tamper } from './signaling.compliance.ts'
import type { OfferHandler } from './signaling.ts'

const OVER = new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over')
const NAME = 'rendezvous test'

function register(session: Session, onOffer: OfferHandler, options: { listed?: boolean; signal?: AbortSignal } = {}) {
  const { listed = true, signal = AbortSignal.timeout(5_000) } = options
  return Rendezvous.register(session, { name: NAME, listed, onOffer, signal })
}

/** A session of one peer with the service. */
async function join(service: RendezvousService, from = Identity.generate().peerId): Promise<SessionPair> {
  const pair: SessionPair = await sessionPair({
    onStreamB: (stream) => service.serve(stream, { from, session: pair.b }),
  })
  return pair
}

function stop(...pairs: SessionPair[]): Promise<unknown> {
  for (const { a, b } of pairs) for (const session of [a, b]) session.abort(OVER)
  return Promise.all(pairs.map((pair) => pair.close()))
}

signalingCompliance(
  'a rendezvous',
  async (onOffer) => {
    const service = new RendezvousService()
    const calleeId = Identity.generate().peerId
    const [callerPair, calleePair] = [await join(service), await join(service, calleeId)]
    await register(calleePair.a, onOffer)
    const caller = await register(callerPair.a, async () => undefined, { listed: false })
    return {
      caller,
      callee: calleeId,
      end: () => callerPair.b.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the server goes away')),
      teardown: async () => void (await stop(callerPair, calleePair)),
    }
  },
  { tampered: untrue },
)

/** Two peers at a rendezvous that does with their signals what it likes. */
async function untrue(onOffer: OfferHandler, tamper: Tamper): Promise<Medium> {
  const [callerId, calleeId] = [Identity.generate(), Identity.generate()]
  const asCaller = await untrueSide((signal) => {
    const pass = (data = signal.data) => asCallee.tell({ ...signal, peer: callerId.publicKey, data })
    tamper.offer({ bytes: signal.data, pass })
  })
  const asCallee = await untrueSide((signal) => {
    const pass = (data = signal.data) => asCaller.tell({ ...signal, peer: calleeId.publicKey, data })
    tamper.answer({ bytes: signal.data, pass })
  })
  await register(asCallee.pair.a, onOffer)
  return {
    caller: await register(asCaller.pair.a, async () => undefined, { listed: false }),
    callee: calleeId.peerId,
    end: () => asCaller.pair.b.abort(OVER),
    teardown: async () => void (await stop(asCaller.pair, asCallee.pair)),
  }
}

/** One of the two. */
async function untrueSide(onSignal: (signal: { data: Uint8Array }) => void) {
  let messages: MessageStream
  const tell = (message: unknown) => void messages.send(message).catch(() => {}) // it has gone
  const onStreamB = (stream: Stream) => {
    messages = new MessageStream(stream, {
      maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
      onMessage: (message) => {
        const signal = message as { t: string; data: Uint8Array }
        if (signal.t !== 'register') onSignal(signal)
        else tell({ t: 'registered', observed: '198.41.0.4:7', now: Date.now() })
      },
      onEnd: () => {},
    })
  }
  return { pair: await sessionPair({ onStreamB }), tell }
}

/** A rendezvous that is no service but the test: it says what it likes. */
async function hostile(
  onOffer: OfferHandler = async () => undefined,
  options: Partial<RegisterOptions> = {},
  answering = () => true,
) {
  let server: MessageStream | undefined
  let stream: Stream | undefined
  const got: Record<string, unknown>[] = []
  const pair = await sessionPair({
    onStreamB: (opened) => {
      stream = opened
      server = new MessageStream(opened, {
        maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
        onMessage: (message) => {
          got.push(message as Record<string, unknown>)
          if (got.at(-1)!.t === 'register' && answering())
            void server!.send({ t: 'registered', observed: '198.41.0.4:7', now: Date.now() + 9_000 })
        },
        onEnd: () => {},
      })
    },
  })
  pairs.push(pair)
  const signal = AbortSignal.timeout(5_000)
  const rendezvous = await Rendezvous.register(pair.a, { name: NAME, listed: true, onOffer, signal, ...options })
  return { pair, rendezvous, got, server: server!, stream: stream! }
}

const pairs: SessionPair[] = []
afterEach(() => stop(...pairs.splice(0)))

describe('a registration', () => {
  test('learns where it is seen, and what time it is there', async () => {
    const { rendezvous } = await hostile()
    expect(rendezvous.observed).toBe('198.41.0.4:7')
    expect(rendezvous.clockOffsetMs).toBeGreaterThan(8_000)
    expect(rendezvous.clockOffsetMs).toBeLessThan(10_000)
  })

  test('learns of reflectors, as the rendezvous names them', async () => {
    const service = new RendezvousService()
    const pair = await join(service)
    pairs.push(pair)
    expect((await register(pair.a, async () => undefined)).reflectors).toEqual([])
    service.reflectors = [':41234', 'stun.example.org:3478']
    const other = await join(service)
    pairs.push(other)
    expect((await register(other.a, async () => undefined)).reflectors).toEqual([':41234', 'stun.example.org:3478'])
  })

  test('fails typed when the other side is no rendezvous', async () => {
    const pair = await sessionPair()
    pairs.push(pair)
    await expect(register(pair.a, async () => undefined)).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_PROTOCOL' })
  })

  test('fails typed when it is not answered in time', async () => {
    const pair = await sessionPair({ onStreamB: () => {} })
    pairs.push(pair)
    const signal = AbortSignal.timeout(20)
    const registering = register(pair.a, async () => undefined, { signal })
    await expect(registering).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
  })

  test('says when it has ended by itself, with its session still open', async () => {
    const { rendezvous, stream, pair } = await hostile()
    stream.reset(3)
    expect((await rendezvous.ended).code).toBe('ERR_PEERLINE_BUSY')
    expect(pair.a.state).toBe('open')
  })

  test.each<[string, unknown]>([
    ['that are none', 7],
    ['without a kind', { id: new Uint8Array(16) }],
    ['that move in a year', { t: 'moving', ms: 31_557_600_000 }],
    ['with half an id', { t: 'failed', id: new Uint8Array(8), code: 'ERR_PEERLINE_BUSY' }],
  ])('ends, typed, at replies %s', async (_, message) => {
    const { rendezvous, server } = await hostile()
    await server.send(message)
    expect((await rendezvous.ended).code).toBe('ERR_PEERLINE_PROTOCOL')
  })

  test('passes over replies of kinds that it does not know', async () => {
    const { rendezvous, server } = await hostile()
    for (const t of ['hello', 'register', 'toString']) await server.send({ t, listed: true })
    await server.send({ t: 'registered', observed: '198.41.0.4:8', now: 0 })
    await vi.waitFor(() => expect(rendezvous.observed).toBe('198.41.0.4:8'))
  })

  test('names its link, the same each time', async () => {
    const link = Rendezvous.newLink()
    const { rendezvous, got } = await hostile(undefined, { link })
    await rendezvous.refresh({ signal: AbortSignal.timeout(5_000) })
    const message = { t: 'register', listed: true, link }
    expect(got).toEqual([message, message])
    expect(Rendezvous.newLink()).not.toEqual(link)
  })

  test('made once more shows that the rendezvous is there, and is given up with the signal', async () => {
    let answering = true
    const { rendezvous, got } = await hostile(undefined, {}, () => answering)
    await rendezvous.refresh({ signal: AbortSignal.timeout(5_000) })
    expect(rendezvous.silentMs).toBeLessThan(1_000)
    answering = false
    const refused = rendezvous.refresh({ signal: AbortSignal.timeout(20) })
    await expect(refused).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
    expect(got.length).toBe(3)
    // It says nothing of the registration itself.
    answering = true
    await rendezvous.refresh({ signal: AbortSignal.timeout(5_000) })
  })

  test('made once more ends with the registration', async () => {
    let answering = true
    const { rendezvous, stream } = await hostile(undefined, {}, () => answering)
    answering = false
    const refreshing = rendezvous.refresh({ signal: AbortSignal.timeout(5_000) })
    const refused = expect(refreshing).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
    stream.reset(3)
    await refused
    const again = rendezvous.refresh({ signal: AbortSignal.timeout(5_000) })
    await expect(again).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
  })

  test.each(['DENIED', 'INVALID', 'LIMIT', 'WRONG_PEER'])('cannot refuse for the peer by saying %s', async (code) => {
    const { rendezvous, server, got } = await hostile()
    const id = new Uint8Array(16).fill(2)
    const signal = AbortSignal.timeout(5_000)
    const exchange = rendezvous.exchange(Identity.generate().peerId, id, new Uint8Array(1), { signal })
    const failed = expect(exchange).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
    await vi.waitFor(() => expect(got.length).toBe(2))
    await server.send({ t: 'failed', id, code: `ERR_PEERLINE_${code}` })
    await failed
  })

  test('cannot refuse for the peer by ending the registration', async () => {
    const { rendezvous, stream, got } = await hostile()
    const offer = () => {
      const signal = AbortSignal.timeout(5_000)
      return rendezvous.exchange(Identity.generate().peerId, new Uint8Array(16), new Uint8Array(1), { signal })
    }
    const closed = { code: 'ERR_PEERLINE_CLOSED', cause: { code: 'ERR_PEERLINE_DENIED' } }
    const waiting = expect(offer()).rejects.toMatchObject(closed)
    await vi.waitFor(() => expect(got.length).toBe(2))
    stream.reset(StreamCode.DENIED)
    await waiting
    await expect(offer()).rejects.toMatchObject(closed)
    expect(await rendezvous.ended).toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
  })

  test('passes over answers and failures that nothing waits for', async () => {
    const { rendezvous, server, got } = await hostile()
    const peer = Identity.generate()
    const stray = { peer: peer.publicKey, id: new Uint8Array(16), data: new Uint8Array(3) }
    await server.send({ t: 'answer', ...stray })
    await server.send({ t: 'failed', id: new Uint8Array(16), code: 'ERR_PEERLINE_BUSY' })
    const id = new Uint8Array(16).fill(2)
    const exchange = rendezvous.exchange(peer.peerId, id, new Uint8Array(1), { signal: AbortSignal.timeout(5_000) })
    await vi.waitFor(() => expect(got.length).toBe(2))
    await server.send({ t: 'answer', ...stray, id })
    expect(await exchange).toEqual(stray.data)
  })
})

describe('a rendezvous that goes away', () => {
  test('says so once, and passes signals until it is gone', async () => {
    const told: number[] = []
    const { rendezvous, server, got } = await hostile(async (offer) => offer, { onMoving: (ms) => told.push(ms) })
    expect(rendezvous.moving).toBe(false)
    for (const ms of [9_000, 8_000]) await server.send({ t: 'moving', ms })
    const peer = Identity.generate()
    await server.send({ t: 'offer', peer: peer.publicKey, id: new Uint8Array(16), data: Uint8Array.of(5) })
    await vi.waitFor(() => expect(got.at(-1)).toMatchObject({ t: 'answer', data: Uint8Array.of(5) }))
    expect([told, rendezvous.moving]).toEqual([[9_000], true])
    const id = new Uint8Array(16).fill(2)
    const signal = AbortSignal.timeout(5_000)
    const exchange = rendezvous.exchange(peer.peerId, id, new Uint8Array(1), { signal })
    await server.send({ t: 'answer', peer: peer.publicKey, id, data: Uint8Array.of(6) })
    expect(await exchange).toEqual(Uint8Array.of(6))
  })

  test('refuses whoever comes then, typed and in words', async () => {
    const service = new RendezvousService()
    service.move(9_000)
    const pair = await join(service)
    pairs.push(pair)
    const told: number[] = []
    const registering = Rendezvous.register(pair.a, {
      name: NAME,
      listed: true,
      onOffer: async () => undefined,
      onMoving: (ms) => told.push(ms),
      signal: AbortSignal.timeout(5_000),
    })
    await expect(registering).rejects.toMatchObject({
      code: 'ERR_PEERLINE_BUSY',
      message: expect.stringContaining('going away'),
    })
    expect(told).toEqual([])
  })
})

describe('a registration that another one replaces', () => {
  test('has its exchanges answered there', async () => {
    const [old, next] = [await hostile(), await hostile()]
    const peer = Identity.generate()
    const ids = [1, 2, 3].map((at) => new Uint8Array(16).fill(at))
    const cancel = new AbortController()
    const signals = [AbortSignal.timeout(5_000), AbortSignal.timeout(5_000), cancel.signal]
    const exchanges = ids.map((id, at) =>
      old.rendezvous.exchange(peer.peerId, id, Uint8Array.of(at), { signal: signals[at]! }),
    )
    old.rendezvous.handOver(next.rendezvous)
    old.pair.a.abort(OVER)
    const offers = ids.map((id, at) => ({ t: 'offer', peer: peer.publicKey, id, data: Uint8Array.of(at) }))
    await vi.waitFor(() => expect(next.got.slice(1)).toEqual(offers))
    await next.server.send({ t: 'answer', peer: peer.publicKey, id: ids[1]!, data: Uint8Array.of(9) })
    expect(await exchanges[1]).toEqual(Uint8Array.of(9))
    cancel.abort()
    await expect(exchanges[2]).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    // Those that are over take nobody's place: 1,024 may wait, and one does.
    const more = new AbortController()
    setMaxListeners(0, more.signal)
    const many = Array.from({ length: 1_024 }, (_, at) => {
      const id = new Uint8Array(16).fill(4)
      new DataView(id.buffer).setUint32(0, at)
      return next.rendezvous.exchange(peer.peerId, id, new Uint8Array(1), { signal: more.signal })
    })
    const refused = Promise.allSettled(many)
    more.abort()
    const codes = (await refused).map((outcome) => (outcome as PromiseRejectedResult).reason.code as string)
    expect(codes.map((code) => code === 'ERR_PEERLINE_ABORTED')).toEqual([...Array(1_023).fill(true), false])
    next.pair.a.abort(OVER)
    await expect(exchanges[0]).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
  })

  test('keeps them when the other one has ended already', async () => {
    const [old, next] = [await hostile(), await hostile()]
    next.pair.a.abort(OVER)
    const id = new Uint8Array(16)
    const peer = Identity.generate()
    const signal = AbortSignal.timeout(5_000)
    const exchange = old.rendezvous.exchange(peer.peerId, id, Uint8Array.of(1), { signal })
    old.rendezvous.handOver(next.rendezvous)
    await old.server.send({ t: 'answer', peer: peer.publicKey, id, data: Uint8Array.of(9) })
    expect(await exchange).toEqual(Uint8Array.of(9))
  })
})

describe('a flood of offers', () => {
  test('is taken on only as far as it can be held; the rest stay unanswered', async () => {
    const open: (() => void)[] = []
    const { server, got } = await hostile(() => new Promise((resolve) => open.push(() => resolve(undefined))))
    const peer = Identity.generate().publicKey
    const offer = (at: number) =>
      server.send({ t: 'offer', peer, id: new Uint8Array(16).fill(at), data: Uint8Array.of(at) })
    for (let at = 0; at < 200; at++) await offer(at)
    await vi.waitFor(() => expect(open.length).toBe(64))
    for (const done of open.splice(0)) done()
    await vi.waitFor(async () => {
      await offer(201)
      expect(open.length).toBeGreaterThan(0)
    })
    expect(got.length).toBe(1)
  })
})
