/**
 * The reflector client: what address is a local port seen from?
 *
 * It asks a reflector of ours or any STUN server (RFC 8489), over UDP (section 6.2.1) or TCP (section 6.2.2).
 *
 *   reflectUdp   request at 0, RTO, 3 RTO, 7 RTO ... until an answer or the deadline
 *   reflectTcp   one request: TCP does the rest
 *
 * Invariants
 * - Only an answer from the asked address counts (the UDP socket is connected), and only with the transaction id of the
 *   question, 96 random bits, so that nobody off the path can answer in its place.
 * - The promise settles after the socket is closed: the local port is free again then, and nothing is left behind.
 * - One deadline covers all of it, name lookup included.
 *
 * The answer is what the reflector claims. It may be wrong or a lie: compare several, and prove the way by using it.
 */

import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { lookup } from 'node:dns'
import { connect, isIP } from 'node:net'
import { abortError, asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { formatHostPort, type SocketAddress } from './address.ts'
import {
  BINDING,
  encodeBindingRequest,
  parseStunMessage,
  type StunMessage,
  stunErrorCode,
  stunFrameBytes,
  TRANSACTION_ID_BYTES,
  unknownAttributes,
  xorMappedAddress,
} from './stun.ts'

export interface ReflectOptions {
  signal?: AbortSignal
  /** Milliseconds for everything. @default 3_000 */
  timeoutMs?: number
  /** The port asked about. @default any free one */
  localPort?: number
  /** The interface address asked about. @default the system chooses */
  localAddress?: string
  /** Which addresses of a host name to use. @default IPv4 if it has one, for NATs are an IPv4 matter */
  family?: 4 | 6
}

export interface ReflectUdpOptions extends ReflectOptions {
  /** Milliseconds to the first repetition; doubles each time. @default 500 */
  rtoMs?: number
}

const TIMEOUT_MS = 3_000 // three requests at the default RTO (at 0, 0.5 and 1.5 s), and 1.5 s for the last answer
export const RTO_MS = 500 // the least that RFC 8489 section 6.2.1 advises to start with
const MAX_PORT = 65_535

/** Asks over UDP. Rejects with a typed error when nobody answers in time, refuses, or answers nonsense. */
export function reflectUdp(host: string, port: number, options: ReflectUdpOptions = {}): Promise<SocketAddress> {
  return ask('udp', host, port, options, (target, signal) => askUdp(target, options, signal))
}

/** Asks over TCP. Rejects with a typed error when the reflector is not reached, refuses, or answers nonsense. */
export function reflectTcp(host: string, port: number, options: ReflectOptions = {}): Promise<SocketAddress> {
  return ask('tcp', host, port, options, (target, signal) => askTcp(target, options, signal))
}

/** The reflector asked, and its name in messages. */
export interface Target {
  address: SocketAddress
  what: string
}

/** Checks the question, finds the host, and runs `exchange` under one deadline. */
export async function ask(
  kind: 'udp' | 'tcp',
  host: string,
  port: number,
  { signal, timeoutMs = TIMEOUT_MS, localPort = 0, localAddress, family }: ReflectOptions,
  exchange: (target: Target, signal: AbortSignal) => Promise<SocketAddress>,
): Promise<SocketAddress> {
  const what = `asking the reflector ${kind} ${formatHostPort(host, port)}`
  if (host === '' || !isPort(port) || port === 0)
    throw invalid(`${what}: needs a host, and a port from 1 to ${MAX_PORT}`)
  if (!isPort(localPort)) throw invalid(`${what}: local port ${localPort} is not from 0 to ${MAX_PORT}`)
  if (localAddress !== undefined && isIP(localAddress) === 0) throw invalid(`${what}: the local address is not an IP`)
  if (signal?.aborted === true) throw abortError(signal, what)

  const deadline = new AbortController()
  const onAbort = (): void => deadline.abort(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  const timer = setTimeout(() => {
    deadline.abort(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${what}: no answer within ${timeoutMs} ms`))
  }, timeoutMs)
  try {
    const address = await resolveHost(host, port, family ?? 0, what, deadline.signal)
    if (deadline.signal.aborted) throw abortError(deadline.signal, what)
    return await exchange({ address, what }, deadline.signal)
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }
}

function askUdp(target: Target, options: ReflectUdpOptions, signal: AbortSignal): Promise<SocketAddress> {
  return new Promise((resolve, reject) => {
    const { address, what } = target
    const transactionId = randomBytes(TRANSACTION_ID_BYTES)
    const request = encodeBindingRequest(transactionId, { fingerprint: true })
    const socket = createSocket(address.family === 6 ? 'udp6' : 'udp4')
    let rto = options.rtoMs ?? RTO_MS
    let timer: NodeJS.Timeout | undefined
    let done = false

    const finish = (settle: () => void): void => {
      if (done) return
      done = true
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      socket.close(settle)
    }
    const fail = (error: unknown): void => finish(() => reject(socketError(error, what)))
    const onAbort = (): void => fail(abortError(signal, what))
    const send = (): void => {
      socket.send(request, (error) => {
        if (error !== null) fail(error)
      })
      timer = setTimeout(send, rto)
      rto *= 2
    }

    signal.addEventListener('abort', onAbort, { once: true })
    socket.on('error', fail) // also "port unreachable" from the way there: no use to wait then
    socket.on('message', (datagram) => {
      const message = parseStunMessage(datagram)
      if (message === undefined || !answers(message, transactionId)) return // not ours: the true answer may still come
      try {
        const seen = readAnswer(message, what)
        finish(() => resolve(seen))
      } catch (error) {
        fail(error)
      }
    })
    socket.once('connect', send)
    socket.bind({ port: options.localPort ?? 0, ...localAddressOf(options) }, () => {
      if (!done) socket.connect(address.port, address.host)
    })
  })
}

function askTcp(target: Target, options: ReflectOptions, signal: AbortSignal): Promise<SocketAddress> {
  return new Promise((resolve, reject) => {
    const { address, what } = target
    const transactionId = randomBytes(TRANSACTION_ID_BYTES)
    const { localAddress, localPort } = options
    const socket = connect({
      host: address.host,
      port: address.port,
      ...(localAddress === undefined ? {} : { localAddress }),
      ...(localPort === undefined ? {} : { localPort }),
    })
    let buffered: Uint8Array = new Uint8Array(0)
    let done = false

    const finish = (settle: () => void): void => {
      if (done) return
      done = true
      signal.removeEventListener('abort', onAbort)
      // An ordinary close, no reset: a NAT keeps a mapping for a while after a FIN, and forgets it at once after a RST.
      if (socket.closed) settle()
      else socket.once('close', settle).destroy()
    }
    const fail = (error: unknown): void => finish(() => reject(socketError(error, what)))
    const onAbort = (): void => fail(abortError(signal, what))

    signal.addEventListener('abort', onAbort, { once: true })
    socket.on('error', fail)
    socket.on('close', () => fail(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${what}: closed without an answer`)))
    socket.once('connect', () => socket.write(encodeBindingRequest(transactionId, { fingerprint: true })))
    socket.on('data', (chunk: Uint8Array) => {
      if (done) return
      buffered = Buffer.concat([buffered, chunk])
      const bytes = stunFrameBytes(buffered)
      if (bytes === 'more' || (bytes !== 'bad' && buffered.length < bytes)) return
      try {
        const message = bytes === 'bad' ? undefined : parseStunMessage(buffered.subarray(0, bytes))
        // nobody else speaks on this connection: what is not the answer is an error
        if (message === undefined || !answers(message, transactionId))
          throw protocolError(what, 'the answer is not STUN')
        const seen = readAnswer(message, what)
        finish(() => resolve(seen))
      } catch (error) {
        fail(error)
      }
    })
  })
}

