/**
 * One schedule, run: two real sessions with simulated links between them, on a virtual clock.
 *
 *     schedule --> links and faults --> sessions --> traffic, checked as it comes --> verdict
 *
 * The simulation plays the connecting room as well: when no link works any more, another comes, inside of the reconnect
 * window or after it, as the schedule says. `gap.ts` knows what the sessions must survive; `verdict.ts` asks for it.
 */
import { Coverage, Trace } from './coverage.ts'
import { FIRST_PATH_MS, Gap } from './gap.ts'
import { SIDES, type Side } from './lane.ts'
import { Network } from './network.ts'
import type { Fault, Schedule, When } from './schedule.ts'
import { Sides } from './sides.ts'
import { Traffic } from './traffic.ts'
import { judge } from './verdict.ts'
import { type Owner, VirtualClock, WORLD } from './virtual-clock.ts'
import type { World } from './world.ts'

const realImmediate = setImmediate

/** ms after the last thing that happened, beyond what the data itself takes, in which all must have come. */
const PATIENCE_MS = 60_000
/** ms in which a silent path is given up, beyond its keep-alive, and a session that closes has closed. */
const NOTICE_MS = 45_000
/** ms in which the last end of a stream is acknowledged, on the slowest of links. */
const FIN_MS = 5_000
/** ms after the end in which what is left must go. */
const REMAINS_MS = 20_000
/** ms between trouble and the link that comes of it: an offer and its answer. */
const SEEK_MS = 60
/** Violations of one schedule that are told. */
const MAX_VIOLATIONS = 8

/** What a run has shown. */
export interface Outcome {
  /** Of all that happened. */
  readonly hash: string
  readonly violations: readonly string[]
  readonly coverage: Coverage
  /** What happened, when that was asked for. */
  readonly lines: readonly string[]
  /** Messages that came to each side. */
  readonly messages: readonly [number, number]
  /** The most that was on its way from a side at once, bytes. */
  readonly peakBytes: number
}

export class Simulation implements World {
  readonly schedule: Schedule
  readonly clock: VirtualClock
  readonly coverage: Coverage = new Coverage()
  readonly traffic: Traffic
  readonly violations: string[] = []
  /** All has come, and the sessions are closed in order. */
  ending = false
  /** When that began, every link that stood worked. */
  allWork = false
  // These begin with the run, for sessions look at the clock.
  sides!: Sides
  network!: Network
  gap!: Gap
  readonly #trace: Trace
  /** What waits for its message. */
  #pending: { readonly when: When; readonly fault: Fault }[]
  /** Things that will happen at their time. */
  #planned = 0
  #changedAt = 0
  #stuck = false
  #sought = 0

  constructor(schedule: Schedule, keepLines = false) {
    this.schedule = schedule
    this.clock = new VirtualClock(schedule.seed)
    this.#trace = new Trace(keepLines)
    this.traffic = new Traffic(this.clock, schedule.streams, this.complain)
    this.#pending = schedule.faults.filter(({ when }) => 'message' in when)
  }

  readonly complain = (what: string): void => {
    this.note('!', 0, 0, () => `VIOLATION: ${what}`)
    if (this.violations.length < MAX_VIOLATIONS) this.violations.push(what)
  }

  readonly note = (what: string, a: number, b: number, text: () => string): void => {
    this.#trace.note(this.clock.elapsed, what, a, b, text)
  }

  readonly touch = (): void => {
    this.#changedAt = this.clock.now
  }

  /** The sessions need not survive, or not both. */
  get mayEnd(): boolean {
    return (this.sides.chosen && !this.ending) || this.gap.doomed || !this.gap.certain
  }

  // ---- a run ----

