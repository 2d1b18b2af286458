import { afterEach, describe, expect, test } from 'vitest'
import { parseHostPort } from '../network/address.ts'
import { freePort } from '../network/free-port.compliance.ts'
import { reflectTcp, reflectUdp } from '../network/reflect.ts'
import { Peer, type PeerOptions } from '../peer/index.ts'
import { UdpReflector } from './reflector.ts'
import { Server, type ServerOptions } from './server.ts'

const HOST = '127.0.0.1'
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const servers: Server[] = []
const peers: Peer[] = []
afterEach(async () => {
  await Promise.all(peers.splice(0).map((peer) => peer.close({ signal: AbortSignal.timeout(500) })))
  await Promise.all(servers.splice(0).map((server) => server.close({ signal: AbortSignal.timeout(500) })))
})

async function start(options: ServerOptions = {}): Promise<Server & { port: number }> {
  const server = await Server.create({ listen: `${HOST}:0`, ...options })
  servers.push(server)
  return Object.assign(server, { port: Number(/:(\d+)#/.exec(server.url)![1]) })
}

describe('the reflectors of a server', () => {
  test('are the main port, and one more, over UDP and TCP', async () => {
    const server = await start()
    expect(server.reflectors).toEqual([expect.stringMatching(/^:\d+$/)])
    const { port } = parseHostPort(server.reflectors[0]!)
    expect(port).not.toBe(server.port)
    for (const at of [server.port, port]) {
      expect(await reflectUdp(HOST, at)).toMatchObject({ host: HOST })
      expect(await reflectTcp(HOST, at)).toMatchObject({ host: HOST })
    }
  })

  test('are at a port of choice', async () => {
    const port = await freePort()
    expect((await start({ alternatePort: port })).reflectors).toEqual([`:${port}`])
    await expect(start({ alternatePort: port })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })

  test('are at two addresses where there are two, and those of others follow', async () => {
    const server = await start({
      alternateHost: '127.0.0.2',
      reflectors: ['stun.example.org:3478', '[2a00:1450::1]:1'],
    })
    const [other] = server.reflectors
    expect(server.reflectors).toEqual([
      other,
      `127.0.0.2:${server.port}`,
      `127.0.0.2${other}`,
      'stun.example.org:3478',
      '[2a00:1450::1]:1',
    ])
  })

  test('are none but the main port when switched off', async () => {
    const server = await start({ alternatePort: false })
    expect(server.reflectors).toEqual([])
    expect(await reflectUdp(HOST, server.port)).toMatchObject({ host: HOST })
  })

  test('are given up with the server', async () => {
    const server = await start({ alternateHost: '127.0.0.2' })
    const [main, other] = [server.port, parseHostPort(server.reflectors[0]!).port]
    await server.close()
    for (const host of [HOST, '127.0.0.2']) {
      for (const port of [main, other]) {
        const again = new UdpReflector()
        await again.bind(host, port)
        await again.close()
        await expect(reflectTcp(host, port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
      }
    }
  })

  test.each<[string, ServerOptions]>([
    ['an alternate host without an alternate port', { alternatePort: false, alternateHost: '127.0.0.2' }],
    ['an alternate host beside every interface', { listen: ':0', alternateHost: '127.0.0.2' }],
    ['an alternate host that is not here', { alternateHost: '192.0.2.200' }],
    ['a port that is none', { alternatePort: 65_536 }],
    ['a reflector without a host', { reflectors: [':3478'] }],
    ['a reflector without a port', { reflectors: ['stun.example.org'] }],
    ['too many reflectors', { reflectors: Array.from({ length: 5 }, (_, i) => `stun${i}.example.org:1`) }],
  ])('refuse %s, and leave nothing behind', async (_, options) => {
    const listen = options.listen ?? `${HOST}:${await freePort()}`
    await expect(start({ ...options, listen })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    if (options.listen === undefined) await start({ listen, alternatePort: false })
  })
})

describe('a server that drains', () => {
  const rendezvous = (server: Server, options: PeerOptions = {}) =>
    startPeer({ rendezvous: [server.url], listen: [], udp: false, lan: false, ...options })

  async function startPeer(options: PeerOptions): Promise<Peer> {
    const peer = await Peer.create({ firewall: { allow: 'all' }, ...options })
    peers.push(peer)
    await peer.online()
    return peer
  }

  const health = async ({ port }: { port: number }) => {
    const response = await fetch(`http://${HOST}:${port}/healthz`)
    return [response.status, ((await response.json()) as { status: string }).status]
  }

  test('with nobody there closes at once', async () => {
    const server = await start()
    await server.drain({ ms: 60_000 })
    await expect(health(server)).rejects.toThrow()
    await server.drain()
    await server.close()
  })

  test('stays until all have left, and says that it does', async () => {
    const server = await start()
    const peer = await rendezvous(server)
    expect(await health(server)).toEqual([200, 'ok'])
    const draining = server.drain({ ms: 60_000 })
    expect(await health(server)).toEqual([503, 'draining'])
    expect(server.peers).toBe(1)
    const late = await Peer.create({ rendezvous: [server.url], listen: [], udp: false, lan: false })
    peers.push(late)
    await expect(late.online()).rejects.toThrow(code('ERR_PEERLINE_BUSY'))
    await Promise.all([peer.close(), late.close()])
    await draining
    await expect(health(server)).rejects.toThrow()
  })

  test('stays no longer than it was told to', async () => {
    const server = await start()
    const peer = await rendezvous(server)
    const offline = new Promise((resolve) => peer.addEventListener('offline', resolve))
    const before = performance.now()
    await server.drain({ ms: 300 })
    expect(performance.now() - before).toBeGreaterThanOrEqual(299)
    await offline
  })

  test.each(['close', 'signal', 'ms'] as const)('ends at once by %s', async (how) => {
    const server = await start()
    await rendezvous(server)
    const cancel = new AbortController()
    const draining = server.drain(how === 'ms' ? { ms: 0 } : { ms: 60_000, signal: cancel.signal })
    if (how === 'close') await server.close()
    if (how === 'signal') cancel.abort()
    await draining
    await expect(health(server)).rejects.toThrow()
  })

  test('refuses to do so for ever', async () => {
    const server = await start()
    for (const ms of [-1, Number.NaN, Number.POSITIVE_INFINITY, 3_600_001]) {
      await expect(server.drain({ ms })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    }
    expect(await health(server)).toEqual([200, 'ok'])
  })
})
