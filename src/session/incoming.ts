/**
 * Streams that the other side opens, as a queue for one consumer that may be slow.
 *
 *     block          they wait, and nothing is refused: an opener may have 256 open, and waits then itself
 *     drop-latest    when `capacity` wait, a new one is refused with BUSY
 *     drop-oldest    when `capacity` wait, the one that waits longest is refused with BUSY
 *
 * - A stream that waits holds at most its first window of data, and its opener notices nothing but a slow reader.
 * - One that its opener gave up meanwhile makes room, and is not handed on.
 * - When the consumer leaves, those that wait are refused with BUSY.
 */
import { Channel, type ChannelPolicy } from './channel.ts'
import { StreamCode } from './codes.ts'
import type { Stream } from './stream.ts'

/** Streams that wait, of all sessions together, when nothing else is said. */
const DEFAULT_WAITING = 64

/** The same with `block`, where each session has a bound of its own: so many that only a siege meets it. */
const MAX_WAITING = 16_384

export interface IncomingOptions {
  /** What happens when the consumer is slow. @default 'block' */
  readonly policy?: ChannelPolicy
  /** Streams that wait, of all sessions together. @default 64; with `block` 16,384, and above that the latest is refused */
  readonly capacity?: number
  /** When it fires, the consumer leaves. */
  readonly signal?: AbortSignal
}

/** A stream, and what is known of it besides. */
export type Incoming<C> = C & { readonly stream: Stream }

/** Hands streams that come to one consumer, `for await`. */
export class IncomingStreams<C extends object> implements AsyncIterableIterator<Incoming<C>, undefined> {
  readonly #channel: Channel<Incoming<C>>
  #refused = 0

  /**
   * @param onEnd called once, when no more are taken
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a policy or capacity that is none, or what the signal says
   */
  constructor(options: IncomingOptions, onEnd: () => void) {
    const { policy = 'block', capacity = policy === 'block' ? MAX_WAITING : DEFAULT_WAITING, signal } = options
    this.#channel = new Channel({
      policy,
      capacity,
      isStale: ({ stream }) => stream.done,
      onDrop: ({ stream }) => this.#refuse(stream),
      onEnd,
      ...(signal === undefined ? {} : { signal }),
    })
  }

  /** Streams that wait for the consumer. */
  get length(): number {
    return this.#channel.length
  }

  /** Streams refused so far because the consumer was slow, or left. */
  get refused(): number {
    return this.#refused
  }

  /** @internal Takes a stream that was opened, or refuses it. */
  take(stream: Stream, context: C): void {
    if (!this.#channel.offer({ ...context, stream })) this.#refuse(stream)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next stream. One consumer at a time. @throws what the signal of the queue says */
  next(): Promise<IteratorResult<Incoming<C>, undefined>> {
    return this.#channel.next()
  }

  /** Called by `break` in a `for await`: takes no more. */
  return(): Promise<IteratorResult<Incoming<C>, undefined>> {
    return this.#channel.return()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#channel.return()
  }

  #refuse(stream: Stream): void {
    // The policy may have done so.
    if (stream.done) return
    this.#refused++
    stream.reset(StreamCode.BUSY)
  }
}
