/**
 * Paths over TCP: IPv4, IPv6 and DNS names.
 *
 * Names are dialled with Node's own happy eyeballs (`autoSelectFamily`, RFC 8305).
 */
import dns from 'node:dns'
import net from 'node:net'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { FramedPath } from './framing.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe, type PipeHandler } from './pipe.ts'
import { type Reader, turns } from './turns.ts'

/** ms between two address attempts of one name: RFC 8305 section 5 recommends 250. */
const ATTEMPT_DELAY_MS = 250

/** A connected TCP socket as a pipe. */
export class SocketPipe implements Pipe {
  readonly ownsChunks = true
  readonly remote: string
  readonly #socket: net.Socket
  #handler: PipeHandler | undefined
  #error: PeerlineError | undefined
  #closed: boolean
  #blocked = false
  #paused = false
  /** What came and is not read; the socket is paused while that waits for its turn. */
  #chunk: Uint8Array | undefined
  #waits = false
  readonly #reader: Reader

  constructor(socket: net.Socket) {
    this.#socket = socket
    const bytes = () => this.#chunk?.length ?? 0
    this.#reader = {
      get bytes() {
        return bytes()
      },
      read: () => this.#read(),
    }
    this.remote = formatRemote(socket)
    socket.setNoDelay(true)
    // Listeners stand from the first moment on: a socket may fail before its path is started, or have failed already.
    const onError = (cause: NodeJS.ErrnoException): void => {
      const what = `connection to ${this.remote} failed: ${cause.code}`
      this.#error = new PeerlineError('ERR_PEERLINE_UNREACHABLE', what, { cause })
    }
    this.#closed = socket.closed
    if (socket.errored) onError(socket.errored)
    socket.on('error', onError)
    socket.on('close', () => {
      this.#closed = true
      // What waits comes first.
      if (!this.#waits) this.#handler?.close(this.#error)
    })
  }

  get writable(): boolean {
    return !this.#closed && !this.#blocked && this.#socket.writable
  }

