/** What the trust of a peer is made with, what it tells, and the rules that come of it. */

import type { PeerlineError } from '../errors.ts'
import { invalid } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Arrival } from './arrivals.ts'
import { parseRule, type RuleInput } from './rule.ts'

/** The group of the firewall whose members are trusted. */
export const TRUSTED = 'trusted'
/** The group of those who are elevated for a time. Its members are the trust's alone: others are taken out of it. */
export const ELEVATED = 'elevated'

/** What a peer that is let in may use by default: enough to see that the line works. The name is that of protocol/ping.ts. */
const DEFAULT_COMMUNICATION: readonly string[] = ['/peerline/ping/1']

/** ms for a handshake: a few round trips over a relay, and a person who presses a key. */
const HANDSHAKE_TIMEOUT_MS = 10_000
/** ms for the owner to decide about an arrival: as long as a dialer waits for its answer. */
const DECIDE_MS = 10_000
/** ms, a day: nobody waits for longer than that. */
const MAX_WAIT_MS = 24 * 3_600_000
/** Arrivals in the queue: as many as the firewall asks about at once. */
const QUEUE_CAPACITY = 64
const MAX_QUEUE_CAPACITY = 1_000

/** Asks the other side something in its session. */
export interface Exchange {
  request(protocol: string, body: Uint8Array, options: ExchangeOptions & { signal: AbortSignal }): Promise<Uint8Array>
}

export interface ExchangeOptions {
  /** ms. @default as requests have it */
  readonly timeoutMs?: number
  /** Bytes of the largest answer. @default as requests have it */
  readonly maxResponseBytes?: number
}

export interface HandshakeContext {
  readonly self: PeerId
  /** Proven, and let in. */
  readonly peer: PeerId
  /** Fires when the handshake is over: the time is up, the peer left, or it was trusted or distrusted meanwhile. */
  readonly signal: AbortSignal
  /**
   * Elevates the peer until the handshake is over, or for `ms` (1 to a day) when that is shorter; again: from now on.
   * @throws PeerlineError when the handshake is over; `ERR_PEERLINE_INVALID`; `ERR_PEERLINE_LIMIT`
   */
  elevate(ms?: number): void
  /** Asks the peer. @throws PeerlineError as a request does; when the handshake is over, what its signal says */
  request(protocol: string, body: Uint8Array, options?: ExchangeOptions): Promise<Uint8Array>
}

/** Finds out whether a peer is to be trusted. Anything but `true`, an exception among it, is a no. */
export type Handshake = (context: HandshakeContext) => boolean | Promise<boolean>

/** Answers what a handshake of the other side asks. What it throws is the answer. */
export type Answering = (
  body: Uint8Array,
  parties: { readonly self: PeerId; readonly from: PeerId },
) => Uint8Array | Promise<Uint8Array>

/** A handshake with what both sides need for it. */
export interface ReadyHandshake {
  readonly run: Handshake
  /** By protocol: what is answered to whoever is let in. */
  readonly answers: Readonly<Record<string, Answering>>
}

export interface TrustOptions {
  /**
   * What a peer that is let in may use without being trusted: protocols, or patterns ending in `*`; `true`: a ping; `false`:
   * nothing. Unless there is a placement, it also lets in whom no rule names. @default true
   */
  readonly defaultCommunication?: boolean | readonly string[]
  /** Whoever is let in is trusted for as long as it is here. @default false */
  readonly enhancedExchange?: boolean
  /** What a peer may use while it is elevated: protocols, or patterns ending in `*`. @default nothing */
  readonly elevation?: readonly string[]
  /** Run with each peer that comes and is not trusted; who passes is trusted until it is distrusted. @default false: none */
  readonly handshake?: Handshake | ReadyHandshake | false
  /** ms that a handshake may take: 1 to a day. @default 10_000 */
  readonly handshakeTimeoutMs?: number
  /** Where a peer that no rule names waits to be let in. @default nowhere: see `defaultCommunication` */
  readonly placement?: 'event' | 'queue' | 'both'
  /** Arrivals in the queue, 1 to 1,000; one more is refused, unless there is an event as well. @default 64 */
  readonly queueCapacity?: number
  /** ms to decide about an arrival: 1 to a day. Give the firewall no less as `approveTimeoutMs`. @default 10_000 */
  readonly decideMs?: number
}

/**
 * Why an elevation ended: its `time` was up, the handshake was `over`, the peer was `gone`, it was `trusted` or
 * `distrusted`, or the trust was `closed`.
 */
