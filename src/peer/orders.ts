/**
 * Orders: tasks that an authority has a peer do.
 *
 *     authority                                          peer
 *     task -> signed, numbered, for this peer  ------>   of an authority? -> signature, recipient, time, number -> kept
 *                                                         -> task is read -> queue
 *     { state, … }  <------------------------------------ done, failed, not known; or `queued` when it takes longer
 *
 * - Nothing of a task is read before all else is verified, and its number is on the disk before it is begun: what is copied
 *   is refused, also after a restart.
 * - Numbers are the milliseconds since 1970, or one more than the last: an authority need keep none.
 * - Of orders given at once a large one may come after later ones, and is refused as older: it is signed anew.
 */
import { decodeCbor, encodeCbor, fields } from '../bytes/index.ts'
import { asPeerlineError, isErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import type { Authorities } from '../policy/authorities.ts'
import { signOrder } from '../policy/order.ts'
import { wellFormed } from '../protocol/failure.ts'
import type { RequestContext } from '../protocol/index.ts'
import { decodeTask, encodeTask, type KnownTask, type TaskQueue, type TaskResult } from '../tasks/index.ts'

export const ORDER_PROTOCOL = '/peerline/order/1'

/** ms that an order may take to be done before it is answered as queued: less than a request has. */
const ANSWER_MS = 8_000

/** Bytes of an answer, and of the value in it. */
const MAX_ANSWER_BYTES = 70_000
const MAX_VALUE_BYTES = 65_536
/** UTF-16 units of what an error says. */
const MAX_MESSAGE_CHARS = 300

/** How often an order is signed: a large one may be overtaken on its way by later ones, and is refused then. */
const MAX_SIGNED = 4

/** What became of an order. `queued`: it is not done yet, and nothing more will be said of it. */
export type OrderOutcome =
  | { readonly state: 'done'; readonly value?: Uint8Array | string | number | boolean }
  | { readonly state: 'failed'; readonly error: PeerlineError }
  | { readonly state: 'unknown' }
  | { readonly state: 'queued' }

export interface OrdersOptions {
  readonly identity: Identity
  readonly authorities: Authorities
  readonly tasks: TaskQueue
  /** Resolves when all that is to be kept is. */
  readonly flush: () => Promise<void>
}

/** Takes orders. */
export class Orders {
  readonly #options: OrdersOptions

  constructor(options: OrdersOptions) {
    this.#options = options
  }

  /** Answers a request for {@link ORDER_PROTOCOL}. @throws PeerlineError why it is refused, which the authority is told */
  readonly handle = async (body: Uint8Array, { from, signal }: RequestContext): Promise<Uint8Array> => {
    const { identity, authorities, tasks, flush } = this.#options
    const order = authorities.verify(body, { self: identity.peerId, from })
    await flush()
    const { result } = tasks.add(decodeTask(order.task), { origin: from })
    return encodeOutcome(await outcome(result, signal))
  }
}

/** Waits for a result, as long as it is worth while. */
async function outcome(result: Promise<TaskResult>, signal: AbortSignal): Promise<OrderOutcome> {
  const late = new Promise<undefined>((resolve) => {
    const timer = setTimeout(resolve, ANSWER_MS)
    const stop = () => {
      clearTimeout(timer)
      resolve(undefined)
    }
    signal.addEventListener('abort', stop)
    void result.then(stop)
  })
  const settled = await Promise.race([result, late])
  if (settled === undefined) return { state: 'queued' }
  switch (settled.status) {
    case 'done':
      return { state: 'done', ...told(settled.value) }
    case 'unknown':
      return { state: 'unknown' }
    default:
      return { state: 'failed', error: settled.error }
  }
}

/** What of a value the authority is told: numbers whole, as no others have a form on the wire; nothing of what is too large. */
function told(value: unknown): { value?: Uint8Array | string | number | boolean } {
  if (value instanceof Uint8Array) return value.length <= MAX_VALUE_BYTES ? { value } : {}
  if (typeof value === 'string') return { value: line(value) }
  if (typeof value === 'boolean') return { value }
  const whole = typeof value === 'number' ? Math.round(value) : Number.NaN
  return Number.isSafeInteger(whole) ? { value: whole } : {}
}

/** It will be printed: a terminal obeys control characters. What is cut off may leave half of a character. */
function line(text: string): string {
  return wellFormed(text.slice(0, MAX_MESSAGE_CHARS)).replace(/\p{Cc}/gu, ' ')
}

function encodeOutcome(outcome: OrderOutcome): Uint8Array {
  if (outcome.state === 'failed') {
    const { code, message } = outcome.error
    return encodeCbor({ state: outcome.state, code, message: line(message) })
  }
  return encodeCbor({ ...outcome })
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
function decodeOutcome(bytes: Uint8Array): OrderOutcome {
  const answer = decodeCbor(bytes, { maxBytes: MAX_ANSWER_BYTES })
  const all = fields(answer, 'answer to an order')
  const state = all.oneOf('state', ['done', 'failed', 'unknown', 'queued'] as const)
  if (state === 'done') return { state, ...told((answer as { value?: unknown }).value) }
  if (state !== 'failed') return { state }
  const code = all.text('code', { max: 64 })
  const message = line(all.text('message', { max: MAX_MESSAGE_CHARS }))
  return { state, error: new PeerlineError(isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE', message) }
}

/** Gives orders. */
export class OrderGiver {
  readonly #identity: Identity
  #last = 0

  constructor(identity: Identity) {
    this.#identity = identity
  }

  /**
   * Has a peer do a task, by `ask`, which asks it over its own session.
   * @param options.once `ask` may ask again what may have been taken: it is signed but once then. @default false
   * @throws PeerlineError `ERR_PEERLINE_INVALID` for a task that is none; and as `ask`
   */
  async give(
    to: PeerId,
    task: KnownTask,
    ask: (order: Uint8Array) => Promise<Uint8Array>,
    { once = false }: { once?: boolean } = {},
  ): Promise<OrderOutcome> {
    const bytes = encodeTask(task)
    const answer = await this.#ask(to, bytes, ask, once ? 1 : MAX_SIGNED)
    try {
      return decodeOutcome(answer)
    } catch (error) {
      throw asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL')
    }
  }

  async #ask(
    to: PeerId,
    task: Uint8Array,
    ask: (order: Uint8Array) => Promise<Uint8Array>,
    left: number,
  ): Promise<Uint8Array> {
    this.#last = Math.max(this.#last + 1, Date.now())
    try {
      return await ask(signOrder(this.#identity, { to, sequence: this.#last, task }))
    } catch (error) {
      const overtaken = isPeerlineError(error) && error.code === 'ERR_PEERLINE_REPLAY'
      if (!overtaken || left <= 1) throw error
    }
    return this.#ask(to, task, ask, left - 1)
  }
}
