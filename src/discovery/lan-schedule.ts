/**
 * When a peer speaks up on the local network: often at first, seldom once nothing new is to be said.
 *
 *     hurry                 hurry + 1 s      + 2 s           + 4 s                       ...         every 60 s
 *     |--20..120 ms--> turn ------> turn ---------> turn -------------------> turn  ---> ... ---> turn -----> turn
 *                                                                       settle: from here at once ^
 *
 * - The pause doubles from {@link FASTEST_MS} to {@link SLOWEST_MS}. `hurry` begins anew, `settle` goes to the slowest.
 * - Everyone on a network pauses the longer, the more there are of them: together they speak {@link TOGETHER} times a
 *   second at most, however many come at once.
 * - Pauses differ by a tenth at random, so that machines which start together drift apart.
 */

/** ms of the first pause, and of the longest: who has just come is found in a second or two, and a quiet network stays so. */
export const FASTEST_MS = 1_000
export const SLOWEST_MS = 60_000

/** ms before the first turn, at random, for machines that were switched on together (RFC 6762 section 5.2). */
const FIRST_MS = { least: 20, most: 120 }

/** Turns a second of everyone on the network taken together: with 500 bytes each, some 0.2 Mbit/s. */
const TOGETHER = 20

/** Part of a pause by which it is longer or shorter, at random. */
const JITTER = 0.1

export interface LanScheduleOptions {
  readonly onTurn: () => void
  /** How many others speak on this network. */
  readonly others: () => number
  /** From 0 up to 1. @default Math.random */
  readonly random?: () => number
}

export class LanSchedule {
  readonly #options: LanScheduleOptions
  #timer: NodeJS.Timeout | undefined
  #dueAt = 0
  #doublings = 0
  #lastTurn = Number.NEGATIVE_INFINITY
  #stopped = false

  constructor(options: LanScheduleOptions) {
    this.#options = options
  }

  /** ms that the next pause would have, but for chance. */
  get pauseMs(): number {
    const least = Math.max(FASTEST_MS * 2 ** this.#doublings, this.#leastMs)
    return Math.min(least, SLOWEST_MS)
  }

  /** Soon, and then often for a while: something is new. */
  hurry(): void {
    this.#doublings = 0
    const { least, most } = FIRST_MS
    const soon = least + this.#random * (most - least)
    const wait = Math.max(soon, this.#lastTurn + this.#leastMs - performance.now())
    // However often something is new, the next turn comes no later.
    if (this.#timer === undefined || performance.now() + wait < this.#dueAt) this.#wait(wait)
  }

  /** From here on seldom: who was looked for is found. */
  settle(): void {
    if (this.#timer === undefined) return
    this.#doublings = Math.ceil(Math.log2(SLOWEST_MS / FASTEST_MS))
    this.#wait(this.#jittered)
  }

  stop(): void {
    this.#stopped = true
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  /** Between two turns, however much is new. */
  get #leastMs(): number {
    return Math.min(Math.max(FASTEST_MS, (this.#options.others() * 1_000) / TOGETHER), SLOWEST_MS)
  }

  get #random(): number {
    return (this.#options.random ?? Math.random)()
  }

  get #jittered(): number {
    return this.pauseMs * (1 - JITTER + 2 * JITTER * this.#random)
  }

  #wait(ms: number): void {
    if (this.#stopped) return
    clearTimeout(this.#timer)
    this.#dueAt = performance.now() + ms
    this.#timer = setTimeout(() => this.#turn(), ms)
    this.#timer.unref()
  }

  #turn(): void {
    this.#lastTurn = performance.now()
    this.#wait(this.#jittered)
    if (this.pauseMs < SLOWEST_MS) this.#doublings++
    this.#options.onTurn()
  }
}
