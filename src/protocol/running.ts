/**
 * How many handlers run now, by who asked: those that answer later, until they have or their time is up.
 */
import type { PeerId } from '../identity/index.ts'
import { Refusal } from './failure.ts'

/**
 * Handlers that may run at once for one peer: twice the streams of a session. Without it, a peer that opens and gives up
 * requests without end would have any number of them run, for a stream given up counts no more.
 */
const MAX_RUNNING_PER_PEER = 512

const running = new Map<PeerId, number>()

/** True when no more handlers may run for `from`. */
export function tooManyRun(from: PeerId): boolean {
  return (running.get(from) ?? 0) >= MAX_RUNNING_PER_PEER
}

/** One more runs for `from`, or one less. */
export function countRunning(from: PeerId, change: 1 | -1): void {
  const count = (running.get(from) ?? 0) + change
  if (count === 0) running.delete(from)
  else running.set(from, count)
}

/** What an asker is told when no more handlers may run for it. */
export const TOO_MANY: Refusal = new Refusal(
  'ERR_PEERLINE_BUSY',
  `${MAX_RUNNING_PER_PEER} requests of yours are being handled`,
)

/** What an asker is told while we shut down. */
export const SHUTTING_DOWN: Refusal = new Refusal('ERR_PEERLINE_CLOSED', 'the other side is shutting down')
