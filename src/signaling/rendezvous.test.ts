import { afterEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { RendezvousService } from '../server/rendezvous-service.ts'
import { MessageStream, type Session, type Stream } from '../session/index.ts'
import { type SessionPair, type SessionPairOptions, sessionPair } from '../session/session-pair.compliance.ts'
import { Rendezvous } from './rendezvous.ts'
import { MAX_RENDEZVOUS_MESSAGE_BYTES } from './rendezvous-wire.ts'
import { signalingCompliance } from './signaling.compliance.ts'
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

signalingCompliance('a rendezvous', async (onOffer) => {
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
})

/** A rendezvous that is no service but the test: it says what it likes. */
async function hostile(onOffer: OfferHandler = async () => undefined, options: Partial<SessionPairOptions> = {}) {
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
          if (got.length === 1)
            void server!.send({ t: 'registered', observed: '198.41.0.4:7', now: Date.now() + 9_000 })
        },
        onEnd: () => {},
      })
    },
    ...options,
  })
  pairs.push(pair)
  const rendezvous = await register(pair.a, onOffer)
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
    ['of unknown kinds', { t: 'hello' }],
    ['that only a peer may send', { t: 'register', listed: true }],
    ['with half an id', { t: 'failed', id: new Uint8Array(8), code: 'ERR_PEERLINE_BUSY' }],
  ])('ends, typed, at replies %s', async (_, message) => {
    const { rendezvous, server } = await hostile()
    await server.send(message)
    expect((await rendezvous.ended).code).toBe('ERR_PEERLINE_PROTOCOL')
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
