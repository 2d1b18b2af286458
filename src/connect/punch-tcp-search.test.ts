/**
 * What meets what is tested in the lab, where SYNs travel; here: how many leave, from where, and that all end.
 */
import net from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { searchTcp } from './punch-tcp-search.ts'
import { watchSockets } from './watch-sockets.compliance.ts'

async function listen(): Promise<{ port: number; ports: Set<number> }> {
  const ports = new Set<number>()
  const server = net.createServer((socket) => {
    ports.add(socket.remotePort!)
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  return { port: (server.address() as net.AddressInfo).port, ports }
}

test('the random side sends many SYNs to one address, each from a port of its own', async () => {
  const { port, ports } = await listen()
  const dials = watchSockets()
  const stop = new AbortController()
  const taken: net.Socket[] = []
  await searchTcp({
    side: 'random',
    remote: { host: '127.0.0.1', port },
    signal: stop.signal,
    onSocket: (socket) => {
      taken.push(socket)
      if (taken.length === 256) stop.abort()
    },
  })
  expect(dials.length).toBe(256)
  expect(new Set(taken.map(({ localPort }) => localPort)).size).toBe(256)
  expect([...ports].every((from) => taken.some(({ localPort }) => localPort === from))).toBe(true)
  // What was handed over stays, whoever ended the search.
  expect(taken.every((socket) => !socket.destroyed)).toBe(true)
  for (const socket of taken) socket.destroy()
})

test('the fixed side sends from its one port to ever other ones, and says when it met nobody', async () => {
  const dials = watchSockets()
  const stop = new AbortController()
  const server = net.createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const localPort = (server.address() as net.AddressInfo).port
  await new Promise((resolve) => server.close(resolve))
  const taken: net.Socket[] = []
  onTestFinished(() => {
    for (const socket of taken) socket.destroy()
  })
  const searching = searchTcp({
    side: 'fixed',
    localPort,
    // Of the loopback network, and nobody there.
    remote: { host: '127.9.9.9', port: 1 },
    signal: stop.signal,
    onSocket: (socket) => taken.push(socket),
    ms: 250,
  })
  await expect(searching).rejects.toMatchObject({
    code: 'ERR_PEERLINE_UNREACHABLE',
    message: expect.stringMatching(/^\d+ SYNs met none/),
  })
  expect(dials.length).toBeGreaterThan(20)
  // 1,000 a second at the most.
  expect(dials.length).toBeLessThanOrEqual(260)
  expect(dials.every((socket) => socket.destroyed)).toBe(true)
})

test('a signal ends it, before and during', async () => {
  const stop = new AbortController()
  const options = {
    side: 'fixed',
    remote: { host: '127.9.9.9', port: 1 },
    onSocket: () => {},
    signal: stop.signal,
  } as const
  const running = searchTcp(options)
  stop.abort()
  await expect(running).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
  await expect(searchTcp(options)).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})
