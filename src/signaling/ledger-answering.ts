/**
 * The answering side at a ledger: reads our stdin, has offers decided on, writes the answers to our stdout.
 *
 *     stdin --> sender's rate, all rates --> signature --> age --> copy? --> budget --> handler --> stdout --> when both begin
 *               `-- before any cryptography --'
 *
 * - Reading goes on where it was left off, so that what came meanwhile is not lost; but what is older than any offer lives
 *   is passed over, by the ledger's time.
 * - Anybody may write to our stdin, and each answer may cost us money: so many answers a minute, counted before the handler
 *   is asked, and given back when it stays silent. What is over is told of once a minute on stderr.
 * - An offer that comes again, from whoever has copied it, is passed over: its answer stands in the ledger already.
 * - Both sides begin at the consensus time of the answer and {@link leadMs}: the handler learns when that is, as soon as the
 *   answer has its time. It goes on for as long as the caller may wait: readers may hear later than the ledger says.
 */
import { toHex } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { ConsensusClock } from '../ledger/clock.ts'
import { Kind, type Message } from '../ledger/envelope.ts'
import type { Entry, Ledger } from '../ledger/ledger.ts'
import { TopicReader } from '../ledger/topic-reader.ts'
import type { TopicWriter } from '../ledger/topic-writer.ts'
import { recoverActionOf, type Trouble } from '../ledger/trouble.ts'
import { encodeAnswer, maxSignalBytes, tagOf } from './ledger-wire.ts'
import { ANSWER_TIMEOUT_MS, type OfferHandler } from './signaling.ts'

/** ms: no offer lives longer. */
export const MAX_OFFER_AGE_MS = 300_000

/** ms back from which entries are read at all: what the clock says is an estimate. */
const SINCE_MS = 3 * MAX_OFFER_AGE_MS

/** ms in which rates are counted. */
const WINDOW_MS = 60_000

/**
 * Offers a minute, from one sender and from all: each costs about 0.2 ms. Keys are free, so the first only keeps one caller
 * from taking the place of the others.
 */
const MAX_OFFERS_PER_SENDER = 60
const MAX_OFFERS = 600

/** Answers a minute where they are free, and where they cost money. */
const FREE_ANSWERS = 120
const PAID_ANSWERS = 12

/** Offers that are being decided on at once; each may wait for an approver. */
const MAX_OPEN_OFFERS = 64

/** Offers remembered so that copies are seen: all that may come while one lives, in whole minutes and parts of two. */
const MAX_SEEN = MAX_OFFERS * (MAX_OFFER_AGE_MS / WINDOW_MS + 1)

/** ms before both begin, beside what the ledger takes: to take the answer, and to make the sockets ready. */
const LEAD_MS = 150

/**
 * ms after the consensus on an answer at which both sides begin: the slowest reader has it by then, as a rule. Both know the
 * same ledger, so both have the same.
 */
export function leadMs({ latencyMs, spreadMs }: Ledger): number {
  return latencyMs + spreadMs + LEAD_MS
}

/**
 * ms from now until both sides begin, when the answer has the consensus time `at`, and has just come: never more than
 * {@link leadMs}, whatever the ledger says.
 *
 * It goes by own messages, as if each got its time when it was sent: what that takes in truth is about the same for both sides,
 * and falls out, while one reader may have an entry seconds after another. Who has seen no own message only knows that the
 * answer is a {@link Ledger.latencyMs} old.
 */
export function fireInMs(clock: ConsensusClock, ledger: Ledger, at: number): number {
  const { offsetMs, uncertaintyMs } = clock
  if (!Number.isFinite(uncertaintyMs)) return ledger.spreadMs + LEAD_MS
  return Math.max(0, at + leadMs(ledger) - (offsetMs + uncertaintyMs) - clock.local())
}

export interface LedgerAnsweringOptions {
  readonly ledger: Ledger
  readonly clock: ConsensusClock
  /**
   * Settles when the clock has been set by a message of ours. Reading begins then: by a clock of this machine that is ahead, as
   * some are until the network has set them, we would pass over all that comes until that time.
   */
  readonly begun: Promise<void>
  readonly stdin: string
  /** The last place of stdin that was read; 0: none. */
  readonly position: number
  readonly out: TopicWriter
  readonly onOffer: OfferHandler
  /** Puts a trouble on stderr. Never throws. */
  readonly report: (trouble: Trouble) => void
  /** Answers a minute. @default 120, and 12 where they cost money */
  readonly answersPerMinute: number | undefined
  readonly onError: (error: PeerlineError) => void
  /** Stdin is not read any more, for good. */
  readonly onDeaf: (error: PeerlineError) => void
}

export class LedgerAnswering {
  readonly #options: LedgerAnsweringOptions
  #reader: TopicReader | undefined
  readonly #closing = new AbortController()
  readonly #gate = new Gate()
  /** Tags of offers, hex, and their consensus time; the oldest first. */
  readonly #seen = new Map<string, number>()
  readonly #budget: Budget
  #open = 0

