/**
 * A UDP socket that asks reflectors, and hears from whomever answers: what reflect.ts will not do, for it takes an answer
 * from the asked address alone. Here the other sender is the point.
 *
 * - An answer belongs to a question by its transaction id, 96 random bits that only those on the way have seen.
 * - Silence is a finding, no failure: it is given as undefined.
 * - Closing ends whatever is still waiting.
 */

import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { formatHostPort, type SocketAddress, toSocketAddress } from './address.ts'
import { readOtherAddress, readResponseOrigin } from './nat-attributes.ts'
import {
  BINDING,
  encodeBindingRequest,
  parseStunMessage,
  type StunAttribute,
  type StunMessage,
  stunErrorCode,
  TRANSACTION_ID_BYTES,
  unknownAttributes,
  xorMappedAddress,
} from './stun.ts'

/** ms to the first repetition, doubled each time: as reflect.ts. */
const RTO_MS = 500

/** ms for an answer: three requests, at 0, 0.5 and 1.5 s. */
const ANSWER_MS = 2_500

/** What a reflector said. */
export type ProbeAnswer =
  | {
      readonly kind: 'seen'
      /** The address it sees. */
      readonly mapped: SocketAddress
      /** Where the answer came from. */
      readonly from: SocketAddress
      /** Where it says that it came from; who says so speaks RFC 5780. */
      readonly origin: SocketAddress | undefined
      readonly other: SocketAddress | undefined
      readonly rttMs: number
    }
  | { readonly kind: 'refused'; readonly code: number | undefined; readonly from: SocketAddress }

export interface ProbeWait {
  readonly signal: AbortSignal
  /** ms until silence is taken for the answer. */
  readonly timeoutMs: number
}

export interface ProbeAsk extends ProbeWait {
  /** @default none */
  readonly attributes?: readonly StunAttribute[]
  /** 12 bytes. @default random */
  readonly transactionId?: Uint8Array
}

/** A STUN message of an awaited transaction. */
export interface Heard {
  readonly message: StunMessage
  readonly from: SocketAddress
}

export class StunProbe {
  readonly #socket: Socket
  readonly #waiting = new Map<string, (heard: Heard | undefined) => void>()
  #closing: Promise<void> | undefined

  private constructor(socket: Socket) {
    this.#socket = socket
    socket.on('error', () => {}) // one datagram could not be received: another may
    socket.on('message', (datagram, { address, port }) => {
      const message = parseStunMessage(datagram)
      if (message === undefined || message.method !== BINDING) return
      const from = toSocketAddress(address, port)
      if (from !== undefined) this.#waiting.get(keyOf(message.transactionId))?.({ message, from })
    })
  }

