/**
 * Which path delivers better, found out by measuring: kernel TCP wins on clean or short ways, BBR over UDP wins by 20 to
 * 100 times with loss on long ones, and nobody can tell beforehand.
 *
 *     watching --busy long enough, a rival may be better--> (knock) --answered--> trying
 *        ^                                                                         |  |
 *        |  back: not better, or nothing to send any more -------------------------+  |
 *        +- won: better by the margin; the rival is the path in use from now on ------+
 *
 *     the path in use stalls --the rival answers a knock--> flee: to the rival at once, what went before goes again
 *     a trial stalls ------------------------------------> flee: back at once, likewise
 *
 * - Measured are acknowledged bytes of records that went on one path only, while more was waiting to be sent: neither a
 *   slow writer nor a slow reader is evidence, nor what another path's tail, or its duplicates, brought.
 * - Acknowledgements are cumulative: the first one after a change of path covers whatever waited at the other side for
 *   the tail of the path before, all at once or in two lumps. So measuring begins a little behind the first bytes that are
 *   seen delivered.
 * - Nothing moves to a path that has not just answered: a path that swallows everything costs one ping.
 * - Pure: whoever owns the paths calls {@link PathMeter.tick} and does what it says.
 *
 * All that can be tuned stands here, at the top.
 */
import type { PathKind } from '../path/index.ts'
import { Delivery } from './delivery.ts'

/** ms between looks while much is on its way. */
export const TICK_MS = 50

/** Looks, from the first with anything delivered on, that may show what had piled up rather than what is delivered. */
const LUMP_TICKS = 2

/** Bytes unacknowledged from which a session is looked at: below, there is nothing to be gained. */
export const METER_FROM_BYTES = 65_536

/** Time between two looks above which nothing was measured but a process that was busy or asleep, ms. */
const MAX_TICK_MS = 500

/** ms without anything waiting after which the next transfer is measured anew: TCP begins slowly again, too. */
const IDLE_MS = 1_000

/** Round trip below which TCP is not doubted while it delivers, ms: there it wins with loss and without. */
export const LOW_RTT_MS = 20

/** Round trip reckoned with at most, and when none is known, ms. */
const MAX_RTT_MS = 1_000
const ASSUMED_RTT_MS = 100

/** Busy time before the first trial: slow start is over at 60 ms, or a few round trips have shown where it goes. */
export const MEASURE_MS = 600
const MEASURE_RTTS = 3

/** A path whose rate still grows, by more than this from one window to the next, is given more time: ms, all in all. */
const GROWTH = 1.25
const MEASURE_MAX_MS = 1_500

/** ms from the start of a bulk transfer until its path is settled: what a growing path is given ends in time for a trial. */
export const SETTLE_MS = 2_800

/** Length of a trial: BBR has found its rate after 8 to 10 round trips. Busy ms, at least, and at most. */
const TRIAL_RTTS = 10
const MIN_TRIAL_MS = 500
const MAX_TRIAL_MS = 5_000
/** ms more, when the tail of the path before is so long that little was measured until then. */
const TRIAL_TAIL_MS = 1_000
/** ms after which half of that tail must have arrived: else it is not waited for. */
const HALF_TAIL_MS = 500

/**
 * The window over which rates are compared, ms: two round trips, but not less, for acknowledgements come in lumps, and not
 * more, for a rate that grows lags behind. In a trial a shorter one will do, for a rival must win by a margin.
 */
const WINDOW_RTTS = 2
const WINDOW_MS = 200
const TRIAL_WINDOW_MS = 150
const MAX_WINDOW_MS = 300

/** What a rival must beat was measured over this many ms before its trial: TCP with losses goes up and down. */
const BEFORE_MS = 500

/** UDP must deliver this many times what TCP does, for it costs ten times the CPU. */
export const UDP_MARGIN = 1.25
/** To go back, TCP must deliver this part of what UDP does: less than 1 / 1.25 would go round in circles. */
export const TCP_MARGIN = 0.9

