import { randomBytes } from 'node:crypto'
import { createSocket, type Socket as DatagramSocket, type RemoteInfo } from 'node:dgram'
import { once } from 'node:events'
import { networkInterfaces } from 'node:os'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { expectSame, Recorder, sample, turns } from '../path/recorder.compliance.ts'
import type { SocketAddress } from './address.ts'
import { encodeBindingError, encodeBindingRequest, encodeBindingSuccess, parseStunMessage } from './stun.ts'
import { StreamIds } from './udp-engine.ts'
import { TAG_BYTES, UdpSocket } from './udp-socket.ts'

const HOST = '127.0.0.1'
const HAS_IPV6 = Object.values(networkInterfaces()).some((list) => list?.some(({ family }) => family === 'IPv6'))

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

async function open(options?: Parameters<typeof UdpSocket.open>[0]): Promise<UdpSocket> {
  const socket = await UdpSocket.open(options ?? { host: HOST })
  closers.push(() => socket.close())
  return socket
}

async function plain(type: 'udp4' | 'udp6' = 'udp4'): Promise<DatagramSocket> {
  const socket = createSocket(type).bind(0, type === 'udp4' ? HOST : '::1')
  await once(socket, 'listening')
  closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  return socket
}

const at = (port: number, host = HOST): SocketAddress => ({ host, port, family: host.includes(':') ? 6 : 4 })
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const tag = (byte = 0x80): Uint8Array => Uint8Array.from({ length: TAG_BYTES }, (_, i) => (i === 0 ? byte : i))
const idOf = (request: Uint8Array): Uint8Array => parseStunMessage(request)!.transactionId

/** A reflector that does what `reply` says. */
async function reflector(
  reply: (request: Uint8Array, from: RemoteInfo, socket: DatagramSocket) => void,
): Promise<number> {
  const socket = await plain()
  socket.on('message', (request, from) => reply(request, from, socket))
  return socket.address().port
}

