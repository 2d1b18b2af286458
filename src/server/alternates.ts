/**
 * Where a server reflects beside its main port: by UDP through the reflector's other sockets, by TCP through listeners
 * that speak STUN and nothing else. Both have the same addresses, so that a peer needs to be told them once.
 *
 * Limits: connections at once and per source; what a connection may do is bounded by `serveStunTcp`.
 */
import net from 'node:net'
import { isPeerlineError } from '../errors.ts'
import { type SocketAddress, sourceKey } from '../network/address.ts'
import { listenOn } from '../peer/index.ts'
import { KeyedLimiter, type Rate } from '../policy/limits.ts'
import { type ReflectorLimits, serveStunTcp, type UdpReflector } from './reflector.ts'

/** Ports tried when any will do, and UDP was given one that TCP cannot have. */
const PORT_ATTEMPTS = 10

/** TCP connections at once, per address: each lasts a round trip where all is well, and 10 s at most where it is not. */
const MAX_CONNECTIONS = 1_000

/** TCP connections a second: as a peer makes a few when its network changes, and an office of peers many. */
const CONNECTIONS: Rate = { rate: 10, burst: 100 }

export interface AlternatesOptions {
  /** Bound already; it is given its others. Closing it stays with its owner. */
  readonly reflector: UdpReflector
  readonly limits: ReflectorLimits
  /** The other port; 0 is any that is free. */
  readonly port: number
  /** Another address of this machine, then both must be named: no server of every interface. */
  readonly host?: string | undefined
}

export class Alternates {
  readonly addresses: readonly SocketAddress[]
  readonly #listeners: readonly StunListener[]

  private constructor(addresses: readonly SocketAddress[], listeners: readonly StunListener[]) {
    this.addresses = addresses
    this.#listeners = listeners
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID` */
  static async open({ reflector, limits, port, host }: AlternatesOptions): Promise<Alternates> {
    const limiter = new KeyedLimiter(CONNECTIONS)
    for (let attempt = 1; ; attempt++) {
      const listeners: StunListener[] = []
      try {
        await reflector.bindOthers({ port, ...(host === undefined ? {} : { host }) })
        for (const address of reflector.others) {
          const listener = new StunListener(limits, limiter)
          listeners.push(listener)
          await listener.listen(address)
        }
        return new Alternates(reflector.others, listeners)
      } catch (error) {
        await Promise.all([reflector.dropOthers(), ...listeners.map((listener) => listener.close())])
        const inUse = isPeerlineError(error) && error.code === 'ERR_PEERLINE_ADDRESS_IN_USE'
        if (port !== 0 || attempt === PORT_ATTEMPTS || !inUse) throw error
      }
    }
  }

  /** Ends the TCP part. */
  async close(): Promise<void> {
    await Promise.all(this.#listeners.map((listener) => listener.close()))
  }
}

/** A TCP port that speaks STUN only. */
class StunListener {
  readonly #server: net.Server
  readonly #sockets = new Set<net.Socket>()

  constructor(limits: ReflectorLimits, limiter: KeyedLimiter) {
    this.#server = net.createServer({ noDelay: true }, (socket) => {
      socket.on('error', () => socket.destroy())
      if (!limiter.take(sourceKey(socket.remoteAddress ?? ''))) return void socket.destroy()
      this.#sockets.add(socket)
      socket.once('close', () => this.#sockets.delete(socket))
      serveStunTcp(socket, new Uint8Array(0), { limits })
    })
    this.#server.maxConnections = MAX_CONNECTIONS
  }

  listen({ host, port }: SocketAddress): Promise<void> {
    return listenOn(this.#server, host, port)
  }

  close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    return new Promise((resolve) => this.#server.close(() => resolve()))
  }
}
