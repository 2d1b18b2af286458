import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concatBytes } from '../bytes/bytes.ts'
import { encodeCbor } from '../bytes/cbor.ts'
import { MessageKind } from '../bytes/preamble.ts'
import { writeUint64 } from '../bytes/varint.ts'
import { codeOf } from '../failure.compliance.ts'
import { Identity, toX25519 } from '../identity/identity.ts'
import { prologueOf, writeEnvelope } from './envelope.ts'
import { NoiseHandshake } from './noise.ts'
import {
  createOffer,
  MAX_ANSWER_BODY_BYTES,
  MAX_ANSWER_BYTES,
  MAX_OFFER_BODY_BYTES,
  MAX_OFFER_BYTES,
  MAX_OFFER_LIFETIME_MS,
  openOffer,
} from './offer.ts'
import { CLOCK_SKEW_MS, ReplayCache } from './replay.ts'

const alice = Identity.generate()
const bob = Identity.generate()
const carol = Identity.generate()
const NOW = 1_700_000_000_000
const at = (ms: number) => () => ms
const utf8 = (text: string) => new TextEncoder().encode(text)
const code = (name: string) => expect.objectContaining({ name: 'PeerlineError', code: `ERR_PEERLINE_${name}` })

const offer = (body = utf8('candidates')) => createOffer(alice, bob.peerId, { body, now: at(NOW) })
const open = (message: Uint8Array, replay = new ReplayCache(), now = NOW) =>
  openOffer(bob, message, { replay, now: at(now) })

function flip(message: Uint8Array, bit: number): Uint8Array {
  const copy = message.slice()
  copy[(bit >> 3) % copy.length]! ^= 1 << (bit & 7)
  return copy
}

/** An offer with any head, sealed as the genuine ones are: what a hostile, authenticated peer can send. */
function forge(head: readonly Uint8Array[], { identity = alice } = {}): Uint8Array {
  const noise = new NoiseHandshake({
    pattern: 'IK',
    initiator: true,
    prologue: prologueOf(MessageKind.OFFER),
    staticKey: identity.staticKey,
    remoteStatic: toX25519(bob.publicKey),
  })
  return writeEnvelope(MessageKind.OFFER, noise.writeMessage(concatBytes(head)))
}

function uint64(value: number): Uint8Array {
  const bytes = new Uint8Array(8)
  writeUint64(bytes, 0, value)
  return bytes
}

describe('a genuine offer', () => {
  test('is opened, accepted and completed; both sides own the same keys', () => {
    const sent = offer()
    const received = open(sent.message)
    expect(received.from).toBe(alice.peerId)
    expect(sent.to).toBe(bob.peerId)
    expect(received.requestId).toEqual(sent.requestId)
    expect(sent.requestId).toHaveLength(16)
    expect(received.expiresAt).toBe(NOW + 30_000)
    expect(sent.expiresAt).toBe(NOW + 30_000)
    expect(received.body).toEqual(utf8('candidates'))
    const answer = received.accept(utf8('mine'))
    const { keys, body } = sent.complete(answer.message)
    expect(body).toEqual(utf8('mine'))
    expect(keys.sessionId).toHaveLength(16)
    expect(keys).toEqual({
      sessionId: answer.keys.sessionId,
      send: answer.keys.receive,
      receive: answer.keys.send,
      attachSend: answer.keys.attachReceive,
      attachReceive: answer.keys.attachSend,
      initiator: true,
    })
    expect(answer.keys.initiator).toBe(false)
    const secrets = [keys.send, keys.receive, keys.attachSend, keys.attachReceive].map((key) => key.join())
    expect(new Set(secrets).size).toBe(4)
  })

  test('says nothing in the clear but version, kind and suite', () => {
    const { message } = offer(utf8('a secret address'))
    expect([...message.subarray(0, 3)]).toEqual([1, 1, 1])
    const text = Buffer.from(message).toString('latin1')
    for (const secret of [alice.publicKey, bob.publicKey, alice.staticKey.publicKey, utf8('a secret address')]) {
      expect(text).not.toContain(Buffer.from(secret).toString('latin1'))
    }
  })

  test('carries a body up to the limit, and no more, either way', () => {
    const sent = offer(new Uint8Array(MAX_OFFER_BODY_BYTES))
    expect(sent.message).toHaveLength(MAX_OFFER_BYTES)
    const received = open(sent.message)
    expect(received.body).toHaveLength(MAX_OFFER_BODY_BYTES)
    expect(() => received.accept(new Uint8Array(MAX_ANSWER_BODY_BYTES + 1))).toThrow(code('TOO_LARGE'))
    const { message } = received.accept(new Uint8Array(MAX_ANSWER_BODY_BYTES))
    expect(message).toHaveLength(MAX_ANSWER_BYTES)
    expect(sent.complete(message).body).toHaveLength(MAX_ANSWER_BODY_BYTES)
    expect(() => offer(new Uint8Array(MAX_OFFER_BODY_BYTES + 1))).toThrow(code('TOO_LARGE'))
  })

  test('is answered once on both sides', () => {
    const sent = offer()
    const received = open(sent.message)
    const { message } = received.accept(utf8(''))
    expect(() => received.accept(utf8(''))).toThrow(code('HANDSHAKE'))
    expect(() => received.refuse('ERR_PEERLINE_DENIED', 'no')).toThrow(code('HANDSHAKE'))
    sent.complete(message)
    expect(() => sent.complete(message)).toThrow(code('HANDSHAKE'))
  })

  test('has keys of its own each time', () => {
    const [one, two] = [offer(), offer()].map((sent) => sent.complete(open(sent.message).accept(utf8('')).message))
    expect(one!.keys.send).not.toEqual(two!.keys.send)
    expect(one!.keys.sessionId).not.toEqual(two!.keys.sessionId)
  })
})

