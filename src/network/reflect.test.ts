import { createSocket, type Socket as DatagramSocket, type RemoteInfo } from 'node:dgram'
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { reflectTcp, reflectUdp } from './reflect.ts'
import { encodeBindingError, encodeBindingRequest, encodeBindingSuccess, parseStunMessage } from './stun.ts'

const HOST = '127.0.0.1'
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

type UdpReply = (request: Uint8Array, from: RemoteInfo, socket: DatagramSocket) => void

/** A UDP server that does what `reply` says; gives its port. */
async function udpServer(reply: UdpReply): Promise<number> {
  const socket = createSocket('udp4')
  socket.on('message', (request, from) => reply(request, from, socket))
  socket.bind(0, HOST)
  await once(socket, 'listening')
  closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  return socket.address().port
}

/** A TCP server that does what `reply` says at each chunk; gives its port and itself. */
async function tcpServer(
  reply: (request: Uint8Array, socket: Socket) => void,
): Promise<[port: number, server: Server]> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.on('data', (request) => reply(request, socket))
  })
  server.listen(0, HOST)
  await once(server, 'listening')
  closers.push(() => new Promise((resolve) => server.close(resolve)))
  return [(server.address() as { port: number }).port, server]
}

const idOf = (request: Uint8Array): Uint8Array => parseStunMessage(request)!.transactionId

/** The right answer. */
function success(request: Uint8Array, port: number, host = HOST): Uint8Array {
  return encodeBindingSuccess(idOf(request), { host, port, family: 4 })
}

/** A Binding success with the given attributes, in hex. */
function successWith(request: Uint8Array, attributes: string): Uint8Array {
  const body = Buffer.from(attributes, 'hex')
  return Buffer.concat([Buffer.from([1, 1, 0, body.length, 0x21, 0x12, 0xa4, 0x42]), idOf(request), body])
}

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

/** A port that was free a moment ago. */
async function freeUdpPort(): Promise<number> {
  const socket = createSocket('udp4').bind(0, HOST)
  await once(socket, 'listening')
  const { port } = socket.address()
  await new Promise<void>((resolve) => socket.close(() => resolve()))
  return port
}

/** Fails when the port is still held. */
async function expectUdpPortFree(port: number): Promise<void> {
  const socket = createSocket('udp4').bind(port)
  await once(socket, 'listening')
  await new Promise<void>((resolve) => socket.close(() => resolve()))
}

// what both kinds must refuse the same way
const BAD_ANSWERS: [name: string, answer: (request: Uint8Array) => Uint8Array, code: string][] = [
  ['error 400', (request) => encodeBindingError(idOf(request), { code: 400 }), 'ERR_PEERLINE_REMOTE'],
  ['error 420', (request) => encodeBindingError(idOf(request), { code: 420, unknown: [3] }), 'ERR_PEERLINE_REMOTE'],
  ['no address', (request) => successWith(request, ''), 'ERR_PEERLINE_PROTOCOL'],
  ['port 0', (request) => success(request, 0), 'ERR_PEERLINE_PROTOCOL'],
  ['an attribute we do not understand', (request) => successWith(request, '7ffe0000'), 'ERR_PEERLINE_PROTOCOL'],
]

