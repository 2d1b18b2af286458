/**
 * The dialer, and the other end of it: offers and answers become sessions, candidates become paths.
 *
 *     dial:   offer (candidates, circuits) --signaling--> answer (candidates) --> session --> paths race to attach
 *     answer: offer --> admit --> session --> answer; join circuits; after a moment, dial their candidates too
 *
 * - The dialling side opens its end of the circuit while the offer is still on its way, and attaches with the answer.
 * - Both sides know the session before any path exists, so either may open one to the other.
 * - What is found beyond that is the business of `upgrade.ts`.
 * - Two peers that dial each other at once: the offer of the one with the smaller id stands, the other's is dropped.
 */
import { setMaxListeners } from 'node:events'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, type Offer, openOffer, ReplayCache, type SessionKeys } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { parseHostPort } from '../network/address.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import { FramedPath, type Path, WebRtcAttempt, type WebRtcOptions } from '../path/index.ts'
import { type Explanation, Session, type Stream } from '../session/index.ts'
import type { Signaling } from '../signaling/index.ts'
import { Acceptor, type Admit, dialOverPath, discoverOverPath } from './acceptor.ts'
import { Answers } from './answers.ts'
import { type Candidate, type ConnectionBody, decodeBody, encodeBody, MAX_CIRCUITS, mayDial } from './candidate.ts'
import { joinCircuits, openCircuit } from './circuit.ts'
import { untilAborted } from './pause.ts'
import type { BirthdayBudget } from './punch-udp.ts'
import { PATH_ATTEMPT_MS, raceTcp } from './race.ts'
import type { Reservation } from './reservation.ts'
import { Upgrade } from './upgrade.ts'
import { dialServer, type parseServerUrl } from './url.ts'
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

/** Sessions at once with one peer, and in all; more inbound ones are refused. */
const MAX_SESSIONS_PER_PEER = 8
const MAX_SESSIONS = 10_000

export interface ConnectorOptions {
  readonly identity: Identity
  readonly admit: Admit
  readonly tellRefusals: boolean
  /** `server`: we dialled it for its services; it is not found by its peer id, and no other path to it will come. */
  readonly onSession: (session: Session, options: { server: boolean }) => void
  /** ms that a session may be without a path. @default 5_000 */
  readonly reconnectMs?: number | undefined
  readonly onStream: (session: Session, stream: Stream) => void
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
  readonly maxSessions?: number | undefined
}

export interface DialOptions {
  readonly via: Via
  /** Where circuits may be had, best first. */
  readonly relays: readonly Reservation[]
  readonly signal: AbortSignal
}

interface Dialling {
  readonly via: Via
  readonly promise: Promise<Session>
  /** Ends the dial with a session that came the other way. */
  readonly settle: (session: Session) => void
}

export class Connector {
  readonly acceptor: Acceptor
  readonly #options: ConnectorOptions
  readonly #replay = new ReplayCache()
  readonly #sessions = new Map<string, Session>()
  readonly #byPeer = new Map<PeerId, Set<Session>>()
  readonly #dialling = new Map<PeerId, Dialling>()
  /** The search for direct paths of each session. Where there is none, no address of ours may show. */
  readonly #upgrades = new WeakMap<Session, Upgrade>()
  /** Sessions in which the other side shows no address. */
  readonly #hiding = new WeakSet<Session>()
  readonly #answers = new Answers()
  readonly #closing = new AbortController()

  constructor(options: ConnectorOptions) {
    this.#options = options
    this.acceptor = new Acceptor({
      identity: options.identity,
      replay: this.#replay,
      admit: (from, how) => this.#admit(from, how),
      tellRefusals: options.tellRefusals,
      findSession: (id) => this.#sessions.get(id),
      newSession: (keys, peer) => this.#newSession(keys, peer),
      onCircuit: options.onCircuit,
    })
  }

