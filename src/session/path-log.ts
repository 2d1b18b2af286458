/**
 * What a session tells of its paths: how each is doing now, and what has happened to them, for a report to people.
 */
import type { PathKind } from '../path/index.ts'
import type { PathStage, PathState } from './paths.ts'

/** Events remembered: a session's opening and its last few changes. */
const MAX_EVENTS = 32

/** One path of a session, as it is now. */
export interface PathInfo {
  readonly kind: PathKind
  /** Where the other end is, for people. */
  readonly remote: string
  readonly stage: PathStage
  /** `stage` is `proven`. */
  readonly proven: boolean
  /** True for the one that carries the data. */
  readonly active: boolean
  /** Last measured round trip, ms. */
  readonly rttMs?: number
  /** Bytes of records sent on it that were to arrive in order. */
  readonly sentBytes: number
  /** What it last delivered while more was waiting; absent when that was never so. */
  readonly deliveredBytesPerSecond?: number
  /** When it was attached, ms after the session began. */
  readonly since: number
}

/** Something that happened to a path. */
export interface PathEvent {
  /** ms after the session began. */
  readonly atMs: number
  readonly kind: PathKind
  readonly remote: string
  /**
   * `used`: it carries the data from then on. `trimmed`: closed, because another of its kind stays.
   * `measured`: a trial of it has ended, with the outcome in `detail`.
   */
  readonly what: 'attached' | 'proven' | 'used' | 'lost' | 'trimmed' | 'measured'
  /** For people: why it was lost, what was measured. */
  readonly detail?: string
}

export class PathLog {
  readonly #began: number = performance.now()
  readonly #events: PathEvent[] = []

  get events(): readonly PathEvent[] {
    return [...this.#events]
  }

  add({ path }: PathState, what: PathEvent['what'], detail?: string): void {
    if (this.#events.length === MAX_EVENTS) this.#events.shift()
    this.#events.push({
      atMs: Math.round(performance.now() - this.#began),
      kind: path.kind,
      remote: path.remote,
      what,
      ...(detail === undefined ? {} : { detail }),
    })
  }

  /** A path as plain data. */
  info(state: PathState, active: boolean): PathInfo {
    const { rttMs, rate } = state
    return {
      kind: state.path.kind,
      remote: state.path.remote,
      stage: state.stage,
      proven: state.stage === 'proven',
      active,
      ...(rttMs === undefined ? {} : { rttMs }),
      sentBytes: state.sentBytes,
      ...(rate === undefined ? {} : { deliveredBytesPerSecond: Math.round(rate * 1_000) }),
      since: Math.round(state.since - this.#began),
    }
  }
}

/** A rate for people: `12.3 MB/s`. */
export function formatRate(bytesPerMs: number | undefined): string {
  return bytesPerMs === undefined ? 'nothing' : `${(bytesPerMs / 1_000).toFixed(bytesPerMs < 10_000 ? 2 : 0)} MB/s`
}
