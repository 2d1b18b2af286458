/**
 * The dialer, and the other end of it: offers and answers become sessions, candidates become paths.
 *
 *     dial:   offer (candidates, circuits) --signaling--> answer (candidates) --> session --> paths race to attach
 *     answer: offer --> admit --> session --> answer; join circuits; after a moment, dial their candidates too
 *
 * - The dialling side opens its end of the circuit while the offer is still on its way, and attaches with the answer.
 * - Both sides know the session before any path exists, so either may open one to the other.
 * - Two peers that dial each other at once: the offer of the one with the smaller id stands, the other's is dropped.
 */
import { setMaxListeners } from 'node:events'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import { createOffer, type Offer, openOffer, ReplayCache, type SessionKeys } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { parseHostPort, scopeOf } from '../network/address.ts'
import { connectTcp, FramedPath, type Path, RelayPath, SocketPipe } from '../path/index.ts'
import { Session, type Stream } from '../session/index.ts'
import type { Signaling } from '../signaling/index.ts'
import { Acceptor, type Admit, dialOverPath, discoverOverPath } from './acceptor.ts'
import { type Candidate, type CircuitOffer, decodeBody, encodeBody, MAX_CIRCUITS, mayDial } from './candidate.ts'
import type { Reservation } from './reservation.ts'
import { dialServer, parseServerAddress, type parseServerUrl } from './url.ts'

/** Which ways may be used: everything, relays only (no address of ours is told), or no relay at all. */
export type Via = 'auto' | 'relay' | 'direct'

/** ms for one path to be opened: a TCP connection that has sent its SYN three times will hardly come. */
const PATH_ATTEMPT_MS = 8_000

/** ms that the answering side leaves the dialling side to attach a direct path before it tries itself. */
const ANSWERER_DELAY_MS = 250

/** ms between the starts of direct attempts, best candidate first: RFC 8305 section 5 allows 100 to 2000. */
const STAGGER_MS = 100

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
  readonly pathlessMs?: number | undefined
  readonly onStream: (session: Session, stream: Stream) => void
  /** Media that work now. */
  readonly signaling: () => readonly Signaling[]
  /** Relays where we hold a reservation now. */
  readonly reservations: () => readonly Reservation[]
  /** Where we listen, best first. */
  readonly candidates: () => readonly Candidate[]
  /** True when this machine is to be found on loopback. */
  readonly loopback: () => boolean
  /** Relays of our own choice: these may have any address. */
  readonly knownRelays: () => readonly string[]
  readonly onCircuit?: ((path: FramedPath, circuit: Uint8Array) => void) | undefined
  readonly maxSessions?: number | undefined
}

