/**
 * A siege: somebody attacks, while two honest peers go about their business through the same server.
 */
import { createCipheriv, randomBytes } from 'node:crypto'
import diagnostics from 'node:diagnostics_channel'
import net from 'node:net'
import tls from 'node:tls'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, onTestFinished } from 'vitest'
import { dialOverPath } from '../../src/connect/direct.ts'
import { Identity, type Peer } from '../../src/index.ts'
import { connectTcp, type FramedPath, tcpPath } from '../../src/path/index.ts'
import type { Server, ServerOptions } from '../../src/server/index.ts'
import { FrameWriter } from '../../src/session/frame.ts'
import { Sealer } from '../../src/session/record.ts'
import { get, portOf, startPeer, startWorld } from './world.ts'

/** Bytes by which the process may grow: far above what the limits allow one attacker, far below a leak of a flood. */
const MAX_GROWTH_BYTES = 150 * 1_048_576

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

function memory(): number {
  collectGarbage()
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

export interface Siege {
  readonly server: Server
  /** The port of the server. */
  readonly port: number
  readonly a: Peer
  readonly b: Peer
  /** The port where b listens. */
  readonly portOfB: number
}

/**
 * Runs `attack` while `a` asks `b` one thing after another on a relay, and directly. All of it is answered, no promise
 * is left to reject, memory stays bounded, and the server is well and takes new peers.
 */
export async function besiege(
  attack: (siege: Siege) => Promise<void>,
  options: { server?: ServerOptions } = {},
): Promise<void> {
  const rejections: unknown[] = []
  const onRejection = (reason: unknown) => rejections.push(reason)
  process.on('unhandledRejection', onRejection)
  onTestFinished(() => void process.off('unhandledRejection', onRejection))

  const { server, a, b } = await startWorld(options.server === undefined ? {} : { server: options.server })
  b.handle('/echo/1', (request) => request)
  const relayed = await startPeer({ rendezvous: [server.url], listen: [], listed: false })
  const answered = { direct: 0, relayed: 0 }
  let over = false
  const work = async (peer: Peer, via: 'auto' | 'relay', count: keyof typeof answered) => {
    await peer.connect(b.id, { via })
    do {
      const body = randomBytes(1 + (answered[count] % 3_000))
      const reply = await peer.request(b.id, '/echo/1', body, { timeoutMs: 10_000 })
      expect(Buffer.from(reply).equals(body)).toBe(true)
      answered[count]++
      await new Promise((resolve) => setImmediate(resolve))
    } while (!over)
  }
  const working = Promise.all([work(a, 'auto', 'direct'), work(relayed, 'relay', 'relayed')])
  // Seen when it is awaited; until then it must not count as unhandled.
  working.catch(() => {})
  const before = memory()
  const siege = { server, port: portOf(server.url), a, b, portOfB: portOf(b.addresses[0]!) }
  try {
    await attack(siege)
  } finally {
    over = true
  }
  await working
  expect(answered.direct).toBeGreaterThan(0)
  expect(answered.relayed).toBeGreaterThan(0)
  expect(JSON.parse((await get(server.url, '/healthz')).body)).toMatchObject({ status: 'ok' })
  const newcomer = await startPeer({ rendezvous: [server.url] })
  expect((await newcomer.request(b.id, '/echo/1', Uint8Array.of(1))).length).toBe(1)
  expect(memory() - before).toBeLessThan(MAX_GROWTH_BYTES)
  await new Promise((resolve) => setImmediate(resolve))
  expect(rejections).toEqual([])
}

/** Writes each of `messages` on a connection of its own, some at a time, and leaves when it is closed or after `ms`. */
export async function assault(
  port: number,
  messages: readonly (string | Uint8Array)[],
  options: { ms?: number; atOnce?: number; secure?: boolean } = {},
): Promise<void> {
  const { ms = 30, atOnce = 50, secure = false } = options
  const left = [...messages]
  const one = async () => {
    for (let message = left.pop(); message !== undefined; message = left.pop()) {
      const bytes = message
      await new Promise<void>((resolve) => {
        const raw = net.connect(port, '127.0.0.1')
        raw.on('error', () => {})
        const socket = secure ? tls.connect({ socket: raw, rejectUnauthorized: false }) : raw
        const timer = setTimeout(() => raw.resetAndDestroy(), ms)
        socket.on('error', () => {})
        socket.on('close', () => {
          clearTimeout(timer)
          resolve()
        })
        socket.write(bytes)
        socket.resume()
      })
    }
  }
  await Promise.all(Array.from({ length: atOnce }, one))
}

/** A peer that keeps the handshake and nothing else: what it sends in its session is up to the test. */
export class HostileSession {
  readonly identity: Identity
  readonly path: FramedPath
  readonly sealer: Sealer
  closed = false
  /** Messages that came. */
  received = 0
  readonly ended: Promise<void>

  readonly #key: Uint8Array

  private constructor(identity: Identity, path: FramedPath, key: Uint8Array) {
    this.identity = identity
    this.path = path
    this.sealer = new Sealer(key)
    this.#key = key
    this.ended = new Promise((resolve) => {
      path.start({
        message: () => this.received++,
        drain: () => {},
        close: () => {
          this.closed = true
          resolve()
        },
      })
    })
    path.maxMessageBytes = 66_560
    path.resume()
  }

  static async open(to: Peer, port: number, identity = Identity.generate()): Promise<HostileSession> {
    const path = tcpPath(await connectTcp('127.0.0.1', port))
    const keys = await dialOverPath(identity, to.id, path, { signal: AbortSignal.timeout(5_000) })
    onTestFinished(() => path.destroy())
    return new HostileSession(identity, path, keys.send)
  }

  /** Sends frames as an ordered record, sealed as it should be. */
  ordered(frames: Uint8Array | ((writer: FrameWriter) => void)): void {
    this.path.send(this.sealer.ordered(encode(frames), undefined))
  }

  /** Sends frames as the ordered record of this number. */
  orderedAs(count: number, frames: Uint8Array): void {
    const nonce = Buffer.alloc(12)
    nonce.writeBigUInt64BE(BigInt(count), 4)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce)
    const sealed = Buffer.concat([cipher.update(frames), cipher.final()])
    this.path.send([nonce.subarray(4), cipher.getAuthTag(), sealed])
  }

  /** The same as a loose record. */
  loose(frames: Uint8Array | ((writer: FrameWriter) => void)): void {
    this.path.send(this.sealer.loose(encode(frames), 0))
  }
}

