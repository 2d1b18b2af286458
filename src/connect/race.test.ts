import net from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { freePort } from '../network/free-port.compliance.ts'
import { raceTcp } from './race.ts'

async function listen(host: string): Promise<number> {
  const server = net.createServer((socket) => socket.on('error', () => {}))
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  onTestFinished(() => void server.close())
  return (server.address() as net.AddressInfo).port
}

test('the best address that opens is taken', async () => {
  const ports = [await listen('127.0.0.1'), await listen('127.0.0.1')]
  const path = await raceTcp(
    ports.map((port) => ({ host: '127.0.0.1', port })),
    AbortSignal.timeout(5_000),
  )
  expect(path.remote).toBe(`127.0.0.1:${ports[0]}`)
  path.destroy()
})

test('who fails at once holds up nobody: the tenth address does not wait for its second', async () => {
  const closed = await freePort()
  const addresses = Array.from({ length: 9 }, (_, at) => ({ host: `127.0.0.${at + 1}`, port: closed }))
  const port = await listen('127.0.0.1')
  const started = performance.now()
  const path = await raceTcp([...addresses, { host: '127.0.0.1', port }], AbortSignal.timeout(5_000))
  // By the clock alone it would have its turn after 900 ms.
  expect(performance.now() - started).toBeLessThan(800)
  expect(path.remote).toBe(`127.0.0.1:${port}`)
  path.destroy()
})

test('none that opens: the error of the first', async () => {
  const closed = await freePort()
  const addresses = ['127.0.0.1', '127.0.0.2'].map((host) => ({ host, port: closed }))
  await expect(raceTcp(addresses, AbortSignal.timeout(5_000))).rejects.toMatchObject({
    code: 'ERR_PEERLINE_UNREACHABLE',
    message: expect.stringContaining('127.0.0.1'),
  })
})

test('the signal ends it', async () => {
  const stop = new AbortController()
  const port = await freePort()
  const racing = raceTcp([{ host: '127.0.0.1', port }], stop.signal)
  stop.abort()
  await expect(racing).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
})
