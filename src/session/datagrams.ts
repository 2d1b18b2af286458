/**
 * Datagrams: messages of a session that may be lost, as in RFC 9221. For what is worth nothing later: positions, voice.
 *
 *     send() --> [ channel ] --loose records--> path --> loose records --> [ channel ] --> receive(), for await
 *                 policy                                                     policy
 *
 * - One arrives whole, at most once, or not at all. Nothing is sent again: what is on a path when that is lost is lost,
 *   and what was sent on one path may come before what was sent on another.
 * - A datagram has at most {@link MAX_DATAGRAM_BYTES}, which every kind of path carries in one message. Small ones that
 *   wait together share a record. Up to about 1,100 bytes, one fits a single packet of any network.
 * - They go out on the path in use, first in turn, at most {@link TURN_BYTES} before bulk data has its turn; see also
 *   `datagram-flow.ts`. Without a path they wait, as the policy says.
 * - The receiver gives no credit, so that nothing is acknowledged and nothing waits: whoever does not read loses some, by
 *   his own policy, and `block` is not among those. A session where nobody asked for datagrams drops them as they come.
 * - Where a session has a rate, they count in it. What is beyond it waits here to go out, and is dropped when it comes.
 */
import { PeerlineError } from '../errors.ts'
import type { Pacer } from './byte-rate.ts'
import { Channel, type ChannelLimits, type ChannelPolicy } from './channel.ts'
import { DatagramFlow } from './datagram-flow.ts'
import { type FrameWriter, MAX_DATAGRAM_BYTES, MAX_DATAGRAM_HEADER_BYTES } from './frame.ts'
import type { PathState } from './paths.ts'

/** Datagrams and their bytes that wait on either side, when nothing else is said: 1 MiB is a second at 8 Mbit/s. */
const CAPACITY = 1_024
const CAPACITY_BYTES = 1_048_576

/** Bytes of frames up to which small datagrams share a record: larger records save nothing more. */
const RECORD_BYTES = 16_384

/** Bytes that go out before bulk data has its turn: a quarter of what a pipe takes before it asks to wait. */
const TURN_BYTES = 262_144

export interface DatagramLimits {
  /** What waits to go out. @default block, 1,024 datagrams, 1 MiB */
  readonly send?: ChannelLimits
  /** What waits to be read; it cannot block, since nothing tells the other side to wait. @default drop-oldest, 1,024, 1 MiB */
  readonly receive?: ChannelLimits & { readonly policy?: Exclude<ChannelPolicy, 'block'> }
}

/** Datagrams counted since they were first asked for. */
export interface DatagramCounts {
  /** Gone out; nobody knows how many arrived. */
  readonly sent: number
  readonly received: number
  /** Dropped here by the policy before they went out. */
  readonly droppedSending: number
  /** Dropped here before they were read: by the policy, or beyond the rate of the session. */
  readonly droppedReceiving: number
}

/** What datagrams need of their session. */
export interface DatagramsHost {
  /** @throws PeerlineError when nothing more may be sent */
  check(): void
  /** Something waits to go out. */
  schedulePump(): void
  sendLoose(path: PathState, write: (frames: FrameWriter) => void): void
  /** The acknowledgement that is due on `path`, if any. */
  takeAck(path: PathState): number | undefined
  ping(path: PathState): void
  /** Holds back what goes out. @default nothing */
  readonly outflow: Pacer | undefined
  /** One of so many bytes came; false: it is beyond the rate. */
  mayTake(bytes: number): boolean
}

const END: IteratorResult<Uint8Array, undefined> = { value: undefined, done: true }

/** The datagrams of a session. Iterating gives those that come; leaving the loop ends nothing. */
export class Datagrams implements AsyncIterable<Uint8Array> {
  /** Bytes of the largest one, on every kind of path. */
  readonly maxBytes: number = MAX_DATAGRAM_BYTES
  readonly #host: DatagramsHost
  readonly #out: Channel<Uint8Array>
  readonly #in: Channel<Uint8Array>
  readonly #flow: DatagramFlow
  #sent = 0
  #received = 0
  #beyondRate = 0
  /** The last turn left no room for bulk data, which is first now. */
  #bulkFirst = false

  /** @internal They come from `Session.datagrams`. */
  constructor(host: DatagramsHost) {
    this.#host = host
    const limits = { capacity: CAPACITY, maxBytes: CAPACITY_BYTES, sizeOf }
    this.#out = new Channel({ ...limits, policy: 'block' })
    this.#in = new Channel({ ...limits, policy: 'drop-oldest' })
    const pump = () => host.schedulePump()
    this.#flow = new DatagramFlow((path) => host.ping(path), pump)
  }

