import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import https from 'node:https'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import tls from 'node:tls'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { FramedPath } from './framing.ts'
import { describePath, type PathPair } from './path.compliance.ts'
import { expectSame, framed, Recorder, sample, turns } from './recorder.compliance.ts'
import { connectWebSocket, MAX_WEBSOCKET_MESSAGE_BYTES, WEBSOCKET_PROTOCOL, WebSocketPipe } from './websocket.ts'

const HOST = '127.0.0.1'
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  vi.restoreAllMocks()
  await Promise.all(closers.splice(0).map((close) => close()))
})

interface Server {
  readonly port: number
  /** The first connection, paused as a server must do until it has a pipe for it. */
  accepted(): Promise<WebSocket>
  stop(): Promise<void>
}

async function listen(server: http.Server = http.createServer()): Promise<Server> {
  const webSockets = new WebSocketServer({
    server,
    perMessageDeflate: false,
    maxPayload: MAX_WEBSOCKET_MESSAGE_BYTES,
  })
  const sockets: WebSocket[] = []
  webSockets.on('connection', (socket) => {
    socket.pause()
    socket.on('error', () => {})
    sockets.push(socket)
    server.emit('kept')
  })
  server.listen(0, HOST)
  await once(server, 'listening')
  return {
    port: (server.address() as net.AddressInfo).port,
    accepted: async () => {
      if (sockets.length === 0) await once(server, 'kept')
      return sockets[0]!
    },
    stop: async () => {
      for (const socket of sockets) socket.terminate()
      webSockets.close()
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** A pair whose `a` is at the client's end, or at the server's: only a client masks what it sends. */
async function webSocketPair(end: 'client' | 'server'): Promise<PathPair> {
  const server = await listen()
  const client = new WebSocket(`ws://${HOST}:${server.port}`, WEBSOCKET_PROTOCOL, { perMessageDeflate: false })
  let clientPipe: WebSocketPipe | undefined
  client.on('open', () => {
    clientPipe = new WebSocketPipe(client, 'server')
  })
  await once(client, 'open')
  const accepted = await server.accepted()
  const serverPipe = new WebSocketPipe(accepted, 'client')
  const [pipeA, rawB] = end === 'client' ? [clientPipe!, serverPipe] : [serverPipe, clientPipe!]
  const socketA = end === 'client' ? client : accepted
  return {
    a: new FramedPath('relay', pipeA),
    b: new FramedPath('relay', rawB),
    rawB,
    waiting: () => socketA.bufferedAmount,
    teardown: async () => {
      client.terminate()
      await server.stop()
    },
  }
}

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

describePath('websocket, at the client', () => webSocketPair('client'))
describePath('websocket, at the server', () => webSocketPair('server'))

/** A path on a client's end, and the plain WebSocket at the other. */
async function withPlainPeer(): Promise<{ atA: Recorder; path: FramedPath; peer: WebSocket }> {
  const server = await listen()
  closers.push(server.stop)
  const pipe = await connectWebSocket(`ws://${HOST}:${server.port}`)
  const path = new FramedPath('relay', pipe)
  const atA = new Recorder()
  path.start(atA)
  const peer = await server.accepted()
  peer.resume()
  return { atA, path, peer }
}

describe('a WebSocket as a pipe', () => {
  test('bounds of WebSocket messages mean nothing, and empty ones are passed over', async () => {
    const { atA, peer } = await withPlainPeer()
    const bytes = framed(sample(5), sample(6))
    peer.send(new Uint8Array(0))
    peer.send(bytes.subarray(0, 11))
    peer.send(new Uint8Array(0))
    peer.send(bytes.subarray(11, 12), { fin: false })
    peer.send(bytes.subarray(12), { fin: true })
    await atA.count(2)
    expectSame(atA.messages, [sample(5), sample(6)])
  })

  test('text ends it, and what follows in the same chunk is not read', async () => {
    const { atA, peer } = await withPlainPeer()
    peer.send(framed(sample(5)))
    peer.send('hello')
    peer.send(framed(sample(6)))
    expect(await atA.end()).toBe('ERR_PEERLINE_PROTOCOL')
    expectSame(atA.messages, [sample(5)])
  })

  test('a WebSocket message of the largest size is taken, a larger one is refused', async () => {
    const { atA, peer } = await withPlainPeer()
    const message = sample(MAX_WEBSOCKET_MESSAGE_BYTES / 16 - 4)
    peer.send(framed(...Array.from({ length: 16 }, () => message)))
    await atA.count(16)
    peer.send(new Uint8Array(MAX_WEBSOCKET_MESSAGE_BYTES + 1))
    expect(await atA.end()).toBe('ERR_PEERLINE_TOO_LARGE')
    expect(atA.messages.length).toBe(16)
  })

  test.each([
    ['in order', (peer: WebSocket) => peer.close(1000)],
    ['in order', (peer: WebSocket) => peer.close(4321, 'for reasons of its own')],
    ['in order', (peer: WebSocket) => peer.terminate()],
  ])('the other side ends it: %s', async (end, close) => {
    const { atA, peer } = await withPlainPeer()
    peer.send(framed(sample(5)))
    await atA.count(1)
    close(peer)
    expect(await atA.end()).toBe(end)
  })

  test('what breaks RFC 6455 ends it at once, though the other side stays', async () => {
    const server = net.createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', (request) => {
        const key = /sec-websocket-key: (.*)\r\n/i.exec(request.toString('latin1'))![1]!
        socket.write(upgradeAnswer(key))
        socket.write(Buffer.from([0x83, 0x00])) // opcode 3 is reserved: section 5.2
      })
      closers.push(async () => void socket.destroy())
    })
    server.listen(0, HOST)
    await once(server, 'listening')
    closers.push(() => new Promise((resolve) => server.close(resolve)))
    const { port } = server.address() as net.AddressInfo
    const path = new FramedPath('relay', await connectWebSocket(`ws://${HOST}:${port}`))
    const atA = new Recorder()
    path.start(atA)
    expect(await atA.end()).toBe('ERR_PEERLINE_PROTOCOL')
  })

  test('over a WebSocket that had closed before is told so', async () => {
    const server = await listen()
    closers.push(server.stop)
    const client = new WebSocket(`ws://${HOST}:${server.port}`, WEBSOCKET_PROTOCOL)
    await once(client, 'open')
    client.terminate()
    await once(client, 'close')
    const path = new FramedPath('relay', new WebSocketPipe(client, 'server'))
    expect(path.writable).toBe(false)
    const atA = new Recorder()
    path.start(atA)
    expect(await atA.end()).toBe('in order')
  })
})

