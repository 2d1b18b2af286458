/**
 * What the parts of a simulation share.
 */
import type { Coverage } from './coverage.ts'
import type { Schedule } from './schedule.ts'
import type { VirtualClock } from './virtual-clock.ts'

export interface World {
  readonly schedule: Schedule
  readonly clock: VirtualClock
  readonly coverage: Coverage
  /** Something is not as it must be. */
  complain(what: string): void
  /** Something has happened; `text` is asked for only when it is kept. */
  note(what: string, a: number, b: number, text: () => string): void
  /** Something has changed the course of things: what must come of it, must come from now on. */
  touch(): void
}
