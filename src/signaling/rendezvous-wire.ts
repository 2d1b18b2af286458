/**
 * What a peer and a rendezvous say to each other, on one stream of their session.
 *
 *     peer -> rendezvous   { t: 'register', listed, link }       be listed, so that others can dial; or only dial; again
 *                                                                at any time: the answer shows that both are there
 *     rendezvous -> peer   { t: 'registered', observed, now,     the address it sees, its clock (ms), and other
 *                            reflectors }                        reflectors: 'host:port', or ':port' of its own host
 *     peer -> rendezvous   { t: 'offer',  peer: to,   id, data }
 *     rendezvous -> peer   { t: 'offer',  peer: from, id, data }
 *     peer -> rendezvous   { t: 'answer', peer: to,   id, data }  only to an offer that came and is still open
 *     rendezvous -> peer   { t: 'answer', peer: from, id, data }
 *     rendezvous -> peer   { t: 'failed', id, code }              the offer could not be passed on
 *     rendezvous -> peer   { t: 'moving', ms }                    it is going away, in so many ms at the latest
 *
 * The session authenticates the peer; `peer` is 32 bytes, `id` 16, `data` at most 16 KiB and opaque. CBOR maps.
 *
 * `link`, 16 random bytes, is what registrations of one peer have in common when each takes the place of the one before:
 * then an offer may be told again to the newest, which answers it as the other would have.
 *
 * A rendezvous of before there were `reflectors` leaves them out; a peer of before there were links names none, and is not
 * told of moving, which it would not understand. From links on, a peer passes over kinds of replies that it does not know.
 */
import { copyBytes, fields } from '../bytes/index.ts'
import { type ErrorCode, isErrorCode, PeerlineError } from '../errors.ts'
import { type PeerId, peerIdFromPublicKey, publicKeyOf } from '../identity/index.ts'
import { MAX_SIGNAL_BYTES } from './signaling.ts'

export const RENDEZVOUS_PROTOCOL = '/peerline/rendezvous/1'

/** Bytes of the largest message: a signal and its address. */
export const MAX_RENDEZVOUS_MESSAGE_BYTES = MAX_SIGNAL_BYTES + 256

/** Reflectors in a reply: a server's own in four places, and as many of others. */
export const MAX_REFLECTORS = 8

/** Characters of a reflector: the longest DNS name (RFC 1035 section 2.3.4), and its port. */
const MAX_REFLECTOR_LENGTH = 259

/** Bytes of a link. */
export const LINK_BYTES = 16

/** ms that a server may take to go away: an hour. */
export const MAX_MOVING_MS = 3_600_000

/** A signal on its way; `peer` is the other end, seen from whoever reads it. */
export interface SignalMessage {
  readonly t: 'offer' | 'answer'
  readonly peer: PeerId
  readonly id: Uint8Array
  readonly data: Uint8Array
}

export type RendezvousRequest =
  | { readonly t: 'register'; readonly listed: boolean; readonly link: Uint8Array | undefined }
  | SignalMessage
export type RendezvousReply =
  | {
      readonly t: 'registered'
      readonly observed: string
      readonly now: number
      readonly reflectors: readonly string[]
    }
  | { readonly t: 'failed'; readonly id: Uint8Array; readonly code: ErrorCode }
  | { readonly t: 'moving'; readonly ms: number }
  | SignalMessage

const REPLIES = ['registered', 'failed', 'moving', 'offer', 'answer'] as const

/** Characters of the name of a kind. */
const MAX_KIND_LENGTH = 32

/** As CBOR wants it. */
export function encodeSignal(message: SignalMessage): unknown {
  return { t: message.t, peer: publicKeyOf(message.peer), id: message.id, data: message.data }
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` */
export function readRendezvousRequest(message: unknown): RendezvousRequest {
  const all = fields(message, 'rendezvous request')
  const t = all.oneOf('t', ['register', 'offer', 'answer'])
  if (t === 'register') {
    const link = all.optional('link', (name) => copyBytes(all.bytes(name, { length: LINK_BYTES })))
    return { t, listed: all.boolean('listed'), link }
  }
  return readSignal(t, all)
}

/**
 * @returns undefined for a kind that only a later version knows: it is to be passed over
 * @throws PeerlineError `ERR_PEERLINE_PROTOCOL`
 */
export function readRendezvousReply(message: unknown): RendezvousReply | undefined {
  const all = fields(message, 'rendezvous reply')
  const kind = all.text('t', { max: MAX_KIND_LENGTH })
  const t = REPLIES.find((known) => known === kind)
  if (t === undefined) return undefined
  if (t === 'registered') {
    const reflectors = all.optional('reflectors', (name) =>
      all.texts(name, { max: MAX_REFLECTORS, maxLength: MAX_REFLECTOR_LENGTH }),
    )
    return { t, observed: all.text('observed', { max: 64 }), now: all.integer('now'), reflectors: reflectors ?? [] }
  }
  if (t === 'failed') {
    const code = all.text('code', { max: 64 })
    return { t, id: all.bytes('id', { length: 16 }), code: isErrorCode(code) ? code : 'ERR_PEERLINE_REMOTE' }
  }
  if (t === 'moving') return { t, ms: all.integer('ms', { max: MAX_MOVING_MS }) }
  return readSignal(t, all)
}

function readSignal(t: 'offer' | 'answer', all: ReturnType<typeof fields>): SignalMessage {
  let peer: PeerId
  try {
    peer = peerIdFromPublicKey(all.bytes('peer', { length: 32 }))
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'a signal names no valid peer', { cause })
  }
  return {
    t,
    peer,
    id: copyBytes(all.bytes('id', { length: 16 })),
    data: copyBytes(all.bytes('data', { max: MAX_SIGNAL_BYTES })),
  }
}
