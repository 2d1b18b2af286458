/**
 * The gate: every connection and every stream is decided here, both ways, and what is not allowed any more is cut.
 *
 *     connection in    limits -> ban of the address -> handshake -> ban of the peer -> invitation -> firewall -> limits -> session
 *     connection out   ban of the peer -> firewall -> limits -> ban of each address -> session
 *     stream in        is it handled? -> firewall -> handler          refused: not even offered, or denied, as it is to be told
 *     stream out       firewall -> opened
 *     ban, rule, group change, rule over --> sessions and streams that nothing allows any more are ended
 *
 * - Bans come before rules, and rules before the owner is asked. The decision that let something in stays with it: what the
 *   owner allowed for this time goes on until something denies it.
 * - A handler may outlive its stream, and its session: it is held to what let them in for as long as it runs.
 * - What is judged is the protocol, whatever form of a request it is used in.
 * - Introductions are not judged: they have their own leave, and carry nothing but offers.
 */
import type { AdmitHow, Claim, Counted, Leave } from '../connect/index.ts'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { hostOf } from '../network/address.ts'
import type { Bans } from '../policy/bans.ts'
import { type Decision, isStanding, refusal } from '../policy/decision.ts'
import type { Firewall } from '../policy/firewall.ts'
import { ConnectionLimits, type ConnectionLimitsOptions } from '../policy/peer-limits.ts'
import type { PermissionNames, Question } from '../policy/rule.ts'
import { splitForm } from '../protocol/index.ts'
import { type Opening, type Session, type Stream, StreamCode } from '../session/index.ts'
import { INTRODUCE_PROTOCOL, INTRODUCED_PROTOCOL } from '../signaling/index.ts'

const UNJUDGED: ReadonlySet<string> = new Set([INTRODUCE_PROTOCOL, INTRODUCED_PROTOCOL])

/** Streams of a session that may have ended are looked through when there are this many, and then twice those that had not. */
const FIRST_SWEEP = 32

/** What a firewall may see of a request beyond its protocol. */
export interface Trimmed {
  readonly view?: unknown
  readonly needs?: PermissionNames
}

/** A session, and what it and its streams were let through by. */
interface Entry {
  readonly peer: PeerId
  /** We dialled it for its services: it was not let in, so what everyone who is may do is not for it. */
  readonly server: boolean
  readonly leave: Decision | undefined
  streams: Held[]
  sweepAt: number
  /** It was ended here. */
  cut: boolean
}

/** A stream, and what it was let through by. */
export interface Held {
  readonly entry: Entry
  readonly stream: Stream
  readonly decision: Decision
}

export interface GateParts {
  readonly firewall: Firewall
  readonly bans: Bans
  readonly limits?: ConnectionLimitsOptions | undefined
  /** Lets a peer in by what it brought of an invitation; undefined while there are none. Rejects with the refusal. */
  readonly redeem: () => ((capability: Uint8Array, peer: PeerId) => Promise<void>) | undefined
  /** While it is found out what a peer may do: resolves when it is known. */
  readonly settling: (peer: PeerId) => Promise<unknown> | undefined
}

export class Gate {
  readonly #firewall: Firewall
  readonly #bans: Bans
  readonly #limits: ConnectionLimits
  readonly #settling: GateParts['settling']
  readonly #redeem: GateParts['redeem']
  /** Of sessions that have not ended. */
  readonly #entries = new Map<Session, Entry>()
  /** The same, and of those that have. */
  readonly #entryOf = new WeakMap<Session, Entry>()
  /** Handlers that run, whatever becomes of their streams. */
  readonly #running = new Set<{ readonly held: Held; readonly cut: () => void }>()
  /** How often the rules have changed. */
  #changes = 0

