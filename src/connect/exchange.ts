/**
 * One offer, sent by several media, and the first genuine answer that any of them brings.
 *
 *     free, and of no cost to anybody   at once
 *     kept somewhere, but free          when those have failed, or after HEAD_START_MS
 *     paid for                          when those have failed, or after PAID_START_MS, the cheapest first
 *
 * With the order `all-at-once` every medium is used at once, whatever it costs.
 */
import { abortError, type PeerlineError } from '../errors.ts'
import { MAX_OFFER_LIFETIME_MS, OFFER_OVERHEAD_BYTES, type Offer, type SessionKeys } from '../handshake/index.ts'
import { firstOf } from '../pause.ts'
import type { SignalingAttempt } from '../session/index.ts'
import { ANSWER_TIMEOUT_MS, MAX_SIGNAL_BYTES, type Signaling, type SignalingCost } from '../signaling/index.ts'
import { MAX_BODY_BYTES } from './candidate.ts'

/** Which media are used first. */
export type SignalingOrder = 'cheapest-first' | 'all-at-once'

/** ms that a medium which costs nobody anything has before one that keeps what is said: a slow round trip by a server. */
const HEAD_START_MS = 500

/** ms before money is spent where the free media are silent: time for a server that has to be reached first. */
const PAID_START_MS = 3_000

export interface Exchanged {
  readonly keys: SessionKeys
  /** What the other side told. */
  readonly body: Uint8Array
  /** ms until the other side begins; 0: it has begun. */
  readonly fireInMs: number
  /** How each medium did, in the order in which they were used. */
  readonly signaled: readonly SignalingAttempt[]
}

export interface ExchangeOptions {
  readonly signal: AbortSignal
  /** @default 'cheapest-first' */
  readonly order?: SignalingOrder | undefined
}

/** What the media leave room and time for: bytes of the body of an offer, and ms that it lives. */
export function limitsOf(media: readonly Signaling[]): { readonly maxBytes: number; readonly lifetimeMs: number } {
  const signal = Math.min(...media.map(({ maxSignalBytes = MAX_SIGNAL_BYTES }) => maxSignalBytes))
  const patience = Math.max(...media.map(({ patienceMs = ANSWER_TIMEOUT_MS }) => patienceMs))
  return {
    maxBytes: Math.min(MAX_BODY_BYTES, signal - OFFER_OVERHEAD_BYTES),
    lifetimeMs: Math.min(MAX_OFFER_LIFETIME_MS, patience),
  }
}

/**
 * Carries `offer` by `media`.
 * @throws PeerlineError the other side's refusal, after which `offer.answered` is true; what the media say when none of
 *   them found the peer; or what the signal says
 */
export async function exchange(
  media: readonly Signaling[],
  offer: Offer,
  { signal, order = 'cheapest-first' }: ExchangeOptions,
): Promise<Exchanged> {
  const done = new AbortController()
  const each = firstOf(signal, done.signal)
  const began = performance.now()
  const uses = media.map((medium) => new Use(medium, offer, began))
  try {
    const answered = await race(order === 'all-at-once' ? [{ uses, afterMs: 0 }] : tiersOf(uses), each)
    const signaled = uses.flatMap((use) => use.report(answered.use))
    return { ...answered.completed, signaled }
  } catch (error) {
    if (signal.aborted) throw abortError(signal, `dialling ${offer.to}`)
    const { errors } = error as AggregateError
    // A refusal by the peer itself says more than a medium that did not find it.
    // And a rendezvous, which comes last, knows better who is not there than the local network.
    throw errors.find((one: PeerlineError) => one.code !== 'ERR_PEERLINE_OFFLINE') ?? errors.at(-1)
  } finally {
    done.abort()
  }
}

type Completed = Omit<Exchanged, 'signaled'>

/** One medium, and what becomes of the offer there. */
class Use {
  readonly medium: Signaling
  readonly cost: SignalingCost | undefined
  readonly #offer: Offer
  readonly #start: number
  #began: number | undefined
  #ended: number | undefined
  #failure: PeerlineError | undefined

