/**
 * The paths that a session holds: attaching, proving, choosing, watching over them, letting go.
 *
 * `paths.ts` has the rules, as functions; here they are applied. What a change means for the data is the session's
 * business: it is told through {@link PathSetHost}.
 */
import { randomBytes } from 'node:crypto'
import { equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import { MAX_MESSAGE_BYTES, type Path, type PathKind } from '../path/index.ts'
import { readAttach, readAttached, writeAttach, writeAttached } from './attach.ts'
import type { FrameWriter } from './frame.ts'
import { carePath, choosePath, IMPATIENT_MS, KEEPALIVE_MS, MAX_PATHS, newPathState, type PathState } from './paths.ts'

/** Path numbers remembered one by one: far more than may be under way at once, out of order. */
const MAX_USED_PATHS = 64

/** ms between looks at the paths while something is on its way; otherwise {@link KEEPALIVE_MS} / 4. */
const CARE_MS = IMPATIENT_MS / 2

/** What `path` events say. */
export interface PathChange {
  readonly from: PathKind
  readonly to: PathKind
  /** `better`: a better path was proven. `lost`: the one before it ended. */
  readonly reason: 'better' | 'lost'
}

/** What the paths need of their session, and tell it. */
export interface PathSetHost {
  /** The first ordered record that has not come. */
  received(): number
  /** Everything below `number` has arrived at the other side. */
  onAcked(number: number): void
  /** A record came. */
  onRecord(state: PathState, message: Uint8Array): void
  /** The path in use takes more. */
  onDrain(): void
  /** Another path is in use now. */
  onSwitch(): void
  /** There is a path to send on. `proven`: and it is known to work. */
  onUsable(proven: boolean): void
  onProven(state: PathState): void
  /** A path has gone; the next one is not chosen yet. */
  onLost(state: PathState): void
  /** After {@link onLost}, when what could be chosen was. */
  onLostSettled(error: PeerlineError | undefined): void
  /** Another proven path carries the data, and users should know. */
  onChange(change: PathChange): void
  sendLoose(state: PathState, write: (frames: FrameWriter) => void): void
  /** Records that went on this path are unacknowledged. */
  waitsOn(state: PathState): boolean
  /** Records are unacknowledged. */
  busy(): boolean
  closed(): boolean
  /** Runs what a remote set off. */
  guard(run: () => void): void
}

export class PathSet {
  readonly #keys: SessionKeys
  readonly #host: PathSetHost
  readonly #paths = new Map<number, PathState>()
  #active: PathState | undefined
  /** The path that users were last told of. */
  #reported: PathState | undefined
  #announcing = false
  #next: number
  readonly #used = new Set<number>()
  #usedBelow = 0
  #careTimer: ReturnType<typeof setTimeout> | undefined
  #careDue = 0

  constructor(keys: SessionKeys, host: PathSetHost) {
    this.#keys = keys
    this.#host = host
    this.#next = keys.initiator ? 2 : 1
  }

  /** The path in use. */
  get active(): PathState | undefined {
    return this.#active
  }

  get size(): number {
    return this.#paths.size
  }

  /** Kinds of the proven ones. */
  get proven(): PathKind[] {
    return [...this.#paths.values()].filter(({ stage }) => stage === 'proven').map(({ path }) => path.kind)
  }

  has(state: PathState): boolean {
    return this.#paths.get(state.number) === state
  }

  // ---- coming ----

  /** Attaches an open path; data may go out on it at once. */
  attach(path: Path): void {
    if (this.#paths.size >= MAX_PATHS) return path.destroy()
    const number = this.#next
    this.#next += 2
    const state = this.#add(path, number, 'attaching')
    const claim = { pathNumber: number, received: this.#host.received() }
    path.send([writeAttach(this.#keys.sessionId, claim, this.#keys.attachSend)])
    this.#start(state)
  }

  /**
   * Takes a path whose first message, an ATTACH, has been read.
   * @throws PeerlineError when it does not authenticate, was seen before, or is one too many
   */
  accept(path: Path, attach: Uint8Array): void {
    const { pathNumber, received } = readAttach(attach, this.#keys.attachReceive)
    const mine = pathNumber % 2 === (this.#keys.initiator ? 0 : 1)
    if (mine || pathNumber <= this.#usedBelow || this.#used.has(pathNumber)) {
      throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'an attach message was used before')
    }
    if (this.#paths.size >= MAX_PATHS) throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_PATHS} paths are attached`)
    this.#remember(pathNumber)
    const state = this.#add(path, pathNumber, 'unproven')
    path.send([writeAttached({ pathNumber, received: this.#host.received() }, this.#keys.attachSend)])
    // First of all: what the other side has is not sent again.
    this.#host.guard(() => this.#host.onAcked(received))
    if (!this.#host.closed()) this.#start(state)
  }

  /** Remembers the latest numbers one by one; what is older than those counts as used. */
  #remember(pathNumber: number): void {
    this.#used.add(pathNumber)
    if (this.#used.size <= MAX_USED_PATHS) return
    const oldest = Math.min(...this.#used)
    this.#used.delete(oldest)
    this.#usedBelow = oldest
  }

  /** Takes the path on which the handshake itself ran; see `Session.adopt`. */
  adopt(path: Path, proven: boolean, rttMs: number | undefined): PathState {
    const state = this.#add(path, 0, proven ? 'proven' : 'unproven')
    state.rttMs = rttMs
    this.#start(state)
    return state
  }

  #add(path: Path, number: number, stage: PathState['stage']): PathState {
    const state = newPathState(path, number, stage)
    path.maxMessageBytes = MAX_MESSAGE_BYTES
    this.#paths.set(number, state)
    return state
  }

  #start(state: PathState): void {
    state.path.start({
      message: (message) => this.#host.guard(() => this.#onMessage(state, message)),
      drain: () => {
        if (state === this.#active) this.#host.onDrain()
      },
      close: (error) => this.lose(state, error),
    })
    state.path.resume()
    this.#choose()
    this.careSoon()
  }

  #onMessage(state: PathState, message: Uint8Array): void {
    if (this.#host.closed()) return
    if (state.stage === 'attaching') this.#onAttached(state, message)
    else this.#host.onRecord(state, message)
  }

  #onAttached(state: PathState, message: Uint8Array): void {
    let received: number
    try {
      const claim = readAttached(message, this.#keys.attachReceive)
      if (claim.pathNumber !== state.number) {
        throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'another path was attached')
      }
      received = claim.received
    } catch (error) {
      return this.lose(state, error as PeerlineError)
    }
    state.rttMs = performance.now() - state.heardAt
    this.#host.onAcked(received)
    if (this.#host.closed()) return
    this.heard(state)
    // The other side takes the path for proven when it hears something sealed just now.
    this.ping(state)
  }

  // ---- choosing ----

  /** Something came on the path that only the other side can have sent, and never before. */
  heard(state: PathState): void {
    state.heardAt = performance.now()
    if (state.stage === 'proven' || this.#host.closed()) return
    state.stage = 'proven'
    this.#choose()
    this.#host.onProven(state)
    this.#report()
  }

  /** From now on users are told of changes. */
  announce(): void {
    this.#announcing = true
    this.#report()
  }

  /** Moves to the best path there is. */
  #choose(): void {
    const next = choosePath(this.#paths.values(), this.#active)
    if (next !== this.#active) {
      this.#active = next
      this.#report()
      this.#host.onSwitch()
    }
    if (next !== undefined) this.#host.onUsable(next.stage === 'proven')
  }

  /** Tells of a change, once the path in use is proven. */
  #report(): void {
    const now = this.#active
    const before = this.#reported
    if (!this.#announcing || now?.stage !== 'proven' || now === before) return
    this.#reported = now
    if (before === undefined) return
    const reason = this.has(before) ? 'better' : 'lost'
    this.#host.onChange({ from: before.path.kind, to: now.path.kind, reason })
  }

  // ---- watching ----

  /** Pings what was silent for too long, and lets go of what does not answer. */
  #care(): void {
    if (this.#host.closed()) return
    const now = performance.now()
    // A process that was stopped wakes to timers before it reads its sockets: what waits there decides, not the clock.
    const overslept = now - this.#careDue > IMPATIENT_MS
    for (const state of [...this.#paths.values()]) {
      if (overslept || (state.pingedAt !== undefined && state.heardAt > state.pingedAt + KEEPALIVE_MS)) {
        state.pingedAt = undefined
      }
      if (overslept) state.heardAt = Math.max(state.heardAt, now - KEEPALIVE_MS)
      switch (carePath(state, now, this.#host.waitsOn(state))) {
        case 'ping':
          this.ping(state)
          break
        case 'lost':
          this.lose(state, new PeerlineError('ERR_PEERLINE_TIMEOUT', `${state.path.remote} does not answer any more`))
          break
      }
    }
    const busy = this.#host.busy() || [...this.#paths.values()].some((state) => state.pingedAt !== undefined)
    this.#careTimer = undefined
    this.careSoon(busy ? CARE_MS : KEEPALIVE_MS / 4)
  }

  /** Looks at the paths in `ms`, or sooner when that is planned already. */
  careSoon(ms: number = CARE_MS): void {
    if (this.#host.closed()) return
    const due = performance.now() + ms
    if (this.#careTimer !== undefined) {
      if (this.#careDue <= due) return
      clearTimeout(this.#careTimer)
    }
    this.#careDue = due
    this.#careTimer = setTimeout(() => this.#host.guard(() => this.#care()), ms)
    this.#careTimer.unref?.()
  }

  ping(state: PathState): void {
    const token = randomBytes(8)
    state.pingToken = token
    state.pingedAt = performance.now()
    this.#host.sendLoose(state, (frames) => frames.ping(token))
    this.careSoon()
  }

  onPing(state: PathState, token: Uint8Array): void {
    // Not answered when the path is full: its data is the answer.
    if (state.path.writable) this.#host.sendLoose(state, (frames) => frames.pong(token))
  }

  onPong(state: PathState, token: Uint8Array): void {
    if (state.pingToken === undefined || !equalBytes(token, state.pingToken)) return
    state.rttMs = performance.now() - state.pingedAt!
    state.pingToken = undefined
    state.pingedAt = undefined
  }

  // ---- going ----

  /** A path that delivers what nobody sealed is worth nothing, whoever is to blame: it goes, the session stays. */
  spoilt(state: PathState): void {
    this.lose(state, new PeerlineError('ERR_PEERLINE_PROTOCOL', `${state.path.remote} delivered a forged record`))
  }

  lose(state: PathState, error: PeerlineError | undefined): void {
    if (!this.has(state)) return
    this.#paths.delete(state.number)
    state.path.destroy(error)
    if (this.#host.closed()) return
    if (state === this.#active) this.#active = undefined
    this.#host.onLost(state)
    this.#choose()
    if (!this.#host.closed()) this.#host.onLostSettled(error)
  }

  /** Ends them all, when what was sent has gone out. */
  close(): void {
    clearTimeout(this.#careTimer)
    const paths = [...this.#paths.values()]
    this.#paths.clear()
    this.#active = undefined
    for (const { path } of paths) path.close()
  }
}
