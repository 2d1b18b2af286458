/**
 * Writes to a topic: gives each message its sequence, signs it, and tries again what may pass.
 *
 *     append --> queue --> sealed once --> ledger.append ---> done
 *                              ^               |        \---> failed: at once, or after 5 more attempts
 *                              +-- 1 s x 2^n --+
 *
 * - Every attempt sends the same bytes: when one that seemed to fail got through all the same, readers see that the next
 *   is a copy.
 * - Messages are begun in the order of the calls. Up to 16 are under way, so that one does not wait for the consensus on
 *   another; none is {@link WINDOW} ahead of the oldest of them, or readers would take that for an old one when it comes.
 * - Sequences grow over restarts also when nothing was saved: they begin at the clock's ms since 1970, and nobody sends a
 *   message each ms. Whose clock may go back saves the sequence.
 */
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import type { Identity } from '../identity/index.ts'
import { pause, whenAborted } from '../pause.ts'
import { backOffMs, mayPass } from './again.ts'
import type { ConsensusClock } from './clock.ts'
import { MAX_ENVELOPE_BYTES, sealMessage } from './envelope.ts'
import type { Ledger, Receipt } from './ledger.ts'
import { WINDOW } from './sequence-window.ts'

/** Messages that wait or are under way. */
const DEFAULT_MAX_PENDING = 64

/** Messages under way at once. */
const MAX_UNDER_WAY = 16

/** Attempts for each message: with the waits between them, half a minute. */
const ATTEMPTS = 6

/** ms for an attempt, and as many times the ledger's latency. */
const ATTEMPT_MS = 30_000
const ATTEMPT_LATENCIES = 4

/** The largest sequence to go on from, half of what there is: enough for a message each microsecond of a century. */
export const MAX_SEQUENCE = (Number.MAX_SAFE_INTEGER - 1) / 2

export interface TopicWriterOptions {
  readonly ledger: Ledger
  readonly topic: string
  readonly signer: Identity
  /** The last sequence given, when it is known. @default 0; none given is below the clock's ms since 1970 */
  readonly sequence?: number
  /** Messages that wait or are under way at once. @default 64 */
  readonly maxPending?: number
  /** Learns from what is appended, and gives messages their time. @default Date.now gives it */
  readonly clock?: ConsensusClock
  /** From 0 up to 1. @default Math.random */
  readonly random?: () => number
}

export interface AppendMessageOptions {
  /** Gives the message up; it may be in the ledger all the same. */
  readonly signal: AbortSignal
  /** As in `Ledger.append`. @default 'consensus' */
  readonly wait?: 'sent' | 'consensus'
}

/** A message that was appended. */
export interface Appended {
  /** Among those of its sender in the topic. */
  readonly sequence: number
  /** Above 1, an earlier copy may be in the topic too; the receipt is that of the last. */
  readonly attempts: number
  readonly receipt: Receipt
}

interface Pending {
  readonly kind: number
  readonly payload: Uint8Array
  readonly wait: 'sent' | 'consensus'
  /** Fires when the message is given up. */
  readonly control: AbortController
  readonly settle: (outcome: Appended | PeerlineError) => void
}

export class TopicWriter {
  readonly topic: string
  readonly #ledger: Ledger
  readonly #signer: Identity
  readonly #maxPending: number
  readonly #clock: ConsensusClock | undefined
  readonly #random: () => number
  readonly #queue: Pending[] = []
  /** Those under way, by sequence, the oldest first. */
  readonly #underWay = new Map<number, Pending>()
  #sequence: number
  #closed = false

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a sequence that is none */
  constructor(options: TopicWriterOptions) {
    this.topic = options.topic
    this.#ledger = options.ledger
    this.#signer = options.signer
    this.#maxPending = options.maxPending ?? DEFAULT_MAX_PENDING
    this.#clock = options.clock
    this.#random = options.random ?? Math.random
    this.#sequence = Math.max(checkSequence(options.sequence ?? 0), Date.now() - 1)
  }

  /** The last sequence given to a message. */
  get sequence(): number {
    return this.#sequence
  }

  /** Messages that wait or are under way. */
  get pending(): number {
    return this.#queue.length + this.#underWay.size
  }

  /** Bytes of the largest payload. */
  get maxPayloadBytes(): number {
    return this.#ledger.maxMessageBytes - MAX_ENVELOPE_BYTES
  }

