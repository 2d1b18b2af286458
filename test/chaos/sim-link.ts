/**
 * A path between the two sides, with all that can happen to one: two ends, and between them a lane each way, see `lane.ts`.
 * Two links know nothing of each other.
 *
 * - `cut`: what is in the buffers is gone, of what is under way some still comes, and each end notices when it does.
 * - `hold`: nothing moves, and nobody is told. When it ends, all that was sent comes, as it does over TCP.
 * - An end in order is answered by the other end when its buffer is empty; an end that is destroyed takes its buffer along.
 */
import { PeerlineError } from '../../src/errors.ts'
import { MAX_FIRST_MESSAGE_BYTES, type Path, type PathHandler, type PathKind } from '../../src/path/index.ts'
import { Lane, type LaneEnd, type LaneWatcher, type LinkShape, type Mark, other, SIDES, type Side } from './lane.ts'
import { type Entry, type VirtualClock, WORLD } from './virtual-clock.ts'

/** ms that a closing path gets for its tail before it is cut, as in `framing.ts`. */
const CLOSE_GRACE_MS = 5_000

/** What happens on links, for whoever watches. */
export interface LinkWatcher extends LaneWatcher<SimPath> {
  onSend(path: SimPath, parts: readonly Uint8Array[], bytes: number): void
  /** The link works now, or does not any more, or an end of it has gone. */
  onChange(link: SimLink): void
  /** An end was given up by its own side. */
  onDestroyed(path: SimPath, error: PeerlineError | undefined): void
}

/** One end of a link. */
export class SimPath implements Path, LaneEnd {
  readonly link: SimLink
  readonly side: Side
  readonly remote: string
  maxMessageBytes: number = MAX_FIRST_MESSAGE_BYTES
  ended = false
  /** It was ended in order from this end. */
  closing = false
  /** Messages sent and received here so far. */
  sent = 0
  received = 0
  /** The most that was in its buffer, bytes. */
  peakBytes = 0
  /** A session has it. */
  taken = false
  /** The next message breaks it, as a channel does that throws in `send`. */
  breaks = false
  #handler: PathHandler | undefined
  #blocked = false
  #paused = false
  #otherEnded = false
  #grace: Entry | undefined

  constructor(link: SimLink, side: Side) {
    this.link = link
    this.side = side
    this.remote = `${link.shape.kind}-${link.index}`
  }

  get kind(): PathKind {
    return this.link.shape.kind
  }

