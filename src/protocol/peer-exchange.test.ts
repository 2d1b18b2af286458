import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { codeOf } from '../failure.compliance.ts'
import {
  Identity,
  MAX_RECORD_BYTES,
  openRecord,
  type PeerId,
  type RecordContent,
  signRecord,
} from '../identity/index.ts'
import { HandlerContext } from './handler-context.ts'
import { PEERS_PROTOCOL, PeerExchange, registerRecord, requestPeers } from './peer-exchange.ts'
import { type RequestHandler, serveRequest } from './serve-request.ts'
import { useServedPair } from './served-pair.compliance.ts'

const NOW = Date.now()
const HOUR = 3_600_000
const DAY = 86_400_000

const me = Identity.generate()
const asker = Identity.generate().peerId

const pair = useServedPair()

afterEach(() => void vi.restoreAllMocks())

function record(identity: Identity, content: Partial<RecordContent> = {}): Uint8Array {
  return signRecord(identity, { sequence: 1, expiresAt: NOW + HOUR, addresses: ['192.0.2.1:4400'], ...content })
}

/** An exchange that serves the session, and those that it lists. */
function serve(exchange: PeerExchange, from: PeerId = asker): void {
  pair.onStream = (stream) => exchange.serve(stream, { from })
}

/** What an exchange answers to one peer. */
function answer(exchange: PeerExchange, from: PeerId, request: unknown): unknown {
  const body = request instanceof Uint8Array ? request : encodeCbor(request)
  const bytes = exchange.handler(body, new HandlerContext(from, PEERS_PROTOCOL)) as Uint8Array
  return decodeCbor(bytes, { maxBytes: 65_536 })
}

const register = (exchange: PeerExchange, identity: Identity, content: Partial<RecordContent> = {}) =>
  answer(exchange, identity.peerId, { register: record(identity, content) })

/** Whom an exchange names, sorted. */
function named(exchange: PeerExchange, from: PeerId = asker, request: object = { list: 64 }): PeerId[] {
  const { peers } = answer(exchange, from, request) as { peers: Uint8Array[] }
  return peers.map((bytes) => openRecord(bytes, { now: NOW }).peerId).sort()
}

const identities = (count: number) => Array.from({ length: count }, () => Identity.generate())
const ids = (of: readonly Identity[]) => of.map(({ peerId }) => peerId).sort()

