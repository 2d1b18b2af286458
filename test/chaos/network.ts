/**
 * The links between the two sides: how they come, what passes on them, and who gives them up.
 */
import type { PeerlineError } from '../../src/errors.ts'
import { other, type Side } from './lane.ts'
import type { LinkPlan, Which } from './schedule.ts'
import type { Sides } from './sides.ts'
import { type LinkWatcher, SimLink, type SimPath } from './sim-link.ts'
import { Wire } from './wire.ts'
import type { World } from './world.ts'

/** Links that stand at once: below the session's limit of 8, which is not what is tested here. */
const MAX_LINKS = 6
/** ms of data in a buffer that may keep a ping from being answered in time. */
const QUEUE_MS = 1_500

export interface NetworkHost {
  /** The n-th message towards a side is about to be handed on. */
  onArrival(side: Side, at: number): void
  /** A message was handed on. */
  onDelivered(link: SimLink): void
  /** A link has come, has gone, works or does not any more. */
  assess(): void
}

export class Network implements LinkWatcher {
  readonly links: SimLink[] = []
  readonly wire: Wire
  /** Messages that came to each side. */
  readonly arrived: [number, number] = [0, 0]
  /** The lowest rate of all links, bytes per ms. */
  slowest: number = Number.POSITIVE_INFINITY
  readonly #world: World
  readonly #sides: Sides
  readonly #host: NetworkHost

  constructor(world: World, sides: Sides, host: NetworkHost) {
    this.#world = world
    this.#sides = sides
    this.#host = host
    this.wire = new Wire((what) => world.complain(what), world.coverage)
  }

  /** Every link that stands works. */
  get allWork(): boolean {
    return this.links.every((link) => link.works || !link.stands)
  }

  /** The links that a fault is for. */
  choose(which: Which): SimLink[] {
    if (which === 'first') return this.links.slice(0, 1)
    const working = this.links.filter((link) => link.works)
    if (which === 'all') return working
    const links = working.length > 0 ? working : this.links.filter((link) => link.stands && !link.isCut)
    return links.length === 0 ? [] : [links[which % links.length]!]
  }

  /** Something happens to a side: what becomes of the links is no surprise. */
  excuse(): void {
    for (const link of this.links) link.faulted = true
  }

  /** The process of a side is no more: its system closes its sockets, or nobody is told. */
  crash(side: Side, told: boolean): void {
    for (const link of this.links) {
      if (link.ends[side].ended) continue
      if (told) link.ends[side].tear()
      else link.cut([0, 0], [undefined, undefined])
      link.ends[side].ended = true
    }
  }

  /** Nothing will break any more. */
  mend(): void {
    for (const { ends } of this.links) for (const end of ends) end.breaks = false
  }

