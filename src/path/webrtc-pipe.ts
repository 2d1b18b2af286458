/**
 * A WebRTC data channel as a byte pipe: one reliable, ordered channel, negotiated as id 0, so that it is open as soon
 * as SCTP is (RFC 8831, RFC 8832 not used).
 *
 *     binary message      bytes of the pipe, at most 64 KiB; bounds carry no meaning
 *     text "<number>"     the reader takes bytes up to this offset of what the other side sends, in all
 *     text "end"          that was all: nothing binary follows
 *     text "ended"        answers "end": all of it has arrived
 *     text "cut"          no more comes, though it was not all
 *
 * WebRTC cannot be told to stop reading: whatever arrives is pushed at us. So the pipe has a window of its own:
 * - a side may send {@link WINDOW_BYTES} beyond what the other one has read; the reader raises the offset as it reads;
 * - each binary message counts {@link MESSAGE_COST_BYTES} more than it has, so that tiny ones cannot fill the memory;
 * - more than that is a broken rule, `ERR_PEERLINE_PROTOCOL`.
 *
 * Closing a channel may overtake messages on their way up (events of libdatachannel come by several queues), cuts what was
 * not sent, and is told to the other side in one packet, which may get lost. So both kinds of end are messages too. An end
 * in order is answered; a channel that closes without it was cut, `ERR_PEERLINE_UNREACHABLE`.
 */
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe, type PipeHandler } from './pipe.ts'
import { MAX_SCTP_MESSAGE_BYTES } from './webrtc-description.ts'

/** Bytes that may be under way or unread: 20 MB/s over 200 ms, more than SCTP reaches. What a stalled reader holds. */
export const WINDOW_BYTES = 4 * 1_048_576

/** Bytes that a message counts beyond its own: about what it costs to hold one. */
export const MESSAGE_COST_BYTES = 256

/** Bytes read before the other side is told: a quarter of the window, so that it hears in time and not too often. */
const GRANT_BYTES = WINDOW_BYTES / 4

/** Bytes waiting below which a blocked writer is told to go on. */
const LOW_WATER_BYTES = PIPE_HIGH_WATER_BYTES / 4

/** ms that a side which is done waits for the other one to close, so that its last word gets there. */
const LINGER_MS = 2_000

const END = 'end'
const ENDED = 'ended'
const CUT = 'cut'

/** Pieces are put together here: `send` copies what it is given. */
let scratch: Uint8Array<ArrayBuffer> | undefined

/** An open data channel, or one that is about to open, as a pipe. It owns the connection. */
export class DataChannelPipe implements Pipe {
  /** Each message comes in an ArrayBuffer of its own. */
  readonly ownsChunks = true
  remote = 'webrtc'
  readonly #connection: RTCPeerConnection
  readonly #channel: RTCDataChannel
  #handler: PipeHandler | undefined

  // what is sent: parts that wait for the window, or for the channel
  readonly #queue: Uint8Array[] = []
  #queued = 0
  #sent = 0
  #allowed = WINDOW_BYTES
  #blocked = false
  #ending = false
  #endSent = false

  // what is received: messages that wait for the reader
  readonly #held: Uint8Array[] = []
  #received = 0
  #read = 0
  #granted = WINDOW_BYTES
  #paused = false
  #endReceived = false

  /** Destroyed by its owner: what is under way to the other side goes out, with the word that it was cut. */
  #leaving = false
  /** The connection was let go of. */
  #released = false
  /** The end was told to the handler, or will be as soon as there is one. */
  #over = false
  #error: PeerlineError | undefined
  #linger: ReturnType<typeof setTimeout> | undefined

