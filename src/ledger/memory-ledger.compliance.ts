/**
 * A ledger in memory, for tests. Several peers share one; what goes wrong goes wrong for all of them.
 *
 *     append --latencyMs--> consensus: sequence, time --0 to spreadMs--> subscribers
 *
 * - `at` is this machine's clock and `clockAheadMs`, and grows with every entry.
 * - Timers are `setTimeout`, time is `Date.now()`: vitest's fake timers hold them.
 */
import { setMaxListeners } from 'node:events'
import { copyBytes } from '../bytes/index.ts'
import { abortError, type ErrorCode, PeerlineError } from '../errors.ts'
import { pause } from '../pause.ts'
import type { AppendOptions, Entry, Ledger, Price, ReadOptions, Receipt } from './ledger.ts'

/** Entries of a page. */
const PAGE = 100

/** ms that times differ by at the least. */
const TICK_MS = 0.001

export interface MemoryLedgerOptions {
  /** @default 'memory:test' */
  readonly id?: string
  /** @default 1_024 */
  readonly maxMessageBytes?: number
  /** ms from appending to consensus. @default 0 */
  readonly latencyMs?: number
  /** ms from consensus until a subscriber has it, drawn anew for each from 0 up to this. @default 0 */
  readonly spreadMs?: number
  /** ms by which the ledger's clock is ahead of this machine's. @default 0 */
  readonly clockAheadMs?: number
  /** What a byte costs, in USD. @default 0 */
  readonly perByte?: number
}

/** How an append fails. */
export interface Failing {
  readonly code: ErrorCode
  /** The message gets its place, and only who sent it does not learn that. */
  readonly taken: boolean
}

export class MemoryLedger implements Ledger {
  readonly name: string
  readonly id: string
  readonly maxMessageBytes: number
  latencyMs: number
  spreadMs: number
  clockAheadMs: number
  /** While true, everything fails with `ERR_PEERLINE_UNREACHABLE`; see also {@link disconnect}. */
  unreachable = false
  /** How many entries each append makes, as when it was repeated on its way. */
  copies = 1
  /** Appends, reads and subscriptions that were asked for. */
  readonly asked = { append: 0, read: 0, subscribe: 0 }
  readonly #perByte: number
  readonly #topics = new Map<string, Entry[]>()
  readonly #failing: Failing[] = []
  /** Who waits for a change. */
  readonly #waiting = new Set<() => void>()
  readonly #timers = new Set<NodeJS.Timeout>()
  /** Grows when subscriptions are cut off. */
  #cuts = 0
  #cutCode: ErrorCode = 'ERR_PEERLINE_UNREACHABLE'
  #lastAt = 0
  #closed = false

  constructor(options: MemoryLedgerOptions = {}) {
    this.id = options.id ?? 'memory:test'
    this.name = `ledger ${this.id}`
    this.maxMessageBytes = options.maxMessageBytes ?? 1_024
    this.latencyMs = options.latencyMs ?? 0
    this.spreadMs = options.spreadMs ?? 0
    this.clockAheadMs = options.clockAheadMs ?? 0
    this.#perByte = options.perByte ?? 0
  }

