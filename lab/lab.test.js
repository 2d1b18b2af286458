import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { kinds } from './kinds.js'
import { Lab } from './lab.js'
import { loadRules, namespacesOf } from './namespaces.js'
import { ruleset } from './nat.js'

const TRAFFIC = new URL('./traffic-agent.js', import.meta.url)
const PORT = 7000
const CLOSE_MS = 3 // how far a round trip may be from what the cables add up to

const { ok, why } = await Lab.available()
if (!ok) console.warn(`\n  THE LAB IS NOT TESTED: ${why}\n`)

/** @type {Lab} */
let lab
const agents = new Map()

/** The traffic agent of a host, started once. */
const agent = (name) => {
  if (!agents.has(name)) agents.set(name, lab.host(name).agent(TRAFFIC))
  return agents.get(name)
}

const addressOf = (name, family = 'v4') => lab.host(name).addresses[family][0]

/** Asks the echo on a public host from a host. */
const ask = (from, to, { key = 'one', family = 'v4', afterMs = 0 } = {}) =>
  agent(from).ask('ask', {
    key: `${key} ${family}`,
    from: addressOf(from, family),
    address: addressOf(to, family),
    port: PORT,
    afterMs,
  })

async function roundTrip(from, to, family) {
  const times = []
  for (let n = 0; n < 5; n += 1) times.push((await ask(from, to, { key: 'rtt', family })).ms)
  return times.sort((a, b) => a - b)[0]
}

