/**
 * `peerline demo --no-server`: two peers, each a process of its own, and a file that both can write to.
 *
 *     ledger   |-- here I am --|-- offer, answer --|               | removed
 *     tcp                                          |==== 60 % =====|=========> 100 %, hashes compared
 *
 * Neither is told where the other listens, nor looks around on the network: all they have is each other's id, and the file.
 */
import { arrived, begin, finish, isGone, type Played, type Stage } from './demo-stage.ts'
import { wallMs } from './demo-wire.ts'
import { formatMs, roundMs } from './output.ts'

/** Share of the file after which the ledger is removed. */
const REMOVE_AT = 0.6

/** What must hold for it to have worked. */
export const LEDGER_CHECKS = {
  foundByLedger: 'the ledger alone brought the two together',
  direct: 'every byte went straight from one to the other',
  ledgerGone: 'the ledger was gone before the end',
  sameHash: 'both files have the same SHA-256',
  cleanedUp: 'nothing is left behind',
} as const

export async function playWithLedger(stage: Stage): Promise<Played> {
  const { join } = await import('node:path')
  const { rm, stat } = await import('node:fs/promises')
  const ledger = join(stage.directory, 'ledger')
  const transfer = await begin(stage, 'two peers', async () => ({
    by: { ledger },
    text: `There is no server. All they have is each other's id, and a file: ${ledger}`,
  }))
  const { receiver, step } = transfer
  const { atMs, path, found } = transfer.connected
  const { size } = await stat(ledger)
  const [by] = found
  const cost = {
    medium: by?.medium ?? null,
    messages: by?.messages ?? 0,
    signalMs: roundMs(by?.ms ?? 0),
    ledgerBytes: size,
  }
  step(
    'connected',
    atMs,
    `connected by ${path}; the ledger took ${formatMs(by?.ms ?? 0)} for an offer and its answer, and has ${size} bytes now`,
    { path, ...cost },
  )
  const { seen, byPath, receivedMs, sameHash } = await finish(stage, transfer, async () => {
    const text = `${await arrived(receiver, REMOVE_AT)}; removed the ledger: nobody needs it any more`
    await rm(ledger)
    const removedMs = wallMs()
    step('removed', removedMs, text, {})
    return { removedMs }
  })
  return {
    checks: {
      foundByLedger: found.length === 1 && by?.outcome === 'answered' && by.medium === `ledger file ${ledger}`,
      direct: path === 'tcp' && Object.keys(byPath).join() === 'tcp',
      ledgerGone: (await isGone(ledger)) && seen.removedMs < receivedMs,
      sameHash,
    },
    byPath,
  }
}