  price(bytes: number): Price {
    return { amount: bytes * this.#perByte, unit: 'USD' }
  }

  /** The next `times` appends fail. */
  failNext(code: ErrorCode, { times = 1, taken = false } = {}): void {
    for (let i = 0; i < times; i++) this.#failing.push({ code, taken })
  }

  /** Ends all subscriptions with an error. */
  disconnect(code: ErrorCode = 'ERR_PEERLINE_UNREACHABLE'): void {
    this.#cuts++
    this.#cutCode = code
    this.#wake()
  }

  /** What a topic holds. It may be changed, as no ledger may change. */
  entriesOf(topic: string): Entry[] {
    const entries = this.#topics.get(topic) ?? []
    this.#topics.set(topic, entries)
    return entries
  }

  /** Puts a message at the end at once, of whatever size. */
  put(topic: string, message: Uint8Array): Entry {
    const entries = this.entriesOf(topic)
    this.#lastAt = Math.max(Date.now() + this.clockAheadMs, this.#lastAt + TICK_MS)
    const entry = { sequence: entries.length + 1, at: this.#lastAt, message: copyBytes(message) }
    entries.push(entry)
    this.#wake()
    return entry
  }

  async createTopic(hint: string, { signal }: { readonly signal: AbortSignal }): Promise<string> {
    this.#check(hint, signal)
    return hint
  }

  async append(topic: string, message: Uint8Array, { signal, wait }: AppendOptions): Promise<Receipt> {
    this.asked.append++
    this.#check(topic, signal)
    if (message.length > this.maxMessageBytes) {
      throw new PeerlineError(
        'ERR_PEERLINE_TOO_LARGE',
        `the message has ${message.length} bytes, the limit is ${this.maxMessageBytes}`,
      )
    }
    const failing = this.#failing.shift()
    if (failing !== undefined && !failing.taken) throw new PeerlineError(failing.code, 'as the test wants it')
    const placed = this.#place(topic, copyBytes(message))
    if (failing !== undefined) throw new PeerlineError(failing.code, 'as the test wants it')
    if (wait === 'sent') return {}
    return this.#until(placed, signal)
  }

  async read(
    topic: string,
    { signal, from = 1, since = Number.NEGATIVE_INFINITY, max = PAGE }: ReadOptions & { readonly max?: number },
  ): Promise<{ entries: readonly Entry[]; next: number | undefined }> {
    this.asked.read++
    this.#check(topic, signal)
    const all = this.entriesOf(topic).filter(({ sequence, at }) => sequence >= from && at >= since)
    const entries = all.slice(0, Math.min(max, PAGE))
    return { entries, next: entries.length < all.length ? entries.at(-1)!.sequence + 1 : undefined }
  }

  async *subscribe(topic: string, options: ReadOptions): AsyncGenerator<Entry, void, undefined> {
    const { signal, from = 1, since = Number.NEGATIVE_INFINITY } = options
    this.asked.subscribe++
    if (signal.aborted) return
    this.#check(topic, signal)
    const cuts = this.#cuts
    const entries = this.entriesOf(topic)
    for (let next = from; !signal.aborted; ) {
      if (this.#closed) throw closed()
      if (this.#cuts !== cuts) throw new PeerlineError(this.#cutCode, 'the subscription was cut off')
      const entry = entries[next - 1]
      if (entry === undefined) {
        await this.#change(signal)
        continue
      }
      next++
      if (entry.at < since) continue
      const lateMs = entry.at - this.clockAheadMs + this.spreadMs * Math.random() - Date.now()
      if (this.spreadMs > 0 && lateMs > 0) await pause(lateMs, signal).catch(() => {})
      if (!signal.aborted) yield entry
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers) clearTimeout(timer)
    this.#wake()
  }

  /** Resolves when the message has its place; never, when the ledger is closed before. */
  #place(topic: string, message: Uint8Array): Promise<Receipt> {
    const put = () => {
      const places = Array.from({ length: this.copies }, () => this.put(topic, message))
      return { sequence: places[0]!.sequence, at: places[0]!.at }
    }
    if (this.latencyMs === 0) return Promise.resolve(put())
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#timers.delete(timer)
        resolve(put())
      }, this.latencyMs)
      this.#timers.add(timer)
    })
  }

  /** What is placed, unless the signal fires or the ledger is closed first. */
  #until(placed: Promise<Receipt>, signal: AbortSignal): Promise<Receipt> {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.#closed) end(closed())
      }
      const onAbort = () => end(abortError(signal, 'appending'))
      const end = (outcome: Receipt | PeerlineError) => {
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(look)
        if (outcome instanceof PeerlineError) reject(outcome)
        else resolve(outcome)
      }
      signal.addEventListener('abort', onAbort)
      this.#waiting.add(look)
      void placed.then(end)
    })
  }

  /** Waits for the next change, or the signal. */
  #change(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        signal.removeEventListener('abort', done)
        this.#waiting.delete(done)
        resolve()
      }
      signal.addEventListener('abort', done)
      this.#waiting.add(done)
    })
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake()
  }

  #check(topic: string, signal: AbortSignal): void {
    if (this.#closed) throw closed()
    if (signal.aborted) throw abortError(signal, 'using the ledger')
    setMaxListeners(0, signal) // of dozens of readers at once
    if (this.unreachable) throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'the ledger does not answer')
    if (!/^[\x21-\x7e]{1,100}$/.test(topic)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'no name of a topic')
  }
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the ledger is closed')
}
