import { once } from 'node:events'
import { connect, createServer, type Server } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { reflectTcp, reflectUdp } from '../network/reflect.ts'
import { encodeBindingRequest } from '../network/stun.ts'
import { Alternates } from './alternates.ts'
import { ReflectorLimits, UdpReflector } from './reflector.ts'

const HOST = '127.0.0.1'
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

async function start(host = HOST, limits = new ReflectorLimits()): Promise<UdpReflector> {
  const reflector = new UdpReflector({ limits })
  closers.push(() => reflector.close())
  await reflector.bind(host, 0)
  return reflector
}

async function open(
  reflector: UdpReflector,
  options: { port?: number; host?: string; limits?: ReflectorLimits } = {},
): Promise<Alternates> {
  const { port = 0, host, limits = new ReflectorLimits() } = options
  const alternates = await Alternates.open({ reflector, limits, port, host })
  closers.push(() => alternates.close())
  return alternates
}

/** Takes a TCP port, so that only UDP has it. */
async function taken(port: number): Promise<Server> {
  const server = createServer()
  server.listen(port, HOST)
  await once(server, 'listening')
  closers.push(() => new Promise((resolve) => server.close(resolve)))
  return server
}

test('reflect over UDP and TCP at the same addresses', async () => {
  const reflector = await start()
  const { addresses } = await open(reflector, { host: '127.0.0.2' })
  expect(addresses.map(({ host }) => host)).toEqual([HOST, '127.0.0.2', '127.0.0.2'])
  for (const { host, port } of addresses) {
    expect(await reflectUdp(host, port)).toMatchObject({ host: HOST })
    expect(await reflectTcp(host, port)).toMatchObject({ host: expect.stringMatching(/^127\.0\.0\.[12]$/) })
  }
})

test('one of every interface reflects at every interface', async (context) => {
  const reflector = await start('::').catch(() => undefined)
  if (reflector === undefined) return context.skip('no IPv6 here')
  const [address] = (await open(reflector)).addresses
  expect(await reflectTcp(HOST, address!.port)).toMatchObject({ host: HOST, family: 4 })
  expect(await reflectTcp('::1', address!.port)).toMatchObject({ host: '::1', family: 6 })
})

test('a port that is taken is said, and everything given back', async () => {
  const reflector = await start()
  const { port } = (await taken(0)).address() as { port: number }
  await expect(open(reflector, { port })).rejects.toThrow(code('ERR_PEERLINE_ADDRESS_IN_USE'))
  expect(reflector.others).toEqual([])
  await open(reflector) // another one will do
})

test('any port means one that both UDP and TCP can have', async () => {
  const { port } = (await taken(0)).address() as { port: number }
  /** Is given, as any UDP port, one that TCP cannot have. */
  class Unlucky extends UdpReflector {
    attempts = 0
    override bindOthers(): Promise<void> {
      return super.bindOthers({ port: ++this.attempts < 3 ? port : 0 })
    }
  }
  const reflector = new Unlucky()
  closers.push(() => reflector.close())
  await reflector.bind(HOST, 0)
  const [address] = (await open(reflector)).addresses
  expect(reflector.attempts).toBe(3)
  expect(await reflectTcp(HOST, address!.port)).toMatchObject({ host: HOST })
})

test('an address that cannot be had is said', async () => {
  const reflector = await start()
  await expect(open(reflector, { host: '192.0.2.200' })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  await expect(open(await start('0.0.0.0'), { host: '127.0.0.2' })).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
  expect(reflector.others).toEqual([])
})

describe('a TCP connection', () => {
  const talk = async (port: number, bytes: Uint8Array): Promise<number> => {
    const socket = connect({ port, host: HOST })
    let received = 0
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      received += chunk.length
    })
    const closed = new Promise((resolve) => socket.once('close', resolve))
    socket.write(bytes)
    await closed
    return received
  }

  test('that speaks anything else is closed without a word', async () => {
    const [address] = (await open(await start())).addresses
    for (const bytes of [
      Buffer.from('GET / HTTP/1.1\r\n\r\n'),
      Buffer.alloc(100),
      Uint8Array.of(0, 0, 0, 100, 1, 1, 1, 1),
    ]) {
      expect(await talk(address!.port, bytes)).toBe(0)
    }
  })

  test('over the limit is closed', async () => {
    const limits = new ReflectorLimits({ perSource: { rate: 0, burst: 1 } })
    const [address] = (await open(await start(), { limits })).addresses
    const request = encodeBindingRequest(new Uint8Array(12))
    expect(await talk(address!.port, Buffer.concat([request, request]))).toBeLessThanOrEqual(32)
    expect(await talk(address!.port, request)).toBe(0)
  })

  test('ends when the server does', async () => {
    const alternates = await open(await start())
    const socket = connect({ port: alternates.addresses[0]!.port, host: HOST })
    socket.on('error', () => {})
    const closed = new Promise((resolve) => socket.once('close', resolve))
    await once(socket, 'connect')
    socket.write(encodeBindingRequest(new Uint8Array(12)))
    await once(socket, 'data') // accepted, and known to the server
    await alternates.close()
    await closed
    await expect(reflectTcp(HOST, alternates.addresses[0]!.port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })
})
