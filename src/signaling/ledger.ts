/**
 * Signaling through a ledger: two messages in two topics, and no server.
 *
 *     caller                        ledger                         callee
 *     |<-- is it alive? ----- stdout of the callee <-- heartbeat --|
 *     |-- offer ------------> stdin of the callee  --------------->|
 *     |<--------------------- stdout of the callee <----- answer --|   c2: consensus time of the answer
 *     |== both begin at c2 + lead, on the ledger's clock ==========|   which its own messages show to each
 *     |<--------------------- stderr of the callee <---- trouble --|   or why there is no answer
 *
 * - An offer is sealed to the callee and says in there who it is from; its envelope is signed with a key that is made for
 *   this callee and this run of the program. So onlookers learn that somebody dials the callee, and not who.
 * - A peer that has said goodbye, or is overdue for two minutes, is offline: nothing is written, nothing is paid.
 * - What is read is signed by the callee: others' answers, copies and old ones are passed over, and the wait goes on.
 * - Whoever was offline reads what came meanwhile, where it is young enough. What must be kept for that, and for one
 *   sequence of messages over restarts, is in {@link LedgerSignaling.export}.
 *
 * What others learn: when this peer is online, when somebody dials it, how long offer and answer are.
 *
 * The wire is in ledger-wire.ts; reading the callee, ledger-callee.ts; answering, ledger-answering.ts;
 * what is kept, ledger-state.ts.
 */
import { toHex } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { ConsensusClock } from '../ledger/clock.ts'
import { Kind, MAX_ENVELOPE_BYTES } from '../ledger/envelope.ts'
import { Heartbeats, heartbeatIntervalMs, Liveness } from '../ledger/heartbeat.ts'
import type { Ledger, Topics } from '../ledger/ledger.ts'
import { TopicWriter } from '../ledger/topic-writer.ts'
import { makeTopics } from '../ledger/topics.ts'
import { encodeTrouble, type Trouble } from '../ledger/trouble.ts'
import { awaitAnswer } from './answer-wait.ts'
import { fireInMs, LedgerAnswering, MAX_OFFER_AGE_MS } from './ledger-answering.ts'
import { Callee, offline, type Waiting } from './ledger-callee.ts'
import type { LedgerState } from './ledger-state.ts'
import { maxSignalBytes, tagOf } from './ledger-wire.ts'
import {
  ANSWER_TIMEOUT_MS,
  type ExchangeOptions,
  type OfferHandler,
  type Signaling,
  type SignalingCost,
} from './signaling.ts'

/** Times the ledger's latency that an answer may take beside its 30 s: two messages, each twice as slow as usual. */
const PATIENCE_LATENCIES = 4

/** Own offers that wait for an answer at once: each reads two topics. */
const MAX_WAITING = 256

/** Callees whose keys are kept: about 1 kB each. */
const MAX_CALLERS = 256

/** Answers to one offer that are looked at, though the callee has signed each: about 0.15 ms of handshake. */
const MAX_ANSWERS = 16

/** ms that a goodbye and a last answer may take. */
const GOODBYE_MS = 3_000

/** Bytes of an offer of a usual size: six candidates and a circuit. */
const USUAL_OFFER_BYTES = 600

export interface LedgerSignalingOptions {
  readonly ledger: Ledger
  readonly identity: Identity
  /** False: only dial. No topics are made, and nobody learns that we are there. */
  readonly listed: boolean
  readonly onOffer: OfferHandler
  /** Where a peer reads and writes; undefined when that is not known. */
  readonly topicsOf: (peer: PeerId, options: { readonly signal: AbortSignal }) => Promise<Topics | undefined>
  /** What {@link LedgerSignaling.export} gave. That of another ledger is left alone. */
  readonly state?: LedgerState | undefined
  /** @default one of its own */
  readonly clock?: ConsensusClock
  /** ms between heartbeats, 10 s to 16 h. @default half a minute, and ten minutes where they cost money */
  readonly heartbeatMs?: number
  /** Answers a minute. @default 120, and 12 where they cost money */
  readonly answersPerMinute?: number
  /** What does not work here: a heartbeat or an answer was not written, our stdin cannot be read. */
  readonly onError?: (error: PeerlineError) => void
  /** Our stdin is not read any more, for good, and a goodbye was said: only to open it anew helps. @default onError */
  readonly onDeaf?: (error: PeerlineError) => void
  /** Bounds the opening. */
  readonly signal: AbortSignal
}

/** The side that is listed. */
interface Listed {
  readonly topics: Topics
  readonly out: TopicWriter
  readonly err: TopicWriter
  readonly answering: LedgerAnswering
  readonly heartbeats: Heartbeats
}

