/**
 * The ledgers of a command, as its options name them: a file, the URL of a server that has one, or `hedera`.
 */
import { access } from 'node:fs/promises'
import { PeerlineError } from '../errors.ts'
import type { LedgerSettings } from '../peer/index.ts'

/** Whoever names this means the Hedera network that the environment says. */
const HEDERA = 'hedera'

/**
 * Opens those that are files, or a network's; those of servers are opened by the peer.
 * @param options.registry the topic where peers tell of their topics, for ledgers that want one
 * @param options.create makes a file that is not there: who only dials will find nobody in a new one
 * @throws PeerlineError of a file, or of the environment; none is left open then
 */
export async function openLedgers(
  names: readonly string[],
  { registry, create }: { readonly registry: string | undefined; readonly create: boolean },
): Promise<LedgerSettings[]> {
  const opened: LedgerSettings[] = []
  try {
    for (const name of names) {
      if (/^[a-z]+:\/\//.test(name)) opened.push({ ledger: name })
      else if (name === HEDERA) opened.push(await openHedera(registry))
      else {
        if (!create) await access(name).catch((error) => Promise.reject(missing(name, error)))
        const { LogLedger } = await import('../ledger/log.ts')
        opened.push({ ledger: await LogLedger.open(name) })
      }
    }
    return opened
  } catch (error) {
    await closeLedgers(opened)
    throw error
  }
}

function missing(name: string, cause: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_FILE', `there is no ledger ${name}`, {
    cause,
    recover: 'Check the path; whoever is to be found makes it, with peerline up --ledger.',
  })
}

async function openHedera(registry: string | undefined): Promise<LedgerSettings> {
  if (registry === undefined) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'on Hedera others find our topics in a registry', {
      recover: 'Name its topic: --registry 0.0.1234; whoever begins makes one, see docs/ledger-hedera.md.',
    })
  }
  const { HederaLedger } = await import('../ledger/hedera.ts')
  return { ledger: await HederaLedger.fromEnvironment(), registry }
}

/** Closes what was opened, where it came to no peer. */
export async function closeLedgers(opened: readonly LedgerSettings[]): Promise<void> {
  for (const { ledger } of opened) if (typeof ledger !== 'string') await ledger.close().catch(() => {})
}
