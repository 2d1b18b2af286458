import { isIP } from 'node:net'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { CIRCUIT_BYTES } from '../path/index.ts'
import {
  type Candidate,
  type ConnectionBody,
  capabilityOf,
  decodeBody,
  encodeBody,
  MAX_BODY_BYTES,
  MAX_CANDIDATES,
  MAX_CIRCUITS,
  MAX_EARLY_BYTES,
  mayDial,
  namesSession,
} from './candidate.ts'
import { MAX_URL_LENGTH } from './url.ts'

const PROTOCOL = expect.objectContaining({ code: 'ERR_PEERLINE_PROTOCOL' })
const BODY = Uint8Array.of(1, 2, 3)
const TOKEN = new Uint8Array(CIRCUIT_BYTES).fill(5)

const mapping = fc.constantFrom('unknown', 'none', 'endpoint-independent', 'sequential', 'random')

const body = fc.record(
  {
    candidates: fc.array(
      fc.record({
        kind: fc.constantFrom('tcp', 'tcp-so', 'udp', 'udp-srflx'),
        host: fc.oneof(fc.ipV4(), fc.ipV6()),
        port: fc.integer({ min: 1, max: 65_535 }),
      }),
      { maxLength: MAX_CANDIDATES },
    ),
    circuits: fc.array(
      fc.record({
        relay: fc.webUrl({ validSchemes: ['ws', 'wss'] }).filter((url) => url.length <= MAX_URL_LENGTH),
        token: fc.uint8Array({ minLength: CIRCUIT_BYTES, maxLength: CIRCUIT_BYTES }),
      }),
      { maxLength: MAX_CIRCUITS },
    ),
    hidden: fc.constant(true),
    nat: fc.record({ tcp: mapping, udp: mapping, step: fc.integer({ min: -16, max: 16 }) }),
    rendezvousRttMs: fc.integer({ min: 0, max: 2_000 }),
    webrtc: fc.uint8Array({ maxLength: 1_000 }),
    punch: fc.record({ round: fc.integer({ min: 0, max: 65_535 }), phase: fc.constantFrom('ask', 'ready', 'go') }),
    early: fc.record({
      protocol: fc.string({ minLength: 1, maxLength: 128 }),
      body: fc.uint8Array({ maxLength: 200 }),
    }),
    earlyAnswer: fc.uint8Array({ maxLength: 200 }),
    rendezvous: fc.array(
      fc.webUrl({ validSchemes: ['ws', 'wss'] }).filter((url) => url.length <= MAX_URL_LENGTH),
      {
        minLength: 1,
        maxLength: 2,
      },
    ),
    capability: fc.uint8Array({ maxLength: 32 }),
  },
  { requiredKeys: ['candidates', 'circuits'] },
)

/** What decodes, if it decodes, is within every limit; anything else is one of two typed errors. */
function checkHostile(bytes: Uint8Array): ConnectionBody | undefined {
  let decoded: ConnectionBody
  try {
    decoded = decodeBody(bytes)
  } catch (error) {
    expect(isPeerlineError(error) && error.code).toMatch(/^ERR_PEERLINE_(PROTOCOL|TOO_LARGE)$/)
    return undefined
  }
  expect(decoded.candidates.length).toBeLessThanOrEqual(MAX_CANDIDATES)
  expect(decoded.circuits.length).toBeLessThanOrEqual(MAX_CIRCUITS)
  for (const { host, port } of decoded.candidates) {
    expect(isIP(host)).toBeGreaterThan(0)
    expect(port > 0 && port < 65_536 && Number.isInteger(port)).toBe(true)
  }
  for (const { relay, token } of decoded.circuits) {
    expect(relay.length).toBeLessThanOrEqual(MAX_URL_LENGTH)
    expect(token.length).toBe(CIRCUIT_BYTES)
  }
  const { early, earlyAnswer } = decoded
  if (early !== undefined) {
    expect(early.protocol.length).toBeGreaterThan(0)
    expect(early.protocol.length).toBeLessThanOrEqual(128)
    expect(early.body.length).toBeLessThanOrEqual(MAX_EARLY_BYTES)
  }
  expect(earlyAnswer?.length ?? 0).toBeLessThanOrEqual(MAX_EARLY_BYTES + 1)
  return decoded
}

