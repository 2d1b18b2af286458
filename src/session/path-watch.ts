/**
 * Watching over the paths of a session: pings, what their answers say, letting go of what is silent or one too many.
 *
 *     data waits, silence --probeMs--> ping, on every path --probeMs, no answer anywhere--> trouble: other ways are sought
 *                                        \______________________ lostMs, no answer ________________________________> lost
 */
import { randomBytes } from 'node:crypto'
import { equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { PathKind } from '../path/index.ts'
import type { FrameWriter } from './frame.ts'
import {
  CARE_MS,
  carePath,
  DRAIN_TIMEOUT_MS,
  FIRST_PING_MS,
  FLOWING_BYTES,
  findSurplus,
  isLate,
  KEEPALIVE_MS,
  MAX_KEEPALIVE_MS,
  MAX_TIMING_MS,
  MIN_KEEPALIVE_MS,
  MIN_TIMING_MS,
  noteRtt,
  OVERSLEPT_MS,
  PATH_TIMING,
  type PathState,
  type PathTiming,
  TRIM_GRACE_MS,
} from './paths.ts'

/** ms for which something must have been on its way before it is looked at more closely: a round trip is nothing special. */
const BUSY_MS = 500

/**
 * ms of silence after which the path in use is pinged while somebody writes and waits for a reader: the grant that ends the
 * wait may have been lost with the path, and whoever writes would be the last to learn of it.
 */
const HELD_MS = 1_000

/** ms of silence after which each kind of path is pinged. */
export type KeepAlive = Readonly<Record<PathKind, number>>

export interface WatchHost {
  paths(): Iterable<PathState>
  active(): PathState | undefined
  /** What the other side was last heard to send on. */
  fresh(): PathState | undefined
  /** This side dialled, and is the one to close what is one too many. */
  readonly initiator: boolean
  sendLoose(state: PathState, write: (frames: FrameWriter) => void): void
  /** Records are unacknowledged. */
  busy(): boolean
  /** Somebody writes, and waits until the other side reads. */
  held(): boolean
  /** Something has been on its way for a while. */
  onBusy(): void
  /** Nothing answers on any path; or something does again. */
  onTrouble(trouble: boolean): void
  /** Time alone may change which path is the best. */
  choose(): void
  onAnswered(state: PathState): void
  /** Closes it in order. */
  retire(state: PathState): void
  lose(state: PathState, error: PeerlineError): void
  closed(): boolean
  guard(run: () => void): void
}

export class PathWatch {
  readonly #host: WatchHost
  #keepAlive: KeepAlive = { tcp: KEEPALIVE_MS, udp: KEEPALIVE_MS, webrtc: KEEPALIVE_MS, relay: KEEPALIVE_MS }
  readonly #timing: PathTiming
  #timer: ReturnType<typeof setTimeout> | undefined
  #due = 0
  #lookedAt = 0
  #trouble = false
  /** When records were first seen unacknowledged, at this look and all since. */
  #busySince: number | undefined

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a timing outside of 50 ms to 1 min */
  constructor(host: WatchHost, timing: Partial<PathTiming> = {}) {
    for (const [name, value] of Object.entries(timing)) {
      if (!(value >= MIN_TIMING_MS && value <= MAX_TIMING_MS)) {
        const bounds = `${MIN_TIMING_MS} to ${MAX_TIMING_MS} ms`
        throw new PeerlineError('ERR_PEERLINE_INVALID', `${name} is ${bounds}, not ${value}`)
      }
    }
    this.#host = host
    this.#timing = { ...PATH_TIMING, ...timing }
  }

  /** True while nothing answers on any path. */
  get trouble(): boolean {
    return this.#trouble
  }

  /** A ping on the path has gone unanswered for longer than an answer takes. */
  isLate(state: PathState, now: number): boolean {
    return isLate(state, now, this.#timing)
  }

  get keepAlive(): KeepAlive {
    return this.#keepAlive
  }

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` outside of 1 s to 5 min */
  setKeepAlive(ms: Partial<KeepAlive>): void {
    for (const [kind, value] of Object.entries(ms)) {
      if (!(value >= MIN_KEEPALIVE_MS && value <= MAX_KEEPALIVE_MS)) {
        const bounds = `${MIN_KEEPALIVE_MS} to ${MAX_KEEPALIVE_MS} ms`
        throw new PeerlineError('ERR_PEERLINE_INVALID', `${kind} is kept alive every ${bounds}, not ${value}`)
      }
    }
    this.#keepAlive = { ...this.#keepAlive, ...ms }
    this.soon()
  }

  /** Pings what was silent for too long, and lets go of what does not answer, or is one too many. */
  #look(): void {
    const host = this.#host
    this.#timer = undefined
    if (host.closed()) return
    const now = performance.now()
    // A process that was stopped wakes to timers before it reads its sockets: what waits there decides, not the clock.
    const overslept = now - this.#due > OVERSLEPT_MS
    let rest = MAX_KEEPALIVE_MS
    let pinged = false
    let regained = false
    let flowing = false
    const held = host.held() ? host.active() : undefined
    for (const state of [...host.paths()]) {
      const keepAlive = this.#keepAlive[state.path.kind]
      rest = Math.min(rest, keepAlive / 4)
      // Its round trip is still to be asked for.
      if (state.rttMs === undefined && state.provenAt !== undefined) rest = Math.min(rest, FIRST_PING_MS)
      if (overslept || (state.pingedAt !== undefined && state.heardAt > state.pingedAt + keepAlive)) {
        state.pingedAt = undefined
      }
      if (overslept) {
        // Much may have happened meanwhile: it has to answer now.
        state.heardAt = Math.max(state.heardAt, now - keepAlive)
        state.suspectAt = now
      }
      const moved = state.receivedBytes + state.deliveredBytes
      if (moved - state.movedBefore >= FLOWING_BYTES) state.flowing = true
      state.movedBefore = moved
      flowing ||= state.flowing
      switch (carePath(state, now, state === held ? HELD_MS : keepAlive, this.#timing)) {
        case 'ping':
          // Asked once: an answer says that the other side has come to an end of what it had to say.
          state.flowing = false
          this.ping(state, state.suspect === 'slow' ? DRAIN_TIMEOUT_MS : this.#timing.lostMs)
          break
        case 'lost':
          host.lose(state, new PeerlineError('ERR_PEERLINE_TIMEOUT', `${state.path.remote} does not answer any more`))
          break
      }
      if (host.closed()) return
      pinged ||= state.pingedAt !== undefined
      if (state.trustedAt > now) rest = Math.min(rest, state.trustedAt - now + 1)
      else regained ||= state.trustedAt > this.#lookedAt
    }
    this.#lookForTrouble(now)
    if (host.initiator) this.#trim(now)
    if (regained) host.choose()
    this.#lookedAt = now
    if (host.closed()) return
    const busy = host.busy()
    this.#busySince = busy ? (this.#busySince ?? now) : undefined
    if (this.#busySince !== undefined && now - this.#busySince >= BUSY_MS) host.onBusy()
    this.soon(busy || pinged || flowing ? CARE_MS : held === undefined ? rest : Math.min(rest, HELD_MS))
  }

  /** An answer is late on the path in use: the others are asked as well, and when none answers, that is trouble. */
  #lookForTrouble(now: number): void {
    const active = this.#host.active()
    if (active === undefined || !this.isLate(active, now)) return
    let late = true
    for (const state of this.#host.paths()) {
      if (state.stage !== 'proven' || this.isLate(state, now)) continue
      late = false
      const asked = state.pingedAt !== undefined && state.heardAt < state.pingedAt
      if (state.heardAt < active.pingedAt! && !asked) this.ping(state)
    }
    if (late) this.#setTrouble(true)
  }

  #setTrouble(trouble: boolean): void {
    if (trouble === this.#trouble) return
    this.#trouble = trouble
    this.#host.onTrouble(trouble)
  }

  /** Something authentic was heard on a path. */
  onHeard(): void {
    if (this.#trouble) this.#setTrouble(false)
  }

  /** Asks every path now: one that does not answer in time is lost. */
  probe(patienceMs: number): void {
    for (const state of this.#host.paths()) {
      if (state.stage === 'proven' || state.stage === 'unproven') this.ping(state, patienceMs)
    }
  }

  /** Closes one path of which another of its kind stays; that one must have been heard just now. */
  #trim(now: number): void {
    const surplus = findSurplus(this.#host.paths(), this.#host.active(), this.#host.fresh(), now)
    if (surplus === undefined) return
    const { keep, spare } = surplus
    if (now - keep.heardAt < TRIM_GRACE_MS) {
      this.#host.retire(spare)
      // There may be another.
      this.soon()
    } else if (keep.pingedAt === undefined) this.ping(keep)
  }

  /** Looks at the paths in `ms`, or sooner when that is planned already. */
  soon(ms: number = CARE_MS): void {
    if (this.#host.closed()) return
    const due = performance.now() + ms
    if (this.#timer !== undefined) {
      if (this.#due <= due) return
      clearTimeout(this.#timer)
    }
    this.#due = due
    this.#timer = setTimeout(() => this.#host.guard(() => this.#look()), ms)
    this.#timer.unref?.()
  }

  /** @param patienceMs how long it may go unanswered */
  ping(state: PathState, patienceMs: number = this.#timing.lostMs): void {
    const token = randomBytes(8)
    state.pingToken = token
    state.pingedAt = performance.now()
    state.patienceMs = patienceMs
    this.#host.sendLoose(state, (frames) => frames.ping(token))
    this.soon()
  }

  onPing(state: PathState, token: Uint8Array): void {
    // Not answered when the path is full: its data is the answer.
    if (state.path.writable) this.#host.sendLoose(state, (frames) => frames.pong(token))
  }

  onPong(state: PathState, token: Uint8Array): void {
    if (state.pingToken === undefined || !equalBytes(token, state.pingToken)) return
    // The look after a long sleep forgets when it was.
    if (state.pingedAt !== undefined) noteRtt(state, performance.now() - state.pingedAt)
    state.pingToken = undefined
    state.pingedAt = undefined
    this.#host.onAnswered(state)
  }

  close(): void {
    clearTimeout(this.#timer)
  }
}
