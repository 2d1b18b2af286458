/**
 * Everything dead: peers that met once through a server, which then is gone for good, with its ledger, relay and reflector. One of
 * them is killed, moves to another network and is started again: what it has left is its address book. Each test says what
 * else must be there for the two to meet again.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'
import { loadRules } from './namespaces.js'

const AGENT = new URL('./media-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: everything dead: ${why}\n`)

const MOVER = 'port-restricted-1'
const OTHER = 'port-restricted-2'
const OPEN = 'open-1'
const PORT = 4_400

/** The longest that a dial takes in which nobody is found, ms. */
const GIVE_UP_MS = 15_000

/** The medium by which a peer was found; undefined where it was dialled at its address. */
const mediumOf = ({ signaling }) => signaling?.find(({ outcome }) => outcome === 'answered')?.medium

/** What the owner of a router has it do: the port that a host listens on is forwarded to it. */
const forwarded = (host) => `table ip forwarded {
  chain inward {
    type nat hook prerouting priority dstnat
    iifname "wan0" tcp dport ${PORT} dnat to ${host}:${PORT}
  }
}
`

describe.skipIf(!ok)('when every server is dead, and one of two peers has moved', () => {
  /** @type {Lab} */
  let lab
  let folder
  /** The server of all. */
  let server
  let url
  let agents

  beforeAll(async () => {
    lab = await Lab.create({ homes: ['port-restricted', 'port-restricted', 'open'] })
  }, 60_000)

  afterAll(() => lab?.destroy())

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'peerline-lab-'))
    server = lab.host('server').agent(AGENT)
    agents = [server]
    url = await serve(server, 'server', { ledger: join(folder, 'ledger') })
  })

  afterEach(async () => {
    for (const host of lab.hosts.values()) host.endAll()
    await Promise.all(agents.map(({ closed }) => closed))
    await rm(folder, { recursive: true })
  })

  async function kill(agent) {
    process.kill(agent.pid, 'SIGKILL')
    await agent.closed
  }

  async function serve(agent, host, options = {}) {
    const { url } = await agent.ask('serve', { listen: ':443', ...options })
    return `tcp://${lab.host(host).addresses.v4[0]}:443#${url.split('#')[1]}`
  }

  /** Starts the peer of a host, with what it remembers. */
  async function start(host, { settled = true, ...more } = {}) {
    const agent = lab.host(host).agent(AGENT)
    agents.push(agent)
    const files = { identity: join(folder, `${host}.key`), store: join(folder, `${host}.json`) }
    const options = { rendezvous: [url], ledgers: [{ ledger: url }], ...files, ...more }
    const { id } = await agent.ask('start', { options, online: settled })
    if (settled) await agent.ask('settle')
    return { agent, id, dial: (to) => agent.ask('dial', { to: to.id }, { timeoutMs: 35_000 }) }
  }

  /** Two peers meet, everything dies, and the first of them comes up elsewhere. */
  async function meetAndMove({ other = OTHER, mover = {}, others = {}, friends = [] }) {
    const [a, b, ...rest] = await Promise.all([
      start(MOVER, mover),
      start(other, others),
      ...friends.map((host) => start(host, { introduce: true })),
    ])
    for (const friend of rest) {
      for (const one of [a, b]) expect(await one.dial(friend)).not.toHaveProperty('failed')
    }
    expect(await a.dial(b)).not.toHaveProperty('failed')
    await a.agent.ask('saved')
    await kill(server)
    await kill(a.agent)
    await lab.home(MOVER).roam()
    return { a: await start(MOVER, { settled: false, ...mover }), b }
  }

  test('by three mutual peers at public addresses, which introduce them and tell the mover where it is now', async () => {
    const { a, b } = await meetAndMove({ friends: ['reflector', 'pub1', 'pub2'] })
    const dial = await a.dial(b)
    expect(mediumOf(dial)).toBe('mutual peers')
    expect(dial.direct).not.toBeNull()
    expect(dial.remote).toMatch(`${lab.home(OTHER).publicAddress.v4}:`)
  })

  test('by one mutual peer at a public address, where its word for our address is told to be enough', async () => {
    const { a, b } = await meetAndMove({ friends: ['pub1'], mover: { addressQuorum: { quorum: 1 } } })
    const dial = await a.dial(b)
    expect(mediumOf(dial)).toBe('mutual peers')
    expect(dial.direct).not.toBeNull()
  })

  test('by the last known address, where the other side has a public one', async () => {
    const { a, b } = await meetAndMove({ other: OPEN, others: { listen: [`:${PORT}`] } })
    const dial = await a.dial(b)
    expect(dial.path).toBe('tcp')
    expect(dial.remote).toBe(`${lab.host(OPEN).addresses.v4[0]}:${PORT}`)
  })

  test('by the last known address, where the router of the other side forwards a port, and a web service told it of that', async () => {
    const web = lab.host('reflector').agent(AGENT)
    agents.push(web)
    await web.ask('web', { port: 80 })
    const [router] = lab.home(OTHER).routers
    await loadRules(router.namespace, forwarded(lab.host(OTHER).addresses.v4[0]))
    const sources = [`http://${lab.host('reflector').addresses.v4[0]}/`]
    const { a, b } = await meetAndMove({
      others: { listen: [`:${PORT}`], publicAddress: { policy: 'single', sources } },
    })
    const dial = await a.dial(b)
    await loadRules(router.namespace, 'delete table ip forwarded')
    expect(dial.path).toBe('tcp')
    expect(dial.remote).toBe(`${lab.home(OTHER).publicAddress.v4}:${PORT}`)
  })

  test('by another rendezvous, which the other side named when they met, and its relay', async () => {
    const second = lab.host('pub2').agent(AGENT)
    agents.push(second)
    const theirs = await serve(second, 'pub2')
    const { a, b } = await meetAndMove({ others: { rendezvous: [url, theirs] } })
    const dial = await a.dial(b)
    expect(mediumOf(dial)).toBe(`visiting ${theirs.split('#')[0]}`)
  })

  test('not at all, where both have moved and nobody else is left: it is said what was tried', async () => {
    const { a, b } = await meetAndMove({})
    await lab.home(OTHER).roam()
    const { ms, failed } = await a.dial(b)
    expect(ms).toBeLessThan(GIVE_UP_MS)
    expect(failed.code).toBe('ERR_PEERLINE_OFFLINE')
    expect(failed.message).toContain(`cannot reach ${lab.host('server').addresses.v4[0]}:443`)
    expect(failed.message).toContain('cannot reach 192.168.1.')
  })
})
