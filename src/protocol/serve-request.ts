/**
 * The answering side of request and response; the wire is drawn in request.ts.
 *
 *     receiving --FIN--> handling --answered--> flushing --> over
 *         \-- too large, late, reset --> over        \-- late --> over
 *
 * - The size limit holds while the body comes; a handler sees only whole bodies within it.
 * - Each state has its deadline. A handler that passes its own is answered for, and its signal fires.
 * - Whatever the handler or the other side does, nothing is thrown and no rejection is left over: this runs inside the
 *   session's reading.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { type Stream, StreamCode, type StreamSink } from '../session/index.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import { encodeFailure } from './failure.ts'
import { splitForm } from './form.ts'
import type { RequestContext, RequestHandler } from './handler-context.ts'
import { serveOnce } from './once.ts'
import { type OneWayFailure, serveOneWay } from './one-way.ts'
import type { Replies } from './replies.ts'
import { MAX_BODY_BYTES, REQUEST_TIMEOUT_MS, Status } from './request.ts'
import { countRunning, SHUTTING_DOWN, TOO_MANY, tooManyRun } from './running.ts'

export type { RequestContext, RequestHandler } from './handler-context.ts'

/** Bytes of the largest answer that is joined with its status byte; a larger one is sent from where it lies. */
const JOIN_BYTES = 4_095

const OK_BYTE = new Uint8Array([Status.OK])

export interface ServeRequestOptions {
  /** Who opened the stream. */
  readonly from: PeerId
  /** Bytes of the largest request taken. @default 1_048_576 */
  readonly maxRequestBytes?: number
  /** ms each for the request to come, the handler, and the answer to go out. @default 10_000 */
  readonly timeoutMs?: number
  /** What is remembered of requests with a key, one for all protocols of a peer. @default such requests are refused */
  readonly replies?: Replies
  /** Told when a one-way message was not handled, or its handler failed: nobody else learns of it. */
  readonly onFailure?: (failure: OneWayFailure) => void
  /** Aborted when we shut down: what has not begun is refused then, as not executed. */
  readonly closing?: AbortSignal
}

/** Answers the request that comes on `stream`, of whatever form. Never throws. */
export function serveRequest(stream: Stream, handler: RequestHandler, options: ServeRequestOptions): void {
  if (!stream.protocol.includes(';')) return stream.pipeTo(new Served(stream, handler, options))
  const { protocol, form } = splitForm(stream.protocol)
  if (form === 'one-way') return serveOneWay(stream, protocol, handler, options)
  if (form === 'keyed' && options.replies !== undefined) {
    return serveOnce(stream, protocol, handler, { ...options, replies: options.replies })
  }
  stream.reset(StreamCode.NO_PROTOCOL)
}

/** A request being served. */
class Served extends Deadline implements StreamSink {
  readonly stream: Stream
  readonly #handler: RequestHandler
  readonly #options: ServeRequestOptions
  readonly #body: Collector
  #state: 'receiving' | 'handling' | 'flushing' | 'over' = 'receiving'
  #counted = false
  #controller: AbortController | undefined

  constructor(stream: Stream, handler: RequestHandler, options: ServeRequestOptions) {
    super()
    this.stream = stream
    this.#handler = handler
    this.#options = options
    this.#body = new Collector(options.maxRequestBytes ?? MAX_BODY_BYTES)
    this.#arm()
  }

  get from(): PeerId {
    return this.#options.from
  }

  #arm(): void {
    this.arm(this.#options.timeoutMs ?? REQUEST_TIMEOUT_MS)
  }

  data(chunk: Uint8Array): void {
    if (this.#state !== 'receiving') return
    const before = this.#body.held
    const fits = this.#body.add(chunk)
    // It is kept until it is answered.
    if (fits && this.stream.retain(this.#body.held - before)) return
    this.#over()
    this.stream.reset(fits ? StreamCode.BUSY : StreamCode.TOO_LARGE)
  }

  error(): void {
    if (this.#state === 'receiving') this.#over()
  }

  end(): void {
    if (this.#state !== 'receiving') return
    this.#state = 'handling'
    if (tooManyRun(this.from)) return this.#fail(TOO_MANY)
    if (this.#options.closing?.aborted) return this.#fail(SHUTTING_DOWN)
    let later: Promise<Uint8Array>
    try {
      const answer = this.#handler(this.#body.take(), new Context(this))
      if (answer instanceof Uint8Array) return this.#answer(answer)
      later = Promise.resolve(answer)
    } catch (error) {
      return this.#fail(error)
    }
    countRunning(this.from, 1)
    this.#counted = true
    this.#arm()
    later.then(
      (bytes) => this.#answer(bytes),
      (error) => this.#fail(error),
    )
  }

  /** The handler's signal, made when it is asked for. */
  get signal(): AbortSignal {
    if (this.#controller !== undefined) return this.#controller.signal
    const controller = new AbortController()
    this.#controller = controller
    const gone = () => {
      if (this.#state === 'handling') controller.abort(new PeerlineError('ERR_PEERLINE_ABORTED', 'the asker gave up'))
    }
    if (this.stream.done) gone()
    else void this.stream.closed.then(gone)
    return controller.signal
  }

  #answer(bytes: Uint8Array): void {
    if (this.#state !== 'handling') return
    if (!(bytes instanceof Uint8Array)) return this.#fail(undefined)
    if (bytes.length <= JOIN_BYTES) {
      // From the pool: it is copied into a batch of frames and gone with the turn.
      const whole = Buffer.allocUnsafe(1 + bytes.length)
      whole[0] = Status.OK
      whole.set(bytes, 1)
      return this.#flush(whole)
    }
    this.stream.write(OK_BYTE).catch(ignore)
    this.#flush(bytes)
  }

  #fail(error: unknown): void {
    if (this.#state !== 'handling') return
    const failure = encodeFailure(error)
    const whole = new Uint8Array(1 + failure.length)
    whole[0] = Status.FAILED
    whole.set(failure, 1)
    this.#flush(whole)
  }

  #flush(last: Uint8Array): void {
    this.#state = 'flushing'
    if (this.#counted) countRunning(this.from, -1)
    const ended = this.stream.end(last)
    if (this.stream.done) {
      ended.catch(ignore)
      return this.#over()
    }
    this.#arm()
    const over = () => this.#over()
    ended.then(over, over)
  }

  protected expired(): void {
    if (this.#state === 'handling') {
      const error = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.stream.protocol}: the handler took too long`)
      this.#fail(error)
      this.#controller?.abort(error)
    } else if (this.#state !== 'over') {
      this.#over()
      this.stream.reset(StreamCode.TIMEOUT)
    }
  }

  #over(): void {
    this.#state = 'over'
    this.disarm()
  }
}

function ignore(): void {}

/** What a handler may see of a request. */
class Context implements RequestContext {
  readonly #served: Served

  constructor(served: Served) {
    this.#served = served
  }

  get from(): PeerId {
    return this.#served.from
  }

  get protocol(): string {
    return this.#served.stream.protocol
  }

  get signal(): AbortSignal {
    return this.#served.signal
  }
}