describe('a UDP socket', () => {
  test('takes a free port, or the one it is told', async () => {
    const first = await open()
    expect(first.port).toBeGreaterThan(0)
    const { port } = first
    await first.close()
    expect((await open({ host: HOST, port })).port).toBe(port)
  })

  test('says when the port is in use', async () => {
    const { port } = await open()
    await expect(UdpSocket.open({ host: HOST, port })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    const everywhere = await open({})
    const again = UdpSocket.open({ port: everywhere.port })
    await expect(again).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })

  test.runIf(HAS_IPV6)('says so also when the port is in use for IPv6 alone', async () => {
    const other = createSocket({ type: 'udp6', ipv6Only: true }).bind(0)
    await once(other, 'listening')
    closers.push(() => new Promise((resolve) => other.close(() => resolve(undefined))))
    const opening = UdpSocket.open({ port: other.address().port })
    await expect(opening).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })

  test.each([{ port: -1 }, { port: 65_536 }, { port: 1.5 }, { host: 'localhost' }, { host: '192.0.2.1' }])(
    'refuses %o',
    async (options) => {
      await expect(UdpSocket.open(options)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('knows what it can send to, and who can reach it', async () => {
    const everywhere = await open({})
    expect(everywhere.families).toEqual(HAS_IPV6 ? [4, 6] : expect.arrayContaining([4]))
    expect(everywhere.loopbackOnly).toBe(false)
    const inside = await open()
    expect(inside.families).toEqual([4])
    expect(inside.loopbackOnly).toBe(true)
  })

  test('tells apart what comes by its tag, and says from where: IPv4 as IPv4', async () => {
    const socket = await open({})
    const heard: { bytes: string; from: SocketAddress }[] = []
    const listen = (name: Uint8Array) =>
      socket.route(name, (datagram, from) => {
        heard.push({ bytes: Buffer.from(datagram).toString('latin1'), from: { ...from } })
      })
    listen(tag(0x80))
    const stop = listen(tag(0xbf))
    const v4 = await plain()
    const send = (bytes: Uint8Array) => new Promise((resolve) => v4.send(bytes, socket.port, HOST, resolve))
    await send(Buffer.concat([tag(0x80), Buffer.from('one')]))
    await send(Buffer.concat([tag(0xbf), Buffer.from('two')]))
    await send(Buffer.concat([tag(0x81), Buffer.from('nobody')]))
    await send(tag(0x80).subarray(0, 7))
    await vi.waitUntil(() => heard.length === 2)
    expect(heard.map(({ bytes }) => bytes.slice(8))).toEqual(['one', 'two'])
    expect(heard[0]!.from).toEqual(at(v4.address().port))
    stop()
    await send(tag(0xbf))
    await send(tag(0x80))
    await vi.waitUntil(() => heard.length === 3)
    await turns(5)
    expect(heard.length).toBe(3)
    if (socket.families.includes(6) && HAS_IPV6) {
      const v6 = await plain('udp6')
      v6.send(tag(0x80), socket.port, '::1')
      await vi.waitUntil(() => heard.length === 4)
      expect(heard[3]!.from).toEqual(at(v6.address().port, '::1'))
    }
  })

  test('sends to both families, and what cannot be sent is let go', async () => {
    const socket = await open({})
    const v4 = await plain()
    const heard: string[] = []
    v4.on('message', (datagram) => heard.push(datagram.toString()))
    const { port } = v4.address()
    const odd = [at(port, 'localhost'), at(0), at(70_000), at(1.5), { ...at(port), family: 6 }, at(port, '256.1.1.1')]
    for (const to of odd as SocketAddress[]) socket.send(Buffer.from('odd'), to)
    socket.send(Buffer.alloc(70_000), at(port)) // larger than a datagram can be
    socket.send(Buffer.from('v4'), at(port))
    await vi.waitUntil(() => heard.length === 1)
    if (socket.families.includes(6) && HAS_IPV6) {
      const v6 = await plain('udp6')
      v6.on('message', (datagram) => heard.push(datagram.toString()))
      socket.send(Buffer.from('v6'), at(v6.address().port, '::1'))
      await vi.waitUntil(() => heard.length === 2)
    }
    expect(heard).toEqual(['v4', 'v6'].slice(0, heard.length))
    await socket.close()
    socket.send(Buffer.from('late'), at(port))
    await turns(10)
    expect(heard).not.toContain('late')
  })

  test.each([tag(0x00), tag(0x40), tag(0xc0), tag(0xff), tag().subarray(1), new Uint8Array(9).fill(0x80)])(
    'refuses the tag %o',
    async (bad) => {
      const socket = await open()
      expect(() => socket.route(bad, () => {})).toThrow(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('gives a tag to one only, and to the next when the first has left', async () => {
    const socket = await open()
    const stop = socket.route(tag(), () => {})
    expect(() => socket.route(tag(), () => {})).toThrow(code('ERR_PEERLINE_INVALID'))
    stop()
    const stopSecond = socket.route(tag(), () => {})
    stop() // is not the first one's to end any more
    expect(() => socket.route(tag(), () => {})).toThrow(code('ERR_PEERLINE_INVALID'))
    stopSecond()
  })

  test('whatever datagrams come, it answers none, keeps none, and goes on', async () => {
    const socket = await open()
    const stranger = await plain()
    let answers = 0
    stranger.on('message', () => answers++)
    let heard = 0
    socket.route(tag(), () => heard++)
    const send = (bytes: Uint8Array) => new Promise((resolve) => stranger.send(bytes, socket.port, HOST, resolve))
    await send(encodeBindingRequest(randomBytes(12), { fingerprint: true }))
    await send(encodeBindingSuccess(randomBytes(12), at(7)))
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 300 }),
          fc.uint8Array({ maxLength: 60 }).map((rest) => Buffer.concat([Buffer.from([255, 1]), rest])),
          fc.uint8Array({ maxLength: 60 }).map((rest) => Buffer.concat([Buffer.from('000100002112a442', 'hex'), rest])),
        ),
        async (bytes) => void (await send(bytes)),
      ),
      { numRuns: 300 },
    )
    await send(tag())
    await vi.waitUntil(() => heard > 0)
    expect(answers).toBe(0)
  })

  test('a flood of datagrams leaves no memory behind', async () => {
    const socket = await open()
    const stranger = await plain()
    const flood = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        stranger.send(randomBytes(1_200), socket.port, HOST)
        if (i % 50 === 0) await turns(1)
      }
      await turns(20)
    }
    await flood(5_000)
    const before = process.memoryUsage().rss
    await flood(40_000) // 48 MB
    expect(process.memoryUsage().rss - before).toBeLessThan(32 * 2 ** 20)
  })
})

