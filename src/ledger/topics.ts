/**
 * Whose topics are which. A peer record tells of them, one ledger after the other:
 *
 *     <ledger id>/in=<topic>     <ledger id>/out=<topic>     <ledger id>/err=<topic>
 *
 * Where a ledger leaves the names to us they are `<peer id>/in` and so on, and follow from the peer id alone.
 */
import { PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Ledger, Topics } from './ledger.ts'

/** Characters of an entry in a record, see `identity/record.ts`. */
const MAX_ENTRY_LENGTH = 128

/** 1 to 100 printable ASCII characters, see {@link Ledger.createTopic}. */
const TOPIC = /^[\x21-\x7e]{1,100}$/

const CHANNELS = [
  ['stdin', 'in'],
  ['stdout', 'out'],
  ['stderr', 'err'],
] as const

/** Whether a ledger of this id leaves the names of topics to us: those that are a log of ours or of a server do. */
export function namesTopics(ledger: string): boolean {
  return ledger.startsWith('log:')
}

/** The topics of a peer at a ledger that leaves their names to us. */
export function namedTopics(ledger: string, peer: PeerId): Topics {
  return { ledger, stdin: `${peer}/in`, stdout: `${peer}/out`, stderr: `${peer}/err` }
}

/**
 * Makes the three topics of a peer.
 * @throws PeerlineError as `Ledger.createTopic`
 */
export async function makeTopics(
  ledger: Ledger,
  peer: PeerId,
  { signal }: { readonly signal: AbortSignal },
): Promise<Topics> {
  const hints = namedTopics(ledger.id, peer)
  const stdin = await ledger.createTopic(hints.stdin, { signal })
  const stdout = await ledger.createTopic(hints.stdout, { signal, own: true })
  const stderr = await ledger.createTopic(hints.stderr, { signal, own: true })
  return { ledger: ledger.id, stdin, stdout, stderr }
}

/**
 * The entries of a peer record that tell of these topics.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` when one is longer than a record takes
 */
export function topicEntries(topics: Topics): string[] {
  return CHANNELS.map(([channel, short]) => {
    const entry = `${topics.ledger}/${short}=${topics[channel]}`
    if (entry.length <= MAX_ENTRY_LENGTH) return entry
    throw new PeerlineError(
      'ERR_PEERLINE_INVALID',
      `${entry} has more than the ${MAX_ENTRY_LENGTH} characters of an entry in a record`,
    )
  })
}

/** The topics at one ledger that a peer record tells of; undefined when it does not tell of all three. */
export function topicsOf({ topics }: { readonly topics: readonly string[] }, ledgerId: string): Topics | undefined {
  const found = CHANNELS.map(([, short]) => {
    const start = `${ledgerId}/${short}=`
    return topics.find((entry) => entry.startsWith(start))?.slice(start.length)
  })
  const [stdin, stdout, stderr] = found
  if (stdin === undefined || stdout === undefined || stderr === undefined) return undefined
  return found.every((topic) => TOPIC.test(topic!)) ? { ledger: ledgerId, stdin, stdout, stderr } : undefined
}