export class LedgerSignaling implements Signaling {
  readonly name: string
  readonly maxSignalBytes: number
  readonly patienceMs: number
  /** What is thought of the peers that were dialled. */
  readonly liveness: Liveness
  readonly clock: ConsensusClock
  readonly #options: LedgerSignalingOptions
  readonly #callees = new Map<string, Callee>()
  /** Writers to the stdin of others, by topic, those used least lately first. */
  readonly #writers = new Map<string, TopicWriter>()
  /** Ends an exchange. */
  readonly #exchanges = new Set<(error: PeerlineError) => void>()
  #listed: Listed | undefined
  #ended: PeerlineError | undefined

  private constructor(options: LedgerSignalingOptions) {
    const { ledger, clock = new ConsensusClock() } = options
    this.#options = options
    this.name = ledger.name
    this.maxSignalBytes = maxSignalBytes(ledger)
    this.patienceMs = Math.min(ANSWER_TIMEOUT_MS + PATIENCE_LATENCIES * ledger.latencyMs, MAX_OFFER_AGE_MS)
    this.clock = clock
    this.liveness = new Liveness({ now: () => clock.now() })
  }

  /**
   * Begins: reads our stdin, and says on stdout that we are there. Topics that are not in the state are made first.
   * @throws PeerlineError as `Ledger.createTopic` and `Ledger.read`; `ERR_PEERLINE_LEDGER` when the ledger has lost what it had
   */
  static async open(options: LedgerSignalingOptions): Promise<LedgerSignaling> {
    const signaling = new LedgerSignaling(options)
    if (options.listed) signaling.#listed = await signaling.#list(options)
    return signaling
  }

  /** Our own topics, where others may dial us. */
  get topics(): Topics | undefined {
    return this.#listed?.topics
  }

  /**
   * Resolves when others may find us: the first heartbeat has its place. At once for one that only dials.
   * @throws PeerlineError why it could not be written
   */
  async announced(): Promise<void> {
    await this.#listed?.heartbeats.begun
  }

