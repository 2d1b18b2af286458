/**
 * The time in which no link works that was proven at both sides, as somebody knows it who sees both and all that is between
 * them: from that follows what the sessions must do.
 *
 *     a proven link works --none does--> gap --one works, and is proven at both sides--> a proven link works
 *                                  |
 *                                  +-- none comes inside of the window --> doomed: both sessions must end
 *
 * - A session notices that its last path is lost after it was, so its window ends after the gap's. A gap that ends inside
 *   of the window, with time for the new link to be proven, is one that every session must survive.
 * - Where that is not sure, because a side was stopped for long, or the new link broke before it was proven, `certain` is
 *   false: the sessions may go either way, but they must go it together.
 */

import { type LinkShape, SIDES, type Side } from './lane.ts'
import type { Network } from './network.ts'
import type { LinkPlan } from './schedule.ts'
import type { Sides } from './sides.ts'
import type { SimLink } from './sim-link.ts'
import { type Entry, WORLD } from './virtual-clock.ts'
import type { World } from './world.ts'

/** ms in which a session must have got its first path. */
export const FIRST_PATH_MS = 15_000

/** Messages, one after the other, that it takes to prove a path at both sides, and one more. */
const PROOF_FLIGHTS = 4
/** ms more for them to be sent and read. */
const PROOF_MS = 200

/** ms between attempts to dial the other side when the window is over. */
const LATE_MS = 1_000

/** Links that come and never answer, at most, while the window runs out. */
const MAX_KNOCKS = 6

export class Gap {
  readonly #world: World
  readonly #sides: Sides
  readonly #network: Network
  /** When the last proven link stopped working; undefined while one works. */
  since: number | undefined
  doomed = false
  certain = true
  #planned: Entry | undefined
  #rescues = 0
  #dials = false

  /** No link has come yet. */
  constructor(world: World, sides: Sides, network: Network) {
    this.#world = world
    this.#sides = sides
    this.#network = network
    this.since = world.clock.now
  }

  /** When such a link must have come at the latest, for the sessions to survive without a doubt. */
  #latest({ latencyMs, batchMs }: LinkShape): number {
    const { windowMs } = this.#world.schedule
    const { opened } = this.#sides
    const window = opened[0] && opened[1] ? windowMs : Math.min(windowMs, FIRST_PATH_MS)
    return this.since! + window - PROOF_FLIGHTS * (Math.max(...latencyMs) + batchMs) - PROOF_MS
  }

  /** Something has changed: a link, or a side. */
  assess(): void {
    const { clock, coverage, note, schedule, touch } = this.#world
    const { links } = this.#network
    if (this.doomed || this.#sides.over(0) || this.#sides.over(1)) return
    const paused = clock.isStopped(0) || clock.isStopped(1)
    const working = paused ? [] : links.filter((link) => link.works)
    if (working.some((link) => link.proven)) {
      if (this.since === undefined) return
      this.since = undefined
      touch()
      return note('rescued', 0, 0, () => 'a proven link works')
    }
    if (this.since === undefined) {
      this.since = clock.now
      coverage.count('all links lost')
      note('gap', 0, 0, () => 'no proven link works')
    }
    // Those that have come and are not proven yet must be so in time.
    if (working.length > 0 && working.every(({ shape }) => this.#latest(shape) < clock.now)) this.certain = false
    if (this.#planned !== undefined || links.some((link) => link.works)) return
    const rescue = schedule.rescues[this.#rescues++ % schedule.rescues.length]!
    const latest = this.#latest(rescue.plan)
    if (rescue.after === undefined || latest < this.since) return this.#doom(rescue.plan)
    if (latest < clock.now) this.certain = false
    const at = Math.min(latest, this.since + rescue.after * schedule.windowMs)
    this.#planned = clock.at(at, rescue.plan.by, 'script', () => {
      this.#planned = undefined
      if (this.since === undefined || links.some((link) => link.works)) return
      if (clock.now > latest) this.certain = false
      touch()
      this.#network.come(rescue.plan)
    })
  }

  /** A message was delivered on a link. */
  onDelivered(link: SimLink): void {
    if (link.proven || !SIDES.every((side) => this.#isProven(link, side))) return
    link.proven = true
    this.assess()
  }

  #isProven({ ends }: SimLink, side: Side): boolean {
    return this.#sides.sessions[side].pathInfo.some(({ remote, proven }) => proven && remote === ends[side].remote)
  }

  /** No link will come in time that works. */
  #doom(plan: LinkPlan): void {
    this.doomed = true
    this.comeLate()
    this.#knock(plan, MAX_KNOCKS)
  }

  /** Links come that open, and swallow everything: they must not make the window any longer. */
  #knock(plan: LinkPlan, left: number): void {
    const { clock, schedule } = this.#world
    if (left === 0) return
    clock.at(clock.now + schedule.windowMs / 3 + LATE_MS, plan.by, 'script', () => {
      if (this.#sides.over(0) || this.#sides.over(1)) return
      this.#network.come({ ...plan, adopted: false, lost: 'attach' })
      this.#knock(plan, left - 1)
    })
  }

  /** Dials as soon as just one side is left to dial: it is told that the other one is gone, or hears nothing. */
  comeLate(): void {
    const { clock, schedule, touch } = this.#world
    if (this.#dials || !schedule.tells) return
    this.#dials = true
    clock.at(clock.now + LATE_MS, WORLD, 'script', () => {
      this.#dials = false
      const left = SIDES.filter((side) => !this.#sides.over(side))
      if (left.length === 0) return
      if (left.length === 1) {
        touch()
        clock.at(clock.now, left[0]!, 'script', () => this.#sides.tellGone(left[0]!))
      }
      this.comeLate()
    })
  }
}
