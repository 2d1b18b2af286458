import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concatBytes, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { CLOCK_SKEW_MS } from '../handshake/index.ts'
import { Identity, publicKeyOf } from '../identity/index.ts'
import { claimedAuthority, MAX_ORDER_LIFE_MS, MAX_TASK_BYTES, openOrder, signOrder } from './order.ts'
import { signVoucher } from './trust-handshakes.ts'

const authority = Identity.fromSeed(new Uint8Array(32).fill(7))
const other = Identity.fromSeed(new Uint8Array(32).fill(8))
const SELF = Identity.fromSeed(new Uint8Array(32).fill(9)).peerId
const NOW = 1_700_000_000_000
const TASK = Uint8Array.of(0xff, 0, 0xff) // no CBOR, and nobody looks
const PREFIX = new TextEncoder().encode('peerline order 1\0')

const fails = (code: string, message = '') =>
  expect.objectContaining({ code, message: expect.stringContaining(message) })
const genuine = { to: SELF, sequence: 3, task: TASK, lifeMs: 60_000, now: NOW }
const ORDER = signOrder(authority, genuine)

/** An envelope with any payload, signed as it should be. */
function seal(payload: Uint8Array, { version = 1, prefix = PREFIX, by = authority, as = authority } = {}): Uint8Array {
  const signature = by.sign(concatBytes([prefix, as.publicKey, payload]))
  return encodeCbor([version, as.publicKey, payload, signature])
}

const map = { to: publicKeyOf(SELF), sequence: 1, issued: NOW, expires: NOW + 1_000, task: TASK }
const open = (bytes: Uint8Array, now = NOW) => openOrder(bytes, { self: SELF, now })

