/** What a peer keeps of its ledgers for the next start. */
import { fields } from '../bytes/index.ts'
import type { Section } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { type LedgerState, readLedgerState } from '../signaling/index.ts'

/** Ledgers remembered: those in use, and those used before. */
const MAX_KEPT = 16

/** Characters of a head in hexadecimal. */
const MAX_HEAD_CHARS = 1_024

/** What is kept of one ledger. */
interface Kept {
  readonly state?: LedgerState | undefined
  /** The newest head of a server's, hex. */
  readonly head?: string | undefined
}

/** What is kept of ledgers for the next start, by their names. What of it is of no use, the ledger itself finds. */
export class KeptLedgers {
  readonly all = new Map<string, Kept>()
  /** Brings what is there up to date. */
  refresh: () => void = () => {}

  get section(): Section {
    return {
      export: () => {
        this.refresh()
        return Object.fromEntries([...this.all].slice(-MAX_KEPT))
      },
      load: (json) => {
        if (typeof json !== 'object' || json === null || Array.isArray(json)) {
          throw new PeerlineError('ERR_PEERLINE_INVALID', 'what was kept of ledgers is none of that')
        }
        this.all.clear()
        for (const [key, kept] of Object.entries(json).slice(0, MAX_KEPT)) this.all.set(key, readKept(kept))
      },
    }
  }
}

/** @throws PeerlineError `ERR_PEERLINE_INVALID`, or `ERR_PEERLINE_PROTOCOL` where a field is not of its kind */
function readKept(json: unknown): Kept {
  const all = fields(json, 'kept ledger')
  return {
    head: all.optional('head', (name) => all.text(name, { max: MAX_HEAD_CHARS })),
    state: all.optional('state', () => readLedgerState((json as { state: unknown }).state)),
  }
}
