/**
 * The kinds of rules that there are, and what each of them does to a request: the rows of the tables of the policy tests.
 */

import { defineProtocol, isPeerlineError, type Peer } from '../../src/index.ts'
import type { Answer } from '../../src/policy/asking.ts'
import type { Firewall } from '../../src/policy/firewall.ts'
import type { RuleInput } from '../../src/policy/rule.ts'

export const DEFAULTS = ['allow', 'deny', 'none'] as const
export type Default = (typeof DEFAULTS)[number]

/** `answered`, or the code that the asker gets. */
export type Outcome = 'answered' | string

export const DENIED = 'ERR_PEERLINE_DENIED'
export const BUSY = 'ERR_PEERLINE_BUSY'

/** What the owner says; `silence`: nothing, until it is too late. */
export type Said = Answer | 'silence'

export interface Row {
  readonly name: string
  /** The rule about the asker; none without. */
  readonly rule?: Omit<RuleInput, 'subject' | 'object' | 'direction'>
  readonly subject?: 'group:friends' | 'everyone'
  /** What the owner says when asked. @default no */
  readonly said?: Said
  /** What the request says that it needs, and what a predicate sees. */
  readonly what?: string
  /** The clock goes past the end of the rule. */
  readonly late?: boolean
  /** What becomes of the first request, and of the second. */
  readonly first: (by: Default) => Outcome
  readonly second: (by: Default) => Outcome
  /** Whether what runs already goes on when the rule takes the place of one that allowed it. */
  readonly goesOn: (by: Default) => boolean
}

const answered = () => 'answered'
const denied = () => DENIED
/** No rule of the row decides any more: what the default says; without one the owner, who says no. */
const byDefault = (by: Default) => (by === 'allow' ? 'answered' : DENIED)
/** Without a rule the owner is asked about what is new, and what runs is nothing new. */
const unlessDenied = (by: Default) => by !== 'deny'
const on = () => true
const off = () => false

export const ROWS: readonly Row[] = [
  { name: 'no rule, the owner says no', first: byDefault, second: byDefault, goesOn: unlessDenied },
  {
    name: 'no rule, the owner says yes',
    said: true,
    first: (by) => (by === 'deny' ? DENIED : 'answered'),
    second: (by) => (by === 'deny' ? DENIED : 'answered'),
    goesOn: unlessDenied,
  },
  { name: 'no rule, the owner is silent', said: 'silence', first: byDefault, second: byDefault, goesOn: unlessDenied },
  {
    name: 'no rule, the owner answers with a rule',
    said: { direction: 'in', action: 'allow' },
    first: (by) => (by === 'deny' ? DENIED : 'answered'),
    second: (by) => (by === 'deny' ? DENIED : 'answered'),
    goesOn: unlessDenied,
  },
  { name: 'allow', rule: { action: 'allow' }, first: answered, second: answered, goesOn: on },
  { name: 'deny', rule: { action: 'deny' }, first: denied, second: denied, goesOn: off },
  {
    name: 'restrict, the predicate says yes',
    rule: { action: 'restrict', when: ({ object }) => object.startsWith('/') || object === 'connection' },
    first: answered,
    second: answered,
    goesOn: on,
  },
  {
    name: 'restrict, the predicate says no',
    rule: { action: 'restrict', when: () => false },
    first: denied,
    second: denied,
    goesOn: off,
  },
  {
    name: 'restrict, the predicate throws',
    rule: {
      action: 'restrict',
      when: () => {
        throw new Error('of the owner')
      },
    },
    first: denied,
    second: denied,
    goesOn: off,
  },
  { name: 'ask, yes', rule: { action: 'ask' }, said: true, first: answered, second: answered, goesOn: on },
  { name: 'ask, no', rule: { action: 'ask' }, said: false, first: denied, second: denied, goesOn: on },
  { name: 'ask, silence', rule: { action: 'ask' }, said: 'silence', first: denied, second: denied, goesOn: on },
  {
    name: 'ask, answered with a rule',
    rule: { action: 'ask' },
    said: { direction: 'in', action: 'deny' },
    // It says `anything`, and the rule that asks is about this one thing: that stays, and is asked again.
    first: denied,
    second: denied,
    goesOn: on,
  },
  { name: 'once', rule: { action: 'allow', uses: 1 }, first: answered, second: byDefault, goesOn: on },
  {
    name: 'seldom',
    rule: { action: 'allow', rate: { count: 1, perMs: 3_600_000 } },
    first: answered,
    second: () => BUSY,
    goesOn: on,
  },
  {
    name: 'allow, over',
    rule: { action: 'allow', expiresAt: 0 },
    late: true,
    first: byDefault,
    second: byDefault,
    goesOn: unlessDenied,
  },
  {
    name: 'allow a group',
    subject: 'group:friends',
    rule: { action: 'allow' },
    first: answered,
    second: answered,
    goesOn: on,
  },
  {
    name: 'deny a group',
    subject: 'group:friends',
    rule: { action: 'deny' },
    first: denied,
    second: denied,
    goesOn: off,
  },
  { name: 'deny everyone', subject: 'everyone', rule: { action: 'deny' }, first: denied, second: denied, goesOn: off },
]

