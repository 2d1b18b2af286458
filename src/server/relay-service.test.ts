import diagnostics from 'node:diagnostics_channel'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { firstMessage } from '../connect/first-message.ts'
import { Reservation } from '../connect/index.ts'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { CIRCUIT_BYTES, FramedPath, mintCircuit, RelayPath } from '../path/index.ts'
import { MessageStream } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { MemoryPipe, settled } from './memory-pipe.compliance.ts'
import { type RelayLimits, RelayService } from './relay-service.ts'

const FROM = Identity.fromSeed(new Uint8Array(32).fill(3)).peerId
const text = (value: string) => new TextEncoder().encode(value)
const code = (value: string) => expect.objectContaining({ name: 'PeerlineError', code: value })

/** A relay, and a session of a peer with it. */
async function makeRelay(limits?: RelayLimits) {
  const service = new RelayService(limits)
  const pair: SessionPair = await sessionPair({
    onStreamB: (stream) => service.serve(stream, { from: FROM, session: pair.b }),
  })
  onTestFinished(async () => {
    vi.useRealTimers()
    service.close()
    pair.a.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over'))
    await pair.close()
  })
  const reserve = (onMoving: (ms: number) => void = () => {}) =>
    Reservation.reserve(pair.a, 'ws://relay', { onMoving, signal: AbortSignal.timeout(5_000) })
  return { service, pair, reserve }
}

/** One end that comes to the relay with a token. */
class Comer {
  readonly pipe: MemoryPipe
  readonly path: RelayPath
  readonly got: string[] = []
  readonly ends: (ErrorCode | 'in order')[] = []

  constructor(service: RelayService, token: Uint8Array) {
    const [near, far] = MemoryPipe.pair()
    this.pipe = near
    this.path = new RelayPath(near, 'ws://relay', token)
    this.path.start({
      message: (message) => this.got.push(Buffer.from(message).toString()),
      drain: () => {},
      close: (error) => this.ends.push(error?.code ?? 'in order'),
    })
    const path = new FramedPath('tcp', far)
    firstMessage(path).then(
      (message) => {
        try {
          service.onCircuit(path, message)
        } catch {
          path.destroy() // as the acceptor does
        }
      },
      () => {},
    )
  }

  get state(): string {
    return this.ends[0] ?? (this.path.joined ? 'joined' : 'waiting')
  }
}

async function come(service: RelayService, ...tokens: Uint8Array[]): Promise<Comer[]> {
  const comers: Comer[] = []
  for (const token of tokens) {
    comers.push(new Comer(service, token))
    await settled()
  }
  return comers
}

const states = (comers: readonly Comer[]) => comers.map(({ state }) => state)

/** Sockets dialled while a test ran, once what it needs for itself stands. */
let dialled = 0
const onSocket = () => {
  dialled++
}
beforeEach(() => {
  dialled = 0
})
afterEach(() => {
  diagnostics.unsubscribe('net.client.socket', onSocket)
})

describe('a circuit', () => {
  test('joins its two ends, in whatever order they come, and never dials anybody', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    diagnostics.subscribe('net.client.socket', onSocket)
    for (const turned of [false, true]) {
      const { own, offer } = reservation.mint()
      const ends = turned ? [offer.token, own] : [own, offer.token]
      const [first, second] = [new Comer(service, ends[0]!), new Comer(service, ends[1]!)]
      // Before the other end is there: the relay holds back its reading.
      first.path.send([text('early')])
      await settled()
      expect(states([first, second])).toEqual(['joined', 'joined'])
      second.path.send([text('answer')])
      await settled()
      expect([first.got, second.got]).toEqual([['answer'], ['early']])
    }
    expect(service.circuits).toBe(2)
    expect(dialled).toBe(0)
  })

  test('ends at both sides when one ends', async () => {
    const { service, reserve } = await makeRelay()
    const { own, offer } = (await reserve()).mint()
    const [a, b] = await come(service, own, offer.token)
    a!.path.send([text('last')])
    a!.path.close()
    await settled()
    expect(b!.got).toEqual(['last'])
    expect(b!.ends).toEqual(['in order'])
    expect(service.circuits).toBe(0)
  })

  test('whose first bytes pass its quota ends, and is not kept', async () => {
    const { service, reserve } = await makeRelay({ circuitBytes: 100, maxCircuits: 1 })
    const reservation = await reserve()
    for (let round = 0; round < 3; round++) {
      const { own, offer } = reservation.mint()
      const a = new Comer(service, own)
      a.path.send([new Uint8Array(200)])
      await settled()
      const [b] = await come(service, offer.token)
      expect([a.ends.length, b!.ends.length, b!.got.length]).toEqual([1, 1, 0])
      expect(service.circuits).toBe(0)
    }
  })

  test('goes on when the reservation has gone: only new ones need it', async () => {
    const { service, pair, reserve } = await makeRelay()
    const { own, offer } = (await reserve()).mint()
    const [a, b] = await come(service, own, offer.token)
    await pair.a.close()
    await vi.waitFor(() => expect(service.reservations).toBe(0))
    a!.path.send([text('still')])
    await settled()
    expect(b!.got).toEqual(['still'])
  })

  test('is ended by the relay when it closes, waiting ones too', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    const [joined, waiting] = [reservation.mint(), reservation.mint()]
    const comers = await come(service, joined.own, joined.offer.token, waiting.own)
    service.close()
    await settled()
    expect(states(comers)).toEqual(['in order', 'in order', 'ERR_PEERLINE_UNREACHABLE'])
    expect(service.circuits).toBe(0)
  })
})

