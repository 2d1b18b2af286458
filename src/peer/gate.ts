/**
 * The gate: every connection and every stream is decided here, both ways, and what is not allowed any more is cut.
 *
 *     connection in    limits -> ban of the address -> handshake -> ban of the peer -> firewall -> limits -> session
 *     connection out   ban of the peer -> firewall -> limits -> ban of each address -> session
 *     stream in        is it handled? -> firewall -> handler          refused: not even offered, or denied, as it is to be told
 *     stream out       firewall -> opened
 *     ban, rule, group change, rule over --> sessions and streams that nothing allows any more are ended
 *
 * - Bans come before rules, and rules before the owner is asked. The decision that let something in stays with it: what the
 *   owner allowed for this time goes on until something denies it.
 * - What is judged is the protocol, whatever form of a request it is used in.
 * - Introductions are not judged: they have their own leave, and carry nothing but offers.
 */
import type { Claim, Counted, Leave } from '../connect/index.ts'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { hostOf } from '../network/address.ts'
import type { Bans } from '../policy/bans.ts'
import { type Decision, refusal } from '../policy/decision.ts'
import type { Firewall } from '../policy/firewall.ts'
import { ConnectionLimits, type ConnectionLimitsOptions } from '../policy/peer-limits.ts'
import type { PermissionNames, Question } from '../policy/rule.ts'
import { splitForm } from '../protocol/index.ts'
import { type Session, type Stream, StreamCode } from '../session/index.ts'
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
  readonly leave: Decision | undefined
  streams: { readonly stream: Stream; readonly decision: Decision }[]
  sweepAt: number
}

export class Gate {
  readonly #firewall: Firewall
  readonly #bans: Bans
  readonly #limits: ConnectionLimits
  readonly #entries = new Map<Session, Entry>()

