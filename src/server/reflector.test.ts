import { execFile, spawnSync } from 'node:child_process'
import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import type { SocketAddress } from '../network/address.ts'
import {
  changeRequest,
  readOtherAddress,
  readResponseOrigin,
  responsePort as responsePortAttribute,
} from '../network/nat-attributes.ts'
import { type ProbeAnswer, StunProbe } from '../network/nat-probe.ts'
import { reflectTcp, reflectUdp } from '../network/reflect.ts'
import {
  encodeBindingRequest,
  parseStunMessage,
  type StunAttribute,
  stunErrorCode,
  xorMappedAddress,
} from '../network/stun.ts'
import {
  answerStun,
  type Places,
  ReflectorLimits,
  type ServeStunTcpOptions,
  serveStunTcp,
  UdpReflector,
} from './reflector.ts'

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
    const message = parseStunMessage(answerStun(encodeBindingRequest(ID), SOURCE)!.bytes)!
    expect(message).toMatchObject({ class: 'success', transactionId: ID, fingerprint: false })
    expect(xorMappedAddress(message)).toEqual(SOURCE)
  })

  test('answers FINGERPRINT with FINGERPRINT, as multiplexed ports need', () => {
    const answer = answerStun(encodeBindingRequest(ID, { fingerprint: true }), SOURCE)!.bytes
    expect(parseStunMessage(answer)?.fingerprint).toBe(true)
  })

  test('420 names what it does not understand, such as CHANGE-REQUEST', () => {
    const message = parseStunMessage(answerStun(requestWith([0x0003, 0x8022, 0x0024, 0x0003]), SOURCE)!.bytes)!
    expect(message.class).toBe('error')
    expect(stunErrorCode(message)).toBe(420)
    expect([...message.attributes[1]!.value]).toEqual([0, 0x03, 0, 0x24])
  })

  test('credentials are not asked for and not minded', () => {
    expect(parseStunMessage(answerStun(requestWith([0x0006, 0x0008]), SOURCE)!.bytes)?.class).toBe('success')
  })

  test('answers only Binding requests, so two reflectors cannot be made to loop', () => {
    const answer = answerStun(encodeBindingRequest(ID), SOURCE)!.bytes
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
        const answer = answerStun(request, SOURCE)?.bytes
        return answer === undefined || answer.length + ipAndUdp < 2 * (request.length + ipAndUdp)
      }),
    )
    expect(answerStun(encodeBindingRequest(ID), SOURCE)?.bytes).toHaveLength(32)
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

