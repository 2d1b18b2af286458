import { execFile, spawnSync } from 'node:child_process'
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { reflectTcp, reflectUdp } from '../network/reflect.ts'
import { encodeBindingRequest, parseStunMessage, stunErrorCode, xorMappedAddress } from '../network/stun.ts'
import { answerStun, ReflectorLimits, type ServeStunTcpOptions, serveStunTcp, UdpReflector } from './reflector.ts'

const HOST = '127.0.0.1'
const ID = Uint8Array.from({ length: 12 }, (_, i) => i)
const SOURCE = { host: '192.0.2.1', port: 32_853, family: 4 } as const
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const attribute = (type: number, length = 0): number[] => [type >> 8, type & 0xff, 0, length]

/** A Binding request with attributes that have no value. */
function requestWith(types: number[]): Uint8Array {
  const body = types.flatMap((type) => attribute(type))
  return Uint8Array.of(0, 1, 0, body.length, 0x21, 0x12, 0xa4, 0x42, ...ID, ...body)
}

async function reflector(limits?: ReflectorLimits, host = HOST): Promise<UdpReflector & { port: number }> {
  const server = new UdpReflector(limits === undefined ? {} : { limits })
  closers.push(() => server.close())
  await server.bind(host, 0)
  return Object.assign(server, { port: server.address!.port })
}

/** A clock that stands still: no bucket refills. */
const still = { now: () => 0 }

describe('answerStun', () => {
  test('tells the source', () => {
    const message = parseStunMessage(answerStun(encodeBindingRequest(ID), SOURCE)!)!
    expect(message).toMatchObject({ class: 'success', transactionId: ID, fingerprint: false })
    expect(xorMappedAddress(message)).toEqual(SOURCE)
  })

  test('answers FINGERPRINT with FINGERPRINT, as multiplexed ports need', () => {
    const answer = answerStun(encodeBindingRequest(ID, { fingerprint: true }), SOURCE)!
    expect(parseStunMessage(answer)?.fingerprint).toBe(true)
  })

  test('420 names what it does not understand, such as CHANGE-REQUEST', () => {
    const message = parseStunMessage(answerStun(requestWith([0x0003, 0x8022, 0x0024, 0x0003]), SOURCE)!)!
    expect(message.class).toBe('error')
    expect(stunErrorCode(message)).toBe(420)
    expect([...message.attributes[1]!.value]).toEqual([0, 0x03, 0, 0x24])
  })

  test('credentials are not asked for and not minded', () => {
    expect(parseStunMessage(answerStun(requestWith([0x0006, 0x0008]), SOURCE)!)?.class).toBe('success')
  })

  test('answers only Binding requests, so two reflectors cannot be made to loop', () => {
    const answer = answerStun(encodeBindingRequest(ID), SOURCE)!
    expect(answerStun(answer, SOURCE)).toBeUndefined()
    for (const type of [0x0011, 0x0111, 0x0003, 0x0009]) {
      const other = encodeBindingRequest(ID)
      other.set([type >> 8, type & 0xff])
      expect(answerStun(other, SOURCE)).toBeUndefined()
    }
  })

  test('is no amplifier: an IP packet of answer is under twice the one of the request', () => {
    const ipAndUdp = 28 // bytes of IPv4 and UDP header
    const types = fc.array(fc.integer({ min: 0, max: 0xffff }), { maxLength: 60 })
    fc.assert(
      fc.property(types, (types) => {
        const request = requestWith(types)
        const answer = answerStun(request, SOURCE)
        return answer === undefined || answer.length + ipAndUdp < 2 * (request.length + ipAndUdp)
      }),
    )
    expect(answerStun(encodeBindingRequest(ID), SOURCE)).toHaveLength(32)
  })

  test('never throws, whatever comes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), fc.boolean(), (random, dressed) => {
        const bytes = Uint8Array.from(random)
        if (dressed && bytes.length >= 20) {
          const length = (bytes.length - 20) & ~3
          bytes.set([0, 1, length >> 8, length & 0xff, 0x21, 0x12, 0xa4, 0x42])
          answerStun(bytes.subarray(0, 20 + length), SOURCE)
        }
        answerStun(bytes, SOURCE)
      }),
      { numRuns: 500 },
    )
  })
})

