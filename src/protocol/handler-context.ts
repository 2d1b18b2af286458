/**
 * A handler, and what it is told beside the body; the class is for where that is not bound to one stream.
 */
import type { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'

/** What a handler is told beside the body. */
export interface RequestContext {
  /** Who asks. */
  readonly from: PeerId
  readonly protocol: string
  /** Fires when nobody waits for the answer any more: the asker gave up, was lost, or the time is up. */
  readonly signal: AbortSignal
}

/** Answers a request. A `PeerlineError` that it throws reaches the asker; of any other, the asker learns no detail. */
export type RequestHandler = (body: Uint8Array, context: RequestContext) => Uint8Array | Promise<Uint8Array>

export class HandlerContext implements RequestContext {
  readonly from: PeerId
  readonly protocol: string
  #controller: AbortController | undefined
  #reason: PeerlineError | undefined

  constructor(from: PeerId, protocol: string) {
    this.from = from
    this.protocol = protocol
  }

  /** Made when it is asked for. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#reason !== undefined) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  /** Fires the signal, also one that is asked for only later. */
  abort(reason: PeerlineError): void {
    this.#reason ??= reason
    this.#controller?.abort(reason)
  }
}