describe('reflectUdp', () => {
  test('gives the address it is seen from, asked from the port it was told', async () => {
    const port = await udpServer((request, from, socket) => socket.send(success(request, from.port), from.port, HOST))
    const localPort = await freeUdpPort()
    expect(await reflectUdp(HOST, port, { localPort, localAddress: HOST })).toEqual({
      host: HOST,
      port: localPort,
      family: 4,
    })
    await expectUdpPortFree(localPort)
  })

  test('asks a host by name', async () => {
    const port = await udpServer((request, from, socket) => socket.send(success(request, 7), from.port, HOST))
    expect(await reflectUdp('localhost', port)).toEqual({ host: HOST, port: 7, family: 4 })
  })

  test('asks again, with the same transaction id and twice the wait, when packets are lost', async () => {
    const seen: { id: string; at: number }[] = []
    const port = await udpServer((request, from, socket) => {
      seen.push({ id: Buffer.from(idOf(request)).toString('hex'), at: performance.now() })
      if (seen.length === 4) socket.send(success(request, 7), from.port, HOST)
    })
    expect(await reflectUdp(HOST, port, { rtoMs: 20 })).toMatchObject({ port: 7 })
    expect(new Set(seen.map(({ id }) => id)).size).toBe(1)
    expect(seen[3]!.at - seen[0]!.at).toBeGreaterThan(130) // 20 + 40 + 80, less the timers' rounding
  })

  test('passes over what is not the answer', async () => {
    const port = await udpServer((request, from, socket) => {
      const forged = success(request, 666)
      forged[19]! ^= 1
      const noise = [new Uint8Array(0), Buffer.from('hello'), forged, encodeBindingRequest(idOf(request)), request]
      for (const datagram of [...noise, success(request, 7)]) socket.send(datagram, from.port, HOST)
    })
    expect(await reflectUdp(HOST, port)).toMatchObject({ port: 7 })
  })

  test('an answer from another address is no answer', async () => {
    const other = createSocket('udp4').bind(0, HOST)
    closers.push(() => new Promise((resolve) => other.close(() => resolve(undefined))))
    let forged = 0
    const port = await udpServer((request, from, socket) => {
      other.send(success(request, 666), from.port, HOST, () => {
        forged++
        socket.send(success(request, 7), from.port, HOST)
      })
    })
    expect(await reflectUdp(HOST, port)).toMatchObject({ port: 7 })
    expect(forged).toBeGreaterThan(0)
  })

  test.each(BAD_ANSWERS)('%s is a typed error', async (_, answer, expected) => {
    const port = await udpServer((request, from, socket) => socket.send(answer(request), from.port, HOST))
    await expect(reflectUdp(HOST, port)).rejects.toThrow(code(expected))
  })

  test('silence ends at the deadline, and frees the port', async () => {
    const port = await udpServer(() => {})
    const localPort = await freeUdpPort()
    const asked = reflectUdp(HOST, port, { timeoutMs: 40, localPort })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    await expectUdpPortFree(localPort)
  })

  test('the signal ends it before and during', async () => {
    const controller = new AbortController()
    const port = await udpServer(() => controller.abort())
    const localPort = await freeUdpPort()
    const asked = reflectUdp(HOST, port, { signal: controller.signal, localPort })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await expectUdpPortFree(localPort)
    await expect(reflectUdp(HOST, port, { signal: controller.signal })).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    const late = new AbortController()
    const soon = reflectUdp(HOST, port, { signal: late.signal })
    late.abort() // before the socket is bound
    await expect(soon).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })

  test('a port that is closed is known at once', async () => {
    const asked = reflectUdp(HOST, await freeUdpPort(), { timeoutMs: 10_000 })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('a local port in use is said', async () => {
    const port = await udpServer(() => {})
    const asked = reflectUdp(HOST, port, { localPort: port, localAddress: HOST })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })
})

describe('reflectTcp', () => {
  test('gives the address it is seen from, and closes', async () => {
    let closed: Promise<unknown> | undefined
    const [port] = await tcpServer((request, socket) => {
      closed = once(socket, 'close')
      socket.write(success(request, socket.remotePort!))
    })
    const localPort = await freeUdpPort() // free for TCP too, as far as anybody can know
    expect(await reflectTcp(HOST, port, { localPort })).toEqual({ host: HOST, port: localPort, family: 4 })
    await closed
  })

  test('takes an answer in pieces', async () => {
    const [port] = await tcpServer((request, socket) => {
      socket.setNoDelay()
      const answer = success(request, 7)
      let at = 0
      const next = (): void => {
        if (at < answer.length) socket.write(answer.subarray(at, ++at), () => setImmediate(next))
      }
      next()
    })
    expect(await reflectTcp('localhost', port)).toMatchObject({ port: 7 })
  })

  test.each([
    ...BAD_ANSWERS,
    ['another transaction', () => encodeBindingSuccess(new Uint8Array(12), { host: HOST, port: 1, family: 4 })],
    ['no STUN', () => Buffer.from('HTTP/1.1 400 Bad Request')],
    ['an endless message', () => Buffer.from('0101fffc2112a442', 'hex')],
    ['a request', (request: Uint8Array) => request],
  ] as [string, (request: Uint8Array) => Uint8Array, string?][])('%s is a typed error', async (_, answer, expected) => {
    const [port] = await tcpServer((request, socket) => socket.write(answer(request)))
    await expect(reflectTcp(HOST, port)).rejects.toThrow(code(expected ?? 'ERR_PEERLINE_PROTOCOL'))
  })

  test('whatever is answered, it is an address or a typed error', async () => {
    let answer: Uint8Array = new Uint8Array(0)
    const [port] = await tcpServer((_, socket) => socket.end(answer))
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 700 }), async (bytes) => {
        answer = bytes
        const result = await reflectTcp(HOST, port).catch((error: unknown) => error)
        expect(isPeerlineError(result)).toBe(true)
      }),
      { numRuns: 40 },
    )
  })

  test('a close without an answer is unreachable', async () => {
    const [port] = await tcpServer((_, socket) => socket.end())
    await expect(reflectTcp(HOST, port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('silence ends at the deadline, and closes', async () => {
    let closed: Promise<unknown> | undefined
    const [port] = await tcpServer((_, socket) => {
      closed = once(socket, 'close')
    })
    await expect(reflectTcp(HOST, port, { timeoutMs: 60 })).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    await closed
  })

  test('the signal ends it, and closes', async () => {
    const controller = new AbortController()
    let closed: Promise<unknown> | undefined
    const [port] = await tcpServer((_, socket) => {
      closed = once(socket, 'close')
      controller.abort()
    })
    const asked = reflectTcp(HOST, port, { signal: controller.signal })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await closed
    const late = new AbortController()
    const soon = reflectTcp(HOST, port, { signal: late.signal })
    late.abort()
    await expect(soon).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })

  test('nobody there is unreachable', async () => {
    const [port, server] = await tcpServer(() => {})
    server.close()
    await once(server, 'close')
    await expect(reflectTcp(HOST, port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('a local port in use is said', async () => {
    const [port] = await tcpServer(() => {})
    const asked = reflectTcp(HOST, port, { localPort: port, localAddress: HOST })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  })
})

test.each([
  ['', 1, {}],
  [HOST, 0, {}],
  [HOST, 65_536, {}],
  [HOST, 1.5, {}],
  [HOST, 1, { localPort: -1 }],
  [HOST, 1, { localAddress: 'localhost' }],
])('refuses %j %d %o', async (host, port, options) => {
  await expect(reflectUdp(host, port, options)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  await expect(reflectTcp(host, port, options)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
})

test('a name that cannot be found is unreachable', async () => {
  const name = `${'a'.repeat(64)}.invalid` // a label over 63 characters: fails here, no resolver is asked
  await expect(reflectUdp(name, 1)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
})
