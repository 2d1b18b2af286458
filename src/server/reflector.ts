/**
 * The reflector: tells whoever asks what address it is seen from. STUN (RFC 8489) over UDP, and the same over TCP.
 *
 * It is open to everyone, since peers need it before they can prove who they are. What keeps that harmless:
 * - It answers only to the sender, so a forged sender is all an attacker can choose. The answer to a bare request is
 *   60 bytes of IPv4 packet for 48, to a request with an unknown attribute under twice the request: no amplifier.
 * - Only well-formed Binding requests are answered. Answers are not requests, so two reflectors cannot be made to loop.
 * - A token bucket per source (IPv4 address or IPv6 /64) and one for all of them; over the limit is silence.
 * - No state per source but its bucket, in a bounded map.
 * - TCP: bounded bytes, requests and time per connection.
 *
 * It names no software: that would only grow the answer and help those who look for old versions.
 */

import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { isIP, type Socket } from 'node:net'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { type SocketAddress, sourceKey, toSocketAddress } from '../network/address.ts'
import {
  BINDING,
  encodeBindingError,
  encodeBindingSuccess,
  isStun,
  parseStunMessage,
  stunFrameBytes,
  unknownAttributes,
} from '../network/stun.ts'
import { KeyedLimiter, type MonotonicClock, type Rate, TokenBucket } from '../policy/limits.ts'

// Requests per second. One peer asks a few times when it starts or its network changes; an office of hundreds behind one
// address may start at once.
const PER_SOURCE: Rate = { rate: 10, burst: 100 }
// Requests per second, for all sources: about 4 Mbit/s of answers, a small part of one core and of a small server's line.
const OVERALL: Rate = { rate: 5_000, burst: 10_000 }
// Milliseconds to the next whole request. A peer asks as soon as it is connected; 10 s spans a few lost packets.
const TCP_IDLE_MS = 10_000
// Requests on one TCP connection. One is needed; a few more let a peer see whether its mapping holds.
const TCP_MAX_REQUESTS = 8

export interface ReflectorLimitsOptions {
  /** Per IPv4 address or IPv6 /64. @default 10 a second, 100 at once */
  perSource?: Rate
  /** For all sources together. @default 5_000 a second, 10_000 at once */
  overall?: Rate
  /** @default performance.now */
  now?: MonotonicClock
}

/** Who may ask how often. UDP and TCP may share one. */
export class ReflectorLimits {
  readonly #perSource: KeyedLimiter
  readonly #overall: TokenBucket

  constructor({ perSource = PER_SOURCE, overall = OVERALL, now }: ReflectorLimitsOptions = {}) {
    const clock = now === undefined ? {} : { now }
    this.#perSource = new KeyedLimiter({ ...perSource, ...clock })
    this.#overall = new TokenBucket({ ...overall, ...clock })
  }

  /** Takes one request's worth from `ip`; the source's own limit first, so that a greedy one cannot drain the other. */
  admit(ip: string): boolean {
    return this.#perSource.take(sourceKey(ip)) && this.#overall.take()
  }
}

/**
 * The answer to one STUN message from `source`: the address, or error 420 for attributes that must be understood and are
 * not (section 6.3.1). Undefined, so silence, for anything but a well-formed Binding request.
 */
export function answerStun(request: Uint8Array, source: SocketAddress): Uint8Array | undefined {
  const message = parseStunMessage(request)
  if (message === undefined || message.class !== 'request' || message.method !== BINDING) return undefined
  const { transactionId, fingerprint } = message
  const unknown = unknownAttributes(message)
  if (unknown.length > 0) return encodeBindingError(transactionId, { code: 420, unknown }, { fingerprint })
  return encodeBindingSuccess(transactionId, source, { fingerprint })
}

export interface UdpReflectorOptions {
  /** @default new ReflectorLimits() */
  limits?: ReflectorLimits
}

/** A reflector on one UDP port. */
export class UdpReflector {
  readonly #limits: ReflectorLimits
  #socket: DatagramSocket | undefined
  #closing: Promise<void> | undefined
  /** What became of the datagrams received so far. */
  readonly counts = { answered: 0, limited: 0, ignored: 0 }

  constructor({ limits = new ReflectorLimits() }: UdpReflectorOptions = {}) {
    this.#limits = limits
  }

