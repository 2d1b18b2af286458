/**
 * A log in memory whose entries have a place among all, for tests of what is served from it. It does what it is told, also what no
 * log may do: {@link FakeLog.rewrite}.
 */
import { copyBytes } from '../bytes/index.ts'
import { abortError, PeerlineError } from '../errors.ts'
import type { AppendOptions, Price, ReadOptions, Receipt } from './ledger.ts'
import { hashEntry, type LeafSource, type PlacedEntry } from './tree-head.ts'

/** An entry, and where it is. */
export interface Line extends PlacedEntry {
  readonly topic: string
}

export class FakeLog implements LeafSource {
  readonly name = 'a fake log'
  readonly id: string
  readonly maxMessageBytes: number
  readonly latencyMs = 0
  readonly spreadMs = 0
  readonly #waiting = new Set<() => void>()
  #lines: Line[] = []
  #lastUs = 0
  #closed = false
  /** Stands before everything that is asked. */
  before: (() => Promise<void>) | undefined

  constructor({ id = 'log:fake', maxMessageBytes = 1_024 }: { id?: string; maxMessageBytes?: number } = {}) {
    this.id = id
    this.maxMessageBytes = maxMessageBytes
  }

  get lines(): readonly Line[] {
    return this.#lines
  }

  get size(): number {
    return this.#lines.length
  }

  /** Another history from now on; indexes and sequences are counted anew. */
  rewrite(change: (lines: readonly Line[]) => readonly Omit<Line, 'index' | 'sequence'>[]): void {
    const counts = new Map<string, number>()
    this.#lines = change(this.#lines).map(({ topic, at, message }, index) => {
      const sequence = (counts.get(topic) ?? 0) + 1
      counts.set(topic, sequence)
      return { index, sequence, topic, at, message }
    })
  }

  /** Puts a line in as it is. */
  push(line: Line): void {
    this.#lines.push(line)
    this.#wake()
  }

  put(topic: string, message: Uint8Array | string): Line {
    this.#lastUs = Math.max(this.#lastUs + 1, Math.floor(Date.now() * 1_000))
    const line: Line = {
      topic,
      index: this.#lines.length,
      sequence: this.#of(topic).length + 1,
      at: this.#lastUs / 1_000,
      message: typeof message === 'string' ? new TextEncoder().encode(message) : copyBytes(message),
    }
    this.push(line)
    return line
  }

  async leafHashes(from: number, to: number): Promise<readonly Uint8Array[]> {
    await this.before?.()
    return this.#lines.slice(from, to).map((line) => hashEntry(line.topic, line))
  }

  price(): Price {
    return { amount: 0, unit: 'USD' }
  }

  async createTopic(hint: string): Promise<string> {
    return hint
  }

  async append(topic: string, message: Uint8Array, { signal }: AppendOptions): Promise<Receipt> {
    await this.#check(signal)
    const { sequence, at } = this.put(topic, message)
    return { sequence, at }
  }

  async read(
    topic: string,
    { signal, from = 1, since = Number.NEGATIVE_INFINITY, max = 100 }: ReadOptions & { readonly max?: number },
  ): Promise<{ entries: readonly PlacedEntry[]; next: number | undefined }> {
    await this.#check(signal)
    const all = this.#of(topic).filter(({ sequence, at }) => sequence >= from && at >= since)
    const entries = all.slice(0, max)
    return { entries, next: entries.length < all.length ? entries.at(-1)!.sequence + 1 : undefined }
  }

  async *subscribe(topic: string, options: ReadOptions): AsyncGenerator<PlacedEntry, void, undefined> {
    const { signal } = options
    for (let from = options.from ?? 1; !signal.aborted; ) {
      const { entries } = await this.read(topic, { ...options, from })
      for (const entry of entries) {
        yield entry
        from = entry.sequence + 1
      }
      if (entries.length === 0) await this.#change(signal)
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#wake()
  }

  #of(topic: string): Line[] {
    return this.#lines.filter((line) => line.topic === topic)
  }

  async #check(signal: AbortSignal): Promise<void> {
    await this.before?.()
    if (this.#closed) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'the log is closed')
    if (signal.aborted) throw abortError(signal, 'the log')
  }

  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        signal.removeEventListener('abort', done)
        this.#waiting.delete(done)
        resolve()
      }
      signal.addEventListener('abort', done)
      this.#waiting.add(done)
      if (signal.aborted) done()
    })
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake()
  }
}
