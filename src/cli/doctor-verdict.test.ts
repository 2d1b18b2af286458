import { describe, expect, test } from 'vitest'
import type { NatDiagnosis } from '../network/nat-report.ts'
import type { DoctorFacts } from './doctor-facts.ts'
import type { MappingFacts } from './doctor-router.ts'
import type { ServerFacts } from './doctor-server.ts'
import { verdict } from './doctor-verdict.ts'

const PUBLIC = { host: '11.22.33.44', port: 5_000, family: 4 } as const
const NEAR = { host: '192.168.1.2', port: 5_000, family: 4 } as const

const SERVER: ServerFacts = {
  url: 'ws://11.1.1.1:4400',
  reached: true,
  onlineMs: 50,
  rttMs: 20,
  observed: '11.22.33.44:5000',
  clockOffsetMs: 3,
  relay: true,
  reflectors: [],
}

const REFLECTOR = { host: '11.1.1.1', port: 1, scope: 'public' } as const

type Udp = NatDiagnosis['udp']

/** What is seen of UDP and TCP; everything else is as with a good router. */
function nat(udp: Partial<Udp>, tcp: Partial<NatDiagnosis['tcp']> = {}, ipv6: Partial<NatDiagnosis['ipv6']> = {}) {
  return {
    tookMs: 1,
    local: [],
    reflectors: [],
    udp: {
      state: 'ok',
      mapping: 'endpoint-independent',
      mapped: udp.state === undefined || udp.state === 'ok' ? [PUBLIC] : [],
      mappingBehaviour: 'endpoint-independent',
      mappingSeenFrom: { addresses: 2, endpoints: 2 },
      filtering: 'address-and-port-dependent',
      hairpin: 'no',
      ...udp,
    },
    tcp: {
      state: 'ok',
      mapping: 'endpoint-independent',
      mapped: tcp.state === undefined || tcp.state === 'ok' ? [PUBLIC] : [],
      ...tcp,
    },
    ipv6: { address: false, udp: 'unknown', tcp: 'unknown', mapped: [], ...ipv6 },
  } satisfies NatDiagnosis
}

function router(...mapping: MappingFacts[]): DoctorFacts['router'] {
  return { gateways: ['192.168.1.1'], mapping }
}

const SILENT = router({ via: 'pcp', outcome: 'silent' }, { via: 'upnp', outcome: 'silent' })

function facts(more: Partial<DoctorFacts> = {}): DoctorFacts {
  return {
    addresses: [],
    rendezvous: [SERVER],
    notFound: [],
    nat: nat({}),
    router: SILENT,
    lan: { links: 1, multicast: true },
    packages: { 'udx-native': '1.21.3', 'node-datachannel': '0.33.4' },
    ...more,
  }
}

const SYMMETRIC = { mapping: 'random', mappingBehaviour: 'address-and-port-dependent' } as const
const NO_UDP = { state: 'blocked', mapping: 'unknown', filtering: 'unknown', hairpin: 'unknown' } as const
const NO_TCP = { state: 'unknown', mapping: 'unknown' } as const

/** How each kind is reached, in the order of the columns: direct, relayed, not known. */
function reachText({ reach }: ReturnType<typeof verdict>): string {
  const { open, ordinary, counted, random, udpBlocked } = reach
  return [open, ordinary, counted, random, udpBlocked].map((one) => ({ yes: 'd', no: 'r', unknown: '?' })[one]).join('')
}

