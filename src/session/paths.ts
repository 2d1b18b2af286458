/**
 * The paths of a session, and which of them carries the data: the rules, as functions.
 *
 *     attaching --ATTACHED--> proven          (the side that opened the path)
 *     unproven  --a fresh authentic record--> proven   (the side that was attached to)
 *     proven    --another of its kind stays--> retired (closed in order, by the initiator)
 *     any       --end, silence, forgery--> gone
 *
 * - A path that opens proves nothing: it is *proven* by an answer, or a record, that only the other side can have
 *   sealed, and that was never sent before.
 * - Proven paths come before unproven ones, then those that answer before those under suspicion, then direct ones, then
 *   what was measured to be faster, then the better kind, then the one in use. An unproven path carries data only when
 *   there is nothing else: records may be lost with it, and are then sent again.
 * - A path with records unacknowledged, or idle for long, is pinged; one that leaves a ping unanswered is lost.
 */
import type { Path, PathKind } from '../path/index.ts'

/** Order of preference: kernel TCP costs a tenth of what any protocol over UDP does, and a relay is a detour. Lower is better. */
const RANK: Readonly<Record<PathKind, number>> = { tcp: 0, udp: 1, webrtc: 2, relay: 10 }

/** ms of silence, with records unacknowledged, after which a path is pinged: far above any round trip on Earth. */
export const IMPATIENT_MS = 1_000

/** ms of silence after which an idle path is pinged: below the 30 s after which the shortest-lived NATs forget. */
export const KEEPALIVE_MS = 20_000

/** Bounds of {@link KEEPALIVE_MS} when set: more often is a burden, more seldom is no keeping alive. */
export const MIN_KEEPALIVE_MS = 1_000
export const MAX_KEEPALIVE_MS = 300_000

/** ms that a ping may go unanswered before its path is lost. */
export const PING_TIMEOUT_MS = 4_000

/**
 * ms that a path may take to drain after it was left with more in its buffers than it can deliver soon: 4 MB at 0.4 MB/s
 * are 10 s. One that has not answered by then is let go, and may be dialled again.
 */
export const DRAIN_TIMEOUT_MS = 20_000

/** ms for which two proven paths of one kind are both kept: both sides may have dialled, and each may be about to use its own. */
export const TRIM_GRACE_MS = 5_000

/** ms after which a path that was closed in order is cut: twice what a pipe gets for its tail. */
const RETIRE_MS = 10_000

/**
 * ms that the path in use must have been silent, and fresh records that must have come on another one meanwhile, before
 * the other side's choice is followed: the retransmission timer of TCP fires at 200 ms, and again at 600.
 */
export const FOLLOW_SILENCE_MS = 500
export const FOLLOW_RECORDS = 3

/** ms between two changes that follow the other side, so that two sides never chase each other. */
export const FOLLOW_HOLD_MS = 5_000

/** Paths at once: a few of each kind while the best is chosen. */
export const MAX_PATHS = 8

export type PathStage = 'attaching' | 'unproven' | 'proven' | 'retired'

/** A path and what a session knows of it. Times are monotonic ms. */
export interface PathState {
  readonly path: Path
  /** Names the path within the session; see `attach.ts`. */
  readonly number: number
  /** When it came. */
  readonly since: number
  stage: PathStage
  provenAt: number | undefined
  retiredAt: number | undefined
  /** When anything authentic last came on it. */
  heardAt: number
  /** The count of the last loose record on it: those come in order, and none twice. */
  lastLoose: number
  /** When the unanswered ping went out. */
  pingedAt: number | undefined
  pingToken: Uint8Array | undefined
  /** ms that this ping may go unanswered. */
  patienceMs: number
  /** When a ping was last answered. */
  answeredAt: number
  /** Last measured round trip, ms. */
  rttMs: number | undefined
  /** The shortest: with nothing in the queues. */
  minRttMs: number | undefined
  /**
   * It was left, and has not answered a ping since: `silent`, because nothing came of what went on it, so that others come
   * first; or `slow`, with a long tail in its buffers.
   */
  suspect: 'silent' | 'slow' | undefined
  suspectAt: number
  /** Bytes of ordered records sent on it. */
  sentBytes: number
  /** Those of them that were acknowledged, and had gone on no other path. */
  deliveredBytes: number
  /** Bytes of ordered records that went on it last and are not acknowledged. */
  unackedBytes: number
  /** What it last delivered while data was waiting, bytes per ms. */
  rate: number | undefined
}

export function newPathState(path: Path, number: number, stage: PathStage): PathState {
  const now = performance.now()
  return {
    path,
    number,
    since: now,
    stage,
    provenAt: stage === 'proven' ? now : undefined,
    retiredAt: undefined,
    heardAt: now,
    lastLoose: -1,
    pingedAt: undefined,
    pingToken: undefined,
    patienceMs: PING_TIMEOUT_MS,
    answeredAt: Number.NEGATIVE_INFINITY,
    rttMs: undefined,
    minRttMs: undefined,
    suspect: undefined,
    suspectAt: 0,
    sentBytes: 0,
    deliveredBytes: 0,
    unackedBytes: 0,
    rate: undefined,
  }
}

