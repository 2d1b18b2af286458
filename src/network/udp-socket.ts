/**
 * One UDP port for everything: raw datagrams (STUN questions, probes of hole punching) and the streams of all peers.
 *
 *     datagram ── udx packet of a stream of ours ──> that stream, inside udx
 *              ── first two bits 00: STUN ─────────> the question it answers (RFC 7983 section 7 tells by first bits, too)
 *              ── first two bits 10: tag, 8 bytes ─> whoever has the route for this tag
 *              ── anything else ───────────────────> nobody
 *
 * Invariants
 * - No datagram, whatever is in it, makes the socket throw, keep memory or answer: STUN requests of strangers neither.
 * - An answer counts only from the address that was asked, with the transaction id of the question.
 * - Addresses are told as they are: IPv4 as IPv4, though the socket is an IPv6 one that does both.
 * - `close` ends all streams and questions, and settles when the port is free.
 *
 * An open socket keeps the process alive: `udx-native` knows no `unref`.
 */
import { randomBytes } from 'node:crypto'
import { isIP } from 'node:net'
import { abortError, asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { destroyStream, type FramedPath, udpPath } from '../path/index.ts'
import { bytesToIp, formatHostPort, ipToBytes, type SocketAddress, scopeOf, toSocketAddress } from './address.ts'
import { answers, ask, RTO_MS, readAnswer, type Target } from './reflect.ts'
import { encodeBindingRequest, isStun, parseStunMessage, type StunMessage, TRANSACTION_ID_BYTES } from './stun.ts'
import { type Engine, loadUdx, type UdxConnectable, type UdxSocket } from './udp-engine.ts'

/** Bytes of the tag that tells the datagrams of one route from all others. */
export const TAG_BYTES = 8

/** Datagrams that the system has not taken yet. More are dropped, as they would be on any full link. */
const MAX_UNSENT = 512

/** Questions to reflectors at the same time. */
const MAX_QUESTIONS = 64

const MAX_PORT = 65_535

/** Where a STUN message says which question it answers (RFC 8489 section 5). */
const TRANSACTION_ID_AT = 8

export interface UdpSocketOptions {
  /** @default any free one */
  readonly port?: number
  /** The interface address to use. @default all, IPv6 and IPv4 where the machine has both */
  readonly host?: string
}

export interface UdpReflectOptions {
  readonly signal?: AbortSignal
  /** Milliseconds for everything. @default 3_000 */
  readonly timeoutMs?: number
  /** Milliseconds to the first repetition; doubles each time. @default 500 */
  readonly rtoMs?: number
}

/** A stream to be: `localId` was reserved here, `remoteId` is what the other side reserved. */
export interface UdpConnectOptions {
  readonly localId: number
  readonly remoteId: number
  readonly remote: SocketAddress
}

/** Takes one datagram. Its bytes hold until the call returns. */
export type DatagramHandler = (datagram: Uint8Array, from: SocketAddress) => void

interface Question {
  onAnswer(message: StunMessage, from: SocketAddress): void
  onClose(): void
}

/** A UDP port. */
export class UdpSocket {
  readonly port: number
  /** The address families that it sends to. */
  readonly families: readonly (4 | 6)[]
  /** True when it is bound to loopback: no other machine reaches it. */
  readonly loopbackOnly: boolean
  readonly #engine: Engine
  readonly #socket: UdxSocket
  readonly #routes = new Map<string, DatagramHandler>()
  readonly #questions = new Map<string, Question>()
  readonly #streams = new Set<UdxConnectable>()
  #unsent = 0
  #retired = false
  #closing: Promise<void> | undefined

  private constructor(engine: Engine, socket: UdxSocket, families: readonly (4 | 6)[], host: string) {
    this.#engine = engine
    this.#socket = socket
    this.port = socket.address()!.port
    this.families = families
    this.loopbackOnly = scopeOf(host) === 'loopback'
    socket.on('message', (datagram, { host, port }) => this.#onDatagram(datagram, host, port))
  }

  /**
   * @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when `udx-native` is missing, `ERR_PEERLINE_ADDRESS_IN_USE`,
   * `ERR_PEERLINE_INVALID` for a port or host that is none or not of this machine
   */
  static async open({ port = 0, host }: UdpSocketOptions = {}): Promise<UdpSocket> {
    if (!Number.isInteger(port) || port < 0 || port > MAX_PORT) throw invalid(`UDP port ${port} is not from 0 to 65535`)
    if (host !== undefined && isIP(host) === 0) throw invalid(`${JSON.stringify(host)} is not an IP address`)
    const engine = await loadUdx()
    if (host !== undefined) return bound(host, [isIP(host) === 6 ? 6 : 4])
    try {
      return bound('::', [4, 6])
    } catch (error) {
      if (error instanceof PeerlineError && error.code === 'ERR_PEERLINE_ADDRESS_IN_USE') throw error
      return bound('0.0.0.0', [4]) // a machine without IPv6
    }

    function bound(address: string, families: readonly (4 | 6)[]): UdpSocket {
      const socket = engine.udx.createSocket()
      try {
        socket.bind(port, address)
      } catch (cause) {
        void socket.close()
        throw bindError(formatHostPort(address, port), cause)
      }
      return new UdpSocket(engine, socket, families, address)
    }
  }

  /** Sends one datagram, as far as it goes: never throws, tells nothing. The bytes must not change afterwards. */
  send(datagram: Uint8Array, to: SocketAddress): void {
    if (this.#closing !== undefined || this.#unsent >= MAX_UNSENT) return
    if (!this.families.includes(to.family) || isIP(to.host) !== to.family || !isPort(to.port)) return
    this.#unsent++
    const sent = (): void => {
      this.#unsent--
    }
    this.#socket.send(datagram, to.port, to.host).then(sent, sent)
  }

  /**
   * Asks a reflector of ours or any STUN server from which address it sees this port (RFC 8489 section 6.2.1).
   * @throws PeerlineError like `reflectUdp`; `ERR_PEERLINE_CLOSED` when the socket is closed
   */
  async reflect(host: string, port: number, options: UdpReflectOptions = {}): Promise<SocketAddress> {
    const [only, other] = this.families
    const family = other === undefined && only !== undefined ? { family: only } : {}
    return ask('udp', host, port, { ...options, ...family }, (target, signal) =>
      this.#question(target, options.rtoMs ?? RTO_MS, signal),
    )
  }

  /**
   * Hands datagrams that begin with `tag` to `handler`, until the returned function is called or the socket closed.
   * @param tag 8 bytes, the first two bits of which are 10, so that it is neither STUN nor udx
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for another tag, or one that is in use
   */
  route(tag: Uint8Array, handler: DatagramHandler): () => void {
    if (tag.length !== TAG_BYTES || (tag[0]! & 0xc0) !== 0x80)
      throw invalid('a tag has 8 bytes and begins with bits 10')
    const key = keyOf(tag, 0, TAG_BYTES)
    if (this.#routes.has(key)) throw invalid('this tag has a route already')
    if (this.#closing === undefined) this.#routes.set(key, handler)
    return () => {
      if (this.#routes.get(key) === handler) this.#routes.delete(key)
    }
  }

  /**
   * An id for a stream of this process, at random. It is free again when its stream has closed, or by `releaseId`.
   * @throws PeerlineError `ERR_PEERLINE_LIMIT`
   */
  reserveId(): number {
    return this.#engine.ids.reserve()
  }

  /** Gives back an id that no stream was made with. */
  releaseId(id: number): void {
    this.#engine.ids.release(id)
  }

  /**
   * A path to `remote`, open at once: whether anybody is there shows when something is sent. What comes for it from now
   * on is kept until the path is started.
   * @throws PeerlineError `ERR_PEERLINE_CLOSED`; `ERR_PEERLINE_INVALID` for ids or an address that cannot be
   */
  connect({ localId, remoteId, remote }: UdpConnectOptions): FramedPath {
    if (this.#closing !== undefined) throw closed()
    const where = formatHostPort(remote.host, remote.port)
    if (!Number.isInteger(remoteId) || remoteId < 0 || remoteId > 0xffffffff) throw invalid('no id of a stream')
    if (!this.families.includes(remote.family) || isIP(remote.host) !== remote.family || !isPort(remote.port)) {
      throw invalid(`this socket cannot send to ${where}`)
    }
    if (!this.#engine.ids.use(localId)) throw invalid(`stream id ${localId} is not reserved`)
    const stream = this.#engine.udx.createStream(localId)
    this.#streams.add(stream)
    stream.on('close', () => {
      this.#streams.delete(stream)
      this.#engine.ids.free(localId)
      if (this.#retired && this.#streams.size === 0) void this.close()
    })
    stream.connect(this.#socket, remoteId, remote.port, remote.host)
    return udpPath(stream, where)
  }

  /** Closes the socket when its last path has ended: now, if there is none. */
  retire(): void {
    this.#retired = true
    if (this.#streams.size === 0) void this.close()
  }

  /** Ends everything at once. */
  close(): Promise<void> {
    this.#closing ??= this.#end()
    return this.#closing
  }

  async #end(): Promise<void> {
    this.#routes.clear()
    for (const question of [...this.#questions.values()]) question.onClose()
    for (const stream of this.#streams) destroyStream(stream)
    await this.#socket.close()
  }

  #onDatagram(datagram: Uint8Array, host: string, port: number): void {
    if (this.#closing !== undefined || datagram.length < TAG_BYTES) return
    const kind = datagram[0]! & 0xc0
    if (kind === 0x80) {
      const handler = this.#routes.get(keyOf(datagram, 0, TAG_BYTES))
      const from = handler === undefined ? undefined : toSocketAddress(host, port)
      if (from !== undefined) handler!(datagram, from)
    } else if (kind === 0 && this.#questions.size > 0 && isStun(datagram)) {
      const question = this.#questions.get(keyOf(datagram, TRANSACTION_ID_AT, TRANSACTION_ID_BYTES))
      if (question === undefined) return
      const message = parseStunMessage(datagram)
      const from = toSocketAddress(host, port)
      if (message !== undefined && from !== undefined) question.onAnswer(message, from)
    }
  }

  #question({ address, what }: Target, rtoMs: number, signal: AbortSignal): Promise<SocketAddress> {
    if (this.#closing !== undefined) throw closed()
    if (!this.families.includes(address.family)) {
      throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${what}: this socket has no IPv${address.family}`)
    }
    if (this.#questions.size >= MAX_QUESTIONS) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `${what}: ${MAX_QUESTIONS} questions are open already`)
    }
    const transactionId = randomBytes(TRANSACTION_ID_BYTES)
    const key = keyOf(transactionId, 0, TRANSACTION_ID_BYTES)
    const request = encodeBindingRequest(transactionId, { fingerprint: true })
    const asked = canonical(address)
    return new Promise((resolve, reject) => {
      let timer: NodeJS.Timeout | undefined
      let wait = rtoMs
      const done = (): void => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#questions.delete(key)
      }
      const fail = (error: PeerlineError): void => {
        done()
        reject(error)
      }
      const onAbort = (): void => fail(abortError(signal, what))
      const send = (): void => {
        this.send(request, asked)
        timer = setTimeout(send, wait)
        wait *= 2
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#questions.set(key, {
        onClose: () => fail(closed()),
        onAnswer: (message, from) => {
          // not ours: the true answer may still come
          if (from.host !== asked.host || from.port !== asked.port || !answers(message, transactionId)) return
          try {
            const seen = readAnswer(message, what)
            done()
            resolve(seen)
          } catch (error) {
            fail(asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL'))
          }
        },
      })
      send()
    })
  }
}

/** An address in the one text that datagrams come with, so that the two can be compared. */
export function canonical({ host, port, family }: SocketAddress): SocketAddress {
  const bytes = ipToBytes(host)
  return bytes === undefined ? { host, port, family } : toSocketAddress(bytesToIp(bytes), port)!
}

function keyOf(bytes: Uint8Array, at: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, length).toString('latin1')
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port <= MAX_PORT
}

function bindError(where: string, cause: unknown): PeerlineError {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  if (code === 'EADDRINUSE') {
    return new PeerlineError('ERR_PEERLINE_ADDRESS_IN_USE', `UDP port ${where} is in use`, { cause })
  }
  return asPeerlineError(cause, 'ERR_PEERLINE_INVALID', `cannot use UDP port ${where}`)
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the UDP socket was closed')
}
