/**
 * Offer and answer: the two messages of Noise IK, carried by any signaling medium, or by a path to a known peer.
 *
 *     offer   [version][kind 1][suite] Noise IK 1 { from 32 | to 32 | request id 16 | expires at 8 | body ... }
 *     answer  [version][kind 2][suite] Noise IK 2 { status 1 | request id 16 | responder 32 | body ... }
 *
 *     from, to, responder   Ed25519 public keys
 *     expires at            ms since the epoch, uint64, big-endian
 *     status                0 accepted: the body is the caller's; 1 refused: the body is CBOR { code, message }
 *
 * The medium sees who is addressed, nothing else. Both sides own the session keys after one round trip.
 *
 * Invariants:
 * - the checks of an offer run in a fixed order, cheap ones first: size, version, kind and suite; Noise; `to`; `from`;
 *   expiry; replay. The body is handed on unread: its caller asks the firewall first, and then parses it;
 * - a bad answer changes nothing: the offer goes on waiting for the genuine one. It is answered once, yes or no;
 * - neither message has more than 16 KiB.
 *
 * The first message of IK can be copied and sent again (Noise section 7.7), hence expiry and `replay.ts`. Standard: Noise
 * revision 34, section 7.5 (interactive patterns).
 */
import { randomBytes } from 'node:crypto'
import { concatBytes, copyBytes, equalBytes } from '../bytes/bytes.ts'
import { decodeCbor, encodeCbor } from '../bytes/cbor.ts'
import { Cursor } from '../bytes/cursor.ts'
import { fields } from '../bytes/fields.ts'
import { MessageKind } from '../bytes/preamble.ts'
import { writeUint64 } from '../bytes/varint.ts'
import { type ErrorCode, isErrorCode, PeerlineError } from '../errors.ts'
import { type Identity, toX25519 } from '../identity/identity.ts'
import { type PeerId, publicKeyOf } from '../identity/peer-id.ts'
import { ENVELOPE_BYTES, PEER_BYTES, prologueOf, provenPeer, readEnvelope, writeEnvelope } from './envelope.ts'
import { type SessionKeys, sessionKeys } from './keys.ts'
import { NoiseHandshake } from './noise.ts'
import { CLOCK_SKEW_MS, type ReplayCache } from './replay.ts'
import { TAG_BYTES } from './symmetric-state.ts'

/** Bytes: room for dozens of candidates and an ICE description, and little enough to hold for strangers. */
export const MAX_OFFER_BYTES = 16_384
export const MAX_ANSWER_BYTES = MAX_OFFER_BYTES

/** ms: long enough for an offer that is pasted by hand or waits for a ledger, short enough to remember all of them. */
export const MAX_OFFER_LIFETIME_MS = 300_000

/** ms that an offer lives by default: a few round trips through the slowest medium. */
const OFFER_LIFETIME_MS = 30_000

/** Bytes of a request id: random, never met twice. */
export const REQUEST_ID_BYTES = 16

const EXPIRY_BYTES = 8
const KEY_AND_TAG = 32 + TAG_BYTES
const OFFER_HEAD_BYTES = 2 * PEER_BYTES + REQUEST_ID_BYTES + EXPIRY_BYTES
const ANSWER_HEAD_BYTES = 1 + REQUEST_ID_BYTES + PEER_BYTES

/** Bytes of the largest body of an offer: the rest is the envelope, two keys, two tags and the head. */
export const MAX_OFFER_BODY_BYTES = MAX_OFFER_BYTES - ENVELOPE_BYTES - 32 - KEY_AND_TAG - OFFER_HEAD_BYTES - TAG_BYTES

/** Bytes of an offer beside its body, and of an answer. */
export const OFFER_OVERHEAD_BYTES = MAX_OFFER_BYTES - MAX_OFFER_BODY_BYTES

/** Bytes of the largest body of an answer. */
export const MAX_ANSWER_BODY_BYTES = MAX_ANSWER_BYTES - ENVELOPE_BYTES - 32 - ANSWER_HEAD_BYTES - TAG_BYTES
export const ANSWER_OVERHEAD_BYTES = MAX_ANSWER_BYTES - MAX_ANSWER_BODY_BYTES

const ACCEPTED = 0
const REFUSED = 1

/** Characters of a refusal's code and text, in UTF-16 units: a sentence, not an essay, shown to people. */
const MAX_CODE_LENGTH = 64
const MAX_TEXT_LENGTH = 256
/** Bytes of a refusal's CBOR: three to a UTF-16 unit, and the names of the fields. */
const MAX_REFUSAL_BYTES = 3 * (MAX_CODE_LENGTH + MAX_TEXT_LENGTH) + 32

