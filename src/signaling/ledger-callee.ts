/**
 * A peer that is dialled through a ledger, seen from whoever dials: first whether it is alive, then what it answers.
 *
 *     look --its last heartbeat--> alive? --> read stdout and stderr --> answer, trouble or goodbye --> whoever waits
 *
 * - A look goes 15 minutes back, and when there is no heartbeat, a day: no heartbeat is good for longer. It ends after so many
 *   entries, so that who fills the topic with others' messages makes it unsure and no more.
 * - Only what the peer itself has signed is looked at further. What it tells others is passed over.
 * - All offers that wait for one peer share its readers; with the last of them these are closed.
 */
import { toHex } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { ConsensusClock } from '../ledger/clock.ts'
import { Kind, type Message, openMessage, readMessage } from '../ledger/envelope.ts'
import { type Heartbeat, type Liveness, type LivenessState, MAX_DUE_MS, readHeartbeat } from '../ledger/heartbeat.ts'
import type { Entry, Ledger, Topics } from '../ledger/ledger.ts'
import { nextPage } from '../ledger/next-page.ts'
import { TopicReader } from '../ledger/topic-reader.ts'
import { readTrouble, troubleError } from '../ledger/trouble.ts'
import { readAnswer } from './ledger-wire.ts'

/** ms by which a message's own time and the ledger's may be apart, as for {@link TopicReader}: else it is an old one sent again. */
const FRESH_MS = 600_000

/** ms that a look goes back at first: more than {@link FRESH_MS}, or a copy of a heartbeat would hide a goodbye. */
const SHORTLY_MS = 900_000

/** ms that it goes back then: no heartbeat before that is good for now. */
const LONGER_MS = MAX_DUE_MS + FRESH_MS

/** Entries read in a look, and signatures proven: some 50 pages, and 50 ms. */
const MAX_LOOK_ENTRIES = 5_000
const MAX_LOOK_PROOFS = 500

/** ms before the look from which troubles are of interest: by then, no offer of now had been made. */
const TROUBLES_SINCE_MS = 300_000

/** An offer that waits. */
export interface Waiting {
  /** Of the offer, hex. */
  readonly tag: string
  /** An answer that the peer has signed, and its consensus time. */
  answered(answer: Uint8Array, at: number): void
  failed(error: PeerlineError): void
}

export interface CalleeOptions {
  readonly ledger: Ledger
  readonly peer: PeerId
  readonly topics: Topics
  readonly clock: ConsensusClock
  readonly liveness: Liveness
  /** Nobody waits any more. */
  readonly onIdle: () => void
}

/** What a look has come to. */
export interface Look {
  readonly state: LivenessState
  /** False when there was too much to read. */
  readonly isWhole: boolean
}

export class Callee {
  readonly #options: CalleeOptions
  readonly #over = new AbortController()
  readonly #waiting = new Map<string, Set<Waiting>>()
  readonly #readers: TopicReader[] = []
  #looked: Promise<Look> | undefined

  constructor(options: CalleeOptions) {
    this.#options = options
  }

  /** Looks whether it is alive, and begins to read: what comes after that is not missed. @throws PeerlineError as `Ledger.read` */
  look(): Promise<Look> {
    this.#looked ??= this.#look()
    return this.#looked
  }

  /** `waiting` is told what comes, until it leaves. */
  join(waiting: Waiting): void {
    this.#waiting.set(waiting.tag, (this.#waiting.get(waiting.tag) ?? new Set()).add(waiting))
  }

