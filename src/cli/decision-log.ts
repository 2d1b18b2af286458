/**
 * What the firewall decided, kept in a file: JSON, a line for each decision, the oldest first.
 *
 *     {"at","peer","direction","object","action","reason","rule"?}        or, for what was too much: {"at","skipped"}
 *
 * - Nobody waits for it: entries are written together, a while later. What cannot be written is dropped and told once.
 * - Strangers cause entries: {@link RATE} bounds how many are written, {@link MAX_FILE_BYTES} twice how much is kept.
 */
import { type FileHandle, open, rename, stat } from 'node:fs/promises'
import type { AuditEntry } from '../policy/audit.ts'
import { TokenBucket } from '../policy/limits.ts'
import type { Json } from './control-lines.ts'

/** Bytes of a file, some 15,000 decisions: full, it takes the place of the one before it. */
export const MAX_FILE_BYTES = 4_194_304

/** Entries a second: people do not read more, and a flood of strangers must not wear the disk. */
const RATE = { rate: 100, burst: 1_000 }

/** Lines that wait for a slow disk: about 3 MB. */
const MAX_WAITING = 10_000

const FILE_MODE = 0o600

export class DecisionLog {
  readonly #file: string
  readonly #onError: (error: unknown) => void
  readonly #bucket = new TokenBucket(RATE)
  readonly #listeners = new Set<(line: Json) => void>()
  /** Lines of the write that has not begun. */
  #batch: string[] | undefined
  #waiting = 0
  #skipped = 0
  #failed = false
  /** Settles, never rejects, when what was begun is over. */
  #last: Promise<void> = Promise.resolve()

  /** @param onError told of the first of several failures in a row */
  constructor(file: string, onError: (error: unknown) => void) {
    this.#file = file
    this.#onError = onError
  }

  /** Takes a decision down. Never throws, and takes no time. */
  add(entry: AuditEntry): void {
    if (this.#waiting >= MAX_WAITING || !this.#bucket.take()) {
      this.#skipped++
      return
    }
    if (this.#skipped > 0) this.#put({ at: entry.at, skipped: this.#skipped })
    this.#skipped = 0
    this.#put({ ...entry })
  }

  /** The latest lines, at most `count`, and then each as it comes, until the listener is taken back: none twice, none left out. */
  follow(count: number, listener: (line: Json) => void): { past: Promise<readonly Json[]>; stop: () => void } {
    this.#listeners.add(listener)
    return { past: this.tail(count), stop: () => this.#listeners.delete(listener) }
  }

  /** The latest lines, at most `count`, the oldest first. */
  tail(count: number): Promise<readonly Json[]> {
    // What comes from now on is written after it was read.
    this.#batch = undefined
    return this.#then(() => readLog(this.#file, count))
  }

  /** Resolves when all is written that can be. */
  async close(): Promise<void> {
    await this.#last
  }

  #put(line: Json): void {
    if (this.#batch === undefined) {
      const batch: string[] = []
      this.#batch = batch
      void this.#then(() => this.#write(batch))
    }
    this.#batch.push(`${JSON.stringify(line)}\n`)
    this.#waiting++
    for (const listener of [...this.#listeners]) listener(line)
  }

  #then<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work)
    this.#last = done.then(
      () => {},
      () => {},
    )
    return done
  }

  async #write(batch: string[]): Promise<void> {
    if (this.#batch === batch) this.#batch = undefined
    this.#waiting -= batch.length
    try {
      await append(this.#file, Buffer.from(batch.join('')))
      this.#failed = false
    } catch (error) {
      if (!this.#failed) this.#onError(error)
      this.#failed = true
    }
  }
}

/** The latest lines of a log, at most `count`, the oldest first; what is no line of ours is left out. */
export async function readLog(file: string, count: number): Promise<readonly Json[]> {
  if (count === 0) return []
  const latest = await readLines(file)
  if (latest.length >= count) return latest.slice(-count)
  return [...(await readLines(previous(file))), ...latest].slice(-count)
}

async function append(file: string, bytes: Buffer): Promise<void> {
  const size = await stat(file).then(
    (status) => status.size,
    () => 0,
  )
  if (size > 0 && size + bytes.length > MAX_FILE_BYTES) await rename(file, previous(file))
  const handle = await open(file, 'a', FILE_MODE)
  try {
    await handle.writeFile(bytes)
  } finally {
    await handle.close()
  }
}

async function readLines(file: string): Promise<Json[]> {
  let handle: FileHandle
  try {
    handle = await open(file, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  try {
    const { size } = await handle.stat()
    // Of one that grew elsewhere, the end.
    const from = Math.max(0, size - MAX_FILE_BYTES)
    const bytes = Buffer.alloc(size - from)
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, from)
    const lines = bytes.toString('utf8', 0, bytesRead).split('\n')
    return lines.flatMap((line) => parse(line))
  } finally {
    await handle.close()
  }
}

function parse(line: string): Json[] {
  try {
    const json: unknown = JSON.parse(line)
    return typeof json === 'object' && json !== null && 'at' in json ? [json as Json] : []
  } catch {
    // The half of one, where a process was killed or the file was cut.
    return []
  }
}

const previous = (file: string): string => `${file}.1`
