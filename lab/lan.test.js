/**
 * Two peers on one bridge, with no route to anywhere and no server: they find each other, and talk, within two seconds.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'
import { loadRules } from './namespaces.js'

const AGENT = new URL('./lan-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: peers on a local network: ${why}\n`)

/** ms from the start of the later peer until it has an answer of the other one. */
const TALK_MS = 2_000

/** What the network drops of UDP. */
const drops = (ports) => `table inet mute
delete table inet mute
table inet mute {
  chain heard {
    type filter hook input priority 0
    ${ports.map((port) => `udp dport ${port} drop`).join('\n    ')}
  }
}
`
const MDNS_PORT = 5353
const SIGNALING_PORT = 61_456
const BEACON_PORT = 61_457

describe.skipIf(!ok)('two peers on one bridge, and nothing else', () => {
  /** @type {Lab} */
  let lab
  /** @type {import('./home.js').Host[]} */
  let hosts

  beforeAll(async () => {
    lab = await Lab.create({ homes: ['lan'] })
    hosts = lab.home('lan-1').hosts
    for (const host of hosts) {
      await host.exec('ip', ['-4', 'route', 'del', 'default'])
      await expect(host.exec('ping', ['-c', '1', '-W', '1', lab.host('server').addresses.v4[0]])).rejects.toThrow()
    }
  }, 60_000)

  afterAll(() => lab?.destroy())

  /** Starts a peer in each host, one after the other, as people switch on their machines. */
  async function start(options, dropped) {
    for (const host of hosts) await loadRules(host.namespace, drops(dropped))
    const peers = []
    for (const host of hosts) {
      const agent = host.agent(AGENT)
      peers.push({ agent, host, ...(await agent.ask('start', options)) })
    }
    return peers
  }

  async function stop(peers) {
    for (const { agent } of peers) {
      await agent.ask('stop')
      await agent.stop()
    }
  }

  test.each([
    ['multicast DNS', 'mdns', [SIGNALING_PORT, BEACON_PORT]],
    ['beacons, where multicast DNS is dropped', 'beacon', [SIGNALING_PORT, MDNS_PORT]],
  ])('find each other by %s, and talk', async (_, by, dropped) => {
    const peers = await start({ signaling: false, discovery: {} }, dropped)
    const [first, second] = peers
    const met = await second.agent.ask('meet', { to: first.id })
    expect(met).toMatchObject({ by, answer: 'hello yourself' })
    expect(met.addresses[0]).toMatch(`${first.host.addresses.v4[0]}:`)
    expect(met.ms).toBeLessThan(TALK_MS)
    expect(await first.agent.ask('meet', { to: second.id })).toMatchObject({ by, answer: 'hello yourself' })
    const lost = first.agent.ask('lost', { of: second.id })
    await stop([second])
    expect(await lost).toEqual({ reason: 'goodbye' })
    await stop([first])
  })

  test('talk by id alone, though neither announces itself', async () => {
    const peers = await start({ signaling: true }, [MDNS_PORT, BEACON_PORT])
    const [first, second] = peers
    const { ms, answer } = await second.agent.ask('dial', { to: first.id })
    expect(answer).toBe('hello yourself')
    expect(ms).toBeLessThan(TALK_MS)
    await stop(peers)
  })
})
