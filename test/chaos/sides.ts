/**
 * The two sides: a real session each, what it tells, and what its owner does with it.
 */
import { PeerlineError } from '../../src/errors.ts'
import type { PeerId } from '../../src/identity/index.ts'
import { testKeys } from '../../src/session/memory-path.compliance.ts'
import { Session } from '../../src/session/session.ts'
import { other, SIDES, type Side } from './lane.ts'
import type { Fault } from './schedule.ts'
import type { Traffic } from './traffic.ts'
import { WORLD } from './virtual-clock.ts'
import type { World } from './world.ts'

/** ms of silence after which a path is pinged, when nobody says otherwise. */
const KEEPALIVE_MS = 20_000

/** How a session ended. */
export interface End {
  readonly ms: number
  readonly error: PeerlineError | undefined
}

export interface SidesHost {
  readonly traffic: Traffic
  /** Nothing answers a side. */
  onTrouble(side: Side): void
  /** A session has ended. */
  onEnd(side: Side, how: string): void
}

export class Sides {
  readonly #world: World
  readonly #host: SidesHost
  readonly sessions: readonly [Session, Session]
  readonly opened: [boolean, boolean] = [false, false]
  readonly ends: [End | undefined, End | undefined] = [undefined, undefined]
  readonly crashed: [boolean, boolean] = [false, false]
  readonly aborted: [boolean, boolean] = [false, false]
  /** It was stopped for a while. */
  readonly stopped: [boolean, boolean] = [false, false]
  /** When `close` was called, ms. */
  readonly closedAt: [number | undefined, number | undefined] = [undefined, undefined]
  /** The longest that a side lets an idle path be silent, ms. */
  keepAliveMs: number = KEEPALIVE_MS
  /** Since when a side is reconnecting, ms. */
  readonly #since: [number | undefined, number | undefined] = [undefined, undefined]
  /** What each side has told, and got, of candidates. */
  readonly #told: readonly [number[], number[]] = [[], []]
  readonly #got: readonly [number[], number[]] = [[], []]

  constructor(world: World, host: SidesHost) {
    this.#world = world
    this.#host = host
    this.sessions = [this.#begin(0), this.#begin(1)]
  }

  /** The session of a side has ended, or its process has. */
  over(side: Side): boolean {
    return this.crashed[side] || this.ends[side] !== undefined
  }

  get bothOver(): boolean {
    return this.over(0) && this.over(1)
  }

  /** Somebody has done what ends a session. */
  get chosen(): boolean {
    return SIDES.some((side) => this.crashed[side] || this.aborted[side] || this.closedAt[side] !== undefined)
  }

  #begin(side: Side): Session {
    const { clock, schedule } = this.#world
    const { rekeyRecords } = schedule
    clock.owner = side
    const session = new Session({
      keys: testKeys(side === 0),
      peer: (side === 0 ? 'responder' : 'initiator') as PeerId,
      onStream: (stream) => this.#host.traffic.accept(stream, side),
      reconnectMs: schedule.windowMs,
      ...(rekeyRecords === undefined ? {} : { rekey: { records: rekeyRecords } }),
    })
    clock.owner = WORLD
    this.#watch(session, side)
    return session
  }

