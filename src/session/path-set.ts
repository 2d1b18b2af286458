/**
 * The paths that a session holds: attaching, proving, letting go.
 *
 * `paths.ts` has the rules, as functions; `path-chooser.ts` chooses the one that carries the data, `path-watch.ts` watches
 * over all. What a change means for the data is the session's business: it is told through {@link PathSetHost}.
 */
import { PeerlineError } from '../errors.ts'
import type { SessionKeys } from '../handshake/index.ts'
import { MAX_MESSAGE_BYTES, type Path, type PathKind } from '../path/index.ts'
import { readAttach, readAttached, writeAttach, writeAttached } from './attach.ts'
import type { FrameWriter } from './frame.ts'
import { type PathChange, PathChooser, type SendLoad } from './path-chooser.ts'
import { type PathEvent, type PathInfo, PathLog } from './path-log.ts'
import { type KeepAlive, PathWatch } from './path-watch.ts'
import {
  FIRST_PING_MS,
  FLOWING_BYTES,
  Flaps,
  MAX_PATHS,
  newPathState,
  noteRtt,
  type PathState,
  type PathTiming,
} from './paths.ts'

export type { PathChange, PathEvent, PathInfo }

/** Path numbers remembered one by one: far more than may be under way at once, out of order. */
const MAX_USED_PATHS = 64

/** Bytes of ours before it on a path that is out of use, with which an acknowledgement rather takes the path in use. */
const ACK_TAIL_BYTES = 262_144

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
  /** Proven paths have come or gone. */
  onPaths(): void
  /** A path has gone; the next one is not chosen yet. */
  onLost(state: PathState): void
  /** After {@link onLost}, when what could be chosen was. */
  onLostSettled(error: PeerlineError | undefined): void
  /** Another proven path carries the data, and users should know. */
  onChange(change: PathChange): void
  sendLoose(state: PathState, write: (frames: FrameWriter) => void): void
  /** Nothing answers on any path; or something does again. */
  onTrouble(trouble: boolean): void
  /** What is on its way. */
  load(): SendLoad
  closed(): boolean
  /** Runs what a remote set off. */
  guard(run: () => void): void
}

