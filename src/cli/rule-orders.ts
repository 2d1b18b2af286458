/**
 * What `allow` and `deny` do to the rules of a firewall.
 *
 * - Both are about what comes in: who may connect to us, and what they may use.
 * - `deny` shuts all that it names: narrower rules of the same subject that let something of it through are removed.
 * - `allow` opens what it names, and the connection that this needs. Narrower rules that deny stay: they are exceptions, and
 *   are told.
 */
import type { Firewall } from '../policy/firewall.ts'
import type { Rule, RuleInput } from '../policy/rule.ts'

export interface RuleOrder {
  /** A peer id, `group:NAME` or `everyone`. */
  readonly subject: string
  /** Protocols, patterns, `connection` or `anything`. */
  readonly objects: readonly string[]
  /** When it ends, ms since 1970. */
  readonly until?: number | undefined
}

/** What became of the rules. */
export interface RuleChange {
  readonly set: readonly Rule[]
  /** Rules that said something else, or for longer: they do not come back. */
  readonly gone: readonly Rule[]
  /** Rules of the same subject that still deny some of what was allowed. */
  readonly except: readonly Rule[]
}

export function allow(firewall: Firewall, { subject, objects, until }: RuleOrder): RuleChange {
  const change = new Change(firewall, subject, until)
  for (const object of objects) change.put(object, 'allow')
  if (objects.includes('anything')) {
    for (const rule of change.rules) {
      if (rule.object === 'connection' && rule.action !== 'allow') change.remove(rule)
    }
  } else if (!isOpen(change.rule('connection') ?? change.rule('anything'), until)) {
    change.put('connection', 'allow')
  }
  const except = change.rules.filter(
    (rule) =>
      rule.action !== 'allow' && objects.some((object) => rule.object !== object && isWithin(rule.object, object)),
  )
  return { ...change.outcome, except }
}

export function deny(firewall: Firewall, { subject, objects, until }: RuleOrder): RuleChange {
  const change = new Change(firewall, subject, until)
  for (const object of objects) {
    change.put(object, 'deny')
    for (const rule of change.rules) {
      if (rule.action !== 'deny' && isWithin(rule.object, object)) change.remove(rule)
    }
  }
  return { ...change.outcome, except: [] }
}

/** The rules of one subject for what comes in, and what is done to them. */
class Change {
  readonly #firewall: Firewall
  readonly #subject: string
  readonly #until: number | undefined
  readonly #set: Rule[] = []
  readonly #gone: Rule[] = []

  constructor(firewall: Firewall, subject: string, until: number | undefined) {
    this.#firewall = firewall
    this.#subject = subject
    this.#until = until
  }

  get rules(): readonly Rule[] {
    return this.#firewall.list().filter(({ subject, direction }) => subject === this.#subject && direction !== 'out')
  }

  get outcome(): Pick<RuleChange, 'set' | 'gone'> {
    return { set: this.#set, gone: this.#gone }
  }

  rule(object: string): Rule | undefined {
    return this.#find(object, 'in') ?? this.#find(object, 'both')
  }

  put(object: string, action: 'allow' | 'deny'): void {
    const before = this.#find(object, 'in')
    const ends = this.#until === undefined ? {} : { expiresAt: this.#until }
    const id = this.#firewall.set({ subject: this.#subject, object, direction: 'in', action, ...ends })
    this.#set.push(this.#byId(id)!)
    if (before !== undefined && (before.action !== action || !isSooner(before.expiresAt, this.#until))) {
      this.#gone.push(before)
    }
  }

  /** Removes a rule, of one for both directions the half that is about what comes in. */
  remove(rule: Rule | undefined): void {
    if (rule === undefined) return
    const { id, answer: _, ...rest } = rule
    this.#firewall.remove(id)
    this.#gone.push(rule)
    if (rule.direction !== 'both' || this.#find(rule.object, 'out') !== undefined) return
    this.#firewall.set({ ...(rest as RuleInput), direction: 'out' })
  }

  #find(object: string, direction: Rule['direction']): Rule | undefined {
    return this.#byId(`${this.#subject} ${object} ${direction}`)
  }

  #byId(id: string): Rule | undefined {
    return this.#firewall.list().find((rule) => rule.id === id)
  }
}

/** True when a rule lets through all that it is about, and for as long. */
function isOpen(rule: Rule | undefined, until: number | undefined): boolean {
  if (rule?.action !== 'allow' || rule.uses !== undefined || rule.rate !== undefined) return false
  return !isSooner(rule.expiresAt, until) || rule.expiresAt === until
}

/** True when the first moment is no later than the second; undefined is never. */
function isSooner(a: number | undefined, b: number | undefined): boolean {
  return (a ?? Number.POSITIVE_INFINITY) <= (b ?? Number.POSITIVE_INFINITY)
}

/** True when all that an object stands for is among what another does. */
function isWithin(object: string, other: string): boolean {
  if (other === 'anything' || object === other) return true
  if (!other.endsWith('*') || object === 'connection' || object === 'anything') return false
  return object.startsWith(other.slice(0, -1))
}