describe('over a session', () => {
  test('who registers is named to others, with the record as it was signed', async () => {
    const exchange = new PeerExchange()
    serve(exchange, me.peerId)
    const ms = await registerRecord(pair.a, record(me, { capabilities: ['relay'] }))
    expect(ms).toBeGreaterThan(HOUR - 60_000)
    expect(ms).toBeLessThanOrEqual(HOUR)
    serve(exchange)
    const { peers, passedOver } = await requestPeers(pair.a)
    expect(peers).toMatchObject([{ peerId: me.peerId, addresses: ['192.0.2.1:4400'], capabilities: ['relay'] }])
    expect(passedOver).toBe(0)
  })

  test('as many as were asked for, and of one capability', async () => {
    const exchange = new PeerExchange()
    const all = identities(20)
    for (const [at, identity] of all.entries()) {
      register(exchange, identity, { capabilities: at < 5 ? ['relay', 'x'] : ['x'] })
    }
    serve(exchange)
    const relays = await requestPeers(pair.a, { capability: 'relay' })
    expect(relays.peers.map(({ peerId }) => peerId).sort()).toEqual(ids(all.slice(0, 5)))
    expect((await requestPeers(pair.a, { max: 7 })).peers.length).toBe(7)
    expect((await requestPeers(pair.a)).peers.length).toBe(16)
    expect((await requestPeers(pair.a, { max: 64 })).peers.length).toBe(20)
    expect((await requestPeers(pair.a, { capability: 'none' })).peers).toEqual([])
  })

  test('the largest list arrives, and the largest record', async () => {
    const exchange = new PeerExchange()
    for (const identity of identities(70)) {
      const addresses = Array.from({ length: 3 }, () => 'a'.repeat(252))
      register(exchange, identity, { addresses })
    }
    serve(exchange)
    expect((await requestPeers(pair.a, { max: 64 })).peers.length).toBe(64)
    const addresses = [...Array.from({ length: 15 }, () => 'a'.repeat(252)), 'b'.repeat(135)]
    const largest = record(me, { addresses })
    expect(largest.length).toBe(MAX_RECORD_BYTES)
    serve(exchange, me.peerId)
    await registerRecord(pair.a, largest)
    expect(exchange.size).toBe(71)
  })

  test('a request over the limit is refused while it comes', async () => {
    serve(new PeerExchange())
    const stream = await pair.a.open(PEERS_PROTOCOL)
    stream.write(new Uint8Array(10_000)).catch(() => {})
    await expect(stream.next()).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
  })

  test('a refusal reaches who registers', async () => {
    serve(new PeerExchange())
    await expect(registerRecord(pair.a, record(me))).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
  })

  test('what cannot be right is not sent', async () => {
    pair.onStream = () => expect.fail('it was sent')
    for (const max of [0, 65, 1.5, Number.NaN]) {
      await expect(requestPeers(pair.a, { max })).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    }
    const capability = 'x'.repeat(65)
    await expect(requestPeers(pair.a, { capability })).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    const old = record(me, { expiresAt: NOW - 1 })
    await expect(registerRecord(pair.a, old)).rejects.toMatchObject({ code: 'ERR_PEERLINE_EXPIRED' })
    const none = new Uint8Array(9)
    await expect(registerRecord(pair.a, none)).rejects.toMatchObject({ code: 'ERR_PEERLINE_RECORD' })
  })

  test('a holder that does not answer is given up', async () => {
    pair.onStream = (stream) => serveRequest(stream, () => new Promise(() => {}), { from: asker })
    await expect(requestPeers(pair.a, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_TIMEOUT' })
    const controller = new AbortController()
    const asked = registerRecord(pair.a, record(me), { signal: controller.signal })
    controller.abort()
    await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  })
})

describe('the holder', () => {
  test('lists nobody but who sends its own record itself', () => {
    const exchange = new PeerExchange()
    const [one, other] = identities(2) as [Identity, Identity]
    const foreign = { register: record(other) }
    expect(codeOf(() => answer(exchange, one.peerId, foreign))).toBe('ERR_PEERLINE_DENIED')
    const forged = record(other)
    forged[forged.length - 1]! ^= 1
    expect(codeOf(() => answer(exchange, other.peerId, { register: forged }))).toBe('ERR_PEERLINE_RECORD')
    expect(codeOf(() => register(exchange, one, { expiresAt: NOW - HOUR }))).toBe('ERR_PEERLINE_EXPIRED')
    expect(exchange.size).toBe(0)
  })

  test('keeps the record, and not the memory that it came in', () => {
    const exchange = new PeerExchange()
    const body = encodeCbor({ register: record(me) })
    answer(exchange, me.peerId, body)
    body.fill(0)
    expect(named(exchange)).toEqual([me.peerId])
  })

  test('names everybody but the asker', () => {
    const exchange = new PeerExchange()
    const all = identities(10)
    for (const identity of all) register(exchange, identity)
    for (const { peerId } of all) {
      expect(named(exchange, peerId)).toEqual(ids(all.filter((identity) => identity.peerId !== peerId)))
    }
  })

  test('chooses at random: nobody is left out for long, and nobody comes first', () => {
    const exchange = new PeerExchange({ requestsPerMinute: 1_000 })
    const all = identities(10)
    for (const identity of all) register(exchange, identity)
    const counts = new Map<PeerId, number>()
    // 1,000 draws of 1 in 10: 100 each, and 9.5 the standard deviation. Six of those off happens once in 10^8.
    for (let i = 0; i < 1_000; i++) {
      const [peer] = named(exchange, asker, { list: 1 })
      counts.set(peer!, (counts.get(peer!) ?? 0) + 1)
    }
    expect(counts.size).toBe(10)
    for (const count of counts.values()) expect(Math.abs(count - 100)).toBeLessThan(57)
  })

  test('the latest record wins; an older one, or another of the same number, is refused', () => {
    const exchange = new PeerExchange()
    const capabilities = ['new']
    register(exchange, me, { sequence: 5 })
    expect(codeOf(() => register(exchange, me, { sequence: 4 }))).toBe('ERR_PEERLINE_RECORD')
    expect(codeOf(() => register(exchange, me, { sequence: 5, capabilities }))).toBe('ERR_PEERLINE_RECORD')
    expect(codeOf(() => register(exchange, me, { sequence: 5 }))).toBeUndefined()
    expect(named(exchange, asker, { list: 1, capability: 'new' })).toEqual([])
    register(exchange, me, { sequence: 6, capabilities })
    expect(named(exchange, asker, { list: 1, capability: 'new' })).toEqual([me.peerId])
    expect(exchange.size).toBe(1)
  })

  test('a record is listed until it expires, and a day at most', () => {
    let now = NOW
    const exchange = new PeerExchange({ now: () => now })
    const [short, long] = identities(2) as [Identity, Identity]
    expect(register(exchange, short, { expiresAt: NOW + 1_000 })).toEqual({ ms: 1_000 })
    expect(register(exchange, long, { expiresAt: Number.MAX_SAFE_INTEGER })).toEqual({ ms: DAY })
    now = NOW + 999
    expect(exchange.size).toBe(2)
    now = NOW + 1_000
    expect(named(exchange)).toEqual([long.peerId])
    now = NOW + DAY - 1
    expect(exchange.size).toBe(1)
    now = NOW + DAY
    expect(named(exchange)).toEqual([])
    // What it was then is forgotten, too.
    register(exchange, me, { sequence: 2, expiresAt: NOW + DAY + 1 })
    now = NOW + DAY + 1
    expect(register(exchange, me, { sequence: 1, expiresAt: NOW + DAY + 2 })).toEqual({ ms: 1 })
  })

  test('who registers again in time stays', () => {
    let now = NOW
    const exchange = new PeerExchange({ now: () => now })
    const content = { expiresAt: NOW + 10 * DAY }
    register(exchange, me, content)
    now += DAY - 1
    expect(register(exchange, me, content)).toEqual({ ms: DAY })
    now += DAY - 1
    expect(exchange.size).toBe(1)
  })

  test('when it is full one goes for each that comes, whoever it is; who is there may renew', () => {
    const exchange = new PeerExchange({ maxListed: 8 })
    const first = identities(8)
    for (const identity of first) register(exchange, identity)
    for (const identity of first) register(exchange, identity, { sequence: 2 })
    expect(named(exchange)).toEqual(ids(first))
    const [newcomer] = identities(1) as [Identity]
    register(exchange, newcomer)
    expect(exchange.size).toBe(8)
    expect(named(exchange)).toContain(newcomer.peerId)
    // The one that always goes is the same in 40 floods once in 8^39.
    const gone = new Set<PeerId>()
    for (let flood = 0; flood < 40; flood++) {
      const small = new PeerExchange({ maxListed: 8 })
      for (const identity of first) register(small, identity)
      register(small, newcomer)
      for (const { peerId } of first) if (!named(small).includes(peerId)) gone.add(peerId)
    }
    expect(gone.size).toBeGreaterThan(1)
  })

  test('what has expired makes place before anybody goes', () => {
    let now = NOW
    const exchange = new PeerExchange({ maxListed: 4, now: () => now })
    const [old, ...others] = identities(5) as [Identity, ...Identity[]]
    for (const identity of others.slice(0, 3)) register(exchange, identity)
    register(exchange, old, { expiresAt: NOW + 1_000 })
    now += 1_000
    register(exchange, others[3]!)
    expect(named(exchange)).toEqual(ids(others))
  })

  test('who is shut out is named no longer', () => {
    const exchange = new PeerExchange()
    register(exchange, me)
    expect([exchange.remove(me.peerId), exchange.remove(me.peerId), named(exchange)]).toEqual([true, false, []])
  })

  test('an answer is never larger than its limit', () => {
    const exchange = new PeerExchange()
    const addresses = Array.from({ length: 15 }, () => 'a'.repeat(252))
    for (const identity of identities(64)) register(exchange, identity, { addresses })
    const bytes = exchange.handler(encodeCbor({ list: 64 }), new HandlerContext(asker, PEERS_PROTOCOL)) as Uint8Array
    expect(bytes.length).toBeGreaterThan(61_000)
    expect(bytes.length).toBeLessThanOrEqual(65_536)
  })

  test('one asker has 30 requests a minute, whatever it asks; others are not held up', () => {
    let clock = 1_000_000
    vi.spyOn(performance, 'now').mockImplementation(() => clock)
    const exchange = new PeerExchange()
    for (let i = 0; i < 15; i++) {
      named(exchange)
      expect(codeOf(() => answer(exchange, asker, new Uint8Array([0xff])))).toBe('ERR_PEERLINE_PROTOCOL')
    }
    expect(codeOf(() => named(exchange))).toBe('ERR_PEERLINE_BUSY')
    expect(codeOf(() => named(exchange, me.peerId))).toBeUndefined()
    clock += 59_999
    expect(codeOf(() => named(exchange))).toBe('ERR_PEERLINE_BUSY')
    clock += 1
    expect(codeOf(() => named(exchange))).toBeUndefined()
  })

  test.each<[string, object]>([
    ['nothing', {}],
    ['none', { list: 0 }],
    ['too many', { list: 65 }],
    ['a list of another kind', { list: 'all' }],
    ['a capability that is too long', { list: 1, capability: 'x'.repeat(65) }],
    ['a capability of another kind', { list: 1, capability: 7 }],
    ['a record that is text', { register: 'x' }],
    ['something deep', { list: 1, more: [[[]]] }],
  ])('a request for %s is refused', (_, request) => {
    expect(codeOf(() => answer(new PeerExchange(), asker, request))).toBe('ERR_PEERLINE_PROTOCOL')
  })

  test('fields that it does not know are those of a later version', () => {
    expect(answer(new PeerExchange(), asker, { list: 1, also: 'this' })).toEqual({ peers: [] })
  })

  test('limits that make no sense are refused', () => {
    for (const options of [{ maxListed: 0 }, { requestsPerMinute: Number.NaN }]) {
      expect(codeOf(() => new PeerExchange(options))).toBe('ERR_PEERLINE_INVALID')
    }
  })

  test('property: whatever comes is answered or refused with a typed error, and lists nobody', () => {
    const exchange = new PeerExchange({ requestsPerMinute: Number.MAX_SAFE_INTEGER })
    register(exchange, me)
    const valid = encodeCbor({ register: record(Identity.generate()) })
    const shapes = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.record(
        {
          list: fc.oneof(fc.integer(), fc.string(), fc.constant(null)),
          register: fc.oneof(fc.uint8Array({ maxLength: 5_000 }), fc.string(), fc.constant(null)),
          capability: fc.oneof(fc.string(), fc.integer(), fc.array(fc.string())),
        },
        { requiredKeys: [] },
      ),
      fc.tuple(fc.nat(valid.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, change]) => {
        const broken = Uint8Array.from(valid)
        broken[at]! ^= change
        return broken
      }),
    )
    fc.assert(
      fc.property(shapes, (request) => {
        expect(codeOf(() => answer(exchange, asker, request)) ?? 'ERR_PEERLINE_').toMatch(/^ERR_PEERLINE_/)
        expect(exchange.size).toBe(1)
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('a holder that lies', () => {
  function lie(handler: RequestHandler): void {
    pair.onStream = (stream) => serveRequest(stream, handler, { from: asker })
  }
  const tell = (...peers: unknown[]) => lie(() => encodeCbor({ peers }))

  test('is believed as far as the peers themselves have signed it; the rest is passed over and counted', async () => {
    const [one, two, three] = identities(3) as [Identity, Identity, Identity]
    const changed = record(three)
    changed[100]! ^= 1
    const capabilities = ['relay']
    tell(
      record(one, { capabilities }),
      changed,
      record(two, { capabilities, expiresAt: NOW - 1 }),
      record(two),
      record(me, { capabilities }),
      new Uint8Array(0),
      7,
      null,
    )
    const told = await requestPeers(pair.a, { capability: 'relay', self: me.peerId })
    expect(told.peers.map(({ peerId }) => peerId)).toEqual([one.peerId])
    expect(told.passedOver).toBe(7)
  })

  test('of several records of a peer the latest counts', async () => {
    for (const order of [
      [1, 3, 2],
      [3, 2, 1],
    ]) {
      tell(...order.map((sequence) => record(me, { sequence })))
      const { peers, passedOver } = await requestPeers(pair.a)
      expect([peers.map(({ sequence }) => sequence), passedOver]).toEqual([[3], 2])
    }
  })

  test('may not name more than were asked for, nor answer at length', async () => {
    tell(...identities(3).map((identity) => record(identity)))
    await expect(requestPeers(pair.a, { max: 2 })).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
    lie(() => new Uint8Array(65_537))
    await expect(requestPeers(pair.a)).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
    await expect(registerRecord(pair.a, record(me))).rejects.toMatchObject({ code: 'ERR_PEERLINE_TOO_LARGE' })
  })

  test.each([0, DAY + 1, -1, 'forever', undefined])('may not list for %s ms', async (ms) => {
    lie(() => encodeCbor({ ms }))
    await expect(registerRecord(pair.a, record(me))).rejects.toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL' })
  })

  test('property: whatever it answers, what is told is signed, or the error is typed', async () => {
    const good = identities(4).map((identity) => record(identity))
    const known = new Map(good.map((bytes) => [openRecord(bytes).peerId, openRecord(bytes)]))
    const whole = encodeCbor({ peers: good })
    const flipped = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, change]) => {
      const broken = Uint8Array.from(whole)
      broken[at]! ^= change
      return broken
    })
    const cut = fc.nat(whole.length).map((length) => whole.slice(0, length))
    const items = fc.oneof(fc.constantFrom(...good), fc.uint8Array({ maxLength: 300 }), fc.integer(), fc.constant(null))
    const lists = fc.array(items, { maxLength: 12 }).map((peers) => encodeCbor({ peers }))
    await fc.assert(
      fc.asyncProperty(fc.oneof(flipped, cut, lists, fc.uint8Array({ maxLength: 300 })), async (bytes) => {
        lie(() => bytes)
        try {
          const { peers, passedOver } = await requestPeers(pair.a, { max: 8 })
          for (const one of peers) expect(one).toEqual(known.get(one.peerId))
          expect(new Set(peers.map(({ peerId }) => peerId)).size).toBe(peers.length)
          const told = (decodeCbor(bytes, { maxBytes: 65_536 }) as { peers: unknown[] }).peers
          expect(peers.length + passedOver).toBe(told.length)
        } catch (error) {
          expect(isPeerlineError(error)).toBe(true)
        }
      }),
      { numRuns: 300 },
    )
  })
})
