/**
 * `peerline demo --no-server`: two peers, each a process of its own, and a file that both can write to.
 *
 *     ledger   |-- here I am --|-- offer, answer --|               | removed
 *     tcp                                          |==== 60 % =====|=========> 100 %, hashes compared
 *
 * Neither is told where the other listens, nor looks around on the network: all they have is each other's id, and the file.
 */
import {
  BYTES_PER_SECOND,
  describe,
  FILE_BYTES,
  FILE_NAME,
  hashFile,
  makeFile,
  type Played,
  percent,
  type Stage,
  stepper,
  watch,
} from './demo-stage.ts'
import { formatBytes, formatMs, roundMs } from './output.ts'

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

export async function playWithLedger({ child, out, directory, signal }: Stage): Promise<Played> {
  const [sender, receiver] = [child('sender'), child('receiver')]
  const { join } = await import('node:path')
  const { access, mkdir, rm, stat } = await import('node:fs/promises')
  const source = join(directory, FILE_NAME)
  const inbox = join(directory, 'inbox')
  const ledger = join(directory, 'ledger')
  await mkdir(inbox)
  out.say(`Making ${formatBytes(FILE_BYTES)} of random bytes, and starting two peers:`)
  const made = makeFile(source, signal)
  made.catch(() => {})

  sender.tell({ order: 'join', ledger })
  const { peerId: allow } = await sender.until('joined')
  receiver.tell({ order: 'join', ledger, directory: inbox, allow })
  const { peerId: to } = await receiver.until('joined')
  out.say(`  sender    process ${sender.pid}, ${allow}`)
  out.say(`  receiver  process ${receiver.pid}, ${to}`)
  out.say(`There is no server. All they have is each other's id, and a file: ${ledger}`)
  const hash = await made

  sender.tell({ order: 'send', to, file: source, bytesPerSecond: BYTES_PER_SECOND })
  const { atMs, path, found } = await sender.until('connected')
  const { size } = await stat(ledger)
  const step = stepper(out, atMs)
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
  const watching = watch(receiver, out)
  try {
    const most = await receiver.until('progress', ({ doneBytes }) => doneBytes >= REMOVE_AT * FILE_BYTES)
    await rm(ledger)
    const removedMs = performance.timeOrigin + performance.now()
    step('removed', removedMs, `${percent(most.doneBytes)} arrived; removed the ledger: nobody needs it any more`, {})
    const [sent, received] = await Promise.all([sender.until('sent'), receiver.until('received')])
    step('received', received.atMs, `received whole: ${formatBytes(FILE_BYTES)}, ${describe(sent.byPath)}`, {
      byPath: sent.byPath,
    })
    watching.stop()
    const [there, here] = [await hashFile(received.path), await hashFile(source)]
    out.say(`SHA-256 of the file sent      ${here}`)
    out.say(`SHA-256 of the file received  ${there}`)
    const gone = await access(ledger).then(
      () => false,
      () => true,
    )
    return {
      checks: {
        foundByLedger: found.length === 1 && by?.outcome === 'answered' && by.medium === `ledger file ${ledger}`,
        direct: path === 'tcp' && Object.keys(sent.byPath).join() === 'tcp',
        ledgerGone: gone && removedMs < received.atMs,
        sameHash: [here, there, sent.sha256, received.sha256].every((one) => one === hash),
      },
      byPath: sent.byPath,
    }
  } finally {
    watching.stop()
  }
}
