/**
 * Where this machine's router is, as far as Node can tell.
 *
 * Node does not show the routing table. Linux does, in a file (`man 5 proc_net`). Elsewhere, and where the file is kept
 * from us, the first and the last address of each private subnet are taken, for that is where home routers sit.
 */
import { readFile } from 'node:fs/promises'
import { endianness } from 'node:os'
import { bytesToIp, ipToBytes, type LocalAddress, localAddresses, usesInterface } from './address.ts'

const ROUTES = '/proc/net/route'
/** Flags of a route: it is up, and it leads through a gateway (linux/route.h). */
const UP_AND_GATEWAY = 0x3
/** Gateways asked at most: a machine has one or two, and more guesses only cost time. */
const MAX_GATEWAYS = 4

/** IPv4 addresses of routers, the likeliest first. Never rejects. */
export async function defaultGateways(): Promise<string[]> {
  const routes = await readFile(ROUTES, 'latin1').catch(() => '')
  const known = parseRoutes(routes)
  return (known.length > 0 ? known : guessGateways(localAddresses())).slice(0, MAX_GATEWAYS)
}

/** The gateways of the default routes in the text of `/proc/net/route`, the least metric first. */
export function parseRoutes(text: string, order: 'LE' | 'BE' = endianness()): string[] {
  const found = text.split('\n').flatMap((line) => {
    const [name = '', destination, gateway = '', flags = '', , , metric, mask] = line.trim().split(/\s+/)
    const isDefault = destination === '00000000' && mask === '00000000'
    const leads = (Number.parseInt(flags, 16) & UP_AND_GATEWAY) === UP_AND_GATEWAY
    if (!isDefault || !leads || !usesInterface(name, {}) || !/^[\dA-F]{8}$/i.test(gateway)) return []
    // Written as one number of the machine's own byte order.
    const bytes = Uint8Array.from(Buffer.from(gateway, 'hex'))
    return { host: bytesToIp(order === 'LE' ? bytes.reverse() : bytes), metric: Number(metric) }
  })
  return [...new Set(found.sort((a, b) => a.metric - b.metric).map(({ host }) => host))]
}

/** Where a router would sit in each private subnet, if it sits where they do. */
export function guessGateways(locals: readonly LocalAddress[]): string[] {
  const guesses = locals.flatMap(({ host, family, scope, prefixBits }) => {
    // A subnet of two addresses or one is a tunnel's.
    if (family !== 4 || scope !== 'private' || prefixBits < 8 || prefixBits > 30) return []
    const own = Buffer.from(ipToBytes(host)!).readUInt32BE()
    const mask = (0xffff_ffff << (32 - prefixBits)) >>> 0
    const at = (address: number) => {
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32BE(address >>> 0)
      return bytesToIp(bytes)
    }
    const first = at((own & mask) + 1)
    const last = at(((own | ~mask) >>> 0) - 1)
    return [first, last].filter((guess) => guess !== host)
  })
  return [...new Set(guesses)]
}
