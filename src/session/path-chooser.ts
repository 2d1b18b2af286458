/**
 * The choice of the path that carries the data, as things happen: `paths.ts` has the order, `path-meter.ts` what is
 * measured; here both are applied, and what went on a path that is left is seen to.
 *
 * - Leaving a path in order leaves its tail to it, unless that would take long: then it goes again on the next, at once.
 *   Whichever copy comes second is dropped by the other side.
 * - A path that was left because nothing came of it is under suspicion until it answers a ping.
 * - Users are told when a change is settled: a trial that fails is none of their business.
 */
import type { PathKind } from '../path/index.ts'
import { formatRate, type PathLog } from './path-log.ts'
import { LOW_RTT_MS, METER_FROM_BYTES, PathMeter, TICK_MS } from './path-meter.ts'
import { choosePath, DRAIN_TIMEOUT_MS, FOLLOW_HOLD_MS, isDirect, type PathState, shouldFollow } from './paths.ts'

/**
 * What is in the buffers of a path that is left arrives by itself, and holds up what comes behind it. When that takes longer
 * than this, ms, it is sent again on the next path at once: the first if it is little, the second however much it is, for
 * what is sent twice may share a line with everything else.
 */
const SHORT_TAIL_MS = 300
const LONG_TAIL_MS = 1_000
const LITTLE_BYTES = 2_097_152

/** Bytes that are sent again without a second thought. */
const TINY_BYTES = 16_384

/** What `path` events say. */
export interface PathChange {
  readonly from: PathKind
  readonly to: PathKind
  /**
   * `better`: a better path was proven. `lost`: the one before it ended, or delivers nothing any more.
   * `faster`: both were measured, and this one delivers more.
   */
  readonly reason: 'better' | 'lost' | 'faster'
}

/** What is on its way, as the choice needs to know it. */
export interface SendLoad {
  /** Bytes sent and not acknowledged. */
  readonly inFlight: number
  /** Records acknowledged so far. */
  readonly acked: number
  /** More waits to be sent than credit, or the bound on what is unacknowledged, lets go out. */
  readonly held: boolean
  /** The path on which the first unacknowledged record went last. */
  readonly oldestPath: PathState | undefined
  /** What went on `path` last, and is unacknowledged, goes again on the path in use. */
  takeBack(path: PathState): void
}

export interface ChooserHost {
  paths(): Iterable<PathState>
  has(state: PathState): boolean
  ping(state: PathState, patienceMs?: number): void
  /** A ping has gone unanswered for longer than an answer takes. */
  late(state: PathState, now: number): boolean
  load(): SendLoad
  /** Another path is in use now. */
  onSwitch(): void
  /** There is a path to send on. `proven`: and it is known to work. */
  onUsable(proven: boolean): void
  /** Another proven path carries the data, and users should know. */
  onChange(change: PathChange): void
  closed(): boolean
  /** Runs what a remote, or a timer, set off. */
  guard(run: () => void): void
}

export class PathChooser {
  readonly #host: ChooserHost
  readonly #log: PathLog
  readonly #meter = new PathMeter()
  #active: PathState | undefined
  /** What measuring, or the other side, showed to be better than its kind says. */
  #preferred: PathState | undefined
  /** The path that a trial would return to. */
  #incumbent: PathState | undefined
  /** The rival that the meter knows of. */
  #rival: PathState | undefined
  /** The path that users were last told of. */
  #told: PathState | undefined
  /** The path that the log last has as the one in use. */
  #noted: PathState | undefined
  #announcing = false
  #meterTimer: ReturnType<typeof setTimeout> | undefined
  #fleeing = false
  #followedAt = Number.NEGATIVE_INFINITY
  /** Fresh records that came on `#other` since anything was heard on the path in use. */
  #other: PathState | undefined
  #records = 0

  constructor(host: ChooserHost, log: PathLog) {
    this.#host = host
    this.#log = log
  }

  /** The path in use. */
  get active(): PathState | undefined {
    return this.#active
  }

  /** The same, but for one that is merely on trial: then the one before. */
  get settled(): PathState | undefined {
    return this.#onTrial ? this.#incumbent : this.#active
  }

