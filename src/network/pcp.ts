/**
 * Asking a router for a port: PCP (RFC 6887), and NAT-PMP (RFC 6886), which it grew from. Both on UDP port 5351.
 *
 *     PCP      request    2 | 1    | 0 0  | lifetime 4 | client IP 16               } then, in both:
 *              response   2 | 0x81 | 0 result | lifetime 4 | epoch 4 | 0 12         } nonce 12 | protocol 1 | 0 3 |
 *                                                                                   } internal 2 | external 2 | IP 16
 *     NAT-PMP  request    0 | op | 0 0 | internal 2 | external 2 | lifetime 4          op 1 UDP, 2 TCP; 0 alone: which IP?
 *              response   0 | 128 + op | result 2 | epoch 4 | internal 2 | external 2 | lifetime 4     or, for 0, an IP
 *
 * - A router that knows only NAT-PMP answers PCP with version 0; then it is asked in that language (RFC 6887 appendix A).
 * - The socket is connected: nobody else's answers are heard. In PCP 96 random bits tie the answer to the question too.
 * - Lifetime 0 takes a mapping back; in PCP only who knows the nonce can.
 */
import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { bytesToIp, ipToBytes, type SocketAddress, toSocketAddress } from './address.ts'

/** UDP port of both (RFC 6887 section 19.1). */
export const PCP_PORT = 5351

/** ms after the start at which a question is asked: the interval doubles from 250 ms on (RFC 6886 section 3.1). */
const SEND_AT_MS = [0, 250, 750]
/** ms for an answer. The RFC would wait a minute; a router on this link answers in a few ms, or does not know the language. */
const DEADLINE_MS = 1_500

const NONCE_BYTES = 12
const PCP_HEAD_BYTES = 24
const PCP_BYTES = 60 // head and MAP, in both directions
const PMP_MAP_RESPONSE_BYTES = 16
const PMP_ADDRESS_RESPONSE_BYTES = 12
const PROTOCOL_NUMBER = { tcp: 6, udp: 17 } as const // of IP
const PMP_OP = { udp: 1, tcp: 2 } as const
const SUCCESS = 0

export type MappedProtocol = 'tcp' | 'udp'

export interface PcpRequest {
  readonly protocol: MappedProtocol
  readonly internalPort: number
  /** The one we would like; 0: any. */
  readonly externalPort: number
  /** Seconds; 0 takes the mapping back. */
  readonly lifetime: number
}

export interface Granted {
  readonly external: SocketAddress
  /** Our address as the router knows it. */
  readonly internalHost: string
  /** Seconds. */
  readonly lifetime: number
}

/** What a response says; `unsupported`: the router speaks only NAT-PMP. */
export type PcpResponse =
  | {
      readonly result: 'granted'
      readonly lifetime: number
      readonly externalPort: number
      readonly externalIp: string
    }
  | { readonly result: 'unsupported' }
  | { readonly result: 'refused'; readonly code: number }

/** Bytes that tie the answers, the renewals and the end of a mapping to who asked for it. */
export function newNonce(): Uint8Array {
  return new Uint8Array(randomBytes(NONCE_BYTES))
}

/**
 * One mapping by PCP. @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when the router speaks only NAT-PMP,
 * `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_REMOTE` when it refuses, or what the signal says
 */
export async function mapByPcp(
  gateway: string,
  request: PcpRequest,
  nonce: Uint8Array,
  options: { signal: AbortSignal },
): Promise<Granted> {
  const asked = await ask(
    gateway,
    (internalHost) => encodePcp(request, nonce, internalHost),
    (bytes) => readPcp(bytes, request, nonce),
    options,
  )
  const { response, internalHost } = asked
  if (response.result === 'unsupported') {
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', `the router ${gateway} does not speak PCP`)
  }
  if (response.result === 'refused') throw refusal('PCP', gateway, response.code)
  return { external: externalOf(response.externalIp, response.externalPort), internalHost, lifetime: response.lifetime }
}

/** One mapping by NAT-PMP. @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_REMOTE`, or of the signal */
export async function mapByNatPmp(
  gateway: string,
  request: PcpRequest,
  options: { signal: AbortSignal },
): Promise<Granted> {
  // The address first: a router without one must not be left with a mapping.
  const address = await ask(gateway, () => Uint8Array.of(0, 0), readPmpAddress, options)
  if ('code' in address.response) throw refusal('NAT-PMP', gateway, address.response.code)
  const { response, internalHost } = await ask(
    gateway,
    () => encodePmp(request),
    (bytes) => readPmp(bytes, request),
    options,
  )
  if ('code' in response) throw refusal('NAT-PMP', gateway, response.code)
  return { external: externalOf(address.response.ip, response.externalPort), internalHost, lifetime: response.lifetime }
}

/** Takes a NAT-PMP mapping back, which is a request for no time at all (RFC 6886 section 3.4). */
export async function unmapByNatPmp(
  gateway: string,
  request: Pick<PcpRequest, 'protocol' | 'internalPort'>,
  options: { signal: AbortSignal },
): Promise<void> {
  const none = { ...request, externalPort: 0, lifetime: 0 }
  await ask(
    gateway,
    () => encodePmp(none),
    (bytes) => readPmp(bytes, none),
    options,
  )
}

// ---- bytes ----