  /**
   * Sends one, from a copy: `data` may be used again at once. True when it will go out, if the session lives and nothing
   * drops it meanwhile; false when the policy dropped it here and now. With `block` it waits for room. Who sends without
   * waiting may ignore the promise, its failure included.
   * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE` above 64 KiB, `ERR_PEERLINE_LIMIT` when 1,024 calls wait for room,
   *   what ended the session, or what the signal says
   */
  send(data: Uint8Array, options: { signal?: AbortSignal } = {}): Promise<boolean> {
    const sending = this.#send(data, options)
    sending.catch(() => {})
    return sending
  }

  async #send(data: Uint8Array, options: { signal?: AbortSignal }): Promise<boolean> {
    if (data.length > MAX_DATAGRAM_BYTES) {
      const text = `a datagram has at most ${MAX_DATAGRAM_BYTES} bytes, not ${data.length}`
      throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', text)
    }
    this.#host.check()
    const taken = this.#out.push(new Uint8Array(data), options)
    this.#host.schedulePump()
    return taken
  }

  /**
   * The next one that came.
   * @throws PeerlineError what ended the session (`ERR_PEERLINE_CLOSED` in order), or what the signal says
   */
  receive(options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return this.#in.receive(options)
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array, undefined> {
    return { next: () => this.#in.next(), return: () => Promise.resolve(END) }
  }

  /** Changes what may wait, and what happens to the rest. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  configure({ send, receive }: DatagramLimits): void {
    if ((receive?.policy as ChannelPolicy) === 'block') {
      const text = 'received datagrams cannot block: nothing tells the other side to wait'
      throw new PeerlineError('ERR_PEERLINE_INVALID', text)
    }
    if (receive !== undefined) this.#in.configure(receive)
    if (send !== undefined) this.#out.configure(send)
  }

  get counts(): DatagramCounts {
    return {
      sent: this.#sent,
      received: this.#received,
      droppedSending: this.#out.dropped,
      droppedReceiving: this.#in.dropped + this.#beyondRate,
    }
  }

  // ---- what the session tells ----

  /**
   * @internal Sends what may go on `path`, and lets `bulk` send the rest. Datagrams come first, unless that left no room
   * for the rest the last time.
   */
  pump(path: PathState, bulk: () => void): void {
    if (this.#out.length === 0 || !path.path.writable) return bulk()
    const bulkFirst = this.#bulkFirst
    this.#bulkFirst = false
    if (bulkFirst) bulk()
    this.#pump(path)
    if (bulkFirst) return
    this.#bulkFirst = !path.path.writable || this.#host.outflow?.room === 0
    bulk()
  }

  #pump(path: PathState): void {
    let left = TURN_BYTES
    while (this.#out.length > 0 && path.path.writable) {
      if (left <= 0) return this.#host.schedulePump()
      const { outflow } = this.#host
      if (outflow !== undefined && outflow.debt > 0) return outflow.wait()
      if (!this.#flow.open(path)) return this.#flow.hold(path)
      const batch: Uint8Array[] = []
      let bytes = 0
      for (let next = this.#out.first; next !== undefined; next = this.#out.first) {
        const cost = next.length + MAX_DATAGRAM_HEADER_BYTES
        if (bytes > 0 && bytes + cost > RECORD_BYTES) break
        bytes += cost
        batch.push(this.#out.shift()!)
      }
      left -= bytes
      this.#sent += batch.length
      // It must not wait for room behind datagrams.
      const ack = this.#host.takeAck(path)
      this.#host.sendLoose(path, (frames) => {
        frames.datagrams(batch)
        if (ack !== undefined) frames.ack(ack)
      })
      this.#flow.sent(path, bytes)
      outflow?.spend(bytes)
    }
  }

  /** @internal A pong came on `path`. */
  onPong(path: PathState): void {
    if (this.#flow.onPong(path) && this.#out.length > 0) this.#host.schedulePump()
  }

  /** @internal One came. It is copied: as a view it would keep its whole record. */
  onDatagram(data: Uint8Array): void {
    this.#received++
    if (this.#host.mayTake(data.length)) this.#in.offer(new Uint8Array(data))
    else this.#beyondRate++
  }

  /** @internal The session has ended: what came may still be read, and then `error`; nothing goes out any more. */
  end(error: PeerlineError | undefined, sendError: PeerlineError): void {
    this.#flow.close()
    this.#out.end(sendError)
    void this.#out.return()
    this.#in.end(error)
  }
}

function sizeOf({ length }: Uint8Array): number {
  return length
}
