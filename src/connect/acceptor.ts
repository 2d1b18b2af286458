/**
 * What comes in: the first message of a path says what the path is for.
 *
 *     OFFER    a direct dial by somebody who knows our id      handshake IK, on the path itself
 *     XX1      a direct dial by somebody who does not          handshake XX
 *     ATTACH   another path for a session that exists
 *     CIRCUIT  two of these are joined, if we are a relay
 *     PROBE    somebody shows where it comes from, and has nothing else to say
 *
 * Anything else closes the path. The order is always: limit, authenticate, authorise, then read the rest.
 */
import { MessageKind, PREAMBLE_BYTES, PROTOCOL_VERSION, readPreamble, toHex } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { acceptExchange, openOffer, type ReplayCache, type SessionKeys } from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { hostOf, sourceKey } from '../network/address.ts'
import { discard, type FramedPath, type Path } from '../path/index.ts'
import { type Session, sessionIdOf } from '../session/index.ts'
import { capabilityOf, namesSession } from './candidate.ts'
import { type Claim, type Counted, held } from './counted.ts'
import { firstMessage } from './first-message.ts'

/**
 * Strangers of one source that may be in the middle of their first messages at once, each of which holds at most 17 KiB: so
 * that one cannot shut out the others, a quarter of what the limit `pendingIn` is as a rule.
 */
const MAX_STRANGERS_PER_SOURCE = 256

const EMPTY = new Uint8Array(0)

/** What counts as one source: the address without its port, or the whole of what is no address, such as a relay. */
function sourceOf(remote: string): string {
  const host = hostOf(remote)
  return host === undefined ? remote : sourceKey(host)
}

/** What a peer was let in by: it goes with the session to whoever decided. */
export type Leave = object

/** How a peer comes. */
export interface AdmitHow {
  readonly how: 'direct' | 'signaled'
  /** What it brings of an invitation; read when it is asked for, and it may be anything. */
  readonly capability?: (() => Uint8Array | undefined) | undefined
  /** Fires when the peer has left. */
  readonly signal?: AbortSignal | undefined
}

/** Decides about a peer whose identity is proven. Rejects with the refusal. */
export type Admit = (from: PeerId, how: AdmitHow) => Promise<Leave | undefined>

export interface AcceptorOptions {
  readonly identity: Identity
  readonly replay: ReplayCache
  /** Counts a connection. @throws PeerlineError when there are too many */
  readonly count: (claim: Claim) => Counted
  /** False for an address (an IP literal) that is shut out. */
  readonly mayCome: (host: string) => boolean
  /** Lets a peer in, and counts it as a session of that peer from then on. Rejects with the refusal. */
  readonly admit: (from: PeerId, counted: Counted, how: Omit<AdmitHow, 'how'>) => Promise<Leave | undefined>
  /** Refusals are told to the other side; else it hears nothing. */
  readonly tellRefusals: boolean
  /** True for a peer that we have a session with, or had lately: what it tells is read without further leave. */
  readonly knows: (peer: PeerId) => boolean
  readonly findSession: (idHex: string) => Session | undefined
  readonly newSession: (keys: SessionKeys, peer: PeerId, leave: Leave | undefined) => Session
  /** Answers an offer for a session that both sides have; undefined: with silence. @throws PeerlineError when it is malformed */
  readonly resume: (offer: ReturnType<typeof openOffer>) => Promise<Uint8Array | undefined>
  /** Takes a path whose first message asked for a circuit; the path is paused. Absent: we are no relay. */
  readonly onCircuit?: ((path: FramedPath, circuit: Uint8Array) => void) | undefined
  /** Takes what was sent to show where it comes from, and the name of the path that it came on. */
  readonly onProbe?: ((token: Uint8Array, remote: string) => void) | undefined
}

export class Acceptor {
  readonly #options: AcceptorOptions
  readonly #strangers = new Set<Path>()
  /** Those of them that have said nothing yet, in the order in which they came. */
  readonly #silent = new Map<Path, Counted>()
  /** Those that wait for their handshake. */
  readonly #turns: (() => void)[] = []
  readonly #sources = new Map<string, number>()
  #closed = false

  constructor(options: AcceptorOptions) {
    this.#options = options
  }

