/**
 * Time for two processes in one, without waiting: timers, immediates and arrivals are events, run in the order of their
 * time, and of two at the same time in the order in which they came.
 *
 *     event of side 0 --run, then its promises--> event of side 1 --run, then its promises--> ...
 *
 * - While it is installed, `setTimeout`, `setInterval`, `setImmediate`, `performance.now`, `Date` and `Math.random` of the
 *   process are its own. What is set while an event of a side runs belongs to that side.
 * - A side may be stopped, as SIGSTOP does: its events wait. When it goes on, timers that are due run before sockets are
 *   read, as in Node's event loop.
 * - Between two events all promises settle: `process.nextTick` called from a promise runs when no other is left.
 */
import { Random } from './random.ts'

/** Whose event it is; 2 is the world around both. */
export type Owner = 0 | 1 | 2
export const WORLD = 2

/** `io` is what sockets bring, `script` what a test does. */
export type Work = 'timer' | 'immediate' | 'io' | 'script'

/** Where the clock starts, ms: a process that has been running for a while. */
const START_MS = 1_000_000

/** Events of one schedule above which something goes round in circles. */
const MAX_EVENTS = 400_000

/** Something that will happen; as a timer's handle it takes what is done to those. */
export class Entry {
  at: number
  order: number
  readonly owner: Owner
  readonly work: Work
  run: (() => void) | undefined
  everyMs: number | undefined

  constructor(at: number, order: number, owner: Owner, work: Work, run: () => void) {
    this.at = at
    this.order = order
    this.owner = owner
    this.work = work
    this.run = run
  }

  ref(): this {
    return this
  }

  unref(): this {
    return this
  }
}

/** Lets all promises settle. */
function settled(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve))
}

export class VirtualClock {
  now: number = START_MS
  /** Whose code is running. */
  owner: Owner = WORLD
  events = 0
  /** What events threw, and nobody caught. */
  readonly thrown: unknown[] = []
  readonly #random: Random
  readonly #heap: Entry[] = []
  readonly #timers: [number, number, number] = [0, 0, 0]
  readonly #stopped: [boolean, boolean, boolean] = [false, false, false]
  /** What a stopped side has waiting. */
  #waiting: Entry[] = []
  #order = 0
  #restore: (() => void) | undefined

  constructor(seed: number) {
    this.#random = new Random(seed)
  }

  /** ms since the start. */
  get elapsed(): number {
    return this.now - START_MS
  }

  // ---- events ----

