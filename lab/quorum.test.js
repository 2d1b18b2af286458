/**
 * The public address by a quorum of peers: five public hosts in networks of their own say what they see of a peer behind a
 * NAT, and some of them lie. There is no server, no reflector and no rendezvous.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'
import { streetV4 } from './plan.js'

const AGENT = new URL('./quorum-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: the address by a quorum in the lab: ${why}\n`)

/** Kinds of homes, and what their NAT does to UDP and to TCP. */
const HOMES = [
  ['port-restricted', 'endpoint-independent', 'endpoint-independent'],
  ['double-nat', 'endpoint-independent', 'endpoint-independent'],
  ['symmetric-random', 'random', 'random'],
  ['symmetric-sequential', 'sequential', 'sequential'],
  ['dual-stack', 'endpoint-independent', 'endpoint-independent'],
  ['udp-blocked', 'unknown', 'endpoint-independent'],
]

/** Those that always tell the truth, those that lie alike, and one that lies in its own way. */
const HONEST = ['server', 'reflector', 'pub1', 'pub2', 'open-1']
const LIARS = ['open-2', 'open-3', 'open-4']
const LIE = '20.66.6.6'

describe.skipIf(!ok)('in the lab, without any server', () => {
  /** @type {Lab} */
  let lab
  const addresses = new Map()
  const askers = new Map()

  beforeAll(async () => {
    lab = await Lab.create({ homes: [...HOMES.map(([kind]) => kind), 'open', 'open', 'open', 'open'] })
    const observe = async (name, lies = {}) => {
      addresses.set(name, await lab.host(name).agent(AGENT).ask('observe', lies))
    }
    await Promise.all([
      ...HONEST.map((name) => observe(name)),
      ...LIARS.map((name, at) => observe(name, { lie: at < 2 ? LIE : '20.77.7.7', lieV6: '2a05:666::6' })),
    ])
  }, 60_000)

  afterAll(() => lab?.destroy())

  /** What these say of the peer in a home. */
  async function ask(kind, names, { family = 'address', settings } = {}) {
    if (!askers.has(kind)) askers.set(kind, lab.host(`${kind}-1`).agent(AGENT))
    const agent = askers.get(kind)
    await agent.ask('connect', { to: names.map((name) => addresses.get(name)[family]) })
    return agent.ask('ask', { settings })
  }

  const publicAddress = (kind) => streetV4(HOMES.findIndex(([name]) => name === kind) + 1, 0)

  test.each(HOMES)('%s: five agree on the address, and that UDP is %s and TCP %s', async (kind, udp, tcp) => {
    const { v4, ms, ports } = await ask(kind, HONEST)
    expect(v4).toMatchObject({ kind: 'agreed', address: publicAddress(kind), outliers: [], udp: { mapping: udp } })
    expect(v4.tcp.mapping).toBe(tcp)
    expect(v4.networks.length).toBeGreaterThanOrEqual(3)
    if (udp === 'endpoint-independent') {
      // Linux keeps the port where it can.
      expect(v4.udp.mapped).toEqual([{ host: publicAddress(kind), port: ports.udp, family: 4 }])
      // A session is there already: a round trip to be told tokens, and one to be told where they came from.
      expect(ms).toBeLessThan(2_000)
    }
    if (udp === 'random') expect(new Set(v4.udp.mapped.map(({ port }) => port)).size).toBe(5)
  })

  test.each([
    ['one', 1],
    ['two', 2],
  ])('%s of five lies: the right address and mapping, and the liars named', async (_, liars) => {
    for (const [kind, udp] of HOMES.slice(0, 3)) {
      const { v4 } = await ask(kind, [...HONEST.slice(liars), ...LIARS.slice(0, liars)])
      expect(v4).toMatchObject({ kind: 'agreed', address: publicAddress(kind), udp: { mapping: udp } })
      expect(new Set(v4.outliers.map(({ observer }) => observer)).size).toBe(liars)
      expect(v4.outliers.every(({ mapped }) => mapped.host === LIE)).toBe(true)
    }
  })

  test('three of five lie: they disagree', async () => {
    const { v4 } = await ask('port-restricted', [...HONEST.slice(3), ...LIARS])
    expect(v4).toMatchObject({ kind: 'disagreement' })
    expect(v4.said.map(({ address }) => address).sort()).toEqual([
      '20.66.6.6',
      '20.77.7.7',
      publicAddress('port-restricted'),
    ])
  })

  test('two peers are too few, unless two are said to be enough', async () => {
    const two = HONEST.slice(0, 2)
    const few = await ask('port-restricted', two)
    expect(few.v4).toMatchObject({ kind: 'too-few', missing: { observers: 1, networks: 0 } })
    const enough = await ask('port-restricted', two, { settings: { quorum: 2 } })
    expect(enough.v4).toMatchObject({ kind: 'agreed', address: publicAddress('port-restricted') })
  })

  test('peers as they are: who has neither rendezvous nor reflector learns its NAT from those it has met', async () => {
    const five = await Promise.all(HONEST.map((name) => lab.host(name).agent(AGENT).ask('be')))
    const to = five.map(({ address }) => address)
    for (const [kind, udp, tcp] of HOMES.slice(0, 2)) {
      const agent = lab.host(`${kind}-1`).agent(AGENT)
      await agent.ask('be')
      const { nat, candidates } = await agent.ask('know', { to })
      expect([nat.udp.mapping, nat.tcp.mapping]).toEqual([udp, tcp])
      for (const at of ['udp-srflx', 'tcp-so']) {
        expect(candidates).toContainEqual({ kind: at, host: publicAddress(kind), port: expect.any(Number) })
      }
    }
  })

  test('IPv6 behind a firewall: the address is our own, and one of five lies', async () => {
    const names = [...HONEST.slice(1), LIARS[0]]
    const { v4, v6, ports } = await ask('dual-stack', names, { family: 'addressV6' })
    const [own] = lab.host('dual-stack-1').addresses.v6
    expect(v6).toMatchObject({ kind: 'agreed', address: own, udp: { mapping: 'none' }, tcp: { mapping: 'none' } })
    expect(v6.udp.mapped).toEqual([{ host: own, port: ports.udp, family: 6 }])
    // Sessions over IPv6, and tokens over both.
    expect(v4).toMatchObject({ kind: 'agreed', address: publicAddress('dual-stack') })
  })
})