// Columns: peers with an open port, ordinary, counted, random, without UDP.
test.each<[string, Partial<DoctorFacts>, string, string[]]>([
  ['a good home router', {}, 'ddddd', ['direct', 'no-mapping']],
  ['the same, not asked for ports', { router: undefined }, 'ddddd', ['direct']],
  [
    'a public address',
    { nat: nat({ mapping: 'none', filtering: 'endpoint-independent' }, { mapping: 'none' }) },
    'ddddd',
    ['anybody'],
  ],
  [
    'a public address behind a firewall',
    { nat: nat({ mapping: 'none' }, { mapping: 'none' }) },
    'ddddd',
    ['direct', 'firewall'],
  ],
  [
    'a symmetric NAT with random ports',
    { nat: nat(SYMMETRIC, { mapping: 'random' }) },
    'ddrrd',
    ['direct', 'relayed', 'udp-random', 'no-mapping'],
  ],
  [
    'a symmetric NAT that counts',
    { nat: nat({ ...SYMMETRIC, mapping: 'sequential', step: 1 }, { mapping: 'sequential', step: 1 }) },
    'dddrd',
    ['direct', 'relayed', 'udp-sequential', 'no-mapping'],
  ],
  ['random for UDP alone', { nat: nat(SYMMETRIC) }, 'dddrd', ['direct', 'relayed', 'udp-random', 'no-mapping']],
  ['random for TCP alone', { nat: nat({}, { mapping: 'random' }) }, 'ddddd', ['direct', 'tcp-random', 'no-mapping']],
  ['UDP blocked', { nat: nat(NO_UDP) }, 'ddddd', ['direct', 'udp-blocked', 'no-mapping']],
  [
    'UDP blocked, random for TCP',
    { nat: nat(NO_UDP, { mapping: 'random' }) },
    'ddrrd',
    ['direct', 'relayed', 'udp-blocked', 'tcp-random', 'no-mapping'],
  ],
  ['TCP to reflectors blocked', { nat: nat({}, NO_TCP) }, 'ddddr', ['direct', 'relayed', 'no-mapping']],
  ['only the rendezvous is reached', { nat: nat({ ...NO_UDP, state: 'unknown' }, NO_TCP) }, 'rrrrr', ['relayed']],
  [
    'nothing is reached',
    {
      nat: nat({ ...NO_UDP, state: 'unknown' }, NO_TCP),
      rendezvous: [{ url: SERVER.url, reached: false, code: 'ERR_PEERLINE_UNREACHABLE', message: 'no route' }],
    },
    'rrrrr',
    ['offline', 'rendezvous-failed'],
  ],
  ['nobody is asked', { nat: undefined, rendezvous: [] }, '?????', ['not-asked']],
  [
    'all that answers is near',
    { nat: nat({ mapping: 'none', mapped: [NEAR] }, { mapping: 'none', mapped: [NEAR] }) },
    '?????',
    ['near-only'],
  ],
  [
    'one reflector alone',
    { nat: nat({ mapping: 'unknown' }, { mapping: 'unknown' }) },
    'd????',
    ['direct', 'too-few-reflectors', 'no-mapping'],
  ],
  [
    'UDP blocked, counted for TCP',
    { nat: nat(NO_UDP, { mapping: 'sequential', step: 1 }) },
    'dddrd',
    ['direct', 'relayed', 'udp-blocked', 'no-mapping'],
  ],
  [
    'one of several, and no UDP',
    { nat: { ...nat(NO_UDP, { mapping: 'unknown' }), reflectors: [REFLECTOR, { ...REFLECTOR, port: 2 }] } },
    '?????',
    ['too-few-reflectors', 'udp-blocked', 'no-mapping'],
  ],
  [
    'IPv6 beside IPv4',
    { nat: nat({}, {}, { address: true, udp: 'ok', tcp: 'ok', mapped: [{ host: '2a00::7', port: 1, family: 6 }] }) },
    'ddddd',
    ['direct', 'ipv6', 'no-mapping'],
  ],
  [
    'a router that maps ports',
    {
      nat: nat(SYMMETRIC, { mapping: 'random' }),
      router: router({ via: 'upnp', outcome: 'mapped', external: '11.22.33.44:1', reachable: true }),
    },
    'ddddd',
    ['anybody'],
  ],
  [
    'a router that maps ports, behind another NAT',
    { router: router({ via: 'natpmp', outcome: 'mapped', external: '100.64.0.2:1', reachable: false }) },
    'ddddd',
    ['direct', 'mapped-not-public'],
  ],
  [
    'a router that refuses',
    {
      router: router({ via: 'pcp', outcome: 'silent' }, { via: 'upnp', outcome: 'refused', detail: 'not authorised' }),
    },
    'ddddd',
    ['direct', 'mapping-refused'],
  ],
  [
    'no UDP package',
    { packages: { 'udx-native': null, 'node-datachannel': null } },
    'ddddd',
    ['direct', 'no-mapping', 'no-udx', 'no-webrtc'],
  ],
  [
    'IPv6 alone',
    {
      nat: nat({ ...NO_UDP, state: 'unknown' }, NO_TCP, {
        address: true,
        udp: 'ok',
        tcp: 'ok',
        mapped: [{ host: '2a00::7', port: 1, family: 6 }],
      }),
    },
    'rrrrr',
    ['only-ipv6'],
  ],
  [
    'IPv6 that leads nowhere',
    { nat: nat({}, {}, { address: true, udp: 'blocked', tcp: 'blocked' }) },
    'ddddd',
    ['direct', 'ipv6-blocked', 'no-mapping'],
  ],
  [
    'no relay, and not needed',
    { rendezvous: [{ ...SERVER, relay: false, relayProblem: 'full' }], router: undefined },
    'ddddd',
    ['direct', 'no-relay'],
  ],
  [
    'a mapping that dies young',
    { nat: nat({ lifetimeMs: { atLeast: 10_000, below: 20_000 } }), router: undefined },
    'ddddd',
    ['direct', 'short-lifetime'],
  ],
  [
    'one that lives long enough',
    { nat: nat({ lifetimeMs: { atLeast: 20_000, below: 35_000 } }), router: undefined },
    'ddddd',
    ['direct'],
  ],
  [
    'a clock that is off',
    { rendezvous: [{ ...SERVER, clockOffsetMs: -90_000 }], router: undefined },
    'ddddd',
    ['direct', 'clock-off'],
  ],
  [
    'no multicast and no hairpin',
    { lan: { links: 2, multicast: false }, router: undefined },
    'ddddd',
    ['direct', 'no-multicast', 'no-hairpin'],
  ],
  ['no network with multicast', { lan: { links: 0, multicast: false }, router: undefined }, 'ddddd', ['direct']],
  [
    'a name that leads nowhere',
    { notFound: ['stun.invalid:3478'], router: undefined },
    'ddddd',
    ['reflector-not-found', 'direct'],
  ],
])('%s', (_, more, reach, codes) => {
  const found = verdict(facts(more))
  expect(reachText(found)).toBe(reach)
  expect(found.findings.map(({ code }) => code)).toEqual(codes)
})

