/**
 * Places that others named, before anything is sent there.
 *
 *     name --looked up once--> IP addresses --judged--> dialled as they are
 *
 * Who answers for a name may say another address the next time (DNS rebinding): a name that was judged is not looked up again.
 */
import type { KnownAddress } from '../discovery/index.ts'
import { formatHostPort, parseHostPort, type SocketAddress } from '../network/address.ts'
import { resolveReflectors } from '../network/nat-reflectors.ts'

/** Whose word an address of the address book is that is dialled as it stands: the user's, our own experience, our own network's. */
const SURE: ReadonlySet<KnownAddress['source']> = new Set<KnownAddress['source']>(['given', 'dialled', 'lan'])

/** Where a host is, an IP or a name: one address of each family, IPv4 first; nothing when it is not found. @throws what the signal says */
export function lookUp(host: string, port: number, signal: AbortSignal): Promise<SocketAddress[]> {
  // Whoever asks judges them.
  return resolveReflectors([formatHostPort(host, port)], { signal, trusted: true })
}

/**
 * Where a peer may be dialled (`host:port`), in the order of `known`: what it, or a record, says of itself as far as `mayDial`
 * lets us go there.
 * @throws PeerlineError what the signal says
 */
export async function dialable(
  known: readonly KnownAddress[],
  mayDial: (host: string) => boolean,
  signal: AbortSignal,
): Promise<string[]> {
  const all = await Promise.all(
    known.map(async ({ address, source }) => {
      if (SURE.has(source)) return [address]
      const { host, port } = parseHostPort(address)
      const found = await lookUp(host, port, signal)
      return found.filter((place) => mayDial(place.host)).map((place) => formatHostPort(place.host, place.port))
    }),
  )
  return all.flat()
}
