/**
 * Orders about what an identity remembers: one set of them, carried out by the command that runs, or by the one that gives
 * the order when nobody does.
 *
 *     allow, deny   subject, objects, until?          ban     target, until?, why?      unban   target
 *     rules         each rule, then each ban          remove  id of a rule
 *     peers         each known peer                   forget  peer
 *     know          peer, address?, name?, groups; of a ticket also addresses, rendezvous, topics, whether it was met, and where
 *     log           count, follow
 *     invite, invitations, revoke      see invite-orders.ts
 *     hello         nothing: somebody is there
 */
import { type Fields, fields } from '../bytes/index.ts'
import type { KnownPeers } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import type { Ban, Bans } from '../policy/bans.ts'
import type { Firewall } from '../policy/firewall.ts'
import type { Invitations } from '../policy/invitations.ts'
import { parseSubject, type Rule } from '../policy/rule.ts'
import type { Session } from '../session/index.ts'
import type { Json } from './control-lines.ts'
import type { Answerer } from './control-server.ts'
import type { DecisionLog } from './decision-log.ts'
import { invite, listInvitations, revoke } from './invite-orders.ts'
import { allow, deny, type RuleChange } from './rule-orders.ts'

/** Objects of one order, and groups. */
const MAX_LIST = 32

/** Characters of anything that is checked again by who owns it. */
const MAX_TEXT = 1_000

/** Lines of the log in one answer, and those that wait for whoever follows it. */
export const MAX_LOG_LINES = 100_000
const MAX_UNREAD_LINES = 1_000

/** What orders are about. */
export interface Desk {
  readonly firewall: Firewall
  readonly bans: Bans
  readonly known: KnownPeers
  readonly invitations: Invitations
  /** The signed record of the peer that runs, until then. */
  readonly record?: ((expiresAt: number) => Uint8Array) | undefined
  /** Resolves when changes are saved, or are sure to be soon. */
  flush(): Promise<void>
  /** The sessions of the peer that runs. */
  readonly sessions?: readonly Session[]
  readonly log: Pick<DecisionLog, 'follow' | 'tail'>
}

type Order = (desk: Desk, given: Fields, signal: AbortSignal) => AsyncGenerator<Json, Json, undefined> | Json

const ORDERS: Readonly<Record<string, Order>> = {
  hello: () => ({}),
  allow: (desk, given) => changed(desk, allow(desk.firewall, ruleOrder(given))),
  deny: (desk, given) => changed(desk, deny(desk.firewall, ruleOrder(given))),
  ban: ({ bans }, given) => {
    const [target, until, why] = [text(given, 'target'), moment(given), given.optional('why', (at) => text(given, at))]
    return banJson(bans.ban(target, { until, why }))
  },
  unban: ({ bans }, given) => ({ was: bans.unban(text(given, 'target')) }),
  rules: listRules,
  remove: ({ firewall }, given) => ({ was: firewall.remove(text(given, 'id')) }),
  peers: listPeers,
  know: ({ firewall, known }, given) => {
    const peer = parsePeerId(text(given, 'peer'))
    const [address, dialled, name] = ['address', 'dialled', 'name'].map((field) =>
      given.optional(field, (at) => text(given, at)),
    )
    known.give(peer, address)
    // What a ticket says is the word of its peer, not the user's: it gives way to what is newer.
    known.learn(peer, texts(given, 'addresses'), 'record')
    known.learnRendezvous(peer, texts(given, 'rendezvous'))
    known.learnTopics(peer, texts(given, 'topics'))
    if (given.has('met') && given.boolean('met')) known.connected(peer, { direction: 'out', address: dialled })
    if (name !== undefined) known.describe(peer, { name })
    for (const group of texts(given, 'groups')) firewall.addToGroup(group, peer)
    return { peer }
  },
  forget: ({ firewall, known }, given) => {
    const peer = parsePeerId(text(given, 'peer'))
    const groups = [...firewall.groups].flatMap(([group, members]) => (members.includes(peer) ? [group] : []))
    for (const group of groups) firewall.removeFromGroup(group, peer)
    return { was: known.forget(peer) || groups.length > 0 }
  },
  log: readLog,
  invite,
  invitations: listInvitations,
  revoke,
}

