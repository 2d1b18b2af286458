/**
 * `peerline receive`: takes files from peers that are let in.
 *
 * A transfer that is cut off leaves what has come, and goes on from there when the sender comes again.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { StreamContext, StreamHandler } from '../peer/index.ts'
import { EXIT, exitCodeOf } from './exit-codes.ts'
import { ready } from './local-peer.ts'
import {
  type AllowOption,
  addAllow,
  addAnnounce,
  addJson,
  addPeer,
  type JsonOption,
  type PeerOption,
} from './options.ts'
import { formatBytes, formatMs, type Output } from './output.ts'
import { Progress } from './progress.ts'
import { run, stopping } from './run.ts'

/** Failures that another attempt would meet again; the others leave `--once` waiting for one. */
const FINAL: ReadonlySet<number> = new Set([EXIT.FILE, EXIT.DISK_FULL, EXIT.CORRUPT])

interface ReceiveOptions extends PeerOption, AllowOption, JsonOption {
  readonly dir: string
  readonly once?: boolean
}

export function addReceiveCommand(program: Command): void {
  const command = program.command('receive').description('take files from peers')
  addJson(addAllow(addAnnounce(addPeer(command))))
  command.option('--dir <dir>', 'where files go; made when it is missing', '.').option('--once', 'end after one file')
  command.addHelpText(
    'after',
    `
Examples:
  peerline receive --rendezvous 'ws://192.0.2.1:4400#<peer id>' --allow <peer id>
  peerline receive --dir inbox --allow all --once --json

A file never replaces another: it gets a number. A transfer that was cut off goes on where it stopped.
`,
  )
  command.action((options: ReceiveOptions) =>
    run({ ...options, endless: options.once !== true }, async (running) => {
      const { out, signal } = running
      await checkDirectory(options.dir)
      const { FILE_PROTOCOL, receiveFile } = await import('../protocol/index.ts')
      const { answeringPeer } = await import('./answering.ts')
      const answering = await answeringPeer(options, running)
      const { peer } = answering
      let finish: (error: unknown) => void = () => {}
      const finished = new Promise<void>((resolve, reject) => {
        finish = (error) => (error === undefined ? resolve() : reject(error))
      })
      finished.catch(() => {})
      const underway = new Set<Transfer>()
      try {
        peer.handleStream(FILE_PROTOCOL, async (...stream) => {
          const error = await comingAgain(underway, stream[1], (stop) =>
            take(receiveFile, stream, options.dir, out, AbortSignal.any([signal, stop])),
          )
          if (options.once === true && (error === undefined || FINAL.has(exitCodeOf(error)))) finish(error)
          else if (error !== undefined && !signal.aborted) out.say(`failed: ${error.message}`)
        })
        await ready(peer, options, running)
        await Promise.race([finished, stopping(signal)])
      } finally {
        await answering.close()
      }
      return undefined
    }),
  )
}

interface Transfer {
  readonly context: StreamContext
  readonly stop: AbortController
  readonly done: Promise<unknown>
}

/**
 * Runs a transfer. One that the same peer left behind in a session without a path is ended first: the peer was started
 * again, and would be refused while that one holds the part file.
 */
async function comingAgain<T>(
  underway: Set<Transfer>,
  context: StreamContext,
  transfer: (stop: AbortSignal) => Promise<T>,
): Promise<T> {
  const { from, session } = context
  for (const before of [...underway]) {
    const { context: old, stop, done } = before
    if (old.from !== from || old.session === session || old.session.path !== undefined) continue
    stop.abort(new PeerlineError('ERR_PEERLINE_PATH_LOST', 'the sender was cut off, and comes again'))
    await done
  }
  const stop = new AbortController()
  const running = transfer(stop.signal)
  const entry = { context, stop, done: running.catch(() => {}) }
  underway.add(entry)
  try {
    return await running
  } finally {
    underway.delete(entry)
  }
}

/** Takes one file and tells of it. Answers what went wrong. */
async function take(
  receiveFile: typeof import('../protocol/index.ts').receiveFile,
  [stream, { from, session }]: Parameters<StreamHandler>,
  directory: string,
  out: Output,
  signal: AbortSignal,
): Promise<PeerlineError | undefined> {
  const progress = new Progress(out)
  const started = performance.now()
  let incoming = { name: '', bytes: 0 }
  let told = false
  const tell = (resumedFrom: number) => {
    if (told) return
    told = true
    const { name, bytes } = incoming
    out.event({ event: 'receiving', from, name, bytes, resumedFrom })
    const rest = resumedFrom === 0 ? '' : `, going on at ${formatBytes(resumedFrom)}`
    out.say(`receiving ${name} (${formatBytes(bytes)}) from ${from}${rest}`)
  }
  try {
    const file = await receiveFile(stream, {
      from,
      directory,
      signal,
      onStart: ({ name, totalBytes }) => {
        incoming = { name, bytes: totalBytes }
      },
      // Only the first piece shows where the transfer really begins.
      onProgress: ({ file: name, receivedBytes: doneBytes, startBytes, totalBytes }) => {
        tell(startBytes)
        progress.update({ name, doneBytes, totalBytes, path: session.path })
      },
    })
    progress.stop()
    tell(file.resumedFrom)
    const { name, path, bytes, sha256 } = file
    out.event({ event: 'received', from, name, path, bytes, sha256 })
    out.say(`received ${path} (${formatBytes(bytes)}, verified) in ${formatMs(performance.now() - started)}`)
    return undefined
  } catch (error) {
    const failure = error as PeerlineError
    if (!signal.aborted) {
      out.event({ event: 'failed', from, name: incoming.name, code: failure.code, message: failure.message })
    }
    return failure
  } finally {
    progress.stop()
  }
}

/** Fails now rather than when the first file comes. */
async function checkDirectory(directory: string): Promise<void> {
  const { mkdir, mkdtemp, rmdir } = await import('node:fs/promises')
  const { join } = await import('node:path')
  try {
    await mkdir(directory, { recursive: true })
    await rmdir(await mkdtemp(join(directory, '.peerline-')))
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      throw new PeerlineError('ERR_PEERLINE_DISK_FULL', `cannot write in ${directory}: the disk is full`, { cause })
    }
    throw new PeerlineError('ERR_PEERLINE_FILE', `cannot write in ${directory}: ${code}`, { cause })
  }
}
