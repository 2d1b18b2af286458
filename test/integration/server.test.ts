import net from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Identity, type Peer } from '../../src/index.ts'
import { reflectTcp, reflectUdp } from '../../src/network/reflect.ts'
import { Server } from '../../src/server/index.ts'
import { Rendezvous } from '../../src/signaling/index.ts'
import { CertificateRoom } from './certificates.ts'
import { get, once, portOf, startPeer, startServer, startWorld, watchSockets } from './world.ts'

const BODY = new TextEncoder().encode('hello')
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

/** The other peer answers what it was asked. */
function echo(...peers: Peer[]): void {
  for (const peer of peers) peer.handle('/echo/1', (request) => request)
}

async function ask(from: Peer, to: Peer, via: 'auto' | 'relay' = 'auto'): Promise<string> {
  return Buffer.from(await from.request(to.id, '/echo/1', BODY, { via })).toString()
}

describe('over HTTP the server', () => {
  test('says that it is well, and what it carries', async () => {
    const { server, a, b } = await startWorld()
    echo(b)
    const before = await get(server.url, '/healthz')
    expect([before.status, before.headers['content-type']]).toEqual([200, 'application/json'])
    expect(JSON.parse(before.body)).toEqual({
      status: 'ok',
      peerId: server.peer.id,
      uptimeSeconds: expect.any(Number),
      peers: 2,
      reservations: 2,
      circuits: 0,
    })
    await ask(a, b, 'relay')
    expect(JSON.parse((await get(server.url, '/healthz')).body)).toMatchObject({ circuits: 1 })
    await Promise.all([a.close(), b.close()])
    await expect
      .poll(async () => JSON.parse((await get(server.url, '/healthz')).body))
      .toMatchObject({ peers: 0, reservations: 0, circuits: 0 })
  })

  test.each([
    ['GET', '/'],
    ['GET', '/healthz/../x'],
    ['GET', '/healthz?x'],
    ['POST', '/healthz'],
    ['DELETE', '/'],
  ])('has nothing else: %s %s', async (method, path) => {
    const server = await startServer()
    const { status, body } = await get(server.url, path, method)
    expect([status, body]).toEqual([404, 'This is a Peerline server.\n'])
  })
})

describe('with a certificate the port', () => {
  test('speaks wss to those who trust it, and refuses the rest with a typed error; ws and tcp go on beside', async () => {
    const room = await CertificateRoom.open()
    onTestFinished(() => room.close())
    const [good, expired, other] = await Promise.all([
      room.make('good', '127.0.0.1', 2),
      room.make('expired', '127.0.0.1', -1),
      room.make('other', '198.41.0.4', 2),
    ])
    const servers = await Promise.all([good, expired, other].map((tls) => startServer({ tls })))
    const server = servers[0]!
    expect(server.url).toMatch(/^wss:/)

    const outcomes = await room.runTrusting(
      [good, expired, other],
      `const { Peer } = await import(process.env.SRC + 'index.ts')
       const options = { listen: [], firewall: { allow: 'all' } }
       const outcomes = []
       for (const url of process.argv.slice(2)) {
         const [a, b] = await Promise.all([1, 2].map(() => Peer.create({ ...options, rendezvous: [url] })))
         try {
           await Promise.all([a.online(), b.online()])
           b.handle('/echo/1', (request) => request)
           const reply = await a.request(b.id, '/echo/1', new TextEncoder().encode('over TLS'))
           outcomes.push(new TextDecoder().decode(reply) + ' by ' + (await a.connect(b.id)).path)
         } catch (error) {
           outcomes.push(error.code)
         }
         await Promise.all([a.close(), b.close()])
       }
       console.log(JSON.stringify(outcomes))`,
      ...servers.map(({ url }) => url),
    )
    expect(outcomes).toEqual(['over TLS by relay', 'ERR_PEERLINE_TLS', 'ERR_PEERLINE_TLS'])

    // This process trusts none of them.
    for (const { url } of servers) {
      const peer = await startPeer({ rendezvous: [url] })
      await expect(peer.online()).rejects.toEqual(code('ERR_PEERLINE_TLS'))
    }
    const [ws, tcp] = [server.url.replace('wss:', 'ws:'), server.url.replace('wss:', 'tcp:')]
    const [a, b] = [await startPeer({ rendezvous: [ws] }), await startPeer({ rendezvous: [tcp] })]
    await Promise.all([a.online(), b.online()])
    echo(b)
    expect(await ask(a, b, 'relay')).toBe('hello')
    expect((await get(ws, '/healthz')).status).toBe(200)
  })

  test('does not open when certificate and key do not belong together, or are none', async () => {
    const room = await CertificateRoom.open()
    onTestFinished(() => room.close())
    const [one, two] = await Promise.all([room.make('one', '127.0.0.1', 2), room.make('two', '127.0.0.1', 2)])
    for (const tls of [
      { cert: one.cert, key: two.key },
      { cert: 'none', key: 'none' },
    ]) {
      await expect(Server.create({ listen: '127.0.0.1:0', tls })).rejects.toEqual(code('ERR_PEERLINE_TLS'))
    }
  })
})

