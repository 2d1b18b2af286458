/**
 * What a peer answers to: handlers by protocol, and the streams that are taken to them.
 *
 *     stream --> is the protocol handled, in this form? --> gate --> handler
 *
 * - What nobody handles is refused before anybody is asked about it.
 * - A request has three forms, told by the name of its stream (protocol/form.ts); streams of other handlers have but one.
 * - A handler that throws resets its stream; nothing it does reaches the session's reading.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import {
  checkName,
  type OneWayFailure,
  type Protocol,
  type ProtocolHandler,
  Replies,
  type RequestHandler,
  type ServeStreamOptions,
  type StreamRequestHandler,
  serveRequest,
  serveStreamRequest,
  splitForm,
} from '../protocol/index.ts'
import { type IncomingOptions, IncomingStreams, type Session, type Stream, StreamCode } from '../session/index.ts'
import type { Gate } from './gate.ts'

/** What a handler of streams is told. */
export interface StreamContext {
  /** Who opened the stream; proven. */
  readonly from: PeerId
  readonly session: Session
}

export type StreamHandler = (stream: Stream, context: StreamContext) => void | Promise<void>

interface Entry {
  readonly serve: StreamHandler
  /** Takes requests in every form. */
  readonly forms: boolean
  /** Decides by itself when it has read the request. */
  readonly decides: boolean
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

  constructor(options: HandlersOptions) {
    this.#options = options
  }

  /** Answers requests. Replaces what answered before. @throws PeerlineError `ERR_PEERLINE_INVALID` for a name that is none */
  request(protocol: string, handler: RequestHandler): void
  request<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: ProtocolHandler<ReqOut, ResIn>,
  ): void
  request<ReqIn, ReqOut, ResIn, ResOut>(
    protocol: string | Protocol<ReqIn, ReqOut, ResIn, ResOut>,
    handler: RequestHandler | ProtocolHandler<ReqOut, ResIn>,
  ): void {
    const { closing, onFailure, gate } = this.#options
    const shared = { replies: this.#replies, closing, onFailure }
    if (typeof protocol === 'string') {
      const serve: StreamHandler = (stream, { from }) =>
        serveRequest(stream, handler as RequestHandler, { ...shared, from })
      return this.#set(protocol, { serve, forms: true, decides: false })
    }
    const typed = handler as ProtocolHandler<ReqOut, ResIn>
    if (!protocol.trims) {
      const bytes = protocol.handler(typed)
      const serve: StreamHandler = (stream, { from }) => protocol.serve(stream, bytes, { ...shared, from })
      return this.#set(protocol.name, { serve, forms: true, decides: false })
    }
    const serve: StreamHandler = (stream, { from, session }) => {
      const bytes = protocol.handler(typed, (trimmed) => gate.decide(session, stream, trimmed))
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
    const serve: StreamHandler = (stream, { from }) =>
      serveStreamRequest(stream, handler, { ...options, from, closing })
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

  /** The protocols that are handled. */
  get protocols(): string[] {
    return [...this.#entries.keys()]
  }

  /** Takes a stream of the other side's. */
  onStream(session: Session, stream: Stream): void {
    const { protocol, form } = splitForm(stream.protocol)
    const entry = this.#entries.get(protocol)
    if (entry === undefined || (form !== 'plain' && !entry.forms)) return stream.reset(StreamCode.NO_PROTOCOL)
    const { gate } = this.#options
    const serve = () => run(entry.serve, stream, { from: session.peer, session })
    if (entry.decides) gate.offer(session, stream, serve)
    else gate.enter(session, stream, serve)
  }

  close(): void {
    this.#replies.close()
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

function run(serve: StreamHandler, stream: Stream, context: StreamContext): void {
  try {
    const handling = serve(stream, context)
    if (handling !== undefined) handling.catch(() => stream.reset(StreamCode.FAILED))
  } catch {
    stream.reset(StreamCode.FAILED)
  }
}
