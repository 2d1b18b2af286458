/**
 * Attaching a path to a session that has its keys already: no second handshake.
 *
 *     ATTACH   = version, kind, session id 16, path number 4, received 8, MAC 32
 *     ATTACHED = version, kind,                path number 4, received 8, MAC 32
 *     MAC      = HMAC-SHA256(attach key of the sender's direction, all fields before it)
 *
 * - `received` is the number of the first ordered record the sender lacks: what is below needs no resending.
 * - Path numbers of the session's initiator are even, the responder's odd, and each is used once: a copied ATTACH
 *   attaches nothing. Number 0 is the path on which the handshake itself ran, if it did.
 * - Nobody without the session's keys can attach, steal or end a path of it; and who attaches may send records in the
 *   same flight, for those are sealed by themselves.
 */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { MessageKind, PROTOCOL_VERSION } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'

const MAC_BYTES = 32
const ATTACH_BYTES = 2 + 16 + 4 + 8 + MAC_BYTES
const ATTACHED_BYTES = 2 + 4 + 8 + MAC_BYTES

/** What an ATTACH or ATTACHED says. */
export interface AttachClaim {
  readonly pathNumber: number
  readonly received: number
}

function sign(message: Uint8Array, key: Uint8Array): Uint8Array {
  return createHmac('sha256', key)
    .update(message.subarray(0, message.length - MAC_BYTES))
    .digest()
}

export function writeAttach(sessionId: Uint8Array, claim: AttachClaim, key: Uint8Array): Uint8Array {
  const message = Buffer.alloc(ATTACH_BYTES)
  message[0] = PROTOCOL_VERSION
  message[1] = MessageKind.ATTACH
  message.set(sessionId, 2)
  message.writeUInt32BE(claim.pathNumber, 18)
  message.writeBigUInt64BE(BigInt(claim.received), 22)
  message.set(sign(message, key), ATTACH_BYTES - MAC_BYTES)
  return message
}

export function writeAttached(claim: AttachClaim, key: Uint8Array): Uint8Array {
  const message = Buffer.alloc(ATTACHED_BYTES)
  message[0] = PROTOCOL_VERSION
  message[1] = MessageKind.ATTACHED
  message.writeUInt32BE(claim.pathNumber, 2)
  message.writeBigUInt64BE(BigInt(claim.received), 6)
  message.set(sign(message, key), ATTACHED_BYTES - MAC_BYTES)
  return message
}

/** The session an ATTACH is for, before anything in it is believed; undefined when it is malformed. */
export function sessionIdOf(attach: Uint8Array): Uint8Array | undefined {
  return attach.length === ATTACH_BYTES ? attach.subarray(2, 18) : undefined
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when malformed, `ERR_PEERLINE_HANDSHAKE` when the MAC is wrong */
export function readAttach(message: Uint8Array, key: Uint8Array): AttachClaim {
  return read(message, key, ATTACH_BYTES, 18)
}

/** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when malformed, `ERR_PEERLINE_HANDSHAKE` when the MAC is wrong */
export function readAttached(message: Uint8Array, key: Uint8Array): AttachClaim {
  return read(message, key, ATTACHED_BYTES, 2)
}

function read(message: Uint8Array, key: Uint8Array, bytes: number, offset: number): AttachClaim {
  if (message.length !== bytes) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an attach message is malformed')
  if (!timingSafeEqual(sign(message, key), message.subarray(bytes - MAC_BYTES))) {
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'an attach message does not authenticate')
  }
  const view = Buffer.from(message.buffer, message.byteOffset, message.length)
  const received = view.readBigUInt64BE(offset + 4)
  if (received > BigInt(2 ** 48)) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'an attach message is malformed')
  return { pathNumber: view.readUInt32BE(offset), received: Number(received) }
}