describe('a refusal', () => {
  test('arrives typed, with its text, and ends the offer', () => {
    const sent = offer()
    const refusal = open(sent.message).refuse('ERR_PEERLINE_BUSY', 'too many sessions')
    const error = expect.objectContaining({
      name: 'PeerlineError',
      code: 'ERR_PEERLINE_BUSY',
      message: 'the peer refuses: too many sessions',
    })
    expect(() => sent.complete(refusal)).toThrow(error)
    expect(() => sent.complete(refusal)).toThrow(code('HANDSHAKE'))
  })

  test('of any text arrives on one line, cut, without control characters', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 600 }), (text) => {
        const sent = offer()
        const refusal = open(sent.message).refuse('ERR_PEERLINE_DENIED', text)
        let said = ''
        try {
          sent.complete(refusal)
        } catch (error) {
          expect(error).toEqual(code('DENIED'))
          said = (error as Error).message
        }
        expect(said.length).toBeLessThanOrEqual('the peer refuses: '.length + 256)
        expect(said.startsWith('the peer refuses: ')).toBe(true)
        expect(said).not.toMatch(/[\p{C}\p{Zl}\p{Zp}]/u)
      }),
      { numRuns: 40, examples: [['\x1b[2Jgone\r\nERROR'], [`${'x'.repeat(255)}😀`], ['\ud800'], ['界'.repeat(300)]] },
    )
  })

  /** Answers as bob would, with any payload. */
  function answerWith(
    sent: { message: Uint8Array; requestId: Uint8Array },
    payload: readonly Uint8Array[],
  ): Uint8Array {
    const noise = new NoiseHandshake({
      pattern: 'IK',
      initiator: false,
      prologue: prologueOf(MessageKind.OFFER),
      staticKey: bob.staticKey,
    })
    noise.readMessage(sent.message.subarray(3))
    return writeEnvelope(MessageKind.ANSWER, noise.writeMessage(concatBytes(payload)))
  }

  test.each([
    ['an unknown code', encodeCbor({ code: 'ERR_OTHER', message: 'no' }), 'ERR_PEERLINE_DENIED'],
    ['a code of the prototype', encodeCbor({ code: 'constructor', message: 'no' }), 'ERR_PEERLINE_DENIED'],
    ['no CBOR', Uint8Array.of(0xff), 'ERR_PEERLINE_PROTOCOL'],
    ['no map', encodeCbor(['ERR_PEERLINE_BUSY', 'no']), 'ERR_PEERLINE_PROTOCOL'],
    ['a long text', encodeCbor({ code: 'ERR_PEERLINE_BUSY', message: 'x'.repeat(257) }), 'ERR_PEERLINE_PROTOCOL'],
    ['too much', encodeCbor({ code: 'ERR_PEERLINE_BUSY', message: 'x'.repeat(4_000) }), 'ERR_PEERLINE_TOO_LARGE'],
  ])('with %s is a typed error all the same', (_name, body, expected) => {
    const sent = offer()
    const answer = answerWith(sent, [Uint8Array.of(1), sent.requestId, bob.publicKey, body])
    expect(codeOf(() => sent.complete(answer))).toBe(expected)
  })

  test('an answer of another request, another peer, an unknown status or no head is refused', () => {
    const sent = offer()
    const body = utf8('')
    const cases: [Uint8Array[], string][] = [
      [[Uint8Array.of(0), new Uint8Array(16), bob.publicKey, body], 'ERR_PEERLINE_HANDSHAKE'],
      [[Uint8Array.of(0), sent.requestId, carol.publicKey, body], 'ERR_PEERLINE_WRONG_PEER'],
      [[Uint8Array.of(0), sent.requestId], 'ERR_PEERLINE_PROTOCOL'],
      [[], 'ERR_PEERLINE_PROTOCOL'],
      [[Uint8Array.of(2), sent.requestId, bob.publicKey, body], 'ERR_PEERLINE_PROTOCOL'],
    ]
    for (const [payload, expected] of cases) {
      expect(codeOf(() => sent.complete(answerWith(sent, payload)))).toBe(expected)
    }
  })
})

