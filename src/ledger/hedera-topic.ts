/**
 * The entries of a topic at Hedera: stream after stream of a mirror node, as one.
 *
 *     stream:  … 7 8 9|      9: where the one before it ended, which must still be what it was
 *     stream:        9 10 11 …
 *
 * - Entries are handed out in order and without gaps. A gap is looked at again, for a mirror node that is catching up closes it.
 * - What was handed out last, and what was written last, is remembered by the network's hash, which is over all before it: a history
 *   that differs anywhere differs there.
 * - The network finds entries by time only. Where the time of a sequence is not remembered, it is sought: of the entries at half the time,
 *   and so on, one each.
 * - A topic that was made just now is not known yet, and what was appended just now is not there yet: both are waited for.
 */
import type { Client } from '@hiero-ledger/sdk'
import { equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import { pause } from '../pause.ts'
import type { Sdk } from './hedera-client.ts'
import { GRPC_NOT_FOUND } from './hedera-errors.ts'
import { type MirrorStream, msOf, NANOS_PER_MS, openStream, type Piece, type Unfinished } from './hedera-mirror.ts'
import type { Entry, ReadOptions } from './ledger.ts'

/** Entries that a stream is asked for: what is held here at most when who reads is slow. */
const STREAM_ENTRIES = 256

/** ms of silence that end a reading of what is there, where our clock is ahead of the mirror node's and it waits for our now. */
const IDLE_MS = 5_000

/** ms between two attempts to see what is not there yet, or left out; and how often a gap is looked at again. */
const AGAIN_MS = 500
const GAP_ATTEMPTS = 3

/** ms that our clock may be ahead of a mirror node's, which refuses to begin in its future. */
const AHEAD_MS = 60_000

/** Entries that are sought for a place at most: as many halvings as a time of 64 bits has. */
const MAX_PROBES = 64

/** ns by which the first chunk of a message may be before its last: a transaction lives for 2 minutes. */
const CHUNKS_NANOS = 180_000n * NANOS_PER_MS

/** Entries that reading can go on from, for each topic: readers of one topic are close to each other as a rule. */
const MAX_PLACES = 64

/** An entry, and what the network says of all up to it. */
export type Place = Pick<Piece, 'sequence' | 'nanos' | 'hash'>

/** What is remembered of a topic. */
export class TopicMemory {
  /** What was handed out, the latest last. */
  readonly #read: Place[] = []
  /** The newest entry of ours, by the network's receipt. */
  #written: Place | undefined

  get written(): Place | undefined {
    return this.#written
  }

  wrote(place: Place): void {
    if (this.#written === undefined || this.#written.sequence < place.sequence) this.#written = place
  }

  read({ sequence, nanos, hash }: Place): void {
    this.#read.push({ sequence, nanos, hash })
    if (this.#read.length > MAX_PLACES) this.#read.shift()
  }

  /** The last place known before this sequence. */
  before(sequence: number): Place | undefined {
    const places = this.#read.filter((place) => place.sequence < sequence)
    return places.sort((a, b) => a.sequence - b.sequence).at(-1)
  }

  /** False when this place is known to be another. */
  agrees(place: Place): boolean {
    const known = [this.#written, ...this.#read].find((one) => one?.sequence === place.sequence)
    return known === undefined || isSame(known, place)
  }
}

export interface Reading {
  readonly sdk: Sdk
  readonly client: Client
  readonly memory: TopicMemory
  /** Chunks of the largest message. */
  readonly maxChunks: number
  /** ms that a mirror node may take to know of a new topic, or of our own message. */
  readonly visibleMs: number
}

/** How far a stream brought us. */
type Outcome = 'full' | 'ended' | 'not there yet' | 'gap'

/**
 * @throws PeerlineError `ERR_PEERLINE_INVALID` when there is no such topic, `ERR_PEERLINE_UNREACHABLE`, `ERR_PEERLINE_BUSY`,
 *   `ERR_PEERLINE_PROTOCOL`, `ERR_PEERLINE_LEDGER`, or what the signal says
 */
export async function* entriesOf(
  { sdk, client, memory, maxChunks, visibleMs }: Reading,
  topic: string,
  { from = 1, since, signal }: ReadOptions,
  which: 'what is there' | 'what comes',
): AsyncGenerator<Entry, void, undefined> {
  const unfinished: Unfinished = new Map()
  const giveUpAt = performance.now() + visibleMs
  const start = memory.before(from) ?? (await seek(sdk, client, topic, { from, since, signal }))
  const course = new Course(topic, memory, start, start?.nanos ?? beginning(since))
  if (maxChunks > 1) course.lookBack(CHUNKS_NANOS)

  for (let [gaps, gapAt] = [0, 0]; ; ) {
    const until = which === 'what is there' ? untilNow(memory) : undefined
    const stream = openStream(sdk, client, {
      ...{ topic, from: course.cursor, limit: STREAM_ENTRIES, maxChunks, unfinished, signal },
      ...(until !== undefined && { until }),
    })
    let outcome: Outcome
    try {
      outcome = yield* wanted(course.follow(stream, until === undefined ? undefined : IDLE_MS), from, since, memory)
    } finally {
      stream.close()
    }
    if (outcome === 'full') continue
    const isPatient = performance.now() < giveUpAt
    if (outcome === 'gap') {
      // Each place has its own attempts: a subscription lasts for months.
      ;[gaps, gapAt] = [gapAt === course.at ? gaps + 1 : 1, course.at]
      if (gaps > GAP_ATTEMPTS) throw course.contradiction(`leaves out what is after ${gapAt}`)
    }
    if (outcome === 'not there yet' && !isPatient) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `there is no topic ${topic}`)
    }
    if (outcome === 'ended' && until === undefined) {
      throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', `the mirror node ended reading ${topic}`)
    }
    if (outcome === 'ended' && (course.hasReached(memory.written) || !isPatient)) return
    await pause(AGAIN_MS, signal)
  }
}

/** An entry not far before the sequence `from`; undefined when there is nothing to seek. */
async function seek(
  sdk: Sdk,
  client: Client,
  topic: string,
  { from, since, signal }: { from: number; since: number | undefined; signal: AbortSignal },
): Promise<Place | undefined> {
  if (from <= STREAM_ENTRIES) return undefined
  const until = BigInt(Date.now()) * NANOS_PER_MS
  const options = { topic, until, limit: 1, maxChunks: 1, unfinished: new Map(), signal }
  let [low, high] = [beginning(since), until]
  let place: Place | undefined
  for (let probes = 0; probes < MAX_PROBES && low < high; probes++) {
    const time = probes === 0 ? low : low + (high - low) / 2n
    const stream = openStream(sdk, client, { ...options, from: time })
    const piece = await stream.next(IDLE_MS).finally(() => stream.close())
    if (!('sequence' in piece) && piece.error !== undefined && piece.code !== GRPC_NOT_FOUND) throw piece.error
    if ('sequence' in piece && piece.sequence < from) {
      place = piece
      low = piece.nanos + 1n
      if (from - piece.sequence <= STREAM_ENTRIES) break
    } else if (probes === 0) break
    else high = time
  }
  return place
}

/** Of the pieces, the entries that were asked for. */
async function* wanted(
  pieces: AsyncGenerator<Piece, Outcome, undefined>,
  from: number,
  since: number | undefined,
  memory: TopicMemory,
): AsyncGenerator<Entry, Outcome, undefined> {
  for (;;) {
    const { done, value } = await pieces.next()
    if (done) return value
    const { sequence, message } = value
    const at = msOf(value.nanos)
    if (sequence < from || (since !== undefined && at < since)) continue
    memory.read(value)
    yield { sequence, at, message }
  }
}

/** How far we have come in a topic. */
class Course {
  readonly #topic: string
  readonly #memory: TopicMemory
  readonly #fromFirst: boolean
  /** Where the next stream begins, ns since 1970. */
  cursor: bigint
  /** The last piece; before the first, what we know to be before it. */
  #last: Place | undefined

  constructor(topic: string, memory: TopicMemory, last: Place | undefined, cursor: bigint) {
    this.#topic = topic
    this.#memory = memory
    this.#last = last
    this.cursor = cursor
    this.#fromFirst = cursor === 0n
  }

  get at(): number {
    return this.#last?.sequence ?? 0
  }

  /** Begins earlier, to see chunks whose message is whole only later. */
  lookBack(nanos: bigint): void {
    this.cursor = this.cursor > nanos ? this.cursor - nanos : 0n
  }

  hasReached(place: Place | undefined): boolean {
    return place === undefined || place.nanos < this.cursor || place.sequence <= this.at
  }

  /** The pieces of a stream that are new. */
  async *follow(stream: MirrorStream, idleMs: number | undefined): AsyncGenerator<Piece, Outcome, undefined> {
    for (let count = 0; ; count++) {
      const piece = await stream.next(idleMs)
      if (!('sequence' in piece)) {
        if (piece.code === GRPC_NOT_FOUND) return 'not there yet'
        if (piece.error !== undefined) throw piece.error
        return count === STREAM_ENTRIES ? 'full' : 'ended'
      }
      const order = this.#orderOf(piece, count === 0)
      if (order === 'contradiction') throw this.contradiction(`has changed what is at ${piece.sequence}`)
      if (order === 'gap') return 'gap'
      this.cursor = piece.nanos
      if (order === 'known') continue
      this.#last = piece
      yield piece
    }
  }

  contradiction(what: string): PeerlineError {
    return new PeerlineError('ERR_PEERLINE_LEDGER', `the mirror node ${what} in ${this.#topic}`)
  }

  #orderOf(piece: Piece, isFirst: boolean): 'next' | 'known' | 'gap' | 'contradiction' {
    const last = this.#last
    const { sequence, nanos } = piece
    if (!this.#memory.agrees(piece)) return 'contradiction'
    if (last === undefined) return sequence === 1 || !this.#fromFirst ? 'next' : 'gap'
    if (sequence === last.sequence) return isSame(piece, last) ? 'known' : 'contradiction'
    if (sequence < last.sequence) return nanos < last.nanos ? 'known' : 'contradiction'
    // A stream begins with the last entry of the one before it, or earlier.
    if (isFirst || sequence > last.sequence + 1) return 'gap'
    return nanos > last.nanos ? 'next' : 'contradiction'
  }
}

function isSame(a: Place, b: Place): boolean {
  return a.nanos === b.nanos && equalBytes(a.hash, b.hash)
}

/** ns before which nothing can be that is wanted. */
function beginning(since: number | undefined): bigint {
  if (since === undefined) return 0n
  return BigInt(Math.max(0, Math.floor(Math.min(since, Date.now() - AHEAD_MS)) - 1)) * NANOS_PER_MS
}

/** ns of our now; of what we wrote, should the network's clock be ahead. */
function untilNow({ written }: TopicMemory): bigint {
  const now = BigInt(Date.now()) * NANOS_PER_MS
  return written !== undefined && written.nanos >= now ? written.nanos + 1n : now
}