  #watch(session: Session, side: Side): void {
    const { clock, coverage } = this.#world
    session.addEventListener('open', () => {
      if (this.opened[side]) this.#world.complain(`${side} was opened twice`)
      this.opened[side] = true
      this.#world.note('open', side, 0, () => `${side} is open`)
    })
    session.addEventListener('path', ({ detail: { from, to, reason } }) => {
      coverage.count('changes of path')
      this.#world.note('path', side, 0, () => `${side} moves from ${from} to ${to}: ${reason}`)
    })
    const turn = (now: boolean) => {
      if (now === (this.#since[side] !== undefined))
        this.#world.complain(`${side} was told twice that it is ${session.state}`)
      this.#since[side] = now ? clock.now : undefined
      this.#world.note('reconnecting', side, Number(now), () => `${side} is ${session.state}`)
    }
    session.addEventListener('reconnecting', () => turn(true))
    session.addEventListener('reconnected', () => {
      turn(false)
      coverage.count('reconnects')
    })
    session.addEventListener('trouble', () => {
      this.#world.note('trouble', side, 0, () => `${side} is in trouble`)
      coverage.count('troubles')
      this.#host.onTrouble(side)
    })
    session.addEventListener('candidates', ({ detail }) => this.#got[side].push(detail[0]!))
    session.addEventListener('close', ({ detail: { error } }) => {
      if (this.ends[side] !== undefined) this.#world.complain(`${side} was closed twice`)
      this.ends[side] = { ms: clock.now, error }
      this.#world.touch()
      const how = error === undefined ? 'in order' : `${error.code} ${error.message}`
      this.#world.note('close', side, 0, () => `${side} has ended: ${how}`)
      if (error?.code === 'ERR_PEERLINE_PATH_LOST') coverage.count('window expirations')
      this.#host.onEnd(side, how)
      if (error !== undefined) this.#judgeWindow(side, error)
      // Not those that run out by themselves in a moment, either.
      clock.at(clock.now, WORLD, 'script', () => {
        const timers = clock.timersOf(side)
        if (timers > 0) this.#world.complain(`${side} has ${timers} timers when it has ended`)
      })
    })
  }

  // ---- what a side does ----

  act(fault: Fault & { readonly side: Side }): void {
    const { side } = fault
    const { coverage } = this.#world
    if (this.over(side)) return
    const session = this.sessions[side]
    switch (fault.do) {
      case 'close':
        coverage.count('closed on the way')
        return this.close(side)
      case 'abort':
        coverage.count('aborted on the way')
        this.aborted[side] = true
        return session.abort(new PeerlineError('ERR_PEERLINE_DENIED', 'the application gave up'))
      case 'keepAlive':
        this.keepAliveMs = Math.max(this.keepAliveMs, fault.ms)
        session.keepAliveMs = { [fault.kind]: fault.ms }
        return
      case 'candidates':
        coverage.count('candidates')
        return this.#tell(side)
      case 'probe':
        coverage.count('probes')
        return session.probe(fault.patienceMs)
      case 'doubt':
        return session.doubt()
    }
  }

  #tell(side: Side): void {
    const told = this.#told[side]
    const session = this.sessions[side]
    // Between two paths there is another way to tell: the offer that brings the next one.
    if (session.state === 'open' || session.state === 'connecting') told.push(told.length)
    session.sendCandidates(Uint8Array.of(told.length - 1))
  }

  close(side: Side): void {
    const { clock, complain, note, touch } = this.#world
    if (this.over(side) || this.closedAt[side] !== undefined) return
    this.closedAt[side] = clock.now
    touch()
    note('closing', side, 0, () => `${side} closes`)
    this.sessions[side].close().catch((error) => complain(`${side}: close failed with ${error}`))
  }

  /** A side has dialled the other one, and was told that there is no such session. */
  tellGone(side: Side): void {
    if (this.over(side)) return
    this.#world.coverage.count('told of a session that is gone')
    const theirs = this.ends[other(side)]
    const orderly = theirs !== undefined && theirs.error === undefined
    const error = new PeerlineError('ERR_PEERLINE_UNKNOWN_SESSION', 'the other side does not know the session')
    this.sessions[side].endedThere(orderly ? undefined : error)
  }

  /** The process of a side is no more. */
  crash(side: Side): void {
    this.crashed[side] = true
    this.#world.clock.forget(side)
  }

  // ---- what comes of it ----

  /** A session that was reconnecting fails when its window is over, not before, and not later. */
  #judgeWindow(side: Side, { code }: PeerlineError): void {
    const { clock, complain, schedule } = this.#world
    const since = this.#since[side]
    if (since === undefined || code !== 'ERR_PEERLINE_PATH_LOST') return
    const late = Math.round(clock.now - since - schedule.windowMs)
    // A side that was stopped wakes late; one that closes waits for less.
    if (late < 0 && this.closedAt[side] === undefined) complain(`${side} ended ${-late} ms before its window`)
    if (late > 1 && !this.stopped[side]) complain(`${side} ended ${late} ms after its window`)
  }

  /** Candidates come once, in order, and all of them when both sides survive. */
  judgeCandidates(survived: boolean): void {
    for (const side of SIDES) {
      const [got, told] = [this.#got[side], this.#told[other(side)]]
      const exact = got.every((one, at) => one === told[at]) && got.length <= told.length
      if (exact && (got.length === told.length || !survived)) continue
      this.#world.complain(`${side} got candidates ${got} of ${told}`)
    }
  }

  count(): void {
    for (const { pathHistory } of this.sessions) {
      const trimmed = pathHistory.filter(({ what }) => what === 'trimmed')
      this.#world.coverage.count('trimmed links', trimmed.length)
    }
  }
}
