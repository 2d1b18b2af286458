/**
 * What is remembered of requests with a key, so that one that is sent again is executed once.
 *
 *     (nothing) --first--> running --answered--> kept --its bytes are wanted--> dropped        told: executed, answer gone
 *                             |                    \--the asker has it--> confirmed            the same, and forgotten first
 *                             \--refused before the handler began--> (nothing)
 *
 * - One request: the same peer, protocol, key and body (SHA-256). The same key with another body is refused as invalid.
 * - Whoever asks again joins the one that runs, or gets the answer that is kept, on whatever session.
 * - Bounds: 256 requests a peer and 16,384 in all, 2 minutes each from their answer on. Answers take at most 1 MiB a peer
 *   and 32 MiB in all; above that the oldest answer of the peer, or of the peer that holds most, is dropped. Not by its
 *   size alone: one large answer to one request is kept as well as 64 small ones.
 * - Of an answer that was dropped it is still known that the request was executed: asked again, it fails with
 *   ERR_PEERLINE_TOO_LARGE and `executed: 'yes'`, and is not executed again.
 * - Never forgotten within their time: requests that run, and those whose asker has not said that it has the answer. A
 *   peer that has 256 of those is refused with ERR_PEERLINE_BUSY until they have expired, so that it cannot push out
 *   what it must not repeat. Confirmed ones make room, the oldest first, and in all those of the peer that holds most.
 */
