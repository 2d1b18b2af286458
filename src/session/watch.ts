/**
 * Events as a queue, for a consumer that may be slower than they come: `for await (const change of watch(session, 'path'))`.
 * Whoever tells an event does not wait for anybody, so that the policy is to drop the latest or the oldest.
 */
import { PeerlineError } from '../errors.ts'
import { Channel, type ChannelPolicy } from './channel.ts'
import type { TypedEventTarget } from './events.ts'

export interface WatchOptions<K extends string = string> {
  /** What happens when the consumer is slow: the first ones are kept, or the latest ones. @default 'drop-oldest' */
  readonly policy?: Exclude<ChannelPolicy, 'block'>
  /** Events that wait. @default 256 */
  readonly capacity?: number
  /** An event after which no more will come, such as `close` of a session: what waits is handed on, then it is over. */
  readonly until?: K
  /** Ends it at once. */
  readonly signal?: AbortSignal
}

/**
 * The events of a type from now on, until the consumer leaves (`break`), `until`, or the signal fires.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for a policy or capacity that is none, or what the signal says
 */
export function watch<E extends Record<string, unknown>, K extends keyof E & string>(
  target: TypedEventTarget<E>,
  type: K,
  options: WatchOptions<keyof E & string> = {},
): Channel<E[K]> {
  const { policy = 'drop-oldest', capacity, until, signal } = options
  if ((policy as ChannelPolicy) === 'block') {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'events do not wait: drop the latest or the oldest')
  }
  const onEvent = ({ detail }: CustomEvent<E[K]>) => {
    channel.offer(detail)
  }
  const onLast = () => channel.end()
  const channel = new Channel<E[K]>({
    policy,
    ...(capacity === undefined ? {} : { capacity }),
    ...(signal === undefined ? {} : { signal }),
    onEnd: () => {
      target.removeEventListener(type, onEvent)
      if (until !== undefined) target.removeEventListener(until, onLast)
    },
  })
  target.addEventListener(type, onEvent)
  if (until !== undefined) target.addEventListener(until, onLast)
  return channel
}