  constructor(connection: RTCPeerConnection, channel: RTCDataChannel) {
    this.#connection = connection
    this.#channel = channel
    channel.binaryType = 'arraybuffer'
    channel.bufferedAmountLowThreshold = LOW_WATER_BYTES
    // From the first moment on: what comes before `start` waits here.
    channel.addEventListener('message', this.#onMessage)
    channel.addEventListener('bufferedamountlow', this.#onLow)
    channel.addEventListener('close', this.#onCut)
    connection.addEventListener('connectionstatechange', this.#onState)
  }

  get writable(): boolean {
    return !this.#blocked && this.#open
  }

  /** Bytes that wait to be sent, here and in the channel. */
  get waiting(): number {
    return this.#queued + (this.#released || this.#leaving ? 0 : this.#channel.bufferedAmount)
  }

  start(handler: PipeHandler): void {
    this.#handler = handler
    const late = this.#over
    queueMicrotask(() => (late ? handler.close(this.#error) : this.#deliver()))
  }

  write(parts: readonly Uint8Array[]): boolean {
    if (!this.#open) return false
    for (const part of parts) {
      if (part.length === 0) continue
      this.#queue.push(part)
      this.#queued += part.length
    }
    this.#flush()
    this.#blocked = this.waiting >= PIPE_HIGH_WATER_BYTES
    return !this.#blocked && this.#open
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    if (!this.#paused) return
    this.#paused = false
    // Never from inside: the caller may be in the middle of the chunk before.
    queueMicrotask(() => this.#deliver())
  }

  end(): void {
    if (this.#ending || this.#over) return
    this.#ending = true
    if (this.#endReceived) queueMicrotask(() => this.#finish(undefined))
    else this.#flush()
  }

  destroy(): void {
    if (this.#leaving) return
    this.#leaving = true
    this.#held.length = 0
    queueMicrotask(() => this.#finish(undefined))
    if (this.#released || this.#channel.readyState !== 'open') return this.#release()
    this.#say(CUT)
    this.#lingerOn()
  }

  /** Takes bytes for the other side. */
  get #open(): boolean {
    return !this.#released && !this.#leaving && !this.#over && !this.#ending && !this.#endReceived
  }

  /** Sends what window and channel take. */
  #flush(): void {
    if (this.#released || this.#leaving || this.#channel.readyState !== 'open') return
    try {
      while (this.#queued > 0 && this.#channel.bufferedAmount < PIPE_HIGH_WATER_BYTES) {
        const bytes = Math.min(this.#queued, MAX_SCTP_MESSAGE_BYTES)
        // Waits for room for all of it: the window grows by a quarter at a time.
        if (this.#sent + bytes + MESSAGE_COST_BYTES > this.#allowed) break
        this.#sent += bytes + MESSAGE_COST_BYTES
        this.#channel.send(this.#take(bytes))
      }
      if (this.#ending && this.#queued === 0 && !this.#endSent) {
        this.#endSent = true
        this.#channel.send(END)
      }
    } catch (cause) {
      this.#cut(asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE', `cannot send to ${this.remote}`))
    }
  }

  /** The next `bytes` of the queue. They hold until the next call. */
  #take(bytes: number): Uint8Array<ArrayBuffer> {
    this.#queued -= bytes
    scratch ??= new Uint8Array(MAX_SCTP_MESSAGE_BYTES)
    let filled = 0
    let used = 0
    while (filled < bytes) {
      const part = this.#queue[used]!
      const room = bytes - filled
      if (part.length <= room) {
        scratch.set(part, filled)
        used++
      } else {
        scratch.set(part.subarray(0, room), filled)
        this.#queue[used] = part.subarray(room)
      }
      filled += Math.min(part.length, room)
    }
    this.#queue.splice(0, used)
    return scratch.subarray(0, bytes)
  }

  /** Tells a blocked writer to go on. */
  #unblock(): void {
    if (!this.#blocked || !this.#open || this.waiting > LOW_WATER_BYTES) return
    this.#blocked = false
    this.#handler?.drain()
  }

  readonly #onLow = (): void => {
    this.#flush()
    this.#unblock()
  }

  readonly #onMessage = ({ data }: MessageEvent<unknown>): void => {
    if (this.#released) return
    if (typeof data === 'string') return this.#onText(data)
    if (this.#leaving) return
    if (!(data instanceof ArrayBuffer) || this.#endReceived) return this.#refuse('bytes after its end')
    this.#received += data.byteLength + MESSAGE_COST_BYTES
    if (this.#received > this.#granted) return this.#refuse('more than its window')
    if (this.#over) return
    this.#held.push(new Uint8Array(data))
    this.#deliver()
  }

  #onText(text: string): void {
    if (text === END && !this.#endReceived) {
      this.#endReceived = true
      // All of it is here, read or not: the other side need not stay for the reader.
      this.#say(ENDED)
      this.#lingerOn()
      return this.#deliver()
    }
    if (text === CUT) return this.#onCut()
    if (text === ENDED && this.#endSent) {
      this.#release()
      return this.#finish(undefined)
    }
    const allowed = /^[1-9][0-9]{0,15}$/.test(text) ? Number(text) : 0
    if (!Number.isSafeInteger(allowed) || allowed <= this.#allowed) return this.#refuse('text that means nothing')
    this.#allowed = allowed
    this.#onLow()
  }

  /** Hands on what is held, until the reader pauses. */
  #deliver(): void {
    let done = 0
    try {
      while (this.#handler !== undefined && !this.#paused && done < this.#held.length) {
        const chunk = this.#held[done++]!
        this.#read += chunk.length + MESSAGE_COST_BYTES
        // The handler may free the chunk.
        if (chunk.length > 0) this.#handler.data(chunk)
      }
    } finally {
      this.#held.splice(0, done)
    }
    if (this.#over) return
    if (this.#endReceived) {
      // A side that ends too still has its own answer to come.
      if (this.#held.length === 0 && !this.#paused && (!this.#ending || this.#released)) this.#finish(undefined)
    } else if (this.#read + WINDOW_BYTES - this.#granted >= GRANT_BYTES) {
      this.#granted = this.#read + WINDOW_BYTES
      this.#say(String(this.#granted))
    }
  }

  #say(text: string): void {
    if (this.#released || this.#channel.readyState !== 'open') return
    try {
      this.#channel.send(text)
    } catch (cause) {
      this.#cut(asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE', `cannot send to ${this.remote}`))
    }
  }

  #refuse(what: string): void {
    this.#release()
    this.#finish(new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.remote} sent ${what}`))
  }

  readonly #onState = (): void => {
    const state = this.#connection.connectionState
    if (state === 'failed' || state === 'closed') this.#onCut()
  }

  readonly #onCut = (): void => {
    this.#cut(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `the connection to ${this.remote} was cut`))
  }

  /** The connection is gone. What had come before an end in order may still be read. */
  #cut(error: PeerlineError | undefined): void {
    this.#release()
    // Not at once: this may be inside a call of the owner's.
    if (!this.#endReceived) queueMicrotask(() => this.#finish(error))
    else if (this.#ending) queueMicrotask(() => this.#finish(undefined))
  }

  #lingerOn(): void {
    this.#linger ??= setTimeout(() => this.#cut(undefined), LINGER_MS)
    this.#linger.unref?.()
  }

  /** Lets the connection go, at once. */
  #release(): void {
    if (this.#released) return
    this.#released = true
    clearTimeout(this.#linger)
    this.#channel.removeEventListener('message', this.#onMessage)
    this.#channel.removeEventListener('bufferedamountlow', this.#onLow)
    this.#channel.removeEventListener('close', this.#onCut)
    this.#connection.removeEventListener('connectionstatechange', this.#onState)
    this.#connection.close()
  }

  #finish(error: PeerlineError | undefined): void {
    if (this.#over) return
    this.#over = true
    this.#error = error
    this.#held.length = 0
    this.#queue.length = 0
    this.#queued = 0
    this.#handler?.close(error)
  }
}
