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
 * - A kind of path that was lost again and again must hold for a while before it carries the data again.
 */
import type { Path, PathKind } from '../path/index.ts'

/** Order of preference: kernel TCP costs a tenth of what any protocol over UDP does, and a relay is a detour. Lower is better. */
const RANK: Readonly<Record<PathKind, number>> = { tcp: 0, udp: 1, webrtc: 2, relay: 10 }

/** How soon the end of a path is noticed, ms each. A path with a long round trip is given more, see {@link probeAfter}. */
export interface PathTiming {
  /**
   * Silence, with data on its way, after which a path is pinged; and again that long without an answer, on any path, after
   * which other ways are sought. Above the 200 ms at which TCP first repeats what was lost. @default 300
   */
  readonly probeMs: number
  /**
   * How long a ping may go unanswered before its path is lost: TCP has tried four times by then. Other ways have long been
   * sought, and tried, beside it. @default 4_000
   */
  readonly lostMs: number
}

export const PATH_TIMING: PathTiming = { probeMs: 300, lostMs: 4_000 }

/** Bounds of both: below, a busy process seems dead; above, nobody waits that long. */
export const MIN_TIMING_MS = 50
export const MAX_TIMING_MS = 60_000

/** Round trips that silence must last, at the least: the acknowledgement may be late by one, the path's queue by others. */
const PROBE_RTTS = 4

/** ms between looks while something is on its way. */
export const CARE_MS = 150

/** ms of silence after which an idle path is pinged: below the 30 s after which the shortest-lived NATs forget. */
export const KEEPALIVE_MS = 20_000

/** Bounds of {@link KEEPALIVE_MS} when set: more often is a burden, more seldom is no keeping alive. */
export const MIN_KEEPALIVE_MS = 1_000
export const MAX_KEEPALIVE_MS = 300_000

/** ms before the round trip of a new path is asked for by itself: what it was opened for goes first. */
export const FIRST_PING_MS = 500

/** Bytes that come from one look to the next, from which on a path is taken to be in the middle of a transfer: 100 kB/s. */
export const FLOWING_BYTES = 16_384

/** How late a look may be, ms, before the process is taken to have slept. */
export const OVERSLEPT_MS = 1_000

/**
 * A kind of path that was lost this often within {@link FLAP_MEMORY_MS} must be proven for {@link FLAP_HOLD_MS}, doubled
 * with each further loss up to {@link MAX_FLAP_HOLD_MS}, before it comes before others again.
 */
export const FLAPS = 2
const FLAP_MEMORY_MS = 60_000
const FLAP_HOLD_MS = 2_000
const MAX_FLAP_HOLD_MS = 30_000

/** Losses remembered: those that matter. */
const MAX_FLAPS = 8

/** How often paths of each kind were lost lately, and what follows for the next one. */
export class Flaps {
  readonly #lost = new Map<PathKind, number[]>()

  add(kind: PathKind, now: number): void {
    const times = this.#recent(kind, now)
    times.push(now)
    this.#lost.set(kind, times.slice(-MAX_FLAPS))
  }

  /** ms for which a path of this kind must hold first. */
  holdMs(kind: PathKind, now: number): number {
    const { length } = this.#recent(kind, now)
    return length < FLAPS ? 0 : Math.min(FLAP_HOLD_MS * 2 ** (length - FLAPS), MAX_FLAP_HOLD_MS)
  }

  #recent(kind: PathKind, now: number): number[] {
    return (this.#lost.get(kind) ?? []).filter((at) => now - at < FLAP_MEMORY_MS)
  }
}

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
  /** It comes after others until then: its kind was lost too often. */
  trustedAt: number
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
  /** Bytes of ordered records that came on it. */
  receivedBytes: number
  /** At the last look: those, and the ones delivered. */
  movedBefore: number
  /** Much came lately: when nothing does any more, that is either the end of it or that of the path. */
  flowing: boolean
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
    trustedAt: now,
    provenAt: stage === 'proven' ? now : undefined,
    retiredAt: undefined,
    heardAt: now,
    lastLoose: -1,
    pingedAt: undefined,
    pingToken: undefined,
    patienceMs: PATH_TIMING.lostMs,
    answeredAt: Number.NEGATIVE_INFINITY,
    rttMs: undefined,
    minRttMs: undefined,
    suspect: undefined,
    suspectAt: 0,
    receivedBytes: 0,
    movedBefore: 0,
    flowing: false,
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

/** ms of silence after which a path with data on its way is pinged, and after which an answer is late. */
export function probeAfter({ minRttMs = 0 }: PathState, { probeMs }: PathTiming): number {
  return Math.max(probeMs, PROBE_RTTS * minRttMs)
}

/** True when a ping has gone unanswered for longer than an answer takes. */
export function isLate(state: PathState, now: number, timing: PathTiming): boolean {
  const { pingedAt, heardAt } = state
  return pingedAt !== undefined && heardAt < pingedAt && now - pingedAt >= probeAfter(state, timing)
}

/** Negative when `a` should carry the data rather than `b`; 0 when they are equals. */
function compare(a: PathState, b: PathState, preferred: PathState | undefined): number {
  const now = performance.now()
  const order =
    Number(b.stage === 'proven') - Number(a.stage === 'proven') ||
    Number(a.suspect === 'silent') - Number(b.suspect === 'silent') ||
    Number(a.trustedAt > now) - Number(b.trustedAt > now) ||
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
export function carePath(
  state: PathState,
  now: number,
  keepAliveMs: number = KEEPALIVE_MS,
  timing: PathTiming = PATH_TIMING,
): PathCare {
  if (state.stage === 'retired') return now - (state.retiredAt ?? now) >= RETIRE_MS ? 'lost' : 'nothing'
  // Whatever else comes of it: what went on it does not get through.
  if (state.suspect === 'slow' && now - state.suspectAt >= DRAIN_TIMEOUT_MS) return 'lost'
  if (state.pingedAt !== undefined && state.heardAt < state.pingedAt) {
    return now - state.pingedAt >= state.patienceMs ? 'lost' : 'nothing'
  }
  const measured =
    state.rttMs !== undefined || state.provenAt === undefined || now - state.provenAt < FIRST_PING_MS - 10
  const wanted = state.suspect !== undefined || (state.stage === 'proven' && !measured)
  if (wanted && state.pingedAt === undefined) return 'ping'
  const silent = now - state.heardAt
  if (state.stage === 'attaching') return silent >= timing.lostMs ? 'lost' : 'nothing'
  const waiting = state.unackedBytes > 0 || state.flowing
  return silent >= (waiting ? probeAfter(state, timing) : keepAliveMs) ? 'ping' : 'nothing'
}
