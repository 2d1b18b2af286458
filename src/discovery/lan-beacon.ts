/**
 * Beacons: a peer's signed record in a datagram to everyone on the network, by multicast and by broadcast, on a port of
 * our own. For networks that drop multicast DNS, and machines where another program holds its port.
 *
 *     0         4         5      6
 *     +---------+---------+------+--------------------------+
 *     | "PRLD"  | version |  1   | signed record ...        |   beacon, to everyone
 *     | "PRLD"  | version |  2   | signed record ...        |   answer, to the port a beacon or a question came from
 *     | "PRLD"  | version |  3   | zeros, to 512 bytes      |   question, to everyone, of one who tells nothing of itself
 *     +---------+---------+------+--------------------------+
 *
 * - Who hears a beacon that tells something new answers with its own record, so that both know at once. Answers are not
 *   answered.
 * - A source can be forged, and would then be sent our answer: a question is therefore as long as an answer, a beacon's
 *   signature is verified first, and each source gets few answers a second, as do all together.
 * - Before a signature is looked at: only from a subnet of ours, and so many datagrams a second from one source and in all.
 */
import type { RemoteInfo } from 'node:dgram'
import { concatBytes } from '../bytes/index.ts'
import type { LocalAddress } from '../network/address.ts'
import { LanSockets, type LanSocketsOptions } from '../network/lan-sockets.ts'
import { SourceGate } from '../network/source-gate.ts'
import { MAX_LAN_RECORD_BYTES } from './lan-record.ts'

/** The port beside that of signaling on the local network (61456), and chosen for the same reasons. */
export const BEACON_PORT = 61_457

/** The most ports that beacons are sent to and heard on: each takes a few sockets. */
export const MAX_BEACON_PORTS = 4

/** The groups of signaling on the local network: what a switch was told of them holds for both. */
const GROUP_V4 = '239.255.112.108' // of the local scope, RFC 2365 section 6.1
const GROUP_V6 = 'ff12::f065:706c' // transient, of link scope, RFC 4291 section 2.7

const MAGIC = Uint8Array.from('PRLD', (character) => character.charCodeAt(0))
const VERSION = 1
const HEAD_BYTES = MAGIC.length + 2
const KINDS = ['beacon', 'answer', 'question'] as const

/** Bytes of a question: as many as most answers have. */
const QUESTION_BYTES = 512

/** Datagrams a second that are read, of one source and of all: a network of a thousand, all just switched on. */
const MAX_DATAGRAMS = { perSource: 50, all: 1_000 }

/** Answers a second, to one source and to all: a few peers of one machine, and some ten machines that come at once. */
const MAX_ANSWERS = { perSource: 5, all: 50 }

/** ms over which everybody's answers to one newcomer are spread, for each peer there is; and the most. */
const SPREAD_MS = { each: 2, most: 1_000 }

export type BeaconDatagram =
  | { readonly kind: 'beacon' | 'answer'; readonly record: Uint8Array }
  | { readonly kind: 'question' }

export function encodeBeacon(kind: 'beacon' | 'answer', record: Uint8Array): Uint8Array {
  return concatBytes([MAGIC, Uint8Array.of(VERSION, KINDS.indexOf(kind) + 1), record])
}

export function encodeQuestion(): Uint8Array {
  const head = concatBytes([MAGIC, Uint8Array.of(VERSION, KINDS.indexOf('question') + 1)])
  return concatBytes([head, new Uint8Array(QUESTION_BYTES - head.length)])
}

/** Reads a datagram; undefined for what is none of ours. The record is a view. */
export function readBeacon(bytes: Uint8Array): BeaconDatagram | undefined {
  if (bytes.length < HEAD_BYTES || bytes.length > HEAD_BYTES + MAX_LAN_RECORD_BYTES) return undefined
  if (!MAGIC.every((byte, at) => bytes[at] === byte) || bytes[MAGIC.length] !== VERSION) return undefined
  const kind = KINDS[bytes[MAGIC.length + 1]! - 1]
  if (kind === undefined) return undefined
  if (kind !== 'question') return { kind, record: bytes.subarray(HEAD_BYTES) }
  return bytes.length >= QUESTION_BYTES ? { kind } : undefined
}

