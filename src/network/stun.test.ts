import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { bytesToIp } from './address.ts'
import {
  BINDING,
  encodeBindingError,
  encodeBindingRequest,
  encodeBindingSuccess,
  isStun,
  MAX_STUN_BYTES,
  parseStunMessage,
  StunAttributeType,
  stunErrorCode,
  stunFrameBytes,
  unknownAttributes,
  xorMappedAddress,
} from './stun.ts'

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replace(/\s/g, ''), 'hex'))
const text = (bytes: Uint8Array | undefined): string => Buffer.from(bytes ?? []).toString()

// RFC 5769 sections 2.1, 2.2 and 2.3
const ID = hex('b7e7a701 bc34d686 fa87dfae')
const REQUEST = hex(`
  00010058 2112a442 b7e7a701 bc34d686 fa87dfae
  80220010 5354554e 20746573 7420636c 69656e74
  00240004 6e0001ff
  80290008 932ff9b1 51263b36
  00060009 6576746a 3a683676 59202020
  00080014 9aeaa70c bfd8cb56 781ef2b5 b2d3f249 c1b571a2
  80280004 e57a3bcf`)
const RESPONSE_V4 = hex(`
  0101003c 2112a442 b7e7a701 bc34d686 fa87dfae
  8022000b 74657374 20766563 746f7220
  00200008 0001a147 e112a643
  00080014 2b91f599 fd9e90c3 8c7489f9 2af9ba53 f06be7d7
  80280004 c07d4c96`)
const RESPONSE_V6 = hex(`
  01010048 2112a442 b7e7a701 bc34d686 fa87dfae
  8022000b 74657374 20766563 746f7220
  00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9
  00080014 a382954e 4be67bf1 1784c97c 8292c275 bfe3ed41
  80280004 c8fb0b4c`)

describe('RFC 5769 vectors', () => {
  test('2.1, the request', () => {
    const message = parseStunMessage(REQUEST)!
    expect(message).toMatchObject({ class: 'request', method: BINDING, transactionId: ID, fingerprint: true })
    expect(message.attributes.map(({ type }) => type)).toEqual([0x8022, 0x0024, 0x8029, 0x0006, 0x0008])
    expect(text(message.attributes[0]?.value)).toBe('STUN test client')
    expect(text(message.attributes[3]?.value)).toBe('evtj:h6vY')
    expect(unknownAttributes(message)).toEqual([0x0024]) // PRIORITY belongs to ICE
    expect(xorMappedAddress(message)).toBeUndefined()
  })

  test('2.2, the IPv4 response', () => {
    const message = parseStunMessage(RESPONSE_V4)!
    expect(message).toMatchObject({ class: 'success', method: BINDING, transactionId: ID, fingerprint: true })
    expect(text(message.attributes[0]?.value)).toBe('test vector')
    expect(xorMappedAddress(message)).toEqual({ host: '192.0.2.1', port: 32853, family: 4 })
  })

  test('2.3, the IPv6 response', () => {
    const message = parseStunMessage(RESPONSE_V6)!
    expect(message).toMatchObject({ class: 'success', fingerprint: true })
    expect(xorMappedAddress(message)).toEqual({ host: '2001:db8:1234:5678:11:2233:4455:6677', port: 32853, family: 6 })
  })

  test('the masked addresses are made as in 2.2 and 2.3', () => {
    const v4 = encodeBindingSuccess(ID, { host: '192.0.2.1', port: 32853, family: 4 })
    expect(v4).toEqual(hex('0101000c 2112a442 b7e7a701 bc34d686 fa87dfae 00200008 0001a147 e112a643'))
    const v6 = encodeBindingSuccess(ID, { host: '2001:db8:1234:5678:11:2233:4455:6677', port: 32853, family: 6 })
    expect(v6.subarray(20)).toEqual(hex('00200014 0002a147 0113a9fa a5d3f179 bc25f4b5 bed2b9d9'))
  })

  test.each([REQUEST, RESPONSE_V4, RESPONSE_V6])('a changed byte never passes the FINGERPRINT (%#)', (vector) => {
    for (let at = 0; at < vector.length; at++) {
      const bytes = Uint8Array.from(vector)
      bytes[at]! ^= 1 << (at % 8)
      // a changed attribute type or length may hide the FINGERPRINT, but nothing may make it right
      expect(parseStunMessage(bytes)?.fingerprint ?? false).toBe(false)
      if (at < 20) expect(parseStunMessage(bytes)).toBeUndefined()
    }
  })
})

