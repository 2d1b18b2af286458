/**
 * What is tried one after the other, or side by side when it is slow, until one of it works.
 *
 *     first --3 s, or failed--> second --3 s, or failed--> third …        the first that succeeds ends the others
 */
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import { type NoneSucceeded, staggered, type Tier } from '../staggered.ts'

/** ms that one has to itself before the next is tried beside it: a slow dial, with one packet lost. */
const HEAD_START_MS = 3_000

/** Where one fails so, all would. */
const FINAL: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_PEERLINE_DENIED',
  'ERR_PEERLINE_INVALID',
  'ERR_PEERLINE_LIMIT', // one of ours
])

export interface Resort<T> {
  readonly run: (signal: AbortSignal) => Promise<T>
  /** What becomes of a success that comes after another one. */
  readonly late: (made: T) => void
  /** Begun together with the one before it. @default false */
  readonly beside?: boolean
  /** When none works, its failure says more than that of the others. @default that of the first does */
  readonly telling?: boolean
  /** False: it is said by a place that we were only sent to, and nothing follows from it for the others. @default true */
  readonly final?: boolean
}

/**
 * What the first of `resorts` that works brings.
 * @throws the most telling failure when none works, or a refusal, after which nothing else is tried; what the signal says
 */
export async function tryAll<T>(resorts: readonly Resort<T>[], signal: AbortSignal): Promise<T> {
  if (resorts.length === 0) {
    throw new PeerlineError('ERR_PEERLINE_NO_ADDRESS', 'nothing is known of where the peer is')
  }
  const final = (error: unknown, resort: Resort<T>) =>
    resort.final !== false && isPeerlineError(error) && FINAL.has(error.code)
  try {
    return await staggered(tiersOf(resorts), {
      run: (resort, each) => resort.run(each),
      late: (made, resort) => resort.late(made),
      final,
      signal,
    })
  } catch (error) {
    const { failures, last, cutShort } = error as NoneSucceeded<Resort<T>>
    if (cutShort) throw last
    const most = resorts.find(({ telling }) => telling) ?? resorts[0]!
    throw together(
      failures.get(most),
      resorts.map((one) => failures.get(one)),
    )
  }
}

function tiersOf<T>(resorts: readonly Resort<T>[]): Tier<Resort<T>>[] {
  const tiers: Resort<T>[][] = []
  for (const resort of resorts) {
    if (resort.beside && tiers.length > 0) tiers.at(-1)!.push(resort)
    else tiers.push([resort])
  }
  return tiers.map((ways) => ({ ways, afterMs: HEAD_START_MS }))
}

/** The most telling of several failures, which says what the others say as well. */
export function together(most: unknown, all: readonly unknown[]): unknown {
  if (!isPeerlineError(most)) return most
  const said = new Set([most, ...all].flatMap((error) => (isPeerlineError(error) ? error.message : [])))
  if (said.size === 1) return most
  return new PeerlineError(most.code, [...said].join('; '), { cause: most, recover: most.recover })
}
