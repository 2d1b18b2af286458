/**
 * The queue of tasks: bounded, in order for each peer, tried again when that may help, and never lost without a word.
 *
 *     add --> queued --> an attempt ---> done
 *                ^        |        \---> dead letter      no attempt is left, or the failure is no passing one
 *                +- wait -+
 *
 * - A task is settled exactly once, and its result never rejects.
 * - Tasks of a peer run one after another, others beside them; see `lanes.ts` for what goes first.
 * - An attempt has a deadline, and is held to run until its executor has ended, or 5 s after its signal fired.
 * - A kind that is not known is reported and settled at once: it takes no room and stops nothing.
 * - A task of an authority is executed like one of this side: whoever adds it has verified the order, and that the
 *   authority may give it.
 * - `attempts` are attempts: what an executor sends twice it sends with the same key, made of the id of the task.
 *
 * Limits: 1,000 tasks, half of them for authorities; 4 at a time; 100 dead letters, of which the oldest goes.
 */
import { abortError, PASSING, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { parsePeerId } from '../identity/index.ts'
import { type DeadLetter, DeadLetters } from './dead-letters.ts'
import { Job, type TaskHandle, type TaskOrigin, type TaskResult, type TaskTerms } from './job.ts'
import { Lanes } from './lanes.ts'
import { after, checkWhole, MAX_TIMER_MS, type Outcome, Run } from './run.ts'
import { checkTask, type KnownTask, type Task, type TaskKind, type TaskOf, type UnknownTask } from './task.ts'

/** Tasks that wait or run. At 64 KiB each 64 MB, and as many as a peer does in minutes. */
const DEFAULT_CAPACITY = 1_000
const MAX_CAPACITY = 100_000
/** Attempts at a time: they wait for the network, and each may dial. */
const DEFAULT_CONCURRENCY = 4
const MAX_CONCURRENCY = 1_000
/** Dead letters kept: what somebody looks through. */
const DEFAULT_DEAD_LETTERS = 100
const MAX_DEAD_LETTERS = 10_000
/** Attempts: with the waits between them, 3 outlast a change of networks. */
const DEFAULT_ATTEMPTS = 3
const MAX_ATTEMPTS = 100
/** ms of the longest first wait: a peer that was only cut off is back. */
const DEFAULT_RETRY_MS = 1_000
/** ms of the shortest wait: what refuses at once must not be asked in a busy loop. */
const MIN_WAIT_MS = 100
/** ms of the longest wait: more would keep what is behind it from ever being tried. */
const MAX_WAIT_MS = 60_000
/** ms for an attempt: dialling by every way takes 10 to 15 s, and the request has 10 s. */
const DEFAULT_TIMEOUT_MS = 30_000

/** Whether a failure may pass: the other side, or the network, may be there again, or this side below its limit. */
function mayPass({ code }: PeerlineError): boolean {
  return PASSING.has(code) || code === 'ERR_PEERLINE_LIMIT'
}

/** What an executor is told beside the task. */
export interface TaskContext {
  /** Fires at the deadline of the attempt, and when the task is cancelled. */
  readonly signal: AbortSignal
  readonly origin: TaskOrigin
  /** Of the task, the same for each attempt. */
  readonly id: string
  /** 1 for the first. */
  readonly attempt: number
}

/** Does the tasks: one function for each kind. Without one for it, a task fails with `ERR_PEERLINE_UNSUPPORTED`. */
export type Executor = {
  readonly [K in TaskKind]?: (task: TaskOf<K>, context: TaskContext) => unknown
}

export interface TaskQueueOptions {
  readonly execute: Executor
  /** Tasks that wait or run, 1 to 100,000; at most half of them are of authorities. @default 1_000 */
  readonly capacity?: number
  /** Attempts at a time, 1 to 1,000. @default 4 */
  readonly concurrency?: number
  /** Dead letters kept, 1 to 10,000. @default 100 */
  readonly maxDeadLetters?: number
  /** From 0 up to 1. @default Math.random */
  readonly random?: () => number
}

export interface AddTaskOptions {
  /** Who wants it done. @default 'local' */
  readonly origin?: TaskOrigin
  /** Attempts at most, 1 to 100. @default 3 */
  readonly attempts?: number
  /** ms of the longest wait before the second attempt, 1 to 60,000; twice that before the third, and so on. @default 1_000 */
  readonly retryMs?: number
  /** ms for each attempt. @default 30_000 */
  readonly timeoutMs?: number
  /** Cancels the task. */
  readonly signal?: AbortSignal
}

interface About<T extends Task = KnownTask> {
  readonly id: string
  readonly task: T
  readonly origin: TaskOrigin
}

/** Of each task: queued, then started and failed by turns, then one of done, dead and cancelled; or unknown alone. */
export type TaskEvents = {
  queued: About
  started: About & { readonly attempt: number }
  /** An attempt failed; the next comes in `retryInMs`. */
  failed: About & { readonly attempt: number; readonly error: PeerlineError; readonly retryInMs: number }
  done: About & { readonly value: unknown; readonly attempts: number }
  dead: About & { readonly error: PeerlineError; readonly attempts: number }
  cancelled: About & { readonly error: PeerlineError }
  unknown: About<UnknownTask>
}

export class TaskQueue extends TypedEventTarget<TaskEvents> {
  readonly #execute: Executor
  readonly #capacity: number
  readonly #concurrency: number
  readonly #random: () => number
  readonly #jobs = new Map<string, Job>()
  readonly #lanes = new Lanes()
  /** Attempts that run, also those of tasks that were cancelled. */
  readonly #runs = new Set<Run>()
  readonly #dead: DeadLetters
  /** Tasks of authorities among the jobs. */
  #ordered = 0
  #isLooking = false
  #isClosed = false

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` */
  constructor(options: TaskQueueOptions) {
    super()
    this.#execute = options.execute
    this.#capacity = checkWhole(options.capacity ?? DEFAULT_CAPACITY, 'capacity', 1, MAX_CAPACITY)
    this.#concurrency = checkWhole(options.concurrency ?? DEFAULT_CONCURRENCY, 'concurrency', 1, MAX_CONCURRENCY)
    const letters = checkWhole(options.maxDeadLetters ?? DEFAULT_DEAD_LETTERS, 'maxDeadLetters', 1, MAX_DEAD_LETTERS)
    this.#dead = new DeadLetters(letters)
    this.#random = options.random ?? Math.random
  }

  /** Tasks that wait or run. */
  get size(): number {
    return this.#jobs.size
  }

  /** The tasks that wait or run, in the order in which they came. */
  list(): readonly TaskHandle[] {
    return [...this.#jobs.values()].map(({ handle }) => handle)
  }

  /** What failed for good, the oldest first. */
  get deadLetters(): readonly DeadLetter[] {
    return this.#dead.all
  }

  /** Dead letters that made room for later ones. */
  get deadLettersDropped(): number {
    return this.#dead.dropped
  }

  /**
   * Queues a copy of a task; it begins once the caller has its handle.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_LIMIT` when the queue is full, `ERR_PEERLINE_BUSY` when it
   * is for authorities; `ERR_PEERLINE_CLOSED`; `ERR_PEERLINE_ABORTED` when the signal has fired
   */
  add(task: Task, options: AddTaskOptions = {}): TaskHandle {
    const { origin = 'local', signal } = options
    const terms: TaskTerms = {
      origin: origin === 'local' ? origin : parsePeerId(origin),
      attempts: checkWhole(options.attempts ?? DEFAULT_ATTEMPTS, 'attempts', 1, MAX_ATTEMPTS),
      retryMs: checkWhole(options.retryMs ?? DEFAULT_RETRY_MS, 'retryMs', 1, MAX_WAIT_MS),
      timeoutMs: checkWhole(options.timeoutMs ?? DEFAULT_TIMEOUT_MS, 'timeoutMs', 1, MAX_TIMER_MS),
    }
    const checked = checkTask(task)
    this.#checkOpen()
    if (signal?.aborted) throw abortError(signal, `task ${checked.kind}`)
    if (checked.kind === 'unknown') return this.#report(checked, terms)
    const job = this.#enter(checked, terms)
    if (signal !== undefined) job.listen(signal, () => this.#cancel(job, abortError(signal, nameOf(job))))
    this.emit('queued', about(job))
    return job.handle
  }

  /**
   * Queues a dead letter anew, with as many attempts as it had, as a task with another id.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when there is no such letter; as {@link add} does, and it stays then
   */
  retry(id: string): TaskHandle {
    const dead = this.#dead.get(id)
    if (dead === undefined) throw new PeerlineError('ERR_PEERLINE_INVALID', `there is no dead letter ${id}`)
    this.#checkOpen()
    const job = this.#enter(dead.letter.task, dead.terms)
    this.#dead.delete(id)
    this.emit('queued', about(job))
    return job.handle
  }

  /** Drops a dead letter. False when there is none with this id. */
  forget(id: string): boolean {
    return this.#dead.delete(id)
  }

  /** Ends everything: what waits or runs is cancelled with `ERR_PEERLINE_CLOSED`, and no timer stays. */
  close(): void {
    this.#isClosed = true
    const error = new PeerlineError('ERR_PEERLINE_CLOSED', 'the queue of tasks was closed')
    for (const run of this.#runs) run.drop(error)
    this.#runs.clear()
    for (const job of [...this.#jobs.values()]) this.#cancel(job, error)
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'the queue of tasks is closed')
  }

  #report(task: UnknownTask, terms: TaskTerms): TaskHandle {
    const job = new Job(task, terms, () => false)
    job.settle({ status: 'unknown', name: task.name, attempts: 0 })
    this.emit('unknown', { id: job.id, task, origin: terms.origin })
    return job.handle
  }

  #enter(task: KnownTask, terms: TaskTerms): Job {
    const isOrder = terms.origin !== 'local'
    // an authority must not be able to keep this side's own tasks out
    if (isOrder && (this.#ordered >= Math.ceil(this.#capacity / 2) || this.#jobs.size >= this.#capacity)) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', 'no more tasks of authorities are taken now')
    }
    if (this.#jobs.size >= this.#capacity) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `${this.#capacity} tasks wait or run: the capacity of the queue`)
    }
    const job: Job = new Job(task, terms, () =>
      this.#cancel(job, new PeerlineError('ERR_PEERLINE_ABORTED', `${nameOf(job)} was cancelled`)),
    )
    this.#jobs.set(job.id, job)
    if (isOrder) this.#ordered++
    this.#lanes.add(job)
    this.#look()
    return job
  }

  /** Begins what can begin, once this turn is over: nobody is called back before they have their handle. */
  #look(): void {
    if (this.#isLooking) return
    this.#isLooking = true
    queueMicrotask(() => {
      this.#isLooking = false
      while (this.#runs.size < this.#concurrency) {
        const job = this.#lanes.take()
        if (job === undefined) return
        this.#begin(job)
      }
    })
  }

  #begin(job: Job): void {
    const { task, terms, id } = job
    const attempt = ++job.attempts
    const run = new Run({
      what: nameOf(job),
      timeoutMs: terms.timeoutMs,
      work: (signal) => {
        this.emit('started', { ...about(job), attempt })
        signal.throwIfAborted() // who listens may have cancelled it
        return this.#perform(task, { signal, origin: terms.origin, id, attempt })
      },
      onEnd: (outcome) => {
        this.#runs.delete(run)
        job.run = undefined
        this.#conclude(job, outcome)
        this.#lanes.free(job)
        this.#look()
      },
    })
    job.run = run
    this.#runs.add(run)
    run.begin()
  }

  #perform(task: KnownTask, context: TaskContext): unknown {
    const execute = this.#execute[task.kind] as ((task: KnownTask, context: TaskContext) => unknown) | undefined
    if (typeof execute === 'function') return execute.call(this.#execute, task, context)
    const recover = 'Give the queue an executor for this kind of task.'
    throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', `nothing here does a task ${task.kind}`, { recover })
  }

  #conclude(job: Job, outcome: Outcome): void {
    if (job.isSettled) return
    const { attempts, terms } = job
    if (outcome.ok) {
      const { value } = outcome
      if (this.#settle(job, { status: 'done', value, attempts })) this.emit('done', { ...about(job), value, attempts })
      return
    }
    const { error } = outcome
    if (mayPass(error) && attempts < terms.attempts) return this.#wait(job, error)
    if (!this.#settle(job, { status: 'failed', error, attempts })) return
    this.#dead.add({ ...about(job), error, attempts, at: Date.now() }, terms)
    this.emit('dead', { ...about(job), error, attempts })
  }

  #wait(job: Job, error: PeerlineError): void {
    const { attempts, terms } = job
    const longest = Math.min(terms.retryMs * 2 ** (attempts - 1), MAX_WAIT_MS)
    const least = Math.min(MIN_WAIT_MS, longest)
    // drawn from the whole span: tasks that failed together do not come back together
    const retryInMs = Math.round(least + this.#random() * (longest - least))
    job.timer = after(retryInMs, () => {
      job.timer = undefined
      this.#lanes.review(job)
      this.#look()
    })
    this.emit('failed', { ...about(job), attempt: attempts, error, retryInMs })
  }

  #cancel(job: Job, error: PeerlineError): boolean {
    if (!this.#settle(job, { status: 'cancelled', error, attempts: job.attempts })) return false
    job.run?.abort(error)
    this.#look()
    this.emit('cancelled', { ...about(job), error })
    return true
  }

  #settle(job: Job, result: TaskResult): boolean {
    if (!job.settle(result)) return false
    this.#jobs.delete(job.id)
    if (job.terms.origin !== 'local') this.#ordered--
    this.#lanes.remove(job)
    return true
  }
}

function about({ id, task, terms: { origin } }: Job): About {
  return { id, task, origin }
}

function nameOf({ task }: Job): string {
  return `task ${task.kind}`
}