describe('in plain words', () => {
  const textOf = (more: Partial<DoctorFacts>, code: string) =>
    verdict(facts(more)).findings.find((finding) => finding.code === code)?.text

  test('who is reached directly, and who is not', () => {
    const more = { nat: nat(SYMMETRIC, { mapping: 'random' }) }
    expect(textOf(more, 'direct')).toBe(
      'Reached directly: peers with an open port, peers behind ordinary routers and peers without UDP.',
    )
    expect(textOf(more, 'relayed')).toBe(
      'Relayed: peers whose router counts ports up and peers whose router gives random ports.',
    )
  })

  test('what would help is said once, by whoever knows best', () => {
    const more = { nat: nat(SYMMETRIC) }
    const all = (router: DoctorFacts['router']) =>
      verdict(facts({ ...more, router }))
        .findings.filter(({ text }) => /UPnP/.test(text))
        .map(({ code }) => code)
    expect(all(SILENT)).toEqual(['no-mapping'])
    expect(all(undefined)).toEqual(['udp-random'])
  })

  test('a rendezvous is named once, whatever its error says', () => {
    const failed = (message: string): ServerFacts[] => [
      { url: SERVER.url, reached: false, code: 'ERR_PEERLINE_UNREACHABLE', message },
    ]
    const said = `cannot reach ${SERVER.url}: nothing listens there`
    expect(textOf({ rendezvous: failed(said) }, 'rendezvous-failed')).toBe(`${said}.`)
    expect(textOf({ rendezvous: failed('no route.') }, 'rendezvous-failed')).toBe(`${SERVER.url}: no route.`)
  })

  test('a relay is missed where it is needed', () => {
    const rendezvous: ServerFacts[] = [{ ...SERVER, relay: false, relayProblem: 'full' }]
    const level = (more: Partial<DoctorFacts>) =>
      verdict(facts({ rendezvous, ...more })).findings.find(({ code }) => code === 'no-relay')?.level
    expect(level({})).toBe('note')
    expect(level({ nat: nat(SYMMETRIC) })).toBe('bad')
  })
})

test('reached means that somebody outside answered', () => {
  const none = nat({ ...NO_UDP, state: 'unknown' }, NO_TCP)
  const failed: ServerFacts = { url: SERVER.url, reached: false, code: 'ERR_PEERLINE_TLS', message: 'expired' }
  const reached = (more: Partial<DoctorFacts>) => verdict(facts(more)).reached
  expect(reached({})).toBe(true)
  expect(reached({ nat: none })).toBe(true)
  expect(reached({ rendezvous: [failed] })).toBe(true)
  expect(reached({ nat: none, rendezvous: [failed] })).toBe(false)
  expect(reached({ nat: undefined, rendezvous: [] })).toBe(false)
})
