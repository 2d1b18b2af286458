/**
 * `peerline send`: files to a peer, one after the other, verified, going on where an earlier attempt stopped.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { Session } from '../session/index.ts'
import { closePeer, dialingPeer, reach, readPeerId, withRecovery } from './local-peer.ts'
import { addDial, addJson, addPeer, byteCount, type DialOption, type JsonOption, type PeerOption } from './options.ts'
import { formatBytes, type Output } from './output.ts'
import { Progress } from './progress.ts'
import { pause, run } from './run.ts'
import { tellOfPaths } from './session-news.ts'

/** ms to wait for a receiver that still waits for an earlier attempt: it takes 10 s to notice that a sender was cut off. */
const BUSY_MS = 15_000
const BUSY_PAUSE_MS = 500

interface SendOptions extends PeerOption, DialOption, JsonOption {
  readonly limitRate?: number
}

export function addSendCommand(program: Command): void {
  const command = program.command('send').description('send files to a peer that runs `peerline receive`')
  command.usage('[options] FILE... PEER').argument('<file-or-peer...>', 'files, and last the peer id or did:key')
  addJson(addDial(addPeer(command)))
  command.option('--limit-rate <bytes>', 'bytes a second at most: 500k, 32M, 32MiB', byteCount)
  command.addHelpText(
    'after',
    `
Examples:
  peerline send report.pdf <peer id> --rendezvous 'ws://192.0.2.1:4400#<peer id>'
  peerline send *.jpg <peer id> --limit-rate 2M

A transfer that was cut off goes on where it stopped: give the same command again.
`,
  )
  command.action((names: readonly string[], options: SendOptions) =>
    run(options, async ({ out, signal }) => {
      const files = names.slice(0, -1)
      if (files.length === 0) throw new PeerlineError('ERR_PEERLINE_INVALID', 'send needs a file and, last, a peer')
      const to = await readPeerId(names.at(-1)!)
      await checkFiles(files)
      // What becomes of the paths after that is the goodbye's doing.
      const over = new AbortController()
      const peer = await dialingPeer(options, out)
      try {
        const session = await reach(peer, to, options, signal)
        tellOfPaths(session, out, { signal: over.signal })
        for (const file of files) await sendOne(session, file, options, out, signal)
      } finally {
        over.abort()
        await closePeer(peer)
      }
      return undefined
    }),
  )
}

async function sendOne(
  session: Session,
  path: string,
  { limitRate }: SendOptions,
  out: Output,
  signal: AbortSignal,
): Promise<void> {
  const { sendFile } = await import('../protocol/index.ts')
  const progress = new Progress(out)
  const started = performance.now()
  try {
    const send = () =>
      sendFile(session, path, {
        signal,
        onProgress: ({ file, sentBytes: doneBytes, totalBytes }) =>
          progress.update({ name: file, doneBytes, totalBytes, path: session.path }),
        ...(limitRate === undefined ? {} : { maxBytesPerSecond: limitRate }),
      })
    const { name, savedAs, bytes, sha256, resumedFrom } = await whileBusy(send, out, signal)
    progress.stop()
    const seconds = Math.round(performance.now() - started) / 1000
    out.event({ event: 'sent', name, savedAs, bytes, sha256, resumedFrom, seconds })
    const rate = formatBytes((bytes - resumedFrom) / Math.max(seconds, 0.001))
    const parts = [`sent ${name} (${formatBytes(bytes)}, verified) in ${seconds.toFixed(1)} s, ${rate}/s`]
    if (savedAs !== name) parts.push(`saved there as ${savedAs}`)
    if (resumedFrom > 0) parts.push(`${formatBytes(resumedFrom)} were there already`)
    out.say(parts.join('; '))
  } catch (error) {
    throw withRecovery(error, { ERR_PEERLINE_NO_PROTOCOL: 'Run `peerline receive` there.' })
  } finally {
    progress.stop()
  }
}

/** Tries again while the receiver waits for an attempt that broke off: it holds what has come of the file. */
async function whileBusy<T>(send: () => Promise<T>, out: Output, signal: AbortSignal): Promise<T> {
  const until = performance.now() + BUSY_MS
  for (let told = false; ; told = true) {
    try {
      return await send()
    } catch (error) {
      if ((error as PeerlineError).code !== 'ERR_PEERLINE_BUSY' || performance.now() > until) throw error
    }
    if (!told) out.say('the receiver is busy with this file; waiting')
    await pause(BUSY_PAUSE_MS, signal)
  }
}

/** Fails before anybody is dialled. */
async function checkFiles(files: readonly string[]): Promise<void> {
  const { open } = await import('node:fs/promises')
  const { constants } = await import('node:fs')
  for (const file of files) {
    try {
      // Without O_NONBLOCK, opening a named pipe would wait for its writer.
      const handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
      const plain = (await handle.stat()).isFile()
      await handle.close()
      if (plain) continue
    } catch (cause) {
      const { code } = cause as NodeJS.ErrnoException
      throw new PeerlineError('ERR_PEERLINE_FILE', `cannot read ${file}: ${code}`, { cause })
    }
    throw new PeerlineError('ERR_PEERLINE_FILE', `${file} is not a plain file`)
  }
}