  #as(side: Side, run: () => void): void {
    const { clock } = this.#world
    clock.at(clock.now, side, 'script', run)
  }

  /** A link comes, and one side attaches it. */
  come(plan: LinkPlan): void {
    if (this.links.filter((link) => link.stands).length >= MAX_LINKS) return
    const [by, to] = [plan.by, other(plan.by)]
    const link = new SimLink(this.links.length, this.#world.clock, plan, this)
    this.links.push(link)
    this.slowest = Math.min(this.slowest, plan.bytesPerMs)
    if (this.#world.clock.isStopped(0) || this.#world.clock.isStopped(1)) link.faulted = true
    this.#world.note('come', link.index, by, () => `link ${link.index}, ${plan.kind}, comes by ${by}`)
    if (plan.lost !== 'nothing') {
      this.#world.coverage.count('attaches lost')
      link.hold([by === 0 || plan.lost === 'attach', by === 1 || plan.lost === 'attach'])
    }
    link.adopted = plan.adopted && link.index === 0
    if (link.adopted) this.#adopt(link)
    else {
      this.#listen(link.ends[to])
      this.#as(by, () => {
        link.ends[by].taken = true
        this.#sides.sessions[by].attach(link.ends[by])
      })
    }
    this.#host.assess()
  }

  /** The side that is not dialling reads the first message. */
  #listen(path: SimPath): void {
    const { side } = path
    path.start({
      message: (message) => {
        if (this.#sides.ends[side] !== undefined) return path.destroy()
        try {
          path.taken = true
          this.#sides.sessions[side].acceptAttach(path, message)
        } catch (error) {
          this.#world.complain(`${side} refused ${path.remote}: ${error}`)
          path.destroy()
        }
      },
      drain: () => {},
      close: () => {},
    })
  }

  /** The handshake ran on it: the side that answered has it first. */
  #adopt(link: SimLink): void {
    const [there, back] = link.shape.latencyMs
    this.#as(1, () => {
      link.ends[1].taken = true
      this.#sides.sessions[1].adopt(link.ends[1], false)
    })
    this.#world.clock.at(this.#world.clock.now + there, 0, 'io', () => {
      link.ends[0].taken = true
      this.#sides.sessions[0].adopt(link.ends[0], true, this.#world.schedule.seed % 2 === 0 ? there + back : undefined)
    })
  }

  onSend(path: SimPath, parts: readonly Uint8Array[], bytes: number): void {
    const { link, side } = path
    const attaches = path.sent === 0 && !link.adopted
    const number = attaches ? 0 : this.wire.onSend(path, parts, bytes)
    this.#world.note(
      'send',
      2 * link.index + side,
      number,
      () => `${side} sends ${name(number, attaches)} on ${path.remote}, ${bytes} bytes`,
    )
    if (path.breaks) {
      this.#world.coverage.count('broken in send')
      this.#world.touch()
    }
  }

  onArrival({ side }: SimPath): void {
    this.#host.onArrival(side, this.arrived[side]++)
  }

  onMessage(path: SimPath, message: Uint8Array): void {
    const { link, side } = path
    const attaches = path.received === 0 && !link.adopted
    const number = attaches || this.#sides.over(side) ? 0 : this.wire.onArrival(side, message)
    // An answer that takes longer than two keys last is none: that may be the end of a link on which all is well.
    if (!attaches && this.wire.isStale(side, message)) link.faulted = true
    this.#world.note(
      'take',
      2 * link.index + side,
      number,
      () => `${side} takes ${name(number, attaches)} from ${path.remote}`,
    )
  }

  onDelivered(path: SimPath): void {
    this.#host.onDelivered(path.link)
  }

  onChange(link: SimLink): void {
    this.#world.note('link', link.index, Number(link.works), () => {
      const ends = link.ends.map((end) => (end.ended ? 'ended' : end.closing ? 'closing' : 'open')).join(' and ')
      return `link ${link.index} ${link.works ? 'works' : 'does not work'}, ${ends}`
    })
    this.#host.assess()
  }

  onDestroyed(path: SimPath, error: PeerlineError | undefined): void {
    const { link, side } = path
    this.#world.note(
      'destroy',
      link.index,
      side,
      () => `${side} gives up link ${link.index}: ${error?.message ?? 'no reason'}`,
    )
    if (this.#sides.ends[side] !== undefined || error === undefined) return
    if (error.code === 'ERR_PEERLINE_PROTOCOL' || error.code === 'ERR_PEERLINE_HANDSHAKE') {
      this.#world.complain(`${side} takes ${path.remote} for spoilt: ${error.message}`)
    }
    if (link.faulted || this.#sides.crashed[0] || this.#sides.crashed[1]) return
    this.#world.coverage.count('false alarms')
    // A ping waits behind what is in the buffers, and has 4 s to be answered.
    const queuedMs = Math.max(link.ends[0].peakBytes, link.ends[1].peakBytes) / link.shape.bytesPerMs
    if (queuedMs < QUEUE_MS) this.#world.complain(`${side} gave up ${path.remote}, which works: ${error.message}`)
  }
}

function name(number: number, attaches: boolean): string {
  if (attaches) return 'an attach message'
  return number < 0 ? `loose record ${-1 - number}` : `record ${number}`
}
