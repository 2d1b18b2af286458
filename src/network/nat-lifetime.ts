/**
 * How long a UDP mapping lives when nothing is sent (RFC 5780 section 4.6).
 *
 *     idle socket    -- request --------------> reflector     the NAT maps its port
 *     ... nothing, for as long as is asked ...
 *     other socket   -- request, RESPONSE-PORT > reflector     answers to the idle one's mapped port
 *     idle socket   <-- answer? ----------------               the mapping lives, or it is gone
 *
 * The idle socket sends nothing meanwhile, for that would make the mapping young again. A reflector that does not speak
 * RESPONSE-PORT is asked again from the idle socket: another port then means that the mapping had gone, the same port
 * means nothing.
 */

import { setTimeout as pause } from 'node:timers/promises'
import { abortError, isPeerlineError } from '../errors.ts'
import type { SocketAddress } from './address.ts'
import { responsePort } from './nat-attributes.ts'
import { newId, openProbes, type ProbeAnswer, type StunProbe } from './nat-probe.ts'

/** ms between datagrams that hold a mapping: below 30 s, the least that is seen on home routers, with one to spare. */
export const KEEP_ALIVE_MS = 20_000

/** ms, where mappings die sooner than that: what the most impatient routers and firewalls need. */
export const SHORT_KEEP_ALIVE_MS = 8_000

/** ms without traffic that a mapping must survive, so that keeping it every {@link KEEP_ALIVE_MS} is enough. */
const SURVIVE_MS = 25_000

/** ms for an answer: three requests, at 0, 0.5 and 1.5 s. */
const ANSWER_MS = 2_500

/** ms of idleness that the search tries, around the lives that are met: 15, 30, 60 and the 120 s of RFC 4787 section 4.3. */
const IDLES_MS: readonly number[] = [10_000, 20_000, 35_000, 65_000, 125_000]

/** How long a mapping lives, ms. */
export interface MappingLife {
  /** It was alive after this long. 0: it was gone after the shortest wait. */
  atLeast: number
  /** It was gone after this long; left out when it outlived every wait. */
  below?: number
}

export interface MappingLifeOptions {
  readonly signal: AbortSignal
  /** ms of idleness. @default 25_000 */
  readonly idleMs?: number
  /** ms to wait for each answer. @default 2_500 */
  readonly timeoutMs?: number
}

export interface KeepAliveAdvice {
  /** Whether a mapping survived `idleMs` of silence; undefined when that could not be told. */
  readonly survived: boolean | undefined
  readonly idleMs: number
  /** How often to send, ms, so that mappings stay. */
  readonly keepAliveMs: number
}

/**
 * Finds out in the background how often a mapping must be used to stay: two sockets and a few datagrams.
 * @throws PeerlineError what the signal says, or `ERR_PEERLINE_INVALID` when no socket can be had
 */
export async function measureMappingLife(
  reflector: SocketAddress,
  { signal, idleMs = SURVIVE_MS, timeoutMs = ANSWER_MS }: MappingLifeOptions,
): Promise<KeepAliveAdvice> {
  const survived = await survives(reflector, idleMs, timeoutMs, signal)
  return { survived, idleMs, keepAliveMs: survived === false ? SHORT_KEEP_ALIVE_MS : KEEP_ALIVE_MS }
}

export interface SearchMappingLifeOptions {
  readonly signal: AbortSignal
  /** The longest wait, ms. @default 35_000 */
  readonly longestIdleMs?: number
  /** The waits, ms. @default 10, 20, 35, 65 and 125 s */
  readonly idlesMs?: readonly number[]
  /** ms to wait for each answer. @default 2_500 */
  readonly timeoutMs?: number
}

/**
 * Brackets the life of a mapping, by several waits at once. Undefined when it cannot be told, or nothing was to be waited.
 * @throws PeerlineError what the signal says, or `ERR_PEERLINE_INVALID` when no socket can be had
 */
export async function searchMappingLife(
  reflector: SocketAddress,
  { signal, longestIdleMs = 35_000, idlesMs = IDLES_MS, timeoutMs = ANSWER_MS }: SearchMappingLifeOptions,
): Promise<MappingLife | undefined> {
  const waits = idlesMs.filter((idleMs) => idleMs <= longestIdleMs)
  const outcomes = await Promise.all(waits.map((idleMs) => survives(reflector, idleMs, timeoutMs, signal)))
  const of = (outcome: boolean): number[] => waits.filter((_, i) => outcomes[i] === outcome)
  const atLeast = Math.max(0, ...of(true))
  // One that died younger than another lived was lost on the way.
  const died = of(false).filter((idleMs) => idleMs > atLeast)
  if (atLeast === 0 && died.length === 0) return undefined
  return died.length === 0 ? { atLeast } : { atLeast, below: Math.min(...died) }
}

/** Whether a mapping is there after `idleMs` of silence; undefined when that cannot be told. */
async function survives(
  reflector: SocketAddress,
  idleMs: number,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<boolean | undefined> {
  const [idle, other] = (await openProbes(2, reflector.family)) as [StunProbe, StunProbe]
  try {
    const before = await idle.ask(reflector, { signal, timeoutMs })
    if (before?.kind !== 'seen') return undefined
    await idleFor(idleMs, signal)

    const answer = await answerAt(idle, other, reflector, before.mapped.port, { signal, timeoutMs })
    if (answer === 'arrived') return true
    if (answer === 'refused') {
      const again = await idle.ask(reflector, { signal, timeoutMs })
      return again?.kind === 'seen' && !isSame(again.mapped, before.mapped) ? false : undefined
    }
    // Silence says something only when the reflector is there, and sends to the address that the idle socket has.
    const control = await other.ask(reflector, { signal, timeoutMs })
    return control?.kind === 'seen' && control.mapped.host === before.mapped.host ? false : undefined
  } finally {
    await Promise.all([idle.close(), other.close()])
  }
}

/** Has `other` ask for an answer to a port that should be that of `idle`. */
async function answerAt(
  idle: StunProbe,
  other: StunProbe,
  reflector: SocketAddress,
  port: number,
  { signal, timeoutMs }: { signal: AbortSignal; timeoutMs: number },
): Promise<'arrived' | 'refused' | 'silence'> {
  const arrived = new AbortController()
  const onAbort = (): void => arrived.abort(abortError(signal, 'measuring the life of a mapping'))
  signal.addEventListener('abort', onAbort, { once: true })
  const wait = { signal: arrived.signal, timeoutMs }
  const transactionId = newId()
  try {
    const heard = idle.hear(transactionId, wait).then((message) => (message === undefined ? 'silence' : 'arrived'))
    // An answer that comes back to who asked is a refusal, or from a reflector that passed over what it does not know.
    const asked = other.ask(reflector, { ...wait, transactionId, attributes: [responsePort(port)] })
    const back = asked.then((answer: ProbeAnswer | undefined) => (answer === undefined ? heard : 'refused'))
    const outcome = await Promise.race([heard, back])
    arrived.abort() // the question need not be repeated
    await back.catch(() => {})
    await heard.catch(() => {})
    return outcome
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

async function idleFor(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await pause(ms, undefined, { signal })
  } catch (error) {
    throw isPeerlineError(error) ? error : abortError(signal, 'measuring the life of a mapping')
  }
}

function isSame(a: SocketAddress, b: SocketAddress): boolean {
  return a.host === b.host && a.port === b.port
}
