/** What a batch of appends would make of the file of a ledger: the records, before a byte of them is written. */
import { PeerlineError } from '../errors.ts'
import type { LogIndex } from './log-index.ts'
import { CHAIN_BYTES, type Leaf, MAX_AT_MS, writeRecord } from './log-record.ts'

export interface LogLimits {
  readonly maxEntries: number
  readonly maxTopics: number
  /** Of the file. */
  readonly maxBytes: number
}

/** What is to be appended. */
export interface Draft {
  readonly topic: string
  readonly message: Uint8Array
}

/** Where the last record ends, its hash, and its time. */
export interface Tip {
  readonly end: number
  readonly hash: Uint8Array
  readonly at: number
}

export type Planned =
  | { readonly leaf: Leaf; readonly record: Buffer; readonly tip: Tip }
  | { readonly refused: PeerlineError }

/** The record of each draft, one after the other behind `tip`, or why it has none. */
export function planBatch(drafts: readonly Draft[], tip: Tip, index: LogIndex, limits: LogLimits): Planned[] {
  const counts = new Map<string, number>()
  let { size: entries, topics } = index
  let last = tip
  return drafts.map(({ topic, message }) => {
    const count = counts.get(topic) ?? index.count(topic)
    const refused = limitError(limits, entries, count === 0 ? topics : undefined)
    if (refused !== undefined) return { refused }
    const leaf = { topic, message, sequence: count + 1, at: after(last.at) }
    if (leaf.at > MAX_AT_MS) {
      return { refused: new PeerlineError('ERR_PEERLINE_INVALID', 'a ledger ends in 2109: is the clock right?') }
    }
    const record = writeRecord(last.hash, leaf)
    const end = last.end + record.length
    if (end > limits.maxBytes) return { refused: full(`maxBytes, ${limits.maxBytes}`) }
    counts.set(topic, leaf.sequence)
    entries++
    if (count === 0) topics++
    last = { end, hash: record.subarray(-CHAIN_BYTES), at: leaf.at }
    return { leaf, record, tip: last }
  })
}

/**
 * Why there may not be another entry.
 * @param entries that there are
 * @param topics that there are, where it would begin another one
 */
export function limitError(limits: LogLimits, entries: number, topics: number | undefined): PeerlineError | undefined {
  if (entries >= limits.maxEntries) return full(`maxEntries, ${limits.maxEntries}`)
  if (topics !== undefined && topics >= limits.maxTopics) return full(`maxTopics, ${limits.maxTopics}`)
  return undefined
}

function full(limit: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_LIMIT', `the ledger file has reached its ${limit}`)
}

/** The time of the entry after one at `at`: now, and a microsecond later at the least. */
function after(at: number): number {
  return Math.max(Date.now(), (Math.round(at * 1_000) + 1) / 1_000)
}
