/**
 * The reflector: tells whoever asks what address it is seen from. STUN (RFC 8489) over UDP, and the same over TCP.
 *
 * Over UDP it may answer from another place than the one that was asked, so that a peer learns what its NAT lets in
 * (RFC 5780). Its places are two by two, and CHANGE-REQUEST goes along an edge or across:
 *
 *     host : port ------- host : other port             always, unless switched off
 *          |                   |
 *     other host : port - other host : other port       where the machine has two addresses
 *
 * It is open to everyone, since peers need it before they can prove who they are. What keeps that harmless:
 * - It answers only to the sender's address, so a forged sender is all an attacker can choose; RESPONSE-PORT chooses
 *   no more than a forged port would. The answer to a bare request is 60 to 84 bytes of IPv4 packet for 48, or 92 to
 *   140 of IPv6 for 68, about twice the request at most to anything: no amplifier worth the name. (MAPPED-ADDRESS, which
 *   RFC 5780 section 6.1 wants beside XOR-MAPPED-ADDRESS, would add half, and says nothing new. PADDING is not spoken.)
 * - Only well-formed Binding requests are answered. Answers are not requests, so two reflectors cannot be made to loop.
 * - A token bucket per source (IPv4 address or IPv6 /64) and one for all of them; over the limit is silence.
 * - No state per source but its bucket, in a bounded map.
 * - TCP: bounded bytes, requests and time per connection.
 *
 * It names no software: that would only grow the answer and help those who look for old versions.
 *
 * OTHER-ADDRESS is only told to everybody when the other address is another: who speaks RFC 5780 takes it for such, and
 * would find any NAT endpoint-independent. Who sends a CHANGE-REQUEST, be it one that changes nothing, is told of the
 * other port too. A socket of every interface does not know its address, and gives it as unspecified.
 */