describe('a UDP socket that asks a reflector', () => {
  test('is told its own address, from its own port, by host name too', async () => {
    const socket = await open({})
    const port = await reflector((request, from, via) =>
      via.send(encodeBindingSuccess(idOf(request), at(from.port, from.address)), from.port, HOST),
    )
    expect(await socket.reflect(HOST, port)).toEqual(at(socket.port))
    expect(await socket.reflect('localhost', port)).toEqual(at(socket.port))
  })

  test('asks several at once, and again when packets are lost', async () => {
    const socket = await open()
    const times: number[] = []
    const slow = await reflector((request, from, via) => {
      times.push(performance.now())
      if (times.length === 3) via.send(encodeBindingSuccess(idOf(request), at(7)), from.port, HOST)
    })
    const quick = await reflector((request, from, via) =>
      via.send(encodeBindingSuccess(idOf(request), at(8)), from.port, HOST),
    )
    const answers = await Promise.all([
      socket.reflect(HOST, slow, { rtoMs: 20 }),
      socket.reflect(HOST, quick),
      socket.reflect(HOST, quick),
    ])
    expect(answers).toEqual([at(7), at(8), at(8)])
    expect(times[2]! - times[0]!).toBeGreaterThan(50) // 20 + 40, less the timers' rounding
  })

  test('passes over what is not the answer, and answers of others', async () => {
    const socket = await open({})
    const other = await plain()
    const sameButHost = createSocket('udp4')
    closers.push(() => new Promise((resolve) => sameButHost.close(() => resolve(undefined))))
    const port = await reflector((request, from, via) => {
      sameButHost.send(encodeBindingSuccess(idOf(request), at(666)), from.port, HOST)
      other.send(encodeBindingSuccess(idOf(request), at(666)), from.port, HOST, () => {
        const noise = [
          encodeBindingSuccess(randomBytes(12), at(666)),
          encodeBindingRequest(idOf(request)),
          Buffer.from('no STUN at all'),
          encodeBindingSuccess(idOf(request), at(666)).subarray(0, 30),
        ]
        for (const datagram of noise) via.send(datagram, from.port, HOST)
        via.send(encodeBindingSuccess(idOf(request), at(7)), from.port, HOST)
      })
    })
    await new Promise<void>((resolve) => sameButHost.bind(port, '127.0.0.2', resolve))
    expect(await socket.reflect(HOST, port)).toEqual(at(7))
  })

  test('a refusal and an answer without an address are typed errors', async () => {
    const socket = await open()
    const refusing = await reflector((request, from, via) =>
      via.send(encodeBindingError(idOf(request), { code: 400 }), from.port, HOST),
    )
    await expect(socket.reflect(HOST, refusing)).rejects.toThrow(code('ERR_PEERLINE_REMOTE'))
    const zero = await reflector((request, from, via) =>
      via.send(encodeBindingSuccess(idOf(request), at(0)), from.port, HOST),
    )
    await expect(socket.reflect(HOST, zero)).rejects.toThrow(code('ERR_PEERLINE_PROTOCOL'))
  })

  test('waits no longer than it is told, and not when it is closed', async () => {
    const socket = await open()
    const silent = await reflector(() => {})
    const late = socket.reflect(HOST, silent, { timeoutMs: 40 })
    await expect(late).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    const controller = new AbortController()
    const aborted = socket.reflect(HOST, silent, { signal: controller.signal })
    const cut = socket.reflect(HOST, silent)
    await turns(2)
    controller.abort()
    await expect(aborted).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    void socket.close()
    await expect(cut).rejects.toThrow(code('ERR_PEERLINE_CLOSED'))
    await expect(socket.reflect(HOST, silent)).rejects.toThrow(code('ERR_PEERLINE_CLOSED'))
  })

  test('does not ask over a family that it has not, nor more than 64 at once', async () => {
    const socket = await open()
    await expect(socket.reflect('::1', 9)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
    const silent = await reflector(() => {})
    const asked = Array.from({ length: 65 }, () => socket.reflect(HOST, silent, { timeoutMs: 100 }))
    const results = await Promise.allSettled(asked)
    const codes = results.map((result) => (result.status === 'rejected' ? result.reason.code : 'answered'))
    expect(codes.filter((value) => value === 'ERR_PEERLINE_TIMEOUT').length).toBe(64)
    expect(codes.filter((value) => value === 'ERR_PEERLINE_LIMIT').length).toBe(1)
  })
})

describe('paths through UDP sockets', () => {
  /** Paths between two sockets. */
  function pathsBetween(a: UdpSocket, b: UdpSocket, host = HOST) {
    const [idA, idB] = [a.reserveId(), b.reserveId()]
    return [
      a.connect({ localId: idA, remoteId: idB, remote: at(b.port, host) }),
      b.connect({ localId: idB, remoteId: idA, remote: at(a.port, host) }),
    ] as const
  }

  test('many share one port, beside datagrams', async () => {
    const [a, b] = [await open({}), await open({})]
    const hosts = HAS_IPV6 && a.families.includes(6) ? [HOST, '::1', HOST] : [HOST, HOST, HOST]
    let tagged = 0
    b.route(tag(), () => tagged++)
    const pairs = hosts.map((host) => pathsBetween(a, b, host))
    const recorders = pairs.map(([first, second], i) => {
      const [atA, atB] = [new Recorder(), new Recorder()]
      first.start(atA)
      second.start(atB)
      first.send([sample(3_000, i)])
      a.send(tag(), at(b.port))
      second.send([sample(4_000, i)])
      return [atA, atB] as const
    })
    for (const [i, [atA, atB]] of recorders.entries()) {
      await Promise.all([atA.count(1), atB.count(1)])
      expectSame([...atA.messages, ...atB.messages], [sample(4_000, i), sample(3_000, i)])
      expect(pairs[i]![0].kind).toBe('udp')
    }
    await vi.waitUntil(() => tagged === 3)
    expect(pairs[0]![0].remote).toBe(`${HOST}:${b.port}`)
  })

  test('keep what comes before they are started, from the moment they are connected', async () => {
    const [a, b] = [await open(), await open()]
    const [first, second] = pathsBetween(a, b)
    const atA = new Recorder()
    first.start(atA)
    first.send([sample(500)])
    await turns(30)
    const atB = new Recorder()
    second.start(atB)
    await atB.count(1)
    expectSame(atB.messages, [sample(500)])
  })

  test('are not touched by packets that come to another socket', async () => {
    const [a, b, other] = [await open(), await open(), await open()]
    const [idA, idB] = [a.reserveId(), b.reserveId()]
    const first = a.connect({ localId: idA, remoteId: idB, remote: at(b.port) })
    const second = b.connect({ localId: idB, remoteId: idA, remote: at(a.port) })
    const [atA, atB] = [new Recorder(), new Recorder()]
    first.start(atA)
    second.start(atB)
    const stranger = await plain()
    const end = Buffer.alloc(20)
    end[0] = 255
    end[1] = 1
    end[2] = 16 // destroys the stream
    end.writeUInt32LE(idB, 4)
    await new Promise((resolve) => stranger.send(end, other.port, HOST, resolve))
    await turns(20)
    first.send([sample(7)])
    await atB.count(1)
    expect(atB.closes).toEqual([])
  })

  test('need ids that were reserved, each once, and an address of a family that there is', async () => {
    const socket = await open()
    const remote = at(9)
    const localId = socket.reserveId()
    const bad: Parameters<UdpSocket['connect']>[0][] = [
      { localId: localId ^ 1, remoteId: 1, remote },
      { localId, remoteId: -1, remote },
      { localId, remoteId: 2 ** 32, remote },
      { localId, remoteId: 1, remote: at(9, '::1') },
      { localId, remoteId: 1, remote: at(0) },
      { localId, remoteId: 1, remote: at(9, 'localhost') },
    ]
    for (const options of bad) expect(() => socket.connect(options)).toThrow(code('ERR_PEERLINE_INVALID'))
    const path = socket.connect({ localId, remoteId: 1, remote })
    expect(() => socket.connect({ localId, remoteId: 1, remote })).toThrow(code('ERR_PEERLINE_INVALID'))
    socket.releaseId(localId) // is the stream's now
    expect(() => socket.connect({ localId, remoteId: 1, remote })).toThrow(code('ERR_PEERLINE_INVALID'))
    path.destroy()
    const unused = socket.reserveId()
    socket.releaseId(unused)
    expect(() => socket.connect({ localId: unused, remoteId: 1, remote })).toThrow(code('ERR_PEERLINE_INVALID'))
  })

  test('give back their ids when they end', async () => {
    const socket = await open()
    for (let made = 0; made < 4_200; made += 100) {
      const ends = Array.from({ length: 100 }, () => {
        const path = socket.connect({ localId: socket.reserveId(), remoteId: 1, remote: at(9) })
        const recorder = new Recorder()
        path.start(recorder)
        path.destroy()
        return recorder.end()
      })
      await Promise.all(ends)
      await turns(2)
    }
  })

  test('end with their socket, which is then free and takes no more', async () => {
    const [a, b] = [await open(), await open()]
    const [first, second] = pathsBetween(a, b)
    const [atA, atB] = [new Recorder(), new Recorder()]
    first.start(atA)
    second.start(atB)
    a.route(tag(), () => {})
    const { port } = a
    await Promise.all([a.close(), a.close()])
    await atA.end()
    await atB.end()
    expect(() => a.connect({ localId: a.reserveId(), remoteId: 1, remote: at(9) })).toThrow(code('ERR_PEERLINE_CLOSED'))
    await open({ host: HOST, port })
  })

  test('keep no socket from closing that wait for a last acknowledgement', async () => {
    const [a, b] = [await open(), await open()]
    const gone = await plain() // passes on what `b` sends, and nothing to it
    gone.on('message', (datagram) => gone.send(datagram, a.port, HOST))
    const [idA, idB] = [a.reserveId(), b.reserveId()]
    const first = a.connect({ localId: idA, remoteId: idB, remote: at(gone.address().port) })
    const second = b.connect({ localId: idB, remoteId: idA, remote: at(gone.address().port) })
    const atA = new Recorder()
    first.start(atA)
    second.start(new Recorder())
    second.send([sample(5)])
    second.close()
    await atA.count(1)
    await vi.waitUntil(() => !first.writable)
    await turns(10)
    const started = performance.now()
    await a.close()
    expect(performance.now() - started).toBeLessThan(1_000)
    expect(await atA.end()).toBe('in order')
  })

  test('a retired socket closes after its last path, one without paths at once', async () => {
    const [a, b] = [await open(), await open()]
    const { port } = a
    const [first, second] = pathsBetween(a, b)
    const [atA, atB] = [new Recorder(), new Recorder()]
    first.start(atA)
    second.start(atB)
    a.retire()
    first.send([sample(9)])
    await atB.count(1)
    first.destroy()
    await vi.waitUntil(() =>
      UdpSocket.open({ host: HOST, port }).then(
        (socket) => socket.close().then(() => true),
        () => false,
      ),
    )
    const idle = await open()
    idle.retire()
    await open({ host: HOST, port: idle.port })
  })
})

describe('the ids of streams', () => {
  test('are all different in their lowest bits, so that the table of streams stays small', () => {
    const ids = new StreamIds()
    const taken = Array.from({ length: 3_000 }, () => ids.reserve())
    // what the table does: it doubles until no two share a place
    let places = 16
    while (new Set(taken.map((id) => id & (places - 1))).size < taken.length) places *= 2
    expect(places).toBeLessThanOrEqual(16_384)
    expect(new Set(taken.map((id) => id >>> 16)).size).toBeGreaterThan(2_500) // and random in the highest
  })

  test('are limited, and free again', () => {
    const ids = new StreamIds()
    const taken = Array.from({ length: 4_096 }, () => ids.reserve())
    expect(() => ids.reserve()).toThrow(code('ERR_PEERLINE_LIMIT'))
    ids.release(taken[0]!)
    expect(ids.use(taken[1]!)).toBe(true)
    expect(ids.use(taken[1]!)).toBe(false)
    ids.release(taken[1]!)
    ids.reserve()
    expect(() => ids.reserve()).toThrow(code('ERR_PEERLINE_LIMIT'))
    ids.free(taken[1]!)
    ids.reserve()
  })
})

test('without udx-native there is a typed error, and it is tried anew', async () => {
  vi.resetModules()
  vi.doMock('udx-native', () => {
    throw new Error('Cannot find package')
  })
  const { UdpSocket: Fresh } = await import('./udp-socket.ts')
  const missing = { code: 'ERR_PEERLINE_UNSUPPORTED', message: expect.stringContaining('udx-native') }
  await expect(Fresh.open()).rejects.toMatchObject(missing)
  vi.doUnmock('udx-native')
  const socket = await Fresh.open({ host: HOST })
  await socket.close()
})