describe('the server tells where one is seen from', () => {
  test('over UDP and TCP, on the port number of everything else', async () => {
    const server = await startServer()
    const port = portOf(server.url)
    const free = net.createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => free.once('listening', resolve))
    const localPort = (free.address() as net.AddressInfo).port
    await new Promise((resolve) => free.close(resolve))
    const seen = { host: '127.0.0.1', port: localPort, family: 4 }
    expect(await reflectUdp('127.0.0.1', port, { localPort })).toEqual(seen)
    expect(await reflectTcp('127.0.0.1', port, { localPort })).toEqual(seen)
  })

  test('when one registers, also on a socket for both families', async () => {
    const sockets = watchSockets()
    for (const listen of ['127.0.0.1:0', ':0']) {
      const server = await startServer({ listen })
      const port = portOf(server.url)
      const peer = await startPeer()
      const session = await peer.connect(server.peer.id, { addresses: [`127.0.0.1:${port}`] })
      const onOffer = async () => undefined
      const signal = AbortSignal.timeout(5_000)
      const { observed } = await Rendezvous.register(session, { name: 'test', listed: true, onOffer, signal })
      const socket = sockets.findLast(({ remotePort }) => remotePort === port)!
      expect(observed).toBe(`127.0.0.1:${socket.localPort}`)
      await peer.close()
    }
  })
})

describe('peers of a server', () => {
  test('register again by themselves when it comes back, and can dial again', async () => {
    const identity = Identity.generate()
    const first = await startServer({ identity })
    const listen = `127.0.0.1:${portOf(first.url)}`
    const [a, b] = [
      await startPeer({ rendezvous: [first.url], listen: [], udp: false }),
      await startPeer({ rendezvous: [first.url], listen: [], udp: false }),
    ]
    await Promise.all([a.online(), b.online()])
    echo(b)
    expect(await ask(a, b)).toBe('hello')
    const old = await a.connect(b.id)

    const gone = [a, b].map((peer) => once<{ error: unknown; retryMs: number }>(peer, 'offline'))
    await first.close()
    for (const { error, retryMs } of await Promise.all(gone)) {
      expect(error).toEqual(code('ERR_PEERLINE_CLOSED'))
      expect(retryMs).toBeLessThanOrEqual(1_000)
    }
    const back = [a, b].map((peer) => once(peer, 'online'))
    const second = await startServer({ identity, listen })
    expect(second.url).toBe(first.url)
    await Promise.all(back)
    // The relay died with the server, and the session's only path with it: it goes on by the new one.
    expect(await ask(a, b)).toBe('hello')
    expect(a.sessions.filter(({ peer }) => peer === b.id)).toEqual([old])
  })

  test('notice at once when it is closed in order, and nothing is left of it', async () => {
    const { server, a, b } = await startWorld()
    echo(b)
    await ask(a, b, 'relay')
    const gone = [a, b].map((peer) => once(peer, 'offline'))
    const before = performance.now()
    await server.close()
    await Promise.all(gone)
    expect(performance.now() - before).toBeLessThan(3_000)
    await expect(get(server.url, '/healthz')).rejects.toThrow(/ECONNREFUSED/)
  })

  test('may share a key: the newest is dialled, and the one before it when that has gone', async () => {
    const server = await startServer()
    const identity = Identity.generate()
    const rendezvous = [server.url]
    const start = async (name: string) => {
      const peer = await startPeer({ identity, rendezvous })
      await peer.online()
      peer.handle('/name/1', () => new TextEncoder().encode(name))
      return peer
    }
    const older = await start('older')
    const newer = await start('newer')
    expect(server.online).toBe(1)
    const name = async () => {
      const asker = await startPeer({ rendezvous, listed: false })
      const reply = Buffer.from(await asker.request(identity.peerId, '/name/1', BODY)).toString()
      await asker.close()
      return reply
    }
    expect(await name()).toBe('newer')
    await newer.close()
    expect(await name()).toBe('older')
    await older.close()
    await expect.poll(() => server.online).toBe(0)
  })
})

describe('a peer that closes', () => {
  test('does not wait for strangers who say nothing, nor for its approver', async () => {
    const b = await startPeer({ firewall: { approve: () => new Promise(() => {}) } })
    const port = portOf(b.addresses[0]!)
    const strangers = await Promise.all(
      [1, 2, 3].map(async () => {
        const socket = net.connect(port, '127.0.0.1')
        socket.on('error', () => {})
        await new Promise((resolve) => socket.once('connect', resolve))
        return socket
      }),
    )
    const ended = strangers.map((socket) => new Promise((resolve) => socket.resume().once('close', resolve)))
    const a = await startPeer()
    const dial = a.connect(b.id, { addresses: b.addresses }).catch((error: unknown) => error)
    await new Promise((resolve) => setTimeout(resolve, 50))
    const before = performance.now()
    await b.close()
    expect(performance.now() - before).toBeLessThan(2_000)
    await Promise.all(ended)
    expect(await dial).toEqual(expect.objectContaining({ name: 'PeerlineError' }))
    expect(b.sessions).toEqual([])
  })

  test('lets nobody in whom its approver thinks of too late', async () => {
    let approve = (_yes: boolean) => {}
    const asked = new Promise<void>((tell) => {
      void startPeer({
        firewall: {
          approve: () =>
            new Promise((resolve) => {
              approve = resolve
              tell()
            }),
        },
      }).then(async (b) => {
        const a = await startPeer()
        peers.push(a, b)
        a.connect(b.id, { addresses: b.addresses }).catch(() => {})
      })
    })
    const peers: Peer[] = []
    await asked
    await peers[1]!.close()
    approve(true)
    await new Promise((resolve) => setImmediate(resolve))
    expect(peers[1]!.sessions).toEqual([])
  })
})
