/**
 * What a service that is going away says to whoever comes now: how long it will still be there, and nothing more.
 */
import { MessageStream, type Stream, StreamCode } from '../session/index.ts'

/** ms that a newcomer has to hang up by itself, having read why: two slow round trips. */
const LEAVE_MS = 2_000

/**
 * Says on `stream` that its service is moving, and ends it.
 * @param until when the service ends, monotonic ms
 * @param maxBytes of the largest message that may come on it
 */
export function turnAway(stream: Stream, until: number, maxBytes: number): void {
  const messages = new MessageStream(stream, {
    maxBytes,
    onMessage: () => {},
    onEnd: () => {
      clearTimeout(timer)
      if (!stream.done) stream.reset(StreamCode.BUSY)
    },
  })
  const timer = dismiss(messages, until)
}

/** Says it on a stream of messages, and gives the stream up if the other side does not in time. */
export function dismiss(messages: MessageStream, until: number): ReturnType<typeof setTimeout> {
  messages
    .send({ t: 'moving', ms: leftMs(until) })
    .then(() => messages.end())
    .catch(() => {})
  return setTimeout(() => messages.reset(StreamCode.BUSY), LEAVE_MS).unref()
}

/** Whole ms left until `until`, monotonic ms. */
export function leftMs(until: number): number {
  return Math.max(0, Math.round(until - performance.now()))
}
