/**
 * Rules and groups as JSON, to be kept where the application keeps things.
 *
 *   { version: 1,
 *     rules: [{ subject, object, direction, action, permissions?, expiresAt?, uses?, rate?, answer?, when? }],
 *     groups: { NAME: [peer id, …] } }
 *
 * Functions are not kept. A rule that restricts by one is kept as `when: true`, and read as a rule that refuses until
 * the function is set again: were it left out, a less specific rule would open what it kept shut.
 *
 * Whatever is read is checked part by part, and all of it before any of it counts.
 */
import { asPeerlineError, invalid, isPeerlineError, PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { checkGroup, isRecord, parseRule, type Rule, type RuleInput } from './rule.ts'
import { MAX_GROUPS, MAX_MEMBERS, MAX_RULES } from './rule-book.ts'

/** A rule without its function. */
export interface RuleJson extends Omit<RuleInput, 'when' | 'permissions'> {
  readonly permissions?: readonly string[]
  /** There was a function. */
  readonly when?: true
  /** It was the owner's answer when no rule said anything. */
  readonly answer?: true
}

/** What a firewall keeps. */
export interface PolicyJson {
  readonly version: 1
  readonly rules: readonly RuleJson[]
  readonly groups: { readonly [name: string]: readonly string[] }
}

/** What was read. */
export interface Policy {
  readonly rules: readonly Rule[]
  readonly groups: ReadonlyMap<string, readonly PeerId[]>
}

/** Stands for a function that was not kept. */
const lost = () => false

export function policyToJson({ rules, groups }: Policy): PolicyJson {
  return {
    version: 1,
    rules: rules.map(({ id: _, when, ...rule }) => ({ ...rule, ...(when === undefined ? {} : { when: true }) })),
    groups: Object.fromEntries(groups),
  }
}

/**
 * Reads what {@link policyToJson} wrote. Rules that ended meanwhile are left out.
 * @param now ms since 1970
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, which names the part that is wrong
 */
export function policyFromJson(json: unknown, now: number): Policy {
  if (!isRecord(json)) throw invalid('a policy is an object')
  onlyKeys(json, ['version', 'rules', 'groups'], 'a policy')
  if (json.version !== 1) throw invalid('the version of the policy is not 1')
  if (!Array.isArray(json.rules) || json.rules.length > MAX_RULES) {
    throw invalid(`rules is not a list of at most ${MAX_RULES}`)
  }
  const rules = json.rules.map((rule: unknown, index) => at(`rules[${index}]`, () => ruleFromJson(rule)))
  const ids = new Set<string>()
  for (const { id } of rules) {
    if (ids.has(id)) throw invalid(`there are two rules ${id}`)
    ids.add(id)
  }
  return {
    rules: rules.filter(({ expiresAt }) => expiresAt === undefined || expiresAt > now),
    groups: groupsFromJson(json.groups),
  }
}

function ruleFromJson(json: unknown): Rule {
  if (!isRecord(json)) throw invalid('a rule is an object')
  const { when, answer, ...rest } = json
  for (const flag of [when, answer]) if (flag !== undefined && flag !== true) throw invalid('a flag is true or absent')
  if (rest.permissions !== undefined && !Array.isArray(rest.permissions)) throw invalid('permissions is not a list')
  const input = { ...rest, ...(when === true ? { when: lost } : {}) }
  return parseRule(input as unknown as RuleInput, { answer: answer === true })
}

function groupsFromJson(json: unknown): ReadonlyMap<string, readonly PeerId[]> {
  if (!isRecord(json)) throw invalid('groups is not an object')
  const entries = Object.entries(json)
  if (entries.length > MAX_GROUPS) throw invalid(`there are more than ${MAX_GROUPS} groups`)
  let members = 0
  return new Map(
    entries.map(([name, peers]) =>
      at(`groups.${name.slice(0, 64)}`, () => {
        checkGroup(name)
        if (!Array.isArray(peers)) throw invalid('a group is not a list')
        members += peers.length
        if (members > MAX_MEMBERS) throw invalid(`there are more than ${MAX_MEMBERS} members`)
        return [name, [...new Set(peers.map((peer: unknown) => parsePeerId(peer as string)))]] as const
      }),
    ),
  )
}

function onlyKeys(json: Record<string, unknown>, keys: readonly string[], what: string): void {
  const unknown = Object.keys(json).find((key) => !keys.includes(key))
  if (unknown !== undefined) throw invalid(`${what} has no ${JSON.stringify(unknown.slice(0, 64))}`)
}

/** Says where in the policy something is wrong. */
function at<T>(where: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    const { message } = asPeerlineError(error, 'ERR_PEERLINE_INVALID')
    throw new PeerlineError(
      'ERR_PEERLINE_INVALID',
      `${where}: ${message}`,
      isPeerlineError(error) ? {} : { cause: error },
    )
  }
}
