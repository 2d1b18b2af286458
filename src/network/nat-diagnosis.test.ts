import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { ReflectorLimits, serveStunTcp, UdpReflector } from '../server/reflector.ts'
import type { LocalAddress, SocketAddress } from './address.ts'
import { freePort } from './free-port.compliance.ts'
import { otherAddress, responseOrigin } from './nat-attributes.ts'
import { type DiagnoseOptions, diagnoseNat } from './nat-diagnosis.ts'
import type { NatDiagnosis } from './nat-report.ts'
import { counter, NatSimulator, type NatSimulatorOptions, OUTSIDE } from './nat-simulator.compliance.ts'
import { encodeBindingSuccess, parseStunMessage } from './stun.ts'

const local: LocalAddress[] = [{ host: '127.0.0.1', family: 4, scope: 'loopback', interfaceName: 'lo', prefixBits: 8 }]
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

type Others = { host?: string; port: number } | false

async function reflector(others: Others): Promise<UdpReflector> {
  const server = new UdpReflector()
  closers.push(() => server.close())
  await server.bind('127.0.0.2', 0)
  if (others !== false) await server.bindOthers(others)
  return server
}

function diagnose(reflectors: SocketAddress[], options: Partial<DiagnoseOptions> = {}): Promise<NatDiagnosis> {
  const signal = new AbortController().signal
  return diagnoseNat({ reflectors, signal, local, timeoutMs: 400, longestIdleMs: 0, ...options })
}

/** Through a NAT, to a reflector of which only the main place is named. */
async function through(
  nat: NatSimulatorOptions,
  others: Others,
  options: Partial<DiagnoseOptions> = {},
): Promise<NatDiagnosis> {
  const server = await reflector(others)
  const simulator = new NatSimulator(nat)
  closers.push(() => simulator.close())
  const main = await simulator.gate(server.address!)
  for (const other of server.others) await simulator.gate(other)
  return diagnose([main], options)
}

const TWO_ADDRESSES = { host: '127.0.0.3', port: 0 }
const TWO_PORTS = { port: 0 }

describe('with a reflector of two addresses, behind a NAT', () => {
  const kinds = ['endpoint-independent', 'address-dependent', 'address-and-port-dependent'] as const

  test.each(kinds.flatMap((mapping) => kinds.map((filtering) => ({ mapping, filtering }))))(
    'of $mapping mapping and $filtering filtering, both are found',
    async ({ mapping, filtering }) => {
      const { udp } = await through({ mapping, filtering }, TWO_ADDRESSES)
      expect(udp).toMatchObject({ state: 'ok', mappingBehaviour: mapping, filtering })
      expect(udp.mappingSeenFrom).toEqual({ addresses: 2, endpoints: 4 })
      expect(udp.mapped[0]).toMatchObject({ host: OUTSIDE })
      expect(udp.mapping === 'endpoint-independent').toBe(mapping === 'endpoint-independent')
    },
  )

  test('that counts, the step is found', async () => {
    const nat = { mapping: 'address-and-port-dependent', allocate: counter(40_000, 2) } as const
    const { udp } = await through(nat, TWO_ADDRESSES)
    expect(udp).toMatchObject({ mapping: 'sequential', step: 2 })
  })
})

describe('with a reflector of two ports, behind a NAT', () => {
  test.each([
    ['endpoint-independent', 'at-most-address-dependent'],
    ['address-dependent', 'at-most-address-dependent'],
    ['address-and-port-dependent', 'address-and-port-dependent'],
  ] as const)('of %s filtering, as much as can be told is: %s', async (filtering, expected) => {
    const { udp, reflectors } = await through({ filtering }, TWO_PORTS)
    expect(udp).toMatchObject({ filtering: expected, mappingBehaviour: 'endpoint-independent' })
    expect(udp.mappingSeenFrom).toEqual({ addresses: 1, endpoints: 2 })
    expect(reflectors).toMatchObject([{ udpRttMs: expect.any(Number), changes: { address: false, port: true } }])
  })
})

test('with a plain reflector nothing is made up', async () => {
  const { udp, reflectors } = await through({}, false)
  expect(udp).toMatchObject({ state: 'ok', mapping: 'unknown', mappingBehaviour: 'unknown', filtering: 'unknown' })
  expect(reflectors[0]).not.toHaveProperty('changes')
})

