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
import { arrived, BYTES_PER_SECOND, begin, FILE_BYTES, finish, isAlive, type Played, type Stage } from './demo-stage.ts'
import { wallMs } from './demo-wire.ts'
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

export async function playWithServer(stage: Stage): Promise<Played> {
  const server = stage.child('server')
  let url!: string
  const transfer = await begin(stage, 'a server and two peers', async () => {
    server.tell({ order: 'serve' })
    url = (await server.until('serving')).url
    stage.out.say(`  server    process ${server.pid}, ${url}`)
    return { by: { url }, text: 'Neither peer listens anywhere: all they have is the server.' }
  })
  const { sender, receiver, connected, step } = transfer
  step('connected', connected.atMs, `connected by ${connected.path}; sending, at ${formatBytes(BYTES_PER_SECOND)}/s`, {
    path: connected.path,
  })
  const { seen, byPath, receivedMs, sameHash } = await finish(stage, transfer, async () => {
    const quarter = await arrived(receiver, LISTEN_AT)
    receiver.tell({ order: 'listen' })
    const { address } = await receiver.until('listening')
    step('listening', wallMs(), `${quarter}; now the receiver listens on ${address}, and tells`, { address })
    const moved = await sender.until('path', (change) => change.to === 'tcp')
    const { from, to, doneBytes } = moved
    step('path', moved.atMs, `moved from ${from} to ${to} by itself, after ${formatBytes(doneBytes)}`, {
      from,
      to,
      doneBytes,
    })
    const most = await arrived(receiver, KILL_AT)
    await server.kill()
    const dead = server.ended!
    const silent = !(await answers(url))
    const text = `${most}; killed the server (${dead.how}): nothing answers there any more`
    step('killed', dead.atMs, text, { pid: server.pid, how: dead.how })
    return { moved, dead, silent }
  })
  const { moved, dead, silent } = seen
  return {
    checks: {
      relayFirst: connected.path === 'relay' && moved.from === 'relay' && moved.doneBytes >= LISTEN_AT * FILE_BYTES,
      moved: moved.to === 'tcp' && moved.reason === 'better' && (byPath.tcp ?? 0) > 0,
      serverDead: dead.how === 'SIGKILL' && dead.atMs < receivedMs && silent && !isAlive(server.pid),
      sameHash,
    },
    byPath,
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
