/** Peers on two machines of one network, as far as network namespaces are machines; and another program that looks for them. */
import { afterEach, describe, expect, test } from 'vitest'
import { type Inside, Namespaces, noNamespaces } from '../network/namespaces.compliance.ts'

const missing = noNamespaces()
if (missing !== undefined) console.warn(`not tested on a real network: ${missing}`)

const SERVICE = '_peerline._tcp.local'
const V4 = ['10.88.0.1/24', '10.88.0.2/24']

/** ms within which two peers have to have found each other. */
const FOUND_MS = 2_000

describe.skipIf(missing !== undefined)('on a network of two machines', () => {
  let world: Namespaces
  afterEach(() => world.close())

  /** Two machines and a cable; without an address there is IPv6 between them, and it is link-local. */
  async function machines(options: { v4: readonly string[]; v6: boolean }): Promise<void> {
    world = new Namespaces()
    await world.add('a', 'b')
    for (const name of ['a', 'b']) {
      const off = options.v6 ? 0 : 1
      for (const which of ['default', 'all']) {
        await world.exec(
          name,
          `sysctl -qw net.ipv6.conf.${which}.accept_dad=0 net.ipv6.conf.${which}.disable_ipv6=${off}`,
        )
      }
    }
    const [a, b] = [options.v4.slice(0, 1), options.v4.slice(1)]
    await world.cable(['a', 'eth0', ...a], ['b', 'eth0', ...b])
  }

  /** A machine that drops datagrams of a port, as a switch may. */
  function drop(name: string, port: number): void {
    const rules = `table inet mute {
      chain heard {
        type filter hook input priority 0
        udp dport ${port} drop
      }
    }
    `
    world.feed(name, 'nft -f -', rules)
  }

  /** Says its id, then all that happens to it. */
  async function peer(name: string): Promise<Inside & { readonly id: string }> {
    const inside = world.module(
      name,
      `import { Identity } from 'src/identity/index.ts'
      import { LanDiscovery } from 'src/discovery/lan.ts'
      const identity = Identity.generate()
      const lan = await LanDiscovery.open({ identity, listening: () => ['[::]:4401'] })
      const since = performance.now()
      for (const event of ['found', 'lost']) {
        lan.addEventListener(event, ({ detail: { peer, addresses, by, reason } }) =>
          say({ event, peer, addresses, by, reason, ms: performance.now() - since }))
      }
      say({ id: identity.peerId, media: lan.media })
      onLine(async (line) => {
        if (line === 'refresh') return lan.refresh()
        await lan.close()
        process.stdin.destroy()
      })`,
    )
    const { id, media } = (await inside.next()) as { id: string; media: string[] }
    expect(media).toEqual(['mdns', 'beacon'])
    return { ...inside, id }
  }

  /** The next thing it says is that it has found the other; gives how many ms after its start. */
  async function found(inside: Inside, id: string, addresses: unknown, by: unknown): Promise<number> {
    const { ms, ...rest } = (await inside.next()) as { ms: number }
    expect(rest).toEqual({ event: 'found', peer: id, addresses, by })
    return ms
  }

  async function end(...all: Inside[]): Promise<void> {
    for (const inside of all) inside.tell('close')
    expect(await Promise.all(all.map(({ ended }) => ended))).toEqual(all.map(() => ''))
  }

  test.each([
    ['IPv4 and IPv6', { v4: V4, v6: true }, undefined],
    ['IPv4 alone', { v4: V4, v6: false }, undefined],
    ['IPv4 alone, where multicast DNS is dropped', { v4: V4, v6: false }, 5353],
    ['IPv4 alone, where beacons are dropped', { v4: V4, v6: false }, 61_457],
    ['IPv6 alone, without a router', { v4: [], v6: true }, undefined],
  ])('with %s, two peers find each other within two seconds, and know when one goes', async (_, options, dropped) => {
    await machines(options)
    if (dropped !== undefined) for (const name of ['a', 'b']) drop(name, dropped)
    const a = await peer('a')
    const b = await peer('b')
    const by = dropped === undefined ? expect.anything() : dropped === 5353 ? 'beacon' : 'mdns'
    const addresses = (host: string) =>
      options.v4.length > 0
        ? expect.arrayContaining([`${host}:4401`])
        : [expect.stringMatching(/^\[fe80::.*%eth0\]:4401$/)]
    const began = performance.now()
    expect(await found(b, a.id, addresses('10.88.0.1'), by)).toBeLessThan(FOUND_MS)
    await found(a, b.id, addresses('10.88.0.2'), by)
    expect(performance.now() - began).toBeLessThan(FOUND_MS)
    b.tell('close')
    expect(await a.next()).toMatchObject({ event: 'lost', peer: b.id, reason: 'goodbye' })
    expect(await b.ended).toBe('')
    await end(a)
  })

  test('a peer that is in other networks first, and then comes to this one, is found', async () => {
    await machines({ v4: V4, v6: false })
    await world.exec('b', 'ip link set eth0 down')
    const b = await peer('b')
    const a = await peer('a')
    await world.exec('b', 'ip link set eth0 up')
    await Promise.all(['a', 'b'].map((name) => world.carrier(name, 'eth0')))
    b.tell('refresh')
    a.tell('refresh')
    expect(await a.next()).toMatchObject({ event: 'found', peer: b.id })
    expect(await b.next()).toMatchObject({ event: 'found', peer: a.id })
    await end(a, b)
  })

  test('another program finds the service, and all there is to know of it', async () => {
    await machines({ v4: V4, v6: true })
    const b = await peer('b')
    const browser = world.module(
      'a',
      `import multicastDns from 'multicast-dns'
      const dns = multicastDns()
      const known = new Map()
      dns.on('response', ({ answers, additionals }) => {
        for (const { name, type, ttl, data } of [...answers, ...additionals]) known.set(type + ' ' + name, { ttl, data })
        if (known.size >= 5) say(Object.fromEntries(known))
      })
      dns.on('ready', () => dns.query('${SERVICE}', 'PTR'))
      onLine(() => dns.destroy(() => process.stdin.destroy()))`,
    )
    const known = (await browser.next()) as Record<string, { ttl: number; data: unknown }>
    expect(known[`PTR ${SERVICE}`]?.data).toBe(`${b.id}.${SERVICE}`)
    expect(known[`SRV ${b.id}.${SERVICE}`]?.data).toMatchObject({ port: 4401, target: `${b.id}.local` })
    expect(known[`A ${b.id}.local`]?.data).toBe('10.88.0.2')
    expect(known[`AAAA ${b.id}.local`]?.data).toMatch(/^fe80::/)
    expect(known[`TXT ${b.id}.${SERVICE}`]).toBeDefined()
    b.tell('close')
    for (let said = known; said[`PTR ${SERVICE}`]!.ttl > 0; ) said = (await browser.next()) as typeof known
    await end(browser)
  })
})
