/**
 * Peers that see an asker, on loopback: each on an address of 127.0.0.0/8 of its own, with a listener, a UDP socket, and a
 * session that the asker has dialled. They may lie.
 */
import { once } from 'node:events'
import net from 'node:net'
import { MessageKind, readPreamble } from '../bytes/index.ts'
import { firstMessage } from '../connect/first-message.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { formatHostPort, parseHostPort, type SocketAddress } from '../network/address.ts'
import { UdpSocket } from '../network/udp-socket.ts'
import { FramedPath, SocketPipe } from '../path/index.ts'
import { Session, type Stream, StreamCode } from '../session/index.ts'
import { testKeys } from '../session/memory-path.compliance.ts'
import { type Place, SEEN_PROTOCOL, SeenAddress } from './seen-address.ts'

/** Where the asker is, as the kernel has it when it speaks to 127.0.0.0/8. */
export const ASKER = '127.0.0.1'

export interface ObserverOptions {
  /** Its address, such as 127.0.1.1. */
  readonly host: string
  /** What it says instead of what it sees. */
  readonly lie?: ((from: SocketAddress) => SocketAddress) | undefined
  /** What it says of where it can be reached. @default its listener and its UDP socket */
  readonly places?: readonly Place[]
  /** Answers on its own. */
  readonly serve?: (stream: Stream, honest: () => void) => void
  /** Its session is relayed, as far as both know. @default false */
  readonly relayed?: boolean
  /** It has dialled the asker, as far as both know. @default false */
  readonly inbound?: boolean
}

export interface TestObserver {
  readonly peer: PeerId
  /** The asker's end. */
  readonly session: Session
  /** Its own end. */
  readonly own: Session
  readonly seen: SeenAddress
  readonly udp: UdpSocket
  readonly tcpPort: number
  /** Connections beside that of the session. */
  readonly probes: () => number
}

/** All that a test opens. */
export class Observers {
  readonly asker = Identity.generate().peerId
  readonly #closers: (() => Promise<unknown>)[] = []

  async add({
    host,
    lie = (from) => from,
    places,
    serve,
    relayed = false,
    inbound = false,
  }: ObserverOptions): Promise<TestObserver> {
    const udp = await this.udp(host)
    let session: Session | undefined
    let probes = 0
    const sockets = new Set<net.Socket>()
    const server = net.createServer((socket) => {
      sockets.add(socket.on('close', () => sockets.delete(socket)).on('error', () => {}))
      const path = new FramedPath(relayed && session === undefined ? 'relay' : 'tcp', new SocketPipe(socket))
      if (session === undefined) {
        session = make(inbound, this.asker, onStream)
        return session.adopt(path, false)
      }
      probes++
      firstMessage(path).then(
        (message) => {
          const from = addressOf(path.remote)
          const said = lie(from)
          if (readPreamble(message).kind === MessageKind.PROBE) {
            seen.onProbe(message.subarray(2), formatHostPort(said.host, said.port))
          }
          path.close()
        },
        () => {},
      )
    })
    server.listen(0, host)
    await once(server, 'listening')
    const { port } = server.address() as net.AddressInfo
    const here: Place[] = [
      { kind: 'tcp', host, port },
      { kind: 'udp', host, port: udp.port },
    ]
    const seen = new SeenAddress({
      places: () => places ?? here,
      asksPerMinute: 1_000_000,
      udp: () => ({ route: (tag, handler) => udp.route(tag, (datagram, from) => handler(datagram, lie(from))) }),
    })
    const onStream = (stream: Stream): void => {
      const pathInfo = session!.pathInfo.map((info) => {
        const said = lie(addressOf(info.remote))
        return { ...info, remote: formatHostPort(said.host, said.port) }
      })
      const honest = () => seen.serve(stream, { from: this.asker, session: { pathInfo } })
      if (stream.protocol !== SEEN_PROTOCOL) return stream.reset(StreamCode.NO_PROTOCOL)
      if (serve === undefined) honest()
      else serve(stream, honest)
    }
    const { peerId } = Identity.generate()
    const dialled = net.connect(port, host)
    await Promise.all([once(dialled, 'connect'), once(server, 'connection')])
    const ours = make(!inbound, peerId, (stream) => stream.reset(StreamCode.NO_PROTOCOL))
    ours.adopt(new FramedPath(relayed ? 'relay' : 'tcp', new SocketPipe(dialled)), true)
    await Promise.all([ours.opened(), session!.opened()])
    this.#closers.push(async () => {
      seen.close()
      await Promise.all([ours.close(), session!.close()])
      for (const socket of [...sockets, dialled]) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    })
    return { peer: peerId, session: ours, own: session!, seen, udp, tcpPort: port, probes: () => probes }
  }

  /** A UDP socket that is closed with the rest. */
  async udp(host: string): Promise<UdpSocket> {
    const socket = await UdpSocket.open({ host })
    this.#closers.push(() => socket.close())
    return socket
  }

  async close(): Promise<void> {
    await Promise.all(this.#closers.splice(0).map((close) => close()))
  }
}

function make(initiator: boolean, peer: PeerId, onStream: (stream: Stream) => void): Session {
  return new Session({ keys: testKeys(initiator), peer, onStream, reconnectMs: 5_000 })
}

function addressOf(remote: string): SocketAddress {
  const { host, port } = parseHostPort(remote)
  return { host, port, family: host.includes(':') ? 6 : 4 }
}
