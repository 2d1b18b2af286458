import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor, fromHex } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import {
  decodeDescription,
  encodeDescription,
  type IceCandidate,
  type IceDescription,
  isNear,
  MAX_DESCRIPTION_BYTES,
  MAX_ICE_CANDIDATES,
  readSdp,
  writeCandidate,
  writeSdp,
} from './webrtc-description.ts'

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

const FINGERPRINT = new Uint8Array(32).map((_, i) => i * 7)

const host = fc.oneof(
  fc.ipV4(),
  fc.ipV6(),
  fc.constantFrom('::1', 'fe80::1', '2001:db8::7', '::ffff:192.0.2.1', '5a1bc8b2-77e4-4bc6-ad36-0c5c7b21a17a.local'),
)
const candidate: fc.Arbitrary<IceCandidate> = fc.record({
  type: fc.constantFrom('host', 'srflx', 'prflx', 'relay'),
  host,
  port: fc.integer({ min: 1, max: 65_535 }),
  priority: fc.integer({ min: 1, max: 0x7fff_ffff }),
})
const iceText = (minLength: number) =>
  fc.array(fc.constantFrom(...'ABCxyz019+/'), { minLength, maxLength: 256 }).map((letters) => letters.join(''))
const description: fc.Arbitrary<IceDescription> = fc.record({
  role: fc.constantFrom('offer', 'answer'),
  ufrag: iceText(4),
  pwd: iceText(22),
  fingerprint: fc.uint8Array({ minLength: 32, maxLength: 32 }),
  candidates: fc.array(candidate, { maxLength: MAX_ICE_CANDIDATES }),
})

/** What a description may make of an SDP, line by line. */
// Names know no case: RFC 4343.
const ADDRESS = '[0-9a-fA-F:.]+|[0-9a-fA-F-]{36}\\.[lL][oO][cC][aA][lL]'
const SDP_LINE = new RegExp(
  [
    'v=0|o=- 1 1 IN IP4 0\\.0\\.0\\.0|s=-|t=0 0|a=group:BUNDLE 0|m=application 9 UDP/DTLS/SCTP webrtc-datachannel',
    'c=IN IP4 0\\.0\\.0\\.0|a=mid:0|a=ice-ufrag:[A-Za-z0-9+/]{4,256}|a=ice-pwd:[A-Za-z0-9+/]{22,256}',
    'a=fingerprint:sha-256 [0-9A-F]{2}(:[0-9A-F]{2}){31}|a=setup:(actpass|active)|a=sctp-port:5000',
    'a=max-message-size:65536',
    `a=candidate:\\d+ 1 UDP \\d+ (${ADDRESS}) \\d+ typ (host|(srflx|prflx|relay) raddr (::|0\\.0\\.0\\.0) rport 9)`,
  ]
    .map((line) => `^(${line})$`)
    .join('|'),
)

