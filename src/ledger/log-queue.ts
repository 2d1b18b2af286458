/**
 * Appends that wait for their turn to be written, in order. An append whose signal fires leaves the queue; one that was taken to
 * be written settles when its signal fires too, and may be written all the same.
 *
 * Limits: 1,024 appends, 4 MiB of messages: what a slow disk writes in a few seconds.
 */
import { abortError, PeerlineError } from '../errors.ts'
import { whenAborted } from '../pause.ts'
import type { Receipt } from './ledger.ts'
import type { Draft } from './log-batch.ts'

const MAX_WAITING = 1_024
const MAX_WAITING_BYTES = 4_194_304

/** What became of an append. */
export type Outcome = Required<Receipt> | PeerlineError

export interface Waiting extends Draft {
  readonly settle: (outcome: Outcome) => void
}

export class LogQueue {
  readonly #waiting = new Set<Waiting>()
  #bytes = 0

  get isEmpty(): boolean {
    return this.#waiting.size === 0
  }

  /**
   * Waits in the queue, and then for what becomes of it. `message` is copied.
   * @throws PeerlineError `ERR_PEERLINE_BUSY` when too much waits, the outcome, or what the signal says
   */
  add(topic: string, message: Uint8Array, signal: AbortSignal): Promise<Receipt> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.size >= MAX_WAITING || this.#bytes + message.length > MAX_WAITING_BYTES) {
        return reject(new PeerlineError('ERR_PEERLINE_BUSY', `${this.#waiting.size} messages wait to be written`))
      }
      const onAbort = () => settle(abortError(signal, 'appending'))
      const settle = (outcome: Outcome) => {
        signal.removeEventListener('abort', onAbort)
        this.#leave(waiting)
        if (outcome instanceof PeerlineError) reject(outcome)
        else resolve(outcome)
      }
      const waiting: Waiting = { topic, message: new Uint8Array(message), settle }
      whenAborted(signal, onAbort)
      this.#waiting.add(waiting)
      this.#bytes += message.length
    })
  }

  /** The next ones, at most so many bytes of messages unless the first alone has more: they are in the queue no more. */
  take(maxBytes: number): Waiting[] {
    const taken: Waiting[] = []
    let bytes = 0
    for (const waiting of this.#waiting) {
      bytes += waiting.message.length
      if (taken.length > 0 && bytes > maxBytes) break
      taken.push(waiting)
      this.#leave(waiting)
    }
    return taken
  }

  /** Nothing comes of those that wait. */
  fail(error: PeerlineError): void {
    for (const { settle } of this.take(Number.POSITIVE_INFINITY)) settle(error)
  }

  #leave(waiting: Waiting): void {
    if (this.#waiting.delete(waiting)) this.#bytes -= waiting.message.length
  }
}
