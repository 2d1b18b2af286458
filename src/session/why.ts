/**
 * "Why this path?": what `Session.why()` answers. Plain data, for people and for JSON; times in ms.
 */
import type { PathKind } from '../path/index.ts'
import type { PathEvent, PathInfo } from './path-log.ts'

/** One thing that was tried to reach the other side. */
export interface PathAttempt {
  /** Rounds are counted from 0, which needs no agreement in the session. */
  readonly round: number
  /** `tcp`: dialled; `tcp-so`: opened from both sides at once. */
  readonly way: 'tcp' | 'tcp-so' | 'udp' | 'webrtc' | 'relay'
  /** Where it went, `host:port`. */
  readonly targets: readonly string[]
  readonly outcome: 'connected' | 'failed' | 'skipped'
  /** How, or why not, in a few words. */
  readonly detail: string
  /** ms it took. */
  readonly ms: number
}

/** How one side's network treats what leaves it, as far as that side knows. */
export interface NatSummary {
  /** RFC 4787 section 4.1 and what comes of it; `unknown` when fewer than two reflectors answered. */
  readonly tcp: string
  readonly udp: string
  /** The ways to it that it tells others, `kind host:port`, best first. */
  readonly candidates: readonly string[]
}

/** One medium by which the offer of a session went. */
export interface SignalingAttempt {
  /** Such as `lan`, or `rendezvous ws://…`. */
  readonly medium: string
  /** `answered`: its answer opened the session; `overtaken`: another medium was faster. */
  readonly outcome: 'answered' | 'overtaken' | 'failed'
  /** Why it failed, in a few words; else empty. */
  readonly detail: string
  /** ms from the start of the dial until it was used, and until it came to its outcome. */
  readonly beganMs: number
  readonly ms: number
  /** Bytes of the offer. */
  readonly bytes: number
  /** Messages that the medium kept or carried for it; 0 where a session that was open carried it. */
  readonly messages: number
  /** What it cost us, where it cost anything. */
  readonly price?: { readonly amount: number; readonly unit: string }
}

/** What the connecting room knows. */
export interface Explanation {
  readonly attempts: readonly PathAttempt[]
  /** How the two sides found each other; empty where the other side dialled, or an address was known. */
  readonly signaling: readonly SignalingAttempt[]
  readonly local: NatSummary | undefined
  readonly remote: NatSummary | undefined
  /** Why the path in use is the one in use, a sentence each. */
  readonly reasons: readonly string[]
  /** What would make for a better one, a sentence each. */
  readonly advice: readonly string[]
}

export interface WhyReport extends Explanation {
  readonly peer: string
  /** The kind of the path in use; undefined while there is none. */
  readonly path: PathKind | undefined
  readonly paths: readonly PathInfo[]
  /** What became of the paths so far, the latest last. */
  readonly history: readonly PathEvent[]
}