/** Notes a round trip that ended now. */
export function noteRtt(state: PathState, rttMs: number): void {
  state.rttMs = rttMs
  state.minRttMs = Math.min(rttMs, state.minRttMs ?? rttMs)
  state.answeredAt = performance.now()
}

/** True when no third party carries the data. */
export function isDirect({ path }: PathState): boolean {
  return path.kind !== 'relay'
}

/** Negative when `a` should carry the data rather than `b`; 0 when they are equals. */
function compare(a: PathState, b: PathState, preferred: PathState | undefined): number {
  const order =
    Number(b.stage === 'proven') - Number(a.stage === 'proven') ||
    Number(a.suspect === 'silent') - Number(b.suspect === 'silent') ||
    Number(isDirect(b)) - Number(isDirect(a))
  if (order !== 0 || a === b) return order
  if (preferred !== undefined && isDirect(preferred)) {
    if (a === preferred) return -1
    if (b === preferred) return 1
  }
  return RANK[a.path.kind] - RANK[b.path.kind]
}

/**
 * The path that should carry the data: the best, and of equals the one in use or else the first.
 * @param preferred what measuring, or the other side, showed to be better than its kind says
 */
export function choosePath(
  paths: Iterable<PathState>,
  current: PathState | undefined,
  preferred?: PathState,
): PathState | undefined {
  let best = current
  for (const path of paths) {
    if (path.stage === 'retired') continue
    if (best === undefined || compare(path, best, preferred) < 0) best = path
  }
  return best
}

/**
 * True when the other side's choice should be followed: nothing is heard on the path in use, while `other` brings record
 * after record. To a path of a lesser kind only when what went on the one in use waits, too; never from direct to relay.
 * @param records fresh ones that came on `other` since anything was heard on the path in use
 */
export function shouldFollow(active: PathState, other: PathState, records: number, now: number): boolean {
  if (other.stage !== 'proven' || other.suspect === 'silent' || records < FOLLOW_RECORDS) return false
  if (now - active.heardAt < Math.max(FOLLOW_SILENCE_MS, 4 * (active.minRttMs ?? 0))) return false
  if (isDirect(active) !== isDirect(other)) return false
  return RANK[other.path.kind] <= RANK[active.path.kind] || active.unackedBytes > 0
}

/** Two proven paths of a kind, of which one is too many. */
export interface Surplus {
  readonly keep: PathState
  readonly spare: PathState
}

/**
 * A path that may go, since one of its kind stays: of two that have both been proven for {@link TRIM_GRACE_MS}, the one
 * that neither side uses, or else the younger.
 * @param active what this side sends on
 * @param fresh what the other side was last heard to send on
 */
export function findSurplus(
  paths: Iterable<PathState>,
  active: PathState | undefined,
  fresh: PathState | undefined,
  now: number,
): Surplus | undefined {
  const kept = new Map<PathKind, PathState>()
  for (const state of paths) {
    if (state.stage !== 'proven' || now - (state.provenAt ?? now) < TRIM_GRACE_MS) continue
    const { kind } = state.path
    const rival = kept.get(kind)
    if (rival === undefined) {
      kept.set(kind, state)
      continue
    }
    const use = (one: PathState) =>
      (one === active ? 4 : 0) + (one === fresh ? 2 : 0) + (one.suspect === undefined ? 1 : 0)
    const keep = use(state) > use(rival) ? state : rival
    return { keep, spare: keep === state ? rival : state }
  }
  return undefined
}

/** What a look at a path says should be done about it. */
export type PathCare = 'nothing' | 'ping' | 'lost'

/**
 * What to do about a path at `now`.
 * @param keepAliveMs of silence after which it is pinged though nothing waits
 */
export function carePath(state: PathState, now: number, keepAliveMs: number = KEEPALIVE_MS): PathCare {
  if (state.stage === 'retired') return now - (state.retiredAt ?? now) >= RETIRE_MS ? 'lost' : 'nothing'
  // Whatever else comes of it: what went on it does not get through.
  if (state.suspect === 'slow' && now - state.suspectAt >= DRAIN_TIMEOUT_MS) return 'lost'
  if (state.pingedAt !== undefined && state.heardAt < state.pingedAt) {
    return now - state.pingedAt >= state.patienceMs ? 'lost' : 'nothing'
  }
  if (state.stage === 'proven' && state.rttMs === undefined) return 'ping'
  if (state.suspect !== undefined && state.pingedAt === undefined) return 'ping'
  const silent = now - state.heardAt
  if (state.stage === 'attaching') return silent >= IMPATIENT_MS + PING_TIMEOUT_MS ? 'lost' : 'nothing'
  return silent >= (state.unackedBytes > 0 ? IMPATIENT_MS : keepAliveMs) ? 'ping' : 'nothing'
}
