/**
 * What is said at an introduction: the offer and its answer go through a peer that has a session with both sides.
 *
 *     asker            introducer             target
 *     |== /peerline/introduce/1 ==|== /peerline/introduced/1 ==|     one stream of a session each
 *     |-- { to } ---->|           |                            |     to whom, 32 bytes; decided on before more is read
 *     |-- { offer } ->|           |-- { offer, rtt } --------->|     rtt: introducer and asker, ms, left out when unknown
 *     |               |           |<-------------- { answer } -|
 *     |<- { answer } -|           |                            |     or { failed: code }
 *
 * - The sessions authenticate both sides: nobody says who it is. Offer and answer are at most 16 KiB and opaque.
 * - A stream is for one offer. Whoever has an answer, or wants none any more, gives the stream up; so does each after it.
 * - Messages are length 4 and CBOR, see `session/message-stream.ts`; each comes once, in this order.
 */
import { copyBytes, type Fields, fields } from '../bytes/index.ts'
import { type ErrorCode, isErrorCode, PeerlineError } from '../errors.ts'
import { type PeerId, peerIdFromPublicKey, publicKeyOf } from '../identity/index.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

/** From the asker to the introducer. */
export const INTRODUCE_PROTOCOL = '/peerline/introduce/1'

/** From the introducer to the target. */
export const INTRODUCED_PROTOCOL = '/peerline/introduced/1'

/** Bytes of the largest message: a signal and the name of its field, with room for a later field or two. */
export const MAX_INTRODUCTION_MESSAGE_BYTES = MAX_SIGNAL_BYTES + 256

/** ms of the longest round trip that is told or believed: two satellites; what is longer shows a stalled path. */
export const MAX_INTRODUCTION_RTT_MS = 2_000

/** UTF-16 units of a code. */
const MAX_CODE_LENGTH = 64

/** An offer on its way to the target. */
export interface Introduced {
  readonly offer: Uint8Array
  /** Round trip between the introducer and the asker, ms. */
  readonly rttMs?: number | undefined
}

/** What became of it, for the asker. */
export type IntroductionReply = { readonly answer: Uint8Array } | { readonly failed: ErrorCode }

/** As CBOR wants it. */
export function encodeTo(to: PeerId): unknown {
  return { to: publicKeyOf(to) }
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readTo(message: unknown): PeerId {
  const to = fields(message, 'introduction').bytes('to', { length: 32 })
  try {
    return peerIdFromPublicKey(to)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an introduction names no valid peer', { cause })
  }
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readOffer(message: unknown): Uint8Array {
  return signal(fields(message, 'introduction'), 'offer')
}

/** As CBOR wants it. */
export function encodeIntroduced({ offer, rttMs }: Introduced): unknown {
  if (rttMs === undefined) return { offer }
  return { offer, rtt: Math.min(Math.max(0, Math.round(rttMs)), MAX_INTRODUCTION_RTT_MS) }
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readIntroduced(message: unknown): Introduced {
  const all = fields(message, 'introduction')
  const rttMs = all.optional('rtt', (name) => all.integer(name, { max: MAX_INTRODUCTION_RTT_MS }))
  return { offer: signal(all, 'offer'), ...(rttMs === undefined ? {} : { rttMs }) }
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readAnswer(message: unknown): Uint8Array {
  return signal(fields(message, 'introduction'), 'answer')
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readIntroductionReply(message: unknown): IntroductionReply {
  const all = fields(message, 'introduction')
  if (!all.has('failed')) return { answer: signal(all, 'answer') }
  const failed = all.text('failed', { max: MAX_CODE_LENGTH })
  return { failed: isErrorCode(failed) ? failed : 'ERR_PEERLINE_REMOTE' }
}

function signal(all: Fields, name: 'offer' | 'answer'): Uint8Array {
  return copyBytes(all.bytes(name, { max: MAX_SIGNAL_BYTES }))
}
