/**
 * Who may connect, and who may do what: rules, and an owner who is asked where they leave it open.
 *
 *   question --> rules: allow, deny, restrict --> allowed or denied, at once
 *                    \-> ask, or no rule --> the owner --> allowed or denied; without a rule it is remembered
 *
 * It decides about identities that the handshake has proven, before anything else they sent is read. Without rule and
 * without an owner's yes in time, the answer is no, and nothing is remembered.
 *
 * Without options: nobody may connect to us, we may connect to anybody, and whoever a connection is open with may use
 * what is handled. `allow` and `approve` are short for rules. Where `rules` or a `policy` or `ask` are given, nothing is
 * let in but by them.
 */
import { invalid } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { type AskedQuestion, Asking, type Scope } from './asking.ts'
import { AuditLog } from './audit.ts'
import { type Decision, isStanding, refusal } from './decision.ts'
import {
  askApprover,
  type ConnectionRequest,
  type DefaultRule,
  type FirewallEvents,
  type FirewallOptions,
  shorthands,
} from './firewall-options.ts'
import { Given } from './given.ts'
import { judge } from './judge.ts'
import { type PolicyJson, policyFromJson, policyToJson } from './policy-json.ts'
import {
  covers,
  type Direction,
  isExact,
  isRecord,
  parseRule,
  type Question,
  type Rule,
  type RuleInput,
  type Subject,
} from './rule.ts'
import { type Deciding, RuleBook } from './rule-book.ts'
import { Settled } from './settled.ts'

export type { Approver, ConnectionRequest, DefaultRule, FirewallEvents, FirewallOptions } from './firewall-options.ts'

/** ms, a day: nobody waits for longer than that. */
const MAX_APPROVE_MS = 24 * 3_600_000
/** ms: how late at most it is noticed that the clock was set forward beyond the end of a rule. */
const EXPIRY_CHECK_MS = 60_000

