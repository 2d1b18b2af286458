/**
 * Looks at a file when it may have grown: when the system says so, and from time to time, for on shared folders it does not say.
 *
 * - Between two looks lies a twentieth of the time for which nothing has come, 25 ms at least and a second at most: while messages
 *   go back and forth, nobody waits long; and a quiet file costs one look a second.
 * - Nothing is done while nobody watches.
 */
import { type FSWatcher, watch } from 'node:fs'

/** ms between two looks: a person does not notice the least, nor a disk the most. */
const MIN_LOOK_MS = 25
const MAX_LOOK_MS = 1_000

/** Of the time that was quiet. */
const PART = 1 / 20

export class LogWatch {
  readonly #path: string
  readonly #look: () => Promise<boolean>
  #watchers = 0
  #closed = false
  #system: FSWatcher | undefined
  #timer: NodeJS.Timeout | undefined
  /** ms of the monotonic clock. */
  #lastGrown = 0
  #looking = false
  /** The file has changed since the look that is under way began. */
  #again = false

  /** @param look takes in what is new, and says whether there was something; it never rejects */
  constructor(path: string, look: () => Promise<boolean>) {
    this.#path = path
    this.#look = look
  }

  /** Watches until what it returns is called. */
  start(): () => void {
    if (++this.#watchers === 1) this.#begin()
    let stopped = false
    return () => {
      if (stopped) return
      stopped = true
      if (--this.#watchers === 0) this.#end()
    }
  }

  /** Nobody watches any more, whoever has started. */
  close(): void {
    this.#closed = true
    this.#end()
  }

  /** The file has grown, as we know from elsewhere: more may follow soon. */
  grown(): void {
    this.#lastGrown = performance.now()
    if (this.#isWatching && !this.#looking) this.#wait()
  }

  get #isWatching(): boolean {
    return this.#watchers > 0 && !this.#closed
  }

  #begin(): void {
    if (this.#closed) return
    this.#lastGrown = performance.now()
    try {
      this.#system = watch(this.#path, () => void this.#see())
      this.#system.on('error', () => this.#system?.close()) // the looks go on
    } catch {
      // there is no watching here, or there are too many watchers: the looks do
    }
    this.#wait()
  }

  #end(): void {
    clearTimeout(this.#timer)
    this.#system?.close()
    this.#system = undefined
  }

  #wait(): void {
    clearTimeout(this.#timer)
    const quietMs = performance.now() - this.#lastGrown
    const ms = Math.min(Math.max(quietMs * PART, MIN_LOOK_MS), MAX_LOOK_MS)
    this.#timer = setTimeout(() => void this.#see(), ms)
  }

  async #see(): Promise<void> {
    this.#again = true
    if (this.#looking) return
    this.#looking = true
    clearTimeout(this.#timer)
    while (this.#again && this.#isWatching) {
      this.#again = false
      if (await this.#look()) this.#lastGrown = performance.now()
    }
    this.#looking = false
    if (this.#isWatching) this.#wait()
  }
}
