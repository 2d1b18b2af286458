/**
 * The registry: a topic that all peers of a ledger share, in which each says by its signed record what its own topics are.
 *
 *     publish: record (identity/record.ts) --> RECORD in the topic, when it has changed, and before it expires
 *     find:    RECORD --> whose? --> newer? --> signature of the record --> kept until it expires
 *
 * - A record is taken from its own peer alone, so that nobody else takes up room with it; of one peer the highest sequence
 *   counts, for as long as the record says, by the ledger's time.
 * - Anybody may write, so what is kept is bounded. Who fills the topic with peers that are none pushes out those that nobody
 *   here has asked for; those that were asked for have room of their own.
 * - Reading begins a month back: no record is good for longer.
 *
 * What others learn: that a peer exists at this ledger, and where it may be dialled.
 */
import { asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import {
  type Identity,
  openRecord,
  type PeerId,
  type PeerRecord,
  type RecordContent,
  signRecord,
} from '../identity/index.ts'
import { pause, untilAborted } from '../pause.ts'
import { backOffMs, mayPass } from './again.ts'
import { ConsensusClock } from './clock.ts'
import { Kind, type Message, openMessage } from './envelope.ts'
import type { Entry, Ledger } from './ledger.ts'
import { nextPage } from './next-page.ts'
import { TopicReader } from './topic-reader.ts'
import { TopicWriter } from './topic-writer.ts'

/** ms that an own record is good for, and after which it is published again: a device may be away for weeks. */
const LIFETIME_MS = 30 * 86_400_000
const RENEW_MS = LIFETIME_MS / 2

/** ms between looks whether an own record must be published again. */
const LOOK_MS = 3_600_000

/** Records kept of peers that were asked for, and of others: up to 4 KiB each, and mostly 300 bytes. */
const MAX_ASKED = 1_024
const MAX_OTHERS = 4_096

/** What a peer tells of itself: the registry gives the record its sequence and its end. */
export type OwnContent = Omit<RecordContent, 'sequence' | 'expiresAt'>

export interface RegistryOptions {
  readonly ledger: Ledger
  /** Shared by all who use the registry. */
  readonly topic: string
  /** Signs what is published. @default nothing can be published */
  readonly identity?: Identity
  /** @default one of its own */
  readonly clock?: ConsensusClock
  /** What does not work: a record was not published again, the topic cannot be read. */
  readonly onError?: (error: PeerlineError) => void
  /** Records kept of peers that nobody has asked for. @default 4,096 */
  readonly maxOthers?: number
}

export class Registry {
  readonly #options: RegistryOptions
  readonly #clock: ConsensusClock
  readonly #writer: TopicWriter | undefined
  readonly #over = new AbortController()
  /** Those that were asked for, the least lately first; undefined: it was not there. */
  readonly #asked = new Map<PeerId, PeerRecord | undefined>()
  /** The others, the least lately published first. */
  readonly #others = new Map<PeerId, PeerRecord>()
  /** Resolves when all was read that was there at the beginning. Never rejects. */
  readonly #begun: Promise<void>
  #reader: TopicReader | undefined
  #own: OwnContent | undefined
  #timer: NodeJS.Timeout | undefined
  #failed: PeerlineError | undefined

  /** Begins to read. */
  constructor(options: RegistryOptions) {
    const { ledger, topic, identity: signer, clock = new ConsensusClock() } = options
    this.#options = options
    this.#clock = clock
    if (signer !== undefined) {
      this.#writer = new TopicWriter({ ledger, topic, signer, clock })
      // Ours is not pushed out by others: it would be written again each time.
      this.#asked.set(signer.peerId, undefined)
    }
    this.#begun = this.#begin()
  }

  /** Records that are kept. */
  get size(): number {
    return this.#asked.size + this.#others.size
  }

  /**
   * The record of a peer; undefined when there is none. The first time this waits until the topic has been read.
   * @throws PeerlineError `ERR_PEERLINE_CLOSED`, why the topic cannot be read, or what the signal says
   */
  async find(peer: PeerId, { signal }: { readonly signal: AbortSignal }): Promise<PeerRecord | undefined> {
    await this.#untilBegun(signal)
    const found = this.#known(peer)
    this.#others.delete(peer)
    this.#asked.delete(peer)
    keep(this.#asked, peer, found, MAX_ASKED)
    return found
  }

  /**
   * Publishes what we tell of ourselves from now on: at once where it is not there already, and again before it expires.
   * @throws PeerlineError as {@link find} and `TopicWriter.append`; `ERR_PEERLINE_INVALID` for a content that is over a limit
   */
  async publish(content: OwnContent, { signal }: { readonly signal: AbortSignal }): Promise<void> {
    await this.#untilBegun(signal)
    this.#own = content
    clearInterval(this.#timer)
    this.#timer = setInterval(() => void this.#renew(), LOOK_MS)
    this.#timer.unref()
    await this.#publish(content, signal)
  }

  /** Publishes nothing more; what stands expires by itself. The ledger stays open. */
  async close(): Promise<void> {
    this.#over.abort()
    this.#failed ??= new PeerlineError('ERR_PEERLINE_CLOSED', 'the registry is closed')
    clearInterval(this.#timer)
    this.#writer?.close()
    await this.#begun
    await this.#reader?.close()
    this.#asked.clear()
    this.#others.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  // ---- publishing ----

  async #publish(content: OwnContent, signal: AbortSignal): Promise<void> {
    const { identity } = this.#options
    if (identity === undefined || this.#writer === undefined) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'a registry without an identity publishes nothing')
    }
    const now = Math.floor(this.#clock.now())
    const standing = this.#known(identity.peerId)
    if (standing !== undefined && standing.expiresAt - now > RENEW_MS && isSame(standing, content)) return
    const sequence = Math.max(now, (standing?.sequence ?? 0) + 1)
    const bytes = signRecord(identity, { ...content, sequence, expiresAt: now + LIFETIME_MS })
    await this.#writer.append(Kind.RECORD, bytes, { signal })
    this.#keep(openRecord(bytes, { now }))
  }

  async #renew(): Promise<void> {
    try {
      if (this.#own !== undefined) await this.#publish(this.#own, this.#over.signal)
    } catch (error) {
      if (!this.#over.signal.aborted) this.#options.onError?.(asPeerlineError(error, 'ERR_PEERLINE_LEDGER'))
    }
  }

  // ---- reading ----

  /** Reads what is there, and then what comes. Never rejects. */
  async #begin(): Promise<void> {
    const { ledger, topic, onError } = this.#options
    const { signal } = this.#over
    const since = this.#clock.now() - LIFETIME_MS
    let last = 0
    for (let from: number | undefined = 1, failures = 0; from !== undefined && !signal.aborted; ) {
      try {
        const page: Awaited<ReturnType<Ledger['read']>> = await ledger.read(topic, { signal, since, from })
        for (const entry of page.entries) {
          this.#clock.received(entry.at)
          this.#open(entry)
          last = entry.sequence
        }
        from = nextPage(page.next, from, ledger)
        failures = 0
        // Between two pages others have their turn.
        if (from !== undefined) await pause(0, signal)
      } catch (cause) {
        const error = asPeerlineError(cause, 'ERR_PEERLINE_LEDGER')
        if (signal.aborted) return
        onError?.(error)
        if (!mayPass(error)) {
          this.#failed ??= error
          return
        }
        await pause(backOffMs(++failures, Math.random), signal).catch(() => {})
      }
    }
    if (signal.aborted) return
    this.#reader = new TopicReader({
      ledger,
      topic,
      clock: this.#clock,
      ...(last > 0 ? { from: last + 1 } : { since }),
      onMessage: (message) => this.#take(message),
      onState: (now) => {
        if (now.state === 'waiting') onError?.(now.error)
        if (now.state !== 'failed') return
        onError?.(now.error)
        this.#failed ??= now.error
      },
    })
  }

  async #untilBegun(signal: AbortSignal): Promise<void> {
    await untilAborted(this.#begun, signal, 'reading the registry')
    if (this.#failed !== undefined) throw this.#failed
  }

  #open(entry: Entry): void {
    const { ledger, topic } = this.#options
    try {
      this.#take(openMessage(entry.message, { ledger: ledger.id, topic }))
    } catch (error) {
      if (!isPeerlineError(error)) throw error // anybody may write anything
    }
  }

  #take({ kind, sender, payload }: Message): void {
    if (kind !== Kind.RECORD) return
    try {
      const record = openRecord(payload, { now: this.#clock.now() })
      if (record.peerId === sender) this.#keep(record)
    } catch (error) {
      if (!isPeerlineError(error)) throw error // of a later version, expired, or nonsense
    }
  }

  #keep(record: PeerRecord): void {
    const { peerId, sequence } = record
    const known = this.#asked.get(peerId) ?? this.#others.get(peerId)
    if (known !== undefined && known.sequence >= sequence) return
    if (this.#asked.has(peerId)) return void this.#asked.set(peerId, record)
    this.#others.delete(peerId)
    keep(this.#others, peerId, record, this.#options.maxOthers ?? MAX_OTHERS)
  }

  #known(peer: PeerId): PeerRecord | undefined {
    const record = this.#asked.get(peer) ?? this.#others.get(peer)
    return record !== undefined && record.expiresAt > this.#clock.now() ? record : undefined
  }
}

/** Puts an entry at the end; the first goes when there are too many. */
function keep<V>(map: Map<PeerId, V>, peer: PeerId, value: V, max: number): void {
  map.set(peer, value)
  if (map.size <= max) return
  for (const first of map.keys()) {
    map.delete(first)
    return
  }
}

function isSame(record: PeerRecord, content: OwnContent): boolean {
  const lists = ['addresses', 'relays', 'rendezvous', 'capabilities', 'topics'] as const
  return lists.every((name) => {
    const [ours, theirs] = [record[name], content[name] ?? []]
    return ours.length === theirs.length && ours.every((one, at) => one === theirs[at])
  })
}
