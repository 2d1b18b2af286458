/**
 * The file of a ledger, for this process: what stands in it is verified, and what others append is taken in (Node only).
 * Its format is in log-record.ts.
 *
 *     open    verify whole, in windows of 1 MiB; a record cut off at the end: lock, look again, cut it away
 *     append  lock, take in what others have appended, cut away what one of them left half done, write, unlock; then sync
 *     follow  take in what others have appended, without the lock
 *
 * - Each of these opens the file anew, and closes it: so it may lie on a shared folder that keeps what NFS calls close-to-open
 *   consistency. Moved, removed or replaced, it is `ERR_PEERLINE_LEDGER`: two processes must not append to two files.
 * - Without the lock, a record may be seen while it is written. What looks wrong then is looked at again with the lock.
 * - A record that ends with the file before its time is cut away and told of: nobody was told that it was kept. So is one whose
 *   end, from its hash at the latest, and all after it are zeros: a file that had grown, and lost its power before its bytes
 *   came. Anything else that does not fit is `ERR_PEERLINE_LEDGER`, with the place, and nothing is ever cut away for it.
 * - Of a write that fails in the middle (the disk is full), the whole records stay, for others may have read them.
 * - The file is for its owner only (0600, directories made 0700), unless its mode is changed: who may write it may add to it.
 */
import { constants } from 'node:fs'
import { type FileHandle, mkdir, open, realpath } from 'node:fs/promises'
import { dirname } from 'node:path'
import { copyBytes } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import { ioError } from '../io-error.ts'
import { absolutePath } from '../whole-file.ts'
import { type Draft, type LogLimits, limitError, planBatch, type Tip } from './log-batch.ts'
import { LogIndex } from './log-index.ts'
import { LogLock } from './log-lock.ts'
import type { Outcome } from './log-queue.ts'
import {
  CHAIN_BYTES,
  type Found,
  HEADER_BYTES,
  type Leaf,
  MAX_LOG_RECORD_BYTES,
  newHeader,
  readHeader,
  readRecord,
} from './log-record.ts'

const FILE_MODE = 0o600
const DIRECTORY_MODE = 0o700

/** Bytes verified at a time: some ms. */
const WINDOW_BYTES = 1_048_576

/** Bytes of the records that are written at once, before the last of them: a batch takes ms, and memory. */
const BATCH_BYTES = 1_048_576

/** Bytes read at once for entries that are near each other. */
const RUN_BYTES = 262_144

export interface LogFileOptions extends LogLimits {
  /** Told of how much of the file is verified while it is opened. */
  readonly onProgress?: ((progress: LogProgress) => void) | undefined
  readonly onRecovered?: ((cut: LogCut) => void) | undefined
}

export interface LogProgress {
  readonly bytes: number
  readonly total: number
}

/** What was cut away: the end of a record that was never written to its end. */
export interface LogCut {
  /** The bytes that the file has now. */
  readonly at: number
  readonly bytes: number
}

/** A leaf as it is, and what it says. The bytes are nobody else's. */
export interface KeptLeaf extends Leaf {
  readonly bytes: Uint8Array
}

/** How what stands behind the last verified record looks. */
type Ending =
  | { readonly kind: 'whole' }
  | { readonly kind: 'torn' }
  | { readonly kind: 'wrong'; readonly error: PeerlineError; readonly zerosFrom: number | undefined }

export class LogFile {
  readonly path: string
  readonly index = new LogIndex()
  readonly #handle: FileHandle
  readonly #options: LogFileOptions
  readonly #lock: LogLock
  /** Settles, never rejects, when the last change to what follows has. */
  #turn: Promise<unknown> = Promise.resolve()
  #id: Uint8Array = new Uint8Array()
  /** Of the last record that was verified, or of the header. */
  #tip: Tip = { end: HEADER_BYTES, hash: new Uint8Array(CHAIN_BYTES), at: 0 }

  private constructor(path: string, handle: FileHandle, options: LogFileOptions) {
    this.path = path
    this.#handle = handle
    this.#options = options
    this.#lock = new LogLock(path)
  }

