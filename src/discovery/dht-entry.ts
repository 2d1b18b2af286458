/**
 * How a node finds its way into a DHT, and how far the addresses reach that it talks with.
 *
 *     nobody known --> those to begin with are asked --> who is near us is sought --> joined
 *          ^                                                                             |
 *          '------------------ all that were known turned out to be gone ----------------'
 *
 * - A list of one's own keeps a DHT apart: nobody else is asked to begin with.
 * - Nodes name others, at any address. Where no node of our own list is, nothing is sent: in the public DHT, into no private
 *   network.
 */
import type { Client } from 'bittorrent-dht'
import { PeerlineError } from '../errors.ts'
import { type AddressScope, parseHostPort, scopeOf } from '../network/address.ts'
import { resolveReflectors } from '../network/nat-reflectors.ts'
import type { DhtSocket } from './dht-socket.ts'

/** Nodes that have been there for years, and introduce newcomers to the public DHT. */
const PUBLIC_BOOTSTRAP = [
  'router.bittorrent.com:6881',
  'router.utorrent.com:6881',
  'dht.transmissionbt.com:6881',
  'dht.libtorrent.org:25401',
]

/** Nodes to begin with, at most. */
const MAX_BOOTSTRAP = 8

/** For the first node of a DHT of one's own, which does not know where the others will be. */
const ANYWHERE: readonly AddressScope[] = ['public', 'private', 'link-local', 'loopback']

/** ms for the first node to answer: the library gives it 2.5 s. */
const FIRST_MS = 3_000

/** ms that others get when one has answered: one alone could show us a DHT of its own. */
const OTHERS_MS = 300

/** ms for those near us to be found; that goes on, but whoever wants to find somebody need not wait. */
const NEAR_MS = 1_000

export class DhtEntry {
  readonly #places: readonly string[]
  readonly #own: boolean
  readonly #scopes: Set<AddressScope>
  #joining: Promise<void> | undefined

  /**
   * @param bootstrap `host:port` of nodes to begin with. @default those of the public DHT
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  constructor(bootstrap: readonly string[] | undefined) {
    this.#places = bootstrap ?? PUBLIC_BOOTSTRAP
    this.#own = bootstrap !== undefined
    this.#scopes = new Set<AddressScope>(bootstrap?.length === 0 ? ANYWHERE : ['public'])
    if (this.#places.length > MAX_BOOTSTRAP) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `a DHT is joined by at most ${MAX_BOOTSTRAP} nodes`)
    }
    for (const text of this.#places) {
      const { host, port } = parseHostPort(text)
      if (host === '' || port === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', `${text}: a node is host:port`)
    }
  }

  /** Whether we talk with this address. */
  allows(ip: string): boolean {
    return this.#scopes.has(scopeOf(ip))
  }

  /**
   * Resolves when there are other nodes, or none is to be found. Of several at once all get the same.
   * @param closing fires when the node is closed
   */
  join(library: Client, socket: DhtSocket, closing: AbortSignal): Promise<void> {
    if (this.#joining === undefined && library.nodes.count() > 0) return Promise.resolve()
    this.#joining ??= this.#join(library, socket, closing).finally(() => {
      this.#joining = undefined
    })
    return this.#joining
  }

  async #join(library: Client, socket: DhtSocket, closing: AbortSignal): Promise<void> {
    const found = await resolveReflectors(this.#places, { signal: closing, trusted: this.#own })
    const places = found.filter(({ family }) => family === 4)
    if (places.length === 0) return
    for (const { host } of places) this.#scopes.add(scopeOf(host))
    await greet(library, places, closing)
    if (library.nodes.count() === 0 || closing.aborted) return
    // Who is near us gets to know us, and we whom to ask first.
    socket.beginLookup(library.nodeId)
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, NEAR_MS)
      library.lookup(library.nodeId, () => {
        clearTimeout(timer)
        socket.endLookup(library.nodeId)
        resolve()
      })
    })
  }
}

/** Asks each node whether it is there. */
function greet(
  library: Client,
  places: readonly { readonly host: string; readonly port: number }[],
  closing: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    let left = places.length
    let timer = setTimeout(end, FIRST_MS)
    library.on('node', onNode)
    closing.addEventListener('abort', end)
    if (closing.aborted) return end()
    for (const { host, port } of places) library.addNode({ host, port })

    function onNode(): void {
      clearTimeout(timer)
      timer = setTimeout(end, --left > 0 ? OTHERS_MS : 0)
    }

    function end(): void {
      clearTimeout(timer)
      library.off('node', onNode)
      closing.removeEventListener('abort', end)
      resolve()
    }
  })
}
