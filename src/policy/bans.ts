/**
 * Who is shut out, both ways, whatever the rules say: peers by their id, and addresses by prefix.
 *
 * - A ban holds until its time, or for good. What is over is nobody's ban any more, whether or not it was cleared away.
 * - An address is judged as what it reaches: IPv4 in an IPv6 mapping (RFC 4291 section 2.5.5.2), or behind the well-known
 *   prefix of NAT64 (RFC 6052 section 2.1), is the IPv4 address.
 * - It fails closed: full, it refuses another ban and drops none; what it cannot load, it does not load in part.
 * - Asking costs one look-up per length of prefix in use, whatever the number of bans.
 *
 * Whoever holds sessions listens for `ban`, and ends those that are banned now.
 */
import { fields, MAX_TIME_MS, strictly } from '../bytes/index.ts'
import { invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { PEER_ID_LENGTH, type PeerId, parsePeerId } from '../identity/index.ts'
import { bytesToIp, ipToBytes, masked, NAT64, startsWith, unmapped } from '../network/address.ts'

/** Bans at once: about 2 MB. More than this is no list that somebody keeps, but a flood that wants wider prefixes. */
export const MAX_BANS = 10_000

/** UTF-16 units of a reason: a line. */
const MAX_WHY_CHARS = 200

/** Characters of the longest target: a peer id as did:key; prefixes are shorter. */
const MAX_TARGET_CHARS = 64

export interface Ban {
  /** A peer id, or a prefix in CIDR form (RFC 4632 section 3.1, RFC 4291 section 2.3) such as `192.0.2.0/24`. */
  readonly target: string
  readonly kind: 'peer' | 'address'
  /** When it began, ms since 1970. */
  readonly since: number
  /** When it is over, ms since 1970; for good without. */
  readonly until?: number
  /** For people. */
  readonly why?: string
}

/** What {@link Bans.toJSON} gives: plain JSON, the oldest ban first. */
export type BansJson = readonly Omit<Ban, 'kind'>[]

export type BansEvents = {
  /** New, or with another time or reason. */
  ban: { ban: Ban }
  unban: { ban: Ban; reason: 'lifted' | 'expired' }
}

interface Prefix {
  readonly bytes: Uint8Array
  readonly bits: number
}

export class Bans extends TypedEventTarget<BansEvents> {
  readonly #now: () => number
  /** By target. */
  #bans = new Map<string, Ban>()
  /** Bans by length of prefix. */
  #lengths: Lengths = { 4: new Map(), 16: new Map() }

  /** @param options `now`: ms since 1970, whole: bans outlive the process. @default Date.now */
  constructor(options: { now?: () => number } = {}) {
    super()
    this.#now = options.now ?? Date.now
  }

  /** Bans kept; some may be over. */
  get size(): number {
    return this.#bans.size
  }

  /**
   * Bans a peer (a peer id or did:key) or addresses (`192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`; bits beyond the prefix
   * are cleared). A ban of the same target is replaced.
   * @param options `until`: ms since 1970. @default for good
   * @throws PeerlineError `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_LIMIT` when there are 10,000
   */
  ban(target: string, options: { until?: number | undefined; why?: string | undefined } = {}): Ban {
    const { until, why } = options
    const since = this.#now()
    if (until !== undefined && !(Number.isSafeInteger(until) && until > since && until <= MAX_TIME_MS)) {
      throw invalid(`a ban until ${until} is over before it begins`)
    }
    if (why !== undefined && !isWhy(why)) throw invalid(`a reason is a line of at most ${MAX_WHY_CHARS} characters`)
    const ban = { ...parseTarget(target), since, ...(until === undefined ? {} : { until }), ...(why ? { why } : {}) }
    if (!this.#bans.has(ban.target) && this.#bans.size >= MAX_BANS) {
      this.expire()
      if (this.#bans.size >= MAX_BANS) {
        throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are ${MAX_BANS} bans: lift some, or ban wider prefixes`)
      }
    }
    this.#remove(ban.target)
    this.#bans.set(ban.target, ban)
    count(this.#lengths, ban, 1)
    this.emit('ban', { ban })
    return ban
  }

  /**
   * Lifts the ban of exactly this target. @returns false when there is none
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  unban(target: string): boolean {
    const ban = this.#remove(parseTarget(target).target)
    if (ban === undefined) return false
    const lifted = this.#holds(ban)
    this.emit('unban', { ban, reason: lifted ? 'lifted' : 'expired' })
    return lifted
  }

  isBanned(peer: PeerId): boolean {
    return this.banOf(peer) !== undefined
  }

  /** @param host an IP address, without a port; a name is not banned: look at what it resolves to */
  isBannedAddress(host: string): boolean {
    return this.banOfAddress(host) !== undefined
  }

  /** The ban that a peer is under. */
  banOf(peer: PeerId): Ban | undefined {
    return this.#holding(peer)
  }

  /** The narrowest ban that an IP address is under. */
  banOfAddress(host: string): Ban | undefined {
    const bytes = ipToBytes(host)
    if (bytes === undefined) return undefined
    const plain = unmapped(bytes)
    const beyond =
      plain.length === 16 && startsWith(plain, NAT64, 96) ? this.#banOfBytes(plain.subarray(12)) : undefined
    return beyond ?? this.#banOfBytes(plain)
  }

  /** Bans that hold, the oldest first. */
  list(): Ban[] {
    return [...this.#bans.values()].filter((ban) => this.#holds(ban))
  }

  /** Clears away what is over, and tells of it. Nothing depends on it but those events, and the room it makes. */
  expire(): void {
    for (const ban of [...this.#bans.values()]) {
      if (this.#holds(ban) || !this.#remove(ban.target)) continue
      this.emit('unban', { ban, reason: 'expired' })
    }
  }

  /** What holds, as plain JSON. */
  toJSON(): BansJson {
    return this.list().map(({ kind, ...ban }) => ban)
  }

  /**
   * Takes over what {@link toJSON} gave, instead of what there is, and tells of each ban; all of it or, when something is
   * wrong with it, nothing. What is over meanwhile is left out.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  fromJSON(json: unknown): void {
    const bans = new Map<string, Ban>()
    for (const ban of readBans(json)) {
      if (bans.has(ban.target)) throw invalid(`${ban.target} is banned twice`)
      bans.set(ban.target, ban)
    }
    const before = this.#bans
    this.#bans = new Map([...bans].filter(([, ban]) => this.#holds(ban)))
    this.#lengths = { 4: new Map(), 16: new Map() }
    for (const ban of this.#bans.values()) count(this.#lengths, ban, 1)
    for (const ban of before.values()) {
      if (!this.#bans.has(ban.target)) this.emit('unban', { ban, reason: this.#holds(ban) ? 'lifted' : 'expired' })
    }
    for (const ban of [...this.#bans.values()]) this.emit('ban', { ban })
  }

  #banOfBytes(bytes: Uint8Array): Ban | undefined {
    const lengths = this.#lengths[bytes.length === 4 ? 4 : 16]
    let narrowest: Ban | undefined
    let most = -1
    for (const bits of lengths.keys()) {
      const ban = bits > most ? this.#holding(showPrefix({ bytes: masked(bytes, bits), bits })) : undefined
      if (ban === undefined) continue
      narrowest = ban
      most = bits
    }
    return narrowest
  }

  #holding(target: string): Ban | undefined {
    const ban = this.#bans.get(target)
    return ban !== undefined && this.#holds(ban) ? ban : undefined
  }

  #holds({ until }: Ban): boolean {
    return until === undefined || this.#now() < until
  }

  #remove(target: string): Ban | undefined {
    const ban = this.#bans.get(target)
    if (ban === undefined) return undefined
    this.#bans.delete(target)
    count(this.#lengths, ban, -1)
    return ban
  }
}

interface Lengths {
  readonly 4: Map<number, number>
  readonly 16: Map<number, number>
}

/** Counts a ban among those of its length of prefix, so that only lengths in use are looked for. */
function count(lengths: Lengths, { kind, target }: Ban, by: 1 | -1): void {
  if (kind === 'peer') return
  const { bytes, bits } = parsePrefix(target)
  const ofFamily = lengths[bytes.length === 4 ? 4 : 16]
  const left = (ofFamily.get(bits) ?? 0) + by
  if (left === 0) ofFamily.delete(bits)
  else ofFamily.set(bits, left)
}

/** A target in its one form. */
function parseTarget(text: string): { target: string; kind: Ban['kind'] } {
  if (typeof text !== 'string' || text.length > MAX_TARGET_CHARS) throw invalid('what is banned is a short text')
  const isPeer = text.startsWith('did:') || (text.length === PEER_ID_LENGTH && !/[.:/]/.test(text))
  return isPeer
    ? { target: parsePeerId(text), kind: 'peer' }
    : { target: showPrefix(parsePrefix(text)), kind: 'address' }
}

/** Reads an IP address, or a prefix. */
function parsePrefix(text: string): Prefix {
  const shown = JSON.stringify(text)
  const [, host = '', length] = /^([^/%]+)(?:\/(\d{1,3}))?$/.exec(text) ?? []
  const bytes = ipToBytes(host)
  if (bytes === undefined) throw invalid(`${shown} is no peer id, IP address or prefix such as 192.0.2.0/24`)
  const most = bytes.length * 8
  const bits = length === undefined ? most : Number(length)
  if (bits > most) throw invalid(`${shown}: a prefix of this family has 0 to ${most} bits`)
  const plain = bits >= 96 ? unmapped(bytes) : bytes
  const plainBits = bits - (most - plain.length * 8)
  return { bytes: masked(plain, plainBits), bits: plainBits }
}

function showPrefix({ bytes, bits }: Prefix): string {
  return `${bytesToIp(bytes)}/${bits}`
}

function isWhy(text: unknown): text is string {
  return typeof text === 'string' && text.length <= MAX_WHY_CHARS && !/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(text)
}

function readBans(json: unknown): Ban[] {
  return strictly(() => fields({ bans: json }, 'list').list('bans', { max: MAX_BANS }).map(readBan))
}

function readBan(json: unknown): Ban {
  const all = fields(json, 'ban')
  const { target, kind } = parseTarget(all.text('target', { max: MAX_TARGET_CHARS }))
  if (target !== all.text('target', { max: MAX_TARGET_CHARS }))
    throw invalid(`the ban of ${target} is not in its one form`)
  const since = all.integer('since', { max: MAX_TIME_MS })
  const until = all.optional('until', (at) => all.integer(at, { min: since + 1, max: MAX_TIME_MS }))
  const why = all.optional('why', (at) => all.text(at, { min: 1, max: MAX_WHY_CHARS }))
  if (why !== undefined && !isWhy(why)) throw invalid(`the reason of the ban of ${target} is not a line`)
  return { target, kind, since, ...(until === undefined ? {} : { until }), ...(why === undefined ? {} : { why }) }
}