/** True when `message` is a response to the request with this id. */
export function answers(message: StunMessage, transactionId: Uint8Array): boolean {
  return (
    (message.class === 'success' || message.class === 'error') &&
    message.method === BINDING &&
    message.transactionId.every((byte, i) => byte === transactionId[i])
  )
}

/** The address in an answer; throws when it is a refusal or cannot be used (sections 6.3.3 and 6.3.4). */
export function readAnswer(message: StunMessage, what: string): SocketAddress {
  if (message.class === 'error') {
    // the code only: the reason beside it is a stranger's text
    const code = stunErrorCode(message) ?? 'without a code'
    throw new PeerlineError('ERR_PEERLINE_REMOTE', `${what}: refused with STUN error ${code}`)
  }
  if (unknownAttributes(message).length > 0) throw protocolError(what, 'the answer has attributes we must understand')
  const seen = xorMappedAddress(message)
  if (seen === undefined || seen.port === 0) throw protocolError(what, 'the answer has no address')
  return seen
}

function resolveHost(
  host: string,
  port: number,
  family: 0 | 4 | 6,
  what: string,
  signal: AbortSignal,
): Promise<SocketAddress> {
  const literal = isIP(host)
  if (literal !== 0) return Promise.resolve({ host, port, family: literal === 6 ? 6 : 4 })
  return new Promise((resolve, reject) => {
    // A lookup cannot be cancelled. When the deadline comes first, what it finds later is dropped.
    const onAbort = (): void => reject(abortError(signal, what))
    signal.addEventListener('abort', onAbort, { once: true })
    lookup(host, { family, order: 'ipv4first' }, (error, found, foundFamily) => {
      signal.removeEventListener('abort', onAbort)
      if (error !== null) reject(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE', what))
      else resolve({ host: found, port, family: foundFamily === 6 ? 6 : 4 })
    })
  })
}

function localAddressOf({ localAddress }: ReflectOptions): { address?: string } {
  return localAddress === undefined ? {} : { address: localAddress }
}

function socketError(error: unknown, what: string): PeerlineError {
  const inUse = error instanceof Error && 'code' in error && error.code === 'EADDRINUSE'
  return asPeerlineError(error, inUse ? 'ERR_PEERLINE_ADDRESS_IN_USE' : 'ERR_PEERLINE_UNREACHABLE', what)
}

function protocolError(what: string, why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `${what}: ${why}`)
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 0 && port <= MAX_PORT
}
