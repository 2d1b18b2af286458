/**
 * Heartbeats: a peer says on its stdout topic that it is there, and until when that may be believed.
 *
 *     heartbeat = CBOR { due }
 *
 *     due   ms after this one's consensus time by which the next one comes: 10 s to 24 h; 0: goodbye
 *
 *     unknown --heartbeat--> alive --due + 30 s--> suspect --due + 120 s--> dead
 *        any state --heartbeat--> alive            any state --goodbye--> offline
 *
 * - Whoever writes says how often: a message that costs money is written every ten minutes, one that is free twice a minute.
 * - Whoever reads judges for itself, and by the ledger's clock alone: neither the writer's nor its own counts.
 * - Of one peer the highest sequence wins, in whatever order they are read.
 * Limits: {@link MAX_HEARTBEAT_BYTES}, and so many peers observed.
 */
import { decodeCbor, encodeCbor, fields } from '../bytes/index.ts'
import { asPeerlineError, type PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import type { PeerId } from '../identity/index.ts'
import { Kind } from './envelope.ts'
import type { Price } from './ledger.ts'
import type { TopicWriter } from './topic-writer.ts'

/** The least and the most that a heartbeat may be good for, ms: a ledger of seconds, and a day. */
export const MIN_DUE_MS = 10_000
export const MAX_DUE_MS = 86_400_000

/** ms after it was due that a peer is suspect, and dead: a message late by a slow ledger's consensus, and two of the usual ones missed. */
export const SUSPECT_AFTER_MS = 30_000
export const DEAD_AFTER_MS = 120_000

/** ms between two heartbeats: found gone within two minutes where that is free; 144 messages a day where each costs money. */
const FREE_INTERVAL_MS = 30_000
const PAID_INTERVAL_MS = 600_000

/** Bytes of a heartbeat that is read: what else a later version says in it is passed over. */
export const MAX_HEARTBEAT_BYTES = 1_024

/** Peers observed by default: each takes about 300 bytes. */
const MAX_OBSERVED = 1_024

export interface Heartbeat {
  /** ms after its consensus time by which the next one comes; 0: there is none, the peer goes. */
  readonly dueMs: number
}

export function encodeHeartbeat({ dueMs }: Heartbeat): Uint8Array {
  return encodeCbor({ due: dueMs })
}

/** @throws ERR_PEERLINE_PROTOCOL or ERR_PEERLINE_TOO_LARGE for what is no heartbeat */
export function readHeartbeat(payload: Uint8Array): Heartbeat {
  const f = fields(decodeCbor(payload, { maxBytes: MAX_HEARTBEAT_BYTES, maxDepth: 4 }), 'heartbeat')
  const dueMs = f.integer('due', { max: MAX_DUE_MS })
  // Less than the least is taken for the least: the writer is alive, if in a hurry.
  return { dueMs: dueMs === 0 ? 0 : Math.max(dueMs, MIN_DUE_MS) }
}

/** ms between two heartbeats, for what each costs. */
export function heartbeatIntervalMs({ amount }: Price): number {
  return amount > 0 ? PAID_INTERVAL_MS : FREE_INTERVAL_MS
}

// ---- writing ----

export interface HeartbeatsOptions {
  /** Our stdout. */
  readonly out: Pick<TopicWriter, 'append'>
  /** ms between two of them, see {@link heartbeatIntervalMs}. */
  readonly intervalMs: number
  /** ms that the ledger takes, as a rule. */
  readonly latencyMs: number
  /** One could not be written: the next one is tried at its time. */
  readonly onError?: ((error: PeerlineError) => void) | undefined
}

/** Writes heartbeats from now on until it is closed. */
export class Heartbeats {
  readonly #options: HeartbeatsOptions
  readonly #closing = new AbortController()
  /** Resolves when the first one has its place; rejects when it could not be written, or it was closed before. */
  readonly begun: Promise<void>
  #timer: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined

  constructor(options: HeartbeatsOptions) {
    this.#options = options
    // The place of the first tells what time it is at the ledger.
    this.begun = this.#beat('consensus')
    this.begun.catch(() => {})
  }

  /**
   * Says goodbye, and stops. Never rejects: who finds no goodbye finds out by itself, later.
   * @param options.signal bounds the wait
   */
  close({ signal }: { readonly signal: AbortSignal }): Promise<void> {
    this.#closed ??= this.#close(signal)
    return this.#closed
  }

  async #close(signal: AbortSignal): Promise<void> {
    this.#closing.abort()
    clearTimeout(this.#timer)
    const goodbye = encodeHeartbeat({ dueMs: 0 })
    await this.#options.out.append(Kind.HEARTBEAT, goodbye, { signal, wait: 'sent' }).catch(() => {})
  }

  async #beat(wait: 'consensus' | 'sent'): Promise<void> {
    const { intervalMs, out, onError } = this.#options
    this.#timer = setTimeout(() => void this.#beat('sent').catch(() => {}), intervalMs)
    this.#timer.unref()
    const { signal } = this.#closing
    try {
      await out.append(Kind.HEARTBEAT, this.#heartbeat(), { signal, wait })
    } catch (cause) {
      const error = asPeerlineError(cause, 'ERR_PEERLINE_UNREACHABLE')
      if (!signal.aborted) onError?.(error)
      throw error
    }
  }

  #heartbeat(): Uint8Array {
    const { intervalMs, latencyMs } = this.#options
    // Half as long again: a try or two may fail, and consensus takes its time.
    return encodeHeartbeat({
      dueMs: Math.round(Math.min(Math.max(intervalMs * 1.5 + 2 * latencyMs, MIN_DUE_MS), MAX_DUE_MS)),
    })
  }
}

