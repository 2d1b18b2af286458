/**
 * Network addresses: their text, their bytes, and how far they reach.
 *
 * Text follows RFC 5952 for IPv6 (lower case, longest run of zeros as `::`), and RFC 3986 brackets before a port.
 * `scopeOf` follows the IANA special-purpose address registries (RFC 6890 and its updates). It fails closed: whatever is
 * not known to be reachable by anyone is not `public`, and an IPv4 address dressed as IPv6 is judged as the IPv4 it is.
 */

import { isIP } from 'node:net'
import { type NetworkInterfaceInfo, networkInterfaces } from 'node:os'
import { invalid } from '../errors.ts'

/** Where a socket is: an IP address without brackets, and a port. */
export interface SocketAddress {
  host: string
  port: number
  family: 4 | 6
}

/** How far an address reaches. `reserved`: nobody may be dialed there (documentation, tunnels, unassigned, not an address). */
export type AddressScope = 'loopback' | 'link-local' | 'private' | 'public' | 'unspecified' | 'multicast' | 'reserved'

/** An address of one of this machine's interfaces. */
export interface LocalAddress {
  host: string
  family: 4 | 6
  scope: AddressScope
  /** The interface's name, such as `eth0`. */
  interfaceName: string
  /** Bits of the address that it shares with its subnet. */
  prefixBits: number
}

/** Which interfaces of this machine are looked at. By default all but bridges and tunnels. */
export interface InterfaceFilter {
  /** Only these, by name; one that is named may be a bridge or a tunnel. */
  include?: readonly string[]
  /** Not these, whatever else is said. */
  exclude?: readonly string[]
  /** Bridges and tunnels too. @default false */
  all?: boolean
}

/** The system's list of interfaces, as `os.networkInterfaces` gives it. */
export type Interfaces = NodeJS.Dict<NetworkInterfaceInfo[]>

const MAX_HOST_CHARS = 253 // longest DNS name in text form, RFC 1035 section 2.3.4
const MAX_PORT = 65_535
const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/i

/**
 * Reads `host:port`, `[IPv6]:port` or `:port`; the port may be left out when there is a `defaultPort`.
 *
 * `:port` gives the host `''`, which means every interface and only makes sense for listening. Port 0 likewise means any
 * free port. Names are checked for their form, not resolved.
 */
export function parseHostPort(text: string, options: { defaultPort?: number } = {}): { host: string; port: number } {
  // IPv6 with a zone, brackets and a port fits easily; longer text is not worth quoting either
  if (text.length > MAX_HOST_CHARS + 8) throw invalid(`an address of ${text.length} characters is too long`)
  const shown = JSON.stringify(text)
  if (isIP(text) === 6) throw invalid(`${shown}: an IPv6 address needs brackets, as in [${text}]:port`)

  const [, bracketed, plain, portText] = /^(?:\[([^[\]]*)\]|([^:[\]]*))(?::(.*))?$/s.exec(text) ?? []
  const host = bracketed ?? plain
  if (host === undefined) throw invalid(`${shown} is not host:port, [IPv6]:port or :port`)
  if (bracketed !== undefined && isIP(bracketed) !== 6) throw invalid(`${shown}: only IPv6 addresses go in brackets`)
  if (plain !== undefined && plain !== '' && !isHostName(plain)) throw invalid(`${shown}: the host is not a name or IP`)

  if (portText === undefined) {
    if (host === '') throw invalid('the address is empty')
    if (options.defaultPort === undefined) throw invalid(`${shown} has no port`)
    return { host, port: options.defaultPort }
  }
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : Number.NaN
  if (!(port <= MAX_PORT)) throw invalid(`${shown}: the port is not a number from 0 to ${MAX_PORT}`)
  return { host, port }
}

/** The text that `parseHostPort` reads back. */
export function formatHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** The IP address in what {@link formatHostPort} gave; undefined when it is none, such as the name of a relay. */
export function hostOf(text: string): string | undefined {
  const host = /^\[?([^\]]+?)\]?:\d+$/.exec(text)?.[1]
  return host !== undefined && isIP(host) !== 0 ? host : undefined
}

