/**
 * `peerline demo`: a server and two peers, each a process of its own, on this machine.
 *
 *     server   |--- relays ---------------------| killed
 *     relay    |===== 25 % ====>\
 *     tcp                        \=== 60 % ======|======================> 100 %, hashes compared
 *                   receiver listens
 *
 * Everything is driven by what the processes report, nothing by the clock: the receiver listens nowhere until a quarter
 * of the file has come, so that quarter can only have come through the relay; the server is killed only after the move.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { Child } from './demo-child.ts'
import { EXIT } from './exit-codes.ts'
import { addJson, type JsonOption } from './options.ts'
import { formatBytes, formatMs, type Output, roundMs } from './output.ts'
import { Progress } from './progress.ts'
import { run } from './run.ts'

/** Bytes of the file: a few seconds at the rate below. */
const FILE_BYTES = 96 << 20

/** Bytes a second, so that people can watch: it takes about two and a half seconds. */
const BYTES_PER_SECOND = 40_000_000

/** Share of the file after which the receiver listens, and after which the server is killed. */
const LISTEN_AT = 0.25
const KILL_AT = 0.6

/** ms for everything: ten times what it takes. */
const DEADLINE_MS = 60_000

const FILE_NAME = 'demo.bin'

/** What must hold for the demo to have worked. */
const CHECKS = {
  relayFirst: 'the relay carried the first part',
  moved: 'the transfer moved to direct TCP by itself',
  serverDead: 'the server was dead before the end',
  sameHash: 'both files have the same SHA-256',
  cleanedUp: 'nothing is left behind',
} as const

type Checks = Record<keyof typeof CHECKS, boolean>

interface Stage {
  readonly directory: string
  readonly server: Child
  readonly sender: Child
  readonly receiver: Child
  readonly out: Output
  readonly signal: AbortSignal
}

export function addDemoCommand(program: Command): void {
  const command = program
    .command('demo')
    .description('see it work on this machine: a file moves from a relay to a direct path, then the server is killed')
  addJson(command)
  command.addHelpText(
    'after',
    `
It starts a server and two peers as processes of their own, with keys and files that are removed at the end, and sends
96 MiB of random bytes. The exit code is 0 only if everything held.
`,
  )
  command.action((options: JsonOption) =>
    run(options, async ({ out, signal }) => {
      const started = performance.now()
      const { checks, byPath } = await perform(out, AbortSignal.any([signal, AbortSignal.timeout(DEADLINE_MS)]))
      const ok = Object.values(checks).every((held) => held)
      const seconds = Math.round(performance.now() - started) / 1000
      out.event({ event: 'result', ok, ...checks, bytes: FILE_BYTES, byPath, seconds })
      for (const [key, text] of Object.entries(CHECKS))
        out.say(`  ${checks[key as keyof Checks] ? 'ok  ' : 'NOT '} ${text}`)
      if (ok) out.say(`All of it held, in ${seconds.toFixed(1)} s.`)
      else out.warn('peerline: the demo did not work as it should: see above. Please report it.')
      return ok ? EXIT.OK : EXIT.UNEXPECTED
    }),
  )
}

/** Sets the stage, plays, and clears it whatever happens. */
async function perform(out: Output, signal: AbortSignal): Promise<{ checks: Checks; byPath: Record<string, number> }> {
  const { Child } = await import('./demo-child.ts')
  const { mkdtemp, rm, access } = await import('node:fs/promises')
  const { tmpdir } = await import('node:os')
  const { join } = await import('node:path')
  const directory = await mkdtemp(join(tmpdir(), 'peerline-demo-'))
  const [server, sender, receiver] = ['server', 'sender', 'receiver'].map((role) => new Child(role, signal)) as [
    Child,
    Child,
    Child,
  ]
  const children = [server, sender, receiver]
  let played: Awaited<ReturnType<typeof play>>
  try {
    played = await play({ directory, server, sender, receiver, out, signal })
  } finally {
    await Promise.all(children.map((child) => child.stop()))
    await rm(directory, { recursive: true, force: true })
  }
  const gone = await access(directory).then(
    () => false,
    () => true,
  )
  const cleanedUp = gone && children.every((child) => child.ended !== undefined && !isAlive(child.pid))
  return { ...played, checks: { ...played.checks, cleanedUp } }
}