/** RFC 6455 section 4.2.2. */
function upgradeAnswer(key: string): string {
  const accept = execFileSync('openssl', ['dgst', '-sha1', '-binary'], {
    input: `${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`,
  }).toString('base64')
  return [
    'HTTP/1.1 101 Switching Protocols',
    'Upgrade: websocket',
    'Connection: Upgrade',
    `Sec-WebSocket-Accept: ${accept}`,
    `Sec-WebSocket-Protocol: ${WEBSOCKET_PROTOCOL}`,
    '\r\n',
  ].join('\r\n')
}

describe('connectWebSocket', () => {
  test('names the protocol, and asks for no compression', async () => {
    const server = http.createServer()
    const asked = once(server, 'upgrade') as Promise<[http.IncomingMessage]>
    const listening = await listen(server)
    closers.push(listening.stop)
    const pipe = await connectWebSocket(`ws://localhost:${listening.port}/any/where`)
    const [{ headers, url }] = await asked
    expect(headers['sec-websocket-protocol']).toBe(WEBSOCKET_PROTOCOL)
    expect(headers['sec-websocket-extensions']).toBeUndefined()
    expect(url).toBe('/any/where')
    expect(pipe.remote).toBe(`ws://localhost:${listening.port}/any/where`)
  })

  test('a port where nothing listens is unreachable', async () => {
    const server = await listen()
    await server.stop()
    await expect(connectWebSocket(`ws://${HOST}:${server.port}`)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test.each([
    ['says no', (_: http.IncomingMessage, socket: net.Socket) => socket.end('HTTP/1.1 404 Not Found\r\n\r\n')],
    ['redirects', (_, socket) => socket.end('HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n')],
    ['hangs up', (_, socket) => socket.destroy()],
    ['speaks something else', (_, socket) => socket.end('SSH-2.0-OpenSSH_9.2\r\n')],
  ] as [string, (request: http.IncomingMessage, socket: net.Socket) => void][])(
    'a server that %s is unreachable',
    async (_, answer) => {
      const server = http.createServer().on('upgrade', answer)
      server.listen(0, HOST)
      await once(server, 'listening')
      closers.push(() => new Promise((resolve) => server.close(resolve)))
      const url = `ws://${HOST}:${(server.address() as net.AddressInfo).port}`
      await expect(connectWebSocket(url)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
    },
  )

  test.each(['', 'nonsense', 'ftp://127.0.0.1/', 'ws://127.0.0.1/#part', 'ws://'])(
    '%j is not a URL to dial',
    async (url) => {
      await expect(connectWebSocket(url)).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('the signal ends it before and during, and leaves no connection', async () => {
    const controller = new AbortController()
    const gone: Promise<unknown>[] = []
    const server = net.createServer((socket) => {
      gone.push(once(socket.on('error', () => {}).resume(), 'close'))
      controller.abort()
    })
    server.listen(0, HOST)
    await once(server, 'listening')
    const url = `ws://${HOST}:${(server.address() as net.AddressInfo).port}`
    const dialling = connectWebSocket(url, { signal: controller.signal })
    await expect(dialling).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await gone[0]
    const late = connectWebSocket(url, { signal: controller.signal })
    await expect(late).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    const soon = new AbortController()
    const third = connectWebSocket(url, { signal: soon.signal })
    soon.abort(new DOMException('too slow', 'TimeoutError')) // before the socket has connected
    await expect(third).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
    await new Promise((resolve) => server.close(resolve))
  })

  test('the signal has no hold on a connection once it stands', async () => {
    const server = await listen()
    closers.push(server.stop)
    const controller = new AbortController()
    const pipe = await connectWebSocket(`ws://${HOST}:${server.port}`, { signal: controller.signal })
    controller.abort()
    await turns(3)
    expect(pipe.writable).toBe(true)
  })
})

describe('connectWebSocket over TLS', () => {
  let directory: string
  let key: Buffer

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'peerline-tls-'))
    const curve = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']
    execFileSync('openssl', ['genpkey', ...curve, '-out', join(directory, 'key.pem')])
    key = readFileSync(join(directory, 'key.pem'))
  })
  afterAll(() => rmSync(directory, { recursive: true }))

  /** A self-signed certificate for `host`. */
  function certificate(host: string, from: string, until: string): Buffer {
    const config = [
      '[ca]\ndefault_ca=c\n[c]\ndatabase=index.txt\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p',
      `x509_extensions=x\nunique_subject=no\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=DNS:${host}`,
    ]
    const run = (...args: string[]) => execFileSync('openssl', args, { cwd: directory, stdio: 'pipe' })
    writeFileSync(join(directory, 'ca.cnf'), `${config.join('\n')}\n`)
    writeFileSync(join(directory, 'index.txt'), '')
    run('req', '-new', '-key', 'key.pem', '-subj', `/CN=${host}`, '-out', 'request.pem', '-batch')
    const dates = ['-startdate', from, '-enddate', until]
    const files = ['-keyfile', 'key.pem', '-in', 'request.pem', '-out', 'cert.pem']
    run('ca', '-config', 'ca.cnf', '-selfsign', '-batch', '-notext', ...files, ...dates)
    return readFileSync(join(directory, 'cert.pem'))
  }

  async function dial(cert: Buffer, trusted: boolean): Promise<WebSocketPipe> {
    const server = await listen(https.createServer({ key, cert }))
    closers.push(server.stop)
    if (trusted) {
      // As if an authority of the system had signed it: the checks that are left are those of dates and name.
      const connect = tls.connect as (options: tls.ConnectionOptions) => tls.TLSSocket
      vi.spyOn(tls, 'connect').mockImplementation(((options: tls.ConnectionOptions) =>
        connect({ ...options, ca: cert })) as typeof tls.connect)
    }
    return connectWebSocket(`wss://localhost:${server.port}`)
  }

  test('a good certificate is taken, and a path goes over it', async () => {
    const cert = certificate('localhost', '20200101000000Z', '20490101000000Z')
    const pipe = await dial(cert, true)
    const path = new FramedPath('relay', pipe)
    path.start(new Recorder())
    expect(path.send([sample(5)])).toBe(true)
    path.destroy()
  })

  test.each([
    ['self-signed', 'localhost', '20490101000000Z', false, /self-signed|self signed/],
    ['expired', 'localhost', '20200102000000Z', true, /expired/],
    ['expired and self-signed', 'localhost', '20200102000000Z', false, /certificate/],
    ["another host's", 'other.example', '20490101000000Z', true, /does not match/],
  ])('a certificate that is %s is refused, and the error says so', async (_, host, until, trusted, words) => {
    const dialled = dial(certificate(host, '20200101000000Z', until), trusted)
    await expect(dialled).rejects.toThrow(code('ERR_PEERLINE_TLS'))
    await expect(dialled).rejects.toThrow(words)
  })

  test('a server that speaks no TLS is a TLS error', async () => {
    const server = await listen()
    closers.push(server.stop)
    await expect(connectWebSocket(`wss://localhost:${server.port}`)).rejects.toThrow(code('ERR_PEERLINE_TLS'))
  })
})
