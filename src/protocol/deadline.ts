/**
 * Deadlines by the thousand: a hashed timing wheel (Varghese and Lauck, 1987, scheme 6), one for the process.
 *
 *     slot 0   1   2  ...  511        each slot a doubly linked list; a turn of the wheel is 10.24 s
 *          |       |
 *          a-b     c                  a deadline beyond one turn stays in its slot until its turn comes
 *
 * - Arming and disarming cost a few assignments and no allocation: a request pays for neither timer nor closure.
 * - A deadline passes late by up to {@link TICK_MS} and never early.
 * - The one timer exists only while something is armed, plus one tick, and does not keep the process alive.
 */

/** ms between looks: small beside any time-out, and 50 looks a second cost nothing. */
const TICK_MS = 20

/** Slots: one turn is 10.24 s, so that the usual time-out of 10 s is looked at once. A power of two. */
const SLOTS = 512

/** ms of the longest deadline, 2^31: longer ones, and no time-out at all, are as good as this one. */
const MAX_MS = 2_147_483_648

const slots: (Deadline | undefined)[] = new Array(SLOTS).fill(undefined)
let armed = 0
let timer: ReturnType<typeof setInterval> | undefined
let lastTick = 0

/** Something with a deadline. Who extends it says in `expired` what happens when that passes; it must not throw. */
export abstract class Deadline {
  #next: Deadline | undefined
  #previous: Deadline | undefined
  #due = 0
  #state: 'idle' | 'armed' | 'due' = 'idle'

  protected abstract expired(): void

  /** Sets the deadline `ms` from now, in place of an earlier one. */
  arm(ms: number): void {
    this.disarm()
    const now = performance.now()
    if (timer === undefined) {
      lastTick = Math.floor(now / TICK_MS)
      timer = setInterval(turn, TICK_MS)
      timer.unref()
    }
    this.#due = Math.floor((now + Math.min(ms, MAX_MS)) / TICK_MS) + 1
    const slot = this.#due % SLOTS
    const head = slots[slot]
    if (head !== undefined) head.#previous = this
    this.#next = head
    slots[slot] = this
    this.#state = 'armed'
    armed++
  }

  /** The deadline is off; doing it twice does nothing. */
  disarm(): void {
    if (this.#state === 'armed') {
      if (this.#previous === undefined) slots[this.#due % SLOTS] = this.#next
      else this.#previous.#next = this.#next
      if (this.#next !== undefined) this.#next.#previous = this.#previous
      this.#next = undefined
      this.#previous = undefined
      armed--
    }
    this.#state = 'idle'
  }

  /** Moves what is due at `tick` in the slot that starts with `first` to `due`. */
  static collect(first: Deadline | undefined, tick: number, due: Deadline[]): void {
    let at = first
    while (at !== undefined) {
      const next: Deadline | undefined = at.#next
      if (at.#due <= tick) {
        at.disarm()
        at.#state = 'due'
        due.push(at)
      }
      at = next
    }
  }

  /** Ends what was collected, unless it was disarmed, or armed anew, by another that ended before it. */
  static pass(due: readonly Deadline[]): void {
    for (const deadline of due) {
      if (deadline.#state !== 'due') continue
      deadline.#state = 'idle'
      deadline.expired()
    }
  }
}

/** Looks at the slots that have come up since the last look. */
function turn(): void {
  const now = Math.floor(performance.now() / TICK_MS)
  const due: Deadline[] = []
  for (let tick = Math.max(lastTick, now - SLOTS) + 1; tick <= now; tick++) {
    Deadline.collect(slots[tick % SLOTS], now, due)
  }
  lastTick = now
  Deadline.pass(due)
  if (armed > 0) return
  clearInterval(timer)
  timer = undefined
}
