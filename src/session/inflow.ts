/**
 * How fast the other side may send: bytes of streams and datagrams per second, in one session.
 *
 *     first window of a stream --charged as it comes--\
 *     bytes beyond it ---------charged as granted-----> pacer --room--> streams handed on, then grants, in turn
 *     bytes for a stream that ended --charged as they come--/
 *
 * - The rate works through the credit of streams, not by reading less from the paths. A path that is not read answers no
 *   ping, so that the other side would take it for dead, seek others and at last give it up; it would hold up our own
 *   acknowledgements and grants, and with UDP it would hold up nothing at all. So nothing of a stream is ever dropped,
 *   control frames pass freely, and whoever sends waits for credit as for a slow reader.
 * - A new stream has 256 KiB of credit that nobody can withhold. So while more has come than may, new streams are kept
 *   back: they are handed on when the debt is paid off. Their opener has 256 open at most, and waits then by itself.
 * - Datagrams beyond the rate are dropped; they have no credit, and may be lost.
 * - Who respects windows and counts cannot owe {@link MAX_DEBT_BYTES}: beyond that, the session ends with
 *   `ERR_PEERLINE_LIMIT`.
 */
import { PeerlineError } from '../errors.ts'
import { type ByteRate, Pacer } from './byte-rate.ts'
import type { Stream } from './stream.ts'

/**
 * Bytes that may be owed: the first windows of 256 streams that run and of as many that are kept back, and as much again for
 * what was on its way to streams that we gave up.
 */
export const MAX_DEBT_BYTES = 268_435_456

export class Inflow {
  readonly #pacer: Pacer
  readonly #onStream: (stream: Stream) => void
  /** New streams that are kept back, oldest first. */
  readonly #kept = new Set<Stream>()
  /** Streams that wait for credit, in turn. */
  readonly #waiting = new Set<Stream>()

  /**
   * @param guard runs what a timer set off
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a rate that is none
   */
  constructor(rate: ByteRate, onStream: (stream: Stream) => void, guard: (run: () => void) => void) {
    this.#onStream = onStream
    this.#pacer = new Pacer(rate, () => guard(() => this.#run()))
  }

  /** A stream was opened: it is handed on, now or later. */
  onOpen(stream: Stream): void {
    if (this.#kept.size === 0 && this.#pacer.debt === 0) return this.#onStream(stream)
    this.#kept.add(stream)
    this.#pacer.wait()
  }

  /**
   * `bytes` came that no grant has paid for.
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when more is owed than can come about in order
   */
  charge(bytes: number): void {
    this.#pacer.spend(bytes)
    if (this.#pacer.debt <= MAX_DEBT_BYTES) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `the other side sent ${MAX_DEBT_BYTES} bytes more than its rate`)
  }

  /** A datagram of `bytes` came; false: it is dropped. */
  takeDatagram(bytes: number): boolean {
    if (this.#pacer.debt > 0) return false
    this.#pacer.spend(bytes)
    return true
  }

  /** How many of `wanted` bytes a stream may grant now. With fewer than all, its `grantMore` is called when there are more. */
  credit(stream: Stream, wanted: number): number {
    const bytes = Math.min(wanted, this.#pacer.room)
    this.#pacer.spend(bytes)
    stream.awaitsCredit = bytes < wanted
    if (stream.awaitsCredit) {
      this.#waiting.add(stream)
      this.#pacer.wait()
    }
    return bytes
  }

  /** Nothing more comes on a stream, of what was granted not even `bytes`. */
  refund(bytes: number): void {
    if (bytes > 0) this.#pacer.refund(bytes)
  }

  /** A stream is done: its opener may give up what is kept back, and open the next, without end. */
  onDone(stream: Stream): void {
    this.#kept.delete(stream)
    this.#waiting.delete(stream)
  }

  #run(): void {
    if (this.#pacer.debt === 0) {
      for (const stream of this.#kept) {
        this.#kept.delete(stream)
        this.#onStream(stream)
      }
    }
    for (const stream of this.#waiting) {
      if (this.#pacer.room === 0) break
      // It stands at the end again when it wants more.
      this.#waiting.delete(stream)
      stream.awaitsCredit = false
      stream.grantMore()
    }
    if (this.#kept.size > 0 || this.#waiting.size > 0) this.#pacer.wait()
  }

  close(): void {
    this.#pacer.close()
    this.#kept.clear()
    this.#waiting.clear()
  }
}