  at(ms: number, owner: Owner, work: Work, run: () => void): Entry {
    const event = new Entry(Math.max(ms, this.now), this.#order++, owner, work, run)
    if (work === 'timer') this.#timers[owner]++
    this.#push(event)
    return event
  }

  cancel(event: Entry | undefined): void {
    if (event === undefined || event.run === undefined) return
    event.run = undefined
    if (event.work === 'timer') this.#timers[event.owner]--
  }

  /** Resolves in `ms`, in an event of whoever is running now. */
  sleep(ms: number): Promise<void> {
    const { owner } = this
    return new Promise((resolve) => this.at(this.now + ms, owner, 'script', resolve))
  }

  /** Timers that are set by a side's own code. */
  timersOf(owner: Owner): number {
    return this.#timers[owner]
  }

  stop(owner: Owner): void {
    this.#stopped[owner] = true
  }

  isStopped(owner: Owner): boolean {
    return this.#stopped[owner]
  }

  /** The side goes on: first its timers in order, then what came, in an order of which only that on each path is sure. */
  resume(owner: Owner): void {
    this.#stopped[owner] = false
    const mine = this.#waiting.filter((event) => event.owner === owner && event.run !== undefined)
    this.#waiting = this.#waiting.filter((event) => event.owner !== owner)
    const timers = mine.filter(({ work }) => work === 'timer').sort((a, b) => a.at - b.at || a.order - b.order)
    const others = mine.filter(({ work }) => work !== 'timer')
    for (let at = others.length - 1; at > 0; at--) {
      const to = this.#random.int(0, at)
      const other = others[to]!
      others[to] = others[at]!
      others[at] = other
    }
    for (const event of [...timers, ...others]) {
      event.at = this.now
      event.order = this.#order++
      this.#push(event)
    }
  }

  /** The side is no more: nothing of it runs again. */
  forget(owner: Owner): void {
    for (const event of [...this.#heap, ...this.#waiting]) if (event.owner === owner) this.cancel(event)
    this.#stopped[owner] = true
  }

  /** Runs until `done`, or until `untilMs` on this clock, or until nothing is left to happen. */
  async run(done: () => boolean, untilMs: number): Promise<void> {
    while (!done()) {
      const event = this.#heap[0]
      if (event === undefined || event.at > untilMs) {
        this.now = Math.max(this.now, untilMs)
        return
      }
      this.#pop()
      const { run, owner } = event
      if (run === undefined) continue
      if (this.#stopped[owner]) {
        this.#waiting.push(event)
        continue
      }
      if (++this.events > MAX_EVENTS) throw new Error(`more than ${MAX_EVENTS} events: it goes round in circles`)
      this.now = event.at
      this.owner = owner
      if (event.everyMs === undefined) this.cancel(event)
      try {
        run()
      } catch (error) {
        this.thrown.push(error)
      }
      await settled()
      this.owner = WORLD
      if (event.everyMs !== undefined && event.run !== undefined) {
        event.at = this.now + event.everyMs
        event.order = this.#order++
        this.#push(event)
      }
    }
  }

  // ---- the heap ----

  #push(event: Entry): void {
    const heap = this.#heap
    let at = heap.push(event) - 1
    while (at > 0) {
      const up = (at - 1) >> 1
      if (!before(event, heap[up]!)) break
      heap[at] = heap[up]!
      at = up
    }
    heap[at] = event
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()!
    const { length } = heap
    if (length === 0) return
    let at = 0
    for (;;) {
      let down = 2 * at + 1
      if (down >= length) break
      if (down + 1 < length && before(heap[down + 1]!, heap[down]!)) down++
      if (!before(heap[down]!, last)) break
      heap[at] = heap[down]!
      at = down
    }
    heap[at] = last
  }

  // ---- the process's own clock ----

  /** Takes the place of the clock of the process. */
  install(): void {
    const real = {
      setTimeout: globalThis.setTimeout,
      clearTimeout: globalThis.clearTimeout,
      setInterval: globalThis.setInterval,
      clearInterval: globalThis.clearInterval,
      setImmediate: globalThis.setImmediate,
      clearImmediate: globalThis.clearImmediate,
      Date: globalThis.Date,
    }
    const { random } = Math
    const clock = this
    const clear = (event: Entry | undefined) => this.cancel(event)
    const timer = (run: (...args: unknown[]) => void, ms: number, args: unknown[]) =>
      this.at(this.now + (ms >= 1 ? ms : 1), this.owner, 'timer', () => run(...args))
    Object.assign(globalThis, {
      setTimeout: (run: () => void, ms = 1, ...args: unknown[]) => timer(run, ms, args),
      setInterval: (run: () => void, ms = 1, ...args: unknown[]) => {
        const event = timer(run, ms, args)
        event.everyMs = Math.max(ms, 1)
        return event
      },
      setImmediate: (run: (...args: unknown[]) => void, ...args: unknown[]) =>
        this.at(this.now, this.owner, 'immediate', () => run(...args)),
      clearTimeout: clear,
      clearInterval: clear,
      clearImmediate: clear,
      Date: class extends real.Date {
        constructor(time: number | string | Date = clock.now) {
          super(time)
        }
        static override now(): number {
          return clock.now
        }
      },
    })
    Object.defineProperty(performance, 'now', { value: () => clock.now, configurable: true })
    Math.random = () => this.#random.next()
    this.#restore = () => {
      Object.assign(globalThis, real)
      Reflect.deleteProperty(performance, 'now')
      Math.random = random
    }
  }

  /** Gives it back. */
  uninstall(): void {
    this.#restore?.()
    this.#restore = undefined
  }
}

function before(a: Entry, b: Entry): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order)
}