  start(handler: PipeHandler): void {
    const first = this.#handler === undefined
    this.#handler = handler
    if (this.#closed) {
      if (!this.#waits) queueMicrotask(() => handler.close(this.#error))
      return
    }
    if (first) {
      this.#socket.on('drain', () => {
        // Node drains at a lower mark too; only who was told to wait is told to go on.
        if (!this.#blocked) return
        this.#blocked = false
        this.#handler!.drain()
      })
      this.#socket.on('data', (chunk: Buffer) => this.#onData(chunk))
    }
    if (!this.#waits) this.#socket.resume() // whoever looked into it before may have paused it
  }

  write(parts: readonly Uint8Array[]): boolean {
    const socket = this.#socket
    if (!socket.writable) return false
    if (parts.length === 1) socket.write(parts[0]!)
    else {
      socket.cork()
      for (const part of parts) socket.write(part)
      socket.uncork()
    }
    this.#blocked = socket.writableLength >= PIPE_HIGH_WATER_BYTES
    return !this.#blocked
  }

  #onData(chunk: Buffer): void {
    // One more may be under way when a socket is paused.
    if (this.#chunk !== undefined) this.#chunk = Buffer.concat([this.#chunk, chunk])
    else {
      this.#chunk = chunk
      if (turns.read(this.#reader)) return
      this.#waits = true
      this.#socket.pause()
    }
  }

  /** Its turn has come. */
  #read(): void {
    const chunk = this.#chunk
    if (chunk === undefined) return
    const waited = this.#waits
    this.#chunk = undefined
    this.#waits = false
    this.#handler!.data(chunk)
    if (this.#waits || !waited) return
    if (this.#closed) this.#handler!.close(this.#error)
    else if (!this.#paused) this.#socket.resume()
  }

  takeBack(rest: Uint8Array): void {
    this.#chunk = rest
    this.#waits = true
    this.#socket.pause()
    turns.wait(this.#reader)
  }

  pause(): void {
    this.#paused = true
    this.#socket.pause()
  }

  resume(): void {
    this.#paused = false
    if (!this.#waits) this.#socket.resume()
  }

  end(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.#chunk = undefined
    if (this.#waits && this.#closed) queueMicrotask(() => this.#handler?.close(this.#error))
    this.#waits = false
    const socket = this.#socket
    // What the kernel still holds would keep the way to that port taken, for minutes when nobody acknowledges it. TLS has no
    // reset; and none while it is being shut down, for then Node would never let the handle go.
    if ('encrypted' in socket || (socket.writableEnded && !socket.writableFinished)) socket.destroy()
    else socket.resetAndDestroy()
  }
}

function formatRemote(socket: net.Socket): string {
  const host = socket.remoteAddress ?? 'unknown'
  return host.includes(':') ? `[${host}]:${socket.remotePort}` : `${host}:${socket.remotePort}`
}

/**
 * What went wrong when a host and port were dialled, as one of our errors.
 * @param localPort the port that was dialled from, if one was asked for
 */
export function dialError(where: string, cause: NodeJS.ErrnoException, localPort?: number): PeerlineError {
  if (localPort !== undefined && (cause.code === 'EADDRINUSE' || cause.code === 'EADDRNOTAVAIL')) {
    const what = `cannot dial ${where}: local port ${localPort} is in use (${cause.code})`
    return new PeerlineError('ERR_PEERLINE_ADDRESS_IN_USE', what, { cause })
  }
  const why =
    cause.code === 'ECONNREFUSED'
      ? 'nothing listens there'
      : cause.code === 'ENOTFOUND' || cause.code === 'EAI_AGAIN'
        ? 'the name is not known'
        : (cause.code ?? cause.message)
  return new PeerlineError('ERR_PEERLINE_UNREACHABLE', `cannot reach ${where}: ${why}`, { cause })
}

/**
 * Options to dial from a port of our choice: for the sake of its mapping, and only IPv4 is mapped, so that goes first where
 * a name has both.
 */
export function fromPort(localPort: number): { localPort: number; lookup: net.LookupFunction } {
  return {
    localPort,
    lookup: (host, options, callback) => dns.lookup(host, { ...options, order: 'ipv4first' }, callback),
  }
}

/** How a TCP connection is opened. */
export interface ConnectTcpOptions {
  /** Ends the attempt; there is no other deadline than the system's. */
  readonly signal?: AbortSignal
  /** The port to dial from. Several connections may leave one port, as long as each goes somewhere else. @default any */
  readonly localPort?: number | undefined
}

/**
 * Opens a TCP connection.
 * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_ADDRESS_IN_USE` when the local port cannot be used,
 *   `ERR_PEERLINE_INVALID` for a port that is none, or what the signal says
 */
export function connectTcp(host: string, port: number, options: ConnectTcpOptions = {}): Promise<net.Socket> {
  const { signal, localPort } = options
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal, `dialling ${where}`))
    let socket: net.Socket
    try {
      socket = net.connect({
        host,
        port,
        noDelay: true,
        autoSelectFamily: true,
        autoSelectFamilyAttemptTimeout: ATTEMPT_DELAY_MS,
        ...(localPort === undefined ? {} : fromPort(localPort)),
      })
    } catch (cause) {
      return reject(asPeerlineError(cause, 'ERR_PEERLINE_INVALID', `cannot dial ${where}`))
    }
    const onAbort = () => {
      done()
      socket.destroy()
      reject(abortError(signal!, `dialling ${where}`))
    }
    const onError = (cause: NodeJS.ErrnoException) => {
      done()
      reject(dialError(where, cause, localPort))
    }
    const onConnect = () => {
      done()
      // Nothing is read until someone listens; an error before that must not be thrown into the void.
      socket.on('error', ignore)
      resolve(socket)
    }
    const done = () => {
      signal?.removeEventListener('abort', onAbort)
      socket.off('error', onError)
      socket.off('connect', onConnect)
      if (signal?.aborted) socket.on('error', ignore)
    }
    signal?.addEventListener('abort', onAbort)
    socket.on('error', onError)
    socket.on('connect', onConnect)
  })
}

function ignore(): void {}

/** A direct path over a connected socket. `head`: bytes of it that were read already. */
export function tcpPath(socket: net.Socket, head?: Uint8Array): FramedPath {
  return new FramedPath('tcp', new SocketPipe(socket), head)
}
