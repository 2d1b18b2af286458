/**
 * The paths of a session, and which of them carries the data.
 *
 *     attaching --ATTACHED--> proven          (the side that opened the path)
 *     unproven  --a fresh authentic record--> proven   (the side that was attached to)
 *     any       --end, silence, forgery--> gone
 *
 * - A path that opens proves nothing: it is *proven* by an answer, or a record, that only the other side can have
 *   sealed, and that was never sent before.
 * - Proven paths come before unproven ones, then the better kind, then the older. An unproven path carries data only
 *   when there is nothing else: records may be lost with it, and are then sent again.
 * - A path with records unacknowledged, or idle for long, is pinged; one that leaves a ping unanswered is lost.
 */
import type { Path, PathKind } from '../path/index.ts'

/** Order of preference: kernel TCP costs a tenth of what any protocol over UDP does, and a relay is a detour. Lower is better. */
const RANK: Readonly<Record<PathKind, number>> = { tcp: 0, udp: 1, webrtc: 2, relay: 10 }

/** ms of silence, with records unacknowledged, after which a path is pinged: far above any round trip on Earth. */
export const IMPATIENT_MS = 1_000

/** ms of silence after which an idle path is pinged: below the 30 s after which the shortest-lived NATs forget. */
export const KEEPALIVE_MS = 20_000

/** ms that a ping may go unanswered before its path is lost. */
export const PING_TIMEOUT_MS = 4_000

/** Paths at once: a few of each kind while the best is chosen. */
export const MAX_PATHS = 8

export type PathStage = 'attaching' | 'unproven' | 'proven'

/** A path and what a session knows of it. */
export interface PathState {
  readonly path: Path
  /** Names the path within the session; see `attach.ts`. */
  readonly number: number
  stage: PathStage
  /** When anything authentic last came on it; monotonic ms. */
  heardAt: number
  /** The count of the last loose record on it: those come in order, and none twice. */
  lastLoose: number
  /** When the unanswered ping went out, monotonic ms. */
  pingedAt: number | undefined
  pingToken: Uint8Array | undefined
  /** Last measured round trip, ms. */
  rttMs: number | undefined
}

export function newPathState(path: Path, number: number, stage: PathStage): PathState {
  return {
    path,
    number,
    stage,
    heardAt: performance.now(),
    lastLoose: -1,
    pingedAt: undefined,
    pingToken: undefined,
    rttMs: undefined,
  }
}

/** True when `a` should carry the data rather than `b`. */
function better(a: PathState, b: PathState): boolean {
  const proven = Number(b.stage !== 'proven') - Number(a.stage !== 'proven')
  if (proven !== 0) return proven > 0
  const rank = RANK[a.path.kind] - RANK[b.path.kind]
  return rank !== 0 ? rank < 0 : false
}

/** The path that should carry the data: the best, and of equals the one in use or else the first. */
export function choosePath(paths: Iterable<PathState>, current: PathState | undefined): PathState | undefined {
  let best = current
  for (const path of paths) if (best === undefined || better(path, best)) best = path
  return best
}

/** What a look at a path says should be done about it. */
export type PathCare = 'nothing' | 'ping' | 'lost'

/**
 * What to do about a path at `now`.
 * @param waiting records that went on it are unacknowledged
 */
export function carePath(state: PathState, now: number, waiting: boolean): PathCare {
  if (state.pingedAt !== undefined && state.heardAt < state.pingedAt) {
    return now - state.pingedAt >= PING_TIMEOUT_MS ? 'lost' : 'nothing'
  }
  if (state.stage === 'proven' && state.rttMs === undefined) return 'ping'
  const silent = now - state.heardAt
  if (state.stage === 'attaching') return silent >= IMPATIENT_MS + PING_TIMEOUT_MS ? 'lost' : 'nothing'
  return silent >= (waiting ? IMPATIENT_MS : KEEPALIVE_MS) ? 'ping' : 'nothing'
}
