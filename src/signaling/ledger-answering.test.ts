import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { ConsensusClock } from '../ledger/clock.ts'
import { Kind } from '../ledger/envelope.ts'
import type { Ledger, Topics } from '../ledger/ledger.ts'
import { fireInMs, leadMs } from './ledger-answering.ts'
import {
  bytes,
  clockOf,
  code,
  echo,
  LedgerNet,
  pass,
  runTime,
  signal,
  silent,
  T0,
  until,
} from './ledger-net.compliance.ts'
import type { AnswerHow, OfferHandler } from './signaling.ts'

runTime()

describe('when both begin', () => {
  const ledger = { latencyMs: 5_000, spreadMs: 700 } as Ledger

  /** A clock, and what moves the machine's. */
  function clockAt(start = T0) {
    let now = start
    const clock = new ConsensusClock({ now: () => now, wall: () => now })
    return { clock, go: (ms: number) => (now += ms), now: () => now }
  }

  test('is counted from where own messages show the time of the answer', () => {
    const { clock, go, now } = clockAt()
    const ahead = 37_000
    const sentAt = clock.local()
    go(4_000)
    clock.appended(sentAt, sentAt + ahead + 100) // its time was 100 ms after it was sent
    const at = now() + ahead
    go(2_000)
    clock.received(at)
    expect(fireInMs(clock, ledger, at)).toBeCloseTo(5_000 + 700 + 150 - 2_000 - 100, -1)
    go(60_000)
    expect(fireInMs(clock, ledger, at)).toBe(0)
  })

  test('is soon after the answer has come, while no own message was seen', () => {
    const { clock, now } = clockAt()
    const at = now() - 300_000
    clock.received(at)
    expect(fireInMs(clock, ledger, at)).toBe(700 + 150)
  })

  test('is never later than the ledger says that it takes, whatever times it gives', () => {
    const ms = fc.integer({ min: 0, max: 100_000 })
    const lie = fc.oneof(ms, fc.integer({ min: -1e9, max: 1e9 }))
    const step = fc.record({ own: fc.boolean(), before: ms, after: ms, lie })
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 20 }), (steps) => {
        const { clock, go, now } = clockAt()
        for (const { own, before, after, lie } of steps) {
          const sentAt = clock.local()
          go(before)
          const at = now() + lie
          go(after)
          if (own) clock.appended(sentAt, at)
          else clock.received(at)
          const inMs = fireInMs(clock, ledger, at)
          expect(inMs).toBeGreaterThanOrEqual(0)
          expect(inMs).toBeLessThanOrEqual(leadMs(ledger) + 0.01)
        }
      }),
    )
  })
})