  /** Sessions that have not ended. */
  get sessions(): Session[] {
    return [...this.#sessions.values()]
  }

  /** The newest usable session with a peer. */
  find(peer: PeerId): Session | undefined {
    const sessions = [...(this.#byPeer.get(peer) ?? [])].filter((session) => session.state !== 'closing')
    return sessions.findLast((session) => session.state === 'open') ?? sessions.at(-1)
  }

  /**
   * A session with `to`, by signaling: resolves as soon as both sides own the keys; paths follow.
   * @throws PeerlineError `ERR_PEERLINE_NO_ADDRESS`, `ERR_PEERLINE_OFFLINE`, the other side's refusal, …
   */
  dial(to: PeerId, options: DialOptions): Promise<Session> {
    const { via, signal } = options
    const running = this.#dialling.get(to)
    if (running?.via === via) return untilAborted(running.promise, signal, `dialling ${to}`)
    const cancel = new AbortController()
    let settle: Dialling['settle'] = () => {}
    const promise = new Promise<Session>((resolve, reject) => {
      settle = (session) => {
        resolve(session)
        cancel.abort()
      }
      const either = AbortSignal.any([signal, cancel.signal, this.#closing.signal])
      this.#dial(to, { ...options, signal: either }).then(resolve, reject)
    })
    // Only one of several can be settled from the other side: the first.
    if (running !== undefined) return promise
    this.#dialling.set(to, { via, promise, settle })
    return promise.finally(() => this.#dialling.delete(to))
  }

  async #dial(to: PeerId, { via, relays, signal }: DialOptions): Promise<Session> {
    const media = this.#options.signaling({ hidden: via === 'relay' })
    if (media.length === 0) {
      throw new PeerlineError(
        'ERR_PEERLINE_NO_ADDRESS',
        `no way to signal ${to}: no rendezvous and no address is known`,
      )
    }
    const ways = waysOf(via)
    const minted = relays.slice(0, MAX_CIRCUITS).map((reservation) => reservation.mint())
    const body = this.#body(ways)
    // Alone it is described in the offer itself; beside other ways it waits until those have failed.
    const webrtc = via === 'webrtc' ? await WebRtcAttempt.offer(this.#webrtcOptions()) : undefined
    const offer = createOffer(this.#options.identity, to, {
      body: encodeBody({ ...body, webrtc: webrtc?.description, circuits: minted.map((circuit) => circuit.offer) }),
    })
    // While the offer travels there is time for a look at ports that our NAT counts up.
    const fresh = ways.size > 0 && isSequential(this.#options.vantage().nat) ? this.#refresh(signal) : undefined
    const circuits = minted.map(({ own, offer: { relay } }) => openCircuit(relay, own, signal))
    for (const circuit of circuits) circuit.catch(() => {})
    try {
      const { keys, body: answered } = await this.#exchange(media, offer, signal)
      const remote = decodeBody(answered)
      const session = this.#newSession(keys, to)
      if (remote.hidden && ways.size > 0) this.#hiding.add(session)
      const attached = circuits.map(async (circuit) => session.attach(await circuit))
      const upgrade = this.#seek(session, keys, remote.hidden ? waysOf('relay') : ways, circuits.length > 0, {
        fresh,
        webrtc,
      })
      void this.#watch(session, attached, upgrade, upgrade?.begin(remote, 0))
      // We have learned more of ourselves while the offer was on its way, as a peer does that has just come online.
      if (!sameCandidates(body.candidates, this.#body(ways).candidates)) upgrade?.again()
      return session
    } catch (error) {
      webrtc?.close()
      for (const circuit of circuits) circuit.then((path) => path.destroy()).catch(() => {})
      throw error
    }
  }

  #webrtcOptions(): WebRtcOptions {
    const loopback = this.#options.loopback()
    const { webrtc, vantage } = this.#options
    return webRtcOptions(webrtc, vantage().reflectors, (host) => mayDial(host, { loopback }), this.#closing.signal)
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

  /** Makes the search for direct paths of a session; none where no address of ours may show. */
  #seek(
    session: Session,
    keys: SessionKeys,
    ways: ReadonlySet<Way>,
    relayed: boolean,
    begun: { fresh?: Promise<void> | undefined; webrtc?: WebRtcAttempt | undefined } = {},
  ): Upgrade | undefined {
    if (ways.size === 0) return undefined
    const { vantage, refresh, openUdp, loopback, birthday } = this.#options
    const upgrade = new Upgrade({
      session,
      keys,
      ways,
      relayed,
      vantage,
      refresh,
      fresh: begun.fresh,
      webrtc: this.#options.webrtc,
      webrtcAttempt: begun.webrtc,
      openUdp,
      accept: (path) => void this.acceptor.accept(path),
      loopback,
      birthday,
      closing: this.#closing.signal,
    })
    this.#upgrades.set(session, upgrade)
    return upgrade
  }

  /** The first genuine answer that any medium brings. */
  async #exchange(
    media: readonly Signaling[],
    offer: Offer,
    signal: AbortSignal,
  ): Promise<{ keys: SessionKeys; body: Uint8Array }> {
    const done = new AbortController()
    const each = AbortSignal.any([signal, done.signal])
    try {
      return await Promise.any(
        media.map(async (medium) => {
          let completed: ReturnType<Offer['complete']> | undefined
          const accept = (answer: Uint8Array): boolean => {
            try {
              completed = offer.complete(answer)
              return true
            } catch (error) {
              // A genuine refusal ends it; what anybody may have sent does not.
              if (offer.answered) throw error
              return false
            }
          }
          const answer = await medium.exchange(offer.to, offer.requestId, offer.message, { signal: each, accept })
          return completed ?? offer.complete(answer)
        }),
      )
    } catch (error) {
      if (signal.aborted) throw abortError(signal, `dialling ${offer.to}`)
      const { errors } = error as AggregateError
      // A refusal by the peer itself says more than a medium that did not find it.
      // And a rendezvous, which comes last, knows better who is not there than the local network.
      throw errors.find((one: PeerlineError) => one.code !== 'ERR_PEERLINE_OFFLINE') ?? errors.at(-1)
    } finally {
      done.abort()
    }
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
   * @param near the medium takes no time to speak of
   */
  answer(message: Uint8Array, { near = false } = {}): Promise<Uint8Array | undefined> {
    return this.#answers.of(message, () => this.#answer(message, near))
  }

  async #answer(message: Uint8Array, near: boolean): Promise<Uint8Array | undefined> {
    try {
      const offer = openOffer(this.#options.identity, message, { replay: this.#replay })
      const { from } = offer
      const own = this.#dialling.get(from)
      if (own !== undefined) {
        // Who dials a peer has let it in: its offer needs no further leave.
        if (this.#options.identity.peerId < from) return undefined
      } else {
        try {
          await this.#admit(from, 'signaled')
        } catch (cause) {
          const error = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
          return this.#options.tellRefusals ? offer.refuse(error.code, error.message) : undefined
        }
      }
      const remote = decodeBody(offer.body)
      // First of all: the other side comes to the relay as soon as it has the answer.
      joinCircuits(remote.circuits, {
        knownRelays: this.#options.knownRelays,
        loopback: this.#options.loopback,
        accept: (path) => void this.acceptor.accept(path),
        signal: this.#closing.signal,
      })
      // Whoever hides will dial none of our addresses: it need not see them.
      const ways = waysOf(remote.hidden ? 'relay' : this.#options.answerVia)
      const body = this.#body(ways)
      const webrtc = await this.#answerWebRtc(remote, ways)
      const { message: answer, keys } = offer.accept(encodeBody({ ...body, webrtc: webrtc?.description }))
      const session = this.#newSession(keys, from)
      if (remote.hidden && this.#options.answerVia !== 'relay') this.#hiding.add(session)
      const travel = near ? 0 : ((remote.rendezvousRttMs ?? 0) + (body.rendezvousRttMs ?? 0)) / 2
      const upgrade = this.#seek(session, keys, ways, remote.circuits.length > 0, { webrtc })
      void upgrade?.begin(remote, Math.min(travel, MAX_FIRE_IN_MS))
      own?.settle(session)
      return answer
    } catch {
      // Whatever a stranger sent: it was not for us, not in time, or not whole. It hears nothing.
      return undefined
    }
  }

  // ---- paths ----

  /** The other side told more of itself, within the session. */
  #onCandidates(session: Session, bytes: Uint8Array): void {
    try {
      this.#upgrades.get(session)?.onBody(decodeBody(bytes))
    } catch {
      // A malformed set is as good as none.
    }
  }

  /** The search for direct paths of a session; none where no address of ours may show. */
  upgradeOf(session: Session): Upgrade | undefined {
    return this.#upgrades.get(session)
  }

  // ---- direct dials ----

  /**
   * A session over a direct path to one of `addresses` (`host:port`), with the handshake on the path itself.
   * @throws PeerlineError of the first address
   */
  async dialDirect(to: PeerId, addresses: readonly string[], signal: AbortSignal): Promise<Session> {
    const path = await raceTcp(
      addresses.map((address) => parseHostPort(address)),
      signal,
    )
    return this.#handshake(to, path, signal)
  }

  /** A session with a server, over what its URL says, from a port of our choice if there is one. */
  async dialServer(
    url: ReturnType<typeof parseServerUrl>,
    options: { signal: AbortSignal; localPort?: number | undefined },
  ): Promise<Session> {
    const { signal, localPort } = options
    const limited = AbortSignal.any([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)])
    const pipe = await dialServer(url, { signal: limited, localPort })
    return this.#handshake(url.peer, new FramedPath('tcp', pipe), signal, true)
  }

  /** A session with whoever answers at an address (`host:port`); the caller decides what it thinks of it. */
  async discover(address: string, signal: AbortSignal): Promise<Session> {
    const path = await raceTcp([parseHostPort(address)], signal)
    const { peer, keys } = await discoverOverPath(this.#options.identity, path, { signal })
    const session = this.#newSession(keys, peer)
    session.adopt(path, true)
    return session
  }

  async #handshake(to: PeerId, path: Path, signal: AbortSignal, server = false): Promise<Session> {
    const started = performance.now()
    const keys = await dialOverPath(this.#options.identity, to, path, { signal })
    const session = this.#newSession(keys, to, server)
    session.adopt(path, true, performance.now() - started)
    return session
  }

  // ---- sessions ----

  async #admit(from: PeerId, how: 'direct' | 'signaled'): Promise<void> {
    await this.#options.admit(from, how)
    // Asked last: the approver may have thought for long.
    if (this.#closing.signal.aborted) throw new PeerlineError('ERR_PEERLINE_CLOSED', 'this peer is closing')
    const ofPeer = this.#byPeer.get(from)?.size ?? 0
    if (ofPeer >= MAX_SESSIONS_PER_PEER || this.#sessions.size >= (this.#options.maxSessions ?? MAX_SESSIONS)) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', 'too many sessions are open')
    }
  }

  #newSession(keys: SessionKeys, peer: PeerId, server = false): Session {
    const reconnectMs = server ? 0 : this.#options.reconnectMs
    const session: Session = new Session({
      keys,
      peer,
      onStream: (stream) => this.#options.onStream(session, stream),
      explain: () => this.#explain(session),
      ...(reconnectMs === undefined ? {} : { reconnectMs }),
    })
    this.#sessions.set(session.id, session)
    session.addEventListener('close', () => this.#sessions.delete(session.id))
    if (!server) this.#fileUnderPeer(session)
    session.addEventListener('candidates', (event) => this.#onCandidates(session, event.detail))
    this.#options.onSession(session, { server })
    return session
  }

  #explain(session: Session): Explanation {
    const upgrade = this.#upgrades.get(session)
    return explain({
      session,
      vantage: this.#options.vantage(),
      remote: upgrade?.remote,
      attempts: upgrade?.attempts ?? [],
      hidden: upgrade === undefined ? this.#whoHides(session) : 'no',
    })
  }

  /** Why a session has no search for direct paths: who dialled an address needs none. */
  #whoHides(session: Session): 'no' | 'here' | 'there' {
    if (this.#hiding.has(session)) return 'there'
    return session.paths.includes('relay') ? 'here' : 'no'
  }

  #fileUnderPeer(session: Session): void {
    const { peer } = session
    const ofPeer = this.#byPeer.get(peer) ?? new Set()
    this.#byPeer.set(peer, ofPeer.add(session))
    session.addEventListener('close', () => {
      ofPeer.delete(session)
      if (ofPeer.size === 0 && this.#byPeer.get(peer) === ofPeer) this.#byPeer.delete(peer)
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
    await Promise.all(this.sessions.map((session) => session.close(each)))
  }
}

function sameCandidates(some: readonly Candidate[] = [], others: readonly Candidate[] = []): boolean {
  return JSON.stringify(some) === JSON.stringify(others)
}
