/**
 * The answering side of requests with a key, on streams for `<protocol>;once/1`; the wire is drawn in request.ts.
 *
 *     receiving --whole--> waiting --answered, late--> confirming --FIN--> over
 *         \-- too large, late, malformed, reset --> over         \-- late, reset --> over, the answer is kept
 *
 * - What is remembered, for how long and within what bounds, is in replies.ts.
 * - The asker ends its direction when it has the whole answer: so it is known which answers need no keeping.
 * - A handler goes on when its asker is lost, or late: it may ask again. Its signal fires when the last asker cancels.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { type Stream, StreamCode, type StreamSink } from '../session/index.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import type { RequestHandler } from './handler-context.ts'
import { failedAnswer, type Joiner, type Replies, type Reply } from './replies.ts'
import { MAX_BODY_BYTES, REQUEST_TIMEOUT_MS } from './request.ts'
import { MAX_HEAD_BYTES, type OnceHead, readOnceHead } from './request-key.ts'
import { SHUTTING_DOWN } from './running.ts'

export interface ServeOnceOptions {
  readonly from: PeerId
  readonly replies: Replies
  readonly maxRequestBytes?: number
  readonly timeoutMs?: number
  readonly closing?: AbortSignal
}

/** Answers the request with a key that comes on `stream`. Never throws. */
export function serveOnce(stream: Stream, protocol: string, handler: RequestHandler, options: ServeOnceOptions): void {
  stream.pipeTo(new OnceServed(stream, protocol, handler, options))
}

/** One asking of a request with a key. */
class OnceServed extends Deadline implements StreamSink, Joiner {
  readonly #stream: Stream
  readonly #protocol: string
  readonly #handler: RequestHandler
  readonly #options: ServeOnceOptions
  readonly #timeoutMs: number
  readonly #maxBytes: number
  readonly #received: Collector
  #head: OnceHead | undefined
  #reply: Reply | undefined
  #state: 'receiving' | 'waiting' | 'confirming' | 'over' = 'receiving'

  constructor(stream: Stream, protocol: string, handler: RequestHandler, options: ServeOnceOptions) {
    super()
    this.#stream = stream
    this.#protocol = protocol
    this.#handler = handler
    this.#options = options
    this.#timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS
    this.#maxBytes = options.maxRequestBytes ?? MAX_BODY_BYTES
    this.#received = new Collector(MAX_HEAD_BYTES + this.#maxBytes)
    this.arm(this.#timeoutMs)
  }

  data(chunk: Uint8Array): void {
    if (this.#state === 'over') return
    // Nothing comes behind the body.
    if (this.#state !== 'receiving') return this.#giveUp(StreamCode.FAILED)
    const before = this.#received.held
    if (!this.#received.add(chunk)) return this.#giveUp(StreamCode.TOO_LARGE)
    if (!this.#stream.retain(this.#received.held - before)) return this.#giveUp(StreamCode.BUSY)
    try {
      this.#head ??= readOnceHead(this.#received.peek())
    } catch {
      return this.#giveUp(StreamCode.FAILED)
    }
    if (this.#head === undefined) return
    if (this.#head.bodyBytes > this.#maxBytes) return this.#giveUp(StreamCode.TOO_LARGE)
    const missing = this.#head.headBytes + this.#head.bodyBytes - this.#received.length
    if (missing < 0) this.#giveUp(StreamCode.FAILED)
    else if (missing === 0) this.#ask(this.#head)
  }

  #ask({ headBytes }: OnceHead): void {
    this.#state = 'waiting'
    // Somebody else's asking may have begun it long ago: the handler's deadline is another one.
    this.arm(this.#timeoutMs)
    const whole = this.#received.take()
    const { from, replies, closing } = this.#options
    if (closing?.aborted) return this.answered(failedAnswer(SHUTTING_DOWN))
    const key = new Uint8Array(whole.subarray(1, 1 + whole[0]!))
    const asked = { from, protocol: this.#protocol, key, body: whole.subarray(headBytes), timeoutMs: this.#timeoutMs }
    this.#reply = replies.ask(asked, this.#handler, this)
  }

  answered(answer: Uint8Array): void {
    if (this.#state !== 'waiting') return
    this.#state = 'confirming'
    this.arm(this.#timeoutMs)
    this.#stream.end(answer).catch(ignore)
  }

  end(): void {
    if (this.#state === 'confirming') {
      this.#over()
      this.#reply?.confirm()
    } else if (this.#state !== 'over') this.#giveUp(StreamCode.FAILED)
  }

  error(error: PeerlineError): void {
    this.#leave(error.code === 'ERR_PEERLINE_RESET')
  }

  protected expired(): void {
    if (this.#state !== 'waiting') return this.#giveUp(StreamCode.TIMEOUT)
    this.#reply?.leave(this, false)
    // What it will be told is not the answer: having that confirms nothing.
    this.#reply = undefined
    const text = `${this.#protocol}: the handler took too long`
    this.answered(failedAnswer(new PeerlineError('ERR_PEERLINE_TIMEOUT', text)))
  }

  #giveUp(code: number): void {
    this.#leave(false)
    this.#stream.reset(code)
  }

  #leave(cancelled: boolean): void {
    if (this.#state === 'waiting') this.#reply?.leave(this, cancelled)
    this.#over()
  }

  #over(): void {
    this.#state = 'over'
    this.disarm()
  }
}

function ignore(): void {}
