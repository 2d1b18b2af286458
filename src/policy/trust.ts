/**
 * Whom we trust, of those who come to us: a front end of the firewall, which goes on deciding by itself.
 *
 *   a peer that no rule names --> let in for default communication, or placed: the owner accepts or refuses
 *     let in --> handshake --(passes)--> group `trusted`
 *                    \--(elevates)--> group `elevated`, until the handshake is over, its time is up, or the peer is gone
 *
 * - Being trusted is being in the group `trusted`, being elevated is being in `elevated`; what the groups may do are rules,
 *   as any others. They are kept as the rules are; the owner's rules of single peers come before them.
 * - Placement gates: nothing of a peer is let in before the owner accepts it. Silence is a no that is not remembered.
 * - A handshake trusts only while it runs: what it says after its peer left, its time was up or the peer was distrusted
 *   counts for nothing. There is one at a time with a peer, whatever the number of its sessions.
 * - `elevated` outlives nothing: members that this object has not put there, as those of a run that crashed, are taken out
 *   of it. Who is trusted only while it is here (`enhancedExchange`) is in both groups, and is taken out of both.
 *
 * Limits: 64 arrivals at once, which are the firewall's; a time for each decision and each handshake.
 */
import { asPeerlineError, invalid, PeerlineError } from '../errors.ts'
import { TypedEventTarget } from '../events.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'
import { Arrival, ArrivalQueue, overError, type Verdict } from './arrivals.ts'
import type { Answer, Ask, Asked } from './asking.ts'
import type { Firewall, FirewallEvents } from './firewall.ts'
import type { RuleInput } from './rule.ts'
import { Attempt } from './trust-attempt.ts'
import {
  checkOptions,
  checkWait,
  type DemotedReason,
  ELEVATED,
  type Exchange,
  TRUSTED,
  type TrustEvents,
  type TrustOptions,
  type TrustSettings,
} from './trust-options.ts'

export type { AcceptOptions, RefuseOptions } from './arrivals.ts'
export { Arrival } from './arrivals.ts'
export type {
  Answering,
  DemotedReason,
  Exchange,
  ExchangeOptions,
  Handshake,
  HandshakeContext,
  ReadyHandshake,
  TrustEvents,
  TrustOptions,
} from './trust-options.ts'

/** A peer that is here. */
interface Visit {
  /** The ends of its sessions, each with what is called then. */
  readonly sessions: Map<AbortSignal, () => void>
  /** The handshake under way, and when it is over. */
  attempt: { readonly cancel: (reason: PeerlineError) => void; over: Promise<'left' | 'over'> } | undefined
}

/** A membership in `elevated` of ours. */
interface Elevation {
  /** `handshake`: while one runs; `visit`: while the peer is here and trusted for that; `turn`: to be let in once. */
  readonly kind: 'handshake' | 'visit' | 'turn'
  /** Of a handshake. */
  readonly visit?: Visit
  readonly timer?: ReturnType<typeof setTimeout>
}

export class Trust extends TypedEventTarget<TrustEvents> {
  /** What the groups and everyone may do: the first rules of the firewall. */
  readonly rules: readonly RuleInput[]
  /** For the firewall: places whom no rule names. */
  readonly ask: Ask = async (asked, { signal }) => this.#ask(asked, signal)
  readonly #settings: TrustSettings
  readonly #queue: ArrivalQueue
  readonly #waiting = new Set<Arrival>()
  readonly #visits = new Map<PeerId, Visit>()
  readonly #elevations = new Map<PeerId, Elevation>()
  /** The members of `trusted` as they were last told of. */
  #told: Set<PeerId> = new Set()
  #attached: { readonly firewall: Firewall; readonly self: PeerId } | undefined
  #closed = false
  readonly #onChange = ({ detail }: CustomEvent<FirewallEvents['change']>) => this.#look(detail)

  /** @throws PeerlineError `ERR_PEERLINE_INVALID`, which names the option that is wrong */
  constructor(options: TrustOptions = {}) {
    super()
    this.#settings = checkOptions(options)
    this.#queue = new ArrivalQueue(this.#settings.queueCapacity)
    this.rules = this.#settings.rules
  }

  /** ms to decide about an arrival: the firewall's `approveTimeoutMs` is to be no less. */
  get decideMs(): number {
    return this.#settings.decideMs
  }

