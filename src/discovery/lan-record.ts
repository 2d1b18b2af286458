/**
 * What a peer says about itself on the local network: a signed record with where it listens there, and nothing else.
 *
 * - At most {@link MAX_LAN_RECORD_BYTES}, so that a datagram of it, or a TXT record (RFC 6763 section 6.2), needs one packet.
 * - Of the addresses only those of this machine's own interfaces: what a router maps is nobody's business here.
 * - A record without addresses says goodbye: it is as hard to forge as any, and newer than those before.
 * - It lives a day: machines without a clock of their own, on a network without servers, are often hours apart.
 *
 * The other side believes of a record's addresses those that are near (its own subnets, and private ones), and puts first
 * where the datagram came from: so much is sure, that a machine is there.
 */
import type { RemoteInfo } from 'node:dgram'
import { isPeerlineError } from '../errors.ts'
import { type Identity, type PeerRecord, signRecord } from '../identity/index.ts'
import {
  formatHostPort,
  inOwnSubnet,
  type LocalAddress,
  parseHostPort,
  scopeOf,
  sortByNearness,
} from '../network/address.ts'
import { dialableAddress, MAX_ADDRESSES } from './address-list.ts'

/** Sixteen addresses of IPv6, a key and a signature take less; RFC 6763 section 6.2 has 1,300 as the most of a TXT record. */
export const MAX_LAN_RECORD_BYTES = 1_200

/** ms that a record is valid, and that it is used before it is made anew. */
const LIFE_MS = 86_400_000
const RENEW_MS = LIFE_MS / 2

/** What this machine says now. */
export interface OwnRecord {
  readonly bytes: Uint8Array
  /** Of the first listener: what other programs are told. */
  readonly port: number
  /** The interfaces' addresses where that listener is found. */
  readonly hosts: readonly LocalAddress[]
}

/** Makes the records of this peer: a new one when something is new, or the old one has become old. */
export class OwnRecords {
  readonly #identity: Identity
  readonly #listening: () => readonly string[]
  #sequence = 0
  #made: { readonly own: OwnRecord; readonly of: string; readonly at: number } | undefined

  /** @param listening where this peer listens, `host:port` as it was bound: `[::]:4401` is every interface */
  constructor(identity: Identity, listening: () => readonly string[]) {
    this.#identity = identity
    this.#listening = listening
  }

  /** The record to be told on these interfaces; undefined when nobody on the network can connect. */
  current(locals: readonly LocalAddress[]): OwnRecord | undefined {
    const { addresses, port, hosts } = listenedOn(this.#listening(), locals)
    if (port === undefined) return undefined
    const of = addresses.join()
    const now = Date.now()
    if (this.#made?.of !== of || Math.abs(now - this.#made.at) > RENEW_MS) {
      this.#made = { own: { bytes: this.#sign(now, addresses), port, hosts }, of, at: now }
    }
    return this.#made.own
  }

  /** The record that ends all those before. */
  goodbye(): Uint8Array {
    this.#made = undefined
    return this.#sign(Date.now(), [])
  }

  #sign(now: number, addresses: readonly string[]): Uint8Array {
    // The clock may have been set back meanwhile.
    this.#sequence = Math.max(now, this.#sequence + 1)
    return signRecord(this.#identity, { sequence: this.#sequence, expiresAt: now + LIFE_MS, addresses })
  }
}

/** True for a record that ends those before. */
export function saysGoodbye({ addresses }: PeerRecord): boolean {
  return addresses.length === 0
}

/**
 * Where to dial whoever sent this record, `host:port`, the best first; nothing when none of it is near.
 * @param source where the datagram came from
 */
export function believedAddresses(
  record: PeerRecord,
  source: Pick<RemoteInfo, 'address'>,
  locals: readonly LocalAddress[],
): string[] {
  const told = record.addresses.flatMap((text) => parsed(text) ?? [])
  const [first] = told
  if (first === undefined) return []
  const { port } = told.find(({ host }) => host === source.address) ?? first
  const near = told.filter(({ host }) => {
    const scope = scopeOf(host)
    if (scope === 'link-local') return false // it is one of many links, and only the source says which
    return inOwnSubnet(host, locals) || scope === 'private'
  })
  const all = [{ host: source.address, port }, ...sortByNearness(near, locals)]
  return [...new Set(all.map(({ host, port }) => formatHostPort(host, port)))].slice(0, MAX_ADDRESSES)
}

/** The addresses of the listeners on these interfaces; where there is nothing else, those of the link, without their zone. */
function listenedOn(listening: readonly string[], locals: readonly LocalAddress[]) {
  let port: number | undefined
  const hosts: LocalAddress[] = []
  const addresses: string[] = []
  for (const listener of listening.flatMap((text) => parseHostPort(text))) {
    const every = scopeOf(listener.host || '::') === 'unspecified'
    const v6 = listener.host === '' || listener.host.includes(':')
    const own = locals.filter(({ host, family }) => (every ? v6 || family === 4 : host === listener.host))
    if (own.length === 0) continue
    port ??= listener.port
    if (port === listener.port) hosts.push(...own)
    const global = own.filter(({ scope }) => scope !== 'link-local')
    const told = sortByNearness(global.length > 0 ? global : own, locals)
    addresses.push(...told.map(({ host }) => formatHostPort(host.replace(/%.*$/s, ''), listener.port)))
  }
  return { addresses: [...new Set(addresses)].slice(0, MAX_ADDRESSES), port, hosts }
}

function parsed(text: string): { host: string; port: number } | undefined {
  try {
    return parseHostPort(dialableAddress(text, { zone: false, name: false }))
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}
