import { createHash, randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { Identity, type PathChange, Peer } from '../../src/index.ts'
import { cut, once, portOf, readAll, startPeer, startServer, startWorld, watchSockets } from './world.ts'

const BODY = new TextEncoder().encode('hello')
const code = (text: string) => expect.objectContaining({ code: text })

describe('dialling by public key', () => {
  test('one server, two peers: a request gets its reply', async () => {
    const { a, b } = await startWorld()
    b.handle('/greet/1', (request, { from }) => Buffer.from(`${Buffer.from(request)} from ${from}`))
    const reply = await a.request(b.id, '/greet/1', BODY)
    expect(Buffer.from(reply).toString()).toBe(`hello from ${a.id}`)
  })

  test('a session that is open is used again, from either side', async () => {
    const { a, b } = await startWorld()
    const session = await a.connect(b.id)
    expect(await a.connect(b.id)).toBe(session)
    expect((await b.connect(a.id)).id).toBe(session.id)
  })

  test('both dial each other at once: one session, on both sides', async () => {
    const { a, b } = await startWorld()
    const [ab, ba] = await Promise.all([a.connect(b.id), b.connect(a.id)])
    expect(ab.id).toBe(ba.id)
  })

  test('through the relay alone, over WebSocket, over TCP, and mixed', async () => {
    const server = await startServer()
    const [ws, tcp] = [server.url, server.url.replace('ws://', 'tcp://')]
    for (const [ofA, ofB] of [
      [ws, ws],
      [tcp, tcp],
      [ws, tcp],
      [tcp, ws],
    ] as const) {
      const a = await startPeer({ rendezvous: [ofA], listed: false })
      const b = await startPeer({ rendezvous: [ofB] })
      await b.online()
      b.handle('/echo/1', (request) => request)
      const session = await a.connect(b.id, { via: 'relay' })
      expect(session.path).toBe('relay')
      const big = randomBytes(300_000)
      expect(Buffer.from(await a.request(b.id, '/echo/1', big)).equals(big)).toBe(true)
      await Promise.all([a.close(), b.close()])
    }
  })

  test('direct, to a known address, with no server at all', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    b.handle('/echo/1', (request) => request)
    const session = await a.connect(b.id, { addresses: b.addresses })
    expect(session.path).toBe('tcp')
    expect(Buffer.from(await a.request(b.id, '/echo/1', BODY)).toString()).toBe('hello')
  })

  test('direct, to a name, and to IPv6', async () => {
    const b = await startPeer({ listen: ['127.0.0.1:0', '[::1]:0'] })
    const a = await startPeer()
    await (await a.connect(b.id, { addresses: [`localhost:${portOf(b.addresses[0]!)}`] })).close()
    await (await a.connect(b.id, { addresses: [b.addresses[1]!] })).close()
  })

  test('whoever answers at an address, when its id is not known', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const session = await a.discover(b.addresses[0]!)
    await session.opened()
    expect(session.peer).toBe(b.id)
  })
})

describe('changing paths under a transfer', () => {
  test('relay, then direct TCP when an address appears, then the relay again when TCP is cut: nothing is lost', async () => {
    const sockets = watchSockets()
    const hidden = { listen: [], udp: false }
    const { a, b } = await startWorld({ a: hidden, b: hidden })
    const sent = randomBytes(24 << 20)
    const changes: PathChange[] = []
    const digest = new Promise<string>((resolve, reject) => {
      b.handleStream('/bulk/1', async (stream) => {
        const hash = createHash('sha256')
        let bytes = 0
        try {
          for await (const chunk of stream) {
            hash.update(chunk)
            bytes += chunk.length
            await stream.write(Uint8Array.of(1))
          }
          await stream.end()
          resolve(`${bytes} ${hash.digest('hex')}`)
        } catch (error) {
          reject(error)
        }
      })
    })
    const session = await a.connect(b.id)
    expect(session.path).toBe('relay')
    session.addEventListener('path', ({ detail }) => changes.push(detail))
    const stream = await session.open('/bulk/1')
    const answers = readAll(stream)
    const step = 1 << 20
    let direct = ''
    for (let at = 0; at < sent.length; at += step) {
      if (at === 6 * step) {
        const moved = once<PathChange>(session, 'path', ({ to }) => to === 'tcp')
        direct = await b.listen('127.0.0.1:0')
        await Promise.all([moved, stream.write(sent.subarray(at, at + step))])
        continue
      }
      if (at === 14 * step) {
        const back = once<PathChange>(session, 'path', ({ to }) => to === 'relay')
        const writing = stream.write(sent.subarray(at, at + step))
        expect(cut(sockets, portOf(direct))).toBe(1)
        await Promise.all([back, writing])
        continue
      }
      await stream.write(sent.subarray(at, at + step))
    }
    await stream.end()
    expect(await digest).toBe(`${sent.length} ${createHash('sha256').update(sent).digest('hex')}`)
    // And it seeks a direct path again by itself, which may be there before the end or not.
    expect(changes.slice(0, 2)).toEqual([
      { from: 'relay', to: 'tcp', reason: 'better' },
      { from: 'tcp', to: 'relay', reason: 'lost' },
    ])
    expect((await answers).length).toBeGreaterThan(0)
  })

  test('a direct session lives on when the server dies', async () => {
    const { server, a, b } = await startWorld()
    b.handle('/echo/1', (request) => request)
    const session = await a.connect(b.id)
    if (session.path !== 'tcp') await once<PathChange>(session, 'path', ({ to }) => to === 'tcp')
    await server.close()
    expect(Buffer.from(await a.request(b.id, '/echo/1', BODY)).toString()).toBe('hello')
    expect(session.path).toBe('tcp')
  })

  test('a session whose every path is lost, and that may not wait for another, fails with one typed error on both sides', async () => {
    const sockets = watchSockets()
    const [a, b] = [await startPeer({ reconnectMs: 0 }), await startPeer({ reconnectMs: 0 })]
    const session = await a.connect(b.id, { addresses: b.addresses })
    let arrived: () => void = () => {}
    const arrival = new Promise<void>((resolve) => (arrived = resolve))
    const there = new Promise((resolve) => {
      b.handleStream('/never/1', (stream) => {
        arrived()
        resolve(readAll(stream).catch((error) => error))
      })
    })
    const stream = await session.open('/never/1')
    const here = readAll(stream).catch((error) => error)
    await stream.write(BODY)
    const ends = Promise.all([here, there])
    const closed = once<{ error: unknown }>(session, 'close')
    await arrival
    cut(sockets, portOf(b.addresses[0]!))
    const lost = code('ERR_PEERLINE_PATH_LOST')
    expect(await ends).toEqual([lost, lost])
    expect(await closed).toEqual({ error: lost })
  }, 15_000)

  test('via relay keeps to the relay and tells no address', async () => {
    const { a, b } = await startWorld()
    const sockets = watchSockets()
    b.handle('/echo/1', (request) => request)
    const session = await a.connect(b.id, { via: 'relay' })
    // New addresses, on either side, change nothing.
    await Promise.all([a.listen('127.0.0.1:0'), b.listen('127.0.0.1:0')])
    await a.request(b.id, '/echo/1', BODY)
    await a.request(b.id, '/echo/1', BODY)
    expect(session.paths).toEqual(['relay'])
    const listening = [...a.addresses, ...b.addresses].map(portOf)
    expect(sockets.filter(({ remotePort }) => listening.includes(remotePort ?? 0))).toEqual([])
  })

  test('a peer that listens nowhere still moves to a direct path when the other one listens', async () => {
    const { a, b } = await startWorld({ a: { listen: [] } })
    const session = await a.connect(b.id)
    if (session.path !== 'tcp') await once<PathChange>(session, 'path', ({ to }) => to === 'tcp')
    expect(session.path).toBe('tcp')
  })

  test('via direct never touches the relay', async () => {
    const { server, a, b } = await startWorld()
    const session = await a.connect(b.id, { via: 'direct' })
    expect(session.paths).toEqual(['tcp'])
    expect(server.circuits).toBe(0)
  })
})