  /** What to save: soon after the opening, at the end, and now and then. Undefined for one that only dials. */
  export(): LedgerState | undefined {
    if (this.#listed === undefined) return undefined
    const { topics, answering, out, err } = this.#listed
    return { topics, position: answering.position, stdout: out.export(), stderr: err.export() }
  }

  cost(_to: PeerId): SignalingCost {
    const price = this.#options.ledger.price(USUAL_OFFER_BYTES + MAX_ENVELOPE_BYTES)
    return price.amount > 0 ? { messages: 1, price } : { messages: 1 }
  }

  /** Tells on stderr that something has gone wrong. What names a peer is struck out. Never throws. */
  report(trouble: Trouble): void {
    if (this.#listed !== undefined) this.#report(this.#listed.err, trouble)
  }

  exchange(to: PeerId, _requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    const { ledger } = this.#options
    return awaitAnswer({ ...options, to, ms: this.patienceMs, maxAnswers: MAX_ANSWERS }, (wait) => {
      this.#refuse(offer)
      const over = new AbortController()
      let callee: Callee | undefined
      const waiting: Waiting = {
        tag: toHex(tagOf(offer)),
        failed: wait.fail,
        answered: (answer, at) => void wait.offered(answer, { fireInMs: fireInMs(this.clock, ledger, at) }),
      }
      const join = (topics: Topics) => {
        callee = this.#callee(to, topics)
        callee.join(waiting)
        return callee
      }
      this.#exchanges.add(wait.fail)
      this.#offer(to, offer, join, over.signal).catch((error: unknown) =>
        wait.fail(asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE', `dialling ${to}`)),
      )
      return () => {
        over.abort()
        this.#exchanges.delete(wait.fail)
        callee?.leave(waiting)
      }
    })
  }

  /** Says goodbye, and ends every exchange. The ledger stays open. */
  async close(): Promise<void> {
    if (this.#ended !== undefined) return
    this.#ended = new PeerlineError('ERR_PEERLINE_CLOSED', `signaling through ${this.name} was closed`)
    for (const fail of [...this.#exchanges]) fail(this.#ended)
    for (const writer of this.#writers.values()) writer.close()
    this.#writers.clear()
    this.liveness.close()
    if (this.#listed === undefined) return
    const { answering, heartbeats, out, err } = this.#listed
    await answering.close()
    await heartbeats.close({ signal: AbortSignal.timeout(GOODBYE_MS) })
    out.close()
    err.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** @throws PeerlineError why no offer can go out now */
  #refuse(offer: Uint8Array): void {
    if (this.#ended !== undefined) throw this.#ended
    if (offer.length > this.maxSignalBytes) {
      throw new PeerlineError(
        'ERR_PEERLINE_TOO_LARGE',
        `an offer of ${offer.length} bytes is over ${this.maxSignalBytes}, which is what ${this.name} carries`,
      )
    }
    if (this.#exchanges.size < MAX_WAITING) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING} offers wait for answers through ${this.name} already`)
  }

  /** Finds the callee, looks whether it is alive, and puts the offer into its stdin. The signal fires when nobody waits any more. */
  async #offer(to: PeerId, offer: Uint8Array, join: (topics: Topics) => Callee, signal: AbortSignal): Promise<void> {
    const topics = await this.#options.topicsOf(to, { signal })
    if (signal.aborted) return
    if (topics === undefined || topics.ledger !== this.#options.ledger.id) throw offline(to, 'its topics are not known')
    const { state, isWhole } = await join(topics).look()
    if (signal.aborted) return
    if (state === 'unknown' && isWhole) throw offline(to, 'it was not heard there for a day')
    if (state === 'dead') throw offline(to, 'it is silent for longer than it said')
    if (state === 'offline') throw offline(to, 'it has said goodbye')
    // Its time is wanted: that shows what time it is at the ledger, and so when the other side begins.
    await this.#writer(topics.stdin).append(Kind.OFFER, offer, { signal })
  }

  #callee(peer: PeerId, topics: Topics): Callee {
    const key = `${peer} ${topics.stdout} ${topics.stderr}`
    const known = this.#callees.get(key)
    if (known !== undefined) return known
    const { ledger } = this.#options
    const { clock, liveness } = this
    const onIdle = () => this.#callees.delete(key)
    const callee = new Callee({ ledger, peer, topics, clock, liveness, onIdle })
    this.#callees.set(key, callee)
    return callee
  }

  /** The writer to another's stdin, with a key that stands for nobody. */
  #writer(topic: string): TopicWriter {
    const known = this.#writers.get(topic)
    if (known !== undefined) {
      this.#writers.delete(topic)
      this.#writers.set(topic, known)
      return known
    }
    const { ledger } = this.#options
    // By the ledger's clock, or the offer is taken for an old one where that is not ours.
    const { clock } = this
    const writer = new TopicWriter({ ledger, topic, signer: Identity.generate(), maxPending: MAX_WAITING, clock })
    this.#writers.set(topic, writer)
    for (const [oldest, { pending }] of this.#writers) {
      if (this.#writers.size <= MAX_CALLERS) break
      if (pending === 0) this.#writers.delete(oldest)
    }
    return writer
  }

  async #list(options: LedgerSignalingOptions): Promise<Listed> {
    const { ledger, identity, onOffer, heartbeatMs, answersPerMinute, signal, onError = () => {} } = options
    const { onDeaf = onError } = options
    const { clock } = this
    const state = options.state?.topics.ledger === ledger.id ? options.state : undefined
    const topics = state?.topics ?? (await makeTopics(ledger, identity.peerId, { signal }))
    const position = state?.position ?? 0
    if (position > 0) {
      const { entries } = await ledger.read(topics.stdin, { signal, from: position, max: 1 })
      if (entries.length === 0) {
        throw new PeerlineError('ERR_PEERLINE_LEDGER', `${ledger.name} has lost what was in our stdin before`)
      }
    }
    const writer = (topic: string, saved: { readonly sequence: number } | undefined) => {
      const made = new TopicWriter({ ledger, topic, signer: identity, clock })
      if (saved !== undefined) made.load(saved)
      return made
    }
    const out = writer(topics.stdout, state?.stdout)
    const err = writer(topics.stderr, state?.stderr)
    const heartbeats = new Heartbeats({
      out,
      intervalMs: heartbeatMs ?? heartbeatIntervalMs(ledger.price(ledger.maxMessageBytes)),
      latencyMs: ledger.latencyMs,
      onError,
    })
    const answering = new LedgerAnswering({
      ledger,
      clock,
      begun: heartbeats.begun,
      stdin: topics.stdin,
      position,
      out,
      onOffer,
      report: (trouble) => this.#report(err, trouble),
      answersPerMinute,
      onError,
      // Who cannot hear is not there.
      onDeaf: (error) => {
        void heartbeats.close({ signal: AbortSignal.timeout(GOODBYE_MS) })
        onDeaf(error)
      },
    })
    return { topics, out, err, answering, heartbeats }
  }

  #report(err: TopicWriter, trouble: Trouble): void {
    const { onError } = this.#options
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS)
    err.append(Kind.TROUBLE, encodeTrouble(trouble), { signal, wait: 'sent' }).catch((error: unknown) => {
      if (this.#ended === undefined) onError?.(asPeerlineError(error, 'ERR_PEERLINE_LEDGER'))
    })
  }
}
