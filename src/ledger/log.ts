/**
 * The embedded ledger: one file that only grows, without a server (Node only). Several processes may have it open at once, on one
 * machine or on a shared folder.
 *
 *     append --> queue --> lock, take in, write, unlock --> sync --> every append of the batch resolves; readers have it
 *     others' appends --> seen by watching --> verified --> readers have it
 *
 * - What is on the disk when: see {@link LogSync}. With `always`, nothing is told to anybody here before it is there.
 * - Consensus time is the clock of whoever appends, and later than that of every entry before, of all topics: a clock that is
 *   behind does not take it back, one that is ahead takes it along.
 * - Whoever may write the file may append what they like, to any topic; nothing costs anything. What has been read cannot be
 *   changed unnoticed: it is verified when it is opened, and each entry again when it is read.
 * - When the file contradicts what was read from it, or a sync fails, nothing can be done with it any more until it is opened
 *   anew: what it has said since then is not to be trusted.
 *
 * Limits: {@link LogLedgerOptions}, and log-queue.ts. Memory: log-index.ts; messages stay in the file.
 */
import { encodeZbase32 } from '../bytes/index.ts'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import type { AppendOptions, Price, ReadOptions, Receipt } from './ledger.ts'
import { type LogCut, LogFile, type LogProgress } from './log-file.ts'
import { LogQueue, type Waiting } from './log-queue.ts'
import { isTopic, MAX_LOG_MESSAGE_BYTES } from './log-record.ts'
import { LogWatch } from './log-watch.ts'
import { hashLeaf } from './merkle.ts'
import type { LeafSource, PlacedEntry } from './tree-head.ts'

/** Entries of a page unless told otherwise, and at most; and bytes of its messages: then the page ends early. */
const PAGE = 100
const MAX_PAGE = 1_000
const MAX_PAGE_BYTES = 1_048_576

/** ms of a batch: a sync of a usual disk takes 1 to 10, the lock and the write 1. */
const LATENCY_MS = 10

/** ms: what one process has synced, another sees at its next look while there is traffic, see log-watch.ts, and syncs. */
const SPREAD_MS = 40

/** Characters of the id of the file that stand for it: 80 bits. */
const ID_LENGTH = 16

/**
 * When what was appended is put on the disk, so that it is there after a power cut too. That a process is killed loses nothing,
 * whatever is chosen.
 *
 * - `always`: before an append resolves, and before a reader here has an entry. Those that wait share a sync.
 * - `everyMs`: that long after an append at the latest; a power cut may take away what was appended since.
 * - `never`: when the system does, usually within half a minute.
 */
export type LogSync = 'always' | 'never' | { readonly everyMs: number }

export interface LogLedgerOptions {
  /** @default 'always' */
  readonly sync?: LogSync
  /** Bytes of a message that is appended, up to 65,536. @default 1_024 */
  readonly maxMessageBytes?: number
  /** Entries of all topics; a file that has more is not opened. @default 1_000_000, 20 MB of memory */
  readonly maxEntries?: number
  /** Topics; a file that has more is not opened. @default 100_000, 30 MB of memory */
  readonly maxTopics?: number
  /** Bytes of the file, up to which is appended. @default 2_147_483_648 */
  readonly maxBytes?: number
  /** Told of how far the file is verified while it is opened, every MiB. */
  readonly onProgress?: (progress: LogProgress) => void
  /** Told of a record that a process that died has left half written: it was cut away. */
  readonly onRecovered?: (cut: LogCut) => void
  /** Gives opening up. */
  readonly signal?: AbortSignal
}

export class LogLedger implements LeafSource {
  readonly name: string
  readonly id: string
  readonly maxMessageBytes: number
  readonly latencyMs = LATENCY_MS
  readonly spreadMs = SPREAD_MS
  readonly #file: LogFile
  readonly #sync: LogSync
  readonly #watch: LogWatch
  readonly #over = new AbortController()
  /** Why it does not go on; also that it was closed. */
  #ended: PeerlineError | undefined
  readonly #queue = new LogQueue()
  /** The writing of what is in the queue. */
  #pumping: Promise<void> | undefined
  #closing: Promise<void> | undefined
  /** Entries that are told of: with `always`, those on the disk. */
  #size: number
  /** Waiting for the next sync, with `everyMs`. */
  #syncTimer: NodeJS.Timeout | undefined
  /** Who waits for a change, or for what went wrong. */
  readonly #readers = new Set<(error?: PeerlineError) => void>()
  readonly #listeners = new Set<(size: number) => void>()

