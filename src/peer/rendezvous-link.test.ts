import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { parseServerUrl, RELAY_PROTOCOL } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { RelayService } from '../server/relay-service.ts'
import { RendezvousService } from '../server/rendezvous-service.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { MAX_RENDEZVOUS_MESSAGE_BYTES } from '../signaling/index.ts'
import { RendezvousLink, type RendezvousLinkOptions } from './rendezvous-link.ts'

const ME = Identity.generate().peerId
const URL = parseServerUrl(`ws://192.0.2.1:4400#${Identity.generate().peerId}`)
const OVER = new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over')
const REFUSED = new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'nothing listens there')
const code = (value: string) => expect.objectContaining({ name: 'PeerlineError', code: value })

const making: Promise<SessionPair>[] = []
const links: RendezvousLink[] = []
beforeEach(() => {
  vi.spyOn(Math, 'random')
})
afterEach(async () => {
  // First of all: a spy on a timer that is not real gives back that one.
  vi.restoreAllMocks()
  vi.useRealTimers()
  for (const link of links.splice(0)) link.close()
  for (const pair of await Promise.all(making.splice(0))) {
    for (const session of [pair.a, pair.b]) session.abort(OVER)
    await pair.close()
  }
})

/** A server of one's own, behind a session of its own for each that dials it. */
class Place {
  readonly rendezvous = new RendezvousService()
  readonly relay: RelayService
  /** The sessions with it, as they came. */
  readonly pairs: SessionPair[] = []
  /** What it does with a stream, in place of serving it; true: nothing else is to be done. */
  intercept: ((stream: Stream) => boolean) | undefined

  constructor(limits: { maxReservations?: number } = {}) {
    this.relay = new RelayService(limits)
  }

  async session(): Promise<Session> {
    const made: Promise<SessionPair> = sessionPair({
      onStreamB: (stream) => {
        if (this.intercept?.(stream)) return
        const service = stream.protocol === RELAY_PROTOCOL ? this.relay : this.rendezvous
        service.serve(stream, { from: ME, session: this.pairs.at(-1)!.b })
      },
    })
    making.push(made)
    const pair = await made
    this.pairs.push(pair)
    return pair.a
  }
}

/** A rendezvous that answers the first registration and nothing that comes after, as one that has died. */
function silent(got: unknown[] = []): (stream: Stream) => boolean {
  return (stream) => {
    if (stream.protocol === RELAY_PROTOCOL) return false
    const messages = new MessageStream(stream, {
      maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
      onMessage: (message) => {
        if (got.push(message) === 1) void messages.send({ t: 'registered', observed: '198.41.0.4:1', now: Date.now() })
      },
      onEnd: () => {},
    })
    return true
  }
}

interface Dial {
  readonly at: number
  readonly signal: AbortSignal
  /** The dial comes to this. */
  to(place: Place): Promise<void>
  fail(): void
}

/** A link whose dials the test decides. */
class Rig {
  readonly dials: Dial[] = []
  readonly log: string[] = []
  readonly errors: PeerlineError[] = []
  readonly waits: number[] = []
  urgent = false
  /** What every dial comes to from now on; undefined: it hangs. */
  outcome: Place | 'refused' | undefined
  readonly link: RendezvousLink

  constructor(outcome?: Rig['outcome'], options: Partial<RendezvousLinkOptions> = {}) {
    this.outcome = outcome
    this.link = new RendezvousLink({
      url: URL,
      listed: true,
      dial: (_, signal) => this.#dial(signal),
      onOffer: async (offer) => offer,
      onOnline: () => this.log.push('online'),
      onOffline: (error, retryMs) => {
        this.log.push('offline')
        this.errors.push(error)
        this.waits.push(retryMs)
      },
      onMoving: () => this.log.push('moving'),
      urgent: () => this.urgent,
      ...options,
    })
    links.push(this.link)
  }

