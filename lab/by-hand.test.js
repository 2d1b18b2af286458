/**
 * Copy and paste: two peers behind two NATs with nothing between them but a person, who takes a while. There is no rendezvous and
 * no relay; what each side tells of itself it has asked STUN servers for.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inNamespace, run } from './command.js'
import { Lab } from './lab.js'

const AGENT = new URL('./media-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: copy and paste in the lab: ${why}\n`)

/** ms from the answer being shown until it is pasted: longer than a session gets for its first path otherwise. */
const PASTE_MS = 22_000

/** s after which the routers forget a way in that nobody has used: what was opened when the answer was made is gone by then. */
const FORGET_S = 15

/** ms from then until both have a path. */
const OPEN_MS = 8_000

/** The caller and the answerer, each pair in homes of its own. */
const PAIRS = [
  ['port-restricted-1', 'port-restricted-2'],
  ['port-restricted-3', 'symmetric-random-1'],
  ['symmetric-random-2', 'port-restricted-4'],
]

describe.skipIf(!ok)('an answer that is pasted late', () => {
  /** @type {Lab} */
  let lab
  let reflectors
  /** What became of each dial, by the caller. */
  const dials = new Map()

  beforeAll(async () => {
    const homes = [...Array(4).fill('port-restricted'), 'symmetric-random', 'symmetric-random']
    lab = await Lab.create({ homes, verify: false }) // lab.test.js does
    const forget = `echo ${FORGET_S} > /proc/sys/net/netfilter/nf_conntrack_udp_timeout`
    const routers = [...lab.homes.values()].flatMap((home) => home.routers)
    await Promise.all(routers.map(({ namespace }) => run(...inNamespace(namespace, 'sh', ['-c', forget]))))
    // Any STUN servers will do: nobody registers there.
    const hosts = ['server', 'reflector'].map((name) => lab.host(name))
    await Promise.all(hosts.map((host) => host.agent(AGENT).ask('serve', { listen: ':3478' })))
    reflectors = hosts.map(({ addresses }) => `${addresses.v4[0]}:3478`)
    // All at once: most of it is waiting.
    await Promise.all(PAIRS.map(async ([caller, answerer]) => dials.set(caller, await call(caller, answerer))))
  }, 120_000)

  afterAll(() => lab?.destroy())

  async function start(host) {
    const agent = lab.host(host).agent(AGENT)
    const { id } = await agent.ask('start', { options: { reflectors, lan: false } })
    await agent.ask('settle')
    return { agent, id }
  }

  /** Has one call the other, and pastes the answer late. */
  async function call(caller, answerer) {
    const [a, b] = await Promise.all([start(caller), start(answerer)])
    const shown = new Promise((resolve) => {
      a.agent.onEvent = (event, { text }) => event === 'offer' && resolve(text)
    })
    const dialled = a.agent.ask('dial', { to: b.id, medium: 'by hand', ms: 60_000 }, { timeoutMs: 65_000 })
    const { answer } = await b.agent.ask('answer', { offer: await shown })
    await new Promise((resolve) => setTimeout(resolve, PASTE_MS))
    const pasted = performance.now()
    await a.agent.ask('take', { answer })
    return { ...(await dialled), openMs: performance.now() - pasted }
  }

  test.each(PAIRS)('%s calls %s: a direct session', (caller, answerer) => {
    const dial = dials.get(caller)
    expect(dial.failed, answerer).toBeUndefined()
    expect(dial.direct).not.toBeNull()
    expect(dial.openMs).toBeLessThan(OPEN_MS)
  })
})
