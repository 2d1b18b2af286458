/**
 * Routines: named jobs that run again and again.
 *
 *     add --> stopped -- start --> waiting -- due --> running -- ends --> waiting
 *                ^                    |                  |
 *                +------- stop -------+------------------+     the signal of a run that goes on fires
 *
 * - Adding one does not start it.
 * - An interval is from one due time to the next, drawn anew each time within its jitter. What was missed while the machine
 *   slept is not made up for.
 * - A routine never runs twice at once. What is due while it runs is skipped, waits (one at most), or has the run that goes
 *   on called off first; see {@link OverlapPolicy}.
 * - A run that fails is recorded and told, and the routine goes on. One that ignores its signal is given up after 5 s.
 * - No timer keeps the process alive, and none stays after `close`.
 *
 * Limits: 256 routines; intervals from 10 ms to a week.
 */
import { invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { after, checkWhole, MAX_TIMER_MS, type Outcome, Run } from './run.ts'

/** Routines: a program names them one by one. */
const MAX_ROUTINES = 256
/** ms of the shortest interval: a routine is no busy loop. */
const MIN_INTERVAL_MS = 10
/** ms of the longest interval, a week: with the largest jitter it is twice that, and a timer can still hold it. */
const MAX_INTERVAL_MS = 7 * 24 * 3_600_000
/** ms for a run: longer than anything on the network takes; without a deadline one that hangs would be the last. */
const DEFAULT_TIMEOUT_MS = 60_000
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

/**
 * What becomes of a run that is due while the last one goes on. `skip`: nothing. `queue`: it begins when that has ended; one
 * waits, others are skipped. `abort`: the same, and the signal of the one that goes on fires.
 */
export type OverlapPolicy = 'skip' | 'queue' | 'abort'

export interface RoutineOptions {
  /** 1 to 64 letters, digits, `.`, `_` and `-`. */
  readonly name: string
  /** What it does. The signal fires when it is stopped or called off, and at its deadline. */
  readonly run: (context: { readonly signal: AbortSignal }) => unknown
  /** ms from one run to the next, 10 to 604,800,000 (a week). */
  readonly intervalMs: number
  /** How much longer or shorter an interval may be, from 0 to 1 times itself. @default 0 */
  readonly jitter?: number
  /** @default 'skip' */
  readonly overlap?: OverlapPolicy
  /** ms for a run. @default 60_000 */
  readonly timeoutMs?: number
  /** Starts it, with a first run at once. @default false */
  readonly startNow?: boolean
}

/** How a run ended. `startedAt`: ms since 1970. `ms`: how long it took. */
export type RoutineResult = { readonly startedAt: number; readonly ms: number } & (
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: PeerlineError }
)

/** `stopping`: stopped, and its last run has not ended. */
export type RoutineState = 'stopped' | 'waiting' | 'running' | 'stopping'

/** A routine at one moment. */
export interface RoutineStatus {
  readonly name: string
  readonly state: RoutineState
  readonly intervalMs: number
  readonly jitter: number
  readonly overlap: OverlapPolicy
  readonly timeoutMs: number
  /** Runs that ended. */
  readonly runs: number
  /** Of these, those that failed, came to their deadline or were called off by the next; not those that `stop` ended. */
  readonly failures: number
  /** Runs that were due and never began. */
  readonly skipped: number
  /** How the latest run ended. */
  readonly last?: RoutineResult
  /** When the next is due, ms since 1970; unless it is stopped. */
  readonly dueAt?: number
}

export type RoutineEvents = {
  started: { readonly name: string }
  stopped: { readonly name: string }
  /** A run ended well. */
  done: { readonly name: string; readonly result: RoutineResult & { readonly ok: true } }
  /** A run did not. */
  failed: { readonly name: string; readonly result: RoutineResult & { readonly ok: false } }
  /** A run was due while the last one went on. */
  skipped: { readonly name: string }
}

