import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodePcp, encodePmp, mapByPcp, newNonce, readPcp, readPmp, readPmpAddress } from './pcp.ts'

const NONCE = Uint8Array.from({ length: 12 }, (_, at) => at)
const REQUEST = { protocol: 'tcp', internalPort: 0x1234, externalPort: 0x4321, lifetime: 0x708 } as const
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
const bytesOf = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex')

test('a PCP request looks as drawn (RFC 6887 figures 2 and 9)', () => {
  expect(hex(encodePcp(REQUEST, NONCE, '192.168.1.7'))).toBe(
    [
      '02010000',
      '00000708',
      '00000000000000000000ffffc0a80107',
      '000102030405060708090a0b',
      '06000000',
      '1234',
      '4321',
      '00000000000000000000ffff00000000',
    ].join(''),
  )
  expect(encodePcp({ ...REQUEST, protocol: 'udp' }, NONCE, '192.168.1.7')[36]).toBe(17)
})

test('a NAT-PMP request looks as drawn (RFC 6886 section 3.3)', () => {
  expect(hex(encodePmp(REQUEST))).toBe('000200001234432100000708')
  expect(hex(encodePmp({ ...REQUEST, protocol: 'udp' }))).toBe('000100001234432100000708')
})

describe('a PCP response', () => {
  const map = '000102030405060708090a0b 06 000000 1234 5555 00000000000000000000ffff0b162101'
  const head = (result: string) => `02 81 00 ${result} 00000384 00000001 000000000000000000000000`

  test.each<[string, string, ReturnType<typeof readPcp>]>([
    [
      'that grants',
      head('00') + map,
      { result: 'granted', lifetime: 900, externalPort: 0x5555, externalIp: '::ffff:11.22.33.1' },
    ],
    ['that refuses', head('08') + map, { result: 'refused', code: 8 }],
    ['that refuses with its head alone', head('03'), { result: 'refused', code: 3 }],
    ['of a router that knows only NAT-PMP', '00 81 0001 00000001', { result: 'unsupported' }],
    ['that is a request', `02 01${head('00').slice(5)}${map}`, undefined],
    ['of another version', `03 81${head('00').slice(5)}${map}`, undefined],
    ['with another nonce', head('00') + map.replace('00', 'ff'), undefined],
    ['for UDP', head('00') + map.replace(' 06 ', ' 11 '), undefined],
    ['for another port', head('00') + map.replace('1234', '1235'), undefined],
    ['that grants with its head alone', head('00'), undefined],
    ['cut short', (head('00') + map).slice(0, -2), undefined],
    ['of nothing', '', undefined],
  ])('%s', (_, text, read) => {
    expect(readPcp(bytesOf(text), REQUEST, NONCE)).toEqual(read)
  })
})

describe('a NAT-PMP response', () => {
  test.each<[string, string, ReturnType<typeof readPmp>]>([
    ['that grants', '00 82 0000 00000001 1234 5555 00000384', { externalPort: 0x5555, lifetime: 900 }],
    ['that refuses', '00 82 0002 00000001', { code: 2 }],
    ['for UDP', '00 81 0000 00000001 1234 5555 00000384', undefined],
    ['for another port', '00 82 0000 00000001 1235 5555 00000384', undefined],
    ['cut short', '00 82 0000 00000001 1234 5555 000003', undefined],
    ['of another version', '02 82 0000 00000001 1234 5555 00000384', undefined],
  ])('%s', (_, text, read) => {
    expect(readPmp(bytesOf(text), REQUEST)).toEqual(read)
  })

  test.each<[string, string, ReturnType<typeof readPmpAddress>]>([
    ['with the address', '00 80 0000 00000001 0b162101', { ip: '11.22.33.1' }],
    ['without one yet', '00 80 0003 00000001', { code: 3 }],
    ['to something else', '00 81 0000 00000001 0b162101', undefined],
    ['cut short', '00 80 0000 00000001 0b1621', undefined],
  ])('%s', (_, text, read) => {
    expect(readPmpAddress(bytesOf(text))).toEqual(read)
  })
})

test('anything at all is read or passed over', () => {
  const start = fc.constantFrom('', '0281', '0082', '0080', '00', '02')
  fc.assert(
    fc.property(start, fc.uint8Array({ maxLength: 80 }), (head, rest) => {
      const bytes = Buffer.concat([Buffer.from(head, 'hex'), rest])
      readPcp(bytes, REQUEST, NONCE)
      readPmp(bytes, REQUEST)
      readPmpAddress(bytes)
    }),
    { numRuns: 1_000 },
  )
})

test('a router that is not there is unreachable, and a signal ends the wait', async () => {
  const signal = new AbortController().signal
  // Nobody is at that port of loopback, and the system says so at once.
  const asked = mapByPcp('127.0.0.78', REQUEST, newNonce(), { signal })
  await expect(asked).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  const aborted = mapByPcp('127.0.0.78', REQUEST, newNonce(), { signal: AbortSignal.abort() })
  await expect(aborted).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})
