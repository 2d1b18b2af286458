/**
 * Paths over UDP: a stream of `udx-native` (reliable, ordered, BBR congestion control) as a byte pipe.
 *
 *     data      the bytes of the stream, nothing added
 *     beside    unordered messages of the stream, which may be lost:
 *               +------+--------------+
 *               | type | limit, 8 B BE|   1 credit: bytes that may be sent, counted from the start
 *               +------+--------------+   2 ask: what is the limit? (its number means nothing)
 *
 * udx delivers whatever comes, whether anybody reads it or not. The credit makes a writer wait for a reader:
 * - a side sends no byte beyond the limit; both begin with {@link UDP_WINDOW_BYTES};
 * - the limit is what was handed to the owner plus the window. It only grows, so that lost and late credits do no harm,
 *   and a writer at its limit asks until it hears of a new one;
 * - who sends beyond the limit is cut off: at most the window is held for a reader who pauses.
 *
 * Limits
 * - What udx itself holds out of order has none, so a watch counts it from outside ({@link MAX_STRAY_BYTES}).
 * - A remote that has gone is noticed 13 s after something was sent to it, and never while nothing is: ping above.
 * - udx sends packets of 1,200 bytes (IP header included), more where more gets through, and never fragments. On a way
 *   that takes less, small messages arrive and large ones never do.
 * - It sends from the memory that it was given, until that is acknowledged.
 */
import { PeerlineError } from '../errors.ts'
import { FramedPath } from './framing.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe, type PipeHandler } from './pipe.ts'

/** What is used here of a stream of `udx-native`, which is a streamx duplex. */
export interface UdxStream {
  /** Bytes that came for the stream, headers (20 each packet), repetitions and acknowledgements included. */
  readonly bytesReceived: number
  readonly packetsReceived: number
  on(event: 'data' | 'message', listener: (bytes: Uint8Array) => void): this
  on(event: 'error', listener: (error: NodeJS.ErrnoException) => void): this
  on(event: 'end' | 'drain' | 'close', listener: () => void): this
  /** Sends from this very memory, until it is acknowledged: it must not change, let alone be detached. */
  write(bytes: Uint8Array): boolean
  /** Sends bytes beside the stream, unordered and only once. */
  trySend(bytes: Uint8Array): void
  end(): void
  destroy(): void
  /** What `destroy` does to the stream inside udx. */
  _predestroy?(): void
}

/**
 * Ends a stream at once. Once both sides have ended it, streamx takes a `destroy` for done, though udx still waits for
 * the last acknowledgement, for 13 s where nobody gives it: so udx is told besides.
 */
export function destroyStream(stream: UdxStream): void {
  stream.destroy()
  stream._predestroy?.()
}

/**
 * Bytes that may be under way or held for a reader: udx keeps up to 4 MiB in flight, and the reader's credit comes back
 * in quarters of this, so that less would slow a long fast way down.
 */
export const UDP_WINDOW_BYTES = 8_388_608

/** Bytes handed to udx before it says that it takes more: what it sends in one go on a fast way. */
const HAND_OVER_BYTES = 262_144

/** ms until a writer at its limit asks for the first time, doubled each time: above the RTT of most ways. */
const ASK_MS = 250
const MAX_ASK_MS = 4_000

/** ms between two answers to such questions, which keeps a flood of them from becoming one of ours. */
const ANSWER_MS = 20

/**
 * Bytes that may come for a stream without any of them being next in line. An honest sender has 4 MiB in flight and
 * repeats some of them; whoever leaves a hole and goes on fills our memory.
 */
const MAX_STRAY_BYTES = 33_554_432

/** The part of honest traffic that may come twice: near a half was seen on loopback at full speed. */
const REPEATED = 1

/** ms between two looks at that. At 1 Gbit/s 31 MB come between two. */
const WATCH_MS = 250

/** ms that a pipe which the other side has ended gets to see its own end acknowledged. */
const LINGER_MS = 5_000

/** Bytes of the header of a udx packet. */
const PACKET_HEADER_BYTES = 20

/** Bytes that a packet out of order costs besides its own, so that many small ones are bounded too. */
const STRAY_PACKET_BYTES = 128

const CREDIT = 1
const ASK = 2
const SIDE_MESSAGE_BYTES = 9

/** Chunks that follow each other in memory: udx fills its buffers packet by packet. */
interface Run {
  readonly first: Uint8Array
  end: number
}

/** A connected udx stream as a pipe. */
export class UdxPipe implements Pipe {
  /** Several chunks lie in one buffer of udx, which goes on filling it. */
  readonly ownsChunks = false
  readonly remote: string
  readonly #stream: UdxStream
  #handler: PipeHandler | undefined
  #error: PeerlineError | undefined