describe('a token', () => {
  test('opens its side once', async () => {
    const { service, reserve } = await makeRelay()
    const { own, offer } = (await reserve()).mint()
    const comers = await come(service, own, own, offer.token, own, offer.token)
    expect(states(comers)).toEqual([
      'joined',
      'ERR_PEERLINE_DENIED',
      'joined',
      'ERR_PEERLINE_DENIED',
      'ERR_PEERLINE_DENIED',
    ])
  })

  test('opens its side once, also when the first to come has left again', async () => {
    const { service, reserve } = await makeRelay()
    const { own } = (await reserve()).mint()
    const [first] = await come(service, own)
    first!.path.destroy()
    await settled()
    expect(states(await come(service, own))).toEqual(['ERR_PEERLINE_DENIED'])
  })

  test('with any bit flipped is refused', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    const { own } = reservation.mint()
    for (let at = 0; at < CIRCUIT_BYTES; at++) {
      const flipped = new Uint8Array(own)
      flipped[at]! ^= 1 << (at % 8)
      const [comer] = await come(service, flipped)
      // Version and side are looked at before there is anybody to answer.
      expect(comer!.state).toBe(at === 34 && at % 8 !== 0 ? 'ERR_PEERLINE_UNREACHABLE' : 'ERR_PEERLINE_DENIED')
    }
    // The genuine one was not used up by them.
    expect(states(await come(service, own))).toEqual(['waiting'])
  })

  test('for the other side does not stand in for this one', async () => {
    const { service, reserve } = await makeRelay()
    const { own } = (await reserve()).mint()
    const turned = new Uint8Array(own)
    turned[34] = 1
    expect(states(await come(service, own, turned))).toEqual(['waiting', 'ERR_PEERLINE_DENIED'])
  })

  test('of another reservation for the same circuit is refused', async () => {
    const { service, reserve } = await makeRelay()
    const other = await makeRelay()
    const victim = (await reserve()).mint()
    const stranger = (await other.reserve()).mint()
    expect(states(await come(service, victim.own, stranger.offer.token))).toEqual(['waiting', 'ERR_PEERLINE_DENIED'])
  })

  test('of an unknown reservation is refused', async () => {
    const { service } = await makeRelay()
    const [own] = mintCircuit(new Uint8Array(16), new Uint8Array(32), Date.now() + 1_000)
    expect(states(await come(service, own))).toEqual(['ERR_PEERLINE_DENIED'])
  })

  test('is refused when its reservation has gone with its session', async () => {
    const { service, pair, reserve } = await makeRelay()
    const { own } = (await reserve()).mint()
    await pair.a.close()
    await vi.waitFor(() => expect(service.reservations).toBe(0))
    expect(states(await come(service, own))).toEqual(['ERR_PEERLINE_DENIED'])
  })

  test('is refused when it has expired, or lives for too long', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    const { own } = reservation.mint()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 61_000 })
    expect(states(await come(service, own))).toEqual(['ERR_PEERLINE_EXPIRED'])
    const fromFuture = reservation.mint().own
    vi.setSystemTime(Date.now() - 61_000 - 300_000)
    expect(states(await come(service, fromFuture))).toEqual(['ERR_PEERLINE_EXPIRED'])
  })

  test('is refused when its reservation was not renewed', async () => {
    const { service, reserve } = await makeRelay({ reservationMs: 10_000 })
    const reservation = await reserve()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 11_000 })
    expect(states(await come(service, reservation.mint().own))).toEqual(['ERR_PEERLINE_EXPIRED'])
  })
})

