/**
 * The order in which a peer is sought: where the caller says, then by signaling, and at last wherever it may be.
 *
 *     leave --> addresses given --not there in time--> signaling --nobody knows where it is--> addresses remembered
 *                                                                                          --> rendezvous of its own
 *                                                                                          --> peers that may introduce us
 *
 * - Without a rendezvous and without addresses given, those remembered are tried beside: there is nobody who knows better.
 * - A rendezvous that does not answer is not waited for: what comes after it is tried beside it.
 * - Whoever wants the same at once shares one dial, which goes on until nobody waits for it any more.
 */
import { toHex } from '../bytes/index.ts'
import { type Connector, type FindRelays, type Leave, under, untilAborted, type Via } from '../connect/index.ts'
import type { KnownAddress, KnownPeers } from '../discovery/index.ts'
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import type { Session } from '../session/index.ts'
import type { Signaling } from '../signaling/index.ts'
import type { Gate } from './gate.ts'
import { dialable } from './hearsay.ts'
import { type Resort, together, tryAll } from './last-resorts.ts'
import type { ConnectOptions } from './options.ts'
import type { Relays } from './relays.ts'
import type { Visits } from './visits.ts'

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

/** ms to learn what others see of us: as long as peers are asked for it at most, and a little. */
const SETTLE_MS = 3_500

export interface DiallingOptions {
  readonly connector: Connector
  readonly gate: Gate
  readonly known: KnownPeers
  readonly relays: Relays
  readonly visits: Visits
  /** Whether an address that a peer, or a record, named may be dialled. */
  readonly mayDial: (host: string) => boolean
  /** Seeks sessions with peers that may introduce us; undefined where none is known, or they are not to be asked. */
  readonly seekIntroducers: (to: PeerId) => ((signal: AbortSignal) => Promise<Signaling>) | undefined
  /** Learns from the DHT where a peer may be; undefined without one. */
  readonly seekRecord: ((to: PeerId, signal: AbortSignal) => Promise<void>) | undefined
  /** One of our rendezvous is there. */
  readonly isOnline: () => boolean
  /** There are rendezvous to be asked. */
  readonly hasRendezvous: () => boolean
  /** The local network, or mutual peers, can be asked. */
  readonly hasOthers: () => boolean
  /** Resolves when a rendezvous is there. */
  readonly online: (signal: AbortSignal) => Promise<void>
  /** Resolves when it is known how others see this peer. */
  readonly settled: () => Promise<void>
}

/** Where a peer may be dialled at an address that is known of it. */
const AT_ADDRESSES: ReadonlySet<Via> = new Set<Via>(['auto', 'direct', 'tcp'])

type Dial = ConnectOptions & { readonly via: Via; readonly signal: AbortSignal }

