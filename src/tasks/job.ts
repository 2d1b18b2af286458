/**
 * A task in the queue: what was said about it, what has become of it, and the handle that its owner holds.
 *
 *     queued --> running --> done
 *       |  ^       | \----> failed       no attempt is left, or another would not help: it is a dead letter now
 *       |  |       v
 *       |  +--- waiting                  for its next attempt
 *       +------ any of them --> cancelled        by its owner, its signal, or the end of the queue
 *     unknown                            from the beginning
 *
 * It is settled once. The result is a value and never rejects, so nobody has to look at it.
 */
import { randomBytes } from 'node:crypto'
import { toHex } from '../bytes/index.ts'
import type { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { whenAborted } from '../pause.ts'
import type { Run } from './run.ts'
import type { KnownTask, Task } from './task.ts'

/** Who wants it done: this side, or an authority, whose order was verified. */
export type TaskOrigin = 'local' | PeerId

export type TaskState = 'queued' | 'running' | 'waiting' | TaskResult['status']

/** What became of a task. `attempts`: how often it was begun. */
export type TaskResult =
  | { readonly status: 'done'; readonly value: unknown; readonly attempts: number }
  | { readonly status: 'failed'; readonly error: PeerlineError; readonly attempts: number }
  /** The error is `ERR_PEERLINE_ABORTED` or that of its signal; `ERR_PEERLINE_CLOSED` when the queue was closed. */
  | { readonly status: 'cancelled'; readonly error: PeerlineError; readonly attempts: number }
  | { readonly status: 'unknown'; readonly name: string; readonly attempts: 0 }

/** What the owner of a task holds. */
export interface TaskHandle {
  /** 32 random hexadecimal digits: no other task has it, of any process. */
  readonly id: string
  /** As it was checked: frozen, in memory of its own. */
  readonly task: Task
  readonly origin: TaskOrigin
  readonly state: TaskState
  /** How often it was begun. */
  readonly attempts: number
  /** Never rejects. */
  readonly result: Promise<TaskResult>
  /** It is not begun any more, or its signal fires; false when it is settled already. */
  cancel(): boolean
}

/** How a task is tried. */
export interface TaskTerms {
  readonly origin: TaskOrigin
  /** Attempts at most. */
  readonly attempts: number
  /** ms of the longest wait before the second attempt; it doubles before each further one. */
  readonly retryMs: number
  /** ms for each attempt. */
  readonly timeoutMs: number
}

export class Job<T extends Task = KnownTask> {
  readonly id = toHex(new Uint8Array(randomBytes(16)))
  readonly task: T
  readonly terms: TaskTerms
  readonly handle: TaskHandle
  attempts = 0
  /** The attempt that runs. */
  run: Run | undefined
  /** Until the next attempt. */
  timer: ReturnType<typeof setTimeout> | undefined
  #result: TaskResult | undefined
  #settle!: (result: TaskResult) => void
  #unlisten = () => {}

  constructor(task: T, terms: TaskTerms, cancel: () => boolean) {
    this.task = task
    this.terms = terms
    const result = new Promise<TaskResult>((resolve) => {
      this.#settle = resolve
    })
    const { id } = this
    const state = () => this.state
    const attempts = () => this.attempts
    this.handle = Object.freeze({
      id,
      task,
      origin: terms.origin,
      get state() {
        return state()
      },
      get attempts() {
        return attempts()
      },
      result,
      cancel,
    })
  }

  get state(): TaskState {
    if (this.#result !== undefined) return this.#result.status
    if (this.run !== undefined) return 'running'
    return this.timer === undefined ? 'queued' : 'waiting'
  }

  get isSettled(): boolean {
    return this.#result !== undefined
  }

  /** Calls `then` when the signal fires, unless the task is settled by then. */
  listen(signal: AbortSignal, then: () => void): void {
    whenAborted(signal, then)
    this.#unlisten = () => signal.removeEventListener('abort', then)
  }

  /** False when it was settled before. Nothing of it is left behind but an attempt that may still run. */
  settle(result: TaskResult): boolean {
    if (this.#result !== undefined) return false
    this.#result = Object.freeze(result)
    clearTimeout(this.timer)
    this.#unlisten()
    this.#settle(result)
    return true
  }
}
