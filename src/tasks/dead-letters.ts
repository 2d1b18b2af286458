/** The tasks that failed for good, kept for whoever looks through them: a bounded number, of which the oldest goes. */
import type { PeerlineError } from '../errors.ts'
import type { TaskOrigin, TaskTerms } from './job.ts'
import type { KnownTask } from './task.ts'

/** A task that failed for good. */
export interface DeadLetter {
  /** Of the task. */
  readonly id: string
  readonly task: KnownTask
  readonly origin: TaskOrigin
  /** Why the last attempt failed. */
  readonly error: PeerlineError
  readonly attempts: number
  /** ms since 1970. */
  readonly at: number
}

/** A dead letter, and how it was tried. */
interface Kept {
  readonly letter: DeadLetter
  readonly terms: TaskTerms
}

export class DeadLetters {
  readonly #max: number
  // in the order in which they came
  readonly #kept = new Map<string, Kept>()
  #dropped = 0

  constructor(max: number) {
    this.#max = max
  }

  /** The oldest first. */
  get all(): readonly DeadLetter[] {
    return [...this.#kept.values()].map(({ letter }) => letter)
  }

  /** Those that made room for later ones. */
  get dropped(): number {
    return this.#dropped
  }

  add(letter: DeadLetter, terms: TaskTerms): void {
    this.#kept.set(letter.id, { letter: Object.freeze(letter), terms })
    if (this.#kept.size <= this.#max) return
    for (const oldest of this.#kept.keys()) {
      this.#kept.delete(oldest)
      this.#dropped++
      return
    }
  }

  get(id: string): Kept | undefined {
    return this.#kept.get(id)
  }

  delete(id: string): boolean {
    return this.#kept.delete(id)
  }
}