  /**
   * Opens the file, or makes it, and verifies it.
   * @throws PeerlineError `ERR_PEERLINE_LEDGER`, `ERR_PEERLINE_LIMIT` when it has more than the options allow, `ERR_PEERLINE_BUSY`,
   *   `ERR_PEERLINE_FILE`, `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_INVALID` for no path, or what the signal says
   */
  static async open(path: string, options: LogFileOptions, signal: AbortSignal): Promise<LogFile> {
    const wanted = absolutePath(path, 'the ledger')
    let handle: FileHandle | undefined
    try {
      await mkdir(dirname(wanted), { recursive: true, mode: DIRECTORY_MODE })
      // not blocking: opening a named pipe would wait for its other end for ever
      handle = await open(wanted, constants.O_RDWR | constants.O_CREAT | (constants.O_NONBLOCK ?? 0), FILE_MODE)
      if (!(await handle.stat()).isFile())
        throw new PeerlineError('ERR_PEERLINE_FILE', `${wanted} is not a regular file`)
      // The file itself, where the path is a link to it: all that share it must find one lock.
      const file = new LogFile(await realpath(wanted), handle, options)
      await file.#begin(signal)
      return file
    } catch (error) {
      await handle?.close().catch(() => {}) // the error above is what counts
      throw ioError(error, `opening ${wanted}`)
    }
  }

  /** 32 random bytes that stand for this ledger. */
  get id(): Uint8Array {
    return this.#id
  }

  /** Bytes. */
  get size(): number {
    return this.#tip.end
  }

  /**
   * Takes in what others have appended. Resolves with whether there was something.
   * @throws PeerlineError `ERR_PEERLINE_LEDGER`, `ERR_PEERLINE_LIMIT`, `ERR_PEERLINE_FILE`, `ERR_PEERLINE_BUSY`
   */
  async follow(signal: AbortSignal): Promise<boolean> {
    const before = this.index.size
    const ending = await this.#inTurn('reading', () => this.#afresh((handle, size) => this.#scan(handle, size, signal)))
    if (ending.kind === 'wrong') await this.#exclusive(signal, async () => {})
    return this.index.size > before
  }

  /**
   * Appends what `take` gives, once nobody else may: it is asked then, and says what each has become of. Not yet on the disk.
   * @throws PeerlineError as {@link follow}; nothing was taken then
   */
  async append(signal: AbortSignal, take: (maxBytes: number) => readonly Draft[]): Promise<readonly Outcome[]> {
    await this.follow(signal) // what takes long is done without the lock
    return this.#exclusive(signal, (handle) => this.#write(handle, take(BATCH_BYTES)))
  }

  /** Puts what was appended on the disk. @throws PeerlineError `ERR_PEERLINE_FILE`, `ERR_PEERLINE_DISK_FULL` */
  async sync(): Promise<void> {
    try {
      await this.#handle.datasync()
    } catch (error) {
      throw ioError(error, `writing ${this.path}`)
    }
  }