  private constructor(file: LogFile, options: LogLedgerOptions) {
    this.#file = file
    this.#size = file.index.size
    this.#sync = options.sync ?? 'always'
    this.#watch = new LogWatch(file.path, () => this.#glance())
    this.maxMessageBytes = options.maxMessageBytes ?? 1_024
    this.name = `ledger file ${file.path}`
    this.id = `log:${encodeZbase32(file.id).slice(0, ID_LENGTH)}`
  }

  /**
   * Opens the ledger in a file, or makes it. The whole file is read and verified: a million small entries take 5 to 10 s.
   * @param path `~/` is the home directory
   * @throws PeerlineError `ERR_PEERLINE_LEDGER` for a file that was changed, or is none; `ERR_PEERLINE_LIMIT` for one that is larger
   *   than the options allow; `ERR_PEERLINE_FILE`, `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_BUSY` when another
   *   process holds its lock, or what the signal says
   */
  static async open(path: string, options: LogLedgerOptions = {}): Promise<LogLedger> {
    const { maxEntries = 1_000_000, maxTopics = 100_000, maxBytes = 2 ** 31, maxMessageBytes = 1_024 } = options
    const { sync = 'always', onProgress, onRecovered } = options
    whole({ maxEntries, maxTopics, maxBytes, maxMessageBytes, ...(typeof sync === 'object' && sync) })
    if (maxMessageBytes > MAX_LOG_MESSAGE_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `maxMessageBytes is at most ${MAX_LOG_MESSAGE_BYTES}`)
    }
    const signal = options.signal ?? new AbortController().signal
    const file = await LogFile.open(path, { maxEntries, maxTopics, maxBytes, onProgress, onRecovered }, signal)
    const ledger = new LogLedger(file, options)
    try {
      // Who wrote what is there may have died before it was on the disk.
      if (sync === 'always') await file.sync()
    } catch (error) {
      await file.close()
      throw error
    }
    return ledger
  }

  /** Entries of all topics. It grows as others append only while somebody reads, subscribes or {@link onGrowth listens}. */
  get size(): number {
    return this.#size
  }

  price(): Price {
    return { amount: 0, unit: 'USD' }
  }

  /** A topic is there by being named: the hint is its name. */
  async createTopic(hint: string, { signal }: { readonly signal: AbortSignal }): Promise<string> {
    this.#check(hint, signal, 'making a topic')
    return hint
  }

  /**
   * Also `ERR_PEERLINE_BUSY` when too many wait, `ERR_PEERLINE_LIMIT`, `ERR_PEERLINE_DISK_FULL`, `ERR_PEERLINE_FILE`,
   * `ERR_PEERLINE_LEDGER`. When the signal fires while the message is being written, it may be there all the same. To wait for
   * less than consensus saves nothing here.
   */
  async append(topic: string, message: Uint8Array, { signal }: AppendOptions): Promise<Receipt> {
    this.#check(topic, signal, 'appending')
    if (message.length > this.maxMessageBytes) {
      const said = `the message has ${message.length} bytes, the limit is ${this.maxMessageBytes}`
      throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', said)
    }
    const appending = this.#queue.add(topic, message, signal)
    if (!this.#queue.isEmpty) this.#pumping ??= this.#pump()
    return appending
  }

  async read(
    topic: string,
    options: ReadOptions & { readonly max?: number },
  ): Promise<{ readonly entries: readonly PlacedEntry[]; readonly next: number | undefined }> {
    const { signal, max = PAGE } = options
    this.#check(topic, signal, 'reading')
    whole({ max })
    const from = await this.#first(topic, options)
    if (signal.aborted) throw abortError(signal, 'reading')
    const { entries, end, count } = await this.#page(topic, from, Math.min(max, MAX_PAGE), options.since)
    return { entries, next: end <= count ? end : undefined }
  }

  async *subscribe(topic: string, options: ReadOptions): AsyncGenerator<PlacedEntry, void, undefined> {
    const { signal } = options
    if (signal.aborted) return
    this.#check(topic, signal, 'reading')
    const stop = this.#watch.start()
    whenAborted(signal, stop) // also where its reader does not come back
    try {
      for (let from = await this.#first(topic, options); !signal.aborted; ) {
        const { entries, end } = await this.#page(topic, from, PAGE, options.since)
        for (const entry of entries) {
          if (signal.aborted) return
          yield entry
        }
        from = end
        const isThere = () => this.#file.index.count(topic, this.#size) >= end
        if (!isThere()) await this.#change(signal, isThere)
      }
    } finally {
      signal.removeEventListener('abort', stop)
      stop()
    }
  }

  /** The hashes of the leaves of the entries from place `from` up to before `to`. @throws PeerlineError as {@link read} */
  async leafHashes(from: number, to: number): Promise<Uint8Array[]> {
    this.#alive()
    if (!(Number.isSafeInteger(from) && Number.isSafeInteger(to) && 0 <= from && from <= to && to <= this.#size)) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `there are ${this.#size} entries, none from ${from} to ${to}`)
    }
    const hashes: Uint8Array[] = []
    // in parts, so that the messages of few are in memory at once
    while (from < to) {
      const places = Array.from({ length: Math.min(to - from, MAX_PAGE) }, (_, i) => from + i)
      for (const { bytes } of await this.#guard(() => this.#file.leaves(places))) hashes.push(hashLeaf(bytes))
      from += places.length
    }
    return hashes
  }

  /**
   * Calls `listener` with {@link size} whenever that has grown, whoever appended, until what this returns is called. It must not
   * throw. When the ledger ends, it is not called any more.
   */
  onGrowth(listener: (size: number) => void): () => void {
    const stop = this.#watch.start()
    const own = (size: number) => listener(size) // the same listener twice is two
    this.#listeners.add(own)
    return () => {
      this.#listeners.delete(own)
      stop()
    }
  }

  /** What is being written is written; what waits fails. @throws PeerlineError as {@link append}, of a last sync */
  close(): Promise<void> {
    this.#end(new PeerlineError('ERR_PEERLINE_CLOSED', `${this.name} is closed`))
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    await this.#pumping
    try {
      if (typeof this.#sync === 'object') await this.#file.sync()
    } finally {
      await this.#file.close()
    }
  }

  /** Nothing can be done any more: everybody who waits is told why, and whoever comes. */
  #end(error: PeerlineError): void {
    this.#ended = error
    clearTimeout(this.#syncTimer)
    this.#over.abort(error)
    this.#watch.close()
    this.#queue.fail(error)
    this.#tell(error)
  }

  #alive(): void {
    if (this.#ended !== undefined) throw this.#ended
  }

  #check(topic: string, signal: AbortSignal, doing: string): void {
    this.#alive()
    if (signal.aborted) throw abortError(signal, doing)
    if (!isTopic(topic)) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'the name of a topic is 1 to 100 printable ASCII characters')
    }
  }

  /** Does something with the file. That it was changed ends the ledger. */
  async #guard<T>(work: () => Promise<T>): Promise<T> {
    this.#alive()
    try {
      return await work()
    } catch (cause) {
      this.#alive() // closed meanwhile: that is why it failed
      const error = asPeerlineError(cause, 'ERR_PEERLINE_FILE')
      if (error.code === 'ERR_PEERLINE_LEDGER') this.#end(error)
      throw error
    }
  }

  /** Writes what is in the queue, batch by batch. Never rejects. */
  async #pump(): Promise<void> {
    while (!this.#queue.isEmpty) {
      let batch: Waiting[] = []
      try {
        const take = (maxBytes: number) => {
          batch = this.#queue.take(maxBytes)
          return batch
        }
        const outcomes = await this.#guard(() => this.#file.append(this.#over.signal, take))
        await this.#show()
        for (const [i, { settle }] of batch.entries()) settle(outcomes[i]!)
      } catch (cause) {
        const error = asPeerlineError(cause, 'ERR_PEERLINE_FILE')
        for (const { settle } of batch) settle(error)
        if (batch.length === 0) this.#queue.fail(error)
      }
    }
    this.#pumping = undefined
  }

  /** Tells of what has been taken in, once it is on the disk where that is wanted. Resolves with whether there was something. */
  async #show(): Promise<boolean> {
    const { size } = this.#file.index
    if (size <= this.#size) return false
    if (this.#sync === 'always') await this.#toDisk()
    else if (this.#sync !== 'never' && this.#ended === undefined) {
      this.#syncTimer ??= setTimeout(() => {
        this.#syncTimer = undefined
        this.#toDisk().catch(() => {}) // everybody was told
      }, this.#sync.everyMs)
    }
    if (size <= this.#size) return true
    this.#size = size
    this.#watch.grown()
    this.#tell()
    for (const listener of [...this.#listeners]) listener(size)
    return true
  }

  /** When that fails, the system may have forgotten what it could not write, and say the next time that all is well. */
  async #toDisk(): Promise<void> {
    try {
      await this.#file.sync()
    } catch (cause) {
      if (this.#ended === undefined) this.#end(asPeerlineError(cause, 'ERR_PEERLINE_FILE'))
      this.#alive()
    }
  }

  /** Takes in what others have appended. */
  #look(): Promise<boolean> {
    return this.#guard(async () => {
      await this.#file.follow(this.#over.signal)
      return this.#show()
    })
  }

  /** A look that nobody asked for: readers who wait are told what went wrong. */
  async #glance(): Promise<boolean> {
    try {
      return await this.#look()
    } catch (cause) {
      this.#tell(asPeerlineError(cause, 'ERR_PEERLINE_FILE'))
      return false
    }
  }

  #tell(error?: PeerlineError): void {
    for (const reader of [...this.#readers]) reader(error)
  }

  /** Resolves with the change that makes it be there, or when the signal fires; rejects with what went wrong. */
  #change(signal: AbortSignal, isThere: () => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = () => done()
      const done = (error: PeerlineError | undefined = this.#ended) => {
        // In another topic: it goes on waiting.
        if (error === undefined && !signal.aborted && !isThere()) return
        signal.removeEventListener('abort', onAbort)
        this.#readers.delete(done)
        if (error === undefined) resolve()
        else reject(error)
      }
      if (signal.aborted || this.#ended !== undefined) return done()
      whenAborted(signal, onAbort)
      this.#readers.add(done)
    })
  }

  /** Looks what is there, and says with which sequence reading begins. */
  async #first(topic: string, { from = 1, since = Number.NEGATIVE_INFINITY }: ReadOptions): Promise<number> {
    whole({ from })
    if (Number.isNaN(since)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'since is not a number')
    await this.#look()
    const { index } = this.#file
    let [low, high] = [from, index.count(topic, this.#size) + 1]
    while (low < high && since > 0) {
      const middle = Math.floor((low + high) / 2)
      const at = await this.#guard(() => this.#file.timeOf(index.place(topic, middle)))
      if (at < since) low = middle + 1
      else high = middle
    }
    return low
  }

  /** The entries from `from` up to before `end`, and how many there are in the topic. */
  async #page(topic: string, from: number, max: number, since = Number.NEGATIVE_INFINITY) {
    const { index } = this.#file
    const count = index.count(topic, this.#size)
    const places: number[] = []
    for (let bytes = 0; places.length < max && from + places.length <= count; ) {
      const place = index.place(topic, from + places.length)
      bytes += this.#file.bytesOf(place)
      if (bytes > MAX_PAGE_BYTES && places.length > 0) break
      places.push(place)
    }
    const leaves = await this.#guard(() => this.#file.leaves(places))
    const entries = leaves.map(({ sequence, at, message }, i) => ({ sequence, at, message, index: places[i]! }))
    return { entries: entries.filter(({ at }) => at >= since), end: from + places.length, count }
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` unless each is an integer of 1 or more */
function whole(options: Readonly<Record<string, number>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (Number.isSafeInteger(value) && value > 0) continue
    throw new PeerlineError('ERR_PEERLINE_INVALID', `${name} is an integer from 1 up, not ${value}`)
  }
}