/** `host` and `port` as a {@link SocketAddress}: IPv4-mapped IPv6 becomes IPv4; undefined when `host` is not an IP. */
export function toSocketAddress(host: string, port: number): SocketAddress | undefined {
  const bytes = ipToBytes(host)
  if (bytes === undefined) return undefined
  if (bytes.length === 4) return { host, port, family: 4 }
  if (startsWith(bytes, MAPPED, 96)) return { host: bytesToIp(bytes.subarray(12)), port, family: 4 }
  return { host, port, family: 6 }
}

/** The 4 or 16 bytes of an IP address in text; undefined when it is none. An IPv6 zone (`%eth0`) is left out. */
export function ipToBytes(text: string): Uint8Array | undefined {
  const family = isIP(text)
  if (family === 0) return undefined
  if (family === 4) return Uint8Array.from(text.split('.'), Number)

  const groups = (part: string): number[] =>
    part === ''
      ? []
      : part.split(':').flatMap((group) => {
          if (group.includes('.')) return group.split('.').map(Number)
          const value = Number.parseInt(group, 16)
          return [value >> 8, value & 0xff]
        })
  const [before = '', after] = text.replace(/%.*$/s, '').split('::')
  const head = groups(before)
  const tail = groups(after ?? '')
  const bytes = new Uint8Array(16)
  bytes.set(head, 0)
  bytes.set(tail, 16 - tail.length)
  return bytes
}

/** The text of 4 or 16 bytes. */
export function bytesToIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join('.')
  if (bytes.length !== 16) throw invalid(`an IP address has 4 or 16 bytes, not ${bytes.length}`)
  if (startsWith(bytes, MAPPED, 96)) return `::ffff:${bytes.subarray(12).join('.')}`
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i]! << 8) | bytes[2 * i + 1]!).toString(16))

  // RFC 5952 section 4.2: the longest run of two or more zero groups, the first one if there are several
  let start = 0
  let length = 1
  for (let i = 0; i < 8; i++) {
    let end = i
    while (end < 8 && groups[end] === '0') end++
    if (end - i > length) {
      start = i
      length = end - i
    }
  }
  if (length < 2) return groups.join(':')
  return `${groups.slice(0, start).join(':')}::${groups.slice(start + length).join(':')}`
}

/** An IPv4 address out of its IPv6 mapping; any other as it is. */
export function unmapped(bytes: Uint8Array): Uint8Array {
  return bytes.length === 16 && startsWith(bytes, MAPPED, 96) ? bytes.subarray(12) : bytes
}

/** The first `bits` of an address, and zeros. */
export function masked(bytes: Uint8Array, bits: number): Uint8Array {
  return bytes.map((byte, at) => byte & (0xff00 >> Math.min(8, Math.max(0, bits - at * 8))))
}

/** How far `ip` reaches. Text that is not an IP address is `reserved`. */
export function scopeOf(ip: string): AddressScope {
  const bytes = ipToBytes(ip)
  return bytes === undefined ? 'reserved' : scopeOfBytes(bytes)
}

/**
 * What stands for "one source" in a limit: an IPv4 address, or the /64 of an IPv6 address, since a single host usually
 * owns a whole /64 and would otherwise have 2^64 allowances.
 */
export function sourceKey(ip: string): string {
  const bytes = ipToBytes(ip)
  if (bytes === undefined || bytes.length === 4) return ip
  const plain = unmapped(bytes)
  return plain.length === 4 ? bytesToIp(plain) : `${bytesToIp(masked(bytes, 64))}/64`
}

// Bridges and tunnels of this machine: other machines cannot reach their addresses, or only through a tunnel that would
// hide a better way. macOS calls a tunnel utun.
const VIRTUAL_INTERFACE = /^(?:docker|veth|br-|cni|u?tun|wg|virbr)/

/** The interfaces of this machine; none where the system keeps them to itself, as Android does from version 11. */
export function systemInterfaces(): Interfaces {
  try {
    return networkInterfaces()
  } catch {
    return {}
  }
}

/** True when an interface of this name passes the filter. */
export function usesInterface(name: string, { include, exclude, all = false }: InterfaceFilter): boolean {
  if (exclude?.includes(name) === true) return false
  if (include !== undefined) return include.includes(name)
  return all || !VIRTUAL_INTERFACE.test(name)
}

