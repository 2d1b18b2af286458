/**
 * The sockets of one peer on its local networks.
 *
 *     listener   one for each IP family, on the shared port, in the group on every interface: hears what is for everyone
 *     link       one for each interface and family, on a port of its own: sends, and hears the answers
 *
 * - Several processes share the listening port: a system hands a multicast datagram to all of them, but a unicast one to
 *   one alone. So what is meant for one process goes to the port of a link.
 * - Multicast DNS alone has its links on the shared port too: others listen to nothing that comes from elsewhere.
 * - Nothing is sent farther than this link, and nothing is heard that did not come from a subnet of ours.
 * - Interfaces come and go: `refresh` brings the sockets in line with them, and what fails is made anew.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import type { NetworkInterfaceInfo } from 'node:os'
import { PeerlineError } from '../errors.ts'
import {
  bytesToIp,
  type InterfaceFilter,
  type Interfaces,
  inOwnSubnet,
  ipToBytes,
  type LocalAddress,
  localAddresses,
  scopeOf,
  systemInterfaces,
  usesInterface,
} from './address.ts'

/** Interfaces and families used at once; a machine with more of them is a router or a container host. */
const MAX_LINKS = 16

/** Hops that a datagram may make: none of a router's. */
const HOPS = 1

export interface LanSocketsOptions {
  readonly port: number
  readonly groups: { readonly v4: string; readonly v6: string }
  readonly filter: InterfaceFilter & { readonly loopback?: boolean }
  /** False: no listeners, for who only dials. */
  readonly listen: boolean
  /** Port of the links: 0 is any, another is shared as `port` is. @default 0 */
  readonly linkPort?: number
  /** TTL of what is sent; a router takes one off, so that who reads 255 knows that there was none. @default 1, for multicast alone */
  readonly hops?: number
  readonly onDatagram: (bytes: Uint8Array, from: RemoteInfo) => void
  /** What to look at. @default os.networkInterfaces */
  readonly interfaces?: () => Interfaces
}

/** One interface in one family. */
export interface LanLink {
  readonly family: 4 | 6
  /** Such as `eth0`. */
  readonly interfaceName: string
  /** Of the interface; for IPv6 the link-local one, with its zone. */
  readonly address: string
  /** As the system wants an interface named when it is joined to a group. */
  readonly membership: string
  /** Where a datagram for the whole link goes. */
  readonly group: string
  /** The subnet's broadcast address, for networks whose switches lose multicast; IPv6 has none. */
  readonly broadcast: string | undefined
}

export class LanSockets {
  readonly #options: LanSocketsOptions
  readonly #listeners = new Map<4 | 6, Socket>()
  readonly #links = new Map<string, { readonly to: LanLink; readonly socket: Socket }>()
  #locals: readonly LocalAddress[] = []
  #refreshing: Promise<void> | undefined
  /** Until `open` has resolved nothing is handed on: whoever is to take it does not know of it yet. */
  #opened = false
  #closed = false

