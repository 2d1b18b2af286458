/** Which ways a session may use. */
import type { Way } from './ways.ts'

/**
 * Which ways may be used: everything; relays only (no address of ours is told); no relay at all; or one kind of direct
 * path alone.
 */
export type Via = 'auto' | 'relay' | 'direct' | Way

/** The direct ways that may be used. */
export function waysOf(via: Via): ReadonlySet<Way> {
  switch (via) {
    case 'auto':
    case 'direct':
      return new Set(['tcp', 'udp', 'webrtc'])
    case 'relay':
      return new Set()
    default:
      return new Set([via])
  }
}
