/**
 * What the schedules of a run have brought about, counted: so that one sees what was tested, and a generator that no longer
 * does anything is found out.
 */

const NAMES = [
  'schedules',
  'survived',
  'cuts',
  'silent cuts',
  'black holes',
  'half black holes',
  'holes that healed',
  'broken in send',
  'stopped sides',
  'crashes',
  'attaches lost',
  'late links',
  'all links lost',
  'troubles',
  'reconnects',
  'window expirations',
  'told of a session that is gone',
  'closed on the way',
  'aborted on the way',
  'changes of path',
  'trimmed links',
  'records',
  'resent records',
  'duplicates received',
  'records ahead of their turn',
  'new keys',
  'flows',
  'resets',
  'candidates',
  'probes',
  'false alarms',
] as const

export type Name = (typeof NAMES)[number]

export class Coverage {
  readonly #counts = new Map<Name, number>(NAMES.map((name) => [name, 0]))

  count(name: Name, by = 1): void {
    this.#counts.set(name, this.#counts.get(name)! + by)
  }

  get(name: Name): number {
    return this.#counts.get(name)!
  }

  add(more: Coverage): void {
    for (const [name, count] of more.#counts) this.count(name, count)
  }

  toString(): string {
    const counts = NAMES.map((name) => `${String(this.get(name)).padStart(10)} ${name}`)
    return counts.join('\n')
  }
}

/** Hashes what happens, so that two runs of a schedule can be compared, and keeps the last of it as text when asked to. */
export class Trace {
  readonly lines: string[] | undefined
  #hash = 0x811c9dc5

  constructor(keep: boolean) {
    this.lines = keep ? [] : undefined
  }

  get hash(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0')
  }

  /** @param text is asked for only when it is kept */
  note(ms: number, what: string, a: number, b: number, text: () => string): void {
    this.#mix(Math.round(ms * 1_000))
    for (let at = 0; at < what.length; at++) this.#mix(what.charCodeAt(at))
    this.#mix(a)
    this.#mix(b)
    this.lines?.push(`${ms.toFixed(1).padStart(10)} ${text()}`)
  }

  /** FNV-1a, over 32 bits at a time. */
  #mix(value: number): void {
    this.#hash = Math.imul(this.#hash ^ value, 0x01000193)
    this.#hash ^= this.#hash >>> 15
  }
}
