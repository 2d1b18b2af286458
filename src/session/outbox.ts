/**
 * What a session sends: frames become records, records are kept until acknowledged, and go out again, sealed as they
 * were, when the path they went on is lost, or left with a long tail.
 *
 *     frames, bulk pieces --seal--> unacknowledged --ack--> forgotten
 *                                     |     ^
 *                  path lost or left  v     |  sent again, in order, on the next path
 *                                   resend -+
 *
 * - A record is sealed only when a path takes it, so that what waits, waits as plain frames or with its writer.
 * - At most {@link MAX_IN_FLIGHT_BYTES} are unacknowledged, and no more than the memory of all sessions allows beyond the
 *   first 256 KiB; above that, writers wait. Their own acknowledgements wake them: whatever others hold, those come.
 * - Bulk waits for the rate of the session, if there is one. Control frames do not, and what is sent again was counted.
 * - Each path is told what it was sent and what of it arrived; a record that went on two paths counts for neither.
 */
import { PeerlineError } from '../errors.ts'
import type { Pacer } from './byte-rate.ts'
import { FrameWriter } from './frame.ts'
import { Allowance, MemoryBudget, type MemoryShare } from './memory-budget.ts'
import type { SendLoad } from './path-chooser.ts'
import type { PathState } from './paths.ts'
import { REKEY_MS, REKEY_RECORDS, Sealer } from './record.ts'
import type { Piece } from './stream.ts'

/** Unacknowledged bytes of a session: 16 MiB fill 1 Gbit/s at 130 ms. The receiver holds as much when paths change. */
export const MAX_IN_FLIGHT_BYTES = 16_777_216

/** Bytes of bulk data in one record: what one `write` of 64 KiB fills. */
export const MAX_PIECE_BYTES = 65_536

/** Frames up to this many bytes share a record with a full piece; more go ahead in one of their own. */
const MAX_FRAMES_BESIDE_PIECE_BYTES = 900

/** Control frames that wait while no path takes any: what the other side can make us queue ends here. */
const MAX_WAITING_FRAME_BYTES = 1_048_576

/** Bytes that one unacknowledged record costs besides its own, so that many small ones are bounded too, here and there. */
const SENT_OVERHEAD_BYTES = 128

/** Bytes of the frames of a loose record: one acknowledgement, ping or pong. */
const LOOSE_BATCH_BYTES = 64

interface SentRecord {
  readonly count: number
  readonly parts: Uint8Array[]
  readonly bytes: number
  /** The path it last went on; undefined while it waits to be sent again. */
  path: PathState | undefined
  /** It went more than once: nobody knows which copy is acknowledged. */
  again: boolean
}

/** Where bulk pieces come from. */
export interface PieceSource {
  /** Something is waiting that may go out now. */
  ready(): boolean
  /** Something is waiting at all, be it for credit. */
  pending(): boolean
  next(max: number): Piece | undefined
  sent(piece: Piece): void
}

export interface RekeyLimits {
  /** Ordered records under one key. @default 2^20 */
  readonly records?: number
  /** ms under one key. @default 3_600_000 */
  readonly ms?: number
}

export interface OutboxOptions {
  readonly rekey?: RekeyLimits | undefined
  readonly memory?: MemoryShare
  /** Holds back bulk. @default nothing */
  readonly pacer?: Pacer | undefined
}

/** The sending half of a session. */
export class Outbox implements SendLoad {
  readonly frames: FrameWriter = new FrameWriter()
  readonly #sealer: Sealer
  readonly #source: PieceSource
  readonly #rekeyRecords: number
  readonly #rekeyMs: number
  /** The number of the first record under this key. */
  #epochFirst = 0
  #epochSince = performance.now()
  /** Unacknowledged records in order; those before `#head` are acknowledged. */
  #unacked: (SentRecord | undefined)[] = []
  #head = 0
  #inFlight = 0
  #resend: SentRecord[] = []
  #acked = 0
  readonly #allowance: Allowance
  readonly #pacer: Pacer | undefined

  constructor(key: Uint8Array, source: PieceSource, options: OutboxOptions = {}) {
    const { rekey = {}, memory = new MemoryBudget().share(), pacer } = options
    this.#sealer = new Sealer(key)
    this.#source = source
    this.#rekeyRecords = rekey.records ?? REKEY_RECORDS
    this.#rekeyMs = rekey.ms ?? REKEY_MS
    this.#allowance = new Allowance(memory, MAX_IN_FLIGHT_BYTES)
    this.#pacer = pacer
  }

  /** Bytes sent and not acknowledged. */
  get inFlight(): number {
    return this.#inFlight
  }

  /** True when nothing waits and everything sent has been acknowledged. */
  get empty(): boolean {
    return this.#inFlight === 0 && this.frames.bytes === 0 && !this.#source.pending()
  }

  /** The key epoch in use, counted from 0. */
  get epoch(): number {
    return this.#sealer.epoch
  }

  /** Records acknowledged so far. */
  get acked(): number {
    return this.#acked
  }

