/**
 * The streams of a session: numbers, limits, who may send next.
 *
 * - Memory a peer can make us hold is bounded by `maxStreams` initial windows and one budget for windows that grew,
 *   so that no stream's reader can starve another's. Both count in the budget of all sessions as well: windows when they
 *   grow, and beside them what is held, because nobody reads it or whoever read it keeps it, above {@link FREE_BYTES}. When that
 *   budget is used up, windows stay as they are, and the stream that wants to hold more is given up with BUSY. Who holds
 *   little is not touched by those who hold much.
 * - A stream that was given up makes room for the next at once, while what it set off here may go on: so a bound on those
 *   that are open bounds nothing for who opens and gives up. {@link GIVEN_UP} does.
 */
import { Bucket } from '../bucket.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import type { Pacer } from './byte-rate.ts'
import { StreamCode } from './codes.ts'
import { checkProtocol, type FrameWriter } from './frame.ts'
import type { Inflow } from './inflow.ts'
import { Allowance, type MemoryShare } from './memory-budget.ts'
import type { PieceSource } from './outbox.ts'
import { type Piece, Stream, type StreamHost } from './stream.ts'

/** Streams open at once in each direction. */
export const DEFAULT_MAX_STREAMS = 256

/** Bytes by which all windows of a session together may grow beyond their first size: four of the largest. */
const WINDOW_BUDGET_BYTES = 67_108_864

/** Bytes that a session may hold outside of the budget: two streams that are read late fill their first windows. */
const FREE_BYTES = 524_288

/** Callers that may wait for a free stream. */
const MAX_WAITING_OPENS = 4_096

/**
 * Streams of theirs that the other side may give up: the RESET and STOP frames that end a direction of one, and the streams
 * that are refused. A whole stream is two of them: 2,000 streams at once, eight times all that may be open, and 1,000 a second
 * from then on. People who cancel, and a program that gives up all its requests once, stay far below; and no more than that is
 * done in one turn of the event loop, in which everybody else waits.
 */
export const GIVEN_UP = { perSecond: 2_000, burst: 4_000 } as const

export interface StreamTableOptions {
  readonly initiator: boolean
  readonly maxStreams: number
  readonly onStream: (stream: Stream) => void
  readonly frames: () => FrameWriter
  readonly pump: () => void
  readonly schedulePump: () => void
  readonly rttMs: () => number
  readonly memory: MemoryShare
  /** Holds back what we send. @default nothing */
  readonly outflow: Pacer | undefined
  /** Holds back what the other side sends. @default nothing */
  readonly inflow: Inflow | undefined
}

export class StreamTable implements StreamHost, PieceSource {
  /** Bytes of the record that is being read: small data is copied out of it, so as not to keep all of it alive. */
  recordBytes = 0
  readonly #options: StreamTableOptions
  readonly #streams = new Map<number, Stream>()
  /** Streams with something to send, in turn. */
  #senders: Stream[] = []
  #nextLocal: number
  #nextRemote: number
  #localOpen = 0
  #remoteOpen = 0
  #budget = WINDOW_BUDGET_BYTES
  readonly #memory: Allowance
  #held = 0
  readonly #mayGiveUp = new Bucket(GIVEN_UP.perSecond, GIVEN_UP.burst)
  #waiting: { resolve: () => void; reject: (error: PeerlineError) => void }[] = []
  #ended: PeerlineError | undefined

  constructor(options: StreamTableOptions) {
    this.#options = options
    this.#memory = new Allowance(options.memory, Number.POSITIVE_INFINITY, FREE_BYTES)
    this.#nextLocal = options.initiator ? 0 : 1
    this.#nextRemote = options.initiator ? 1 : 0
  }

  get size(): number {
    return this.#streams.size
  }

  async open(protocol: string, signal: AbortSignal | undefined): Promise<Stream> {
    checkProtocol(protocol)
    while (this.#localOpen >= this.#options.maxStreams) await this.#turn(protocol, signal)
    if (this.#ended !== undefined) throw this.#ended
    const id = this.#nextLocal
    this.#nextLocal += 2
    this.#localOpen++
    const stream = new Stream(this, id, protocol)
    this.#streams.set(id, stream)
    this.#options.frames().open(id, protocol)
    this.#options.schedulePump()
    return stream
  }

  /** Waits until a stream of ours is done. */
  #turn(protocol: string, signal: AbortSignal | undefined): Promise<void> {
    if (this.#waiting.length >= MAX_WAITING_OPENS) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING_OPENS} streams wait to be opened already`)
    }
    return new Promise((resolve, reject) => {
      const entry = {
        resolve: () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        },
        reject: (error: PeerlineError) => {
          signal?.removeEventListener('abort', onAbort)
          reject(error)
        },
      }
      const onAbort = () => {
        this.#waiting = this.#waiting.filter((other) => other !== entry)
        entry.reject(abortError(signal!, `opening ${protocol}`))
      }
      this.#waiting.push(entry)
      whenAborted(signal, onAbort)
    })
  }

  // ---- frames from the other side ----

