/**
 * `udx-native`, loaded when it is first wanted, and the ids of its streams.
 *
 * A udx packet finds its stream by a 32-bit id alone: its source address is not looked at. Whoever knows an id can end
 * the stream or put bytes into it. So ids are random in all their bits, and never follow from anything that a stranger
 * may see or choose.
 *
 * The streams of an engine stand in one table, by the lowest bits of their ids, which doubles until no two streams share
 * a place. Two ids that differ in a high bit alone would make it take gigabytes. So an id is taken only when its lowest
 * bits are free in a table of four places for each stream.
 */
import { randomBytes } from 'node:crypto'
import { PeerlineError } from '../errors.ts'
import type { UdxStream } from '../path/index.ts'

/** A UDP port that `udx-native` holds. There is no way to keep it from holding the process, too. */
export interface UdxSocket {
  on(event: 'message', listener: (datagram: Uint8Array, from: { host: string; port: number }) => void): this
  bind(port: number, host: string): void
  address(): { host: string; port: number } | null
  /** False when it could not be sent; the bytes are in use until then. */
  send(datagram: Uint8Array, port: number, host: string): Promise<boolean>
  /** Waits until every stream on it is closed. */
  close(): Promise<void>
}

/** A stream that may be connected. */
export interface UdxConnectable extends UdxStream {
  connect(socket: UdxSocket, remoteId: number, port: number, host: string): void
}

/** An instance of the library. */
export interface UdxEngine {
  createSocket(): UdxSocket
  createStream(id: number): UdxConnectable
}

/** Places of the table of streams that each stream gets, so that a random id mostly finds a free one. */
const PLACES_PER_STREAM = 4

/** Places that the table of streams has at the least. */
const MIN_PLACES = 16

/** Streams of one process. Each takes some 100 KB. */
const MAX_STREAMS = 4_096

/** The ids of one engine: reserved for a stream to be, or in use by one. */
export class StreamIds {
  readonly #taken = new Map<number, 'reserved' | 'in use'>()

  /** @throws PeerlineError `ERR_PEERLINE_LIMIT` */
  reserve(): number {
    if (this.#taken.size >= MAX_STREAMS) {
      throw new PeerlineError('ERR_PEERLINE_LIMIT', `there are ${MAX_STREAMS} UDP paths already`)
    }
    let places = MIN_PLACES
    while (places < PLACES_PER_STREAM * (this.#taken.size + 1)) places *= 2
    let id: number
    do id = randomBytes(4).readUInt32BE(0)
    while (id === 0 || this.#sharesPlace(id, places))
    this.#taken.set(id, 'reserved')
    return id
  }

  #sharesPlace(id: number, places: number): boolean {
    for (const other of this.#taken.keys()) if (((other ^ id) & (places - 1)) === 0) return true
    return false
  }

  /** Gives back an id that no stream was made with; does nothing for any other. */
  release(id: number): void {
    if (this.#taken.get(id) === 'reserved') this.#taken.delete(id)
  }

  /** A stream is made with `id`: false when it was not reserved. */
  use(id: number): boolean {
    if (this.#taken.get(id) !== 'reserved') return false
    this.#taken.set(id, 'in use')
    return true
  }

  /** The stream with `id` is gone. */
  free(id: number): void {
    this.#taken.delete(id)
  }
}

/** The library and the ids of its streams. */
export interface Engine {
  readonly udx: UdxEngine
  readonly ids: StreamIds
}

/**
 * One engine for the whole process: a stream can only go through sockets of its own engine, and 256 sockets for a search
 * cost 5 ms in one engine, and 18 MB in one each.
 */
let engine: Promise<Engine> | undefined

/** @throws PeerlineError `ERR_PEERLINE_UNSUPPORTED` when `udx-native` is not installed or does not run here */
export function loadUdx(): Promise<Engine> {
  engine ??= import('udx-native').then(
    ({ default: Udx }) => ({ udx: new Udx(), ids: new StreamIds() }),
    (cause: unknown) => {
      engine = undefined
      throw new PeerlineError('ERR_PEERLINE_UNSUPPORTED', 'UDP paths need the package udx-native', { cause })
    },
  )
  return engine
}