  /** True while the path in use is there to be measured. One that was fled to is no trial to anybody but the meter. */
  get #onTrial(): boolean {
    return this.#incumbent !== undefined && !this.#fleeing
  }

  // ---- what happens ----

  /** Moves to the best path there is. */
  choose(): void {
    const trial = this.#incumbent !== undefined && this.#active !== undefined
    const next = trial ? this.#active : choosePath(this.#host.paths(), this.#active, this.#preferred)
    if (next !== this.#active) {
      this.#meter.reset()
      this.#use(next)
    }
    if (next !== undefined) this.#host.onUsable(next.stage === 'proven')
  }

  /** A path is proven from now on. */
  onProven(state: PathState): void {
    // A transfer is not moved to what its kind says is better, when that is doubtful: it is tried first.
    const active = this.#active
    const doubtful = active?.path.kind === 'udp' && state.path.kind === 'tcp' && (active.minRttMs ?? 0) >= LOW_RTT_MS
    if (doubtful && this.#meter.busy) this.#preferred ??= active
    this.choose()
  }

  /** A path under suspicion has answered. */
  onAnswered(state: PathState): void {
    if (state.suspect === undefined) return
    state.suspect = undefined
    this.choose()
  }

  /** Anything was heard on the path in use, or a fresh record on another. */
  onHeard(state: PathState, fresh: boolean, now: number): void {
    if (state === this.#active) {
      this.#records = 0
      return
    }
    if (!fresh || this.#active === undefined) return
    if (state !== this.#other) {
      this.#other = state
      this.#records = 0
    }
    this.#records++
    this.#follow(now)
  }

  /** Moves to where the other side sends, when nothing is heard on the path in use. */
  #follow(now: number): void {
    const [active, other] = [this.#active, this.#other]
    if (active === undefined || other === undefined || this.#incumbent !== undefined) return
    if (now - this.#followedAt < FOLLOW_HOLD_MS || !shouldFollow(active, other, this.#records, now)) return
    this.#followedAt = now
    this.#preferred = other
    this.#suspect(active, 'silent')
    this.choose()
  }

  /** Little is expected of any path there is, until it answers: whatever comes now is taken first. */
  doubt(): void {
    const now = performance.now()
    for (const state of this.#host.paths()) {
      if (state.stage !== 'proven' || state.suspect === 'silent') continue
      state.suspect = 'silent'
      state.suspectAt = now
      if (state.pingedAt === undefined || state.heardAt >= state.pingedAt) this.#host.ping(state)
    }
  }

  /** A path has gone, or is retired. */
  onGone(state: PathState): void {
    if (state === this.#preferred) this.#preferred = undefined
    if (state === this.#other) this.#other = undefined
    if (state === this.#active || state === this.#incumbent) {
      this.#incumbent = undefined
      this.#meter.reset()
    }
    if (state === this.#active) this.#active = undefined
  }

  close(): void {
    clearTimeout(this.#meterTimer)
    this.#active = undefined
    this.#incumbent = undefined
  }

  // ---- moving ----

  #use(next: PathState | undefined): void {
    const before = this.#active
    this.#active = next
    this.#records = 0
    if (before !== undefined && this.#host.has(before)) this.#leave(before)
    this.report()
    this.#host.onSwitch()
  }

  /** Sees to what went on a path and is not acknowledged. */
  #leave(before: PathState): void {
    if (before.unackedBytes === 0 || before.stage !== 'proven') return
    // Costs nothing, and what is sent from now on waits for nothing.
    if (before.unackedBytes <= TINY_BYTES) return this.#host.load().takeBack(before)
    const tailMs = before.rate === undefined ? 0 : before.unackedBytes / before.rate
    const slow = tailMs > (before.unackedBytes <= LITTLE_BYTES ? SHORT_TAIL_MS : LONG_TAIL_MS)
    if (!slow && before.suspect !== 'silent') return
    this.#host.load().takeBack(before)
    if (before.suspect === undefined) this.#suspect(before, 'slow')
  }

  /** Little is expected of the path until it answers. */
  #suspect(state: PathState, how: 'silent' | 'slow'): void {
    state.suspect = how
    state.suspectAt = performance.now()
    this.#host.ping(state, how === 'slow' ? DRAIN_TIMEOUT_MS : undefined)
  }

  /** Tells of a change, once the path in use is proven and settled. */
  report(reason?: PathChange['reason']): void {
    const now = this.#active
    if (this.#onTrial || now === undefined) return
    if (now !== this.#noted) this.#log.add(now, 'used')
    this.#noted = now
    const before = this.#told
    if (!this.#announcing || now.stage !== 'proven' || now === before) return
    this.#told = now
    if (before === undefined) return
    const why = reason ?? (this.#host.has(before) && before.suspect !== 'silent' ? 'better' : 'lost')
    this.#host.onChange({ from: before.path.kind, to: now.path.kind, reason: why })
  }

  /** From now on users are told of changes. */
  announce(): void {
    this.#announcing = true
    this.report()
  }

  // ---- measuring ----

  /** Something was sent: looks at how it gets on. */
  watch(): void {
    if (this.#meterTimer === undefined && this.#host.load().inFlight >= METER_FROM_BYTES) this.watchSoon()
  }

  /** Looks in a moment, and on until nothing is on its way. */
  watchSoon(): void {
    if (this.#meterTimer !== undefined || this.#host.closed()) return
    this.#meterTimer = setTimeout(() => {
      this.#meterTimer = undefined
      this.#host.guard(() => this.#tick())
    }, TICK_MS)
    this.#meterTimer.unref?.()
  }

  #tick(): void {
    const now = performance.now()
    const used = this.#active
    if (used === undefined || this.#host.closed()) return
    const load = this.#host.load()
    const rival = this.#incumbent ?? this.#findRival(used)
    if (rival !== this.#rival && !this.#meter.trying) {
      this.#rival = rival
      this.#meter.newRival()
    }
    const inFlight = load.inFlight > 0
    const verdict = this.#meter.tick({
      now,
      used,
      rival,
      inFlight,
      waiting: inFlight && (load.held || !used.path.writable),
      acked: load.acked,
      late: this.#host.late(used, now),
      elsewhere: load.oldestPath === used ? undefined : load.oldestPath,
    })
    used.rate = this.#meter.rate ?? used.rate
    if (inFlight || this.#meter.trying || this.#meter.busy) this.watchSoon()
    switch (verdict) {
      case 'knock':
        return this.#host.ping(rival!)
      case 'gather':
        return this.#gather(used)
      case 'try':
      case 'flee':
      case 'back':
        return this.#move(used, rival!, verdict)
      case 'won':
        return this.#settle(used, rival!)
    }
  }

  /** The path to compare with: the other direct kind, or for when the one in use stalls, whatever there is. */
  #findRival(used: PathState): PathState | undefined {
    const { kind } = used.path
    const measured = kind === 'tcp' ? 'udp' : kind === 'udp' ? 'tcp' : undefined
    const others = [...this.#host.paths()].filter((state) => state !== used && state.stage === 'proven')
    return (
      choosePath(
        others.filter(({ path }) => path.kind === measured),
        undefined,
      ) ?? choosePath(others, undefined)
    )
  }

  #gather(used: PathState): void {
    const load = this.#host.load()
    for (const state of this.#host.paths()) {
      if (state === used || state.unackedBytes === 0) continue
      load.takeBack(state)
      if (state.stage === 'proven') this.#suspect(state, 'slow')
    }
    this.#host.onUsable(used.stage === 'proven')
  }

  #move(used: PathState, rival: PathState, verdict: 'try' | 'flee' | 'back'): void {
    const returning = this.#incumbent !== undefined
    if (returning) this.#logOutcome(used, rival)
    if (verdict === 'flee') this.#suspect(used, 'silent')
    this.#fleeing = verdict === 'flee'
    this.#incumbent = returning ? undefined : used
    this.#rival = returning ? used : rival
    this.#use(rival)
    this.#host.onUsable(true)
  }

  #settle(used: PathState, before: PathState): void {
    this.#incumbent = undefined
    this.#rival = before
    this.#logOutcome(used, before)
    // What stalled once is taken up again when it answers, unless the way is one on which it will stall again.
    if (isDirect(used) && (!this.#fleeing || (used.minRttMs ?? 0) >= LOW_RTT_MS)) this.#preferred = used
    this.report(this.#fleeing ? 'lost' : 'faster')
    this.choose()
  }

  #logOutcome(tried: PathState, other: PathState): void {
    const { outcome } = this.#meter
    if (outcome === undefined) return
    const rates = `${tried.path.kind} ${formatRate(outcome.rate)}, ${other.path.kind} ${formatRate(outcome.before)}`
    this.#log.add(tried, 'measured', `${rates}: ${outcome.won ? tried.path.kind : other.path.kind} carries on`)
  }
}
