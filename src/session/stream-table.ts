/**
 * The streams of a session: numbers, limits, who may send next.
 *
 * Memory a peer can make us hold is bounded by `maxStreams` initial windows and one budget for windows that grew,
 * so that no stream's reader can starve another's.
 */
import { abortError, PeerlineError } from '../errors.ts'
import { StreamCode } from './codes.ts'
import { checkProtocol, type FrameWriter } from './frame.ts'
import type { PieceSource } from './outbox.ts'
import { type Piece, Stream, type StreamHost } from './stream.ts'

/** Streams open at once in each direction. */
export const DEFAULT_MAX_STREAMS = 256

/** Bytes by which all windows of a session together may grow beyond their first size: four of the largest. */
const WINDOW_BUDGET_BYTES = 67_108_864

/** Callers that may wait for a free stream. */
const MAX_WAITING_OPENS = 4_096

export interface StreamTableOptions {
  readonly initiator: boolean
  readonly maxStreams: number
  readonly onStream: (stream: Stream) => void
  readonly frames: () => FrameWriter
  readonly pump: () => void
  readonly schedulePump: () => void
  readonly rttMs: () => number
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
  #waiting: { resolve: () => void; reject: (error: PeerlineError) => void }[] = []
  #ended: PeerlineError | undefined

  constructor(options: StreamTableOptions) {
    this.#options = options
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
      signal?.addEventListener('abort', onAbort)
    })
  }

  // ---- frames from the other side ----

  onOpen(id: number, protocol: string, refuse: boolean): void {
    if (id !== this.#nextRemote) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `stream ${id} opened out of turn`)
    this.#nextRemote += 2
    if (refuse || this.#remoteOpen >= this.#options.maxStreams) {
      const code = refuse ? StreamCode.CANCELLED : StreamCode.BUSY
      this.sendReset(id, code)
      this.sendStop(id, code)
      return
    }
    this.#remoteOpen++
    const stream = new Stream(this, id, protocol)
    this.#streams.set(id, stream)
    this.#options.onStream(stream)
  }

  onData(id: number, data: Uint8Array, fin: boolean): void {
    const stream = this.find(id)
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
    const next = id % 2 === this.#nextLocal % 2 ? this.#nextLocal : this.#nextRemote
    if (id >= next) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `stream ${id} was never opened`)
    return undefined
  }

  // ---- what streams ask for ----

  get rttMs(): number {
    return this.#options.rttMs()
  }

  writeSmall(id: number, data: Uint8Array, fin: boolean): boolean {
    const frames = this.#options.frames()
    if (!frames.fits(data.length)) return false
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

  reserveWindow(bytes: number): boolean {
    if (bytes > this.#budget) return false
    this.#budget -= bytes
    return true
  }

  releaseWindow(bytes: number): void {
    this.#budget += bytes
  }

  streamDone(stream: Stream): void {
    if (!this.#streams.delete(stream.id)) return
    if (stream.id % 2 === this.#nextLocal % 2) {
      this.#localOpen--
      this.#waiting.shift()?.resolve()
    } else this.#remoteOpen--
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
