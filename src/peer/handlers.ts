/**
 * What a peer answers to: handlers by protocol, and the streams that are taken to them.
 *
 *     stream --> is the protocol handled, in this form? --> gate --> handler
 *
 * - What nobody handles is refused before anybody is asked about it.
 * - A request has three forms, told by the name of its stream (protocol/form.ts); streams of other handlers have but one.
 * - A handler that throws resets its stream; nothing it does reaches the session's reading.
 * - Rules may change while a request is read: whether it is still allowed is asked again when its handler begins. A handler
 *   that does not depend on its stream, as of a message or a request with a key, is told when it is allowed no longer.
 */
import type { EarlyRequest } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { EarlyAnswers, type EarlyHandler } from '../protocol/early.ts'
import { Refusal } from '../protocol/failure.ts'
import {
  checkName,
  type OneWayFailure,
  type Protocol,
  type ProtocolHandler,
  Replies,
  type RequestContext,
  type RequestHandler,
  type ServeStreamOptions,
  type StreamRequestHandler,
  serveRequest,
  serveStreamRequest,
  splitForm,
} from '../protocol/index.ts'
import { SHUTTING_DOWN } from '../protocol/running.ts'
import { type IncomingOptions, IncomingStreams, type Session, type Stream, StreamCode } from '../session/index.ts'
import type { Gate, Held, Trimmed } from './gate.ts'

/** What a handler of streams is told. */
export interface StreamContext {
  /** Who opened the stream; proven. */
  readonly from: PeerId
  readonly session: Session
}

export type StreamHandler = (stream: Stream, context: StreamContext) => void | Promise<void>

/** As {@link StreamHandler}, with what let the stream in. */
type Serve = (stream: Stream, context: StreamContext, held: Held | undefined) => void | Promise<void>

interface Entry {
  readonly serve: Serve
  /** Takes requests in every form. */
  readonly forms: boolean
  /** Decides by itself when it has read the request. */
  readonly decides: boolean
  /** Answers requests that come in offers, too. */
  readonly early?: EarlyHandler | undefined
}

/** How requests are handled. */
export interface HandleOptions {
  /**
   * Executing a request twice is as good as once: one of up to 512 bytes may come in the offer of a dial, and is answered
   * with the answer to that. Protocols that were defined say so themselves. @default false
   */
  readonly replaySafe?: boolean
}

export interface HandlersOptions {
  readonly gate: Gate
  /** Aborted when the peer closes. */
  readonly closing: AbortSignal
  /** A message that nobody answers was not handled, or its handler failed. */
  readonly onFailure: (failure: OneWayFailure) => void
}

export class Handlers {
  readonly #entries = new Map<string, Entry>()
  readonly #options: HandlersOptions
  readonly #replies = new Replies()
  readonly #early: EarlyAnswers

