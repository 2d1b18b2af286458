/**
 * What peers may do at the node of a ledger, and how much of it.
 *
 * - `<peer id>/out` and `<peer id>/err` are written by that peer alone; `<peer id>/in` and all others by everybody.
 * - What one peer asks and writes is bounded; so is what it writes to a topic that is not its own, and what all write together.
 * - What was written stays, and an identity costs nothing: who lets in everybody may find the ledger full.
 */
import type { ErrorCode } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { KeyedLimiter, TokenBucket } from '../policy/limits.ts'

export interface LedgerLimits {
  /** Messages that one peer may write in a minute; as many again at once. @default 120 */
  readonly messagesPerMinute?: number
  /** Bytes of them. @default 1_048_576 */
  readonly bytesPerMinute?: number
  /** Messages that one peer may write in an hour to a topic that is not its own; half of them at once. @default 720 */
  readonly topicMessagesPerHour?: number
  /** Messages a second of all peers together; five times as many at once. @default 200: each is written to the disk */
  readonly messagesPerSecond?: number
  /** Entries of all topics: a tree of 64 MB. @default 1_000_000 */
  readonly maxEntries?: number
  /** Questions of one peer a second; ten times as many at once. @default 50: a page of 64 entries takes about a millisecond */
  readonly requestsPerSecond?: number
  /** Subscriptions of one peer at once, in all of its sessions. @default 32 */
  readonly maxSubscriptions?: number
  /** Subscriptions of all peers at once: each looks up when something comes. @default 4_096 */
  readonly maxAllSubscriptions?: number
  /** ms for which a subscriber may not read. @default 15_000 */
  readonly slowMs?: number
}

const DEFAULTS: Required<LedgerLimits> = {
  messagesPerMinute: 120,
  bytesPerMinute: 1_048_576,
  topicMessagesPerHour: 720,
  messagesPerSecond: 200,
  maxEntries: 1_000_000,
  requestsPerSecond: 50,
  maxSubscriptions: 32,
  maxAllSubscriptions: 4_096,
  slowMs: 15_000,
}

export class LedgerQuota {
  readonly limits: Required<LedgerLimits>
  readonly #requests: KeyedLimiter
  readonly #messages: KeyedLimiter
  readonly #bytes: KeyedLimiter
  /** By writer and topic. */
  readonly #topics: KeyedLimiter
  readonly #all: TokenBucket
  readonly #subscriptionsOf = new Map<PeerId, number>()
  #subscriptions = 0

  constructor(limits: LedgerLimits = {}) {
    this.limits = { ...DEFAULTS, ...limits }
    const { messagesPerMinute, bytesPerMinute, topicMessagesPerHour, messagesPerSecond, requestsPerSecond } =
      this.limits
    this.#requests = new KeyedLimiter({ rate: requestsPerSecond, burst: requestsPerSecond * 10 })
    this.#messages = new KeyedLimiter({ rate: messagesPerMinute / 60, burst: messagesPerMinute })
    this.#bytes = new KeyedLimiter({ rate: bytesPerMinute / 60, burst: bytesPerMinute })
    this.#topics = new KeyedLimiter({ rate: topicMessagesPerHour / 7_200, burst: Math.ceil(topicMessagesPerHour / 2) })
    this.#all = new TokenBucket({ rate: messagesPerSecond, burst: messagesPerSecond * 5 })
  }

  /** Subscriptions that stand. */
  get subscriptions(): number {
    return this.#subscriptions
  }

  /** Whether a peer may ask one thing more. */
  ask(from: PeerId): boolean {
    return this.#requests.take(from)
  }

  /** Why a peer may not write to a topic; undefined: it may. @param entries that the ledger has */
  write(from: PeerId, topic: string, bytes: number, entries: number): ErrorCode | undefined {
    const owner = ownerOf(topic)
    if (owner !== undefined && owner !== from) return 'ERR_PEERLINE_DENIED'
    const may =
      entries < this.limits.maxEntries &&
      this.#messages.take(from) &&
      this.#bytes.take(from, bytes) &&
      (owner !== undefined || this.#topics.take(`${from} ${topic}`)) &&
      this.#all.take()
    return may ? undefined : 'ERR_PEERLINE_BUSY'
  }

  /** Counts one more subscription; false when there are too many. */
  subscribe(from: PeerId): boolean {
    const { maxSubscriptions, maxAllSubscriptions } = this.limits
    const mine = this.#subscriptionsOf.get(from) ?? 0
    if (mine >= maxSubscriptions || this.#subscriptions >= maxAllSubscriptions) return false
    this.#subscriptionsOf.set(from, mine + 1)
    this.#subscriptions++
    return true
  }

  /** One of them has ended. */
  unsubscribe(from: PeerId): void {
    this.#subscriptions--
    const rest = this.#subscriptionsOf.get(from)! - 1
    if (rest === 0) this.#subscriptionsOf.delete(from)
    else this.#subscriptionsOf.set(from, rest)
  }
}

/** The only peer that may write to `topic`, if there is one. */
function ownerOf(topic: string): PeerId | undefined {
  const name = /^([^/]+)\/(?:out|err)$/.exec(topic)?.[1]
  if (name === undefined) return undefined
  try {
    return parsePeerId(name)
  } catch {
    return undefined // named after nobody
  }
}
