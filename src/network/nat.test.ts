import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { LocalAddress, SocketAddress } from './address.ts'
import { classify, classifyTcp, type Observation, observeTcp, observeUdp, type Reflecting } from './nat.ts'
import { StunProbe } from './nat-probe.ts'
import { counter, NatSimulator, type NatSimulatorOptions, OUTSIDE } from './nat-simulator.compliance.ts'
import { encodeBindingSuccess, parseStunMessage } from './stun.ts'

const HOST = '127.0.0.1'
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const own = (host: string): LocalAddress => ({
  host,
  family: 4,
  scope: 'private',
  interfaceName: 'lan0',
  prefixBits: 24,
})
const LAN = [own('192.168.1.5')]
const signal = new AbortController().signal

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

/** `5000:61000` is local port 5000, seen as port 61000 of the NAT's address, or of another that stands behind `@`. */
function seen(...texts: string[]): Observation[] {
  return texts.map((text) => {
    const [, localPort, port, host = '198.41.0.4'] = /^(\d+):(\d+)(?:@(.*))?$/.exec(text)!
    return { localPort: Number(localPort), mapped: { host, port: Number(port) } }
  })
}

/** Three sockets that two reflectors each saw, at these ports in this order. */
function six(...ports: number[]): Observation[] {
  return seen(...ports.map((port, i) => `${5_000 + Math.floor(i / 2)}:${port}`))
}

