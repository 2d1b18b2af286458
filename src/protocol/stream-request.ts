/**
 * Requests whose bodies are streamed, at the asking side. The wire is that of request.ts, so that either side may stream,
 * or not, whatever the other does.
 *
 *     opening --stream--> asking --status OK--> answering --end--> over
 *         \------ late, cancelled, lost, refused -----/-------------> over
 *
 * - The request goes out while the answer comes, each at the pace of whoever reads it.
 * - Bounds: bytes each way; time for the answer to begin, counted from the end of the request; and patience with the
 *   other side while a body goes or comes, see patience.ts.
 * - Leaving the answer (`break`, `return`), the signal, and a body that fails all reset the stream, by which the handler
 *   learns of it. Whoever takes no more of the request may still answer it.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import { type Session, type Stream, StreamCode } from '../session/index.ts'
import { BodyReader, BodyWriter, giveUp, letGo, MAX_STREAMED_BYTES } from './body-stream.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import { decodeFailure, type Executed, executedBy, MAX_FAILURE_BYTES, RequestError } from './failure.ts'
import { checkName } from './form.ts'
import type { PatienceLimits } from './patience.ts'
import { REQUEST_TIMEOUT_MS, Status } from './request.ts'

export interface StreamRequestOptions extends PatienceLimits {
  /** Cancels the request, also while its answer comes; the handler's own signal fires then. */
  readonly signal?: AbortSignal
  /** ms until the stream is open, and from the end of the request to the begin of the answer. @default 10_000 */
  readonly timeoutMs?: number
  /** Bytes of the largest request sent. @default 1 GiB */
  readonly maxRequestBytes?: number
  /** Bytes of the largest answer taken. @default 1 GiB */
  readonly maxResponseBytes?: number
}

/** An answer as it comes: read it to its end, or leave it, which cancels the request. @throws RequestError */
export type StreamedAnswer = AsyncIterableIterator<Uint8Array, undefined>

/**
 * Asks the other side of `session`, with a body as it comes, and resolves with the answer when that begins.
 * @throws RequestError as `request`; what `body` throws, or `ERR_PEERLINE_ABORTED` when that is no error of ours
 */