  constructor(parts: GateParts) {
    const { firewall, bans } = parts
    this.#settling = parts.settling
    this.#redeem = parts.redeem
    this.#firewall = firewall
    this.#bans = bans
    this.#limits = new ConnectionLimits(parts.limits)
    firewall.addEventListener('change', ({ detail: { subjects } }) => {
      this.#changes++
      for (const [session, entry] of [...this.#entries]) {
        if (firewall.concerns(subjects, entry.peer)) this.#review(session, entry)
      }
      this.#reviewRunning(({ entry }) => firewall.concerns(subjects, entry.peer))
    })
    bans.addEventListener('ban', () => {
      for (const [session, entry] of [...this.#entries]) this.#cutBanned(session, entry)
      this.#reviewRunning(() => true)
    })
  }

  // ---- connections ----

  /** @throws PeerlineError `ERR_PEERLINE_BUSY`, `ERR_PEERLINE_LIMIT` */
  readonly count = (claim: Claim): Counted => this.#limits.take(claim)

  /** How many connections there are. */
  get counts(): ConnectionLimits['counts'] {
    return this.#limits.counts
  }

  /** False for an address that is banned. */
  readonly mayUse = (host: string): boolean => !this.#bans.isBannedAddress(host)

  /** Lets a peer in. @throws PeerlineError `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_BUSY` */
  readonly admit = async (peer: PeerId, { how, capability, signal }: AdmitHow): Promise<Leave> => {
    if (this.#bans.isBanned(peer)) {
      this.#firewall.note({
        action: 'deny',
        reason: 'banned',
        question: { peer, direction: 'in', object: 'connection' },
      })
      throw banned()
    }
    const question = { peer, direction: 'in', object: 'connection', how } as const
    const redeem = this.#redeem()
    // With no invitations given out, nothing of what a stranger brings is looked at.
    const brought = redeem && capability?.()
    if (brought !== undefined) {
      await redeem!(brought, peer).catch((error) => {
        // Who may come in anyway, or whom the owner may still let in, needs none.
        if (this.#firewall.decide(question).action === 'deny') throw error
      })
    }
    const options = signal === undefined ? {} : { signal }
    const decision = await this.#firewall.admit(question, options)
    // The owner may have thought for long, and the answer was a moment on its way.
    if (this.#bans.isBanned(peer)) throw banned()
    if (!this.#firewall.stands(decision)) throw refusal({ ...decision, action: 'deny' })
    return decision
  }

  /** Whether we may dial a peer. @throws PeerlineError as {@link admit} */
  readonly permit = async (peer: PeerId, signal?: AbortSignal): Promise<Leave> => {
    if (this.#bans.isBanned(peer)) {
      throw new PeerlineError('ERR_PEERLINE_DENIED', `this peer has banned ${peer}`, { recover: 'Lift the ban first.' })
    }
    const options = signal === undefined ? {} : { signal }
    return this.#firewall.admit({ peer, direction: 'out', object: 'connection' }, options)
  }

  /** Holds a session to what it was let in by, or one with a server to bans and rules of that server, from now until it ends. */
  watch(session: Session, leave: Leave | undefined, server = false): void {
    const entry = newEntry(session.peer, leave as Decision | undefined, server)
    this.#entries.set(session, entry)
    this.#entryOf.set(session, entry)
    session.addEventListener('close', () => this.#entries.delete(session))
    // Rules and bans may have changed while it was made.
    this.#review(session, entry)
    this.#cutBanned(session, entry)
    // A path may lead to a banned address only now.
    session.addEventListener('paths', () => this.#cutBanned(session, entry))
  }

  // ---- requests in offers ----

  /** Whether a request may be executed that came in an offer. */
  early(peer: PeerId, protocol: string): boolean {
    if (!this.mayRide(peer, protocol, 'in')) return false
    return this.#firewall.settle({ peer, direction: 'in', object: protocol })?.action === 'allow'
  }

  /**
   * Whether a request may ride in an offer, theirs or ours: it is allowed without asking anybody, for there is no time, and
   * by no rule that counts, for it may come again in the session. What is not so plain is left to that.
   */
  mayRide(peer: PeerId, protocol: string, direction: 'in' | 'out'): boolean {
    if (this.#bans.isBanned(peer)) return false
    const { action, rule } = this.#firewall.decide({ peer, direction, object: protocol })
    return action === 'allow' && rule?.uses === undefined && rule?.rate === undefined
  }

  // ---- streams ----

  /** Has `serve` called for a stream of the other side's when its protocol, `object`, may be used; else it is refused. */
  enter(session: Session, stream: Stream, object: string, serve: (held?: Held) => void): void {
    if (UNJUDGED.has(object)) return serve()
    const question: Question = { peer: session.peer, direction: 'in', object }
    const settling = this.#settling(session.peer)
    if (settling !== undefined && this.#firewall.decide(question).action === 'deny') {
      // Asked again when it is over, whatever came of it.
      return void settling.then(() => this.enter(session, stream, object, serve))
    }
    if (this.#isForOthers(session, question)) return this.#refuse(stream, 'ERR_PEERLINE_DENIED')
    const before = this.#changes
    const decision = this.#firewall.settle(question)
    // Whoever was told of the decision may have set another rule.
    if (decision?.action === 'allow' && this.#changes !== before && !this.#isAllowed(session, decision)) {
      return this.#refuse(stream, 'ERR_PEERLINE_DENIED')
    }
    if (decision !== undefined) return this.#begin(session, stream, decision, serve)
    this.#firewall.admit(question, { signal: leaving(stream) }).then(
      (asked) => {
        // The answer was a moment on its way.
        if (this.#isAllowed(session, asked)) this.#begin(session, stream, asked, serve)
        else this.#refuse(stream, 'ERR_PEERLINE_DENIED')
      },
      (error: PeerlineError) => this.#refuse(stream, error.code),
    )
  }

  /**
   * As {@link enter} for who decides by {@link decide} when more is known of the request: refused is only what would be
   * whatever it is.
   */
  offer(session: Session, stream: Stream, object: string, serve: () => void): void {
    const question: Question = { peer: session.peer, direction: 'in', object }
    if (!this.#isForOthers(session, question) && this.#firewall.offers(question)) serve()
    else this.#refuse(stream, 'ERR_PEERLINE_DENIED')
  }

  /**
   * Decides about a request when so much is known of it.
   * @throws PeerlineError `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_BUSY`; `ERR_PEERLINE_ABORTED` when the asker is gone
   */
  async decide(session: Session, stream: Stream, object: string, trimmed: Trimmed): Promise<Held> {
    const question: Question = { peer: session.peer, direction: 'in', object, ...trimmed }
    const settled = this.#firewall.settle(question)
    return this.#through(question, leaving(stream), (decision) => this.#hold(session, stream, decision), settled)
  }

  /** Whether what was let through may go on, or begin only now. */
  stands({ entry, decision }: Held): boolean {
    const { peer, leave, cut } = entry
    if (cut || this.#bans.isBanned(peer)) return false
    return (leave === undefined || this.#firewall.stands(leave)) && this.#standsFor(entry, decision)
  }

  /** Whether the rules still allow a stream of the other side's, with a server those that are of it. */
  #isAllowed(session: Session, decision: Decision): boolean {
    return this.#standsFor(this.#entryOf.get(session), decision)
  }

  #standsFor(entry: Entry | undefined, decision: Decision): boolean {
    const now = this.#firewall.again(decision)
    return isStanding(now) && !(entry?.server === true && now.rule?.subject === 'everyone')
  }

  /** Has `cut` called when a handler may not go on, whatever has become of its stream. Gives what ends that. */
  runs(held: Held, cut: () => void): () => void {
    const running = { held, cut }
    this.#running.add(running)
    return () => this.#running.delete(running)
  }

  /** True where a server that we dialled would be let do what everyone may who was let in. */
  #isForOthers(session: Session, question: Question): boolean {
    return this.#entryOf.get(session)?.server === true && this.#firewall.decide(question).rule?.subject === 'everyone'
  }

  /** Opens a stream of ours, where we may. @throws PeerlineError as {@link decide}, and of `open` */
  readonly opening = (session: Session, { protocol: name, signal, open }: Opening): Promise<Stream> => {
    const object = splitForm(name).protocol
    if (UNJUDGED.has(object)) return open()
    const question: Question = { peer: session.peer, direction: 'out', object }
    const begin = (decision: Decision) =>
      open().then((stream) => {
        this.#hold(session, stream, decision)
        // It may have waited for its turn.
        if (!this.#firewall.stands(decision)) stream.reset(StreamCode.CANCELLED)
        return stream
      })
    const settled = this.#firewall.settle(question)
    // As a rule: nothing is to be waited for.
    return settled?.action === 'allow' ? begin(settled) : this.#through(question, signal, begin, settled)
  }

  async #through<T>(
    question: Question,
    signal: AbortSignal | undefined,
    begin: (decision: Decision) => T | Promise<T>,
    settled: Decision | undefined,
  ): Promise<T> {
    if (settled?.action === 'deny') throw refusal(settled)
    const decision = settled ?? (await this.#firewall.admit(question, signal === undefined ? {} : { signal }))
    if (settled === undefined && !this.#firewall.stands(decision)) throw refusal({ ...decision, action: 'deny' })
    return begin(decision)
  }

  #begin(session: Session, stream: Stream, decision: Decision, serve: (held: Held) => void): void {
    if (stream.done) return
    if (decision.action !== 'allow') return this.#refuse(stream, refusal(decision).code)
    serve(this.#hold(session, stream, decision))
  }

  #refuse(stream: Stream, code: ErrorCode): void {
    if (code === 'ERR_PEERLINE_BUSY') stream.reset(StreamCode.BUSY)
    else stream.reset(this.#firewall.tellRefusals ? StreamCode.DENIED : StreamCode.NO_PROTOCOL)
  }

  // ---- what goes on ----

  #hold(session: Session, stream: Stream, decision: Decision): Held {
    const entry = this.#entryOf.get(session) ?? newEntry(session.peer, undefined)
    const held = { entry, stream, decision }
    if (stream.done) return held
    if (entry.streams.length >= entry.sweepAt) {
      entry.streams = entry.streams.filter((other) => !other.stream.done)
      entry.sweepAt = Math.max(FIRST_SWEEP, 2 * entry.streams.length)
    }
    entry.streams.push(held)
    return held
  }

  /** Ends what is not allowed any more. */
  #review(session: Session, entry: Entry): void {
    const { leave } = entry
    if (leave !== undefined && !this.#firewall.stands(leave)) {
      return this.#cut(session, entry, refusal({ ...leave, action: 'deny' }))
    }
    entry.streams = entry.streams.filter(({ stream }) => !stream.done)
    for (const { stream, decision } of [...entry.streams]) {
      // Not as one that was refused: it may have been served in part.
      if (!this.#standsFor(entry, decision)) stream.reset(StreamCode.CANCELLED)
    }
  }

  #reviewRunning(concerned: (held: Held) => boolean): void {
    for (const running of [...this.#running]) {
      const { held, cut } = running
      if (!concerned(held) || this.stands(held) || !this.#running.delete(running)) continue
      cut()
    }
  }

  #cutBanned(session: Session, entry: Entry): void {
    if (this.#isBanned(session)) this.#cut(session, entry, banned())
  }

  #cut(session: Session, entry: Entry, error: PeerlineError): void {
    entry.cut = true
    session.abort(error)
    this.#reviewRunning((held) => held.entry === entry)
  }

  #isBanned(session: Session): boolean {
    if (this.#bans.size === 0) return false
    return this.#bans.isBanned(session.peer) || session.pathInfo.some(({ remote }) => this.#isBannedRemote(remote))
  }

  #isBannedRemote(remote: string): boolean {
    // A path to a server may be named by its URL.
    const host = hostOf(/^wss?:\/\/([^/]+)/.exec(remote)?.[1] ?? remote)
    return host !== undefined && this.#bans.isBannedAddress(host)
  }
}

function newEntry(peer: PeerId, leave: Decision | undefined, server = false): Entry {
  return { peer, server, leave, streams: [], sweepAt: FIRST_SWEEP, cut: false }
}

function banned(): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_DENIED', 'the peer does not let you in')
}

/** Fires when the other side waits no longer. */
function leaving(stream: Stream): AbortSignal {
  const left = new AbortController()
  void stream.closed.then(() => left.abort())
  return left.signal
}
