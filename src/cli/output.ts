/**
 * What the command prints.
 *
 * - Standard output carries data alone: JSON lines with `--json`, else what was asked for (an id, piped bytes).
 * - Everything for people goes to standard error, and with `--json` only warnings and the reason of a failure do.
 * - What remotes say is printed without control characters: a terminal obeys those.
 */
import { isPeerlineError } from '../errors.ts'

/** Columns of a terminal that does not say how many it has. */
const DEFAULT_COLUMNS = 80

export class Output {
  readonly json: boolean
  /** True when people watch a terminal. */
  readonly live: boolean
  #line = ''

  constructor(options: { json?: boolean | undefined } = {}) {
    this.json = options.json ?? false
    this.live = !this.json && process.stderr.isTTY === true
  }

  /** One JSON line, when JSON is wanted. */
  event(event: Readonly<Record<string, unknown>>): void {
    if (this.json) process.stdout.write(`${JSON.stringify(event)}\n`)
  }

  /** Data, whether or not JSON is wanted. */
  data(text: string): void {
    process.stdout.write(`${text}\n`)
  }

  /** A line for people. */
  say(text: string): void {
    if (!this.json) this.warn(text)
  }

  /** A line for people, also when JSON is wanted. */
  warn(text: string): void {
    const line = this.#line
    this.clear()
    process.stderr.write(`${printable(text)}\n`)
    if (line !== '') this.redraw(line)
  }

  /** Draws the one line that changes, in place of itself. */
  redraw(text: string): void {
    if (!this.live) return
    this.#line = printable(text).slice(0, (process.stderr.columns || DEFAULT_COLUMNS) - 1)
    process.stderr.write(`\r${this.#line}\x1b[K`)
  }

  /** Takes that line away. */
  clear(): void {
    if (this.#line !== '') process.stderr.write('\r\x1b[K')
    this.#line = ''
  }
}

/** Without control characters, and on one line. */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\u2028-\u202e\u2066-\u2069]+/gu, ' ')
}

/** A word as a shell takes it, whatever is in it: people copy what is shown. */
export function shellWord(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

/** What failed and what to do about it, on one line. */
export function failureLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  const said = `${printable(message)
    .trim()
    .replace(/[.\s]+$/, '')}.`
  const recover = isPeerlineError(error)
    ? error.recover
    : 'Set PEERLINE_DEBUG=1 for details, and report it if it persists.'
  return `peerline: ${said}${recover === '' ? '' : ` ${printable(recover)}`}`
}

/** Rows of cells as lines whose columns stand below each other; the last column is as wide as it is. */
export function columns(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = []
  for (const row of rows) {
    for (const [at, cell] of row.slice(0, -1).entries()) widths[at] = Math.max(widths[at] ?? 0, cell.length)
  }
  return rows.map((row) => {
    const cells = row.map((cell, at) => (at === row.length - 1 ? cell : cell.padEnd(widths[at]!)))
    return `  ${cells.join('  ')}`.trimEnd()
  })
}

const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

/** `12.3 MB`; units of 1000. */
export function formatBytes(bytes: number): string {
  let value = bytes
  let unit = 0
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000
    unit++
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1
  return `${value.toFixed(digits)} ${UNITS[unit]}`
}

/** `0:07`, `12:30`, `1:02:03`. */
export function formatSeconds(seconds: number): string {
  const all = Math.max(0, Math.round(seconds))
  const two = (value: number) => String(value).padStart(2, '0')
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60]
  return hours > 0 ? `${hours}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`
}

/** ms to the microsecond: what is below is noise. */
export function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000
}

/** ms for people. */
export function formatMs(ms: number): string {
  if (ms < 10) return `${ms.toFixed(2)} ms`
  return ms < 1000 ? `${ms.toFixed(0)} ms` : `${(ms / 1000).toFixed(2)} s`
}

const SPANS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['min', 60_000],
  ['s', 1_000],
] as const

/** A time for people, in its two largest units: `1 h 30 min`, `7 d`, `0 s`. */
export function formatSpan(ms: number): string {
  const largest = SPANS.findIndex(([, size]) => size <= ms)
  if (largest < 0) return '0 s'
  const [, finest] = SPANS[Math.min(largest + 1, SPANS.length - 1)]!
  let rest = Math.round(ms / finest) * finest
  const parts = SPANS.flatMap(([unit, size]) => {
    const count = Math.floor(rest / size)
    rest -= count * size
    return count === 0 ? [] : [`${count} ${unit}`]
  })
  return parts.join(' ')
}
