import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { LocalAddress } from './address.ts'
import {
  type AddressVerdict,
  elect,
  MAX_QUORUM,
  networkOf,
  type QuorumSettings,
  type SeenBy,
  type Silent,
  tally,
  verdictOn,
} from './address-quorum.ts'

const TRUE = '203.0.113.7'
const LIE = '198.51.100.6'
const LOCAL: LocalAddress[] = [
  { host: '192.168.1.10', family: 4, scope: 'private', interfaceName: 'eth0', prefixBits: 24 },
]

/** `observer@network` sees an address: by a probe where a port is said, by the end of a path where not. */
function seen(who: string, host: string, port?: number, transport: 'udp' | 'tcp' = 'udp'): SeenBy {
  const [observer = '', network = ''] = who.split('@')
  return {
    observer,
    network,
    transport,
    localPort: port === undefined ? undefined : 7_000,
    mapped: { host, port: port ?? 1 },
  }
}

const ask = (
  observations: readonly SeenBy[],
  options: QuorumSettings & { silent?: readonly Silent[]; local?: readonly LocalAddress[] } = {},
) => verdictOn(4, observations, { local: LOCAL, ...options })

/** The verdict on what observers in networks of their own say. */
const said = (...hosts: string[]) => ask(hosts.map((host, at) => seen(`${at}@${at}`, host)))

function agreed(verdict: AddressVerdict): Extract<AddressVerdict, { kind: 'agreed' }> {
  if (verdict.kind !== 'agreed') expect.fail(`no agreement: ${JSON.stringify(verdict)}`)
  return verdict
}

