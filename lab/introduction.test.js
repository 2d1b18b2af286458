/**
 * Peers that introduce each other: five homes behind five kinds of NAT, and a server that is killed once they have met.
 * From then on there is neither rendezvous nor relay nor reflector: what a peer knows of itself is what it knew before.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'

const PEER = new URL('./peer.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: introductions in the lab: ${why}\n`)

/** In a ring: each has a session with the one before it and the one after it. */
const HOMES = ['port-restricted', 'full-cone', 'double-nat', 'symmetric-random', 'address-restricted']
const RING = HOMES.map((kind, at) => [kind, HOMES[(at + 1) % HOMES.length]])

/** All others, two steps apart, and what carries the data then. */
const MISSING = [
  ['port-restricted', 'double-nat', ['tcp', 'udp']],
  ['full-cone', 'address-restricted', ['tcp', 'udp']],
  ['double-nat', 'address-restricted', ['tcp', 'udp']],
  ['full-cone', 'symmetric-random', ['tcp', 'udp']],
  ['port-restricted', 'symmetric-random', ['udp']],
]

const DIAL_MS = 40_000

describe.skipIf(!ok)('when the only server is killed', () => {
  /** @type {Lab} */
  let lab
  const peers = new Map()

  beforeAll(async () => {
    lab = await Lab.create({ homes: HOMES })
    const server = lab.host('server').agent(PEER)
    const { url } = await server.ask('serve', { listen: ':443' })
    const rendezvous = [`tcp://${lab.host('server').addresses.v4[0]}:443#${url.split('#')[1]}`]
    await Promise.all(
      HOMES.map(async (kind) => {
        const agent = lab.home(`${kind}-1`).host().agent(PEER)
        const options = { introduce: true }
        const { id } = await agent.ask('start', { rendezvous, options }, { timeoutMs: 30_000 })
        await agent.ask('settled')
        peers.set(kind, { agent, id })
      }),
    )
    for (const [a, b] of RING) {
      const dial = { to: peers.get(b).id, directMs: 15_000 }
      const { path } = await peers.get(a).agent.ask('dial', dial, { timeoutMs: DIAL_MS })
      expect(path, `${a} x ${b}`).not.toBe('relay')
    }
    process.kill(server.pid, 'SIGKILL')
    await server.closed
  }, 180_000)

  afterAll(() => lab?.destroy())

  test.each(MISSING)('%s x %s: introduced, and on a direct path', async (a, b, wanted) => {
    const dial = { to: peers.get(b).id, directMs: 0 }
    const { path, why } = await peers.get(a).agent.ask('dial', dial, { timeoutMs: DIAL_MS })
    expect(wanted).toContain(path)
    expect(why.history.filter(({ kind }) => kind === 'relay')).toEqual([])
  })
})
