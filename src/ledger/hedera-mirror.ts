/**
 * One stream of a topic from a Hedera mirror node, by the SDK's `TopicMessageQuery`.
 *
 *     mirror node --gRPC subscribeTopic--> SDK: decode, put chunks together --> queue --> whoever asks for the next
 *
 * - Every entry of the topic comes as one piece, in order, so that a gap shows. A message in chunks is whole in the piece of the chunk
 *   that came last; the pieces of the others are empty, and so are those of messages that are larger than ours may be.
 * - A stream is asked for so many entries and no more, for the SDK cannot slow a mirror node down: who wants more opens the next.
 * - A mirror node is not trusted: the SDK throws what it cannot decode at nobody, which would end the process, and keeps the
 *   chunks of messages that never become whole. So it is called from here, and its chunks are counted.
 *
 * Limits: 8 KiB an entry, 64 messages that are not whole yet.
 */
import type { Client, Timestamp, TopicMessage } from '@hiero-ledger/sdk'
import { abortError, PeerlineError } from '../errors.ts'
import type { Sdk } from './hedera-client.ts'
import { hederaError } from './hedera-errors.ts'

/** Bytes of the largest entry with all that is around it: the network takes messages of 1,024 bytes in transactions of 6,144. */
const MAX_ENTRY_BYTES = 8_192

/** Messages of which some chunks have come: anybody may begin one and leave it. With 20 chunks each that is 1.3 MB. */
const MAX_UNFINISHED = 64

export const NANOS_PER_MS = 1_000_000n
const NANOS_PER_SECOND = 1_000_000_000n

/** One entry of a topic. */
export interface Piece {
  readonly sequence: number
  /** Consensus time, ns since 1970: finer than a number can say. */
  readonly nanos: bigint
  /** The network's hash over this entry and all before it. */
  readonly hash: Uint8Array
  readonly message: Uint8Array
}

/** A decoded chunk, as far as it is looked at here: `ConsensusTopicResponse` of `consensus_service.proto`. */
interface Chunk {
  readonly consensusTimestamp: Parameters<typeof Timestamp._fromProtobuf>[0]
  readonly sequenceNumber: { toNumber(): number }
  readonly runningHash: Uint8Array
  readonly chunkInfo: { readonly number: number; readonly total: number }
}

/** Chunks of messages that are not whole yet, by transaction. It outlives a stream, so that the next goes on. */
export type Unfinished = Map<string, Chunk[]>

/** What the SDK calls itself when something comes. It is not meant for others; `openStream` checks that it is there. */
interface Inside {
  _handleMessage(data: Uint8Array, chunks: Unfinished): void
  _handleChunkedMessage(chunk: Chunk, chunks: Unfinished): void
}

export interface StreamOptions {
  readonly topic: string
  /** The first consensus time wanted, ns since 1970. */
  readonly from: bigint
  /** End at what was there by then, ns since 1970. @default it goes on with what comes */
  readonly until?: bigint
  /** Entries after which it ends. */
  readonly limit: number
  /** Chunks of the largest message. */
  readonly maxChunks: number
  readonly unfinished: Unfinished
  readonly signal: AbortSignal
}

/** How a stream ended. */
export interface StreamEnd {
  /** Undefined when all came that was asked for. */
  readonly error: PeerlineError | undefined
  /** The gRPC status code, when the mirror node gave one. */
  readonly code?: number | undefined
}

export interface MirrorStream {
  /**
   * The next entry, or how the stream ended.
   * @param idleMs it also ends when nothing came for so long @default it may take any time
   * @throws PeerlineError what the signal says
   */
  next(idleMs?: number): Promise<Piece | StreamEnd>
  /** Leaves nothing behind. */
  close(): void
}

