/**
 * A small world on loopback: a server, peers, and a hand on the TCP connections between them.
 */
import http from 'node:http'
import type net from 'node:net'
import { onTestFinished } from 'vitest'
import { Peer, type PeerOptions } from '../../src/index.ts'
import { Server, type ServerOptions } from '../../src/server/index.ts'

export { watchSockets } from '../../src/connect/watch-sockets.compliance.ts'

/** Starts a server that ends with the test. */
export async function startServer(options: ServerOptions = {}): Promise<Server> {
  const server = await Server.create({ listen: '127.0.0.1:0', ...options })
  onTestFinished(() => server.close({ signal: AbortSignal.timeout(500) }))
  return server
}

/** Starts a peer that lets everybody in, listens on loopback, and ends with the test. */
export async function startPeer(options: PeerOptions = {}): Promise<Peer> {
  const peer = await Peer.create({ listen: ['127.0.0.1:0'], firewall: { allow: 'all' }, ...options })
  onTestFinished(() => peer.close({ signal: AbortSignal.timeout(500) }))
  return peer
}

/** Two peers that are online at a server. */
export async function startWorld(
  options: { server?: ServerOptions; a?: PeerOptions; b?: PeerOptions } = {},
): Promise<{ server: Server; a: Peer; b: Peer }> {
  const server = await startServer(options.server)
  const a = await startPeer({ rendezvous: [server.url], ...options.a })
  const b = await startPeer({ rendezvous: [server.url], ...options.b })
  await Promise.all([a.online(), b.online()])
  return { server, a, b }
}

/** Cuts the connections to `port`, as a router that reboots does: no goodbye. */
export function cut(sockets: readonly net.Socket[], port: number): number {
  const to = sockets.filter((socket) => socket.remotePort === port && !socket.destroyed)
  for (const socket of to) socket.resetAndDestroy()
  return to.length
}

export function portOf(address: string): number {
  return Number(/:(\d+)(#|$)/.exec(address)![1])
}

/** All bytes of a stream. */
export async function readAll(stream: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** Resolves with the first event of a type for which `when` holds. */
export function once<D>(
  target: { addEventListener(type: never, listener: (event: CustomEvent<D>) => void): void },
  type: string,
  when: (detail: D) => boolean = () => true,
): Promise<D> {
  return new Promise((resolve) => {
    target.addEventListener(type as never, (event) => {
      if (when(event.detail)) resolve(event.detail)
    })
  })
}

/** What the server at `url` (any scheme) answers over HTTP. */
export function get(
  url: string,
  path: string,
  method = 'GET',
): Promise<{ status: number; headers: http.IncomingHttpHeaders; body: string }> {
  return new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port: portOf(url), path, method, agent: false }
    const request = http.request(options, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => {
        const body = Buffer.concat(chunks).toString()
        resolve({ status: response.statusCode!, headers: response.headers, body })
      })
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end()
  })
}