/**
 * Bytes per round trip that UDP delivers at best: 54 MB/s at 60 ms, of the 4.25 MB it keeps in flight. TCP that delivers so
 * much that this would not be better by the margin is on a clean way, and left alone.
 */
export const UDP_BEST_BYTES_PER_RTT = 3_200_000

/** A trial whose rate is below this part of what is needed, half-way, and does not grow, is given up. */
const HOPELESS = 0.25

/** ms of waiting with nothing acknowledged after which a path has stalled; TCP's timer fires at 200 ms at least. */
export const STALL_MS = 500
const STALL_RTTS = 4
/** The same, as the time that this many of the largest records take, of what is on its way, at the rate measured. */
const STALL_RECORDS = 3
const LARGEST_RECORD_BYTES = 65_536
/** Rate taken for granted before any was measured, bytes per ms: 1 Mbit/s, at which those records take 1.5 s. */
const ASSUMED_RATE = 125
/** Rate below which nothing is waited for any longer, bytes per ms: 350 kbit/s, at which they take 4.5 s. */
const LEAST_RATE = 44
/** A trial has less patience: what waits behind it could go elsewhere. */
const TRIAL_STALL_MS = 300
const TRIAL_STALL_RTTS = 5

/** ms for which the answer to a ping says that a path is alive. */
const KNOCK_FRESH_MS = 800

/** ms between trials, each after the one before: then the last again. A rival half as good, or worse, skips the first. */
export const RETRY_MS: readonly number[] = [10_000, 30_000, 60_000, 120_000, 300_000]

/** ms after a trial in which no stall and no collapse starts another; TCP grows again after its pause in the meantime. */
const HOLD_MS = 3_000

/** A rate below this part of what was measured starts a trial ahead of time, when it lasts for that many ms. */
const COLLAPSE = 0.5
const COLLAPSE_MS = 1_000

/** What the meter sees of a path. */
export interface MeteredPath {
  readonly path: { readonly kind: PathKind }
  readonly deliveredBytes: number
  readonly unackedBytes: number
  readonly minRttMs: number | undefined
  readonly answeredAt: number
  readonly pingedAt: number | undefined
  /** What it delivered when it was last in use, bytes per ms. */
  readonly rate: number | undefined
}

/** What the meter sees of the session. */
export interface MeterLook {
  /** Monotonic ms. */
  readonly now: number
  /** The path that carries the data: in a trial, the rival. */
  readonly used: MeteredPath
  /** The one to compare it with; in a trial, the one that was left for it. */
  readonly rival: MeteredPath | undefined
  /** Something is unacknowledged. */
  readonly inFlight: boolean
  /** Something is unacknowledged, and more waits to be sent. */
  readonly waiting: boolean
  /** Records acknowledged so far: moves when anything does. */
  readonly acked: number
  /** A ping on the path in use has gone unanswered for longer than an answer takes. */
  readonly late: boolean
  /** The path on which the first unacknowledged record went, when that is not the one in use. */
  readonly elsewhere: MeteredPath | undefined
}

/**
 * - `knock`: ping the rival.
 * - `gather`: send again on the path in use what waits on others.
 * - `try`: move to the rival for a trial. `won`: stay there. `back`: return.
 * - `flee`: as `try` or `back`, from a path that delivers nothing.
 */
export type MeterVerdict = 'stay' | 'knock' | 'gather' | 'try' | 'won' | 'back' | 'flee'

interface Trial {
  since: number
  /** Bytes that were unacknowledged on the path before. */
  tailBytes: number
  /** Bytes per ms that win; 0 when the other path delivers nothing. */
  readonly need: number
  /** What the path before delivered. */
  readonly before: number | undefined
  /** Begun because that one stalled. */
  readonly stalled: boolean
  readonly acked: number
}

