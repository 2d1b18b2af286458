/**
 * A ledger that takes seconds: two peers behind two NATs find each other through nothing else, each by a clock that is wrong. There
 * is no rendezvous and no relay, so a session is a punched one, and a punch is two that begin at the same moment.
 *
 *     offer ---2 to 5 s---> seen by the callee    answer ---2 to 5 s---> seen by the caller    both begin
 *
 * When they begin is looked at from outside: the first packet that leaves either host for the other home.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Lab } from './lab.js'

const AGENT = new URL('./slow-ledger-agent.js', import.meta.url)
const STUN = new URL('./media-agent.js', import.meta.url)
const { ok, why } = await Lab.available()
if (!ok) console.warn(`\nNOT RUN: a slow ledger in the lab: ${why}\n`)

/** ms by which the clocks of the caller and the callee are wrong. */
const AHEAD_MS = [37_000, -12_000]

/** What is true of the ledger, and what it says: ms. */
const CALLER_READS_MS = [2_000, 4_000]
const CALLEE_READS_MS = [3_000, 5_000]
const TOLD_MS = [500, 2_000]
const SLOW = { knownMs: TOLD_MS, latencyMs: 3_500, spreadMs: 3_000 }

const BRISK_READS_MS = [500, 1_000]
const BRISK = { knownMs: [200, 500], latencyMs: 800, spreadMs: 500 }

/** It says that it takes no time, and its times are wrong by 20 s, in one topic one way and in the other the other way. */
const LYING = { knownMs: [200, 500], latencyMs: 0, spreadMs: 0 }
const LIE_MS = 20_000

/** ms until the caller of a lying ledger sees an entry: a round of punching, which takes 7 s, is over by then. */
const MUCH_LATER_MS = [8_000, 8_500]

/** ms between the first packets of the two. */
const TOGETHER_MS = 300

/** ms of a dial that comes to nothing: the exchange, and 15 s for a first path. */
const GIVE_UP_MS = 20_000

const DIAL_MS = 32_000

/** The caller and the callee, each pair in homes of its own, and at a ledger of its own. */
const PAIRS = {
  cones: { homes: ['port-restricted', 'port-restricted'] },
  // The caller knows nothing of the ledger's time but from its offer, and its clock is behind that of the callee.
  'a random port': {
    homes: ['port-restricted', 'symmetric-random'],
    aheadMs: AHEAD_MS.toReversed(),
    options: { listed: false },
  },
  lied: {
    homes: ['port-restricted', 'port-restricted'],
    caller: { ...LYING, lieMs: -LIE_MS, readMs: MUCH_LATER_MS },
    callee: { ...LYING, lieMs: LIE_MS, readMs: [2_000, 3_000] },
  },
  'no way': {
    homes: ['symmetric-random', 'symmetric-random'],
    caller: { ...BRISK, readMs: BRISK_READS_MS },
    callee: { ...BRISK, readMs: BRISK_READS_MS },
  },
}