export class PathSet {
  readonly #keys: SessionKeys
  readonly #host: PathSetHost
  readonly #paths = new Map<number, PathState>()
  readonly #log = new PathLog()
  readonly #flaps = new Flaps()
  readonly #chooser: PathChooser
  readonly #watch: PathWatch
  /** The path on which a fresh ordered record came last. */
  #fresh: PathState | undefined
  #next: number
  readonly #used = new Set<number>()
  #usedBelow = 0

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a timing out of bounds */
  constructor(keys: SessionKeys, host: PathSetHost, timing?: Partial<PathTiming>) {
    this.#keys = keys
    this.#host = host
    this.#next = keys.initiator ? 2 : 1
    const closed = () => host.closed()
    const guard = (run: () => void) => host.guard(run)
    const paths = () => this.#paths.values()
    this.#chooser = new PathChooser(
      {
        paths,
        has: (state) => this.has(state),
        ping: (state, patienceMs) => this.#watch.ping(state, patienceMs),
        late: (state, now) => this.#watch.isLate(state, now),
        load: () => host.load(),
        onSwitch: () => host.onSwitch(),
        onUsable: (proven) => host.onUsable(proven),
        onChange: (change) => host.onChange(change),
        closed,
        guard,
      },
      this.#log,
    )
    this.#watch = new PathWatch(
      {
        paths,
        active: () => this.active,
        fresh: () => this.#fresh,
        initiator: keys.initiator,
        sendLoose: (state, write) => host.sendLoose(state, write),
        busy: () => host.load().inFlight > 0,
        held: () => host.load().held,
        onBusy: () => this.#chooser.watchSoon(),
        onTrouble: (trouble) => {
          if (trouble) this.#chooser.doubt()
          host.onTrouble(trouble)
        },
        choose: () => this.#chooser.choose(),
        onAnswered: (state) => this.#chooser.onAnswered(state),
        retire: (state) => this.#retire(state),
        lose: (state, error) => this.lose(state, error),
        closed,
        guard,
      },
      timing,
    )
  }

  /** The path in use. */
  get active(): PathState | undefined {
    return this.#chooser.active
  }

  /** The same, but for one that is merely on trial: then the one before. */
  get settled(): PathState | undefined {
    return this.#chooser.settled
  }

  /**
   * Where an acknowledgement goes: to where the data came from, for that way works, and its sender measures it. Not when
   * that one is full, or has a long tail of ours before it.
   */
  get ackPath(): PathState | undefined {
    const fresh = this.#fresh
    if (fresh === undefined || fresh === this.active) return this.active
    const quick = fresh.suspect === undefined && fresh.unackedBytes <= ACK_TAIL_BYTES && fresh.path.writable
    return quick ? fresh : this.active
  }

  /** Paths that may carry data. */
  get size(): number {
    let size = 0
    for (const { stage } of this.#paths.values()) if (stage !== 'retired') size++
    return size
  }

  /** Kinds of the proven ones that answer. */
  get proven(): PathKind[] {
    const good = [...this.#paths.values()].filter(({ stage, suspect }) => stage === 'proven' && suspect !== 'silent')
    return good.map(({ path }) => path.kind)
  }

  get info(): PathInfo[] {
    return [...this.#paths.values()].map((state) => this.#log.info(state, state === this.active))
  }

  get events(): readonly PathEvent[] {
    return this.#log.events
  }

  /** True while nothing answers on any path. */
  get trouble(): boolean {
    return this.#watch.trouble
  }

  get keepAlive(): KeepAlive {
    return this.#watch.keepAlive
  }

  setKeepAlive(ms: Partial<KeepAlive>): void {
    this.#watch.setKeepAlive(ms)
  }

  has(state: PathState): boolean {
    return this.#paths.get(state.number) === state
  }

  // ---- coming ----

  /** Attaches an open path; data may go out on it at once. */
  attach(path: Path): void {
    if (!this.#hasRoom()) return path.destroy()
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
    if (!this.#hasRoom()) throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_PATHS} paths are attached`)
    this.#remember(pathNumber)
    const state = this.#add(path, pathNumber, 'unproven')
    path.send([writeAttached({ pathNumber, received: this.#host.received() }, this.#keys.attachSend)])
    // First of all: what the other side has is not sent again.
    this.#host.guard(() => this.#host.onAcked(received))
    if (!this.#host.closed()) this.#start(state)
  }

  /** True when one more path may come, for which the longest silent one is let go. */
  #hasRoom(): boolean {
    if (this.#paths.size < MAX_PATHS) return true
    const silent = [...this.#paths.values()].filter(({ suspect }) => suspect === 'silent')
    const [oldest] = silent.sort((a, b) => a.heardAt - b.heardAt)
    if (oldest === undefined) return false
    this.lose(oldest, new PeerlineError('ERR_PEERLINE_LIMIT', `${oldest.path.remote} made room for another path`))
    return !this.#host.closed()
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
    if (rttMs !== undefined) noteRtt(state, rttMs)
    if (proven) this.#log.add(state, 'proven')
    this.#start(state)
    return state
  }

  #add(path: Path, number: number, stage: PathState['stage']): PathState {
    const state = newPathState(path, number, stage)
    path.maxMessageBytes = MAX_MESSAGE_BYTES
    this.#paths.set(number, state)
    this.#log.add(state, 'attached')
    return state
  }

  #start(state: PathState): void {
    state.path.start({
      message: (message) => this.#host.guard(() => this.#onMessage(state, message)),
      drain: () => {
        if (state === this.active) this.#host.onDrain()
      },
      close: (error) => this.lose(state, error),
    })
    state.path.resume()
    this.#chooser.choose()
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
    noteRtt(state, performance.now() - state.heardAt)
    this.#host.onAcked(received)
    if (this.#host.closed()) return
    this.heard(state)
    // The other side takes the path for proven when it hears something sealed just now.
    this.#watch.ping(state)
  }

  // ---- what comes on them ----

  /**
   * Something came on the path that only the other side can have sent, and never before.
   * @param bytes of a record that is to be acknowledged; 0: it was none
   */
  heard(state: PathState, bytes = 0): void {
    const now = performance.now()
    const ordered = bytes > 0
    state.heardAt = now
    state.receivedBytes += bytes
    // Should nothing more come, somebody must look.
    if (ordered && state.receivedBytes + state.deliveredBytes - state.movedBefore >= FLOWING_BYTES) this.#watch.soon()
    this.#watch.onHeard()
    if (ordered && state.stage !== 'retired') this.#fresh = state
    if (this.#host.closed()) return
    if (state.stage === 'proven') return this.#chooser.onHeard(state, ordered, now)
    if (state.stage === 'retired') return
    state.stage = 'proven'
    state.provenAt = now
    state.trustedAt = now + this.#flaps.holdMs(state.path.kind, now)
    this.#log.add(state, 'proven')
    // Its round trip is to be measured, when it is not known yet.
    this.#watch.soon(FIRST_PING_MS)
    this.#chooser.onProven(state)
    this.#host.onProven(state)
    this.#chooser.report()
    this.#host.onPaths()
  }

  /** A record came again: a path that has been proven is alive, with a tail that went on another meanwhile. */
  heardAgain(state: PathState): void {
    if (state.stage === 'proven') state.heardAt = performance.now()
  }

  onPing(state: PathState, token: Uint8Array): void {
    this.#watch.onPing(state, token)
  }

  onPong(state: PathState, token: Uint8Array): void {
    this.#watch.onPong(state, token)
  }

  ping(state: PathState): void {
    this.#watch.ping(state)
  }

  /** Asks every path now: one that does not answer in time is lost. */
  probe(patienceMs: number): void {
    this.#watch.probe(patienceMs)
  }

  /** The other side says that it hears nothing on them: what comes now is taken first, until they answer. */
  doubt(): void {
    this.#chooser.doubt()
  }

  /** From now on users are told of changes. */
  announce(): void {
    this.#chooser.announce()
  }

  /** Something was sent. */
  careSoon(): void {
    this.#watch.soon()
    this.#chooser.watch()
  }

  // ---- going ----

  /** A path that delivers what nobody sealed is worth nothing, whoever is to blame: it goes, the session stays. */
  spoilt(state: PathState): void {
    this.lose(state, new PeerlineError('ERR_PEERLINE_PROTOCOL', `${state.path.remote} delivered a forged record`))
  }

  /** Closes a path in order, since another of its kind stays: what comes on it until its end is still taken. */
  #retire(state: PathState): void {
    state.stage = 'retired'
    state.retiredAt = performance.now()
    if (state === this.#fresh) this.#fresh = undefined
    this.#chooser.onGone(state)
    this.#log.add(state, 'trimmed')
    state.path.close()
    this.#chooser.choose()
    this.#host.onPaths()
  }

  /** Closes the paths of a kind in order, where another proven one stays. */
  letGo(kind: PathKind): void {
    for (const state of [...this.#paths.values()]) {
      const { stage, path } = state
      if (stage === 'proven' && path.kind === kind && this.proven.some((other) => other !== kind)) this.#retire(state)
    }
  }

  /** TCP has one connection between two ports: one that does not answer makes room for the next, where nothing else answers. */
  vacate(remotes: ReadonlySet<string>): void {
    if (!this.trouble) return
    for (const state of [...this.#paths.values()]) {
      const { path, pingedAt } = state
      if (path.kind !== 'tcp' || !remotes.has(path.remote)) continue
      if (pingedAt === undefined || state.heardAt >= pingedAt) continue
      this.lose(
        state,
        new PeerlineError('ERR_PEERLINE_TIMEOUT', `${path.remote} does not answer, and is dialled again`),
      )
    }
  }

  /** The paths to `remote` will end soon: others come before them. */
  leave(remote: (address: string) => boolean): void {
    for (const state of this.#paths.values()) {
      if (remote(state.path.remote)) state.trustedAt = Number.POSITIVE_INFINITY
    }
    this.#chooser.choose()
  }

  lose(state: PathState, error: PeerlineError | undefined): void {
    if (!this.has(state)) return
    this.#paths.delete(state.number)
    state.path.destroy(error)
    if (this.#host.closed()) return
    const now = performance.now()
    if (state.stage !== 'retired') this.#log.add(state, 'lost', error?.message)
    if (state.stage === 'proven') this.#flaps.add(state.path.kind, now)
    const used = state === this.active
    if (state === this.#fresh) this.#fresh = undefined
    this.#chooser.onGone(state)
    this.#host.onLost(state)
    this.#chooser.choose()
    if (this.#host.closed()) return
    // What ended one path may have ended the next one, too, and nobody has asked that for long.
    if (used && this.active?.stage === 'proven' && this.active.pingedAt === undefined) this.ping(this.active)
    this.#host.onLostSettled(error)
    if (state.stage === 'proven' && !this.#host.closed()) this.#host.onPaths()
  }

  /** Ends them all, when what was sent has gone out; one that never answered at once. */
  close(): void {
    this.#watch.close()
    const paths = [...this.#paths.values()]
    this.#paths.clear()
    this.#chooser.close()
    for (const { path, stage } of paths) {
      if (stage === 'attaching') path.destroy()
      else path.close()
    }
  }
}
