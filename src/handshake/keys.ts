/**
 * The keys of a session, from a finished handshake.
 *
 *     final chaining key --+-- Split (Noise section 5.2) --> record keys, one a direction
 *                          '-- HKDF-SHA256 (RFC 5869), salt = handshake hash
 *                                info 'peerline/1 session id'        --> session id, public
 *                                info 'peerline/1 attach initiator'  --> MAC key of what the initiator attaches
 *                                info 'peerline/1 attach responder'  --> MAC key of what the responder attaches
 *
 * None tells anything of another: the session id may be seen by everybody, and an attach key opens no record.
 */
import type { NoiseHandshake } from './noise.ts'

/** Bytes of a session id: random enough never to meet another one. */
export const SESSION_ID_BYTES = 16

export interface SessionKeys {
  /** 16 bytes, public. */
  readonly sessionId: Uint8Array
  /** The 32-byte record key of what this side sends. */
  readonly send: Uint8Array
  /** The 32-byte record key of what the other side sends. */
  readonly receive: Uint8Array
  /** The 32-byte MAC key of this side's attach messages. */
  readonly attachSend: Uint8Array
  /** The 32-byte MAC key of the other side's attach messages. */
  readonly attachReceive: Uint8Array
  /** Whether this side sent the first handshake message. */
  readonly initiator: boolean
}

/** The keys of a complete handshake; ERR_PEERLINE_HANDSHAKE for any other. */
export function sessionKeys(handshake: NoiseHandshake): SessionKeys {
  const { send, receive } = handshake.split()
  const initiators = handshake.exportSecret('peerline/1 attach initiator')
  const responders = handshake.exportSecret('peerline/1 attach responder')
  const { initiator } = handshake
  return {
    sessionId: handshake.exportSecret('peerline/1 session id', SESSION_ID_BYTES),
    send,
    receive,
    attachSend: initiator ? initiators : responders,
    attachReceive: initiator ? responders : initiators,
    initiator,
  }
}