export function encodePcp(request: PcpRequest, nonce: Uint8Array, internalHost: string): Uint8Array {
  const bytes = new Uint8Array(PCP_BYTES)
  const view = new DataView(bytes.buffer)
  bytes[0] = 2
  bytes[1] = 1 // MAP
  view.setUint32(4, request.lifetime)
  bytes.set(mapped(internalHost), 8)
  bytes.set(nonce, PCP_HEAD_BYTES)
  bytes[36] = PROTOCOL_NUMBER[request.protocol]
  view.setUint16(40, request.internalPort)
  view.setUint16(42, request.externalPort)
  bytes.set(mapped('0.0.0.0'), 44)
  return bytes
}

/** Reads a response to `request`; undefined for what is none. */
export function readPcp(bytes: Uint8Array, request: PcpRequest, nonce: Uint8Array): PcpResponse | undefined {
  // NAT-PMP's word for "unsupported version" is short; its result code is in the same place.
  if (bytes.length >= 4 && bytes[0] === 0) return { result: 'unsupported' }
  if (bytes.length < PCP_HEAD_BYTES || bytes[0] !== 2 || bytes[1] !== 0x81) return undefined
  const code = bytes[3]!
  // Refusals that did not come to the MAP part need not repeat it (RFC 6887 section 8.3).
  if (bytes.length < PCP_BYTES) return code === SUCCESS ? undefined : { result: 'refused', code }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const ours =
    nonce.every((byte, at) => bytes[PCP_HEAD_BYTES + at] === byte) &&
    bytes[36] === PROTOCOL_NUMBER[request.protocol] &&
    view.getUint16(40) === request.internalPort
  if (!ours) return undefined
  if (code !== SUCCESS) return { result: 'refused', code }
  const externalIp = bytesToIp(bytes.subarray(44, PCP_BYTES))
  return { result: 'granted', lifetime: view.getUint32(4), externalPort: view.getUint16(42), externalIp }
}

export function encodePmp(request: PcpRequest): Uint8Array {
  const bytes = new Uint8Array(12)
  const view = new DataView(bytes.buffer)
  bytes[1] = PMP_OP[request.protocol]
  view.setUint16(4, request.internalPort)
  view.setUint16(6, request.externalPort)
  view.setUint32(8, request.lifetime)
  return bytes
}

/** Reads the response to a mapping request; undefined for what is none. */
export function readPmp(
  bytes: Uint8Array,
  request: PcpRequest,
): { code: number } | { externalPort: number; lifetime: number } | undefined {
  if (bytes.length < 8 || bytes[0] !== 0 || bytes[1] !== 128 + PMP_OP[request.protocol]) return undefined
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const code = view.getUint16(2)
  if (code !== SUCCESS) return { code }
  if (bytes.length < PMP_MAP_RESPONSE_BYTES || view.getUint16(8) !== request.internalPort) return undefined
  return { externalPort: view.getUint16(10), lifetime: view.getUint32(12) }
}

/** Reads the response to the question for the external address; undefined for what is none. */
export function readPmpAddress(bytes: Uint8Array): { code: number } | { ip: string } | undefined {
  if (bytes.length < 8 || bytes[0] !== 0 || bytes[1] !== 128) return undefined
  const code = (bytes[2]! << 8) | bytes[3]!
  if (code !== SUCCESS) return { code }
  if (bytes.length < PMP_ADDRESS_RESPONSE_BYTES) return undefined
  return { ip: bytesToIp(bytes.subarray(8, PMP_ADDRESS_RESPONSE_BYTES)) }
}

/** The 16 bytes of an IPv4-mapped address (RFC 4291 section 2.5.5.2), or of an IPv6 one. */
function mapped(host: string): Uint8Array {
  return ipToBytes(host.includes(':') ? host : `::ffff:${host}`)!
}

function externalOf(ip: string, port: number): SocketAddress {
  return toSocketAddress(ip, port)!
}

function refusal(language: string, gateway: string, code: number): PeerlineError {
  return new PeerlineError(
    'ERR_PEERLINE_REMOTE',
    `the router ${gateway} refuses the mapping: ${language} result ${code}`,
  )
}

// ---- asking ----

/** Asks until `read` knows the answer. */
function ask<T>(
  gateway: string,
  question: (internalHost: string) => Uint8Array,
  read: (bytes: Uint8Array) => T | undefined,
  { signal }: { signal: AbortSignal },
): Promise<{ response: T; internalHost: string }> {
  const what = `asking the router ${gateway} for a mapping`
  return new Promise((resolve, reject) => {
    const socket = createSocket('udp4')
    const timers: NodeJS.Timeout[] = []
    let done = false
    const finish = (settle: () => void) => {
      if (done) return
      done = true
      for (const timer of timers) clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
      socket.close(settle)
    }
    // Also "port unreachable": a router that speaks neither says so at once.
    const fail = (error: unknown) => finish(() => reject(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE', what)))
    const onAbort = () => fail(abortError(signal, what))
    socket.on('error', fail)
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) return onAbort()
    const silence = new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${what}: no answer within ${DEADLINE_MS} ms`)
    timers.push(setTimeout(() => fail(silence), DEADLINE_MS))
    socket.once('connect', () => {
      if (done) return
      const internalHost = socket.address().address
      const message = question(internalHost)
      const send = () =>
        socket.send(message, (error) => {
          if (error !== null) fail(error)
        })
      socket.on('message', (bytes) => {
        const response = read(bytes)
        if (response !== undefined) finish(() => resolve({ response, internalHost }))
      })
      for (const ms of SEND_AT_MS) {
        if (ms === 0) send()
        else timers.push(setTimeout(send, ms))
      }
    })
    socket.connect(PCP_PORT, gateway)
  })
}