  constructor(medium: Signaling, offer: Offer, start: number) {
    this.medium = medium
    this.cost = medium.cost?.(offer.to)
    this.#offer = offer
    this.#start = start
  }

  /** The peer itself has said no, by whatever medium. */
  get refused(): boolean {
    return this.#offer.answered
  }

  async run(signal: AbortSignal): Promise<{ use: Use; completed: Completed }> {
    this.#began = performance.now()
    const offer = this.#offer
    let completed: Completed | undefined
    const accept = (answer: Uint8Array, how?: { readonly fireInMs: number }): boolean => {
      try {
        completed = { ...offer.complete(answer), fireInMs: Math.max(0, how?.fireInMs ?? 0) }
        return true
      } catch (error) {
        // A genuine refusal ends it; what anybody may have sent does not.
        if (offer.answered) throw error
        return false
      }
    }
    try {
      const answer = await this.medium.exchange(offer.to, offer.requestId, offer.message, { signal, accept })
      return { use: this, completed: completed ?? { ...offer.complete(answer), fireInMs: 0 } }
    } catch (error) {
      this.#failure = error as PeerlineError
      throw error
    } finally {
      this.#ended = performance.now()
    }
  }

  /** How it did; nothing where it was not used. */
  report(winner: Use): SignalingAttempt[] {
    if (this.#began === undefined) return []
    const failed = this.#ended !== undefined && this.#failure !== undefined
    const { messages = 0, price } = this.cost ?? {}
    return [
      {
        medium: this.medium.name,
        outcome: this === winner ? 'answered' : failed ? 'failed' : 'overtaken',
        detail: failed ? this.#failure!.message : '',
        beganMs: this.#began - this.#start,
        ms: (this.#ended ?? performance.now()) - this.#began,
        bytes: this.#offer.message.length,
        messages,
        ...(price === undefined ? {} : { price }),
      },
    ]
  }
}

/** Media that are used together, and ms after which they are, should those before be silent. */
interface Tier {
  readonly uses: readonly Use[]
  readonly afterMs: number
}

function tiersOf(uses: readonly Use[]): Tier[] {
  const amount = ({ cost }: Use) => cost?.price?.amount ?? 0
  const free = uses.filter((use) => (use.cost?.messages ?? 0) === 0 && amount(use) === 0)
  const kept = uses.filter((use) => !free.includes(use) && amount(use) === 0)
  const paid = uses.filter((use) => amount(use) > 0).sort((a, b) => amount(a) - amount(b))
  return [
    { uses: free, afterMs: 0 },
    { uses: kept, afterMs: HEAD_START_MS },
    ...paid.map((use) => ({ uses: [use], afterMs: PAID_START_MS })),
  ].filter((tier) => tier.uses.length > 0)
}

/**
 * The first that is answered. A tier begins when all before it have failed, or when its time has come.
 * @throws AggregateError of the errors of all, in their order
 */
function race(tiers: readonly Tier[], signal: AbortSignal): Promise<{ use: Use; completed: Completed }> {
  return new Promise((resolve, reject) => {
    const errors = new Map<Use, unknown>()
    const all = tiers.flatMap((tier) => tier.uses)
    let next = 0
    let running = 0
    let timer: NodeJS.Timeout | undefined
    const over = () => clearTimeout(timer)
    const begin = () => {
      clearTimeout(timer)
      const tier = tiers[next++]!
      running += tier.uses.length
      for (const use of tier.uses) {
        use.run(signal).then(
          (answered) => {
            over()
            resolve(answered)
          },
          (error) => failed(use, error),
        )
      }
      const following = tiers[next]
      if (following !== undefined) timer = setTimeout(begin, following.afterMs)
    }
    const failed = (use: Use, error: unknown) => {
      errors.set(use, error)
      running--
      // Who refuses by one medium, or is dialled no more, is not to be asked by another.
      if (signal.aborted || use.refused || (next === tiers.length && errors.size === all.length)) {
        over()
        reject(new AggregateError(all.flatMap((one) => (errors.has(one) ? [errors.get(one)] : []))))
      } else if (running === 0 && next < tiers.length) begin()
    }
    begin()
  })
}