  /**
   * True when more waits than credit, or the bound on what is unacknowledged, lets go out. What waits for our own rate says
   * nothing of the path, or of the other side.
   */
  get held(): boolean {
    if (this.#inFlight >= MAX_IN_FLIGHT_BYTES || this.#resend.length > 0) return true
    return !this.#pacer?.waiting && this.#source.pending()
  }

  /** The path on which the first unacknowledged record went last. */
  get oldestPath(): PathState | undefined {
    return this.#unacked[this.#head]?.path
  }

  /**
   * Sends what may go on `path`, until it wants a pause.
   * @param takeAck the acknowledgement that is due there, if any; asked once per record, since it rides along
   */
  pump(path: PathState, takeAck: (path: PathState) => number | undefined): void {
    const { frames } = this
    while (path.path.writable) {
      const again = this.#resend.shift()
      if (again !== undefined) {
        if (again.count < this.#acked) continue
        again.path = path
        again.again = true
        this.#count(again, path)
        path.path.send(again.parts)
        continue
      }
      if (!this.#allowance.holds(this.#inFlight + 1)) break
      const room = this.#source.ready() ? this.#bulkRoom() : 0
      if (frames.bytes === 0 && room === 0) break
      if (frames.fits(0)) {
        const ack = takeAck(path)
        if (ack !== undefined) frames.ack(ack)
      }
      let piece: Piece | undefined
      if (room > 0 && frames.fits(0) && frames.bytes <= MAX_FRAMES_BESIDE_PIECE_BYTES) {
        piece = this.#source.next(room)
        if (piece !== undefined) {
          frames.dataToEnd(piece.stream, piece.fin)
          this.#pacer?.spend(piece.data.length)
        }
      }
      const batch = frames.take()
      if (batch === undefined) break
      const record = this.#seal(path, batch, piece?.data)
      // Told before it goes out: a path that ends in `send` sets off another round in here.
      if (piece !== undefined) this.#source.sent(piece)
      path.path.send(record.parts)
    }
    frames.release()
    if (frames.bytes > MAX_WAITING_FRAME_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', 'the other side asks for more than it reads')
    }
  }

  /** Bytes that the next piece may have; 0: it has to wait. */
  #bulkRoom(): number {
    if (this.#pacer === undefined) return MAX_PIECE_BYTES
    const { room } = this.#pacer
    if (room === 0) this.#pacer.wait()
    return Math.min(room, MAX_PIECE_BYTES)
  }

  #seal(path: PathState, frames: Uint8Array, body: Uint8Array | undefined): SentRecord {
    this.#advanceKey()
    const count = this.#sealer.next
    const parts = this.#sealer.ordered(frames, body)
    let bytes = SENT_OVERHEAD_BYTES
    for (const part of parts) bytes += part.length
    const record: SentRecord = { count, parts, bytes, path, again: false }
    this.#unacked.push(record)
    this.#inFlight += bytes
    this.#count(record, path)
    return record
  }

  #count({ bytes }: SentRecord, path: PathState): void {
    path.unackedBytes += bytes
    path.sentBytes += bytes - SENT_OVERHEAD_BYTES
  }

  /**
   * The next key, when this one has done enough, and a record under it was acknowledged: then the receiver has derived
   * it, and has no more use for the one before it.
   */
  #advanceKey(): void {
    const { next } = this.#sealer
    if (next - this.#epochFirst < this.#rekeyRecords && performance.now() - this.#epochSince < this.#rekeyMs) return
    if (this.#acked <= this.#epochFirst) return
    this.#sealer.advance()
    this.#epochFirst = next
    this.#epochSince = performance.now()
  }

  /** Sends frames that are worth nothing later, for `path` alone. */
  sendLoose(path: PathState, write: (frames: FrameWriter) => void): void {
    const frames = new FrameWriter(LOOSE_BATCH_BYTES)
    write(frames)
    path.path.send(this.#sealer.loose(frames.take()!, path.number))
  }

  /**
   * Everything below `number` has arrived.
   * @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when that was never sent
   */
  ack(number: number): void {
    if (number > this.#sealer.next) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the other side acknowledged what was never sent')
    }
    if (number <= this.#acked) return
    this.#acked = number
    const unacked = this.#unacked
    while (this.#head < unacked.length) {
      const record = unacked[this.#head]!
      if (record.count >= number) break
      const { bytes, path } = record
      this.#inFlight -= bytes
      if (path !== undefined) {
        path.unackedBytes -= bytes
        if (!record.again) path.deliveredBytes += bytes - SENT_OVERHEAD_BYTES
      }
      unacked[this.#head++] = undefined
    }
    this.#allowance.shrink(this.#inFlight)
    if (this.#head === unacked.length) {
      unacked.length = 0
      this.#head = 0
    } else if (this.#head >= 1024) {
      this.#unacked = unacked.slice(this.#head)
      this.#head = 0
    }
  }

  /**
   * What went on `path` and is unacknowledged goes out again, before anything new: the path was lost, or is left with a
   * tail that would hold up everything behind it. The other side drops whichever copy comes second.
   */
  takeBack(path: PathState): void {
    const resend: SentRecord[] = []
    for (let at = this.#head; at < this.#unacked.length; at++) {
      const record = this.#unacked[at]!
      if (record.path === path) record.path = undefined
      if (record.path === undefined) resend.push(record)
    }
    this.#resend = resend
    path.unackedBytes = 0
  }

  /** Lets go of everything: the session has ended. */
  clear(): void {
    this.#unacked = []
    this.#head = 0
    this.#inFlight = 0
    this.#resend = []
  }
}