  // what goes out
  /** Waits for credit, or for udx to take more. */
  #queue: Uint8Array[] = []
  #queueHead = 0
  #queued = 0
  #blocked = false
  /** Bytes given to udx since the start, and how many may be. */
  #sent = 0
  #limit = UDP_WINDOW_BYTES
  /** Bytes given to udx since it was last empty-handed. */
  #handedOver = 0
  #waitsForUdx = false
  /** `ending`: when the queue is empty; `ended`: udx was told. */
  #out: 'open' | 'ending' | 'ended' = 'open'
  #ask: ReturnType<typeof setTimeout> | undefined
  #askMs = ASK_MS

  // what comes in
  /** Came, and was not handed on yet. */
  #held: Run[] = []
  #paused = true
  #flush: ReturnType<typeof setImmediate> | undefined
  #received = 0
  #delivered = 0
  /** The limit that was told to the other side. */
  #granted = UDP_WINDOW_BYTES
  #answeredAt = 0
  #remoteEnded = false
  /** `closed`: the stream is gone; `told`: and the owner knows. */
  #state: 'open' | 'closed' | 'told' = 'open'

  /** Packets that account for those which came: of data, of ours that were acknowledged, and messages beside. */
  #accounted = 0
  readonly #watch: ReturnType<typeof setInterval>
  #linger: ReturnType<typeof setTimeout> | undefined