  #dial(signal: AbortSignal): Promise<{ session: Session; localPort: number | undefined }> {
    return new Promise((resolve, reject) => {
      const dial: Dial = {
        at: performance.now(),
        signal,
        to: async (place) => resolve({ session: await place.session(), localPort: 40_000 + this.dials.indexOf(dial) }),
        fail: () => reject(REFUSED),
      }
      signal.addEventListener('abort', () => reject(signal.reason))
      this.dials.push(dial)
      if (this.outcome === 'refused') dial.fail()
      else if (this.outcome !== undefined) void dial.to(this.outcome)
    })
  }

  /** Resolves when this has been told. */
  told(...log: string[]): Promise<void> {
    return vi.waitFor(() => expect(this.log).toEqual(log), { interval: 5, timeout: 10_000 })
  }

  /** Resolves when so many dials have begun. */
  dialled(count: number): Promise<void> {
    return vi.waitFor(() => expect(this.dials.length).toBe(count), { interval: 5, timeout: 10_000 })
  }

  /** The dials that are under way. */
  get open(): number[] {
    return this.dials.flatMap(({ signal }, at) => (signal.aborted ? [] : at))
  }
}

describe('a server that is not there', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    vi.mocked(Math.random).mockReturnValue(0.5)
  })

  test('is dialled again after the wait that was told, longer each time', async () => {
    const rig = new Rig('refused')
    await vi.advanceTimersByTimeAsync(0)
    for (const wait of [550, 1_050, 2_050, 2_050]) {
      expect(rig.waits.at(-1)).toBeCloseTo(wait)
      const dials = rig.dials.length
      await vi.advanceTimersByTimeAsync(wait - 1)
      expect(rig.dials.length).toBe(dials)
      await vi.advanceTimersByTimeAsync(1)
      expect(rig.dials.length).toBe(dials + 1)
    }
    expect(rig.errors[0]).toBe(REFUSED)
  })

  test('is dialled at once for who hurries, but once a second at most', async () => {
    const rig = new Rig('refused')
    await vi.advanceTimersByTimeAsync(0)
    for (let ms = 0; ms < 5_000; ms += 100) {
      rig.link.hurry()
      await vi.advanceTimersByTimeAsync(100)
    }
    const gaps = rig.dials.slice(1).map(({ at }, index) => Math.round(at - rig.dials[index]!.at))
    // The first was planned for earlier than that anyway.
    expect(gaps).toEqual([550, 1_000, 1_000, 1_000, 1_000])
  })

  test('is dialled at once for who hurries when the last attempt was long ago', async () => {
    vi.mocked(Math.random).mockReturnValue(0.999)
    const rig = new Rig('refused')
    await vi.advanceTimersByTimeAsync(1_000 + 2_000 + 1_500)
    expect(rig.dials.length).toBe(3)
    rig.link.hurry()
    await vi.advanceTimersByTimeAsync(0)
    expect(rig.dials.length).toBe(4)
  })

  test('that stays silent has one attempt at a time, and each has its deadline', async () => {
    const rig = new Rig()
    rig.link.hurry()
    await vi.advanceTimersByTimeAsync(14_000)
    expect(rig.dials.length).toBe(1)
    rig.dials[0]!.fail()
    await vi.advanceTimersByTimeAsync(550)
    expect(rig.dials.length).toBe(2)
  })

  test('and is urgently needed has a new attempt each second: four at once, the oldest of them for as long as it takes', async () => {
    const rig = new Rig()
    rig.urgent = true
    rig.link.hurry()
    await vi.advanceTimersByTimeAsync(3_500)
    expect([rig.dials.length, rig.open]).toEqual([4, [0, 1, 2, 3]])
    await vi.advanceTimersByTimeAsync(2_000)
    expect([rig.dials.length, rig.open]).toEqual([6, [0, 3, 4, 5]])
    // Nothing is heard of attempts that were given up for others.
    expect(rig.log).toEqual([])
    rig.urgent = false
    await vi.advanceTimersByTimeAsync(3_000)
    expect(rig.dials.length).toBe(6)
    for (const dial of rig.dials) dial.fail()
    await vi.advanceTimersByTimeAsync(0)
    expect(rig.log).toEqual(['offline'])
  })

  test('and refuses is dialled each second while it is urgently needed', async () => {
    vi.mocked(Math.random).mockReturnValue(0.999)
    const rig = new Rig('refused')
    rig.urgent = true
    await vi.advanceTimersByTimeAsync(5_500)
    expect(rig.dials.map(({ at }) => Math.round(at - rig.dials[0]!.at))).toEqual([0, 999, 1_999, 2_999, 3_999, 4_999])
  })

  test('is forgotten when the link is closed: nothing goes on', async () => {
    const [waiting, dialling] = [new Rig('refused'), new Rig()]
    dialling.urgent = true
    dialling.link.hurry()
    await vi.advanceTimersByTimeAsync(2_000)
    const dials = [waiting.dials.length, dialling.dials.length]
    for (const { link } of [waiting, dialling]) link.close()
    expect([dialling.open, vi.getTimerCount()]).toEqual([[], 0])
    for (const { link } of [waiting, dialling]) link.hurry()
    await vi.advanceTimersByTimeAsync(60_000)
    expect([waiting.dials.length, dialling.dials.length]).toEqual(dials)
    expect(dialling.log).toEqual([])
  })
})