import { createHash } from 'node:crypto'
import { equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { Deadline } from './deadline.ts'
import { encodeFailure, Refusal } from './failure.ts'
import { HandlerContext, type RequestHandler } from './handler-context.ts'
import { Status } from './request.ts'

/** Requests remembered for one peer: as many as it may have streams open. */
const MAX_PER_PEER = 256

/** Requests remembered in all: 64 peers at their limit, some 8 MiB without the answers. */
const MAX_IN_ALL = 16_384

/** Bytes of answers kept for one peer: the largest answer there is by default, or 64 of 16 KiB. */
const MAX_BYTES_PER_PEER = 1_048_577

/** Bytes of answers kept in all: 32 peers at their limit. */
const MAX_BYTES_IN_ALL = 33_554_432

/** ms that a request is remembered from its answer on: twice what a session may be without a path. */
const KEEP_MS = 120_000

export interface ReplyLimits {
  /** @default 256 */
  readonly perPeer?: number
  /** @default 16_384 */
  readonly inAll?: number
  /** Bytes of answers. @default 1 MiB */
  readonly bytesPerPeer?: number
  /** Bytes of answers. @default 32 MiB */
  readonly bytesInAll?: number
  /** @default 120_000 */
  readonly keepMs?: number
}

/** Who waits for the answer to a request. */
export interface Joiner {
  /** The answer as it goes on the wire. Called once, maybe before `ask` has returned. */
  answered(answer: Uint8Array): void
}

export interface KeyedRequest {
  readonly from: PeerId
  readonly protocol: string
  readonly key: Uint8Array
  readonly body: Uint8Array
  /** ms for the handler. */
  readonly timeoutMs: number
}

/** A request that is remembered. */
export interface Reply {
  /** The asker has the whole answer. */
  confirm(): void
  /** Waits no more. `cancelled`: on purpose; when nobody else waits, the handler's signal fires. */
  leave(joiner: Joiner, cancelled: boolean): void
}

const GONE = failedAnswer(
  new PeerlineError('ERR_PEERLINE_TOO_LARGE', 'the request was executed; its answer is kept no longer'),
)
const OTHER_BODY = failedAnswer(new Refusal('ERR_PEERLINE_INVALID', 'the key was used for another request'))
const FULL = failedAnswer(new Refusal('ERR_PEERLINE_BUSY', 'too many requests with a key are remembered'))

/** The answer that tells of a failure. */
export function failedAnswer(error: unknown): Uint8Array {
  const failure = encodeFailure(error)
  const whole = new Uint8Array(1 + failure.length)
  whole[0] = Status.FAILED
  whole.set(failure, 1)
  return whole
}

/** What is kept of one peer, the oldest first. */
interface Kept {
  readonly entries: Map<string, Entry>
  bytes: number
}

/** One for each peer of ours, over all its protocols and sessions. */
export class Replies {
  readonly #limits: Required<ReplyLimits>
  readonly #peers = new Map<PeerId, Kept>()
  #size = 0
  #bytes = 0

  constructor(limits: ReplyLimits = {}) {
    this.#limits = {
      perPeer: MAX_PER_PEER,
      inAll: MAX_IN_ALL,
      bytesPerPeer: MAX_BYTES_PER_PEER,
      bytesInAll: MAX_BYTES_IN_ALL,
      keepMs: KEEP_MS,
      ...limits,
    }
  }

  /** Requests remembered now. */
  get size(): number {
    return this.#size
  }

  /** Bytes of answers kept now. */
  get bytes(): number {
    return this.#bytes
  }

  /** Has `joiner` told the answer to `asked`, by `handler` if it is new. Never throws; undefined when it was refused. */
  ask(asked: KeyedRequest, handler: RequestHandler, joiner: Joiner): Reply | undefined {
    const id = `${asked.protocol}\n${Buffer.from(asked.key).toString('latin1')}`
    const digest = createHash('sha256').update(asked.body).digest()
    const known = this.#peers.get(asked.from)?.entries.get(id)
    if (known !== undefined) {
      if (equalBytes(known.digest, digest)) {
        known.join(joiner)
        return known
      }
      joiner.answered(OTHER_BODY)
      return undefined
    }
    if (!this.#makeRoom(asked.from)) {
      joiner.answered(FULL)
      return undefined
    }
    const entry = new Entry(asked, digest, {
      keepMs: this.#limits.keepMs,
      resized: (before) => this.#resized(asked.from, entry, before),
      over: () => this.#forget(asked.from, id, entry),
    })
    let kept = this.#peers.get(asked.from)
    if (kept === undefined) {
      kept = { entries: new Map(), bytes: 0 }
      this.#peers.set(asked.from, kept)
    }
    kept.entries.set(id, entry)
    this.#size++
    entry.join(joiner)
    entry.run(handler, asked.body)
    return entry
  }

  /** Forgets everything; the signals of handlers that run fire. */
  close(): void {
    const error = new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed')
    for (const { entries } of [...this.#peers.values()]) for (const entry of [...entries.values()]) entry.stop(error)
  }

  #makeRoom(from: PeerId): boolean {
    const own = this.#peers.get(from)
    if (own !== undefined && own.entries.size >= this.#limits.perPeer && !forgetOne(own)) return false
    if (this.#size < this.#limits.inAll || (own !== undefined && forgetOne(own))) return true
    const greediest = this.#most(({ entries }) => entries.size)
    return greediest !== undefined && forgetOne(greediest)
  }

  #most(measure: (kept: Kept) => number): Kept | undefined {
    let most: Kept | undefined
    for (const kept of this.#peers.values()) if (most === undefined || measure(kept) > measure(most)) most = kept
    return most
  }

  /** The answer of `entry` has come, or was dropped: bytes are counted, and the oldest dropped when they are too many. */
  #resized(from: PeerId, entry: Entry, before: number): void {
    const own = this.#peers.get(from)!
    own.bytes += entry.bytes - before
    this.#bytes += entry.bytes - before
    if (entry.bytes <= before) return
    while (own.bytes > this.#limits.bytesPerPeer && dropOne(own)) {}
    while (this.#bytes > this.#limits.bytesInAll && dropOne(this.#most(({ bytes }) => bytes)!)) {}
  }

  #forget(from: PeerId, id: string, entry: Entry): void {
    const own = this.#peers.get(from)
    if (own?.entries.get(id) !== entry) return
    entry.drop()
    own.entries.delete(id)
    this.#size--
    if (own.entries.size === 0) this.#peers.delete(from)
  }
}

/** Forgets the oldest of which the asker has the answer; false when there is none. */
function forgetOne({ entries }: Kept): boolean {
  for (const entry of entries.values()) {
    if (!entry.confirmed) continue
    entry.forget()
    return true
  }
  return false
}

/** Drops the oldest answer; false when there is none. */
function dropOne({ entries }: Kept): boolean {
  for (const entry of entries.values()) if (entry.drop()) return true
  return false
}

interface EntryHost {
  readonly keepMs: number
  resized(before: number): void
  over(): void
}

class Entry extends Deadline implements Reply {
  readonly digest: Uint8Array
  readonly #asked: { readonly timeoutMs: number; readonly protocol: string }
  readonly #host: EntryHost
  readonly #context: HandlerContext
  readonly #joiners = new Set<Joiner>()
  #state: 'running' | 'answered' | 'over' = 'running'
  #answer: Uint8Array | undefined
  #late = false
  confirmed = false

  constructor(asked: KeyedRequest, digest: Uint8Array, host: EntryHost) {
    super()
    this.digest = digest
    this.#asked = { timeoutMs: asked.timeoutMs, protocol: asked.protocol }
    this.#host = host
    this.#context = new HandlerContext(asked.from, asked.protocol)
  }

  /** Bytes of its answer. */
  get bytes(): number {
    return this.#answer?.length ?? 0
  }

  join(joiner: Joiner): void {
    if (this.#state === 'running') this.#joiners.add(joiner)
    else joiner.answered(this.#answer ?? GONE)
  }

  leave(joiner: Joiner, cancelled: boolean): void {
    if (!this.#joiners.delete(joiner) || !cancelled || this.#joiners.size > 0) return
    this.#context.abort(new PeerlineError('ERR_PEERLINE_ABORTED', 'the asker gave up'))
  }

  confirm(): void {
    if (this.#state !== 'answered') return
    this.confirmed = true
    this.drop()
  }

  /** Never throws. */
  run(handler: RequestHandler, body: Uint8Array): void {
    this.arm(this.#asked.timeoutMs)
    let answer: Uint8Array | Promise<Uint8Array>
    try {
      answer = handler(body, this.#context)
    } catch (error) {
      return this.#settled(undefined, error)
    }
    if (answer instanceof Uint8Array) return this.#settled(answer)
    Promise.resolve(answer).then(
      (bytes) => this.#settled(bytes),
      (error) => this.#settled(undefined, error),
    )
  }

  /** The handler is done. Later than its time was, that is for those who ask again. */
  #settled(bytes: Uint8Array | undefined, error?: unknown): void {
    if (this.#state === 'over') return
    if (bytes instanceof Uint8Array) {
      const whole = new Uint8Array(1 + bytes.length)
      whole[0] = Status.OK
      whole.set(bytes, 1)
      this.#tell(whole)
    } else {
      this.#tell(failedAnswer(error))
      // It did nothing: whoever asks again may have it done.
      if (error instanceof Refusal) this.forget()
    }
  }

  #tell(answer: Uint8Array): void {
    this.#state = 'answered'
    this.#answer = answer
    this.arm(this.#host.keepMs)
    const joiners = [...this.#joiners]
    this.#joiners.clear()
    this.#host.resized(0)
    for (const joiner of joiners) joiner.answered(answer)
  }

  protected expired(): void {
    if (this.#state !== 'running' || this.#late) return this.forget()
    // Those who wait have deadlines of their own. A handler that does not end for all that is forgotten like an answer.
    this.#late = true
    this.arm(this.#host.keepMs)
    this.#context.abort(new PeerlineError('ERR_PEERLINE_TIMEOUT', `${this.#asked.protocol}: the handler took too long`))
  }

  /** Drops the answer, not what it answered; false when there is none. */
  drop(): boolean {
    if (this.#answer === undefined) return false
    const before = this.bytes
    this.#answer = undefined
    this.#host.resized(before)
    return true
  }

  forget(): void {
    this.disarm()
    this.#host.over()
    this.#state = 'over'
  }

  stop(error: PeerlineError): void {
    if (this.#state === 'running') this.#context.abort(error)
    this.forget()
  }
}
