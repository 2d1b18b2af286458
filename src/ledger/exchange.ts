/**
 * One question to a node, on a stream of its own, and what is answered.
 *
 *     open --request--> node --answer--> next() … close()
 *
 * - Answers are read when they are wanted: whoever is slow holds back the node, by the window of the stream, and not by memory here.
 * - What an answer costs is bounded before it is read, as with `MessageStream`, which takes what comes as it comes.
 * - When the signal fires, the stream is given up. Nothing is left behind after `close`.
 */
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { abortError, asPeerlineError, isPeerlineError, PeerlineError } from '../errors.ts'
import { type Session, type Stream, StreamCode } from '../session/index.ts'

const LENGTH_BYTES = 4

export interface ExchangeOptions {
  /** It fires in the end. */
  readonly signal: AbortSignal
  /** Bytes of the largest answer. */
  readonly maxBytes: number
}

export class Exchange {
  readonly #stream: Stream
  readonly #options: ExchangeOptions
  #held: Uint8Array[] = []
  #heldBytes = 0

  private constructor(stream: Stream, options: ExchangeOptions) {
    this.#stream = stream
    this.#options = options
    options.signal.addEventListener('abort', this.#giveUp)
  }

  /**
   * Opens a stream and asks.
   * @throws PeerlineError as `Session.open`; `ERR_PEERLINE_UNREACHABLE` when the session has ended; what the signal says
   */
  static async open(session: Session, protocol: string, request: unknown, options: ExchangeOptions): Promise<Exchange> {
    const { signal } = options
    let stream: Stream
    try {
      stream = await session.open(protocol, { signal })
    } catch (error) {
      throw gone(error, signal)
    }
    const exchange = new Exchange(stream, options)
    if (signal.aborted) exchange.#giveUp()
    const body = encodeCbor(request)
    const whole = Buffer.allocUnsafe(LENGTH_BYTES + body.length)
    whole.writeUInt32BE(body.length, 0)
    whole.set(body, LENGTH_BYTES)
    // Why it fails, if it does, is told where the answer is waited for.
    stream.write(whole).catch(() => {})
    return exchange
  }

  /**
   * The next answer; undefined when the node has ended in order. One at a time.
   * @param ms it may take. @default for ever
   * @throws PeerlineError `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_TOO_LARGE`, `ERR_PEERLINE_PROTOCOL`, `ERR_PEERLINE_UNREACHABLE` when the
   *   session has ended, why the node gave it up, or what the signal says
   */
  async next(ms?: number): Promise<unknown> {
    let isLate = false
    const onLate = () => {
      isLate = true
      this.#stream.reset(StreamCode.TIMEOUT)
    }
    const timer = ms === undefined ? undefined : setTimeout(onLate, ms)
    try {
      const head = await this.#take(LENGTH_BYTES)
      if (head === undefined) return undefined
      const length = head.readUInt32BE(0)
      const { maxBytes } = this.#options
      if (length > maxBytes) {
        throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', `an answer of ${length} bytes was announced`)
      }
      const body = await this.#take(length)
      if (body === undefined) throw cutShort()
      return decodeCbor(body, { maxBytes })
    } catch (error) {
      if (isLate) throw new PeerlineError('ERR_PEERLINE_TIMEOUT', 'the node of the ledger does not answer')
      throw gone(error, this.#options.signal)
    } finally {
      clearTimeout(timer)
    }
  }

  /** Nothing more is wanted. */
  close(): void {
    this.#options.signal.removeEventListener('abort', this.#giveUp)
    this.#giveUp()
  }

  /** In order, when all was answered: the node has ended its side. */
  async end(): Promise<void> {
    this.#options.signal.removeEventListener('abort', this.#giveUp)
    await this.#stream.end().catch(() => {})
  }

  readonly #giveUp = (): void => {
    if (!this.#stream.done) this.#stream.reset()
  }

  /** The next `length` bytes; undefined when the stream ends before the first of them. */
  async #take(length: number): Promise<Buffer | undefined> {
    while (this.#heldBytes < length) {
      const { value, done } = await this.#stream.next()
      if (done) {
        if (this.#heldBytes === 0) return undefined
        throw cutShort()
      }
      this.#held.push(value)
      this.#heldBytes += value.length
    }
    const all = Buffer.concat(this.#held)
    this.#held = [all.subarray(length)]
    this.#heldBytes = all.length - length
    return all.subarray(0, length)
  }
}

function cutShort(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a stream ended in the middle of an answer')
}

/** That a session was closed is no end of the ledger: another may be opened. */
function gone(error: unknown, signal: AbortSignal): PeerlineError {
  if (signal.aborted) return abortError(signal, 'asking the node of the ledger')
  if (isPeerlineError(error) && (error.code === 'ERR_PEERLINE_CLOSED' || error.code === 'ERR_PEERLINE_RESET')) {
    return new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'the node of the ledger has gone', { cause: error })
  }
  return asPeerlineError(error, 'ERR_PEERLINE_UNREACHABLE')
}
