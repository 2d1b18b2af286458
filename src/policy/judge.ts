/** What the deciding rules say of a question. Nothing is taken from them, and nobody is asked. */
import type { Decision, Reason } from './decision.ts'
import { type PermissionNames, parsePermissions, type Question, type Rule } from './rule.ts'
import type { Deciding } from './rule-book.ts'

export interface JudgeOptions {
  /** The owner is being asked already: the rate of a rule to ask has been taken. */
  readonly asked: boolean
  /** There is somebody to ask. */
  readonly canAsk: boolean
  /** The permissions that a request needs, where its question does not say. */
  readonly needs: ((question: Question) => PermissionNames | undefined) | undefined
}

/** Allowed when every deciding rule lets it through; `ask` when they leave it to the owner. */
export function judge(question: Question, deciding: Deciding, options: JudgeOptions): Decision {
  const [first] = deciding
  if (first === undefined) return { action: options.canAsk ? 'ask' : 'deny', reason: 'no-rule', question }
  for (const { rule, rated } of deciding) {
    const refused = whyRefused(rule, question, options)
    if (refused !== undefined) return { action: 'deny', reason: refused, question, rule }
    const counts = !(options.asked && rule.action === 'ask')
    if (counts && rated !== undefined && rated.msUntil(question.peer) > 0) {
      return { action: 'deny', reason: 'rate', question, rule }
    }
  }
  // What one of them counts, all of them do.
  const { rule } = deciding.find(({ rule: { uses, rate } }) => uses !== undefined || rate !== undefined) ?? first
  return { action: first.rule.action === 'ask' ? 'ask' : 'allow', reason: 'rule', question, rule }
}

/** Why a rule by itself refuses, leaving its rate aside. */
function whyRefused(
  { action, when, permissions }: Rule,
  question: Question,
  { canAsk, needs }: JudgeOptions,
): Reason | undefined {
  if (action === 'deny') return 'rule'
  if (action === 'ask') return canAsk ? undefined : 'no-approver'
  try {
    if (permissions !== undefined && !permits(permissions, question, question.needs ?? needs?.(question))) {
      return 'permissions'
    }
    if (when !== undefined && (when(question) as unknown) !== true) return 'function'
  } catch {
    return 'function'
  }
  return undefined
}

function permits(permissions: readonly string[], { object }: Question, needs: PermissionNames | undefined): boolean {
  if (needs !== undefined) return parsePermissions(needs).every((need) => permissions.includes(need))
  // a connection is for those who may do anything at all in it
  return object === 'connection' && permissions.length > 0
}