/** An offer that was made and waits for its answer. */
export interface Offer {
  /** What goes to the other peer, by any medium, or by several. */
  readonly message: Uint8Array
  /** 16 bytes, known to both sides only. */
  readonly requestId: Uint8Array
  readonly to: PeerId
  /** ms since the epoch. */
  readonly expiresAt: number
  /** True once a genuine answer has come. */
  readonly answered: boolean
  /**
   * Takes the answer. After an answer that is not genuine the offer waits on, and this may be called again; after a
   * genuine one, accepting or refusing, never.
   *
   * @throws the refusal, with its own code when it is one of ours, else ERR_PEERLINE_DENIED; ERR_PEERLINE_HANDSHAKE,
   * ERR_PEERLINE_PROTOCOL, ERR_PEERLINE_VERSION or ERR_PEERLINE_TOO_LARGE for what is no genuine answer
   */
  complete(answer: Uint8Array): { keys: SessionKeys; body: Uint8Array }
}

/** An offer that came in, is genuine and fresh, and waits to be decided on. */
export interface ReceivedOffer {
  /** Proven. */
  readonly from: PeerId
  /** 16 bytes, known to both sides only. */
  readonly requestId: Uint8Array
  /** ms since the epoch. */
  readonly expiresAt: number
  /** Opaque here. Decide about `from` before you parse it. */
  readonly body: Uint8Array
  /** The accepting answer, and the keys. An offer is answered once. */
  accept(body: Uint8Array): { message: Uint8Array; keys: SessionKeys }
  /** The refusing answer; `text` is shown to people and cut at 256 characters. An offer is answered once. */
  refuse(code: ErrorCode, text: string): Uint8Array
}

export interface OfferOptions {
  /** Opaque here: at most {@link MAX_OFFER_BODY_BYTES}. */
  readonly body: Uint8Array
  /** ms until the offer expires, at most {@link MAX_OFFER_LIFETIME_MS}. @default 30,000 */
  readonly lifetimeMs?: number
  /** The clock, ms since the epoch. @default Date.now */
  readonly now?: () => number
}

/** @throws ERR_PEERLINE_INVALID for a peer id or a lifetime that is none, ERR_PEERLINE_TOO_LARGE for too large a body */
export function createOffer(
  identity: Identity,
  to: PeerId,
  { body, lifetimeMs = OFFER_LIFETIME_MS, now = Date.now }: OfferOptions,
): Offer {
  if (!(lifetimeMs > 0 && lifetimeMs <= MAX_OFFER_LIFETIME_MS)) {
    throw new PeerlineError(
      'ERR_PEERLINE_INVALID',
      `lifetimeMs of an offer must be above 0 and at most ${MAX_OFFER_LIFETIME_MS}, not ${lifetimeMs}`,
    )
  }
  checkBody(body, MAX_OFFER_BODY_BYTES, 'offer')
  const responder = publicKeyOf(to)
  const requestId = new Uint8Array(randomBytes(REQUEST_ID_BYTES))
  const expiresAt = Math.ceil(now() + lifetimeMs)
  const expiry = new Uint8Array(EXPIRY_BYTES)
  writeUint64(expiry, 0, expiresAt)
  const waiting = new NoiseHandshake({
    pattern: 'IK',
    initiator: true,
    prologue: prologueOf(MessageKind.OFFER),
    staticKey: identity.staticKey,
    remoteStatic: toX25519(responder),
  })
  const noise = waiting.writeMessage(concatBytes([identity.publicKey, responder, requestId, expiry, body]))
  let answered = false

  function complete(answer: Uint8Array): { keys: SessionKeys; body: Uint8Array } {
    if (answered) throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'this offer was answered before')
    const sealed = readEnvelope(answer, MessageKind.ANSWER, MAX_ANSWER_BYTES)
    // On a copy: whoever can put a forged answer into the medium must not be able to stop the genuine one.
    const handshake = waiting.clone()
    const payload = new Cursor(handshake.readMessage(sealed))
    const status = payload.readUint8()
    if (!equalBytes(payload.readBytes(REQUEST_ID_BYTES), requestId)) {
      throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the answer is for another offer')
    }
    if (!equalBytes(payload.readBytes(PEER_BYTES), responder)) {
      throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', 'the answer is from another peer')
    }
    answered = true
    const rest = payload.readRest()
    if (status === ACCEPTED) return { keys: sessionKeys(handshake), body: rest }
    if (status === REFUSED) throw readRefusal(rest)
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `the answer has the unknown status ${status}`)
  }

  return {
    message: writeEnvelope(MessageKind.OFFER, noise),
    requestId,
    to,
    expiresAt,
    complete,
    get answered() {
      return answered
    },
  }
}