  /** Starts to answer at an IP address of this machine; port 0 takes a free one. Once only. */
  async bind(host: string, port: number): Promise<void> {
    if (this.#closing !== undefined) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'the reflector is closed')
    if (this.#socket !== undefined) throw new PeerlineError('ERR_PEERLINE_INVALID', 'the reflector is bound already')
    const family = isIP(host)
    if (family === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', `${JSON.stringify(host)} is not an IP address`)
    if (!(Number.isInteger(port) && port >= 0 && port <= 65_535)) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `port ${port} is not from 0 to 65535`)
    }

    const socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    this.#socket = socket
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.once('close', () => reject(new PeerlineError('ERR_PEERLINE_CLOSED', 'the reflector was closed')))
        socket.bind(port, host, () => {
          socket.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      if (this.#closing === undefined) socket.close()
      this.#socket = undefined
      const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
      const code = inUse ? 'ERR_PEERLINE_ADDRESS_IN_USE' : 'ERR_PEERLINE_INVALID'
      throw asPeerlineError(error, code, `the reflector cannot use ${host} port ${port}`)
    }
    socket.on('error', () => {}) // one datagram could not be received or sent; the next one may
    socket.on('message', (datagram, { address, port }) => this.#receive(socket, datagram, address, port))
  }

  /** Where it listens; undefined before `bind` and after `close`. */
  get address(): SocketAddress | undefined {
    if (this.#socket === undefined || this.#closing !== undefined) return undefined
    const { address, port } = this.#socket.address()
    return { host: address, port, family: isIP(address) === 6 ? 6 : 4 }
  }

  /** Stops; may be called again. */
  close(): Promise<void> {
    const socket = this.#socket
    this.#closing ??= new Promise((resolve) => {
      if (socket === undefined) resolve()
      else socket.close(resolve)
    })
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #receive(socket: DatagramSocket, datagram: Uint8Array, host: string, port: number): void {
    // Port 0 is only ever forged, and cannot be sent to. The first bytes are looked at before the limits, so that noise
    // takes no place in the map of sources.
    const source = port === 0 || !isStun(datagram) ? undefined : toSocketAddress(host, port)
    if (source === undefined) {
      this.counts.ignored++
      return
    }
    if (!this.#limits.admit(source.host)) {
      this.counts.limited++
      return
    }
    const answer = answerStun(datagram, source)
    if (answer === undefined) {
      this.counts.ignored++
      return
    }
    this.counts.answered++
    socket.send(answer, port, host, () => {}) // lost or not: the client asks again
  }
}

export interface ServeStunTcpOptions {
  limits: ReflectorLimits
  /** Milliseconds to the next whole request, then the connection is closed. @default 10_000 */
  idleMs?: number
  /** Requests answered, then the connection is closed. @default 8 */
  maxRequests?: number
}

/**
 * Serves STUN on an accepted TCP connection whose first bytes (`first`, already read) look like STUN. It owns the socket
 * from here on, and always closes it: at the client's end, after the last request, when idle, or at the first byte that
 * is no STUN.
 */
export function serveStunTcp(socket: Socket, first: Uint8Array, options: ServeStunTcpOptions): void {
  const { limits, idleMs = TCP_IDLE_MS, maxRequests = TCP_MAX_REQUESTS } = options
  const source = toSocketAddress(socket.remoteAddress ?? '', socket.remotePort ?? 0)
  let buffered: Uint8Array = new Uint8Array(0)
  let left = maxRequests
  // Counts to the next whole request, not to the next byte: dripping bytes does not hold the connection.
  let timer = setTimeout(() => socket.destroy(), idleMs)

  const receive = (chunk: Uint8Array): void => {
    if (left === 0) return // the last answer is on its way out; what else comes is dropped
    buffered = Buffer.concat([buffered, chunk])
    for (;;) {
      const bytes = stunFrameBytes(buffered)
      if (bytes === 'bad' || source === undefined) return void socket.destroy()
      if (bytes === 'more' || buffered.length < bytes) return
      if (!limits.admit(source.host)) return void socket.destroy()
      const request = buffered.subarray(0, bytes)
      buffered = buffered.subarray(bytes)
      const answer = answerStun(request, source)
      if (answer !== undefined && socket.writable) socket.write(answer)
      clearTimeout(timer)
      timer = setTimeout(() => socket.destroy(), idleMs)
      if (--left === 0) {
        buffered = new Uint8Array(0)
        return void socket.end() // the timer still runs, for a client that never closes its side
      }
    }
  }

  socket.on('error', () => socket.destroy())
  socket.once('close', () => clearTimeout(timer))
  socket.on('data', receive)
  if (socket.destroyed) clearTimeout(timer)
  else receive(first)
  socket.resume() // whoever sniffed may have paused it
}
