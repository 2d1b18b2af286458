/**
 * A node that offers a ledger, and readers of it, over real sessions on loopback: for tests. The node may lie.
 */
import { onTestFinished } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { Identity } from '../identity/index.ts'
import { Peer } from '../peer/index.ts'
import type { LedgerLimits } from '../server/ledger-quota.ts'
import { LedgerService } from '../server/ledger-service.ts'
import type { Session, Stream } from '../session/index.ts'
import { FakeLog } from './leaf-source.compliance.ts'
import { RemoteLedger, type RemoteLedgerOptions } from './remote.ts'
import { LEDGER_PROTOCOL } from './remote-wire.ts'
import type { LeafSource } from './tree-head.ts'

/** An answer, as it goes out. */
export type Answer = Record<string, unknown> & { entries?: Record<string, unknown>[] }

export async function startQuietPeer(options: { identity?: Identity; listen?: string[] } = {}): Promise<Peer> {
  const peer = await Peer.create({
    listen: [],
    udp: false,
    lan: false,
    webrtc: false,
    firewall: { allow: 'all' },
    ...options,
  })
  onTestFinished(() => peer.close({ signal: AbortSignal.timeout(500) }))
  return peer
}

export class TestNode {
  readonly log: FakeLog
  readonly identity: Identity
  readonly peer: Peer
  readonly #limits: LedgerLimits
  readonly #source: LeafSource
  service: LedgerService
  /** Changes what the node says; undefined: it says nothing. */
  lie: ((answer: Answer) => Answer | undefined) | undefined

  private constructor(peer: Peer, log: FakeLog, source: LeafSource, limits: LedgerLimits) {
    this.peer = peer
    this.identity = peer.identity
    this.log = log
    this.#source = source
    this.#limits = limits
    this.service = new LedgerService({ ledger: source, identity: this.identity, limits })
    peer.handleStream(LEDGER_PROTOCOL, (stream, context) => this.service.serve(this.#speaking(stream), context))
    onTestFinished(() => this.service.close())
  }

  static async start(
    options: { log?: FakeLog; source?: LeafSource; limits?: LedgerLimits; identity?: Identity } = {},
  ): Promise<TestNode> {
    const { log = new FakeLog(), limits = {}, identity = Identity.generate() } = options
    const peer = await startQuietPeer({ identity, listen: ['127.0.0.1:0'] })
    return new TestNode(peer, log, options.source ?? log, limits)
  }

  /** Forgets what it has said: from now on it shows what the log has now. */
  restart(source: LeafSource = this.#source): void {
    void this.service.close()
    this.service = new LedgerService({ ledger: source, identity: this.identity, limits: this.#limits })
  }

  /** A peer, and its session with the node. */
  async visit(identity = Identity.generate()): Promise<{ peer: Peer; session: Session }> {
    const peer = await startQuietPeer({ identity })
    return { peer, session: await peer.connect(this.peer.id, { addresses: [...this.peer.addresses] }) }
  }

  /** A reader of another peer. */
  async read(
    options: Partial<RemoteLedgerOptions> & { identity?: Identity } = {},
  ): Promise<RemoteLedger & { session: Session }> {
    const { session } = await this.visit(options.identity)
    return Object.assign(await openLedger(session, options), { session })
  }

  #speaking(stream: Stream): Stream {
    const write = (data: Uint8Array) => {
      const { lie } = this
      if (lie === undefined) return stream.write(data)
      const answer = lie(decodeCbor(data.subarray(4), { maxBytes: 1_000_000 }) as Answer)
      return answer === undefined ? Promise.resolve() : stream.write(frame(answer))
    }
    return new Proxy(stream, {
      get: (target, key) => {
        if (key === 'write') return write
        const value: unknown = Reflect.get(target, key, target)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
  }
}

/** A reader in a session that is there. */
export async function openLedger(session: Session, options: Partial<RemoteLedgerOptions> = {}): Promise<RemoteLedger> {
  const signal = AbortSignal.timeout(10_000)
  const ledger = await RemoteLedger.open({ session: async () => session, ...options, signal })
  onTestFinished(() => ledger.close())
  return ledger
}

/** A message as it goes over a stream. */
export function frame(message: unknown): Buffer {
  const body = encodeCbor(message)
  const whole = Buffer.alloc(4 + body.length)
  whole.writeUInt32BE(body.length, 0)
  whole.set(body, 4)
  return whole
}
