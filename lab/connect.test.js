/**
 * Peers in the lab: every pair connects, directly where it can be; what must not be told is not told; and an upgrade harms
 * nothing. A telling choice of pairs, once each; `npm run lab:matrix` has them all, five times, with their times.
 */
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'
import { forgetNames, nameServer, owed, SERVER_NAME } from './matrix.js'

const PEER = new URL('./peer.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: peers in the lab: ${why}\n`)

/** Pairs, and what must carry the data in the end; 'direct' is any direct path. */
const PAIRS = [
  ['open', 'port-restricted', 'tcp'],
  ['full-cone', 'address-restricted', 'direct'],
  ['port-restricted', 'port-restricted', 'tcp'],
  ['port-restricted-rst', 'port-restricted-rst', 'tcp'],
  ['double-nat', 'port-restricted', 'tcp'],
  ['symmetric-random', 'port-restricted', 'udp'],
  ['symmetric-sequential', 'port-restricted', 'direct'],
  ['symmetric-sequential', 'symmetric-sequential', 'direct'],
  ['symmetric-random', 'symmetric-random', 'relay'],
  ['udp-blocked', 'udp-blocked', 'tcp'],
  ['udp-blocked', 'symmetric-random', 'tcp'],
  ['tcp443-only', 'port-restricted', 'relay'],
  ['ipv6-only', 'dual-stack', 'tcp'],
  ['ipv6-only', 'port-restricted', 'relay'],
  ['lan', 'lan', 'tcp', 'together'],
  ['isolated-hairpin', 'isolated-hairpin', 'direct', 'together'],
  ['isolated-no-hairpin', 'isolated-no-hairpin', 'relay', 'together'],
]

describe.skipIf(!ok)('in the lab', () => {
  /** @type {Lab} */
  let lab
  let rendezvous
  const agents = new Map()

  /** The agent in a host, started when it is first asked for. */
  async function agentOf(host, options = {}, key = host.name) {
    if (!agents.has(key)) {
      agents.set(
        key,
        (async () => {
          const agent = host.agent(PEER)
          const { id } = await agent.ask('start', { rendezvous, options }, { timeoutMs: 30_000 })
          await agent.ask('settled')
          return { agent, id, host }
        })(),
      )
    }
    return agents.get(key)
  }

  beforeAll(async () => {
    const kinds = [...new Set(PAIRS.flatMap((pair) => pair.slice(0, 2)))]
    lab = await Lab.create({ homes: kinds.flatMap((kind) => [kind, kind]) })
    const server = lab.host('server')
    nameServer(lab, server.addresses.v4[0], server.addresses.v6[0])
    const { url } = await server.agent(PEER).ask('serve', { listen: ':443' })
    rendezvous = [`tcp://${SERVER_NAME}:443#${url.split('#')[1]}`]
  }, 60_000)

  afterAll(async () => {
    if (lab === undefined) return
    forgetNames(lab)
    await lab.destroy()
  })

  test.each(PAIRS)('%s x %s: %s', async (a, b, wanted, together) => {
    const one = lab.home(`${a}-1`)
    const other = together ? one : lab.home(`${b}-${a === b ? 2 : 1}`)
    const from = await agentOf(one.hosts[0])
    const to = await agentOf(together ? one.hosts[1] : other.hosts[0])
    const relayed = wanted === 'relay'
    expect(owed(a, b, Boolean(together)) === null).toBe(relayed)
    const dial = await from.agent.ask('dial', { to: to.id, directMs: relayed ? 8_000 : 15_000 }, { timeoutMs: 40_000 })
    if (wanted === 'direct') expect(['tcp', 'udp']).toContain(dial.path)
    else expect(dial.path).toBe(wanted)
    if (relayed) expect([dial.directMs, dial.why.advice.length > 0]).toEqual([null, true])
    else expect(dial.why.reasons.join()).toMatch(/proven path/)
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')])
  })

  test('a running stream hardly stops while it moves from the relay to a direct path', async () => {
    const from = await agentOf(lab.host('port-restricted-1'))
    const to = await agentOf(lab.host('port-restricted-2'))
    const dial = await from.agent.ask('dial', { to: to.id, ticks: true, directMs: 10_000 }, { timeoutMs: 30_000 })
    expect(dial.first).toBe('relay')
    expect(dial.path).toBe('tcp')
    // 200 ms and two round trips of the relay path.
    expect(dial.stallMs).toBeLessThanOrEqual(200 + 2 * 80)
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')])
  })

  test('an upgrade that fails leaves the relay as it was', async () => {
    const from = await agentOf(lab.host('symmetric-random-1'))
    const to = await agentOf(lab.host('symmetric-random-2'))
    const dial = await from.agent.ask('dial', { to: to.id, ticks: true, directMs: 4_000 }, { timeoutMs: 30_000 })
    expect(dial.path).toBe('relay')
    expect(dial.why.history.filter(({ kind, what }) => kind === 'relay' && what === 'lost')).toEqual([])
    expect(dial.stallMs).toBeLessThanOrEqual(200 + 2 * 80)
    expect(dial.why.advice.join(' ')).toMatch(/random port/)
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')])
  })

  test('a peer that uses relays alone sends nothing to anybody else', async () => {
    // A host where no other peer runs: those look around on their network now and then.
    const host = lab.host('full-cone-2')
    const other = lab.home('address-restricted-1')
    const from = await agentOf(host, { via: 'relay' }, 'hidden')
    const to = await agentOf(other.hosts[0])
    const capture = host.spawn('tcpdump', ['-i', 'eth0', '-n', '-q', '-t', '-l', 'ip or ip6'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let seen = ''
    capture.stdout.on('data', (chunk) => {
      seen += chunk
    })
    await once(capture.stderr, 'data')
    const dial = await from.agent.ask('dial', { to: to.id, directMs: 3_000 })
    const back = await to.agent.ask('dial', { to: from.id, directMs: 2_000 })
    capture.kill('SIGINT')
    await once(capture, 'close')
    expect([dial.path, back.path]).toEqual(['relay', 'relay'])
    const server = lab.host('server').addresses
    const strangers = seen
      .split('\n')
      .filter((line) => /^IP/.test(line))
      .filter((line) => ![...server.v4, ...server.v6].some((address) => line.includes(`${address}.443`)))
      // The machine itself looks for its neighbours on the link.
      .filter((line) => !/ICMP6/.test(line))
    expect(seen).toContain(`${server.v4[0]}.443`)
    expect(strangers).toEqual([])
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')])
  })

  test('two peers of one LAN find each other when no rendezvous is to be reached', async () => {
    const nobody = [rendezvous[0].replace(':443#', ':1#')]
    const [one, other] = lab.home('lan-1').hosts.map((host) => host.agent(PEER))
    const started = { rendezvous: nobody, online: false }
    const [, { id }] = await Promise.all([one.ask('start', started), other.ask('start', started)])
    const dial = await one.ask('dial', { to: id })
    expect(dial.path).toBe('tcp')
    await Promise.all([one.stop(), other.stop()])
  })

  test('direct paths alone: the relay is not asked', async () => {
    const from = await agentOf(lab.host('port-restricted-1'))
    const to = await agentOf(lab.host('port-restricted-2'))
    const dial = await from.agent.ask('dial', { to: to.id, via: 'direct', directMs: 10_000 }, { timeoutMs: 30_000 })
    expect(dial.paths).not.toContain('relay')
    expect(dial.why.history.filter(({ kind }) => kind === 'relay')).toEqual([])
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')])
  })

  test('no way at all is a typed error that says what was tried', async () => {
    const from = await agentOf(lab.host('symmetric-random-1'))
    const to = await agentOf(lab.host('symmetric-random-2'))
    const dial = from.agent.ask('dial', { to: to.id, via: 'udp' }, { timeoutMs: 40_000 })
    await expect(dial).rejects.toMatchObject({ remote: { code: 'ERR_PEERLINE_NO_PATH' } })
  })
})
