/**
 * Asking other peers: the peer is dialled if need be, and asked again where that can do no harm.
 *
 *     reach --session--> request --fails for a reason that may pass, and surely not executed, or with a key--> reach …
 *
 * Everything is under one deadline: dialling, each attempt, and the pauses between them.
 */
import { pause, under } from '../connect/index.ts'
import { asPeerlineError, PASSING, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { EarlyAsk } from '../protocol/early.ts'
import {
  type Protocol,
  RequestError,
  type RequestOptions,
  request,
  requestStream,
  type SendOptions,
  type StreamedAnswer,
  type StreamRequestOptions,
  send,
} from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { ConnectOptions, PeerRequestOptions } from './options.ts'

/** ms for a request from first to last, dialling included, when nothing else is said: a dial and an answer. */
const REQUEST_MS = 30_000

/** ms before the second attempt; twice that before each further one, and up to half as much more. */
const RETRY_MS = 100

/** Members of a group that a message is on its way to at once. */
const GROUP_AT_ONCE = 16

export interface ExchangesOptions {
  readonly reach: (to: string, options: ConnectOptions) => Promise<Session>
  /** Whether a request may ride in an offer of ours. */
  readonly mayRide: (to: string, protocol: string) => boolean
  readonly members: (group: string) => readonly PeerId[]
  readonly closing: AbortSignal
}

/** What became of a message to one member of a group. */
export interface Delivery {
  readonly peer: PeerId
  /** Absent when the session has the message. */
  readonly error?: PeerlineError
}

export class Exchanges {
  readonly #options: ExchangesOptions

  constructor(options: ExchangesOptions) {
    this.#options = options
  }

  async request(to: string, protocol: string, body: Uint8Array, options: PeerRequestOptions): Promise<Uint8Array> {
    const { replaySafe = false, key, maxResponseBytes } = options
    if (!replaySafe || key !== undefined || !this.#options.mayRide(to, protocol)) {
      return this.#attempts(to, options, (session, more) => request(session, protocol, body, more))
    }
    const early = new EarlyAsk(protocol, body)
    return this.#attempts(to, { ...options, early }, async (session, more) => {
      return early.answer(maxResponseBytes) ?? request(session, protocol, body, more)
    })
  }

  async requestTyped<ReqIn, ReqOut, ResIn, ResOut>(
    to: string,
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    value: ReqIn,
    options: PeerRequestOptions,
  ): Promise<ResOut> {
    if (!protocol.replaySafe) {
      return this.#attempts(to, options, (session, more) => protocol.request(session, value, more))
    }
    // What may ride in the offer has its form before there is a session.
    const { attempts = 1, timeoutMs = attempts === 1 ? protocol.timeoutMs : REQUEST_MS } = options
    const ask = (name: string, body: Uint8Array, how: PeerRequestOptions) => this.request(to, name, body, how)
    return protocol.requestBy(ask, value, { ...options, timeoutMs, replaySafe: true })
  }

  async send(
    to: string,
    protocol: string | Protocol<unknown, unknown, unknown, unknown>,
    value: unknown,
    options: ConnectOptions & SendOptions,
  ): Promise<void> {
    const session = await this.#reach(to, options)
    if (typeof protocol === 'string') return send(session, protocol, value as Uint8Array, options)
    return protocol.send(session, value, options)
  }

  /** To every member of a group, each of which succeeds or fails for itself. Never rejects. */
  async sendToGroup(
    group: string,
    protocol: string | Protocol<unknown, unknown, unknown, unknown>,
    value: unknown,
    options: ConnectOptions & SendOptions,
  ): Promise<Delivery[]> {
    const waiting = [...this.#options.members(group)]
    const done: Delivery[] = []
    const one = async () => {
      for (let peer = waiting.shift(); peer !== undefined; peer = waiting.shift()) {
        try {
          await this.send(peer, protocol, value, options)
          done.push({ peer })
        } catch (error) {
          done.push({ peer, error: asPeerlineError(error, 'ERR_PEERLINE_NO_PATH') })
        }
      }
    }
    await Promise.all(Array.from({ length: GROUP_AT_ONCE }, one))
    return done
  }

  async requestStream(
    to: string,
    protocol: string,
    body: Parameters<typeof requestStream>[2],
    options: ConnectOptions & StreamRequestOptions,
  ): Promise<StreamedAnswer> {
    return requestStream(await this.#reach(to, options), protocol, body, options)
  }

  /** What fails before there is a session is surely not executed. */
  async #reach(to: string, options: ConnectOptions): Promise<Session> {
    try {
      return await this.#options.reach(to, options)
    } catch (error) {
      throw new RequestError(asPeerlineError(error, 'ERR_PEERLINE_NO_PATH'), 'no')
    }
  }

  async #attempts<T>(
    to: string,
    options: PeerRequestOptions,
    ask: (session: Session, options: RequestOptions) => Promise<T>,
  ): Promise<T> {
    const { attempts = 1, key, signal } = options
    if (!(Number.isSafeInteger(attempts) && attempts >= 1)) {
      throw new RequestError(new PeerlineError('ERR_PEERLINE_INVALID', 'attempts must be 1 or more'), 'no')
    }
    // As ever: one attempt has the time that a dial has, and then that of a request.
    if (attempts === 1) return ask(await this.#reach(to, options), options)
    const { timeoutMs = REQUEST_MS, ...rest } = options
    const ends = performance.now() + timeoutMs
    const limits = [AbortSignal.timeout(timeoutMs), this.#options.closing, ...(signal === undefined ? [] : [signal])]
    return under(limits, async (limited) => {
      for (let attempt = 1; ; attempt++) {
        try {
          const session = await this.#reach(to, { ...rest, signal: limited })
          return await ask(session, { ...rest, timeoutMs: Math.max(1, ends - performance.now()), signal: limited })
        } catch (error) {
          if (attempt >= attempts || limited.aborted || !mayAskAgain(error, key !== undefined)) throw error
        }
        await pause(RETRY_MS * 2 ** (attempt - 1) * (1 + Math.random() / 2), limited)
      }
    })
  }
}

/** A request that failed like this may be sent again: it surely was not executed, or will not be a second time. */
function mayAskAgain(error: unknown, keyed: boolean): boolean {
  const { code } = asPeerlineError(error, 'ERR_PEERLINE_REMOTE')
  if (!PASSING.has(code) && code !== 'ERR_PEERLINE_RESET') return false
  const executed = error instanceof RequestError ? error.executed : 'unknown'
  return executed === 'no' || (keyed && executed === 'unknown')
}