import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { isIP, type Socket } from 'node:net'
import { asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { type SocketAddress, scopeOf, sourceKey, toSocketAddress } from '../network/address.ts'
import {
  type Change,
  NAT_REQUEST_ATTRIBUTES,
  otherAddress,
  readChangeRequest,
  readResponsePort,
  responseOrigin,
} from '../network/nat-attributes.ts'
import {
  BINDING,
  encodeBindingError,
  encodeBindingSuccess,
  isStun,
  parseStunMessage,
  StunAttributeType,
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
// Ports below are never asked to be answered at: a NAT maps what comes from above them to above them (RFC 4787 section
// 4.2.2), and those below belong to services.
const LEAST_RESPONSE_PORT = 1_024

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

/** Where an answer with this change would be sent from; undefined when there is no such place. */
export type Places = (change: Change) => SocketAddress | undefined

export interface StunAnswer {
  bytes: Uint8Array
  /** Where to send it from, seen from where the request came in. */
  change: Change
  /** The port to send it to. */
  port: number
}

const NO_CHANGE: Change = { address: false, port: false }

/**
 * The answer to one STUN message from `source`: the address, or error 420 for what must be understood and is not (section
 * 6.3.1), or is asked of places that are not there, or error 400 for what makes no sense. Undefined, so silence, for
 * anything but a well-formed Binding request. Without `places`, RFC 5780 is not spoken.
 */
export function answerStun(request: Uint8Array, source: SocketAddress, places?: Places): StunAnswer | undefined {
  const message = parseStunMessage(request)
  if (message === undefined || message.class !== 'request' || message.method !== BINDING) return undefined
  const { transactionId, fingerprint } = message
  const refuse = (error: Parameters<typeof encodeBindingError>[1]): StunAnswer => {
    return { bytes: encodeBindingError(transactionId, error, { fingerprint }), change: NO_CHANGE, port: source.port }
  }

  const unknown = unknownAttributes(message, places === undefined ? [] : NAT_REQUEST_ATTRIBUTES)
  if (unknown.length > 0) return refuse({ code: 420, unknown })
  const asked = readChangeRequest(message)
  const port = readResponsePort(message) ?? source.port
  if (asked === 'bad' || port === 'bad' || (port !== source.port && port < LEAST_RESPONSE_PORT)) {
    return refuse({ code: 400 })
  }
  const change = asked ?? NO_CHANGE
  if (places === undefined) return { bytes: encodeBindingSuccess(transactionId, source, { fingerprint }), change, port }

  const origin = places(change)
  if (origin === undefined) return refuse({ code: 420, unknown: [StunAttributeType.changeRequest] })
  const attributes = [responseOrigin(origin)]
  const across = places({ address: true, port: true })
  const other = across ?? (asked === undefined ? undefined : places({ address: false, port: true }))
  if (other !== undefined) attributes.push(otherAddress(other))
  return { bytes: encodeBindingSuccess(transactionId, source, { fingerprint, attributes }), change, port }
}

export interface UdpReflectorOptions {
  /** @default new ReflectorLimits() */
  limits?: ReflectorLimits
}

/** A reflector on one UDP port, and on the others that it is given to answer from. */
export class UdpReflector {
  readonly #limits: ReflectorLimits
  /** By {@link bitsOf}: as asked, the other port, the other address, both. */
  readonly #places: (Place | undefined)[] = []
  /** Bound, or about to be. */
  readonly #sockets = new Set<DatagramSocket>()
  #closing: Promise<void> | undefined
  /** What became of the datagrams received so far. */
  readonly counts = { answered: 0, limited: 0, ignored: 0 }

  constructor({ limits = new ReflectorLimits() }: UdpReflectorOptions = {}) {
    this.#limits = limits
  }

  /** Starts to answer at an IP address of this machine; port 0 takes a free one. Once only. */
  async bind(host: string, port: number): Promise<void> {
    if (this.#sockets.size > 0) throw invalid('the reflector is bound already')
    await this.#bind(0, host, port)
  }

  /**
   * Starts to answer at another port of the same address too, and with `host` at both ports of that address. Port 0
   * takes a free one. Once only; a failure leaves nothing bound but what was before.
   */
  async bindOthers({ host, port }: { host?: string; port: number }): Promise<void> {
    const main = this.address
    if (main === undefined) throw invalid('the reflector is not bound')
    if (this.#sockets.size > 1) throw invalid('the reflector has its others already')
    if (host !== undefined && (isIP(host) !== main.family || !isSpecific(main.host) || !isSpecific(host))) {
      throw invalid(
        `${JSON.stringify(host)} cannot be the other address of ${main.host}: both must be one, of one family`,
      )
    }
    try {
      const { port: other } = await this.#bind(PORT, main.host, port)
      if (host === undefined) return
      await this.#bind(ADDRESS, host, main.port)
      await this.#bind(ADDRESS | PORT, host, other)
    } catch (error) {
      await this.dropOthers()
      throw error
    }
  }

  /** Gives up the others; they may then be bound anew. */
  async dropOthers(): Promise<void> {
    await Promise.all(this.#places.splice(1).map((place) => this.#drop(place?.socket)))
  }

  /** Where it listens; undefined before `bind` and after `close`. */
  get address(): SocketAddress | undefined {
    return this.#closing === undefined ? this.#places[0]?.address : undefined
  }

  /** Its other places. */
  get others(): SocketAddress[] {
    return this.#closing === undefined ? this.#places.slice(1).flatMap((place) => place?.address ?? []) : []
  }

  /** Stops; may be called again. */
  close(): Promise<void> {
    this.#closing ??= Promise.all([...this.#sockets].map((socket) => this.#drop(socket))).then(() => {})
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #bind(place: number, host: string, port: number): Promise<SocketAddress> {
    if (this.#closing !== undefined) throw closed()
    const family = isIP(host)
    if (family === 0) throw invalid(`${JSON.stringify(host)} is not an IP address`)
    if (!(Number.isInteger(port) && port >= 0 && port <= 65_535)) throw invalid(`port ${port} is not from 0 to 65535`)

    const socket = createSocket(family === 6 ? 'udp6' : 'udp4')
    this.#sockets.add(socket)
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.once('close', () => reject(closed()))
        socket.bind(port, host, () => {
          socket.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      await this.#drop(socket)
      const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
      const code = inUse ? 'ERR_PEERLINE_ADDRESS_IN_USE' : 'ERR_PEERLINE_INVALID'
      throw asPeerlineError(error, code, `the reflector cannot use ${host} port ${port}`)
    }
    socket.on('error', () => {}) // one datagram could not be received or sent; the next one may
    socket.on('message', (datagram, { address, port }) => this.#receive(place, datagram, address, port))
    const bound = socket.address()
    const address: SocketAddress = { host: bound.address, port: bound.port, family: family === 6 ? 6 : 4 }
    this.#places[place] = { socket, address }
    return address
  }

  #drop(socket: DatagramSocket | undefined): Promise<void> {
    return new Promise((resolve) => {
      if (socket !== undefined && this.#sockets.delete(socket)) socket.close(() => resolve())
      else resolve()
    })
  }

  #receive(place: number, datagram: Uint8Array, host: string, port: number): void {
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
    const placeFor = (change: Change): Place | undefined => this.#places[place ^ bitsOf(change)]
    const addressFor: Places = (change) => {
      const address = placeFor(change)?.address
      if (address === undefined || isSpecific(address.host)) return address
      return source.family === 4 ? { ...address, host: '0.0.0.0', family: 4 } : address
    }
    // Without another place this is a plain reflector, RFC 8489 and no more.
    const answer = answerStun(datagram, source, this.#places.length > 1 ? addressFor : undefined)
    const from = answer === undefined ? undefined : placeFor(answer.change)
    if (answer === undefined || from === undefined) {
      this.counts.ignored++
      return
    }
    this.counts.answered++
    from.socket.send(answer.bytes, answer.port, host, () => {}) // lost or not: the client asks again
  }
}

interface Place {
  socket: DatagramSocket
  address: SocketAddress
}

const PORT = 1
const ADDRESS = 2

/** Which place differs so from another; the same way leads back. */
function bitsOf(change: Change): number {
  return (change.address ? ADDRESS : 0) | (change.port ? PORT : 0)
}

function isSpecific(host: string): boolean {
  return scopeOf(host) !== 'unspecified'
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the reflector is closed')
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
      if (answer !== undefined && socket.writable) socket.write(answer.bytes)
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