test('a server that takes CHANGE-REQUEST for nothing is not believed', async () => {
  const server = await reflector(TWO_PORTS)
  const relay = createSocket('udp4') // hands questions on, and every answer back from where it was asked
  relay.bind(0, '127.0.0.2')
  await once(relay, 'listening')
  closers.push(() => new Promise((resolve) => relay.close(() => resolve(undefined))))
  const main = server.address!
  const place: SocketAddress = { host: '127.0.0.2', port: relay.address().port, family: 4 }
  const askers = new Map<string, number>()
  relay.on('message', (datagram, from) => {
    const id = datagram.toString('hex', 8, 20)
    if (from.address === '127.0.0.2') return relay.send(datagram, askers.get(id)!, '127.0.0.1')
    askers.set(id, from.port)
    relay.send(datagram, main.port, main.host)
  })
  const { udp } = await diagnose([place])
  expect(udp).toMatchObject({ state: 'ok', filtering: 'unknown' })
})

test('a reflector sends us nowhere but within its own reach', async () => {
  const named: SocketAddress[] = []
  const server = createSocket('udp4')
  const victim = createSocket('udp4')
  let hits = 0
  victim.on('message', () => hits++)
  for (const socket of [server, victim]) {
    socket.bind(0, '127.0.0.2')
    await once(socket, 'listening')
    closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  }
  const place: SocketAddress = { host: '127.0.0.2', port: server.address().port, family: 4 }
  server.on('message', (datagram, from) => {
    const { transactionId } = parseStunMessage(datagram)!
    const attributes = [responseOrigin(place), ...named.map(otherAddress)]
    const seen: SocketAddress = { host: '127.0.0.1', port: from.port, family: 4 }
    server.send(encodeBindingSuccess(transactionId, seen, { attributes }), from.port, from.address)
  })
  named.push({ host: '192.0.2.1', port: victim.address().port, family: 4 })
  expect((await diagnose([place])).reflectors[0]).not.toHaveProperty('changes')
  named[0] = { host: '::1', port: victim.address().port, family: 6 }
  expect((await diagnose([place])).reflectors[0]).not.toHaveProperty('changes')
  expect(hits).toBe(0)
  named[0] = { host: '127.0.0.2', port: victim.address().port, family: 4 }
  expect((await diagnose([place])).reflectors[0]).toMatchObject({ changes: { address: false, port: true } })
  expect(hits).toBeGreaterThan(0)
})

describe('hairpin', () => {
  test.each<[string, NatSimulatorOptions, string]>([
    ['turns it round', { hairpin: true }, 'yes'],
    ['turns it round and lets anybody in', { hairpin: true, filtering: 'endpoint-independent' }, 'yes'],
    ['does not', { hairpin: false, filtering: 'endpoint-independent' }, 'no'],
    // Each sends from a port that the other was not told of.
    ['maps each destination anew', { hairpin: true, mapping: 'address-and-port-dependent' }, 'no'],
  ])('a NAT that %s', async (_, nat, expected) => {
    expect((await through(nat, TWO_PORTS)).udp.hairpin).toBe(expected)
  })
})

test('the life of mappings', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error): void => void warnings.push(warning)
  process.on('warning', onWarning)
  closers.push(async () => void process.off('warning', onWarning))
  const idlesMs = [100, 400, 410, 420, 430, 440, 450, 10_000]
  const { udp } = await through({ lifetimeMs: 200 }, TWO_PORTS, { longestIdleMs: 450, idlesMs })
  expect(udp.lifetimeMs).toEqual({ atLeast: 100, below: 400 })
  await new Promise((resolve) => setImmediate(resolve))
  expect(warnings).toEqual([]) // such as of too many listeners
})

