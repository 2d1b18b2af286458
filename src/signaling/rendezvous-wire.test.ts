import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, publicKeyOf } from '../identity/index.ts'
import {
  encodeSignal,
  MAX_MOVING_MS,
  MAX_REFLECTORS,
  MAX_RENDEZVOUS_MESSAGE_BYTES,
  readRendezvousReply,
  readRendezvousRequest,
  type SignalMessage,
} from './rendezvous-wire.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

const PEERS = [1, 2, 3].map((byte) => Identity.fromSeed(new Uint8Array(32).fill(byte)).peerId)
const PROTOCOL = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })
const ID = new Uint8Array(16).fill(1)
const peer = publicKeyOf(PEERS[0]!)

const overWire = (value: unknown): unknown => decodeCbor(encodeCbor(value), { maxBytes: MAX_RENDEZVOUS_MESSAGE_BYTES })

const signal: fc.Arbitrary<SignalMessage> = fc.record({
  t: fc.constantFrom('offer', 'answer'),
  peer: fc.constantFrom(...PEERS),
  id: fc.uint8Array({ minLength: 16, maxLength: 16 }),
  data: fc.uint8Array({ maxLength: 600 }),
})

describe('a signal', () => {
  test('comes back as it was, from either side', () => {
    fc.assert(
      fc.property(signal, (sent) => {
        expect(readRendezvousRequest(overWire(encodeSignal(sent)))).toEqual(sent)
        expect(readRendezvousReply(overWire(encodeSignal(sent)))).toEqual(sent)
      }),
    )
  })

  test('of the largest size fits the largest message', () => {
    const sent: SignalMessage = { t: 'answer', peer: PEERS[0]!, id: ID, data: new Uint8Array(MAX_SIGNAL_BYTES) }
    expect(readRendezvousReply(overWire(encodeSignal(sent)))).toEqual(sent)
  })

  test('keeps its own memory: the message it came in may be used again', () => {
    const bytes = encodeCbor(encodeSignal({ t: 'offer', peer: PEERS[0]!, id: ID, data: Uint8Array.of(7) }))
    const read = readRendezvousRequest(decodeCbor(bytes, { maxBytes: 1_000 })) as SignalMessage
    bytes.fill(0)
    expect([read.id, read.data]).toEqual([ID, Uint8Array.of(7)])
  })
})

describe('a registration', () => {
  test('says whether to be listed', () => {
    expect(readRendezvousRequest(overWire({ t: 'register', listed: false }))).toEqual({ t: 'register', listed: false })
  })

  test('names its link, if it has one, and keeps its own memory of it', () => {
    const bytes = encodeCbor({ t: 'register', listed: true, link: ID })
    const read = readRendezvousRequest(decodeCbor(bytes, { maxBytes: 1_000 }))
    bytes.fill(0)
    expect(read).toEqual({ t: 'register', listed: true, link: ID })
    expect(readRendezvousRequest({ t: 'register', listed: true, link: null })).toEqual({ t: 'register', listed: true })
  })

  const reply = { t: 'registered', observed: '198.41.0.4:1', now: 1_700_000_000_000 }

  test('is answered with an address, a clock and reflectors', () => {
    const reflectors = [':41234', 'stun.example.org:3478', '[2a00:1450::1]:3478']
    expect(readRendezvousReply(overWire({ ...reply, reflectors }))).toEqual({ ...reply, reflectors })
  })

  test('is answered without reflectors by a rendezvous of before', () => {
    expect(readRendezvousReply(overWire(reply))).toEqual({ ...reply, reflectors: [] })
    expect(readRendezvousReply(overWire({ ...reply, reflectors: null }))).toEqual({ ...reply, reflectors: [] })
  })

  test('the longest answer fits', () => {
    const reflectors = Array.from({ length: MAX_REFLECTORS }, () => 'x'.repeat(259))
    expect(readRendezvousReply(overWire({ ...reply, reflectors }))).toEqual({ ...reply, reflectors })
  })
})

test('a failure with a code of another version is still a failure', () => {
  expect(readRendezvousReply(overWire({ t: 'failed', id: ID, code: 'ERR_PEERLINE_OFFLINE' }))).toMatchObject({
    code: 'ERR_PEERLINE_OFFLINE',
  })
  expect(readRendezvousReply(overWire({ t: 'failed', id: ID, code: 'toString' }))).toMatchObject({
    code: 'ERR_PEERLINE_REMOTE',
  })
})

