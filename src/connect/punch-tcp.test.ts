/**
 * On loopback a SYN is answered before the other side can send its own, so that two never cross: what crosses is tested
 * in the lab. Here: dialling from a given port, refusals, deadlines, and that nothing is left behind.
 */
import net from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { freePort } from '../network/free-port.compliance.ts'
import { punchTcp } from './punch-tcp.ts'
import { watchSockets } from './watch-sockets.compliance.ts'

function listen(server: net.Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, '127.0.0.1', () => resolve((server.address() as net.AddressInfo).port))
  })
}

function collect(): { sockets: net.Socket[]; onSocket: (socket: net.Socket) => void } {
  const sockets: net.Socket[] = []
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
  })
  return { sockets, onSocket: (socket) => sockets.push(socket) }
}

test('dials from the port whose mapping is known', async () => {
  const ports: (number | undefined)[] = []
  const server = net.createServer((socket) => {
    ports.push(socket.remotePort)
    socket.destroy()
  })
  onTestFinished(() => void server.close())
  const port = await listen(server, 0)
  const localPort = await freePort()
  const { sockets, onSocket } = collect()
  await punchTcp({ localPort, remotes: [{ host: '127.0.0.1', port }], onSocket, signal: AbortSignal.timeout(5_000) })
  expect(sockets.map((socket) => socket.localPort)).toEqual([localPort])
  expect(ports).toEqual([localPort])
})

test('a refusal is no end: it dials again until the other side is there', async () => {
  const port = await freePort()
  const localPort = await freePort()
  const { sockets, onSocket } = collect()
  const done = punchTcp({
    localPort,
    remotes: [{ host: '127.0.0.1', port }],
    onSocket,
    signal: AbortSignal.timeout(5_000),
  })
  // By the next turn of the event loop the first SYN has been refused.
  await new Promise((resolve) => setImmediate(resolve))
  expect(sockets).toEqual([])
  const server = net.createServer()
  onTestFinished(() => void server.close())
  await listen(server, port)
  await done
  expect(sockets).toHaveLength(1)
})

test('an address that keeps refusing is given up, and typed so', async () => {
  const { sockets, onSocket } = collect()
  const remotes = [{ host: '127.0.0.1', port: await freePort() }]
  const done = punchTcp({
    localPort: await freePort(),
    remotes,
    onSocket,
    signal: AbortSignal.timeout(10_000),
    ms: 9_000,
  })
  await expect(done).rejects.toMatchObject({
    code: 'ERR_PEERLINE_UNREACHABLE',
    message: expect.stringContaining('refuses'),
  })
  expect(sockets).toEqual([])
})

test('one address that connects is enough', async () => {
  const server = net.createServer()
  onTestFinished(() => void server.close())
  const port = await listen(server, 0)
  const { sockets, onSocket } = collect()
  const remotes = [
    { host: '127.0.0.1', port: await freePort() },
    { host: '127.0.0.1', port },
  ]
  await punchTcp({ localPort: await freePort(), remotes, onSocket, signal: AbortSignal.timeout(10_000), ms: 300 })
  expect(sockets.map((socket) => socket.remotePort)).toEqual([port])
})

test('the deadline and the signal end it, and leave no socket', async () => {
  const dials = watchSockets()
  const { onSocket } = collect()
  const remotes = [{ host: '127.0.0.1', port: await freePort() }]
  const localPort = await freePort()
  const late = punchTcp({ localPort, remotes, onSocket, signal: new AbortController().signal, ms: 30 })
  await expect(late).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
  const stop = new AbortController()
  const stopped = punchTcp({ localPort, remotes, onSocket, signal: stop.signal })
  stop.abort()
  await expect(stopped).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  const never = punchTcp({ localPort, remotes, onSocket, signal: stop.signal })
  await expect(never).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  expect(dials.length).toBeGreaterThan(1)
  expect(dials.filter((socket) => !socket.destroyed)).toEqual([])
})

test('a local port that listens already is said to be in use', async () => {
  const server = net.createServer()
  onTestFinished(() => void server.close())
  const localPort = await listen(server, 0)
  const { onSocket } = collect()
  const remotes = [{ host: '127.0.0.1', port: await freePort() }]
  const done = punchTcp({ localPort, remotes, onSocket, signal: AbortSignal.timeout(5_000) })
  await expect(done).rejects.toMatchObject({ code: 'ERR_PEERLINE_ADDRESS_IN_USE' })
})

test('a dozen addresses at once cause no warning of leaking listeners', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => void warnings.push(warning)
  process.on('warning', onWarning)
  onTestFinished(() => void process.off('warning', onWarning))
  const { onSocket } = collect()
  const port = await freePort()
  const remotes = Array.from({ length: 24 }, (_, at) => ({ host: `127.0.0.${at + 1}`, port }))
  const { signal } = new AbortController()
  await expect(punchTcp({ remotes, onSocket, signal, ms: 20 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_UNREACHABLE',
  })
  await new Promise((resolve) => setImmediate(resolve))
  expect(warnings).toEqual([])
})
