/**
 * What UDP hole punching keeps of its sockets, of the addresses that it probes from them, and of what it has asked.
 */
import { formatHostPort, type SocketAddress, scopeOf } from '../network/address.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import { COOKIE_BYTES, type How } from './punch-probe.ts'

/** What is used of a {@link UdpSocket}. */
export type PunchSocket = Pick<
  UdpSocket,
  'families' | 'send' | 'route' | 'reserveId' | 'releaseId' | 'connect' | 'retire' | 'close'
>

/** One socket of ours. */
export interface Local<S extends PunchSocket> {
  readonly socket: S
  /** 0 for the first one, whose address the other side was told. */
  readonly number: number
  readonly unroute: () => void
}

/** One socket of ours and one address of theirs. */
export interface Pair<S extends PunchSocket> {
  readonly local: Local<S>
  readonly remote: SocketAddress
  /** How near: 0 the same network, 1 IPv6, 2 IPv4 elsewhere. */
  readonly rank: number
  readonly how: How
  /** ms between two probes. */
  readonly everyMs: number
  /** When the last probe went there, by `performance.now()`. */
  probedAt: number
  /** When the first authentic datagram came from there. */
  heardAt: number | undefined
  /** The shortest confirmed round trip. */
  rttMs: number | undefined
}

const MAX_PORT = 65_535

/** The pairs of one attempt. */
export class Pairs<S extends PunchSocket> {
  readonly #pairs = new Map<string, Pair<S>>()

  get size(): number {
    return this.#pairs.size
  }

  [Symbol.iterator](): MapIterator<Pair<S>> {
    return this.#pairs.values()
  }

  get(local: Local<S>, remote: SocketAddress): Pair<S> | undefined {
    return this.#pairs.get(keyOf(local, remote))
  }

  /** A new pair; undefined for one that there is, and for an address that nothing is to be sent to. */
  add(local: Local<S>, remote: SocketAddress, how: How, everyMs: number): Pair<S> | undefined {
    const key = keyOf(local, remote)
    const { family, host, port } = remote
    const scope = scopeOf(host)
    if (this.#pairs.has(key) || !local.socket.families.includes(family)) return undefined
    if (scope === 'multicast' || scope === 'unspecified' || !(port > 0 && port <= MAX_PORT)) return undefined
    const near = scope === 'private' || scope === 'link-local' || scope === 'loopback'
    const rank = near ? 0 : family === 6 ? 1 : 2
    const pair = { local, remote, rank, how, everyMs, probedAt: 0, heardAt: undefined, rttMs: undefined }
    this.#pairs.set(key, pair)
    return pair
  }

  /** The nearest confirmed pair, the quickest if there are several. */
  best(): Pair<S> | undefined {
    let best: Pair<S> | undefined
    for (const pair of this) {
      if (pair.rttMs === undefined) continue
      if (best === undefined || pair.rank < best.rank || (pair.rank === best.rank && pair.rttMs < best.rttMs!))
        best = pair
    }
    return best
  }

  /** True when an address nearer than that of `pair` may still be confirmed. */
  nearerThan(pair: Pair<S>): boolean {
    for (const { rank, rttMs } of this) if (rank < pair.rank && rttMs === undefined) return true
    return false
  }
}

function keyOf<S extends PunchSocket>(local: Local<S>, { host, port }: SocketAddress): string {
  return `${local.number} ${formatHostPort(host, port)}`
}

/**
 * What a probe carries to be given back: when and where it went, so that nothing has to be kept of thousands of them.
 *
 *     | when, 4 B, 0.01 ms | port, 2 B | number of the host, 2 B |
 *
 * The other side can alter it, but only to fool itself; nobody else can.
 */
export class Cookies {
  readonly #since = performance.now()
  readonly #hosts: string[] = []

  make({ host, port }: SocketAddress): Uint8Array {
    let number = this.#hosts.indexOf(host)
    if (number < 0) number = this.#hosts.push(host) - 1
    const cookie = Buffer.alloc(COOKIE_BYTES)
    cookie.writeUInt32BE(Math.floor((performance.now() - this.#since) * 100))
    cookie.writeUInt16BE(port, 4)
    cookie.writeUInt16BE(number, 6)
    return cookie
  }

  /** ms since the probe went out; undefined when it did not go where this comes from. */
  rttMs(cookie: Uint8Array, { host, port }: SocketAddress): number | undefined {
    const view = new DataView(cookie.buffer, cookie.byteOffset, COOKIE_BYTES)
    if (view.getUint16(4) !== port || this.#hosts[view.getUint16(6)] !== host) return undefined
    const rttMs = performance.now() - this.#since - view.getUint32(0) / 100
    return rttMs < 0 ? undefined : rttMs
  }
}
