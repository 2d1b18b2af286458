/**
 * WebSocket as a byte pipe: for networks that let nothing but HTTP through, and for browsers.
 *
 * The framed byte stream of `framing.ts` travels in binary messages of any size; their bounds carry no meaning.
 * RFC 6455; no compression (everything inside is sealed), text messages end the pipe.
 */
import { WebSocket } from 'ws'
import { abortError, asPeerlineError, type ErrorCode, PeerlineError } from '../errors.ts'
import { MAX_MESSAGE_BYTES } from './path.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe, type PipeHandler } from './pipe.ts'
import { dialError, fromPort } from './tcp.ts'

/** Bytes up to which the parts of a message are copied into one WebSocket message: one frame header, one system call. */
const JOIN_BYTES = 16_384

/** Largest WebSocket message taken, bytes: a relay may pass on what it read in one go, but no more than this. */
export const MAX_WEBSOCKET_MESSAGE_BYTES = 4 * MAX_MESSAGE_BYTES

/** Names the protocol in the upgrade request, so that a proxy or a server with other uses can tell. */
export const WEBSOCKET_PROTOCOL = 'peerline.1'

/** An open WebSocket as a pipe. */
export class WebSocketPipe implements Pipe {
  /** A message may be a view of what was read of the socket, with the next one behind it. */
  readonly ownsChunks = false
  readonly remote: string
  readonly #socket: WebSocket
  #handler: PipeHandler | undefined
  #error: PeerlineError | undefined
  #closed: boolean
  #blocked = false

  constructor(socket: WebSocket, remote: string) {
    this.#socket = socket
    this.remote = remote
    this.#closed = socket.readyState === WebSocket.CLOSED
    socket.binaryType = 'nodebuffer'
    socket.pause()
    socket.on('message', (data: Buffer, binary: boolean) => {
      if (this.#error !== undefined) return
      if (!binary) {
        this.#error = new PeerlineError('ERR_PEERLINE_PROTOCOL', `${remote} sent text`)
        socket.terminate()
      } else if (data.length > 0) this.#handler?.data(data)
    })
    socket.on('error', (cause: NodeJS.ErrnoException) => {
      const what = `connection to ${remote} failed: ${cause.message}`
      this.#error ??= new PeerlineError(errorCode(cause.code), what, { cause })
      // `ws` would wait for the other side to close, which has just shown that it keeps no rules.
      socket.terminate()
    })
    socket.on('close', () => {
      this.#closed = true
      this.#handler?.close(this.#error)
    })
  }

  get writable(): boolean {
    return !this.#closed && !this.#blocked && this.#socket.readyState === WebSocket.OPEN
  }

  start(handler: PipeHandler): void {
    this.#handler = handler
    if (this.#closed) {
      queueMicrotask(() => handler.close(this.#error))
      return
    }
    this.#socket.resume()
  }

  write(parts: readonly Uint8Array[]): boolean {
    const socket = this.#socket
    if (socket.readyState !== WebSocket.OPEN) return false
    let bytes = 0
    for (const part of parts) bytes += part.length
    if (bytes <= JOIN_BYTES) socket.send(Buffer.concat(parts, bytes), this.#sent)
    else {
      // The small parts in front of a large one share a message; the large one is not copied here.
      let small: Uint8Array[] = []
      for (const part of parts) {
        if (part.length <= JOIN_BYTES) small.push(part)
        else {
          if (small.length > 0) socket.send(Buffer.concat(small), this.#sent)
          small = []
          socket.send(part, this.#sent)
        }
      }
      if (small.length > 0) socket.send(Buffer.concat(small), this.#sent)
    }
    this.#blocked = socket.bufferedAmount >= PIPE_HIGH_WATER_BYTES
    return !this.#blocked
  }

  readonly #sent = (): void => {
    if (this.#blocked && this.#socket.bufferedAmount < PIPE_HIGH_WATER_BYTES / 4) {
      this.#blocked = false
      if (!this.#closed) this.#handler?.drain()
    }
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  end(): void {
    this.#socket.close(1000)
  }

  destroy(): void {
    this.#socket.terminate()
  }
}

/** What a failure of an open WebSocket means: `ws` gives codes of its own to what breaks RFC 6455 or its limits. */
function errorCode(code = ''): ErrorCode {
  if (code === 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH') return 'ERR_PEERLINE_TOO_LARGE'
  return code.startsWith('WS_ERR') ? 'ERR_PEERLINE_PROTOCOL' : 'ERR_PEERLINE_UNREACHABLE'
}

/** Codes of Node's TLS layer that mean "this certificate is not good", not "nobody there". */
const CERTIFICATE_CODES = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|ALTNAME|ERR_TLS|ERR_SSL|EPROTO/

/**
 * Opens a WebSocket to `url` (`ws:` or `wss:`).
 * @param options.localPort the port to dial from
 * @throws PeerlineError `ERR_PEERLINE_TLS` when its certificate is refused, `ERR_PEERLINE_UNREACHABLE`,
 * `ERR_PEERLINE_INVALID` for a URL that is none, or what the signal says
 */
export function connectWebSocket(
  url: string,
  options: { signal?: AbortSignal; localPort?: number | undefined } = {},
): Promise<WebSocketPipe> {
  const { signal, localPort } = options
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortError(signal, `dialling ${url}`))
    let socket: WebSocket
    try {
      socket = new WebSocket(url, WEBSOCKET_PROTOCOL, {
        perMessageDeflate: false,
        maxPayload: MAX_WEBSOCKET_MESSAGE_BYTES,
        followRedirects: false,
        ...(localPort === undefined ? {} : fromPort(localPort)),
      })
    } catch (cause) {
      return reject(asPeerlineError(cause, 'ERR_PEERLINE_INVALID', `cannot dial ${url}`))
    }
    const onAbort = () => {
      done()
      socket.terminate()
      reject(abortError(signal!, `dialling ${url}`))
    }
    const onError = (cause: NodeJS.ErrnoException) => {
      done()
      const code = cause.code ?? ''
      reject(
        CERTIFICATE_CODES.test(code)
          ? new PeerlineError('ERR_PEERLINE_TLS', `the certificate of ${url} is refused: ${cause.message}`, { cause })
          : dialError(url, cause, localPort),
      )
    }
    const onOpen = () => {
      done()
      resolve(new WebSocketPipe(socket, url))
    }
    const done = () => {
      signal?.removeEventListener('abort', onAbort)
      socket.off('error', onError)
      socket.off('open', onOpen)
      // `terminate` while connecting emits an error that has no taker any more.
      socket.on('error', () => {})
    }
    signal?.addEventListener('abort', onAbort)
    socket.on('error', onError)
    socket.on('open', onOpen)
  })
}