describe('a replay', () => {
  test('is refused for as long as the offer is fresh, and expired after', () => {
    const replay = new ReplayCache()
    const { message } = offer()
    const first = open(message, replay)
    const copy = open(message, replay)
    first.accept(utf8('yes'))
    expect(() => copy.accept(utf8('yes'))).toThrow(code('REPLAY'))
    expect(() => open(message, replay)).toThrow(code('REPLAY'))
    const end = NOW + 30_000 + CLOCK_SKEW_MS
    expect(() => open(message, replay, end - 1)).toThrow(code('REPLAY'))
    expect(() => open(message, replay, end)).toThrow(code('EXPIRED'))
  })

  test('what is refused takes no room: strangers do not keep a friend out', () => {
    const replay = new ReplayCache({ capacity: 1 })
    open(offer().message, replay).refuse('ERR_PEERLINE_DENIED', 'not allowed')
    expect(replay.size).toBe(0)
    open(offer().message, replay).accept(utf8('yes'))
    expect(() => open(offer().message, replay).accept(utf8('yes'))).toThrow(code('BUSY'))
  })

  test('nothing that fails before takes room', () => {
    const replay = new ReplayCache()
    const { message } = offer()
    expect(() => open(flip(message, 500), replay)).toThrow(code('HANDSHAKE'))
    expect(() => open(message, replay, NOW + 1_000_000)).toThrow(code('EXPIRED'))
    expect(replay.size).toBe(0)
  })
})

describe('expiry', () => {
  test.each([
    ['just alive', 30_000 + CLOCK_SKEW_MS - 1, undefined],
    ['just over', 30_000 + CLOCK_SKEW_MS, 'ERR_PEERLINE_EXPIRED'],
    ['the earliest clock', 30_000 - MAX_OFFER_LIFETIME_MS - CLOCK_SKEW_MS, undefined],
    ['from the future', 30_000 - MAX_OFFER_LIFETIME_MS - CLOCK_SKEW_MS - 1, 'ERR_PEERLINE_EXPIRED'],
  ])('%s', (_name, after, expected) => {
    const { message } = offer()
    const act = () => open(message, new ReplayCache(), NOW + after)
    if (expected === undefined) expect(act().from).toBe(alice.peerId)
    else expect(codeOf(act)).toBe(expected)
  })

  test('the error says by how much the clocks may differ', () => {
    expect(() => open(offer().message, new ReplayCache(), NOW + 1_000_000)).toThrow('differ by 120 s')
  })

  test('a lifetime that is none is refused where the offer is made', () => {
    for (const lifetimeMs of [0, -1, Number.NaN, MAX_OFFER_LIFETIME_MS + 1]) {
      expect(() => createOffer(alice, bob.peerId, { body: utf8(''), lifetimeMs })).toThrow(code('INVALID'))
    }
    expect(createOffer(alice, bob.peerId, { body: utf8(''), lifetimeMs: 1 }).message.length).toBeGreaterThan(100)
  })
})

