/**
 * Asks several peers at once which address they see us come from, and counts what they say.
 *
 *     each session:  stream -> here --+--> ends of its direct paths -----------------+
 *                                     +--> a token to each of its places -> arrived --+--> votes -> verdict of each family
 *
 * - A vote counts in the network in which we have the observer, whatever it says of itself: where its direct path leads, or,
 *   when it has none of this family, where it has received what we sent. Who has one is sent tokens there alone.
 * - Those who do not know their own public address do not count, nor do those who cannot be asked. Those who could have told
 *   and have not, count as silent: see network/address-quorum.ts.
 * - It is over when no answer can change it any more, when all have told what they could, or after 3 s.
 *
 * What others see may be a lie, and who agrees on it may be one hand. Addresses that are not public are no votes, and are sent
 * nothing: a peer cannot make us talk to our own network.
 */
import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import { concatBytes, equalBytes, MessageKind, writePreamble } from '../bytes/index.ts'
import { abortError, asPeerlineError, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { type LocalAddress, scopeOf, toSocketAddress } from '../network/address.ts'
import {
  type AddressVerdict,
  MAX_QUORUM,
  networkOf,
  type QuorumSettings,
  readQuorum,
  type SeenBy,
  type Silent,
  verdictOn,
} from '../network/address-quorum.ts'
import type { TransportView } from '../network/nat.ts'
import type { UdpSocket } from '../network/udp-socket.ts'
import { connectTcp, tcpPath } from '../path/index.ts'
import { MessageStream, type Session } from '../session/index.ts'
import {
  type Arrival,
  directPaths,
  type Here,
  MAX_PLACES,
  MAX_SEEN_BYTES,
  MAX_TOLD,
  type Place,
  PROOF_BYTES,
  readArrival,
  readHere,
  SEEN_PROTOCOL,
  type TokenPlace,
} from './seen-address.ts'

/** Peers asked: more tell no more, and each is one more that learns which port punches. */
const MAX_ASKED = MAX_QUORUM

/** Peers that are enough, so that none are asked besides that came to us: two of them may be wrong. */
const ENOUGH = 5

/** ms for all of it: three slow round trips, for the stream, the token and what is said of it, and a repetition. */
const TIMEOUT_MS = 3_000

/** ms after the first datagram with a token until the next ones. */
const REPEAT_MS = [200, 600, 1_400]

/** Messages from one observer: what it sees, and then each arrival. */
const MAX_MESSAGES = 1 + MAX_PLACES * MAX_TOLD

export interface AskQuorumOptions extends QuorumSettings {
  /**
   * Those that may be asked: of those that we have dialled 9 at most; those that came to us where these are fewer than 5. A
   * relayed one that is to learn no address of ours is not among them: it would, from a token.
   */
  readonly sessions: readonly Session[]
  readonly signal: AbortSignal
  /** This machine's addresses: what is seen as one of them is behind no NAT. Where it has none of a family it asks for none. */
  readonly local: readonly LocalAddress[]
  /** The socket that punches. @default UDP is not looked at */
  readonly udp?: Pick<UdpSocket, 'port' | 'families' | 'send'> | undefined
  /** The port that TCP is punched from; nothing may listen there. @default TCP is looked at by the paths alone */
  readonly tcpPort?: number | undefined
  /** False for an address that is shut out: it is sent nothing. */
  readonly mayUse?: (host: string) => boolean
  /** ms for all of it. @default 3_000 */
  readonly timeoutMs?: number
  /** Believe private and loopback addresses too, in a lab that stands for the internet. @default false */
  readonly anyScope?: boolean
  /** The network of an address. @default its /16, of IPv6 its /32 */
  readonly networkOf?: (host: string) => string
}

/** What became of one that was asked. */
export interface ObserverReport {
  readonly peer: PeerId
  /** `declined`: it does not know its own public address. `silent`: it could have told something, and has not. */
  readonly outcome: 'told' | 'declined' | 'failed' | 'silent'
  readonly seen: readonly SeenBy[]
  readonly error?: PeerlineError
}

export interface QuorumReport {
  readonly v4: AddressVerdict
  readonly v6: AddressVerdict
  /** All that were asked, in the order of asking. */
  readonly observers: readonly ObserverReport[]
}

/**
 * What peers agree on of our addresses.
 * @throws PeerlineError `ERR_PEERLINE_INVALID` for settings that make no sense; what the signal says
 */
export async function askQuorum(options: AskQuorumOptions): Promise<QuorumReport> {
  const { signal, timeoutMs = TIMEOUT_MS } = options
  readQuorum(options)
  if (!(timeoutMs > 0)) throw new PeerlineError('ERR_PEERLINE_INVALID', 'timeoutMs must be above 0')
  if (signal.aborted) throw abortError(signal, 'asking peers for our address')
  const over = new AbortController()
  setMaxListeners(0, over.signal)
  let sent = 0
  const shared = { ...options, over: over.signal, next: () => sent++ }
  const observers: Observer[] = []
  let timer: NodeJS.Timeout | undefined
  let onAbort = (): void => {}
  try {
    await new Promise<void>((resolve, reject) => {
      onAbort = () => reject(abortError(signal, 'asking peers for our address'))
      signal.addEventListener('abort', onAbort, { once: true })
      timer = setTimeout(resolve, timeoutMs)
      const look = (): void => {
        if (isDecided(observers, options)) resolve()
      }
      observers.push(...choose(options).map((session) => new Observer(session, shared, look)))
      for (const observer of observers) observer.begin()
      look()
    })
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', onAbort)
    over.abort()
  }
  const [v4, v6] = verdicts(observers, options)
  return { v4, v6, observers: observers.map((observer) => observer.report) }
}

/**
 * Whom to ask: each peer once, those first that we have dialled, and one of every network before the second of any. Those that
 * came to us are to fill up: anybody can come, and often. Who is in our own network sees us from inside, and is not asked.
 */
function choose(options: AskQuorumOptions): Session[] {
  const { sessions, networkOf: network = networkOf, quorum = 0 } = options
  const each = new Map(sessions.filter(({ state }) => state === 'open').map((session) => [session.peer, session]))
  const usable = [...each.values()].filter((session) => {
    const paths = provenPaths(session)
    return paths.length === 0 || paths.some(({ host }) => counts(host, options))
  })
  const taken = new Set<string>()
  const isFirst = (session: Session): boolean => {
    const path = provenPaths(session).find(({ host }) => counts(host, options))
    if (path === undefined || taken.has(network(path.host))) return false
    taken.add(network(path.host))
    return true
  }
  const ranked = [true, false].flatMap((dialled) => {
    const these = usable.filter(({ initiator }) => initiator === dialled)
    const first = these.filter(isFirst)
    return [...first, ...these.filter((session) => !first.includes(session))]
  })
  const enough = Math.max(ENOUGH, quorum)
  return ranked.filter(({ initiator }, at) => (initiator ? at < MAX_ASKED : at < enough))
}

/** Where direct paths lead that are known to: an address is not ours to choose, nor a peer's. */
function provenPaths({ pathInfo }: Session): Place[] {
  return directPaths({ pathInfo: pathInfo.filter(({ proven }) => proven) })
}

/** True for an address that may be a vote, be voted for, or be sent something. */
function counts(host: string, { anyScope = false }: AskQuorumOptions): boolean {
  const scope = scopeOf(host)
  return scope === 'public' || (anyScope && (scope === 'private' || scope === 'loopback'))
}

/** Whether this machine is in the internet of this family; IPv6 addresses that only a site knows do not lead there. */
function speaks(family: 4 | 6, { local, anyScope = false }: AskQuorumOptions): boolean {
  // Some systems keep their addresses to themselves.
  if (local.length === 0) return true
  const leads = ({ scope }: LocalAddress) => scope === 'public' || (scope === 'private' && family === 4) || anyScope
  return local.some((own) => own.family === family && leads(own))
}

function verdicts(observers: readonly Observer[], options: AskQuorumOptions): [AddressVerdict, AddressVerdict] {
  const { quorum, networks, local } = options
  const seen = observers
    .flatMap((observer) => observer.seen)
    .sort((a, b) => a.order - b.order)
    .map(({ order, ...one }): SeenBy => one)
  const of = (family: 4 | 6) => {
    const silent = observers.flatMap((observer) => observer.silent(family))
    return verdictOn(family, seen, { quorum, networks, local, silent })
  }
  return [of(4), of(6)]
}

/** True when nobody has more to tell, or nothing that they could tell would change what is known. */
function isDecided(observers: readonly Observer[], options: AskQuorumOptions): boolean {
  if (observers.every(({ done }) => done)) return true
  return verdicts(observers, options).every((verdict) => {
    const { family, kind } = verdict
    if (!speaks(family, options) || !observers.some((observer) => observer.concerns(family))) return true
    if (kind !== 'agreed') return false
    // A port on which a quorum agrees stays. Where each sees another one, the next to come may be the one that counts.
    const fixed = ({ mapping, mapped }: TransportView) =>
      mapped.length > 0 && (mapping === 'none' || mapping === 'endpoint-independent')
    const known = (transport: 'udp' | 'tcp') =>
      fixed(verdict[transport]) || !observers.some((observer) => observer.awaits(family, transport))
    return known('udp') && known('tcp')
  })
}

interface Shared extends AskQuorumOptions {
  /** Fires when it is over. */
  readonly over: AbortSignal
  /** Numbers what is sent, in its order. */
  readonly next: () => number
}

interface Probe {
  readonly place: TokenPlace
  /** What is sent with the token. */
  readonly proof: Uint8Array
  readonly localPort: number
  readonly order: number
  state: 'sent' | 'arrived' | 'failed'
}

/** One that is asked. */
class Observer {
  readonly #session: Session
  readonly #shared: Shared
  readonly #onNews: () => void
  /** The networks that its direct paths lead to, by `kind family`. */
  readonly #networks = new Map<string, string>()
  /** The hosts that they lead to, by family. */
  readonly #hosts = new Map<4 | 6, Set<string>>()
  readonly #probes = new Map<number, Probe>()
  readonly #seen: (SeenBy & { readonly order: number })[] = []
  #state: 'asked' | 'here' | 'declined' | 'failed' = 'asked'
  #error: PeerlineError | undefined
  #messages = 0

  constructor(session: Session, shared: Shared, onNews: () => void) {
    this.#session = session
    this.#shared = shared
    this.#onNews = onNews
    for (const { kind, host } of provenPaths(session)) {
      if (!counts(host, this.#shared)) continue
      const family = familyOf(host)
      const key = `${kind} ${family}`
      if (!this.#networks.has(key)) this.#networks.set(key, this.#networkOf(host))
      const hosts = this.#hosts.get(family) ?? new Set()
      this.#hosts.set(family, hosts.add(host))
    }
  }

  /** Asks. Never throws: a failure is noted. */
  begin(): void {
    const { over } = this.#shared
    this.#session.open(SEEN_PROTOCOL, { signal: over }).then(
      (stream) => {
        const messages = new MessageStream(stream, {
          maxBytes: MAX_SEEN_BYTES,
          onMessage: (message) => this.#onMessage(message),
          onEnd: (error) => this.#fail(error ?? new PeerlineError('ERR_PEERLINE_PROTOCOL', 'it has ended the stream')),
        })
        if (over.aborted) messages.reset()
        else over.addEventListener('abort', () => messages.reset(), { once: true })
      },
      (error) => this.#fail(asPeerlineError(error, 'ERR_PEERLINE_PATH_LOST')),
    )
  }

  #onMessage(message: unknown): void {
    if (++this.#messages > MAX_MESSAGES) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'it tells too much')
    if (this.#state === 'asked') this.#onHere(readHere(message))
    else this.#onArrival(readArrival(message))
    if (!this.#shared.over.aborted) this.#onNews()
  }

  #onHere({ public: knows, seen, places }: Here): void {
    this.#state = knows ? 'here' : 'declined'
    if (!knows) return
    for (const { kind, host, port } of seen) {
      const network = this.#networks.get(`${kind} ${familyOf(host)}`)
      if (network !== undefined) this.#note({ kind, host, port }, network, this.#shared.next())
    }
    for (const [at, place] of places.entries()) if (this.#mayProbe(place)) this.#probe(at, place)
  }

  /** Where its direct path of this family leads, or anywhere public when it has none. */
  #mayProbe({ host }: Place): boolean {
    const { mayUse } = this.#shared
    if (!counts(host, this.#shared) || mayUse?.(host) === false) return false
    if (!speaks(familyOf(host), this.#shared)) return false
    return this.#hosts.get(familyOf(host))?.has(host) ?? true
  }

  #probe(at: number, place: TokenPlace): void {
    const { udp, tcpPort, next } = this.#shared
    const localPort =
      place.kind === 'tcp' ? tcpPort : udp?.families.includes(familyOf(place.host)) ? udp.port : undefined
    if (localPort === undefined) return
    const probe: Probe = {
      place,
      proof: new Uint8Array(randomBytes(PROOF_BYTES)),
      localPort,
      order: next(),
      state: 'sent',
    }
    this.#probes.set(at, probe)
    if (place.kind === 'udp') this.#sendUdp(probe)
    else void this.#sendTcp(probe)
  }

  #sendUdp(probe: Probe): void {
    const { udp, over } = this.#shared
    const { host, port, token } = probe.place
    const datagram = concatBytes([token, probe.proof])
    const send = (): void => {
      if (probe.state === 'sent') udp!.send(datagram, { host, port, family: familyOf(host) })
    }
    send()
    const timers = REPEAT_MS.map((ms) => setTimeout(send, ms))
    over.addEventListener('abort', () => timers.forEach(clearTimeout), { once: true })
  }

  async #sendTcp(probe: Probe): Promise<void> {
    const { over } = this.#shared
    const { host, port, token } = probe.place
    try {
      const socket = await connectTcp(host, port, { signal: over, localPort: probe.localPort })
      const path = tcpPath(socket)
      // Not the end of the path, which is a reset: a NAT forgets a mapping at once then, and the port is to be punched from.
      const end = () => void socket.destroy()
      over.addEventListener('abort', end, { once: true })
      // The other side closes it when it has read the token.
      path.start({ message: end, drain: () => {}, close: () => over.removeEventListener('abort', end) })
      path.send([writePreamble(MessageKind.PROBE, concatBytes([token, probe.proof]))])
    } catch {
      if (probe.state !== 'sent' || over.aborted) return
      probe.state = 'failed'
      this.#onNews()
    }
  }

  #onArrival({ place: at, from, proof }: Arrival): void {
    const probe = this.#probes.get(at)
    // Nothing was sent there.
    if (probe === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a token arrived that was not sent')
    // It has not come to who says so; or somebody on the way has sent another one.
    if (!equalBytes(proof, probe.proof)) return
    const { kind, host } = probe.place
    probe.state = 'arrived'
    // What is sent over one family arrives over it.
    if (familyOf(host) !== from.family) return
    this.#note({ kind, host: from.host, port: from.port }, this.#networkOf(host), probe.order, probe.localPort)
  }

  #note({ kind, host, port }: Place, network: string, order: number, localPort?: number): void {
    if (!counts(host, this.#shared)) return
    const observer = this.#session.peer
    this.#seen.push({ observer, network, transport: kind, localPort, mapped: { host, port }, order })
  }

  #networkOf(host: string): string {
    return (this.#shared.networkOf ?? networkOf)(host)
  }

  #fail(error: PeerlineError): void {
    if (this.#state === 'failed' || this.#shared.over.aborted) return
    // What it has told stands.
    if (this.#state === 'asked') this.#state = 'failed'
    this.#error = error
    this.#onNews()
  }

  // ---- what is known of it ----

  get seen(): readonly (SeenBy & { readonly order: number })[] {
    return this.#seen
  }

  /** Nothing more is to come of it. */
  get done(): boolean {
    if (this.#state === 'asked') return false
    return this.#error !== undefined || [...this.#probes.values()].every(({ state }) => state !== 'sent')
  }

  /** It has said something of this family, or may yet. */
  concerns(family: 4 | 6): boolean {
    return this.#sees(family) || this.silent(family).length > 0
  }

  /** It may yet say where something came from that was sent over this transport. */
  awaits(family: 4 | 6, transport: 'udp' | 'tcp'): boolean {
    if (this.#state === 'asked') return this.concerns(family)
    if (this.#error !== undefined) return false
    return [...this.#probes.values()].some(
      ({ place, state }) => state === 'sent' && place.kind === transport && familyOf(place.host) === family,
    )
  }

  #sees(family: 4 | 6): boolean {
    return this.#seen.some(({ mapped }) => familyOf(mapped.host) === family)
  }

  /** In which network it could have told something of this family, and has not. */
  silent(family: 4 | 6): Silent[] {
    if (this.#state === 'declined' || this.#state === 'failed') return []
    const pending = [...this.#probes.values()].filter(
      ({ place, state }) => familyOf(place.host) === family && state !== 'arrived',
    )
    if (this.#sees(family)) {
      return pending.map(({ place }) => ({ network: this.#networkOf(place.host), transport: place.kind }))
    }
    const [host = pending[0]?.place.host] = this.#hosts.get(family) ?? []
    if (host !== undefined) return [{ network: this.#networkOf(host) }]
    // It is in a network that nobody knows, until it has named a place.
    return this.#state === 'asked' ? [{ network: this.#session.peer }] : []
  }

  get report(): ObserverReport {
    const silent = ([4, 6] as const).some((family) => this.silent(family).length > 0) && this.#seen.length === 0
    const outcome = this.#state === 'declined' || this.#state === 'failed' ? this.#state : silent ? 'silent' : 'told'
    const seen = this.#seen.map(({ order, ...one }): SeenBy => one)
    return { peer: this.#session.peer, outcome, seen, ...(this.#error === undefined ? {} : { error: this.#error }) }
  }
}

function familyOf(host: string): 4 | 6 {
  return toSocketAddress(host, 0)?.family ?? 4
}