  /**
   * The leaves of entries, verified once more.
   * @param places of {@link index}, growing
   * @throws PeerlineError `ERR_PEERLINE_LEDGER`, `ERR_PEERLINE_FILE`
   */
  async leaves(places: readonly number[]): Promise<KeptLeaf[]> {
    const leaves: KeptLeaf[] = []
    for (let next = 0; next < places.length; ) {
      const from = this.index.start(places[next]!) - CHAIN_BYTES
      let last = next
      while (last + 1 < places.length && this.#after(places[last + 1]!) - from <= RUN_BYTES) last++
      const bytes = await read(this.#handle, from, this.#after(places[last]!) - from)
      for (; next <= last; next++) leaves.push(this.#leaf(bytes, places[next]!, this.index.start(places[next]!) - from))
    }
    return leaves
  }

  /** Bytes of the record of an entry. */
  bytesOf(place: number): number {
    return this.#after(place) - this.index.start(place)
  }

  /** The consensus time of an entry, as it stands in the file. */
  async timeOf(place: number): Promise<number> {
    const [leaf] = await this.leaves([place])
    return leaf!.at
  }

  /** Does not put anything on the disk. */
  async close(): Promise<void> {
    await this.#turn
    await this.#handle.close().catch(() => {}) // what was written is with the system
  }

  /** Reads the header, or makes it, and verifies the rest. */
  async #begin(signal: AbortSignal): Promise<void> {
    const look = async () => readHeader(await read(this.#handle, 0, HEADER_BYTES + 1))
    let header = await look()
    if (header === 'cut') {
      await this.#lock.hold(signal, async () => {
        header = await look() // another process may have made it
        if (header === 'cut') await this.#make()
      })
      header = await look()
    }
    if (header === 'cut' || 'wrong' in header) {
      const recover = 'Name another file: this one is no ledger, or its beginning was changed.'
      const why = header === 'cut' ? 'its header is gone' : header.wrong
      throw new PeerlineError('ERR_PEERLINE_LEDGER', `${this.path} is no ledger: ${why}`, { recover })
    }
    this.#id = header.id
    const hash = await read(this.#handle, HEADER_BYTES - CHAIN_BYTES, CHAIN_BYTES)
    this.#tip = { ...this.#tip, hash }
    const { size } = await this.#handle.stat()
    const ending = await this.#scan(this.#handle, size, signal, this.#options.onProgress)
    if (ending.kind !== 'whole') await this.#exclusive(signal, async () => {})
  }

  async #make(): Promise<void> {
    const header = newHeader()
    await this.#handle.write(header, 0, header.length, 0)
    await this.#handle.sync()
    // The name must survive a power cut too; Windows cannot open a directory.
    const directory = await open(dirname(this.path), 'r').catch(() => undefined)
    await directory?.sync().catch(() => {})
    await directory?.close()
  }

  /** Does `work` with the lock, and with everything taken in that is there. */
  async #exclusive<T>(signal: AbortSignal, work: (handle: FileHandle) => Promise<T>): Promise<T> {
    return this.#lock.hold(signal, (held) =>
      this.#inTurn('writing', () =>
        this.#afresh(async (handle, size) => {
          const ending = await this.#scan(handle, size, signal)
          if (ending.kind === 'wrong' && !(await isZero(handle, ending.zerosFrom, size))) throw ending.error
          if (!held.isSure()) throw new PeerlineError('ERR_PEERLINE_BUSY', `${this.path} is too slow to write now`)
          if (ending.kind !== 'whole') {
            await handle.truncate(this.#tip.end)
            this.#options.onRecovered?.({ at: this.#tip.end, bytes: size - this.#tip.end })
          }
          return work(handle)
        }),
      ),
    )
  }

  /**
   * Does `work` with the file opened anew: on a shared folder, only opening shows what others have written, and only closing
   * shows it to others. It must be the same file.
   */
  async #afresh<T>(work: (handle: FileHandle, size: number) => Promise<T>): Promise<T> {
    const flags = constants.O_RDWR | (constants.O_NONBLOCK ?? 0)
    const handle = await open(this.path, flags).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
    try {
      const [now, before] = [await handle?.stat({ bigint: true }), await this.#handle.stat({ bigint: true })]
      if (handle === undefined || now?.ino !== before.ino || now.dev !== before.dev) {
        throw new PeerlineError('ERR_PEERLINE_LEDGER', `${this.path} was removed, or is another file now`)
      }
      return await work(handle, Number(now.size))
    } finally {
      await handle?.close().catch(() => {}) // who has written closes before, and is told
    }
  }

  /** What goes through here does so one after the other: it moves the end that is known. */
  #inTurn<T>(doing: string, work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work).catch((error: unknown) => {
      throw ioError(error, `${doing} ${this.path}`)
    })
    this.#turn = done.catch(() => {}) // whoever asked is told
    return done
  }

  /** Verifies and takes in what stands between the end that is known and `size`. */
  async #scan(
    handle: FileHandle,
    size: number,
    signal: AbortSignal,
    onProgress?: (progress: LogProgress) => void,
  ): Promise<Ending> {
    if (size < this.#tip.end) return this.#wrong(size, 'it is shorter than it was')
    const window = Buffer.allocUnsafe(Math.min(WINDOW_BYTES, size - this.#tip.end + CHAIN_BYTES))
    for (;;) {
      if (signal.aborted) throw abortError(signal, `reading ${this.path}`)
      const from = this.#tip.end - CHAIN_BYTES
      const bytes = await read(handle, from, Math.min(window.length, size - from), window)
      if (!bytes.subarray(0, CHAIN_BYTES).equals(this.#tip.hash)) return this.#wrong(from, 'what was last was changed')
      const found = this.#takeIn(bytes, from)
      onProgress?.({ bytes: this.#tip.end, total: size })
      if (found.kind === 'wrong')
        return this.#wrong(this.#tip.end, found.why, found.zerosFrom && from + found.zerosFrom)
      if (this.#tip.end === size) return { kind: 'whole' }
      if (from + bytes.length >= size || bytes.length < window.length) return { kind: 'torn' }
    }
  }

  /** Takes in the whole records of `bytes`, which stand at `from` and begin with the last hash. Says what is behind them. */
  #takeIn(bytes: Buffer, from: number): Exclude<Found, { kind: 'record' }> {
    for (let at = CHAIN_BYTES; ; ) {
      const found = readRecord(bytes, at)
      if (found.kind !== 'record') return found
      const { leaf, end } = found
      if (leaf.at <= this.#tip.at) return { kind: 'wrong', why: 'its time is not after that of the record before' }
      if (leaf.sequence !== this.index.count(leaf.topic) + 1) {
        return { kind: 'wrong', why: `it is number ${leaf.sequence} of its topic, out of turn` }
      }
      const limit = limitError(this.#options, this.index.size, leaf.sequence === 1 ? this.index.topics : undefined)
      if (limit !== undefined) throw limit
      const hash = copyBytes(bytes.subarray(end - CHAIN_BYTES, end))
      this.#enter(leaf, { end: from + end, hash, at: leaf.at })
      at = end
    }
  }

  #enter({ topic }: Leaf, tip: Tip): void {
    this.index.add(topic, this.#tip.end, markOf(tip.hash))
    this.#tip = tip
  }

  async #write(handle: FileHandle, drafts: readonly Draft[]): Promise<readonly Outcome[]> {
    const plan = planBatch(drafts, this.#tip, this.index, this.#options)
    const records = plan.flatMap((planned) => ('record' in planned ? [planned.record] : []))
    const { end, failure } = await this.#put(handle, records)
    return plan.map((planned): Outcome => {
      if ('refused' in planned) return planned.refused
      const { leaf, tip } = planned
      if (tip.end > end) return ioError(failure, `writing ${this.path}`)
      this.#enter(leaf, tip)
      return { sequence: leaf.sequence, at: leaf.at }
    })
  }

  /** Writes records behind the last one, and closes the file. Says where the last ends that is there, and why not all are. */
  async #put(handle: FileHandle, records: readonly Buffer[]): Promise<{ end: number; failure?: unknown }> {
    const bytes = Buffer.concat(records)
    const start = this.#tip.end
    let written = 0
    let failure: unknown
    try {
      while (written < bytes.length) {
        written += (await handle.write(bytes, written, bytes.length - written, start + written)).bytesWritten
      }
    } catch (error) {
      failure = error
    }
    let end = start
    for (const { length } of records) if (end + length <= start + written) end += length
    try {
      if (failure !== undefined) await handle.truncate(end)
      await handle.close()
    } catch (error) {
      // Nobody knows what is there: whoever looks next will see.
      return { end: start, failure: failure ?? error }
    }
    return { end, failure }
  }

  #wrong(at: number, why: string, zerosFrom?: number): Ending {
    const error = new PeerlineError('ERR_PEERLINE_LEDGER', `${this.path} was changed at byte ${at}: ${why}`)
    return { kind: 'wrong', error, zerosFrom }
  }

  /** Where the record after an entry begins. */
  #after(place: number): number {
    return place + 1 < this.index.size ? this.index.start(place + 1) : this.#tip.end
  }

  /** The leaf of an entry whose record is at `at` of `bytes`. */
  #leaf(bytes: Buffer, place: number, at: number): KeptLeaf {
    const found = readRecord(bytes, at)
    if (found.kind === 'record' && markOf(bytes.subarray(found.end - CHAIN_BYTES)) === this.index.mark(place)) {
      const kept = copyBytes(found.bytes)
      return { ...found.leaf, message: kept.subarray(kept.length - found.leaf.message.length), bytes: kept }
    }
    const why = found.kind === 'wrong' ? found.why : found.kind === 'cut' ? 'it ends too early' : 'it is another one'
    const said = `${this.path} was changed at byte ${this.index.start(place)}, entry ${place + 1}: ${why}`
    throw new PeerlineError('ERR_PEERLINE_LEDGER', said)
  }
}

/** Up to `length` bytes from `from` on: fewer only at the end of the file. */
async function read(
  handle: FileHandle,
  from: number,
  length: number,
  into = Buffer.allocUnsafe(length),
): Promise<Buffer> {
  let got = 0
  while (got < length) {
    const { bytesRead } = await handle.read(into, got, length - got, from + got)
    if (bytesRead === 0) break
    got += bytesRead
  }
  return into.subarray(0, got)
}

/** Whether there are only zeros up to the end, as where bytes were never written. */
async function isZero(handle: FileHandle, from: number | undefined, size: number): Promise<boolean> {
  if (from === undefined || size - from > BATCH_BYTES + MAX_LOG_RECORD_BYTES) return false
  const bytes = await read(handle, from, size - from)
  return bytes.every((byte) => byte === 0)
}

/** Four bytes of a hash: an entry that is another one later is recognised. */
function markOf(hash: Uint8Array): number {
  return new DataView(hash.buffer, hash.byteOffset).getUint32(0)
}