  constructor(parts: { firewall: Firewall; bans: Bans; limits?: ConnectionLimitsOptions | undefined }) {
    const { firewall, bans } = parts
    this.#firewall = firewall
    this.#bans = bans
    this.#limits = new ConnectionLimits(parts.limits)
    firewall.addEventListener('change', ({ detail: { subjects } }) => {
      for (const [session, entry] of this.#entries) {
        if (firewall.concerns(subjects, session.peer)) this.#review(session, entry)
      }
    })
    bans.addEventListener('ban', () => {
      for (const session of [...this.#entries.keys()]) if (this.#isBanned(session)) session.abort(banned())
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
  readonly admit = async (peer: PeerId, how: 'direct' | 'signaled'): Promise<Leave> => {
    if (this.#bans.isBanned(peer)) throw banned()
    const decision = await this.#firewall.admit({ peer, direction: 'in', object: 'connection', how })
    // The owner may have thought for long.
    if (this.#bans.isBanned(peer)) throw banned()
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

  /** Holds a session to what it was let in by, from now until it ends. */
  watch(session: Session, leave: Leave | undefined): void {
    const entry: Entry = { leave: leave as Decision | undefined, streams: [], sweepAt: FIRST_SWEEP }
    this.#entries.set(session, entry)
    session.addEventListener('close', () => this.#entries.delete(session))
    // Rules and bans may have changed while it was made.
    this.#review(session, entry)
    if (this.#isBanned(session)) session.abort(banned())
    // A path may lead to a banned address only now.
    session.addEventListener('paths', () => {
      if (this.#isBanned(session)) session.abort(banned())
    })
  }

  // ---- streams ----

  /** Has `serve` called for a stream of the other side's when it may be used; else the stream is refused. */
  enter(session: Session, stream: Stream, serve: () => void): void {
    const object = splitForm(stream.protocol).protocol
    if (UNJUDGED.has(object)) return serve()
    const question: Question = { peer: session.peer, direction: 'in', object }
    const decision = this.#firewall.settle(question)
    if (decision !== undefined) return this.#begin(session, stream, decision, serve)
    this.#firewall.admit(question, { signal: leaving(stream) }).then(
      (asked) => {
        // The answer was a moment on its way.
        if (this.#firewall.stands(asked)) this.#begin(session, stream, asked, serve)
        else this.#refuse(stream, 'ERR_PEERLINE_DENIED')
      },
      (error: PeerlineError) => this.#refuse(stream, error.code),
    )
  }

  /**
   * As {@link enter} for who decides by {@link decide} when more is known of the request: refused is only what would be
   * whatever it is.
   */
  offer(session: Session, stream: Stream, serve: () => void): void {
    const object = splitForm(stream.protocol).protocol
    if (this.#firewall.offers({ peer: session.peer, direction: 'in', object })) serve()
    else this.#refuse(stream, 'ERR_PEERLINE_DENIED')
  }

  /**
   * Decides about a request when so much is known of it.
   * @throws PeerlineError `ERR_PEERLINE_DENIED`, `ERR_PEERLINE_BUSY`; `ERR_PEERLINE_ABORTED` when the asker is gone
   */
  async decide(session: Session, stream: Stream, trimmed: Trimmed): Promise<void> {
    const object = splitForm(stream.protocol).protocol
    const question: Question = { peer: session.peer, direction: 'in', object, ...trimmed }
    await this.#through(question, leaving(stream), (decision) => this.#hold(session, stream, decision))
  }

  /** Opens a stream of ours, where we may. @throws PeerlineError as {@link decide}, and of `open` */
  async open(
    session: Session,
    name: string,
    open: () => Promise<Stream>,
    signal: AbortSignal | undefined,
  ): Promise<Stream> {
    const object = splitForm(name).protocol
    if (UNJUDGED.has(object)) return open()
    const question: Question = { peer: session.peer, direction: 'out', object }
    return this.#through(question, signal, async (decision) => {
      const stream = await open()
      this.#hold(session, stream, decision)
      // It may have waited for its turn.
      if (!this.#firewall.stands(decision)) stream.reset(StreamCode.CANCELLED)
      return stream
    })
  }

  async #through<T>(
    question: Question,
    signal: AbortSignal | undefined,
    begin: (decision: Decision) => T | Promise<T>,
  ): Promise<T> {
    const settled = this.#firewall.settle(question)
    if (settled?.action === 'deny') throw refusal(settled)
    const decision = settled ?? (await this.#firewall.admit(question, signal === undefined ? {} : { signal }))
    if (settled === undefined && !this.#firewall.stands(decision)) throw refusal({ ...decision, action: 'deny' })
    return begin(decision)
  }

  #begin(session: Session, stream: Stream, decision: Decision, serve: () => void): void {
    if (stream.done) return
    if (decision.action !== 'allow') return this.#refuse(stream, refusal(decision).code)
    this.#hold(session, stream, decision)
    serve()
  }

  #refuse(stream: Stream, code: ErrorCode): void {
    if (code === 'ERR_PEERLINE_BUSY') stream.reset(StreamCode.BUSY)
    else stream.reset(this.#firewall.tellRefusals ? StreamCode.DENIED : StreamCode.NO_PROTOCOL)
  }

  // ---- what goes on ----

  #hold(session: Session, stream: Stream, decision: Decision): void {
    const entry = this.#entries.get(session)
    if (entry === undefined) return
    if (entry.streams.length >= entry.sweepAt) {
      entry.streams = entry.streams.filter((held) => !held.stream.done)
      entry.sweepAt = Math.max(FIRST_SWEEP, 2 * entry.streams.length)
    }
    entry.streams.push({ stream, decision })
  }

  /** Ends what is not allowed any more. */
  #review(session: Session, entry: Entry): void {
    const { leave } = entry
    if (leave !== undefined && !this.#firewall.stands(leave))
      return session.abort(refusal({ ...leave, action: 'deny' }))
    entry.streams = entry.streams.filter(({ stream, decision }) => {
      if (stream.done) return false
      if (this.#firewall.stands(decision)) return true
      // Not as one that was refused: it may have been served in part.
      stream.reset(StreamCode.CANCELLED)
      return false
    })
  }

  #isBanned(session: Session): boolean {
    if (this.#bans.size === 0) return false
    return this.#bans.isBanned(session.peer) || session.pathInfo.some(({ remote }) => this.#isBannedRemote(remote))
  }

  #isBannedRemote(remote: string): boolean {
    const host = hostOf(remote)
    return host !== undefined && this.#bans.isBannedAddress(host)
  }
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