describe('classify', () => {
  test.each<[string, Observation[], object]>([
    ['nothing seen', [], { mapping: 'unknown' }],
    ['one answer', seen('5000:61000'), { mapping: 'unknown', portPreserving: false }],
    ['one answer, the port kept', seen('5000:5000'), { mapping: 'unknown', portPreserving: true }],
    ['one answer, our own address', seen('5000:5000@192.168.1.5'), { mapping: 'none', portPreserving: true }],
    [
      'our own address twice',
      seen('5000:5000@192.168.1.5', '5000:5000@192.168.1.5'),
      { mapping: 'none', portPreserving: true },
    ],
    [
      'two different ports',
      seen('5000:61000', '5000:61001'),
      { mapping: 'random', portPreserving: false }, // two mappings are one step, which may be chance
    ],
    ['the same port', seen('5000:61000', '5000:61000'), { mapping: 'endpoint-independent', portPreserving: false }],
    ['the same port, kept', seen('5000:5000', '5000:5000'), { mapping: 'endpoint-independent', portPreserving: true }],
    [
      'the same port of each of two sockets',
      seen('5000:61000', '5000:61000', '5001:7', '5001:7'),
      { mapping: 'endpoint-independent', portPreserving: false },
    ],
    [
      'sockets that one reflector each saw',
      seen('5000:61000', '5001:61001', '5002:61002'),
      { mapping: 'unknown', portPreserving: false }, // may be endpoint-independent all the same
    ],
    ['steps of 1', six(61_000, 61_001, 61_002, 61_003), { mapping: 'sequential', step: 1 }],
    ['steps of 2', six(61_000, 61_002, 61_004, 61_006), { mapping: 'sequential', step: 2 }],
    ['steps of -1', six(61_003, 61_002, 61_001, 61_000), { mapping: 'sequential', step: -1 }],
    ['three mappings', six(61_000, 61_001, 61_002), { mapping: 'sequential', step: 1 }],
    ['a counter that starts over', six(65_534, 65_535, 1_024, 1_025), { mapping: 'sequential', step: 1 }],
    ['one that starts over in steps of 2', six(65_532, 65_534, 1_024, 1_026), { mapping: 'sequential', step: 2 }],
    ['one that counts down and starts over', six(1_025, 1_024, 65_535, 65_534), { mapping: 'sequential', step: -1 }],
    ['other flows in between', six(61_000, 61_003, 61_004, 61_009, 61_010), { mapping: 'sequential', step: 1 }],
    ['other flows in between steps of 2', six(61_000, 61_006, 61_008, 61_010), { mapping: 'sequential', step: 2 }],
    ['a datagram that was late', six(61_000, 61_002, 61_001, 61_003, 61_004), { mapping: 'sequential', step: 1 }],
    ['a counter that jumped once', six(61_000, 61_001, 12_000, 12_001, 12_002), { mapping: 'sequential', step: 1 }],
    ['one that jumped twice', six(61_000, 61_001, 12_000, 12_001, 30_000, 30_001), { mapping: 'random' }],
    ['one step that is small', six(61_000, 61_001, 12_000), { mapping: 'random' }],
    ['many that overtook each other', six(61_000, 61_003, 61_001, 61_004, 61_002), { mapping: 'sequential', step: 1 }],
    ['the same, over the end', six(65_534, 1_025, 65_535, 1_026, 1_024), { mapping: 'sequential', step: 1 }],
    ['the same, down', six(61_004, 61_001, 61_003, 61_002, 61_000), { mapping: 'sequential', step: -1 }],
    ['too few that overtook each other', six(61_000, 61_003, 61_001), { mapping: 'random' }],
    ['any ports of a block', six(61_000, 61_063, 61_020, 61_040, 61_012, 61_033), { mapping: 'random' }],
    ['any ports', six(12_345, 54_321, 33_333, 2_222), { mapping: 'random' }],
    ['steps too large to search', six(10_000, 10_065, 10_130, 10_195), { mapping: 'random' }],
    [
      'ports kept for the first reflector, counted for the second',
      seen('5000:5000', '5000:61000', '43210:43210', '43210:61001', '39999:39999', '39999:61002'),
      { mapping: 'sequential', step: 1, portPreserving: true },
    ],
    [
      'ports kept for the first reflector, any for the second',
      seen('5000:5000', '5000:61000', '43210:43210', '43210:1301', '39999:39999', '39999:25002'),
      { mapping: 'random', portPreserving: true },
    ],
    [
      'two reflectors that look the same to the NAT, and one that does not',
      seen('5000:61000', '5000:61000', '5000:61001', '5001:61002', '5001:61002', '5001:61003'),
      { mapping: 'sequential', step: 1 },
    ],
    [
      'another address each time',
      seen('5000:61000@198.41.0.4', '5000:61000@198.41.0.5'),
      { mapping: 'random', portPreserving: false },
    ],
    [
      'another address each time, counted',
      seen('5000:61000@198.41.0.4', '5000:61001@198.41.0.5', '5001:61002@198.41.0.4', '5001:61003@198.41.0.5'),
      { mapping: 'random' },
    ],
    [
      'a reflector on our own network, and one beyond',
      seen('5000:5000@192.168.1.5', '5000:61000'),
      { mapping: 'unknown' },
    ],
    [
      'a reflector on our own network, and two beyond',
      seen('5000:5000@192.168.1.5', '5000:61000', '5000:61000'),
      { mapping: 'endpoint-independent' },
    ],
    [
      'a reflector in the carrier’s network, and two beyond',
      seen('5000:700@100.64.3.2', '5000:61000', '5000:61000'),
      { mapping: 'endpoint-independent' },
    ],
    [
      'a reflector on our own network, and two in the one around it',
      seen('5000:5000@192.168.1.5', '5000:61000@10.0.0.1', '5000:61000@10.0.0.1'),
      { mapping: 'endpoint-independent' },
    ],
    [
      'IPv6 beside',
      seen('5000:5000@2a00:1450::1', '5000:61000', '5000:61000'),
      { mapping: 'endpoint-independent', portPreserving: false },
    ],
    [
      'a NAT that has our own address',
      seen('5000:61000@192.168.1.5', '5000:61000@192.168.1.5'),
      { portPreserving: false },
    ],
  ])('%s', (_, observations, expected) => {
    expect(classify(observations, LAN)).toMatchObject(expected)
  })

  test('only what is sequential has a step', () => {
    expect(classify(six(12_345, 54_321, 33_333), LAN)).toEqual({ mapping: 'random', portPreserving: false })
  })

  test('finds the step of any counter, wherever it starts', () => {
    const counters = fc.tuple(fc.integer({ min: 1_024, max: 65_535 }), fc.integer({ min: 1, max: 10 }), fc.boolean())
    fc.assert(
      fc.property(counters, ([first, size, down]) => {
        const step = down ? -size : size
        const ports = [0, 1, 2, 3, 4, 5].map((i) => 1_024 + ((((first - 1_024 + i * step) % 64_512) + 64_512) % 64_512))
        expect(classify(six(...ports), LAN)).toMatchObject({ mapping: 'sequential', step })
      }),
    )
  })

  test('takes anything for an address', () => {
    const observation = fc.record({
      localPort: fc.nat(70_000),
      mapped: fc.record({ host: fc.oneof(fc.ipV4(), fc.ipV6(), fc.string()), port: fc.integer() }),
    })
    fc.assert(
      fc.property(fc.array(observation, { maxLength: 12 }), (observations) => {
        const { mapping, step } = classify(observations, LAN)
        expect(step !== undefined).toBe(mapping === 'sequential')
        expect(classifyTcp(observations, LAN).mapped.every(({ family }) => family === 4 || family === 6)).toBe(true)
      }),
    )
  })
})

test('classifyTcp names each mapped address once', () => {
  expect(classifyTcp(seen('5000:61000', '5000:61000'), LAN)).toEqual({
    state: 'ok',
    mapping: 'endpoint-independent',
    portPreserving: false,
    mapped: [{ host: '198.41.0.4', port: 61_000, family: 4 }],
  })
  expect(classifyTcp([], LAN)).toEqual({ state: 'unknown', mapping: 'unknown', mapped: [] })
})

