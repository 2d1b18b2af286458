/**
 * The dialer: offers become sessions, candidates become paths. Its other end is `answering.ts`.
 *
 *     dial:   offer (candidates, circuits) --signaling--> answer (candidates) --> session --> paths race to attach
 *     answer: offer --> admit --> session --> answer; join circuits; after a moment, dial their candidates too
 *
 * - The dialling side opens its end of the circuit while the offer is still on its way, and attaches with the answer.
 * - Both sides know the session before any path exists, so either may open one to the other.
 * - What is found beyond that is the business of `upgrade.ts`; what becomes of a session without paths, of `reconnect.ts`.
 * - A small request may ride in the offer, and its answer in the answer; whoever is let in is answered, within a moment.
 * - An offer may be for a session that both sides have: then nobody is asked for leave again, and no new one is made. Who
 *   does not know that session says so, and the other side need not wait for it.
 */
import { setMaxListeners } from 'node:events'
import { PeerlineError } from '../errors.ts'
import { createOffer, ReplayCache } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import type { FramedPath, Path } from '../path/index.ts'
import { firstOf, untilAborted } from '../pause.ts'
import type { Session } from '../session/index.ts'
import type { AnswerHow, Signaling } from '../signaling/index.ts'
import { Acceptor, type Admit, type AdmitHow, type Leave } from './acceptor.ts'
import { Answering, type AnsweringOptions, type OwnDial, PATHS_MS } from './answering.ts'
import type { FindRelays } from './bonds.ts'
import {
  type Candidate,
  type ConnectionBody,
  capabilityOf,
  decodeBody,
  type EarlyRequest,
  encodeBody,
  MAX_CIRCUITS,
} from './candidate.ts'
import { openCircuit } from './circuit.ts'
import { type Counted, held } from './counted.ts'
import { DirectDialer } from './direct.ts'
import { exchange, limitsOf, type SignalingOrder } from './exchange.ts'
import { type Called, type CallOptions, Keeper } from './keeper.ts'
import { OwnSide, type OwnSideOptions } from './own-side.ts'
import { type Making, SessionMaker, type SessionMakerOptions } from './session-maker.ts'
import type { Upgrade } from './upgrade.ts'
import { type Via, waysOf } from './via.ts'
import { isSequential } from './ways.ts'

/** ms that a session without a path gets when the peer closes. */
const PATHLESS_CLOSE_MS = 500

export interface ConnectorOptions extends OwnSideOptions, SessionMakerOptions, AnsweringOptions {
  readonly admit: Admit
  /** A path by a relay is kept beside a direct one. */
  readonly standbyRelay: boolean
  /** Relays where sessions that others dialled may have circuits. */
  readonly relays: FindRelays
  /** A session wants signaling now: what is gone is brought back. */
  readonly hurry: () => void
  /** Media that work now. `hidden`: only those that do not tell our address. */
  readonly signaling: (options: { hidden: boolean }) => readonly Signaling[]
  /** Which of them are used first. @default 'cheapest-first' */
  readonly signalingOrder?: SignalingOrder | undefined
  /** Which ways may be used by sessions that others dial. */
  readonly answerVia: Via
  readonly onCircuit?: ((path: FramedPath, circuit: Uint8Array) => void) | undefined
  readonly onProbe?: ((token: Uint8Array, remote: string) => void) | undefined
}

export interface DialOptions {
  /** What we may dial it by. */
  readonly leave?: Leave | undefined
  readonly via: Via
  /** Where circuits may be had; undefined: nowhere. */
  readonly relays?: FindRelays | undefined
  /** Come to no circuit but our own. */
  readonly exclusive?: boolean | undefined
  /** Rides in the offer; called when the answer answers it too, before the session is there. A dial under way takes none. */
  readonly early?: (EarlyRequest & { answered(response: Uint8Array): void }) | undefined
  /** By whose leave we come: what an invitation of the other side holds. */
  readonly capability?: Uint8Array | undefined
  /** The only medium to be used. @default all that work */
  readonly medium?: Signaling | undefined
  readonly signal: AbortSignal
}

