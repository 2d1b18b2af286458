/**
 * Who may connect. Nobody, unless allowed: a list, everybody, or whoever an approver says yes to.
 *
 * It decides about identities that the handshake has proven, before anything else they sent is read.
 */
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { type PeerId, parsePeerId } from '../identity/index.ts'

/** What an approver is shown. */
export interface ConnectionRequest {
  /** Who asks; proven. */
  readonly from: PeerId
  /** On a path of its own, or by signaling. */
  readonly how: 'direct' | 'signaled'
}

/** Answers whether a peer may connect. Rejecting, or taking longer than the time-out, means no. */
export type Approver = (request: ConnectionRequest, options: { signal: AbortSignal }) => boolean | Promise<boolean>

export interface FirewallOptions {
  /** Peers that may connect, as peer ids or did:key, or `all`. @default nobody */
  readonly allow?: 'all' | readonly string[]
  /** Asked about everybody who is not allowed already. @default nobody is asked */
  readonly approve?: Approver
  /** ms that the approver gets. @default 10_000 */
  readonly approveTimeoutMs?: number
  /** Refused peers are told so; otherwise they hear nothing. @default true */
  readonly tellRefusals?: boolean
}

/** Questions to the approver that are open at once, all peers together; above it peers are told to come later. */
const MAX_OPEN_QUESTIONS = 64

export class Firewall {
  readonly tellRefusals: boolean
  readonly #all: boolean
  readonly #allowed: Set<PeerId>
  readonly #approve: Approver | undefined
  readonly #timeoutMs: number
  /** The open question about each peer: asked again meanwhile, it waits for the same answer. */
  readonly #open = new Map<PeerId, Promise<boolean>>()
  readonly #asked = new Set<AbortController>()

  /** @throws PeerlineError `ERR_PEERLINE_INVALID` when an allowed peer id is none */
  constructor(options: FirewallOptions = {}) {
    this.tellRefusals = options.tellRefusals ?? true
    this.#all = options.allow === 'all'
    this.#allowed = new Set(options.allow === 'all' ? [] : (options.allow ?? []).map(parsePeerId))
    this.#approve = options.approve
    this.#timeoutMs = options.approveTimeoutMs ?? 10_000
  }

  /** Lets a peer in from now on. */
  allow(peer: PeerId): void {
    this.#allowed.add(peer)
  }

  /** Lets a peer in no longer, unless all are allowed. Sessions that are open stay. */
  disallow(peer: PeerId): void {
    this.#allowed.delete(peer)
  }

  /**
   * Resolves when the peer may connect.
   * @throws PeerlineError `ERR_PEERLINE_DENIED`, or `ERR_PEERLINE_BUSY` when too many questions are open
   */
  async admit(request: ConnectionRequest): Promise<void> {
    if (this.#all || this.#allowed.has(request.from)) return
    if (this.#approve !== undefined && (await this.#ask(request, this.#approve))) return
    throw new PeerlineError('ERR_PEERLINE_DENIED', 'the peer does not let you in')
  }

  #ask(request: ConnectionRequest, approve: Approver): Promise<boolean> {
    const open = this.#open.get(request.from)
    if (open !== undefined) return open
    if (this.#open.size >= MAX_OPEN_QUESTIONS) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', 'too many peers ask to come in')
    }
    const question = this.#answer(request, approve).finally(() => this.#open.delete(request.from))
    this.#open.set(request.from, question)
    return question
  }

  async #answer(request: ConnectionRequest, approve: Approver): Promise<boolean> {
    const late = new AbortController()
    this.#asked.add(late)
    const timer = setTimeout(() => late.abort(), this.#timeoutMs)
    const deadline = new Promise<boolean>((resolve) => {
      late.signal.addEventListener('abort', () => resolve(false), { once: true })
    })
    try {
      return await Promise.race([Promise.resolve(approve(request, { signal: late.signal })), deadline])
    } catch (error) {
      throw new PeerlineError('ERR_PEERLINE_DENIED', 'the peer does not let you in', {
        cause: asPeerlineError(error, 'ERR_PEERLINE_DENIED'),
      })
    } finally {
      clearTimeout(timer)
      this.#asked.delete(late)
    }
  }

  /** @internal Nobody is asked any more, and nobody who was comes in. */
  close(): void {
    for (const late of this.#asked) late.abort()
  }
}