/** Carries out orders at a desk. */
export function answererAt(desk: Desk): Answerer {
  return async function* (order, { signal }) {
    const given = fields(order, 'order')
    const name = given.text('order', { max: MAX_TEXT })
    if (!Object.hasOwn(ORDERS, name)) {
      const recover = 'It may be of another version: start it again.'
      throw new PeerlineError('ERR_PEERLINE_VERSION', `the running peerline knows no order ${name}`, { recover })
    }
    const result = ORDERS[name]!(desk, given, signal)
    const done = Symbol.asyncIterator in result ? yield* result as AsyncGenerator<Json, Json, undefined> : result
    await desk.flush()
    return done
  }
}

function ruleOrder(given: Fields) {
  const objects = given.texts('objects', { max: MAX_LIST, maxLength: MAX_TEXT })
  return { subject: parseSubject(text(given, 'subject')), objects, until: moment(given) }
}

function changed({ bans }: Desk, { set, gone, except }: RuleChange): Json {
  const banned = bans.list().some(({ target }) => target === set[0]?.subject)
  return { set: set.map(ruleJson), gone: gone.map(ruleJson), except: except.map(ruleJson), banned }
}

async function* listRules({ firewall, bans }: Desk): AsyncGenerator<Json, Json, undefined> {
  const kept = new Set(
    firewall.kept().rules.map(({ subject, object, direction }) => `${subject} ${object} ${direction}`),
  )
  for (const rule of firewall.list()) yield { ...ruleJson(rule), kept: kept.has(rule.id) }
  for (const ban of bans.list()) yield banJson(ban)
  return {}
}

async function* listPeers({ firewall, bans, known, sessions = [] }: Desk): AsyncGenerator<Json, Json, undefined> {
  const groupsOf = new Map<PeerId, string[]>()
  for (const [group, members] of firewall.groups) {
    for (const member of members) groupsOf.set(member, [...(groupsOf.get(member) ?? []), group])
  }
  const open = new Map(sessions.map((session) => [session.peer, session]))
  const peers = known.list()
  const unknown = [...groupsOf.keys()].filter((peer) => !known.has(peer))
  for (const id of unknown) peers.unshift({ id, tags: [], addresses: [] })
  for (const { id, name, note, tags, addresses, rendezvous, lastMet } of peers.reverse()) {
    const session = open.get(id)
    yield {
      peer: id,
      name: name ?? null,
      note: note ?? null,
      groups: (groupsOf.get(id) ?? []).sort(),
      tags,
      lastMet: lastMet ?? null,
      addresses: addresses.map(({ address }) => address),
      rendezvous: rendezvous ?? [],
      session: session === undefined ? null : { path: session.path ?? null, rttMs: session.rttMs ?? null },
      banned: bans.isBanned(id),
    }
  }
  return {}
}

async function* readLog({ log }: Desk, given: Fields, signal: AbortSignal): AsyncGenerator<Json, Json, undefined> {
  const count = given.integer('count', { max: MAX_LOG_LINES })
  if (!given.boolean('follow')) {
    yield* await log.tail(count)
    return {}
  }
  const unread: Json[] = []
  let skipped = 0
  let wake = () => {}
  const { past, stop } = log.follow(count, (line) => {
    if (unread.length < MAX_UNREAD_LINES) unread.push(line)
    else skipped++
    wake()
  })
  const onAbort = () => wake()
  signal.addEventListener('abort', onAbort)
  try {
    yield* await past
    while (!signal.aborted) {
      const line = unread.shift()
      if (line !== undefined) yield line
      else if (skipped > 0) {
        yield { at: Date.now(), skipped }
        skipped = 0
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
    return {}
  } finally {
    signal.removeEventListener('abort', onAbort)
    stop()
  }
}

const text = (given: Fields, name: string): string => given.text(name, { max: MAX_TEXT })

/** None where nothing is said. */
const texts = (given: Fields, name: string): readonly string[] =>
  given.optional(name, (at) => given.texts(at, { max: MAX_LIST, maxLength: MAX_TEXT })) ?? []

/** When something is to end; whoever keeps it checks that it is to come. */
const moment = (given: Fields): number | undefined => given.optional('until', (at) => given.integer(at))

function ruleJson({ id, subject, object, direction, action, expiresAt, uses, answer }: Rule): Json {
  return {
    rule: id,
    subject,
    object,
    direction,
    action,
    until: expiresAt ?? null,
    ...(uses === undefined ? {} : { uses }),
    ...(answer === true ? { answer } : {}),
  }
}

function banJson({ target, since, until, why }: Ban): Json {
  return { ban: target, since, until: until ?? null, why: why ?? null }
}
