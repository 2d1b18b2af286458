/**
 * Peers that wait at the door for the owner: each is decided once, and the queue of them for whoever takes one at a time.
 *
 *   waits --> accepted | refused     by whoever answers first
 *        \--> over                   its time is up, it left, or a rule decided: its signal fires, an answer changes nothing
 *
 * The queue holds only those that still wait: one that is over makes room for the next.
 */
import { abortError, type PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Asked, AskedQuestion } from './asking.ts'

export interface AcceptOptions {
  /** It is trusted from now on. @default false */
  readonly trust?: boolean
  /** It is let in from now on, without being asked about. @default false: this time */
  readonly remember?: boolean
}

export interface RefuseOptions {
  /** It is refused from now on, without being asked about. @default false: this time */
  readonly remember?: boolean
}

export type Verdict = ({ readonly accepted: true } & AcceptOptions) | ({ readonly accepted: false } & RefuseOptions)

/** A peer that no rule names, or that a rule leaves to the owner, and that waits to be let in. */
export class Arrival {
  /** Proven. */
  readonly peer: PeerId
  /** 1 to 16: what it wants. */
  readonly questions: readonly AskedQuestion[]
  readonly #over = new AbortController()
  readonly #settle: (verdict: Verdict | undefined) => void
  #waits = true

  /** @internal `settle` is called once; with `undefined` when it is over without an answer. */
  constructor({ peer, questions }: Asked, settle: (verdict: Verdict | undefined) => void) {
    this.peer = peer
    this.questions = questions
    this.#settle = settle
  }

  /** Fires when it is over without an answer: the time is up, the peer left, or a rule decided meanwhile. */
  get signal(): AbortSignal {
    return this.#over.signal
  }

  /** Whether an answer still counts. */
  get waits(): boolean {
    return this.#waits
  }

  /**
   * Lets the peer in, once it is called. @returns false when it was answered, or over, before
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when it is to be trusted and there is no room; it is refused then
   */
  accept(options: AcceptOptions = {}): boolean {
    return this.#answer({ accepted: true, ...options })
  }

  /** Refuses the peer. @returns false when it was answered, or over, before */
  refuse(options: RefuseOptions = {}): boolean {
    return this.#answer({ accepted: false, ...options })
  }

  /** @internal Nobody waits for an answer any more. */
  end(reason: PeerlineError): void {
    if (!this.#waits) return
    this.#waits = false
    this.#over.abort(reason)
    this.#settle(undefined)
  }

  #answer(verdict: Verdict): boolean {
    if (!this.#waits) return false
    this.#waits = false
    this.#settle(verdict)
    return true
  }
}

/** Arrivals in the order in which they came, for consumers with `for await`; each arrival goes to one of them. */
export class ArrivalQueue implements AsyncIterable<Arrival> {
  readonly #capacity: number
  readonly #waiting = new Set<Arrival>()
  readonly #takers = new Set<(result: IteratorResult<Arrival, undefined>) => void>()
  #closed = false

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get size(): number {
    return this.#waiting.size
  }

  /** @internal False when it is full. */
  offer(arrival: Arrival): boolean {
    if (this.#closed) return false
    for (const take of this.#takers) {
      this.#takers.delete(take)
      take({ done: false, value: arrival })
      return true
    }
    if (this.#waiting.size >= this.#capacity) return false
    this.#waiting.add(arrival)
    return true
  }

  /** @internal It waits no longer. */
  drop(arrival: Arrival): void {
    this.#waiting.delete(arrival)
  }

  /** @internal All who wait for an arrival are told that there will be none. */
  close(): void {
    this.#closed = true
    this.#waiting.clear()
    for (const take of this.#takers) take({ done: true, value: undefined })
    this.#takers.clear()
  }

  [Symbol.asyncIterator](): AsyncIterator<Arrival, undefined> {
    const mine = new Set<(result: IteratorResult<Arrival, undefined>) => void>()
    let left = false
    return {
      next: () => {
        if (left || this.#closed) return Promise.resolve({ done: true, value: undefined })
        for (const value of this.#waiting) {
          this.#waiting.delete(value)
          return Promise.resolve({ done: false, value })
        }
        return new Promise((resolve) => {
          const take = (result: IteratorResult<Arrival, undefined>) => {
            mine.delete(take)
            resolve(result)
          }
          mine.add(take)
          this.#takers.add(take)
        })
      },
      return: () => {
        left = true
        for (const take of mine) {
          this.#takers.delete(take)
          take({ done: true, value: undefined })
        }
        return Promise.resolve({ done: true, value: undefined })
      },
    }
  }
}

/** The error of an arrival that is over because `signal` fired. */
export function overError(signal: AbortSignal): PeerlineError {
  return abortError(signal, 'waiting to be let in')
}
