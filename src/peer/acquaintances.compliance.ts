/**
 * Peers with sessions between them over loopback TCP, for tests of introductions: real sessions and real ids, made-up keys.
 */
import { once } from 'node:events'
import net from 'node:net'
import { PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { tcpPath } from '../path/index.ts'
import { Session, type Stream, StreamCode } from '../session/index.ts'
import { testKeys } from '../session/memory-path.compliance.ts'
import {
  INTRODUCE_PROTOCOL,
  INTRODUCED_PROTOCOL,
  type IntroducedHandler,
  Introductions,
  type IntroductionsOptions,
} from '../signaling/index.ts'
import { Introducer, type IntroducerOptions } from './introducer.ts'

export type TestHandler = (stream: Stream, context: { from: PeerId; session: Session }) => void

/** Ends sessions that a test left open. */
export const OVER = new PeerlineError('ERR_PEERLINE_CLOSED', 'the test is over')

/** A peer: its sessions, and what it handles. */
export class Acquaintance {
  readonly identity: Identity
  readonly sessions: Session[] = []
  readonly handlers = new Map<string, TestHandler>()
  /** The protocols of the streams that were opened to it. */
  readonly asked: string[] = []

  constructor(identity = Identity.generate()) {
    this.identity = identity
  }

  get id(): PeerId {
    return this.identity.peerId
  }

  /** Takes the newest session with a peer. */
  with(peer: PeerId): Session | undefined {
    return this.sessions.findLast((session) => session.peer === peer)
  }

  /** It asks for introductions, and is introduced. */
  introducible(onOffer: IntroducedHandler, options: Partial<IntroductionsOptions> = {}): Introductions {
    const introductions = new Introductions({ introducers: () => this.sessions, listed: true, onOffer, ...options })
    this.handlers.set(INTRODUCED_PROTOCOL, (stream, context) => introductions.serve(stream, context))
    return introductions
  }

  /** It introduces others. */
  introducer(options: Partial<IntroducerOptions> = {}): Introducer {
    const introducer = new Introducer({ sessionWith: (peer) => this.with(peer), allow: () => true, ...options })
    this.handlers.set(INTRODUCE_PROTOCOL, (stream, context) => introducer.serve(stream, context))
    return introducer
  }
}

/** An open session between two of them, as each sees it. */
export async function meet(one: Acquaintance, other: Acquaintance): Promise<[Session, Session]> {
  const server = net.createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const dialled = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1')
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(dialled, 'connect')])) as [[net.Socket], []]
  server.close()
  const [a, b] = [open(one, other.id, true), open(other, one.id, false)]
  b.adopt(tcpPath(accepted), false)
  a.adopt(tcpPath(dialled), true)
  await Promise.all([a.opened(), b.opened()])
  return [a, b]
}

function open(owner: Acquaintance, peer: PeerId, initiator: boolean): Session {
  const session: Session = new Session({
    keys: testKeys(initiator),
    peer,
    onStream: (stream) => {
      owner.asked.push(stream.protocol)
      const handler = owner.handlers.get(stream.protocol)
      if (handler === undefined) stream.reset(StreamCode.NO_PROTOCOL)
      else handler(stream, { from: peer, session })
    },
  })
  owner.sessions.push(session)
  return session
}

/** Ends every session of these. */
export async function part(...peers: readonly Acquaintance[]): Promise<void> {
  const all = peers.flatMap(({ sessions }) => sessions.splice(0))
  for (const session of all) session.abort(OVER)
  await Promise.all(all.map((session) => session.closed))
}
