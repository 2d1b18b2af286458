import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeLanAnswer, encodeLanOffer, readLanDatagram, tagOf } from './lan-wire.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

const TAG = 'ab'.repeat(16)
const bytes = fc.uint8Array({ maxLength: 2_000 })

describe('a datagram', () => {
  test('comes back as it was', () => {
    fc.assert(
      fc.property(bytes, (message) => {
        expect(readLanDatagram(encodeLanOffer(message))).toEqual({ kind: 'offer', message })
        expect(readLanDatagram(encodeLanAnswer(TAG, message))).toEqual({ kind: 'answer', tag: TAG, message })
      }),
    )
  })

  test('looks as drawn', () => {
    expect(Buffer.from(encodeLanOffer(Uint8Array.of(7))).toString('hex')).toBe('50524c4e010107')
    expect(Buffer.from(encodeLanAnswer(TAG, Uint8Array.of(7))).toString('hex')).toBe(`50524c4e0102${TAG}07`)
  })

  test('keeps its own memory', () => {
    const sent = encodeLanOffer(Uint8Array.of(7))
    const read = readLanDatagram(sent)
    sent.fill(0)
    expect(read?.message).toEqual(Uint8Array.of(7))
  })

  test('carries the largest signal, and no larger one', () => {
    const largest = new Uint8Array(MAX_SIGNAL_BYTES)
    expect(readLanDatagram(encodeLanOffer(largest))?.message.length).toBe(MAX_SIGNAL_BYTES)
    expect(readLanDatagram(encodeLanAnswer(TAG, largest))?.message.length).toBe(MAX_SIGNAL_BYTES)
    const larger = new Uint8Array(MAX_SIGNAL_BYTES + 1)
    expect(readLanDatagram(encodeLanOffer(larger))).toBeUndefined()
    expect(readLanDatagram(encodeLanAnswer(TAG, larger))).toBeUndefined()
  })
})

describe('is none of ours:', () => {
  test.each([
    ['nothing', ''],
    ['another magic', '50524c4f0101ff'],
    ['another version', '50524c4e0201ff'],
    ['an unknown kind', '50524c4e0103ff'],
    ['a head cut short', '50524c4e01'],
    ['a tag cut short', '50524c4e0102abababababababababababababab'],
  ])('%s', (_, hex) => {
    expect(readLanDatagram(Buffer.from(hex, 'hex'))).toBeUndefined()
  })

  test('anything at all', () => {
    const head = fc.constantFrom('50524c4e0101', '50524c4e0102', '50524c4e', '')
    fc.assert(
      fc.property(head, bytes, (start, rest) => {
        const read = readLanDatagram(Buffer.concat([Buffer.from(start, 'hex'), rest]))
        return read === undefined || read.message.length <= rest.length
      }),
      { numRuns: 500 },
    )
  })
})

test('the tag is the head of the SHA-256 of the offer', () => {
  const offer = Uint8Array.of(1, 2, 3)
  expect(tagOf(offer)).toBe(createHash('sha256').update(offer).digest().subarray(0, 16).toString('hex'))
})
