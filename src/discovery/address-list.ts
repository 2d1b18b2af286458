/**
 * The addresses of one peer, the best first.
 *
 *     what worked (the latest first) | what was not tried (in the order learned) | what failed (the latest last)
 *
 * A success puts an address at the front, a failure at the back; a newcomer goes in front of those that failed. So a dial
 * that takes them in order begins with what worked last, and ends with what failed just now.
 *
 * Limit: {@link MAX_ADDRESSES}. What peers and others say may push out only what nobody has seen to work; what the user
 * gave goes last.
 */
import { invalid, PeerlineError } from '../errors.ts'
import { bytesToIp, formatHostPort, ipToBytes, parseHostPort, scopeOf, toSocketAddress } from '../network/address.ts'

/** Addresses kept of one peer: a machine's addresses on a few networks, in both families. */
export const MAX_ADDRESSES = 16

/** Failures in a row that are counted: beyond it nobody waits longer. */
export const MAX_FAILURES = 1_000_000

/**
 * Where an address comes from, the best authority first.
 *
 * - `given`: the user
 * - `dialled`: it was dialled, and the peer answered there
 * - `told`: the peer, as a candidate
 * - `record`: a signed record of the peer
 * - `lan`: an answer on the local network
 */
export const SOURCES = ['given', 'dialled', 'told', 'record', 'lan'] as const
export type AddressSource = (typeof SOURCES)[number]

/** An address of a peer, and how it fared. */
export interface KnownAddress {
  /** `host:port`, in the one form that {@link dialableAddress} gives. */
  readonly address: string
  readonly source: AddressSource
  /** When it last worked, ms since 1970. */
  readonly lastSuccess?: number
  /** When it last did not, ms since 1970. */
  readonly lastFailure?: number
  /** Failures since it last worked. */
  readonly failures: number
}

/**
 * `text` (`host:port`) in one form, so that an address is known once: IPv6 as RFC 5952 has it, IPv4 out of its IPv6
 * mapping, names in lower case.
 * @param options `zone: false` refuses an IPv6 zone: it means something on the machine alone that named it. `name: false`
 *   refuses a name: who resolves it decides where it leads.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for what is no address, or none where anybody answers: port 0, every
 *   interface, multicast
 */
export function dialableAddress(text: string, options: { zone?: boolean; name?: boolean } = {}): string {
  const { host, port } = parseHostPort(text)
  if (host === '' || port === 0) throw invalid(`nobody can be dialled at ${JSON.stringify(text)}`)
  const bytes = ipToBytes(toSocketAddress(host, port)?.host ?? host)
  if (bytes === undefined) {
    if (options.name === false) throw invalid(`${host} is no IP address`)
    return formatHostPort(host.toLowerCase(), port)
  }
  const scope = scopeOf(host)
  if (scope === 'unspecified' || scope === 'multicast') throw invalid(`nobody can be dialled at ${scope} ${host}`)
  const zone = bytes.length === 16 ? (/%.*$/s.exec(host)?.[0] ?? '') : ''
  if (zone !== '' && options.zone === false) throw invalid(`${host}: a zone means nothing elsewhere`)
  return formatHostPort(bytesToIp(bytes) + zone, port)
}

/** Where an address stands: 0 it worked last, 1 it was not tried, 2 it failed last. Lists are sorted by it. */
export function standing({ failures, lastSuccess }: KnownAddress): 0 | 1 | 2 {
  if (failures > 0) return 2
  return lastSuccess === undefined ? 1 : 0
}

/** All addresses given to its methods are in the form of {@link dialableAddress}. */
export class AddressList {
  #list: readonly KnownAddress[]

  /** @param list sorted by {@link standing}, at most {@link MAX_ADDRESSES}, none twice */
  constructor(list: readonly KnownAddress[] = []) {
    this.#list = list
  }

  /** The best first. The list does not change any more; the next change makes another. */
  get all(): readonly KnownAddress[] {
    return this.#list
  }

  /** True when the user gave one of them. */
  get given(): boolean {
    return this.#list.some(({ source }) => source === 'given')
  }

  /**
   * Learns an address, or a better authority for one that is known; how it fared stays.
   * @returns false when nothing has changed: it was known, or there is no place for it
   * @throws PeerlineError `ERR_PEERLINE_LIMIT` when the user gives more than {@link MAX_ADDRESSES}
   */
  learn(address: string, source: AddressSource): boolean {
    const at = this.#indexOf(address)
    if (at >= 0) {
      const known = this.#list[at]!
      if (SOURCES.indexOf(source) >= SOURCES.indexOf(known.source)) return false
      this.#list = this.#list.with(at, { ...known, source })
      return true
    }
    const kept = this.#withRoomFor(source)
    if (kept === undefined) {
      if (source !== 'given') return false
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `a peer has at most ${MAX_ADDRESSES} addresses`)
    }
    const firstFailed = kept.findIndex((one) => standing(one) === 2)
    this.#list = kept.toSpliced(firstFailed < 0 ? kept.length : firstFailed, 0, { address, source, failures: 0 })
    return true
  }

  /** It was dialled, and the peer answered: it goes to the front, and is known from now on. */
  succeeded(address: string, now: number): void {
    const known = this.#list[this.#indexOf(address)]
    const others = known === undefined ? this.#withRoomFor('dialled') : this.#without(address)
    const entry = { ...(known ?? { address, source: 'dialled' }), lastSuccess: now, failures: 0 } as const
    // Should the user have given all of them, what works is still worth more than the last of those.
    this.#list = [entry, ...(others ?? this.#list.slice(0, -1))]
  }

  /** It was dialled in vain: it goes to the back. Failing makes no address known. */
  failed(address: string, now: number): boolean {
    const known = this.#list[this.#indexOf(address)]
    if (known === undefined) return false
    const failures = Math.min(known.failures + 1, MAX_FAILURES)
    this.#list = [...this.#without(address), { ...known, lastFailure: now, failures }]
    return true
  }

  /** @returns false when it was not known */
  remove(address: string): boolean {
    const { length } = this.#list
    this.#list = this.#without(address)
    return this.#list.length < length
  }

  #indexOf(address: string): number {
    return this.#list.findIndex((one) => one.address === address)
  }

  #without(address: string): readonly KnownAddress[] {
    return this.#list.filter((one) => one.address !== address)
  }

  /** The list with a place for one more, or undefined when the newcomer is worth less than all that are there. */
  #withRoomFor(source: AddressSource): readonly KnownAddress[] | undefined {
    if (this.#list.length < MAX_ADDRESSES) return this.#list
    const victim =
      this.#list.findLast((one) => one.source !== 'given' && standing(one) === 2) ??
      this.#list.find((one) => one.source !== 'given' && standing(one) === 1) ??
      (source === 'given' || source === 'dialled' ? this.#list.findLast((one) => one.source !== 'given') : undefined)
    return victim && this.#list.filter((one) => one !== victim)
  }
}
