/**
 * What comes in: the first message of a path says what the path is for.
 *
 *     OFFER    a direct dial by somebody who knows our id      handshake IK, on the path itself
 *     XX1      a direct dial by somebody who does not          handshake XX
 *     ATTACH   another path for a session that exists
 *     CIRCUIT  two of these are joined, if we are a relay
 *
 * Anything else closes the path. The order is always: limit, authenticate, authorise, then read the rest.
 */
import { MessageKind, PROTOCOL_VERSION, readPreamble, toHex } from '../bytes/index.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import {
  acceptExchange,
  createOffer,
  type Offer,
  openOffer,
  type ReplayCache,
  type SessionKeys,
  startExchange,
} from '../handshake/index.ts'
import type { Identity, PeerId } from '../identity/index.ts'
import { sourceKey } from '../network/address.ts'
import type { FramedPath, Path } from '../path/index.ts'
import { type Session, sessionIdOf } from '../session/index.ts'
import { firstMessage } from './first-message.ts'

/** Strangers that may be in the middle of their first messages at once; each holds at most 17 KiB. */
const MAX_STRANGERS = 1_024

/** Those of one source, so that it cannot shut out the others: a quarter of all. */
const MAX_STRANGERS_PER_SOURCE = MAX_STRANGERS / 4

const EMPTY = new Uint8Array(0)

/** What counts as one source: the address without its port, or the whole of what is no address, such as a relay. */
function sourceOf(remote: string): string {
  const host = /^\[?([^\]]+?)\]?:\d+$/.exec(remote)?.[1]
  return host === undefined ? remote : sourceKey(host)
}

/** Decides about a peer whose identity is proven. Rejects with the refusal. */
export type Admit = (from: PeerId, how: 'direct' | 'signaled') => Promise<void>

export interface AcceptorOptions {
  readonly identity: Identity
  readonly replay: ReplayCache
  readonly admit: Admit
  /** Refusals are told to the other side; else it hears nothing. */
  readonly tellRefusals: boolean
  readonly findSession: (idHex: string) => Session | undefined
  readonly newSession: (keys: SessionKeys, peer: PeerId) => Session
  /** Answers an offer for a session that both sides have; undefined: with silence. @throws PeerlineError when it is malformed */
  readonly resume: (offer: ReturnType<typeof openOffer>) => Promise<Uint8Array | undefined>
  /** Takes a path whose first message asked for a circuit; the path is paused. Absent: we are no relay. */
  readonly onCircuit?: ((path: FramedPath, circuit: Uint8Array) => void) | undefined
}

export class Acceptor {
  readonly #options: AcceptorOptions
  readonly #strangers = new Set<Path>()
  readonly #sources = new Map<string, number>()
  #closed = false

  constructor(options: AcceptorOptions) {
    this.#options = options
  }

  /** Takes a path that somebody opened to us. Never rejects: what goes wrong ends the path. */
  async accept(path: FramedPath): Promise<void> {
    const source = sourceOf(path.remote)
    const ofSource = this.#sources.get(source) ?? 0
    if (this.#closed || this.#strangers.size >= MAX_STRANGERS || ofSource >= MAX_STRANGERS_PER_SOURCE) {
      return path.destroy()
    }
    this.#strangers.add(path)
    this.#sources.set(source, ofSource + 1)
    try {
      await this.#accept(path)
    } catch (error) {
      path.destroy(asPeerlineError(error, 'ERR_PEERLINE_PROTOCOL'))
    } finally {
      this.#strangers.delete(path)
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

  async #accept(path: FramedPath): Promise<void> {
    const message = await firstMessage(path)
    switch (readPreamble(message).kind) {
      case MessageKind.OFFER:
        return this.#onOffer(path, message)
      case MessageKind.XX1:
        return this.#onExchange(path, message)
      case MessageKind.ATTACH:
        return this.#onAttach(path, message)
      case MessageKind.CIRCUIT:
        if (this.#options.onCircuit !== undefined) return this.#options.onCircuit(path, message)
    }
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `${path.remote} began with an unknown message`)
  }

  async #onOffer(path: Path, message: Uint8Array): Promise<void> {
    const { identity, replay, admit, tellRefusals, newSession } = this.#options
    const offer = openOffer(identity, message, { replay })
    if (offer.body.length > 0) {
      const answer = await this.#options.resume(offer)
      if (answer !== undefined) path.send([answer])
      return path.close()
    }
    try {
      await admit(offer.from, 'direct')
    } catch (cause) {
      const error = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      if (tellRefusals) path.send([offer.refuse(error.code, error.message)])
      return path.close()
    }
    const { message: answer, keys } = offer.accept(EMPTY)
    path.send([answer])
    newSession(keys, offer.from).adopt(path, false)
  }

  async #onExchange(path: Path, message: Uint8Array): Promise<void> {
    const exchange = acceptExchange(this.#options.identity, message)
    path.send([exchange.message])
    const { from, keys } = exchange.read(await firstMessage(path))
    let refusal: PeerlineError | undefined
    try {
      await this.#options.admit(from, 'direct')
    } catch (cause) {
      refusal = asPeerlineError(cause, 'ERR_PEERLINE_DENIED')
      if (!this.#options.tellRefusals) return path.close()
    }
    const session = this.#options.newSession(keys, from)
    session.adopt(path, false)
    if (refusal !== undefined) session.abort(refusal)
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

/**
 * Dials a peer whose id is known over an open path: handshake IK. The path is destroyed when it fails.
 * @throws PeerlineError `ERR_PEERLINE_WRONG_PEER`, the other side's refusal, `ERR_PEERLINE_TIMEOUT`, …
 */
export async function dialOverPath(
  identity: Identity,
  to: PeerId,
  path: Path,
  options: { signal: AbortSignal },
): Promise<SessionKeys> {
  return exchangeOverPath(createOffer(identity, to, { body: EMPTY }), path, options)
}

/**
 * Sends an offer as the first message of an open path. The path is destroyed when it fails.
 * @throws PeerlineError as {@link dialOverPath}
 */
export async function exchangeOverPath(
  offer: Offer,
  path: Path,
  options: { signal: AbortSignal },
): Promise<SessionKeys> {
  try {
    path.send([offer.message])
    const answer = await firstMessage(path, options).catch((error: PeerlineError) => {
      // Whoever cannot open an offer hangs up: the offer was sealed for another key, or the clocks differ.
      if (error.code !== 'ERR_PEERLINE_UNREACHABLE' && error.code !== 'ERR_PEERLINE_PROTOCOL') throw error
      const what = `${path.remote} does not answer as ${offer.to}`
      throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', what, { cause: error })
    })
    return offer.complete(answer).keys
  } catch (error) {
    path.destroy()
    throw asPeerlineError(error, 'ERR_PEERLINE_HANDSHAKE')
  }
}

/** Dials whoever answers over an open path: handshake XX, which tells who it is. The path is destroyed when it fails. */
export async function discoverOverPath(
  identity: Identity,
  path: Path,
  options: { signal: AbortSignal },
): Promise<{ peer: PeerId; keys: SessionKeys }> {
  try {
    const exchange = startExchange(identity)
    path.send([exchange.message])
    const { remote, finish } = exchange.read(await firstMessage(path, options))
    const { message, keys } = finish(EMPTY)
    path.send([message])
    return { peer: remote, keys }
  } catch (error) {
    path.destroy()
    throw asPeerlineError(error, 'ERR_PEERLINE_HANDSHAKE')
  }
}
