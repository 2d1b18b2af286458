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
import type { SignalingAttempt } from '../session/index.ts'
import { ANSWER_TIMEOUT_MS, MAX_SIGNAL_BYTES, type Signaling, type SignalingCost } from '../signaling/index.ts'
import { type NoneSucceeded, staggered, type Tier } from '../staggered.ts'
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
  const began = performance.now()
  const uses = media.map((medium) => new Use(medium, offer, began))
  try {
    const answered = await staggered(order === 'all-at-once' ? [{ ways: uses, afterMs: 0 }] : tiersOf(uses), {
      run: (use, each) => use.run(each),
      // Who refuses by one medium is not to be asked by another.
      final: () => offer.answered,
      signal,
    })
    const signaled = uses.flatMap((use) => use.report(answered.use))
    return { ...answered.completed, signaled }
  } catch (error) {
    if (signal.aborted) throw abortError(signal, `dialling ${offer.to}`)
    const { failures } = error as NoneSucceeded<Use>
    const errors = uses.flatMap((use) => (failures.has(use) ? [failures.get(use) as PeerlineError] : []))
    // A refusal by the peer itself says more than a medium that did not find it.
    // And a rendezvous, which comes last, knows better who is not there than the local network.
    throw errors.find(({ code }) => code !== 'ERR_PEERLINE_OFFLINE') ?? errors.at(-1)
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

function tiersOf(uses: readonly Use[]): Tier<Use>[] {
  const amount = ({ cost }: Use) => cost?.price?.amount ?? 0
  const free = uses.filter((use) => (use.cost?.messages ?? 0) === 0 && amount(use) === 0)
  const kept = uses.filter((use) => !free.includes(use) && amount(use) === 0)
  const paid = uses.filter((use) => amount(use) > 0).sort((a, b) => amount(a) - amount(b))
  return [
    { ways: free, afterMs: 0 },
    { ways: kept, afterMs: HEAD_START_MS },
    ...paid.map((use) => ({ ways: [use], afterMs: PAID_START_MS })),
  ].filter(({ ways }) => ways.length > 0)
}
