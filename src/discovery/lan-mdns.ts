/**
 * Multicast DNS (RFC 6762) as far as it takes to be found by, and to find, peers: the service `_peerline._tcp.local`.
 *
 * - The library `multicast-dns` reads and writes the messages. Its sockets are ours: it would use one interface, and decode
 *   whatever anybody sends. Here a message is decoded when it came from a subnet of ours, names us or the service, is small,
 *   and there were not too many of its source.
 * - Each interface in each IP family is a world of its own: lan-mdns-link.ts says what is asked and answered there.
 * - Another program of this machine that speaks multicast DNS shares the port; unicast reaches one of them alone (section
 *   15.1), so we ask for no unicast answers.
 * - Not done, since nobody here needs it: probing (see lan-dns.ts), NSEC records, known answers of more than one packet.
 */
import type { RemoteInfo, Socket } from 'node:dgram'
import type { MulticastDNS } from 'multicast-dns'
import type { PeerId } from '../identity/index.ts'
import type { LocalAddress } from '../network/address.ts'
import { type LanLink, LanSockets, type LanSocketsOptions } from '../network/lan-sockets.ts'
import { SourceGate } from '../network/source-gate.ts'
import { concernsUs } from './lan-dns.ts'
import { MdnsLink, MdnsWire } from './lan-mdns-link.ts'
import type { OwnRecord } from './lan-record.ts'

/** Of multicast DNS, RFC 6762 section 3. */
const MDNS_PORT = 5353
const GROUPS = { v4: '224.0.0.251', v6: 'ff02::fb' }

/** By which who reads it knows that it has not crossed a router, RFC 6762 section 11. */
const HOPS = 255

/** Messages a second that are decoded, of one source and of all: the worst takes 2 ms, and one of ours 0.05. */
const MAX_MESSAGES = { perSource: 30, all: 100 }

/** Answers a second that go to one source alone, and to all. */
const MAX_UNICAST = { perSource: 5, all: 50 }

export interface MdnsOptions extends Pick<LanSocketsOptions, 'filter' | 'interfaces'> {
  readonly peer: PeerId | undefined
  /** What we say of ourselves; undefined: nothing. */
  readonly own: (locals: readonly LocalAddress[]) => OwnRecord | undefined
  /** Somebody's record, of an instance that names `claimed`. */
  readonly onRecord: (record: Uint8Array, from: RemoteInfo, locals: readonly LocalAddress[], claimed: string) => void
  /** Peers heard by multicast DNS within so many ms, the latest first. */
  readonly recent: (ms: number) => readonly PeerId[]
  /** For tests. @default 5353 */
  readonly port?: number | undefined
}

type MakeDns = (options: { socket: Socket; bind: false; multicast: false }) => MulticastDNS

export class Mdns {
  readonly #options: MdnsOptions
  readonly #port: number
  readonly #gate = new SourceGate(MAX_MESSAGES)
  readonly #unicast = new SourceGate(MAX_UNICAST)
  readonly #links = new Map<LanLink, MdnsLink>()
  readonly #make: MakeDns
  #sockets!: LanSockets
  #closed = false

  private constructor(options: MdnsOptions, make: MakeDns) {
    this.#options = options
    this.#port = options.port ?? MDNS_PORT
    this.#make = make
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE` when another program keeps the port to itself, `ERR_PEERLINE_UNSUPPORTED` */
  static async open(options: MdnsOptions): Promise<Mdns> {
    const { default: make } = await import('multicast-dns')
    const mdns = new Mdns(options, make)
    const { filter, interfaces } = options
    mdns.#sockets = await LanSockets.open({
      ...{ port: mdns.#port, linkPort: mdns.#port, groups: GROUPS, filter, listen: true, hops: HOPS },
      onDatagram: (bytes, from) => mdns.#onDatagram(bytes, from),
      ...(interfaces === undefined ? {} : { interfaces }),
    })
    return mdns
  }

  /** Asks who is there. */
  browse(): void {
    for (const link of this.#all()) link.browse()
  }

  /** Tells everyone of us, if there is anything to tell. */
  announce(): void {
    for (const link of this.#all()) link.announce()
  }

  /** Tells everyone that we go. */
  sendGoodbye(own: OwnRecord, goodbye: Uint8Array): void {
    for (const link of this.#all()) link.sendGoodbye(own, goodbye)
  }

  /** Looks at the interfaces. Never rejects. */
  async refresh(): Promise<void> {
    await this.#sockets.refresh()
    this.#all()
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const link of this.#links.values()) link.close()
    this.#links.clear()
    await this.#sockets.close()
  }

  /** One for each link there is now. */
  #all(): MdnsLink[] {
    if (this.#closed) return []
    const there = this.#sockets.all
    for (const [at, link] of this.#links) {
      if (there.includes(at)) continue
      link.close()
      this.#links.delete(at)
    }
    return there.map((at) => {
      const known = this.#links.get(at)
      if (known !== undefined) return known
      const { peer, recent, onRecord } = this.#options
      const wire = new MdnsWire((message, port, address) => {
        if (address === at.group) this.#sockets.sendOn(at, message, { broadcast: false })
        else this.#sockets.sendTo(message, { address, port, family: at.family === 4 ? 'IPv4' : 'IPv6', size: 0 })
      })
      const made = new MdnsLink({
        ...{ at, wire, peer, recent, port: this.#port },
        dns: this.#make({ socket: wire as unknown as Socket, bind: false, multicast: false }),
        own: () => this.#options.own(this.#sockets.locals),
        onRecord: (record, from, claimed) => onRecord(record, from, this.#sockets.locals, claimed),
        mayAnswer: (to) => this.#unicast.pass(to),
      })
      this.#links.set(at, made)
      return made
    })
  }

  #onDatagram(bytes: Uint8Array, from: RemoteInfo): void {
    if (this.#closed || !concernsUs(bytes, this.#options.peer) || !this.#gate.pass(from.address)) return
    const near = this.#sockets.linksNear(from.address)
    for (const link of this.#all()) if (near.includes(link.at)) link.hear(bytes, from)
  }
}
