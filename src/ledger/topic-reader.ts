/**
 * Reads a topic: what is there, and then what comes, for as long as it is open.
 *
 *     subscribe --> in order? --> size, envelope --> wanted? --> copy? --> fresh? --> signature --> onMessage
 *         ^                                  \_______ passed over, and counted _______/
 *         +-- the ledger is gone: 1 s x 2^n, at most a minute; then from where it was
 *
 * - Each message of each sender comes once, in the order of the ledger. What is not valid is passed over: anybody may write.
 * - Of each sender the last 64 sequences are known (sequence-window.ts), once a signature of it was right: forged messages
 *   take no room. When there are too many senders, those heard longest ago are forgotten; after a restart all are.
 * - So a message is stale when its sender's clock and the ledger's are more than {@link FRESH_MS} apart: it is an old one that
 *   somebody has sent again, or that clock is wrong.
 * - A ledger that changes what it said, or goes back, ends the reader: `ERR_PEERLINE_LEDGER`. One that leaves something out
 *   is asked again. It is held to what this reader has seen; what was before a restart is not looked at again.
 * - A flood delays what is behind it, and loses none of it.
 *
 * Limits: 500 entries a second, 50 at a stretch; 4,096 senders.
 */
import { copyBytes, equalBytes, MAX_TIME_MS } from '../bytes/index.ts'
import { asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { pause } from '../pause.ts'
import { backOffMs, mayPass } from './again.ts'
import type { ConsensusClock } from './clock.ts'
import { type Message, readMessage } from './envelope.ts'
import type { Entry, Ledger } from './ledger.ts'
import { SeenSequences } from './sequence-window.ts'

/**
 * Entries a second, and at a stretch. One of a known sender costs 0.1 ms, one of a new sender 0.3: so a flood takes a seventh of
 * a core, and 15 ms at once; on a small board five times that.
 */
const PER_SECOND = 500
const STRETCH = 50

/** Senders whose windows are kept: about 200 bytes each. */
const MAX_SENDERS = 4_096

/** ms: clocks may differ by 2 minutes, and a writer tries for some 4 minutes. */
const FRESH_MS = 600_000

/** ms after which a subscription that brought nothing is held to have worked. */
const SETTLED_MS = 30_000

/** What a reader does. */
export type ReaderState =
  /** It is subscribed, or about to be. */
  | { readonly state: 'reading' }
  /** The ledger is gone; it is asked again. */
  | { readonly state: 'waiting'; readonly error: PeerlineError; readonly retryInMs: number }
  /** It has ended by itself, for good. */
  | { readonly state: 'failed'; readonly error: PeerlineError }
  | { readonly state: 'closed' }

export interface TopicReaderOptions {
  readonly ledger: Ledger
  readonly topic: string
  /** Takes the messages, one by one. What it or `accept` throws ends the reader, with `ERR_PEERLINE_INVALID`. */
  readonly onMessage: (message: Message, entry: Entry) => void
  /** The first entry wanted: {@link TopicReader.position} of an earlier reader, and 1. @default 1 */
  readonly from?: number
  /** Pass over what came before, in consensus time, ms since 1970. @default nothing is passed over */
  readonly since?: number
  /** Whose messages are wanted; asked before a signature is looked at. @default everybody's */
  readonly accept?: (sender: PeerId) => boolean
  /** Must not throw. */
  readonly onState?: (state: ReaderState) => void
  /** Learns from what comes. */
  readonly clock?: ConsensusClock
  /** ms that the sender's clock and the consensus may be apart. @default 600_000 */
  readonly freshMs?: number
  /** Entries handled a second. @default 500 */
  readonly perSecond?: number
  /** Senders whose sequences are kept. @default 4_096 */
  readonly maxSenders?: number
  /** From 0 up to 1. @default Math.random */
  readonly random?: () => number
}

/** What became of the entries that were read. */
export interface ReaderCounts {
  /** Handed to `onMessage`. */
  readonly messages: number
  /** Not a message, not signed, or not for this place. */
  readonly invalid: number
  /** Not wanted by `accept`. */
  readonly unwanted: number
  readonly copies: number
  readonly stale: number
}

export class TopicReader {
  readonly #options: TopicReaderOptions
  readonly #over = new AbortController()
  readonly #seen: SeenSequences
  readonly #counts = { messages: 0, invalid: 0, unwanted: 0, copies: 0, stale: 0 }
  readonly #running: Promise<void>
  #state: ReaderState = { state: 'reading' }
  /** The last entry that was handled. */
  #last: Entry | undefined

  /** Begins to read at once; nothing is handed over before the constructor is done. */
  constructor(options: TopicReaderOptions) {
    this.#options = options
    this.#seen = new SeenSequences(options.maxSenders ?? MAX_SENDERS)
    this.#running = Promise.resolve().then(() => this.#run())
  }

  /** The place of the last entry that was handled; 0: none. */
  get position(): number {
    return this.#last?.sequence ?? (this.#options.from ?? 1) - 1
  }

  get state(): ReaderState {
    return this.#state
  }

  get counts(): ReaderCounts {
    return { ...this.#counts }
  }

  /** Ends reading. Nothing is handed over from now on. The ledger stays open. */
  async close(): Promise<void> {
    this.#over.abort()
    await this.#running
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Reads, again and again. Never rejects. */
  async #run(): Promise<void> {
    const { signal } = this.#over
    const { random = Math.random } = this.#options
    for (let failures = 0; !signal.aborted; ) {
      this.#turn({ state: 'reading' })
      const began = performance.now()
      const { position } = this
      let error: PeerlineError
      try {
        error = await this.#read(signal)
      } catch (cause) {
        if (signal.aborted) break
        return this.#turn({ state: 'failed', error: asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE') })
      }
      const hasWorked = this.position !== position || performance.now() - began > SETTLED_MS
      failures = hasWorked ? 1 : failures + 1
      const retryInMs = backOffMs(failures, random)
      if (signal.aborted) break
      this.#turn({ state: 'waiting', error, retryInMs })
      await pause(retryInMs, signal).catch(() => {})
    }
    this.#turn({ state: 'closed' })
  }

  /** Reads until that ends. Resolves with why, when it may go on later; throws what is for good. */
  async #read(signal: AbortSignal): Promise<PeerlineError> {
    const { ledger, topic, from = 1, since, perSecond = PER_SECOND } = this.#options
    const stretch = Math.min(STRETCH, perSecond)
    // The last entry comes once more, to show that it still is what it was.
    const start =
      this.#last !== undefined ? { from: this.#last.sequence } : since !== undefined ? { from, since } : { from }
    let [isFirst, handled, began] = [true, 0, performance.now()]
    try {
      for await (const entry of ledger.subscribe(topic, { signal, ...start })) {
        if (signal.aborted) break
        const place = this.#placeOf(entry, isFirst)
        isFirst = false
        if (place === 'gap') {
          return new PeerlineError('ERR_PEERLINE_LEDGER', `${ledger.name} leaves out what is before ${entry.sequence}`)
        }
        if (place === 'next') this.#handle(entry)
        if (++handled % stretch !== 0) continue
        await pause(Math.max(0, began + (stretch * 1_000) / perSecond - performance.now()), signal)
        began = performance.now()
      }
    } catch (cause) {
      if (mayPass(cause)) return cause
      throw cause
    }
    return new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${ledger.name} ended the subscription`)
  }

  /** Where an entry stands to those before it. Throws when the ledger contradicts itself. */
  #placeOf({ sequence, at, message }: Entry, isFirst: boolean): 'next' | 'known' | 'gap' {
    const { from = 1, since } = this.#options
    const last = this.#last
    const isEntry = Number.isSafeInteger(sequence) && at >= 0 && at <= MAX_TIME_MS && message instanceof Uint8Array
    if (!isEntry || sequence < from) throw this.#contradiction('gives what was not asked for')
    if (last === undefined) return sequence === from || since !== undefined ? 'next' : 'gap'
    if (isFirst && sequence === last.sequence) {
      if (at === last.at && equalBytes(message, last.message)) return 'known'
      throw this.#contradiction(`has changed what is at ${sequence}`)
    }
    if (sequence <= last.sequence) throw this.#contradiction(`goes back from ${last.sequence} to ${sequence}`)
    if (isFirst || sequence > last.sequence + 1) return 'gap'
    if (at < last.at) throw this.#contradiction(`has a time before that of ${last.sequence} at ${sequence}`)
    return 'next'
  }

  #handle(entry: Entry): void {
    this.#options.clock?.received(entry.at)
    this.#last = { ...entry, message: copyBytes(entry.message) }
    try {
      const message = this.#judge(entry)
      this.#counts[typeof message === 'string' ? message : 'messages']++
      if (typeof message !== 'string') this.#options.onMessage(message, entry)
    } catch (cause) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'what takes the messages failed', { cause })
    }
  }

  /** The message of an entry, or why it is passed over. */
  #judge({ at, message }: Entry): Message | keyof Omit<ReaderCounts, 'messages'> {
    const { ledger, topic, accept, freshMs = FRESH_MS } = this.#options
    const claim = valid(() => readMessage(message))
    if (claim === undefined) return 'invalid'
    const { sender, sequence, time } = claim
    if (accept !== undefined && !accept(sender)) return 'unwanted'
    if (!this.#seen.isNew(sender, sequence)) return 'copies'
    if (Math.abs(at - time) > freshMs) return 'stale'
    const proven = valid(() => claim.prove({ ledger: ledger.id, topic }))
    if (proven === undefined) return 'invalid'
    this.#seen.add(sender, sequence)
    return proven
  }

  #contradiction(what: string): PeerlineError {
    return new PeerlineError('ERR_PEERLINE_LEDGER', `${this.#options.ledger.name} ${what}`)
  }

  #turn(state: ReaderState): void {
    this.#state = state
    this.#options.onState?.(state)
  }
}

/** What `read` brings; undefined when the bytes are not what they should be. */
function valid<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}