async function play(stage: Stage): Promise<{ checks: Omit<Checks, 'cleanedUp'>; byPath: Record<string, number> }> {
  const { server, sender, receiver, out, directory, signal } = stage
  const { join } = await import('node:path')
  const { mkdir } = await import('node:fs/promises')
  const source = join(directory, FILE_NAME)
  const inbox = join(directory, 'inbox')
  await mkdir(inbox)
  out.say(`Making ${formatBytes(FILE_BYTES)} of random bytes, and starting a server and two peers:`)
  const made = makeFile(source, signal)
  made.catch(() => {})

  server.tell({ order: 'serve' })
  const { url } = await server.until('serving')
  sender.tell({ order: 'join', url })
  const { peerId: allow } = await sender.until('joined')
  receiver.tell({ order: 'join', url, directory: inbox, allow })
  const { peerId: to } = await receiver.until('joined')
  out.say(`  server    process ${server.pid}, ${url}`)
  out.say(`  sender    process ${sender.pid}, ${allow}`)
  out.say(`  receiver  process ${receiver.pid}, ${to}`)
  out.say('Neither peer listens anywhere: all they have is the server.')
  const hash = await made

  sender.tell({ order: 'send', to, file: source, bytesPerSecond: BYTES_PER_SECOND })
  const connected = await sender.until('connected')
  const step = stepper(out, connected.atMs)
  step('connected', connected.atMs, `connected by ${connected.path}; sending, at ${formatBytes(BYTES_PER_SECOND)}/s`, {
    path: connected.path,
  })
  const watching = watch(receiver, out)
  try {
    const quarter = await receiver.until('progress', ({ doneBytes }) => doneBytes >= LISTEN_AT * FILE_BYTES)
    receiver.tell({ order: 'listen' })
    const { address } = await receiver.until('listening')
    step(
      'listening',
      undefined,
      `${percent(quarter.doneBytes)} arrived; now the receiver listens on ${address}, and tells`,
      {
        address,
      },
    )
    const moved = await sender.until('path', (change) => change.to === 'tcp')
    step(
      'path',
      moved.atMs,
      `moved from ${moved.from} to ${moved.to} by itself, after ${formatBytes(moved.doneBytes)}`,
      {
        from: moved.from,
        to: moved.to,
        doneBytes: moved.doneBytes,
      },
    )
    const most = await receiver.until('progress', ({ doneBytes }) => doneBytes >= KILL_AT * FILE_BYTES)
    await server.kill()
    const dead = server.ended!
    const silent = !(await answers(url))
    step(
      'killed',
      dead.atMs,
      `${percent(most.doneBytes)} arrived; killed the server (${dead.how}): nothing answers there any more`,
      {
        pid: server.pid,
        how: dead.how,
      },
    )
    const [sent, received] = await Promise.all([sender.until('sent'), receiver.until('received')])
    step('received', received.atMs, `received whole: ${formatBytes(FILE_BYTES)}, ${describe(sent.byPath)}`, {
      byPath: sent.byPath,
    })
    watching.stop()
    const [there, here] = [await hashFile(received.path), await hashFile(source)]
    out.say(`SHA-256 of the file sent      ${here}`)
    out.say(`SHA-256 of the file received  ${there}`)
    return {
      checks: {
        relayFirst: connected.path === 'relay' && moved.from === 'relay' && moved.doneBytes >= LISTEN_AT * FILE_BYTES,
        moved: moved.to === 'tcp' && moved.reason === 'better' && (sent.byPath.tcp ?? 0) > 0,
        serverDead: dead.how === 'SIGKILL' && dead.atMs < received.atMs && silent && !isAlive(server.pid),
        sameHash: [here, there, sent.sha256, received.sha256].every((one) => one === hash),
      },
      byPath: sent.byPath,
    }
  } finally {
    watching.stop()
  }
}

/** Tells the steps, with their time. */
function stepper(out: Output, zeroMs: number) {
  return (step: string, atMs: number | undefined, text: string, more: Record<string, unknown>): void => {
    const ms = roundMs(Math.max(0, (atMs ?? performance.timeOrigin + performance.now()) - zeroMs))
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

function percent(bytes: number): string {
  return `${Math.round((bytes / FILE_BYTES) * 100)} %`
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
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    const full = code === 'ENOSPC' || code === 'EDQUOT'
    throw new PeerlineError(full ? 'ERR_PEERLINE_DISK_FULL' : 'ERR_PEERLINE_FILE', `cannot write ${file}: ${code}`, {
      cause,
    })
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

/** Whether anything takes connections at the address of a URL. */
async function answers(url: string): Promise<boolean> {
  const { connect } = await import('node:net')
  const { hostname, port } = new URL(url)
  return new Promise((resolve) => {
    const socket = connect(Number(port), hostname)
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

function isAlive(pid: number | undefined): boolean {
  if (pid === undefined) return false
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
