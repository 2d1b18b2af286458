/**
 * Small control messages on a stream: each a 4-byte big-endian length and strict CBOR.
 */
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { StreamCode } from './codes.ts'
import type { Stream } from './stream.ts'

const LENGTH_BYTES = 4

export interface MessageStreamOptions {
  /** Bytes of the largest message taken. */
  readonly maxBytes: number
  /** One message. What it throws ends the stream. */
  readonly onMessage: (message: unknown) => void
  /** Called once, when no more will come; `error` is absent when the other side ended in order. */
  readonly onEnd: (error: PeerlineError | undefined) => void
}

export class MessageStream {
  readonly #stream: Stream
  readonly #options: MessageStreamOptions
  #held: Uint8Array[] = []
  #heldBytes = 0
  #ended = false

  constructor(stream: Stream, options: MessageStreamOptions) {
    this.#stream = stream
    this.#options = options
    stream.pipeTo({
      data: (chunk) => this.#feed(chunk),
      end: () => this.#end(undefined),
      error: (error) => this.#end(error),
    })
  }

  /** Sends one message. @throws as `Stream.write` */
  send(message: unknown): Promise<void> {
    const body = encodeCbor(message)
    const whole = Buffer.allocUnsafe(LENGTH_BYTES + body.length)
    whole.writeUInt32BE(body.length, 0)
    whole.set(body, LENGTH_BYTES)
    return this.#stream.write(whole)
  }

  /** Ends our direction; theirs may go on. */
  end(): Promise<void> {
    return this.#stream.end()
  }

  /** Gives the stream up. */
  reset(code: number = StreamCode.CANCELLED): void {
    this.#stream.reset(code)
  }

  #end(error: PeerlineError | undefined): void {
    if (this.#ended) return
    this.#ended = true
    this.#held = []
    this.#options.onEnd(error)
  }

  #feed(chunk: Uint8Array): void {
    if (this.#ended) return
    this.#held.push(chunk)
    this.#heldBytes += chunk.length
    try {
      while (!this.#ended && this.#heldBytes >= LENGTH_BYTES) {
        const bytes = this.#held.length === 1 ? this.#held[0]! : Buffer.concat(this.#held)
        this.#held = [bytes]
        const length = Buffer.from(bytes.buffer, bytes.byteOffset, LENGTH_BYTES).readUInt32BE(0)
        if (length > this.#options.maxBytes) {
          throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `a control message of ${length} bytes was announced`)
        }
        if (bytes.length < LENGTH_BYTES + length) return
        this.#held = [bytes.subarray(LENGTH_BYTES + length)]
        this.#heldBytes = bytes.length - LENGTH_BYTES - length
        const body = bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length)
        this.#options.onMessage(decodeCbor(body, { maxBytes: this.#options.maxBytes }))
      }
    } catch (error) {
      this.#stream.reset(StreamCode.FAILED)
      this.#end(asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL'))
    }
  }
}
