/**
 * One port for everything: the first bytes of a connection say what it speaks.
 *
 *     00 00 …                a framed path (a length below 64 KiB)
 *     00 01 …                STUN over TCP (a binding request, RFC 8489 section 6.2.2)
 *     16 …                   TLS, when there is a certificate; what is inside is looked at in the same way
 *     a capital letter …     HTTP: a WebSocket upgrade, or GET /healthz
 *
 * Anything else is closed. A connection that stays silent is closed after {@link SNIFF_MS}.
 */
import http from 'node:http'
import net from 'node:net'
import tls from 'node:tls'
import { WebSocketServer } from 'ws'
import { PeerlineError } from '../errors.ts'
import { formatHostPort, sourceKey } from '../network/address.ts'
import { isStun, STUN_SNIFF_BYTES } from '../network/stun.ts'
import { FramedPath, MAX_WEBSOCKET_MESSAGE_BYTES, tcpPath, WEBSOCKET_PROTOCOL, WebSocketPipe } from '../path/index.ts'
import { CONNECTIONS_PER_SOURCE, listenOn } from '../peer/index.ts'
import { KeyedLimiter } from '../policy/limits.ts'

/** ms for the first bytes to come, and for an HTTP request to be whole: two slow round trips. */
const SNIFF_MS = 10_000

/** Connections at once. Each costs about 10 KiB before its first message. */
const MAX_CONNECTIONS = 50_000

export interface PortOptions {
  /** PEM certificate chain and key: the port then also speaks TLS. */
  readonly tls?: { readonly cert: string | Buffer; readonly key: string | Buffer } | undefined
  readonly onPath: (path: FramedPath) => void
  readonly onStun: (socket: net.Socket, head: Uint8Array) => void
  /** What `GET /healthz` answers: with 200 when it is well, else with 503, so that a balancer sends nobody here any more. */
  readonly health: () => { readonly status: 'ok' | 'draining' }
}

export class Port {
  readonly #options: PortOptions
  readonly #server: net.Server
  readonly #http: http.Server
  readonly #tls: tls.Server | undefined
  readonly #webSockets: WebSocketServer
  readonly #limiter = new KeyedLimiter(CONNECTIONS_PER_SOURCE)
  readonly #sockets = new Set<net.Socket>()
  /** Ends connections whose HTTP request is not whole in time: an `http.Server` does so only where it listens itself. */
  readonly #timers = new WeakMap<net.Socket, ReturnType<typeof setTimeout>>()

  /** @throws PeerlineError `ERR_PEERLINE_TLS` when certificate and key are no good */
  constructor(options: PortOptions) {
    this.#options = options
    this.#server = net.createServer({ noDelay: true, pauseOnConnect: true }, (socket) => this.#onConnection(socket))
    this.#server.maxConnections = MAX_CONNECTIONS
    this.#http = http.createServer({ maxHeaderSize: 8_192 }, (request, response) => this.#onRequest(request, response))
    this.#webSockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload: MAX_WEBSOCKET_MESSAGE_BYTES,
      handleProtocols: (offered) => (offered.has(WEBSOCKET_PROTOCOL) ? WEBSOCKET_PROTOCOL : false),
    })
    this.#http.on('upgrade', (request, socket, head) => {
      this.#stopTimer(socket as net.Socket)
      this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        const remote = remoteOf(socket as net.Socket)
        this.#options.onPath(new FramedPath('tcp', new WebSocketPipe(webSocket, remote)))
      })
    })
    this.#http.on('clientError', (_error, socket) => socket.destroy())
    if (options.tls === undefined) return
    try {
      this.#tls = tls.createServer({ ...options.tls, minVersion: 'TLSv1.2', handshakeTimeout: SNIFF_MS }, (socket) =>
        this.#sniff(socket),
      )
    } catch (cause) {
      throw new PeerlineError('ERR_PEERLINE_TLS', `certificate and key are no good: ${(cause as Error).message}`, {
        cause,
        recover: 'Give a PEM certificate chain and the PEM key that belongs to it.',
      })
    }
    this.#tls.on('tlsClientError', (_error, socket) => socket.destroy())
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID` */
  async listen(host: string, port: number): Promise<{ host: string; port: number }> {
    await listenOn(this.#server, host, port)
    const { address, port: bound } = this.#server.address() as net.AddressInfo
    return { host: address, port: bound }
  }

  /** Stops listening, and ends what is still connected. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const socket of this.#sockets) socket.destroy()
    this.#http.close()
    this.#tls?.close()
    this.#webSockets.close()
    await closed
  }

  #onConnection(socket: net.Socket): void {
    // It may fail before anybody else listens.
    socket.on('error', () => socket.destroy())
    if (!this.#limiter.take(sourceKey(socket.remoteAddress ?? ''))) return void socket.destroy()
    this.#sockets.add(socket)
    socket.on('close', () => this.#sockets.delete(socket))
    this.#sniff(socket)
  }

  #sniff(socket: net.Socket): void {
    let head: Buffer = Buffer.alloc(0)
    const timer = setTimeout(() => socket.destroy(), SNIFF_MS)
    const stop = () => {
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('close', stop)
    }
    const onData = (chunk: Buffer) => {
      head = head.length === 0 ? chunk : Buffer.concat([head, chunk])
      if (head[0] === 0 && head.length < STUN_SNIFF_BYTES) return
      stop()
      socket.pause()
      this.#route(socket, head)
    }
    socket.on('close', stop)
    socket.on('data', onData)
    socket.resume()
  }

  #route(socket: net.Socket, head: Buffer): void {
    const first = head[0]!
    if (first === 0) {
      if (isStun(head)) this.#options.onStun(socket, head)
      else this.#options.onPath(tcpPath(socket, head))
    } else if (first === 0x16 && this.#tls !== undefined && !(socket instanceof tls.TLSSocket)) {
      socket.unshift(head)
      this.#tls.emit('connection', socket)
    } else if (first >= 0x41 && first <= 0x5a) {
      const stop = () => this.#stopTimer(socket)
      this.#timers.set(
        socket,
        setTimeout(() => socket.destroy(), SNIFF_MS),
      )
      socket.on('close', stop)
      socket.unshift(head)
      this.#http.emit('connection', socket)
      socket.resume()
    } else socket.destroy()
  }

  #stopTimer(socket: net.Socket): void {
    clearTimeout(this.#timers.get(socket))
    this.#timers.delete(socket)
  }

  #onRequest(request: http.IncomingMessage, response: http.ServerResponse): void {
    const found = request.method === 'GET' && request.url === '/healthz'
    const health = this.#options.health()
    const body = found ? JSON.stringify(health) : 'This is a Peerline server.\n'
    response.writeHead(!found ? 404 : health.status === 'ok' ? 200 : 503, {
      'content-type': found ? 'application/json' : 'text/plain',
      'content-length': Buffer.byteLength(body),
      'cache-control': 'no-store',
      connection: 'close',
    })
    response.end(body)
  }
}

function remoteOf(socket: net.Socket): string {
  return formatHostPort(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0)
}
