/**
 * The bodies of a streamed request or answer: chunks out of a stream and into it, within limits.
 *
 * - Back-pressure is that of the stream, from end to end: nothing is read before it is asked for, and what is written is
 *   waited for. No more than one window is ever held here.
 * - A limit that is passed, in bytes or in time, is told to the owner, which ends the whole exchange.
 */
import { PeerlineError } from '../errors.ts'
import { type Stream, StreamCode } from '../session/index.ts'
import { Patience, type PatienceLimits, STALL_MS } from './patience.ts'

/** Bytes of the largest streamed body, unless the caller says otherwise. */
export const MAX_STREAMED_BYTES = 1_073_741_824

/** Bytes that are written at a time: each piece shows that the other side still reads. */
const PIECE_BYTES = 65_536

/** Writes that may wait when a handler does not await them. */
const MAX_WAITING_WRITES = 64

export interface BodyLimits extends PatienceLimits {
  readonly maxBytes: number
}

/** Ends the exchange that a body belongs to, unless it has ended; gives the error that did. */
export type EndExchange = (error: PeerlineError, code: number) => void

export class BodyReader implements AsyncIterableIterator<Uint8Array, undefined> {
  readonly #stream: Stream
  readonly #maxBytes: number
  readonly #patience: Patience
  readonly #end: EndExchange
  #left: Uint8Array | undefined
  #bytes = 0

  /** @param begun what came of the body already, behind a status */
  constructor(stream: Stream, limits: BodyLimits, end: EndExchange, begun?: Uint8Array) {
    this.#stream = stream
    this.#maxBytes = limits.maxBytes
    this.#end = end
    this.#left = begun?.length === 0 ? undefined : begun
    this.#patience = new Patience(limits, () =>
      end(
        new PeerlineError('ERR_PEERLINE_TIMEOUT', `${stream.protocol}: the body came too slowly`),
        StreamCode.TIMEOUT,
      ),
    )
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  /** The next chunk. @throws what ended the stream; the owner knows better why */
  async next(): Promise<IteratorResult<Uint8Array, undefined>> {
    let chunk = this.#left
    this.#left = undefined
    if (chunk === undefined) {
      const next = await this.#patience.wait(this.#stream.next(), ({ value }) => value?.length ?? 0)
      if (next.done) return next
      chunk = next.value
    }
    this.#bytes += chunk.length
    if (this.#bytes <= this.#maxBytes) return { value: chunk, done: false }
    const text = `${this.#stream.protocol}: the body passes the limit of ${this.#maxBytes} bytes`
    const error = new PeerlineError('ERR_PEERLINE_TOO_LARGE', text)
    this.#end(error, StreamCode.TOO_LARGE)
    throw error
  }

  /** Reads no more; the other side is told. */
  return(): Promise<IteratorResult<Uint8Array, undefined>> {
    this.#left = undefined
    this.#stream.cancel()
    return Promise.resolve({ value: undefined, done: true })
  }
}

export class BodyWriter {
  readonly #stream: Stream
  readonly #maxBytes: number
  readonly #patience: Patience
  readonly #end: EndExchange
  #bytes = 0
  #waiting = 0
  #turn: Promise<void> = Promise.resolve()

  constructor(stream: Stream, limits: BodyLimits, end: EndExchange) {
    this.#stream = stream
    this.#maxBytes = limits.maxBytes
    this.#end = end
    this.#patience = new Patience({ ...limits, idleMs: limits.stallMs ?? STALL_MS }, () =>
      end(
        new PeerlineError('ERR_PEERLINE_TIMEOUT', `${stream.protocol}: the body was read too slowly`),
        StreamCode.TIMEOUT,
      ),
    )
  }

  /** Writes a chunk behind those that wait. @throws PeerlineError */
  write(chunk: Uint8Array): Promise<void> {
    if (!(chunk instanceof Uint8Array)) {
      return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', 'a chunk of a body is a Uint8Array'))
    }
    if (this.#waiting >= MAX_WAITING_WRITES) {
      const text = `${this.#stream.protocol}: ${MAX_WAITING_WRITES} writes wait; await each`
      return Promise.reject(new PeerlineError('ERR_PEERLINE_LIMIT', text))
    }
    this.#bytes += chunk.length
    if (this.#bytes > this.#maxBytes) {
      const text = `${this.#stream.protocol}: the body passes the limit of ${this.#maxBytes} bytes`
      const error = new PeerlineError('ERR_PEERLINE_TOO_LARGE', text)
      this.#end(error, StreamCode.TOO_LARGE)
      return Promise.reject(error)
    }
    return this.#inTurn(() => this.#pieces(chunk))
  }

  /** Ends the body, behind what waits. @throws PeerlineError */
  end(): Promise<void> {
    return this.#inTurn(() => this.#patience.wait(this.#stream.end(), () => 0))
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#waiting++
    const done = this.#turn.then(work).finally(() => this.#waiting--)
    this.#turn = done.catch(ignore)
    return done
  }

  async #pieces(chunk: Uint8Array): Promise<void> {
    for (let at = 0; at < chunk.length; at += PIECE_BYTES) {
      const piece = chunk.subarray(at, at + PIECE_BYTES)
      await this.#patience.wait(this.#stream.write(piece), () => piece.length)
    }
  }
}

/** Gives up both directions, and what has come whole but was not read: a reset alone keeps that for a reader. */
export function giveUp(stream: Stream, code: number): void {
  stream.reset(code)
  stream.cancel(code)
}

/** Lets go of a source of chunks. Not waited for: one that is being asked answers `return` only after that. */
export function letGo(source: AsyncIterator<Uint8Array> | undefined): void {
  try {
    source?.return?.()?.then(ignore, ignore)
  } catch {
    // It is not asked again, whatever it says.
  }
}

function ignore(): void {}
