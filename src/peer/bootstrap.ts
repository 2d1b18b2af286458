/**
 * Peers that a peer learns of from its bootstrap nodes, and being learned of: nodes list who asks for it, and hand out signed
 * records, which say where a peer listens. Nobody is dialled for being told of.
 */
import type { KnownPeers } from '../discovery/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { type Identity, type PeerRecord, signRecord } from '../identity/index.ts'
import { registerRecord, requestPeers } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { Place } from './finding.ts'

/** ms that a record says where we are: some routine renews it long before. */
const RECORD_LIFE_MS = 3_600_000

export interface BootstrapHost {
  readonly identity: Identity
  readonly known: KnownPeers
  /** Sessions with the nodes. */
  readonly nodes: () => readonly Session[]
  readonly place: () => Place
}

export class Bootstrap {
  readonly #host: BootstrapHost

  constructor(host: BootstrapHost) {
    this.#host = host
  }

  /**
   * Asks the nodes for peers; where these are goes into the address book.
   * @throws PeerlineError of the first node when none answered; `ERR_PEERLINE_OFFLINE` when there is none
   */
  async find(options: { signal?: AbortSignal; max?: number; capability?: string } = {}): Promise<PeerRecord[]> {
    const { identity, known } = this.#host
    const told = await this.#each((node) => requestPeers(node, { ...options, self: identity.peerId }))
    const found = new Map(told.flatMap(({ peers }) => peers).map((record) => [record.peerId, record]))
    for (const record of found.values()) known.learnRecord(record)
    return [...found.values()]
  }

  /**
   * Has the nodes list us: our record, with where we listen, is handed out to whoever asks.
   * @returns ms until it has to be done again
   * @throws PeerlineError as {@link find}
   */
  async list(options: { signal?: AbortSignal; capabilities?: readonly string[] } = {}): Promise<number> {
    const record = this.record(Date.now() + RECORD_LIFE_MS, options.capabilities)
    const { signal } = options
    return Math.min(
      ...(await this.#each((node) => registerRecord(node, record, signal === undefined ? {} : { signal }))),
    )
  }

  /** Our record until `expiresAt`. */
  record(expiresAt: number, capabilities: readonly string[] = []): Uint8Array {
    const { identity, place } = this.#host
    return signRecord(identity, { ...place(), sequence: Date.now(), expiresAt, capabilities })
  }

  /** What those nodes say that answer. */
  async #each<T>(ask: (node: Session) => Promise<T>): Promise<T[]> {
    const nodes = this.#host.nodes()
    if (nodes.length === 0) throw new PeerlineError('ERR_PEERLINE_OFFLINE', 'no bootstrap node is reached')
    const answers = await Promise.allSettled(nodes.map(ask))
    const said = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
    if (said.length > 0) return said
    throw asPeerlineError((answers[0] as PromiseRejectedResult).reason, 'ERR_PEERLINE_REMOTE')
  }
}
