import { PeerlineError } from '../errors.ts'
import type { Ledger } from './ledger.ts'

/**
 * Where the page after the one at `from` begins, as `Ledger.read` says; undefined after the last one.
 * @throws PeerlineError `ERR_PEERLINE_LEDGER` when that would never end
 */
export function nextPage(next: number | undefined, from: number, { name }: Ledger): number | undefined {
  if (next === undefined || next > from) return next
  throw new PeerlineError('ERR_PEERLINE_LEDGER', `${name} goes back from ${from} to ${next}`)
}
