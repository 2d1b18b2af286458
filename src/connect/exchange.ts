/**
 * One offer, sent by several media at once, and the first genuine answer that any of them brings.
 */
import { abortError, type PeerlineError } from '../errors.ts'
import type { Offer, SessionKeys } from '../handshake/index.ts'
import type { Signaling } from '../signaling/index.ts'

export interface Exchanged {
  readonly keys: SessionKeys
  /** What the other side told. */
  readonly body: Uint8Array
}

/**
 * Carries `offer` by all `media`.
 * @throws PeerlineError the other side's refusal, after which `offer.answered` is true; what the media say when none of
 *   them found the peer; or what the signal says
 */
export async function exchange(media: readonly Signaling[], offer: Offer, signal: AbortSignal): Promise<Exchanged> {
  const done = new AbortController()
  const each = AbortSignal.any([signal, done.signal])
  try {
    return await Promise.any(
      media.map(async (medium) => {
        let completed: Exchanged | undefined
        const accept = (answer: Uint8Array): boolean => {
          try {
            completed = offer.complete(answer)
            return true
          } catch (error) {
            // A genuine refusal ends it; what anybody may have sent does not.
            if (offer.answered) throw error
            return false
          }
        }
        const answer = await medium.exchange(offer.to, offer.requestId, offer.message, { signal: each, accept })
        return completed ?? offer.complete(answer)
      }),
    )
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
