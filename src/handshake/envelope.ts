/**
 * What every handshake message of Peerline has in common: the bytes in front of the Noise message, and the proof that
 * an Ed25519 peer id named inside belongs to the Noise static key.
 *
 *     +---------+------+-----------+-------------------+
 *     | version | kind | suite = 1 | Noise message ... |
 *     +---------+------+-----------+-------------------+
 *
 * The suite is named on the wire, so that another one (a hybrid post-quantum one, say) can stand beside this without a
 * new version. The prologue of the handshake is `peerline/1` and the three bytes of its first message; those of later
 * messages must be the ones that follow from it. So no byte in front can be changed unseen.
 */
import { concatBytes, equalBytes } from '../bytes/bytes.ts'
import { type MessageKind, PREAMBLE_BYTES, PROTOCOL_VERSION, readPreamble, writePreamble } from '../bytes/preamble.ts'
import { PeerlineError } from '../errors.ts'
import { toX25519 } from '../identity/identity.ts'
import { type PeerId, peerIdFromPublicKey } from '../identity/peer-id.ts'

/** Noise 25519_AESGCM_SHA256: the only suite so far. */
export const SUITE = 1

/** Bytes in front of a Noise message: version, kind, suite. */
export const ENVELOPE_BYTES = PREAMBLE_BYTES + 1

/** Bytes of an Ed25519 public key. */
export const PEER_BYTES = 32

/** The Noise message in its envelope. */
export function writeEnvelope(kind: MessageKind, noise: Uint8Array): Uint8Array {
  return writePreamble(kind, concatBytes([Uint8Array.of(SUITE), noise]))
}

/**
 * The Noise message in an envelope of `kind` of at most `maxBytes`.
 *
 * @throws ERR_PEERLINE_TOO_LARGE, ERR_PEERLINE_VERSION (version or suite), ERR_PEERLINE_PROTOCOL (another kind, too short)
 */
export function readEnvelope(message: Uint8Array, kind: MessageKind, maxBytes: number): Uint8Array {
  if (message.length > maxBytes) {
    throw new PeerlineError(
      'ERR_PEERLINE_TOO_LARGE',
      `a handshake message of ${message.length} bytes; at most ${maxBytes} are taken`,
    )
  }
  const preamble = readPreamble(message)
  if (preamble.kind !== kind) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `a message of kind ${preamble.kind} where ${kind} was due`)
  }
  const suite = message[PREAMBLE_BYTES]
  if (suite === undefined) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the handshake message ends too early')
  if (suite !== SUITE) {
    throw new PeerlineError(
      'ERR_PEERLINE_VERSION',
      `the other side uses suite ${suite}, this side suite ${SUITE} (25519_AESGCM_SHA256)`,
    )
  }
  return message.subarray(ENVELOPE_BYTES)
}

/** The Noise prologue of a handshake whose first message is of `kind`. */
export function prologueOf(kind: typeof MessageKind.OFFER | typeof MessageKind.XX1): Uint8Array {
  return concatBytes([new TextEncoder().encode('peerline/1'), Uint8Array.of(PROTOCOL_VERSION, kind, SUITE)])
}

/**
 * The peer id of the Ed25519 key `claimed` by the peer that proved the X25519 key `proven`, or ERR_PEERLINE_HANDSHAKE.
 *
 * Noise proves that the other side holds the secret of its static key. A peer id is the same secret's point on the
 * Ed25519 curve, and the map from there to X25519 (RFC 7748 section 4.1) is fixed. So when the map of the claimed key
 * gives the proven one, who claims it holds its secret, and no signature is needed.
 *
 * The map forgets the sign of x: the points A and -A share one X25519 form, and the form of A is what Noise proves for
 * both. But the secret of -A is the negated secret of A, so only the holder of A's could claim -A (the same is true of
 * A plus a point of small order, whose form differs, but whose secret does the same). That gains it nothing: a
 * second peer id of its own is free to anyone, and no one is allowed in for an id that was not allowed.
 */
export function provenPeer(claimed: Uint8Array, proven: Uint8Array | undefined): PeerId {
  let id: PeerId
  let form: Uint8Array
  try {
    id = peerIdFromPublicKey(claimed)
    form = toX25519(claimed)
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the other side claims a peer id that is not valid', { cause })
  }
  if (proven === undefined || !equalBytes(form, proven)) {
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the other side claims a peer id that is not its own')
  }
  return id
}