export function requestStream(
  session: Session,
  protocol: string,
  body: Uint8Array | AsyncIterable<Uint8Array>,
  options: StreamRequestOptions = {},
): Promise<StreamedAnswer> {
  const { signal, timeoutMs = REQUEST_TIMEOUT_MS } = options
  return new Promise((resolve, reject) => {
    try {
      checkName(protocol)
      if (!(timeoutMs > 0)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0')
      if (signal?.aborted) throw abortError(signal, protocol)
    } catch (error) {
      return reject(new RequestError(error as PeerlineError, 'no'))
    }
    const asked = new AskedStream(session, protocol, body, options, resolve, reject)
    session.open(protocol, signal === undefined ? undefined : { signal }).then(
      (stream) => asked.send(stream),
      (error: PeerlineError) => asked.fail(error, StreamCode.CANCELLED),
    )
  })
}

class AskedStream extends Deadline implements AsyncIterableIterator<Uint8Array, undefined> {
  readonly #session: Session
  readonly #protocol: string
  readonly #body: Uint8Array | AsyncIterable<Uint8Array>
  readonly #options: StreamRequestOptions
  readonly #timeoutMs: number
  readonly #resolve: (answer: StreamedAnswer) => void
  readonly #reject: (error: PeerlineError) => void
  readonly #onAbort = () => this.fail(abortError(this.#options.signal!, this.#protocol), StreamCode.CANCELLED)
  #state: 'opening' | 'asking' | 'answering' | 'over' = 'opening'
  #stream: Stream | undefined
  #source: AsyncIterator<Uint8Array> | undefined
  #answer: BodyReader | undefined
  #error: RequestError | undefined

  constructor(
    session: Session,
    protocol: string,
    body: Uint8Array | AsyncIterable<Uint8Array>,
    options: StreamRequestOptions,
    resolve: (answer: StreamedAnswer) => void,
    reject: (error: PeerlineError) => void,
  ) {
    super()
    this.#session = session
    this.#protocol = protocol
    this.#body = body
    this.#options = options
    this.#timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS
    this.#resolve = resolve
    this.#reject = reject
    this.arm(this.#timeoutMs)
    whenAborted(options.signal, this.#onAbort)
  }

  send(stream: Stream): void {
    // Its turn came too late.
    if (this.#isOver()) return stream.reset()
    this.#stream = stream
    this.#state = 'asking'
    this.disarm()
    // An answer that nobody reads to its end leaves nothing at a signal that lives on.
    void stream.closed.then(() => this.#options.signal?.removeEventListener('abort', this.#onAbort))
    void this.#write(stream)
    void this.#readStatus(stream)
  }

  // ---- the request ----

  async #write(stream: Stream): Promise<void> {
    const { maxRequestBytes: maxBytes = MAX_STREAMED_BYTES } = this.#options
    const writer = new BodyWriter(stream, { ...this.#options, maxBytes }, (error, code) => this.fail(error, code))
    try {
      if (this.#body instanceof Uint8Array) await writer.write(this.#body)
      else
        for (let chunk = await this.#read(this.#body); chunk !== undefined; chunk = await this.#read(this.#body)) {
          await writer.write(chunk)
        }
      if (this.#isOver()) return
      await writer.end()
    } catch (error) {
      // That the stream takes no more is told where the answer is read: there may be one.
      const chunkRefused = (error as PeerlineError).code === 'ERR_PEERLINE_INVALID'
      if (chunkRefused) this.fail(error as PeerlineError, StreamCode.CANCELLED)
    } finally {
      letGo(this.#source)
      this.#source = undefined
    }
    if (this.#state === 'asking') this.arm(this.#timeoutMs)
  }

  /** The next chunk of the caller's; undefined when there is none, or nobody wants it any more. */
  async #read(body: AsyncIterable<Uint8Array>): Promise<Uint8Array | undefined> {
    if (this.#isOver()) return undefined
    try {
      this.#source ??= body[Symbol.asyncIterator]()
      const next = await this.#source.next()
      if (!next.done) return next.value
    } catch (error) {
      const failure = asPeerlineError(error, 'ERR_PEERLINE_ABORTED', 'the body of the request failed')
      this.fail(failure, StreamCode.CANCELLED)
    }
    this.#source = undefined
    return undefined
  }

  // ---- the answer ----

  async #readStatus(stream: Stream): Promise<void> {
    let begun = false
    try {
      const first = await stream.next()
      begun = !first.done
      if (this.#isOver()) return
      const status = first.value?.[0]
      if (status === Status.OK) return this.#begin(stream, first.value!.subarray(1))
      if (status === Status.FAILED) {
        // What comes of it is little, or too much; a stream that stalls in it is late.
        this.arm(this.#timeoutMs)
        return this.#end(decodeFailure(await readFailure(stream, first.value!.subarray(1))), StreamCode.CANCELLED)
      }
      const text = `${this.#protocol}: the answer has no valid status`
      this.fail(new PeerlineError('ERR_PEERLINE_PROTOCOL', text), StreamCode.FAILED)
    } catch (error) {
      const executed = begun ? 'unknown' : executedBy(error as PeerlineError, this.#session.state === 'closed')
      this.fail(error as PeerlineError, StreamCode.CANCELLED, executed)
    }
  }

  #begin(stream: Stream, begun: Uint8Array): void {
    const { maxResponseBytes: maxBytes = MAX_STREAMED_BYTES } = this.#options
    this.disarm()
    this.#state = 'answering'
    const end = (error: PeerlineError, code: number) => this.fail(error, code)
    this.#answer = new BodyReader(stream, { ...this.#options, maxBytes }, end, begun)
    this.#resolve(this)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (this.#error !== undefined) throw this.#error
    if (this.#isOver()) return { value: undefined, done: true }
    try {
      const next = await this.#answer!.next()
      if (this.#error !== undefined) throw this.#error
      if (next.done) this.#over(StreamCode.CANCELLED)
      return next
    } catch (error) {
      this.fail(error as PeerlineError, StreamCode.CANCELLED)
      throw this.#error ?? error
    }
  }

  /** Leaves the answer: the request is cancelled. */
  return(): Promise<IteratorResult<Uint8Array, undefined>> {
    if (!this.#isOver()) this.#over(StreamCode.CANCELLED)
    return Promise.resolve({ value: undefined, done: true })
  }

  // ---- the end ----

  protected expired(): void {
    this.fail(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#protocol}: no answer in time`), StreamCode.TIMEOUT)
  }

  fail(error: PeerlineError, code: number, executed: Executed = 'unknown'): void {
    if (this.#isOver()) return
    const known = this.#stream === undefined ? 'no' : this.#state === 'answering' ? 'yes' : executed
    this.#end(new RequestError(error, known), code)
  }

  #end(error: RequestError, code: number): void {
    if (this.#isOver()) return
    this.#error = error
    this.#over(code)
    this.#reject(error)
  }

  /** Whatever has not ended by itself is given up. */
  #over(code: number): void {
    this.#state = 'over'
    this.disarm()
    this.#options.signal?.removeEventListener('abort', this.#onAbort)
    letGo(this.#source)
    this.#source = undefined
    if (this.#stream !== undefined && !this.#stream.done) giveUp(this.#stream, code)
  }

  #isOver(): boolean {
    return this.#state === 'over'
  }
}

async function readFailure(stream: Stream, begun: Uint8Array): Promise<Uint8Array> {
  const collector = new Collector(MAX_FAILURE_BYTES)
  if (!collector.add(begun)) throw malformed(stream)
  for (;;) {
    const next = await stream.next()
    if (next.done) return collector.take()
    if (!collector.add(next.value)) throw malformed(stream)
  }
}

function malformed(stream: Stream): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `${stream.protocol}: a failure larger than any`)
}
