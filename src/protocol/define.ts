/**
 * A protocol, defined once for both sides: its name, how its values become bytes, what they must be, and its limits.
 *
 *     asker     value -> schema -> bytes -> size          response    bytes <- size, then decoded, then schema
 *     handler   bytes <- size, then decoded, then schema  -> handler -> schema -> bytes -> size
 *
 * - Nothing is decoded, or shown to a schema, before its size was checked; that is done while it comes.
 * - Each value is validated where it is made and where it is used. What travels is what went into the schema, so that one
 *   that transforms (text to a date) does so at the using side, once.
 * - A request that its own side finds invalid is not sent. One that the handler's side finds invalid is answered so, and
 *   the handler never sees it. An answer that its handler's side finds invalid is a failed handler, without detail.
 */
import { abortError, asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import type { Session, Stream } from '../session/index.ts'
import { Deadline } from './deadline.ts'
import { Refusal, RequestError } from './failure.ts'
import { checkName } from './form.ts'
import type { RequestContext, RequestHandler } from './handler-context.ts'
import { decodeJson, encodeJson } from './json.ts'
import { send } from './one-way.ts'
import { MAX_BODY_BYTES, REQUEST_TIMEOUT_MS, type RequestOptions, request } from './request.ts'
import { type ServeRequestOptions, serveRequest } from './serve-request.ts'
import { isStandardSchema, type StandardSchema, validate } from './standard-schema.ts'

/** How values become bytes. Both may throw: the value, or the bytes, are refused then. */
export interface Codec {
  encode(value: unknown): Uint8Array
  decode(bytes: Uint8Array): unknown
}

/** ms that a schema gets at least for an answer that has come. */
const MIN_DECODE_MS = 1_000

const JSON_CODEC: Codec = { encode: encodeJson, decode: decodeJson }
const BYTES_CODEC: Codec = { encode: checkBytes, decode: (bytes) => bytes }

function checkBytes(value: unknown): Uint8Array {
  if (value instanceof Uint8Array) return value
  throw new PeerlineError('ERR_PEERLINE_INVALID', 'the value is no Uint8Array')
}

export interface ProtocolOptions<ReqIn, ReqOut, ResIn, ResOut> {
  /** Such as `/greet/1`: without a semicolon. */
  readonly name: string
  /** What a request must be. @default anything */
  readonly request?: StandardSchema<ReqIn, ReqOut>
  /** What an answer must be. @default anything */
  readonly response?: StandardSchema<ResIn, ResOut>
  /** `json`: strict and bounded; `bytes`: a Uint8Array as it is; or a codec. @default 'json' */
  readonly encoding?: 'json' | 'bytes' | Codec
  /** Bytes of the largest request. @default 1_048_576 */
  readonly maxRequestBytes?: number
  /** Bytes of the largest answer. @default 1_048_576 */
  readonly maxResponseBytes?: number
  /** ms for a request at the asker, and for each of its steps at the other side. @default 10_000 */
  readonly timeoutMs?: number
  /**
   * Executing a request twice is as good as once: one of up to 512 bytes may ride in the offer of a dial, and be answered
   * with the answer to that; see early.ts. @default false
   */
  readonly replaySafe?: boolean
  /** What whoever decides about a request may see of it: never the whole. @default nothing */
  readonly view?: (request: ReqOut) => unknown
  /** The names of the permissions that a request needs. @default none are known */
  readonly needs?: (request: ReqOut) => readonly string[]
}

/** What is known of a request when it is decided about. */
export interface TrimmedRequest {
  readonly view?: unknown
  readonly needs?: readonly string[]
}

export type ProtocolHandler<Req, Res> = (request: Req, context: RequestContext) => Res | Promise<Res>

/** What one call may say differently. */
export type CallOptions = Pick<RequestOptions, 'signal' | 'timeoutMs' | 'key'>

/**
 * Defines a protocol. Types follow from the schemas; without them give them: `defineProtocol<In, In, Out, Out>(…)`.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`
 */
export function defineProtocol(
  options: ProtocolOptions<Uint8Array, Uint8Array, Uint8Array, Uint8Array> & { readonly encoding: 'bytes' },
): Protocol<Uint8Array, Uint8Array, Uint8Array, Uint8Array>
export function defineProtocol<ReqIn = unknown, ReqOut = ReqIn, ResIn = unknown, ResOut = ResIn>(
  options: ProtocolOptions<ReqIn, ReqOut, ResIn, ResOut>,
): Protocol<ReqIn, ReqOut, ResIn, ResOut>
export function defineProtocol<ReqIn, ReqOut, ResIn, ResOut>(
  options: ProtocolOptions<ReqIn, ReqOut, ResIn, ResOut>,
): Protocol<ReqIn, ReqOut, ResIn, ResOut> {
  return new Protocol(options)
}

/** A protocol that was defined; see {@link defineProtocol}. */
export class Protocol<ReqIn, ReqOut, ResIn, ResOut> {
  readonly name: string
  readonly maxRequestBytes: number
  readonly maxResponseBytes: number
  readonly timeoutMs: number
  readonly replaySafe: boolean
  /** A request is to be decided about when it was read: there is something to be seen of it. */
  readonly trims: boolean
  readonly #options: Pick<ProtocolOptions<ReqIn, ReqOut, ResIn, ResOut>, 'view' | 'needs'>
  readonly #codec: Codec
  readonly #request: StandardSchema<ReqIn, ReqOut> | undefined
  readonly #response: StandardSchema<ResIn, ResOut> | undefined

  /** @internal Use {@link defineProtocol}. */
  constructor(options: ProtocolOptions<ReqIn, ReqOut, ResIn, ResOut>) {
    checkName(options.name)
    const { encoding = 'json' } = options
    this.name = options.name
    this.maxRequestBytes = count(options.maxRequestBytes ?? MAX_BODY_BYTES, 'maxRequestBytes', 0)
    this.maxResponseBytes = count(options.maxResponseBytes ?? MAX_BODY_BYTES, 'maxResponseBytes', 0)
    this.timeoutMs = count(options.timeoutMs ?? REQUEST_TIMEOUT_MS, 'timeoutMs', 1)
    this.replaySafe = options.replaySafe ?? false
    this.trims = options.view !== undefined || options.needs !== undefined
    this.#options = options
    this.#codec = encoding === 'json' ? JSON_CODEC : encoding === 'bytes' ? BYTES_CODEC : encoding
    if (typeof this.#codec?.encode !== 'function' || typeof this.#codec.decode !== 'function') {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `${this.name}: encoding must be 'json', 'bytes' or a codec`)
    }
    for (const schema of [options.request, options.response]) {
      if (schema === undefined || isStandardSchema(schema)) continue
      throw new PeerlineError(
        'ERR_PEERLINE_INVALID',
        `${this.name}: a schema must implement Standard Schema, version 1`,
      )
    }
    this.#request = options.request
    this.#response = options.response
  }

  /**
   * Asks the other side of `session` and resolves with its answer.
   * @throws RequestError as `request`; `ERR_PEERLINE_INVALID` with `executed: 'no'` and nothing sent when `value` is not
   *   valid; `ERR_PEERLINE_PROTOCOL` when the answer is not
   */
  request(session: Session, value: ReqIn, options: CallOptions = {}): Promise<ResOut> {
    return this.requestBy((name, body, how) => request(session, name, body, how), value, options)
  }

  /** As {@link request}, by whatever carries bytes there and back: `ask` gets the name, the bytes, and how. */
  async requestBy<Options extends CallOptions>(
    ask: (name: string, body: Uint8Array, options: Options & RequestOptions) => Promise<Uint8Array>,
    value: ReqIn,
    options: Options,
  ): Promise<ResOut> {
    const timeoutMs = options.timeoutMs ?? this.timeoutMs
    const start = performance.now()
    const { signal } = options
    const body = await within(() => this.encodeRequest(value), { timeoutMs, signal, what: this.name, executed: 'no' })
    const left = () => Math.max(1, timeoutMs - (performance.now() - start))
    const { maxResponseBytes } = this
    const answer = await ask(this.name, body, { ...options, maxResponseBytes, timeoutMs: left() })
    // A dial may have come between, which has a time of its own.
    const leftMs = Math.max(left(), MIN_DECODE_MS)
    return within(() => this.decodeResponse(answer), { timeoutMs: leftMs, signal, what: this.name, executed: 'yes' })
  }

  /**
   * Sends `value` without an answer, and resolves when the session has it.
   * @throws RequestError as `send`; `ERR_PEERLINE_INVALID` when `value` is not valid
   */
  async send(session: Session, value: ReqIn, options: Omit<CallOptions, 'key'> = {}): Promise<void> {
    const timeoutMs = options.timeoutMs ?? this.timeoutMs
    const { signal } = options
    const body = await within(() => this.encodeRequest(value), { timeoutMs, signal, what: this.name, executed: 'no' })
    return send(session, this.name, body, { ...options, timeoutMs })
  }

  /**
   * A handler of bytes, as `serveRequest` takes it, that decodes, validates, and asks `handler`.
   * @param decide is shown what the protocol lets be seen of each request; what it rejects with is told to the asker
   */
  handler(
    handler: ProtocolHandler<ReqOut, ResIn>,
    decide?: (request: TrimmedRequest) => Promise<void>,
  ): RequestHandler {
    return async (body, context) => {
      const value = await this.decodeRequest(body)
      if (decide !== undefined) await this.#decide(decide, value)
      return this.encodeResponse(await handler(value, context))
    }
  }

  async #decide(decide: (request: TrimmedRequest) => Promise<void>, value: ReqOut): Promise<void> {
    const { view, needs } = this.#options
    try {
      await decide({
        ...(view === undefined ? {} : { view: view(value) }),
        ...(needs === undefined ? {} : { needs: needs(value) }),
      })
    } catch (error) {
      const { code, message } = asPeerlineError(error, 'ERR_PEERLINE_DENIED')
      throw new Refusal(code === 'ERR_PEERLINE_BUSY' ? code : 'ERR_PEERLINE_DENIED', message, { cause: error })
    }
  }

  /** Answers the request that comes on `stream`, within the limits of the protocol. Never throws. */
  serve(
    stream: Stream,
    handler: RequestHandler,
    options: Omit<ServeRequestOptions, 'maxRequestBytes' | 'timeoutMs'>,
  ): void {
    const { maxRequestBytes, timeoutMs } = this
    serveRequest(stream, handler, { ...options, maxRequestBytes, timeoutMs })
  }

  /** The bytes of a request. @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_TOO_LARGE` */
  async encodeRequest(value: ReqIn): Promise<Uint8Array> {
    if (this.#request !== undefined) await validate(this.#request, value, `${this.name}: the request`)
    return this.#encode(value, 'request', this.maxRequestBytes)
  }

  /** The request in `bytes`. @throws Refusal `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_TOO_LARGE` */
  async decodeRequest(bytes: Uint8Array): Promise<ReqOut> {
    try {
      return (await this.#decode(bytes, 'request', this.maxRequestBytes, this.#request)) as ReqOut
    } catch (error) {
      const { code, message } = asPeerlineError(error, 'ERR_PEERLINE_INVALID')
      const told = code === 'ERR_PEERLINE_TOO_LARGE' ? code : 'ERR_PEERLINE_INVALID'
      throw new Refusal(told, message, { cause: error })
    }
  }

  /** The bytes of an answer. @throws a plain error: the asker learns that the handler failed, and no detail */
  async encodeResponse(value: ResIn): Promise<Uint8Array> {
    try {
      if (this.#response !== undefined) await validate(this.#response, value, `${this.name}: the answer`)
      return this.#encode(value, 'answer', this.maxResponseBytes)
    } catch (error) {
      if (isPeerlineError(error) && error.code === 'ERR_PEERLINE_TOO_LARGE') throw error
      throw new Error(`${this.name}: the handler gave an answer that is not valid`, { cause: error })
    }
  }

  /** The answer in `bytes`. @throws PeerlineError `ERR_PEERLINE_PROTOCOL`, `ERR_PEERLINE_TOO_LARGE` */
  async decodeResponse(bytes: Uint8Array): Promise<ResOut> {
    try {
      return (await this.#decode(bytes, 'answer', this.maxResponseBytes, this.#response)) as ResOut
    } catch (error) {
      const { code, message } = asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL')
      if (code === 'ERR_PEERLINE_TOO_LARGE') throw error
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', message, { cause: error })
    }
  }

  #encode(value: unknown, what: string, max: number): Uint8Array {
    let bytes: Uint8Array
    try {
      bytes = checkBytes(this.#codec.encode(value))
    } catch (cause) {
      const said = cause instanceof Error ? cause.message : 'its encoder failed'
      throw new PeerlineError('ERR_PEERLINE_INVALID', `${this.name}: the ${what} has no form: ${said}`, { cause })
    }
    this.#checkSize(bytes, what, max)
    return bytes
  }

  #decode<I, O>(bytes: Uint8Array, what: string, max: number, schema: StandardSchema<I, O> | undefined): unknown {
    this.#checkSize(bytes, what, max)
    let value: unknown
    try {
      value = this.#codec.decode(bytes)
    } catch (cause) {
      // Not the words of a foreign decoder: they may quote what they read.
      const said = isPeerlineError(cause) ? cause.message : 'it cannot be decoded'
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.name}: the ${what} is not valid: ${said}`, { cause })
    }
    return schema === undefined ? value : validate(schema, value, `${this.name}: the ${what}`)
  }

  #checkSize({ length }: Uint8Array, what: string, max: number): void {
    if (length <= max) return
    throw new PeerlineError(
      'ERR_PEERLINE_TOO_LARGE',
      `${this.name}: the ${what} has ${length} bytes, the limit is ${max}`,
    )
  }
}

function count(value: number, what: string, min: number): number {
  if (Number.isSafeInteger(value) && value >= min) return value
  throw new PeerlineError('ERR_PEERLINE_INVALID', `${what} must be a whole number of ${min} or more`)
}

interface Bounds {
  readonly timeoutMs: number
  readonly signal: AbortSignal | undefined
  readonly what: string
  /** What a failure here says of the handler. */
  readonly executed: 'no' | 'yes'
}

/** What `work` gives, unless its time is up or its signal fires: a schema may ask somebody who never answers. */
function within<T>(work: () => Promise<T>, bounds: Bounds): Promise<T> {
  return new Promise((resolve, reject) => {
    const waiting = new Waiting(bounds, (error) => reject(new RequestError(error, bounds.executed)))
    if (!waiting.begin()) return
    work().then(
      (value) => {
        waiting.over()
        resolve(value)
      },
      (error) => waiting.fail(asPeerlineError(error, 'ERR_PEERLINE_INVALID')),
    )
  })
}

class Waiting extends Deadline {
  readonly #bounds: Bounds
  readonly #reject: (error: PeerlineError) => void
  readonly #onAbort = () => this.fail(abortError(this.#bounds.signal!, this.#bounds.what))

  constructor(bounds: Bounds, reject: (error: PeerlineError) => void) {
    super()
    this.#bounds = bounds
    this.#reject = reject
  }

  /** False when it failed already. */
  begin(): boolean {
    const { signal, timeoutMs } = this.#bounds
    if (!(timeoutMs > 0)) this.fail(new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0'))
    else if (signal?.aborted) this.#onAbort()
    else {
      this.arm(timeoutMs)
      whenAborted(signal, this.#onAbort)
      return true
    }
    return false
  }

  fail(error: PeerlineError): void {
    this.over()
    this.#reject(error)
  }

  over(): void {
    this.disarm()
    this.#bounds.signal?.removeEventListener('abort', this.#onAbort)
  }

  protected expired(): void {
    this.fail(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#bounds.what}: the schema took too long`))
  }
}