describe.skipIf(!ok)(`the lab${ok ? '' : ` (skipped: ${why})`}`, () => {
  beforeAll(async () => {
    lab = await Lab.create({ homes: Object.keys(kinds) })
    for (const name of ['server', 'reflector', 'open-1', 'pub2']) {
      for (const family of ['v4', 'v6']) await agent(name).ask('echo', { address: addressOf(name, family), port: PORT })
    }
  })
  afterAll(() => lab?.destroy())

  it('has every kind of home, each found to be what its name says', () => {
    expect(lab.reports.size).toBe(Object.keys(kinds).length)
    for (const [name, { kind, differences }] of lab.reports) {
      expect(name).toBe(`${kind}-1`)
      expect(differences).toEqual([])
    }
  })

  it('refuses a home that is not what its name says, naming expected and found', async () => {
    const home = lab.home('port-restricted-1')
    const [{ namespace, wan, lan }] = home.routers
    await loadRules(namespace, ruleset({ ports: 'random', filter: 'address-and-port', reset: true }, { wan, lan }))
    const failure = await lab.verify().then(
      () => null,
      (error) => error,
    )
    await home.reboot()
    expect(failure.code).toBe('ERR_LAB_NAT_MISMATCH')
    expect(failure.differences).toContainEqual({
      home: home.name,
      what: 'v4 mapping',
      expected: 'endpoint-independent',
      found: 'address-and-port-dependent',
    })
    expect(failure.differences).toContainEqual({
      home: home.name,
      what: 'v4 unsolicitedSyn',
      expected: 'dropped',
      found: 'refused',
    })
    expect(failure.differences.every(({ home: name }) => name === home.name)).toBe(true)
    expect(failure.message).toContain('port-restricted-1: v4 mapping is "address-and-port-dependent"')
  })

  it.each([
    ['port-restricted-1', 'server', 40, 'v4'],
    ['double-nat-1', 'reflector', 40, 'v4'],
    ['ipv6-only-1', 'server', 40, 'v6'],
    ['lan-1b', 'open-1', 60, 'v4'],
    ['dual-stack-1', 'open-1', 60, 'v6'],
    ['pub1', 'pub2', 60, 'v4'],
  ])('takes from %s to %s and back %i ms over IP%s', async (from, to, ms, family) => {
    const found = await roundTrip(from, to, family)
    expect(found).toBeGreaterThan(ms - 0.1)
    expect(found).toBeLessThan(ms + CLOSE_MS)
  })

  it('loses about as much as it is told, and counts it', async () => {
    await lab.link('pub1').set({ lossPercent: 10 })
    const before = await lab.link('pub1').stats()
    await agent('pub2').ask('count', { address: addressOf('pub2'), port: PORT + 1, stillMs: 300 })
    const traffic = { datagrams: 4000, size: 100, perSecond: 8000 }
    await agent('pub1').ask('send', { from: addressOf('pub1'), address: addressOf('pub2'), port: PORT + 1, ...traffic })
    const { datagrams } = await agent('pub2').ask('counted')
    const after = await lab.link('pub1').stats()
    await lab.setPub('clean')
    expect(datagrams).toBeGreaterThan(3600 - 120) // 400 lost are expected, 19 is one standard deviation
    expect(datagrams).toBeLessThan(3600 + 120)
    expect(after.out.lost - before.out.lost).toBe(4000 - datagrams)
  })

  it('lets through as much as its rate, and drops what its queue cannot hold', async () => {
    await lab.link('pub1').set({ rateMbit: 20, queueMs: 50 })
    await agent('pub2').ask('count', { address: addressOf('pub2'), port: PORT + 2, stillMs: 300 })
    const traffic = { datagrams: 5000, size: 1200, perSecond: 5000 } // 48 Mbit/s
    await agent('pub1').ask('send', { from: addressOf('pub1'), address: addressOf('pub2'), port: PORT + 2, ...traffic })
    const { datagrams, bytes, ms } = await agent('pub2').ask('counted')
    const { out } = await lab.link('pub1').stats()
    await lab.setPub('clean')
    const mbit = ((bytes + datagrams * 42) * 8) / ms / 1000 // 42 bytes of Ethernet, IP and UDP around each
    expect(mbit).toBeGreaterThan(19)
    expect(mbit).toBeLessThan(21)
    expect(out.overflowed).toBe(5000 - datagrams)
  })

  it('falls silent while the cable is out, and comes back', async () => {
    await lab.link('full-cone-1').set({ up: false })
    expect(await ask('full-cone-1', 'server')).toBeNull()
    await lab.link('full-cone-1').set({ up: true })
    expect(await ask('full-cone-1', 'server')).not.toBeNull()
  })

  it('changes delay in a running lab', async () => {
    await lab.link('short-mapping-1').set({ delayMs: 45 })
    const found = await roundTrip('short-mapping-1', 'server', 'v4')
    await lab.link('short-mapping-1').set({ delayMs: 15 })
    expect(Math.abs(found - 100)).toBeLessThan(CLOSE_MS)
  })

  it.each(['port-restricted-1', 'full-cone-1', 'double-nat-1', 'ipv6-only-1'])(
    'forgets the mappings of %s when it reboots',
    async (name) => {
      const family = name.startsWith('ipv6') ? 'v6' : 'v4'
      const late = { key: 'reboot', family, afterMs: 400 }
      expect(await ask(name, 'server', late)).not.toBeNull()
      const waiting = ask(name, 'server', late)
      await new Promise((resolve) => setTimeout(resolve, 150)) // the question is there, the answer not yet sent
      await lab.home(name).reboot()
      expect(await waiting).toBeNull()
      expect(await ask(name, 'server', { key: 'reboot', family })).not.toBeNull()
    },
  )

  it.each(['port-restricted-1', 'double-nat-1', 'isolated-hairpin-1', 'open-1'])(
    'gives %s another public address, by which the others see it',
    async (name) => {
      const host = lab.home(name).host().name
      const before = lab.home(name).publicAddress
      expect((await ask(host, 'server', { key: 'before' })).seen.address).toBe(before.v4)
      const now = await lab.home(name).changeAddress()
      expect(now.v4).not.toBe(before.v4)
      expect((await ask(host, 'server', { key: 'after' })).seen.address).toBe(now.v4)
    },
  )

  it('gives an IPv6 home another prefix', async () => {
    const before = lab.home('dual-stack-1').publicAddress
    const now = await lab.home('dual-stack-1').changeAddress()
    expect(now.v6).not.toBe(before.v6)
    expect((await ask('dual-stack-1', 'server', { key: 'after', family: 'v6' })).seen.address).toBe(now.v6)
    expect((await ask('dual-stack-1', 'server', { key: 'after' })).seen.address).toBe(now.v4)
  })

  it('still has every home as its name says, after all that', async () => {
    await lab.verify()
  })

  it.each(['symmetric-random-1', 'open-1'])(
    'blocks UDP of %s in the middle of things, and lets it again',
    async (name) => {
      await ask(name, 'server', { key: 'block' })
      await lab.home(name).blockUdp(true)
      expect(await ask(name, 'server', { key: 'block' })).toBeNull()
      await lab.home(name).blockUdp(false)
      expect(await ask(name, 'server', { key: 'block' })).not.toBeNull()
    },
  )

  it('runs TCP with the congestion control that was asked for', async () => {
    await agent('server').ask('listen', { port: PORT })
    for (const [name, family] of [
      ['lan-1a', 'v4'],
      ['ipv6-only-1', 'v6'],
      ['pub1', 'v4'],
      ['open-1', 'v6'],
    ]) {
      await agent(name).ask('connect', { address: addressOf('server', family), port: PORT })
      expect(await lab.host(name).exec('ss', ['-tinH', 'dport', '=', `:${PORT}`]), name).toContain('cubic')
    }
    const taken = await lab.host('server').exec('ss', ['-tinH', 'sport', '=', `:${PORT}`])
    expect(taken.match(/cubic/g)).toHaveLength(4)
  })

  it('has no way out', async () => {
    const routes = await lab.host('server').exec('ip', ['route', 'get', '8.8.8.8'])
    expect(routes).toContain('via 20.0.0.1')
    await expect(agent('server').ask('connect', { address: '8.8.8.8', port: 53 })).rejects.toMatchObject({
      remote: { code: 'ENETUNREACH' },
    })
  })
})