describe('the address', () => {
  test('three in three networks agree', () => {
    expect(said(TRUE, TRUE, TRUE)).toMatchObject({
      kind: 'agreed',
      family: 4,
      address: TRUE,
      supporters: ['0', '1', '2'],
      networks: ['0', '1', '2'],
      outliers: [],
    })
  })

  test('three agree in two networks', () => {
    const verdict = ask([seen('a@1', TRUE), seen('b@1', TRUE), seen('c@2', TRUE)])
    expect(agreed(verdict)).toMatchObject({ supporters: ['a', 'b', 'c'], networks: ['1', '2'] })
  })

  test('any number in one network are too few, and what is missing is told', () => {
    const verdict = ask(['a', 'b', 'c', 'd'].map((one) => seen(`${one}@1`, TRUE)))
    expect(verdict).toMatchObject({ kind: 'too-few', missing: { observers: 0, networks: 1 } })
  })

  test('fewer than a quorum are too few, whatever they say', () => {
    expect(said(TRUE, LIE)).toMatchObject({ kind: 'too-few', missing: { observers: 2, networks: 1 } })
  })

  test('nobody has said anything: all is missing', () => {
    expect(ask([])).toEqual({ kind: 'too-few', family: 4, missing: { observers: 3, networks: 2 }, said: [] })
  })

  test('one is believed only where that is said', () => {
    const one = [seen('a@1', TRUE)]
    expect(ask(one)).toMatchObject({ kind: 'too-few', missing: { observers: 2, networks: 1 } })
    expect(ask(one, { quorum: 2 }).kind).toBe('too-few')
    expect(agreed(ask(one, { quorum: 1 })).address).toBe(TRUE)
  })

  test('one believes no one when two are asked and differ', () => {
    expect(ask([seen('a@1', TRUE), seen('b@2', LIE)], { quorum: 1 }).kind).toBe('disagreement')
  })

  test('one or two of five lie: outvoted, and named', () => {
    for (const hosts of [
      [LIE, TRUE, TRUE, TRUE, TRUE],
      [LIE, TRUE, TRUE, LIE, TRUE],
    ]) {
      const verdict = agreed(said(...hosts))
      expect(verdict.address).toBe(TRUE)
      const liars = hosts.flatMap((host, at) => (host === LIE ? [String(at)] : []))
      expect(verdict.outliers.map(({ observer }) => observer)).toEqual(liars)
      expect(verdict.outliers.every(({ mapped }) => mapped.host === LIE)).toBe(true)
    }
  })

  test('half of four lie: they disagree, and who says what is told', () => {
    expect(said(TRUE, LIE, TRUE, LIE)).toEqual({
      kind: 'disagreement',
      family: 4,
      said: [
        { address: TRUE, supporters: ['0', '2'], networks: ['0', '2'] },
        { address: LIE, supporters: ['1', '3'], networks: ['1', '3'] },
      ],
    })
  })

  test('three of five lie, each in its own way: they disagree', () => {
    expect(said(TRUE, TRUE, LIE, '198.51.100.8', '198.51.100.9').kind).toBe('disagreement')
  })

  // The limit that is documented: nothing but votes is there to tell.
  test('three of five lie alike: they are believed, and the honest are outliers', () => {
    const verdict = agreed(said(TRUE, TRUE, LIE, LIE, LIE))
    expect([verdict.address, verdict.outliers.map(({ observer }) => observer)]).toEqual([LIE, ['0', '1']])
  })

  test('many liars in one network have one voice', () => {
    const liars = Array.from({ length: 20 }, (_, at) => seen(`liar ${at}@1`, LIE))
    const honest = ['2', '3', '4'].map((network) => seen(`honest ${network}@${network}`, TRUE))
    expect(agreed(ask([...liars, ...honest])).address).toBe(TRUE)
  })

  test('who says the same often has one voice', () => {
    const often = ['udp', 'tcp', 'udp'].map((transport) => seen('a@1', TRUE, undefined, transport as 'udp'))
    expect(ask([...often, seen('b@2', TRUE)])).toMatchObject({ kind: 'too-few', missing: { observers: 1 } })
  })

  test('who contradicts himself says nothing, and counts among those who do not agree', () => {
    const both = [seen('x@9', TRUE), seen('x@9', LIE)]
    const honest = ['1', '2', '3'].map((network) => seen(`${network}@${network}`, TRUE))
    const verdict = agreed(ask([...both, ...honest]))
    expect([verdict.supporters, verdict.outliers]).toEqual([['1', '2', '3'], [both[1]]])
    expect(ask([...both, ...honest.slice(1)])).toMatchObject({ kind: 'disagreement' })
  })

  test('the silent keep the others from being many: nobody is believed for being early', () => {
    const silent = [{ network: '7' }, { network: '8' }, { network: '9' }]
    const three = ['1', '2', '3'].map((network) => seen(`${network}@${network}`, TRUE))
    expect(ask(three, { silent })).toMatchObject({ kind: 'too-few', missing: { observers: 0, networks: 1 } })
    expect(ask(three, { silent: silent.slice(1) }).kind).toBe('agreed')
    // One who speaks in the network of one who is silent.
    expect(ask(three, { silent: [{ network: '1' }, { network: '2' }, { network: '3' }] }).kind).toBe('agreed')
    // Silence about one transport is no silence about the address.
    expect(ask(three, { silent: silent.map((one) => ({ ...one, transport: 'udp' as const })) }).kind).toBe('agreed')
  })

  test('families are counted apart', () => {
    const six = ['1', '2', '3'].map((network) => seen(`${network}@${network}`, '2600::1'))
    const four = ['1', '2', '3'].map((network) => seen(`${network}@${network}`, TRUE))
    const all = [...six, ...four]
    expect(agreed(ask(all)).address).toBe(TRUE)
    expect(agreed(verdictOn(6, all, { local: LOCAL }))).toMatchObject({ address: '2600::1', family: 6, outliers: [] })
  })

  test.each<QuorumSettings>([
    { quorum: 0 },
    { quorum: 2.5 },
    { quorum: MAX_QUORUM + 1 },
    { networks: 0 },
    { networks: 1.5 },
    { quorum: 2, networks: 3 },
  ])('%o makes no sense', (settings) => {
    expect(() => ask([], settings)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})

describe('the ports', () => {
  const probes = (ports: readonly number[], transport: 'udp' | 'tcp' = 'udp') =>
    ports.map((port, at) => seen(`${at}@${at}`, TRUE, port, transport))

  test('seen as one port by all: endpoint-independent', () => {
    const { udp, tcp } = agreed(ask(probes([4_000, 4_000, 4_000])))
    expect(udp).toEqual({
      state: 'ok',
      mapping: 'endpoint-independent',
      portPreserving: false,
      mapped: [{ host: TRUE, port: 4_000, family: 4 }],
    })
    expect(tcp).toEqual({ state: 'unknown', mapping: 'unknown', mapped: [] })
  })

  test('a minority that lies about the port alone changes nothing', () => {
    const { udp, outliers } = agreed(ask(probes([4_000, 6_666, 4_000, 6_667, 4_000])))
    expect(udp).toMatchObject({ mapping: 'endpoint-independent', mapped: [{ port: 4_000 }] })
    expect(outliers).toEqual([])
  })

  test('a liar about the address has no say about ports', () => {
    const { udp } = agreed(ask([...probes([4_000, 4_000, 4_000]), seen('liar@9', LIE, 6_666)]))
    expect(udp).toMatchObject({ mapping: 'endpoint-independent', mapped: [{ host: TRUE, port: 4_000 }] })
  })

  test('another port each time: counted, or random', () => {
    const sequential = agreed(ask(probes([4_000, 4_001, 4_003, 4_004]))).udp
    expect(sequential).toMatchObject({ mapping: 'sequential', step: 1 })
    expect(sequential.mapped.map(({ port }) => port)).toEqual([4_000, 4_001, 4_003, 4_004])
    expect(agreed(ask(probes([40_000, 5_000, 23_000]))).udp).toMatchObject({ mapping: 'random' })
  })

  test('nor has who contradicts himself: what is counted stays counted', () => {
    const sequential = probes([4_000, 4_001, 4_003, 4_004])
    const liar = [seen('liar@9', LIE, 6_666), seen('liar@9', TRUE, 60_000), seen('other@8', LIE, 6_666)]
    expect(agreed(ask([...sequential, ...liar])).udp).toMatchObject({ mapping: 'sequential', step: 1 })
  })

  test('this machine’s own address, and the port that it has: no NAT', () => {
    const local: LocalAddress[] = [{ host: TRUE, family: 4, scope: 'public', interfaceName: 'eth0', prefixBits: 24 }]
    expect(agreed(ask(probes([7_000, 7_000, 7_000]), { local })).udp).toMatchObject({
      mapping: 'none',
      portPreserving: true,
      mapped: [{ port: 7_000 }],
    })
  })

  test('UDP and TCP are told apart', () => {
    const { udp, tcp } = agreed(ask([...probes([4_000, 4_000, 4_000]), ...probes([40_000, 5_000, 23_000], 'tcp')]))
    expect([udp.mapping, tcp.mapping]).toEqual(['endpoint-independent', 'random'])
  })

  test('a port that fewer saw than a quorum is told to nobody, though the mapping shows', () => {
    const { udp } = agreed(ask([...probes([4_000, 4_000]), seen('2@2', TRUE)]))
    expect(udp).toMatchObject({ mapping: 'endpoint-independent', mapped: [] })
  })

  test('a port waits for those who are still to say it', () => {
    const silent = ['7', '8', '9'].map((network) => ({ network, transport: 'udp' as const }))
    expect(agreed(ask(probes([4_000, 4_000, 4_000]), { silent })).udp.mapped).toEqual([])
    const others = silent.map((one) => ({ ...one, transport: 'tcp' as const }))
    expect(agreed(ask(probes([4_000, 4_000, 4_000]), { silent: others })).udp.mapped.length).toBe(1)
  })
})

describe('networks', () => {
  test.each([
    ['203.0.113.7', '203.0.0.0/16'],
    ['::ffff:203.0.113.7', '203.0.0.0/16'],
    ['2a05:107:1:1::10', '2a05:107::/32'],
    ['relay', 'relay'],
  ])('%s is in %s', (host, network) => {
    expect(networkOf(host)).toBe(network)
  })

  test('of as many bits as are asked for', () => {
    expect(networkOf('203.0.113.255', { 4: 20, 6: 32 })).toBe('203.0.112.0/20')
    expect(networkOf('203.0.113.255', { 4: 32, 6: 32 })).toBe('203.0.113.255/32')
    expect(networkOf('203.0.113.255', { 4: 0, 6: 32 })).toBe('0.0.0.0/0')
  })
})

test('an election that takes a plurality: the most, and never a tie', () => {
  const votes = (text: string) => tally([...text].map((address, at) => ({ voter: `${at}`, network: `${at}`, address })))
  const rule = { quorum: 2, networks: 2 }
  expect(elect(votes('aabc'), rule, 0)?.address).toBe('a')
  expect(elect(votes('aabb'), rule, 0)).toBeUndefined()
  expect(elect(votes('abc'), rule, 0)).toBeUndefined()
  expect(elect(votes('aabc'), rule, 4)).toBeUndefined()
})

describe('liars', () => {
  /** Somebody in one of a few networks: `honest`, `silent`, or a liar of some kind. */
  const anybody = (networks: number) =>
    fc.record({
      network: fc.integer({ min: 0, max: networks - 1 }),
      is: fc.oneof(
        { weight: 4, arbitrary: fc.constant('honest' as const) },
        { weight: 3, arbitrary: fc.constant('lies alike' as const) },
        { weight: 1, arbitrary: fc.constantFrom('lies alone', 'says both', 'silent') },
      ),
    })
  const world = fc.integer({ min: 1, max: 9 }).chain((networks) =>
    fc.record({
      people: fc.array(anybody(networks), { maxLength: 14 }),
      quorum: fc.integer({ min: 1, max: 5 }),
      least: fc.integer({ min: 1, max: 5 }),
    }),
  )

  test('property: in half of the networks or less they are never believed; and the truth is, when it can be', () => {
    let believed = 0
    let told = 0
    fc.assert(
      fc.property(world, ({ people, quorum, least }) => {
        const says = (is: string, at: number) =>
          is === 'honest'
            ? [TRUE]
            : is === 'lies alike'
              ? [LIE]
              : is === 'lies alone'
                ? [`198.51.100.${100 + at}`]
                : [TRUE, LIE]
        const speaking = people.map((one, at) => ({ ...one, at })).filter(({ is }) => is !== 'silent')
        const observations = speaking.flatMap(({ network, is, at }) =>
          says(is, at).map((host) => seen(`${at}@${network}`, host)),
        )
        const silent = people.filter(({ is }) => is === 'silent').map(({ network }) => ({ network: `${network}` }))
        const networksOf = (...kinds: string[]) =>
          new Set(people.filter(({ is }) => kinds.includes(is)).map(({ network }) => network)).size
        const all = new Set(people.map(({ network }) => network)).size
        const lying = networksOf('lies alike', 'lies alone', 'says both')
        const networks = Math.min(least, quorum)
        const verdict = ask(observations, { quorum, networks, silent })

        const isLie = verdict.kind === 'agreed' && verdict.address !== TRUE
        if (2 * lying <= all) expect(isLie).toBe(false)
        if (isLie) {
          believed++
          expect(2 * networksOf('lies alike', 'lies alone')).toBeGreaterThan(all)
          expect(verdict.outliers.every(({ mapped }) => mapped.host !== verdict.address)).toBe(true)
        }
        const honest = people.filter(({ is }) => is === 'honest').length
        const rival = Math.max(networksOf('lies alike'), Math.min(1, networksOf('lies alone')))
        const able = honest >= quorum && networksOf('honest') >= networks && networksOf('honest') > rival
        if (able && 2 * networksOf('honest') > all) {
          told++
          expect(verdict).toMatchObject({ kind: 'agreed', address: TRUE })
        }
      }),
      { numRuns: 3_000 },
    )
    // The property has seen both.
    expect([believed > 20, told > 100]).toEqual([true, true])
  })

  test('property: a lie about the port wins no more than one about the address', () => {
    const port = fc.record({ network: fc.integer({ min: 0, max: 6 }), lies: fc.boolean() })
    fc.assert(
      fc.property(fc.array(port, { minLength: 3, maxLength: 10 }), (people) => {
        const verdict = ask(people.map(({ network, lies }, at) => seen(`${at}@${network}`, TRUE, lies ? 6_666 : 4_000)))
        const all = new Set(people.map(({ network }) => network))
        const lying = new Set(people.filter(({ lies }) => lies).map(({ network }) => network))
        if (verdict.kind !== 'agreed' || 2 * lying.size > all.size) return
        expect(verdict.udp.mapping === 'endpoint-independent' && verdict.udp.mapped[0]?.port === 6_666).toBe(false)
      }),
      { numRuns: 1_000 },
    )
  })

  test('property: the order of votes and the names of voters do not matter', () => {
    fc.assert(
      fc.property(world, fc.infiniteStream(fc.nat()), ({ people }, keys) => {
        const votes = people.map(({ network, is }, at) => seen(`${at}@${network}`, is === 'honest' ? TRUE : LIE))
        const shuffled = votes.map((vote) => ({ vote, key: keys.next().value })).sort((a, b) => a.key - b.key)
        const renamed = shuffled.map(({ vote }) => ({ ...vote, observer: `x${vote.observer}` }))
        const [one, other] = [ask(votes), ask(renamed)]
        expect(other.kind).toBe(one.kind)
        if (one.kind === 'agreed' && other.kind === 'agreed') expect(other.address).toBe(one.address)
      }),
    )
  })
})
