/**
 * Request and response: one stream each.
 *
 *     request     body ............................. FIN
 *     response    00  body ......................... FIN      the handler answered
 *                 01  CBOR { code, message } ....... FIN      it failed; see failure.ts
 *
 * - A request is over when it is answered, late, cancelled, or its stream has failed; a late or cancelled one resets its
 *   stream, by which the handler learns of it.
 * - A response larger than the caller allows is given up when the limit is passed, not when it has come.
 * - A small request is one OPEN and one DATA+FIN frame, and shares its record with others of the same turn. Nothing on
 *   the way allocates a timer or a signal; see deadline.ts.
 */
import { setMaxListeners } from 'node:events'
import { abortError, PeerlineError } from '../errors.ts'
import { type Session, type Stream, StreamCode, type StreamSink } from '../session/index.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import { decodeFailure } from './failure.ts'

/** First byte of a response. */
export const Status = { OK: 0, FAILED: 1 } as const

/** ms for a request, from asking to the whole answer: people give up then. */
export const REQUEST_TIMEOUT_MS = 10_000

/** Bytes of a body, unless the caller says otherwise. Larger things want a stream of their own. */
export const MAX_BODY_BYTES = 1_048_576

export interface RequestOptions {
  /** Cancels the request; the handler's own signal fires then. */
  readonly signal?: AbortSignal
  /** ms from now to the whole answer. @default 10_000 */
  readonly timeoutMs?: number
  /** Bytes of the largest answer taken. @default 1_048_576 */
  readonly maxResponseBytes?: number
}

/**
 * Asks the other side of `session` and resolves with its answer. `body` must stay as it is until then.
 * @throws PeerlineError `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_ABORTED`; `ERR_PEERLINE_NO_PROTOCOL`,
 *   `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_BUSY` when it was refused; `ERR_PEERLINE_TOO_LARGE` for either body;
 *   what the handler said, or `ERR_PEERLINE_REMOTE` when it failed; `ERR_PEERLINE_PROTOCOL`; what ended the session
 */
export function request(
  session: Session,
  protocol: string,
  body: Uint8Array,
  options: RequestOptions = {},
): Promise<Uint8Array> {
  const { signal, timeoutMs = REQUEST_TIMEOUT_MS } = options
  if (signal?.aborted) return Promise.reject(abortError(signal, protocol))
  if (!(timeoutMs > 0)) {
    return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0'))
  }
  return new Promise((resolve, reject) => {
    const asked = new Asked(protocol, options, resolve, reject)
    asked.arm(timeoutMs)
    session.open(protocol, signal === undefined ? undefined : { signal }).then(
      (stream) => asked.send(stream, body),
      (error: PeerlineError) => asked.error(error),
    )
  })
}

function ignore(): void {}

/** A request under way. */
class Asked extends Deadline implements StreamSink {
  readonly #protocol: string
  readonly #signal: AbortSignal | undefined
  readonly #resolve: (answer: Uint8Array) => void
  readonly #reject: (error: PeerlineError) => void
  readonly #answer: Collector
  readonly #onAbort: (() => void) | undefined
  #stream: Stream | undefined
  #over = false

  constructor(
    protocol: string,
    options: RequestOptions,
    resolve: (answer: Uint8Array) => void,
    reject: (error: PeerlineError) => void,
  ) {
    super()
    this.#protocol = protocol
    this.#signal = options.signal
    this.#resolve = resolve
    this.#reject = reject
    this.#answer = new Collector((options.maxResponseBytes ?? MAX_BODY_BYTES) + 1)
    if (this.#signal === undefined) return
    this.#onAbort = () => this.#giveUp(abortError(this.#signal!, this.#protocol), StreamCode.CANCELLED)
    // Any number of requests may share a signal: that is no leak to warn of.
    setMaxListeners(0, this.#signal)
    this.#signal.addEventListener('abort', this.#onAbort)
  }

  send(stream: Stream, body: Uint8Array): void {
    // Its turn came too late.
    if (this.#over) return stream.reset()
    this.#stream = stream
    stream.pipeTo(this)
    // A failure to write is one of the stream, and tells the sink; or the other side has heard enough to answer.
    stream.end(body).catch(ignore)
  }

  data(chunk: Uint8Array): void {
    if (this.#over || this.#answer.add(chunk)) return
    this.#giveUp(
      new PeerlineError('ERR_PEERLINE_TOO_LARGE', `${this.#protocol}: the answer passes the limit of maxResponseBytes`),
      StreamCode.TOO_LARGE,
    )
  }

  end(): void {
    if (this.#over) return
    const answer = this.#answer.take()
    switch (answer[0]) {
      case Status.OK:
        // Answered before the whole request was read: the rest of it is of no use.
        this.#finish(StreamCode.CANCELLED)
        return this.#resolve(answer.subarray(1))
      case Status.FAILED:
        return this.error(decodeFailure(answer.subarray(1)))
      default:
        return this.#giveUp(
          new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.#protocol}: the answer has no valid status`),
          StreamCode.FAILED,
        )
    }
  }

  error(error: PeerlineError): void {
    this.#giveUp(error, StreamCode.CANCELLED)
  }

  protected expired(): void {
    const error = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#protocol}: no answer in time`)
    this.#giveUp(error, StreamCode.TIMEOUT)
  }

  #giveUp(error: PeerlineError, code: number): void {
    if (this.#over) return
    this.#finish(code)
    this.#reject(error)
  }

  #finish(code: number): void {
    this.#over = true
    this.disarm()
    if (this.#onAbort !== undefined) this.#signal!.removeEventListener('abort', this.#onAbort)
    if (this.#stream !== undefined && !this.#stream.done) this.#stream.reset(code)
  }
}