type Directly = { signal: AbortSignal; leave: Leave; capability?: Uint8Array | undefined }

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
    const { via, relay, addresses = [], medium, capability, signal } = dial
    const key = JSON.stringify([
      id,
      via,
      relay ?? null,
      addresses,
      medium?.name ?? null,
      capability === undefined ? null : toHex(capability),
    ])
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
    const { gate, isOnline, hasRendezvous, hasOthers } = this.#options
    const { via, addresses = [], relay, medium, capability, signal } = dial
    const leave = await gate.permit(id, signal)
    const signaled = (limited: AbortSignal) => this.#signaled(id, { ...dial, signal: limited }, leave)
    if (medium !== undefined || via === 'relay' || relay?.exclusive) return signaled(signal)
    const asked = { ...resort(signaled), telling: true }
    const signals = hasRendezvous() || hasOthers()
    if (AT_ADDRESSES.has(via) && addresses.length > 0) {
      const given = (limited: AbortSignal) => this.#direct(id, addresses, { signal: limited, leave, capability })
      // The local network knows less of it than whoever has given the address.
      const here = { ...resort(given), telling: !hasRendezvous() }
      return tryAll([here, ...(signals ? [asked] : []), ...this.#others(id, dial, leave)], signal)
    }
    if (!isOnline()) {
      const [likeliest, ...others] = this.#others(id, dial, leave)
      if (likeliest === undefined) return tryAll([asked], signal)
      // The local network, and mutual peers, take their time to say no.
      const places = [{ ...likeliest, beside: !hasRendezvous() }, ...others]
      return tryAll([...(signals ? [asked] : []), ...places], signal)
    }
    try {
      // It is there, and knows better than anybody else.
      return await signaled(signal)
    } catch (error) {
      if (!UNFOUND.has((error as PeerlineError).code) || signal.aborted) throw error
      const others = this.#others(id, dial, leave)
      // What signaling says is better known than why an old address no longer is one.
      return await tryAll(others, signal).catch(() => Promise.reject(error))
    }
  }

  /** Where else it may be, the likeliest first. */
  #others(id: PeerId, dial: Dial, leave: Leave): Resort<Session>[] {
    const { seekIntroducers, seekRecord } = this.#options
    const others = this.#places(id, dial, leave)
    const seek = seekIntroducers(id)
    if (seek !== undefined) {
      others.push(resort(async (signal) => this.#dialBy(id, { ...dial, medium: await seek(signal), signal }, leave)))
    }
    if (seekRecord !== undefined) {
      const found = async (signal: AbortSignal) => {
        await seekRecord(id, signal)
        return tryAll(this.#places(id, { ...dial, addresses: [] }, leave), signal)
      }
      others.push({ ...resort(found), final: false })
    }
    return others
  }

  /** Where the address book says that it is, or may be asked. */
  #places(id: PeerId, dial: Dial, leave: Leave): Resort<Session>[] {
    const { known, visits } = this.#options
    const { via, addresses = [], capability } = dial
    const remembered = AT_ADDRESSES.has(via) && addresses.length === 0 ? (known.get(id)?.addresses ?? []) : []
    const places: Resort<Session>[] = visits.at(known.rendezvousOf(id)).map(({ medium, relays }) => {
      // Its relay is ours for the time: we may have none.
      const visit = (signal: AbortSignal) => this.#dialBy(id, { ...dial, medium, signal }, leave, relays)
      return { ...resort(visit), final: false }
    })
    if (remembered.length > 0) {
      places.unshift(resort((signal) => this.#remembered(id, remembered, { signal, leave, capability })))
    }
    return places
  }

  async #remembered(id: PeerId, places: readonly KnownAddress[], options: Directly): Promise<Session> {
    const addresses = await dialable(places, this.#options.mayDial, options.signal)
    if (addresses.length > 0) return this.#direct(id, addresses, options)
    throw new PeerlineError(
      'ERR_PEERLINE_UNREACHABLE',
      `nothing that is known of ${id} is an address that may be dialled`,
    )
  }

  async #direct(id: PeerId, addresses: readonly string[], options: Directly): Promise<Session> {
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

  /** Dials by the medium that the caller has chosen, or by all that work. */
  async #signaled(id: PeerId, dial: Dial, leave: Leave): Promise<Session> {
    const { hasRendezvous, hasOthers, online } = this.#options
    const { signal } = dial
    let unreached: unknown
    if (hasRendezvous() && dial.medium === undefined) {
      await online(signal).catch((error) => {
        // The local network, and mutual peers, answer by themselves, should no rendezvous be reached.
        if (!hasOthers() || signal.aborted) throw notByPeer(error)
        unreached = error
      })
    }
    return this.#dialBy(id, dial, leave).catch((error) => Promise.reject(together(error, [unreached])))
  }

  /** @param more relays besides ours */
  async #dialBy(id: PeerId, dial: Dial, leave: Leave, more?: FindRelays): Promise<Session> {
    const { connector, relays } = this.#options
    const { via, relay, early, capability, medium, signal } = dial
    const ours: FindRelays = (given) => relays.find(relay, given)
    const all: FindRelays =
      more === undefined ? ours : async (given) => [...(await ours(given)), ...(await more(given))]
    const circuits = via === 'auto' || via === 'relay' ? all : undefined
    // A relay that was chosen is waited for in any case.
    if (via !== 'relay' && relay === undefined) await this.#ready(circuits, signal)
    const how = { via, early, capability, medium, signal, leave }
    return connector.dial(id, { ...how, relays: circuits, exclusive: relay?.exclusive })
  }

  /**
   * Without a relay there is no second chance to say where we are: it must be known when the offer goes out, as far as that is to
   * be known soon.
   */
  async #ready(relays: FindRelays | undefined, signal: AbortSignal): Promise<void> {
    if (relays !== undefined && (await relays(signal)).length > 0) return
    const settled = (limited: AbortSignal) => untilAborted(this.#options.settled(), limited, 'dialling')
    await under([signal, AbortSignal.timeout(SETTLE_MS)], settled).catch((error) => {
      if (signal.aborted) throw error
    })
  }
}

/** That no rendezvous takes us is no refusal by the peer, which would be the end of the dial. */
function notByPeer(error: unknown): unknown {
  if (!isPeerlineError(error) || error.code !== 'ERR_PEERLINE_DENIED') return error
  const { message, recover } = error
  return new PeerlineError('ERR_PEERLINE_UNREACHABLE', `no rendezvous takes us: ${message}`, { cause: error, recover })
}

/** A session that comes when there is one already is of no use. */
function resort(run: (signal: AbortSignal) => Promise<Session>): Resort<Session> {
  return { run, late: (session) => void session.close().catch(() => {}) }
}
