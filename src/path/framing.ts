/**
 * Whole messages on a byte pipe.
 *
 *     +----------------+------------------+
 *     | length, 4 B BE | message          |  repeated
 *     +----------------+------------------+
 *
 * The same framing serves TCP, WebSocket and relay circuits, so that a relay can join any two of them by copying
 * bytes, without looking inside. WebSocket message bounds carry no meaning.
 *
 * - length is 1 to `maxMessageBytes`; memory for a message is taken only after its length was checked;
 * - a message that lies whole in one chunk is handed on without a copy, any other is put together in a scratch buffer,
 *   which is why a handler that keeps a message copies it.
 */
import { PeerlineError } from '../errors.ts'
import { discard } from './discard.ts'
import { MAX_FIRST_MESSAGE_BYTES, MAX_MESSAGE_BYTES, type Path, type PathHandler, type PathKind } from './path.ts'
import type { Pipe } from './pipe.ts'
import { turns } from './turns.ts'

/** Bytes of the length in front of each message. */
export const LENGTH_BYTES = 4

/** Bytes of the longest message that is copied behind its length instead of being written in parts. */
const JOIN_BYTES = 2_048

/** ms that a closing path gets to send its tail before it is cut: a slow link drains 1 MiB at 2 Mbit/s in 4 s. */
const CLOSE_GRACE_MS = 5_000

/** The length of a message that begins at `offset`. */
function readLength(bytes: Uint8Array, offset: number): number {
  return bytes[offset]! * 0x1000000 + ((bytes[offset + 1]! << 16) | (bytes[offset + 2]! << 8) | bytes[offset + 3]!)
}

/** Scratch buffers for messages that came in pieces: one in use per path in the middle of one, these few in waiting. */
const scratches: Uint8Array[] = []
const MAX_SCRATCHES = 8

function takeScratch(length: number): Uint8Array {
  // Strangers, who are kept to short messages, get no more than they announced.
  if (length <= MAX_FIRST_MESSAGE_BYTES || length > MAX_MESSAGE_BYTES) return Buffer.allocUnsafeSlow(length)
  return scratches.pop() ?? Buffer.allocUnsafeSlow(MAX_MESSAGE_BYTES)
}

function giveScratch(scratch: Uint8Array): void {
  if (scratch.length === MAX_MESSAGE_BYTES && scratches.length < MAX_SCRATCHES) scratches.push(scratch)
}

/** A path over a byte pipe. */
export class FramedPath implements Path {
  readonly kind: PathKind
  maxMessageBytes: number = MAX_FIRST_MESSAGE_BYTES

  readonly #pipe: Pipe
  #handler: PathHandler | undefined
  #started = false
  #ended = false
  #endError: PeerlineError | undefined
  /** The other side ended in order, while what it had sent before waits for `resume`. */
  #pipeEnded = false
  #paused = false
  /** Bytes that came while paused inside a chunk, or before `start`. */
  #held: Uint8Array | undefined
  /** The chunk of which the pipe has taken the rest back. */
  #begun: Uint8Array | undefined
  readonly #length = new Uint8Array(LENGTH_BYTES)
  #lengthFilled = 0
  /** The message being put together from several chunks. */
  #message: Uint8Array | undefined
  /** What `#message` is a view of. */
  #scratch: Uint8Array | undefined
  #filled = 0
  #grace: ReturnType<typeof setTimeout> | undefined

  /** @param head bytes already read from the pipe by whoever looked at what it speaks */
  constructor(kind: PathKind, pipe: Pipe, head?: Uint8Array) {
    this.kind = kind
    this.#pipe = pipe
    if (head !== undefined && head.length > 0) this.#held = head
  }

  get remote(): string {
    return this.#pipe.remote
  }

  get writable(): boolean {
    return !this.#ended && this.#pipe.writable
  }