  /** Those who wait to be let in, with the placements `queue` and `both`, as they come; it ends with `close`. */
  get arrivals(): AsyncIterable<Arrival> {
    return this.#queue
  }

  /** What the handshakes of others ask us, by protocol: for handlers. @throws PeerlineError when it is not attached */
  get handlers(): ReadonlyMap<string, (body: Uint8Array, context: { from: PeerId }) => Promise<Uint8Array>> {
    const { self } = this.#needed()
    const answers = Object.entries(this.#settings.handshake?.answers ?? {})
    return new Map(
      answers.map(([protocol, answer]) => [protocol, async (body, { from }) => answer(body, { self, from })]),
    )
  }

  /**
   * Works on the groups of this firewall from now on, which was made with `rules` and `ask`. Once.
   * @param options.self our peer id
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  attach(firewall: Firewall, { self }: { readonly self: PeerId }): void {
    if (this.#attached !== undefined) throw invalid('this trust has a firewall already')
    this.#attached = { firewall, self }
    for (const peer of firewall.groups.get(ELEVATED) ?? []) this.#takeOut(peer)
    this.#told = new Set(firewall.groups.get(TRUSTED))
    firewall.addEventListener('change', this.#onChange)
  }

  isTrusted(peer: PeerId): boolean {
    return this.#attached?.firewall.concerns([`group:${TRUSTED}`], peer) ?? false
  }

  /** While a handshake with a peer runs: resolves when it is over, for what is refused now may be allowed then. */
  settling(peer: PeerId): Promise<unknown> | undefined {
    return this.#visits.get(peer)?.attempt?.over
  }

  /** Trusts a peer from now on. @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_LIMIT` */
  trust(peer: PeerId): void {
    const { firewall } = this.#needed()
    const id = parsePeerId(peer)
    // one that is trusted while it is here is trusted for good now
    this.#demote(id, 'trusted')
    firewall.addToGroup(TRUSTED, id)
  }

  /**
   * Trusts a peer no longer, and ends a handshake with it. When it comes again, so does the handshake: to shut it out, ban
   * it or deny it. @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  distrust(peer: PeerId): void {
    const { firewall } = this.#needed()
    const id = parsePeerId(peer)
    this.#visits.get(id)?.attempt?.cancel(aborted('the peer was distrusted'))
    this.#demote(id, 'distrusted')
    firewall.removeFromGroup(TRUSTED, id)
  }

  /**
   * A peer has come: an inbound session is open. Runs the handshake, where there is one and the peer is not trusted.
   *
   * @param options.signal fires when the session is over, as it must in the end
   * @returns whether the peer is trusted then; what goes wrong is told by the `handshake` event
   */
  async arrived(peer: PeerId, exchange: Exchange, { signal }: { readonly signal: AbortSignal }): Promise<boolean> {
    this.#needed()
    if (this.#closed || signal.aborted) return this.isTrusted(peer)
    const visit = this.#enter(peer, signal)
    const { enhancedExchange, handshake } = this.#settings
    if (enhancedExchange) this.#lend(peer)
    while (handshake !== undefined && !this.#closed && !this.isTrusted(peer)) {
      const { over } = visit.attempt ?? this.#begin(peer, visit, exchange, signal)
      // one in another session, which is over: this one tries it itself
      if ((await over) === 'over' || signal.aborted) break
    }
    return this.isTrusted(peer)
  }

  /** Nobody is placed, elevated or trusted by it any more; those who wait are refused. The firewall stays as it is. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    const reason = new PeerlineError('ERR_PEERLINE_CLOSED', 'the trust was closed')
    for (const arrival of [...this.#waiting]) arrival.end(reason)
    this.#queue.close()
    for (const { sessions, attempt } of this.#visits.values()) {
      for (const [signal, leave] of sessions) signal.removeEventListener('abort', leave)
      attempt?.cancel(reason)
    }
    this.#visits.clear()
    for (const peer of [...this.#elevations.keys()]) this.#demote(peer, 'closed')
    this.#attached?.firewall.removeEventListener('change', this.#onChange)
  }

  // ---- arrivals ----

  #ask(asked: Asked, signal: AbortSignal): Answer | Promise<Answer> {
    const { placement, decideMs } = this.#settings
    const { peer, questions } = asked
    const comes = questions.some(({ direction }) => direction === 'in')
    if (this.#closed || signal.aborted || placement === undefined || !comes) throw refused()
    // who is here was let in: its next connection is not placed again
    const again = questions.every(({ object, why }) => object === 'connection' && why === 'no-rule')
    if (again && this.#visits.has(peer)) return this.#letIn(asked)
    return new Promise((resolve, reject) => {
      const onAbort = () => arrival.end(overError(signal))
      const onTime = () => arrival.end(new PeerlineError('ERR_PEERLINE_TIMEOUT', 'nobody decided about it in time'))
      const arrival = new Arrival(asked, (verdict) => {
        clearTimeout(timer)
        signal.removeEventListener('abort', onAbort)
        this.#waiting.delete(arrival)
        this.#queue.drop(arrival)
        try {
          resolve(this.#answer(asked, verdict))
        } catch (error) {
          reject(error)
          if (verdict?.accepted === true) throw error
        }
      })
      const timer = setTimeout(onTime, decideMs)
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.add(arrival)
      const queued = placement !== 'event' && this.#queue.offer(arrival)
      if (placement !== 'queue') this.emit('arrival', arrival)
      else if (!queued) arrival.end(new PeerlineError('ERR_PEERLINE_BUSY', 'too many wait to be let in'))
    })
  }

  /** What the firewall is answered. Throws where nothing is to be remembered of a no. */
  #answer(asked: Asked, verdict: Verdict | undefined): Answer {
    if (verdict?.accepted === true) {
      if (verdict.trust === true) this.trust(asked.peer)
      return verdict.remember === true ? true : this.#letIn(asked)
    }
    if (verdict?.remember === true) return false
    throw refused()
  }

  /**
   * Answers yes, for this time. A yes where no rule says anything is remembered by the firewall; so those questions are
   * decided by a membership of one turn instead, and only what a rule has asked each time is left to be answered.
   */
  #letIn({ peer, questions }: Asked): Answer {
    const { firewall } = this.#needed()
    const before = this.#elevations.get(peer)
    try {
      if (before === undefined) this.#elevations.set(peer, { kind: 'turn' })
      firewall.addToGroup(ELEVATED, peer)
      const left = questions.some((one) => one.why === 'no-rule' && firewall.decide(one).action === 'ask')
      if (left)
        throw new PeerlineError('ERR_PEERLINE_DENIED', 'no rule lets that be done once: remember it, or trust the peer')
      return true
    } finally {
      if (before === undefined) {
        firewall.removeFromGroup(ELEVATED, peer)
        this.#elevations.delete(peer)
      }
    }
  }

