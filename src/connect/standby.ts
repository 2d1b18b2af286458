/**
 * A relay path beside the direct one: it costs a relay an idle circuit, and takes over at once when the direct path fails.
 *
 *     relay path lost, direct one there --a while--> circuit at a relay, told inside the session --joined--> standby
 *
 * The side that dialled sees to it; the other one only when that does not happen.
 */

import { firstOf, pause } from '../pause.ts'
import type { Session } from '../session/index.ts'

/** ms before a lost relay path is replaced, by the side that dialled and by the other: relays that went may come back. */
const INITIATOR_MS = 1_000
const RESPONDER_MS = 6_000

/** ms between attempts that fail: doubled each time, up to this. */
const MAX_WAIT_MS = 60_000

/** ms that a direct path must have been there before a relay path that is not wanted is closed. */
export const UNWANTED_MS = 15_000

export interface StandbyOptions {
  readonly session: Session
  /** False: a relay path is closed when a direct one has lasted for a while. */
  readonly wanted: boolean
  /** Opens a circuit and attaches it. Rejects when there is none to be had. */
  readonly open: (signal: AbortSignal) => Promise<void>
  readonly closing: AbortSignal
}

export class Standby {
  readonly #options: StandbyOptions
  readonly #over = new AbortController()
  readonly #signal: AbortSignal
  #plan: AbortController | undefined

  constructor(options: StandbyOptions) {
    this.#options = options
    const { session, closing } = options
    this.#signal = firstOf(this.#over.signal, closing)
    session.addEventListener('paths', () => this.#look())
    session.addEventListener('close', () => this.#over.abort())
  }

  /** True when there is something to do that is not planned yet. */
  get #due(): boolean {
    const { session, wanted } = this.#options
    const direct = session.paths.some((kind) => kind !== 'relay')
    // Without any path, finding one is the business of others.
    return session.state === 'open' && direct && session.paths.includes('relay') !== wanted
  }

  #look(): void {
    if (!this.#due) return this.#plan?.abort()
    if (this.#plan?.signal.aborted === false) return
    const plan = new AbortController()
    this.#plan = plan
    const signal = firstOf(this.#signal, plan.signal)
    const { wanted } = this.#options
    void (wanted ? this.#bring(signal) : this.#drop(signal)).catch(() => {}).finally(() => plan.abort())
  }

  async #bring(signal: AbortSignal): Promise<void> {
    const { session, open } = this.#options
    let wait = session.initiator ? INITIATOR_MS : RESPONDER_MS
    while (this.#due) {
      await pause(wait * (1 + Math.random() / 2), signal)
      if (this.#due) await open(signal).catch(() => {})
      wait = Math.min(wait * 2, MAX_WAIT_MS)
    }
  }

  async #drop(signal: AbortSignal): Promise<void> {
    await pause(UNWANTED_MS, signal)
    if (this.#due) this.#options.session.letGo('relay')
  }
}
