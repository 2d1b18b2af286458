import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, publicKeyOf } from '../identity/index.ts'
import {
  encodeIntroduced,
  encodeTo,
  MAX_INTRODUCTION_MESSAGE_BYTES,
  MAX_INTRODUCTION_RTT_MS,
  readAnswer,
  readIntroduced,
  readIntroductionReply,
  readOffer,
  readTo,
} from './introduction-wire.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

const READERS = [readTo, readOffer, readIntroduced, readAnswer, readIntroductionReply]
const PEER = Identity.fromSeed(new Uint8Array(32).fill(1)).peerId
const PROTOCOL = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })

const overWire = (value: unknown): unknown =>
  decodeCbor(encodeCbor(value), { maxBytes: MAX_INTRODUCTION_MESSAGE_BYTES })

describe('what is said at an introduction', () => {
  test('comes back as it was', () => {
    expect(readTo(overWire(encodeTo(PEER)))).toBe(PEER)
    const rtt = fc.option(fc.integer({ min: 0, max: MAX_INTRODUCTION_RTT_MS }), { nil: undefined })
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), rtt, (data, rttMs) => {
        expect(readOffer(overWire({ offer: data }))).toEqual(data)
        expect(readAnswer(overWire({ answer: data }))).toEqual(data)
        expect(readIntroductionReply(overWire({ answer: data }))).toEqual({ answer: data })
        const introduced = { offer: data, ...(rttMs === undefined ? {} : { rttMs }) }
        expect(readIntroduced(overWire(encodeIntroduced(introduced)))).toEqual(introduced)
      }),
    )
  })

  test('fits the largest message at its largest, and no further', () => {
    const [most, more] = [new Uint8Array(MAX_SIGNAL_BYTES), new Uint8Array(MAX_SIGNAL_BYTES + 1)]
    const introduced = { offer: most, rttMs: MAX_INTRODUCTION_RTT_MS }
    expect(readIntroduced(overWire(encodeIntroduced(introduced)))).toEqual(introduced)
    expect(readAnswer(overWire({ answer: most }))).toEqual(most)
    expect(() => readOffer({ offer: more })).toThrow(PROTOCOL)
    expect(() => readIntroduced({ offer: more })).toThrow(PROTOCOL)
    expect(() => readAnswer({ answer: more })).toThrow(PROTOCOL)
    expect(() => readIntroductionReply({ answer: more })).toThrow(PROTOCOL)
  })

  test('keeps its own memory: the message it came in may be used again', () => {
    const bytes = encodeCbor({ offer: Uint8Array.of(7) })
    const offer = readOffer(decodeCbor(bytes, { maxBytes: 100 }))
    bytes.fill(0)
    expect(offer).toEqual(Uint8Array.of(7))
  })

  test('tells round trips in whole milliseconds, within what is believed', () => {
    const told = (rttMs: number) => (encodeIntroduced({ offer: new Uint8Array(0), rttMs }) as { rtt: number }).rtt
    expect([0.2, 41.6, 1e9, -5].map(told)).toEqual([0, 42, MAX_INTRODUCTION_RTT_MS, 0])
  })

  test('may fail with a code of another version', () => {
    const read = (failed: string) => readIntroductionReply(overWire({ failed }))
    expect(read('ERR_PEERLINE_OFFLINE')).toEqual({ failed: 'ERR_PEERLINE_OFFLINE' })
    expect(read('ERR_PEERLINE_TOMORROW')).toEqual({ failed: 'ERR_PEERLINE_REMOTE' })
    expect(read('toString')).toEqual({ failed: 'ERR_PEERLINE_REMOTE' })
  })

  test.each<[string, (message: unknown) => unknown, unknown]>([
    ['a short id', readTo, { to: new Uint8Array(31) }],
    ['an id that is no key', readTo, { to: new Uint8Array(32).fill(0xff) }],
    ['an id in text', readTo, { to: PEER }],
    ['no id', readTo, { offer: publicKeyOf(PEER) }],
    ['no offer', readOffer, { answer: new Uint8Array(1) }],
    ['an offer in text', readOffer, { offer: 'offer' }],
    ['half a millisecond', readIntroduced, { offer: new Uint8Array(1), rtt: 0.5 }],
    ['a round trip below 0', readIntroduced, { offer: new Uint8Array(1), rtt: -1 }],
    ['a round trip beyond belief', readIntroduced, { offer: new Uint8Array(1), rtt: MAX_INTRODUCTION_RTT_MS + 1 }],
    ['a round trip in text', readIntroduced, { offer: new Uint8Array(1), rtt: '40' }],
    ['a list', readAnswer, [new Uint8Array(1)]],
    ['nothing', readAnswer, null],
    ['neither answer nor failure', readIntroductionReply, {}],
    ['a failure without a code', readIntroductionReply, { failed: 7 }],
    ['a code without end', readIntroductionReply, { failed: 'E'.repeat(65) }],
  ])('refuses %s', (_, read, message) => {
    expect(() => read(message)).toThrow(PROTOCOL)
  })

  test('whatever is read: it is understood, or refused with a typed error', () => {
    const key = fc.constantFrom('to', 'offer', 'answer', 'failed', 'rtt', 'x')
    const value = fc.oneof(fc.uint8Array({ maxLength: 40 }), fc.integer(), fc.string(), fc.boolean(), fc.constant(null))
    const message = fc.oneof(fc.anything(), fc.dictionary(key, value))
    fc.assert(
      fc.property(message, fc.constantFrom(...READERS), (sent, read) => {
        try {
          read(sent)
        } catch (error) {
          expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_PROTOCOL')
        }
      }),
    )
  })
})