describe('an order', () => {
  test('says what its authority signed, to its recipient', () => {
    expect(open(ORDER)).toEqual({
      from: authority.peerId,
      to: SELF,
      sequence: 3,
      issuedAt: NOW,
      expiresAt: NOW + 60_000,
      task: TASK,
    })
    expect(signOrder(authority, genuine)).toEqual(ORDER) // one encoding
    expect(claimedAuthority(ORDER)).toBe(authority.peerId)
    expect(open(seal(encodeCbor(map))).sequence).toBe(1) // the helper seals as signOrder does
  })

  test('is refused by everybody else', () => {
    expect(() => openOrder(ORDER, { self: other.peerId, now: NOW })).toThrow(fails('ERR_PEERLINE_WRONG_PEER'))
    // an order for another tells nothing of its time
    expect(() => openOrder(ORDER, { self: other.peerId, now: NOW * 2 })).toThrow(fails('ERR_PEERLINE_WRONG_PEER'))
  })

  test('lives for its time, give or take what clocks may differ by', () => {
    const end = NOW + 60_000 + CLOCK_SKEW_MS
    expect(open(ORDER, end - 1).sequence).toBe(3)
    expect(() => open(ORDER, end)).toThrow(fails('ERR_PEERLINE_EXPIRED', 'has expired'))
    expect(open(ORDER, NOW - CLOCK_SKEW_MS).sequence).toBe(3)
    expect(() => open(ORDER, NOW - CLOCK_SKEW_MS - 1)).toThrow(fails('ERR_PEERLINE_EXPIRED', 'future'))
    expect(() => openOrder(ORDER, { self: SELF })).toThrow(fails('ERR_PEERLINE_EXPIRED')) // the real clock is past it
  })

  test('lives for a day at most, whoever signed it', () => {
    const long = signOrder(authority, { ...genuine, lifeMs: MAX_ORDER_LIFE_MS })
    expect(open(long).expiresAt).toBe(NOW + MAX_ORDER_LIFE_MS)
    for (const lifeMs of [MAX_ORDER_LIFE_MS + 1, 0, -1, 0.5, Number.NaN]) {
      expect(() => signOrder(authority, { ...genuine, lifeMs })).toThrow(fails('ERR_PEERLINE_INVALID', 'life'))
    }
    for (const expires of [NOW + MAX_ORDER_LIFE_MS + 1, NOW, NOW - 1]) {
      expect(() => open(seal(encodeCbor({ ...map, expires })))).toThrow(fails('ERR_PEERLINE_RECORD', 'life'))
    }
  })

  test('has a size that is looked at first', () => {
    const most = MAX_TASK_BYTES + 256 // an envelope around a payload
    const task = new Uint8Array(MAX_TASK_BYTES)
    const largest = signOrder(authority, { ...genuine, task, sequence: Number.MAX_SAFE_INTEGER })
    expect(largest.length).toBeLessThanOrEqual(most)
    expect(open(largest).task).toEqual(task)
    const over = { ...genuine, task: new Uint8Array(MAX_TASK_BYTES + 1) }
    expect(() => signOrder(authority, over)).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
    expect(() => open(new Uint8Array(most + 1))).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
    expect(() => open(new Uint8Array(most))).toThrow(fails('ERR_PEERLINE_RECORD'))
  })

  test('with any bit changed is refused', () => {
    for (let bit = 0; bit < ORDER.length * 8; bit++) {
      const changed = Uint8Array.from(ORDER)
      changed[bit >> 3]! ^= 1 << (bit & 7)
      expect(() => open(changed), `bit ${bit}`).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^ERR_PEERLINE_(RECORD|VERSION)$/) }),
      )
    }
  })

  test('is signed by whom it names, as an order, and not read before', () => {
    const payload = encodeCbor(map)
    const wrong = fails('ERR_PEERLINE_RECORD', 'signature is wrong')
    expect(() => open(seal(payload, { by: other, as: authority }))).toThrow(wrong)
    expect(() => open(seal(payload, { prefix: new TextEncoder().encode('peerline record 1\0') }))).toThrow(wrong)
    // nonsense that nobody signed is not even looked at
    const nonsense = encodeCbor([1, authority.publicKey, Uint8Array.of(0xff), new Uint8Array(64)])
    expect(() => open(nonsense)).toThrow(wrong)
    expect(() => open(seal(Uint8Array.of(0xff)))).toThrow(fails('ERR_PEERLINE_RECORD', 'CBOR'))
    // another kind of statement of the same authority is none
    expect(() => open(signVoucher(authority, { peer: SELF, lifeMs: 1_000, now: NOW }))).toThrow(wrong)
  })

  test.each<[string, unknown]>([
    ['no list', { a: 1 }],
    ['nothing', []],
    ['no version', ['1']],
    ['a part too many', [1, authority.publicKey, new Uint8Array(1), new Uint8Array(64), 0]],
    ['a short key', [1, new Uint8Array(31), new Uint8Array(1), new Uint8Array(64)]],
    ['a key of small order', [1, new Uint8Array(32), new Uint8Array(1), new Uint8Array(64)]],
    ['a short signature', [1, authority.publicKey, new Uint8Array(1), new Uint8Array(63)]],
    ['text for bytes', [1, authority.publicKey, 'x', new Uint8Array(64)]],
  ])('in an envelope with %s is refused', (_, envelope) => {
    expect(() => open(encodeCbor(envelope))).toThrow(fails('ERR_PEERLINE_RECORD'))
    expect(() => claimedAuthority(encodeCbor(envelope))).toThrow(fails('ERR_PEERLINE_RECORD'))
  })

  test('of a later version is refused as such', () => {
    expect(() => open(seal(encodeCbor(map), { version: 2 }))).toThrow(fails('ERR_PEERLINE_VERSION'))
  })

  test.each<[string, object]>([
    ['to', { to: new Uint8Array(31) }],
    ['to', { to: new Uint8Array(32) }],
    ['sequence', { sequence: 0 }],
    ['sequence', { sequence: -1 }],
    ['sequence', { sequence: undefined }],
    ['task', { task: 'text' }],
    ['task', { task: { a: 1 } }],
    ['issued', { issued: -1 }],
    ['expires', { expires: undefined }],
  ])('that its authority signed with a wrong %s is refused', (_, change) => {
    expect(() => open(seal(encodeCbor({ ...map, ...change })))).toThrow(fails('ERR_PEERLINE_RECORD'))
  })

  test('cannot be signed without a number or a recipient', () => {
    for (const sequence of [0, -1, 0.5, Number.NaN, 2 ** 53]) {
      expect(() => signOrder(authority, { ...genuine, sequence })).toThrow(fails('ERR_PEERLINE_INVALID', 'sequence'))
    }
    expect(() => signOrder(authority, { ...genuine, to: 'nobody' as never })).toThrow(fails('ERR_PEERLINE_INVALID'))
    expect(() => signOrder(authority, { ...genuine, task: [1] as never })).toThrow(fails('ERR_PEERLINE_INVALID'))
  })
})

describe('hostile bytes', () => {
  const isTyped = (bytes: Uint8Array) => {
    try {
      open(bytes)
      return false
    } catch (error) {
      return isPeerlineError(error)
    }
  }

  test('are a typed error', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), isTyped))
  })

  test('in a genuine frame are a typed error', () => {
    const part = fc.oneof(fc.uint8Array({ maxLength: 80 }), fc.integer(), fc.string(), fc.constant(null))
    const parts = fc.tuple(fc.constant(1), part, part, part)
    fc.assert(fc.property(parts, (envelope) => isTyped(encodeCbor(envelope))))
  })

  test('cut, joined or overwritten are a typed error', () => {
    const edit = fc.tuple(fc.nat(ORDER.length), fc.uint8Array({ maxLength: 8 }), fc.nat(ORDER.length))
    fc.assert(
      fc.property(edit, ([at, bytes, skip]) => {
        const changed = concatBytes([ORDER.subarray(0, at), bytes, ORDER.subarray(Math.min(at + skip, ORDER.length))])
        fc.pre(Buffer.compare(changed, ORDER) !== 0)
        return isTyped(changed)
      }),
    )
  })

  test('signed by the authority are an order or a typed error', () => {
    fc.assert(
      fc.property(
        fc.dictionary(fc.constantFrom('to', 'sequence', 'issued', 'expires', 'task', 'x'), fc.jsonValue()),
        (odd) => {
          const payload = (() => {
            try {
              return encodeCbor(odd)
            } catch {
              return encodeCbor({})
            }
          })()
          return isTyped(seal(payload))
        },
      ),
    )
  })
})