/** A reflector; `silent` ones take questions and say nothing. */
async function reflector(
  options: { host?: string; silent?: boolean } = {},
): Promise<SocketAddress & { asked: number }> {
  const socket: Socket = createSocket('udp4')
  const place = { host: options.host ?? HOST, port: 0, family: 4 as const, asked: 0 }
  socket.on('message', (datagram, { address, port }) => {
    place.asked++
    const id = parseStunMessage(datagram)?.transactionId
    if (id !== undefined && options.silent !== true) {
      socket.send(encodeBindingSuccess(id, { host: address, port, family: 4 }), port, address)
    }
  })
  socket.bind(0, place.host)
  await once(socket, 'listening')
  closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  place.port = socket.address().port
  return place
}

async function socketOf(host?: string): Promise<Reflecting> {
  const probe = await StunProbe.open(4, host)
  closers.push(() => probe.close())
  return probe
}

const local = [own(HOST)]

describe('observeUdp', () => {
  /** What is seen through a NAT of this kind, by two ports of one reflector. */
  async function through(options: NatSimulatorOptions): Promise<Awaited<ReturnType<typeof observeUdp>>> {
    const nat = new NatSimulator(options)
    closers.push(() => nat.close())
    const gates = [await nat.gate(await reflector()), await nat.gate(await reflector())]
    return observeUdp(await socketOf(HOST), gates, { signal, local })
  }

  test('no NAT', async () => {
    const socket = await socketOf()
    const view = await observeUdp(socket, [await reflector(), await reflector()], { signal, local })
    expect(view).toEqual({
      state: 'ok',
      mapping: 'none',
      portPreserving: true,
      mapped: [{ host: HOST, port: socket.port, family: 4 }],
      rttMs: expect.any(Number),
    })
  })

  test('a NAT that maps a port once', async () => {
    const view = await through({})
    expect(view).toMatchObject({ state: 'ok', mapping: 'endpoint-independent', portPreserving: false })
    expect(view.mapped).toEqual([{ host: OUTSIDE, port: expect.any(Number), family: 4 }])
  })

  test('a NAT that keeps ports', async () => {
    const view = await through({ allocate: (port) => port })
    expect(view).toMatchObject({ mapping: 'endpoint-independent', portPreserving: true })
  })

  test.each([1, 2, -1])('a NAT that counts in steps of %d', async (step) => {
    const view = await through({ mapping: 'address-and-port-dependent', allocate: counter(30_000, step) })
    expect(view).toMatchObject({ state: 'ok', mapping: 'sequential', step, portPreserving: false })
    expect(view.mapped).toHaveLength(2)
  })

  test('a NAT that takes any port', async () => {
    const ports = [20_011, 31_007, 25_303, 21_114, 38_005, 27_776, 33_332, 24_447]
    const view = await through({ mapping: 'address-and-port-dependent', allocate: () => ports.shift()! })
    expect(view).toMatchObject({ state: 'ok', mapping: 'random' })
    expect(view).not.toHaveProperty('step')
  })

  test('a socket whose mappings are old is not judged by them', async () => {
    // Both were made long ago, thousands of connections apart; the counter is elsewhere now.
    const old = [20_000, 50_000]
    const count = counter(30_000, 1)
    const view = await through({ mapping: 'address-and-port-dependent', allocate: () => old.shift() ?? count() })
    expect(view).toMatchObject({ mapping: 'sequential', step: 1, mapped: [{ port: 20_000 }, { port: 50_000 }] })
  })

  test('is done when two have answered, and asks each once', async () => {
    const [a, b] = [await reflector(), await reflector()]
    const silent = await reflector({ silent: true })
    const started = performance.now()
    const view = await observeUdp(await socketOf(), [silent, a, a, b], { signal, local, timeoutMs: 30_000 })
    expect(view).toMatchObject({ state: 'ok', mapping: 'none' })
    expect(performance.now() - started).toBeLessThan(1_000)
    expect([a.asked, b.asked, silent.asked]).toEqual([1, 1, 1])
  })

  test('a NAT that goes by addresses is not taken for one that maps a port once', async () => {
    const ports = [20_011, 31_007, 25_303, 21_114, 38_005, 27_776, 33_332, 24_447]
    const nat = new NatSimulator({ mapping: 'address-dependent', allocate: () => ports.shift()! })
    closers.push(() => nat.close())
    const places = [await reflector(), await reflector(), await reflector({ host: '127.0.0.2' })]
    const gates: SocketAddress[] = []
    for (const place of places) gates.push(await nat.gate(place))
    const view = await observeUdp(await socketOf(), gates, { signal, local })
    expect(view.mapping).toBe('random')
  })

  test('asks as many hosts as it can', async () => {
    const places: (SocketAddress & { asked: number })[] = []
    for (const host of [HOST, HOST, HOST, '127.0.0.2', HOST, '127.0.0.3']) places.push(await reflector({ host }))
    await observeUdp(await socketOf(), places, { signal, local })
    await expect.poll(() => places.map(({ asked }) => asked)).toEqual([1, 1, 0, 1, 0, 1])
  })

  test('a reflector near by does not answer for those beyond the NAT', async () => {
    const socket: Reflecting = {
      port: 5_000,
      reflect: async (host) => {
        if (host === 'near') return { host: HOST, port: 5_000, family: 4 }
        await new Promise((resolve) => setTimeout(resolve, 30))
        return { host: OUTSIDE, port: 61_000, family: 4 }
      },
    }
    const places = ['near', 'far', 'farther'].map((host) => ({ host, port: 1 }))
    expect(await observeUdp(socket, places, { signal, local })).toMatchObject({ mapping: 'endpoint-independent' })
  })

  test('does not wait long for a second answer', async () => {
    const nat = new NatSimulator({})
    closers.push(() => nat.close())
    const gates = [await nat.gate(await reflector()), await nat.gate(await reflector({ silent: true }))]
    const started = performance.now()
    const view = await observeUdp(await socketOf(), gates, { signal, local, timeoutMs: 30_000 })
    expect(view).toMatchObject({ state: 'ok', mapping: 'unknown', mapped: [{ host: OUTSIDE }] })
    expect(performance.now() - started).toBeLessThan(2_000)
  })

  test('silence is a block only where the network is known to work', async () => {
    const silent = [await reflector({ silent: true })]
    const socket = await socketOf()
    const unknown = { state: 'unknown', mapping: 'unknown', mapped: [] }
    expect(await observeUdp(socket, silent, { signal, local, timeoutMs: 50 })).toEqual(unknown)
    expect(await observeUdp(socket, silent, { signal, local, timeoutMs: 50, online: true })).toEqual({
      ...unknown,
      state: 'blocked',
    })
    expect(await observeUdp(socket, [], { signal, local, online: true })).toEqual(unknown)
  })

  test('a socket that fails has nothing to tell', async () => {
    const socket = { port: 5_000, reflect: () => Promise.reject(new PeerlineError('ERR_PEERLINE_CLOSED', 'closed')) }
    expect(await observeUdp(socket, [await reflector()], { signal, local })).toMatchObject({ state: 'unknown' })
  })

  test('the signal ends it before and during, and ends the questions', async () => {
    const controller = new AbortController()
    const ended: unknown[] = []
    const socket: Reflecting = {
      port: 5_000,
      reflect: (_host, _port, options) =>
        new Promise((_, reject) => {
          options!.signal!.addEventListener('abort', () => {
            ended.push(options!.signal)
            reject(new PeerlineError('ERR_PEERLINE_ABORTED', 'ended'))
          })
          setImmediate(() => controller.abort())
        }),
    }
    const options = { signal: controller.signal, local }
    const places = [
      { host: HOST, port: 1 },
      { host: HOST, port: 2 },
    ]
    await expect(observeUdp(socket, places, options)).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    expect(ended).toHaveLength(2)
    await expect(observeUdp(socket, places, options)).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await expect(observeTcp(places, options)).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })
})