test('a rendezvous that is moving says for how long it stays', () => {
  expect(readRendezvousReply(overWire({ t: 'moving', ms: 10_000 }))).toEqual({ t: 'moving', ms: 10_000 })
  for (const ms of [-1, 0.5, MAX_MOVING_MS + 1, '1', null]) {
    expect(() => readRendezvousReply({ t: 'moving', ms })).toThrow(PROTOCOL)
  }
})

test('a reply of a kind that only a later version knows is passed over; a request is refused', () => {
  for (const t of ['hello', 'register', 'toString', '', 'x'.repeat(32)]) {
    expect(readRendezvousReply(overWire({ t, peer: 7, id: ID }))).toBeUndefined()
  }
  expect(() => readRendezvousReply({ t: 'x'.repeat(33) })).toThrow(PROTOCOL)
  expect(() => readRendezvousRequest({ t: 'hello' })).toThrow(PROTOCOL)
})

const bad: [string, Record<string, unknown>][] = [
  ['no type', { peer, id: ID, data: ID }],
  ['a type that is no text', { t: 1, peer, id: ID, data: ID }],
  ['a peer of 31 bytes', { t: 'offer', peer: peer.subarray(1), id: ID, data: ID }],
  ['a peer that everybody could be', { t: 'offer', peer: new Uint8Array(32), id: ID, data: ID }],
  ['a peer that is text', { t: 'offer', peer: PEERS[0], id: ID, data: ID }],
  ['an id of 15 bytes', { t: 'answer', peer, id: ID.subarray(1), data: ID }],
  ['data that is too large', { t: 'offer', peer, id: ID, data: new Uint8Array(MAX_SIGNAL_BYTES + 1) }],
  ['no data', { t: 'offer', peer, id: ID }],
]

describe('refused, typed, by both sides:', () => {
  test.each(bad)('%s', (_, value) => {
    expect(() => readRendezvousRequest(value)).toThrow(PROTOCOL)
    expect(() => readRendezvousReply(value)).toThrow(PROTOCOL)
  })

  test('what only the other side may say', () => {
    expect(() => readRendezvousRequest({ t: 'registered', observed: '', now: 0 })).toThrow(PROTOCOL)
    expect(() => readRendezvousRequest({ t: 'failed', id: ID, code: '' })).toThrow(PROTOCOL)
    expect(() => readRendezvousRequest({ t: 'moving', ms: 1 })).toThrow(PROTOCOL)
  })

  test('a registration that is not whole', () => {
    expect(() => readRendezvousRequest({ t: 'register' })).toThrow(PROTOCOL)
    expect(() => readRendezvousRequest({ t: 'register', listed: 1 })).toThrow(PROTOCOL)
    for (const link of [1, 'x', ID.subarray(1), new Uint8Array(17)]) {
      expect(() => readRendezvousRequest({ t: 'register', listed: true, link })).toThrow(PROTOCOL)
    }
    expect(() => readRendezvousReply({ t: 'registered', observed: 'x'.repeat(65), now: 0 })).toThrow(PROTOCOL)
    expect(() => readRendezvousReply({ t: 'registered', observed: '', now: -1 })).toThrow(PROTOCOL)
    const bad = [':1', [1], [null], Array(MAX_REFLECTORS + 1).fill(':1'), ['x'.repeat(260)], { 0: ':1' }]
    for (const reflectors of bad) {
      expect(() => readRendezvousReply({ t: 'registered', observed: '', now: 0, reflectors })).toThrow(PROTOCOL)
    }
  })

  test('anything at all', () => {
    const some = fc.oneof(
      fc.constantFrom('offer', 'answer', 'register', 'registered', 'failed', 'moving', null, true, 1),
      fc.uint8Array({ maxLength: 40 }),
      fc.string({ maxLength: 70 }),
    )
    const value = fc.oneof(
      some,
      fc.array(some),
      fc.record(
        { t: some, peer: some, id: some, data: some, listed: some, code: some, link: some, ms: some },
        { requiredKeys: [] },
      ),
      fc.dictionary(fc.string(), some),
    )
    fc.assert(
      fc.property(value, (value) => {
        for (const read of [readRendezvousRequest, readRendezvousReply]) {
          try {
            read(value)
          } catch (error) {
            expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_PROTOCOL')
          }
        }
      }),
      { numRuns: 1_000 },
    )
  })
})
