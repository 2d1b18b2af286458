/**
 * The dialer, and the other end of it: offers and answers become sessions, candidates become paths.
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
 * - Two peers that dial each other at once: the offer of the one with the smaller id stands, the other's is dropped.
 */
import { setMaxListeners } from 'node:events'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, openOffer, type ReceivedOffer, ReplayCache, type SessionKeys } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { formatHostPort } from '../network/address.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import { type FramedPath, WebRtcAttempt, type WebRtcOptions } from '../path/index.ts'
import {
  type Explanation,
  type MemoryBudget,
  type Opening,
  type PathTiming,
  Session,
  type SessionRate,
  type Stream,
} from '../session/index.ts'
import type { Signaling } from '../signaling/index.ts'
import { Acceptor, type Admit, type Leave } from './acceptor.ts'
import { Answers } from './answers.ts'
import { type Bond, Bonds, type FindRelays } from './bonds.ts'
import {
  type Candidate,
  type ConnectionBody,
  decodeBody,
  type EarlyRequest,
  encodeBody,
  MAX_CIRCUITS,
  mayDial,
} from './candidate.ts'
import { joinCircuits, openCircuit } from './circuit.ts'
import { type Claim, type Counted, held } from './counted.ts'
import { DirectDialer } from './direct.ts'
import { type Exchanged, exchange } from './exchange.ts'
import { type CallOptions, Keeper } from './keeper.ts'
import { firstOf, untilAborted } from './pause.ts'
import type { BirthdayBudget } from './punch-udp.ts'
import { Upgrade } from './upgrade.ts'
import { isSequential, type Vantage, type Way, type WebRtcSetup, wayOf, webRtcOptions } from './ways.ts'
import { explain } from './why.ts'

/**
 * Which ways may be used: everything; relays only (no address of ours is told); no relay at all; or one kind of direct
 * path alone.
 */
export type Via = 'auto' | 'relay' | 'direct' | Way

/** The direct ways that may be used. */
function waysOf(via: Via): ReadonlySet<Way> {
  switch (via) {
    case 'auto':
    case 'direct':
      return new Set(['tcp', 'udp', 'webrtc'])
    case 'relay':
      return new Set()
    default:
      return new Set([via])
  }
}

/** Longest wait before the answering side begins: half of the longest round trip to a rendezvous that is believed. */
const MAX_FIRE_IN_MS = 1_000

/** ms that a session without a path gets when the peer closes. */
const PATHLESS_CLOSE_MS = 500

/** ms that paths of other sessions get to answer when their peer begins anew. */
const DOUBTED_MS = 4_000

export interface ConnectorOptions {
  readonly identity: Identity
  readonly admit: Admit
  readonly tellRefusals: boolean
  /** False for an address (an IP literal) that is shut out, both ways. */
  readonly mayUse: (host: string) => boolean
  /** Counts a connection. @throws PeerlineError when there are too many */
  readonly count: (claim: Claim) => Counted
  /**
   * `server`: we dialled it for its services; it is not found by its peer id, and no other path to it will come. `leave`: what
   * the peer was let in by, or we may dial it by.
   */
  readonly onSession: (session: Session, options: { server: boolean; leave: Leave | undefined }) => void
  /** ms that a session may be without a path. @default 60_000 */
  readonly reconnectMs?: number | undefined
  /** How soon the end of a path is noticed. */
  readonly timing?: Partial<PathTiming> | undefined
  /** A relay path is kept beside a direct one. */
  readonly standbyRelay: boolean
  /** Relays where sessions that others dialled may have circuits. */
  readonly relays: FindRelays
  /** A session wants signaling now: what is gone is brought back. */
  readonly hurry: () => void
  readonly onStream: (session: Session, stream: Stream) => void
  /**
   * Answers a request that came in the offer of a peer that was let in; undefined: it is to ask in the session. It must
   * not take long, nor reject: the answer to the offer waits for it. @default none is answered
   */
  readonly onEarly?: ((from: PeerId, request: EarlyRequest) => Promise<Uint8Array | undefined>) | undefined
  /** A peer told where it listens (`host:port`), of what may be dialled. */
  readonly onTold: (peer: PeerId, addresses: readonly string[]) => void
  /** Streams open at once in one session, in each direction. */
  readonly maxStreams?: number | undefined
  /** Bytes per second of each session. */
  readonly rate?: SessionRate | undefined
  /** Memory that all sessions share. */
  readonly memory?: MemoryBudget | undefined
  /** Opens streams of ours, where we may; not in sessions with servers. */
  readonly opening: (session: Session, opening: Opening) => Promise<Stream>
  /** Media that work now. `hidden`: only those that do not tell our address. */
  readonly signaling: (options: { hidden: boolean }) => readonly Signaling[]
  /** What we know of ourselves. */
  readonly vantage: () => Vantage
  /** Asks the reflectors anew. */
  readonly refresh: (signal: AbortSignal) => Promise<void>
  readonly openUdp: () => Promise<UdpSocket>
  readonly birthday?: BirthdayBudget | false | undefined
  readonly webrtc: WebRtcSetup | false
  /** Which ways may be used by sessions that others dial. */
  readonly answerVia: Via
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  /** Relays of our own choice: these may have any address. */
  readonly knownRelays: () => readonly string[]
  readonly onCircuit?: ((path: FramedPath, circuit: Uint8Array) => void) | undefined
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
  readonly signal: AbortSignal
}

