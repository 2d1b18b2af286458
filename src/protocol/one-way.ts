/**
 * Messages without an answer, on a stream for `<protocol>;send/1`:
 *
 *     sender      body ......... FIN
 *     receiver                        FIN, when it has come, before it is handled
 *
 * - Sent is: handed to the session, which delivers it unless it ends. Whether it was handled, or refused, the sender
 *   never learns.
 * - Size, time and number are limited as for requests. What becomes of a message that fails is told to a hook alone.
 */
import { abortError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { whenAborted } from '../pause.ts'
import { type Session, type Stream, StreamCode, type StreamSink } from '../session/index.ts'
import { Collector } from './collector.ts'
import { Deadline } from './deadline.ts'
import { executedBy, RequestError } from './failure.ts'
import { withForm } from './form.ts'
import { HandlerContext, type RequestHandler } from './handler-context.ts'
import { MAX_BODY_BYTES, REQUEST_TIMEOUT_MS } from './request.ts'
import { countRunning, SHUTTING_DOWN, TOO_MANY, tooManyRun } from './running.ts'

export interface SendOptions {
  /** Cancels what was not handed over yet. */
  readonly signal?: AbortSignal
  /** ms from now until all of it was handed to the session. @default 10_000 */
  readonly timeoutMs?: number
}

/**
 * Sends `body` for `protocol` to the other side of `session`, and resolves when the session has it. `body` must stay as
 * it is until then.
 * @throws RequestError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_ABORTED`, what ended the session; for
 *   a body that takes a while also what the other side refused it with
 */
export async function send(
  session: Session,
  protocol: string,
  body: Uint8Array,
  options: SendOptions = {},
): Promise<void> {
  const { signal, timeoutMs = REQUEST_TIMEOUT_MS } = options
  try {
    if (signal?.aborted) throw abortError(signal, protocol)
    if (!(timeoutMs > 0)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0')
    const name = withForm(protocol, 'one-way')
    await new Promise<void>((resolve, reject) => {
      const sent = new Sent(session, protocol, signal, timeoutMs, resolve, reject)
      session.open(name, signal === undefined ? undefined : { signal }).then(
        (stream) => sent.send(stream, body),
        (error: PeerlineError) => sent.error(error),
      )
    })
  } catch (error) {
    throw error instanceof RequestError ? error : new RequestError(error as PeerlineError, 'no')
  }
}

/** A message on its way, and then its stream until that has ended. */
class Sent extends Deadline implements StreamSink {
  readonly #session: Session
  readonly #protocol: string
  readonly #signal: AbortSignal | undefined
  readonly #timeoutMs: number
  readonly #resolve: () => void
  readonly #reject: (error: PeerlineError) => void
  readonly #onAbort = () => this.#giveUp(abortError(this.#signal!, this.#protocol), StreamCode.CANCELLED)
  #stream: Stream | undefined
  #state: 'sending' | 'ending' | 'over' = 'sending'

  constructor(
    session: Session,
    protocol: string,
    signal: AbortSignal | undefined,
    timeoutMs: number,
    resolve: () => void,
    reject: (error: PeerlineError) => void,
  ) {
    super()
    this.#session = session
    this.#protocol = protocol
    this.#signal = signal
    this.#timeoutMs = timeoutMs
    this.#resolve = resolve
    this.#reject = reject
    this.arm(timeoutMs)
    whenAborted(signal, this.#onAbort)
  }

  send(stream: Stream, body: Uint8Array): void {
    // Its turn came too late.
    if (this.#state === 'over') return stream.reset()
    this.#stream = stream
    stream.pipeTo(this)
    stream.end(body).then(
      () => this.#sent(),
      (error: PeerlineError) => this.error(error),
    )
  }

  #sent(): void {
    if (this.#state !== 'sending') return
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#resolve()
    if (this.#stream!.done) return this.#over()
    this.#state = 'ending'
    this.arm(this.#timeoutMs)
  }

  /** There is no answer to a message. */
  data(): void {
    this.#stream?.cancel()
  }

  end(): void {
    if (this.#state === 'ending') this.#over()
  }

  error(error: PeerlineError): void {
    this.#giveUp(error, StreamCode.CANCELLED)
  }

  protected expired(): void {
    this.#giveUp(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#protocol}: not sent in time`), StreamCode.TIMEOUT)
  }

  #giveUp(error: PeerlineError, code: number): void {
    if (this.#state === 'over') return
    const nothing = this.#stream === undefined
    const executed = nothing ? 'no' : executedBy(error, this.#session.state === 'closed')
    if (this.#state === 'sending') this.#reject(new RequestError(error, executed))
    this.#over()
    // What was handed over goes out all the same: only its answer, of which there is none, is not waited for.
    if (this.#stream !== undefined && !this.#stream.done) this.#stream.reset(code)
  }

  #over(): void {
    this.#state = 'over'
    this.disarm()
    this.#signal?.removeEventListener('abort', this.#onAbort)
  }
}

/** A one-way message that came to nothing. */
export interface OneWayFailure {
  readonly from: PeerId
  readonly protocol: string
  /** What the handler threw, or why it was not called. */
  readonly error: unknown
}

export interface ServeOneWayOptions {
  readonly from: PeerId
  readonly maxRequestBytes?: number
  readonly timeoutMs?: number
  readonly onFailure?: (failure: OneWayFailure) => void
  readonly closing?: AbortSignal
}

/** Takes the message that comes on `stream`. Never throws. */
export function serveOneWay(
  stream: Stream,
  protocol: string,
  handler: RequestHandler,
  options: ServeOneWayOptions,
): void {
  stream.pipeTo(new Received(stream, protocol, handler, options))
}

/** A message that comes, and is handled. */
class Received extends Deadline implements StreamSink {
  readonly #stream: Stream
  readonly #handler: RequestHandler
  readonly #options: ServeOneWayOptions
  readonly #timeoutMs: number
  readonly #body: Collector
  readonly #context: HandlerContext
  #state: 'receiving' | 'handling' | 'over' = 'receiving'

  constructor(stream: Stream, protocol: string, handler: RequestHandler, options: ServeOneWayOptions) {
    super()
    this.#stream = stream
    this.#handler = handler
    this.#options = options
    this.#timeoutMs = options.timeoutMs ?? REQUEST_TIMEOUT_MS
    this.#body = new Collector(options.maxRequestBytes ?? MAX_BODY_BYTES)
    this.#context = new HandlerContext(options.from, protocol)
    this.arm(this.#timeoutMs)
  }

  data(chunk: Uint8Array): void {
    if (this.#state !== 'receiving') return
    const before = this.#body.held
    if (!this.#body.add(chunk)) {
      const text = 'the message was larger than allowed'
      return this.#refuse(StreamCode.TOO_LARGE, new PeerlineError('ERR_PEERLINE_TOO_LARGE', text))
    }
    if (this.#stream.retain(this.#body.held - before)) return
    this.#refuse(StreamCode.BUSY, new PeerlineError('ERR_PEERLINE_LIMIT', 'the memory for messages is used up'))
  }

  error(error: PeerlineError): void {
    if (this.#state === 'receiving') this.#over(error)
  }

  end(): void {
    if (this.#state !== 'receiving') return
    this.#stream.end().catch(ignore)
    const { from, closing } = this.#options
    if (tooManyRun(from)) return this.#over(TOO_MANY)
    if (closing?.aborted) return this.#over(SHUTTING_DOWN)
    this.#state = 'handling'
    let later: Promise<Uint8Array>
    try {
      const answer: unknown = this.#handler(this.#body.take(), this.#context)
      if (!isThenable(answer)) return this.#over()
      later = Promise.resolve(answer as Promise<Uint8Array>)
    } catch (error) {
      return this.#over(error)
    }
    countRunning(from, 1)
    this.arm(this.#timeoutMs)
    later.then(
      () => this.#handled(),
      (error) => this.#handled(error),
    )
  }

  #handled(error?: unknown): void {
    if (this.#state !== 'handling') return
    countRunning(this.#options.from, -1)
    this.#over(error)
  }

  protected expired(): void {
    const { protocol } = this.#context
    const error = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${protocol}: the message, or its handler, took too long`)
    if (this.#state === 'receiving') return this.#refuse(StreamCode.TIMEOUT, error)
    this.#handled(error)
    this.#context.abort(error)
  }

  #refuse(code: number, error: PeerlineError): void {
    this.#over(error)
    this.#stream.reset(code)
  }

  /** `failure` is told to the hook, whose own failures disturb nobody. */
  #over(failure?: unknown): void {
    this.#state = 'over'
    this.disarm()
    const { onFailure, from } = this.#options
    if (failure === undefined || onFailure === undefined) return
    try {
      onFailure({ from, protocol: this.#context.protocol, error: failure })
    } catch {
      // It was told; there is nobody to tell this to.
    }
  }
}

function isThenable(value: unknown): boolean {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function'
}

function ignore(): void {}