describe('who it is from and for', () => {
  const id = new Uint8Array(16)
  const fresh = uint64(NOW + 10_000)

  test('an offer for another peer is refused', () => {
    const { message } = createOffer(alice, carol.peerId, { body: utf8(''), now: at(NOW) })
    expect(() => open(message)).toThrow(code('HANDSHAKE'))
    expect(() => open(forge([alice.publicKey, carol.publicKey, id, fresh]))).toThrow(code('WRONG_PEER'))
  })

  test('nobody can claim the peer id of another', () => {
    expect(open(forge([alice.publicKey, bob.publicKey, id, fresh])).from).toBe(alice.peerId)
    expect(() => open(forge([carol.publicKey, bob.publicKey, id, fresh]))).toThrow(code('HANDSHAKE'))
    expect(() => open(forge([bob.publicKey, bob.publicKey, id, fresh]))).toThrow(code('HANDSHAKE'))
    expect(() => open(forge([new Uint8Array(32), bob.publicKey, id, fresh]))).toThrow(code('HANDSHAKE'))
    expect(() => open(forge([new Uint8Array(32).fill(255), bob.publicKey, id, fresh]))).toThrow(code('HANDSHAKE'))
  })

  test('a short head and a time beyond all numbers are refused', () => {
    expect(() => open(forge([]))).toThrow(code('PROTOCOL'))
    expect(() => open(forge([alice.publicKey, bob.publicKey, id]))).toThrow(code('PROTOCOL'))
    expect(() => open(forge([alice.publicKey, bob.publicKey, id, new Uint8Array(8).fill(255)]))).toThrow(
      code('PROTOCOL'),
    )
  })
})

describe('the envelope', () => {
  test('another version, kind, suite or size is named before anything is computed', () => {
    const { message } = offer()
    const changed = (index: number, value: number) => message.with(index, value)
    expect(() => open(changed(0, 2))).toThrow(code('VERSION'))
    expect(() => open(changed(1, MessageKind.ANSWER))).toThrow(code('PROTOCOL'))
    expect(() => open(changed(1, 99))).toThrow(code('PROTOCOL'))
    expect(() => open(changed(2, 2))).toThrow(code('VERSION'))
    expect(() => open(changed(2, 2))).toThrow('suite 2')
    expect(() => open(message.subarray(0, 2))).toThrow(code('PROTOCOL'))
    expect(() => open(message.subarray(0, 1))).toThrow(code('PROTOCOL'))
    expect(() => open(new Uint8Array(MAX_OFFER_BYTES + 1))).toThrow(code('TOO_LARGE'))
    const sent = offer()
    expect(() => sent.complete(new Uint8Array(MAX_ANSWER_BYTES + 1))).toThrow(code('TOO_LARGE'))
  })
})

describe('hostile bytes', () => {
  const FORGED = /^ERR_PEERLINE_(HANDSHAKE|VERSION|PROTOCOL)$/

  test('every single flipped bit of an offer fails closed', () => {
    const { message } = offer(utf8('body'))
    const replay = new ReplayCache()
    for (let bit = 0; bit < message.length * 8; bit += 1) {
      expect(codeOf(() => open(flip(message, bit), replay))).toMatch(FORGED)
    }
    expect(open(message, replay).from).toBe(alice.peerId)
  })

  test('every single flipped bit of an answer fails closed, and the genuine one still completes', () => {
    const sent = offer()
    const { message, keys } = open(sent.message).accept(utf8('body'))
    for (let bit = 0; bit < message.length * 8; bit += 1) {
      expect(codeOf(() => sent.complete(flip(message, bit)))).toMatch(FORGED)
    }
    expect(sent.complete(message).keys.sessionId).toEqual(keys.sessionId)
  })

  test('an answer to another offer fails, and the genuine one still completes', () => {
    const [one, two] = [offer(), offer()]
    const other = open(two.message).accept(utf8(''))
    expect(() => one.complete(other.message)).toThrow(code('HANDSHAKE'))
    const own = open(one.message).accept(utf8(''))
    expect(one.complete(own.message).keys.sessionId).toEqual(own.keys.sessionId)
  })

  test('random, cut, lengthened and spliced messages are typed errors, both ways', () => {
    const sent = offer()
    const genuine = open(sent.message).accept(utf8('body')).message
    const junk = fc.uint8Array({ maxLength: 300 })
    const hostile = (message: Uint8Array) =>
      fc.oneof(
        junk,
        junk.map((tail) => concatBytes([message.subarray(0, 3), tail])),
        fc.nat(message.length - 1).map((length) => message.subarray(0, length)),
        junk.filter((tail) => tail.length > 0).map((tail) => concatBytes([message, tail])),
        fc.tuple(fc.nat(message.length - 1), junk).map(([cut, tail]) => concatBytes([message.subarray(0, cut), tail])),
      )
    fc.assert(
      fc.property(hostile(sent.message), hostile(genuine), (asOffer, asAnswer) => {
        expect(codeOf(() => open(asOffer))).toMatch(FORGED)
        expect(codeOf(() => sent.complete(asAnswer))).toMatch(FORGED)
      }),
      { numRuns: 400 },
    )
    expect(sent.complete(genuine).body).toEqual(utf8('body'))
  })
})