describe('refusing', () => {
  test('nobody gets in by default, and is told so', async () => {
    const { a, b } = await startWorld({ b: { firewall: {} } })
    await expect(a.connect(b.id)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
    await expect(a.connect(b.id, { addresses: b.addresses, via: 'direct' })).rejects.toEqual(
      code('ERR_PEERLINE_DENIED'),
    )
  })

  test('an approver decides while the dialler waits', async () => {
    const { a, b } = await startWorld({ b: { firewall: { approve: async ({ how }) => how === 'signaled' } } })
    await (await a.connect(b.id)).close()
    await expect(a.connect(b.id, { addresses: b.addresses })).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('a stranger who discovers the peer is refused, typed', async () => {
    const [a, b] = [await startPeer(), await startPeer({ firewall: {} })]
    const session = await a.discover(b.addresses[0]!)
    const { error } = await once<{ error: unknown }>(session, 'close')
    expect(error).toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('who is not online is said to be so', async () => {
    const { a } = await startWorld()
    await expect(a.connect(Identity.generate().peerId)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('who only dials is not listed', async () => {
    const { a, b } = await startWorld({ b: { listed: false } })
    await expect(a.connect(b.id)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
  })

  test('another peer at the address is found out', async () => {
    const [a, b] = [await startPeer(), await startPeer()]
    const wrong = a.connect(Identity.generate().peerId, { addresses: b.addresses })
    await expect(wrong).rejects.toEqual(code('ERR_PEERLINE_WRONG_PEER'))
  })

  test('a wrong server, no server, and a bad URL each say what is wrong', async () => {
    const server = await startServer()
    const wrong = await startPeer({ rendezvous: [server.url.replace(/#.*/, `#${Identity.generate().peerId}`)] })
    await expect(wrong.online()).rejects.toEqual(code('ERR_PEERLINE_WRONG_PEER'))
    const nobody = await startPeer({ rendezvous: [`ws://127.0.0.1:1#${server.peer.id}`] })
    await expect(nobody.online()).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    await expect(Peer.create({ rendezvous: ['http://x'] })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    await expect(
      startPeer({ listen: [server.peer.addresses[0] ?? `127.0.0.1:${portOf(server.url)}`] }),
    ).rejects.toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })

  test('a dial can be cancelled', async () => {
    const { a, b } = await startWorld({ b: { firewall: { approve: () => new Promise(() => {}) } } })
    const cancel = new AbortController()
    const dial = a.connect(b.id, { signal: cancel.signal })
    cancel.abort()
    await expect(dial).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
  })
})

test('closing leaves no handle behind', async () => {
  const before = process.getActiveResourcesInfo().filter((name) => /TCP|UDP|Timeout/.test(name)).length
  const server = await startServer()
  const a = await startPeer({ rendezvous: [server.url] })
  const b = await startPeer({ rendezvous: [server.url] })
  await Promise.all([a.online(), b.online()])
  await a.connect(b.id)
  await a.close()
  await b.close()
  await server.close()
  await expect
    .poll(() => process.getActiveResourcesInfo().filter((name) => /TCP|UDP|Timeout/.test(name)).length, {
      timeout: 8_000,
    })
    .toBeLessThanOrEqual(before + 1)
})