  async run(): Promise<Outcome> {
    const { clock, coverage, violations, complain } = this
    const unhandled = (error: unknown) => complain(`nobody handles ${error}`)
    process.on('unhandledRejection', unhandled)
    clock.install()
    try {
      await this.#run()
    } catch (error) {
      complain(said(error))
    } finally {
      clock.uninstall()
      // Rejections that nobody handles are told of when the promises of this turn have settled.
      await new Promise((resolve) => realImmediate(resolve))
      process.off('unhandledRejection', unhandled)
    }
    for (const error of clock.thrown) complain(`thrown: ${said(error)}`)
    coverage.count('schedules')
    if (!this.mayEnd) coverage.count('survived')
    this.sides.count()
    this.traffic.count(coverage)
    const { hash, lines } = this.#trace
    const { arrived: messages, wire } = this.network
    return { hash, violations, coverage, lines: lines ?? [], messages, peakBytes: wire.peakBytes }
  }

  #begin(): void {
    const { clock, schedule, traffic } = this
    this.sides = new Sides(this, {
      traffic,
      onTrouble: (side) => this.#seek(side),
      onEnd: (side, how) => {
        if (!this.mayEnd && !this.ending) this.complain(`${side} ended inside of the window: ${how}`)
        this.gap.comeLate()
      },
    })
    this.network = new Network(this, this.sides, {
      onArrival: (side, at) => this.#fireAt(side, at),
      onDelivered: (link) => this.gap.onDelivered(link),
      assess: () => this.gap.assess(),
    })
    this.gap = new Gap(this, this.sides, this.network)
    this.touch()
    for (const { when, fault } of schedule.faults) if ('ms' in when) this.#later(when.ms, () => this.#fire(fault))
    for (const [index, { by, atMs }] of schedule.streams.entries()) {
      this.#later(atMs, () => traffic.open(index, this.sides.sessions[by]), by)
    }
    clock.owner = WORLD
  }

  async #run(): Promise<void> {
    this.#begin()
    const { clock, schedule, sides, traffic } = this
    const over = () => sides.bothOver
    for (let idleMs = schedule.idleMs + FIN_MS; !over() && !this.#stuck; idleMs = FIN_MS) {
      await this.#until(() => over() || this.#settled)
      await clock.run(over, clock.now + idleMs)
      if (this.#settled) break
    }
    if (!over() && !this.#stuck) this.#end()
    await this.#until(over)
    await clock.run(() => false, clock.now + REMAINS_MS)
    // What was received whole may be read when the session is over.
    const read = () => traffic.flows.every(({ reader, readEnd }) => readEnd !== undefined || sides.crashed[reader])
    await clock.run(read, clock.now + NOTICE_MS)
    judge(this)
  }

  /** Everything has come, both sessions stand, and nothing more will happen by itself. */
  get #settled(): boolean {
    const { clock, gap, sides, traffic } = this
    if (this.#planned > 0 || gap.since !== undefined || gap.doomed || sides.chosen || !traffic.done) return false
    return SIDES.every((side) => !sides.over(side) && !clock.isStopped(side))
  }

  /** Closes in order, with nothing in the way. */
  #end(): void {
    const { network, sides } = this
    this.#pending = []
    network.mend()
    for (const side of SIDES) {
      const { streams, state } = sides.sessions[side]
      if (streams > 0) this.complain(`${side} has ${streams} streams when all have ended`)
      if (state !== 'open') this.complain(`${side} is ${state} while a path works`)
    }
    this.ending = true
    this.allWork = network.allWork
    for (const side of this.schedule.closers) this.#as(side, () => sides.close(side))
  }

  /** Runs until `done`; it must come to be in bounded time after the last thing that happened. */
  async #until(done: () => boolean): Promise<void> {
    const { clock, sides } = this
    while (!done() && !this.#stuck) {
      const deadline = this.#changedAt + this.#patienceMs
      if (clock.now >= deadline) {
        const states = SIDES.map((side) => (sides.over(side) ? 'over' : sides.sessions[side].state)).join(' and ')
        const left = this.traffic.flows.filter((flow) => !flow.done)
        const flows = left.map((flow) => `${flow.name}: ${flow.read}/${flow.written}/${flow.total}`).join(', ')
        this.#stuck = true
        return this.complain(`stuck for ${Math.round(clock.now - this.#changedAt)} ms: ${states}; ${flows}`)
      }
      await clock.run(done, deadline)
    }
  }

  get #patienceMs(): number {
    let ms = PATIENCE_MS + this.traffic.takesMs(this.network.slowest)
    if (this.mayEnd || this.ending) ms += this.schedule.windowMs + 1.5 * this.sides.keepAliveMs + NOTICE_MS
    return ms
  }

  #as(owner: Owner, run: () => void): void {
    this.clock.at(this.clock.now, owner, 'script', run)
  }

  #later(ms: number, run: () => void, owner: Owner = WORLD): void {
    this.#planned++
    this.clock.at(this.clock.now + ms, owner, 'script', () => {
      this.#planned--
      this.touch()
      run()
    })
  }

  // ---- what happens ----

  #fireAt(side: Side, message: number): void {
    if (this.#pending.length === 0) return
    const due = ({ when }: { when: When }) => 'message' in when && when.toward === side && when.message === message
    const now = this.#pending.filter(due)
    this.#pending = this.#pending.filter((one) => !due(one))
    for (const { fault } of now) this.#fire(fault)
  }

  #fire(fault: Fault): void {
    const { coverage, clock, network } = this
    this.touch()
    this.note(fault.do, 0, 0, () => JSON.stringify(fault))
    switch (fault.do) {
      case 'come':
        if (this.gap.doomed) return
        if (clock.elapsed > 0) coverage.count('late links')
        return network.come(fault.plan)
      case 'cut':
        for (const link of network.choose(fault.link)) {
          coverage.count(fault.noticeMs.includes(undefined) ? 'silent cuts' : 'cuts')
          link.cut(fault.keep, fault.noticeMs)
        }
        return
      case 'hold':
        return this.#hold(fault)
      case 'break':
        for (const link of network.choose(fault.link)) link.ends[fault.side].breaks = true
        return
      case 'stop':
        return this.#stop(fault.side, fault.forMs)
      case 'crash':
        return this.#crash(fault.side, fault.told)
      default:
        return this.#as(fault.side, () => this.sides.act(fault))
    }
  }

  #hold({ link: which, toward, forMs }: Fault & { do: 'hold' }): void {
    for (const link of this.network.choose(which)) {
      this.coverage.count(toward[0] && toward[1] ? 'black holes' : 'half black holes')
      link.hold(toward)
      if (forMs === undefined) continue
      this.#later(forMs, () => {
        if (this.gap.doomed || link.isCut) return
        this.coverage.count('holes that healed')
        link.release()
      })
    }
  }

  #stop(side: Side, forMs: number): void {
    const { clock, gap, schedule, sides } = this
    if (clock.isStopped(side)) return
    this.coverage.count('stopped sides')
    this.network.excuse()
    // The other side may take it for gone, and cannot bring it back before it goes on.
    const windowMs = sides.opened[0] && sides.opened[1] ? schedule.windowMs : Math.min(FIRST_PATH_MS, schedule.windowMs)
    if (forMs > windowMs / 2) gap.certain = false
    clock.stop(side)
    sides.stopped[side] = true
    gap.assess()
    this.#later(forMs, () => {
      if (sides.crashed[side]) return
      this.note('resume', side, 0, () => `${side} goes on`)
      clock.resume(side)
      gap.assess()
    })
  }

  #crash(side: Side, told: boolean): void {
    if (this.sides.over(side)) return
    this.coverage.count('crashes')
    this.sides.crash(side)
    this.network.crash(side, told)
    this.gap.comeLate()
  }

  /** Nothing answers: another link comes beside those there are, as it would through any signaling that works. */
  #seek(side: Side): void {
    const { clock, gap, schedule, sides } = this
    if (this.#sought >= schedule.seeks) return
    const { plan } = schedule.rescues[this.#sought++ % schedule.rescues.length]!
    clock.at(clock.now + SEEK_MS, side, 'script', () => {
      if (!gap.doomed && !sides.over(0) && !sides.over(1)) this.network.come({ ...plan, by: side })
    })
  }
}

function said(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
