/**
 * One direction of a link that exists on a {@link VirtualClock} only.
 *
 *     send --> buffer of the sender --rate--> under way --latency--> the other end
 *
 * - It keeps its order and delivers whole messages, as `path.ts` says.
 * - `kill`: what is in the buffer is gone, of what is under way some still comes. `held`: nothing arrives for a while.
 * - The bytes of a message are overwritten once the receiver has returned: who keeps them copies them.
 */
import type { PathKind } from '../../src/path/index.ts'
import type { Entry, VirtualClock } from './virtual-clock.ts'

export type Side = 0 | 1
export const SIDES: readonly [Side, Side] = [0, 1]

export function other(side: Side): Side {
  return side === 0 ? 1 : 0
}

/** What a link does to what is sent on it. Pairs are one for each direction: the one towards side 0, then towards side 1. */
export interface LinkShape {
  readonly kind: PathKind
  /** One way, ms. */
  readonly latencyMs: readonly [number, number]
  readonly bytesPerMs: number
  /** Bytes in the sender's buffer from which it is asked to wait. */
  readonly bufferBytes: number
  /** Bytes that may be under way, besides one message. */
  readonly windowBytes: number
  /** Arrivals are gathered: what comes within so many ms is read at once. */
  readonly batchMs: number
  /** The sender is told of room only when its buffer is empty, as with TCP; else as soon as there is any. */
  readonly drainsEmpty: boolean
}

/** How a lane ends: in order, or torn down. */
export type Mark = 'fin' | 'reset'

interface Item {
  /** Kept as it was given until it arrives: a sender that changes it is found out. */
  readonly parts: readonly Uint8Array[]
  readonly bytes: number
  readonly mark: Mark | undefined
  at: number
}

/** What a lane needs of the ends it joins. */
export interface LaneEnd {
  readonly side: Side
  readonly ended: boolean
  /** It takes what arrives. */
  readonly reading: boolean
  receive(message: Uint8Array): void
  /** The other end has ended. */
  onMark(mark: Mark): void
  /** Something has left the buffer. */
  drained(): void
  /** All has. */
  flushed(): void
}

/** What happens on a lane, for whoever watches. */
export interface LaneWatcher<E> {
  /** Before a message is handed on, which may then not be: whoever is told may do things to the link. */
  onArrival(end: E): void
  /** It is handed on now. */
  onMessage(end: E, message: Uint8Array): void
  /** After it was. */
  onDelivered(end: E): void
}

/** One direction. */
export class Lane<E extends LaneEnd> {
  readonly #clock: VirtualClock
  readonly #shape: LinkShape
  readonly #from: E
  readonly #to: E
  readonly #latencyMs: number
  readonly #watcher: LaneWatcher<E>
  readonly queue: Item[] = []
  flight: Item[] = []
  queuedBytes = 0
  held = false
  /** What is sent goes nowhere. */
  dead = false
  #flightBytes = 0
  #freeAt = 0
  #lastAt = 0
  #departure: Entry | undefined
  #arrival: Entry | undefined

  constructor(clock: VirtualClock, shape: LinkShape, from: E, to: E, watcher: LaneWatcher<E>) {
    this.#clock = clock
    this.#shape = shape
    this.#from = from
    this.#to = to
    this.#latencyMs = shape.latencyMs[to.side]
    this.#watcher = watcher
  }

  push(parts: readonly Uint8Array[], bytes: number, mark?: Mark): void {
    this.queuedBytes += bytes
    // Nothing will ever read it: its bytes fill the buffer all the same.
    if (this.dead) return
    this.queue.push({ parts, bytes, mark, at: 0 })
    this.depart()
  }

  /** Puts the next message on the way, when the line is free. */
  depart(): void {
    if (this.#departure !== undefined || this.dead || this.queue.length === 0) return
    const { bytes } = this.queue[0]!
    if (this.#flightBytes > 0 && this.#flightBytes + bytes > this.#shape.windowBytes) return
    this.#freeAt = Math.max(this.#freeAt, this.#clock.now) + bytes / this.#shape.bytesPerMs
    this.#departure = this.#clock.at(this.#freeAt, this.#from.side, 'io', () => {
      this.#departure = undefined
      const item = this.queue.shift()
      if (item === undefined || this.dead) return
      this.queuedBytes -= item.bytes
      this.#flightBytes += item.bytes
      const { batchMs } = this.#shape
      const at = Math.max(this.#lastAt, this.#clock.now + this.#latencyMs)
      item.at = batchMs > 0 ? Math.ceil(at / batchMs) * batchMs : at
      this.#lastAt = item.at
      this.flight.push(item)
      this.arrive()
      this.depart()
      this.#from.drained()
      if (this.queue.length === 0) this.#from.flushed()
    })
  }

  /** Sees to it that what is under way arrives when it is time. */
  arrive(): void {
    if (this.#arrival !== undefined || this.held || this.flight.length === 0) return
    this.#arrival = this.#clock.at(this.flight[0]!.at, this.#to.side, 'io', () => {
      this.#arrival = undefined
      const to = this.#to
      while (this.flight.length > 0 && this.flight[0]!.at <= this.#clock.now) {
        // Held up, or nobody reads yet: `resume`, `start` or `release` go on.
        if (this.held || !to.reading) return
        const item = this.flight[0]!
        const message = item.mark === undefined ? Buffer.concat(item.parts) : undefined
        if (message !== undefined && !to.ended) this.#watcher.onArrival(to)
        // It may just have been lost, or held up.
        if (this.flight[0] !== item || this.held) continue
        this.flight.shift()
        this.#flightBytes -= item.bytes
        if (item.mark !== undefined) to.onMark(item.mark)
        else if (message !== undefined && !to.ended) {
          this.#watcher.onMessage(to, message)
          to.receive(message)
          message.fill(0xee)
          this.#watcher.onDelivered(to)
        }
      }
      this.arrive()
      // The sender learns of room in an event of its own.
      this.#clock.at(this.#clock.now, this.#from.side, 'io', () => this.depart())
    })
  }

  /** Nothing more gets in, and of what is under way only the first `keep` messages come. When those have come. */
  kill(keep: number): number {
    this.dead = true
    this.#clock.cancel(this.#departure)
    this.queue.length = 0
    this.flight = this.flight.slice(0, keep)
    return this.flight.at(-1)?.at ?? 0
  }

  /** The sender's own buffer is thrown away; behind what is under way comes the end. */
  finish(mark: Mark): void {
    if (this.dead) return
    this.queue.length = 0
    this.queuedBytes = 0
    this.#clock.cancel(this.#departure)
    this.#lastAt = Math.max(this.#lastAt, this.#clock.now + this.#latencyMs)
    this.flight.push({ parts: [], bytes: 0, mark, at: this.#lastAt })
    this.dead = true
    this.arrive()
  }
}
