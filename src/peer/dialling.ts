/**
 * The order in which a peer is sought: where the caller says, then by signaling, and at last where it was.
 *
 *     leave --> addresses given --not there in time--> signaling --nobody knows where it is--> addresses remembered
 *
 * Without a rendezvous and without addresses given, those remembered come first: there is nobody who knows better.
 * Whoever wants the same at once shares one dial, which goes on until nobody waits for it any more.
 */
import { type Connector, type Leave, untilAborted, type Via } from '../connect/index.ts'
import type { KnownPeers } from '../discovery/index.ts'
import type { ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import type { Gate } from './gate.ts'
import type { ConnectOptions } from './options.ts'
import type { Relays } from './relays.ts'

/** ms that known addresses get before the rendezvous is asked as well. */
const DIRECT_FIRST_MS = 3_000

/** A dial that failed so says nothing of where the peer is. */
const UNFOUND: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_PEERLINE_OFFLINE',
  // The rendezvous has just closed its session.
  'ERR_PEERLINE_CLOSED',
  'ERR_PEERLINE_NO_ADDRESS',
  'ERR_PEERLINE_UNREACHABLE',
])

/** A direct dial that failed so says that the peer is not at the address. */
const NOT_THERE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'ERR_PEERLINE_UNREACHABLE',
  'ERR_PEERLINE_TIMEOUT',
  'ERR_PEERLINE_WRONG_PEER',
])

export interface DiallingOptions {
  readonly connector: Connector
  readonly gate: Gate
  readonly known: KnownPeers
  readonly relays: Relays
  /** There are rendezvous to be asked. */
  readonly hasRendezvous: () => boolean
  /** The local network, or mutual peers, can be asked. */
  readonly hasOthers: () => boolean
  /** Resolves when a rendezvous is there. */
  readonly online: (signal: AbortSignal) => Promise<void>
  /** Resolves when it is known how others see this peer. */
  readonly settled: () => Promise<void>
}

type Dial = ConnectOptions & { readonly via: Via; readonly signal: AbortSignal }

/** A dial under way, and how many wait for it. */
interface Running {
  readonly promise: Promise<Session>
  readonly cancel: AbortController
  waiting: number
}

export class Dialling {
  readonly #options: DiallingOptions
  /** By whom, and how, they dial. */
  readonly #running = new Map<string, Running>()

  constructor(options: DiallingOptions) {
    this.#options = options
  }

  /** A session with a peer, where we may have one. @throws PeerlineError as `Peer.connect` */
  async dial(id: PeerId, dial: Dial): Promise<Session> {
    const { via, relay, addresses = [], signal } = dial
    const key = JSON.stringify([id, via, relay ?? null, addresses])
    const running = this.#running.get(key) ?? this.#begin(key, id, dial)
    running.waiting++
    try {
      return await untilAborted(running.promise, signal, `dialling ${id}`)
    } finally {
      if (--running.waiting === 0 && signal.aborted) {
        this.#over(key, running)
        running.cancel.abort(signal.reason)
      }
    }
  }

  #begin(key: string, id: PeerId, dial: Dial): Running {
    const cancel = new AbortController()
    const promise = this.#dial(id, { ...dial, signal: cancel.signal })
    const running: Running = { promise, cancel, waiting: 0 }
    this.#running.set(key, running)
    const over = () => this.#over(key, running)
    promise.then(over, over)
    return running
  }

  #over(key: string, running: Running): void {
    if (this.#running.get(key) === running) this.#running.delete(key)
  }

  async #dial(id: PeerId, dial: Dial): Promise<Session> {
    const { gate, known, hasRendezvous, hasOthers } = this.#options
    const { via, addresses = [], signal } = dial
    const leave = await gate.permit(id, signal)
    const direct = via === 'auto' || via === 'direct' || via === 'tcp'
    const alone = !hasRendezvous()
    let remembered = direct && addresses.length === 0 ? known.addressesOf(id) : []
    let first = direct ? addresses : []
    if (alone && !hasOthers() && addresses.length === 0) [first, remembered] = [remembered, []]
    if (first.length > 0) {
      const limited = alone ? signal : AbortSignal.any([signal, AbortSignal.timeout(DIRECT_FIRST_MS)])
      try {
        return await this.#direct(id, first, { signal: limited, leave })
      } catch (error) {
        // Whoever was reached and refused would refuse again.
        const { code } = error as PeerlineError
        if (alone || signal.aborted || code === 'ERR_PEERLINE_DENIED') throw error
      }
    }
    try {
      return await this.#signaled(id, dial, leave)
    } catch (error) {
      const { code } = error as PeerlineError
      if (!UNFOUND.has(code) || signal.aborted || remembered.length === 0) throw error
      // What signaling says is better known than why an old address no longer is one.
      return await this.#direct(id, remembered, { signal, leave }).catch(() => Promise.reject(error))
    }
  }

  async #direct(
    id: PeerId,
    addresses: readonly string[],
    options: { signal: AbortSignal; leave: Leave },
  ): Promise<Session> {
    const { connector, known } = this.#options
    try {
      const session = await connector.direct.dial(id, addresses, options)
      known.connected(id, { direction: 'out', address: session.remote })
      return session
    } catch (error) {
      if (NOT_THERE.has((error as PeerlineError).code)) for (const address of addresses) known.failed(id, address)
      throw error
    }
  }

  async #signaled(id: PeerId, { via, relay, early, signal }: Dial, leave: Leave): Promise<Session> {
    const { connector, relays, hasRendezvous, hasOthers, online, settled } = this.#options
    if (hasRendezvous()) {
      await online(signal).catch((error) => {
        // The local network, and mutual peers, answer by themselves, should no rendezvous be reached.
        if (!hasOthers() || signal.aborted) throw error
      })
    }
    // Without a relay there is no second chance to say where we are: it must be known when the offer goes out.
    if (via !== 'auto' && via !== 'relay') await untilAborted(settled(), signal, `dialling ${id}`)
    const relayed = via === 'auto' || via === 'relay'
    return connector.dial(id, {
      via,
      relays: relayed ? (given) => relays.find(relay, given) : undefined,
      exclusive: relay?.exclusive,
      early,
      signal,
      leave,
    })
  }
}
