/**
 * The answering side of requests whose bodies are streamed; the wire is drawn in request.ts, the asking side is
 * stream-request.ts.
 *
 *     handling --first write, or end--> answering --end--> over
 *         \-- failed, late, too large: a failure --> over   \-- the same: a reset --> over
 *         \------------------ the asker gives up, or is lost ---------------------> over
 *
 * - A handler reads as much of the request as it likes, and gives its answer whole, as chunks, or by `context.write`.
 * - Bounds: bytes each way, patience with the asker while a body comes or goes (patience.ts), and a handler that neither
 *   reads nor writes for `silenceMs`.
 * - Whatever ends the exchange ends all of it: the handler's signal fires, its reads and writes fail, and the iterable it
 *   gave is left. It counts as running until it has really ended, or its time is up.
 * - A streamed answer is not kept: a request with a key is refused as NO_PROTOCOL, before anything is executed.
 */
import { asPeerlineError, type ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { type Stream, StreamCode } from '../session/index.ts'
import { BodyReader, BodyWriter, giveUp, letGo, MAX_STREAMED_BYTES } from './body-stream.ts'
import { Deadline } from './deadline.ts'
import { HandlerContext, type RequestContext } from './handler-context.ts'
import type { PatienceLimits } from './patience.ts'
import { failedAnswer } from './replies.ts'
import { Status } from './request.ts'
import { countRunning, SHUTTING_DOWN, TOO_MANY, tooManyRun } from './running.ts'

/** ms that a handler may do neither: six times what a whole request of the other kind may take. */
const SILENCE_MS = 60_000

/** ms between looks whether the asker is still there: it is not told to whoever neither reads nor writes. */
const LOOK_MS = 1_000

const OK_BYTE = new Uint8Array([Status.OK])

/** What a handler of streamed requests is told beside the body. */
export interface StreamRequestContext extends RequestContext {
  /** Writes a chunk of the answer; awaiting it is the back-pressure. @throws PeerlineError when nobody wants it any more */
  write(chunk: Uint8Array): Promise<void>
}

/** Answers with what it returns, behind what it wrote. A `PeerlineError` that it throws before that reaches the asker. */
export type StreamRequestHandler = (
  body: AsyncIterableIterator<Uint8Array, undefined>,
  context: StreamRequestContext,
) => StreamAnswer | Promise<StreamAnswer>

// biome-ignore lint/suspicious/noConfusingVoidType: a handler that writes need not return
export type StreamAnswer = AsyncIterable<Uint8Array> | Uint8Array | void

export interface ServeStreamOptions extends PatienceLimits {
  /** Who opened the stream. */
  readonly from: PeerId
  /** Bytes of the largest request taken. @default 1 GiB */
  readonly maxRequestBytes?: number
  /** Bytes of the largest answer given. @default 1 GiB */
  readonly maxResponseBytes?: number
  /** ms that the handler may neither read nor write. @default 60_000 */
  readonly silenceMs?: number
  /** Aborted when we shut down: what has not begun is refused then, as not executed. */
  readonly closing?: AbortSignal
}

/** Answers the streamed request that comes on `stream`. Never throws. */
export function serveStreamRequest(stream: Stream, handler: StreamRequestHandler, options: ServeStreamOptions): void {
  if (stream.protocol.includes(';')) return stream.reset(StreamCode.NO_PROTOCOL)
  if (tooManyRun(options.from) || options.closing?.aborted) {
    const refusal = options.closing?.aborted ? SHUTTING_DOWN : TOO_MANY
    stream.end(failedAnswer(refusal)).catch(ignore)
    return stream.cancel()
  }
  void new ServedStream(stream, options).run(handler)
}

class ServedStream extends Deadline implements AsyncIterableIterator<Uint8Array, undefined> {
  readonly #stream: Stream
  readonly #from: PeerId
  readonly #silenceMs: number
  readonly #context: Context
  readonly #reader: BodyReader
  readonly #writer: BodyWriter
  #state: 'handling' | 'answering' | 'ending' | 'over' = 'handling'
  #error: PeerlineError | undefined
  /** Ends what waits for the handler. */
  #stop: ((error: PeerlineError) => void) | undefined
  /** Reads and writes of the handler that wait for the asker. */
  #waits = 0
  #lastAt = performance.now()
  #counted = true
  /** What the handler has not finished. */
  #work: Promise<unknown> | undefined

  constructor(stream: Stream, options: ServeStreamOptions) {
    super()
    this.#stream = stream
    this.#from = options.from
    this.#silenceMs = options.silenceMs ?? SILENCE_MS
    this.#context = new Context(options.from, stream.protocol, (chunk) => this.#write(chunk))
    const { maxRequestBytes = MAX_STREAMED_BYTES, maxResponseBytes = MAX_STREAMED_BYTES } = options
    const end = (error: PeerlineError, code: number) => this.#fail(error, code)
    this.#reader = new BodyReader(stream, { ...options, maxBytes: maxRequestBytes }, end)
    this.#writer = new BodyWriter(stream, { ...options, maxBytes: maxResponseBytes }, end)
    countRunning(this.#from, 1)
    this.arm(LOOK_MS)
    // Also when the whole request has come, and waits to be read.
    void stream.stopped.then(() => this.#gone())
  }

  /** Never rejects. */
  async run(handler: StreamRequestHandler): Promise<void> {
    let source: AsyncIterator<Uint8Array> | undefined
    try {
      const answer = await this.#handled(async () => handler(this, this.#context))
      if (answer instanceof Uint8Array) await this.#write(answer)
      else if (answer !== undefined) {
        source = chunksOf(answer)
        for (;;) {
          const asked = source
          const next = await this.#handled(() => asked.next())
          if (next.done) break
          await this.#write(next.value)
        }
        source = undefined
      }
      if (this.#isOver()) return
      this.#status()
      this.#state = 'ending'
      await this.#writer.end()
      this.#over()
    } catch (error) {
      this.#fail(error, codeOf(error))
    } finally {
      letGo(source)
    }
  }

  /** What the handler gives, unless the exchange ends before. */
  #handled<T>(work: () => Promise<T>): Promise<T> {
    if (this.#error !== undefined) return Promise.reject(this.#error)
    return new Promise((resolve, reject) => {
      this.#stop = reject
      const working = work()
      this.#work = working
      working.then(resolve, reject).finally(() => {
        this.#work = undefined
        this.#lastAt = performance.now()
        if (this.#isOver()) this.#release()
      })
    })
  }

  // ---- what the handler does ----

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next chunk of the request. */
  next(): Promise<IteratorResult<Uint8Array, undefined>> {
    return this.#waiting(() => this.#reader.next())
  }

  /** Reads no more of the request. */
  return(): Promise<IteratorResult<Uint8Array, undefined>> {
    return this.#reader.return()
  }

  #write(chunk: Uint8Array): Promise<void> {
    return this.#waiting(() => {
      if (this.#state === 'ending') {
        return Promise.reject(new PeerlineError('ERR_PEERLINE_CLOSED', 'the handler has answered already'))
      }
      if (chunk instanceof Uint8Array) this.#status()
      return this.#writer.write(chunk)
    })
  }

  /** The status goes out with the first chunk: until then, a failure can be told. */
  #status(): void {
    if (this.#state !== 'handling') return
    this.#state = 'answering'
    this.#stream.write(OK_BYTE).catch(ignore)
  }

  async #waiting<T>(work: () => Promise<T>): Promise<T> {
    if (this.#error !== undefined) throw this.#error
    this.#waits++
    try {
      return await work()
    } catch (error) {
      if (!OWN.has((error as PeerlineError).code)) this.#gone()
      throw this.#error ?? error
    } finally {
      this.#waits--
      this.#lastAt = performance.now()
    }
  }

  // ---- the end ----

  protected expired(): void {
    // Given up before: the handler has had the time that it gets to notice.
    if (this.#isOver()) return this.#release()
    this.arm(LOOK_MS)
    if (this.#waits > 0 || this.#state === 'ending') return
    if (performance.now() - this.#lastAt >= this.#silenceMs) {
      const text = `${this.#stream.protocol}: the handler took too long`
      this.#fail(new PeerlineError('ERR_PEERLINE_TIMEOUT', text), StreamCode.TIMEOUT)
    }
  }

  #gone(): void {
    // The stream has ended because the answer has; or it has not, and that fails by itself.
    if (this.#state === 'ending') return
    const error = new PeerlineError('ERR_PEERLINE_ABORTED', `${this.#stream.protocol}: the asker gave up, or was lost`)
    this.#fail(error, StreamCode.CANCELLED)
  }

  #fail(error: unknown, code: number): void {
    if (this.#isOver()) return
    const ours = asPeerlineError(error, 'ERR_PEERLINE_REMOTE')
    this.#error = ours
    const begun = this.#state !== 'handling'
    this.#over()
    this.#context.abort(ours)
    this.#stop?.(ours)
    if (this.#stream.done) return
    if (begun) return giveUp(this.#stream, code)
    // Of what is not ours, the asker learns no detail.
    this.#stream.end(failedAnswer(error)).catch(ignore)
    this.#stream.cancel(code)
  }

  #over(): void {
    const failed = this.#error !== undefined
    this.#state = 'over'
    this.disarm()
    // What was not read of the request is of no use.
    if (!failed) this.#stream.cancel()
    if (this.#work === undefined) this.#release()
    else this.arm(this.#silenceMs)
  }

  #release(): void {
    this.disarm()
    if (!this.#counted) return
    this.#counted = false
    countRunning(this.#from, -1)
  }

  #isOver(): boolean {
    return this.#state === 'over'
  }
}

class Context extends HandlerContext implements StreamRequestContext {
  readonly write: (chunk: Uint8Array) => Promise<void>

  constructor(from: PeerId, protocol: string, write: (chunk: Uint8Array) => Promise<void>) {
    super(from, protocol)
    this.write = write
  }
}

function chunksOf(answer: AsyncIterable<Uint8Array>): AsyncIterator<Uint8Array> {
  const iterate: unknown = (answer as Partial<AsyncIterable<Uint8Array>> | null)?.[Symbol.asyncIterator]
  if (typeof iterate !== 'function') throw new TypeError('the handler gave no bytes')
  return answer[Symbol.asyncIterator]()
}

/** Failures of a read or write that are the handler's; all others are of the stream, and of who asked. */
const OWN: ReadonlySet<ErrorCode> = new Set([
  'ERR_PEERLINE_INVALID',
  'ERR_PEERLINE_LIMIT',
  'ERR_PEERLINE_CLOSED',
] as const)

/** What a reset says, when the answer has begun already. */
const CODES: Partial<Record<ErrorCode, number>> = {
  ERR_PEERLINE_TOO_LARGE: StreamCode.TOO_LARGE,
  ERR_PEERLINE_TIMEOUT: StreamCode.TIMEOUT,
  ERR_PEERLINE_DENIED: StreamCode.DENIED,
  ERR_PEERLINE_BUSY: StreamCode.BUSY,
}

function codeOf(error: unknown): number {
  return (error instanceof PeerlineError ? CODES[error.code] : undefined) ?? StreamCode.FAILED
}

function ignore(): void {}
