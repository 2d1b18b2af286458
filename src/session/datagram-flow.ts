/**
 * How many datagrams may be on their way: they have no acknowledgements, and a pipe says that it is full only when
 * megabytes wait in it. Whoever sends faster than the path would otherwise fill it with what is old before it arrives,
 * and no ping would get through in time.
 *
 *     datagrams ... PING datagrams ... |            a path is ordered: when its PONG comes,
 *               <-- PONG --------------             everything before the PING has arrived
 *
 * - At most a window of bytes is on its way unanswered; it doubles while it is what holds datagrams up and answers come
 *   quickly, and is halved when one takes 150 ms longer than the path needs.
 * - Beside bulk data, whose bytes wait in the same pipe, datagrams may have a quarter of what that has on its way: neither
 *   starves the other.
 * - A side whose own pipe is full does not answer pings, its data does: what was heard since then counts after a second.
 */
import type { PathState } from './paths.ts'

/** Bytes on their way at first, at most and at least: 0.1 s at 1 Mbit/s; 300 Mbit/s at 100 ms; a few packets. */
const FIRST_WINDOW_BYTES = 16_384
const MAX_WINDOW_BYTES = 4_194_304
const MIN_WINDOW_BYTES = 4_096

/** The part of the bulk data on its way that datagrams may have beside it. */
const PART_OF_BULK = 1 / 4

/** A ping goes along when this part of the window is on its way: often enough to never stand still. */
const PING_AT = 1 / 4

/**
 * ms that an answer may take longer than the quickest one before the window is halved, and as long as it may double: an
 * answer that is later than 300 ms is taken for trouble with the path.
 */
const SLOW_MS = 150
const QUICK_MS = 50

/** ms of silence after which a ping goes along whatever the window, since nothing else would tell of a dead path: 1 s. */
const SILENT_MS = 1_000

/** ms after which anything heard counts for the answer: above most round trips. */
const PATIENCE_MS = 1_000

export class DatagramFlow {
  readonly #ping: (path: PathState) => void
  readonly #onPatience: () => void
  #path: PathState | undefined
  #window = FIRST_WINDOW_BYTES
  /** Bytes sent and not answered, and those of them that went behind the ping. */
  #unanswered = 0
  #behind = 0
  #pingAt: number | undefined
  /** The window held something back since then. */
  #held = false
  #timer: ReturnType<typeof setTimeout> | undefined

  /**
   * @param ping sends one on the path
   * @param onPatience something may go out now, perhaps
   */
  constructor(ping: (path: PathState) => void, onPatience: () => void) {
    this.#ping = ping
    this.#onPatience = onPatience
  }

  /** True when something may go out on `path`. */
  open(path: PathState): boolean {
    if (path !== this.#path) this.#reset(path)
    return this.#unanswered < this.#limit(path)
  }

  sent(path: PathState, bytes: number): void {
    this.#unanswered += bytes
    this.#behind += bytes
    const now = performance.now()
    const due = this.#unanswered >= this.#limit(path) * PING_AT || now - path.heardAt >= SILENT_MS
    if (due) this.#mark(path, now)
  }

  /** The window holds something back: it waits for the answer. */
  hold(path: PathState): void {
    this.#mark(path, performance.now())
    this.#held = true
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      if (this.#pingAt !== undefined && path.heardAt > this.#pingAt) this.#answered()
      this.#onPatience()
    }, PATIENCE_MS)
    this.#timer.unref?.()
  }

  /** A pong came on `path`; true when that makes room. */
  onPong(path: PathState): boolean {
    // One that nobody waited for changes nothing of the path.
    if (path !== this.#path || this.#pingAt === undefined || path.answeredAt < this.#pingAt) return false
    const ms = path.answeredAt - this.#pingAt
    const least = path.minRttMs ?? ms
    if (ms > least + SLOW_MS) this.#window = Math.max(this.#window / 2, MIN_WINDOW_BYTES)
    else if (this.#held && ms <= 2 * least + QUICK_MS) this.#window = Math.min(this.#window * 2, MAX_WINDOW_BYTES)
    this.#answered()
    return true
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #limit({ unackedBytes }: PathState): number {
    return Math.max(this.#window, unackedBytes * PART_OF_BULK)
  }

  #mark(path: PathState, now: number): void {
    if (this.#pingAt !== undefined || path.stage === 'attaching') return
    // Somebody else's ping is under way: its answer comes first.
    if (path.pingedAt !== undefined && path.heardAt < path.pingedAt) return
    this.#pingAt = now
    this.#behind = 0
    this.#held = false
    this.#ping(path)
  }

  #answered(): void {
    this.#unanswered = this.#behind
    this.#pingAt = undefined
    this.close()
  }

  #reset(path: PathState): void {
    this.#path = path
    this.#window = FIRST_WINDOW_BYTES
    this.#unanswered = 0
    this.#behind = 0
    this.#pingAt = undefined
    this.#held = false
    this.close()
  }
}
