/**
 * What a thorough look at this machine's NAT finds: plain JSON, times in ms. nat-diagnosis.ts makes it.
 */

import { type AddressScope, formatHostPort, type LocalAddress, type SocketAddress } from './address.ts'
import type { TransportView } from './nat.ts'
import type { MappingLife } from './nat-lifetime.ts'
import type { HostPort } from './nat-mapping.ts'

/** RFC 4787 section 4.1; `unknown`: too few reflectors answered. */
export type MappingBehaviour =
  | 'none'
  | 'endpoint-independent'
  | 'address-dependent'
  | 'address-and-port-dependent'
  | 'unknown'

/** RFC 4787 section 5. `at-most-address-dependent`: lets in other ports; other addresses could not be tried. */
export type FilteringBehaviour =
  | 'endpoint-independent'
  | 'at-most-address-dependent'
  | 'address-dependent'
  | 'address-and-port-dependent'
  | 'unknown'

export interface UdpDiagnosis extends TransportView {
  mappingBehaviour: MappingBehaviour
  /** What that rests on: reflectors that answered, by address and by address and port. */
  mappingSeenFrom: { addresses: number; endpoints: number }
  filtering: FilteringBehaviour
  /** Whether two sockets behind the NAT reach each other by their mapped addresses; `not-needed` without a NAT. */
  hairpin: 'yes' | 'no' | 'not-needed' | 'unknown'
  /** How long a mapping lives without traffic; left out when it could not be told. */
  lifetimeMs?: MappingLife
}

export interface Ipv6Diagnosis {
  /** Whether this machine has a public IPv6 address. */
  address: boolean
  udp: TransportView['state']
  tcp: TransportView['state']
  mapped: SocketAddress[]
  /** True when reflectors see an address that is not this machine's; left out when none answered. */
  translated?: boolean
}

/** One reflector, and the round trips to it; left out where it did not answer. */
export interface ReflectorReport {
  host: string
  port: number
  scope: AddressScope
  udpRttMs?: number
  /** It answers from elsewhere when asked to. */
  changes?: { address: boolean; port: boolean }
}

export interface NatDiagnosis {
  tookMs: number
  local: LocalAddress[]
  reflectors: ReflectorReport[]
  udp: UdpDiagnosis
  tcp: TransportView
  ipv6: Ipv6Diagnosis
}

/** RFC 5780 section 4.3, for any number of reflectors. */
export function behaviourOf(seen: readonly { place: HostPort; mapped: HostPort }[]): MappingBehaviour {
  const count = (some: typeof seen): number =>
    new Set(some.map(({ mapped }) => formatHostPort(mapped.host, mapped.port))).size
  if (seen.length < 2) return 'unknown'
  if (count(seen) === 1) return 'endpoint-independent'
  const hosts = [...new Set(seen.map(({ place }) => place.host))]
  const byHost = hosts.map((host) => seen.filter(({ place }) => place.host === host))
  if (byHost.some((of) => count(of) > 1)) return 'address-and-port-dependent'
  // Different by address: whether the port counts too is known only where two ports of one address were asked.
  return byHost.some((of) => of.length > 1) ? 'address-dependent' : 'unknown'
}
