/**
 * A node of a DHT of one's own: the one to begin with, which peers name by `--dht`, or as `bootstrap`.
 *
 *     peer --> who is there? --> this node --> every peer that asked before: they hold the records, and so does this node
 *
 * - It knows nobody when it starts, and waits for those who come. It seeks nobody, and says nothing of itself.
 * - Nobody proves who he is to it: whoever reaches its port may read, and keep a record there. Records are signed; who holds
 *   back, or drops, some is one node among all.
 * - What it holds is in memory: after a restart a peer is found there when it has published again, within the hour.
 *
 * It is a node as that of every peer, with its limits: 1,000 records of 1,000 bytes, 500 questions a second, 50 of each address
 * (discovery/dht.ts, discovery/dht-socket.ts). IPv4 and UDP alone, as the DHT is (BEP 5).
 */
import { isIPv4, isIPv6 } from 'node:net'
import { Dht } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { formatHostPort, parseHostPort, scopeOf } from '../network/address.ts'

export interface DhtServiceOptions {
  /** `host:port`; an empty host is that of the server, port 0 any free one. */
  readonly listen: string
  /** The address that the server listens on, and how others reach it, if not there. */
  readonly beside: string
  readonly publicHost?: string | undefined
  /** The host that others can dial, for one that is listened on. */
  readonly reachable: (bound: string) => string
}

export class DhtService {
  /** `host:port` that peers are given. */
  readonly address: string
  readonly #dht: Dht

  private constructor(address: string, dht: Dht) {
    this.address = address
    this.#dht = dht
  }

  /**
   * @throws PeerlineError as `Dht.open`, for want of the package `bittorrent-dht` among them; `ERR_PEERLINE_INVALID` without an IPv4
   *   address
   */
  static async open({ listen, beside, publicHost, reachable }: DhtServiceOptions): Promise<DhtService> {
    const { host, port } = parseHostPort(listen)
    const dht = await Dht.open({ bootstrap: [], host: host === '' ? ipv4Beside(beside) : host, port })
    const bound = parseHostPort(dht.address)
    const named = host === '' && publicHost !== undefined && !isIPv6(publicHost) ? publicHost : reachable(bound.host)
    return new DhtService(formatHostPort(named, bound.port), dht)
  }

  /** How many other nodes are known. */
  get nodes(): number {
    return this.#dht.nodes
  }

  close(): Promise<void> {
    return this.#dht.close()
  }
}

/** Where nothing is said it is to be reached by nobody who does not reach the server. */
function ipv4Beside(server: string): string {
  if (isIPv4(server)) return server
  if (scopeOf(server) === 'unspecified') return '0.0.0.0'
  throw new PeerlineError(
    'ERR_PEERLINE_INVALID',
    `the DHT needs an IPv4 address, and the server listens on ${server}`,
    {
      recover: 'Name one: --dht HOST:PORT.',
    },
  )
}
