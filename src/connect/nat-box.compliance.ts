/**
 * A NAT made of real sockets on loopback, for tests of hole punching. It maps and filters as RFC 4787 sections 4 and 5
 * describe, loses, doubles and reorders what it is told to, and has a public address of its own in 127.0.0.0/8.
 *
 *     NattedSocket ── tunnel: tag, IPv4, port, datagram ──> inside port of the box ──> a socket for each mapping ──> world
 *                  ── udx packets, as they are ──────────>   "      to the remote of the stream
 */
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { bytesToIp, ipToBytes, type SocketAddress } from '../network/address.ts'
import { type DatagramHandler, UdpSocket } from '../network/udp-socket.ts'
import type { FramedPath } from '../path/index.ts'
import type { PunchSocket } from './punch-udp.ts'

const INSIDE = '127.0.0.1'
const TUNNEL_TAG = Buffer.from('a0b1c2d3e4f5a6b7', 'hex')
const TUNNEL_BYTES = TUNNEL_TAG.length + 6

export interface NatRules {
  /** How a port is given to a flow: one for all destinations, or each its own. */
  readonly mapping: 'fixed' | 'sequential' | 'random'
  /** From whom datagrams come in: anybody, hosts or exact addresses that were sent to. */
  readonly filtering: 'none' | 'address' | 'port'
  /** @default 1 */
  readonly step?: number
  /** What happens to a datagram that crosses the box: how often it goes on, and after how many ms. @default once, at once */
  readonly fate?: (datagram: Uint8Array, out: boolean) => readonly number[]
}

interface Mapping {
  readonly socket: Socket
  readonly port: number
  readonly client: number
  /** `host` and `host:port` of those who were sent to. */
  readonly known: Set<string>
}

let boxes = 0

export class NatBox {
  /** The public address. */
  readonly host: string
  readonly #rules: NatRules
  readonly #inside: Socket
  readonly #mappings = new Map<string, Mapping>()
  readonly #byClient = new Map<number, SocketAddress>()
  readonly #ports = new Set<number>()
  readonly #timers = new Set<ReturnType<typeof setTimeout>>()
  #next = 20_000 + Math.floor(Math.random() * 10_000)
  #closed = false

  private constructor(rules: NatRules, inside: Socket) {
    this.#rules = rules
    this.#inside = inside
    boxes++
    this.host = `127.${64 + (process.pid % 64)}.${boxes >> 8}.${boxes & 0xff}`
    inside.on('message', (datagram, { port }) => this.#fromInside(datagram, port))
  }

  static async open(rules: NatRules): Promise<NatBox> {
    const inside = createSocket('udp4').bind(0, INSIDE)
    await once(inside, 'listening')
    return new NatBox(rules, inside)
  }

  get insidePort(): number {
    return this.#inside.address().port
  }

  /** How many ports are mapped. */
  get mapped(): number {
    return this.#mappings.size
  }

  /** Other traffic behind the box takes `count` ports. */
  takePorts(count: number): void {
    for (let i = 0; i < count; i++) this.#takePort()
  }

  /** The remote of the stream that the client at `port` has. */
  setStreamRemote(port: number, remote: SocketAddress): void {
    this.#byClient.set(port, remote)
  }

  /** The mapping through which the client at `port` reaches `remote`. */
  mappingOf(client: number, { host, port }: SocketAddress): Mapping {
    const key = this.#rules.mapping === 'fixed' ? `${client}` : `${client} ${host}:${port}`
    let mapping = this.#mappings.get(key)
    if (mapping === undefined) {
      const mapped = this.#takePort()
      const socket = createSocket('udp4').bind(mapped, this.host)
      socket.on('error', () => {})
      const made: Mapping = { socket, port: mapped, client, known: new Set() }
      socket.on('message', (datagram, from) => this.#fromOutside(made, datagram, from.address, from.port))
      this.#mappings.set(key, made)
      mapping = made
    }
    mapping.known.add(host).add(`${host}:${port}`)
    return mapping
  }

  #takePort(): number {
    do {
      if (this.#rules.mapping === 'sequential') this.#next += this.#rules.step ?? 1
      else this.#next = 1_024 + Math.floor(Math.random() * 64_512)
    } while (this.#ports.has(this.#next))
    this.#ports.add(this.#next)
    return this.#next
  }

  #fromInside(datagram: Buffer, client: number): void {
    if (datagram.length >= TUNNEL_BYTES && datagram.subarray(0, TUNNEL_TAG.length).equals(TUNNEL_TAG)) {
      const remote = readAddress(datagram)
      this.#send(datagram.subarray(TUNNEL_BYTES), client, remote)
    } else {
      const remote = this.#byClient.get(client)
      if (remote !== undefined) this.#send(datagram, client, remote)
    }
  }

  #send(datagram: Buffer, client: number, remote: SocketAddress): void {
    const { socket } = this.mappingOf(client, remote)
    this.#fate(datagram, true, () => socket.send(datagram, remote.port, remote.host))
  }

  #fromOutside(mapping: Mapping, datagram: Buffer, host: string, port: number): void {
    const { filtering } = this.#rules
    if (filtering === 'address' && !mapping.known.has(host)) return
    if (filtering === 'port' && !mapping.known.has(`${host}:${port}`)) return
    const udx = datagram[0] === 0xff
    const inner = udx ? datagram : Buffer.concat([TUNNEL_TAG, addressBytes({ host, port, family: 4 }), datagram])
    this.#fate(datagram, false, () => this.#inside.send(inner, mapping.client, INSIDE))
  }

