/**
 * A rule: who may do what, in which direction.
 *
 *   subject      a peer | `group:NAME` | `everyone`
 *   object       a protocol | a pattern of protocols, ending in `*` | `connection` | `anything`
 *   direction    `in`: they to us | `out`: we to them | `both`
 *   action       `allow` | `deny` | `ask` the owner | `restrict`: as a function, or the permissions of the peer, say
 *
 * The most specific rule wins: a peer before a group before everyone; then an exact object before the longest pattern
 * before `anything`; then one direction before both. Of equally specific ones deny wins over restrict over ask over
 * allow. There is one rule for a subject, object and direction: these three are its id, so setting it again replaces it.
 *
 * An *answer* is a rule that the owner gave when no rule said anything. A remembered yes speaks only where still no rule
 * does: it was given for that reason, and must not open what a rule for everyone keeps shut. A remembered no is like any
 * other rule of the peer.
 */
import { MAX_TIME_MS } from '../bytes/index.ts'
import { invalid } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { isPermissionName, MAX_PERMISSIONS, Permissions } from './permissions.ts'

export type Direction = 'in' | 'out'
export type Action = 'allow' | 'deny' | 'ask' | 'restrict'
export type Subject = PeerId | `group:${string}` | 'everyone'

/** Some permissions, or their names. */
export type PermissionNames = readonly string[] | Permissions

/** What the firewall is asked: may this peer and we do this? */
export interface Question {
  /** The other side; proven when it comes to us. */
  readonly peer: PeerId
  /** `in`: the peer wants it of us; `out`: we want it of the peer. */
  readonly direction: Direction
  /** `connection`, or the name of a protocol. A protocol cannot be called `connection`. */
  readonly object: string
  /** Of a connection: on a path of its own, or by signaling. */
  readonly how?: 'direct' | 'signaled'
  /** What a rule and the owner may see of the request, beyond its protocol: never the whole of it. */
  readonly view?: unknown
  /** The permissions that the request needs, where its protocol says so. */
  readonly needs?: PermissionNames
}

/** Says what a restricted peer may do. Anything but `true`, an exception among it, is a no. */
export type Predicate = (question: Question) => boolean

/** At most `count` at once, and `count` more spread evenly over each `perMs` ms; each peer for itself. */
export interface RuleRate {
  /** 1 to 1,000,000. */
  readonly count: number
  /** ms, 1 to a week. */
  readonly perMs: number
}

/** A rule as it is set. */
export interface RuleInput {
  /** A peer id or did:key, `group:NAME`, or `everyone`. */
  readonly subject: string
  /** A protocol, a pattern of protocols ending in `*`, `connection` or `anything`. @default 'anything' */
  readonly object?: string
  /** @default 'both' */
  readonly direction?: Direction | 'both'
  readonly action: Action
  /** Of `restrict`: says yes or no. It is not stored: a stored rule refuses until it is set again. */
  readonly when?: Predicate
  /** Of `restrict`: the permissions that the subject has, at most 32. Both this and `when` must say yes. */
  readonly permissions?: PermissionNames
  /** When the rule ends, ms since 1970. @default never */
  readonly expiresAt?: number
  /** How often the rule lets something through before it ends, all peers together; not of `deny`. @default any number */
  readonly uses?: number
  /** How often the rule lets a peer through; not of `deny`. @default any number */
  readonly rate?: RuleRate
}

/** A rule as it is kept. */
export interface Rule extends RuleInput {
  /** `SUBJECT OBJECT DIRECTION`. */
  readonly id: string
  readonly subject: Subject
  readonly object: string
  readonly direction: Direction | 'both'
  readonly permissions?: readonly string[]
  /** Remembered from what the owner answered. */
  readonly answer?: true
}

/** Bytes of a protocol name, and so of an object: as on the wire. */
export const MAX_OBJECT_BYTES = 128
/** The rank of an object that is no pattern: above that of the longest. */
const EXACT = MAX_OBJECT_BYTES + 1
/** `uses` and `count`: more is no limit. */
const MAX_COUNT = 1_000_000
/** ms, a week: a bucket that refills slower would be forgotten with the process more often than it refills. */
const MAX_PER_MS = 7 * 24 * 3_600_000
const GROUP = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const STRICTNESS: readonly Action[] = ['allow', 'ask', 'restrict', 'deny']
const KEYS = [
  'subject',
  'object',
  'direction',
  'action',
  'when',
  'permissions',
  'expiresAt',
  'uses',
  'rate',
] as const satisfies readonly (keyof RuleInput)[]

/** The name of a group, checked: 1 to 64 letters, digits, `.`, `_` and `-`. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function checkGroup(name: unknown): string {
  if (typeof name !== 'string' || !GROUP.test(name)) throw invalid(`${shown(name)} cannot name a group`)
  return name
}

/** Whom a rule is for, as it is kept. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function parseSubject(text: unknown): Subject {
  if (typeof text !== 'string') throw invalid('a subject is text')
  if (text === 'everyone') return text
  if (text.startsWith('group:')) return `group:${checkGroup(text.slice(6))}`
  return parsePeerId(text)
}

/**
 * A rule, checked and frozen.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, which names the part that is wrong
 */
