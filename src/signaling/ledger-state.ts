/**
 * What signaling through a ledger keeps between two runs of a program, as plain JSON:
 *
 *     { "topics": { ledger, stdin, stdout, stderr }, "position": n, "stdout": { "sequence": n }, "stderr": { "sequence": n } }
 */
import { fields } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import type { Topics } from '../ledger/ledger.ts'
import { MAX_SEQUENCE } from '../ledger/topic-writer.ts'

/** Characters of the name of a ledger, and of a topic: see `ledger/ledger.ts`. */
const MAX_LEDGER_LENGTH = 64
const MAX_TOPIC_LENGTH = 100

export interface LedgerState {
  readonly topics: Topics
  /** The last place of stdin that was read; 0: none. */
  readonly position: number
  /** The last sequences given to messages. */
  readonly stdout: { readonly sequence: number }
  readonly stderr: { readonly sequence: number }
}

/** Reads what was saved. @throws PeerlineError `ERR_PEERLINE_INVALID` when it cannot be that */
export function readLedgerState(json: unknown): LedgerState {
  try {
    const all = fields(json, 'saved state of a ledger')
    const topics = all.map('topics')
    const topic = (name: string) => topics.text(name, { min: 1, max: MAX_TOPIC_LENGTH })
    const sequence = (name: string) => ({ sequence: all.map(name).integer('sequence', { max: MAX_SEQUENCE }) })
    return {
      topics: {
        ledger: topics.text('ledger', { min: 1, max: MAX_LEDGER_LENGTH }),
        stdin: topic('stdin'),
        stdout: topic('stdout'),
        stderr: topic('stderr'),
      },
      position: all.integer('position'),
      stdout: sequence('stdout'),
      stderr: sequence('stderr'),
    }
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', asPeerlineError(cause, 'ERR_PEERLINE_INVALID').message, { cause })
  }
}