export interface BeaconsOptions extends Pick<LanSocketsOptions, 'filter' | 'interfaces'> {
  /** UDP ports, the same for all peers of a network. */
  readonly ports: readonly number[]
  /** What we say of ourselves; undefined: nothing. */
  readonly own: (locals: readonly LocalAddress[]) => { readonly bytes: Uint8Array } | undefined
  /** Somebody's record; answers whether it told something new. */
  readonly onRecord: (record: Uint8Array, from: RemoteInfo, locals: readonly LocalAddress[]) => boolean
  /** How many others there are. */
  readonly others: () => number
}

export class Beacons {
  readonly #options: BeaconsOptions
  readonly #gate = new SourceGate(MAX_DATAGRAMS)
  readonly #answers = new SourceGate(MAX_ANSWERS)
  readonly #timers = new Set<NodeJS.Timeout>()
  readonly #sockets: LanSockets[] = []
  #closed = false

  private constructor(options: BeaconsOptions) {
    this.#options = options
  }

  /** @throws PeerlineError `ERR_PEERLINE_ADDRESS_IN_USE`, `ERR_PEERLINE_UNSUPPORTED` when it can listen on none of the ports */
  static async open(options: BeaconsOptions): Promise<Beacons> {
    const beacons = new Beacons(options)
    const { filter, interfaces, ports } = options
    const opened = await Promise.allSettled(
      ports.map(async (port) => {
        const sockets = await LanSockets.open({
          ...{ port, filter, listen: true, groups: { v4: GROUP_V4, v6: GROUP_V6 } },
          onDatagram: (bytes, from) => beacons.#onDatagram(sockets, bytes, from),
          ...(interfaces === undefined ? {} : { interfaces }),
        })
        beacons.#sockets.push(sockets)
      }),
    )
    const failed = opened.find((one) => one.status === 'rejected')
    if (beacons.#sockets.length === 0 && failed !== undefined) throw failed.reason
    return beacons
  }

  /** Tells everyone of us, or asks who is there when there is nothing to tell. */
  send(): void {
    for (const sockets of this.#sockets) {
      const own = this.#options.own(sockets.locals)
      const datagram = own === undefined ? encodeQuestion() : encodeBeacon('beacon', own.bytes)
      sockets.sendToAll(datagram, { broadcast: true })
    }
  }

  /** Tells everyone that we go. */
  sendGoodbye(record: Uint8Array): void {
    for (const sockets of this.#sockets) sockets.sendToAll(encodeBeacon('answer', record), { broadcast: true })
  }

  /** Looks at the interfaces. Never rejects. */
  async refresh(): Promise<void> {
    await Promise.all(this.#sockets.map((sockets) => sockets.refresh()))
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers) clearTimeout(timer)
    this.#timers.clear()
    await Promise.all(this.#sockets.splice(0).map((sockets) => sockets.close()))
  }

  #onDatagram(sockets: LanSockets, bytes: Uint8Array, from: RemoteInfo): void {
    if (this.#closed || !this.#gate.pass(from.address)) return
    const datagram = readBeacon(bytes)
    if (datagram === undefined) return
    const asked =
      datagram.kind === 'question' ||
      (this.#options.onRecord(datagram.record, from, sockets.locals) && datagram.kind === 'beacon')
    if (asked && this.#options.own(sockets.locals) !== undefined && this.#answers.pass(from.address)) {
      this.#answer(sockets, from)
    }
  }

  #answer(sockets: LanSockets, to: RemoteInfo): void {
    const spread = Math.min(this.#options.others() * SPREAD_MS.each, SPREAD_MS.most)
    const timer = setTimeout(() => {
      this.#timers.delete(timer)
      const own = this.#options.own(sockets.locals)
      if (own !== undefined) sockets.sendTo(encodeBeacon('answer', own.bytes), to)
    }, Math.random() * spread)
    this.#timers.add(timer)
  }
}