export function parseRule(input: RuleInput, options: { answer?: boolean } = {}): Rule {
  if (!isRecord(input)) throw invalid('a rule is an object')
  const unknown = Object.keys(input).find((key) => !(KEYS as readonly string[]).includes(key))
  if (unknown !== undefined) throw invalid(`a rule has no ${shown(unknown)}`)
  const { action, when, expiresAt, uses, rate } = input
  const subject = parseSubject(input.subject)
  const object = parseObject(input.object ?? 'anything')
  const direction = input.direction ?? 'both'
  if (direction !== 'in' && direction !== 'out' && direction !== 'both') {
    throw invalid(`direction ${shown(direction)} is not in, out or both`)
  }
  if (!STRICTNESS.includes(action)) throw invalid(`action ${shown(action)} is not allow, deny, ask or restrict`)
  const permissions = input.permissions === undefined ? undefined : parsePermissions(input.permissions)
  if (when !== undefined && typeof when !== 'function') throw invalid('when is not a function')
  if ((action === 'restrict') !== (when !== undefined || permissions !== undefined)) {
    throw invalid('a rule that restricts, and no other, has when or permissions')
  }
  if (expiresAt !== undefined) checkCount('expiresAt', expiresAt, MAX_TIME_MS)
  if (action === 'deny' && (uses !== undefined || rate !== undefined)) {
    throw invalid('uses and rate are of rules that let somebody through')
  }
  if (uses !== undefined) checkCount('uses', uses, MAX_COUNT)
  return Object.freeze({
    id: `${subject} ${object} ${direction}`,
    subject,
    object,
    direction,
    action,
    ...(when === undefined ? {} : { when }),
    ...(permissions === undefined ? {} : { permissions }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
    ...(uses === undefined ? {} : { uses }),
    ...(rate === undefined ? {} : { rate: parseRate(rate) }),
    ...(options.answer === true ? { answer: true as const } : {}),
  })
}

/** True when the rule's object and direction are those of the question; the subject is for the caller to find. */
export function covers({ object, direction }: Rule, question: Pick<Question, 'object' | 'direction'>): boolean {
  if (direction !== 'both' && direction !== question.direction) return false
  if (object === 'anything' || object === question.object) return true
  return object.endsWith('*') && question.object !== 'connection' && question.object.startsWith(object.slice(0, -1))
}

/**
 * Which of two rules that cover a question decides it: above 0, the first; below 0, the second; 0, both must let it
 * through, as of two groups of the same peer.
 */
export function compareRules(a: Rule, b: Rule, question: Pick<Question, 'object'>): number {
  return (
    subjectRank(a) - subjectRank(b) ||
    objectRank(a, question) - objectRank(b, question) ||
    Number(a.direction !== 'both') - Number(b.direction !== 'both') ||
    STRICTNESS.indexOf(a.action) - STRICTNESS.indexOf(b.action)
  )
}

function subjectRank({ subject, answer, action }: Rule): number {
  if (answer === true && action !== 'deny') return 0
  if (subject === 'everyone') return 1
  return subject.startsWith('group:') ? 2 : 3
}

function objectRank({ object }: Rule, question: Pick<Question, 'object'>): number {
  if (object === 'anything') return 0
  // a pattern that is written like the name it is asked about is still a pattern
  return object === question.object && !object.endsWith('*') ? EXACT : object.length
}

/** True for the name of an object that a rule can be set for, and for nothing else by it. */
export function isExact(object: string): boolean {
  const bytes = new TextEncoder().encode(object).length
  return bytes > 0 && bytes <= MAX_OBJECT_BYTES && object !== 'anything' && !object.includes('*')
}

function parseObject(text: unknown): string {
  if (typeof text !== 'string') throw invalid('an object is text')
  const bytes = new TextEncoder().encode(text).length
  if (bytes === 0 || bytes > MAX_OBJECT_BYTES) throw invalid(`an object has 1 to ${MAX_OBJECT_BYTES} bytes`)
  if (text.slice(0, -1).includes('*')) throw invalid('a pattern has its * at the end')
  return text
}

/** Names of permissions, checked, each once and in order. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function parsePermissions(input: unknown): readonly string[] {
  // not whatever can be iterated: what can be only once would need nothing the second time
  if (!Array.isArray(input) && !(input instanceof Permissions)) throw invalid('permissions are a list of names')
  const names = new Set<string>()
  for (const name of input as Iterable<unknown>) {
    if (!isPermissionName(name)) throw invalid(`${shown(name)} cannot name a permission`)
    names.add(name)
    if (names.size > MAX_PERMISSIONS) throw invalid(`a rule has at most ${MAX_PERMISSIONS} permissions`)
  }
  return Object.freeze([...names].sort())
}

function parseRate(rate: RuleRate): RuleRate {
  if (!isRecord(rate) || Object.keys(rate).sort().join() !== 'count,perMs') {
    throw invalid('rate has a count and perMs, and nothing else')
  }
  checkCount('rate.count', rate.count, MAX_COUNT)
  checkCount('rate.perMs', rate.perMs, MAX_PER_MS)
  return Object.freeze({ count: rate.count, perMs: rate.perMs })
}

function checkCount(name: string, value: unknown, max: number): void {
  if (!(Number.isSafeInteger(value) && (value as number) > 0 && (value as number) <= max)) {
    throw invalid(`${name} ${shown(value)} is not a whole number from 1 to ${max}`)
  }
}

/** @internal */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A value in a message: short, whatever it is. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 64))
  return typeof value === 'number' ? String(value) : `of type ${typeof value}`
}