describe('without a NAT', () => {
  test('all is open, and the report is plain JSON', async () => {
    const server = await reflector(TWO_ADDRESSES)
    const tcp = createServer((socket) => serveStunTcp(socket, new Uint8Array(0), { limits: new ReflectorLimits() }))
    const { host, port } = server.address!
    tcp.listen(port, host)
    await once(tcp, 'listening')
    closers.push(() => new Promise((resolve) => tcp.close(resolve)))
    const steps: string[] = []
    const report = await diagnose([server.address!], {
      onProgress: ({ step, state }) => steps.push(`${step} ${state}`),
    })
    const view = {
      state: 'ok',
      mapping: 'none',
      portPreserving: true,
      mapped: [{ host: '127.0.0.1', port: expect.any(Number), family: 4 }],
      rttMs: expect.any(Number),
    }
    expect(report).toEqual({
      tookMs: expect.any(Number),
      local,
      reflectors: [
        { host, port, scope: 'loopback', udpRttMs: expect.any(Number), changes: { address: true, port: true } },
      ],
      udp: {
        ...view,
        mappingBehaviour: 'none',
        mappingSeenFrom: { addresses: 2, endpoints: 4 },
        filtering: 'endpoint-independent',
        hairpin: 'not-needed',
      },
      tcp: view,
      ipv6: { address: false, udp: 'unknown', tcp: 'unknown', mapped: [] },
    })
    expect(JSON.parse(JSON.stringify(report))).toEqual(report)
    expect(steps.slice(0, 2)).toEqual(['mapping started', 'mapping finished'])
    for (const step of ['filtering', 'hairpin', 'lifetime', 'tcp', 'ipv6']) {
      expect(steps).toEqual(expect.arrayContaining([`${step} started`, `${step} finished`]))
    }
  })

  test('UDP that is blocked is told from no network at all', async () => {
    const tcp = createServer((socket) => serveStunTcp(socket, new Uint8Array(0), { limits: new ReflectorLimits() }))
    tcp.listen(0, '127.0.0.2')
    await once(tcp, 'listening')
    closers.push(() => new Promise((resolve) => tcp.close(resolve)))
    const place: SocketAddress = { host: '127.0.0.2', port: (tcp.address() as { port: number }).port, family: 4 }
    const { udp, tcp: view } = await diagnose([place])
    expect(view).toMatchObject({ state: 'ok' })
    expect(udp).toMatchObject({ state: 'blocked', filtering: 'unknown', hairpin: 'unknown', mapped: [] })

    const nobody = await diagnose([{ host: '127.0.0.2', port: 9, family: 4 }])
    expect([nobody.udp.state, nobody.tcp.state]).toEqual(['unknown', 'unknown'])
    const nothing = await diagnose([])
    expect([nothing.udp.state, nothing.tcp.state, nothing.reflectors]).toEqual(['unknown', 'unknown', []])
  })
})

describe('IPv6', () => {
  const public6: LocalAddress = { host: '2a00:1450::5', family: 6, scope: 'public', interfaceName: 'e', prefixBits: 64 }

  test('seen from an address that is not ours, it is translated', async (context) => {
    const server = new UdpReflector()
    closers.push(() => server.close())
    if (
      !(await server.bind('::1', 0).then(
        () => true,
        () => false,
      ))
    )
      return context.skip('no IPv6 here')
    const { ipv6, udp } = await diagnose([server.address!], { local: [...local, public6] })
    expect(ipv6).toMatchObject({
      address: true,
      udp: 'ok',
      tcp: 'blocked',
      translated: true,
      mapped: [{ host: '::1' }],
    })
    expect(udp.state).toBe('unknown')
  })
})

test('the signal ends it: before, at the mapping, in the midst', async () => {
  const aborted = code('ERR_PEERLINE_ABORTED')
  await expect(diagnose([], { signal: AbortSignal.abort() })).rejects.toThrow(aborted)
  const server = await reflector(TWO_ADDRESSES)
  for (const at of ['mapping', 'hairpin', 'ipv6']) {
    const controller = new AbortController()
    const { signal } = controller
    const onProgress: DiagnoseOptions['onProgress'] = ({ step }) => {
      if (step === at) controller.abort()
    }
    const places = [server.address!, { host: '127.0.0.2', port: 9, family: 4 } as const]
    await expect(diagnose(places, { signal, onProgress, longestIdleMs: 600_000 })).rejects.toThrow(aborted)
  }
})

describe("coturn's turnserver", () => {
  const missing = spawnSync('turnserver', ['--help']).error !== undefined

  test.skipIf(missing)('as the reflector tells the same', async () => {
    const [main, other] = [await freePort('127.0.0.2'), await freePort('127.0.0.2')]
    const options = ['-n', '--stun-only', '--no-tls', '--no-dtls', '--no-cli', '--log-file', 'stdout', '--pidfile', '']
    const places = ['-L', '127.0.0.2', '-L', '127.0.0.3', '-p', String(main), '--alt-listening-port', String(other)]
    const server = spawn('turnserver', [...options, ...places], { stdio: 'ignore' })
    closers.push(async () => {
      if (server.exitCode !== null) return
      server.kill()
      await once(server, 'exit')
    })
    const simulator = new NatSimulator({ filtering: 'address-dependent' })
    closers.push(() => simulator.close())
    const gates: SocketAddress[] = []
    for (const host of ['127.0.0.2', '127.0.0.3']) {
      for (const port of [main, other]) gates.push(await simulator.gate({ host, port, family: 4 }))
    }
    await expect.poll(async () => (await diagnose([gates[0]!])).udp.state, { timeout: 10_000 }).toBe('ok')
    const { udp } = await diagnose([gates[0]!])
    expect(udp).toMatchObject({ mappingBehaviour: 'endpoint-independent', filtering: 'address-dependent' })
    expect(udp.mappingSeenFrom).toEqual({ addresses: 2, endpoints: 4 })
  })
})
