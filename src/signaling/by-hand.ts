/**
 * Signaling by hand: a person carries the offer to the other machine and the answer back, as text that may be pasted
 * anywhere. There need be nothing else between the two.
 *
 *     exchange --show--> "peerline-offer:…"  ~~ person ~~>  answer(text) --> the handler
 *     take(text)  <~~ person ~~  "peerline-answer:…"  <---------------------- its answer
 *
 *     offer  = version 1 | offer                     each as bytes/pasted-text.ts writes it, with a check
 *     answer = version 1 | tag 8 | answer            tag: the first 8 bytes of SHA-256( offer )
 *
 * - Whoever carries them is a medium like any other: neither text can be read, or changed, without being noticed.
 * - What is pasted in the wrong place, twice, too late or in part is told from what is not genuine, and ends no wait.
 * - The same offer gets the same answer for as long as an offer lives, and is handed on once.
 * - Nobody knows when an answer is pasted: `patientMs` tells the answering side for how long it has to be found.
 * Limits: {@link MAX_HAND_BYTES} for each text, {@link MAX_WAITING} offers that wait, {@link MAX_KEPT} that are or were answered.
 */
import { createHash } from 'node:crypto'
import { concatBytes, copyBytes, toHex } from '../bytes/bytes.ts'
import { readPasted, writePasted } from '../bytes/pasted-text.ts'
import { asPeerlineError, PeerlineError } from '../errors.ts'
import { MAX_OFFER_LIFETIME_MS } from '../handshake/index.ts'
import type { PeerId } from '../identity/index.ts'
import { awaitAnswer } from './answer-wait.ts'
import type { AnswerHow, ExchangeOptions, OfferHandler, Signaling, SignalingCost } from './signaling.ts'

/** Bytes of an offer, and of an answer: 52 lines, which a person copies at once, and a chat takes in one message. */
export const MAX_HAND_BYTES = 2_048

const VERSION = 1
const TAG_BYTES = 8

/** Own offers that wait for an answer at once: a person carries one, a program that stands in for many persons a few dozen. */
const MAX_WAITING = 64

/** Offers that are being answered, or were within the life of an offer: some 200 kB. */
const MAX_KEPT = 64

export interface ByHandOptions {
  /** Shows an offer to whoever carries it to `to`. What it throws ends the exchange. */
  readonly show: (text: string, to: PeerId) => void | Promise<void>
  /** Takes an offer that was pasted here. */
  readonly onOffer: OfferHandler
}

interface Waiting {
  readonly tag: string
  /** Shows it an answer; false when it is not the genuine one. */
  readonly offered: (answer: Uint8Array) => boolean
  readonly fail: (error: PeerlineError) => void
}

interface Kept {
  readonly at: number
  readonly answer: Promise<string>
  readonly fail: (error: PeerlineError) => void
}

export class ByHand implements Signaling {
  readonly name = 'by hand'
  readonly maxSignalBytes = MAX_HAND_BYTES
  readonly patienceMs = MAX_OFFER_LIFETIME_MS
  readonly #options: ByHandOptions
  readonly #waiting = new Set<Waiting>()
  /** By tag, the oldest first. */
  readonly #kept = new Map<string, Kept>()
  #ended: PeerlineError | undefined

  constructor(options: ByHandOptions) {
    this.#options = options
  }

  /** Two messages, and a person's time. */
  cost(): SignalingCost {
    return { messages: 2 }
  }