function encode(frames: Uint8Array | ((writer: FrameWriter) => void)): Uint8Array {
  if (frames instanceof Uint8Array) return frames
  const writer = new FrameWriter()
  frames(writer)
  return new Uint8Array(writer.take()!)
}

/** `host:port` of every TCP connection that this process tries to open from now on, until the test ends. */
export function watchDials(): string[] {
  const dials: string[] = []
  const onSocket = (message: unknown) => {
    const { socket } = message as { socket: net.Socket }
    socket.on('connectionAttempt', (ip: string, port: number) => dials.push(`${ip}:${port}`))
    // Fires for names and for addresses, before anything leaves this machine.
    socket.on('lookup', (_error, address: string) => dials.push(`${address}`))
  }
  diagnostics.subscribe('net.client.socket', onSocket)
  onTestFinished(() => void diagnostics.unsubscribe('net.client.socket', onSocket))
  return dials
}

/** A TCP proxy to a port that flips one byte after `at` bytes in one direction. */
export async function flippingProxy(
  to: number,
  options: { at: number; by: number; towards: 'server' | 'client' },
): Promise<{ port: number; flipped: () => boolean }> {
  let flipped = false
  const sockets = new Set<net.Socket>()
  const server = net.createServer((near) => {
    const far = net.connect(to, '127.0.0.1')
    const pass = (from: net.Socket, into: net.Socket, direction: 'server' | 'client') => {
      let passed = 0
      from.on('data', (chunk: Buffer) => {
        const here = options.at - passed
        passed += chunk.length
        if (!flipped && direction === options.towards && here >= 0 && here < chunk.length) {
          chunk[here]! ^= options.by
          flipped = true
        }
        into.write(chunk)
      })
      from.on('error', () => {})
      from.on('close', () => into.destroy())
      from.on('end', () => into.end())
      sockets.add(from)
    }
    pass(near, far, 'server')
    pass(far, near, 'client')
  })
  server.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as net.AddressInfo).port, flipped: () => flipped }
}