export interface OpenOptions {
  /** One for all offers to this identity, whatever medium they come by. */
  readonly replay: ReplayCache
  /** The clock, ms since the epoch. @default Date.now */
  readonly now?: () => number
}

/**
 * Opens an offer to this identity.
 *
 * @throws ERR_PEERLINE_TOO_LARGE, ERR_PEERLINE_VERSION, ERR_PEERLINE_PROTOCOL, ERR_PEERLINE_HANDSHAKE (also when it is for
 * another peer), ERR_PEERLINE_WRONG_PEER, ERR_PEERLINE_EXPIRED, ERR_PEERLINE_REPLAY, ERR_PEERLINE_BUSY
 */
export function openOffer(
  identity: Identity,
  message: Uint8Array,
  { replay, now = Date.now }: OpenOptions,
): ReceivedOffer {
  const sealed = readEnvelope(message, MessageKind.OFFER, MAX_OFFER_BYTES)
  const handshake = new NoiseHandshake({
    pattern: 'IK',
    initiator: false,
    prologue: prologueOf(MessageKind.OFFER),
    staticKey: identity.staticKey,
  })
  const payload = new Cursor(handshake.readMessage(sealed))
  const claimed = payload.readBytes(PEER_BYTES)
  if (!equalBytes(payload.readBytes(PEER_BYTES), identity.publicKey)) {
    throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', 'the offer is for another peer')
  }
  const from = provenPeer(claimed, handshake.remoteStatic)
  const requestId = copyBytes(payload.readBytes(REQUEST_ID_BYTES))
  const expiresAt = payload.readUint64()
  const time = now()
  checkExpiry(expiresAt, time)
  replay.check(from, requestId)

  const answer = (status: number, body: Uint8Array) =>
    writeEnvelope(
      MessageKind.ANSWER,
      handshake.writeMessage(concatBytes([Uint8Array.of(status), requestId, identity.publicKey, body])),
    )
  return {
    from,
    requestId,
    expiresAt,
    body: payload.readRest(),
    accept(body) {
      checkBody(body, MAX_ANSWER_BODY_BYTES, 'answer')
      const message = answer(ACCEPTED, body)
      // Not before: who is refused takes no room. A copy that came meanwhile ends here.
      replay.accept(from, requestId, expiresAt, now())
      return { message, keys: sessionKeys(handshake) }
    },
    refuse: (code, text) => answer(REFUSED, encodeCbor({ code, message: plainText(text) })),
  }
}

function checkExpiry(expiresAt: number, now: number): void {
  const allowed = `the clocks of the two peers may differ by ${CLOCK_SKEW_MS / 1000} s at most`
  if (expiresAt <= now - CLOCK_SKEW_MS) {
    const late = Math.ceil((now - expiresAt) / 1000)
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', `the offer expired ${late} s ago; ${allowed}`)
  }
  if (expiresAt > now + MAX_OFFER_LIFETIME_MS + CLOCK_SKEW_MS) {
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', `the offer is from the future; ${allowed}`)
  }
}

function readRefusal(cbor: Uint8Array): PeerlineError {
  const refusal = fields(decodeCbor(cbor, { maxBytes: MAX_REFUSAL_BYTES, maxDepth: 2 }), 'refusal')
  const code = refusal.text('code', { max: MAX_CODE_LENGTH })
  // Cleaned here too: the other side may be no friend, and the text ends in a terminal or a log.
  const text = plainText(refusal.text('message', { max: MAX_TEXT_LENGTH }))
  return new PeerlineError(isErrorCode(code) ? code : 'ERR_PEERLINE_DENIED', `the peer refuses: ${text}`)
}

/** `text` on one line, without control characters or broken pairs, of at most 256 characters. */
function plainText(text: string): string {
  // Cut first: it may break a pair, and half a pair is of the class that is replaced.
  return text.slice(0, MAX_TEXT_LENGTH).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, ' ')
}

function checkBody(body: Uint8Array, maxBytes: number, what: string): void {
  if (body.length <= maxBytes) return
  throw new PeerlineError(
    'ERR_PEERLINE_TOO_LARGE',
    `the body of an ${what} has at most ${maxBytes} bytes, not ${body.length}`,
  )
}
