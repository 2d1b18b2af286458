import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { concatBytes } from '../bytes/bytes.ts'
import { decodeCbor, encodeCbor } from '../bytes/cbor.ts'
import { PeerlineError } from '../errors.ts'
import { Identity } from './identity.ts'
import { openRecord, type RecordContent, signRecord } from './record.ts'

const identity = Identity.fromSeed(new Uint8Array(32).fill(7))
const NOW = 1_700_000_000_000
const CONTENT: RecordContent = {
  sequence: 3,
  expiresAt: NOW + 60_000,
  addresses: ['tcp://192.0.2.1:4400', 'tcp://[2001:db8::1]:4400'],
  relays: ['ws://relay.example'],
  rendezvous: ['ws://rendezvous.example'],
  capabilities: ['relay'],
  topics: ['weather'],
}
const PREFIX = new TextEncoder().encode('peerline record 1\0')

const fails = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })

/** A record with any payload, signed as it should be. */
function seal(payload: Uint8Array, { version = 1 as unknown, by = identity, prefix = PREFIX } = {}): Uint8Array {
  return encodeCbor([version, payload, by.sign(concatBytes([prefix, payload]))])
}

const map = { peer: identity.publicKey, sequence: 1, expires: NOW + 1 }

describe('peer record', () => {
  it('says what its peer signed', () => {
    expect(openRecord(signRecord(identity, CONTENT), { now: NOW })).toEqual({ peerId: identity.peerId, ...CONTENT })
  })

  it('reads absent lists as empty, and one content has one encoding', () => {
    const record = signRecord(identity, { sequence: 0, expiresAt: NOW + 1 })
    expect(openRecord(record, { now: NOW })).toMatchObject({ addresses: [], relays: [], topics: [] })
    expect(signRecord(identity, { sequence: 0, expiresAt: NOW + 1, addresses: [], topics: [] })).toEqual(record)
  })

  it('ends at its time, not before', () => {
    const record = signRecord(identity, CONTENT)
    expect(openRecord(record, { now: CONTENT.expiresAt - 1 }).sequence).toBe(3)
    expect(() => openRecord(record, { now: CONTENT.expiresAt })).toThrow(fails('ERR_PEERLINE_EXPIRED'))
    expect(() => openRecord(record)).toThrow(fails('ERR_PEERLINE_EXPIRED')) // the real clock is past it
  })

  it('refuses records above the limit before looking at them', () => {
    expect(() => openRecord(new Uint8Array(4097))).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
    expect(() => openRecord(signRecord(identity, CONTENT), { maxBytes: 50 })).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
  })

  it('refuses to sign what it would not read', () => {
    const sign = (change: Partial<RecordContent>) => () => signRecord(identity, { ...CONTENT, ...change })
    expect(sign({ sequence: -1 })).toThrow(fails('ERR_PEERLINE_INVALID', 'sequence'))
    expect(sign({ sequence: 0.5 })).toThrow(fails('ERR_PEERLINE_INVALID', 'sequence'))
    expect(sign({ expiresAt: Number.NaN })).toThrow(fails('ERR_PEERLINE_INVALID', 'expires'))
    expect(sign({ addresses: Array.from({ length: 17 }, () => 'a') })).toThrow(
      fails('ERR_PEERLINE_INVALID', 'addresses'),
    )
    expect(sign({ capabilities: ['x'.repeat(65)] })).toThrow(fails('ERR_PEERLINE_INVALID', 'capabilities'))
    expect(sign({ addresses: Array.from({ length: 16 }, () => 'x'.repeat(256)) })).toThrow(
      fails('ERR_PEERLINE_TOO_LARGE'),
    )
  })

  it.each<[string, Uint8Array]>([
    ['nothing', new Uint8Array()],
    ['no list', encodeCbor({})],
    ['an empty list', encodeCbor([])],
    ['a part missing', encodeCbor([1, new Uint8Array(1)])],
    ['a part too many', encodeCbor([1, new Uint8Array(1), new Uint8Array(64), 0])],
    ['a short signature', encodeCbor([1, encodeCbor(map), new Uint8Array(63)])],
    ['a signature of zeros', encodeCbor([1, encodeCbor(map), new Uint8Array(64)])],
    ['a payload that is not a map', seal(encodeCbor([1]))],
    ['a payload that is not CBOR', seal(Uint8Array.of(0xff))],
    ['no peer', seal(encodeCbor({ sequence: 1, expires: NOW + 1 }))],
    ['a small-order peer', seal(encodeCbor({ ...map, peer: Uint8Array.of(1, ...new Uint8Array(31)) }))],
    ['the name of another peer', seal(encodeCbor(map), { by: Identity.fromSeed(new Uint8Array(32)) })],
    ['a signature for another use', seal(encodeCbor(map), { prefix: new TextEncoder().encode('peerline other 1\0') })],
    ['no sequence', seal(encodeCbor({ peer: identity.publicKey, expires: NOW + 1 }))],
    ['too many relays', seal(encodeCbor({ ...map, relays: Array.from({ length: 9 }, () => 'r') }))],
    ['an address too long', seal(encodeCbor({ ...map, addresses: ['a'.repeat(257)] }))],
    ['an address that is not text', seal(encodeCbor({ ...map, addresses: [1] }))],
    ['a version that is not a number', seal(encodeCbor(map), { version: '1' })],
  ])('refuses a record with %s', (_name, bytes) => {
    expect(() => openRecord(bytes, { now: NOW })).toThrow(fails('ERR_PEERLINE_RECORD'))
  })

  it('names a version it does not know', () => {
    expect(() => openRecord(seal(encodeCbor(map), { version: 2 }))).toThrow(fails('ERR_PEERLINE_VERSION', 'version 2'))
  })

  it('ignores fields a later minor change may add', () => {
    expect(openRecord(seal(encodeCbor({ ...map, colour: 'blue' })), { now: NOW }).sequence).toBe(1)
  })

  it('verifies the signature before it reads the content', () => {
    const payload = encodeCbor({ ...map, sequence: 'wrong' })
    const forged = encodeCbor([1, payload, new Uint8Array(64)])
    expect(() => openRecord(forged)).toThrow(fails('ERR_PEERLINE_RECORD', 'signature'))
  })

  it('takes no changed, cut or made-up record, and fails with typed errors only', () => {
    const whole = signRecord(identity, CONTENT)
    const expected = decodeCbor(whole, { maxBytes: 4096 })
    const changed = fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })).map(([at, flip]) => {
      const bytes = whole.slice()
      bytes[at % bytes.length]! ^= flip
      return bytes
    })
    const cut = fc.nat(whole.length - 1).map((length) => whole.subarray(0, length))
    fc.assert(
      fc.property(fc.oneof(changed, cut, fc.uint8Array({ maxLength: 300 })), (bytes) => {
        try {
          openRecord(bytes, { now: NOW })
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(['ERR_PEERLINE_RECORD', 'ERR_PEERLINE_VERSION']).toContain(error.code)
          return
        }
        throw new Error('a record was taken that nobody signed')
      }),
      { numRuns: 600 },
    )
    expect(decodeCbor(whole, { maxBytes: 4096 })).toEqual(expected) // the original was not touched
  })
})
