/**
 * Early requests: a small request rides in the offer of a dial, and what it is answered with in the answer.
 *
 *     asker                                                            answerer
 *     |-- offer   protocol, body -------------------------------------->|  leave to connect, and for the protocol
 *     |<- answer  00 body | 01 CBOR { code, message, ran } -------------|  the handler, for 50 ms at most
 *     :                                                                 :
 *     |-- no answer to it came with that: asked again in the session -->|  as any request
 *
 * - Only for protocols whose handler says that executing a request twice is as good as once: it may be asked again in the
 *   session, and whoever kept a copy of the offer may show it to a peer that was started again.
 * - It is an attempt. What is not known, not allowed, left to the owner, too much at once or too slow has no answer here,
 *   and the session tells why. So no refusal has two forms.
 * - An answerer runs at most {@link MAX_RUNNING} of them at once, {@link MAX_RUNNING_PER_PEER} for one peer. One that
 *   passes its time counts until it has ended.
 *
 * The form of an answer is that of a response; see request.ts. The wire around it, and its sizes: connect/candidate.ts.
 */
import { concatBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { decodeFailure, encodeFailure, RequestError } from './failure.ts'
import { HandlerContext, type RequestHandler } from './handler-context.ts'
import { MAX_BODY_BYTES, Status } from './request.ts'

/** ms that the answer to an offer waits for a handler: less than a round trip that is worth saving. */
export const EARLY_MS = 50

/** Handlers of early requests that run at once, in all and for one peer: a dial asks one thing. */
const MAX_RUNNING = 64
const MAX_RUNNING_PER_PEER = 4

/** What answers the requests of a protocol, early ones too. */
export interface EarlyHandler {
  readonly handler: RequestHandler
  /** Bytes of the largest request. @default as much as fits in an offer */
  readonly maxRequestBytes?: number | undefined
}

export interface EarlyOptions {
  /** The handler of a protocol that may be executed twice; undefined: there is none. */
  readonly find: (protocol: string) => EarlyHandler | undefined
  /** Whether `from` may ask this, by what is known now: nobody is asked. */
  readonly permit: (from: PeerId, protocol: string) => boolean
}

/** The answering side. */
export class EarlyAnswers {
  readonly #options: EarlyOptions
  readonly #running = new Map<PeerId, number>()
  /** Each ends one that is waited for. */
  readonly #waiting = new Set<(reason: PeerlineError) => void>()
  #total = 0
  #closed = false

  constructor(options: EarlyOptions) {
    this.#options = options
  }

  /** What a request is answered with; undefined: nothing, for now. Never rejects, and takes {@link EARLY_MS} at most. */
  async of(from: PeerId, { protocol, body }: { protocol: string; body: Uint8Array }): Promise<Uint8Array | undefined> {
    const found = this.#options.find(protocol)
    if (this.#closed || found === undefined || body.length > (found.maxRequestBytes ?? MAX_BODY_BYTES)) return undefined
    if (this.#total >= MAX_RUNNING || (this.#running.get(from) ?? 0) >= MAX_RUNNING_PER_PEER) return undefined
    if (!this.#options.permit(from, protocol)) return undefined
    const context = new HandlerContext(from, protocol)
    return new Promise((resolve) => {
      const over = (answer: Uint8Array | undefined) => {
        clearTimeout(timer)
        this.#waiting.delete(giveUp)
        resolve(answer)
      }
      const giveUp = (reason: PeerlineError) => {
        context.abort(reason)
        over(undefined)
      }
      const late = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${protocol}: too late for the answer to an offer`)
      const timer = setTimeout(giveUp, EARLY_MS, late)
      this.#waiting.add(giveUp)
      void this.#run(found.handler, body, context).then(over)
    })
  }

  /** Never rejects. */
  async #run(handler: RequestHandler, body: Uint8Array, context: HandlerContext): Promise<Uint8Array> {
    const { from, protocol } = context
    this.#count(from, 1)
    try {
      const answer: unknown = await handler(body, context)
      if (!(answer instanceof Uint8Array)) throw new Error(`${protocol}: the handler gave no bytes`)
      return concatBytes([Uint8Array.of(Status.OK), answer])
    } catch (error) {
      return concatBytes([Uint8Array.of(Status.FAILED), encodeFailure(error)])
    } finally {
      this.#count(from, -1)
    }
  }

  /** Nothing is answered any more, and what is waited for has no answer. No timer stays. */
  close(): void {
    this.#closed = true
    for (const giveUp of this.#waiting) giveUp(new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed'))
  }

  #count(from: PeerId, change: 1 | -1): void {
    const count = (this.#running.get(from) ?? 0) + change
    if (count === 0) this.#running.delete(from)
    else this.#running.set(from, count)
    this.#total += change
  }
}

/** The asking side: one request, given to a dial. */
export class EarlyAsk {
  readonly protocol: string
  readonly body: Uint8Array
  #response: Uint8Array | undefined

  constructor(protocol: string, body: Uint8Array) {
    this.protocol = protocol
    this.body = body
  }

  /** Called by the dial. */
  answered(response: Uint8Array): void {
    this.#response = response
  }

  /**
   * The answer, when the dial brought one, and once; undefined: ask in the session. A form that is not known here is none.
   * @throws RequestError what the handler said, or `ERR_PEERLINE_TOO_LARGE` above `maxResponseBytes`
   */
  answer(maxResponseBytes: number = MAX_BODY_BYTES): Uint8Array | undefined {
    const response = this.#response
    this.#response = undefined
    if (response?.[0] === Status.FAILED) throw decodeFailure(response.subarray(1))
    if (response?.[0] !== Status.OK) return undefined
    if (response.length - 1 <= maxResponseBytes) return response.subarray(1)
    const text = `${this.protocol}: the answer passes the limit of maxResponseBytes`
    throw new RequestError(new PeerlineError('ERR_PEERLINE_TOO_LARGE', text), 'yes')
  }
}