describe('a link that is online', () => {
  test('has a registration and a reservation, and comes back when it was cut', async () => {
    const place = new Place()
    const rig = new Rig(place)
    await rig.told('online')
    const { rendezvous, reservation } = rig.link
    expect([rig.link.localPort, reservation?.live, place.rendezvous.online]).toEqual([40_000, true, 1])
    place.pairs[0]!.b.abort(OVER)
    await rig.told('online', 'offline', 'online')
    expect(rig.waits[0]).toBeLessThanOrEqual(1_000)
    expect(rig.errors).toEqual([code('ERR_PEERLINE_CLOSED')])
    expect(rig.link.rendezvous).not.toBe(rendezvous)
    expect([rig.link.localPort, rig.link.reservation?.live, reservation!.live]).toEqual([40_001, true, false])
  })

  test('begins anew when its registration ends by itself', async () => {
    let stream: Stream | undefined
    const place = new Place()
    place.intercept = (opened) => {
      if (opened.protocol !== RELAY_PROTOCOL) stream ??= opened
      return false
    }
    const rig = new Rig(place)
    await rig.told('online')
    stream!.reset(StreamCode.BUSY)
    await rig.told('online', 'offline', 'online')
    expect(rig.errors).toEqual([code('ERR_PEERLINE_BUSY')])
  })

  test('to a server that falls over whenever it is reached waits longer and longer', async () => {
    vi.mocked(Math.random).mockReturnValue(0.999)
    const place = new Place()
    const rig = new Rig(place)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    for (let round = 1; round <= 4; round++) {
      while (rig.log.length < 2 * round - 1) await new Promise((resolve) => setImmediate(resolve))
      place.pairs.at(-1)!.b.abort(OVER)
      while (rig.log.length < 2 * round) await new Promise((resolve) => setImmediate(resolve))
      await vi.advanceTimersByTimeAsync(4_000)
    }
    // To a millisecond or two: what is told is what is left of the wait.
    expect(rig.waits.map((wait) => Math.round(wait / 10))).toEqual([100, 200, 400, 400])
  })

  test('to one that has held for a while does not', async () => {
    vi.mocked(Math.random).mockReturnValue(0.999)
    const place = new Place()
    const rig = new Rig(place)
    const real = performance.now.bind(performance)
    for (let round = 1; round <= 3; round++) {
      await vi.waitFor(() => expect(rig.log.length).toBe(2 * round - 1), { timeout: 5_000 })
      vi.spyOn(performance, 'now').mockImplementation(() => real() + round * 10_000)
      place.pairs.at(-1)!.b.abort(OVER)
      await vi.waitFor(() => expect(rig.log.length).toBe(2 * round))
    }
    // What is told is what is left of the wait: the first of them each time, which is a second, and no more.
    expect(rig.waits.length).toBe(3)
    for (const wait of rig.waits) expect([wait > 900, wait < 1_000]).toEqual([true, true])
  })

  test('asks a relay again that was full, or that has ended the reservation', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const place = new Place()
    const streams: Stream[] = []
    place.intercept = (stream) => {
      if (stream.protocol !== RELAY_PROTOCOL || streams.push(stream) > 2) return false
      stream.reset(StreamCode.BUSY)
      return true
    }
    const rig = new Rig(place)
    const turn = () => new Promise((resolve) => setImmediate(resolve))
    const until = async (holds: () => boolean) => {
      while (!holds()) await turn()
    }
    // It means to ask again only once it has read that it was refused.
    vi.mocked(Math.random).mockReturnValue(0.95)
    const planned = vi.spyOn(globalThis, 'setTimeout')
    let plans = 0
    const later = async () => {
      const count = () => planned.mock.calls.filter(([, ms]) => ms === 43_500).length
      await until(() => count() > plans)
      plans = count()
      await vi.advanceTimersByTimeAsync(45_000)
    }
    await until(() => rig.log.length === 1)
    expect(rig.link.reservation).toBeUndefined()
    for (let asked = 2; asked <= 3; asked++) {
      await later()
      await until(() => streams.length === asked)
    }
    await until(() => rig.link.reservation?.live === true)
    streams[2]!.reset(StreamCode.BUSY)
    await until(() => rig.link.reservation === undefined)
    await later()
    await until(() => rig.link.reservation?.live === true)
    expect(rig.log).toEqual(['online'])
  })

  test('asks nobody again who is no relay', async () => {
    const place = new Place()
    let asked = 0
    place.intercept = (stream) => {
      if (stream.protocol !== RELAY_PROTOCOL) return false
      asked++
      stream.reset(StreamCode.NO_PROTOCOL)
      return true
    }
    const rig = new Rig(place)
    await rig.told('online')
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    await vi.advanceTimersByTimeAsync(45_000)
    expect(asked).toBe(1)
  })

  test('says nothing more once it is closed, and its session ends with the others of the peer', async () => {
    const place = new Place()
    const rig = new Rig(place)
    await rig.told('online')
    rig.link.close()
    expect(place.pairs[0]!.a.state).toBe('open')
    await place.pairs[0]!.a.close()
    await vi.waitFor(() => expect(place.rendezvous.online).toBe(0))
    expect(rig.log).toEqual(['online'])
  })

  test('that is closed while a session is being registered leaves none behind', async () => {
    const place = new Place()
    place.intercept = () => true
    const rig = new Rig(place)
    await vi.waitFor(() => expect(place.pairs.length).toBe(1))
    await new Promise((resolve) => setImmediate(resolve))
    rig.link.close()
    await place.pairs[0]!.a.closed
    expect(rig.log).toEqual([])
  })
})