export class PathMeter {
  readonly #delivery = new Delivery()
  #trial: Trial | undefined
  #at = Number.NEGATIVE_INFINITY
  #delivered = 0
  #waited = false
  /** Looks since bytes were first seen delivered. */
  #flowing = 0
  #busyMs = 0
  /** Busy time in which delivery was measured. */
  #measuredMs = 0
  #waitedAt = 0
  #acked = -1
  #movedAt = 0
  /** What was delivered at that time, before nothing was. */
  #rateThen: number | undefined
  /** The best that the path in use was seen to do since the last trial, bytes per ms. */
  #reference: number | undefined
  #tried = false
  #retries = 0
  #nextTrialAt = 0
  #holdUntil = 0
  #outcome: MeterOutcome | undefined

  /** True while the path in use is on trial. */
  get trying(): boolean {
    return this.#trial !== undefined
  }

  /** What the path in use delivered lately, bytes per ms. */
  get rate(): number | undefined {
    return this.#delivery.rate(BEFORE_MS) ?? this.#delivery.rate(WINDOW_MS)
  }

  /** True while a transfer has been running for long enough to be worth measuring. */
  get busy(): boolean {
    return this.#busyMs >= MEASURE_MS / 2
  }

  /** What the last trial showed. */
  get outcome(): MeterOutcome | undefined {
    return this.#outcome
  }

  /** The path in use has changed, without the meter: everything begins anew. */
  reset(): void {
    this.#trial = undefined
    this.#reference = undefined
    this.#at = Number.NEGATIVE_INFINITY
    this.#busyMs = 0
    this.#rateThen = undefined
    this.newRival()
    this.#restart()
  }

  /** Another rival: it has not been tried. */
  newRival(): void {
    this.#tried = false
    this.#retries = 0
    this.#nextTrialAt = 0
    this.#holdUntil = 0
  }

