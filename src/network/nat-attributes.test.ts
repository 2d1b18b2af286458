import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bytesToIp, type SocketAddress } from './address.ts'
import {
  changeRequest,
  otherAddress,
  readChangeRequest,
  readOtherAddress,
  readResponseOrigin,
  readResponsePort,
  responseOrigin,
  responsePort,
} from './nat-attributes.ts'
import {
  BINDING,
  encodeBindingRequest,
  encodeBindingSuccess,
  parseStunMessage,
  type StunAttribute,
  StunAttributeType,
  type StunMessage,
  unknownAttributes,
} from './stun.ts'

const ID = new Uint8Array(12)
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

function request(...attributes: StunAttribute[]): StunMessage {
  return parseStunMessage(encodeBindingRequest(ID, { attributes, fingerprint: true }))!
}

function raw(type: number, ...value: number[]): StunMessage {
  return {
    class: 'request',
    method: BINDING,
    transactionId: ID,
    fingerprint: false,
    attributes: [{ type, value: Uint8Array.from(value) }],
  }
}

describe('on the wire', () => {
  // RFC 5780 sections 7.2, 7.3, 7.4 and 7.5
  test.each<[StunAttribute, number, string]>([
    [changeRequest({ address: false, port: false }), 0x0003, '00000000'],
    [changeRequest({ address: true, port: false }), 0x0003, '00000004'],
    [changeRequest({ address: false, port: true }), 0x0003, '00000002'],
    [changeRequest({ address: true, port: true }), 0x0003, '00000006'],
    [responsePort(0x1234), 0x0027, '12340000'],
    [responseOrigin({ host: '192.0.2.1', port: 0x8055, family: 4 }), 0x802b, '00018055c0000201'],
    [otherAddress({ host: '192.0.2.1', port: 3_478, family: 4 }), 0x802c, '00010d96c0000201'],
    [otherAddress({ host: '2001:db8::1', port: 1, family: 6 }), 0x802c, '0002000120010db8000000000000000000000001'],
  ])('%o', ({ type, value }, expectedType, expected) => {
    expect(type).toBe(expectedType)
    expect(hex(value)).toBe(expected)
  })

  test('whatever is sent comes back', () => {
    const host = fc
      .oneof(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.uint8Array({ minLength: 16, maxLength: 16 }))
      .map(bytesToIp)
    const address: fc.Arbitrary<SocketAddress> = fc
      .tuple(host, fc.integer({ min: 1, max: 65_535 }))
      .map(([host, port]) => ({ host, port, family: host.includes(':') ? 6 : 4 }))
    fc.assert(
      fc.property(fc.boolean(), fc.boolean(), fc.nat(65_535), address, address, (a, b, port, origin, other) => {
        const asked = request(changeRequest({ address: a, port: b }), responsePort(port))
        expect([readChangeRequest(asked), readResponsePort(asked)]).toEqual([{ address: a, port: b }, port])
        const attributes = [responseOrigin(origin), otherAddress(other)]
        const answer = parseStunMessage(encodeBindingSuccess(ID, origin, { attributes }))!
        expect([readResponseOrigin(answer), readOtherAddress(answer)]).toEqual([origin, other])
      }),
    )
  })
})

test('what is not there is undefined', () => {
  const message = request()
  expect([readChangeRequest(message), readResponsePort(message)]).toEqual([undefined, undefined])
  expect([readResponseOrigin(message), readOtherAddress(message)]).toEqual([undefined, undefined])
})

test('what is not well-formed is bad in a request, and undefined in an answer', () => {
  const { changeRequest, responsePort, responseOrigin, otherAddress } = StunAttributeType
  expect(readChangeRequest(raw(changeRequest, 0, 0, 6))).toBe('bad')
  expect(readChangeRequest(raw(changeRequest, 0, 0, 0, 6, 0))).toBe('bad')
  expect(readResponsePort(raw(responsePort, 1))).toBe('bad')
  expect(readResponsePort(raw(responsePort, 1, 2, 3))).toBe('bad')
  expect(readResponsePort(raw(responsePort, 1, 2))).toBe(0x0102) // some do not count the padding
  expect(readResponseOrigin(raw(responseOrigin, 0, 3, 0, 1, 1, 2, 3, 4))).toBeUndefined()
  expect(readResponseOrigin(raw(responseOrigin, 0, 2, 0, 1, 1, 2, 3, 4))).toBeUndefined()
  expect(readOtherAddress(raw(otherAddress, 0, 1, 0, 0, 1, 2, 3, 4))).toBeUndefined() // port 0
  expect(readOtherAddress(raw(otherAddress))).toBeUndefined()
})

test('flags of other meanings are passed over', () => {
  expect(readChangeRequest(raw(StunAttributeType.changeRequest, 0xff, 0xff, 0xff, 0xfb))).toEqual({
    address: false,
    port: true,
  })
})

test('to whom has one place only they are unknown', () => {
  const asked = request(changeRequest({ address: true, port: true }), responsePort(1))
  expect(unknownAttributes(asked)).toEqual([0x0003, 0x0027])
  expect(unknownAttributes(asked, [0x0003, 0x0027])).toEqual([])
})

test('any value is read without a throw', () => {
  const type = fc.constantFrom(0x0003, 0x0027, 0x802b, 0x802c)
  fc.assert(
    fc.property(type, fc.uint8Array({ maxLength: 40 }), (type, value) => {
      const message = raw(type, ...value)
      const port = readResponsePort(message)
      expect(port === undefined || port === 'bad' || (port >= 0 && port <= 65_535)).toBe(true)
      readChangeRequest(message)
      for (const address of [readResponseOrigin(message), readOtherAddress(message)]) {
        if (address !== undefined) expect(address.port).toBeGreaterThan(0)
      }
    }),
    { numRuns: 1_000 },
  )
})