describe.skipIf(!ok)('a ledger that takes seconds', () => {
  /** @type {Lab} */
  let lab
  let folder
  let reflectors
  /** What became of each pair, by its name. */
  const outcomes = new Map()

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'peerline-lab-'))
    const pairs = Object.entries(PAIRS)
    lab = await Lab.create({ homes: pairs.flatMap(([, { homes }]) => homes), verify: false }) // lab.test.js does
    // Any STUN servers will do: nobody registers there.
    const hosts = ['server', 'reflector'].map((name) => lab.host(name))
    await Promise.all(hosts.map((host) => host.agent(STUN).ask('serve', { listen: ':3478' })))
    reflectors = hosts.map(({ addresses }) => `${addresses.v4[0]}:3478`)
    const homes = [...lab.homes.values()]
    // All at once: most of it is waiting.
    await Promise.all(
      pairs.map(async ([name, pair], at) => outcomes.set(name, await run(name, pair, homes.slice(2 * at, 2 * at + 2)))),
    )
  }, 50_000)

  afterAll(async () => {
    await lab?.destroy()
    await rm(folder, { recursive: true })
  })

  async function start(home, skewMs, settings, options) {
    const agent = home.host().agent(AGENT)
    const { id, wrongMs } = await agent.ask('start', { skewMs, settings, options: { reflectors, ...options } })
    // The library saw no other clock.
    expect(Math.abs(wrongMs - skewMs)).toBeLessThan(100)
    await agent.ask('settle')
    return { agent, id }
  }

  /** True time of the first packet that leaves a host for a home, ms since 1970, once there is one. */
  async function firstPacket(from, to) {
    const filter = ['dst', 'host', to.publicAddress.v4]
    const tcpdump = from.host().spawn('tcpdump', ['-i', 'eth0', '-n', '-q', '-tt', '-l', '-c', '1', ...filter], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    // It says so when it listens.
    await new Promise((resolve) => tcpdump.stderr.once('data', resolve))
    return new Promise((resolve) => {
      createInterface({ input: tcpdump.stdout }).once('line', (line) => resolve(Number(line.split(' ')[0]) * 1_000))
    })
  }

  async function run(name, { caller = {}, callee = {}, options = {}, aheadMs = AHEAD_MS }, [from, to]) {
    const file = join(folder, name)
    const [a, b] = await Promise.all([
      start(from, aheadMs[0], { file, ...SLOW, readMs: CALLER_READS_MS, ...caller }, options),
      start(to, aheadMs[1], { file, ...SLOW, readMs: CALLEE_READS_MS, ...callee }),
    ])
    await a.agent.ask('hear', { of: b.id })
    const began = Promise.all([firstPacket(from, to), firstPacket(to, from)])
    const dial = await a.agent.ask('dial', { to: b.id, ms: DIAL_MS }, { timeoutMs: DIAL_MS + 3_000 })
    const kept = await b.agent.ask('kept')
    const [callerBegan, calleeBegan] = dial.failed === undefined ? await began : []
    const [offered, answered] = kept
    // For whoever reads the log of a run: ms since the dial began.
    const moments = { offer: offered?.at, answer: answered?.at, callee: calleeBegan, caller: callerBegan }
    const seen = Object.entries(moments).flatMap(([what, at]) => (at ? `${what} ${Math.round(at - dial.at)}` : []))
    console.info(`${name}: ${seen.join(', ')}, ${dial.failed?.message ?? dial.path} ${Math.round(dial.ms)} ms`)
    return { dial, kept, apartMs: callerBegan - calleeBegan }
  }

  test.each(['cones', 'a random port'])('%s: both begin at the same moment, and meet', (name) => {
    const { dial, apartMs } = outcomes.get(name)
    expect(dial.failed).toBeUndefined()
    expect(['tcp', 'udp']).toContain(dial.path)
    expect(dial.paths).not.toContain('relay')
    expect(Math.abs(apartMs)).toBeLessThan(TOGETHER_MS)
  })

  test.each(Object.keys(PAIRS))('%s: it costs one offer and one answer', (name) => {
    expect(outcomes.get(name).kept.map(({ kind }) => kind)).toEqual(['offer', 'answer'])
  })

  test('a ledger that lies of its times and is later than it says: the callee has begun long before, and is met all the same', () => {
    const { dial, apartMs } = outcomes.get('lied')
    expect(dial.failed).toBeUndefined()
    expect(['tcp', 'udp']).toContain(dial.path)
    expect(apartMs).toBeGreaterThan(7_000)
  })

  test('NATs that cannot be punched: it is said so, and soon', () => {
    const { dial } = outcomes.get('no way')
    expect(dial.failed.code).toBe('ERR_PEERLINE_NO_PATH')
    expect(dial.ms).toBeLessThan(GIVE_UP_MS)
  })
})