export class Firewall extends TypedEventTarget<FirewallEvents> {
  readonly tellRefusals: boolean
  /** The latest decisions of `admit`. */
  readonly audit: AuditLog
  readonly #book: RuleBook
  readonly #settled = new Settled()
  readonly #asking: Asking | undefined
  /** Only connections are asked about: what an `Approver` understands. */
  readonly #asksConnections: boolean
  readonly #needs: FirewallOptions['needs']
  readonly #now: () => number
  /** Rules that nobody set: the default takes their place. */
  readonly #shorthands: readonly Rule[]
  #given: Given
  #expiry: { readonly timer: ReturnType<typeof setTimeout>; readonly at: number } | undefined
  /** Until it is made it is closed: where an option is refused, no timer stays. */
  #closed = true

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` when a rule, a peer id or another option is none */
  constructor(options: FirewallOptions = {}) {
    super()
    const { allow = [], approve, ask, rules, policy, approveTimeoutMs = 10_000 } = options
    if (approve !== undefined && ask !== undefined) throw invalid('give approve or ask, not both')
    if (!(approveTimeoutMs >= 1 && approveTimeoutMs <= MAX_APPROVE_MS)) {
      throw invalid(`approveTimeoutMs ${approveTimeoutMs} is not 1 to ${MAX_APPROVE_MS}`)
    }
    this.tellRefusals = options.tellRefusals ?? true
    this.audit = new AuditLog(options.audit)
    this.#now = options.now ?? Date.now
    this.#needs = options.needs
    this.#book = new RuleBook({ monotonic: options.monotonic })
    this.#asksConnections = approve !== undefined
    const asked = ask ?? (approve === undefined ? undefined : askApprover(approve))
    this.#asking =
      asked === undefined
        ? undefined
        : new Asking({
            ask: asked,
            timeoutMs: approveTimeoutMs,
            gather: ask !== undefined,
            judge: (question) => this.#try(question, true),
            conclude: (question, yes, scope) => this.#conclude(question, yes, scope),
            adopt: (peer, rule) => this.#adopt(peer, rule),
            onAsk: (all) => this.emit('question', all),
          })
    if (policy !== undefined) this.#fill(policy)
    else this.#book.put(parseRule({ subject: 'everyone', direction: 'out', action: 'allow' }))
    this.#shorthands = shorthands(options)
    for (const rule of this.#shorthands) if (this.#book.get(rule.id) === undefined) this.#book.put(rule)
    const implied = new Set(this.#book.rules)
    this.#given = nothingGiven()
    if (allow === 'all') this.setDefault('allow', 'in')
    else for (const peer of allow) this.allow(parsePeerId(peer))
    for (const [group, peers] of Object.entries(options.groups ?? {})) this.addToGroup(group, ...peers)
    for (const rule of rules ?? []) this.set(rule)
    if (policy === undefined) this.#given = new Given(this.#book, implied)
    this.#closed = false
    this.#armExpiry()
  }

  /** A firewall with the rules that `toJSON` gave; those of the options are set after them. See `policy`. */
  static fromJSON(json: unknown, options: Omit<FirewallOptions, 'policy'> = {}): Firewall {
    return new Firewall({ ...options, policy: json ?? null })
  }

  // ---- rules ----

  /**
   * Sets a rule, in place of the one with the same subject, object and direction, from now on. Gives its id.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, or `ERR_PEERLINE_LIMIT` when there are too many
   */
  set(input: RuleInput): string {
    const rule = parseRule(input)
    if (rule.expiresAt !== undefined && rule.expiresAt <= this.#now()) throw invalid('expiresAt is past')
    this.#book.put(rule)
    this.#given.isOwn(rule.id)
    this.#changed([rule.subject], rule)
    return rule.id
  }

  /** Removes a rule, by the id that `set` gave; false when there is none. */
  remove(id: string): boolean {
    const rule = this.#book.delete(id)
    if (rule === undefined) return false
    this.#given.isOwn(id)
    this.#changed([rule.subject])
    return true
  }

  /** All rules that are in force; with the uses that are left. */
  list(): readonly Rule[] {
    const now = this.#now()
    return this.#book.rules.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > now)
  }

  /**
   * Sets what everyone may do where no other rule says, or with `undefined`: nothing is said any more.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  setDefault(rule: DefaultRule | undefined, direction: Direction | 'both' = 'both'): void {
    const directions: readonly Direction[] = direction === 'both' ? ['in', 'out'] : [direction]
    const input = typeof rule === 'string' ? { action: rule } : rule
    const made = directions.flatMap((one) =>
      input === undefined ? [] : [parseRule({ ...input, subject: 'everyone', direction: one })],
    )
    const { expiresAt } = input ?? {}
    if (expiresAt !== undefined && expiresAt <= this.#now()) throw invalid('expiresAt is past')
    // one for both directions is, from here on, one for the direction that is left alone
    const both = this.#book.delete('everyone anything both')
    for (const one of ['in', 'out'] as const) {
      if (directions.includes(one)) this.#book.delete(`everyone anything ${one}`)
      else if (both !== undefined && both.uses !== 0 && this.#book.get(`everyone anything ${one}`) === undefined) {
        const { id: _, answer: __, ...rest } = both
        this.#book.put(parseRule({ ...rest, direction: one }))
      }
    }
    for (const short of this.#shorthands) {
      if (directions.includes('in') && this.#book.get(short.id) === short) this.#book.delete(short.id)
    }
    for (const one of made) this.#book.put(one)
    for (const one of ['both', ...directions]) this.#given.isOwn(`everyone anything ${one}`)
    this.#changed(['everyone'], made[0])
  }

  /** As `setDefault(undefined, direction)`. */
  removeDefault(direction: Direction | 'both' = 'both'): void {
    this.setDefault(undefined, direction)
  }

  /** Lets a peer in from now on, to do anything. */
  allow(peer: PeerId): void {
    this.set({ subject: peer, direction: 'in', action: 'allow' })
  }

  /** Lets a peer in no longer, unless other rules do. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  disallow(peer: PeerId): void {
    this.remove(`${parsePeerId(peer)} anything in`)
  }

  // ---- groups ----

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a name or a peer id that is none, `ERR_PEERLINE_LIMIT` */
  addToGroup(group: string, ...peers: readonly string[]): void {
    const joined = peers.map(parsePeerId).filter((peer) => this.#book.join(group, peer))
    if (joined.length > 0) this.#changed(joined)
  }

  /** Those who are not in it stay so. @throws PeerlineError `ERR_PEERLINE_INVALID` for a peer id that is none */
  removeFromGroup(group: string, ...peers: readonly string[]): void {
    const left = peers.map(parsePeerId).filter((peer) => this.#book.leave(group, peer))
    if (left.length > 0) this.#changed(left)
  }

  /** The groups, each with its members. */
  get groups(): ReadonlyMap<string, readonly PeerId[]> {
    return this.#book.groups
  }

  /** True when what is said of these subjects is said of the peer: by name, by group, or as everyone. */
  concerns(subjects: readonly Subject[], peer: PeerId): boolean {
    return subjects.some((subject) => this.#book.concerns(subject, peer))
  }

  // ---- decisions ----

  /** What `admit` would do now, and why; nobody is asked, and neither uses nor rate are taken. */
  decide(question: Question): Decision {
    return this.#judge(question, this.#deciding(question), false)
  }

  /**
   * False when a protocol is not even to be offered to a peer, because whatever is asked of it is denied. It is not
   * known yet what a function or permissions will say.
   */
  offers(question: Pick<Question, 'peer' | 'direction' | 'object'>): boolean {
    if (this.#closed) return false
    const [first] = this.#deciding(question)
    if (first === undefined) return this.#canAsk(question)
    return first.rule.action !== 'deny' && (first.rule.action !== 'ask' || this.#canAsk(question))
  }

  /**
   * Whether what was admitted may go on, by the rules of now. What a rule let through that has been used up since, or
   * the owner for this time, goes on until other rules deny it.
   */
  stands(admitted: Decision): boolean {
    return isStanding(this.again(admitted))
  }

  /** What the rules of now say of what was admitted; see {@link stands}. Nobody is asked, and nothing is taken. */
  again(admitted: Decision): Decision {
    if (this.#settled.has(admitted)) return admitted
    const { question, rule } = admitted
    const deciding = this.#book.deciding(question, this.#now(), rule?.uses === undefined ? undefined : rule)
    return this.#judge(question, deciding, true)
  }

  /**
   * As `admit`, at once and without throwing: a denial is a decision as well. Undefined when the owner has to be asked,
   * which `admit` does.
   */
  settle(question: Question): Decision | undefined {
    const settled = this.#settled.get(question)
    const decision = settled ?? this.#try(question, false)
    if (decision.action === 'ask') return undefined
    this.#tell(decision)
    return decision
  }

  /**
   * Resolves when it may be, and tells why; the owner is asked where rules leave it open. What it takes of a rule's uses
   * and rate is taken at once. Who begins something then, and ends it at `change`, asks `stands` when it begins:
   * rules may have changed while the promise was on its way.
   *
   * @throws PeerlineError `ERR_PEERLINE_DENIED`; `ERR_PEERLINE_BUSY` when too many questions are open or the rate of a
   *   rule is reached; `ERR_PEERLINE_ABORTED`, … when the signal fires, as it should when the peer leaves
   */
  admit(request: ConnectionRequest, options?: { readonly signal?: AbortSignal }): Promise<void>
  admit(question: Question, options?: { readonly signal?: AbortSignal }): Promise<Decision>
  async admit(
    request: ConnectionRequest | Question,
    { signal }: { readonly signal?: AbortSignal } = {},
  ): Promise<unknown> {
    const question: Question =
      'from' in request
        ? { peer: request.from, direction: 'in', object: 'connection', how: request.how }
        : Object.freeze({ ...request })
    let decision = this.#try(question, false)
    if (decision.action === 'ask') {
      const { rule } = decision
      const asked: AskedQuestion = Object.freeze({
        ...question,
        ...(rule === undefined ? { why: 'no-rule' as const } : { why: 'rule' as const, rule: rule.id }),
      })
      try {
        decision = { ...(await this.#asking!.ask(asked, signal)), question }
      } catch (error) {
        this.#tell({ action: 'deny', reason: 'left', question })
        throw error
      }
      // the answer was a moment on its way
      if (decision.action === 'allow' && !this.stands(decision)) decision = this.#asDenied(decision)
    }
    this.#tell(decision)
    if (decision.action === 'allow') return decision
    throw refusal(decision)
  }

  /** Notes a decision that was made elsewhere, before any rule. */
  note(decision: Decision): void {
    this.#tell(decision)
  }

  // ---- keeping, and the end ----

  /**
   * What is to be kept from one start to the next: as `toJSON`, without what the options gave. They say it again at the
   * next start, or no longer.
   */
  kept(): PolicyJson {
    return policyToJson(this.#given.rest({ rules: this.list(), groups: this.groups }))
  }

  /**
   * Takes what `kept` gave beside what the options say; where both have the same rule, theirs holds, and the other is kept.
   * Either all of it counts, or none.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_LIMIT`
   */
  restore(json: unknown): void {
    const { rules, groups } = policyFromJson(json, this.#now())
    for (const [group, peers] of groups) for (const peer of peers) this.#book.join(group, peer)
    for (const rule of this.#given.restore(rules)) {
      this.#book.put(rule)
      this.#given.isOwn(rule.id)
    }
    this.#changed(['everyone'])
  }

  /** All rules and groups, without functions: see `policy` and `load`. */
  toJSON(): PolicyJson {
    return policyToJson({ rules: this.list(), groups: this.groups })
  }

  /**
   * Takes the rules and groups that `toJSON` gave in place of all there are. Either all of it counts, or none.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  load(json: unknown): void {
    this.#fill(json)
    this.#given = nothingGiven()
    this.#changed(['everyone'])
  }

  /** Nobody is asked any more, and nobody comes in: whoever waits is refused. No timer stays. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#settled.clear()
    clearTimeout(this.#expiry?.timer)
    this.#asking?.close()
  }

  // ---- inside ----

  #fill(json: unknown): void {
    const { rules, groups } = policyFromJson(json, this.#now())
    this.#book.clear()
    for (const [group, peers] of groups) for (const peer of peers) this.#book.join(group, peer)
    for (const rule of rules) this.#book.put(rule)
  }

  #deciding(question: Pick<Question, 'peer' | 'direction' | 'object'>): Deciding {
    return this.#book.deciding(question, this.#now())
  }

  /** What the rules say. `asked`: the owner is being asked already, which the rate of a rule to ask allowed. */
  #judge(question: Question, deciding: Deciding, asked: boolean): Decision {
    if (this.#closed) return { action: 'deny', reason: 'closed', question }
    return judge(question, deciding, { asked, canAsk: this.#canAsk(question), needs: this.#needs })
  }

  #canAsk({ object, direction }: Pick<Question, 'object' | 'direction'>): boolean {
    return this.#asking !== undefined && (!this.#asksConnections || (object === 'connection' && direction === 'in'))
  }

  /** Judges, and takes what is to be taken: in one turn, so that nobody comes in between. */
  #try(question: Question, asked: boolean): Decision {
    const deciding = this.#deciding(question)
    const decision = this.#judge(question, deciding, asked)
    this.#settled.add(decision, deciding)
    if (decision.action === 'allow') {
      this.#book.takeRate(deciding, question.peer)
      this.#takeUse(deciding)
    } else if (decision.action === 'ask' && !asked) {
      this.#book.takeRate(deciding, question.peer)
    }
    return decision
  }

  #takeUse(deciding: Deciding): void {
    this.#book.takeUse(deciding)
    for (const { rule } of deciding) if (rule.uses !== undefined) this.emit('spent', { rule })
  }