  /** @param remote where the other end is, for people */
  constructor(stream: UdxStream, remote: string) {
    this.#stream = stream
    this.remote = remote
    // Read from the first moment on: udx does not wait for anybody, and its early data must not be lost.
    stream.on('data', (chunk) => this.#onData(chunk))
    stream.on('message', (message) => this.#onMessage(message))
    stream.on('end', () => {
      this.#remoteEnded = true
      this.#afterEnd()
    })
    stream.on('drain', () => {
      this.#handedOver = 0
      this.#waitsForUdx = false
      this.#pumpOn()
    })
    stream.on('error', (cause) => {
      // It had ended before: only the acknowledgement of our own end is missing.
      if (this.#remoteEnded) return
      const what = `connection to ${remote} failed: ${cause.code ?? cause.message}`
      this.#error ??= new PeerlineError('ERR_PEERLINE_UNREACHABLE', what, { cause })
    })
    stream.on('close', () => this.#onClose())
    this.#watch = setInterval(() => this.#lookAtStrays(), WATCH_MS)
    this.#watch.unref()
  }

  get writable(): boolean {
    return this.#state === 'open' && !this.#blocked && this.#out === 'open'
  }

  /** Bytes that wait here for credit, or for udx to take them. */
  get waitingBytes(): number {
    return this.#queued
  }

  start(handler: PipeHandler): void {
    this.#handler = handler
    if (this.#state === 'told') queueMicrotask(() => handler.close(this.#error))
    else this.resume()
  }

  write(parts: readonly Uint8Array[]): boolean {
    if (this.#state !== 'open' || this.#out !== 'open') return false
    for (const part of parts) {
      if (part.length === 0) continue
      this.#queue.push(part)
      this.#queued += part.length
    }
    this.#pump()
    if (this.#queued >= PIPE_HIGH_WATER_BYTES) this.#blocked = true
    return !this.#blocked
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    this.#schedule()
  }

  end(): void {
    if (this.#out !== 'open' || this.#state !== 'open') return
    this.#out = 'ending'
    this.#pump()
  }

  destroy(): void {
    this.#out = 'ended'
    this.#drop()
    destroyStream(this.#stream)
    if (this.#state === 'closed') queueMicrotask(() => this.#tellClose())
  }

  #pump(): void {
    const queue = this.#queue
    while (this.#queued > 0 && !this.#waitsForUdx && this.#sent < this.#limit) {
      let part = queue[this.#queueHead]!
      const room = this.#limit - this.#sent
      if (part.length > room) {
        queue[this.#queueHead] = part.subarray(room)
        part = part.subarray(0, room)
      } else this.#queueHead++
      this.#queued -= part.length
      this.#sent += part.length
      this.#handedOver += part.length
      this.#accounted += 1 + (part.length >> 10)
      if (!this.#stream.write(part) && this.#handedOver >= HAND_OVER_BYTES) this.#waitsForUdx = true
    }
    if (this.#queued === 0) {
      queue.length = 0
      this.#queueHead = 0
      if (this.#out === 'ending') {
        this.#out = 'ended'
        this.#stream.end()
      }
    } else if (this.#queueHead >= 1_024) {
      this.#queue = queue.slice(this.#queueHead)
      this.#queueHead = 0
    }
    if (this.#queued > 0 && this.#sent >= this.#limit) this.#askForCredit()
  }

  /** udx, or the reader, takes more. */
  #pumpOn(): void {
    this.#pump()
    if (this.#blocked && this.#queued < PIPE_HIGH_WATER_BYTES / 4 && this.#out === 'open') {
      this.#blocked = false
      this.#handler?.drain()
    }
  }

  #askForCredit(): void {
    if (this.#ask !== undefined) return
    this.#ask = setTimeout(() => {
      this.#ask = undefined
      this.#tell(ASK, 0)
      this.#askMs = Math.min(2 * this.#askMs, MAX_ASK_MS)
      this.#askForCredit()
    }, this.#askMs)
  }

  #onData(chunk: Uint8Array): void {
    if (this.#state !== 'open') return
    this.#received += chunk.length
    this.#accounted++
    if (this.#received > this.#granted) {
      this.#error ??= new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.remote} sends more than it may`)
      return this.destroy()
    }
    const last = this.#held.at(-1)
    if (last !== undefined && last.first.buffer === chunk.buffer && last.end === chunk.byteOffset) {
      last.end += chunk.length
    } else this.#held.push({ first: chunk, end: chunk.byteOffset + chunk.length })
    this.#schedule()
  }

  /** Hands on in one go what the packets of one turn of the event loop brought. */
  #schedule(): void {
    if (this.#paused || this.#handler === undefined || this.#flush !== undefined) return
    this.#flush = setImmediate(() => {
      this.#flush = undefined
      this.#handOn()
    })
  }

  #handOn(): void {
    while (!this.#paused && this.#held.length > 0) {
      const { first, end } = this.#held.shift()!
      const length = end - first.byteOffset
      this.#delivered += length
      this.#handler!.data(length === first.length ? first : Buffer.from(first.buffer, first.byteOffset, length))
    }
    if (this.#delivered + (UDP_WINDOW_BYTES * 3) / 4 >= this.#granted) this.#grant()
    this.#afterEnd()
  }

  #grant(): void {
    this.#granted = this.#delivered + UDP_WINDOW_BYTES
    this.#tell(CREDIT, this.#granted)
  }

  #tell(type: number, limit: number): void {
    if (this.#state !== 'open') return
    const message = Buffer.allocUnsafe(SIDE_MESSAGE_BYTES)
    message[0] = type
    message.writeBigUInt64BE(BigInt(limit), 1)
    this.#stream.trySend(message)
  }

  #onMessage(bytes: Uint8Array): void {
    if (this.#state !== 'open') return
    this.#accounted++
    if (bytes.length !== SIDE_MESSAGE_BYTES) return
    if (bytes[0] === ASK) {
      const now = performance.now()
      if (now - this.#answeredAt < ANSWER_MS) return
      this.#answeredAt = now
      this.#tell(CREDIT, this.#granted)
    } else if (bytes[0] === CREDIT) {
      const limit = Number(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).readBigUInt64BE(1))
      if (limit <= this.#limit || limit > Number.MAX_SAFE_INTEGER) return
      this.#limit = limit
      clearTimeout(this.#ask)
      this.#ask = undefined
      this.#askMs = ASK_MS
      this.#pumpOn()
    }
  }

  /** When all that came was handed on, the end of the other side is answered with ours; then the owner is told. */
  #afterEnd(): void {
    if (!this.#remoteEnded || this.#held.length > 0) return
    if (this.#state === 'closed') return this.#tellClose()
    if (this.#state === 'told' || this.#linger !== undefined) return
    this.end()
    this.#linger = setTimeout(() => destroyStream(this.#stream), LINGER_MS)
    this.#linger.unref()
  }

  #onClose(): void {
    if (this.#state !== 'open') return
    this.#state = 'closed'
    if (!this.#remoteEnded) this.#held = []
    this.#stopTimers()
    if (this.#held.length === 0) this.#tellClose()
  }

  #tellClose(): void {
    if (this.#state === 'told') return
    this.#state = 'told'
    this.#drop()
    this.#handler?.close(this.#error)
  }

  #drop(): void {
    this.#stopTimers()
    clearImmediate(this.#flush)
    this.#flush = undefined
    this.#held = []
    this.#queue = []
    this.#queueHead = 0
    this.#queued = 0
  }

  #stopTimers(): void {
    clearInterval(this.#watch)
    clearTimeout(this.#ask)
    clearTimeout(this.#linger)
  }

  /** udx keeps what comes out of order, and tells nobody how much: what came in all, less what can be accounted for. */
  #lookAtStrays(): void {
    const { bytesReceived, packetsReceived } = this.#stream
    const payload = bytesReceived - PACKET_HEADER_BYTES * packetsReceived
    const honest = this.#received + this.#sent / 16 + STRAY_PACKET_BYTES * this.#accounted
    if (payload + STRAY_PACKET_BYTES * packetsReceived - honest * (1 + REPEATED) < MAX_STRAY_BYTES) return
    this.#error ??= new PeerlineError('ERR_PEERLINE_PROTOCOL', `${this.remote} sends far out of order`)
    this.destroy()
  }
}

/** A path over a connected udx stream. */
export function udpPath(stream: UdxStream, remote: string): FramedPath {
  return new FramedPath('udp', new UdxPipe(stream, remote))
}
