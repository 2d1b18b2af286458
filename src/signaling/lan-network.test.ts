/** Peers on two machines of one network, as far as network namespaces are machines. */
import { afterEach, describe, expect, test } from 'vitest'
import { type Inside, Namespaces, noNamespaces } from '../network/namespaces.compliance.ts'

const missing = noNamespaces()
if (missing !== undefined) console.warn(`not tested on a real network: ${missing}`)

describe.skipIf(missing !== undefined)('on a network of two machines', () => {
  let world: Namespaces
  afterEach(() => world.close())

  /** Two machines and a cable; without an address there is IPv6 between them, and it is link-local. */
  async function machines(options: { v4: readonly string[]; v6: boolean }): Promise<void> {
    world = new Namespaces()
    await world.add('a', 'b')
    for (const name of ['a', 'b']) {
      await world.exec(name, `sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0`)
      const off = options.v6 ? 0 : 1
      await world.exec(
        name,
        `sysctl -qw net.ipv6.conf.default.disable_ipv6=${off} net.ipv6.conf.all.disable_ipv6=${off}`,
      )
    }
    const [a, b] = [options.v4.slice(0, 1), options.v4.slice(1)]
    await world.cable(['a', 'eth0', ...a], ['b', 'eth0', ...b])
  }

  const CALLEE = `
    import { Identity } from 'src/identity/index.ts'
    import { createOffer, openOffer, ReplayCache } from 'src/handshake/index.ts'
    import { Lan } from 'src/signaling/lan.ts'
    const callee = Identity.fromSeed(new Uint8Array(32).fill(7))
    `

  /** Answers offers, saying that it did. */
  const answering = (): Inside =>
    world.module(
      'b',
      `${CALLEE}
      const replay = new ReplayCache()
      let answered = 0
      const onOffer = async (message) => {
        const offer = openOffer(callee, message, { replay })
        answered++
        return offer.accept(offer.body).message
      }
      const lan = await Lan.open({ onOffer, answering: true })
      say({ links: lan.links })
      onLine(async (line) => {
        if (line === 'refresh') return say({ links: (await lan.refresh(), lan.links) })
        await lan.close()
        say({ answered })
        process.stdin.destroy()
      })`,
    )

  /** Dials at each word; says how long it took, or what was wrong. */
  const dialling = (): Inside =>
    world.module(
      'a',
      `${CALLEE}
      const caller = Identity.generate()
      const lan = await Lan.open({ onOffer: async () => undefined, answering: false })
      say({ links: lan.links })
      onLine(async (line) => {
        if (line === 'close') return lan.close().then(() => process.stdin.destroy())
        await lan.refresh()
        const offer = createOffer(caller, callee.peerId, { body: new Uint8Array(Number(line)).fill(1) })
        const started = performance.now()
        const signal = AbortSignal.timeout(5000)
        lan.exchange(callee.peerId, offer.requestId, offer.message, { signal }).then(
          (answer) => say({ bytes: offer.complete(answer).body.length, ms: performance.now() - started }),
          (error) => say(error.code),
        )
      })`,
    )

  async function dial({ tell, next }: Inside, bytes: number): Promise<unknown> {
    tell(String(bytes))
    return next()
  }

  async function end(callee: Inside, caller: Inside): Promise<unknown> {
    caller.tell('close')
    callee.tell('close')
    const last = await callee.next()
    expect([await callee.ended, await caller.ended]).toEqual(['', ''])
    return last
  }

  const V4 = ['10.88.0.1/24', '10.88.0.2/24']
  test.each([
    ['IPv4 and IPv6', { v4: V4, v6: true }, 2],
    ['IPv4 alone', { v4: V4, v6: false }, 1],
    ['IPv6 alone, without a router', { v4: [], v6: true }, 1],
    ['IPv4 of two subnets, and IPv6', { v4: ['10.88.0.1/24', '10.99.0.2/24'], v6: true }, 2],
  ])('with %s, an offer is answered at once, and opened once', async (_, options, links) => {
    await machines(options)
    const callee = answering()
    expect(await callee.next()).toEqual({ links })
    const caller = dialling()
    expect(await caller.next()).toEqual({ links })
    for (const bytes of [300, 5_000, 15_000]) {
      const { ms, ...rest } = (await dial(caller, bytes)) as { bytes: number; ms: number }
      expect(rest).toEqual({ bytes })
      // The first sending has done: the third, and broadcast, would come after 200 ms.
      expect(ms).toBeLessThan(200)
    }
    expect(await end(callee, caller)).toEqual({ answered: 3 })
  })

  test('who comes to the network later, or has left it and come back, is found', async () => {
    await machines({ v4: V4, v6: false })
    await world.exec('b', 'ip link set eth0 down')
    const callee = answering()
    expect(await callee.next()).toEqual({ links: 0 })
    const caller = dialling()
    await caller.next()
    expect(await dial(caller, 3)).toBe('ERR_PEERLINE_OFFLINE')
    await world.exec('b', 'ip link set eth0 up')
    await Promise.all(['a', 'b'].map((name) => world.carrier(name, 'eth0')))
    callee.tell('refresh')
    expect(await callee.next()).toEqual({ links: 1 })
    expect(await dial(caller, 3)).toMatchObject({ bytes: 3 })

    await world.exec('b', 'ip link delete eth0')
    await world.cable(['a', 'eth0', V4[0]!], ['b', 'eth0', V4[1]!])
    callee.tell('refresh')
    expect(await callee.next()).toEqual({ links: 1 })
    expect(await dial(caller, 3)).toMatchObject({ bytes: 3 })
    await end(callee, caller)
  })
})
