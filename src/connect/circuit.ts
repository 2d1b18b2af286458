/**
 * Circuits: each side opens its own connection to a relay, which joins the two. See `path/relay.ts` for what is said there.
 */
import { scopeOf } from '../network/address.ts'
import { type FramedPath, RelayPath } from '../path/index.ts'
import { under } from '../pause.ts'
import type { CircuitOffer } from './candidate.ts'
import { PATH_ATTEMPT_MS } from './race.ts'
import { dialServer, parseServerAddress } from './url.ts'

/** Opens our end of a circuit. @throws PeerlineError when the relay is not reached, or what the signal says */
export async function openCircuit(relay: string, token: Uint8Array, signal: AbortSignal): Promise<RelayPath> {
  const dial = (limited: AbortSignal) => dialServer(parseServerAddress(relay), { signal: limited })
  return new RelayPath(await under([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)], dial), relay, token)
}

export interface JoinOptions {
  /** Relays of our own choice: these may have any address. */
  readonly knownRelays: () => readonly string[]
  /** Whether an address that a remote named may be dialled. */
  readonly mayDial: (host: string) => boolean
  /** Takes the path that the other side will attach. */
  readonly accept: (path: FramedPath) => void
  readonly signal: AbortSignal
}

/** Comes to the circuits that the other side offers, where we may. */
export function joinCircuits(circuits: readonly CircuitOffer[], options: JoinOptions): void {
  for (const { relay, token } of circuits) {
    if (!mayJoin(relay, options)) continue
    openCircuit(relay, token, options.signal).then(options.accept, () => {})
  }
}

/**
 * A relay that a remote names is dialled when it is one of ours, by whatever scheme, or when its address is public. A
 * private one is not: it would let a remote send requests to whatever answers HTTP in our network.
 */
function mayJoin(relay: string, { knownRelays, mayDial }: JoinOptions): boolean {
  try {
    const { host, port } = parseServerAddress(relay)
    const ours = knownRelays().map(parseServerAddress)
    if (ours.some((known) => known.host === host && known.port === port)) return true
    return scopeOf(host) !== 'private' && mayDial(host)
  } catch {
    return false
  }
}
