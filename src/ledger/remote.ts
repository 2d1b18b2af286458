/**
 * A ledger that a peer offers to others: it runs the log, and need not be trusted with what the log says.
 *
 *     append, read, subscribe --a stream each--> node --entries, proofs, signed head--> History --> entries
 *
 * - Nothing is handed out that the node has not signed: each entry is in the tree whose head it shows, and that head goes on from
 *   the newest one known ({@link RemoteLedger.head}). Entries of a topic follow each other without gaps.
 * - A node that is caught is done with: everything fails with the `LedgerContradiction`, which holds what it signed.
 * - Store {@link RemoteLedger.head} and give it to the next `open`; show it to other readers, and theirs to `check`.
 * - A session may come and go: each question is asked in the one that `session` brings. Nothing is tried again here.
 *
 * The wire is in remote-wire.ts, what is believed in history.ts, the node in `server/ledger-service.ts`.
 */
import { copyBytes } from '../bytes/index.ts'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { firstOf, under, untilAborted } from '../pause.ts'
import type { Session } from '../session/index.ts'
import { Exchange } from './exchange.ts'
import { History, Order } from './history.ts'
import type { AppendOptions, Entry, Ledger, Price, ReadOptions, Receipt } from './ledger.ts'
import {
  type About,
  encodeRequest,
  isTopic,
  LEDGER_PROTOCOL,
  type LedgerRequest,
  MAX_REPLY_BYTES,
  PAGE_ENTRIES,
  type Page,
  readAbout,
  readPage,
  readPlaced,
  readProof,
} from './remote-wire.ts'
import { openHead, type TreeHead } from './tree-head.ts'

/** What a signal ends, as its error says. */
const ASKING = 'asking the node of the ledger'

/** ms that a node has for an answer: it writes to a disk at the most. */
const ANSWER_MS = 15_000

/** ms that an entry takes from the node to a reader that is far away, half a round trip; and so by which one has it later than
 * another. */
const TRAVEL_MS = 150

const FREE: Price = { amount: 0, unit: 'USD' }

export interface RemoteLedgerOptions {
  /** Brings a session with the node, the present one or another. Always the same node's. */
  readonly session: (options: { readonly signal: AbortSignal }) => Promise<Session>
  /** The bytes of the {@link RemoteLedger.head} that was stored last. @default the first head is believed */
  readonly head?: Uint8Array | undefined
}

export class RemoteLedger implements Ledger {
  readonly name: string
  readonly id: string
  readonly maxMessageBytes: number
  readonly latencyMs: number
  readonly spreadMs: number
  /** Who runs it. */
  readonly node: PeerId
  readonly #session: RemoteLedgerOptions['session']
  readonly #history: History
  /** Fires when the ledger is closed, or not to be believed: all that goes on is aborted. */
  readonly #end: AbortController
  #closed: PeerlineError | undefined

  private constructor(parts: {
    about: About
    node: PeerId
    session: RemoteLedgerOptions['session']
    history: History
    end: AbortController
  }) {
    const { about, node, history } = parts
    this.node = node
    this.id = history.head!.ledger
    this.name = `ledger ${this.id} at ${node}`
    this.maxMessageBytes = about.max
    this.latencyMs = about.latency + TRAVEL_MS
    this.spreadMs = about.spread + TRAVEL_MS
    this.#session = parts.session
    this.#history = history
    this.#end = parts.end
  }

  /**
   * Asks the node what it has.
   * @throws PeerlineError `LedgerContradiction` when it is not what it was; `ERR_PEERLINE_WRONG_PEER` and `ERR_PEERLINE_PROTOCOL`
   *   when the stored head is of another node, or none; why the node could not be asked
   */
  static async open(options: RemoteLedgerOptions & { readonly signal: AbortSignal }): Promise<RemoteLedger> {
    const { signal } = options
    const head = options.head === undefined ? undefined : openHead(options.head)
    const end = new AbortController()
    return during(end.signal, [signal], async (signal) => {
      const { peer: node } = await sessionWith(options.session, undefined, signal)
      if (head !== undefined && head.peerId !== node) {
        throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', `the head that was kept is of ${head.peerId}, not ${node}`)
      }
      const session: RemoteLedgerOptions['session'] = ({ signal }) => sessionWith(options.session, node, signal)
      const history = new History({
        node,
        head,
        prove: (from, to) =>
          during(end.signal, [], async (signal) => readProof(await ask(session, { t: 'prove', from, to }, signal))),
        onContradiction: (error) => end.abort(error),
      })
      const known = head?.size
      const about = readAbout(await ask(session, { t: 'about', known }, signal))
      await untilAborted(history.take(about, known ?? 0), signal, ASKING)
      return new RemoteLedger({ about, node, session, history, end })
    })
  }

