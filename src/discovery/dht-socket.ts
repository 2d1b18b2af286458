/**
 * The UDP socket of a DHT node, between the network and the library: what the library never sees cannot harm it.
 *
 *     network --> size, source, rate --> readDhtMessage --> library
 *     network <-- where to, how much <--------------------- library
 *
 * - Answers come only from whom we asked, one for each question. Questions are limited for each source and in all: a source can
 *   be forged, and would be sent our answers, which are ten times as long.
 * - Nodes name each other, and may name anything: in the public DHT nothing is sent into private networks, nor taken from there.
 * - A lookup asks a limited number of nodes, and none any more once nobody waits for it: the library has no way to end one.
 * - What the library throws on a message costs that message.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { EventEmitter } from 'node:events'
import { isIPv4 } from 'node:net'
import { toHex } from '../bytes/index.ts'
import { asPeerlineError, type ErrorCode } from '../errors.ts'
import { formatHostPort } from '../network/address.ts'
import { SourceGate } from '../network/source-gate.ts'
import { type DhtMessage, MAX_MESSAGE_BYTES, readDhtMessage } from './dht-message.ts'

/** Questions a second that are looked at, of one source and of all: a busy node of the public DHT is asked some 50. */
const MAX_QUESTIONS = { perSource: 50, all: 500 }

/** Datagrams a second of any kind. */
const MAX_DATAGRAMS = { perSource: 500, all: 3_000 }

/** Nodes that one lookup asks. In the public DHT, with its millions of nodes, some 60 are usual. */
const MAX_ASKED = 256

/** ms that an answer is waited for: the library gives it 2.5 s. */
const ANSWER_MS = 3_000

/** Nodes whose answer is waited for. The library asks 16 at a time. */
const MAX_WAITING = 256

/** Questions of a lookup. */
const SEEKING: ReadonlySet<string> = new Set(['get', 'get_peers', 'find_node'])

const ERROR_CODES: Readonly<Record<string, ErrorCode>> = {
  EADDRINUSE: 'ERR_PEERLINE_ADDRESS_IN_USE',
  EADDRNOTAVAIL: 'ERR_PEERLINE_INVALID',
  EACCES: 'ERR_PEERLINE_INVALID',
}

/** To the library it is a socket of `node:dgram`. */
export class DhtSocket extends EventEmitter {
  readonly #socket: Socket = createSocket('udp4')
  readonly #allowed: (ip: string) => boolean
  readonly #questions = new SourceGate(MAX_QUESTIONS)
  readonly #datagrams = new SourceGate(MAX_DATAGRAMS)
  /** How many answers each node owes, and since when; the longest first. */
  readonly #asked = new Map<string, { count: number; readonly at: number }>()
  /** How many nodes may yet be asked for a target, by how many lookups. */
  readonly #lookups = new Map<string, { left: number; lookups: number }>()
  #closed = false
  /** Datagrams that were not passed on. */
  dropped = 0

  private constructor(allowed: (ip: string) => boolean) {
    super()
    this.#allowed = allowed
    this.#socket.on('message', (bytes, from) => this.#onMessage(bytes, from))
    this.#socket.on('error', () => {}) // of one datagram: nobody misses it
    this.#socket.on('close', () => super.emit('close'))
  }

  /**
   * @param allowed whether we talk with this address
   * @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_INVALID` for an address that is not ours
   */
  static async open(host: string, port: number, allowed: (ip: string) => boolean): Promise<DhtSocket> {
    const opened = new DhtSocket(allowed)
    const socket = opened.#socket
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('error', reject)
        socket.bind({ port, address: host, exclusive: true }, () => {
          socket.off('error', reject)
          resolve()
        })
      })
      return opened
    } catch (error) {
      socket.close()
      const code = ERROR_CODES[(error as NodeJS.ErrnoException).code ?? ''] ?? 'ERR_PEERLINE_UNREACHABLE'
      throw asPeerlineError(error, code, `the DHT cannot use ${formatHostPort(host, port)}`)
    }
  }

  /** Lets a lookup ask, from now on until {@link endLookup}. */
  beginLookup(target: Uint8Array): void {
    const name = toHex(target)
    const { left, lookups } = this.#lookups.get(name) ?? { left: 0, lookups: 0 }
    this.#lookups.set(name, { left: left + MAX_ASKED, lookups: lookups + 1 })
  }

  endLookup(target: Uint8Array): void {
    const lookup = this.#lookups.get(toHex(target))
    if (lookup !== undefined && --lookup.lookups === 0) this.#lookups.delete(toHex(target))
  }

  address(): { address: string; port: number } {
    return this.#socket.address()
  }

  /** It is bound already. */
  bind(): void {
    queueMicrotask(() => super.emit('listening'))
  }

  /** As the library calls it: with the whole of a buffer, and an address that some node named. */
  send(bytes: Uint8Array, _offset: number, _length: number, port: number, host: string): void {
    if (this.#closed || !(port > 0) || !isIPv4(host) || !this.#allowed(host)) return
    const message = read(bytes)
    if (message === undefined || (message.kind === 'query' && !this.#mayAsk(message, host, port))) return
    this.#socket.send(bytes, port, host, () => {})
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#socket.close()
  }

  #mayAsk({ method, target }: DhtMessage & { kind: 'query' }, host: string, port: number): boolean {
    if (SEEKING.has(method) && target !== undefined) {
      const lookup = this.#lookups.get(toHex(target))
      if (lookup === undefined || lookup.left === 0) return false
      lookup.left--
    }
    const now = performance.now()
    for (const [node, { at }] of this.#asked) {
      if (this.#asked.size < MAX_WAITING && now - at < ANSWER_MS) break
      this.#asked.delete(node)
    }
    const node = formatHostPort(host, port)
    const count = this.#asked.get(node)?.count ?? 0
    this.#asked.delete(node)
    this.#asked.set(node, { count: count + 1, at: now })
    return true
  }

  #onMessage(bytes: Buffer, from: RemoteInfo): void {
    if (this.#closed) return
    try {
      if (this.#mayPass(bytes, from)) super.emit('message', bytes, from)
      else this.dropped++
    } catch {
      this.dropped++
    }
  }

  #mayPass(bytes: Buffer, { address, port }: RemoteInfo): boolean {
    if (bytes.length > MAX_MESSAGE_BYTES || !this.#allowed(address) || !this.#datagrams.pass(address)) return false
    const node = formatHostPort(address, port)
    const asked = this.#asked.get(node)
    if (asked === undefined && !this.#questions.pass(address)) return false
    const message = read(bytes)
    if (message === undefined) return false
    if (message.kind === 'query') return asked === undefined || this.#questions.pass(address)
    if (asked === undefined) return false
    if (--asked.count === 0) this.#asked.delete(node)
    return true
  }
}

function read(bytes: Uint8Array): DhtMessage | undefined {
  try {
    return readDhtMessage(bytes)
  } catch {
    return undefined // from whom it may be, it is no message
  }
}
