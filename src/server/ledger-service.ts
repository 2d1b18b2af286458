/**
 * The node of a ledger: offers one that is kept here to peers, and shows with all it says that it has not changed its mind.
 *
 *     stream --> how much the peer asks --> size --> parse --> quota --> the ledger --> entries, proofs, signed head
 *
 * - Who may come at all is the firewall's to say, and each peer is authenticated by its session. What those may do who come, and how
 *   much of it, is in ledger-quota.ts.
 * - A subscriber that does not read is given up with BUSY: it comes back with the place it has got to.
 * - The tree of all entries is kept in memory, 64 bytes for each: `LedgerLimits.maxEntries`.
 *
 * The wire is in ledger/remote-wire.ts.
 */
import { asPeerlineError, type ErrorCode, PeerlineError } from '../errors.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { LogLedger } from '../ledger/log.ts'
import { MerkleTree } from '../ledger/merkle.ts'
import {
  ENTRY_BYTES,
  encodeEntry,
  encodePlaced,
  LEDGER_PROTOCOL,
  type LedgerRequest,
  MAX_NODE_MESSAGE_BYTES,
  PAGE_BYTES,
  PAGE_ENTRIES,
  type ProvenEntry,
  REQUEST_BYTES,
  readRequest,
  type Shown,
  sayable,
} from '../ledger/remote-wire.ts'
import { type LeafSource, type PlacedEntry, signHead, type TreeHead } from '../ledger/tree-head.ts'
import { within } from '../pause.ts'
import type { Peer, StreamContext } from '../peer/index.ts'
import { MessageStream, type Session, type Stream, StreamCode } from '../session/index.ts'
import { type LedgerLimits, LedgerQuota } from './ledger-quota.ts'

/** ms for the request to come once its stream is open, and for the ledger to do what is asked. */
const REQUEST_MS = 10_000
const WORK_MS = 30_000

/** ms after which the same head is signed again: so old is the newest that a reader may have. */
const HEAD_MS = 30_000

/** Leaves that are read at once when the tree is made. */
const LEAVES_AT_ONCE = 4_096

export interface LedgerServiceOptions {
  readonly ledger: LeafSource
  /** Signs the heads: that of the peer whose sessions are served. */
  readonly identity: Identity
  readonly limits?: LedgerLimits
}

/** Who asks, and where the answer goes. */
interface Asker {
  readonly from: PeerId
  readonly session: Session
  readonly stream: Stream
  readonly messages: () => MessageStream
  /** Nobody waits for the answer any more. */
  readonly gone: AbortController
}

export class LedgerService {
  /** What is offered. */
  readonly ledger: LeafSource
  readonly #identity: Identity
  readonly #quota: LedgerQuota
  readonly #tree = new MerkleTree()
  #growing: Promise<void> = Promise.resolve()
  #head: { readonly head: TreeHead; readonly signedAt: number } | undefined
  /** The entries that a session was told of: what it is shown next begins with them. */
  readonly #told = new WeakMap<Session, number>()
  readonly #open = new Set<Asker>()
  #isOwn = false
  #closed = false

  constructor({ ledger, identity, limits }: LedgerServiceOptions) {
    this.ledger = ledger
    this.#identity = identity
    this.#quota = new LedgerQuota(limits)
  }

  /**
   * Has `peer` offer a ledger to all that its firewall lets come.
   * @param ledger one that is open, or the file of one, which is then closed with the service
   * @throws PeerlineError as `LogLedger.open`
   */
  static async open(ledger: string | LeafSource, peer: Peer): Promise<LedgerService> {
    const isOwn = typeof ledger === 'string'
    const opened = isOwn ? await LogLedger.open(ledger) : ledger
    const service = new LedgerService({ ledger: opened, identity: peer.identity })
    service.#isOwn = isOwn
    try {
      // Now, and not while the first to come waits.
      await service.#grow()
    } catch (error) {
      await service.close()
      throw error
    }
    peer.handleStream(LEDGER_PROTOCOL, (stream, context) => service.serve(stream, context))
    return service
  }

  /** Bytes of the largest message taken. */
  get maxMessageBytes(): number {
    return Math.min(this.ledger.maxMessageBytes, MAX_NODE_MESSAGE_BYTES)
  }

  /** Subscriptions that stand. */
  get subscriptions(): number {
    return this.#quota.subscriptions
  }