  /**
   * Puts a message at the end of the topic.
   * @param kind 0 to 255, see `Kind`
   * @throws PeerlineError as `Ledger.append`, `ERR_PEERLINE_LIMIT` when too many wait, or what the signal says
   */
  append(kind: number, payload: Uint8Array, { signal, wait = 'consensus' }: AppendMessageOptions): Promise<Appended> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw closed()
      if (signal.aborted) throw abortError(signal, 'appending')
      if (payload.length > this.maxPayloadBytes) {
        throw new PeerlineError(
          'ERR_PEERLINE_TOO_LARGE',
          `the message has ${payload.length} bytes, ${this.#ledger.name} takes ${this.maxPayloadBytes}`,
        )
      }
      if (this.pending >= this.#maxPending) {
        throw new PeerlineError('ERR_PEERLINE_LIMIT', `${this.pending} messages wait to be appended: see maxPending`)
      }
      const control = new AbortController()
      const onAbort = () => this.#giveUp(pending, abortError(signal, 'appending'))
      const settle = (outcome: Appended | PeerlineError) => {
        signal.removeEventListener('abort', onAbort)
        if (outcome instanceof PeerlineError) reject(outcome)
        else resolve(outcome)
      }
      const pending: Pending = { kind, payload, wait, control, settle }
      whenAborted(signal, onAbort)
      this.#queue.push(pending)
      this.#pump()
    })
  }

  /** What to save, as plain JSON. */
  export(): { readonly sequence: number } {
    return { sequence: this.#sequence }
  }

  /**
   * Takes over what `export` gave once; a sequence never goes back.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  load(json: unknown): void {
    const saved = typeof json === 'object' && json !== null && 'sequence' in json ? json.sequence : undefined
    this.#sequence = Math.max(this.#sequence, checkSequence(saved))
  }

  /** Gives up what waits and what is under way: it fails with `ERR_PEERLINE_CLOSED`. The ledger stays open. */
  close(): void {
    this.#closed = true
    for (const pending of [...this.#queue, ...this.#underWay.values()]) this.#giveUp(pending, closed())
  }

  /** Begins what may be begun. */
  #pump(): void {
    for (;;) {
      const [oldest] = this.#underWay.keys()
      const isFar = oldest !== undefined && this.#sequence + 1 - oldest >= WINDOW
      if (isFar || this.#underWay.size >= MAX_UNDER_WAY) return
      const pending = this.#queue.shift()
      if (pending === undefined) return
      const sequence = ++this.#sequence
      this.#underWay.set(sequence, pending)
      void this.#send(sequence, pending).then((outcome) => {
        this.#underWay.delete(sequence)
        pending.settle(outcome)
        this.#pump()
      })
    }
  }

  /** One message, attempt after attempt. Never rejects. */
  async #send(
    sequence: number,
    { kind, payload, wait, control: { signal } }: Pending,
  ): Promise<Appended | PeerlineError> {
    try {
      const place = { ledger: this.#ledger.id, topic: this.topic }
      const time = Math.round(this.#clock?.now() ?? Date.now())
      const message = sealMessage(this.#signer, { ...place, sequence, kind, payload, time })
      const sentAt = this.#clock?.local() ?? 0
      for (let attempts = 1; ; attempts++) {
        try {
          const receipt = await this.#attempt(message, wait, signal)
          if (receipt.at !== undefined) this.#clock?.appended(sentAt, receipt.at)
          return { sequence, attempts, receipt }
        } catch (cause) {
          if (attempts === ATTEMPTS || !mayPass(cause)) throw cause
          await pause(backOffMs(attempts, this.#random), signal)
        }
      }
    } catch (error) {
      return asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
    }
  }

  /** One attempt, with a deadline. */
  async #attempt(message: Uint8Array, wait: 'sent' | 'consensus', given: AbortSignal): Promise<Receipt> {
    const control = new AbortController()
    given.addEventListener('abort', () => control.abort(given.reason)) // `given` is of this message alone
    const ms = ATTEMPT_MS + ATTEMPT_LATENCIES * this.#ledger.latencyMs
    const late = new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#ledger.name} took longer than ${ms} ms`)
    const timer = setTimeout(() => control.abort(late), ms)
    try {
      return await this.#ledger.append(this.topic, message, { signal: control.signal, wait })
    } finally {
      clearTimeout(timer)
    }
  }

  #giveUp(pending: Pending, error: PeerlineError): void {
    const at = this.#queue.indexOf(pending)
    if (at >= 0) this.#queue.splice(at, 1)
    pending.control.abort(error)
    pending.settle(error)
  }
}

function checkSequence(value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= MAX_SEQUENCE) {
    return value as number
  }
  throw new PeerlineError('ERR_PEERLINE_INVALID', `${String(value)} is no sequence`)
}

function closed(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_CLOSED', 'the writer of the topic is closed')
}