  get #lane(): Lane<SimPath> {
    return this.link.lanes[other(this.side)]
  }

  get writable(): boolean {
    return !this.ended && !this.closing && !this.#otherEnded && !this.#blocked
  }

  /** It takes what arrives. */
  get reading(): boolean {
    return this.ended || (this.#handler !== undefined && !this.#paused)
  }

  get queuedBytes(): number {
    return this.#lane.queuedBytes
  }

  start(handler: PathHandler): void {
    this.#handler = handler
    if (this.ended) queueMicrotask(() => handler.close(undefined))
    else this.link.lanes[this.side].arrive()
  }

  send(parts: readonly Uint8Array[]): boolean {
    if (this.ended || this.closing || this.#otherEnded) return false
    let bytes = 0
    for (const part of parts) bytes += part.length
    this.link.watcher.onSend(this, parts, bytes)
    this.sent++
    if (this.breaks) {
      this.link.cut([0, 0], [undefined, undefined])
      this.end(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `cannot send to ${this.remote}`))
      return false
    }
    this.#lane.push([...parts], bytes)
    this.peakBytes = Math.max(this.peakBytes, this.queuedBytes)
    this.#blocked = this.queuedBytes >= this.link.shape.bufferBytes
    return !this.#blocked
  }

  /** Something has left the buffer. */
  drained(): void {
    const { drainsEmpty, bufferBytes } = this.link.shape
    if (!this.#blocked || this.ended || this.closing) return
    if (drainsEmpty ? this.queuedBytes > 0 : this.queuedBytes >= bufferBytes) return
    this.#blocked = false
    this.#handler?.drain()
  }

  /** All has left the buffer. */
  flushed(): void {
    // Both ends have ended in order: what the other one sent before has come, and so has its end.
    if (this.#otherEnded && !this.ended) this.end(undefined)
  }

  receive(message: Uint8Array): void {
    if (this.ended) return
    this.received++
    if (message.length > this.maxMessageBytes) throw new Error(`a message of ${message.length} bytes was sent`)
    this.#handler?.message(message)
  }

  /** The other end has ended. */
  onMark(mark: Mark): void {
    if (this.ended) return
    if (mark === 'reset') {
      return this.end(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `connection to ${this.remote} failed: ECONNRESET`))
    }
    // An end in order is answered when what waits here has gone out.
    if (this.closing) return this.end(undefined)
    this.#otherEnded = true
    this.#lane.push([], 0, 'fin')
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    this.link.lanes[this.side].arrive()
  }

  close(): void {
    if (this.ended || this.closing) return
    this.closing = true
    this.link.watcher.onChange(this.link)
    if (this.#otherEnded) return
    this.#lane.push([], 0, 'fin')
    this.#grace = this.link.clock.at(this.link.clock.now + CLOSE_GRACE_MS, this.side, 'io', () => this.destroy())
  }

  destroy(error?: PeerlineError): void {
    if (this.ended) return
    this.link.watcher.onDestroyed(this, error)
    this.tear()
    this.end(error)
  }

  /** The socket goes, as when its process ends: what is under way comes, and then the end. */
  tear(): void {
    this.#lane.finish(this.link.resets ? 'reset' : 'fin')
  }

  end(error: PeerlineError | undefined): void {
    if (this.ended) return
    this.ended = true
    this.link.clock.cancel(this.#grace)
    this.link.watcher.onChange(this.link)
    this.#handler?.close(error)
  }
}

/** Two ends and the lanes between them. */
export class SimLink {
  readonly index: number
  readonly clock: VirtualClock
  readonly shape: LinkShape
  readonly watcher: LinkWatcher
  readonly ends: readonly [SimPath, SimPath]
  /** By the side towards which they go. */
  readonly lanes: readonly [Lane<SimPath>, Lane<SimPath>]
  /** An end that is destroyed tears the other one down, instead of ending it in order. */
  readonly resets: boolean
  /** Both sides have taken it for proven. */
  proven = false
  /** The handshake ran on it. */
  adopted = false
  /** Something happened to it, or to a side while it stood: what is done to it from then on is no surprise. */
  faulted = false
  isCut = false

  constructor(index: number, clock: VirtualClock, shape: LinkShape, watcher: LinkWatcher) {
    this.index = index
    this.clock = clock
    this.shape = shape
    this.watcher = watcher
    this.resets = index % 2 === 1
    const ends: [SimPath, SimPath] = [new SimPath(this, 0), new SimPath(this, 1)]
    this.ends = ends
    this.lanes = [new Lane(clock, shape, ends[1], ends[0], watcher), new Lane(clock, shape, ends[0], ends[1], watcher)]
  }

  /** Something gets through both ways. */
  get works(): boolean {
    const [a, b] = this.ends
    if (this.isCut || this.lanes[0].held || this.lanes[1].held) return false
    return !a.ended && !b.ended && !a.closing && !b.closing
  }

  /** It has not ended at both ends. */
  get stands(): boolean {
    return !this.ends[0].ended || !this.ends[1].ended
  }

  /**
   * @param keep messages under way that still come, towards each side
   * @param noticeMs until each side is told, after what still comes; undefined: never
   */
  cut(keep: readonly [number, number], noticeMs: readonly [number | undefined, number | undefined]): void {
    this.faulted = true
    this.isCut = true
    for (const side of SIDES) {
      const last = this.lanes[side].kill(keep[side])
      const after = noticeMs[side]
      if (after === undefined) continue
      this.clock.at(Math.max(this.clock.now, last) + after, side, 'io', () =>
        this.ends[side].end(new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${this.ends[side].remote} was cut`)),
      )
    }
    this.watcher.onChange(this)
  }

  /** Nothing arrives on the lanes towards these sides, until `release`. */
  hold(towards: readonly [boolean, boolean]): void {
    this.faulted = true
    for (const side of SIDES) if (towards[side]) this.lanes[side].held = true
    this.watcher.onChange(this)
  }

  release(): void {
    for (const lane of this.lanes) {
      lane.held = false
      lane.arrive()
    }
    // An event of the world: whoever waits for room is told when it is his turn.
    this.clock.at(this.clock.now, WORLD, 'io', () => this.watcher.onChange(this))
  }
}
