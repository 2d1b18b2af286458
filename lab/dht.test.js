/**
 * A private DHT of twenty nodes, each in a network of its own, and peers that know nothing of each other but the peer id.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'

const AGENT = new URL('./dht-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: peers found by a DHT in the lab: ${why}\n`)

const PUBLIC = ['reflector', 'pub1', 'pub2']
const NODES = 20

/** ms for a search, from a node that knows nobody, over links of 60 ms; and for publishing, which takes two to their end. */
const FIND_MS = 5_000
const PUBLISH_MS = 10_000

/** ms for a dial that has to search first, and for a request. */
const DIAL_MS = 10_000

describe.skipIf(!ok)('in a DHT of twenty nodes', () => {
  /** @type {Lab} */
  let lab
  /** @type {import('./agent.js').Agent[]} */
  const nodes = []
  let bootstrap

  beforeAll(async () => {
    const open = Array.from({ length: NODES - PUBLIC.length }, () => 'open')
    lab = await Lab.create({
      homes: [...open, 'open', 'port-restricted', 'full-cone', 'symmetric-random'],
      verify: false,
    })
    const places = [...PUBLIC, ...open.map((_, at) => `open-${at + 1}`)].map((name) => lab.host(name))
    for (const host of places) {
      const agent = host.agent(AGENT)
      const { at } = await agent.ask('node', { bootstrap: bootstrap ?? [], host: host.addresses.v4[0] })
      bootstrap ??= [at]
      nodes.push(agent)
    }
  }, 120_000)

  afterAll(() => lab?.destroy())

  /** A host that is no node. */
  const elsewhere = () => lab.host(`open-${NODES - PUBLIC.length + 1}`)

  test('a peer is found from behind a NAT, and talked to', async () => {
    const callee = elsewhere().agent(AGENT)
    const caller = lab.home('port-restricted-1').host().agent(AGENT)
    const { id } = await callee.ask('start')
    await caller.ask('start')
    const addresses = [`${elsewhere().addresses.v4[0]}:4400`]
    const told = await callee.ask('tell', { dht: { bootstrap }, addresses })
    expect(told.nodes).toBeGreaterThanOrEqual(8)
    expect(told.ms).toBeLessThan(PUBLISH_MS)
    const met = await caller.ask('meet', { dht: { bootstrap }, to: id })
    expect(met).toMatchObject({ answer: 'hello yourself' })
    expect(met.foundMs).toBeLessThan(FIND_MS)
    await Promise.all([callee.stop(), caller.stop()])
  })

  test('by id alone, where its record tells its addresses', async () => {
    const callee = elsewhere().agent(AGENT)
    const caller = lab.home('port-restricted-1').host().agent(AGENT)
    const { id } = await callee.ask('start', { dht: { bootstrap, addresses: true } })
    const { record } = await nodes[5].ask('seen', { of: id })
    expect(record.addresses).toContain(`${elsewhere().addresses.v4[0]}:4400`)
    await caller.ask('start', { dht: { bootstrap } })
    const { answer, ms } = await caller.ask('dial', { to: id })
    expect(answer).toBe('hello yourself')
    expect(ms).toBeLessThan(DIAL_MS)
    await Promise.all([callee.stop(), caller.stop()])
  })

  test('by id alone, where its record tells its rendezvous, and no address', async () => {
    const server = lab.host('server').agent(AGENT)
    const { url } = await server.ask('serve')
    const rendezvous = [`tcp://${lab.host('server').addresses.v4[0]}:4400#${url.split('#')[1]}`]
    const callee = lab.home('symmetric-random-1').host().agent(AGENT)
    const caller = lab.home('full-cone-1').host().agent(AGENT)
    const { id } = await callee.ask('start', { dht: { bootstrap }, rendezvous })
    const { record } = await nodes[7].ask('seen', { of: id })
    expect(record).toMatchObject({ rendezvous, addresses: [] })
    await caller.ask('start', { dht: { bootstrap } })
    const { answer, ms } = await caller.ask('dial', { to: id }, { timeoutMs: 30_000 })
    expect(answer).toBe('hello yourself')
    expect(ms).toBeLessThan(DIAL_MS)
    await Promise.all([callee.stop(), caller.stop(), server.stop()])
  })
})
