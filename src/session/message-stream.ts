/**
 * Small control messages on a stream: each a 4-byte big-endian length and strict CBOR.
 *
 * - What a message costs is bounded before it is read: its length is checked, and its bytes are joined once, when all
 *   of them are there, however small the pieces they come in.
 * - Whoever does not read what it is told is given up, before it costs memory.
 */
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { StreamCode } from './codes.ts'
import type { Stream } from './stream.ts'

const LENGTH_BYTES = 4

/** Bytes that may wait for the other side to read, with what each message costs besides: a burst of thousands. */
const MAX_UNREAD_BYTES = 4_194_304
const MESSAGE_OVERHEAD_BYTES = 256

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
  /** Bytes that must be there before anything can be read. */
  #needed = LENGTH_BYTES
  #unreadBytes = 0
  #ended = false

  constructor(stream: Stream, options: MessageStreamOptions) {
    this.#stream = stream
    this.#options = options
    stream.pipeTo({
      data: (chunk) => this.#feed(chunk),
      end: () => this.#end(this.#heldBytes === 0 ? undefined : cutShort()),
      error: (error) => this.#end(error),
    })
  }

  /** Sends one message. @throws as `Stream.write`; `ERR_PEERLINE_LIMIT` when too much waits: the stream is given up then */
  async send(message: unknown): Promise<void> {
    const body = encodeCbor(message)
    const whole = Buffer.allocUnsafe(LENGTH_BYTES + body.length)
    whole.writeUInt32BE(body.length, 0)
    whole.set(body, LENGTH_BYTES)
    const cost = whole.length + MESSAGE_OVERHEAD_BYTES
    if (this.#unreadBytes + cost > MAX_UNREAD_BYTES) {
      this.#stream.reset(StreamCode.BUSY)
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `${this.#stream.protocol}: the other side reads too little`)
    }
    this.#unreadBytes += cost
    try {
      await this.#stream.write(whole)
    } finally {
      this.#unreadBytes -= cost
    }
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
      while (!this.#ended && this.#heldBytes >= this.#needed) {
        const bytes = this.#held.length === 1 ? this.#held[0]! : Buffer.concat(this.#held)
        this.#held = [bytes]
        const length = Buffer.from(bytes.buffer, bytes.byteOffset, LENGTH_BYTES).readUInt32BE(0)
        if (length > this.#options.maxBytes) {
          throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `a control message of ${length} bytes was announced`)
        }
        this.#needed = LENGTH_BYTES + length
        if (bytes.length < this.#needed) return
        this.#held = [bytes.subarray(LENGTH_BYTES + length)]
        this.#heldBytes = bytes.length - LENGTH_BYTES - length
        this.#needed = LENGTH_BYTES
        const body = bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + length)
        this.#options.onMessage(decodeCbor(body, { maxBytes: this.#options.maxBytes }))
      }
    } catch (error) {
      // The end is told once, with what was wrong, and not with the reset that follows from it.
      if (this.#ended) return
      this.#ended = true
      this.#held = []
      this.#stream.reset(StreamCode.FAILED)
      this.#options.onEnd(asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL'))
    }
  }
}

function cutShort(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a stream ended in the middle of a control message')
}