  #fate(datagram: Uint8Array, out: boolean, go: () => void): void {
    for (const ms of this.#rules.fate?.(datagram, out) ?? [0]) {
      if (ms === 0) go()
      else {
        const timer = setTimeout(() => {
          this.#timers.delete(timer)
          if (!this.#closed) go()
        }, ms)
        this.#timers.add(timer)
      }
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers) clearTimeout(timer)
    const sockets = [this.#inside, ...[...this.#mappings.values()].map(({ socket }) => socket)]
    await Promise.all(sockets.map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))))
  }
}

/** A UDP socket behind a {@link NatBox}. */
export class NattedSocket implements PunchSocket {
  readonly families = [4] as const
  readonly #box: NatBox
  readonly #socket: UdpSocket
  readonly #routes = new Map<string, DatagramHandler>()
  closed = false

  private constructor(box: NatBox, socket: UdpSocket) {
    this.#box = box
    this.#socket = socket
    socket.route(TUNNEL_TAG, (datagram) => {
      const inner = datagram.subarray(TUNNEL_BYTES)
      this.#routes.get(Buffer.from(inner.subarray(0, 8)).toString('hex'))?.(inner, readAddress(datagram))
    })
  }

  static async open(box: NatBox): Promise<NattedSocket> {
    return new NattedSocket(box, await UdpSocket.open({ host: INSIDE }))
  }

  get port(): number {
    return this.#socket.port
  }

  /** The address that a reflector sees. */
  reflexive(): SocketAddress {
    const { port } = this.#box.mappingOf(this.#socket.port, { host: '127.0.0.2', port: 3478, family: 4 })
    return { host: this.#box.host, port, family: 4 }
  }

  send(datagram: Uint8Array, to: SocketAddress): void {
    const inside = { host: INSIDE, port: this.#box.insidePort, family: 4 } as const
    this.#socket.send(Buffer.concat([TUNNEL_TAG, addressBytes(to), datagram]), inside)
  }

  route(tag: Uint8Array, handler: DatagramHandler): () => void {
    const key = Buffer.from(tag).toString('hex')
    this.#routes.set(key, handler)
    return () => void this.#routes.delete(key)
  }

  get routes(): number {
    return this.#routes.size
  }

  /** Ids that are reserved, and belong to no stream. */
  readonly ids = new Set<number>()

  reserveId(): number {
    const id = this.#socket.reserveId()
    this.ids.add(id)
    return id
  }

  releaseId(id: number): void {
    this.ids.delete(id)
    this.#socket.releaseId(id)
  }

  connect({ localId, remoteId, remote }: Parameters<UdpSocket['connect']>[0]): FramedPath {
    this.#box.setStreamRemote(this.#socket.port, remote)
    const inside = { host: INSIDE, port: this.#box.insidePort, family: 4 } as const
    return this.#socket.connect({ localId, remoteId, remote: inside })
  }

  retire(): void {
    this.#socket.retire()
  }

  close(): Promise<void> {
    this.closed = true
    return this.#socket.close()
  }
}

function addressBytes({ host, port }: SocketAddress): Buffer {
  return Buffer.concat([ipToBytes(host)!, Buffer.from([port >> 8, port & 0xff])])
}

function readAddress(tunnelled: Uint8Array): SocketAddress {
  const at = TUNNEL_TAG.length
  return {
    host: bytesToIp(tunnelled.subarray(at, at + 4)),
    port: (tunnelled[at + 4]! << 8) | tunnelled[at + 5]!,
    family: 4,
  }
}