  // ---- those who are here ----

  #enter(peer: PeerId, signal: AbortSignal): Visit {
    const visit = this.#visits.get(peer) ?? { sessions: new Map(), attempt: undefined }
    this.#visits.set(peer, visit)
    if (visit.sessions.has(signal)) return visit
    const leave = () => {
      visit.sessions.delete(signal)
      if (visit.sessions.size > 0) return
      this.#visits.delete(peer)
      this.#demote(peer, 'gone')
    }
    visit.sessions.set(signal, leave)
    signal.addEventListener('abort', leave, { once: true })
    return visit
  }

  /** Begins the handshake in one of the sessions. */
  #begin(peer: PeerId, visit: Visit, exchange: Exchange, session: AbortSignal): NonNullable<Visit['attempt']> {
    const { handshake, handshakeTimeoutMs } = this.#settings
    const attempt = new Attempt({
      self: this.#needed().self,
      peer,
      exchange,
      session,
      timeoutMs: handshakeTimeoutMs,
      elevate: (ms) => this.#elevate(peer, visit, ms),
      conclude: (failed) => {
        visit.attempt = undefined
        const error = failed ?? this.#grant(peer)
        // not what another visit, which began meanwhile, was given
        if (this.#elevations.get(peer)?.visit === visit) this.#demote(peer, 'over')
        this.emit('handshake', { peer, ok: error === undefined, ...(error === undefined ? {} : { error }) })
      },
    })
    // it is known before it runs: what it does may end it
    const begun = {
      cancel: (reason: PeerlineError) => attempt.cancel(reason),
      over: Promise.resolve<'left' | 'over'>('over'),
    }
    visit.attempt = begun
    begun.over = attempt.run(handshake!.run)
    return begun
  }

  /** Trusts who passed. Why it cannot be, when it cannot. */
  #grant(peer: PeerId): PeerlineError | undefined {
    try {
      this.trust(peer)
      return undefined
    } catch (error) {
      return asPeerlineError(error, 'ERR_PEERLINE_LIMIT')
    }
  }

  #elevate(peer: PeerId, visit: Visit, ms: number | undefined): void {
    if (ms !== undefined) checkWait('ms', ms)
    const { firewall } = this.#needed()
    clearTimeout(this.#elevations.get(peer)?.timer)
    const timer = ms === undefined ? undefined : setTimeout(() => this.#demote(peer, 'time'), ms)
    this.#elevations.set(peer, { kind: 'handshake', visit, ...(timer === undefined ? {} : { timer }) })
    try {
      firewall.addToGroup(ELEVATED, peer)
    } catch (error) {
      this.#elevations.delete(peer)
      clearTimeout(timer)
      throw error
    }
    this.emit('elevated', { peer, ...(ms === undefined ? {} : { ms }) })
  }

  /** Trusts who is not trusted already for as long as it is here; not, where there is no room for it. */
  #lend(peer: PeerId): void {
    if (this.isTrusted(peer)) return
    const { firewall } = this.#needed()
    this.#elevations.set(peer, { kind: 'visit' })
    try {
      firewall.addToGroup(ELEVATED, peer)
      firewall.addToGroup(TRUSTED, peer)
    } catch {
      this.#demote(peer, 'gone')
    }
  }

  /** Ends what is temporary about a peer, if anything is. */
  #demote(peer: PeerId, reason: DemotedReason): void {
    const elevation = this.#elevations.get(peer)
    if (elevation === undefined) return
    clearTimeout(elevation.timer)
    const { firewall } = this.#needed()
    if (elevation.kind === 'visit' && reason !== 'trusted') firewall.removeFromGroup(TRUSTED, peer)
    this.#elevations.delete(peer)
    firewall.removeFromGroup(ELEVATED, peer)
    if (elevation.kind === 'handshake') this.emit('demoted', { peer, reason })
  }

  // ---- the groups ----

  /** The groups may be others now, by us or by anybody. */
  #look({ subjects }: FirewallEvents['change']): void {
    const { firewall } = this.#needed()
    // all rules and groups were replaced, for all we know
    const all = subjects.includes('everyone')
    const { groups } = all ? firewall : { groups: undefined }
    const peers = groups
      ? new Set([...this.#told, ...(groups.get(TRUSTED) ?? []), ...(groups.get(ELEVATED) ?? [])])
      : (subjects.filter((subject) => !subject.startsWith('group:')) as PeerId[])
    for (const peer of peers) this.#lookAt(peer, firewall)
  }

  #lookAt(peer: PeerId, firewall: Firewall): void {
    if (firewall.concerns([`group:${ELEVATED}`], peer) && !this.#elevations.has(peer)) this.#takeOut(peer)
    const trusted = this.isTrusted(peer)
    if (trusted === this.#told.has(peer)) return
    if (!trusted) {
      this.#told.delete(peer)
      this.emit('distrusted', { peer })
      return
    }
    this.#told.add(peer)
    this.#visits.get(peer)?.attempt?.cancel(aborted('the peer is trusted meanwhile'))
    if (this.#elevations.get(peer)?.kind === 'handshake') this.#demote(peer, 'trusted')
    this.emit('trusted', { peer })
  }

  /** Takes out a member of `elevated` that is not ours; what is left of a run that had trusted it while it was there. */
  #takeOut(peer: PeerId): void {
    const { firewall } = this.#needed()
    firewall.removeFromGroup(TRUSTED, peer)
    firewall.removeFromGroup(ELEVATED, peer)
  }

  #needed(): { readonly firewall: Firewall; readonly self: PeerId } {
    if (this.#attached === undefined) throw invalid('this trust has no firewall yet: attach it')
    return this.#attached
  }
}

function refused(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_DENIED', 'the owner does not let it in')
}

function aborted(why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_ABORTED', why)
}