describe('who hurries while the link is online', () => {
  /** A link that has been online, and silent, for long enough to be asked. */
  async function quiet(place: Place, rttMs = 1): Promise<Rig> {
    const rig = new Rig(place)
    await rig.told('online')
    rig.outcome = undefined
    vi.spyOn(place.pairs[0]!.a, 'rttMs', 'get').mockReturnValue(rttMs)
    vi.spyOn(rig.link.rendezvous!, 'silentMs', 'get').mockReturnValue(1_000)
    return rig
  }

  test('has a server asked that is there, and nothing dialled', async () => {
    const place = new Place()
    const rig = await quiet(place, 10_000)
    const refresh = vi.spyOn(rig.link.rendezvous!, 'refresh')
    rig.link.hurry()
    expect(refresh).toHaveBeenCalledTimes(1)
    await refresh.mock.results[0]!.value
    await new Promise((resolve) => setTimeout(resolve, 300))
    expect([rig.dials.length, rig.log]).toEqual([1, ['online']])
  })

  test('has nothing asked of a server that was heard just now', async () => {
    const rig = await quiet(new Place())
    vi.mocked(vi.spyOn(rig.link.rendezvous!, 'silentMs', 'get')).mockReturnValue(249)
    const refresh = vi.spyOn(rig.link.rendezvous!, 'refresh')
    rig.link.hurry()
    expect(refresh).not.toHaveBeenCalled()
  })

  test('has a replacement dialled for one that is silent: it takes its place, with nothing offline in between', async () => {
    const [dead, alive] = [new Place(), new Place()]
    const got: { t: string }[] = []
    dead.intercept = silent(got)
    const rig = await quiet(dead)
    const [before, old] = [rig.link.rendezvous!, dead.pairs[0]!.a]
    const id = new Uint8Array(randomBytes(16))
    const callee = Identity.generate().peerId
    const exchange = before.exchange(callee, id, Uint8Array.of(1), { signal: AbortSignal.timeout(5_000) })
    // The new one knows nobody of that name, and says so: the question moves there.
    const answered = expect(exchange).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    rig.link.hurry()
    await rig.dialled(2)
    await rig.dials[1]!.to(alive)
    await rig.told('online', 'online')
    expect(rig.link.rendezvous).not.toBe(before)
    expect([rig.link.localPort, rig.link.reservation?.live, old.state]).toEqual([40_001, true, 'closed'])
    await answered
    expect(got.map(({ t }) => t)).toEqual(['register', 'offer', 'register'])
    alive.pairs[0]!.b.abort(OVER)
    await rig.told('online', 'online', 'offline')
  })

  test('counts what it replaces as time that the server has held', async () => {
    vi.mocked(Math.random).mockReturnValue(0.999)
    const [before, after] = [new Place(), new Place()]
    before.intercept = silent()
    const rig = new Rig('refused')
    await rig.told('offline')
    rig.outcome = before
    await rig.told('offline', 'online')
    const real = performance.now.bind(performance)
    vi.spyOn(performance, 'now').mockImplementation(() => real() + 10_000)
    rig.outcome = after
    rig.link.hurry()
    await rig.told('offline', 'online', 'online')
    after.pairs[0]!.b.abort(OVER)
    await rig.told('offline', 'online', 'online', 'offline')
    expect(rig.waits.at(-1)).toBeLessThan(1_000)
  })

  test('keeps the old one when that answers first', async () => {
    const place = new Place()
    const messages: MessageStream[] = []
    let registrations = 0
    place.intercept = (stream) => {
      if (stream.protocol === RELAY_PROTOCOL) return false
      const one: MessageStream = new MessageStream(stream, {
        maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES,
        onMessage: () => {
          if (++registrations === 1) void one.send({ t: 'registered', observed: 'x', now: 0 })
        },
        onEnd: () => {},
      })
      messages.push(one)
      return true
    }
    const rig = await quiet(place, 240) // patience: 1 s
    const before = rig.link.rendezvous
    rig.link.hurry()
    await rig.dialled(2)
    await rig.dials[1]!.to(place)
    await vi.waitFor(() => expect(registrations).toBe(3))
    await messages[0]!.send({ t: 'registered', observed: 'y', now: 0 })
    await place.pairs[1]!.a.closed
    // The replacement may have been listed as the newest meanwhile.
    await vi.waitFor(() => expect(registrations).toBe(4))
    expect([rig.link.rendezvous, before!.observed, rig.log]).toEqual([before, 'y', ['online']])
    expect(rig.dials[1]!.signal.aborted).toBe(true)
  })

  test('has the old one given up when it stays silent, and the replacement goes on', async () => {
    const [dead, alive] = [new Place(), new Place()]
    dead.intercept = silent()
    const rig = await quiet(dead)
    rig.link.hurry()
    await rig.told('online', 'offline')
    expect([rig.errors, rig.waits]).toEqual([[code('ERR_PEERLINE_TIMEOUT')], [0]])
    expect([rig.dials.length, rig.link.rendezvous]).toEqual([2, undefined])
    // Its SYN may be lost like any other: as long as it is urgent, there is another one each second.
    rig.urgent = true
    rig.link.hurry()
    await rig.dialled(3)
    await rig.dials[1]!.to(alive)
    await rig.told('online', 'offline', 'online')
    expect(rig.dials[2]!.signal.aborted).toBe(true)
  })

  test('who is urgent has one dialled each second from when the old one is given up', async () => {
    const dead = new Place()
    dead.intercept = silent()
    const rig = await quiet(dead)
    rig.link.hurry()
    rig.urgent = true
    await rig.told('online', 'offline')
    await rig.dialled(4)
    expect(rig.log).toEqual(['online', 'offline'])
  })

  test('sets off one replacement a second, however often', async () => {
    const dead = new Place()
    dead.intercept = silent()
    const rig = await quiet(dead, 10_000) // patience: 40 s
    const from = performance.now()
    while (rig.dials.length < 4) {
      rig.link.hurry()
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
    expect(performance.now() - from).toBeGreaterThanOrEqual(2_000)
    expect(rig.log).toEqual(['online'])
  })

  test('may be closed at any time: nothing goes on', async () => {
    const dead = new Place()
    dead.intercept = silent()
    const rig = await quiet(dead)
    rig.link.hurry()
    await rig.dialled(2)
    rig.link.close()
    expect(rig.dials[1]!.signal.aborted).toBe(true)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    expect([rig.dials.length, rig.log, dead.pairs[0]!.a.state]).toEqual([2, ['online'], 'open'])
  })
})

describe('a server that goes away', () => {
  test('is still of use, and whether another one serves its address is tried once', async () => {
    const place = new Place()
    const rig = new Rig(place)
    await rig.told('online')
    vi.mocked(Math.random).mockReturnValue(0.1)
    place.relay.move(1_000)
    place.rendezvous.move(1_000)
    await rig.told('online', 'moving')
    expect([rig.link.moving, rig.link.reservation?.live, rig.link.rendezvous?.moving]).toEqual([true, false, true])
    const movedAt = performance.now()
    await rig.dialled(2)
    expect(performance.now() - movedAt).toBeLessThan(500)
    // It is the same one, and refuses.
    await vi.waitFor(() => expect(place.pairs.length).toBe(2))
    await place.pairs[1]!.a.closed
    await rig.link.rendezvous!.refresh({ signal: AbortSignal.timeout(5_000) })
    expect([rig.link.moving, rig.dials.length, rig.log]).toEqual([true, 2, ['online', 'moving']])
    rig.outcome = new Place()
    place.pairs[0]!.b.abort(OVER)
    await rig.told('online', 'moving', 'offline', 'online')
    expect([rig.link.moving, rig.link.reservation?.live]).toEqual([false, true])
  })

  test('may say so while the link is still being made', async () => {
    const place = new Place()
    let relay: Stream | undefined
    place.intercept = (stream) => {
      if (stream.protocol !== RELAY_PROTOCOL) return false
      relay = stream
      return true
    }
    const rig = new Rig(place)
    await vi.waitFor(() => expect([place.rendezvous.registrations, relay === undefined]).toEqual([1, false]))
    place.rendezvous.move(60_000)
    relay!.reset(StreamCode.BUSY)
    await rig.told('online', 'moving')
    expect(rig.link.moving).toBe(true)
  })

  test('is left in order when another one serves its address', async () => {
    const [place, next] = [new Place(), new Place()]
    const rig = new Rig(place)
    await rig.told('online')
    rig.outcome = next
    vi.mocked(Math.random).mockReturnValue(0)
    place.rendezvous.move(10_000)
    await rig.told('online', 'moving', 'online')
    expect([rig.link.moving, rig.link.reservation?.live, next.rendezvous.online]).toEqual([false, true, 1])
    await place.pairs[0]!.b.closed
    await vi.waitFor(() => expect(place.rendezvous.registrations).toBe(0))
    expect(rig.log).toEqual(['online', 'moving', 'online'])
  })

  test('has its peers look for another over three quarters of its time', async () => {
    const place = new Place()
    const rig = new Rig(place)
    await rig.told('online')
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    vi.mocked(Math.random).mockReturnValue(0.999)
    rig.outcome = undefined
    place.rendezvous.move(10_000)
    while (!rig.link.moving) await new Promise((resolve) => setImmediate(resolve))
    await vi.advanceTimersByTimeAsync(7_490)
    expect(rig.dials.length).toBe(1)
    await vi.advanceTimersByTimeAsync(10)
    expect(rig.dials.length).toBe(2)
  })

  test('says so to who comes while it goes', async () => {
    const place = new Place()
    place.rendezvous.move(10_000)
    const rig = new Rig(place)
    await rig.told('offline')
    expect(rig.errors).toEqual([code('ERR_PEERLINE_BUSY')])
    expect(rig.link.moving).toBe(false)
  })
})
