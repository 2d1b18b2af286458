/** What came of a question, and why. */
import { PeerlineError } from '../errors.ts'
import type { Question, Rule } from './rule.ts'

/**
 * Why: `rule` says so; `function`, `permissions` and `rate` of the rule refuse; `no-rule`: none says anything;
 * `no-approver`: a rule wants the owner asked, who cannot be; `approved` or `refused` by the owner, who was asked;
 * `unanswered` in time; `failed`: the approver did; `busy`: too many wait for an answer; `left`: the asker gave up;
 * `closed`: the firewall is; `banned`: whatever the rules say.
 */
export type Reason =
  | 'rule'
  | 'function'
  | 'permissions'
  | 'rate'
  | 'no-rule'
  | 'no-approver'
  | 'approved'
  | 'refused'
  | 'unanswered'
  | 'failed'
  | 'busy'
  | 'left'
  | 'closed'
  | 'banned'

export interface Decision {
  /** `ask`: the owner is to say. `admit` never ends with it. */
  readonly action: 'allow' | 'deny' | 'ask'
  readonly reason: Reason
  readonly question: Question
  /** The rule that decided, as it stood then. */
  readonly rule?: Rule
  /** What the approver failed with. */
  readonly cause?: unknown
}

/** True for a decision about what was let in before, by which that may go on: a rate holds back what comes, and ends nothing. */
export function isStanding({ action, reason }: Decision): boolean {
  return action !== 'deny' || reason === 'rate'
}

/** The error of a denial. It tells the other side neither rule nor reason: those are in the audit log. */
export function refusal({ reason, question, cause }: Decision): PeerlineError {
  const { direction, object, peer } = question
  if (reason === 'busy') return new PeerlineError('ERR_PEERLINE_BUSY', 'too many questions wait for an answer')
  if (reason === 'rate') return new PeerlineError('ERR_PEERLINE_BUSY', 'this was done too often: come later')
  const what = object === 'connection' ? 'let you in' : `let you use ${object}`
  if (direction === 'in') {
    return new PeerlineError('ERR_PEERLINE_DENIED', `the peer does not ${what}`, cause === undefined ? {} : { cause })
  }
  return new PeerlineError('ERR_PEERLINE_DENIED', `our own firewall refuses ${object} to ${peer}`, {
    recover: 'Allow it in the firewall of this peer.',
    ...(cause === undefined ? {} : { cause }),
  })
}