describe('a connection body', () => {
  test('comes back as it was', () => {
    fc.assert(
      fc.property(body, (sent) => {
        const bytes = encodeBody(sent)
        expect(bytes.length).toBeLessThanOrEqual(MAX_BODY_BYTES)
        expect(decodeBody(bytes)).toEqual(sent)
      }),
    )
  })

  test('that is empty offers nothing', () => {
    expect(decodeBody(new Uint8Array(0))).toEqual({ candidates: [], circuits: [] })
    expect(decodeBody(encodeCbor({}))).toEqual({ candidates: [], circuits: [] })
  })

  test('keeps its own memory: the message it came in may be used again', () => {
    const bytes = encodeBody({ candidates: [], circuits: [{ relay: 'ws://a', token: TOKEN }] })
    const { circuits } = decodeBody(bytes)
    bytes.fill(0)
    expect(circuits[0]?.token).toEqual(TOKEN)
  })

  test('is cut to the limits when it is written', () => {
    const many = Array.from({ length: 99 }, (_, at) => ({ kind: 'tcp' as const, host: '192.168.1.1', port: at + 1 }))
    const relays = Array.from({ length: 9 }, (_, at) => ({ relay: `ws://${at}`, token: TOKEN }))
    const { candidates, circuits } = decodeBody(encodeBody({ candidates: many, circuits: relays }))
    expect([candidates.length, circuits.length]).toEqual([MAX_CANDIDATES, MAX_CIRCUITS])
    expect(candidates[0]).toEqual(many[0])
  })

  test('takes an early request, and what answers it, of 512 bytes; larger ones are left out', () => {
    const early = { protocol: '/a/1', body: new Uint8Array(MAX_EARLY_BYTES) }
    const earlyAnswer = new Uint8Array(MAX_EARLY_BYTES + 1)
    expect(decodeBody(encodeBody({ early, earlyAnswer }))).toMatchObject({ early, earlyAnswer })
    const larger = new Uint8Array(MAX_EARLY_BYTES + 2)
    for (const refused of [
      { protocol: '/a/1', body: larger },
      { protocol: '', body: BODY },
      { protocol: 'a'.repeat(129), body: BODY },
    ]) {
      expect(encodeBody({ hidden: true, early: refused, earlyAnswer: larger })).toEqual(encodeBody({ hidden: true }))
    }
  })

  test('carries what an invitation holds; before anybody is let in nothing else of it is used', () => {
    const capability = new Uint8Array(32).fill(7)
    const bytes = encodeBody({ capability, webrtc: BODY })
    expect(decodeBody(bytes).capability).toEqual(capability)
    expect(capabilityOf(bytes)).toEqual(capability)
    expect(capabilityOf(encodeBody({ hidden: true }))).toBeUndefined()
    expect(capabilityOf(encodeBody({ capability: new Uint8Array(33) }))).toBeUndefined()
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (some) => void capabilityOf(some)))
  })

  test('names a session, or does not; what cannot be read is not taken for a dial', () => {
    expect(namesSession(new Uint8Array(0))).toBe(false)
    expect(namesSession(encodeBody({ hidden: true }))).toBe(false)
    expect(namesSession(encodeBody({ session: '0f'.repeat(16) }))).toBe(true)
    expect(namesSession(Uint8Array.of(0xff))).toBe(true)
  })

  test('for a small medium: goes without what can be told later, and keeps candidates of every kind', () => {
    const of = (kind: Candidate['kind'], host: string) => ({ kind, host, port: 50_000 })
    const candidates = [
      ...Array.from({ length: 12 }, (_, at) => of('tcp', `2001:db8:1:2:3:4:5:${(at + 16).toString(16)}`)),
      of('tcp-so', '203.0.113.5'),
      ...Array.from({ length: 9 }, (_, at) => of('udp', `192.168.1.${at}`)),
      of('udp-srflx', '203.0.113.5'),
    ]
    const circuits = [1, 2].map((at) => ({ relay: `wss://relay${at}.example.org`, token: TOKEN }))
    const whole = { candidates, circuits, webrtc: new Uint8Array(900), nat: undefined }
    const small = decodeBody(encodeBody(whole, { maxBytes: 700 }))
    expect(encodeBody(whole, { maxBytes: 700 }).length).toBeLessThanOrEqual(700)
    expect(small.webrtc).toBeUndefined()
    expect(small.circuits).toEqual([circuits[0]])
    expect(small.candidates.length).toBeGreaterThanOrEqual(6)
    expect(new Set(small.candidates.map(({ kind }) => kind))).toEqual(new Set(['tcp', 'tcp-so', 'udp', 'udp-srflx']))
    // In the order of preference, as before.
    expect(
      candidates.filter((one) => small.candidates.some((kept) => kept.host === one.host && kept.kind === one.kind)),
    ).toEqual(small.candidates)
    expect(decodeBody(encodeBody(whole, { maxBytes: 1_600 })).circuits).toEqual(circuits)
    expect(decodeBody(encodeBody(whole, { maxBytes: 200 })).circuits).toEqual([])
  })

  test('leaves the early ones out first when it is too large', () => {
    const early = { protocol: '/a/1', body: new Uint8Array(MAX_EARLY_BYTES) }
    const rest = encodeBody({ webrtc: new Uint8Array(400) })
    const all = { webrtc: new Uint8Array(400), early, earlyAnswer: early.body }
    expect(encodeBody(all, { maxBytes: 1_024 })).toEqual(rest)
    expect(encodeBody({ ...all, early: undefined }, { maxBytes: 1_024 }).length).toBe(rest.length + 2 + 3 + 512)
    const many = Array.from({ length: MAX_CANDIDATES }, (_, at) => {
      return { kind: 'udp-srflx' as const, host: 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', port: 60_000 + at }
    })
    const full = { candidates: many, webrtc: new Uint8Array(2_048) }
    expect(encodeBody({ ...full, early, earlyAnswer: early.body })).toEqual(encodeBody(full))
    expect(encodeBody(full).length).toBeLessThanOrEqual(MAX_BODY_BYTES)
  })

  test('keeps its own memory of early ones, too', () => {
    const bytes = encodeBody({ early: { protocol: '/a/1', body: BODY }, earlyAnswer: BODY })
    const { early, earlyAnswer } = decodeBody(bytes)
    bytes.fill(0)
    expect([early?.body, earlyAnswer]).toEqual([BODY, BODY])
  })

  test('of another version may name kinds that are not known here: they are passed over', () => {
    const bytes = encodeCbor({
      c: [
        ['pigeon', '192.168.1.1', 1],
        ['tcp', '192.168.1.1', 2],
      ],
      x: 1,
    })
    expect(decodeBody(bytes).candidates).toEqual([{ kind: 'tcp', host: '192.168.1.1', port: 2 }])
  })

  test.each<[string, unknown]>([
    ['200 candidates', { c: Array.from({ length: 200 }, () => ['tcp', '192.168.1.1', 1]) }],
    ['three relays', { r: Array.from({ length: 3 }, () => ['ws://a', TOKEN]) }],
    ['a host name', { c: [['tcp', 'localhost', 1]] }],
    ['an address that resolvers read as loopback', { c: [['tcp', '127.1', 1]] }],
    ['port 0', { c: [['tcp', '192.168.1.1', 0]] }],
    ['port 65536', { c: [['tcp', '192.168.1.1', 65_536]] }],
    ['a port that is text', { c: [['tcp', '192.168.1.1', '1']] }],
    ['a short candidate', { c: [['tcp', '192.168.1.1']] }],
    ['a candidate that is a map', { c: [{ kind: 'tcp' }] }],
    ['a token of the wrong size', { r: [['ws://a', new Uint8Array(CIRCUIT_BYTES + 1)]] }],
    ['a token that is text', { r: [['ws://a', 'token']] }],
    ['a relay URL that is too long', { r: [[`ws://${'a'.repeat(MAX_URL_LENGTH)}`, TOKEN]] }],
    ['an early request without a body', { q: ['/a/1'] }],
    ['an early request of no protocol', { q: ['', BODY] }],
    ['an early request of bytes for a name', { q: [BODY, BODY] }],
    ['an early request of text', { q: ['/a/1', 'text'] }],
    ['an early request that is too large', { q: ['/a/1', new Uint8Array(MAX_EARLY_BYTES + 1)] }],
    ['an early request for a name that is too long', { q: ['a'.repeat(129), BODY] }],
    ['an early answer of text', { a: 'text' }],
    ['an early answer that is too large', { a: new Uint8Array(MAX_EARLY_BYTES + 2) }],
    ['a list', []],
    ['candidates that are a map', { c: {} }],
  ])('with %s is refused', (_, value) => {
    expect(() => decodeBody(encodeCbor(value))).toThrow(PROTOCOL)
  })

  test('above its size is not even looked at', () => {
    expect(() => decodeBody(new Uint8Array(MAX_BODY_BYTES + 1))).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_TOO_LARGE' }),
    )
  })

  test('of random bytes is a typed error, or within the limits', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => void checkHostile(bytes)),
      { numRuns: 500 },
    )
  })

  test('cut short is a typed error', () => {
    fc.assert(
      fc.property(body, fc.nat(), (sent, cut) => {
        const bytes = encodeBody(sent)
        const part = bytes.subarray(0, 1 + (cut % (bytes.length - 1)))
        expect(checkHostile(part)).toBeUndefined()
      }),
    )
  })

  test('with some bytes changed is a typed error, or within the limits', () => {
    const change = fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 }))
    fc.assert(
      fc.property(body, fc.array(change, { minLength: 1, maxLength: 4 }), (sent, changes) => {
        const bytes = encodeBody(sent)
        for (const [at, by] of changes) bytes[at % bytes.length]! ^= by
        checkHostile(bytes)
      }),
      { numRuns: 500 },
    )
  })
})