describe('answering', () => {
  const offerFrom = (
    net: LedgerNet,
    topics: Topics,
    payload: Uint8Array,
    { by = Identity.generate(), sequence = 1 } = {},
  ) => net.put(by, topics.stdin, Kind.OFFER, payload, { sequence })

  test('copies of an offer are passed over, whoever signs them', async () => {
    const net = new LedgerNet()
    const onOffer = vi.fn(echo)
    const { id, topics } = await net.callee(onOffer)
    const offer = bytes()
    await (await net.open()).exchange(id, bytes(16), offer, { signal })
    net.memory.put(topics.stdin, net.memory.entriesOf(topics.stdin)[0]!.message)
    for (let at = 0; at < 5; at++) offerFrom(net, topics, offer)
    const last = bytes()
    offerFrom(net, topics, last)
    await until(() => onOffer.mock.calls.length === 2)
    expect(onOffer.mock.calls.map(([one]) => one)).toEqual([offer, last])
  })

  test('an offer that is older than any lives is passed over', async () => {
    const net = new LedgerNet()
    const onOffer = vi.fn(silent)
    const { topics } = await net.callee(onOffer)
    const [old, young] = [bytes(), bytes()]
    const late = { ...offerFrom(net, topics, old), at: Date.now() - 301_000 }
    net.memory.entriesOf(topics.stdin)[0] = late
    offerFrom(net, topics, young)
    await until(() => onOffer.mock.calls.length > 0)
    expect(onOffer.mock.calls.map(([one]) => one)).toEqual([young])
  })

  test('one sender has so many offers a minute looked at, and all have so many', async () => {
    const net = new LedgerNet()
    const onOffer = vi.fn(silent)
    const { topics, signaling } = await net.callee(onOffer)
    const senders = Array.from({ length: 12 }, () => Identity.generate())
    const flood = (count: number, by: readonly Identity[]) => {
      for (let at = 0; at < count; at++) offerFrom(net, topics, bytes(8), { by: by[at % by.length]!, sequence: at })
    }
    const read = async () => {
      const { length } = net.memory.entriesOf(topics.stdin)
      await until(() => signaling.export()!.position === length)
      await pass(100)
    }
    const one = Identity.generate()
    flood(80, [one])
    await read()
    expect(onOffer).toHaveBeenCalledTimes(60)
    flood(600, senders)
    await read()
    expect(onOffer).toHaveBeenCalledTimes(600)
    await pass(60_000)
    offerFrom(net, topics, bytes(8), { by: one, sequence: 1_000 })
    await until(() => onOffer.mock.calls.length > 600)
  })

  test('who waits for a decision holds up only so many others', async () => {
    const net = new LedgerNet()
    const decide: (() => void)[] = []
    const onOffer = vi.fn<OfferHandler>(() => new Promise((resolve) => decide.push(() => resolve(undefined))))
    const { topics } = await net.callee(onOffer)
    for (let at = 0; at < 70; at++) offerFrom(net, topics, bytes(8))
    await until(() => decide.length === 64)
    await pass(100)
    expect(onOffer).toHaveBeenCalledTimes(64)
    for (const done of decide) done()
    await pass(100)
    offerFrom(net, topics, bytes(8))
    await until(() => onOffer.mock.calls.length === 65)
  })

  test('answers are written as far as the budget goes, and what is over is told of once', async () => {
    const net = new LedgerNet()
    const { id, topics } = await net.callee(echo, { answersPerMinute: 3 })
    const caller = await net.open()
    const dial = () => caller.exchange(id, bytes(16), bytes(), { signal }).catch((error: PeerlineError) => error.code)
    for (let at = 0; at < 3; at++) expect(await dial()).toBeInstanceOf(Uint8Array)
    expect(await dial()).toBe('ERR_PEERLINE_BUSY')
    expect(await dial()).toBe('ERR_PEERLINE_TIMEOUT')
    expect(net.kindsAt(topics.stderr)).toEqual([Kind.TROUBLE])
    expect(net.kindsAt(topics.stdout).filter((kind) => kind === Kind.ANSWER).length).toBe(3)
    await pass(60_000)
    expect(await dial()).toBeInstanceOf(Uint8Array)
  })

  test('what is not answered takes nothing of the budget', async () => {
    const net = new LedgerNet({ perByte: 0.0001 })
    const genuine = bytes()
    const { id, topics } = await net.callee(async (offer) => (offer.length === 40 ? offer : undefined))
    for (let at = 0; at < 40; at++) {
      offerFrom(net, topics, bytes(8))
      await pass(10)
    }
    const caller = await net.open()
    expect(await caller.exchange(id, bytes(16), genuine, { signal })).toEqual(genuine)
    // Where answers cost money there are 12 a minute.
    const dial = () => caller.exchange(id, bytes(16), bytes(), { signal }).catch((error: PeerlineError) => error.code)
    for (let at = 0; at < 11; at++) expect(await dial()).toBeInstanceOf(Uint8Array)
    expect(await dial()).toBe('ERR_PEERLINE_BUSY')
  })

  test('an answer that cannot be written is told of here, and to the handler', async () => {
    const net = new LedgerNet()
    const onError = vi.fn()
    const travel: Promise<number>[] = []
    const onOffer = async (offer: Uint8Array, how?: AnswerHow) => {
      travel.push(Promise.resolve(how!.travelMs!))
      travel[0]!.catch(() => {})
      return offer
    }
    const { topics } = await net.callee(onOffer, { onError })
    net.memory.failNext('ERR_PEERLINE_PAYMENT')
    offerFrom(net, topics, bytes())
    await until(() => onError.mock.calls.length > 0)
    expect(onError).toHaveBeenCalledWith(code('ERR_PEERLINE_PAYMENT'))
    await expect(travel[0]).rejects.toEqual(code('ERR_PEERLINE_PAYMENT'))
  })

  test('an answer that does not fit is told of to whoever waits for it', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee(async () => bytes(895))
    const asking = (await net.open()).exchange(id, bytes(16), bytes(), { signal })
    await expect(asking).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })

  test('a handler that fails stays silent, and the next offer is handed to it', async () => {
    const net = new LedgerNet()
    const { id, topics } = await net.callee(async (offer) => {
      if (offer.length === 8) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'no offer')
      return offer
    })
    offerFrom(net, topics, bytes(8))
    const offer = bytes()
    expect(await (await net.open()).exchange(id, bytes(16), offer, { signal })).toEqual(offer)
  })

  test('a clock that is minutes ahead hides no offers, once the ledger has shown what time it is', async () => {
    const net = new LedgerNet()
    const { id } = await net.callee(echo, { clock: clockOf(400_000) })
    await pass(100)
    const offer = bytes()
    expect(await (await net.open()).exchange(id, bytes(16), offer, { signal })).toEqual(offer)
  })

  test('who cannot hear any more says goodbye', async () => {
    const net = new LedgerNet()
    const onError = vi.fn()
    const { id, topics } = await net.callee(echo, { onError })
    const entry = offerFrom(net, topics, bytes(8))
    await until(() => net.kindsAt(topics.stdout).length === 2)
    Object.assign(entry, { at: entry.at + 1 })
    net.memory.disconnect()
    await until(() => net.kindsAt(topics.stdout).length === 3)
    expect(onError).toHaveBeenCalledWith(code('ERR_PEERLINE_LEDGER'))
    const asking = (await net.open()).exchange(id, bytes(16), bytes(), { signal })
    await expect(asking).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('nothing that anybody writes keeps peers from each other', async () => {
    const net = new LedgerNet()
    const onError = vi.fn()
    const { id, identity, topics } = await net.callee(echo, { onError })
    const caller = await net.open()
    const kind = fc.oneof(fc.constantFrom(...Object.values(Kind)), fc.integer({ min: 0, max: 255 }))
    const noise = fc.record({
      kind,
      payload: fc.uint8Array({ maxLength: 600 }),
      sign: fc.constantFrom('peer', 'stranger', 'nobody'),
    })
    const stranger = Identity.generate()
    let sequence = Date.now()
    await fc.assert(
      fc.asyncProperty(fc.array(noise, { minLength: 1, maxLength: 8 }), async (all) => {
        for (const topic of [topics.stdin, topics.stdout, topics.stderr]) {
          for (const { kind, payload, sign } of all) {
            // A genuine goodbye would end it, as it should.
            if (sign === 'peer' && topic === topics.stdout && kind === Kind.HEARTBEAT) continue
            if (sign === 'nobody') net.memory.put(topic, payload)
            else net.put(sign === 'peer' ? identity : stranger, topic, kind, payload, { sequence: sequence++ - 1_000 })
          }
        }
        const offer = bytes()
        expect(await caller.exchange(id, bytes(16), offer, { signal })).toEqual(offer)
        await pass(20_000) // the budget is not what is tested
      }),
      { numRuns: 25 },
    )
    expect(onError).not.toHaveBeenCalled()
  }, 60_000)
})
