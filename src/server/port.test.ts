import { once } from 'node:events'
import net from 'node:net'
import { afterEach, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { WebSocket } from 'ws'
import type { FramedPath } from '../path/index.ts'
import { Port, type PortOptions } from './port.ts'

async function startPort(options: Partial<PortOptions> = {}) {
  const paths: FramedPath[] = []
  const stuns: Uint8Array[] = []
  const port = new Port({
    onPath: (path) => paths.push(path),
    onStun: (socket, head) => {
      stuns.push(head)
      socket.destroy()
    },
    health: () => ({ status: 'ok' }),
    ...options,
  })
  const { port: number } = await port.listen('127.0.0.1', 0)
  onTestFinished(() => port.close())
  return { port, number, paths, stuns }
}

/** Connects and writes; what came back is in `got` when it is `closed`. */
async function dial(number: number, ...writes: (string | Uint8Array)[]) {
  const socket = net.connect(number, '127.0.0.1')
  onTestFinished(() => void socket.destroy())
  const chunks: Buffer[] = []
  const closed = new Promise<string>((resolve) => {
    socket.on('error', () => {})
    socket.on('data', (chunk) => chunks.push(chunk))
    socket.on('close', () => resolve(Buffer.concat(chunks).toString('latin1')))
  })
  await once(socket, 'connect')
  for (const bytes of writes) {
    socket.write(bytes)
    await turns(3)
  }
  return { socket, closed }
}

const realImmediate = setImmediate
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => realImmediate(resolve))
}

describe('a connection', () => {
  const stun = Uint8Array.of(0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, ...new Uint8Array(12))
  const framed = Buffer.concat([Uint8Array.of(0, 0, 0, 100), Buffer.alloc(100)])

  test('is taken for what its first bytes say, whole or one at a time', async () => {
    const { number, paths, stuns } = await startPort()
    await dial(number, framed)
    await dial(number, ...[...framed].map((byte) => Uint8Array.of(byte)))
    await vi.waitFor(() => expect(paths.length).toBe(2))
    await dial(number, stun)
    await dial(number, ...[...stun].map((byte) => Uint8Array.of(byte)))
    await vi.waitFor(() => expect(stuns.length).toBe(2))
    for (const head of stuns) expect([...head]).toEqual([...stun.subarray(0, head.length)])
    const { closed } = await dial(number, ...'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
    expect(await closed).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*\{"status":"ok"\}$/)
    const socket = new WebSocket(`ws://127.0.0.1:${number}`)
    await once(socket, 'open')
    expect(paths.length).toBe(3)
    socket.terminate()
  })

  test.each([
    ['TLS without a certificate', Uint8Array.of(0x16, 3, 1, 0, 5)],
    ['SSH', 'ssh-2.0'],
    ['nothing known', Uint8Array.of(0xff)],
  ])('that speaks %s is closed at once, without a word', async (_, bytes) => {
    const { number, paths } = await startPort()
    expect(await (await dial(number, bytes)).closed).toBe('')
    expect(paths).toEqual([])
  })

  test.each([
    ['not HTTP', 'AAAA\r\n\r\n'],
    ['an HTTP header without end', `GET / HTTP/1.1\r\nX: ${'x'.repeat(20_000)}`],
    ['a method that opens a tunnel', 'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n'],
    ['an upgrade to something else', 'GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n'],
  ])('that says %s is closed', async (_, text) => {
    const { number, paths } = await startPort()
    expect(await (await dial(number, text)).closed).not.toMatch(/ (101|200) /)
    expect(paths).toEqual([])
  })
})

describe('a connection that is slow', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  test.each<[string, readonly string[]]>([
    ['silence', []],
    ['half a length', ['\0', '\0']],
    ['half a STUN header', ['\0\x01\0\0', '\x21\x12']],
    ['half an HTTP request', ['GET /healthz HTTP/1.1\r\n', 'X: ', 'y']],
    ['an HTTP request without its end', ['GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n']],
  ])('is closed after ten seconds: %s', async (_, writes) => {
    const { number, paths } = await startPort()
    const { socket, closed } = await dial(number, ...writes)
    await turns(20)
    vi.advanceTimersByTime(9_999)
    await turns(20)
    expect(socket.closed).toBe(false)
    vi.advanceTimersByTime(1)
    expect(await closed).toBe('')
    expect(paths).toEqual([])
  })

  test('is left alone once it is a path, be it one over WebSocket', async () => {
    const { number, paths } = await startPort()
    const raw = await dial(number, Buffer.concat([Uint8Array.of(0, 0, 0, 50), Buffer.alloc(50)]))
    const socket = new WebSocket(`ws://127.0.0.1:${number}`)
    await once(socket, 'open')
    expect(vi.getTimerCount()).toBe(0)
    vi.advanceTimersByTime(100_000)
    await turns(20)
    expect([raw.socket.closed, socket.readyState, paths.length]).toEqual([false, WebSocket.OPEN, 2])
    socket.terminate()
  })
})
