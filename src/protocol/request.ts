/**
 * Request and response: one stream each.
 *
 *     request     body ............................. FIN
 *     response    00  body ......................... FIN      the handler answered
 *                 01  CBOR { code, message, ran } .. FIN      it failed; see failure.ts
 *
 * With a key, on a stream for `<protocol>;once/1`, so that it is executed once however often it comes; see once.ts:
 *
 *     request     key length 1 | key 1 to 64 | body length 4 | body ......... FIN, when the whole answer has come
 *     response    as above
 *
 * - A request is over when it is answered, late, cancelled, or its stream has failed; a late or cancelled one resets its
 *   stream, by which the handler learns of it.
 * - A response larger than the caller allows is given up when the limit is passed, not when it has come.
 * - A small request is one OPEN and one DATA+FIN frame, and shares its record with others of the same turn. Nothing on
 *   the way allocates a timer or a signal; see deadline.ts.
 * - Every failure says whether the handler may have run; see failure.ts.
 */
import { concatBytes } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import { type Session, type Stream, StreamCode, type StreamSink } from '../session/index.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import { decodeFailure, type Executed, executedBy, MAX_FAILURE_BYTES, RequestError } from './failure.ts'
import { withForm } from './form.ts'
import { onceHead, toKey } from './request-key.ts'

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
  /**
   * Names the request, 1 to 64 bytes: sent again with the same key and body within 2 minutes, on whatever session, it
   * is executed once, and answered alike. Such as {@link requestKey} makes. @default none
   */
  readonly key?: string | Uint8Array
}

/**
 * Asks the other side of `session` and resolves with its answer. `body` must stay as it is until then.
 * @throws RequestError, whose `executed` says whether the handler may have run:
 *   `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_ABORTED`, `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_NO_PROTOCOL`,
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
  if (signal?.aborted) return Promise.reject(new RequestError(abortError(signal, protocol), 'no'))
  if (!(timeoutMs > 0)) {
    return Promise.reject(
      new RequestError(new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0'), 'no'),
    )
  }
  return options.key === undefined
    ? ask(Asked, session, protocol, protocol, body, options, timeoutMs)
    : askOnce(session, protocol, body, options, options.key, timeoutMs)
}

async function askOnce(
  session: Session,
  protocol: string,
  body: Uint8Array,
  options: RequestOptions,
  key: string | Uint8Array,
  timeoutMs: number,
): Promise<Uint8Array> {
  let name: string
  let whole: Uint8Array
  try {
    name = withForm(protocol, 'keyed')
    whole = concatBytes([onceHead(toKey(key), body.length), body])
  } catch (error) {
    throw new RequestError(error as PeerlineError, 'no')
  }
  return ask(OnceAsked, session, protocol, name, whole, options, timeoutMs)
}

function ask(
  Kind: typeof Asked,
  session: Session,
  protocol: string,
  name: string,
  body: Uint8Array,
  options: RequestOptions,
  timeoutMs: number,
): Promise<Uint8Array> {
  const { signal } = options
  return new Promise((resolve, reject) => {
    const asked = new Kind(session, protocol, options, resolve, reject)
    asked.arm(timeoutMs)
    session.open(name, signal === undefined ? undefined : { signal }).then(
      (stream) => asked.send(stream, body),
      (error: PeerlineError) => asked.error(error),
    )
  })
}

function ignore(): void {}

/** A request under way. */
class Asked extends Deadline implements StreamSink {
  readonly #session: Session
  readonly #protocol: string
  readonly #options: RequestOptions
  readonly #resolve: (answer: Uint8Array) => void
  readonly #reject: (error: PeerlineError) => void
  readonly #answer: Collector
  readonly #onAbort: (() => void) | undefined
  #stream: Stream | undefined
  #over = false