  constructor(options: LedgerAnsweringOptions) {
    this.#options = options
    const { ledger, begun, answersPerMinute } = options
    const isFree = ledger.price(ledger.maxMessageBytes).amount === 0
    this.#budget = new Budget(answersPerMinute ?? (isFree ? FREE_ANSWERS : PAID_ANSWERS))
    void begun.catch(() => {}).then(() => this.#read())
  }

  /** The last place of stdin that was read: an offer before it is not looked at again. */
  get position(): number {
    return this.#reader?.position ?? this.#options.position
  }

  /** Reads no more, and gives up answers that are being written. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#reader?.close()
  }

  #read(): void {
    if (this.#closing.signal.aborted) return
    const { ledger, clock, stdin, position, onError, onDeaf } = this.#options
    this.#reader = new TopicReader({
      ledger,
      topic: stdin,
      from: position + 1,
      since: clock.now() - SINCE_MS,
      clock,
      accept: (sender) => this.#gate.pass(sender),
      onMessage: (message, entry) => this.#onMessage(message, entry),
      onState: (now) => {
        if (now.state === 'waiting') onError(now.error)
        if (now.state === 'failed') onDeaf(now.error)
      },
    })
  }

  #onMessage({ kind, payload }: Message, { at }: Entry): void {
    const { clock, report } = this.#options
    const oldest = clock.now() - MAX_OFFER_AGE_MS
    if (kind !== Kind.OFFER || at < oldest || this.#open >= MAX_OPEN_OFFERS) return
    const offer = new Uint8Array(payload)
    const about = tagOf(offer)
    const tag = toHex(about)
    if (this.#seen.has(tag)) return
    for (const [known, knownAt] of this.#seen) {
      if (knownAt >= oldest && this.#seen.size < MAX_SEEN) break
      this.#seen.delete(known)
    }
    this.#seen.set(tag, at)
    const taken = this.#budget.take()
    if (taken !== undefined) return void this.#answer(offer, about, taken)
    if (this.#budget.mayTell()) report({ ...troubleOf('ERR_PEERLINE_BUSY'), text: 'too many offers at once', about })
  }

  /** Never rejects. */
  async #answer(offer: Uint8Array, about: Uint8Array, taken: Taken): Promise<void> {
    const { ledger, clock, out, onOffer, report, onError } = this.#options
    const { signal } = this.#closing
    const maxBytes = maxSignalBytes(ledger)
    let begin!: (ms: number) => void
    let giveUp!: (error: PeerlineError) => void
    const travelMs = new Promise<number>((resolve, reject) => {
      begin = resolve
      giveUp = reject
    })
    travelMs.catch(() => {}) // a handler need not care
    this.#open++
    try {
      const answer = await onOffer(offer, { travelMs, patientMs: ANSWER_TIMEOUT_MS, maxBytes }).catch(() => undefined)
      if (answer === undefined || signal.aborted) {
        this.#budget.giveBack(taken)
        throw new PeerlineError('ERR_PEERLINE_ABORTED', 'the offer was not answered')
      }
      if (answer.length > maxBytes) {
        report({ ...troubleOf('ERR_PEERLINE_TOO_LARGE'), text: 'the answer does not fit the ledger', about })
        throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `an answer of ${answer.length} bytes is over ${maxBytes}`)
      }
      const { receipt } = await out.append(Kind.ANSWER, encodeAnswer(about, answer), { signal, wait: 'consensus' })
      begin(fireInMs(clock, ledger, receipt.at ?? clock.now()))
    } catch (cause) {
      const error = asPeerlineError(cause, 'ERR_PEERLINE_LEDGER')
      giveUp(error)
      if (error.code !== 'ERR_PEERLINE_ABORTED' && !signal.aborted) onError(error)
    } finally {
      this.#open--
    }
  }
}

function troubleOf(code: Trouble['code']): Trouble {
  return { code, action: recoverActionOf(code) }
}

/** Counts offers, within whole minutes. It remembers no more senders than it lets through offers. */
class Gate {
  readonly #bySender = new Map<PeerId, number>()
  #all = 0
  #since = performance.now()

  pass(sender: PeerId): boolean {
    const now = performance.now()
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now
      this.#all = 0
      this.#bySender.clear()
    }
    const ofSender = (this.#bySender.get(sender) ?? 0) + 1
    if (this.#all >= MAX_OFFERS || ofSender > MAX_OFFERS_PER_SENDER) return false
    this.#all++
    this.#bySender.set(sender, ofSender)
    return true
  }
}

/** An answer that is counted: when its minute began. */
type Taken = number

/** Answers that may be written, within whole minutes. */
class Budget {
  readonly #perMinute: number
  #taken = 0
  #told = false
  #since = performance.now()

  constructor(perMinute: number) {
    this.#perMinute = perMinute
  }

  /** Counts one more; undefined when there is no more. */
  take(): Taken | undefined {
    const now = performance.now()
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now
      this.#taken = 0
      this.#told = false
    }
    if (this.#taken >= this.#perMinute) return undefined
    this.#taken++
    return this.#since
  }

  giveBack(taken: Taken): void {
    if (taken === this.#since) this.#taken--
  }

  /** Whether somebody may be told that there is no more: once a minute. */
  mayTell(): boolean {
    const tell = !this.#told
    this.#told = true
    return tell
  }
}