export type DemotedReason = 'time' | 'over' | 'gone' | 'trusted' | 'distrusted' | 'closed'

export type TrustEvents = {
  /** A peer waits to be let in; not with the placement `queue`. */
  arrival: Arrival
  /** It is in the group, whoever put it there. */
  trusted: { readonly peer: PeerId }
  /** It is no longer. */
  distrusted: { readonly peer: PeerId }
  /** `ms`: for how long at most, when it is shorter than the handshake. */
  elevated: { readonly peer: PeerId; readonly ms?: number }
  demoted: { readonly peer: PeerId; readonly reason: DemotedReason }
  /** A handshake is over. */
  handshake: { readonly peer: PeerId; readonly ok: boolean; readonly error?: PeerlineError }
}

/** The options, checked. @internal */
export interface TrustSettings {
  readonly rules: readonly RuleInput[]
  readonly enhancedExchange: boolean
  readonly handshake: ReadyHandshake | undefined
  readonly handshakeTimeoutMs: number
  readonly placement: 'event' | 'queue' | 'both' | undefined
  readonly queueCapacity: number
  readonly decideMs: number
}

/** @internal @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function checkOptions(options: TrustOptions): TrustSettings {
  const {
    defaultCommunication = true,
    enhancedExchange = false,
    elevation = [],
    handshake = false,
    placement,
  } = options
  if (typeof enhancedExchange !== 'boolean') throw invalid('enhancedExchange is true or false')
  if (placement !== undefined && placement !== 'event' && placement !== 'queue' && placement !== 'both') {
    throw invalid('placement is event, queue or both')
  }
  const ready = readyHandshake(handshake)
  const common = defaultCommunication === true ? DEFAULT_COMMUNICATION : defaultCommunication || []
  const inward = { direction: 'in', action: 'allow' } as const
  const rules: RuleInput[] = [
    // a rule, not a question: what is denied is not even offered
    { subject: 'everyone', object: '*', direction: 'in', action: 'deny' },
    ...protocols('defaultCommunication', common).map((object) => ({ ...inward, subject: 'everyone', object })),
    ...protocols('handshake', Object.keys(ready?.answers ?? {})).map((object) => ({
      ...inward,
      subject: 'everyone',
      object,
    })),
    ...(placement === undefined && common.length > 0 ? [{ ...inward, subject: 'everyone', object: 'connection' }] : []),
    // whoever is elevated has been let in
    { ...inward, subject: `group:${ELEVATED}`, object: 'connection' },
    ...protocols('elevation', elevation).map((object) => ({ ...inward, subject: `group:${ELEVATED}`, object })),
    { ...inward, subject: `group:${TRUSTED}` },
  ]
  return {
    rules: Object.freeze(rules),
    enhancedExchange,
    handshake: ready,
    handshakeTimeoutMs: checkWait('handshakeTimeoutMs', options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS),
    placement,
    queueCapacity: count('queueCapacity', options.queueCapacity ?? QUEUE_CAPACITY, MAX_QUEUE_CAPACITY),
    decideMs: checkWait('decideMs', options.decideMs ?? DECIDE_MS),
  }
}

/** @internal ms to wait: 1 to a day. @throws PeerlineError `ERR_PEERLINE_INVALID` */
export function checkWait(name: string, ms: number): number {
  return count(name, ms, MAX_WAIT_MS)
}

function readyHandshake(handshake: Handshake | ReadyHandshake | false): ReadyHandshake | undefined {
  if (handshake === false) return undefined
  const ready = typeof handshake === 'function' ? { run: handshake, answers: {} } : handshake
  if (typeof ready?.run === 'function' && typeof ready.answers === 'object') return ready
  throw invalid('handshake is a function, one that was made ready, or false')
}

/** Names of protocols, and patterns of them. What stands for connections as well is neither. */
function protocols(option: string, list: readonly string[]): readonly string[] {
  if (!Array.isArray(list)) throw invalid(`${option} is a list of protocols`)
  for (const object of list as readonly string[]) {
    parseRule({ subject: 'everyone', object, action: 'allow' })
    if (object === 'connection' || object === 'anything') throw invalid(`${option}: ${object} is no protocol`)
  }
  return list as readonly string[]
}

function count(name: string, value: number, max: number): number {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return value
  throw invalid(`${name} ${value} is not a whole number from 1 to ${max}`)
}