describe.skipIf(!ok)('the end of a lab', () => {
  const HOLD = `
    import { Lab } from ${JSON.stringify(new URL('./lab.js', import.meta.url).href)}
    const lab = await Lab.create({ homes: ['lan'], verify: false })
    const sleeper = lab.host('lan-1a').spawn('sleep', ['1000'])
    console.log(JSON.stringify({ namespaces: lab.namespaces, sleeper: sleeper.pid }))
    process.stdin.resume()
    process.stdin.on('end', () => process.exit(0))`

  /** A process that has a lab and waits. */
  async function owner() {
    const child = spawn(process.execPath, ['--input-type=module', '-e', HOLD], { stdio: ['pipe', 'pipe', 'inherit'] })
    const [line] = await once(createInterface({ input: child.stdout }), 'line')
    const { namespaces, sleeper } = JSON.parse(line)
    expect(namespaces.length).toBe(8) // core, four public hosts, two hosts and a router
    return { child, namespaces, sleeper }
  }

  const isAlive = (pid) => {
    try {
      return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')) // a dead one may wait for its parent
    } catch {
      return false
    }
  }

  const left = (names) => namespacesOf('plab-').filter((name) => names.includes(name))

  it('leaves no namespace and no process when destroyed', async () => {
    const one = await Lab.create({ homes: ['open', 'double-nat'], verify: false })
    const names = one.namespaces
    const sleeper = one
      .host('double-nat-1')
      .spawn('sh', ['-c', 'sleep 1000 & echo $!; wait'], { stdio: ['ignore', 'pipe', 'ignore'] })
    const [line] = await once(createInterface({ input: sleeper.stdout }), 'line')
    expect(names.length).toBe(9)
    await one.destroy()
    expect(left(names)).toEqual([])
    expect(isAlive(Number(line))).toBe(false)
    expect(await one.destroy()).toBeUndefined()
  })

  it.each(['SIGINT', 'SIGTERM'])('comes with %s', async (signal) => {
    const { child, namespaces, sleeper } = await owner()
    child.kill(signal)
    const [, received] = await once(child, 'exit')
    expect(received).toBe(signal)
    expect(left(namespaces)).toEqual([])
    expect(isAlive(sleeper)).toBe(false)
  })

  it('comes with process.exit', async () => {
    const { child, namespaces } = await owner()
    child.stdin.end()
    await once(child, 'exit')
    expect(left(namespaces)).toEqual([])
  })

  it('is made up for by the next lab when the owner was killed', async () => {
    const { child, namespaces, sleeper } = await owner()
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(left(namespaces)).toEqual(namespaces)
    expect(await Lab.removeStale()).toBeGreaterThanOrEqual(namespaces.length)
    expect(left(namespaces)).toEqual([])
    expect(isAlive(sleeper)).toBe(false)
  })
})

describe('a lab that cannot be', () => {
  it.skipIf(!ok)('names what it does not know', async () => {
    await expect(Lab.create({ homes: ['castle'] })).rejects.toMatchObject({ code: 'ERR_LAB_UNKNOWN' })
    await expect(Lab.create({ pub: 'perfect' })).rejects.toMatchObject({ code: 'ERR_LAB_UNKNOWN' })
  })
})
