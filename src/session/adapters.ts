/**
 * A stream as the platform's own streams, for code that wants those.
 */
import { Duplex } from 'node:stream'
import type { Stream } from './stream.ts'

/** The reading direction as a WHATWG stream. Cancelling it cancels the reading direction. */
export function toReadable(stream: Stream): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { value, done } = await stream.next()
        if (done) controller.close()
        else controller.enqueue(value)
      },
      cancel() {
        stream.cancel()
      },
    },
    { highWaterMark: 0 },
  )
}

/** The writing direction as a WHATWG stream. Aborting it resets the stream. */
export function toWritable(stream: Stream): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    write: (chunk) => stream.write(chunk),
    close: () => stream.end(),
    abort: () => stream.reset(),
  })
}

/** Both directions as a Node stream, with half-close. */
export function toNodeDuplex(stream: Stream): Duplex {
  return new Duplex({
    allowHalfOpen: true,
    read() {
      stream.next().then(
        ({ value, done }) => this.push(done ? null : value),
        (error: Error) => this.destroy(error),
      )
    },
    write(chunk: Uint8Array, _encoding, callback) {
      stream.write(chunk).then(() => callback(), callback)
    },
    final(callback) {
      stream.end().then(() => callback(), callback)
    },
    destroy(error, callback) {
      if (!stream.done) stream.reset()
      callback(error)
    },
  })
}