describe('a description', () => {
  test('comes out as it went in, and its SDP says the same', () => {
    fc.assert(
      fc.property(description, (one) => {
        const bytes = encodeDescription(one)
        expect(bytes.length).toBeLessThanOrEqual(MAX_DESCRIPTION_BYTES)
        expect(decodeDescription(bytes, one.role)).toEqual(one)
        const sdp = writeSdp(one)
        for (const line of sdp.trimEnd().split('\r\n')) expect(line).toMatch(SDP_LINE)
        const again = readSdp(sdp, one.role)
        const sorted = (all: readonly IceCandidate[]) => all.map((one) => writeCandidate(one, 0)).sort()
        expect({ ...again, candidates: sorted(again.candidates) }).toEqual({
          ...one,
          candidates: sorted(one.candidates),
        })
      }),
    )
  })

  test('of a machine with a few addresses, STUN and TURN takes a few hundred bytes; a full one fits in 1.2 KiB', () => {
    const one = (candidates: IceCandidate[]) =>
      encodeDescription({ role: 'offer', ufrag: 'abcd', pwd: 'x'.repeat(24), fingerprint: FINGERPRINT, candidates })
    const way = (type: IceCandidate['type'], at: string): IceCandidate => ({
      type,
      host: at,
      port: 50_000,
      priority: 2e9,
    })
    const few = [way('host', '192.168.1.20'), way('host', '2001:db8:1:2:3:4:5:6'), way('srflx', '198.51.100.7')]
    expect(one([...few, way('relay', '203.0.113.9')]).length).toBeLessThan(256)
    const longest = way('host', '2001:0db8:1111:2222:3333:4444:5555:6666')
    expect(one(new Array(MAX_ICE_CANDIDATES).fill(longest)).length).toBeLessThan(1_200)
  })

  const good = { t: 'offer', u: 'abcd', p: 'x'.repeat(22), f: FINGERPRINT, c: [[0, '192.0.2.1', 5_000, 1]] }
  const withCandidate = (...entry: unknown[]) => ({ ...good, c: [entry] })

  test('of this form is taken', () => {
    expect(decodeDescription(encodeCbor(good), 'offer').candidates).toEqual([
      { type: 'host', host: '192.0.2.1', port: 5_000, priority: 1 },
    ])
  })

  test.each([
    ['an answer where an offer is due', { ...good, t: 'answer' }],
    ['no role', { ...good, t: undefined }],
    ['a short ufrag', { ...good, u: 'abc' }],
    ['a long ufrag', { ...good, u: 'x'.repeat(257) }],
    ['a ufrag of two lines', { ...good, u: 'abcd\r\na=x:y' }],
    ['a ufrag with a line end', { ...good, u: 'abcd\n' }],
    ['a ufrag with a space', { ...good, u: 'ab cd' }],
    ['a short pwd', { ...good, p: 'x'.repeat(21) }],
    ['a pwd with a quote', { ...good, p: `${'x'.repeat(22)}"` }],
    ['a fingerprint of SHA-1', { ...good, f: new Uint8Array(20) }],
    ['a fingerprint as text', { ...good, f: 'AB:CD' }],
    ['no candidates', { ...good, c: undefined }],
    ['too many candidates', { ...good, c: new Array(MAX_ICE_CANDIDATES + 1).fill(good.c[0]) }],
    ['a candidate that is none', { ...good, c: ['candidate:1'] }],
    ['a candidate with more to it', withCandidate(0, '192.0.2.1', 5_000, 1, 'typ host')],
    ['a type that is none', withCandidate(4, '192.0.2.1', 5_000, 1)],
    ['a negative type', withCandidate(-1, '192.0.2.1', 5_000, 1)],
    ['a type as text', withCandidate('length', '192.0.2.1', 5_000, 1)],
    ['a host name', withCandidate(0, 'internal.example', 5_000, 1)],
    ['a local name', withCandidate(0, 'printer.local', 5_000, 1)],
    ['a host of two lines', withCandidate(0, '192.0.2.1\r\na=x', 5_000, 1)],
    ['a host with a zone', withCandidate(0, 'fe80::1%eth0', 5_000, 1)],
    ['a host in octal', withCandidate(0, '0177.0.0.1', 5_000, 1)],
    ['a host as a number', withCandidate(0, '2130706433', 5_000, 1)],
    ['a host of three parts', withCandidate(0, '127.0.1', 5_000, 1)],
    ['a host out of range', withCandidate(0, '256.0.0.1', 5_000, 1)],
    ['an IPv6 address that is none', withCandidate(0, '1::2::3', 5_000, 1)],
    ['an IPv6 address in brackets', withCandidate(0, '[::1]', 5_000, 1)],
    ['port 0', withCandidate(0, '192.0.2.1', 0, 1)],
    ['port 65536', withCandidate(0, '192.0.2.1', 65_536, 1)],
    ['a port as text', withCandidate(0, '192.0.2.1', '80', 1)],
    ['priority 0', withCandidate(0, '192.0.2.1', 5_000, 0)],
    ['a priority out of range', withCandidate(0, '192.0.2.1', 5_000, 2 ** 31)],
    ['a list', [1, 2, 3]],
  ])('with %s is refused', (_, value) => {
    expect(() => decodeDescription(encodeCbor(value), 'offer')).toThrow(code('ERR_PEERLINE_PROTOCOL'))
  })

  test('that is too long is refused unread', () => {
    const bytes = new Uint8Array(MAX_DESCRIPTION_BYTES + 1)
    expect(() => decodeDescription(bytes, 'offer')).toThrow(code('ERR_PEERLINE_TOO_LARGE'))
  })

  test('whatever bytes come: a typed error, or an SDP of nothing but what belongs there', () => {
    const changed = fc
      .tuple(description, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }), fc.nat(3))
      .map(([one, changes, cut]) => {
        const bytes = encodeDescription(one)
        for (const [at, value] of changes) bytes[at % bytes.length] = value
        return bytes.subarray(0, bytes.length - cut)
      })
    fc.assert(
      fc.property(fc.oneof(changed, fc.uint8Array({ maxLength: 300 })), (bytes) => {
        try {
          const sdp = writeSdp(decodeDescription(bytes, 'offer'))
          for (const line of sdp.trimEnd().split('\r\n')) expect(line).toMatch(SDP_LINE)
        } catch (error) {
          if (!isPeerlineError(error)) throw error
          expect(['ERR_PEERLINE_PROTOCOL', 'ERR_PEERLINE_TOO_LARGE']).toContain(error.code)
        }
      }),
      { numRuns: 2_000 },
    )
  })
})