  /** The owner has said yes or no to what, when it was asked, no rule decided. */
  #conclude(question: AskedQuestion, yes: boolean, scope: Scope): Decision {
    const decision = this.#try(question, true)
    if (decision.action !== 'ask') return decision
    const { rule } = decision
    const said: Decision = { ...decision, action: yes ? 'allow' : 'deny', reason: yes ? 'approved' : 'refused' }
    if (rule !== undefined) {
      if (yes) this.#takeUse(this.#deciding(question))
      return said
    }
    // the rule that had it asked is gone or used up: the yes was for one time, under that rule
    if (question.why === 'rule') return { ...said, action: 'deny', reason: 'no-rule' }
    if (scope !== 'once') this.#remember(question, yes, scope)
    return said
  }

  #remember({ peer, object, direction }: Question, yes: boolean, scope: Scope): void {
    if (scope === 'object' && !isExact(object)) return // in a rule the name would stand for others as well
    const rule = parseRule(
      { subject: peer, object: scope === 'object' ? object : 'anything', direction, action: yes ? 'allow' : 'deny' },
      { answer: true },
    )
    if (!this.#book.put(rule)) return
    this.#given.isOwn(rule.id)
    this.#changed([peer], rule)
  }

  #adopt(peer: PeerId, answer: unknown): (question: Question) => boolean {
    if (!isRecord(answer)) throw invalid('the answer is neither yes, nor no, nor a rule')
    const id = this.set({ ...(answer as unknown as RuleInput), subject: peer })
    const rule = this.#book.get(id)
    // a rule that counts counts only what it decides itself
    if (rule?.action !== 'allow' || rule.uses !== undefined || rule.rate !== undefined) return () => false
    return (question) => covers(rule, question)
  }

  #asDenied({ question }: Decision): Decision {
    const now = this.decide(question)
    return now.action === 'deny' ? now : { action: 'deny', reason: 'no-rule', question }
  }

  #tell(decision: Decision): void {
    this.audit.record(this.#now(), decision)
    this.emit('decision', decision)
  }

  #changed(subjects: readonly Subject[], rule?: Rule): void {
    this.#settled.clear()
    this.#armExpiry()
    this.#asking?.review()
    this.emit('change', { subjects, ...(rule === undefined ? {} : { rule }) })
  }

  #armExpiry(): void {
    const at = this.#book.nextExpiry()
    if (this.#closed || at === this.#expiry?.at) return
    clearTimeout(this.#expiry?.timer)
    this.#expiry = undefined
    if (at === Number.POSITIVE_INFINITY) return
    const timer = setTimeout(() => this.#expire(), Math.max(1, Math.min(at - this.#now(), EXPIRY_CHECK_MS)))
    timer.unref?.()
    this.#expiry = { timer, at }
  }

  #expire(): void {
    this.#expiry = undefined
    const ended = this.#book.expire(this.#now())
    if (ended.length > 0) this.#changed([...new Set(ended.map(({ subject }) => subject))])
    else this.#armExpiry()
  }
}

function nothingGiven(): Given {
  return new Given({ rules: [], groups: new Map() }, new Set())
}