  constructor(
    session: Session,
    protocol: string,
    options: RequestOptions,
    resolve: (answer: Uint8Array) => void,
    reject: (error: PeerlineError) => void,
  ) {
    super()
    this.#session = session
    this.#protocol = protocol
    this.#options = options
    this.#resolve = resolve
    this.#reject = reject
    // A failure is told whatever the limit.
    this.#answer = new Collector(Math.max(options.maxResponseBytes ?? MAX_BODY_BYTES, MAX_FAILURE_BYTES) + 1)
    const { signal } = options
    if (signal === undefined) return
    this.#onAbort = () => this.#giveUp(abortError(signal, this.#protocol), StreamCode.CANCELLED)
    whenAborted(signal, this.#onAbort)
  }

  send(stream: Stream, body: Uint8Array): void {
    // Its turn came too late.
    if (this.#over) return stream.reset()
    this.#stream = stream
    stream.pipeTo(this)
    this.put(stream, body)
  }

  /** A failure to write is one of the stream, and tells the sink; or the other side has heard enough to answer. */
  protected put(stream: Stream, body: Uint8Array): void {
    stream.end(body).catch(ignore)
  }

  /** The whole answer has come. Answered before the whole request was read: the rest of it is of no use. */
  protected release(stream: Stream): void {
    stream.reset(StreamCode.CANCELLED)
  }

  data(chunk: Uint8Array): void {
    if (this.#over || (this.#answer.add(chunk) && this.#fits())) return
    this.#giveUp(
      new PeerlineError('ERR_PEERLINE_TOO_LARGE', `${this.#protocol}: the answer passes the limit of maxResponseBytes`),
      StreamCode.TOO_LARGE,
      (this.#answer.first ?? chunk[0]) === Status.OK ? 'yes' : 'unknown',
    )
  }

  #fits(): boolean {
    const { first, length } = this.#answer
    return first === Status.FAILED || length <= (this.#options.maxResponseBytes ?? MAX_BODY_BYTES) + 1
  }

  end(): void {
    if (this.#over) return
    switch (this.#answer.first) {
      case Status.OK:
        this.#finish()
        return this.#resolve(this.#answer.take().subarray(1))
      case Status.FAILED:
        this.#finish()
        return this.#reject(decodeFailure(this.#answer.take().subarray(1)))
      default:
        return this.#giveUp(
          new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.#protocol}: the answer has no valid status`),
          StreamCode.FAILED,
        )
    }
  }

  error(error: PeerlineError): void {
    const begun = this.#answer.first !== undefined
    this.#giveUp(error, StreamCode.CANCELLED, begun ? undefined : executedBy(error, this.#session.state === 'closed'))
  }

  protected expired(): void {
    const error = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#protocol}: no answer in time`)
    this.#giveUp(error, StreamCode.TIMEOUT)
  }

  #giveUp(error: PeerlineError, code: number, executed?: Executed): void {
    if (this.#over) return
    const known = this.#stream === undefined ? 'no' : this.#answer.first === Status.OK ? 'yes' : (executed ?? 'unknown')
    this.#finish(code)
    this.#reject(new RequestError(error, known))
  }

  /** @param code given up for this reason; absent: the whole answer has come */
  #finish(code?: number): void {
    this.#over = true
    this.disarm()
    if (this.#onAbort !== undefined) this.#options.signal!.removeEventListener('abort', this.#onAbort)
    if (this.#stream === undefined || this.#stream.done) return
    if (code === undefined) this.release(this.#stream)
    else this.#stream.reset(code)
  }
}

/** One with a key: the end of its stream says that the answer has come, and need not be kept. */
class OnceAsked extends Asked {
  protected override put(stream: Stream, body: Uint8Array): void {
    stream.write(body).catch(ignore)
  }

  protected override release(stream: Stream): void {
    // It may have been answered before it was all read: who does not read it now never will.
    if (stream.queued) stream.reset(StreamCode.CANCELLED)
    else stream.end().catch(ignore)
  }
}