describe('a relay that is moving', () => {
  test('tells those with reservations; what is joined or half there goes on, and nothing new is taken', async () => {
    const { service, reserve } = await makeRelay()
    const told: number[] = []
    const reservation = await reserve((ms) => told.push(ms))
    const [joined, half, unused] = [reservation.mint(), reservation.mint(), reservation.mint()]
    const [a, b, c] = await come(service, joined.own, joined.offer.token, half.own)
    service.move(5_000)
    service.move(9_000)
    await vi.waitFor(() => expect([told, reservation.live]).toEqual([[5_000], false]))
    expect(states(await come(service, unused.own, half.offer.token))).toEqual(['ERR_PEERLINE_BUSY', 'joined'])
    a!.path.send([text('still')])
    await settled()
    expect([b!.got, c!.state]).toEqual([['still'], 'joined'])
    expect([service.circuits, service.idle]).toEqual([2, false])
  })

  test('refuses new reservations, and renews none', async () => {
    const { service, pair, reserve } = await makeRelay()
    service.move(5_000)
    await expect(reserve()).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    await pair.a.close()
    expect([service.reservations, service.idle]).toEqual([0, true])
    const other = await makeRelay()
    const stream = await other.pair.a.open('/peerline/relay/1')
    const got: unknown[] = []
    const messages = new MessageStream(stream, { maxBytes: 1_000, onMessage: (one) => got.push(one), onEnd: () => {} })
    await messages.send({ t: 'reserve' })
    await vi.waitFor(() => expect(got.length).toBe(1))
    other.service.move(5_000)
    await messages.send({ t: 'reserve' })
    await vi.waitFor(() => expect(got.length).toBe(3))
    expect(got.slice(1)).toEqual([
      { t: 'moving', ms: 5_000 },
      { t: 'moving', ms: expect.any(Number) },
    ])
  })

  test('notes who leaves: peers, circuits, and ends whose other end did not come', async () => {
    const { service, pair, reserve } = await makeRelay()
    const reservation = await reserve()
    const [joined, half] = [reservation.mint(), reservation.mint()]
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const [a] = await come(service, joined.own, joined.offer.token, half.own)
    let left = 0
    service.onLeave = () => {
      left++
    }
    service.move(60_000)
    await vi.advanceTimersByTimeAsync(35_000)
    expect(left).toBe(1)
    vi.useRealTimers()
    a!.path.destroy()
    await vi.waitFor(() => expect([left, service.idle]).toEqual([2, false]))
    await pair.a.close()
    await vi.waitFor(() => expect([left, service.idle]).toEqual([3, true]))
  })
})

describe('limits', () => {
  test('circuits of a reservation, the waiting ones among them', async () => {
    const { service, reserve } = await makeRelay({ maxCircuits: 2 })
    const reservation = await reserve()
    const [one, two, three] = [reservation.mint(), reservation.mint(), reservation.mint()]
    const comers = await come(service, one.own, one.offer.token, two.own, three.own)
    expect(states(comers)).toEqual(['joined', 'joined', 'waiting', 'ERR_PEERLINE_LIMIT'])
    comers[0]!.path.destroy()
    await settled()
    // A refused token was not used; its place is free now.
    expect(states(await come(service, three.own))).toEqual(['waiting'])
  })

  test('a waiting end that leaves frees its place', async () => {
    const { service, reserve } = await makeRelay({ maxCircuits: 1 })
    const reservation = await reserve()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    await come(service, reservation.mint().own)
    expect(states(await come(service, reservation.mint().own))).toEqual(['ERR_PEERLINE_LIMIT'])
    await vi.advanceTimersByTimeAsync(35_000)
    expect(states(await come(service, reservation.mint().own))).toEqual(['waiting'])
  })

  test('an end whose other end does not come is told so after the deadline', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const [comer] = await come(service, reservation.mint().own)
    await vi.advanceTimersByTimeAsync(34_999)
    expect(comer!.state).toBe('waiting')
    await vi.advanceTimersByTimeAsync(1)
    expect(comer!.state).toBe('ERR_PEERLINE_TIMEOUT')
  })

  test('used tokens that are remembered: more circuits than that have to wait', async () => {
    const { service, reserve } = await makeRelay()
    const reservation = await reserve()
    let refused: string | undefined
    for (let count = 0; count < 3_000 && refused === undefined; count++) {
      const { own, offer } = reservation.mint()
      const [a, b] = [new Comer(service, own), new Comer(service, offer.token)]
      for (let turn = 0; turn < 20; turn++) await Promise.resolve()
      if (b.state !== 'joined') refused = `${count} ${a.state}`
      a.path.destroy()
      b.path.destroy()
      for (let turn = 0; turn < 20; turn++) await Promise.resolve()
    }
    expect(refused).toBe('2048 ERR_PEERLINE_LIMIT')
  })

  test('reservations at once', async () => {
    const { service, reserve } = await makeRelay({ maxReservations: 0 })
    await expect(reserve()).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    expect(service.reservations).toBe(0)
  })

  test('one reservation in a session', async () => {
    const { service, pair, reserve } = await makeRelay()
    await reserve()
    await expect(reserve()).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    expect(service.reservations).toBe(1)
    await pair.a.close()
    await vi.waitFor(() => expect(service.reservations).toBe(0))
  })

  test('a request that is none ends the stream, and the reservation', async () => {
    const { service, pair } = await makeRelay()
    for (const garbage of [
      Uint8Array.of(0, 0, 0, 1, 0xf6),
      Uint8Array.of(255, 255, 255, 255),
      text('GET / HTTP/1.1'),
    ]) {
      const stream = await pair.a.open('/peerline/relay/1')
      await stream.write(garbage)
      await expect(stream.next()).rejects.toEqual(code('ERR_PEERLINE_REMOTE'))
      await vi.waitFor(() => expect(service.reservations).toBe(0))
    }
  })
})