describe('answerStun, with other places', () => {
  const place = (port: number, host = '198.41.0.4'): SocketAddress => ({ host, port, family: 4 })
  const twoPorts: Places = ({ address, port }) => (address ? undefined : place(port ? 2 : 1))
  const twoAddresses: Places = ({ address, port }) => place(port ? 2 : 1, address ? '198.41.0.5' : '198.41.0.4')
  const ask = (places: Places, ...attributes: StunAttribute[]) => {
    const answer = answerStun(encodeBindingRequest(ID, { attributes }), SOURCE, places)!
    return { ...answer, message: parseStunMessage(answer.bytes)! }
  }

  test('says where it answers from, and the other place only when its address is another', () => {
    const alone = ask(twoPorts)
    expect(alone).toMatchObject({ change: { address: false, port: false }, port: SOURCE.port })
    expect(readResponseOrigin(alone.message)).toEqual(place(1))
    expect(readOtherAddress(alone.message)).toBeUndefined()
    expect(readOtherAddress(ask(twoAddresses).message)).toEqual(place(2, '198.41.0.5'))
  })

  test('tells its other port to who asks for a change, be it none', () => {
    const { message, change } = ask(twoPorts, changeRequest({ address: false, port: false }))
    expect([change, readOtherAddress(message)]).toEqual([{ address: false, port: false }, place(2)])
  })

  // RFC 5780 table 1
  test.each([
    [false, false, place(1)],
    [true, false, place(1, '198.41.0.5')],
    [false, true, place(2)],
    [true, true, place(2, '198.41.0.5')],
  ])('change of address %j and port %j', (address, port, origin) => {
    const { message, change } = ask(twoAddresses, changeRequest({ address, port }))
    expect(change).toEqual({ address, port })
    expect(readResponseOrigin(message)).toEqual(origin)
    expect(readOtherAddress(message)).toEqual(place(2, '198.41.0.5'))
    expect(xorMappedAddress(message)).toEqual(SOURCE)
  })

  test('420 to who asks for an address that is not there, from where it was asked', () => {
    const { message, change } = ask(twoPorts, changeRequest({ address: true, port: true }))
    expect([stunErrorCode(message), change]).toEqual([420, { address: false, port: false }])
    expect([...message.attributes[1]!.value]).toEqual([0, 0x03])
  })

  test('answers to another port of the same address, but to no service', () => {
    expect(ask(twoPorts, responsePortAttribute(40_000))).toMatchObject({ port: 40_000 })
    const odd = ask(twoPorts, responsePortAttribute(53))
    expect([stunErrorCode(odd.message), odd.port]).toEqual([400, SOURCE.port])
    const own = answerStun(
      encodeBindingRequest(ID, { attributes: [responsePortAttribute(53)] }),
      { ...SOURCE, port: 53 },
      twoPorts,
    )!
    expect([parseStunMessage(own.bytes)?.class, own.port]).toEqual(['success', 53]) // where it came from anyway
  })

  test.each([[{ type: 0x0003, value: Uint8Array.of(0, 6) }], [{ type: 0x0027, value: Uint8Array.of(1) }]])(
    '400 to what is not well-formed: %o',
    (attribute) => {
      expect(stunErrorCode(ask(twoPorts, attribute).message)).toBe(400)
    },
  )

  test('is no amplifier', () => {
    const one = fc.constantFrom(
      changeRequest({ address: true, port: true }),
      changeRequest({ address: false, port: false }),
      responsePortAttribute(40_000),
      responsePortAttribute(1),
      { type: 0x7fff, value: new Uint8Array(0) },
      { type: 0x0026, value: new Uint8Array(4) },
    )
    const six: SocketAddress = { host: '2001:db8::1', port: 32_853, family: 6 }
    const kinds = [
      { source: SOURCE, places: [twoPorts, twoAddresses], headers: 28, most: 2 },
      { source: six, places: [(): SocketAddress => six], headers: 48, most: 2.1 },
    ]
    fc.assert(
      fc.property(fc.array(one, { maxLength: 20 }), fc.boolean(), (attributes, fingerprint) => {
        const request = encodeBindingRequest(ID, { attributes, fingerprint })
        for (const { source, places, headers, most } of kinds) {
          for (const place of places) {
            const { bytes } = answerStun(request, source, place)!
            expect((headers + bytes.length) / (headers + request.length)).toBeLessThan(most)
          }
        }
      }),
    )
  })

  test('never throws, whatever comes', () => {
    const type = fc.constantFrom(0x0003, 0x0027, 0x802b, 0x802c, 0x0020, 0x8022)
    const attribute = fc.record({ type, value: fc.uint8Array({ maxLength: 24 }) })
    fc.assert(
      fc.property(fc.array(attribute, { maxLength: 8 }), fc.uint8Array({ maxLength: 60 }), (attributes, noise) => {
        const { change, port } = answerStun(encodeBindingRequest(ID, { attributes }), SOURCE, twoPorts)!
        expect([change.address, port > 0]).toEqual([false, true])
        answerStun(Buffer.concat([encodeBindingRequest(ID), noise]), SOURCE, twoPorts)
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
    const answer = answerStun(encodeBindingRequest(new Uint8Array(12)), SOURCE)!.bytes
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

describe('UdpReflector, with other places', () => {
  const signal = new AbortController().signal

  async function ask(to: SocketAddress, ...attributes: StunAttribute[]): Promise<ProbeAnswer | undefined> {
    const probe = await StunProbe.open()
    closers.push(() => probe.close())
    return probe.ask(to, { signal, timeoutMs: 2_000, attributes })
  }

  test('answers from where it is asked to, wherever it was asked', async () => {
    const server = await reflector()
    await server.bindOthers({ host: '127.0.0.2', port: 0 })
    const [main, portOnly, addressOnly, both] = [server.address!, ...server.others] as SocketAddress[]
    expect([portOnly!.host, addressOnly!.port, both]).toEqual([
      HOST,
      main!.port,
      { ...addressOnly, port: portOnly!.port },
    ])
    const places = [main!, portOnly!, addressOnly!, both!]
    for (const [i, asked] of places.entries()) {
      for (const change of [0, 1, 2, 3]) {
        const answer = await ask(asked, changeRequest({ address: (change & 2) !== 0, port: (change & 1) !== 0 }))
        const from = places[i ^ change]
        expect(answer).toMatchObject({ kind: 'seen', from, origin: from, other: places[i ^ 3] })
      }
    }
    expect(server.counts.answered).toBe(16)
  })

  test('with another port only, it changes no address', async () => {
    const server = await reflector()
    await server.bindOthers({ port: 0 })
    const [other] = server.others
    expect(await ask(server.address!)).toMatchObject({ origin: server.address, other: undefined })
    expect(await ask(server.address!, changeRequest({ address: false, port: true }))).toMatchObject({
      from: other,
      other,
    })
    expect(await ask(other!, changeRequest({ address: false, port: true }))).toMatchObject({ from: server.address })
    expect(await ask(server.address!, changeRequest({ address: true, port: false }))).toMatchObject({
      kind: 'refused',
      code: 420,
      from: server.address,
    })
  })

  test('without others it is plain', async () => {
    const server = await reflector()
    expect(await ask(server.address!)).toMatchObject({ kind: 'seen', origin: undefined, other: undefined })
    expect(await ask(server.address!, changeRequest({ address: false, port: false }))).toMatchObject({ code: 420 })
  })

  test('on every interface it does not say which', async (context) => {
    const server = await reflector(undefined, '::').catch(() => undefined)
    if (server === undefined) return context.skip('no IPv6 here')
    await server.bindOthers({ port: 0 })
    const [{ port }] = server.others as [SocketAddress]
    const place: SocketAddress = { host: HOST, port: server.port, family: 4 }
    expect(await ask(place, changeRequest({ address: false, port: true }))).toMatchObject({
      from: { host: HOST, port },
      origin: { host: '0.0.0.0', port, family: 4 },
      other: { host: '0.0.0.0', port, family: 4 },
    })
    await expect(
      reflector(undefined, '::').then((other) => other.bindOthers({ host: '::1', port: 0 })),
    ).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  })

  test('an answer to another port arrives there', async () => {
    const server = await reflector()
    await server.bindOthers({ port: 0 })
    const listening = await StunProbe.open()
    closers.push(() => listening.close())
    const transactionId = ID
    const heard = listening.hear(transactionId, { signal, timeoutMs: 2_000 })
    const probe = await StunProbe.open()
    closers.push(() => probe.close())
    probe.send(
      encodeBindingRequest(transactionId, { attributes: [responsePortAttribute(listening.port)] }),
      server.address!,
    )
    const message = (await heard)!.message
    expect(xorMappedAddress(message)).toMatchObject({ port: probe.port })
  })

  test('its limits count for all places together', async () => {
    const server = await reflector(new ReflectorLimits({ perSource: { rate: 1, burst: 2 }, ...still }))
    await server.bindOthers({ host: '127.0.0.2', port: 0 })
    await ask(server.address!)
    await ask(server.others[2]!)
    await expect(reflectUdp(HOST, server.others[0]!.port, { timeoutMs: 80 })).rejects.toThrow(
      code('ERR_PEERLINE_TIMEOUT'),
    )
    expect(server.counts).toMatchObject({ answered: 2, limited: 1 })
  })

  test('binding others that cannot be had leaves what was, and may be tried again', async () => {
    const server = await reflector()
    await expect(new UdpReflector().bindOthers({ port: 0 })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    await expect(server.bindOthers({ port: server.port })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    for (const host of ['192.0.2.200', '::1', 'localhost', '0.0.0.0']) {
      await expect(server.bindOthers({ host, port: 0 })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    }
    expect([server.others, await ask(server.address!)]).toMatchObject([[], { kind: 'seen', origin: undefined }])
    await server.bindOthers({ host: '127.0.0.2', port: 0 })
    await expect(server.bindOthers({ port: 0 })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    const others = server.others
    await server.close()
    expect(server.others).toEqual([])
    for (const { host, port } of others) {
      const again = new UdpReflector()
      await again.bind(host, port) // given up
      await again.close()
    }
    await expect(server.bindOthers({ port: 0 })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  })

  test('close while binding others ends both', async () => {
    const server = await reflector()
    const bound = server.bindOthers({ host: '127.0.0.2', port: 0 }).catch((error: unknown) => error)
    await server.close()
    expect([undefined, code('ERR_PEERLINE_CLOSED')]).toContainEqual(await bound)
    expect(server.others).toEqual([])
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

describe("coturn's clients", () => {
  const missing = spawnSync('turnutils_stunclient', []).error !== undefined
  const run = async (command: string, ...args: string[]): Promise<string> => {
    const { stdout } = await promisify(execFile)(command, args, { timeout: 10_000 })
    return stdout
  }

  test.skipIf(missing)('turnutils_stunclient reads its address from the answer', async () => {
    const server = await reflector()
    const said = await run('turnutils_stunclient', '-p', String(server.port), HOST)
    expect(said).toMatch(/UDP reflexive addr: 127\.0\.0\.1:\d+/)
    expect(server.counts.answered).toBeGreaterThan(0)
  })

  test.skipIf(missing)('turnutils_natdiscovery finds what is to be found', async () => {
    const server = await reflector()
    await server.bindOthers({ host: '127.0.0.2', port: 0 })
    const both = await run('turnutils_natdiscovery', '-m', '-f', '-p', String(server.port), HOST)
    expect(both).toMatch(/Endpoint Independent Mapping!/)
    expect(both).toMatch(/Endpoint Independent Filtering!/)
    expect(both).toMatch(`Other addr: : 127.0.0.2:${server.others[2]!.port}`)
    const lifetime = await run('turnutils_natdiscovery', '-t', '-T', '1', '-p', String(server.port), HOST)
    expect(lifetime.match(/RFC 5780 response \d/g)).toEqual(['RFC 5780 response 1', 'RFC 5780 response 2'])
  })

  test.skipIf(missing)('turnutils_natdiscovery is not misled by a server of one address', async () => {
    const server = await reflector()
    await server.bindOthers({ port: 0 })
    const said = await run('turnutils_natdiscovery', '-m', '-p', String(server.port), HOST)
    expect(said).toMatch(/UDP reflexive addr/)
    expect(said).not.toMatch(/Mapping!/) // it draws no conclusion
  })
})
