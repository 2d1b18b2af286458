/**
 * Invitations: secrets that let whoever brings one in, so many times, until their time is over.
 *
 *     mint --> open --redeemed by the last peer--> used up
 *               |\--revoke--> revoked                        the same peer may come again: it costs nothing, and changes nothing
 *               \--its time--> expired                       what has ended is told as such for a week, and then not known
 *
 * - Only the SHA-256 of a secret is kept: what is stored lets nobody in. It is compared in constant time, with all there are.
 * - To redeem is one step: the use is counted and the rules are made, or neither.
 * - It adds rules for the peer, and lengthens one that lets it in for shorter. What denies the peer, by its id or by a group
 *   that it is in, stays: then the secret is refused, and no use is counted. Bans are for the caller to ask about first.
 * - Rules are made once: a peer whose rule was removed since, or is over, does not get it back by coming again.
 * - An invitation that ends takes nothing from those who came by it.
 * Limits: {@link MAX_INVITATIONS}, {@link MAX_USES} of one and {@link MAX_ALL_USES} of all together, known when they are minted.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { type Fields, fields, fromHex, MAX_TIME_MS, strictly, toHex } from '../bytes/index.ts'
import { asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { MAX_CAPABILITY_BYTES, MIN_CAPABILITY_BYTES } from '../identity/ticket.ts'
import type { Firewall } from './firewall.ts'
import { checkGroup, parseRule, type Rule } from './rule.ts'

/** Invitations at once, those that ended lately among them: each attempt is compared with all of them, in 0.3 ms. */
export const MAX_INVITATIONS = 1_000

/** Peers that may come by one invitation, and by all of them: about 1 MB of ids. More is what rules for everyone are for. */
export const MAX_USES = 1_000
export const MAX_ALL_USES = 10_000

/** A protocol that no grant names: what is thought of it is thought of all that are not. */
const NOT_GRANTED = '/peerline/not-granted/1'

/** Objects of one invitation. */
const MAX_OBJECTS = 16

/** UTF-16 units of an object; its bytes are checked with the rule. */
const MAX_OBJECT_CHARS = 128

/** ms, a day: long enough for a ticket to be found in a mailbox. */
const LIFE_MS = 86_400_000

/** ms, ten years: a rule that holds for longer holds for good. */
const MAX_RULE_MS = 3_650 * 86_400_000

/** ms, a week: for so long whoever comes too late is told so. */
const REMEMBERED_MS = 7 * 86_400_000

const DIGEST_BYTES = 32

/** Characters of an id: the first 8 bytes of the digest, which tell nothing of the secret. */
const ID_CHARS = 16

/** What becomes of whoever redeems an invitation. */
export interface Grant {
  /**
   * What it may use: protocols, patterns, `connection` or `anything`; the connection that they need is let in as well.
   * @default 'anything', or with a `group` what the rules of that group say
   */
  readonly objects?: readonly string[] | undefined
  /** The group that it joins, for good. */
  readonly group?: string | undefined
  /** ms that its rules hold from then on, at most ten years; not with a group. @default for good */
  readonly forMs?: number | undefined
}

export interface MintOptions extends Grant {
  /** Peers that may come by it, 1 to 1,000. @default 1 */
  readonly uses?: number | undefined
  /** When it ends, ms since 1970. @default in a day */
  readonly expiresAt?: number | undefined
}

export type InvitationState = 'open' | 'used up' | 'expired' | 'revoked'

export interface Invitation {
  /** 16 characters of hexadecimal; no secret. */
  readonly id: string
  readonly state: InvitationState
  /** When it was minted, and when it ends, ms since 1970. */
  readonly since: number
  readonly expiresAt: number
  /** Peers that may still come by it. */
  readonly uses: number
  /** Those that have, in order. */
  readonly peers: readonly PeerId[]
  readonly grant: Grant
}

export type InvitationsEvents = {
  mint: { readonly invitation: Invitation }
  /** A peer has come by it for the first time. */
  redeem: { readonly invitation: Invitation; readonly peer: PeerId; readonly rules: readonly Rule[] }
  revoke: { readonly invitation: Invitation }
  /** Others were loaded in place of all there were. */
  load: Record<string, never>
}

/** What {@link Invitations.toJSON} gives: plain JSON, the oldest first. */
export type InvitationsJson = readonly {
  readonly digest: string
  readonly since: number
  readonly expiresAt: number
  readonly uses: number
  readonly peers: readonly string[]
  readonly grant: Grant
  readonly revoked?: true
}[]

interface Kept {
  readonly digest: Uint8Array
  readonly since: number
  readonly expiresAt: number
  readonly grant: Grant
  readonly peers: Set<PeerId>
  uses: number
  revoked: boolean
}

