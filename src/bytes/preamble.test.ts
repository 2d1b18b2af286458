import fc from 'fast-check'
import { expect, test } from 'vitest'
import { codeOf } from '../failure.compliance.ts'
import { MessageKind, PROTOCOL_VERSION, readPreamble, writePreamble } from './preamble.ts'

test('every kind is read back, whatever follows', () => {
  fc.assert(
    fc.property(fc.constantFrom(...Object.values(MessageKind)), fc.uint8Array({ maxLength: 40 }), (kind, body) => {
      const message = writePreamble(kind, body)
      expect(readPreamble(message)).toEqual({ version: PROTOCOL_VERSION, kind })
      expect(message.subarray(2)).toEqual(body)
    }),
  )
})

test('the numbers on the wire stay as they are', () => {
  expect(MessageKind).toEqual({
    OFFER: 1,
    ANSWER: 2,
    XX1: 3,
    XX2: 4,
    XX3: 5,
    ATTACH: 6,
    ATTACHED: 7,
    REFUSED: 8,
    CIRCUIT: 9,
    JOINED: 10,
    PROBE: 11,
  })
  expect(writePreamble(MessageKind.ATTACH)).toEqual(Uint8Array.of(1, 6))
})

test('another version is named, a short message and an unknown kind break the protocol', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 4 }), (message) => {
      const [version, kind] = message
      const expected =
        version === undefined || kind === undefined
          ? 'ERR_PEERLINE_PROTOCOL'
          : version !== 1
            ? 'ERR_PEERLINE_VERSION'
            : kind < 1 || kind > 11
              ? 'ERR_PEERLINE_PROTOCOL'
              : undefined
      expect(codeOf(() => readPreamble(message))).toBe(expected)
    }),
    { examples: [[Uint8Array.of(2, 1)], [Uint8Array.of(1)], [Uint8Array.of(1, 0)], [Uint8Array.of(1, 12)]] },
  )
})
