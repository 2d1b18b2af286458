/**
 * Two real sessions over loopback TCP, with made-up keys: for tests of what runs on streams.
 */
import { once } from 'node:events'
import net from 'node:net'
import { Identity } from '../identity/index.ts'
import { tcpPath } from '../path/index.ts'
import { StreamCode } from './codes.ts'
import { testKeys } from './memory-path.compliance.ts'
import { Session } from './session.ts'
import type { Stream } from './stream.ts'

export interface SessionPairOptions {
  /** Streams that `b` opens. @default refused with `NO_PROTOCOL` */
  readonly onStreamA?: (stream: Stream) => void
  /** Streams that `a` opens. @default refused with `NO_PROTOCOL` */
  readonly onStreamB?: (stream: Stream) => void
  /** @default the session's own */
  readonly maxStreams?: number
}

export interface SessionPair {
  /** The side that dialled. */
  readonly a: Session
  readonly b: Session
  /** Ends both; nothing stays open. */
  close(): Promise<void>
}

function refuse(stream: Stream): void {
  stream.reset(StreamCode.NO_PROTOCOL)
}

/** Two open sessions with each other. */
export async function sessionPair(options: SessionPairOptions = {}): Promise<SessionPair> {
  const server = net.createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dialled = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(dialled, 'connect')])) as [[net.Socket], []]
  server.close()
  const limits = options.maxStreams === undefined ? {} : { maxStreams: options.maxStreams }
  const session = (initiator: boolean, onStream: (stream: Stream) => void) =>
    new Session({
      keys: testKeys(initiator),
      peer: Identity.generate().peerId,
      onStream,
      reconnectMs: 5_000,
      ...limits,
    })
  const a = session(true, options.onStreamA ?? refuse)
  const b = session(false, options.onStreamB ?? refuse)
  b.adopt(tcpPath(accepted), false)
  a.adopt(tcpPath(dialled), true)
  await Promise.all([a.opened(), b.opened()])
  return {
    a,
    b,
    close: async () => {
      await Promise.all([a.close(), b.close()])
      dialled.destroy()
      accepted.destroy()
    },
  }
}