/**
 * The addresses of this machine that another machine may be told, in the system's order.
 *
 * Node does not say which IPv6 addresses are temporary (RFC 8981) or deprecated (RFC 4862 section 5.5.4), so they are all
 * here. A deprecated one works until it goes, and `watchAddresses` tells when it has gone.
 */
export function localAddresses(
  options: InterfaceFilter & {
    /** Loopback addresses too, for peers on the same machine. @default false */
    loopback?: boolean
    /** Link-local addresses too. Nobody can be told these: they need a zone, which is each machine's own. @default false */
    linkLocal?: boolean
    /** What to look at. @default os.networkInterfaces() */
    interfaces?: Interfaces
  } = {},
): LocalAddress[] {
  const found: LocalAddress[] = []
  for (const [interfaceName, infos] of Object.entries(options.interfaces ?? systemInterfaces())) {
    for (const info of infos ?? []) {
      const host = info.address
      const scope = scopeOf(host)
      if (scope === 'unspecified' || scope === 'multicast') continue
      if (scope === 'link-local' && options.linkLocal !== true) continue
      if (scope === 'loopback' ? options.loopback !== true : !usesInterface(interfaceName, options)) continue
      found.push({ host, family: info.family === 'IPv6' ? 6 : 4, scope, interfaceName, prefixBits: prefixBitsOf(info) })
    }
  }
  return found
}

/** True when `host` is an address in a subnet of one of `locals`: its machine is reached without a router. */
export function inOwnSubnet(host: string, locals: readonly LocalAddress[]): boolean {
  const bytes = ipToBytes(host)
  if (bytes === undefined) return false
  const plain = unmapped(bytes)
  return locals.some(({ host: own, prefixBits }) => {
    const prefix = ipToBytes(own)
    // A subnet that holds every address is a tunnel's way to say "everywhere": nothing is near because of it.
    return (
      prefix !== undefined && prefix.length === plain.length && prefixBits > 0 && startsWith(plain, prefix, prefixBits)
    )
  })
}

/**
 * `candidates` with the nearest first, else in their order: in a subnet of ours, private (a site's routers may know the
 * way), public IPv6 (no NAT), public IPv4, and then what has no such address, such as names.
 */
export function sortByNearness<T extends { readonly host: string }>(
  candidates: readonly T[],
  locals: readonly LocalAddress[],
): T[] {
  const rank = ({ host }: T): number => {
    if (inOwnSubnet(host, locals)) return 0
    const scope = scopeOf(host)
    if (scope === 'private') return 1
    if (scope !== 'public') return 4
    return toSocketAddress(host, 0)?.family === 6 ? 2 : 3
  }
  const ranked = candidates.map((candidate) => ({ candidate, rank: rank(candidate) }))
  return ranked.sort((a, b) => a.rank - b.rank).map(({ candidate }) => candidate)
}

/** ms between two looks at the interfaces: Node has no event for it, and a look costs about 0.1 ms. */
const WATCH_EVERY_MS = 1_000

/**
 * Calls back when the addresses of this machine have changed: another network, a cable, a new IPv6 prefix. It does not
 * keep the process alive.
 *
 * @returns what ends it
 */
export function watchAddresses(
  onChange: (addresses: LocalAddress[]) => void,
  options: InterfaceFilter & {
    /** @default 1_000 */
    everyMs?: number
    loopback?: boolean
    /** What to look at each time. @default os.networkInterfaces */
    interfaces?: () => Interfaces
  } = {},
): () => void {
  const { everyMs = WATCH_EVERY_MS, interfaces = systemInterfaces, ...filter } = options
  const look = () => localAddresses({ ...filter, interfaces: interfaces() })
  const fingerprint = (addresses: LocalAddress[]) =>
    addresses
      .map(({ host, interfaceName, prefixBits }) => `${host}/${prefixBits}%${interfaceName}`)
      .sort()
      .join()
  let last = fingerprint(look())
  const timer = setInterval(() => {
    const addresses = look()
    const now = fingerprint(addresses)
    if (now === last) return
    last = now
    onChange(addresses)
  }, everyMs)
  timer.unref()
  return () => clearInterval(timer)
}

/** The bits of an interface's netmask that are set; without a netmask, the address stands alone. */
function prefixBitsOf({ address, netmask }: NetworkInterfaceInfo): number {
  const mask = ipToBytes(netmask)
  const bytes = mask ?? ipToBytes(address)?.fill(0xff) ?? new Uint8Array(0)
  return bytes.reduce((bits, byte) => bits + byte.toString(2).replaceAll('0', '').length, 0)
}