  constructor(options: HandlersOptions) {
    this.#options = options
    this.#early = new EarlyAnswers({
      find: (protocol) => this.#entries.get(protocol)?.early,
      permit: (from, protocol) => options.gate.early(from, protocol),
    })
  }

  /** Answers requests. Replaces what answered before. @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that is none */
  request(protocol: string, handler: RequestHandler, options?: HandleOptions): void
  request<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: ProtocolHandler<ReqOut, ResIn>,
  ): void
  request<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: string | Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: RequestHandler | ProtocolHandler<ReqOut, ResIn>,
    { replaySafe = false }: HandleOptions = {},
  ): void {
    const { closing, onFailure, gate } = this.#options
    const shared = { replies: this.#replies, closing, onFailure }
    if (typeof protocol === 'string') {
      const bytes = handler as RequestHandler
      const serve: Serve = (stream, { from }, held) =>
        // A plain one is called while its stream is open, whose end fires its signal.
        serveRequest(stream, held === undefined || isPlain(stream) ? bytes : this.#held(() => held, bytes), {
          ...shared,
          from,
        })
      const early = replaySafe ? { handler: bytes } : undefined
      return this.#set(protocol, { serve, forms: true, decides: false, early })
    }
    const typed = handler as ProtocolHandler<ReqOut, ResIn>
    if (!protocol.trims) {
      const serve: Serve = (stream, { from }, held) =>
        protocol.serve(stream, protocol.handler(this.#held(() => held, typed)), { ...shared, from })
      const early = protocol.replaySafe ? this.#earlyHandler(protocol, typed) : undefined
      return this.#set(protocol.name, { serve, forms: true, decides: false, early })
    }
    const serve: Serve = (stream, { from, session }) => {
      let held: Held | undefined
      const decide = async (trimmed: Trimmed) => {
        held = await gate.decide(session, stream, protocol.name, trimmed)
      }
      const bytes = protocol.handler(
        this.#held(() => held, typed),
        decide,
      )
      protocol.serve(stream, bytes, { ...shared, from })
    }
    this.#set(protocol.name, { serve, forms: true, decides: true })
  }

  /** Answers requests whose bodies are streams. */
  requestStream(
    protocol: string,
    handler: StreamRequestHandler,
    options: Omit<ServeStreamOptions, 'from' | 'closing'>,
  ): void {
    const { closing } = this.#options
    const serve: Serve = (stream, { from }) => serveStreamRequest(stream, handler, { ...options, from, closing })
    this.#set(protocol, { serve, forms: false, decides: false })
  }

  /** Takes streams. */
  stream(protocol: string, serve: StreamHandler): void {
    this.#set(protocol, { serve, forms: false, decides: false })
  }

  /** The streams for `protocol` as a queue for one consumer. */
  streams(protocol: string, options: IncomingOptions): IncomingStreams<StreamContext> {
    const { closing } = this.#options
    const leave = () => void incoming.return()
    const take: StreamHandler = (stream, context) => incoming.take(stream, context)
    const incoming = new IncomingStreams<StreamContext>(options, () => {
      closing.removeEventListener('abort', leave)
      if (this.#entries.get(protocol)?.serve === take) this.#entries.delete(protocol)
    })
    this.stream(protocol, take)
    if (closing.aborted) leave()
    else closing.addEventListener('abort', leave)
    return incoming
  }

  remove(protocol: string): void {
    this.#entries.delete(protocol)
  }

  /** Takes a stream of the other side's. */
  onStream(session: Session, stream: Stream): void {
    const { protocol, form } = splitForm(stream.protocol)
    const entry = this.#entries.get(protocol)
    if (entry === undefined || (form !== 'plain' && !entry.forms)) return stream.reset(StreamCode.NO_PROTOCOL)
    const { gate } = this.#options
    const serve = (held?: Held) => run(entry.serve, stream, { from: session.peer, session }, held)
    if (entry.decides) gate.offer(session, stream, protocol, serve)
    else gate.enter(session, stream, protocol, serve)
  }

  /** Answers a request that came in an offer, where that may be. Never rejects. */
  onEarly(from: PeerId, asked: EarlyRequest): Promise<Uint8Array | undefined> {
    return this.#early.of(from, asked)
  }

  close(): void {
    this.#early.close()
    this.#replies.close()
  }

  /** A handler that begins only where it is still allowed, and whose signal fires when it is allowed no longer. */
  #held<Req, Res>(held: () => Held | undefined, handler: ProtocolHandler<Req, Res>): ProtocolHandler<Req, Res> {
    const { gate, closing } = this.#options
    return (request, context) => {
      const by = held()
      if (by === undefined) return handler(request, context)
      if (closing.aborted) throw SHUTTING_DOWN
      if (!gate.stands(by)) throw new Refusal('ERR_PEERLINE_DENIED', 'the peer does not let you do that any more')
      if (isPlain(by.stream)) return handler(request, context)
      const own = new HeldContext(context)
      const over = gate.runs(by, () => own.cut())
      let answer: Res | Promise<Res>
      try {
        answer = handler(request, own)
      } catch (error) {
        over()
        throw error
      }
      Promise.resolve(answer).then(over, over)
      return answer
    }
  }

  #earlyHandler<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: ProtocolHandler<ReqOut, ResIn>,
  ): EarlyHandler {
    const { gate } = this.#options
    const { name, maxRequestBytes } = protocol
    const bytes = protocol.handler((request, context) => {
      // Its schema may have thought for long.
      if (!context.signal.aborted && gate.mayRide(context.from, name, 'in')) return handler(request, context)
      throw new Refusal('ERR_PEERLINE_DENIED', 'the peer does not let you do that any more')
    })
    return { handler: bytes, maxRequestBytes }
  }

  #set(protocol: string, entry: Entry): void {
    checkName(protocol)
    // Rules say `connection` and `anything` of something else.
    if (protocol === 'connection' || protocol === 'anything' || protocol.includes('*')) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `no protocol can be called ${protocol}`)
    }
    this.#entries.set(protocol, entry)
  }
}

/** A context whose signal fires as well when the handler may not go on. */
class HeldContext implements RequestContext {
  readonly from: PeerId
  readonly protocol: string
  readonly #context: RequestContext
  #controller: AbortController | undefined
  #cut: PeerlineError | undefined

  constructor(context: RequestContext) {
    this.from = context.from
    this.protocol = context.protocol
    this.#context = context
  }

  /** Made when it is asked for. */
  get signal(): AbortSignal {
    if (this.#controller !== undefined) return this.#controller.signal
    const controller = new AbortController()
    this.#controller = controller
    const { signal } = this.#context
    const follow = () => controller.abort(signal.reason)
    if (this.#cut !== undefined) controller.abort(this.#cut)
    else if (signal.aborted) follow()
    else signal.addEventListener('abort', follow, { once: true })
    return controller.signal
  }

  cut(): void {
    this.#cut = new PeerlineError('ERR_PEERLINE_DENIED', `${this.from} may not use ${this.protocol} any more`)
    this.#controller?.abort(this.#cut)
  }
}

function isPlain({ protocol }: Stream): boolean {
  return !protocol.includes(';')
}

function run(serve: Serve, stream: Stream, context: StreamContext, held: Held | undefined): void {
  try {
    const handling = serve(stream, context, held)
    if (handling !== undefined) handling.catch(() => stream.reset(StreamCode.FAILED))
  } catch {
    stream.reset(StreamCode.FAILED)
  }
}
