/**
 * How many connections at once. What goes on inside of one is bounded by the session itself.
 *
 *     take({ direction, host?, peer? })   pending      somebody's first messages, or a dial of ours
 *       token.establish(peer)             established  a session with a proven peer
 *         token.release()                 given back, once, however often it is called
 *
 * - A connection counts under all limits at once, or under none: what is refused has taken nothing.
 * - What others want and cannot have is `ERR_PEERLINE_BUSY`, which they may be told; what we want ourselves is
 *   `ERR_PEERLINE_LIMIT`. Both name the limit and its value.
 * - It holds a number for each peer and prefix with a connection, and nothing for others: `total` bounds its memory.
 */
import { invalid, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { toSocketAddress } from '../network/address.ts'
import { networkOf } from '../network/address-quorum.ts'

export type Direction = 'in' | 'out'

/** Each is a whole number >= 0, or `Infinity`. */
export interface ConnectionLimitsOptions {
  /** Connections from others that are no session yet; each may hold 17 KiB of first messages. @default 1_024 */
  readonly pendingIn?: number
  /** Dials of ours under way. @default 1_024 */
  readonly pendingOut?: number
  /** Sessions that others have dialled. @default 10_000 */
  readonly establishedIn?: number
  /** Sessions that we have dialled. @default 10_000 */
  readonly establishedOut?: number
  /** All of these together. @default 10_000 */
  readonly total?: number
  /** Those with one peer, as far as it is known who it is. @default 8 */
  readonly perPeer?: number
  /** Those from and to one address prefix: a tenth of all, since a household may share one. @default 1_024 */
  readonly perPrefix?: number
  /** Bits of an IPv4 address that make a prefix. @default 24, a usual smallest routed block */
  readonly ipv4PrefixBits?: number
  /** Bits of an IPv6 address that make a prefix. @default 56, what a household usually gets (RFC 6177 section 2) */
  readonly ipv6PrefixBits?: number
}

const CONNECTION_DEFAULTS = {
  pendingIn: 1_024,
  pendingOut: 1_024,
  establishedIn: 10_000,
  establishedOut: 10_000,
  total: 10_000,
  perPeer: 8,
  perPrefix: 1_024,
}
const IPV4_PREFIX_BITS = 24
const IPV6_PREFIX_BITS = 56

type ConnectionLimit = keyof typeof CONNECTION_DEFAULTS
type CountedConnections = Exclude<ConnectionLimit, 'perPeer' | 'perPrefix'> | 'peers' | 'prefixes'

/** A connection that counts. */
export interface ConnectionToken {
  /** `released`: it counts no more. */
  readonly state: 'pending' | 'established' | 'released'
  /**
   * It is a session with `peer` now. When that is refused it stays what it was, to be released.
   * @throws PeerlineError `ERR_PEERLINE_BUSY` for one that came in, else `ERR_PEERLINE_LIMIT`; `ERR_PEERLINE_INVALID`
   *   when it was established or released before, or taken for another peer
   */
  establish(peer: PeerId): void
  /** Gives back what was taken. The first call counts, others do nothing. */
  release(): void
}

/** A connection that wants to be. */
export interface ConnectionClaim {
  readonly direction: Direction
  /** Where the other end is, without a port. What is no IP address, such as a relay, counts under no prefix. */
  readonly host?: string | undefined
  /** Who it is, when that is known. */
  readonly peer?: PeerId | undefined
}

export class ConnectionLimits {
  readonly #limits: Readonly<Record<ConnectionLimit, number>>
  readonly #prefixBits: { readonly 4: number; readonly 6: number }
  readonly #counts = { pendingIn: 0, pendingOut: 0, establishedIn: 0, establishedOut: 0, total: 0 }
  readonly #perPeer = new Counts<PeerId>()
  readonly #perPrefix = new Counts<string>()

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` for a limit that is none */
  constructor(options: ConnectionLimitsOptions = {}) {
    const { ipv4PrefixBits = IPV4_PREFIX_BITS, ipv6PrefixBits = IPV6_PREFIX_BITS, ...limits } = options
    this.#limits = checked(CONNECTION_DEFAULTS, limits)
    checkBits(ipv4PrefixBits, 32)
    checkBits(ipv6PrefixBits, 128)
    this.#prefixBits = { 4: ipv4PrefixBits, 6: ipv6PrefixBits }
  }

  /** How many there are now, and with how many peers and prefixes. */
  get counts(): Readonly<Record<CountedConnections, number>> {
    return { ...this.#counts, peers: this.#perPeer.size, prefixes: this.#perPrefix.size }
  }

  /**
   * Counts a connection that begins, until its token is released.
   * @throws PeerlineError `ERR_PEERLINE_BUSY` for one that comes in, `ERR_PEERLINE_LIMIT` for one of ours
   */
  take(claim: ConnectionClaim): ConnectionToken {
    const { direction, host } = claim
    const isIp = host !== undefined && toSocketAddress(host, 0) !== undefined
    const prefix = isIp ? networkOf(host, this.#prefixBits) : undefined
    const pending = direction === 'in' ? 'pendingIn' : 'pendingOut'
    const established = direction === 'in' ? 'establishedIn' : 'establishedOut'
    let { peer } = claim
    this.#check(direction, 'total', this.#counts.total)
    this.#check(direction, pending, this.#counts[pending])
    if (prefix !== undefined) this.#check(direction, 'perPrefix', this.#perPrefix.of(prefix))
    if (peer !== undefined) this.#check(direction, 'perPeer', this.#perPeer.of(peer))
    this.#counts.total++
    this.#counts[pending]++
    this.#perPrefix.add(prefix, 1)
    this.#perPeer.add(peer, 1)

    let state: ConnectionToken['state'] = 'pending'
    return {
      get state() {
        return state
      },
      establish: (proven) => {
        if (state !== 'pending') throw invalid(`the connection is ${state}`)
        if (peer !== undefined && peer !== proven) throw invalid("the connection is another peer's")
        this.#check(direction, established, this.#counts[established])
        if (peer === undefined) {
          this.#check(direction, 'perPeer', this.#perPeer.of(proven))
          this.#perPeer.add(proven, 1)
          peer = proven
        }
        this.#counts[pending]--
        this.#counts[established]++
        state = 'established'
      },
      release: () => {
        if (state === 'released') return
        this.#counts[state === 'pending' ? pending : established]--
        this.#counts.total--
        this.#perPrefix.add(prefix, -1)
        this.#perPeer.add(peer, -1)
        state = 'released'
      },
    }
  }

  #check(direction: Direction, limit: ConnectionLimit, count: number): void {
    if (count >= this.#limits[limit]) throw reached(direction, limit, this.#limits[limit])
  }
}

/** Numbers by key; a key whose number is 0 takes no memory. */
class Counts<K> {
  readonly #counts = new Map<K, number>()

  get size(): number {
    return this.#counts.size
  }

  of(key: K): number {
    return this.#counts.get(key) ?? 0
  }

  add(key: K | undefined, by: 1 | -1): void {
    if (key === undefined) return
    const count = this.of(key) + by
    if (count === 0) this.#counts.delete(key)
    else this.#counts.set(key, count)
  }
}

function reached(direction: Direction, limit: ConnectionLimit, value: number): PeerlineError {
  return direction === 'in'
    ? new PeerlineError('ERR_PEERLINE_BUSY', `the limit ${limit} of ${value} is reached here`)
    : new PeerlineError('ERR_PEERLINE_LIMIT', `the limit ${limit} of ${value} is reached`)
}

/** `given` over `defaults`, each of them a limit. */
function checked<L extends string>(defaults: Record<L, number>, given: Partial<Record<L, number>>): Record<L, number> {
  const limits = { ...defaults }
  for (const [name, value] of Object.entries(given) as [L, number | undefined][]) {
    if (value === undefined) continue
    if (!Object.hasOwn(defaults, name)) throw invalid(`there is no limit ${name}`)
    if (!(value >= 0 && (Number.isSafeInteger(value) || value === Number.POSITIVE_INFINITY))) {
      throw invalid(`the limit ${name} must be a whole number >= 0 or Infinity, not ${value}`)
    }
    limits[name] = value
  }
  return limits
}

function checkBits(bits: number, most: number): void {
  if (!(Number.isSafeInteger(bits) && bits >= 1 && bits <= most))
    throw invalid(`a prefix has 1 to ${most} bits, not ${bits}`)
}
