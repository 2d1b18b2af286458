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
import {
  BYTES_PER_SECOND,
  describe,
  FILE_BYTES,
  FILE_NAME,
  hashFile,
  isAlive,
  makeFile,
  type Played,
  percent,
  type Stage,
  stepper,
  watch,
} from './demo-stage.ts'
import { formatBytes } from './output.ts'

/** Share of the file after which the receiver listens, and after which the server is killed. */
const LISTEN_AT = 0.25
const KILL_AT = 0.6

/** What must hold for it to have worked. */
export const SERVER_CHECKS = {
  relayFirst: 'the relay carried the first part',
  moved: 'the transfer moved to direct TCP by itself',
  serverDead: 'the server was dead before the end',
  sameHash: 'both files have the same SHA-256',
  cleanedUp: 'nothing is left behind',
} as const

export async function playWithServer({ child, out, directory, signal }: Stage): Promise<Played> {
  const [server, sender, receiver] = [child('server'), child('sender'), child('receiver')]
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