export interface InvitationsOptions {
  /** Where the rules go. */
  readonly firewall: Firewall
  /** ms since 1970, whole: invitations outlive the process. @default Date.now */
  readonly now?: () => number
}

export class Invitations extends TypedEventTarget<InvitationsEvents> {
  readonly #firewall: Firewall
  readonly #now: () => number
  /** By id. */
  #kept = new Map<string, Kept>()

  constructor(options: InvitationsOptions) {
    super()
    this.#firewall = options.firewall
    this.#now = options.now ?? Date.now
  }

  /** Invitations that are known, also those that have ended lately: with none, nothing can be redeemed. */
  get size(): number {
    return this.#kept.size
  }

  /**
   * Makes an invitation. The secret is not kept: this is the only time that it can be had.
   * @returns the secret, 16 random bytes, and what it stands for
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_LIMIT` when there are too many, or too many uses
   */
  mint(options: MintOptions = {}): { readonly capability: Uint8Array; readonly invitation: Invitation } {
    const since = this.#now()
    const { uses = 1, expiresAt = since + LIFE_MS, ...given } = options
    const grant = checkGrant(given)
    if (!(Number.isSafeInteger(uses) && uses >= 1 && uses <= MAX_USES)) {
      throw invalid(`uses ${uses} is not a whole number from 1 to ${MAX_USES}`)
    }
    if (!(Number.isSafeInteger(expiresAt) && expiresAt > since && expiresAt <= MAX_TIME_MS)) {
      throw invalid(`an invitation until ${expiresAt} is over before it begins`)
    }
    this.#forget(({ expiresAt: end }) => end <= since - REMEMBERED_MS)
    if (this.#isFull(uses)) this.#forget((kept) => this.#stateOf(kept) !== 'open')
    if (this.#isFull(uses)) {
      const most = `${MAX_INVITATIONS} invitations, of ${MAX_ALL_USES} uses in all`
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are at most ${most}: wait until some are over`)
    }
    const capability = new Uint8Array(randomBytes(MIN_CAPABILITY_BYTES))
    const kept: Kept = { digest: digestOf(capability), since, expiresAt, grant, peers: new Set(), uses, revoked: false }
    this.#kept.set(idOf(kept), kept)
    const invitation = this.#view(kept)
    this.emit('mint', { invitation })
    return { capability, invitation }
  }

  /**
   * Lets a peer in by a secret: counts a use, and makes the rules of the grant for that peer. For one that has redeemed it
   * before nothing is counted, and nothing made.
   * @param peer proven, and not banned
   * @param capability whatever it brought
   * @returns the invitation, as it is now
   * @throws PeerlineError `ERR_PEERLINE_EXPIRED` when it has ended by its time; `ERR_PEERLINE_DENIED` when it is used up,
   *   revoked or not known, or when rules deny the peer; `ERR_PEERLINE_LIMIT` when the firewall takes no more rules
   */
  redeem(capability: Uint8Array, peer: PeerId): Invitation {
    return this.#redeem(capability, peer).invitation
  }

  /**
   * @internal As {@link redeem}, and kept by `keep`; where that fails, nobody has come by it.
   * @throws PeerlineError as `redeem`; what `keep` throws
   */
  async redeemKept(capability: Uint8Array, peer: PeerId, keep: () => Promise<void>): Promise<Invitation> {
    const { invitation, undo } = this.#redeem(capability, peer)
    try {
      await keep()
    } catch (error) {
      undo()
      throw error
    }
    return invitation
  }

  #redeem(capability: Uint8Array, peer: PeerId): { readonly invitation: Invitation; readonly undo: () => void } {
    const kept = this.#find(capability)
    const state = kept && this.#stateOf(kept)
    if (kept === undefined) throw refused('the invitation is not known')
    if (state === 'expired') {
      throw new PeerlineError('ERR_PEERLINE_EXPIRED', 'the invitation has expired', { recover: ANOTHER })
    }
    if (state === 'revoked') throw refused('the invitation was taken back')
    if (kept.peers.has(peer)) return { invitation: this.#view(kept), undo: () => {} }
    if (state === 'used up') throw refused('the invitation was used before')
    const { action, rule } = this.#firewall.decide({ peer, direction: 'in', object: 'connection' })
    if (action === 'deny' && rule !== undefined && rule.subject !== 'everyone') {
      throw new PeerlineError('ERR_PEERLINE_DENIED', 'the peer does not let you in')
    }
    // First of all: whoever is told of the rules may ask again.
    kept.uses--
    kept.peers.add(peer)
    const uncount = () => {
      kept.uses++
      kept.peers.delete(peer)
    }
    const before = this.#rules()
    const { group } = kept.grant
    const joins = group !== undefined && !this.#firewall.concerns([`group:${group}`], peer)
    let rules: readonly Rule[]
    try {
      rules = this.#admit(peer, kept.grant)
    } catch (error) {
      uncount()
      throw error
    }
    const made = this.#rules()
    const undo = () => {
      uncount()
      const now = this.#rules()
      for (const { id } of rules) {
        // What the owner has set meanwhile stays.
        if (now.get(id) !== made.get(id)) continue
        const old = before.get(id)
        if (old === undefined || old.answer === true) this.#firewall.remove(id)
        else this.#set(old)
      }
      if (joins) this.#firewall.removeFromGroup(group, peer)
    }
    const invitation = this.#view(kept)
    this.emit('redeem', { invitation, peer, rules })
    return { invitation, undo }
  }

  #rules(): ReadonlyMap<string, Rule> {
    return new Map(this.#firewall.list().map((rule) => [rule.id, rule]))
  }

  /** Takes an invitation back, by its id; those who came by it stay. @returns false when it is none, or has ended */
  revoke(id: string): boolean {
    const kept = this.#kept.get(id)
    if (kept === undefined || this.#stateOf(kept) !== 'open') return false
    kept.revoked = true
    this.emit('revoke', { invitation: this.#view(kept) })
    return true
  }

  get(id: string): Invitation | undefined {
    const kept = this.#kept.get(id)
    return kept && this.#view(kept)
  }

  /** All that are known, also those that have ended lately; the oldest first. */
  list(): Invitation[] {
    return [...this.#kept.values()].map((kept) => this.#view(kept))
  }

  /** What is known, as plain JSON; what ended more than a week ago is left out. */
  toJSON(): InvitationsJson {
    const now = this.#now()
    this.#forget(({ expiresAt }) => expiresAt <= now - REMEMBERED_MS)
    return [...this.#kept.values()].map(({ digest, peers, revoked, ...rest }) => ({
      ...rest,
      digest: toHex(digest),
      peers: [...peers],
      ...(revoked ? { revoked } : {}),
    }))
  }

  /**
   * Takes over what {@link toJSON} gave, instead of what there is; all of it or, when something is wrong with it, nothing.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  fromJSON(json: unknown): void {
    const all = new Map<string, Kept>()
    for (const kept of readAll(json)) {
      if (all.has(idOf(kept))) throw invalid(`there are two invitations ${idOf(kept)}`)
      all.set(idOf(kept), kept)
    }
    if (usesOf(all) > MAX_ALL_USES) throw invalid(`all invitations together have more than ${MAX_ALL_USES} uses`)
    this.#kept = all
    this.emit('load', {})
  }

  /** Looks at all of them, whichever it is. */
  #find(capability: Uint8Array): Kept | undefined {
    if (capability.length < MIN_CAPABILITY_BYTES || capability.length > MAX_CAPABILITY_BYTES) return undefined
    const digest = digestOf(capability)
    let found: Kept | undefined
    for (const kept of this.#kept.values()) if (timingSafeEqual(kept.digest, digest)) found = kept
    return found
  }

  /** Makes the rules of a grant, and joins its group; all of it, or nothing. */
  #admit(peer: PeerId, { objects, group, forMs }: Grant): Rule[] {
    const wanted = objects ?? (group === undefined ? ['anything'] : [])
    const all = new Set(wanted.length === 0 || wanted.includes('anything') ? wanted : [...wanted, 'connection'])
    const expiresAt = forMs === undefined ? {} : { expiresAt: this.#now() + forMs }
    const before = this.#firewall.list()
    const made: Rule[] = []
    const longer: Rule[] = []
    for (const object of all) {
      const rule = parseRule({ subject: peer, object, direction: 'in', action: 'allow', ...expiresAt })
      const there = before.filter(({ id }) => id === rule.id || id === `${peer} ${object} both`)
      if (there.every((one) => isLess(one, rule))) (there.length === 0 ? made : longer).push(rule)
    }
    let set = 0
    try {
      for (const rule of made) {
        this.#set(rule)
        set++
      }
      if (group !== undefined) this.#firewall.addToGroup(group, peer)
    } catch (error) {
      for (const { id } of made.slice(0, set)) this.#firewall.remove(id)
      throw asPeerlineError(error, 'ERR_PEERLINE_LIMIT')
    }
    // There is room for those: others are in their place.
    for (const rule of longer) this.#set(rule)
    return [...made, ...longer, ...this.#shut(peer, [...all], expiresAt)]
  }

  /** Where whoever is connected may use everything, a grant of some protocols is to mean those alone. */
  #shut(peer: PeerId, objects: readonly string[], expiresAt: { readonly expiresAt?: number }): Rule[] {
    const limited = objects.length > 0 && !objects.includes('anything') && !objects.includes('*')
    const { action, rule } = this.#firewall.decide({ peer, direction: 'in', object: NOT_GRANTED })
    if (!limited || action !== 'allow' || (rule !== undefined && rule.subject === peer)) return []
    const shut = parseRule({ subject: peer, object: '*', direction: 'in', action: 'deny', ...expiresAt })
    this.#set(shut)
    return [shut]
  }

  #set({ id: _, ...rule }: Rule): void {
    this.#firewall.set(rule)
  }

  #stateOf({ revoked, expiresAt, uses }: Kept): InvitationState {
    if (revoked) return 'revoked'
    if (this.#now() >= expiresAt) return 'expired'
    return uses === 0 ? 'used up' : 'open'
  }

  #view(kept: Kept): Invitation {
    const { since, expiresAt, uses, peers, grant } = kept
    return { id: idOf(kept), state: this.#stateOf(kept), since, expiresAt, uses, peers: [...peers], grant }
  }

  #isFull(more: number): boolean {
    return this.#kept.size >= MAX_INVITATIONS || usesOf(this.#kept) + more > MAX_ALL_USES
  }

  #forget(which: (kept: Kept) => boolean): void {
    for (const [id, kept] of this.#kept) if (which(kept)) this.#kept.delete(id)
  }
}

const ANOTHER = 'Ask for another ticket.'

function digestOf(capability: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(capability).digest())
}

const idOf = ({ digest }: Pick<Kept, 'digest'>): string => toHex(digest).slice(0, ID_CHARS)

/** Uses of all, those that were made among them. */
function usesOf(all: ReadonlyMap<string, Kept>): number {
  let sum = 0
  for (const { uses, peers } of all.values()) sum += uses + peers.size
  return sum
}

/** True for a rule that lets through no more than another does: for a shorter time, or only where no rule says anything. */
function isLess(rule: Rule, other: Rule): boolean {
  const { action, uses, rate, answer } = rule
  if (action !== 'allow' || uses !== undefined || rate !== undefined) return false
  return answer === true || endOf(rule) < endOf(other)
}

const endOf = ({ expiresAt }: Rule): number => expiresAt ?? Number.POSITIVE_INFINITY

/** A grant, checked, and frozen. @throws PeerlineError `ERR_PEERLINE_INVALID` */
function checkGrant({ objects, group, forMs }: Grant): Grant {
  if (objects !== undefined && !(objects.length >= 1 && objects.length <= MAX_OBJECTS)) {
    throw invalid(`a grant has 1 to ${MAX_OBJECTS} objects`)
  }
  for (const object of objects ?? []) parseRule({ subject: 'everyone', object, action: 'allow' })
  if (group !== undefined) checkGroup(group)
  if (forMs !== undefined && !(Number.isSafeInteger(forMs) && forMs >= 1 && forMs <= MAX_RULE_MS)) {
    throw invalid(`forMs ${forMs} is not a whole number from 1 to ${MAX_RULE_MS}`)
  }
  if (group !== undefined && forMs !== undefined)
    throw invalid('a peer is in a group for good: forMs is of rules alone')
  return Object.freeze({
    ...(objects === undefined ? {} : { objects: Object.freeze([...objects]) }),
    ...(group === undefined ? {} : { group }),
    ...(forMs === undefined ? {} : { forMs }),
  })
}

function readAll(json: unknown): Kept[] {
  return strictly(() =>
    fields({ invitations: json }, 'list').list('invitations', { max: MAX_INVITATIONS }).map(readOne),
  )
}

function readOne(json: unknown): Kept {
  const all = fields(json, 'invitation')
  const digest = fromHex(all.text('digest', { max: 2 * DIGEST_BYTES }))
  if (digest.length !== DIGEST_BYTES) throw invalid(`the digest of an invitation has ${DIGEST_BYTES} bytes`)
  const since = all.integer('since', { max: MAX_TIME_MS })
  const peers = new Set(all.texts('peers', { max: MAX_USES, maxLength: MAX_OBJECT_CHARS }).map(parsePeerId))
  return {
    digest,
    since,
    expiresAt: all.integer('expiresAt', { min: since + 1, max: MAX_TIME_MS }),
    uses: all.integer('uses', { max: MAX_USES - peers.size }),
    peers,
    grant: readGrant(all.map('grant')),
    revoked: all.optional('revoked', (at) => all.boolean(at)) ?? false,
  }
}

function readGrant(all: Fields): Grant {
  return checkGrant({
    objects: all.optional('objects', (at) => all.texts(at, { max: MAX_OBJECTS, maxLength: MAX_OBJECT_CHARS })),
    group: all.optional('group', (at) => all.text(at, { max: MAX_OBJECT_CHARS })),
    forMs: all.optional('forMs', (at) => all.integer(at)),
  })
}

function refused(message: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_DENIED', message, { recover: ANOTHER })
}