  /** Takes a path that somebody opened to us. Never rejects: what goes wrong ends the path. */
  async accept(path: FramedPath): Promise<void> {
    const host = hostOf(path.remote)
    const source = sourceOf(path.remote)
    const ofSource = this.#sources.get(source) ?? 0
    const barred = host !== undefined && !this.#options.mayCome(host)
    if (this.#closed || barred || ofSource >= MAX_STRANGERS_PER_SOURCE) return path.destroy()
    const counted = this.#count(host)
    if (counted === undefined) return path.destroy()
    this.#silent.set(path, counted)
    this.#strangers.add(path)
    this.#sources.set(source, ofSource + 1)
    try {
      await held(counted, async () => ({ session: await this.#accept(path, counted) }))
    } catch (error) {
      path.destroy(asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL'))
    } finally {
      this.#strangers.delete(path)
      this.#silent.delete(path)
      const left = this.#sources.get(source)! - 1
      if (left === 0) this.#sources.delete(source)
      else this.#sources.set(source, left)
    }
  }

  /** Ends the paths that have not said what they want, or are not let in yet, and takes no more. */
  close(): void {
    this.#closed = true
    for (const path of this.#strangers) path.destroy()
  }

  /**
   * Counts one more. Where there is no room, who has been silent longest gives way: whoever means it speaks as soon as it is
   * connected, so that those who only hold places have them until the next ones come.
   */
  #count(host: string | undefined): Counted | undefined {
    const count = () => {
      try {
        return this.#options.count({ direction: 'in', host })
      } catch {
        return undefined
      }
    }
    const counted = count()
    const [oldest] = this.#silent
    if (counted !== undefined || oldest === undefined) return counted
    const [path, place] = oldest
    this.#silent.delete(path)
    place.release()
    path.destroy(new PeerlineError('ERR_PEERLINE_BUSY', `${path.remote} says nothing, and others wait`))
    return count()
  }

  /** One handshake in a turn of the event loop: between two of them everybody who has a session is served. */
  async #turn(path: Path): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#turns.push(resolve)
      if (this.#turns.length === 1) setImmediate(this.#nextTurn)
    })
    if (!path.writable) throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', `${path.remote} has gone`)
  }

  readonly #nextTurn = (): void => {
    this.#turns.shift()!()
    if (this.#turns.length > 0) setImmediate(this.#nextTurn)
  }

  /** The session that was made, where one was. */
  async #accept(path: FramedPath, counted: Counted): Promise<Session | undefined> {
    const message = await firstMessage(path)
    this.#silent.delete(path)
    switch (readPreamble(message).kind) {
      case MessageKind.OFFER:
        await this.#turn(path)
        return this.#onOffer(path, message, counted)
      case MessageKind.XX1:
        await this.#turn(path)
        return this.#onExchange(path, message, counted)
      case MessageKind.ATTACH:
        this.#onAttach(path, message)
        return undefined
      case MessageKind.CIRCUIT:
        if (this.#options.onCircuit === undefined) break
        this.#options.onCircuit(path, message)
        return undefined
      case MessageKind.PROBE:
        this.#options.onProbe?.(message.subarray(PREAMBLE_BYTES), path.remote)
        path.close()
        return undefined
    }
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${path.remote} began with an unknown message`)
  }

  async #onOffer(path: Path, message: Uint8Array, counted: Counted): Promise<Session | undefined> {
    const { identity, replay, admit, tellRefusals, newSession } = this.#options
    const offer = opened(message, () => openOffer(identity, message, { replay }))
    const refuse = (cause: unknown) => {
      const error = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      return tellRefusals ? offer.refuse(error.code, error.message) : undefined
    }
    const resume = async () => {
      const answer = await this.#options.resume(offer).catch(refuse)
      if (answer !== undefined) path.send([answer])
      path.close()
      return undefined
    }
    if (this.#options.knows(offer.from) && namesSession(offer.body)) return resume()
    let leave: Leave | undefined
    try {
      leave = await admit(offer.from, counted, { signal: leaving(path), capability: () => capabilityOf(offer.body) })
      path.pause()
      const host = hostOf(path.remote)
      // The owner may have thought for long.
      if (!path.writable || (host !== undefined && !this.#options.mayCome(host))) {
        path.destroy()
        return undefined
      }
    } catch (cause) {
      const refusal = refuse(cause)
      if (refusal !== undefined) path.send([refusal])
      path.close()
      return undefined
    }
    // It is told that we do not know it, now that it is let in.
    if (namesSession(offer.body)) return resume()
    const { message: answer, keys } = offer.accept(EMPTY)
    path.send([answer])
    const session = newSession(keys, offer.from, leave)
    session.adopt(path, false)
    return session
  }

  async #onExchange(path: Path, message: Uint8Array, counted: Counted): Promise<Session | undefined> {
    const exchange = acceptExchange(this.#options.identity, message)
    path.send([exchange.message])
    const last = await firstMessage(path)
    await this.#turn(path)
    const { from, keys } = opened(last, () => exchange.read(last))
    let leave: Leave | undefined
    let refusal: PeerlineError | undefined
    try {
      leave = await this.#options.admit(from, counted, {})
    } catch (cause) {
      refusal = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      if (!this.#options.tellRefusals) {
        path.close()
        return undefined
      }
    }
    const session = this.#options.newSession(keys, from, leave)
    session.adopt(path, false)
    if (refusal !== undefined) session.abort(refusal)
    return session
  }

  #onAttach(path: Path, message: Uint8Array): void {
    const id = sessionIdOf(message)
    const session = id === undefined ? undefined : this.#options.findSession(toHex(id))
    if (session === undefined) {
      path.send([Uint8Array.of(PROTOCOL_VERSION, MessageKind.REFUSED, 1)])
      return path.close()
    }
    session.acceptAttach(path, message)
  }
}

/** What `open` makes of a message, which is of no use then: as large as they may be, many of them would wait for the garbage collector. */
function opened<T>(message: Uint8Array, open: () => T): T {
  try {
    return open()
  } finally {
    discard(message)
  }
}

/** Fires when the path of whoever has made an offer ends. It has nothing to say until that is answered. */
function leaving(path: Path): AbortSignal {
  const left = new AbortController()
  path.start({
    message: () =>
      path.destroy(new PeerlineError('ERR_PEERLINE_PROTOCOL', `${path.remote} does not wait for the answer`)),
    drain: () => {},
    close: () => left.abort(new PeerlineError('ERR_PEERLINE_ABORTED', `${path.remote} has gone`)),
  })
  path.resume()
  return left.signal
}
