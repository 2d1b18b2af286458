/**
 * Where a peer listens for direct TCP, and which candidates follow from it.
 */
import net from 'node:net'
import type { Candidate } from '../connect/index.ts'
import { PeerlineError } from '../errors.ts'
import { formatHostPort, localAddresses, parseHostPort, scopeOf, sourceKey } from '../network/address.ts'
import { type FramedPath, tcpPath } from '../path/index.ts'
import { KeyedLimiter, type Rate } from '../policy/limits.ts'

/**
 * Connections a second from one source: each may cost a handshake of about 0.3 ms, and a replay entry that lives for
 * minutes. A household that starts everything at once stays far below.
 */
export const CONNECTIONS_PER_SOURCE: Rate = { rate: 200, burst: 2_000 }

/**
 * Connections that wait to be accepted at a peer: all of them are taken in one turn of the event loop, at some 0.1 ms each, in
 * which everybody else waits. Who finds no room asks again within a second (RFC 6298 section 2.1).
 */
const BACKLOG = 32

/** The same, of a server that a crowd may come back to: as Node has it. */
const SERVER_BACKLOG = 511

export class Listener {
  readonly #server: net.Server
  readonly #host: string
  readonly port: number

  private constructor(server: net.Server) {
    const address = server.address() as net.AddressInfo
    this.#server = server
    this.#host = address.address
    this.port = address.port
  }

  /**
   * Listens on `host:port`; an empty host means every interface, IPv6 and IPv4 where both exist.
   * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID`
   */
  static async listen(address: string, onPath: (path: FramedPath) => void): Promise<Listener> {
    const { host, port } = parseHostPort(address)
    const limiter = new KeyedLimiter(CONNECTIONS_PER_SOURCE)
    const server = net.createServer({ noDelay: true }, (socket) => {
      if (limiter.take(sourceKey(socket.remoteAddress ?? ''))) onPath(tcpPath(socket))
      else socket.destroy()
    })
    await listenOn(server, host, port, BACKLOG)
    return new Listener(server)
  }

  /** `host:port` as it was bound. */
  get address(): string {
    return formatHostPort(this.#host, this.port)
  }

  /** True when it is bound to loopback alone. */
  get onLoopback(): boolean {
    return scopeOf(this.#host) === 'loopback'
  }

  /** The addresses at which others may find it. `loopback`: also those of this machine alone. */
  candidates(loopback: boolean): Candidate[] {
    const { port } = this
    if (scopeOf(this.#host) !== 'unspecified') return [{ kind: 'tcp', host: this.#host, port }]
    const both = this.#host.includes(':')
    return localAddresses({ loopback })
      .filter(({ family }) => both || family === 4)
      .map(({ host }) => ({ kind: 'tcp', host, port }))
  }

  close(): Promise<void> {
    return new Promise((resolve) => this.#server.close(() => resolve()))
  }
}

/**
 * Binds a server; an empty host means every interface.
 * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID`
 */
export async function listenOn(
  server: net.Server,
  host: string,
  port: number,
  backlog: number = SERVER_BACKLOG,
): Promise<void> {
  try {
    await bind(server, { host: host === '' ? '::' : host, port, backlog })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    // Machines without IPv6 have no `::`.
    if (host === '' && (code === 'EAFNOSUPPORT' || code === 'EADDRNOTAVAIL')) {
      return listenOn(server, '0.0.0.0', port, backlog)
    }
    const where = formatHostPort(host, port)
    if (code === 'EADDRINUSE') {
      throw new PeerlineError('ERR_PEERLINE_ADDRESS_IN_USE', `${where} is in use`, { cause: error })
    }
    throw new PeerlineError('ERR_PEERLINE_INVALID', `cannot listen on ${where}: ${code}`, { cause: error })
  }
}

function bind(server: net.Server, where: net.ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(where, () => {
      server.off('error', reject)
      // An accept that fails later (too many open files) costs that connection, not the process.
      server.on('error', () => {})
      resolve()
    })
  })
}