  /** Serves one stream of a peer's session. */
  serve(stream: Stream, { from, session }: StreamContext): void {
    if (this.#closed || !this.#quota.ask(from)) return stream.reset(StreamCode.BUSY)
    const late = setTimeout(() => stream.reset(StreamCode.TIMEOUT), REQUEST_MS)
    let asked = false
    const asker: Asker = { from, session, stream, messages: () => messages, gone: new AbortController() }
    this.#open.add(asker)
    const messages: MessageStream = new MessageStream(stream, {
      maxBytes: this.maxMessageBytes + REQUEST_BYTES,
      onMessage: (message) => {
        if (asked) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a stream is for one question to the ledger')
        asked = true
        clearTimeout(late)
        void this.#answer(readRequest(message), asker)
      },
      // Also when the peer ended in order: it waits no longer.
      onEnd: () => {
        clearTimeout(late)
        this.#open.delete(asker)
        asker.gone.abort()
        if (!stream.done) stream.reset()
      },
    })
  }

  /** Ends all that goes on. A ledger that was given stays open. */
  async close(): Promise<void> {
    this.#closed = true
    for (const { stream } of [...this.#open]) stream.reset()
    if (this.#isOwn) await this.ledger.close()
  }

  /** Never rejects. */
  async #answer(request: LedgerRequest, asker: Asker): Promise<void> {
    const { gone, messages } = asker
    try {
      await this.#grow()
      const answer = await this.#work(request, asker)
      if (answer !== undefined) await messages().send(answer)
    } catch (error) {
      if (gone.signal.aborted) return
      await messages()
        .send({ failed: said(error) })
        .catch(() => {})
    }
    await messages()
      .end()
      .catch(() => {})
  }

  /** What is answered; undefined when all was said already. */
  async #work(request: LedgerRequest, asker: Asker): Promise<unknown> {
    const { session } = asker
    if (request.known !== undefined && !this.#told.has(session)) this.#told.set(session, request.known)
    switch (request.t) {
      case 'about': {
        const { latencyMs, spreadMs } = this.ledger
        const [latency, spread] = [Math.ceil(latencyMs), Math.ceil(spreadMs)]
        return { ...this.#show(session), max: this.maxMessageBytes, latency, spread }
      }
      case 'append':
        return this.#append(request, asker)
      case 'read': {
        const { topic, from, since, max } = request
        return this.#soon(asker, async (signal) => {
          const page = await this.ledger.read(topic, { ...place(from, since), signal, max })
          const entries = await this.#bridge(topic, from, page.entries, signal)
          return this.#page(entries, page.next !== undefined, session)
        })
      }
      case 'subscribe':
        return this.#subscribe(request, asker)
      case 'prove': {
        const { from, to } = request
        return { proof: this.#tree.consistencyProof(from, to) }
      }
    }
  }

  async #append({ topic, message }: LedgerRequest & { t: 'append' }, asker: Asker): Promise<unknown> {
    const { from, session } = asker
    if (message.length > this.maxMessageBytes) throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', topic)
    const refusal = this.#quota.write(from, topic, message.length, this.ledger.size)
    if (refusal !== undefined) throw new PeerlineError(refusal, topic)
    return this.#soon(asker, async (signal) => {
      const { sequence } = await this.ledger.append(topic, message, { signal })
      const { entries } = await this.ledger.read(topic, { from: sequence!, max: 1, signal })
      await this.#grow()
      const shown = this.#show(session)
      return { ...shown, placed: encodePlaced(this.#prove(entries[0]!)) }
    })
  }

  async #subscribe(request: LedgerRequest & { t: 'subscribe' }, asker: Asker): Promise<undefined> {
    const { from, gone } = asker
    if (!this.#quota.subscribe(from)) throw new PeerlineError('ERR_PEERLINE_BUSY', request.topic)
    try {
      await this.#pump(request, asker, gone.signal)
    } finally {
      this.#quota.unsubscribe(from)
    }
  }

  /** What is there, page by page, and then what comes, as it comes; until nobody waits for it. */
  async #pump(request: LedgerRequest & { t: 'subscribe' }, asker: Asker, signal: AbortSignal): Promise<void> {
    const { topic, since } = request
    let { from } = request
    const tell = async (found: readonly PlacedEntry[]) => {
      const entries = await this.#bridge(topic, from, found, signal)
      from = (entries.at(-1)?.sequence ?? from - 1) + 1
      // What does not fit one page goes into the next.
      for (let rest = entries; ; ) {
        const page = await this.#page(rest, false, asker.session)
        await this.#send(page, asker)
        rest = rest.slice(page.entries.length)
        if (rest.length === 0) return
      }
    }
    for (let next: number | undefined = from; next !== undefined; ) {
      const page: Awaited<ReturnType<LeafSource['read']>> = await this.ledger.read(topic, {
        ...place(next, since),
        signal,
        max: PAGE_ENTRIES,
      })
      await tell(page.entries)
      next = page.next
    }
    for await (const entry of this.ledger.subscribe(topic, { ...place(from, since), signal })) await tell([entry])
  }

  /** Tells a subscriber something; gives it up when it does not read. */
  async #send(message: unknown, { stream, messages }: Asker): Promise<void> {
    const timer = setTimeout(() => stream.reset(StreamCode.BUSY), this.#quota.limits.slowMs)
    try {
      await messages().send(message)
    } finally {
      clearTimeout(timer)
    }
  }

  /** What was passed over for its time ends with an entry that shows it: that one goes before the others. */
  async #bridge(
    topic: string,
    from: number,
    entries: readonly PlacedEntry[],
    signal: AbortSignal,
  ): Promise<readonly PlacedEntry[]> {
    const first = entries[0]
    if (first === undefined || first.sequence <= from) return entries
    const before = await this.ledger.read(topic, { from: first.sequence - 1, max: 1, signal })
    return [...before.entries, ...entries]
  }

