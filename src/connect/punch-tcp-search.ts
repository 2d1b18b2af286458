/**
 * Simultaneous open with a NAT that gives every connection a random port: a birthday search, as `punch-udp.ts` has for
 * datagrams.
 *
 *     random side    many SYNs, from as many ports, to the one mapped address of the other side; they stay unanswered
 *     fixed side     SYNs from its one mapped port to random ports of the random side's address
 *
 * A SYN of the fixed side that hits a port which the NAT has given to one of those many meets that one: both ends have
 * dialled, and a connection comes about. 256 SYNs among 64,512 ports: 252 tries on average.
 *
 * - For networks that block UDP, where nothing else is left but a relay. It looks like a port scan, so it is bounded in
 *   tries and time, and can be switched off.
 * - A SYN that hits nothing is dropped or refused; either way its socket is closed a moment later.
 */
import net from 'node:net'
import { abortError, PeerlineError } from '../errors.ts'
import { searchPorts } from './punch-plan.ts'

/** SYNs of the random side: sockets that wait. */
const WAITING = 256

/** SYNs of one burst, at the random and at the fixed side, which so sends 1,000 a second; and ms between two bursts. */
const WAITING_BURST = 32
const FIXED_BURST = 10
const BURST_MS = 10

/** ms that a SYN of the fixed side may go unanswered: above almost every round trip, so that what was hit can answer. */
const ANSWER_MS = 400

/** ms for it all: 5,000 tries miss once in a hundred million searches. */
export const SEARCH_TCP_MS = 5_000

export interface SearchTcpOptions {
  /** `random`: our NAT gives the random ports. */
  readonly side: 'random' | 'fixed'
  /** The port that is mapped, at the fixed side. */
  readonly localPort?: number | undefined
  /** The mapped address of the fixed side; at the fixed side, the random side's address with any port. */
  readonly remote: { readonly host: string; readonly port: number }
  /** Takes a connection; it may be called more than once. */
  readonly onSocket: (socket: net.Socket) => void
  /** Ends the search; connections handed over stay. */
  readonly signal: AbortSignal
  /** ms for it all. @default 5_000 */
  readonly ms?: number
}

/**
 * Searches until the signal ends it or the time is up. Nothing is under way any more when it settles.
 * @throws PeerlineError `ERR_PEERLINE_UNREACHABLE` when nothing was hit, or what the signal says
 */
export async function searchTcp(options: SearchTcpOptions): Promise<void> {
  const { side, remote, signal, onSocket, ms = SEARCH_TCP_MS } = options
  if (signal.aborted) throw abortError(signal, 'searching')
  const open = new Set<net.Socket>()
  let hits = 0
  let tries = 0
  const dial = (port: number, localPort: number | undefined): void => {
    tries++
    let socket: net.Socket
    try {
      socket = net.connect({
        host: remote.host,
        port,
        noDelay: true,
        ...(localPort === undefined ? {} : { localPort }),
      })
    } catch {
      return // no port, or no descriptor is left: one try less
    }
    open.add(socket)
    const timer = side === 'fixed' ? setTimeout(() => drop(), ANSWER_MS) : undefined
    const drop = (): void => {
      clearTimeout(timer)
      open.delete(socket)
      socket.destroy()
    }
    socket.on('error', drop)
    socket.once('connect', () => {
      if (!open.delete(socket)) return
      clearTimeout(timer)
      hits++
      onSocket(socket)
    })
  }

  let burst: ReturnType<typeof setInterval> | undefined
  // In bursts, for a connection costs 50 us, and other work waits meanwhile.
  if (side === 'random') {
    burst = setInterval(() => {
      for (let count = 0; count < WAITING_BURST; count++) dial(remote.port, undefined)
      if (tries >= WAITING) clearInterval(burst)
    }, BURST_MS)
  } else {
    const ports = searchPorts()
    burst = setInterval(() => {
      for (let count = 0; count < FIXED_BURST; count++) {
        const { value } = ports.next()
        if (value !== undefined) dial(value, options.localPort)
      }
    }, BURST_MS)
  }
  await new Promise<void>((resolve) => {
    const end = (): void => {
      clearTimeout(timer)
      clearInterval(burst)
      signal.removeEventListener('abort', end)
      for (const socket of [...open]) socket.destroy()
      open.clear()
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal.addEventListener('abort', end)
  })
  if (hits > 0) return
  if (signal.aborted) throw abortError(signal, 'searching')
  throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${tries} SYNs met none of the other side’s`)
}