describe('observeTcp', () => {
  async function tcpReflector(silent = false): Promise<SocketAddress & { from: (number | undefined)[] }> {
    const from: (number | undefined)[] = []
    const server = createServer((socket) => {
      from.push(socket.remotePort)
      socket.on('error', () => {})
      socket.on('data', (request) => {
        const id = parseStunMessage(request)!.transactionId
        if (!silent) socket.write(encodeBindingSuccess(id, { host: HOST, port: socket.remotePort!, family: 4 }))
      })
    })
    server.listen(0, HOST)
    await once(server, 'listening')
    closers.push(() => new Promise((resolve) => server.close(resolve)))
    return { host: HOST, port: (server.address() as { port: number }).port, family: 4, from }
  }

  test('asks two from one port', async () => {
    const [a, b] = [await tcpReflector(), await tcpReflector()]
    const view = await observeTcp([a, b], { signal, local })
    expect(a.from).toEqual(b.from)
    expect(view).toEqual({
      state: 'ok',
      mapping: 'none',
      portPreserving: true,
      mapped: [{ host: HOST, port: a.from[0], family: 4 }],
      rttMs: expect.any(Number),
    })
  })

  test('nobody there is unknown, or a block', async () => {
    const silent = await tcpReflector(true)
    expect(await observeTcp([silent], { signal, local, timeoutMs: 50 })).toMatchObject({ state: 'unknown' })
    expect(await observeTcp([silent], { signal, local, timeoutMs: 50, online: true })).toMatchObject({
      state: 'blocked',
    })
  })
})