  private constructor(options: LanSocketsOptions) {
    this.#options = options
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_UNSUPPORTED` when it cannot listen at all */
  static async open(options: LanSocketsOptions): Promise<LanSockets> {
    const sockets = new LanSockets(options)
    const failures = options.listen ? await sockets.#listen() : []
    if (options.listen && sockets.#listeners.size === 0) {
      const inUse = failures.find((error) => error.code === 'EADDRINUSE')
      throw inUse !== undefined
        ? new PeerlineError('ERR_PEERLINE_ADDRESS_IN_USE', `UDP port ${options.port} is in use`, { cause: inUse })
        : new PeerlineError('ERR_PEERLINE_UNSUPPORTED', `cannot listen on UDP port ${options.port}`, {
            cause: failures[0],
            recover: 'Let this program use UDP on the local network, or go without the LAN.',
          })
    }
    await sockets.refresh()
    sockets.#opened = true
    return sockets
  }

  /** Interfaces and families in use. */
  get links(): number {
    return this.#links.size
  }

  /** The same, one by one. A link that is made anew is another one. */
  get all(): readonly LanLink[] {
    return [...this.#links.values()].map(({ to }) => to)
  }

  /** The addresses of this machine on the interfaces in use, link-local ones too. */
  get locals(): readonly LocalAddress[] {
    return this.#locals
  }

  /** The links that a source is on: one as a rule, and more where interfaces share a subnet. */
  linksNear(source: string): readonly LanLink[] {
    const zone = /%(.*)$/s.exec(source)?.[1]
    const family = ipToBytes(source)?.length === 4 ? 4 : 6
    return this.all.filter((link) => {
      if (link.family !== family) return false
      if (zone !== undefined) return link.address.endsWith(`%${zone}`)
      return inOwnSubnet(
        source,
        this.#locals.filter(({ interfaceName }) => interfaceName === link.interfaceName),
      )
    })
  }

  /** Sends to every link; `broadcast`: also to the broadcast address of each subnet. */
  sendToAll(datagram: Uint8Array, options: { broadcast: boolean }): void {
    for (const link of this.all) this.sendOn(link, datagram, options)
  }

  /** Sends to one link, if it is still there. */
  sendOn(link: LanLink, datagram: Uint8Array, options: { broadcast: boolean }): void {
    const key = keyOf(link)
    const { to, socket } = this.#links.get(key) ?? {}
    if (to !== link || socket === undefined) return
    const failed = (error: Error | null) => {
      // Too large for this link is the datagram's fault; anything else is the link's, and it is made anew.
      if (error === null || (error as NodeJS.ErrnoException).code === 'EMSGSIZE') return
      this.#dropLink(key)
      void this.refresh()
    }
    socket.send(datagram, this.#options.port, to.group, failed)
    if (options.broadcast && to.broadcast !== undefined) {
      socket.send(datagram, this.#options.port, to.broadcast, () => {})
    }
  }

  /** Sends to one address, as far as it can be reached. */
  sendTo(datagram: Uint8Array, { family, address, port }: RemoteInfo): void {
    if (port === 0) return // a forged source, which Node refuses with a throw
    const version = family === 'IPv6' ? 6 : 4
    const socket = this.#listeners.get(version) ?? this.#linkOf(version)
    socket?.send(datagram, port, address, () => {})
  }

  /** Brings the sockets in line with the interfaces there are. Never rejects. */
  refresh(): Promise<void> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  async #refresh(): Promise<void> {
    const { filter, interfaces = systemInterfaces } = this.#options
    if (this.#closed) return
    if (this.#options.listen && this.#listeners.size < 2) await this.#listen()
    const now = interfaces()
    this.#locals = subnetsOf(now, filter)
    const wanted = new Map(linkAddresses(now, this.#options).map((to) => [keyOf(to), to]))
    for (const key of this.#links.keys()) if (!wanted.has(key)) this.#dropLink(key)
    const missing = [...wanted].filter(([key]) => !this.#links.has(key))
    await Promise.all(missing.map(([key, to]) => this.#openLink(key, to)))
    for (const to of wanted.values()) this.#join(to)
  }

  async close(): Promise<void> {
    this.#closed = true
    const sockets = [...this.#listeners.values(), ...[...this.#links.values()].map(({ socket }) => socket)]
    this.#listeners.clear()
    this.#links.clear()
    await Promise.all(sockets.map(closeSocket))
  }

  /** Opens the listeners that are not; gives what failed. */
  async #listen(): Promise<NodeJS.ErrnoException[]> {
    const failures: NodeJS.ErrnoException[] = []
    for (const family of [4, 6] as const) {
      if (this.#listeners.has(family)) continue
      const socket = createSocket({
        type: `udp${family}`,
        reuseAddr: true,
        ...(family === 6 ? { ipv6Only: true } : {}),
      })
      try {
        await bind(socket, family === 6 ? '::' : '0.0.0.0', this.#options.port)
      } catch (error) {
        failures.push(error as NodeJS.ErrnoException)
        continue
      }
      if (this.#closed) return closeSocket(socket).then(() => failures)
      if (this.#options.hops !== undefined) socket.setTTL(this.#options.hops)
      this.#listeners.set(family, socket)
      this.#attend(socket, () => this.#listeners.get(family) === socket && this.#listeners.delete(family))
    }
    return failures
  }

  async #openLink(key: string, to: LanLink): Promise<void> {
    const { linkPort = 0, hops = HOPS } = this.#options
    const socket = createSocket({ type: `udp${to.family}`, reuseAddr: linkPort !== 0 })
    try {
      await bind(socket, to.address, linkPort)
      socket.setMulticastInterface(to.membership)
      socket.setMulticastTTL(hops)
      socket.setMulticastLoopback(true) // other peers on this machine
      socket.setBroadcast(true)
    } catch {
      // The address is not ready (IPv6 checks for duplicates first), or the interface has no multicast.
      await closeSocket(socket)
      return
    }
    if (this.#closed || this.#links.has(key)) return closeSocket(socket)
    this.#links.set(key, { to, socket })
    this.#attend(socket, () => this.#links.get(key)?.socket === socket && this.#links.delete(key))
  }

  /** Joins the group on one interface, again and again: an interface that was made anew has forgotten it. */
  #join({ family, group, membership }: LanLink): void {
    try {
      this.#listeners.get(family)?.addMembership(group, membership)
    } catch {
      // It is in the group already, or the interface has just gone.
    }
  }

  #attend(socket: Socket, forget: () => void): void {
    socket.on('message', (bytes, from) => {
      if (this.#opened && inOwnSubnet(from.address, this.#locals)) this.#options.onDatagram(bytes, from)
    })
    socket.on('error', () => {
      forget()
      void closeSocket(socket)
    })
  }

  #dropLink(key: string): void {
    const link = this.#links.get(key)
    if (link === undefined) return
    this.#links.delete(key)
    void closeSocket(link.socket)
    try {
      this.#listeners.get(link.to.family)?.dropMembership(link.to.group, link.to.membership)
    } catch {
      // It went with the interface.
    }
  }

  #linkOf(family: 4 | 6): Socket | undefined {
    return [...this.#links.values()].find(({ to }) => to.family === family)?.socket
  }
}

/** An address may be given to another interface, and a group is of one wire. */
function keyOf({ address, group }: LanLink): string {
  return `${address}|${group}`
}

function linkAddresses(interfaces: Interfaces, options: LanSocketsOptions): LanLink[] {
  const { filter, groups } = options
  const found: LanLink[] = []
  for (const [name, infos = []] of Object.entries(interfaces)) {
    const internal = infos.some((info) => info.internal)
    if (internal ? filter.loopback !== true : !usesInterface(name, filter)) continue
    const v4 = infos.find(({ family }) => family === 'IPv4')
    const v6 = infos.find(({ family, address }) => family === 'IPv6' && scopeOf(address) === 'link-local')
    if (v4 !== undefined) {
      const { address } = v4
      const broadcast = broadcastOf(v4)
      found.push({ family: 4, interfaceName: name, address, membership: address, group: groups.v4, broadcast })
    }
    // Loopback has no link-local address, and IPv4 does for it.
    if (v6?.family === 'IPv6') {
      const zone = process.platform === 'win32' ? v6.scopeid : name
      const address = `${v6.address}%${zone}`
      const [group, membership] = [`${groups.v6}%${zone}`, `::%${zone}`]
      found.push({ family: 6, interfaceName: name, address, membership, group, broadcast: undefined })
    }
  }
  return found.slice(0, MAX_LINKS)
}

/** The subnets of the interfaces in use, the link-local ones too. */
function subnetsOf(interfaces: Interfaces, filter: LanSocketsOptions['filter']): readonly LocalAddress[] {
  return localAddresses({ ...filter, linkLocal: true, interfaces })
}

/** The address with all host bits set (RFC 919 section 7). */
function broadcastOf({ address, netmask }: NetworkInterfaceInfo): string | undefined {
  const bytes = ipToBytes(address)
  const mask = ipToBytes(netmask)
  if (bytes === undefined || mask === undefined || bytes.length !== mask.length) return undefined
  return bytesToIp(bytes.map((byte, at) => byte | (~mask[at]! & 0xff)))
}

function bind(socket: Socket, address: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error) => {
      socket.close()
      reject(error)
    }
    socket.once('error', onError)
    // Not shared with the workers of a cluster: each is a peer of its own.
    socket.bind({ address, port, exclusive: true }, () => {
      socket.off('error', onError)
      resolve()
    })
  })
}

/** Resolves when it is closed, also when it was before. */
function closeSocket(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    try {
      socket.close(() => resolve())
    } catch {
      resolve()
    }
  })
}