describe('ReflectorLimits', () => {
  test('a greedy source is stopped before it drains what is for all', () => {
    const limits = new ReflectorLimits({ perSource: { rate: 1, burst: 2 }, overall: { rate: 1, burst: 3 }, ...still })
    expect([1, 2, 3, 4, 5].map(() => limits.admit('192.0.2.1'))).toEqual([true, true, false, false, false])
    expect(limits.admit('192.0.2.2')).toBe(true)
    expect(limits.admit('192.0.2.3')).toBe(false) // all together
  })

  test('the addresses of one IPv6 /64 share', () => {
    const limits = new ReflectorLimits({ perSource: { rate: 1, burst: 1 }, ...still })
    expect(limits.admit('2001:db8::1')).toBe(true)
    expect(limits.admit('2001:db8::2')).toBe(false)
    expect(limits.admit('2001:db8:0:1::1')).toBe(true)
  })
})

describe('UdpReflector', () => {
  test('answers the client', async () => {
    const server = await reflector()
    expect(await reflectUdp(HOST, server.port)).toMatchObject({ host: HOST, family: 4 })
    expect(server.counts).toEqual({ answered: 1, limited: 0, ignored: 0 })
  })

  test('on a dual-stack socket an IPv4 client is told its IPv4 address', async (context) => {
    const server = await reflector(undefined, '::').catch(() => undefined)
    if (server === undefined) return context.skip('no IPv6 here')
    expect(await reflectUdp(HOST, server.port)).toMatchObject({ host: HOST, family: 4 })
    expect(await reflectUdp('::1', server.port)).toMatchObject({ host: '::1', family: 6 })
  })

  /** Sends all, then a request with `ID`; resolves with the first answer. Loopback keeps the order. */
  async function exchange(port: number, datagrams: Uint8Array[]): Promise<[Uint8Array, DatagramSocket]> {
    const client = createSocket('udp4').bind(0, HOST)
    closers.push(() => new Promise((resolve) => client.close(() => resolve(undefined))))
    for (const datagram of [...datagrams, encodeBindingRequest(ID)]) client.send(datagram, port, HOST)
    const [answer] = (await once(client, 'message')) as [Uint8Array]
    return [answer, client]
  }

  test('is silent to garbage, and lives', async () => {
    const server = await reflector()
    const answer = answerStun(encodeBindingRequest(new Uint8Array(12)), SOURCE)!
    const garbage = [new Uint8Array(0), Buffer.from('GET / HTTP/1.1\r\n'), new Uint8Array(1_400), answer]
    const [first] = await exchange(server.port, garbage)
    expect(parseStunMessage(first)?.transactionId).toEqual(ID)
    expect(server.counts).toEqual({ answered: 1, limited: 0, ignored: garbage.length })
  })

  test('is silent over the limit, and garbage costs a source nothing', async () => {
    const server = await reflector(new ReflectorLimits({ perSource: { rate: 1, burst: 1 }, ...still }))
    const [, client] = await exchange(server.port, [Buffer.from('noise')])
    client.send(encodeBindingRequest(ID), server.port, HOST)
    await expect(reflectUdp(HOST, server.port, { timeoutMs: 80 })).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    expect(server.counts).toEqual({ answered: 1, limited: 2, ignored: 1 })
  })

  test('bind and close', async () => {
    const server = await reflector()
    await expect(server.bind(HOST, 0)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    const second = new UdpReflector()
    await expect(second.bind(HOST, server.port)).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    await expect(second.bind('192.0.2.1', 0)).rejects.toThrow(code('ERR_PEERLINE_INVALID')) // not of this machine
    await expect(second.bind('localhost', 0)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expect(second.bind(HOST, 65_536)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    expect(second.address).toBeUndefined()

    await Promise.all([server.close(), server.close()])
    expect(server.address).toBeUndefined()
    await expect(server.bind(HOST, 0)).rejects.toThrow(code('ERR_PEERLINE_CLOSED'))
    await second.bind(HOST, server.port) // free again, and a failed bind may be tried again
    await second.close()
    await new UdpReflector().close()
  })

  test('close while binding ends both', async () => {
    const server = new UdpReflector()
    const bound = server.bind(HOST, 0).then(
      () => 'bound',
      (error: unknown) => error,
    )
    await server.close()
    expect(['bound', code('ERR_PEERLINE_CLOSED')]).toContainEqual(await bound)
    expect(server.address).toBeUndefined()
  })
})

describe('serveStunTcp', () => {
  /** A server that hands each connection over after its first bytes, as a port shared with other protocols does. */
  async function tcpServer(options: Partial<ServeStunTcpOptions> = {}): Promise<number> {
    const server = createServer((socket) => {
      socket.once('data', (first) => {
        socket.pause()
        serveStunTcp(socket, first, { limits: new ReflectorLimits(), ...options })
      })
    })
    server.listen(0, HOST)
    await once(server, 'listening')
    closers.push(() => new Promise((resolve) => server.close(resolve))) // waits for every connection to be closed
    return (server.address() as { port: number }).port
  }

  async function client(port: number): Promise<{ socket: Socket; received: () => number; closed: Promise<unknown> }> {
    const socket = connect({ port, host: HOST, noDelay: true })
    socket.on('error', () => {})
    let received = 0
    socket.on('data', (chunk) => {
      received += chunk.length
    })
    const closed = new Promise((resolve) => socket.once('close', resolve))
    await once(socket, 'connect')
    return { socket, received: () => received, closed }
  }

  const request = encodeBindingRequest(ID)
  const ANSWER_BYTES = 32

  test('answers the client', async () => {
    expect(await reflectTcp(HOST, await tcpServer())).toMatchObject({ host: HOST, family: 4 })
  })

  test('takes requests in any pieces', async () => {
    const port = await tcpServer({ maxRequests: 3 })
    const { socket, received, closed } = await client(port)
    const three = Buffer.concat([request, request, request])
    let at = 0
    const next = (): void => {
      const piece = three.subarray(at, at + 7)
      at += 7
      if (piece.length > 0) socket.write(piece, () => setImmediate(next))
    }
    next()
    await closed
    expect(received()).toBe(3 * ANSWER_BYTES)
  })

  test('answers no more than its number, and closes', async () => {
    const { socket, received, closed } = await client(await tcpServer({ maxRequests: 2 }))
    socket.write(Buffer.concat([request, request, request, request]))
    await closed
    expect(received()).toBe(2 * ANSWER_BYTES)
  })

  test('messages it has no answer to count too', async () => {
    const { socket, received, closed } = await client(await tcpServer({ maxRequests: 2 }))
    const indication = Uint8Array.from(request)
    indication[1] = 0x11
    socket.write(Buffer.concat([indication, indication, request]))
    await closed
    expect(received()).toBe(0)
  })

  test.each([
    ['what is no STUN', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
    ['a message over the limit', Buffer.from('000102242112a442', 'hex')],
    ['noise behind a request', Buffer.concat([request, Buffer.from('more than eight')])],
  ])('closes at %s', async (_, bytes) => {
    const { socket, received, closed } = await client(await tcpServer())
    socket.write(bytes)
    await closed
    expect(received()).toBeLessThanOrEqual(ANSWER_BYTES)
  })

  test('closes over the limit', async () => {
    const limits = new ReflectorLimits({ perSource: { rate: 1, burst: 1 }, ...still })
    const port = await tcpServer({ limits })
    expect(await reflectTcp(HOST, port)).toMatchObject({ host: HOST })
    await expect(reflectTcp(HOST, port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('dripping bytes does not hold a connection open', async () => {
    const { socket, received, closed } = await client(await tcpServer({ idleMs: 60 }))
    let at = 0
    const drip = setInterval(() => socket.write(request.subarray(at, ++at)), 10) // would need 200 ms
    await closed
    clearInterval(drip)
    expect(at).toBeGreaterThan(1)
    expect(received()).toBe(0)
  })

  test('a client that never closes is closed', async () => {
    const port = await tcpServer({ idleMs: 60, maxRequests: 1 })
    const socket = connect({ port, host: HOST, allowHalfOpen: true }) // sends no FIN in answer to one
    socket.on('error', () => {})
    socket.on('data', () => {})
    socket.write(request)
    await once(socket, 'end')
    await closers.pop()?.() // the server has no connection left
    socket.destroy()
  })

  test('a client that leaves early leaves nothing behind', async () => {
    const port = await tcpServer({ idleMs: 10_000 })
    const { socket } = await client(port)
    socket.write(request.subarray(0, 10), () => socket.resetAndDestroy())
    await closers.pop()?.()
  })
})

describe("coturn's turnutils_stunclient", () => {
  const missing = spawnSync('turnutils_stunclient', []).error !== undefined

  test.skipIf(missing)('reads its address from the answer', async () => {
    const server = await reflector()
    const { stdout } = await promisify(execFile)('turnutils_stunclient', ['-p', String(server.port), HOST], {
      timeout: 10_000,
    })
    expect(stdout).toMatch(/UDP reflexive addr: 127\.0\.0\.1:\d+/)
    expect(server.counts.answered).toBeGreaterThan(0)
  })
})
