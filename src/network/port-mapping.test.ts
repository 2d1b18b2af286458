import { existsSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { type Inside, Namespaces, noNamespaces } from './namespaces.compliance.ts'
import { type Answer, FakeRouter } from './pcp-router.compliance.ts'
import { type MappingLanguage, PortMapper, type PortMapping } from './port-mapping.ts'

const ROUTER = '127.0.0.77'
const PUBLIC = '11.22.33.1'
const MINIUPNPD = '/usr/sbin/miniupnpd'

const closing: { close(): unknown }[] = []
afterEach(async () => {
  vi.useRealTimers()
  for (const one of closing.splice(0).reverse()) await one.close()
})

describe('with a router that says what the test likes', () => {
  let router: FakeRouter
  let answer: (request: Answer) => Answer | undefined
  const granted = (request: Answer): Answer => ({ ...request, ip: PUBLIC })

  beforeEach(async () => {
    answer = granted
    router = await FakeRouter.start(ROUTER, (request) => answer(request))
    closing.push(router)
    // The clock of leases and pauses; sockets and microtasks go on as ever.
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  })

  function mapper(options: { languages?: readonly MappingLanguage[]; udpPort?: number; signal?: AbortSignal } = {}) {
    const told: (readonly PortMapping[])[] = []
    const made = PortMapper.start({
      tcpPort: 4_000,
      gateways: [ROUTER],
      languages: ['pcp', 'natpmp'],
      onChange: (mappings) => told.push(mappings),
      ...options,
    })
    closing.push(made)
    return { mapper: made, told }
  }

  /** Waits for what comes over sockets, the clock being still. */
  async function until(check: () => void): Promise<void> {
    for (let turns = 0; ; turns++) {
      try {
        return check()
      } catch (error) {
        if (turns === 2_000) throw error
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
  }

  /** Lets the clock run until something has happened. */
  async function runClock(stepMs: number, check: () => void): Promise<number> {
    const start = Date.now()
    for (let steps = 0; ; steps++) {
      try {
        check()
        return Date.now() - start
      } catch (error) {
        if (steps === 5_000) throw error
        for (let turns = 0; turns < 5; turns++) await new Promise((resolve) => setImmediate(resolve))
        vi.advanceTimersByTime(stepMs)
      }
    }
  }

  test('a port is mapped, and told', async () => {
    answer = (request) => ({ ...granted(request), external: 4_321 })
    const { told, mapper: made } = mapper()
    await until(() => expect(told.length).toBe(1))
    expect(made.mappings).toEqual([
      {
        protocol: 'tcp',
        internalPort: 4_000,
        internalHost: '127.0.0.1',
        external: { host: PUBLIC, port: 4_321, family: 4 },
        reachable: true,
        expires: Date.now() + 1_800_000,
        via: 'pcp',
      },
    ])
    expect(told).toEqual([made.mappings])
    expect(made.problem).toBeUndefined()
  })

  test('it is renewed after half of the lease: the same port, the same nonce, and no word of it', async () => {
    answer = (request) => ({ ...granted(request), external: 4_321 })
    const { told, mapper: made } = mapper()
    await until(() => expect(told.length).toBe(1))
    const [first] = router.requests
    const { expires } = made.mappings[0]!
    const waited = await runClock(10_000, () => expect(router.requests.length).toBe(2))
    expect(waited).toBeGreaterThan(890_000)
    expect(waited).toBeLessThan(930_000)
    expect(router.requests[1]).toEqual({ ...first, external: 4_321 })
    await until(() => expect(made.mappings[0]!.expires).toBeGreaterThan(expires))
    expect(told.length).toBe(1)
  })

  test('a router that forgot is asked anew, and the new address is told', async () => {
    const { told } = mapper()
    await until(() => expect(told.length).toBe(1))
    answer = (request) => ({ ...granted(request), ip: '11.22.33.99' })
    await runClock(10_000, () => expect(told.length).toBe(2))
    expect(told[1]![0]!.external.host).toBe('11.22.33.99')
  })

  test('a router that was away for a while knows us again by the same nonce', async () => {
    const { told } = mapper({ languages: ['pcp'] })
    await until(() => expect(told.length).toBe(1))
    let missed = 0
    answer = (request) => (++missed > 10 ? granted(request) : undefined)
    await runClock(1_000, () => expect(missed).toBeGreaterThan(10))
    expect(new Set(router.requests.map(({ nonce }) => nonce)).size).toBe(1)
  })

  test('who asks for a retry while a round is under way gets another one', async () => {
    const { mapper: made, told } = mapper({ languages: ['pcp'] })
    answer = (request) => {
      made.retry()
      answer = granted
      return { ...request, result: 2 }
    }
    await until(() => expect(told.length).toBe(1))
  })

  test('a router that speaks only NAT-PMP is spoken to in NAT-PMP', async () => {
    router.languages = ['natpmp']
    const { told } = mapper({ udpPort: 5_000 })
    await until(() => expect(told.length).toBe(1))
    expect(told[0]!.map(({ via, protocol, internalPort }) => [via, protocol, internalPort])).toEqual([
      ['natpmp', 'tcp', 4_000],
      ['natpmp', 'udp', 5_000],
    ])
  })

  test('a mapping behind a second NAT is kept, and is not reachable', async () => {
    answer = (request) => ({ ...request, ip: '100.64.1.2' })
    const { told } = mapper()
    await until(() => expect(told.length).toBe(1))
    expect(told[0]![0]).toMatchObject({ external: { host: '100.64.1.2' }, reachable: false })
  })

  test.each([['0.0.0.0'], ['127.0.0.1'], ['224.0.0.1'], ['169.254.1.1']])(
    'the address %s is refused, and the mapping taken back',
    async (ip) => {
      answer = (request) => ({ ...request, ip })
      const { mapper: made, told } = mapper({ languages: ['pcp'] })
      await until(() => expect(made.problem?.code).toBe('ERR_PEERLINE_REMOTE'))
      expect(router.requests.map(({ lifetime }) => lifetime)).toEqual([1_800, 0])
      expect(told).toEqual([])
    },
  )

  test('a lease of one second does not make us ask every second', async () => {
    answer = (request) => ({ ...granted(request), lifetime: 1 })
    const { told } = mapper()
    await until(() => expect(told.length).toBe(1))
    const waited = await runClock(1_000, () => expect(router.requests.length).toBe(2))
    expect(waited).toBeGreaterThanOrEqual(15_000)
  })

  test('a router that is gone costs the mapping when its lease has run out', async () => {
    const { told, mapper: made } = mapper({ languages: ['pcp'] })
    await until(() => expect(told.length).toBe(1))
    answer = () => undefined
    const waited = await runClock(2_000, () => expect(told.length).toBe(2))
    expect(told[1]).toEqual([])
    expect(waited).toBeGreaterThan(1_790_000)
    expect(waited).toBeLessThan(1_830_000)
    expect(made.problem?.code).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('a router that refuses is left in peace after some rounds, until asked to retry', async () => {
    answer = (request) => ({ ...request, result: 2 })
    const { mapper: made, told } = mapper({ languages: ['pcp'] })
    await until(() => expect(made.problem?.message).toMatch(/result 2/))
    const at = [Date.now()]
    const seen = () => router.requests.length
    for (let rounds = seen(); rounds < 7; rounds = seen()) {
      await runClock(1_000, () => expect(seen()).toBeGreaterThan(rounds))
      at.push(Date.now())
    }
    const pauses = at.slice(1).map((time, nth) => Math.round((time - at[nth]!) / 1_000 / 15))
    expect(pauses).toEqual([1, 2, 4, 8, 16, 32])
    for (let steps = 0; steps < 100; steps++) {
      vi.advanceTimersByTime(60_000)
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect(seen()).toBe(7)
    answer = granted
    made.retry()
    await until(() => expect(told.length).toBe(1))
  })

  test('what is no answer to the question is passed over', async () => {
    router.noise = true
    const { told } = mapper({ udpPort: 5_000 })
    await until(() => expect(told.length).toBe(1))
    expect(told[0]!.map(({ external }) => external.port)).toEqual([4_000, 5_000])
  })

  test.each(['pcp', 'natpmp'] as const)('closing takes mappings back by %s', async (language) => {
    const { mapper: made, told } = mapper({ languages: [language], udpPort: 5_000 })
    await until(() => expect(told.length).toBe(1))
    router.requests.length = 0
    await made.close()
    const back = router.requests.map(({ protocol, internal, lifetime }) => [protocol, internal, lifetime])
    expect(back.sort()).toEqual([
      ['tcp', 4_000, 0],
      ['udp', 5_000, 0],
    ])
    expect(made.mappings).toEqual([])
    expect(told.length).toBe(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('a signal closes too, and what was just being asked for is taken back', async () => {
    const cancel = new AbortController()
    answer = ({ lifetime, ...request }) => (lifetime > 0 ? undefined : granted({ lifetime, ...request }))
    const { mapper: made } = mapper({ languages: ['pcp'], signal: cancel.signal })
    await until(() => expect(router.requests.length).toBe(1))
    cancel.abort()
    await made.close()
    expect(router.requests.at(-1)).toMatchObject({ internal: 4_000, lifetime: 0 })
    expect(vi.getTimerCount()).toBe(0)
  })

  test('a router that is silent holds up closing for two seconds at most', async () => {
    const { mapper: made, told } = mapper({ languages: ['pcp'] })
    await until(() => expect(told.length).toBe(1))
    vi.useRealTimers()
    answer = () => undefined
    const started = performance.now()
    await made.close()
    expect(performance.now() - started).toBeLessThan(2_500)
  })

  test('a listener that throws ends nothing', async () => {
    let told = 0
    const made = PortMapper.start({
      tcpPort: 4_000,
      gateways: [ROUTER],
      languages: ['pcp'],
      onChange: () => {
        told++
        throw new TypeError('of the listener')
      },
    })
    closing.push(made)
    await until(() => expect(told).toBe(1))
    await runClock(10_000, () => expect(router.requests.length).toBe(2))
    await made.close()
  })
})

test('without ports nothing is asked', async () => {
  const router = await FakeRouter.start(ROUTER, (request) => request)
  closing.push(router)
  const made = PortMapper.start({ gateways: [ROUTER] })
  await made.close()
  expect(router.requests).toEqual([])
})

const missing = noNamespaces() ?? (existsSync(MINIUPNPD) ? undefined : `${MINIUPNPD} is not installed`)
if (missing !== undefined) console.warn(`not tested with a real router: ${missing}`)

/** A house with a router, and the internet beyond. Public-looking addresses, for the router insists on one. */
describe.skipIf(missing !== undefined)('with miniupnpd', () => {
  const world = new Namespaces()

  beforeAll(async () => {
    await world.add('home', 'router', 'outside')
    await world.cable(['home', 'eth0', '10.77.0.2/24'], ['router', 'lan', '10.77.0.1/24'])
    await world.cable(['router', 'wan', `${PUBLIC}/24`], ['outside', 'eth0', '11.22.33.2/24'])
    await world.exec('home', 'ip route add default via 10.77.0.1')
    await world.exec('router', 'sysctl -qw net.ipv4.ip_forward=1')
    world.feed('router', 'nft -f -', RULES)
    const config = world.file('miniupnpd.conf', CONFIG)
    const daemon = world.start('router', MINIUPNPD, ['-d', '-f', config, '-P', world.file('miniupnpd.pid', '')])
    await new Promise<void>((resolve, reject) => {
      let log = ''
      const onLog = (text: Buffer) => {
        log += text
        if (log.includes('Listening for NAT-PMP/PCP')) resolve()
      }
      daemon.stderr.on('data', onLog)
      daemon.stdout.on('data', onLog)
      daemon.once('exit', () => reject(new Error(`miniupnpd has ended: ${log}`)))
    })
  })

  afterAll(() => world.close())

  const home = (languages: readonly MappingLanguage[] | undefined): Inside =>
    world.module(
      'home',
      `import net from 'node:net'
      import dgram from 'node:dgram'
      import { PortMapper } from 'src/network/port-mapping.ts'
      const server = net.createServer((socket) => socket.end('from inside')).listen(4700, '0.0.0.0')
      const udp = dgram.createSocket('udp4').bind(4700)
      udp.on('message', (_, { port, address }) => udp.send('from inside', port, address))
      const mapper = PortMapper.start({
        tcpPort: 4700, udpPort: 4700, languages: ${JSON.stringify(languages)}, onChange: say,
      })
      onLine(async () => {
        await mapper.close()
        server.close()
        udp.close()
        say('closed')
        process.stdin.destroy()
      })`,
    )

  /** What the world outside gets from the router's port, by TCP and by UDP. */
  async function fromOutside(): Promise<unknown> {
    const { next } = world.module(
      'outside',
      `import net from 'node:net'
      import dgram from 'node:dgram'
      const tcp = new Promise((resolve) => {
        const socket = net.connect({ host: '${PUBLIC}', port: 4700, timeout: 500 })
        socket.on('data', (data) => resolve(String(data)))
        socket.on('error', () => resolve('nothing'))
        socket.on('timeout', () => { socket.destroy(); resolve('nothing') })
      })
      const udp = new Promise((resolve) => {
        const socket = dgram.createSocket('udp4')
        const end = (said) => { socket.close(); resolve(said) }
        const timer = setTimeout(end, 500, 'nothing')
        socket.on('message', (data) => { clearTimeout(timer); end(String(data)) })
        socket.send('knock', 4700, '${PUBLIC}')
      })
      say(await Promise.all([tcp, udp]))`,
    )
    return next()
  }

  const both = (via: MappingLanguage) =>
    ['tcp', 'udp'].map((protocol) =>
      expect.objectContaining({
        protocol,
        internalPort: 4_700,
        internalHost: '10.77.0.2',
        external: { host: PUBLIC, port: 4_700, family: 4 },
        reachable: true,
        via,
      }),
    )

  test.each<[string, readonly MappingLanguage[] | undefined, MappingLanguage]>([
    ['whatever it speaks best', undefined, 'pcp'],
    ['PCP', ['pcp'], 'pcp'],
    ['NAT-PMP', ['natpmp'], 'natpmp'],
    ['UPnP', ['upnp'], 'upnp'],
  ])('by %s: the ports are mapped, lead to us, and are gone when closed', async (_, languages, via) => {
    expect(await fromOutside()).toEqual(['nothing', 'nothing'])
    const inside = home(languages)
    expect(await inside.next()).toEqual(both(via))
    expect(await fromOutside()).toEqual(['from inside', 'from inside'])
    inside.tell('close')
    expect(await inside.next()).toBe('closed')
    expect(await inside.ended).toBe('')
    expect(await world.exec('router', 'nft list ruleset')).not.toMatch(/4700/)
    expect(await fromOutside()).toEqual(['nothing', 'nothing'])
  })

  test('by UPnP: a port that another machine has taken gives another one', async () => {
    await world.exec('home', 'ip addr add 10.77.0.3/24 dev eth0')
    const other = world.module(
      'home',
      `import { findIgds, mapByUpnp, unmapByUpnp } from 'src/network/upnp.ts'
      const signal = AbortSignal.timeout(5000)
      const igds = await findIgds({ signal })
      const igd = igds.find(({ localAddress }) => localAddress === '10.77.0.3') ?? { ...igds[0], localAddress: '10.77.0.3' }
      const mapping = { protocol: 'tcp', internalPort: 4700, externalPort: 4700, lifetime: 600 }
      say(await mapByUpnp(igd, mapping, { signal }))
      onLine(async () => {
        await unmapByUpnp(igd, mapping, { signal })
        process.stdin.destroy()
      })`,
    )
    expect(await other.next()).toMatchObject({ internalHost: '10.77.0.3', external: { port: 4_700 } })
    await world.exec('home', 'ip addr del 10.77.0.3/24 dev eth0')
    const inside = home(['upnp'])
    const mappings = (await inside.next()) as PortMapping[]
    const port = mappings.find(({ protocol }) => protocol === 'tcp')!.external.port
    expect(port).toBeGreaterThanOrEqual(49_152)
    inside.tell('close')
    expect(await inside.next()).toBe('closed')
    expect(await world.exec('router', 'nft list ruleset')).not.toContain(String(port))
    await world.exec('home', 'ip addr add 10.77.0.3/24 dev eth0')
    other.tell('close')
    expect(await other.ended).toBe('')
    await world.exec('home', 'ip addr del 10.77.0.3/24 dev eth0')
  })
})

const RULES = `table inet filter {
  chain miniupnpd {
  }
  chain prerouting_miniupnpd {
  }
  chain postrouting_miniupnpd {
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname lan accept
    jump miniupnpd
  }
  chain prerouting {
    type nat hook prerouting priority -100;
    jump prerouting_miniupnpd
  }
  chain postrouting {
    type nat hook postrouting priority 100;
    oifname wan masquerade
    jump postrouting_miniupnpd
  }
}
`

const CONFIG = `ext_ifname=wan
listening_ip=lan
http_port=0
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
ipv6_disable=yes
uuid=7c2a2bd2-4f5c-4a86-9f0e-5f1f2b6f6d01
allow 1024-65535 10.77.0.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
`