/** What of a request is seen, where its protocol says so: these are not of connections. */
export const SEEN: readonly Row[] = [
  {
    name: 'permissions that are enough',
    what: 'read',
    rule: { action: 'restrict', permissions: ['read', 'write'] },
    first: answered,
    second: answered,
    goesOn: on,
  },
  {
    name: 'permissions that are not enough',
    what: 'delete',
    rule: { action: 'restrict', permissions: ['read', 'write'] },
    first: denied,
    second: denied,
    goesOn: off,
  },
  {
    name: 'the view is one that may be',
    what: 'read',
    rule: { action: 'restrict', when: ({ view }) => view === 'read' },
    first: answered,
    second: answered,
    goesOn: on,
  },
  {
    name: 'the view is another',
    what: 'delete',
    rule: { action: 'restrict', when: ({ view }) => view === 'read' },
    first: denied,
    second: denied,
    goesOn: off,
  },
]

/** A protocol whose requests are seen. */
export function seen(name: string) {
  return defineProtocol<string, string, string, string>({ name, view: (what) => what, needs: (what) => [what] })
}

/** Sets the default of what comes in, without saying anything of connections. */
export function setDefault(firewall: Firewall, by: Default, direction: 'in' | 'out' = 'in'): void {
  firewall.setDefault(by === 'none' ? undefined : by, direction)
}

/** Sets the rule of a row; what takes it, and what came of it, away again. */
export function setRow(
  firewall: Firewall,
  row: Row,
  about: { peer: Peer['id']; object: string; direction: 'in' | 'out'; clock: { ms: number } },
): () => void {
  const before = new Set(firewall.list().map(({ id }) => id))
  const { peer, object, direction, clock } = about
  if (row.subject === 'group:friends') firewall.addToGroup('friends', peer)
  if (row.rule !== undefined) {
    const ends = row.rule.expiresAt === undefined ? {} : { expiresAt: clock.ms + 1_000 }
    firewall.set({ ...row.rule, ...ends, subject: row.subject ?? peer, object, direction })
    if (row.late) clock.ms += 1_000
  }
  return () => {
    for (const { id } of firewall.list()) if (!before.has(id)) firewall.remove(id)
    firewall.removeFromGroup('friends', peer)
  }
}

/** Who is asked, says what is in `now`. */
export class Owner {
  /** What is said; `silence` leaves it to the time-out. */
  said: Said = false
  asked = 0

  readonly ask = (_: unknown, { signal }: { signal: AbortSignal }): Answer | Promise<Answer> => {
    this.asked++
    if (this.said !== 'silence') return this.said
    return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  }
}

/** What came of it. */
export async function outcomeOf(asking: Promise<unknown>): Promise<Outcome> {
  try {
    await asking
    return 'answered'
  } catch (error) {
    if (!isPeerlineError(error)) throw error
    return error.code
  }
}

/** A promise, and what settles it. */
export function later<T = void>(): { readonly promise: Promise<T>; readonly resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {}
  const promise = new Promise<T>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