/** What a session is made with. */
interface Making {
  readonly ways: ReadonlySet<Way>
  readonly relays?: FindRelays | undefined
  readonly joins?: boolean
  readonly addresses?: readonly string[]
  readonly server?: boolean
  readonly leave?: Leave | undefined
}

/** ms between two sets of circuits that the other side may have us come to, inside a session. */
const JOIN_EVERY_MS = 500

interface Dialling {
  readonly via: Via
  readonly leave: Leave | undefined
  readonly promise: Promise<Session>
  /** Ends the dial with a session that came the other way. */
  readonly settle: (session: Session) => void
}

export class Connector {
  readonly acceptor: Acceptor
  /** Dials addresses that are known. */
  readonly direct: DirectDialer
  /** Brings sessions back that have no path. */
  readonly keeper: Keeper
  readonly #options: ConnectorOptions
  readonly #replay = new ReplayCache()
  readonly #bonds = new Bonds()
  readonly #dialling = new Map<PeerId, Dialling>()
  /** When a session last had us come to circuits. */
  readonly #joinedAt = new WeakMap<Session, number>()
  readonly #answers = new Answers()
  readonly #closing = new AbortController()

  constructor(options: ConnectorOptions) {
    this.#options = options
    this.keeper = new Keeper({
      identity: options.identity,
      tellRefusals: options.tellRefusals,
      reconnectMs: options.reconnectMs,
      standbyRelay: options.standbyRelay,
      hurry: options.hurry,
      signals: (how) => options.signaling(how).length > 0,
      bonds: this.#bonds,
      body: (ways) => this.#body(ways),
      call: (to, body, how) => this.#call(to, body, how),
      seek: (bond, begun) => this.#seek(bond, begun),
      describe: (ways, told) => (told === undefined ? this.#describe() : this.#answerWebRtc(told, ways)),
      join: (told) => this.#join(told),
      travel: (told, travelMs) => this.#travel(told, travelMs),
      closing: this.#closing.signal,
    })
    this.direct = new DirectDialer({
      identity: options.identity,
      mayUse: options.mayUse,
      count: options.count,
      newSession: (keys, peer, { addresses = [], leave, server }) => {
        const making = server ? { ways: waysOf('relay'), server } : this.#answering(false)
        return this.#newSession(keys, peer, { ...making, addresses, leave })
      },
      closing: this.#closing.signal,
    })
    this.acceptor = new Acceptor({
      identity: options.identity,
      replay: this.#replay,
      mayCome: options.mayUse,
      count: options.count,
      admit: (from, counted, signal) => this.#admit(from, 'direct', counted, signal),
      tellRefusals: options.tellRefusals,
      findSession: (id) => this.#bonds.get(id)?.session,
      newSession: (keys, peer, leave) => this.#newSession(keys, peer, { ...this.#answering(false), leave }),
      resume: async (offer) => {
        // What a stranger tells is read when it is let in, though then it is only told that we do not know it.
        if (!this.#bonds.knows(offer.from)) await this.#options.admit(offer.from, 'direct')
        return this.keeper.answer(offer, decodeBody(offer.body), 0)
      },
      onCircuit: options.onCircuit,
    })
  }

  /** Sessions that have not ended. */
  get sessions(): Session[] {
    return [...this.#bonds].map(({ session }) => session)
  }

  /** Those with peers: without the ones with servers that we dialled as such. */
  get peerSessions(): Session[] {
    return this.#bonds.filed
  }

  /** The newest usable session with a peer. */
  find(peer: PeerId): Session | undefined {
    const sessions = this.#bonds.of(peer).filter((session) => session.state !== 'closing')
    return sessions.findLast((session) => session.state === 'open') ?? sessions.at(-1)
  }

  /**
   * A session with `to`, by signaling: resolves as soon as both sides own the keys; paths follow.
   * @throws PeerlineError `ERR_PEERLINE_NO_ADDRESS`, `ERR_PEERLINE_OFFLINE`, the other side's refusal, …
   */
  dial(to: PeerId, options: DialOptions): Promise<Session> {
    const { via, leave, signal } = options
    const running = this.#dialling.get(to)
    if (running?.via === via) return untilAborted(running.promise, signal, `dialling ${to}`)
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
    const { via, relays, exclusive = false, early, leave, signal } = options
    const ways = waysOf(via)
    // Alone it is described in the offer itself; beside other ways it waits until those have failed.
    const webrtc = via === 'webrtc' ? await WebRtcAttempt.offer(this.#webrtcOptions()) : undefined
    const told = this.#body(ways)
    // While the offer travels there is time for a look at ports that our NAT counts up.
    const fresh = ways.size > 0 && isSequential(this.#options.vantage().nat) ? this.#refresh(signal) : undefined
    try {
      const call = await this.#call(to, { ...told, webrtc: webrtc?.description, early }, { ways, relays, signal })
      const { remote, circuits } = call
      try {
        counted.establish(to)
      } catch (error) {
        drop(circuits)
        throw error
      }
      if (remote.earlyAnswer !== undefined) early?.answered(remote.earlyAnswer)
      const session = this.#newSession(call.keys, to, { ways, relays, joins: !exclusive, leave })
      const bond = this.#bonds.get(session.id)!
      bond.hidden = remote.hidden === true
      this.#learn(to, remote)
      const attached = circuits.map(async (circuit) => session.attach(await circuit))
      const upgrade = this.#seek(bond, { fresh, webrtc, relayed: circuits.length > 0 })
      this.keeper.standBy(bond)
      void this.#watch(session, attached, upgrade, upgrade?.begin(remote, 0))
      // We have learned more of ourselves while the offer was on its way, as a peer does that has just come online.
      if (!sameCandidates(told.candidates, this.#body(ways).candidates)) upgrade?.again()
      return session
    } catch (error) {
      webrtc?.close()
      throw error
    }
  }

  /**
   * Sends an offer by every medium there is, with circuits; our ends of those are opened meanwhile.
   * @throws PeerlineError as {@link dial}
   */
  async #call(
    to: PeerId,
    body: Partial<ConnectionBody>,
    how: CallOptions,
  ): Promise<{ keys: SessionKeys; remote: ConnectionBody; circuits: readonly Promise<FramedPath>[] }> {
    const { ways, signal } = how
    const media = this.#options.signaling({ hidden: ways.size === 0 })
    if (media.length === 0) {
      throw new PeerlineError(
        'ERR_PEERLINE_NO_ADDRESS',
        `no way to signal ${to}: no rendezvous and no address is known`,
      )
    }
    const relays = (await how.relays?.(signal)) ?? []
    const minted = relays.slice(0, MAX_CIRCUITS).map((reservation) => reservation.mint())
    const offer = createOffer(this.#options.identity, to, {
      body: encodeBody({ ...body, circuits: minted.map((circuit) => circuit.offer) }),
    })
    const circuits = minted.map(({ own, offer: { relay } }) => openCircuit(relay, own, signal))
    for (const circuit of circuits) circuit.catch(() => {})
    try {
      const { keys, body: answered }: Exchanged = await exchange(media, offer, signal)
      return { keys, remote: decodeBody(answered), circuits }
    } catch (error) {
      drop(circuits)
      if (offer.answered) how.onRefused?.()
      throw error
    }
  }

  #webrtcOptions(): WebRtcOptions {
    const { webrtc, vantage } = this.#options
    return webRtcOptions(webrtc, vantage().reflectors, this.#mayDial, this.#closing.signal)
  }

  /** Whether an address that a remote named may be dialled. */
  readonly #mayDial = (host: string): boolean => {
    const { loopback, mayUse } = this.#options
    return mayDial(host, { loopback: loopback() }) && mayUse(host)
  }

  /** Our side, described first; undefined when we have no WebRTC. Never rejects. */
  async #describe(): Promise<WebRtcAttempt | undefined> {
    if (this.#options.webrtc === false) return undefined
    return WebRtcAttempt.offer(this.#webrtcOptions()).catch(() => undefined)
  }

  /** Our side of what the offer describes; undefined when there is nothing, or we have no WebRTC. Never rejects. */
  async #answerWebRtc(remote: ConnectionBody, ways: ReadonlySet<Way>): Promise<WebRtcAttempt | undefined> {
    if (remote.webrtc === undefined || this.#options.webrtc === false || !ways.has('webrtc')) return undefined
    return WebRtcAttempt.answer(remote.webrtc, this.#webrtcOptions()).catch(() => undefined)
  }

  /** Looks at the ports that our NAT gives now. Never rejects. */
  #refresh(signal: AbortSignal): Promise<void> {
    return this.#options.refresh(signal).catch(() => {})
  }

  /** What we tell of ourselves where only `ways` may be used: nothing at all where none may. */
  #body(ways: ReadonlySet<Way>): Partial<ConnectionBody> {
    if (ways.size === 0) return { hidden: true }
    const { candidates, nat, rendezvousRttMs } = this.#options.vantage()
    return { candidates: candidates.filter(({ kind }) => ways.has(wayOf(kind))), nat, rendezvousRttMs }
  }

  /** Where a peer listens is worth remembering; where it is mapped to just now is not. */
  #learn(peer: PeerId, { candidates }: ConnectionBody): void {
    const listening = candidates.filter(({ kind, host }) => kind === 'tcp' && this.#mayDial(host))
    if (listening.length > 0)
      this.#options.onTold(
        peer,
        listening.map(({ host, port }) => formatHostPort(host, port)),
      )
  }

  /** Makes the search for direct paths of a session; none where no address of either side may show. */
  #seek(
    bond: Bond,
    begun: { fresh?: Promise<void> | undefined; webrtc?: WebRtcAttempt | undefined; relayed: boolean },
  ): Upgrade | undefined {
    const { session, keys, ways, hidden } = bond
    if (ways.size === 0 || hidden) return undefined
    const { vantage, refresh, openUdp, birthday } = this.#options
    bond.upgrade = new Upgrade({
      session,
      keys,
      ways,
      relayed: begun.relayed,
      vantage,
      refresh,
      fresh: begun.fresh,
      webrtc: this.#options.webrtc,
      webrtcAttempt: begun.webrtc,
      openUdp,
      accept: (path) => void this.acceptor.accept(path),
      mayDial: this.#mayDial,
      birthday,
      closing: this.#closing.signal,
    })
    return bond.upgrade
  }

  /** Ends a session whose every attempt failed, when the other side has no way in either: nobody need wait. */
  async #watch(
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

  // ---- the answering side ----

  /**
   * Answers an offer that a medium brought. Never rejects; undefined means silence. An offer that comes again, by another
   * medium or because the answer was lost, gets the same answer.
   * @param options.travelMs ms that the answer takes to the other side, where the medium knows
   */
  answer(message: Uint8Array, options: { travelMs?: number } = {}): Promise<Uint8Array | undefined> {
    return this.#answers.of(message, () => this.#answer(message, options.travelMs))
  }

  async #answer(message: Uint8Array, travelMs: number | undefined): Promise<Uint8Array | undefined> {
    try {
      const offer = openOffer(this.#options.identity, message, { replay: this.#replay })
      const own = this.#dialling.get(offer.from)
      // What a stranger tells is read when it is let in.
      const told = own !== undefined || this.#bonds.knows(offer.from) ? decodeBody(offer.body) : undefined
      if (told?.session !== undefined) return await this.keeper.answer(offer, told, travelMs)
      if (own === undefined || told === undefined) return await this.#letIn(offer, told, travelMs)
      // Who dials a peer has let it in: its offer needs no further leave, and counts already.
      if (this.#dialsFirst(offer.from)) return undefined
      const { session, answer } = await this.#take(offer, told, own.leave, travelMs)
      own.settle(session)
      return answer
    } catch {
      // Whatever a stranger sent: it was not for us, not in time, or not whole. It hears nothing.
      return undefined
    }
  }

  /** @param known what it tells, where that is read already */
  async #letIn(
    offer: ReceivedOffer,
    known: ConnectionBody | undefined,
    travelMs: number | undefined,
  ): Promise<Uint8Array | undefined> {
    let counted: Counted | undefined
    let leave: Leave | undefined
    try {
      counted = this.#options.count({ direction: 'in', peer: offer.from })
      leave = await this.#admit(offer.from, 'signaled', counted)
    } catch (cause) {
      counted?.release()
      const error = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      return this.#options.tellRefusals ? offer.refuse(error.code, error.message) : undefined
    }
    const { session, answer } = await held<{ session?: Session; answer: Uint8Array | undefined }>(counted, async () => {
      const told = known ?? decodeBody(offer.body)
      if (told.session !== undefined) return { answer: await this.keeper.answer(offer, told, travelMs) }
      return this.#take(offer, told, leave, travelMs)
    })
    // We may have dialled it since.
    if (session !== undefined) this.#dialling.get(offer.from)?.settle(session)
    return answer
  }

  /** Makes the session that an offer is for, and the answer. @throws PeerlineError when there is to be none any more */
  async #take(
    offer: ReceivedOffer,
    told: ConnectionBody,
    leave: Leave | undefined,
    travelMs: number | undefined,
  ): Promise<{ session: Session; answer: Uint8Array }> {
    const { from } = offer
    const before = this.#bonds.of(from)
    // First of all: the other side comes to the relay as soon as it has the answer.
    this.#join(told)
    const making = { ...this.#answering(told.hidden === true), leave }
    const [webrtc, earlyAnswer] = await Promise.all([
      this.#answerWebRtc(told, making.ways),
      told.early === undefined ? undefined : this.#options.onEarly?.(from, told.early),
    ])
    // That took its time: we may be closing, or have dialled it ourselves.
    if (this.#closing.signal.aborted || (this.#dialsFirst(from) && this.#dialledSince(from, before))) {
      webrtc?.close()
      throw new PeerlineError('ERR_PEERLINE_CLOSED', 'this offer leads to no session any more')
    }
    const body = { ...this.#body(making.ways), webrtc: webrtc?.description, earlyAnswer }
    let accepted: ReturnType<ReceivedOffer['accept']>
    try {
      accepted = offer.accept(encodeBody(body))
    } catch (error) {
      // A copy of it was accepted meanwhile.
      webrtc?.close()
      throw error
    }
    const { message: answer, keys } = accepted
    const session = this.#newSession(keys, from, making)
    const bond = this.#bonds.get(session.id)!
    bond.hidden = told.hidden === true
    this.#learn(from, told)
    const upgrade = this.#seek(bond, { webrtc, relayed: told.circuits.length > 0 })
    void upgrade?.begin(told, this.#travel(told, travelMs))
    // It begins anew with us, as one does that was started again: do the others still stand?
    for (const other of this.#bonds.of(from)) if (other !== session) other.probe(DOUBTED_MS)
    this.keeper.standBy(bond)
    return { session, answer }
  }

  /** Of two peers that dial each other, the offer of this one stands. */
  #dialsFirst(other: PeerId): boolean {
    return this.#options.identity.peerId < other
  }

  /** An offer of ours is on its way, or has made a session that was not there `before`: the other side has dropped its own. */
  #dialledSince(to: PeerId, before: readonly Session[]): boolean {
    const signaled = ({ id, initiator }: Session) => initiator && this.#bonds.get(id)?.addresses.length === 0
    return (
      this.#dialling.has(to) || this.#bonds.of(to).some((session) => !before.includes(session) && signaled(session))
    )
  }

  /** How a session may be reached that another peer dials. `hidden`: that one shows no address, and dials none of ours. */
  #answering(hidden: boolean): Making {
    const { answerVia, relays } = this.#options
    const relayed = answerVia === 'auto' || answerVia === 'relay'
    return { ways: waysOf(hidden ? 'relay' : answerVia), ...(relayed ? { relays } : {}) }
  }

  /** ms until the answer is where the offer came from: half of both round trips to the rendezvous, when nobody knows better. */
  #travel({ rendezvousRttMs = 0 }: ConnectionBody, travelMs: number | undefined): number {
    const mine = this.#options.vantage().rendezvousRttMs ?? 0
    return Math.min(travelMs ?? (rendezvousRttMs + mine) / 2, MAX_FIRE_IN_MS)
  }

  #join({ circuits }: ConnectionBody): void {
    joinCircuits(circuits, {
      knownRelays: this.#options.knownRelays,
      mayDial: this.#mayDial,
      accept: (path) => void this.acceptor.accept(path),
      signal: this.#closing.signal,
    })
  }

