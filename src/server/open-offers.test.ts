import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import type { SignalMessage } from '../signaling/index.ts'
import { OpenOffers } from './open-offers.ts'

interface Place {
  readonly peer: PeerId
  readonly name: string
}

const [CALLER, CALLEE, OTHER] = [1, 2, 3].map((byte) => Identity.fromSeed(new Uint8Array(32).fill(byte)).peerId)
const place = (name: string, peer = CALLEE!): Place => ({ peer, name })
const caller = place('caller', CALLER)

function offer(number: number, bytes = 10, to = CALLEE!): SignalMessage {
  const id = new Uint8Array(16)
  new DataView(id.buffer).setUint32(0, number)
  return { t: 'offer', peer: to, id, data: new Uint8Array(bytes) }
}

const answer = (number: number, to = CALLER!): SignalMessage => ({ ...offer(number, 10, to), t: 'answer' })

/** Sends what is astray, or what `from` names, to `next`; the numbers of the offers that were told again. */
function redirect(offers: OpenOffers<Place>, from: Place | undefined, next: Place | undefined): number[] {
  const told: number[] = []
  const tell = ({ id }: { id: Uint8Array }) => void told.push(Buffer.from(id).readUInt32BE(0))
  offers.redirect(CALLEE!, (at) => at === from, next, tell)
  return told
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

describe('an open offer', () => {
  test('is answered once, by its callee, from wherever that is', () => {
    const offers = new OpenOffers<Place>()
    offers.add(caller, offer(1), place('first'))
    expect(offers.take(place('stranger', OTHER), answer(1))).toBeUndefined()
    expect(offers.take(place('second'), answer(2))).toBeUndefined()
    expect(offers.take(place('second'), answer(1))?.from).toBe(caller)
    expect(offers.take(place('first'), answer(1))).toBeUndefined()
    expect([offers.size, offers.heldBytes]).toEqual([0, 0])
  })

  test('is forgotten after 30 s, and those behind it later', () => {
    const offers = new OpenOffers<Place>()
    offers.add(caller, offer(1), place('first'))
    vi.advanceTimersByTime(20_000)
    offers.add(caller, offer(2), place('first'))
    vi.advanceTimersByTime(10_000)
    expect([offers.size, offers.heldBytes]).toEqual([1, 10])
    expect(redirect(offers, undefined, place('second'))).toEqual([])
    vi.advanceTimersByTime(20_000)
    expect([offers.size, offers.heldBytes]).toEqual([0, 0])
  })

  test('goes from place to place, four of them at most', () => {
    const offers = new OpenOffers<Place>()
    const places = [1, 2, 3, 4, 5].map((number) => place(`${number}`))
    offers.add(caller, offer(1), places[0]!)
    offers.add(caller, offer(2), place('elsewhere'))
    expect(redirect(offers, places[0], places[1])).toEqual([1])
    expect(redirect(offers, places[0], places[2])).toEqual([])
    expect(redirect(offers, places[1], places[2])).toEqual([1])
    expect(redirect(offers, places[2], places[3])).toEqual([1])
    expect(redirect(offers, places[3], places[4])).toEqual([])
    expect(offers.find(caller, offer(1))?.at).toBe(places[3])
  })

  test('that is astray waits for the next place', () => {
    const offers = new OpenOffers<Place>()
    const [first, second] = [place('first'), place('second')]
    offers.add(caller, offer(1), first)
    expect(redirect(offers, first, undefined)).toEqual([])
    expect(redirect(offers, undefined, second)).toEqual([1])
    expect(redirect(offers, undefined, place('third'))).toEqual([])
  })
})

describe('limits', () => {
  test('offers in all; each that is gone makes room', () => {
    const offers = new OpenOffers<Place>()
    for (let number = 0; number < 65_536; number++) expect(offers.add(caller, offer(number, 0), caller)).toBe(true)
    expect(offers.add(caller, offer(70_000), caller)).toBe(false)
    offers.take(place('first'), answer(9))
    expect(offers.add(caller, offer(70_000), caller)).toBe(true)
    vi.advanceTimersByTime(30_000)
    expect([offers.size, offers.heldBytes]).toEqual([0, 0])
  })

  test('bytes that are held: what comes beyond is passed on once, and can be answered all the same', () => {
    const offers = new OpenOffers<Place>()
    const first = place('first')
    for (let number = 0; number < 1_100; number++) {
      const to = number < 1_020 ? OTHER! : CALLEE!
      expect(offers.add(caller, offer(number, 16_384, to), first)).toBe(true)
    }
    expect(offers.heldBytes).toBe(16_777_216)
    expect(redirect(offers, first, place('second'))).toEqual([1_020, 1_021, 1_022, 1_023])
    expect(offers.take(first, answer(1_099))?.from).toBe(caller)
    offers.take(place('second'), answer(1_020))
    expect(offers.heldBytes).toBe(16_777_216 - 16_384)
    offers.add(caller, offer(2_000, 16_384), first)
    expect(redirect(offers, first, place('second'))).toEqual([2_000])
  })

  test('offers that are held for one callee', () => {
    const offers = new OpenOffers<Place>()
    const first = place('first')
    for (let number = 0; number < 2_000; number++) expect(offers.add(caller, offer(number), first)).toBe(true)
    expect(redirect(offers, first, place('second')).length).toBe(1_024)
    expect([offers.size, offers.heldBytes]).toEqual([2_000, 10_240])
    vi.advanceTimersByTime(30_000)
    expect([offers.size, offers.heldBytes]).toEqual([0, 0])
  })
})
