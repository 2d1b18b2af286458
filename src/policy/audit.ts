/**
 * What the firewall decided, and why: the latest decisions, in a ring.
 *
 * Strangers cause entries, so their number is bounded, and so is the size of each: about 300 bytes. Writing down never
 * throws, whatever the sink does: a full disk must not open or shut a door.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Decision } from './decision.ts'

/** One decision. */
export interface AuditEntry {
  /** ms since 1970. */
  readonly at: number
  readonly peer: PeerId
  /** `connection`, or the protocol. */
  readonly object: string
  readonly direction: 'in' | 'out'
  readonly action: 'allow' | 'deny'
  /** The id of the rule that decided; absent where none did. */
  readonly rule?: string
  /** Stable, for programs. */
  readonly reason: string
}

/** Told of each decision as it is made, to keep it for longer. What it throws is dropped. */
export type AuditSink = (entry: AuditEntry) => unknown

export interface AuditOptions {
  /** Decisions kept. @default 1_000 */
  readonly capacity?: number
  /** @default nobody */
  readonly sink?: AuditSink
}

// Decisions. At 300 bytes each 300 kB: some minutes of a busy peer, and enough to see why somebody was refused just now.
const DEFAULT_CAPACITY = 1_000
/** More would not be a log of the latest decisions: keep them by a sink. */
const MAX_CAPACITY = 1_000_000
/** Characters kept of an object: as long as a protocol name may be. */
const MAX_OBJECT_CHARS = 128

/** A decision as it is kept, where it holds nothing large: what it has in common with others is there once. */
interface Noted {
  readonly at: number
  readonly decision: Decision
}

export class AuditLog {
  readonly #capacity: number
  readonly #sink: AuditSink | undefined
  readonly #ring: (Noted | AuditEntry)[] = []
  /** Where the next entry goes once the ring is full: the place of the oldest. */
  #next = 0
  #lost = 0

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` when the capacity is not a whole number from 1 to 1,000,000 */
  constructor(options: AuditOptions = {}) {
    const capacity = options.capacity ?? DEFAULT_CAPACITY
    if (!(Number.isSafeInteger(capacity) && capacity > 0 && capacity <= MAX_CAPACITY)) {
      throw new PeerlineError(
        'ERR_PEERLINE_INVALID',
        `audit capacity ${capacity} is not a whole number from 1 to ${MAX_CAPACITY}`,
      )
    }
    this.#capacity = capacity
    this.#sink = options.sink
  }

  /** Entries kept now, the oldest first. */
  get entries(): readonly AuditEntry[] {
    return [...this.#ring.slice(this.#next), ...this.#ring.slice(0, this.#next)].map(entryOf)
  }

  /** Calls of the sink that failed, at once or later. */
  get lost(): number {
    return this.#lost
  }

  /** Writes down a decision, of so many ms since 1970; never throws. */
  record(at: number, decision: Decision): void {
    const { question, cause } = decision
    const small = question.view === undefined && cause === undefined && question.object.length <= MAX_OBJECT_CHARS
    const noted = small ? { at, decision } : entryOf({ at, decision })
    if (this.#ring.length < this.#capacity) this.#ring.push(noted)
    else {
      this.#ring[this.#next] = noted
      this.#next = (this.#next + 1) % this.#capacity
    }
    if (this.#sink === undefined) return
    try {
      void Promise.resolve(this.#sink(entryOf(noted))).catch(() => this.#lost++)
    } catch {
      this.#lost++
    }
  }
}

function entryOf(noted: Noted | AuditEntry): AuditEntry {
  if (!('decision' in noted)) return noted
  const { at, decision } = noted
  const { question, action, reason, rule } = decision
  const { peer, object, direction } = question
  return Object.freeze({
    at,
    peer,
    object: object.slice(0, MAX_OBJECT_CHARS),
    direction,
    action: action === 'allow' ? 'allow' : 'deny',
    ...(rule === undefined ? {} : { rule: rule.id }),
    reason,
  })
}
