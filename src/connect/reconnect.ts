/**
 * The way back of a session whose paths are gone, or do not answer: both sides look for it at once, and by everything that
 * is left, until there is a path again or the session has ended.
 *
 *     session in trouble, or reconnecting
 *        |-- hurry: rendezvous are asked whether they are there, and dialled anew
 *        |-- knock: the last known addresses of the other side
 *        |-- call:  an offer for this session, by any medium  --> answer: candidates, circuits --> paths attach
 *        |-- a second later, or as soon as a medium is back: again
 *
 * - Paths only ever attach beside others: two sides that do the same at the same time end up with one too many, which is
 *   closed later.
 * - An attempt that hangs holds up none that comes after it; {@link MAX_CALLS} are under way at once.
 */

import { firstOf, pause, under } from '../pause.ts'
import type { Session } from '../session/index.ts'

/** ms between attempts: a person hardly notices, and 60 of them are no burden to a server. */
const EVERY_MS = 1_000

/** After this many ms of trying, attempts are {@link LATER_MS} apart. */
const EAGER_MS = 180_000
const LATER_MS = 5_000

/** ms between attempts at the least, however often a medium comes back. */
const LEAST_MS = 100

/** Calls under way at once. */
const MAX_CALLS = 4

/** ms for one call: the rendezvous passes it on at once, and nobody is asked for leave. */
const CALL_MS = 4_000

/** ms that paths get to attach after an answer, before the next call. */
const ATTACH_MS = 1_500

export interface ReconnectOptions {
  readonly session: Session
  /** Brings signaling media back. */
  readonly hurry: () => void
  /** Dials what is known of the other side. Never rejects. */
  readonly knock: (attempt: number, signal: AbortSignal) => Promise<void>
  /** Calls the other side by every medium there is. False: there is none. Rejects when it is not reached. */
  readonly call: (signal: AbortSignal) => Promise<boolean>
  readonly closing: AbortSignal
}

export class Reconnect {
  readonly #options: ReconnectOptions
  readonly #over = new AbortController()
  readonly #signal: AbortSignal
  #running = false
  #calls = 0
  #knocking = false
  /** No call before then: an answer has come, and its paths are on their way. */
  #calledUntil = 0
  #attemptAt = Number.NEGATIVE_INFINITY
  #wake: (() => void) | undefined

  constructor(options: ReconnectOptions) {
    this.#options = options
    const { session, closing } = options
    this.#signal = firstOf(this.#over.signal, closing)
    const begin = () => void this.#run()
    session.addEventListener('trouble', begin)
    session.addEventListener('reconnecting', begin)
    session.addEventListener('close', () => this.#over.abort())
  }

  /** A medium is back, or we are to be found elsewhere: the next attempt is made now, whatever the last one told. */
  wake(): void {
    this.#calledUntil = 0
    this.#wake?.()
  }

  async #run(): Promise<void> {
    if (this.#running) return
    this.#running = true
    const began = performance.now()
    const { session, hurry } = this.#options
    try {
      for (let attempt = 0; session.needsPath && !this.#signal.aborted; attempt++) {
        this.#attemptAt = performance.now()
        hurry()
        void this.#knock(attempt)
        void this.#call()
        await this.#rest(this.#attemptAt - began < EAGER_MS ? EVERY_MS : LATER_MS)
      }
    } finally {
      this.#running = false
    }
  }

  /** Waits for the next attempt, a little more or less, or until somebody wakes it or there is a path. */
  async #rest(ms: number): Promise<void> {
    const { session } = this.#options
    const up = new AbortController()
    const signal = firstOf(this.#signal, up.signal)
    const onWake = () => {
      const since = performance.now() - this.#attemptAt
      if (since >= LEAST_MS) return up.abort()
      // Not at once, but soon.
      pause(LEAST_MS - since, signal).then(
        () => up.abort(),
        () => {},
      )
    }
    const onPath = () => up.abort()
    this.#wake = onWake
    session.addEventListener('reconnected', onPath)
    await pause(ms * (0.75 + Math.random() / 2), signal).catch(() => {})
    session.removeEventListener('reconnected', onPath)
    this.#wake = undefined
    up.abort()
  }

  async #knock(attempt: number): Promise<void> {
    if (this.#knocking) return
    this.#knocking = true
    await this.#options.knock(attempt, this.#signal)
    this.#knocking = false
  }

  async #call(): Promise<void> {
    if (this.#calls >= MAX_CALLS || performance.now() < this.#calledUntil) return
    this.#calls++
    try {
      const called = await under([this.#signal, AbortSignal.timeout(CALL_MS)], (signal) => this.#options.call(signal))
      if (called) this.#calledUntil = performance.now() + ATTACH_MS
    } catch {
      // Not there yet, or not reached: the next attempt comes soon.
    } finally {
      this.#calls--
    }
  }
}