  /**
   * Opens one at any free port, of every interface or of one address.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when the machine does not have this family, or address
   */
  static async open(family: 4 | 6 = 4, host?: string): Promise<StunProbe> {
    const socket = createSocket({ type: family === 6 ? 'udp6' : 'udp4', ipv6Only: family === 6 })
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.bind(0, host, () => {
          socket.off('error', reject)
          resolve()
        })
      })
    } catch (error) {
      socket.close()
      throw asPeerlineError(error, 'ERR_PEERLINE_INVALID', `cannot open an IPv${family} socket`)
    }
    return new StunProbe(socket)
  }

  get port(): number {
    return this.#socket.address().port
  }

  /**
   * Asks until there is an answer, from wherever, or the time is up.
   * @returns undefined for silence
   * @throws PeerlineError what the signal says
   */
  async ask(
    to: { readonly host: string; readonly port: number },
    { attributes = [], transactionId = newId(), ...wait }: ProbeAsk,
  ): Promise<ProbeAnswer | undefined> {
    const request = encodeBindingRequest(transactionId, { attributes, fingerprint: true })
    const asked = performance.now()
    let rto = RTO_MS
    let timer: NodeJS.Timeout | undefined
    const send = (): void => {
      this.send(request, to)
      timer = setTimeout(send, rto)
      rto *= 2
    }
    const heard = this.#hear(transactionId, wait, (message) => read(message) !== undefined)
    if (!wait.signal.aborted) send()
    try {
      const answer = await heard
      const said = answer === undefined ? undefined : read(answer.message)
      if (answer === undefined || said === undefined) return undefined
      if (said.mapped === undefined) return { kind: 'refused', code: said.code, from: answer.from }
      const { message, from } = answer
      const [origin, other] = [readResponseOrigin(message), readOtherAddress(message)]
      return {
        kind: 'seen',
        mapped: said.mapped,
        from,
        origin,
        other,
        rttMs: Math.round((performance.now() - asked) * 10) / 10,
      }
    } finally {
      clearTimeout(timer)
    }
  }

  /**
   * The address that a reflector sees, for who takes silence for a failure.
   * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_REMOTE`, or what the signal says
   */
  async reflect(
    host: string,
    port: number,
    { signal = new AbortController().signal, timeoutMs = ANSWER_MS }: { signal?: AbortSignal; timeoutMs?: number } = {},
  ): Promise<SocketAddress> {
    const answer = await this.ask({ host, port }, { signal, timeoutMs })
    if (answer?.kind === 'seen') return answer.mapped
    const [code, what] =
      answer === undefined
        ? (['ERR_PEERLINE_UNREACHABLE', 'no answer'] as const)
        : (['ERR_PEERLINE_REMOTE', `refused with STUN error ${answer.code ?? 'without a code'}`] as const)
    throw new PeerlineError(code, `asking the reflector udp ${formatHostPort(host, port)}: ${what}`)
  }

  /**
   * Waits for a message of somebody's transaction, a question or an answer.
   * @returns undefined for silence
   * @throws PeerlineError what the signal says
   */
  hear(transactionId: Uint8Array, wait: ProbeWait): Promise<Heard | undefined> {
    return this.#hear(transactionId, wait, () => true)
  }

  /** Sends once; lost or not. */
  send(datagram: Uint8Array, { host, port }: { readonly host: string; readonly port: number }): void {
    if (this.#closing === undefined) this.#socket.send(datagram, port, host, () => {})
  }

  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      for (const end of [...this.#waiting.values()]) end(undefined)
      this.#socket.close(() => resolve())
    })
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #hear(
    transactionId: Uint8Array,
    { signal, timeoutMs }: ProbeWait,
    wanted: (message: StunMessage) => boolean,
  ): Promise<Heard | undefined> {
    const key = keyOf(transactionId)
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(abortError(signal, 'asking a reflector'))
      if (this.#closing !== undefined) return resolve(undefined)
      const done = (): void => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(key)
      }
      const onAbort = (): void => {
        done()
        reject(abortError(signal, 'asking a reflector'))
      }
      const end = (heard: Heard | undefined): void => {
        if (heard !== undefined && !wanted(heard.message)) return
        done()
        resolve(heard)
      }
      const timer = setTimeout(() => end(undefined), timeoutMs)
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.set(key, end)
    })
  }
}

/** What an answer says; undefined for what is none, or cannot be used (RFC 8489 sections 6.3.3 and 6.3.4). */
function read(message: StunMessage): { mapped?: SocketAddress; code?: number | undefined } | undefined {
  if (message.class === 'error') return { code: stunErrorCode(message) }
  if (message.class !== 'success' || unknownAttributes(message).length > 0) return undefined
  const mapped = xorMappedAddress(message)
  return mapped === undefined || mapped.port === 0 ? undefined : { mapped }
}

/** Opens several, or none. */
export async function openProbes(count: number, family: 4 | 6 = 4): Promise<StunProbe[]> {
  const probes: StunProbe[] = []
  try {
    while (probes.length < count) probes.push(await StunProbe.open(family))
    return probes
  } catch (error) {
    await Promise.all(probes.map((probe) => probe.close()))
    throw error
  }
}

/** A transaction id that nobody can guess. */
export function newId(): Uint8Array {
  return new Uint8Array(randomBytes(TRANSACTION_ID_BYTES))
}

function keyOf(transactionId: Uint8Array): string {
  return Buffer.from(transactionId).toString('hex')
}
