/**
 * How much is taken of one machine of the network, and of all of them, in a second.
 *
 * It counts within whole seconds, and remembers no more sources than it lets pass: who floods it costs a look at a map.
 */
import { scopeOf, sourceKey } from './address.ts'

/** ms that are counted together. */
const WINDOW_MS = 1_000

export class SourceGate {
  readonly #limits: { readonly perSource: number; readonly all: number }
  readonly #bySource = new Map<string, number>()
  #all = 0
  #since = performance.now()

  /** @param limits a second */
  constructor(limits: { readonly perSource: number; readonly all: number }) {
    this.#limits = limits
  }

  /** Whether one more is taken of the machine with this address. */
  pass(ip: string): boolean {
    const now = performance.now()
    if (now - this.#since >= WINDOW_MS) {
      this.#since = now
      this.#all = 0
      this.#bySource.clear()
    }
    const source = sourceOf(ip)
    const ofSource = (this.#bySource.get(source) ?? 0) + 1
    if (this.#all >= this.#limits.all || ofSource > this.#limits.perSource) return false
    this.#all++
    this.#bySource.set(source, ofSource)
    return true
  }
}

/** What stands for one source: all of a link share the /64 of its link-local addresses, so there it is the address. */
export function sourceOf(ip: string): string {
  return scopeOf(ip) === 'link-local' ? ip : sourceKey(ip)
}
