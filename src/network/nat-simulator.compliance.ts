/**
 * A NAT in a few sockets, for tests: no privileges, one process, loopback.
 *
 *     client 127.0.0.1:c --> gate 127.0.8.x:r | --> mapped 127.0.0.9:m --> place 127.0.0.x:r
 *     client             <-- gate of whom it came from <-- | filter <-- whoever answers
 *
 * A client finds each place beyond the NAT at a gate. Places that answers name are named as their gates, too. Who sends
 * to a mapped address from inside is turned round there (hairpin), or not. Needs all of 127.0.0.0/8, as Linux has it.
 */

import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import type { SocketAddress } from './address.ts'
import { otherAddress, readOtherAddress, readResponseOrigin, responseOrigin } from './nat-attributes.ts'
import { encodeBindingSuccess, parseStunMessage, xorMappedAddress } from './stun.ts'

/** Where the NAT is seen. */
export const OUTSIDE = '127.0.0.9'
const INSIDE = '127.0.0.1'

type Dependence = 'endpoint-independent' | 'address-dependent' | 'address-and-port-dependent'

export interface NatSimulatorOptions {
  /** @default 'endpoint-independent' */
  mapping?: Dependence
  /** @default 'address-and-port-dependent' */
  filtering?: Dependence
  /** The port for the next mapping of a client's port. @default any free one */
  allocate?: (clientPort: number) => number
  /** ms that a mapping lives after the last datagram out. @default for ever */
  lifetimeMs?: number
  /** @default false */
  hairpin?: boolean
}

interface Mapping {
  readonly clientPort: number
  readonly socket: Socket
  /** Once it is bound. */
  readonly port: Promise<number>
  readonly sentTo: Set<string>
  lastOut: number
}

export class NatSimulator {
  readonly #options: NatSimulatorOptions
  readonly #gates = new Map<string, Socket>()
  readonly #mappings = new Map<string, Mapping>()
  readonly #sockets: Socket[] = []

  constructor(options: NatSimulatorOptions = {}) {
    this.#options = options
  }

  /** Where the client finds a place beyond. */
  async gate(outside: SocketAddress): Promise<SocketAddress> {
    const gate = gateOf(outside)
    const socket = await this.#open(gate.host, gate.port)
    this.#gates.set(keyOf(outside), socket)
    socket.on('message', (datagram, from) => void this.#out(from.port, outside, datagram).catch(() => {}))
    return gate
  }

  async close(): Promise<void> {
    await Promise.all(this.#sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))))
  }

  async #open(host: string, port: number): Promise<Socket> {
    const socket = createSocket('udp4')
    socket.bind(port, host)
    await once(socket, 'listening')
    this.#sockets.push(socket)
    return socket
  }

  async #out(clientPort: number, to: SocketAddress, datagram: Uint8Array): Promise<void> {
    const mapping = this.#map(clientPort, to)
    mapping.lastOut = performance.now()
    mapping.sentTo.add(to.host).add(keyOf(to))
    await mapping.port
    mapping.socket.send(datagram, to.port, to.host)
  }

  #map(clientPort: number, to: SocketAddress): Mapping {
    const { mapping = 'endpoint-independent', allocate = () => 0 } = this.#options
    const part = mapping === 'endpoint-independent' ? '' : mapping === 'address-dependent' ? to.host : keyOf(to)
    const key = `${clientPort} ${part}`
    const known = this.#mappings.get(key)
    if (known !== undefined && this.#lives(known)) return known

    // The number is given out at once, in the order of the datagrams; binding may take a moment.
    const socket = createSocket('udp4')
    this.#sockets.push(socket)
    const bound = once(socket, 'listening').then(() => socket.address().port)
    const made: Mapping = { clientPort, socket, port: bound, sentTo: new Set(), lastOut: performance.now() }
    this.#mappings.set(key, made)
    socket.on('message', (datagram, { address, port }) => {
      void this.#in(made, { host: address, port, family: 4 }, datagram).catch(() => {})
    })
    socket.bind(allocate(clientPort), OUTSIDE)
    return made
  }

  async #in(mapping: Mapping, from: SocketAddress, datagram: Uint8Array): Promise<void> {
    if (!this.#lives(mapping)) return
    const inside = [...this.#mappings.values()].some(({ clientPort }) => clientPort === from.port)
    if (from.host === INSIDE && inside) return this.#turn(mapping, from.port, datagram)
    const gate = this.#gates.get(keyOf(from))
    if (gate === undefined || !this.#letsIn(mapping, from)) return
    gate.send(this.#renamed(datagram), mapping.clientPort, INSIDE)
  }

  /** From one client inside to another's mapped address. */
  async #turn(mapping: Mapping, clientPort: number, datagram: Uint8Array): Promise<void> {
    if (this.#options.hairpin !== true) return
    const to: SocketAddress = { host: OUTSIDE, port: await mapping.port, family: 4 }
    const own = this.#map(clientPort, to)
    own.sentTo.add(to.host).add(keyOf(to))
    const from: SocketAddress = { host: OUTSIDE, port: await own.port, family: 4 }
    if (this.#letsIn(mapping, from)) mapping.socket.send(datagram, mapping.clientPort, INSIDE)
  }

  #lives({ lastOut }: Mapping): boolean {
    return performance.now() - lastOut < (this.#options.lifetimeMs ?? Number.POSITIVE_INFINITY)
  }

  #letsIn({ sentTo }: Mapping, from: SocketAddress): boolean {
    const { filtering = 'address-and-port-dependent' } = this.#options
    if (filtering === 'endpoint-independent') return true
    return sentTo.has(filtering === 'address-dependent' ? from.host : keyOf(from))
  }

  #renamed(datagram: Uint8Array): Uint8Array {
    const message = parseStunMessage(datagram)
    const mapped = message === undefined ? undefined : xorMappedAddress(message)
    if (message?.class !== 'success' || mapped === undefined) return datagram
    const [origin, other] = [readResponseOrigin(message), readOtherAddress(message)]
    const attributes = [
      ...(origin === undefined ? [] : [responseOrigin(gateOf(origin))]),
      ...(other === undefined ? [] : [otherAddress(gateOf(other))]),
    ]
    return encodeBindingSuccess(message.transactionId, mapped, { attributes, fingerprint: message.fingerprint })
  }
}

/** Counts ports up, or down, as some NATs do. */
export function counter(first: number, step: number): () => number {
  let next = first - step
  return () => {
    next += step
    return next
  }
}

function gateOf({ host, port }: SocketAddress): SocketAddress {
  return { host: host.replace('127.0.0.', '127.0.8.'), port, family: 4 }
}

function keyOf({ host, port }: SocketAddress): string {
  return `${host}:${port}`
}
