/**
 * What the options of a firewall say: they say it again at the next start, or no longer, so it is not kept with the rest.
 *
 *     options --> given            set, remove, the owner's answers --> own, and kept
 *
 * A kept rule that an option replaces for this time is covered, and kept as it was. A rule that is there for want of an
 * option, such as a default, is implied: it gives way to a kept one.
 */
import type { PeerId } from '../identity/index.ts'
import type { Policy } from './policy-json.ts'
import type { Rule } from './rule.ts'

export class Given {
  readonly #rules: ReadonlyMap<string, 'given' | 'implied'>
  readonly #members: ReadonlyMap<string, ReadonlySet<PeerId>>
  /** Ids of rules that were set anew, or removed, since. */
  readonly #own = new Set<string>()
  #covered: readonly Rule[] = []

  /** @param implied the rules among them that no option says */
  constructor({ rules, groups }: Policy, implied: ReadonlySet<Rule>) {
    this.#rules = new Map(rules.map((rule) => [rule.id, implied.has(rule) ? 'implied' : 'given']))
    this.#members = new Map([...groups].map(([group, peers]) => [group, new Set(peers)]))
  }

  /** A rule was set anew, or removed: it is no longer the one that the options gave. */
  isOwn(id: string): void {
    this.#own.add(id)
    this.#covered = this.#covered.filter((rule) => rule.id !== id)
  }

  /** Those of the kept rules that hold; the others are covered. */
  restore(kept: readonly Rule[]): readonly Rule[] {
    const covers = ({ id }: Rule) => this.#rules.get(id) === 'given' && !this.#own.has(id)
    this.#covered = kept.filter(covers)
    return kept.filter((rule) => !covers(rule))
  }

  /** What of a policy is to be kept. */
  rest({ rules, groups }: Policy): Policy {
    const own = rules.filter(({ id }) => !this.#rules.has(id) || this.#own.has(id))
    const others = [...groups].map(([group, peers]): [string, readonly PeerId[]] => {
      const given = this.#members.get(group)
      return [group, peers.filter((peer) => given?.has(peer) !== true)]
    })
    return { rules: [...own, ...this.#covered], groups: new Map(others.filter(([, peers]) => peers.length > 0)) }
  }
}
