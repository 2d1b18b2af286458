/**
 * One process of `peerline demo`: the server, or one of the two peers. It does what the parent says, and ends with it.
 */
import { asPeerlineError } from '../errors.ts'
import { LogLedger } from '../ledger/log.ts'
import type { PathKind } from '../path/index.ts'
import { Peer } from '../peer/index.ts'
import { FILE_PROTOCOL, receiveFile, sendFile } from '../protocol/index.ts'
import { Server } from '../server/index.ts'
import type { Session } from '../session/index.ts'
import { type News, type Order, wallMs } from './demo-wire.ts'

/** Bytes between two reports of progress: a hundred for the whole file. */
const REPORT_BYTES = 1 << 20

/** ms for goodbyes: everybody is on this machine. */
const CLOSE_MS = 1_000

let service: Server | Peer | undefined
let peer: Peer | undefined

function tell(news: News): void {
  if (process.connected) process.send!(news)
}

async function serve(): Promise<void> {
  const server = await Server.create({ listen: '127.0.0.1:0' })
  service = server
  tell({ news: 'serving', url: server.url })
}

async function join({ url, ledger, directory, allow }: Extract<Order, { order: 'join' }>): Promise<void> {
  peer = await Peer.create({
    rendezvous: url === undefined ? [] : [url],
    ledgers: ledger === undefined ? [] : [{ ledger: await LogLedger.open(ledger) }],
    // By a server, nobody can come straight to it for now: what arrives has come through the relay.
    listen: ledger === undefined ? [] : ['127.0.0.1:0'],
    // On one machine UDP would take over from the relay at once, and there would be nothing to see.
    udp: false,
    firewall: { allow: allow === undefined ? [] : [allow] },
  })
  service = peer
  if (directory !== undefined) {
    peer.handleStream(FILE_PROTOCOL, (stream, { from, session }) => {
      const report = reporter(session)
      return receiveFile(stream, {
        from,
        directory,
        onProgress: ({ receivedBytes, totalBytes }) => report(receivedBytes, totalBytes),
      }).then(({ path, sha256 }) => tell({ news: 'received', path, sha256, atMs: wallMs() }), tellFailure)
    })
  }
  await peer.online({ signal: AbortSignal.timeout(10_000) })
  tell({ news: 'joined', peerId: peer.id })
}

/** Reports the progress of a file from time to time. */
function reporter(session: Session): (doneBytes: number, totalBytes: number) => void {
  let next = 0
  return (doneBytes, totalBytes) => {
    if (doneBytes < next) return
    next = doneBytes + REPORT_BYTES
    tell({ news: 'progress', doneBytes, totalBytes, path: session.path ?? null })
  }
}

async function send({ to, file, bytesPerSecond }: Extract<Order, { order: 'send' }>): Promise<void> {
  const session = await peer!.connect(to)
  const byPath: Partial<Record<PathKind, number>> = {}
  let doneBytes = 0
  tell({ news: 'connected', path: session.path!, found: session.why().signaling, atMs: wallMs() })
  session.addEventListener('path', ({ detail }) => tell({ news: 'path', ...detail, doneBytes, atMs: wallMs() }))
  const report = reporter(session)
  const { sha256 } = await sendFile(session, file, {
    maxBytesPerSecond: bytesPerSecond,
    onProgress: ({ sentBytes, totalBytes }) => {
      if (session.path !== undefined) byPath[session.path] = (byPath[session.path] ?? 0) + sentBytes - doneBytes
      doneBytes = sentBytes
      report(sentBytes, totalBytes)
    },
  })
  tell({ news: 'sent', sha256, byPath })
}

async function stop(): Promise<void> {
  await service?.close({ signal: AbortSignal.timeout(CLOSE_MS) })
  process.exit()
}

function tellFailure(error: unknown): void {
  const { code, message } = asPeerlineError(error, 'ERR_PEERLINE_REMOTE')
  tell({ news: 'failed', code, message })
}

async function obey(order: Order): Promise<void> {
  switch (order.order) {
    case 'serve':
      return serve()
    case 'join':
      return join(order)
    case 'listen':
      return tell({ news: 'listening', address: await peer!.listen('127.0.0.1:0') })
    case 'send':
      return send(order)
    case 'stop':
      return stop()
  }
}

// The terminal sends Ctrl-C to every process; the parent decides what follows. Without a parent there is nothing to do.
process.on('SIGINT', () => {})
process.on('disconnect', () => process.exit())
process.on('message', (order: Order) => void obey(order).catch(tellFailure))
