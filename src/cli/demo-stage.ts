/**
 * The stage of `peerline demo`: processes, a directory, a file of random bytes, and what is told of how it goes.
 */
import { PeerlineError } from '../errors.ts'
import type { Child } from './demo-child.ts'
import { formatBytes, formatMs, type Output, roundMs } from './output.ts'
import { Progress } from './progress.ts'

/** Bytes of the file: a few seconds at the rate below. */
export const FILE_BYTES = 96 << 20

/** Bytes a second, so that people can watch: it takes about two and a half seconds. */
export const BYTES_PER_SECOND = 40_000_000

export const FILE_NAME = 'demo.bin'

export interface Stage {
  readonly directory: string
  /** The processes, by their roles. */
  readonly child: (role: string) => Child
  readonly out: Output
  readonly signal: AbortSignal
}

/** What a play came to: what was to hold, and did or did not; and which way the bytes took. */
export interface Played {
  readonly checks: Readonly<Record<string, boolean>>
  readonly byPath: Readonly<Record<string, number>>
}

/** Sets the stage, plays, and clears it whatever happens. The last check is that it is cleared. */
export async function perform(
  roles: readonly string[],
  play: (stage: Stage) => Promise<Played>,
  out: Output,
  signal: AbortSignal,
): Promise<Played> {
  const { Child } = await import('./demo-child.ts')
  const { mkdtemp, rm, access } = await import('node:fs/promises')
  const { tmpdir } = await import('node:os')
  const { join } = await import('node:path')
  const directory = await mkdtemp(join(tmpdir(), 'peerline-demo-'))
  const children = new Map(roles.map((role) => [role, new Child(role, signal)]))
  let played: Played
  try {
    played = await play({ directory, child: (role) => children.get(role)!, out, signal })
  } finally {
    await Promise.all([...children.values()].map((child) => child.stop()))
    await rm(directory, { recursive: true, force: true })
  }
  const gone = await access(directory).then(
    () => false,
    () => true,
  )
  const ended = [...children.values()].every((child) => child.ended !== undefined && !isAlive(child.pid))
  return { ...played, checks: { ...played.checks, cleanedUp: gone && ended } }
}

/** Tells the steps, with their time. */
export function stepper(out: Output, zeroMs: number) {
  return (step: string, atMs: number | undefined, text: string, more: Record<string, unknown>): void => {
    const ms = roundMs(Math.max(0, (atMs ?? performance.timeOrigin + performance.now()) - zeroMs))
    out.event({ event: step, atMs: ms, ...more })
    out.say(`${formatMs(ms).padStart(8)}  ${text}`)
  }
}

/** Shows how much has arrived. */
export function watch(receiver: Child, out: Output): Progress {
  const progress = new Progress(out)
  receiver.onNews(() => {
    const news = receiver.latest('progress')
    if (news !== undefined) progress.update({ name: FILE_NAME, ...news, path: news.path ?? undefined })
  })
  return progress
}

export function percent(bytes: number): string {
  return `${Math.round((bytes / FILE_BYTES) * 100)} %`
}

export function describe(byPath: Readonly<Record<string, number>>): string {
  return Object.entries(byPath)
    .map(([path, bytes]) => `${formatBytes(bytes)} by ${path}`)
    .join(', ')
}

/** Writes the random file. Answers its SHA-256. */
export async function makeFile(file: string, signal: AbortSignal): Promise<string> {
  const { createHash, randomBytes } = await import('node:crypto')
  const { open } = await import('node:fs/promises')
  const hash = createHash('sha256')
  try {
    const handle = await open(file, 'wx', 0o600)
    try {
      for (let at = 0; at < FILE_BYTES && !signal.aborted; at += 4 << 20) {
        const piece = randomBytes(4 << 20)
        hash.update(piece)
        await handle.writeFile(piece)
      }
    } finally {
      await handle.close()
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const full = code === 'ENOSPC' || code === 'EDQUOT'
    throw new PeerlineError(full ? 'ERR_PEERLINE_DISK_FULL' : 'ERR_PEERLINE_FILE', `cannot write ${file}: ${code}`, {
      cause,
    })
  }
  return hash.digest('hex')
}

export async function hashFile(file: string): Promise<string> {
  const { createHash } = await import('node:crypto')
  const { createReadStream } = await import('node:fs')
  const hash = createHash('sha256')
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(piece as Uint8Array)
  return hash.digest('hex')
}

export function isAlive(pid: number | undefined): boolean {
  if (pid === undefined) return false
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