interface Dialling {
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
  /** Sessions in which no address of ours may show: we neither tell any nor dial any. */
  readonly #relayOnly = new WeakSet<Session>()
  /** Sessions whose further candidates are being dialled, and the set that came meanwhile. */
  readonly #told = new Map<Session, Uint8Array | undefined>()
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
  dial(to: PeerId, via: Via, signal: AbortSignal): Promise<Session> {
    const running = this.#dialling.get(to)
    if (running !== undefined) return untilAborted(running.promise, signal, `dialling ${to}`)
    const cancel = new AbortController()
    let settle: Dialling['settle'] = () => {}
    const promise = new Promise<Session>((resolve, reject) => {
      settle = (session) => {
        resolve(session)
        cancel.abort()
      }
      this.#dial(to, via, AbortSignal.any([signal, cancel.signal, this.#closing.signal])).then(resolve, reject)
    }).finally(() => this.#dialling.delete(to))
    this.#dialling.set(to, { promise, settle })
    return promise
  }

  async #dial(to: PeerId, via: Via, signal: AbortSignal): Promise<Session> {
    const media = this.#options.signaling()
    if (media.length === 0) {
      throw new PeerlineError(
        'ERR_PEERLINE_NO_ADDRESS',
        `no way to signal ${to}: no rendezvous and no address is known`,
      )
    }
    const relays = via === 'direct' ? [] : this.#options.reservations().slice(0, MAX_CIRCUITS)
    const minted = relays.map((reservation) => reservation.mint())
    const offer = createOffer(this.#options.identity, to, {
      body: encodeBody({
        candidates: via === 'relay' ? [] : this.#options.candidates(),
        circuits: minted.map((circuit) => circuit.offer),
      }),
    })
    const circuits = minted.map(({ own, offer: { relay } }) => this.#openCircuit(relay, own, signal))
    for (const circuit of circuits) circuit.catch(() => {})
    try {
      const { keys, body } = await this.#exchange(media, offer, signal)
      const session = this.#newSession(keys, to)
      if (via === 'relay') this.#relayOnly.add(session)
      const { candidates } = decodeBody(body)
      const attempts = circuits.map(async (circuit) => session.attach(await circuit))
      if (via !== 'relay') attempts.push(this.#dialCandidates(session, candidates))
      void this.#watch(session, attempts, via !== 'relay' && this.#options.candidates().length > 0)
      return session
    } catch (error) {
      for (const circuit of circuits) circuit.then((path) => path.destroy()).catch(() => {})
      throw error
    }
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
        media.map(async (medium) =>
          offer.complete(await medium.exchange(offer.to, offer.requestId, offer.message, { signal: each })),
        ),
      )
    } catch (error) {
      if (signal.aborted) throw abortError(signal, `dialling ${offer.to}`)
      const { errors } = error as AggregateError
      // A refusal by the peer itself says more than a medium that did not find it.
      throw errors.find((one: PeerlineError) => one.code !== 'ERR_PEERLINE_OFFLINE') ?? errors[0]
    } finally {
      done.abort()
    }
  }

  /** Ends a session whose every attempt failed, when the other side has no way in either: nobody need wait. */
  async #watch(session: Session, attempts: readonly Promise<void>[], reachable: boolean): Promise<void> {
    const outcomes = await Promise.allSettled(attempts)
    const failures = outcomes.filter((outcome) => outcome.status === 'rejected')
    if (reachable || failures.length < outcomes.length || session.state !== 'connecting') return
    const reasons = failures.map(({ reason }) => (reason as Error).message).join('; ')
    session.abort(
      new PeerlineError('ERR_PEERLINE_NO_PATH', `no path to ${session.peer} worked: ${reasons || 'none was offered'}`),
    )
  }

  // ---- the answering side ----

  /** Answers an offer that a medium brought. Never rejects; undefined means silence. */
  async answer(message: Uint8Array): Promise<Uint8Array | undefined> {
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
      const { candidates, circuits } = decodeBody(offer.body)
      const body = encodeBody({ candidates: this.#options.candidates(), circuits: [] })
      const { message: answer, keys } = offer.accept(body)
      const session = this.#newSession(keys, from)
      this.#joinCircuits(circuits)
      void this.#dialLater(session, candidates)
      own?.settle(session)
      return answer
    } catch {
      // Whatever a stranger sent: it was not for us, not in time, or not whole. It hears nothing.
      return undefined
    }
  }

  #joinCircuits(circuits: readonly CircuitOffer[]): void {
    for (const { relay, token } of circuits) {
      if (!this.#mayJoin(relay)) continue
      this.#openCircuit(relay, token, this.#closing.signal).then(
        (path) => void this.acceptor.accept(path),
        () => {},
      )
    }
  }

  /**
   * A relay that a remote names is dialled when it is one of ours, by whatever scheme, or when its address is public. A
   * private one is not: it would let a remote send requests to whatever answers HTTP in our network.
   */
  #mayJoin(relay: string): boolean {
    try {
      const { host, port } = parseServerAddress(relay)
      const ours = this.#options.knownRelays().map(parseServerAddress)
      if (ours.some((known) => known.host === host && known.port === port)) return true
      return scopeOf(host) !== 'private' && mayDial(host, { loopback: this.#options.loopback() })
    } catch {
      return false
    }
  }

  async #dialLater(session: Session, candidates: readonly Candidate[]): Promise<void> {
    if (candidates.length === 0) return
    try {
      await pause(ANSWERER_DELAY_MS, this.#closing.signal)
      if (session.state !== 'closed' && !session.paths.includes('tcp')) await this.#dialCandidates(session, candidates)
    } catch {
      // The session stays on what it has.
    }
  }

  // ---- paths ----

  /** More candidates of the other side, told within the session: one set at a time, and then the latest, if any. */
  async onCandidates(session: Session, bytes: Uint8Array): Promise<void> {
    if (this.#relayOnly.has(session)) return
    const running = this.#told.has(session)
    this.#told.set(session, bytes)
    if (running) return
    try {
      for (let now: Uint8Array | undefined = bytes; now !== undefined; now = this.#told.get(session)) {
        this.#told.set(session, undefined)
        if (session.state === 'closed') break
        // When none opens, the session stays on what it has.
        await this.#dialCandidates(session, decodeBody(now).candidates).catch(() => {})
      }
    } catch {
      // A malformed set is as good as none.
    } finally {
      this.#told.delete(session)
    }
  }

  /** Tells the other side where we are to be found, unless it is not to know. */
  tellCandidates(session: Session): void {
    if (this.#relayOnly.has(session)) return
    session.sendCandidates(encodeBody({ candidates: this.#options.candidates(), circuits: [] }))
  }

  /** Attaches the first of `candidates` that opens. @throws when none does */
  async #dialCandidates(session: Session, candidates: readonly Candidate[]): Promise<void> {
    const loopback = this.#options.loopback()
    const allowed = candidates.filter(({ host }) => mayDial(host, { loopback }))
    if (allowed.length === 0) throw new PeerlineError('ERR_PEERLINE_NO_PATH', 'no address of the peer may be dialled')
    session.attach(await this.#race(allowed, this.#closing.signal))
  }

  /** The first of several addresses to open, tried in order of preference a moment apart. */
  async #race(candidates: readonly { host: string; port: number }[], signal: AbortSignal): Promise<Path> {
    const won = new AbortController()
    const stop = AbortSignal.any([signal, won.signal, AbortSignal.timeout(PATH_ATTEMPT_MS)])
    // One listener for each candidate is no leak, and no cause for a warning on somebody's terminal.
    setMaxListeners(0, stop)
    const attempts = candidates.map(async ({ host, port }, at) => {
      if (at > 0) await pause(at * STAGGER_MS, stop)
      const socket = await connectTcp(host, port, { signal: stop })
      if (won.signal.aborted) {
        socket.destroy()
        throw abortError(won.signal, 'dialling')
      }
      won.abort()
      return new FramedPath('tcp', new SocketPipe(socket))
    })
    try {
      return await Promise.any(attempts)
    } catch (error) {
      throw (error as AggregateError).errors[0]
    }
  }

  async #openCircuit(relay: string, token: Uint8Array, signal: AbortSignal): Promise<RelayPath> {
    const limited = AbortSignal.any([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)])
    return new RelayPath(await dialServer(parseServerAddress(relay), { signal: limited }), relay, token)
  }

  // ---- direct dials ----

  /**
   * A session over a direct path to one of `addresses` (`host:port`), with the handshake on the path itself.
   * @throws PeerlineError of the first address
   */
  async dialDirect(to: PeerId, addresses: readonly string[], signal: AbortSignal): Promise<Session> {
    const path = await this.#race(
      addresses.map((address) => parseHostPort(address)),
      signal,
    )
    return this.#handshake(to, path, signal)
  }

  /** A session with a server, over what its URL says. */
  async dialServer(url: ReturnType<typeof parseServerUrl>, signal: AbortSignal): Promise<Session> {
    const pipe = await dialServer(url, { signal: AbortSignal.any([signal, AbortSignal.timeout(PATH_ATTEMPT_MS)]) })
    return this.#handshake(url.peer, new FramedPath('tcp', pipe), signal, true)
  }

  /** A session with whoever answers at an address (`host:port`); the caller decides what it thinks of it. */
  async discover(address: string, signal: AbortSignal): Promise<Session> {
    const path = await this.#race([parseHostPort(address)], signal)
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
    const pathlessMs = server ? 0 : this.#options.pathlessMs
    const session: Session = new Session({
      keys,
      peer,
      onStream: (stream) => this.#options.onStream(session, stream),
      ...(pathlessMs === undefined ? {} : { pathlessMs }),
    })
    this.#sessions.set(session.id, session)
    session.addEventListener('close', () => this.#sessions.delete(session.id))
    if (!server) this.#fileUnderPeer(session)
    session.addEventListener('candidates', (event) => void this.onCandidates(session, event.detail))
    this.#options.onSession(session, { server })
    return session
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

/** What `promise` brings, or a rejection as soon as the signal fires; the promise goes on for others. */
function untilAborted<T>(promise: Promise<T>, signal: AbortSignal, what: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = () => reject(abortError(signal, what))
    if (signal.aborted) return onAbort()
    signal.addEventListener('abort', onAbort)
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}

/** Waits `ms`, or rejects when the signal fires. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer)
      reject(abortError(signal, 'waiting'))
    }
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', onAbort)
      resolve()
    }, ms)
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort)
  })
}
