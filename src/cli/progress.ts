/**
 * Progress of a file: one line redrawn in place on a terminal, a line every few seconds elsewhere, and JSON lines at
 * most five a second with `--json`.
 *
 * The rate is that of the last seconds, so that it follows a change of path; what was there before the transfer began
 * does not count.
 */
import type { PathKind } from '../path/index.ts'
import { formatBytes, formatSeconds, type Output } from './output.ts'

/** ms between two drawings: as fast as people read, as slow as a log bears, five a second for programs. */
const REDRAW_MS = 200
const LOG_MS = 5_000
const EVENT_MS = 200

/** ms that the rate looks back, and ms between the samples that it is made of. */
const RATE_WINDOW_MS = 5_000
const SAMPLE_MS = 250

export interface ProgressState {
  readonly name: string
  /** Bytes that have gone, or come; those that were there before among them. */
  readonly doneBytes: number
  readonly totalBytes: number
  /** The path in use; undefined between two. */
  readonly path: PathKind | undefined
}

/** Bytes a second over the last seconds. */
export class RateMeter {
  #samples: { readonly atMs: number; readonly bytes: number }[] = []

  /** Takes note of how far it is. */
  add(atMs: number, bytes: number): void {
    const last = this.#samples.at(-1)
    if (last !== undefined && atMs - last.atMs < SAMPLE_MS) return
    this.#samples.push({ atMs, bytes })
    while (this.#samples.length > 2 && atMs - this.#samples[1]!.atMs >= RATE_WINDOW_MS) this.#samples.shift()
  }

  /** The rate at a moment; 0 before there is anything to go by. */
  rate(atMs: number, bytes: number): number {
    const first = this.#samples[0]
    if (first === undefined || atMs <= first.atMs) return 0
    return Math.max(0, ((bytes - first.bytes) / (atMs - first.atMs)) * 1000)
  }
}

/** One line that says it all. */
export function progressLine(state: ProgressState, bytesPerSecond: number): string {
  const { name, doneBytes, totalBytes, path } = state
  const percent = totalBytes === 0 ? 100 : Math.floor((doneBytes / totalBytes) * 100)
  const parts = [`${name}  ${percent} %`, `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`]
  parts.push(`${formatBytes(bytesPerSecond)}/s`)
  parts.push(bytesPerSecond >= 1 ? `${formatSeconds((totalBytes - doneBytes) / bytesPerSecond)} left` : 'waiting')
  parts.push(path === undefined ? 'no path' : `by ${path}`)
  return parts.join('  ')
}

/** Follows one file. */
export class Progress {
  readonly #out: Output
  readonly #now: () => number
  readonly #meter = new RateMeter()
  readonly #timer: ReturnType<typeof setInterval> | undefined
  #state: ProgressState | undefined
  #toldAt = Number.NEGATIVE_INFINITY

  constructor(out: Output, options: { now?: () => number } = {}) {
    this.#out = out
    this.#now = options.now ?? (() => performance.now())
    if (out.json) return
    this.#timer = setInterval(() => this.#draw(), out.live ? REDRAW_MS : LOG_MS)
    this.#timer.unref()
  }

  /** Takes note of how far the file is. Cheap enough for every piece. */
  update(state: ProgressState): void {
    const now = this.#now()
    this.#state = state
    this.#meter.add(now, state.doneBytes)
    if (!this.#out.json || now - this.#toldAt < EVENT_MS) return
    this.#toldAt = now
    const { name, doneBytes, totalBytes, path } = state
    this.#out.event({ event: 'progress', name, doneBytes, totalBytes, path: path ?? null })
  }

  #draw(): void {
    if (this.#state === undefined) return
    const line = progressLine(this.#state, this.#meter.rate(this.#now(), this.#state.doneBytes))
    if (this.#out.live) this.#out.redraw(line)
    else this.#out.say(line)
  }

  /** Ends the drawing. */
  stop(): void {
    clearInterval(this.#timer)
    this.#out.clear()
  }
}