describe('an address that a remote names', () => {
  test.each([
    // where it leads, on a machine that is to be found on loopback, on one that is not
    ['198.41.0.4', true, true],
    ['2001:4860::1', true, true],
    ['192.168.1.1', true, true],
    ['10.1.2.3', true, true],
    ['100.64.0.1', true, true],
    ['fd00::1', true, true],
    ['127.0.0.1', true, false],
    ['127.255.255.254', true, false],
    ['::1', true, false],
    ['::ffff:127.0.0.1', true, false],
    ['::ffff:192.168.1.1', true, true],
    ['169.254.169.254', false, false],
    ['::ffff:169.254.169.254', false, false],
    ['::ffff:a9fe:a9fe', false, false],
    ['64:ff9b::169.254.169.254', false, false],
    ['fe80::1', false, false],
    ['fe80::1%lo', false, false],
    ['0.0.0.0', false, false],
    ['::', false, false],
    ['::ffff:0.0.0.0', false, false],
    ['224.0.0.1', false, false],
    ['ff02::1', false, false],
    ['255.255.255.255', false, false],
    ['2002:7f00:1::', false, false],
    ['192.0.2.1', false, false],
    ['localhost', false, false],
    ['metadata.google.internal', false, false],
    ['', false, false],
  ])('%s may be dialled: %s with loopback, %s without', (host, withLoopback, without) => {
    expect(mayDial(host, { loopback: true })).toBe(withLoopback)
    expect(mayDial(host, { loopback: false })).toBe(without)
  })
})