  exchange(to: PeerId, _requestId: Uint8Array, offer: Uint8Array, options: ExchangeOptions): Promise<Uint8Array> {
    const late = () => new PeerlineError('ERR_PEERLINE_TIMEOUT', `no answer of ${to} was pasted`)
    return awaitAnswer({ ...options, to, ms: this.patienceMs, late }, (wait) => {
      this.#refuse(offer)
      const waiting: Waiting = { tag: tagOf(offer), offered: wait.offered, fail: wait.fail }
      this.#waiting.add(waiting)
      const text = writePasted('offer', concatBytes([Uint8Array.of(VERSION), offer]))
      // Only now: whoever is shown it may have the answer at once.
      Promise.resolve()
        .then(() => (this.#waiting.has(waiting) ? this.#options.show(text, to) : undefined))
        .catch((error: unknown) => wait.fail(asPeerlineError(error, 'ERR_PEERLINE_REMOTE', 'showing an offer')))
      return () => this.#waiting.delete(waiting)
    })
  }

  /**
   * Takes an answer that somebody has pasted: the exchange that it belongs to goes on.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when it is mistyped, no answer, or one that nobody waits for;
   *   `ERR_PEERLINE_HANDSHAKE` when it is not from the peer that was dialled; `ERR_PEERLINE_VERSION`,
   *   `ERR_PEERLINE_TOO_LARGE`. The exchange waits on.
   */
  take(text: string): void {
    const bytes = read('answer', text, TAG_BYTES)
    const tag = toHex(bytes.subarray(0, TAG_BYTES))
    const answer = copyBytes(bytes.subarray(TAG_BYTES))
    const waiting = [...this.#waiting].filter((one) => one.tag === tag)
    if (waiting.length === 0) {
      const recover = 'Paste the answer to the offer that was shown last, or dial again.'
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'this answers an offer that nobody waits for', { recover })
    }
    if (waiting.filter((one) => one.offered(answer)).length > 0) return
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'this is no answer of the peer that was dialled')
  }

  /**
   * Answers an offer that somebody has pasted; the answer is to be pasted where the offer came from.
   * @throws PeerlineError `ERR_PEERLINE_INVALID` when it is mistyped, or no offer; `ERR_PEERLINE_DENIED` when it is left
   *   without an answer; `ERR_PEERLINE_BUSY`, `ERR_PEERLINE_TIMEOUT`, `ERR_PEERLINE_VERSION`, `ERR_PEERLINE_TOO_LARGE`
   */
  async answer(text: string): Promise<string> {
    const offer = copyBytes(read('offer', text))
    if (this.#ended !== undefined) throw this.#ended
    const tag = tagOf(offer)
    this.#forgetOld()
    const known = this.#kept.get(tag)
    if (known !== undefined) return known.answer
    if (this.#kept.size >= MAX_KEPT) {
      throw new PeerlineError('ERR_PEERLINE_BUSY', `${MAX_KEPT} offers were pasted within ${this.patienceMs / 1_000} s`)
    }
    return this.#take(tag, offer).answer
  }

  /** Ends every exchange, and takes no more. */
  close(): void {
    this.#ended ??= new PeerlineError('ERR_PEERLINE_CLOSED', 'signaling by hand was closed')
    for (const waiting of [...this.#waiting]) waiting.fail(this.#ended)
    for (const kept of this.#kept.values()) kept.fail(this.#ended)
    this.#kept.clear()
  }

  /** Why no offer can go out now. */
  #refuse(offer: Uint8Array): void {
    if (this.#ended !== undefined) throw this.#ended
    if (offer.length > MAX_HAND_BYTES) {
      const message = `an offer of ${offer.length} bytes is over ${MAX_HAND_BYTES}`
      throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', message)
    }
    if (this.#waiting.size < MAX_WAITING) return
    throw new PeerlineError('ERR_PEERLINE_LIMIT', `${MAX_WAITING} offers wait to be carried already`)
  }

  /** Has a new offer decided on. What is not answered is forgotten: pasted again it may be. */
  #take(tag: string, offer: Uint8Array): Kept {
    let fail: Kept['fail'] = () => {}
    let timer: ReturnType<typeof setTimeout> | undefined
    const answer = new Promise<string>((resolve, reject) => {
      fail = reject
      const late = () => reject(new PeerlineError('ERR_PEERLINE_TIMEOUT', 'whoever decides on the offer says nothing'))
      timer = setTimeout(late, this.patienceMs)
      // It goes out when somebody pastes it, which nobody is told: from now on, and for as long as the offer lives.
      const how: AnswerHow = {
        travelMs: 0,
        patientMs: this.patienceMs,
        maxBytes: MAX_HAND_BYTES,
      }
      this.#options
        .onOffer(offer, how)
        .then((said) => written(tag, said))
        .then(resolve, reject)
    })
    const kept: Kept = { at: performance.now(), answer, fail }
    this.#kept.set(tag, kept)
    const over = () => clearTimeout(timer)
    answer.then(over, () => {
      over()
      if (this.#kept.get(tag) === kept) this.#kept.delete(tag)
    })
    return kept
  }

  #forgetOld(): void {
    const since = performance.now() - this.patienceMs
    for (const [tag, { at }] of this.#kept) {
      if (at >= since) return
      this.#kept.delete(tag)
    }
  }
}

function tagOf(offer: Uint8Array): string {
  return createHash('sha256')
    .update(offer)
    .digest('hex')
    .slice(0, 2 * TAG_BYTES)
}

/** An answer as text. @throws PeerlineError for silence, and for what is too large */
function written(tag: string, answer: Uint8Array | undefined): string {
  if (answer === undefined) {
    const message = 'the offer is not for this peer, or too old, or from a peer that is not let in'
    const recover = 'Make a new one, for the id of this peer, and see who is let in with `peerline rules`.'
    throw new PeerlineError('ERR_PEERLINE_DENIED', message, { recover })
  }
  if (answer.length > MAX_HAND_BYTES) {
    const message = `an answer of ${answer.length} bytes is over ${MAX_HAND_BYTES}`
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', message)
  }
  return writePasted('answer', concatBytes([Uint8Array.of(VERSION), Buffer.from(tag, 'hex'), answer]))
}

/** What stands behind the version, at least so many bytes. */
function read(kind: 'offer' | 'answer', text: string, least = 0): Uint8Array {
  const body = readPasted(kind, text, { maxBytes: 1 + TAG_BYTES + MAX_HAND_BYTES })
  if (body[0] !== VERSION) {
    const message = `the ${kind} has version ${body[0] ?? 'none'}, this side reads ${VERSION}`
    throw new PeerlineError('ERR_PEERLINE_VERSION', message)
  }
  const rest = body.subarray(1)
  if (rest.length >= least && rest.length <= least + MAX_HAND_BYTES) return rest
  throw new PeerlineError('ERR_PEERLINE_INVALID', `this is no ${kind}: it has ${rest.length} bytes`)
}
