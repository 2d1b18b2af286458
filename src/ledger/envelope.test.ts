import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concatBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Kind, MAX_ENVELOPE_BYTES, MAX_MESSAGE_BYTES, openMessage, readMessage, sealMessage } from './envelope.ts'

const signer = Identity.fromSeed(new Uint8Array(32).fill(7))
const place = { ledger: 'log:test', topic: 'a/in' }
const payload = new TextEncoder().encode('an offer')
const content = { ...place, sequence: 5, kind: Kind.OFFER, payload, time: 1_700_000_000_000 }
const fails = (code: string, message = '') =>
  expect.objectContaining({ name: 'PeerlineError', code, message: expect.stringContaining(message) })

/** A message of these bytes, signed as it should be. */
function signed(body: Uint8Array, by = signer): Uint8Array {
  const prefix = new TextEncoder().encode(`peerline ledger 1\0${place.ledger}\0${place.topic}\0`)
  return concatBytes([body, by.sign(concatBytes([prefix, body]))])
}

describe('a message', () => {
  test('says what its sender signed', () => {
    const bytes = sealMessage(signer, content)
    const message = openMessage(bytes, place)
    expect({ ...message, payload: new Uint8Array(message.payload) }).toEqual({
      sender: signer.peerId,
      sequence: 5,
      time: content.time,
      kind: 1,
      payload,
      digest: new Uint8Array(createHash('sha256').update(bytes).digest()),
    })
  })

  test('says any sequence, time, kind and payload', () => {
    const any = fc.record({
      sequence: fc.maxSafeNat(),
      time: fc.maxSafeNat(),
      kind: fc.nat(255),
      payload: fc.uint8Array({ maxLength: 2_000 }),
    })
    fc.assert(
      fc.property(any, (said) => {
        const bytes = sealMessage(signer, { ...place, ...said })
        expect(bytes.length - said.payload.length).toBeLessThanOrEqual(MAX_ENVELOPE_BYTES)
        const { payload, ...rest } = openMessage(bytes, place)
        expect(rest).toMatchObject({ sequence: said.sequence, time: said.time, kind: said.kind })
        expect(Buffer.compare(payload, said.payload)).toBe(0)
      }),
    )
  })

  test('leaves 900 of 1,024 bytes for an offer, with the largest sequence', () => {
    expect(MAX_ENVELOPE_BYTES).toBe(114)
    const large = sealMessage(signer, { ...content, sequence: Number.MAX_SAFE_INTEGER, payload: new Uint8Array(910) })
    expect(large.length).toBe(1_024)
  })

  test('has the time of this machine when none is given', () => {
    const before = Date.now()
    const { time } = openMessage(sealMessage(signer, { ...place, sequence: 1, kind: 3, payload }), place)
    expect(time).toBeGreaterThanOrEqual(before)
    expect(time).toBeLessThanOrEqual(Date.now())
  })

  test.each([
    ['another topic', { ...place, topic: 'a/out' }],
    ['another ledger', { ...place, ledger: 'log:other' }],
    ['names that are cut elsewhere', { ledger: 'log:tes', topic: 'ta/in' }],
  ])('is not valid in %s', (_, elsewhere) => {
    const bytes = sealMessage(signer, content)
    expect(() => openMessage(bytes, elsewhere)).toThrow(fails('ERR_PEERLINE_PROTOCOL', 'signature'))
  })

  test('has no place with a zero byte in its name, which would pass for another', () => {
    for (const odd of [
      { ledger: 'a\0b', topic: 'c' },
      { ledger: 'a', topic: 'b\0c' },
      { ledger: 'a', topic: 'c\0' },
    ]) {
      expect(() => sealMessage(signer, { ...content, ...odd })).toThrow(fails('ERR_PEERLINE_INVALID', 'zero byte'))
      expect(() => openMessage(sealMessage(signer, content), odd)).toThrow(fails('ERR_PEERLINE_INVALID', 'zero byte'))
    }
  })

  test('is not signed when it would not be read', () => {
    const seal = (change: object) => () => sealMessage(signer, { ...content, ...change })
    for (const kind of [-1, 256, 1.5, Number.NaN]) expect(seal({ kind })).toThrow(fails('ERR_PEERLINE_INVALID', 'kind'))
    for (const number of [-1, 1.5, Number.NaN, 2 ** 53]) {
      expect(seal({ sequence: number })).toThrow(fails('ERR_PEERLINE_INVALID'))
      expect(seal({ time: number })).toThrow(fails('ERR_PEERLINE_INVALID'))
    }
    expect(seal({ payload: new Uint8Array(MAX_MESSAGE_BYTES) })).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
  })

  test('of a kind that is not known is read as any other', () => {
    expect(openMessage(sealMessage(signer, { ...content, kind: 200 }), place).kind).toBe(200)
  })

  test('above the limit is not looked at', () => {
    expect(() => readMessage(new Uint8Array(MAX_MESSAGE_BYTES + 1))).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
  })

  test('can be read before its signature is looked at, and proves nothing then', () => {
    const bytes = sealMessage(signer, content)
    bytes[bytes.length - 1]! ^= 1
    const claim = readMessage(bytes)
    expect(claim).toMatchObject({ sender: signer.peerId, sequence: 5, kind: 1 })
    expect(() => claim.prove(place)).toThrow(fails('ERR_PEERLINE_PROTOCOL', 'signature'))
  })

  test.each([0, 2, 255])('names a version that this side does not read: %i', (version) => {
    const body = sealMessage(signer, content).slice(0, -64)
    body[0] = version
    expect(() => openMessage(signed(body), place)).toThrow(fails('ERR_PEERLINE_VERSION', `version ${version}`))
  })

  const smallOrder = Uint8Array.of(1, ...new Uint8Array(31))
  const head = (sender: Uint8Array) => concatBytes([Uint8Array.of(1, 1), sender])
  test.each([
    ['nothing', new Uint8Array()],
    ['a signature alone', new Uint8Array(64).fill(1)],
    ['no sequence', signed(head(signer.publicKey))],
    ['no time', signed(concatBytes([head(signer.publicKey), Uint8Array.of(5)]))],
    [
      'a time beyond 2^53',
      signed(concatBytes([head(signer.publicKey), Uint8Array.of(5), new Uint8Array(8).fill(255)])),
    ],
    ['a small-order sender', signed(concatBytes([head(smallOrder), new Uint8Array(9)]))],
    ['a sender that is no point', signed(concatBytes([head(new Uint8Array(32).fill(2)), new Uint8Array(9)]))],
    ['the name of another', signed(sealMessage(signer, content).slice(0, -64), Identity.generate())],
    ['a signature of zeros', concatBytes([sealMessage(signer, content).slice(0, -64), new Uint8Array(64)])],
  ])('is none with %s', (_, bytes) => {
    expect(() => openMessage(bytes, place)).toThrow(fails('ERR_PEERLINE_PROTOCOL'))
  })

  test('that was changed, cut, made longer or made up is none, and fails with typed errors only', () => {
    const whole = sealMessage(signer, content)
    const changed = fc.tuple(fc.nat(whole.length - 1), fc.integer({ min: 1, max: 255 })).map(([at, flip]) => {
      const bytes = whole.slice()
      bytes[at]! ^= flip
      return bytes
    })
    const cut = fc.nat(whole.length - 1).map((length) => whole.subarray(0, length))
    const longer = fc.uint8Array({ minLength: 1, maxLength: 70 }).map((more) => concatBytes([whole, more]))
    const likely = fc
      .tuple(fc.constantFrom(0, 1, 2), fc.nat(255), fc.uint8Array({ maxLength: 200 }))
      .map(([version, kind, rest]) => concatBytes([Uint8Array.of(version, kind), signer.publicKey, rest]))
    fc.assert(
      fc.property(fc.oneof(changed, cut, longer, likely, fc.uint8Array({ maxLength: 300 })), (bytes) => {
        const before = bytes.slice()
        try {
          openMessage(bytes, place)
        } catch (error) {
          if (!(error instanceof PeerlineError)) throw error
          expect(['ERR_PEERLINE_PROTOCOL', 'ERR_PEERLINE_VERSION']).toContain(error.code)
          expect(bytes).toEqual(before)
          return
        }
        expect.unreachable('it was opened')
      }),
      { numRuns: 1_000 },
    )
  })
})