  /** The network is another one: every path has to answer within `patienceMs`. */
  probe(patienceMs: number): void {
    for (const { session } of this.#bonds) session.probe(patienceMs)
  }

  // ---- paths ----

  /** The other side told more of itself, within the session. */
  #onCandidates(session: Session, bytes: Uint8Array): void {
    const bond = this.#bonds.get(session.id)
    if (bond === undefined) return
    try {
      const body = decodeBody(bytes)
      if (body.circuits.length === 0) return bond.upgrade?.onBody(body)
      const now = performance.now()
      if (!bond.joins || now - (this.#joinedAt.get(session) ?? Number.NEGATIVE_INFINITY) < JOIN_EVERY_MS) return
      this.#joinedAt.set(session, now)
      this.#join(body)
    } catch {
      // A malformed set is as good as none.
    }
  }

  /** The search for direct paths of a session; none where no address of ours may show. */
  upgradeOf(session: Session): Upgrade | undefined {
    return this.#bonds.get(session.id)?.upgrade
  }

  // ---- sessions ----

  async #admit(
    from: PeerId,
    how: 'direct' | 'signaled',
    counted: Counted,
    signal?: AbortSignal,
  ): Promise<Leave | undefined> {
    const leave = await this.#options.admit(from, how, signal)
    // Asked last: the approver may have thought for long.
    if (this.#closing.signal.aborted) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'this peer is closing')
    counted.establish(from)
    return leave
  }

  #newSession(keys: SessionKeys, peer: PeerId, making: Making): Session {
    const { ways, relays, joins = true, addresses = [], server = false, leave } = making
    const reconnectMs = server ? 0 : this.#options.reconnectMs
    const session: Session = new Session({
      keys,
      peer,
      onStream: (stream) => this.#options.onStream(session, stream),
      explain: () => this.#explain(session),
      timing: this.#options.timing,
      rate: this.#options.rate,
      memory: this.#options.memory,
      opening: server ? undefined : (opening) => this.#options.opening(session, opening),
      ...(reconnectMs === undefined ? {} : { reconnectMs }),
      ...(this.#options.maxStreams === undefined ? {} : { maxStreams: this.#options.maxStreams }),
    })
    const bond: Bond = { session, keys, ways, relays, joins, addresses, hidden: false, upgrade: undefined }
    this.#bonds.add(bond, !server)
    session.addEventListener('candidates', (event) => this.#onCandidates(session, event.detail))
    if (reconnectMs !== 0) this.keeper.keep(bond)
    this.#options.onSession(session, { server, leave })
    return session
  }

  #explain(session: Session): Explanation {
    const bond = this.#bonds.get(session.id)
    return explain({
      session,
      vantage: this.#options.vantage(),
      remote: bond?.upgrade?.remote,
      attempts: bond?.upgrade?.attempts ?? [],
      hidden: bond?.ways.size === 0 ? 'here' : bond?.hidden ? 'there' : 'no',
    })
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
function drop(circuits: readonly Promise<FramedPath>[]): void {
  for (const circuit of circuits) circuit.then((path) => path.destroy()).catch(() => {})
}

function sameCandidates(some: readonly Candidate[] = [], others: readonly Candidate[] = []): boolean {
  return JSON.stringify(some) === JSON.stringify(others)
}