const MAPPED = ipToBytes('::ffff:0.0.0.0')! // RFC 4291 section 2.5.5.2
export const NAT64 = ipToBytes('64:ff9b::')! // RFC 6052 section 2.1

// First match counts. What no row names is public in IPv4, and in IPv6 only inside 2000::/3 (the last row).
const SCOPES_V4: readonly ScopeRow[] = [
  row('0.0.0.0', 32, 'unspecified'),
  row('0.0.0.0', 8, 'reserved'), // "this network", RFC 791
  row('10.0.0.0', 8, 'private'), // RFC 1918
  row('100.64.0.0', 10, 'private'), // carrier-grade NAT, RFC 6598
  row('127.0.0.0', 8, 'loopback'),
  row('169.254.0.0', 16, 'link-local'), // RFC 3927; cloud metadata services live here
  row('172.16.0.0', 12, 'private'),
  row('192.0.0.0', 24, 'reserved'), // protocol assignments, RFC 6890
  row('192.0.2.0', 24, 'reserved'), // documentation, RFC 5737
  row('192.88.99.0', 24, 'reserved'), // 6to4 relays, withdrawn by RFC 7526
  row('192.168.0.0', 16, 'private'),
  row('198.18.0.0', 15, 'reserved'), // benchmarks, RFC 2544
  row('198.51.100.0', 24, 'reserved'), // documentation
  row('203.0.113.0', 24, 'reserved'), // documentation
  row('224.0.0.0', 4, 'multicast'),
  row('240.0.0.0', 4, 'reserved'), // and the broadcast address
  row('0.0.0.0', 0, 'public'),
]
const SCOPES_V6: readonly ScopeRow[] = [
  row('::', 128, 'unspecified'),
  row('::1', 128, 'loopback'),
  row('64:ff9b:1::', 48, 'private'), // local-use NAT64, RFC 8215
  row('2001::', 23, 'reserved'), // protocol assignments, Teredo, ORCHID; RFC 2928
  row('2001:db8::', 32, 'reserved'), // documentation, RFC 3849
  row('2002::', 16, 'reserved'), // 6to4 wraps any IPv4, also a private one; RFC 7526
  row('3fff::', 20, 'reserved'), // documentation, RFC 9637
  row('fc00::', 7, 'private'), // unique local, RFC 4193
  row('fe80::', 10, 'link-local'),
  row('fec0::', 10, 'private'), // site-local, RFC 3879
  row('ff00::', 8, 'multicast'),
  row('2000::', 3, 'public'),
]

interface ScopeRow {
  prefix: Uint8Array
  bits: number
  scope: AddressScope
}

function row(prefix: string, bits: number, scope: AddressScope): ScopeRow {
  return { prefix: ipToBytes(prefix)!, bits, scope }
}

function scopeOfBytes(bytes: Uint8Array): AddressScope {
  if (bytes.length === 16 && (startsWith(bytes, MAPPED, 96) || startsWith(bytes, NAT64, 96))) {
    return scopeOfBytes(bytes.subarray(12))
  }
  const rows = bytes.length === 4 ? SCOPES_V4 : SCOPES_V6
  return rows.find(({ prefix, bits }) => startsWith(bytes, prefix, bits))?.scope ?? 'reserved'
}

/** True when both have the same first `bits`. */
export function startsWith(bytes: Uint8Array, prefix: Uint8Array, bits: number): boolean {
  for (let i = 0; i * 8 < bits; i++) {
    const mask = (0xff << Math.max(0, 8 - (bits - i * 8))) & 0xff
    if (((bytes[i]! ^ prefix[i]!) & mask) !== 0) return false
  }
  return true
}

/** An IPv4 address or a DNS name. `127.1` and `0x7f.1` are neither, though resolvers read them as loopback. */
function isHostName(host: string): boolean {
  if (isIP(host) === 4) return true
  if (host.length > MAX_HOST_CHARS) return false
  const labels = host.replace(/\.$/, '').split('.')
  return labels.every((label) => LABEL.test(label)) && !/^(?:\d+|0x[\da-f]*)$/i.test(labels.at(-1)!)
}