  /** As many of `entries` as fit, with their proofs. */
  async #page(
    entries: readonly PlacedEntry[],
    more: boolean,
    session: Session,
  ): Promise<Shown & { readonly entries: readonly unknown[]; readonly more?: true }> {
    await this.#grow()
    const shown = this.#show(session)
    const fitting: ProvenEntry[] = []
    let bytes = 0
    for (const entry of entries) {
      const proven = this.#prove(entry)
      bytes += proven.message.length + proven.proof.length + ENTRY_BYTES
      if (fitting.length > 0 && bytes > PAGE_BYTES) break
      fitting.push(proven)
    }
    const isMore = more || fitting.length < entries.length
    return { ...shown, entries: fitting.map(encodeEntry), ...(isMore ? { more: true } : {}) }
  }

  #prove(entry: PlacedEntry): ProvenEntry {
    return { ...entry, proof: this.#tree.inclusionProof(entry.index) }
  }

  /** The newest head, and that it goes on from what the session was told before. */
  #show(session: Session): Shown {
    const { size } = this.#tree
    const now = performance.now()
    if (this.#head === undefined || this.#head.head.size !== size || now - this.#head.signedAt > HEAD_MS) {
      const content = { ledger: this.ledger.id, size, root: this.#tree.root(), time: Date.now() }
      this.#head = { head: signHead(this.#identity, content), signedAt: now }
    }
    const base = Math.min(this.#told.get(session) ?? 0, size)
    this.#told.set(session, size)
    return { head: this.#head.head.bytes, base, proof: this.#tree.consistencyProof(base) }
  }

  /** Takes into the tree what the ledger has. */
  #grow(): Promise<void> {
    const grown = this.#growing.then(async () => {
      while (this.#tree.size < this.ledger.size) {
        const to = Math.min(this.ledger.size, this.#tree.size + LEAVES_AT_ONCE)
        for (const leaf of await this.ledger.leafHashes(this.#tree.size, to)) this.#tree.append(leaf)
      }
    })
    this.#growing = grown.catch(() => {})
    return grown
  }

  /** Does what is asked for, unless it takes too long, or nobody waits for it any more. */
  #soon<T>({ gone }: Asker, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new PeerlineError('ERR_PEERLINE_BUSY', 'the ledger is slow')
    return within(WORK_MS, late, [gone.signal], work)
  }
}

/** What a failure of the ledger is called to others: that it is full, or was closed here, is no fault of theirs. */
function said(error: unknown): ErrorCode {
  const { code } = asPeerlineError(error, 'ERR_PEERLINE_REMOTE')
  if (code === 'ERR_PEERLINE_LIMIT' || code === 'ERR_PEERLINE_DISK_FULL') return 'ERR_PEERLINE_BUSY'
  if (code === 'ERR_PEERLINE_CLOSED') return 'ERR_PEERLINE_UNREACHABLE'
  return sayable(code)
}

function place(from: number, since: number | undefined): { from: number; since?: number } {
  return since === undefined ? { from } : { from, since }
}