describe('encoding', () => {
  test('a request is the bare header, and what is asked for', () => {
    expect(encodeBindingRequest(ID)).toEqual(hex('00010000 2112a442 b7e7a701 bc34d686 fa87dfae'))
    const message = parseStunMessage(encodeBindingRequest(ID, { software: 'peerline é', fingerprint: true }))!
    expect(message).toMatchObject({ class: 'request', fingerprint: true })
    expect(message.attributes.map(({ type }) => type)).toEqual([StunAttributeType.software])
    expect(text(message.attributes[0]?.value)).toBe('peerline é')
  })

  test('400 says so', () => {
    const message = parseStunMessage(encodeBindingError(ID, { code: 400 }, { fingerprint: true }))!
    expect(message).toMatchObject({ class: 'error', method: BINDING, transactionId: ID })
    expect(stunErrorCode(message)).toBe(400)
    expect(text(message.attributes[0]?.value.subarray(4))).toBe('Bad Request')
  })

  test('420 lists what was not understood', () => {
    const message = parseStunMessage(encodeBindingError(ID, { code: 420, unknown: [0x0024, 0x7fff, 0x0003] }))!
    expect(stunErrorCode(message)).toBe(420)
    expect(message.attributes[1]).toEqual({ type: StunAttributeType.unknownAttributes, value: hex('0024 7fff 0003') })
  })

  test('misuse is a typed error', () => {
    const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
    expect(() => encodeBindingRequest(new Uint8Array(11))).toThrow(invalid)
    expect(() => encodeBindingSuccess(ID, { host: 'localhost', port: 1, family: 4 })).toThrow(invalid)
    expect(() => encodeBindingRequest(ID, { software: 'x'.repeat(600) })).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_TOO_LARGE' }),
    )
  })

  test('every address survives the way there and back', () => {
    const host = fc
      .oneof(fc.uint8Array({ minLength: 4, maxLength: 4 }), fc.uint8Array({ minLength: 16, maxLength: 16 }))
      .map(bytesToIp)
    const id = fc.uint8Array({ minLength: 12, maxLength: 12 })
    fc.assert(
      fc.property(host, fc.integer({ min: 0, max: 65_535 }), id, fc.boolean(), (host, port, id, fingerprint) => {
        const source = { host, port, family: host.includes(':') ? (6 as const) : (4 as const) }
        const message = parseStunMessage(encodeBindingSuccess(id, source, { fingerprint }))!
        expect(xorMappedAddress(message)).toEqual(source)
        expect(message).toMatchObject({ class: 'success', method: BINDING, transactionId: id, fingerprint })
      }),
    )
  })
})

