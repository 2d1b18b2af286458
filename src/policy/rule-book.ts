/**
 * The rules and groups of a firewall: which rules decide a question, and what they have left.
 *
 * A rule that has ended, by its time or by its uses, decides nothing from that moment. Judging takes nothing; `take`
 * does, and both happen in one turn, so that what may be used once is used once.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { KeyedLimiter, type MonotonicClock } from './limits.ts'
import { checkGroup, compareRules, covers, type Question, type Rule, type Subject } from './rule.ts'

/** Rules that may be kept, answers among them: some 10 MB. */
export const MAX_RULES = 20_000
/** Answers of each kind that are remembered: strangers cause them, and must not fill the book. */
const MAX_ANSWERS = 4_096
/** Groups; the memberships of all peers together. */
export const MAX_GROUPS = 1_000
export const MAX_MEMBERS = 100_000
/** Peers whose rate a rule remembers, 200 bytes each; the one forgotten starts anew. */
const MAX_RATED_PEERS = 1_000

/** A rule in the book, with what it has left. */
interface Held {
  rule: Rule
  readonly rated: KeyedLimiter | undefined
  /** It was taken out while it had something left. */
  removed: boolean
}

/** The rules that decide a question together: one, but for equally specific ones. None: no rule says anything. */
export type Deciding = readonly Held[]

export class RuleBook {
  readonly #rules = new Map<string, Held>()
  /** Each rule as it was at some time, for whom it let through then. */
  readonly #heldOf = new WeakMap<Rule, Held>()
  readonly #of = new Map<Subject, Set<Held>>()
  readonly #members = new Map<string, Set<PeerId>>()
  readonly #groupsOf = new Map<PeerId, Set<string>>()
  readonly #monotonic: MonotonicClock | undefined
  #memberships = 0
  #expiring = 0
  #answers = { yes: 0, no: 0 }

  constructor(options: { monotonic?: MonotonicClock | undefined } = {}) {
    this.#monotonic = options.monotonic
  }

  // ---- rules ----

