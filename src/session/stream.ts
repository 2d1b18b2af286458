/**
 * A stream: an ordered, reliable, flow-controlled run of bytes each way, inside a session.
 *
 *     writing:  open --end()--> ended          reading:  open --FIN--> finished
 *                 \--reset()/STOP--> failed                \--RESET/cancel--> failed
 *
 * - The two directions end by themselves (half-close); the stream is done when both have.
 * - The reader grants offsets (WINDOW frames); the writer never passes them. The window starts at 256 KiB and doubles
 *   while the reader empties half of it within two round trips, so that it follows the bandwidth-delay product.
 * - `write` resolves when its bytes may be reused by the caller: they were sealed, or copied when few.
 */
import { abortError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import { StreamCode, streamError } from './codes.ts'

/** Bytes of credit a new stream has at once: fills 20 Mbit/s at 100 ms without waiting for a first grant. */
export const INITIAL_WINDOW_BYTES = 262_144

/** Bytes of the largest window: 16 MiB fill 1 Gbit/s at 130 ms. */
export const MAX_WINDOW_BYTES = 16_777_216

/** Bytes up to which a write is copied into the batch of its turn instead of being sealed by itself. */
export const SMALL_WRITE_BYTES = 4_096

/** Bytes that may wait in one stream when a caller does not await its writes. */
const MAX_QUEUED_BYTES = 67_108_864

/** Unread chunks above which small ones are joined, so that a reader that sleeps costs bytes, not objects. */
const JOIN_ABOVE_CHUNKS = 64
const JOIN_BYTES = 4_096

/** What a stream needs of its session. */
export interface StreamHost {
  /** Takes a small piece into the present batch, if it fits there. */
  writeSmall(stream: number, data: Uint8Array, fin: boolean): boolean
  /** The stream has data waiting; the session takes it piece by piece with `nextPiece`. */
  wantSend(stream: Stream): void
  sendReset(stream: number, code: number): void
  sendStop(stream: number, code: number): void
  sendWindow(stream: number, offset: number): void
  /** How many of `bytes` may be granted now; with fewer than all, `grantMore` is called when there are more. */
  credit(stream: Stream, bytes: number): number
  /** Counts `bytes` that are kept here; false when there is no memory for them. */
  hold(bytes: number): boolean
  /** Gives back `bytes` that were held. */
  release(bytes: number): void
  /** Takes `bytes` from the session's budget for larger windows; false when it is used up. */
  reserveWindow(bytes: number): boolean
  /** Gives `bytes` of that budget back: nothing more is read, and `unused` bytes that were granted have not come. */
  releaseWindow(bytes: number, unused: number): void
  /** Round-trip time of the path in use, ms. */
  readonly rttMs: number
  /** Both directions have ended. */
  streamDone(stream: Stream): void
}

/** Takes what arrives as it arrives, in place of an iterator. */
export interface StreamSink {
  data(chunk: Uint8Array): void
  end(): void
  error(error: PeerlineError): void
}

interface QueuedWrite {
  readonly data: Uint8Array
  sent: number
  resolve: (() => void) | undefined
  reject: ((error: PeerlineError) => void) | undefined
}

interface Waiter {
  resolve(result: IteratorResult<Uint8Array, undefined>): void
  reject(error: PeerlineError): void
}

const DONE = Promise.resolve()
const END: IteratorResult<Uint8Array, undefined> = { value: undefined, done: true }

/** A piece of a stream on its way into a record. */
export interface Piece {
  readonly stream: number
  readonly data: Uint8Array
  readonly fin: boolean
}

/** A bidirectional byte stream for one named protocol. */
export class Stream implements AsyncIterableIterator<Uint8Array, undefined> {
  /** Number within the session. */
  readonly id: number
  /** What it was opened for, such as `/greet/1`. */
  readonly protocol: string

  readonly #host: StreamHost

  // writing
  #sendOffset = 0
  #sendLimit = INITIAL_WINDOW_BYTES
  #queue: QueuedWrite[] = []
  #queuedBytes = 0
  #finWanted = false
  #onFin: { resolve: () => void; reject: (error: PeerlineError) => void } | undefined
  #sendDone = false
  #sendError: PeerlineError | undefined
  /** True while it stands in the session's round of senders. */
  scheduled = false

  // reading
  #chunks: Uint8Array[] = []
  #head = 0
  /** Bytes in `#chunks`, and those that whoever reads keeps until the stream is done: both are held. */
  #unread = 0
  #retained = 0
  #receiveOffset = 0
  #consumed = 0
  #granted = INITIAL_WINDOW_BYTES
  #window = INITIAL_WINDOW_BYTES
  #grantedAt = 0
  /** True while it stands in the session's round of readers. */
  awaitsCredit = false
  #finReceived = false
  #receiveDone = false
  #receiveError: PeerlineError | undefined
  #waiter: Waiter | undefined
  #sink: StreamSink | undefined
  #onDone: (() => void)[] | undefined
  #onStopped: (() => void)[] | undefined

  /** @internal Streams come from `Session.open` and from handlers. */
  constructor(host: StreamHost, id: number, protocol: string) {
    this.#host = host
    this.id = id
    this.protocol = protocol
  }

  // ---- writing ----

  /**
   * Writes `data`; awaiting it is the back-pressure.
   * @param options.signal when it fires while the write waits, the whole stream is reset: part of it may have gone out
   * @throws PeerlineError the stream's own end: `ERR_PEERLINE_CLOSED`, `ERR_PEERLINE_RESET`, `ERR_PEERLINE_PATH_LOST`, …;
   *   `ERR_PEERLINE_LIMIT` when more than 64 MiB wait because earlier writes were not awaited
   */
  write(data: Uint8Array, options?: { signal?: AbortSignal }): Promise<void> {
    if (this.#sendError !== undefined) return Promise.reject(this.#sendError)
    if (this.#finWanted) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_CLOSED', `${this.protocol}: write after end`))
    }
    if (data.length === 0) return DONE
    if (
      data.length <= SMALL_WRITE_BYTES &&
      this.#queue.length === 0 &&
      data.length <= this.#sendLimit - this.#sendOffset &&
      this.#host.writeSmall(this.id, data, false)
    ) {
      this.#sendOffset += data.length
      return DONE
    }
    const tooMuch = this.#tooMuch(data)
    if (tooMuch !== undefined) return Promise.reject(tooMuch)
    const item: QueuedWrite = { data, sent: 0, resolve: undefined, reject: undefined }
    this.#queue.push(item)
    this.#queuedBytes += data.length
    this.#host.wantSend(this)
    if (item.sent === data.length) return DONE
    // The session may have ended in that call.
    if (this.#sendError !== undefined) return Promise.reject(this.#sendError)
    const written = new Promise<void>((resolve, reject) => {
      item.resolve = resolve
      item.reject = reject
    })
    const signal = options?.signal
    return signal === undefined ? written : this.#abortable(written, signal)
  }

  async #abortable(written: Promise<void>, signal: AbortSignal): Promise<void> {
    const onAbort = () => this.#fail(abortError(signal, `writing to ${this.protocol}`), StreamCode.CANCELLED)
    if (signal.aborted) onAbort()
    else whenAborted(signal, onAbort)
    try {
      await written
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  /**
   * Ends the writing direction, after `data` when given; the other side reads to the end. Reading goes on. Resolves when
   * the end is on its way with all before it: giving up the stream after that takes nothing back.
   * @throws as {@link write}
   */
  async end(data?: Uint8Array): Promise<void> {
    if (this.#sendError !== undefined) throw this.#sendError
    if (this.#finWanted) {
      if (data === undefined || data.length === 0) return
      throw new PeerlineError('ERR_PEERLINE_CLOSED', `${this.protocol}: write after end`)
    }
    if (
      this.#queue.length === 0 &&
      (data === undefined || (data.length <= SMALL_WRITE_BYTES && data.length <= this.#sendLimit - this.#sendOffset)) &&
      this.#host.writeSmall(this.id, data ?? EMPTY, true)
    ) {
      this.#finWanted = true
      this.#sendOffset += data?.length ?? 0
      this.#sendFinished()
      return
    }
    const tooMuch = data === undefined ? undefined : this.#tooMuch(data)
    if (tooMuch !== undefined) throw tooMuch
    const written = data === undefined ? DONE : this.write(data)
    this.#finWanted = true
    if (this.#queue.length === 0) {
      // Either everything went out in the call above, or the batch was full: an empty piece carries the FIN.
      this.#queue.push({ data: EMPTY, sent: 0, resolve: undefined, reject: undefined })
    }
    this.#host.wantSend(this)
    if (this.#sendDone) {
      if (this.#sendError === undefined) return written
      await written
      throw this.#sendError
    }
    const sealed = new Promise<void>((resolve, reject) => {
      this.#onFin = { resolve, reject }
    })
    await Promise.all([written, sealed])
  }

  #tooMuch(data: Uint8Array): PeerlineError | undefined {
    if (this.#queuedBytes === 0 || this.#queuedBytes + data.length <= MAX_QUEUED_BYTES) return undefined
    return new PeerlineError('ERR_PEERLINE_LIMIT', `${this.protocol}: more than 64 MiB wait; await each write`)
  }

  /** @internal True while a write waits to be sealed. */
  get queued(): boolean {
    return this.#queue.length > 0
  }

  /** @internal The next piece to seal, of at most `max` bytes; undefined when nothing may go out now. */
  nextPiece(max: number): Piece | undefined {
    const item = this.#queue[0]
    if (item === undefined) return undefined
    const left = item.data.length - item.sent
    const size = Math.min(left, max, this.#sendLimit - this.#sendOffset)
    if (size === 0 && left > 0) return undefined
    const whole = item.sent === 0 && size === item.data.length
    const data = whole ? item.data : item.data.subarray(item.sent, item.sent + size)
    return { stream: this.id, data, fin: size === left && this.#queue.length === 1 && this.#finWanted }
  }

  /** @internal The piece was sealed. */
  pieceSent(piece: Piece): void {
    const item = this.#queue[0]!
    item.sent += piece.data.length
    this.#sendOffset += piece.data.length
    this.#queuedBytes -= piece.data.length
    if (item.sent === item.data.length) {
      this.#queue.shift()
      item.resolve?.()
    }
    if (piece.fin) this.#sendFinished()
  }

  /** @internal A WINDOW frame came. */
  onWindow(offset: number): void {
    if (offset <= this.#sendLimit) return
    this.#sendLimit = offset
    if (this.#queue.length > 0) this.#host.wantSend(this)
  }

  /** @internal A STOP frame came: the other side reads no more. True when that gives up what we write. */
  onStop(code: number): boolean {
    if (this.#sendDone) return false
    this.#host.sendReset(this.id, code)
    this.#sendFailed(streamError(code, this.protocol))
    return true
  }

  #sendFinished(): void {
    this.#sendDone = true
    this.#onFin?.resolve()
    this.#tellStopped()
    this.#checkDone()
  }

  /** Resolves when nothing more can be written: all is on its way, or the other side wants no more, or is lost. */
  get stopped(): Promise<void> {
    if (this.#sendDone) return DONE
    return new Promise((resolve) => {
      this.#onStopped ??= []
      this.#onStopped.push(resolve)
    })
  }

  #tellStopped(): void {
    if (this.#onStopped !== undefined) for (const tell of this.#onStopped) tell()
    this.#onStopped = undefined
  }

  #sendFailed(error: PeerlineError): void {
    if (this.#sendDone) {
      this.#sendError ??= error
      return
    }
    this.#sendError = error
    this.#sendDone = true
    const queue = this.#queue
    this.#queue = []
    this.#queuedBytes = 0
    for (const item of queue) item.reject?.(error)
    this.#onFin?.reject(error)
    this.#tellStopped()
    this.#checkDone()
  }

  // ---- reading ----

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next chunk; done when the other side has ended. One reader at a time. */
  next(): Promise<IteratorResult<Uint8Array, undefined>> {
    const chunk = this.#take()
    if (chunk !== undefined) return Promise.resolve({ value: chunk, done: false })
    if (this.#receiveError !== undefined) return Promise.reject(this.#receiveError)
    if (this.#finReceived || this.#receiveDone) return Promise.resolve(END)
    if (this.#waiter !== undefined || this.#sink !== undefined) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', `${this.protocol}: two readers on one stream`))
    }
    return new Promise((resolve, reject) => {
      this.#waiter = { resolve, reject }
    })
  }

  /** Called by `break` in a `for await`: reads no more, and tells the other side. */
  return(): Promise<IteratorResult<Uint8Array, undefined>> {
    this.cancel()
    return Promise.resolve(END)
  }

  /** Reads no more: what comes is dropped and the other side is told to stop. Writing goes on. */
  cancel(code: number = StreamCode.CANCELLED): void {
    if (this.#receiveDone) return
    if (!this.#finReceived) this.#host.sendStop(this.id, code)
    this.#drop()
    this.#receiveFinished()
    this.#waiter?.resolve(END)
    this.#waiter = undefined
  }

  /** @internal Hands what comes to `sink` instead of an iterator. */
  pipeTo(sink: StreamSink): void {
    this.#sink = sink
    for (;;) {
      const chunk = this.#take()
      if (chunk === undefined) break
      sink.data(chunk)
    }
    if (this.#receiveError !== undefined) sink.error(this.#receiveError)
    else if (this.#finReceived) sink.end()
  }

  #take(): Uint8Array | undefined {
    if (this.#head === this.#chunks.length) return undefined
    const chunk = this.#chunks[this.#head]!
    this.#unread -= chunk.length
    this.#host.release(chunk.length)
    this.#chunks[this.#head++] = EMPTY
    if (this.#head === this.#chunks.length) {
      this.#chunks.length = 0
      this.#head = 0
    } else if (this.#head >= 1024) {
      this.#chunks = this.#chunks.slice(this.#head)
      this.#head = 0
    }
    this.#consume(chunk.length)
    return chunk
  }

  #consume(bytes: number): void {
    this.#consumed += bytes
    if (this.#finReceived) {
      if (this.#chunks.length === 0) this.#receiveFinished()
      return
    }
    if (this.#receiveDone || this.awaitsCredit || this.#granted - this.#consumed > this.#window / 2) return
    const now = performance.now()
    if (now - this.#grantedAt < 2 * this.#host.rttMs && this.#window < MAX_WINDOW_BYTES) {
      if (this.#host.reserveWindow(this.#window)) this.#window *= 2
    }
    this.#grantedAt = now
    this.grantMore()
  }

  /** @internal Grants what the window has room for, as far as the session gives credit for it. */
  grantMore(): void {
    if (this.#receiveDone || this.#finReceived) return
    const bytes = this.#host.credit(this, this.#consumed + this.#window - this.#granted)
    if (bytes === 0) return
    this.#granted += bytes
    this.#host.sendWindow(this.id, this.#granted)
  }

  /** @internal Of the next `bytes` that come, those that no grant was for: the first window, and what comes after the end. */
  ungranted(bytes: number): number {
    if (this.#receiveDone) return bytes
    return Math.min(bytes, Math.max(0, INITIAL_WINDOW_BYTES - this.#receiveOffset))
  }

  /**
   * @internal A DATA frame came.
   * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when it passes the window or comes after the end
   */
  onData(data: Uint8Array, fin: boolean): void {
    if (this.#finReceived) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'data after the end of a stream')
    this.#receiveOffset += data.length
    if (this.#receiveDone) return
    if (this.#receiveOffset > this.#granted) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'data beyond the window of a stream')
    }
    if (fin) this.#finReceived = true
    if (data.length > 0) {
      if (this.#sink !== undefined) {
        this.#sink.data(data)
        this.#consume(data.length)
      } else if (this.#waiter !== undefined) {
        const waiter = this.#waiter
        this.#waiter = undefined
        waiter.resolve({ value: data, done: false })
        this.#consume(data.length)
      } else if (!this.#keep(data)) return
    }
    if (!fin) return
    if (this.#chunks.length === 0) this.#receiveFinished()
    this.#sink?.end()
    this.#waiter?.resolve(END)
    this.#waiter = undefined
  }

  /** Keeps a chunk for a later read, joined to the last one when many small ones wait. Without memory the stream fails. */
  #keep(data: Uint8Array): boolean {
    if (!this.#host.hold(data.length)) {
      const text = `${this.protocol}: the memory for what is not read is used up`
      this.#fail(new PeerlineError('ERR_PEERLINE_LIMIT', text), StreamCode.BUSY)
      return false
    }
    this.#unread += data.length
    const last = this.#chunks.length - 1
    if (last - this.#head >= JOIN_ABOVE_CHUNKS && this.#chunks[last]!.length + data.length <= JOIN_BYTES) {
      this.#chunks[last] = Buffer.concat([this.#chunks[last]!, data])
    } else this.#chunks.push(data)
    return true
  }

  /** Drops what is not read. */
  #drop(): void {
    this.#chunks = []
    this.#head = 0
    this.#host.release(this.#unread)
    this.#unread = 0
  }

  /** @internal Counts `bytes` that were read and are kept until the stream is done; false when there is no memory for them. */
  retain(bytes: number): boolean {
    if (this.done || !this.#host.hold(bytes)) return false
    this.#retained += bytes
    return true
  }

  /** @internal A RESET frame came. True when that gives up what we read. */
  onReset(code: number): boolean {
    if (this.#receiveDone || this.#finReceived) return false
    this.#receiveFailed(streamError(code, this.protocol))
    return true
  }

  #receiveFinished(): void {
    if (this.#receiveDone) return
    this.#receiveDone = true
    const unused = this.#granted - Math.max(this.#receiveOffset, INITIAL_WINDOW_BYTES)
    this.#host.releaseWindow(this.#window - INITIAL_WINDOW_BYTES, unused)
    this.#checkDone()
  }

  #receiveFailed(error: PeerlineError): void {
    // What has come whole is there to be read.
    if (!this.#finReceived || this.#chunks.length === 0) this.#receiveGivenUp(error)
  }

  #receiveGivenUp(error: PeerlineError): void {
    if (this.#receiveDone) return
    this.#receiveError = error
    this.#drop()
    this.#receiveFinished()
    this.#sink?.error(error)
    this.#waiter?.reject(error)
    this.#waiter = undefined
  }

  // ---- ends ----

  /** Gives up both directions; the other side sees `code`. Applications use codes from 256 on. */
  reset(code: number = StreamCode.CANCELLED): void {
    this.#fail(new PeerlineError('ERR_PEERLINE_CLOSED', `${this.protocol}: the stream was reset here`), code)
  }

  #fail(error: PeerlineError, code: number): void {
    if (!this.#sendDone) this.#host.sendReset(this.id, code)
    if (!this.#receiveDone && !this.#finReceived) this.#host.sendStop(this.id, code)
    this.#sendFailed(error)
    this.#receiveGivenUp(error)
  }

  /** @internal The session has ended: what has not ended fails with `error`; a direction received whole is kept. */
  abort(error: PeerlineError): void {
    this.#sendFailed(error)
    this.#receiveFailed(error)
  }

  /** True when both directions have ended. */
  get done(): boolean {
    return this.#sendDone && this.#receiveDone
  }

  /** Resolves when both directions have ended, whichever way. */
  get closed(): Promise<void> {
    if (this.done) return DONE
    return new Promise((resolve) => {
      this.#onDone ??= []
      this.#onDone.push(resolve)
    })
  }

  #checkDone(): void {
    if (!this.done) return
    this.#host.release(this.#retained)
    this.#retained = 0
    this.#host.streamDone(this)
    if (this.#onDone !== undefined) for (const tell of this.#onDone) tell()
    this.#onDone = undefined
  }

  /** Resets the stream unless it has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.done) this.reset()
  }
}

const EMPTY = new Uint8Array(0)
