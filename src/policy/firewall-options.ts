/** What a firewall is made with, and what it tells. */
import type { PeerId } from '../identity/index.ts'
import type { Ask, Asked } from './asking.ts'
import type { AuditOptions } from './audit.ts'
import type { Decision } from './decision.ts'
import type { MonotonicClock } from './limits.ts'
import { type PermissionNames, parseRule, type Question, type Rule, type RuleInput, type Subject } from './rule.ts'

/** What an approver is shown. */
export interface ConnectionRequest {
  /** Who asks; proven. */
  readonly from: PeerId
  /** On a path of its own, or by signaling. */
  readonly how: 'direct' | 'signaled'
}

/** Answers whether a peer may connect, this time. Rejecting, or taking longer than the time-out, means no. */
export type Approver = (request: ConnectionRequest, options: { signal: AbortSignal }) => boolean | Promise<boolean>

/** What a default says: a rule without whom and what it is for. */
export type DefaultRule = 'allow' | 'deny' | 'ask' | Omit<RuleInput, 'subject' | 'object' | 'direction'>

export interface FirewallOptions {
  /** Peers that may connect and do anything, as peer ids or did:key, or `all`. @default nobody */
  readonly allow?: 'all' | readonly string[]
  /** Asked each time that somebody connects who is not allowed already; or give `ask`. @default nobody is asked */
  readonly approve?: Approver
  /** ms that the approver, or who is asked, gets: 1 to a day. @default 10_000 */
  readonly approveTimeoutMs?: number
  /** Refused peers are told so; otherwise they hear nothing. @default true */
  readonly tellRefusals?: boolean
  /**
   * Asked what no rule decides, or a rule leaves to it, with all questions of a peer at once. The answer where no rule
   * says anything is remembered. @default nobody is asked
   */
  readonly ask?: Ask
  /** Rules to begin with. */
  readonly rules?: readonly RuleInput[]
  /** Members of groups to begin with, as peer ids or did:key. */
  readonly groups?: { readonly [name: string]: readonly string[] }
  /** What `toJSON` gave: the rules before all others. */
  readonly policy?: unknown
  /** The permissions that a request needs, where its question does not say. @default none are known: such rules refuse */
  readonly needs?: (question: Question) => PermissionNames | undefined
  /** @default the latest 1,000 decisions */
  readonly audit?: AuditOptions
  /** Time of day, ms since 1970. @default Date.now */
  readonly now?: () => number
  /** The clock of rates, ms. @default performance.now */
  readonly monotonic?: MonotonicClock
}

export type FirewallEvents = {
  /**
   * What is decided may be another from now on, for these: whatever is open is to be looked at again, see `concerns`
   * and `stands`. With the rule that was set.
   */
  change: { readonly subjects: readonly Subject[]; readonly rule?: Rule }
  /** The owner is asked. */
  question: Asked
  /** It was decided. */
  decision: Decision
  /** A rule has one use less. */
  spent: { readonly rule: Rule }
}

/** @internal The rules that the options are short for. */
export function shorthands({ approve, ask, rules, policy }: FirewallOptions): readonly Rule[] {
  const open = ask === undefined && rules === undefined && policy === undefined
  return [
    ...(open ? [parseRule({ subject: 'everyone', object: '*', direction: 'in', action: 'allow' })] : []),
    ...(approve === undefined
      ? []
      : [parseRule({ subject: 'everyone', object: 'connection', direction: 'in', action: 'ask' })]),
  ]
}

/** @internal An approver of connections, as one who is asked anything: it is asked of nothing else. */
export function askApprover(approve: Approver): Ask {
  return ({ peer, questions }, options) => approve({ from: peer, how: questions[0]?.how ?? 'direct' }, options)
}