interface Dialling extends OwnDial {
  readonly via: Via
  readonly promise: Promise<Session>
}

export class Connector {
  readonly acceptor: Acceptor
  /** Dials addresses that are known. */
  readonly direct: DirectDialer
  /** Brings sessions back that have no path. */
  readonly keeper: Keeper
  readonly #options: ConnectorOptions
  readonly #own: OwnSide
  readonly #maker: SessionMaker
  readonly #answering: Answering
  readonly #dialling = new Map<PeerId, Dialling>()
  readonly #closing = new AbortController()

  constructor(options: ConnectorOptions) {
    this.#options = options
    const { identity, tellRefusals, count, mayUse } = options
    const closing = this.#closing.signal
    const accept = (path: FramedPath) => void this.acceptor.accept(path)
    const own = new OwnSide(options, accept, closing)
    const maker = new SessionMaker(options, { own, accept, closing, keep: (bond) => this.keeper.keep(bond) })
    this.#own = own
    this.#maker = maker
    this.keeper = new Keeper({
      ...{ identity, tellRefusals, own, maker, closing },
      reconnectMs: options.reconnectMs,
      standbyRelay: options.standbyRelay,
      hurry: options.hurry,
      media: (how) => options.signaling(how),
      call: (to, body, how) => this.#call(to, body, how),
    })
    const making = (hidden: boolean): Making => {
      const { answerVia, relays } = options
      const relayed = answerVia === 'auto' || answerVia === 'relay'
      return { ways: waysOf(hidden ? 'relay' : answerVia), ...(relayed ? { relays } : {}) }
    }
    this.direct = new DirectDialer({
      ...{ identity, mayUse, count, closing },
      newSession: (keys, peer, { addresses = [], leave, server }) => {
        const by = server ? { ways: waysOf('relay'), server } : making(false)
        return maker.make(keys, peer, { ...by, addresses, leave }).session
      },
    })
    const replay = new ReplayCache()
    this.acceptor = new Acceptor({
      ...{ identity, replay, count, tellRefusals },
      mayCome: mayUse,
      admit: (from, counted, how) => this.#admit(from, counted, { ...how, how: 'direct' }),
      findSession: (id) => maker.bonds.get(id)?.session,
      knows: (peer) => maker.bonds.knows(peer),
      newSession: (keys, peer, leave) => maker.make(keys, peer, { ...making(false), leave }).session,
      resume: (offer) => this.keeper.answer(offer, decodeBody(offer.body), { travelMs: 0 }),
      onCircuit: options.onCircuit,
      onProbe: options.onProbe,
    })
    this.#answering = new Answering(options, {
      ...{ replay, own, maker, making, closing },
      keeper: this.keeper,
      dialling: this.#dialling,
      admit: ({ from, body }, counted) =>
        this.#admit(from, counted, { how: 'signaled', capability: () => capabilityOf(body) }),
    })
  }

  /** Sessions that have not ended. */
  get sessions(): Session[] {
    return [...this.#maker.bonds].map(({ session }) => session)
  }

  /** Those with peers: without the ones with servers that we dialled as such. */
  get peerSessions(): Session[] {
    return this.#maker.bonds.filed
  }

  /** The newest usable session with a peer. */
  find(peer: PeerId): Session | undefined {
    const sessions = this.#maker.bonds.of(peer).filter((session) => session.state !== 'closing')
    return sessions.findLast((session) => session.state === 'open') ?? sessions.at(-1)
  }

  /**
   * A session with `to`, by signaling: resolves as soon as both sides own the keys; paths follow.
   * @throws PeerlineError `ERR_PEERLINE_NO_ADDRESS`, `ERR_PEERLINE_OFFLINE`, the other side's refusal, …
   */
  dial(to: PeerId, options: DialOptions): Promise<Session> {
    const { via, leave, signal } = options
    const running = this.#dialling.get(to)
    if (running?.via === via && options.medium === undefined)
      return untilAborted(running.promise, signal, `dialling ${to}`)
    const cancel = new AbortController()
    let settle: Dialling['settle'] = () => {}
    const promise = new Promise<Session>((resolve, reject) => {
      settle = (session) => {
        resolve(session)
        cancel.abort()
      }
      const either = firstOf(signal, cancel.signal, this.#closing.signal)
      this.#dial(to, { ...options, signal: either }).then(
        (session) => {
          resolve(session)
          // Circuits may be on their way for as long as there is a session.
          void session.closed.then(() => cancel.abort())
        },
        (error) => {
          reject(error)
          cancel.abort()
        },
      )
    })
    // Only one of several can be settled from the other side: the first.
    if (running !== undefined) return promise
    this.#dialling.set(to, { via, leave, promise, settle })
    return promise.finally(() => this.#dialling.delete(to))
  }

  async #dial(to: PeerId, options: DialOptions): Promise<Session> {
    const counted = this.#options.count({ direction: 'out', peer: to })
    return (await held(counted, async () => ({ session: await this.#dialCounted(to, options, counted) }))).session
  }

  async #dialCounted(to: PeerId, options: DialOptions, counted: Counted): Promise<Session> {
    const { via, relays, exclusive = false, early, capability, medium, leave, signal } = options
    const own = this.#own
    const ways = waysOf(via)
    // Alone it is described in the offer itself; beside other ways it waits until those have failed.
    const webrtc = via === 'webrtc' ? await own.offerWebRtc() : undefined
    const told = own.body(ways)
    // While the offer travels there is time for a look at ports that our NAT counts up.
    const fresh = ways.size > 0 && isSequential(this.#options.vantage().nat) ? own.refresh(signal) : undefined
    try {
      const offered = { ...told, webrtc: webrtc?.description, early, capability }
      const called = await this.#call(to, offered, { ways, relays, media: medium && [medium], signal })
      const { remote, circuits } = called
      try {
        counted.establish(to)
      } catch (error) {
        drop(circuits)
        throw error
      }
      if (remote.earlyAnswer !== undefined) early?.answered(remote.earlyAnswer)
      const { keys, fireInMs, signaled } = called
      // Where both begin together, later, that is when the time for the first path begins.
      const firstPathMs = fireInMs > 0 ? fireInMs + PATHS_MS : undefined
      const bond = this.#maker.make(keys, to, { ways, relays, joins: !exclusive, leave, signaled, firstPathMs })
      const { session } = bond
      bond.hidden = remote.hidden === true
      this.#maker.learn(to, remote)
      const attached = circuits.map(async (circuit) => session.attach(await circuit))
      const upgrade = this.#maker.seek(bond, { fresh, webrtc, relayed: circuits.length > 0 })
      this.keeper.standBy(bond)
      void watch(session, attached, upgrade, upgrade?.begin(remote, fireInMs))
      // We have learned more of ourselves while the offer was on its way, as a peer does that has just come online.
      if (!sameCandidates(told.candidates, own.body(ways).candidates)) upgrade?.again()
      return session
    } catch (error) {
      webrtc?.close()
      throw error
    }
  }

  /**
   * Sends an offer by the media there are, with circuits; our ends of those are opened meanwhile.
   * @throws PeerlineError as {@link dial}
   */
  async #call(to: PeerId, body: Partial<ConnectionBody>, how: CallOptions): Promise<Called> {
    const { identity, signaling, signalingOrder } = this.#options
    const { ways, media = signaling({ hidden: ways.size === 0 }), signal } = how
    if (media.length === 0) {
      throw new PeerlineError(
        'ERR_PEERLINE_NO_ADDRESS',
        `no way to signal ${to}: no rendezvous and no address is known`,
      )
    }
    const relays = (await how.relays?.(signal)) ?? []
    const minted = relays.slice(0, MAX_CIRCUITS).map((reservation) => reservation.mint())
    const { maxBytes, lifetimeMs } = limitsOf(media)
    const offer = createOffer(identity, to, {
      body: encodeBody({ ...body, circuits: minted.map((circuit) => circuit.offer) }, { maxBytes }),
      lifetimeMs,
    })
    const circuits = minted.map(({ own, offer: { relay } }) => openCircuit(relay, own, signal))
    for (const circuit of circuits) circuit.catch(() => {})
    try {
      const { body: answered, ...rest } = await exchange(media, offer, { signal, order: signalingOrder })
      return { ...rest, remote: decodeBody(answered), circuits }
    } catch (error) {
      drop(circuits)
      if (offer.answered) how.onRefused?.()
      throw error
    }
  }

  /** Answers an offer that a medium brought. Never rejects; undefined means silence. */
  answer(message: Uint8Array, how?: AnswerHow): Promise<Uint8Array | undefined> {
    return this.#answering.answer(message, how)
  }

  async #admit(from: PeerId, counted: Counted, how: AdmitHow): Promise<Leave | undefined> {
    const leave = await this.#options.admit(from, how)
    // Asked last: the approver may have thought for long.
    if (this.#closing.signal.aborted) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'this peer is closing')
    counted.establish(from)
    return leave
  }

  /** The network is another one: every path has to answer within `patienceMs`. */
  probe(patienceMs: number): void {
    for (const { session } of this.#maker.bonds) session.probe(patienceMs)
  }

  /** The search for direct paths of a session; none where no address of ours may show. */
  upgradeOf(session: Session): Upgrade | undefined {
    return this.#maker.bonds.get(session.id)?.upgrade
  }

  /** Ends every dial and every session in order. */
  async close(options: { signal?: AbortSignal } = {}): Promise<void> {
    this.#closing.abort(new PeerlineError('ERR_PEERLINE_CLOSED', 'the peer was closed'))
    this.acceptor.close()
    const each: { signal?: AbortSignal } = {}
    if (options.signal !== undefined) {
      // A signal of our own: there is a listener for each session, of which the caller's need not be warned.
      each.signal = AbortSignal.any([options.signal])
      setMaxListeners(0, each.signal)
    }
    await Promise.all(
      this.sessions.map((session) => {
        session.seekNoMore(PATHLESS_CLOSE_MS)
        return session.close(each)
      }),
    )
  }
}

/** Ends circuits that are of no use, also those that only come to be. */
function drop(circuits: readonly Promise<Path>[]): void {
  for (const circuit of circuits) circuit.then((path) => path.destroy()).catch(() => {})
}

function sameCandidates(some: readonly Candidate[] = [], others: readonly Candidate[] = []): boolean {
  return JSON.stringify(some) === JSON.stringify(others)
}

/** Ends a session whose every attempt failed, when the other side has no way in either: nobody need wait. */
async function watch(
  session: Session,
  circuits: readonly Promise<void>[],
  upgrade: Upgrade | undefined,
  direct: Promise<void> | undefined,
): Promise<void> {
  const outcomes = await Promise.allSettled(circuits)
  const failures = outcomes.filter((outcome) => outcome.status === 'rejected')
  if (failures.length < outcomes.length) return
  await direct
  const reachable = upgrade?.mayBeDialled ?? false
  if (reachable || session.state !== 'connecting' || session.pathInfo.length > 0) return
  const reasons = [...failures.map(({ reason }) => reason as Error), upgrade?.failure()]
  const why = reasons.flatMap((reason) => reason?.message ?? []).join('; ') || 'none was offered'
  session.abort(new PeerlineError('ERR_PEERLINE_NO_PATH', `no path to ${session.peer} worked: ${why}`))
}
