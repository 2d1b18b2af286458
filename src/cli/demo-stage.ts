/**
 * The stage of `peerline demo`: processes, a directory, a file of random bytes, and what is told of how it goes.
 */
import { ioError } from '../io-error.ts'
import type { Child } from './demo-child.ts'
import type { News, Order } from './demo-wire.ts'
import { formatBytes, formatMs, type Output, roundMs } from './output.ts'
import { Progress } from './progress.ts'

/** Bytes of the file: a few seconds at the rate below. */
export const FILE_BYTES = 96 << 20

/** Bytes a second, so that people can watch: it takes about two and a half seconds. */
export const BYTES_PER_SECOND = 40_000_000

const FILE_NAME = 'demo.bin'

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
  const { mkdtemp, rm } = await import('node:fs/promises')
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
  const ended = [...children.values()].every((child) => child.ended !== undefined && !isAlive(child.pid))
  return { ...played, checks: { ...played.checks, cleanedUp: (await isGone(directory)) && ended } }
}

/** The file on its way from one peer to the other. */
export interface Transfer {
  readonly sender: Child
  readonly receiver: Child
  readonly source: string
  /** The SHA-256 of the file. */
  readonly hash: string
  readonly connected: Extract<News, { news: 'connected' }>
  /** Tells a step, with its time since they were connected. */
  readonly step: (step: string, atMs: number, text: string, more: Record<string, unknown>) => void
}

/** Where the two peers meet, and what people are told of it. */
export interface Meeting {
  readonly by: Pick<Extract<Order, { order: 'join' }>, 'url' | 'ledger'>
  readonly text: string
}

/** Makes the file while the two join, where `meet` says; then has one send it to the other, as soon as they are connected. */
export async function begin(
  { child, out, directory, signal }: Stage,
  cast: string,
  meet: () => Promise<Meeting>,
): Promise<Transfer> {
  const [sender, receiver] = [child('sender'), child('receiver')]
  const { join } = await import('node:path')
  const { mkdir } = await import('node:fs/promises')
  const source = join(directory, FILE_NAME)
  const inbox = join(directory, 'inbox')
  await mkdir(inbox)
  out.say(`Making ${formatBytes(FILE_BYTES)} of random bytes, and starting ${cast}:`)
  const made = makeFile(source, signal)
  made.catch(() => {})

  const { by, text } = await meet()
  sender.tell({ order: 'join', ...by })
  const { peerId: allow } = await sender.until('joined')
  receiver.tell({ order: 'join', ...by, directory: inbox, allow })
  const { peerId: to } = await receiver.until('joined')
  out.say(`  sender    process ${sender.pid}, ${allow}`)
  out.say(`  receiver  process ${receiver.pid}, ${to}`)
  out.say(text)
  const hash = await made

  sender.tell({ order: 'send', to, file: source, bytesPerSecond: BYTES_PER_SECOND })
  const connected = await sender.until('connected')
  return { sender, receiver, source, hash, connected, step: stepper(out, connected.atMs) }
}

/** Shows how much arrives while `meanwhile` goes on, and until it is all there. Then it compares. */
export async function finish<T>(
  { out }: Stage,
  { sender, receiver, source, hash, step }: Transfer,
  meanwhile: () => Promise<T>,
) {
  const watching = watch(receiver, out)
  const all = async () => {
    const seen = await meanwhile()
    const [sent, received] = await Promise.all([sender.until('sent'), receiver.until('received')])
    const { byPath } = sent
    step('received', received.atMs, `received whole: ${formatBytes(FILE_BYTES)}, ${describe(byPath)}`, { byPath })
    return { seen, sent, received }
  }
  const { seen, sent, received } = await all().finally(() => watching.stop())
  const [there, here] = [await hashFile(received.path), await hashFile(source)]
  out.say(`SHA-256 of the file sent      ${here}`)
  out.say(`SHA-256 of the file received  ${there}`)
  const sameHash = [here, there, sent.sha256, received.sha256].every((one) => one === hash)
  return { seen, byPath: sent.byPath, receivedMs: received.atMs, sameHash }
}

/** Waits until that share of the file has arrived, and says how much has. */
export async function arrived(receiver: Child, share: number): Promise<string> {
  const { doneBytes } = await receiver.until('progress', (news) => news.doneBytes >= share * FILE_BYTES)
  return `${Math.round((doneBytes / FILE_BYTES) * 100)} % arrived`
}

function stepper(out: Output, zeroMs: number): Transfer['step'] {
  return (step, atMs, text, more) => {
    const ms = roundMs(Math.max(0, atMs - zeroMs))
    out.event({ event: step, atMs: ms, ...more })
    out.say(`${formatMs(ms).padStart(8)}  ${text}`)
  }
}

/** Shows how much has arrived. */
function watch(receiver: Child, out: Output): Progress {
  const progress = new Progress(out)
  receiver.onNews(() => {
    const news = receiver.latest('progress')
    if (news !== undefined) progress.update({ name: FILE_NAME, ...news, path: news.path ?? undefined })
  })
  return progress
}

function describe(byPath: Readonly<Record<string, number>>): string {
  return Object.entries(byPath)
    .map(([path, bytes]) => `${formatBytes(bytes)} by ${path}`)
    .join(', ')
}

/** Writes the random file. Answers its SHA-256. */
async function makeFile(file: string, signal: AbortSignal): Promise<string> {
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
  } catch (error) {
    throw ioError(error, `writing ${file}`)
  }
  return hash.digest('hex')
}

async function hashFile(file: string): Promise<string> {
  const { createHash } = await import('node:crypto')
  const { createReadStream } = await import('node:fs')
  const hash = createHash('sha256')
  for await (const piece of createReadStream(file, { highWaterMark: 1 << 20 })) hash.update(piece as Uint8Array)
  return hash.digest('hex')
}

/** Whether nothing is there. */
export async function isGone(path: string): Promise<boolean> {
  const { access } = await import('node:fs/promises')
  return access(path).then(
    () => false,
    () => true,
  )
}

export function isAlive(pid: number | undefined): boolean {
  if (pid === undefined) return false
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