  start(handler: PathHandler): void {
    this.#handler = handler
    if (this.#ended) {
      // It ended between two owners: the new one is told as soon as it has got hold of the path.
      queueMicrotask(() => handler.close(this.#endError))
      return
    }
    if (this.#started) return
    this.#started = true
    this.#pipe.start({
      data: (chunk) => {
        const whole = this.#feed(chunk, this.#pipe.takeBack !== undefined)
        const all = this.#begun ?? chunk
        this.#begun = whole ? undefined : all
        // Every message in it was handed on, and holds no longer, or is of no use; what is held back, or was given away, is still
        // needed.
        if (whole && this.#pipe.ownsChunks && this.#held === undefined && this.#handler !== undefined) discard(all)
      },
      drain: () => {
        if (!this.#ended) this.#handler?.drain()
      },
      close: (error) => {
        // What came before an end in order is still to be delivered, unless this side has closed.
        this.#pipeEnded = error === undefined && this.#held !== undefined && this.#grace === undefined
        if (!this.#pipeEnded) this.#end(error ?? this.cutShort())
      },
    })
    if (this.#paused) this.#pipe.pause()
    else if (this.#held !== undefined) this.resume()
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (this.#ended) return false
    let length = 0
    for (const part of parts) length += part.length
    if (length <= JOIN_BYTES) {
      // One short write is cheaper than a gathered one.
      const whole = Buffer.allocUnsafe(LENGTH_BYTES + length)
      whole.writeUInt32BE(length, 0)
      let at = LENGTH_BYTES
      for (const part of parts) {
        whole.set(part, at)
        at += part.length
      }
      return this.#pipe.write([whole])
    }
    const head = Buffer.allocUnsafe(LENGTH_BYTES)
    head.writeUInt32BE(length, 0)
    return this.#pipe.write([head, ...parts])
  }

  pause(): void {
    if (this.#paused || this.#ended) return
    this.#paused = true
    this.#pipe.pause()
  }

  resume(): void {
    if (this.#ended) return
    this.#paused = false
    if (!this.#started) return
    const held = this.#held
    this.#held = undefined
    if (held !== undefined) this.#feed(held)
    if (this.#paused || this.#ended) return
    if (!this.#pipeEnded) return this.#pipe.resume()
    // Not at once: this may be a call from inside `message`, with more of the chunk to come.
    queueMicrotask(() => {
      if (!this.#paused) this.#end(this.cutShort())
    })
  }

  close(): void {
    if (this.#ended || this.#grace !== undefined) return
    if (this.#pipeEnded) return this.#end(undefined)
    this.#pipe.end()
    this.#grace = setTimeout(() => this.#pipe.destroy(), CLOSE_GRACE_MS)
    this.#grace.unref()
  }

  destroy(error?: PeerlineError): void {
    if (this.#ended) return
    this.#pipe.destroy()
    this.#end(error)
  }

  /**
   * Gives the byte pipe away, with what was read of it beyond the last message: for a relay, which copies bytes from
   * then on. The path must be paused; it is over for its handler, which hears nothing more.
   */
  release(): { pipe: Pipe; rest: Uint8Array | undefined } {
    const rest = this.#held
    this.#ended = true
    this.#held = undefined
    this.#handler = undefined
    return { pipe: this.#pipe, rest }
  }

  #end(error: PeerlineError | undefined): void {
    if (this.#ended) return
    this.#ended = true
    this.#endError = error
    clearTimeout(this.#grace)
    this.#held = undefined
    this.#message = undefined
    this.#handler?.close(error)
  }

  /** The error of an end in the middle of a message; none between two messages. */
  protected cutShort(): PeerlineError | undefined {
    if (this.#lengthFilled === 0 && this.#message === undefined) return undefined
    return new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.remote} ended in the middle of a message`)
  }

  /** False when the turn was over before the chunk was: the pipe has the rest. */
  #feed(chunk: Uint8Array, inTurns = false): boolean {
    let at = 0
    while (at < chunk.length) {
      if (this.#ended) return true
      if (this.#paused) {
        // The pipe may hand on a chunk that was under way when it was paused: at most one is held besides its rest.
        const rest = chunk.subarray(at)
        this.#held = this.#held === undefined ? rest : Buffer.concat([this.#held, rest])
        return true
      }
      if (inTurns && at > 0 && turns.over) {
        this.#pipe.takeBack!(chunk.subarray(at))
        return false
      }
      if (this.#message === undefined) {
        let length: number
        if (this.#lengthFilled === 0 && chunk.length - at >= LENGTH_BYTES) {
          length = readLength(chunk, at)
          at += LENGTH_BYTES
        } else {
          this.#length[this.#lengthFilled++] = chunk[at++]!
          if (this.#lengthFilled < LENGTH_BYTES) continue
          length = readLength(this.#length, 0)
          this.#lengthFilled = 0
        }
        if (length === 0 || length > this.maxMessageBytes) {
          this.#refuse(length)
          return true
        }
        if (chunk.length - at >= length) {
          const message = chunk.subarray(at, at + length)
          at += length
          this.#handler!.message(message)
          continue
        }
        this.#scratch = takeScratch(length)
        this.#message = this.#scratch.subarray(0, length)
        this.#filled = 0
      }
      const part = chunk.subarray(at, at + this.#message.length - this.#filled)
      this.#message.set(part, this.#filled)
      this.#filled += part.length
      at += part.length
      if (this.#filled === this.#message.length) {
        const message = this.#message
        const scratch = this.#scratch!
        this.#message = undefined
        this.#scratch = undefined
        this.#handler!.message(message)
        giveScratch(scratch)
      }
    }
    return true
  }

  #refuse(length: number): void {
    this.destroy(
      length === 0
        ? new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.remote} sent an empty message`)
        : new PeerlineError(
            'ERR_PEERLINE_TOO_LARGE',
            `${this.remote} announced a message of ${length} bytes; at most ${this.maxMessageBytes} are taken`,
          ),
    )
  }
}