  /** Measures from here on. */
  #restart(): void {
    this.#delivery.clear()
    this.#flowing = 0
    this.#measuredMs = 0
  }

  /** A look, about every {@link TICK_MS} while anything is on its way. */
  tick(look: MeterLook): MeterVerdict {
    this.#measure(look)
    return this.#trial === undefined ? this.#watch(look) : this.#judge(look, this.#trial)
  }

  #measure({ now, used, waiting, inFlight, acked }: MeterLook): void {
    const elapsed = now - this.#at
    const bytes = used.deliveredBytes - this.#delivered
    if (this.#at === Number.NEGATIVE_INFINITY) this.#movedAt = now
    else if (waiting && this.#waited && elapsed <= MAX_TICK_MS) {
      this.#busyMs += elapsed
      if (this.#flowing >= LUMP_TICKS) {
        this.#delivery.add(bytes, elapsed)
        this.#measuredMs += elapsed
      } else if (bytes > 0 || this.#flowing > 0) this.#flowing++
    }
    // A process that slept has heard nothing, and nobody is to blame.
    if (acked !== this.#acked || !inFlight || elapsed > MAX_TICK_MS) {
      this.#movedAt = now
      this.#rateThen = this.rate
    }
    if (waiting) this.#waitedAt = now
    else if (this.#trial === undefined && now - this.#waitedAt >= IDLE_MS && this.#busyMs > 0) {
      this.#busyMs = 0
      this.#restart()
    }
    this.#at = now
    this.#delivered = used.deliveredBytes
    this.#waited = waiting
    this.#acked = acked
  }

  // ---- watching ----

  #watch(look: MeterLook): MeterVerdict {
    const { now, used, rival } = look
    const rtt = roundTrip(look)
    const stalled = now - this.#movedAt >= this.#patience(look, rtt) && (now >= this.#holdUntil || look.late)
    if (stalled && look.elsewhere !== undefined) {
      this.#movedAt = now
      return 'gather'
    }
    if (rival === undefined) return 'stay'
    const when = stalled ? 'now' : this.#wish(used, rival, rtt, now)
    if (when === 'never') return 'stay'
    // Whoever answered since the stall began is alive, and so is the other side.
    if (rival.answeredAt >= (stalled ? this.#movedAt : now - KNOCK_FRESH_MS)) {
      if (when === 'soon') return 'stay'
      this.#begin(look, stalled)
      return stalled ? 'flee' : 'try'
    }
    return rival.pingedAt === undefined ? 'knock' : 'stay'
  }

  /** ms without an acknowledgement after which what the next one waits for has stalled. */
  #patience({ used, rival, elsewhere }: MeterLook, rtt: number): number {
    const { rate, unackedBytes } = elsewhere ?? used
    // Of a path that has not been measured as much is expected as of the one that could take its place.
    // A rate of 0 is what a stall looks like, and says nothing of before.
    const known = (elsewhere === undefined && this.#rateThen) || rate || rival?.rate || ASSUMED_RATE
    const bytes = Math.min(unackedBytes, STALL_RECORDS * LARGEST_RECORD_BYTES)
    return Math.max(STALL_MS, STALL_RTTS * rtt, bytes / Math.max(known, LEAST_RATE))
  }

  /** Whether the rival is worth a trial, which is announced a little before. */
  #wish(used: MeteredPath, rival: MeteredPath, rtt: number, now: number): 'never' | 'soon' | 'now' {
    const from = used.path.kind
    const to = rival.path.kind
    if (!(from === 'tcp' && to === 'udp') && !(from === 'udp' && to === 'tcp')) return 'never'
    if (from === 'tcp' && rtt < LOW_RTT_MS) return 'never'
    const atLeast = Math.max(MEASURE_MS, MEASURE_RTTS * rtt)
    if (this.#busyMs < atLeast / 2) return 'never'
    const window = windowMs(rtt, WINDOW_MS)
    const rate = this.#delivery.rate(window)
    if (rate !== undefined && from === 'tcp' && rate * UDP_MARGIN >= UDP_BEST_BYTES_PER_RTT / rtt) return 'never'
    if (this.#tried && now < this.#nextTrialAt && !this.#collapsed(now)) return 'never'
    if (this.#busyMs < atLeast || rate === undefined) return 'soon'
    const atMost = Math.max(4 * rtt, Math.min(MEASURE_MAX_MS, SETTLE_MS - trialMs(rtt)))
    return this.#busyMs < atMost && this.#grows(window) ? 'soon' : 'now'
  }

  #collapsed(now: number): boolean {
    const rate = this.#delivery.rate(COLLAPSE_MS)
    if (rate === undefined || now < this.#holdUntil) return false
    this.#reference = Math.max(rate, this.#reference ?? 0)
    return rate < this.#reference * COLLAPSE
  }

  #grows(window: number): boolean {
    const now = this.#delivery.rate(window)
    const before = this.#delivery.rate(window, window)
    return now === undefined || before === undefined || now > before * GROWTH
  }

  #begin({ now, used, rival, acked }: MeterLook, stalled: boolean): void {
    // Of a rate that has just grown, or just fallen, the better: the rival must beat what could be had.
    const rate = Math.max(this.#delivery.rate(BEFORE_MS) ?? 0, this.#delivery.rate(WINDOW_MS) ?? 0)
    const margin = used.path.kind === 'tcp' ? UDP_MARGIN : TCP_MARGIN
    const need = stalled ? 0 : rate * margin
    this.#trial = { since: now, tailBytes: used.unackedBytes, need, before: rate, stalled, acked }
    this.#turn(rival!, now)
  }

  /** Another path is measured from here on. */
  #turn(path: MeteredPath, now: number): void {
    this.#restart()
    this.#busyMs = 0
    this.#delivered = path.deliveredBytes
    this.#movedAt = now
    this.#waitedAt = now
  }

  // ---- trying ----

  #judge(look: MeterLook, trial: Trial): MeterVerdict {
    const { now } = look
    const rtt = roundTrip(look)
    const window = windowMs(rtt, TRIAL_WINDOW_MS)
    const rate = this.#delivery.rate(window)
    const wins = rate !== undefined && rate > 0 && rate >= trial.need
    if (wins || (trial.stalled && !look.inFlight)) return this.#won(look, trial, rate)
    const patience = Math.max(TRIAL_STALL_MS, TRIAL_STALL_RTTS * rtt)
    const silent = now - this.#movedAt >= patience
    if (silent && look.elsewhere === undefined) return this.#lost(look, trial, 0, 'flee')
    const slow = now - trial.since >= HALF_TAIL_MS && (look.rival?.unackedBytes ?? 0) > trial.tailBytes / 2
    if (look.elsewhere !== undefined && (silent || slow)) {
      // Measuring can only begin now.
      trial.since = now
      this.#movedAt = now
      this.#busyMs = 0
      return 'gather'
    }
    const length = trialMs(rtt)
    const moved = look.acked !== trial.acked
    const measured = this.#measuredMs >= length / 2
    const over = (measured && this.#busyMs >= length) || now - trial.since >= length + TRIAL_TAIL_MS
    if (over && trial.stalled && moved) return this.#won(look, trial, rate)
    // The transfer is at its end: that says nothing, and is no reason to wait for the next trial.
    if (now - this.#waitedAt >= IDLE_MS / 2 && !trial.stalled) return this.#leave(look, trial, 'back')
    if (over) return this.#lost(look, trial, rate, 'back')
    const hopeless = rate !== undefined && rate < trial.need * HOPELESS
    if (hopeless && this.#busyMs >= length / 2 && !this.#grows(window)) {
      return this.#lost(look, trial, rate, 'back')
    }
    return 'stay'
  }

  #won({ now, used, rival }: MeterLook, trial: Trial, rate: number | undefined): MeterVerdict {
    this.#outcome = { won: true, rate, before: trial.stalled ? 0 : trial.before }
    this.#trial = undefined
    this.#tried = true
    this.#reference = rate
    const clear = rate !== undefined && trial.before !== undefined && rate >= 2 * trial.before && !trial.stalled
    this.#retries = clear && rival !== undefined && used.path.kind !== 'tcp' ? 1 : 0
    this.#plan(now)
    return 'won'
  }

  #lost(look: MeterLook, trial: Trial, rate: number | undefined, verdict: 'back' | 'flee'): MeterVerdict {
    this.#outcome = { won: false, rate, before: trial.before }
    this.#tried = true
    this.#plan(look.now)
    // Neither path delivers, though both answer: what waits is not sent again and again.
    if (trial.stalled && verdict === 'flee') this.#holdUntil = this.#nextTrialAt
    return this.#leave(look, trial, verdict)
  }

  #leave({ now, rival }: MeterLook, trial: Trial, verdict: 'back' | 'flee'): MeterVerdict {
    this.#trial = undefined
    this.#reference = trial.before
    if (rival !== undefined) this.#turn(rival, now)
    return verdict
  }

  #plan(now: number): void {
    this.#nextTrialAt = now + RETRY_MS[Math.min(this.#retries, RETRY_MS.length - 1)]!
    this.#retries++
    this.#holdUntil = now + HOLD_MS
  }
}

/** What a trial showed, bytes per ms. */
export interface MeterOutcome {
  readonly won: boolean
  /** Of the path on trial. */
  readonly rate: number | undefined
  /** Of the one before. */
  readonly before: number | undefined
}

/** The round trip without queues: the shortest that either path has shown, for they go to the same place. */
function roundTrip({ used, rival }: MeterLook): number {
  const shortest = Math.min(used.minRttMs ?? MAX_RTT_MS, rival?.minRttMs ?? MAX_RTT_MS)
  const known = used.minRttMs !== undefined || rival?.minRttMs !== undefined
  return known ? shortest : ASSUMED_RTT_MS
}

function windowMs(rtt: number, least: number): number {
  return Math.min(MAX_WINDOW_MS, Math.max(least, WINDOW_RTTS * rtt))
}

function trialMs(rtt: number): number {
  return Math.min(MAX_TRIAL_MS, Math.max(MIN_TRIAL_MS, TRIAL_RTTS * rtt))
}