describe('parsing', () => {
  test.each([
    ['nothing', ''],
    ['less than a header', '00010000 2112a442 b7e7a701 bc34d686 fa87df'],
    ['the top bits of another protocol', '40010000 2112a442 b7e7a701 bc34d686 fa87dfae'],
    ['another cookie', '00010000 2112a443 b7e7a701 bc34d686 fa87dfae'],
    ['a length that is no multiple of 4', '00010002 2112a442 b7e7a701 bc34d686 fa87dfae 0000'],
    ['a length beyond the end', '00010004 2112a442 b7e7a701 bc34d686 fa87dfae'],
    ['bytes behind the end', '00010000 2112a442 b7e7a701 bc34d686 fa87dfae 80220000'],
    ['an attribute beyond the end', '00010008 2112a442 b7e7a701 bc34d686 fa87dfae 80220005 00000000'],
    ['a FINGERPRINT of 3 bytes', '00010008 2112a442 b7e7a701 bc34d686 fa87dfae 80280003 00000000'],
    ['a wrong FINGERPRINT', '00010008 2112a442 b7e7a701 bc34d686 fa87dfae 80280004 00000000'],
  ])('refuses %s', (_, bytes) => {
    expect(parseStunMessage(hex(bytes))).toBeUndefined()
  })

  test('refuses more than the limit, and takes the limit', () => {
    const sized = (total: number): Uint8Array => {
      const bytes = new Uint8Array(total)
      bytes.set(hex('00010000 2112a442'))
      new DataView(bytes.buffer).setUint16(2, total - 20)
      for (let at = 20; at < total; at += 4) bytes.set(hex('80220000'), at)
      return bytes
    }
    expect(parseStunMessage(sized(MAX_STUN_BYTES))?.attributes).toHaveLength((MAX_STUN_BYTES - 20) / 4)
    expect(parseStunMessage(sized(MAX_STUN_BYTES + 4))).toBeUndefined()
    expect(stunFrameBytes(sized(MAX_STUN_BYTES + 4))).toBe('bad')
  })

  test('FINGERPRINT must come last', () => {
    const header = hex('0001000c 2112a442 b7e7a701 bc34d686 fa87dfae')
    const sum = new Uint8Array(4)
    new DataView(sum.buffer).setUint32(0, crc32(header) ^ 0x5354554e) // right, so only its place is wrong
    const bytes = Uint8Array.of(...header, ...hex('80280004'), ...sum, ...hex('80220000'))
    expect(parseStunMessage(bytes)).toBeUndefined()
  })

  test('nothing behind MESSAGE-INTEGRITY counts', () => {
    const integrity = `00080014 ${'00'.repeat(20)}`
    const bytes = hex(`01010024 2112a442 b7e7a701 bc34d686 fa87dfae ${integrity} 00200008 0001a147 e112a643`)
    const message = parseStunMessage(bytes)!
    expect(message.attributes.map(({ type }) => type)).toEqual([StunAttributeType.messageIntegrity])
    expect(xorMappedAddress(message)).toBeUndefined()
  })

  test('the first of two attributes of a type counts', () => {
    const bytes = hex(
      '01010018 2112a442 b7e7a701 bc34d686 fa87dfae 00200008 0001a147 e112a643 00200008 0001ffff e112a643',
    )
    expect(xorMappedAddress(parseStunMessage(bytes)!)?.port).toBe(32853)
  })

  test.each(['00200008 0003a147 e112a643', '00200008 0002a147 e112a643', '00200004 0001a147', '00200000'])(
    'an address that is none is undefined: %s',
    (attribute) => {
      const bytes = hex(`01010000 2112a442 b7e7a701 bc34d686 fa87dfae ${attribute}`)
      bytes[3] = bytes.length - 20
      const message = parseStunMessage(bytes)!
      expect(message.attributes).toHaveLength(1)
      expect(xorMappedAddress(message)).toBeUndefined()
    },
  )

  test.each(['00090004 00000263', '00090004 00000700', '00090004 00000464', '00090003 00000400'])(
    'an error code that is none is undefined: %s',
    (attribute) => {
      const message = parseStunMessage(hex(`01110008 2112a442 b7e7a701 bc34d686 fa87dfae ${attribute}`))!
      expect(message.class).toBe('error')
      expect(stunErrorCode(message)).toBeUndefined()
    },
  )

  test.each([
    ['0001', 'request', 0x001],
    ['0011', 'indication', 0x001],
    ['0101', 'success', 0x001],
    ['0111', 'error', 0x001],
    ['3eef', 'request', 0xfff],
    ['3fff', 'error', 0xfff],
    ['0003', 'request', 0x003],
  ])('type %s is %s of method %d', (type, messageClass, method) => {
    const message = parseStunMessage(hex(`${type}0000 2112a442 b7e7a701 bc34d686 fa87dfae`))
    expect(message).toMatchObject({ class: messageClass, method })
  })

  test('what arrives in pieces is told apart as soon as it can be', () => {
    for (let n = 0; n < 8; n++) {
      expect(stunFrameBytes(REQUEST.subarray(0, n))).toBe('more')
      expect(isStun(REQUEST.subarray(0, n))).toBe(false)
    }
    expect(stunFrameBytes(REQUEST.subarray(0, 8))).toBe(REQUEST.length)
    expect(isStun(REQUEST.subarray(0, 8))).toBe(true)
    expect(stunFrameBytes(hex('00010001 2112a442'))).toBe('bad')
    expect(stunFrameBytes(new TextEncoder().encode('GET / HTTP/1.1'))).toBe('bad')
  })
})

test('whatever arrives, parsing gives a message or undefined and never throws', () => {
  const vector = fc.constantFrom(REQUEST, RESPONSE_V4, RESPONSE_V6)
  const truncated = fc.tuple(vector, fc.nat(120)).map(([bytes, n]) => bytes.subarray(0, n))
  const changes = fc.array(fc.tuple(fc.nat(107), fc.nat(255)), { minLength: 1, maxLength: 6 })
  const mutated = fc.tuple(vector, changes).map(([bytes, list]) => {
    const copy = Uint8Array.from(bytes)
    for (const [at, value] of list) if (at < copy.length) copy[at] = value
    return copy
  })
  // random attributes behind a good header and no FINGERPRINT: reaches the walk
  const body = fc.uint8Array({ maxLength: 400 }).map((random) => {
    const rest = random.subarray(0, random.length & ~3)
    for (let at = 0; at < rest.length; at += 8) rest.set([0, random[at]! % 0x28, 0, random[at + 1]! % 24], at)
    return Uint8Array.of(1, 1, rest.length >> 8, rest.length & 0xff, 0x21, 0x12, 0xa4, 0x42, ...ID, ...rest)
  })
  let parsed = 0
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 600 }), truncated, mutated, body), (bytes) => {
      stunFrameBytes(bytes)
      const message = parseStunMessage(bytes)
      if (message === undefined) return
      parsed++
      expect(isStun(bytes)).toBe(true)
      xorMappedAddress(message)
      stunErrorCode(message)
      expect(unknownAttributes(message).every((type) => type < 0x8000)).toBe(true)
      expect(message.attributes.reduce((sum, { value }) => sum + 4 + value.length, 20)).toBeLessThanOrEqual(
        bytes.length,
      )
    }),
    { numRuns: 2_000 },
  )
  expect(parsed).toBeGreaterThan(0)
})
