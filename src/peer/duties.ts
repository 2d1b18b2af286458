/**
 * What a peer does besides connecting: tasks, orders, routines, the trust handshake, and its part as a bootstrap node and with
 * such nodes.
 */
import type { Identity, PeerId } from '../identity/index.ts'
import {
  PEERS_PROTOCOL,
  PeerExchange,
  type PeerExchangeOptions,
  PING,
  pingHandler,
  type RequestOptions,
  request,
} from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import { type KnownTask, Routines, TaskQueue } from '../tasks/index.ts'
import { Bootstrap } from './bootstrap.ts'
import { addDefaultRoutines } from './default-routines.ts'
import type { Exchanges } from './exchanges.ts'
import type { Place } from './finding.ts'
import type { Handlers } from './handlers.ts'
import type { Memory } from './memory.ts'
import type { PeerOptions } from './options.ts'
import { ORDER_PROTOCOL, OrderGiver, type OrderOutcome, Orders } from './orders.ts'
import type { Standing } from './standing.ts'
import { taskActions } from './task-actions.ts'

export interface DutiesHost {
  readonly identity: Identity
  readonly memory: Memory
  readonly standing: Standing
  readonly exchanges: Exchanges
  readonly handlers: Handlers
  /** Sessions with peers. */
  readonly sessions: () => readonly Session[]
  /** Sessions with the rendezvous, which list us. */
  readonly nodes: () => readonly Session[]
  readonly place: () => Place
  readonly reach: (peer: PeerId, options: { signal: AbortSignal }) => Promise<Session>
  /** Aborted when the peer closes. */
  readonly closing: AbortSignal
}

export class Duties {
  readonly tasks: TaskQueue
  readonly routines = new Routines()
  readonly bootstrap: Bootstrap
  readonly #giver: OrderGiver
  readonly #host: DutiesHost

  constructor(host: DutiesHost, { tasks, onSettings, handOutPeers = false }: PeerOptions) {
    this.#host = host
    const { identity, memory, standing, exchanges, handlers, sessions, nodes, place } = host
    const { bans, firewall, known } = memory
    const { trust, identifier, authorities } = standing
    const self = identity.peerId
    this.tasks = new TaskQueue({
      ...tasks,
      execute: taskActions({
        ...{ self, firewall, bans, known, identifier, trust, exchanges, onSettings },
        reach: host.reach,
        sessionsOf: (peer) => sessions().filter((session) => session.peer === peer),
      }),
    })
    this.#giver = new OrderGiver(identity)
    const orders = new Orders({ identity, authorities, tasks: this.tasks, flush: () => memory.flush() })
    handlers.request(ORDER_PROTOCOL, orders.handle)
    standing.attach(firewall)
    handlers.request(PING, pingHandler)
    trust?.attach(firewall, { self })
    for (const [protocol, handler] of trust?.handlers ?? []) handlers.request(protocol, handler)
    this.bootstrap = new Bootstrap({ identity, known, nodes, place })
    addDefaultRoutines(this.routines, { bans, bootstrap: this.bootstrap, sessions })
    if (handOutPeers !== false) this.#handOutPeers(handOutPeers === true ? {} : handOutPeers)
  }

  /** Lists peers that ask for it, and hands out their records. */
  #handOutPeers(options: PeerExchangeOptions): void {
    const { handlers, memory, closing } = this.#host
    const exchange = new PeerExchange(options)
    handlers.stream(PEERS_PROTOCOL, (stream, { from }) => exchange.serve(stream, { from, closing }))
    memory.bans.addEventListener('ban', ({ detail: { ban } }) => {
      if (ban.kind === 'peer') exchange.remove(ban.target as PeerId)
    })
  }

  /** Runs the trust handshake, if there is one, with who has come. */
  meet(session: Session): void {
    const { trust } = this.#host.standing
    if (trust === undefined) return
    const gone = new AbortController()
    session.addEventListener('close', () => gone.abort())
    const ask = async (protocol: string, body: Uint8Array, options: RequestOptions & { signal: AbortSignal }) => {
      await session.opened({ signal: options.signal })
      return request(session, protocol, body, options)
    }
    // Not when it is open: what it asks first comes with the first path.
    void trust.arrived(session.peer, { request: ask }, { signal: gone.signal })
  }

  /** Orders a peer to do a task. @throws as {@link Exchanges.request} */
  order(to: PeerId, task: KnownTask, options: Parameters<Exchanges['request']>[3]): Promise<OrderOutcome> {
    const { exchanges } = this.#host
    const ask = (order: Uint8Array) => exchanges.request(to, ORDER_PROTOCOL, order, options)
    return this.#giver.give(to, task, ask, { once: options.key !== undefined })
  }

  close(): void {
    this.routines.close()
    this.tasks.close()
    this.#host.standing.trust?.close()
  }
}