  leave(waiting: Waiting): void {
    const ofTag = this.#waiting.get(waiting.tag)
    if (ofTag?.delete(waiting) !== true || ofTag.size > 0) return
    this.#waiting.delete(waiting.tag)
    if (this.#waiting.size > 0) return
    this.#options.onIdle()
    this.#over.abort()
    for (const reader of this.#readers) void reader.close()
  }

  async #look(): Promise<Look> {
    const { clock, liveness, peer, topics } = this.#options
    const { signal } = this.#over
    const now = clock.now()
    let looked = await this.#heartbeatSince(now - SHORTLY_MS, signal)
    if (!looked.found && looked.isWhole) {
      const before = await this.#heartbeatSince(now - LONGER_MS, signal)
      looked = { ...before, last: Math.max(before.last, looked.last) }
    }
    if (!signal.aborted) {
      const { last } = looked
      this.#read(topics.stdout, last > 0 ? { from: last + 1 } : { since: now - SHORTLY_MS })
      this.#read(topics.stderr, { since: now - TROUBLES_SINCE_MS })
    }
    return { state: liveness.of(peer), isWhole: looked.isWhole }
  }

  /** Reads what is in stdout since then. `last` is the sequence of the last entry, 0: there was none. */
  async #heartbeatSince(
    since: number,
    signal: AbortSignal,
  ): Promise<{ found: boolean; isWhole: boolean; last: number }> {
    const { ledger, topics, clock } = this.#options
    let [found, last, entriesRead, proofs] = [false, 0, 0, 0]
    for (let from: number | undefined = 1; from !== undefined; ) {
      const page = await ledger.read(topics.stdout, { signal, since, from })
      for (const entry of page.entries) {
        last = entry.sequence
        clock.received(entry.at)
        if (!this.#maybeHeartbeat(entry)) continue
        if (++proofs > MAX_LOOK_PROOFS) return { found, last, isWhole: false }
        if (this.#onHeartbeat(entry)) found = true
      }
      entriesRead += page.entries.length
      if (entriesRead >= MAX_LOOK_ENTRIES) return { found, last, isWhole: page.next === undefined }
      from = nextPage(page.next, from, ledger)
    }
    return { found, last, isWhole: true }
  }

  /** Whether it claims to be a heartbeat of this peer, and not an old one. */
  #maybeHeartbeat({ at, message }: Entry): boolean {
    const claim = passing(() => readMessage(message))
    if (claim?.sender !== this.#options.peer || claim.kind !== Kind.HEARTBEAT) return false
    return Math.abs(at - claim.time) <= FRESH_MS
  }

  /** Takes it, if it is one. */
  #onHeartbeat({ at, message }: Entry): boolean {
    const { ledger, topics } = this.#options
    return (
      passing(() => this.#hear(openMessage(message, { ledger: ledger.id, topic: topics.stdout }), at)) !== undefined
    )
  }

  #hear({ sequence, payload }: Message, at: number): Heartbeat {
    const { liveness, peer } = this.#options
    const heartbeat = readHeartbeat(payload)
    liveness.heard(peer, { sequence, at, dueMs: heartbeat.dueMs })
    return heartbeat
  }

  #read(topic: string, where: { readonly from?: number; readonly since?: number }): void {
    const { ledger, peer, clock } = this.#options
    const reader = new TopicReader({
      ledger,
      topic,
      ...where,
      clock,
      maxSenders: 1,
      accept: (sender) => sender === peer,
      // What the peer sends may be of a later version, or nonsense.
      onMessage: (message, entry) => passing(() => this.#onMessage(message, entry)),
      onState: (now) => {
        if (now.state === 'failed') this.#fail(now.error)
      },
    })
    this.#readers.push(reader)
  }

  #onMessage(message: Message, { at }: Entry): void {
    const { peer, liveness } = this.#options
    switch (message.kind) {
      case Kind.ANSWER: {
        const read = readAnswer(message.payload)
        if (read !== undefined) this.#each(read.tag, (waiting) => waiting.answered(read.answer, at))
        break
      }
      case Kind.HEARTBEAT:
        this.#hear(message, at)
        if (liveness.of(peer) === 'offline') this.#fail(offline(peer, 'it has just said goodbye'))
        break
      case Kind.TROUBLE: {
        const trouble = readTrouble(message.payload)
        if (trouble.about !== undefined) {
          this.#each(toHex(trouble.about), (waiting) => waiting.failed(troubleError(trouble)))
        }
        break
      }
    }
  }

  #each(tag: string, tell: (waiting: Waiting) => void): void {
    for (const waiting of [...(this.#waiting.get(tag) ?? [])]) tell(waiting)
  }

  #fail(error: PeerlineError): void {
    for (const tag of [...this.#waiting.keys()]) this.#each(tag, (waiting) => waiting.failed(error))
  }
}

/** What `work` makes of bytes that anybody may have written; undefined when it fails for what they are. */
function passing<T>(work: () => T): T | undefined {
  try {
    return work()
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}

export function offline(peer: PeerId, why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_OFFLINE', `${peer} is not to be reached through the ledger: ${why}`, {
    recover: 'Start the peer with the same ledger, or try later; or go by another medium.',
  })
}
