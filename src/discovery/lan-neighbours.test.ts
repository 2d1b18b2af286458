import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Identity, type PeerId, type RecordContent, signRecord } from '../identity/index.ts'
import { localAddresses } from '../network/address.ts'
import { type Heard, MAX_NEIGHBOURS, Neighbours } from './lan-neighbours.ts'

const LOCALS = localAddresses({
  interfaces: { eth0: [{ address: '10.0.0.1', netmask: '255.0.0.0', family: 'IPv4' } as never] },
})
const NOW = 1_900_000_000_000
const own = Identity.generate()
const other = Identity.generate()

describe('the peers on a network', () => {
  let events: unknown[][]
  let neighbours: Neighbours
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['Date', 'performance'], now: NOW })
    events = []
    neighbours = new Neighbours({
      own: own.peerId,
      onFound: ({ record, addresses, by }) => events.push(['found', record.sequence, addresses, by]),
      onLost: (peer, reason) => events.push(['lost', peer === other.peerId ? 'other' : peer, reason]),
    })
  })
  afterEach(() => vi.useRealTimers())

  function signed(sequence: number, more: Partial<RecordContent> & { by?: Identity } = {}): Uint8Array {
    const { by = other, ...content } = more
    return signRecord(by, { sequence, expiresAt: NOW + 86_400_000, addresses: ['10.0.0.2:1'], ...content })
  }

  const take = (record: Uint8Array, more: Partial<Heard> = {}) =>
    neighbours.take({ record, from: { address: '10.0.0.2' }, by: 'beacon', locals: LOCALS, ...more })

  const has = (peer: PeerId) => neighbours.list.some((one) => one.peer === peer)

  const FOUND = ['found', 1, ['10.0.0.2:1'], 'beacon']

  test('one is found once, however often it is heard', () => {
    expect([take(signed(1)), take(signed(1)), take(signed(1), { by: 'mdns' })]).toEqual([true, false, false])
    expect(events).toEqual([FOUND])
    expect(neighbours.list.map(({ peer }) => peer)).toEqual([other.peerId])
  })

  test('an old record says nothing of a peer that is gone; the newest finds it again', () => {
    take(signed(5))
    vi.advanceTimersByTime(300_000)
    neighbours.sweep()
    expect(take(signed(4))).toBe(false)
    expect(has(other.peerId)).toBe(false)
    expect(take(signed(5))).toBe(true)
    expect(events.map(([what]) => what)).toEqual(['found', 'lost', 'found'])
  })

  test('a goodbye of a peer that is not there ends its older records as well', () => {
    expect(take(signed(6, { addresses: [] }))).toBe(false)
    expect([take(signed(5)), take(signed(7))]).toEqual([false, true])
  })

  test('the newest record counts, in whatever order they come', () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: 9 }), { minLength: 1, maxLength: 20 }), (sequences) => {
        const heard = new Neighbours({ own: undefined, onFound: () => {}, onLost: () => {} })
        const news = sequences.map((sequence) =>
          heard.take({ record: signed(sequence), from: { address: '10.0.0.2' }, by: 'beacon', locals: LOCALS }),
        )
        const greatest = sequences.map((sequence, at) => sequence > Math.max(-1, ...sequences.slice(0, at)))
        expect(news).toEqual(greatest)
        expect(heard.list.map(({ record }) => record.sequence)).toEqual([Math.max(...sequences)])
      }),
    )
  })

  test('a newer record is found again', () => {
    take(signed(1))
    expect(take(signed(2, { addresses: ['10.0.0.2:2'] }))).toBe(true)
    expect(events).toEqual([FOUND, ['found', 2, ['10.0.0.2:2'], 'beacon']])
    expect(neighbours.size).toBe(1)
  })

  test('after its goodbye only what is newer counts', () => {
    take(signed(1))
    const goodbye = signed(5, { addresses: [] })
    expect([take(goodbye), take(goodbye), take(signed(1)), take(signed(5)), take(signed(6))]).toEqual([
      ...[true, false, false, false, true],
    ])
    expect(events.map((event) => event[0])).toEqual(['found', 'lost', 'found'])
    expect(events[1]).toEqual(['lost', 'other', 'goodbye'])
  })

  test('a goodbye that is older than what was said is none, nor is that of a stranger', () => {
    take(signed(5))
    expect(take(signed(4, { addresses: [] }))).toBe(false)
    expect(take(signed(9, { addresses: [], by: Identity.generate() }))).toBe(false)
    expect(neighbours.size).toBe(1)
  })

  test.each([
    ['ourselves', () => signed(1, { by: own }), {}],
    ['what has expired', () => signed(1, { expiresAt: Date.now() }), {}],
    ['another than it is said to be of', () => signed(1), { claimed: own.peerId }],
    ['what was changed', () => signed(1).map((byte, at) => (at === 60 ? byte ^ 1 : byte)), {}],
    ['what is too large', () => signed(1, { topics: Array(12).fill('x'.repeat(100)) }), {}],
    ['what nobody here could dial', () => signed(1, { addresses: ['example.org:1'] }), {}],
    ['noise', () => new Uint8Array(randomBytes(200)), {}],
    ['nothing', () => new Uint8Array(0), {}],
  ])('%s is passed over', (_, record, more) => {
    expect(take(record(), more)).toBe(false)
    expect([events, neighbours.size]).toEqual([[], 0])
  })

  test('a record in the name of another does not keep it from being forgotten', () => {
    take(signed(1))
    vi.advanceTimersByTime(200_000)
    take(signed(1), { claimed: own.peerId })
    vi.advanceTimersByTime(20_000)
    neighbours.sweep()
    expect(neighbours.size).toBe(0)
  })

  test('who is silent for 210 s is lost, and who is heard is not', () => {
    take(signed(1))
    vi.advanceTimersByTime(150_000)
    take(signed(1))
    vi.advanceTimersByTime(210_000)
    neighbours.sweep()
    expect(neighbours.size).toBe(1)
    vi.advanceTimersByTime(1)
    neighbours.sweep()
    expect(events).toEqual([FOUND, ['lost', 'other', 'silent']])
  })

  test('whose record has ended is lost', () => {
    const record = signed(1, { expiresAt: Date.now() + 100_000 })
    take(record)
    vi.advanceTimersByTime(99_999)
    take(record)
    neighbours.sweep()
    expect(neighbours.size).toBe(1)
    vi.advanceTimersByTime(1)
    neighbours.sweep()
    expect(events.at(-1)).toEqual(['lost', 'other', 'expired'])
  })

  test('those heard by multicast DNS lately are known, the latest first', () => {
    const [a, b, c] = [Identity.generate(), Identity.generate(), Identity.generate()]
    take(signed(1, { by: a }), { by: 'mdns' })
    take(signed(1, { by: b }), { by: 'beacon' })
    vi.advanceTimersByTime(1_000)
    take(signed(1, { by: c }), { by: 'mdns' })
    expect(neighbours.recentByMdns(1_000)).toEqual([c.peerId, a.peerId])
    expect(neighbours.recentByMdns(999)).toEqual([c.peerId])
    expect(has(b.peerId)).toBe(true)
  })

  /** Records of so many peers, from addresses of so many machines, a second apart where it takes long. */
  function crowd(peers: number, sources: number): Identity[] {
    return Array.from({ length: peers }, (_, at) => {
      const by = Identity.generate()
      if (at % 10 === 0) vi.advanceTimersByTime(1_000)
      const address = `10.0.${(at % sources) >> 8}.${(at % sources) & 255}`
      expect(take(signed(1, { by }), { from: { address } })).toBe(true)
      return by
    })
  }

  test('one machine drives out only its own', () => {
    take(signed(1))
    const peers = crowd(70, 1)
    expect(neighbours.size).toBe(65)
    expect(has(other.peerId)).toBe(true)
    expect(peers.map(({ peerId }) => has(peerId))).toEqual(peers.map((_, at) => at >= 6))
  })

  test('there are 1,024 at most, and the one heard longest ago goes', () => {
    take(signed(1))
    const [first] = crowd(MAX_NEIGHBOURS - 1, 500)
    take(signed(1)) // heard again
    expect(neighbours.size).toBe(MAX_NEIGHBOURS)
    crowd(1, 1)
    expect(neighbours.size).toBe(MAX_NEIGHBOURS)
    expect([has(other.peerId), has(first!.peerId)]).toEqual([true, false])
    expect(events.filter(([what]) => what === 'lost')).toEqual([['lost', first!.peerId, 'full']])
  })

  test('few signatures of one source are looked at in a second, and not all of all', () => {
    const news = (address: string) =>
      Array.from({ length: 50 }, () => take(signed(1, { by: Identity.generate() }), { from: { address } })).filter(
        Boolean,
      )
    expect(news('10.0.0.3').length).toBe(20)
    expect(news('10.0.0.4').length).toBe(20)
    for (let at = 0; at < 20; at++) news(`10.0.1.${at}`)
    expect(neighbours.size).toBe(200)
    vi.advanceTimersByTime(1_000)
    expect(news('10.0.0.3').length).toBe(20)
  })
})
