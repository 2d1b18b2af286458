/**
 * The exchange: Noise XX on a path, when an address is dialed whose peer id is not known.
 *
 *     ->  [version][kind 3][suite] Noise XX 1 { }
 *     <-  [version][kind 4][suite] Noise XX 2 { responder 32 }
 *     ->  [version][kind 5][suite] Noise XX 3 { from 32 | to 32 | body ... }
 *
 *     responder, from, to   Ed25519 public keys
 *
 * The initiator learns and can judge who answers before it says who it is. The responder tells its peer id to anyone who
 * asks, so only paths that were opened to listen for direct dials take an exchange. Fresh keys of both sides are in it
 * before anything is said, so nothing can be replayed and nothing needs to expire.
 *
 * Invariants: a failure ends the exchange, and with it the path; message 3 has at most 16 KiB, the others have one size;
 * the body is handed on unread. Standard: Noise revision 34, section 7.5.
 */
import { concatBytes, equalBytes } from '../bytes/bytes.ts'
import { Cursor } from '../bytes/cursor.ts'
import { MessageKind } from '../bytes/preamble.ts'
import { PeerlineError } from '../errors.ts'
import type { Identity } from '../identity/identity.ts'
import { type PeerId, publicKeyOf } from '../identity/peer-id.ts'
import { ENVELOPE_BYTES, PEER_BYTES, prologueOf, provenPeer, readEnvelope, writeEnvelope } from './envelope.ts'
import { type SessionKeys, sessionKeys } from './keys.ts'
import { NoiseHandshake } from './noise.ts'
import { TAG_BYTES } from './symmetric-state.ts'

const XX1_BYTES = ENVELOPE_BYTES + 32
const XX2_BYTES = ENVELOPE_BYTES + 32 + (32 + TAG_BYTES) + (PEER_BYTES + TAG_BYTES)

/** Bytes of the largest third message: as much as an offer. */
export const MAX_EXCHANGE_BYTES = 16_384

/** Bytes of the largest body. */
export const MAX_EXCHANGE_BODY_BYTES =
  MAX_EXCHANGE_BYTES - ENVELOPE_BYTES - (32 + TAG_BYTES) - 2 * PEER_BYTES - TAG_BYTES

/** The initiator's side of an exchange. */
export interface StartedExchange {
  /** Message 1. */
  readonly message: Uint8Array
  /** Takes message 2: says who answers. Nothing was said about this side yet. */
  read(message2: Uint8Array): {
    /** Proven. */
    readonly remote: PeerId
    /** Message 3, which proves this side, and the keys. Once only. */
    finish(body: Uint8Array): { message: Uint8Array; keys: SessionKeys }
  }
}

/** The responder's side of an exchange. */
export interface AcceptedExchange {
  /** Message 2. */
  readonly message: Uint8Array
  /** Takes message 3. `from` is proven; decide about it before you parse `body`. */
  read(message3: Uint8Array): { from: PeerId; body: Uint8Array; keys: SessionKeys }
}

export function startExchange(identity: Identity): StartedExchange {
  const handshake = begin(identity, true)
  return {
    message: writeEnvelope(MessageKind.XX1, handshake.writeMessage(new Uint8Array(0))),
    read(message2) {
      const payload = handshake.readMessage(readEnvelope(message2, MessageKind.XX2, XX2_BYTES))
      const remote = provenPeer(payload, handshake.remoteStatic)
      return {
        remote,
        finish(body) {
          if (body.length > MAX_EXCHANGE_BODY_BYTES) {
            throw new PeerlineError(
              'ERR_PEERLINE_TOO_LARGE',
              `the body of an exchange has at most ${MAX_EXCHANGE_BODY_BYTES} bytes, not ${body.length}`,
            )
          }
          const noise = handshake.writeMessage(concatBytes([identity.publicKey, publicKeyOf(remote), body]))
          return { message: writeEnvelope(MessageKind.XX3, noise), keys: sessionKeys(handshake) }
        },
      }
    },
  }
}

/** @throws like `read` of both sides: ERR_PEERLINE_HANDSHAKE, _VERSION, _PROTOCOL, _TOO_LARGE, _WRONG_PEER */
export function acceptExchange(identity: Identity, message1: Uint8Array): AcceptedExchange {
  const handshake = begin(identity, false)
  // Longer ones were refused, shorter ones lack a key: the payload of message 1 is empty.
  handshake.readMessage(readEnvelope(message1, MessageKind.XX1, XX1_BYTES))
  return {
    message: writeEnvelope(MessageKind.XX2, handshake.writeMessage(identity.publicKey)),
    read(message3) {
      const sealed = readEnvelope(message3, MessageKind.XX3, MAX_EXCHANGE_BYTES)
      const payload = new Cursor(handshake.readMessage(sealed))
      const claimed = payload.readBytes(PEER_BYTES)
      if (!equalBytes(payload.readBytes(PEER_BYTES), identity.publicKey)) {
        throw new PeerlineError('ERR_PEERLINE_WRONG_PEER', 'the exchange is meant for another peer')
      }
      return {
        from: provenPeer(claimed, handshake.remoteStatic),
        body: payload.readRest(),
        keys: sessionKeys(handshake),
      }
    },
  }
}

function begin(identity: Identity, initiator: boolean): NoiseHandshake {
  return new NoiseHandshake({
    pattern: 'XX',
    initiator,
    prologue: prologueOf(MessageKind.XX1),
    staticKey: identity.staticKey,
  })
}