  /** The newest head that was verified. Its `bytes` are what to store, and to show to other readers. */
  get head(): TreeHead {
    return this.#history.head!
  }

  price(_bytes: number): Price {
    return FREE
  }

  async createTopic(hint: string, { signal }: { readonly signal: AbortSignal }): Promise<string> {
    this.#check(hint, signal)
    return hint
  }

  async append(topic: string, message: Uint8Array, { signal }: AppendOptions): Promise<Receipt> {
    this.#check(topic, signal)
    if (message.length > this.maxMessageBytes) {
      throw new PeerlineError(
        'ERR_PEERLINE_TOO_LARGE',
        `the message has ${message.length} bytes, the limit is ${this.maxMessageBytes}`,
      )
    }
    const appended = copyBytes(message)
    const { size } = this.#history
    return this.#during(signal, async (signal) => {
      const request: LedgerRequest = { t: 'append', topic, message: appended, known: size }
      const placed = readPlaced(await ask(this.#session, request, signal), appended)
      const head = await untilAborted(this.#history.take(placed, size), signal, ASKING)
      this.#history.checkEntries(topic, [placed.entry], head)
      const { sequence, at } = placed.entry
      return { sequence, at }
    })
  }

  async read(
    topic: string,
    options: ReadOptions & { readonly max?: number },
  ): Promise<{ readonly entries: readonly Entry[]; readonly next: number | undefined }> {
    const { signal, from = 1, since, max = PAGE_ENTRIES } = options
    this.#check(topic, signal)
    checkPlace(from)
    checkPlace(max)
    const { size } = this.#history
    const newest = this.#history.newestOf(topic)
    return this.#during(signal, async (signal) => {
      const request: LedgerRequest = { t: 'read', topic, from, since, max: Math.min(max, PAGE_ENTRIES), known: size }
      const page = readPage(await ask(this.#session, request, signal))
      const head = await untilAborted(this.#history.take(page, size), signal, ASKING)
      const order = new Order(from, since)
      const entries = this.#entries(topic, page, head, order)
      if (page.more) {
        if (entries.length > 0) return { entries, next: order.next }
        throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the node of the ledger has more, and shows nothing')
      }
      // With a time to begin at, those at the end may all be passed over.
      const isShort = since === undefined && from <= newest && order.next <= newest
      if (isShort) throw this.#history.contradiction(`had ${newest} entries of ${topic}, and now ends before`, head)
      return { entries, next: undefined }
    })
  }

  async *subscribe(topic: string, options: ReadOptions): AsyncGenerator<Entry, void, undefined> {
    const { from = 1, since } = options
    if (options.signal.aborted) return
    this.#check(topic, options.signal)
    checkPlace(from)
    const over = new AbortController()
    const signal = firstOf(this.#end.signal, options.signal, over.signal)
    let exchange: Exchange | undefined
    try {
      let { size } = this.#history
      const request: LedgerRequest = { t: 'subscribe', topic, from, since, known: size }
      exchange = await exchangeIn(this.#session, request, signal)
      const order = new Order(from, since)
      for (let first = true; ; first = false) {
        const answer = await exchange.next(first ? ANSWER_MS : undefined)
        if (answer === undefined) {
          throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'the node of the ledger ended the subscription')
        }
        const page = readPage(answer)
        const head = await untilAborted(this.#history.take(page, size), signal, ASKING)
        size = head.size
        for (const entry of this.#entries(topic, page, head, order)) {
          if (signal.aborted) break
          yield entry
        }
        if (signal.aborted) throw abortError(signal, 'reading the ledger')
      }
    } catch (error) {
      if (options.signal.aborted) return
      this.#history.check()
      throw asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
    } finally {
      exchange?.close()
      over.abort()
    }
  }

  /**
   * Has the node show that a head, such as another reader has it, is of the same history as ours.
   * @throws PeerlineError `LedgerContradiction`: it told somebody else another; `ERR_PEERLINE_INVALID` for a head of another ledger or
   *   node; `ERR_PEERLINE_PROTOCOL` for none; as {@link read}
   */
  async check(head: Uint8Array, { signal }: { readonly signal: AbortSignal }): Promise<void> {
    this.#check('head', signal)
    const { peerId, ledger } = openHead(head)
    if (peerId !== this.node || ledger !== this.id) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'the tree head is of another ledger, or another node')
    }
    // No proof comes with it: the node is asked for one.
    const shown = { head, base: -1, proof: new Uint8Array(0) }
    await this.#during(signal, (signal) => untilAborted(this.#history.take(shown, 0), signal, ASKING))
  }

  async close(): Promise<void> {
    this.#closed ??= new PeerlineError('ERR_PEERLINE_CLOSED', 'the ledger is closed')
    this.#end.abort(this.#closed)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** The entries of a page that are to be handed out, verified. */
  #entries(topic: string, page: Page, head: TreeHead, order: Order): Entry[] {
    for (const entry of page.entries) {
      const fault = order.faultOf(entry)
      if (fault !== undefined) throw this.#history.contradiction(`${fault} of ${topic}`, head)
    }
    this.#history.checkEntries(topic, page.entries, head)
    return page.entries
      .filter((entry) => order.isWanted(entry))
      .map(({ sequence, at, message }) => ({ sequence, at, message }))
  }

  #during<T>(signal: AbortSignal, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return during(this.#end.signal, [signal], work)
  }

  #check(topic: string, signal: AbortSignal): void {
    if (this.#closed !== undefined) throw this.#closed
    this.#history.check()
    if (signal.aborted) throw abortError(signal, 'using the ledger')
    if (!isTopic(topic))
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'a topic has 1 to 100 printable ASCII characters')
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID` */
function checkPlace(place: number): void {
  if (Number.isSafeInteger(place) && place >= 1) return
  throw new PeerlineError('ERR_PEERLINE_INVALID', `places of a topic and sizes of pages are 1, 2, 3, …, not ${place}`)
}

/** Asks one thing. */
async function ask(
  session: RemoteLedgerOptions['session'],
  request: LedgerRequest,
  signal: AbortSignal,
): Promise<unknown> {
  const exchange = await exchangeIn(session, request, signal)
  try {
    const answer = await exchange.next(ANSWER_MS)
    if (answer === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the node of the ledger says nothing')
    await exchange.end()
    return answer
  } finally {
    exchange.close()
  }
}

async function exchangeIn(
  session: RemoteLedgerOptions['session'],
  request: LedgerRequest,
  signal: AbortSignal,
): Promise<Exchange> {
  const options = { signal, maxBytes: MAX_REPLY_BYTES }
  return Exchange.open(await session({ signal }), LEDGER_PROTOCOL, encodeRequest(request), options)
}

/** The session with `node`, as the caller brings it. */
async function sessionWith(
  bring: RemoteLedgerOptions['session'],
  node: PeerId | undefined,
  signal: AbortSignal,
): Promise<Session> {
  const session = await untilAborted(bring({ signal }), signal, ASKING)
  if (node === undefined || session.peer === node) return session
  throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', `the ledger is at ${node}, and the session with ${session.peer}`)
}

/** Does `work` until it, or all that goes on, is ended. */
function during<T>(
  ended: AbortSignal,
  outer: readonly AbortSignal[],
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return under([ended, ...outer], async (signal) => {
    try {
      return await work(signal)
    } catch (error) {
      // What ended all of it says more than how this one noticed.
      if (signal.aborted) throw abortError(signal, 'using the ledger')
      throw error
    }
  })
}