  onOpen(id: number, protocol: string, refuse: boolean): void {
    if (id !== this.#nextRemote) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `stream ${id} opened out of turn`)
    this.#nextRemote += 2
    const { maxStreams, inflow, onStream } = this.#options
    if (refuse || this.#remoteOpen >= maxStreams) {
      const code = refuse ? StreamCode.CANCELLED : StreamCode.BUSY
      this.sendReset(id, code)
      this.sendStop(id, code)
      this.#givenUp()
      return
    }
    this.#remoteOpen++
    const stream = new Stream(this, id, protocol)
    this.#streams.set(id, stream)
    if (inflow === undefined) onStream(stream)
    else inflow.onOpen(stream)
  }

  /** @throws PeerlineError `ERR_PEERLINE_LIMIT` when the other side gives up too many streams */
  onReset(id: number, code: number): void {
    if (this.find(id)?.onReset(code) && !this.#isLocal(id)) this.#givenUp()
  }

  /** @throws as {@link onReset} */
  onStop(id: number, code: number): void {
    if (this.find(id)?.onStop(code) && !this.#isLocal(id)) this.#givenUp()
  }

  #givenUp(): void {
    this.#mayGiveUp.spend(1)
    if (this.#mayGiveUp.balance >= 0) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', 'the other side opens streams only to give them up')
  }

  onData(id: number, data: Uint8Array, fin: boolean): void {
    const stream = this.find(id)
    this.#options.inflow?.charge(stream?.ungranted(data.length) ?? data.length)
    if (stream === undefined) return
    // What is small beside its record would keep the whole record in memory until it is read.
    // (Not with `slice`: of a Buffer that is a view.)
    stream.onData(data.length * 2 < this.recordBytes ? new Uint8Array(data) : data, fin)
  }

  /**
   * The stream with this number; undefined when it is done with.
   * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when it was never opened
   */
  find(id: number): Stream | undefined {
    const stream = this.#streams.get(id)
    if (stream !== undefined) return stream
    const next = this.#isLocal(id) ? this.#nextLocal : this.#nextRemote
    if (id >= next) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `stream ${id} was never opened`)
    return undefined
  }

  // ---- what streams ask for ----

  get rttMs(): number {
    return this.#options.rttMs()
  }

  writeSmall(id: number, data: Uint8Array, fin: boolean): boolean {
    const frames = this.#options.frames()
    if (!frames.fits(data.length) || this.#options.outflow?.take(data.length) === false) return false
    frames.data(id, data, fin)
    this.#options.schedulePump()
    return true
  }

  wantSend(stream: Stream): void {
    if (!stream.scheduled) {
      stream.scheduled = true
      this.#senders.push(stream)
    }
    this.#options.pump()
  }

  sendReset(id: number, code: number): void {
    this.#control((frames) => frames.reset(id, code))
  }

  sendStop(id: number, code: number): void {
    this.#control((frames) => frames.stop(id, code))
  }

  sendWindow(id: number, offset: number): void {
    this.#control((frames) => frames.window(id, offset))
  }

  #control(write: (frames: FrameWriter) => void): void {
    if (this.#ended !== undefined) return
    write(this.#options.frames())
    this.#options.schedulePump()
  }

  credit(stream: Stream, bytes: number): number {
    return this.#options.inflow?.credit(stream, bytes) ?? bytes
  }

  hold(bytes: number): boolean {
    if (!this.#memory.holds(this.#held + bytes - this.#grown)) return false
    this.#held += bytes
    return true
  }

  release(bytes: number): void {
    if (bytes === 0) return
    this.#held -= bytes
    this.#memory.shrink(this.#held - this.#grown)
  }

  /** Bytes by which windows have grown: what fills them is paid for. */
  get #grown(): number {
    return WINDOW_BUDGET_BYTES - this.#budget
  }

  reserveWindow(bytes: number): boolean {
    if (bytes > this.#budget || !this.#options.memory.take(bytes)) return false
    this.#budget -= bytes
    return true
  }

  releaseWindow(bytes: number, unused: number): void {
    this.#budget += bytes
    this.#options.memory.give(bytes)
    this.#options.inflow?.refund(unused)
  }

  streamDone(stream: Stream): void {
    if (!this.#streams.delete(stream.id)) return
    this.#options.inflow?.onDone(stream)
    if (this.#isLocal(stream.id)) {
      this.#localOpen--
      this.#waiting.shift()?.resolve()
    } else this.#remoteOpen--
  }

  #isLocal(id: number): boolean {
    return id % 2 === this.#nextLocal % 2
  }

  // ---- bulk, in turn ----

  ready(): boolean {
    return this.#senders.length > 0
  }

  pending(): boolean {
    for (const stream of this.#streams.values()) if (stream.queued) return true
    return false
  }

  next(max: number): Piece | undefined {
    for (;;) {
      const stream = this.#senders[0]
      if (stream === undefined) return undefined
      const piece = stream.nextPiece(max)
      if (piece !== undefined) return piece
      // Nothing to send, or no credit: a grant or a write puts it back.
      this.#senders.shift()
      stream.scheduled = false
    }
  }

  sent(piece: Piece): void {
    const stream = this.#senders.shift()!
    stream.pieceSent(piece)
    this.#senders.push(stream)
  }

  /** The session has ended. */
  abort(error: PeerlineError): void {
    this.#ended = error
    this.#senders = []
    for (const stream of [...this.#streams.values()]) stream.abort(error)
    this.#streams.clear()
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error)
  }
}