/** @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when the SDK is not one that this knows, `ERR_PEERLINE_UNREACHABLE` */
export function openStream(sdk: Sdk, client: Client, options: StreamOptions): MirrorStream {
  const { topic, limit, maxChunks, unfinished, signal } = options
  const what = `reading ${topic}`
  const queue: Piece[] = []
  let received = 0
  let handle: { unsubscribe(): void } | undefined
  let end: StreamEnd | undefined
  let wake: (() => void) | undefined

  const finish = (why: StreamEnd) => {
    end ??= why
    handle?.unsubscribe()
    wake?.()
  }
  const fail = (error: unknown, code?: number) => finish({ error: hederaError(error, what), code })
  const put = (piece: Piece) => {
    if (end !== undefined) return
    if (!Number.isSafeInteger(piece.sequence) || piece.sequence < 1 || piece.nanos < 1n) {
      return fail(lying(topic, 'sends an entry without a place'))
    }
    if (++received > limit) return fail(lying(topic, 'sends more than it was asked for'))
    queue.push(piece)
    wake?.()
  }

  const query = new sdk.TopicMessageQuery({
    topicId: topic,
    startTime: timestampOf(sdk, options.from),
    ...(options.until !== undefined && { endTime: timestampOf(sdk, options.until) }),
    limit,
    // It is not tried again by the SDK, which would do so after it was told to stop.
    retryHandler: (error) => {
      const code = error !== null && 'code' in error && typeof error.code === 'number' ? error.code : undefined
      fail(error, code)
      return false
    },
    errorHandler: (_, error) => fail(error),
    completionHandler: () => finish({ error: undefined }),
  }).setMaxAttempts(1)

  const inside = query as unknown as Inside
  const { _handleMessage: decode, _handleChunkedMessage: putTogether } = inside
  if (typeof decode !== 'function' || typeof putTogether !== 'function') {
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', 'this version of @hiero-ledger/sdk is not known')
  }
  inside._handleMessage = (data) => {
    if (end !== undefined) return
    if (data.length > MAX_ENTRY_BYTES) return fail(lying(topic, `sends ${data.length} bytes at once`))
    try {
      decode.call(query, data, unfinished)
    } catch (cause) {
      fail(lying(topic, 'sends what is no message', cause))
    }
  }
  inside._handleChunkedMessage = (chunk) => {
    const { number, total } = chunk.chunkInfo
    const before = received
    if (number >= 1 && number <= total && total <= maxChunks && !isKnown(chunk, unfinished)) {
      try {
        putTogether.call(query, chunk, unfinished)
      } catch {
        // Whoever wrote it did not say which message it is of, as the network lets it: it stays empty.
      }
      for (const [key, chunks] of unfinished) {
        // Chunks that do not agree how many they are never become whole: without this they would be kept, and more and more.
        const isLost = chunks.length >= chunks[0]!.chunkInfo.total
        if (isLost || unfinished.size > MAX_UNFINISHED) unfinished.delete(key)
      }
    }
    if (received === before) put(pieceOf(sdk, chunk))
  }

  try {
    handle = query.subscribe(client, null, (message) => put(pieceOfMessage(message)))
  } catch (error) {
    throw hederaError(error, what)
  }
  return {
    async next(idleMs) {
      for (;;) {
        if (signal.aborted) throw abortError(signal, what)
        const next = queue.shift() ?? end
        if (next !== undefined) return next
        const hasCome = await new Promise<boolean>((resolve) => {
          const onAbort = () => wake?.()
          const timer = idleMs === undefined ? undefined : setTimeout(() => settle(false), idleMs)
          const settle = (came: boolean) => {
            wake = undefined
            clearTimeout(timer)
            signal.removeEventListener('abort', onAbort)
            resolve(came)
          }
          wake = () => settle(true)
          signal.addEventListener('abort', onAbort)
        })
        if (!hasCome) return { error: undefined }
      }
    },
    close() {
      finish({ error: undefined })
      queue.length = 0
    },
  }
}

/** ms since 1970, with fractions, of ns. The same ns give the same ms. */
export function msOf(nanos: bigint): number {
  return Number(nanos / NANOS_PER_MS) + Number(nanos % NANOS_PER_MS) / Number(NANOS_PER_MS)
}

/** ns since 1970 of a time of the SDK. */
export function nanosOf({ seconds, nanos }: Timestamp): bigint {
  return BigInt(seconds.toString()) * NANOS_PER_SECOND + BigInt(nanos.toString())
}

function timestampOf(sdk: Sdk, nanos: bigint): Timestamp {
  return new sdk.Timestamp(Number(nanos / NANOS_PER_SECOND), Number(nanos % NANOS_PER_SECOND))
}

function pieceOfMessage({ sequenceNumber, consensusTimestamp, runningHash, contents }: TopicMessage): Piece {
  const message = new Uint8Array(contents)
  return { sequence: sequenceNumber.toNumber(), nanos: nanosOf(consensusTimestamp), hash: runningHash, message }
}

function pieceOf(sdk: Sdk, { sequenceNumber, consensusTimestamp, runningHash }: Chunk): Piece {
  const nanos = nanosOf(sdk.Timestamp._fromProtobuf(consensusTimestamp))
  return { sequence: sequenceNumber.toNumber(), nanos, hash: runningHash, message: new Uint8Array() }
}

/** Whether a chunk has come before, as it does when a stream begins where the one before it ended. */
function isKnown({ sequenceNumber }: Chunk, unfinished: Unfinished): boolean {
  const sequence = sequenceNumber.toNumber()
  return [...unfinished.values()].some((chunks) => chunks.some((one) => one.sequenceNumber.toNumber() === sequence))
}

function lying(topic: string, what: string, cause?: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `reading ${topic} failed: the mirror node ${what}`, { cause })
}