// ---- observing ----

/** What one observer thinks of a peer. */
export type LivenessState = 'unknown' | 'alive' | 'suspect' | 'dead' | 'offline'

/** The last that was read of a peer. */
export interface Heard {
  /** The sender's own sequence. */
  readonly sequence: number
  /** Consensus time, ms since 1970. */
  readonly at: number
  readonly dueMs: number
}

/** The state at `now`, in consensus time. */
export function livenessAt(heard: Heard | undefined, now: number): LivenessState {
  if (heard === undefined) return 'unknown'
  if (heard.dueMs === 0) return 'offline'
  const overdueMs = now - (heard.at + heard.dueMs)
  if (overdueMs < SUSPECT_AFTER_MS) return 'alive'
  return overdueMs < DEAD_AFTER_MS ? 'suspect' : 'dead'
}

export interface LivenessChange {
  readonly peer: PeerId
  readonly from: LivenessState
  readonly to: LivenessState
}

interface Observed {
  readonly heard: Heard
  state: LivenessState
  timer: NodeJS.Timeout | undefined
}

/** What this observer thinks of peers; `change` is told when that changes, be it that nothing was heard. */
export class Liveness extends TypedEventTarget<{ change: LivenessChange }> {
  readonly #now: () => number
  readonly #max: number
  /** Who was heard least lately first. */
  readonly #observed = new Map<PeerId, Observed>()

  /**
   * @param options.now the ledger's clock, ms since 1970
   * @param options.maxPeers whoever was heard least lately is forgotten for another. @default 1,024
   */
  constructor({ now, maxPeers = MAX_OBSERVED }: { readonly now: () => number; readonly maxPeers?: number }) {
    super()
    this.#now = now
    this.#max = maxPeers
  }

  /** Peers that are remembered. */
  get size(): number {
    return this.#observed.size
  }

  /** What is thought of `peer` now. */
  of(peer: PeerId): LivenessState {
    return livenessAt(this.#observed.get(peer)?.heard, this.#now())
  }

  /** Takes a heartbeat that was read. One before the last is passed over. */
  heard(peer: PeerId, { sequence, at, dueMs }: Heard): void {
    const known = this.#observed.get(peer)
    if (known !== undefined && known.heard.sequence >= sequence) return
    clearTimeout(known?.timer)
    this.#observed.delete(peer)
    const observed = { heard: { sequence, at, dueMs }, state: known?.state ?? 'unknown', timer: undefined }
    this.#observed.set(peer, observed)
    this.#look(peer, observed)
    if (this.#observed.size > this.#max) for (const oldest of this.#observed.keys()) return this.forget(oldest)
  }

  /** Nothing is known of `peer` any more. */
  forget(peer: PeerId): void {
    const observed = this.#observed.get(peer)
    if (observed === undefined) return
    clearTimeout(observed.timer)
    this.#observed.delete(peer)
    this.#tell(peer, observed, 'unknown')
  }

  /** Forgets everybody, and tells nobody. */
  close(): void {
    for (const { timer } of this.#observed.values()) clearTimeout(timer)
    this.#observed.clear()
  }

  /** Tells what has become of a peer, and comes back when that may change by itself. */
  #look(peer: PeerId, observed: Observed): void {
    const now = this.#now()
    const { heard } = observed
    this.#tell(peer, observed, livenessAt(heard, now))
    // Whoever was told may have changed it.
    if (this.#observed.get(peer) !== observed) return
    if (observed.state !== 'alive' && observed.state !== 'suspect') return
    const after = observed.state === 'alive' ? SUSPECT_AFTER_MS : DEAD_AFTER_MS
    // The clock is an estimate, which may have moved when the time has come: then it is looked at again.
    const ms = Math.max(1, Math.ceil(heard.at + heard.dueMs + after - now))
    observed.timer = setTimeout(() => this.#look(peer, observed), Math.min(ms, MAX_DUE_MS))
    observed.timer.unref()
  }

  #tell(peer: PeerId, observed: Observed, to: LivenessState): void {
    const from = observed.state
    if (from === to) return
    observed.state = to
    this.emit('change', { peer, from, to })
  }
}