interface Routine {
  readonly name: string
  readonly work: RoutineOptions['run']
  readonly jitter: number
  readonly overlap: OverlapPolicy
  readonly timeoutMs: number
  intervalMs: number
  /** Until it is due; undefined when stopped. */
  timer: ReturnType<typeof setTimeout> | undefined
  /** When the timer was set; ms of the monotonic clock, and since 1970. */
  setAt: number
  dueAt: number
  /** The run that goes on. */
  run: Run | undefined
  /** `stop` ended the run: whatever the policy, the next begins when it has ended. */
  isStopped: boolean
  /** A run begins when the one that goes on has ended. */
  isNext: boolean
  runs: number
  failures: number
  skipped: number
  last: RoutineResult | undefined
}

export class Routines extends TypedEventTarget<RoutineEvents> {
  readonly #routines = new Map<string, Routine>()
  readonly #random: () => number
  #isClosed = false

  /** @param options `random`: from 0 up to 1. @default Math.random */
  constructor(options: { random?: () => number } = {}) {
    super()
    this.#random = options.random ?? Math.random
  }

  /**
   * Adds a routine; it is not started, unless `startNow` says so.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, also when the name is taken; `ERR_PEERLINE_LIMIT`; `ERR_PEERLINE_CLOSED`
   */
  add(options: RoutineOptions): void {
    const { name, run, intervalMs, jitter = 0, overlap = 'skip', timeoutMs = DEFAULT_TIMEOUT_MS } = options
    this.#checkOpen()
    if (typeof name !== 'string' || !NAME.test(name)) {
      throw invalid(
        'a routine is named by 1 to 64 letters, digits, ".", "_" and "-", and begins with one of the former two',
      )
    }
    if (this.#routines.has(name)) throw invalid(`there is a routine ${name}: remove it first`)
    if (typeof run !== 'function') throw invalid('run of a routine is a function')
    if (!(jitter >= 0 && jitter <= 1)) throw invalid(`jitter ${jitter} is not from 0 to 1`)
    if (!['skip', 'queue', 'abort'].includes(overlap)) throw invalid('overlap is not skip, queue or abort')
    checkWhole(timeoutMs, 'timeoutMs', 1, MAX_TIMER_MS)
    checkInterval(intervalMs)
    if (this.#routines.size >= MAX_ROUTINES) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are ${MAX_ROUTINES} routines`)
    }
    this.#routines.set(name, {
      name,
      work: run,
      jitter,
      overlap,
      timeoutMs,
      intervalMs,
      timer: undefined,
      setAt: 0,
      dueAt: 0,
      run: undefined,
      isStopped: false,
      isNext: false,
      runs: 0,
      failures: 0,
      skipped: 0,
      last: undefined,
    })
    if (options.startNow === true) this.start(name, { now: true })
  }

  /** Stops a routine and forgets it. False when there is none of this name. */
  remove(name: string): boolean {
    const routine = this.#routines.get(name)
    if (routine === undefined) return false
    this.#routines.delete(name)
    end(routine, new PeerlineError('ERR_PEERLINE_ABORTED', `routine ${name} was removed`))
    return true
  }

  /**
   * Starts a routine. Its first run is an interval away, or with `now` begins before this returns. One that is started stays as it is.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when there is none of this name; `ERR_PEERLINE_CLOSED`
   */
  start(name: string, options: { now?: boolean } = {}): void {
    this.#checkOpen()
    const routine = this.#get(name)
    if (routine.timer !== undefined) return
    this.#await(routine, this.#draw(routine))
    this.emit('started', { name })
    // who listens may have stopped it
    if (options.now === true && routine.timer !== undefined) this.#onDue(routine)
  }

  /**
   * Stops a routine: the signal of a run that goes on fires, and no other begins. One that is stopped stays as it is.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when there is none of this name
   */
  stop(name: string): void {
    const routine = this.#get(name)
    if (routine.timer === undefined) return
    halt(routine)
    routine.isStopped = routine.run !== undefined
    routine.run?.abort(new PeerlineError('ERR_PEERLINE_ABORTED', `routine ${name} was stopped`))
    this.emit('stopped', { name })
  }

  /**
   * Sets the interval, ms, of a routine. The one that is under way changes too: its run may be due at once.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  setInterval(name: string, intervalMs: number): void {
    const routine = this.#get(name)
    routine.intervalMs = checkInterval(intervalMs)
    if (routine.timer === undefined) return
    // from when it was set: changes without end must not keep it from ever being due
    const since = performance.now() - routine.setAt
    this.#await(routine, Math.max(0, this.#draw(routine) - since))
    routine.setAt -= since
  }

  /** The routine of this name, as it is now. */
  get(name: string): RoutineStatus | undefined {
    const routine = this.#routines.get(name)
    return routine === undefined ? undefined : statusOf(routine)
  }

  /** All of them as they are now, in the order in which they were added. */
  list(): readonly RoutineStatus[] {
    return [...this.#routines.values()].map(statusOf)
  }

  /** Ends everything: the signals of all runs fire, nobody is told of their ends, and no timer stays. */
  close(): void {
    this.#isClosed = true
    const error = new PeerlineError('ERR_PEERLINE_CLOSED', 'the routines were closed')
    for (const routine of this.#routines.values()) end(routine, error)
    this.#routines.clear()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'the routines are closed')
  }

  #get(name: string): Routine {
    const routine = this.#routines.get(name)
    if (routine === undefined) throw invalid('there is no routine of this name')
    return routine
  }

  #draw({ intervalMs, jitter }: Routine): number {
    const drawn = intervalMs * (1 + jitter * (2 * this.#random() - 1))
    return Math.max(MIN_INTERVAL_MS, Math.round(drawn))
  }

  #await(routine: Routine, ms: number): void {
    clearTimeout(routine.timer)
    routine.setAt = performance.now()
    routine.dueAt = Math.round(Date.now() + ms)
    routine.timer = after(ms, () => {
      this.#await(routine, this.#draw(routine))
      this.#onDue(routine)
    })
  }

  #onDue(routine: Routine): void {
    const { name, overlap, run } = routine
    if (run === undefined) return this.#begin(routine)
    if (routine.isNext || (overlap === 'skip' && !routine.isStopped)) {
      routine.skipped++
      this.emit('skipped', { name })
      return
    }
    routine.isNext = true
    if (overlap === 'abort') run.abort(new PeerlineError('ERR_PEERLINE_ABORTED', `routine ${name} is due again`))
  }

  #begin(routine: Routine): void {
    const { name, work, timeoutMs } = routine
    const startedAt = Date.now()
    routine.run = new Run({
      what: `routine ${name}`,
      timeoutMs,
      work: (signal) => work({ signal }),
      onEnd: (outcome) => this.#onEnd(routine, startedAt, outcome),
    })
    routine.run.begin()
  }

  #onEnd(routine: Routine, startedAt: number, outcome: Outcome): void {
    const { name } = routine
    routine.runs++
    if (!outcome.ok && !routine.isStopped) routine.failures++
    routine.run = undefined
    routine.isStopped = false
    const result = Object.freeze({ startedAt, ...outcome })
    routine.last = result
    if (result.ok) this.emit('done', { name, result })
    else this.emit('failed', { name, result })
    // who listens may have stopped it
    if (!routine.isNext) return
    routine.isNext = false
    this.#begin(routine)
  }
}

function halt(routine: Routine): void {
  clearTimeout(routine.timer)
  routine.timer = undefined
  routine.isNext = false
}

function end(routine: Routine, error: PeerlineError): void {
  halt(routine)
  routine.run?.drop(error)
}

function statusOf(routine: Routine): RoutineStatus {
  const { name, intervalMs, jitter, overlap, timeoutMs, runs, failures, skipped, last, dueAt } = routine
  return {
    name,
    state: stateOf(routine),
    intervalMs,
    jitter,
    overlap,
    timeoutMs,
    runs,
    failures,
    skipped,
    ...(last === undefined ? {} : { last }),
    ...(routine.timer === undefined ? {} : { dueAt }),
  }
}

function stateOf({ timer, run }: Routine): RoutineState {
  if (timer === undefined) return run === undefined ? 'stopped' : 'stopping'
  return run === undefined ? 'waiting' : 'running'
}

function checkInterval(ms: number): number {
  return checkWhole(ms, 'intervalMs', MIN_INTERVAL_MS, MAX_INTERVAL_MS)
}
