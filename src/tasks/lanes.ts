/**
 * Which task is next.
 *
 *     peer A   [block] | [send, send, ping]        one lane for each peer: one of its tasks at a time, in order
 *     peer B           | [ping]                    lanes take turns, those with a pressing task first
 *
 * What says who may do what is pressing, and goes before what only talks: a block must not wait behind a hundred messages
 * to the peer it shuts out. Each of the two keeps its order. A task that waits for its next attempt holds up those behind it.
 * What names no peer has a lane by its prefix, or its kind.
 */
import type { Job } from './job.ts'
import type { KnownTask, TaskKind } from './task.ts'

const PRESSING: ReadonlySet<TaskKind> = new Set(['block', 'unblock', 'authorise', 'revoke', 'disconnect'] as const)

interface Lane {
  readonly pressing: Set<Job>
  readonly other: Set<Job>
  /** One of its tasks, or what it left behind, is running. */
  busy: boolean
}

export class Lanes {
  readonly #lanes = new Map<string, Lane>()
  /** Lanes whose first task may begin, in the order of their turns. */
  readonly #ready = new Set<Lane>()
  /** Those of them whose first task is pressing. */
  readonly #pressing = new Set<Lane>()

  /** Lanes with a task in them, or one that runs. */
  get size(): number {
    return this.#lanes.size
  }

  add(job: Job): void {
    const name = laneOf(job.task)
    let lane = this.#lanes.get(name)
    if (lane === undefined) {
      lane = { pressing: new Set(), other: new Set(), busy: false }
      this.#lanes.set(name, lane)
    }
    queueOf(lane, job).add(job)
    this.#review(name, lane)
  }

  /** It is settled. */
  remove(job: Job): void {
    this.#change(job, (lane) => queueOf(lane, job).delete(job))
  }

  /** The task that is next; its lane is busy from now on. */
  take(): Job | undefined {
    const lane = first(this.#pressing) ?? first(this.#ready)
    if (lane === undefined) return undefined
    this.#pressing.delete(lane)
    this.#ready.delete(lane)
    lane.busy = true
    return head(lane)
  }

  /** What {@link take} gave runs no more. */
  free(job: Job): void {
    this.#change(job, (lane) => {
      lane.busy = false
    })
  }

  /** It waits, or does so no more. */
  review(job: Job): void {
    this.#change(job, () => {})
  }

  #change(job: Job, change: (lane: Lane) => void): void {
    const name = laneOf(job.task)
    const lane = this.#lanes.get(name)
    if (lane === undefined) return
    change(lane)
    this.#review(name, lane)
  }

  /** Puts the lane where it belongs. One that stays there keeps its turn. */
  #review(name: string, lane: Lane): void {
    const next = head(lane)
    const ready = next !== undefined && !lane.busy && next.state === 'queued'
    if (ready) this.#ready.add(lane)
    else this.#ready.delete(lane)
    if (ready && lane.pressing.has(next)) this.#pressing.add(lane)
    else this.#pressing.delete(lane)
    if (next === undefined && !lane.busy) this.#lanes.delete(name)
  }
}

function laneOf(task: KnownTask): string {
  if (task.kind === 'update-settings') return task.kind
  return task.peer ?? task.addresses
}

function queueOf(lane: Lane, { task: { kind } }: Job): Set<Job> {
  return PRESSING.has(kind) ? lane.pressing : lane.other
}

function head(lane: Lane): Job | undefined {
  return first(lane.pressing) ?? first(lane.other)
}

function first<T>(set: ReadonlySet<T>): T | undefined {
  for (const one of set) return one
  return undefined
}