  /** All that have something left, in the order in which they were first set. */
  get rules(): readonly Rule[] {
    return [...this.#rules.values()].map(({ rule }) => rule).filter(({ uses }) => uses !== 0)
  }

  get(id: string): Rule | undefined {
    return this.#rules.get(id)?.rule
  }

  /**
   * Puts a rule in, in place of the one with its id. False when it is an answer that there is no room for.
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when there are too many
   */
  put(rule: Rule): boolean {
    const before = this.#rules.get(rule.id)
    if (before === undefined && this.#rules.size >= MAX_RULES) {
      if (rule.answer === true) return false
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `a firewall keeps at most ${MAX_RULES} rules`)
    }
    if (rule.answer === true && this.#answers[kindOf(rule)] >= MAX_ANSWERS) return false
    if (before !== undefined) this.delete(rule.id)
    const { rate } = rule
    const rated =
      rate === undefined
        ? undefined
        : new KeyedLimiter({
            rate: (rate.count * 1_000) / rate.perMs,
            burst: rate.count,
            capacity: MAX_RATED_PEERS,
            ...(this.#monotonic === undefined ? {} : { now: this.#monotonic }),
          })
    const held = { rule, rated, removed: false }
    this.#rules.set(rule.id, held)
    this.#heldOf.set(rule, held)
    const others = this.#of.get(rule.subject)
    if (others === undefined) this.#of.set(rule.subject, new Set([held]))
    else others.add(held)
    if (rule.answer === true) this.#answers[kindOf(rule)]++
    if (rule.expiresAt !== undefined) this.#expiring++
    return true
  }

  /** Takes a rule out; the rule, when it was there. */
  delete(id: string): Rule | undefined {
    const held = this.#rules.get(id)
    if (held === undefined) return undefined
    held.removed = true
    this.#takeOut(held)
    return held.rule
  }

  #takeOut(held: Held): void {
    this.#rules.delete(held.rule.id)
    const others = this.#of.get(held.rule.subject)
    others?.delete(held)
    if (others?.size === 0) this.#of.delete(held.rule.subject)
    if (held.rule.answer === true) this.#answers[kindOf(held.rule)]--
    if (held.rule.expiresAt !== undefined) this.#expiring--
  }

  /** Takes all rules and groups out. */
  clear(): void {
    for (const held of this.#rules.values()) held.removed = true
    for (const all of [this.#rules, this.#of, this.#members, this.#groupsOf]) all.clear()
    this.#memberships = 0
    this.#expiring = 0
    this.#answers = { yes: 0, no: 0 }
  }

  /**
   * The rules that decide a question at `now`, ms since 1970.
   * @param spent a rule of this book that counts as if it had its last use still, unless another stands in its place, or it was
   *   taken out before
   */
  deciding(question: Question, now: number, spent?: Rule): Deciding {
    let best: Held[] = []
    const consider = (held: Held) => {
      const { rule } = held
      if (rule.uses === 0 || (rule.expiresAt ?? Number.POSITIVE_INFINITY) <= now || !covers(rule, question)) return
      const order = best[0] === undefined ? 1 : compareRules(rule, best[0].rule, question)
      if (order > 0) best = [held]
      else if (order === 0) best.push(held)
    }
    for (const subject of this.#subjectsOf(question.peer)) {
      for (const held of this.#of.get(subject) ?? []) consider(held)
    }
    if (spent === undefined || !this.concerns(spent.subject, question.peer)) return best
    if (this.#heldOf.get(spent)?.removed === true) return best
    const there = this.get(spent.id)
    if (there === undefined || there.uses === 0) consider({ rule: spent, rated: undefined, removed: false })
    return best
  }

  /** Takes one of the rate of each. */
  takeRate(deciding: Deciding, peer: PeerId): void {
    for (const { rated } of deciding) rated?.take(peer)
  }

  /** Takes one use of each. Those that have none left end. */
  takeUse(deciding: Deciding): void {
    for (const held of deciding) {
      const { uses, expiresAt } = held.rule
      if (uses === undefined) continue
      held.rule = Object.freeze({ ...held.rule, uses: uses - 1 })
      this.#heldOf.set(held.rule, held)
      // one that has a time as well stays until then: what it let in is to end with it
      if (uses === 1 && expiresAt === undefined) this.#takeOut(held)
    }
  }

  /** Takes out what has ended by time. */
  expire(now: number): readonly Rule[] {
    const ended = [...this.#rules.values()].filter(({ rule }) => (rule.expiresAt ?? Number.POSITIVE_INFINITY) <= now)
    for (const { rule } of ended) this.delete(rule.id)
    return ended.map(({ rule }) => rule)
  }

  /** When the next rule ends by time, ms since 1970; `Infinity` when none does. */
  nextExpiry(): number {
    let next = Number.POSITIVE_INFINITY
    if (this.#expiring === 0) return next
    for (const { rule } of this.#rules.values()) next = Math.min(next, rule.expiresAt ?? next)
    return next
  }

  // ---- groups ----

  get groups(): ReadonlyMap<string, readonly PeerId[]> {
    return new Map([...this.#members].map(([name, peers]) => [name, [...peers]]))
  }

  /** True when a rule of the subject is one of the peer's. */
  concerns(subject: Subject, peer: PeerId): boolean {
    if (subject === 'everyone' || subject === peer) return true
    return subject.startsWith('group:') && (this.#members.get(subject.slice(6))?.has(peer) ?? false)
  }

  /** False when it was in already. @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_LIMIT` */
  join(group: string, peer: PeerId): boolean {
    const members = this.#members.get(checkGroup(group))
    if (members?.has(peer) === true) return false
    if ((members === undefined && this.#members.size >= MAX_GROUPS) || this.#memberships >= MAX_MEMBERS) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `a firewall keeps ${MAX_GROUPS} groups and ${MAX_MEMBERS} members`)
    }
    if (members === undefined) this.#members.set(group, new Set([peer]))
    else members.add(peer)
    const groups = this.#groupsOf.get(peer)
    if (groups === undefined) this.#groupsOf.set(peer, new Set([group]))
    else groups.add(group)
    this.#memberships++
    return true
  }

  /** False when it was not in. */
  leave(group: string, peer: PeerId): boolean {
    const members = this.#members.get(group)
    if (members?.delete(peer) !== true) return false
    if (members.size === 0) this.#members.delete(group)
    const groups = this.#groupsOf.get(peer)
    groups?.delete(group)
    if (groups?.size === 0) this.#groupsOf.delete(peer)
    this.#memberships--
    return true
  }

  *#subjectsOf(peer: PeerId): Iterable<Subject> {
    yield peer
    for (const group of this.#groupsOf.get(peer) ?? []) yield `group:${group}`
    yield 'everyone'
  }
}

function kindOf({ action }: Rule): 'yes' | 'no' {
  return action === 'deny' ? 'no' : 'yes'
}