describe("a platform's own SDP", () => {
  const colons = 'A0:'.repeat(31).concat('0B')

  test('of a browser is read: fingerprint of the session, mDNS names, TCP and other components left out', () => {
    const sdp = [
      'v=0',
      'o=mozilla...THIS_IS_SDPARTA-99.0 123 0 IN IP4 0.0.0.0',
      's=-',
      't=0 0',
      `a=fingerprint:sha-256 ${colons}`,
      'a=group:BUNDLE 0',
      'm=application 9 UDP/DTLS/SCTP webrtc-datachannel',
      'c=IN IP4 0.0.0.0',
      'a=candidate:0 1 UDP 2122252543 5a1bc8b2-77e4-4bc6-ad36-0c5c7b21a17a.local 54321 typ host',
      'a=candidate:1 1 TCP 2105524479 192.168.1.5 9 typ host tcptype active',
      'a=candidate:2 2 UDP 2122252542 192.168.1.5 54322 typ host',
      'a=candidate:3 1 udp 1686052607 198.51.100.7 54321 typ srflx raddr 0.0.0.0 rport 0 generation 0 network-cost 999',
      'a=candidate:4 1 udp 2122262783 fe80::1%4 54321 typ host',
      'a=candidate:5 1 udp 41885695 203.0.113.9 3479 typ relay raddr 198.51.100.7 rport 54321',
      'a=candidate:6 1 udp 1 203.0.113.9 3479 typ whatever',
      'a=setup:actpass',
      'a=ice-pwd:5f1a7c1a9f36a0d3b6a2f7a1d7d0a1b2',
      'a=ice-ufrag:1f2e3d4c',
      '',
    ].join('\r\n')
    expect(readSdp(sdp, 'offer')).toEqual({
      role: 'offer',
      ufrag: '1f2e3d4c',
      pwd: '5f1a7c1a9f36a0d3b6a2f7a1d7d0a1b2',
      fingerprint: fromHex(colons.replaceAll(':', '')),
      candidates: [
        { type: 'relay', host: '203.0.113.9', port: 3_479, priority: 41_885_695 },
        { type: 'srflx', host: '198.51.100.7', port: 54_321, priority: 1_686_052_607 },
        { type: 'host', host: '5a1bc8b2-77e4-4bc6-ad36-0c5c7b21a17a.local', port: 54_321, priority: 2_122_252_543 },
      ],
    })
  })

  test('of a machine with very many interfaces keeps relay and reflexive addresses', () => {
    const hosts = Array.from({ length: 40 }, (_, i) => `a=candidate:${i} 1 udp 1 10.0.0.${i} 5000 typ host`)
    const last = ['a=candidate:98 1 udp 1 192.0.2.1 5 typ relay', 'a=candidate:99 1 udp 1 192.0.2.2 5 typ srflx']
    const facts = ['a=ice-ufrag:abcd', `a=ice-pwd:${'x'.repeat(22)}`, `a=fingerprint:sha-256 ${colons}`]
    const { candidates } = readSdp([...facts, ...hosts, ...last].join('\r\n'), 'answer')
    expect(candidates.length).toBe(MAX_ICE_CANDIDATES)
    expect(candidates.slice(0, 3).map(({ type }) => type)).toEqual(['relay', 'srflx', 'host'])
  })

  test('without what we need is not supported', () => {
    expect(() => readSdp('', 'offer')).toThrow(code('ERR_PEERLINE_UNSUPPORTED'))
  })
})

describe('an address is near', () => {
  const own: IceCandidate[] = [
    { type: 'host', host: '192.168.1.2', port: 1, priority: 1 },
    { type: 'host', host: '2a02:8109:9b80:9::17', port: 1, priority: 1 },
  ]
  test.each([
    ['10.1.2.3', true],
    ['127.0.0.1', true],
    ['172.15.0.1', false],
    ['172.16.0.1', true],
    ['172.31.9.9', true],
    ['172.32.0.1', false],
    ['192.168.7.7', true],
    ['192.169.7.7', false],
    ['169.254.1.1', true],
    ['100.63.1.1', false],
    ['100.64.1.1', true],
    ['100.127.1.1', true],
    ['100.128.1.1', false],
    ['8.8.8.8', false],
    ['::1', true],
    ['fd00::2', true],
    ['fe80::1', true],
    ['2a02:8109:9b80:9:1:2:3:4', true],
    ['2a02:8109:9b80:0009::', true],
    ['2a02:8109:9b80:a::17', false],
    ['2a02::17', false],
    ['5a1bc8b2-77e4-4bc6-ad36-0c5c7b21a17a.local', true],
  ])('%s: %s', (address, near) => {
    expect(isNear(address, own)).toBe(near)
  })
})
