/**
 * `/peerline/file/1`: one file, one stream.
 *
 *     sender                                            receiver
 *     { name, size, modified }        ------------->
 *                                     <-------------    { ok, offset, hash }    of what it has already
 *     { start }                       ------------->                            offset if the hash is right, else 0
 *     size - start bytes              ------------->
 *     { hash } FIN                    ------------->                            of the whole file
 *                                     <-------------    { ok, savedAs } FIN
 *
 * - A control message is a 4-byte big-endian length and CBOR, at most 4 KiB. Hashes are SHA-256. Times are ms since 1970.
 * - The receiver may say `{ ok: false, code, message }` FIN at any time, and reads no more.
 * - A FIN before the last message means: the file changed or cannot be read. A reset means: given up, may come again.
 * - Every wait has a deadline; where the other side hashes or writes, it grows with the size.
 */
import { decodeCbor, encodeCbor, type Fields, fields } from '../bytes/index.ts'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import { type Stream, StreamCode } from '../session/index.ts'
import { Deadline } from './deadline.ts'
import { failureOf, readFailure } from './failure.ts'

export const FILE_PROTOCOL = '/peerline/file/1'

/** Bytes of the largest control message: a name of 1,024 characters at 3 bytes, and to spare. */
const MAX_CONTROL_BYTES = 4_096
const LENGTH_BYTES = 4

/** Bytes of a SHA-256 hash. */
export const HASH_BYTES = 32

/** ms without a byte of the file before it is given up: far above any change of paths. It can be resumed. */
export const STALL_MS = 60_000

/** ms to wait for a message, besides the work it takes. */
const MESSAGE_MS = 30_000

/** Bytes that the slowest disk is taken to hash or flush in a ms: 20 MB/s. */
const SLOWEST_BYTES_PER_MS = 20_000

/** ms that a reason may take to come after the other side has stopped reading. */
const EXPLAIN_MS = 5_000

/** ms to wait for an answer that needs work on `bytes` of a file. */
export function patienceMs(bytes: number): number {
  return MESSAGE_MS + bytes / SLOWEST_BYTES_PER_MS
}

/** The stream of a file transfer, seen from either side. */
export class FileWire extends Deadline {
  readonly #stream: Stream
  readonly #signal: AbortSignal | undefined
  readonly #onAbort = () => this.#stop(abortError(this.#signal!, 'the file transfer'), StreamCode.CANCELLED)
  /** Read and not used yet. */
  #rest: Uint8Array | undefined
  #error: PeerlineError | undefined
  #saidLast = false

  constructor(stream: Stream, signal: AbortSignal | undefined) {
    super()
    this.#stream = stream
    this.#signal = signal
    if (signal?.aborted) this.#onAbort()
    else whenAborted(signal, this.#onAbort)
  }

  protected expired(): void {
    this.#stop(
      new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the other side of the file transfer is silent'),
      StreamCode.TIMEOUT,
    )
  }

  #stop(error: PeerlineError, code: number): void {
    this.#error ??= error
    this.#stream.reset(code)
  }

  /** @throws PeerlineError when the transfer was cancelled here: for loops that do not touch the stream */
  check(): void {
    if (this.#error !== undefined) throw this.#error
  }

  // ---- reading ----

  /**
   * The next control message; undefined when the other side ended before it.
   * @throws PeerlineError `ERR_PEERLINE_PROTOCOL`, `ERR_PEERLINE_TIMEOUT`, what ended the stream
   */
  async message(ms: number = MESSAGE_MS): Promise<Fields | undefined> {
    this.arm(ms)
    try {
      let held: Buffer = Buffer.alloc(0)
      let wanted = LENGTH_BYTES
      while (held.length < wanted) {
        const chunk = await this.#take()
        if (chunk === undefined) {
          if (held.length === 0) return undefined
          throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the stream ended inside a control message')
        }
        const knew = held.length >= LENGTH_BYTES
        held = Buffer.concat([held, chunk])
        if (knew || held.length < LENGTH_BYTES) continue
        wanted += held.readUInt32BE(0)
        if (wanted > MAX_CONTROL_BYTES) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a control message over 4 KiB')
      }
      if (held.length > wanted) this.#rest = held.subarray(wanted)
      return fields(decodeCbor(held.subarray(LENGTH_BYTES, wanted), { maxBytes: MAX_CONTROL_BYTES }), 'file message')
    } finally {
      this.disarm()
    }
  }

  /**
   * The receiver's next answer, which says `ok`.
   * @throws PeerlineError what the receiver says is wrong; otherwise as {@link message}
   */
  async answer(ms: number): Promise<Fields> {
    const message = await this.message(ms)
    if (message === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the receiver ended without an answer')
    if (!message.boolean('ok')) throw readFailure(message)
    return message
  }

  /** The next bytes of the file, at most `max`; undefined when the other side ended. */
  async bytes(max: number): Promise<Uint8Array | undefined> {
    this.arm(STALL_MS)
    try {
      const chunk = await this.#take()
      if (chunk === undefined || chunk.length <= max) return chunk
      this.#rest = chunk.subarray(max)
      return chunk.subarray(0, max)
    } finally {
      this.disarm()
    }
  }

  async #take(): Promise<Uint8Array | undefined> {
    const rest = this.#rest
    if (rest !== undefined) {
      this.#rest = undefined
      return rest
    }
    return (await this.#stream.next()).value
  }

  // ---- writing ----

  send(message: Record<string, unknown>): Promise<void> {
    return this.#stream.write(encodeControl(message))
  }

  /** Sends a piece of the file. @throws PeerlineError why the receiver stopped reading, if it says so */
  async sendBytes(piece: Uint8Array): Promise<void> {
    this.arm(STALL_MS)
    try {
      await this.#stream.write(piece)
    } catch (error) {
      this.check()
      await this.answer(EXPLAIN_MS)
      throw error
    } finally {
      this.disarm()
    }
  }

  /** Sends the last message of this side. */
  last(message: Record<string, unknown>): void {
    this.#saidLast = true
    this.#stream.end(encodeControl(message)).catch(ignore)
  }

  // ---- the end ----

  /** Receiver: tells the sender what is wrong. Answers the error to throw. */
  refuse(error: unknown): PeerlineError {
    const reason = this.#error ?? asPeerlineError(error, 'ERR_PEERLINE_REMOTE', 'the receiver failed')
    if (!this.#saidLast && !this.#stream.done) this.last({ ok: false, ...failureOf(error) })
    return reason
  }

  /** Sender: ends before the last message, because of the file. Answers `error`. */
  cutShort(error: PeerlineError): PeerlineError {
    this.#saidLast = true
    this.#stream.end().catch(ignore)
    return error
  }

  /** Sender: gives the transfer up, unless it said its last already. Answers the error to throw. */
  giveUp(error: unknown): PeerlineError {
    const reason = this.#error ?? asPeerlineError(error, 'ERR_PEERLINE_FILE', 'sending')
    if (!this.#saidLast && !this.#stream.done) this.#stream.reset()
    return reason
  }

  /** Reads no more, and lets go of the signal. */
  close(): void {
    this.disarm()
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#stream.cancel()
  }
}

function encodeControl(message: Record<string, unknown>): Uint8Array {
  const body = encodeCbor(message)
  const whole = Buffer.allocUnsafe(LENGTH_BYTES + body.length)
  whole.writeUInt32BE(body.length, 0)
  whole.set(body, LENGTH_BYTES)
  return whole
}

function ignore(): void {}
