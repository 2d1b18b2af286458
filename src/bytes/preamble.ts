/**
 * The preamble: the first two bytes of the first messages of a path, and of an offer and its answer in any medium.
 *
 *     0         1        2
 *     +---------+--------+-----------------------------+
 *     | version |  kind  | what the kind says ...      |
 *     +---------+--------+-----------------------------+
 *
 * It is the only thing besides addressing that is ever sent in plain text. A receiver reads it before anything else:
 * another version is refused as such, an unknown kind breaks the protocol, and both close the pipe. The handshake
 * binds these bytes into its prologue, so nobody in between can change them unseen.
 */
import { PeerlineError } from '../errors.ts'

/** The version of the wire. It changes only when an older peer could not make sense of the newer one. */
export const PROTOCOL_VERSION = 1

/** Bytes: one of version, one of kind. */
export const PREAMBLE_BYTES = 2

/** What a message that starts with a preamble is. */
export const MessageKind = {
  /** Noise IK message 1 */
  OFFER: 1,
  /** Noise IK message 2 */
  ANSWER: 2,
  /** Noise XX messages 1 to 3: a direct dial to an address whose peer id is not known */
  XX1: 3,
  XX2: 4,
  XX3: 5,
  /** A path asks to carry a session that has keys already, and the reply. */
  ATTACH: 6,
  ATTACHED: 7,
  /** The path is not wanted; a reason follows. */
  REFUSED: 8,
  /** A peer asks a relay for its side of a circuit, and the relay says that both sides are there. */
  CIRCUIT: 9,
  JOINED: 10,
  /** A peer shows from which address it comes, and nothing else: a token follows. */
  PROBE: 11,
} as const

/** One of the numbers of the {@link MessageKind} table. */
export type MessageKind = (typeof MessageKind)[keyof typeof MessageKind]

const KINDS: ReadonlySet<number> = new Set(Object.values(MessageKind))

/** A message of `kind`: the preamble, then `body`. */
export function writePreamble(kind: MessageKind, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  const message = new Uint8Array(PREAMBLE_BYTES + body.length)
  message[0] = PROTOCOL_VERSION
  message[1] = kind
  message.set(body, PREAMBLE_BYTES)
  return message
}

/**
 * The preamble of `message`.
 *
 * @throws ERR_PEERLINE_VERSION for another version of the wire, ERR_PEERLINE_PROTOCOL for a message that is too short
 * or of no known kind
 */
export function readPreamble(message: Uint8Array): { version: typeof PROTOCOL_VERSION; kind: MessageKind } {
  const [version, kind] = message
  if (version === undefined || kind === undefined) {
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `a first message of ${message.length} bytes has no preamble`)
  }
  if (version !== PROTOCOL_VERSION) {
    throw new PeerlineError(
      'ERR_PEERLINE_VERSION',
      `the other side speaks version ${version} of the wire, this side version ${PROTOCOL_VERSION}`,
    )
  }
  if (!isKind(kind)) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', `a first message of unknown kind ${kind}`)
  return { version, kind }
}

function isKind(value: number): value is MessageKind {
  return KINDS.has(value)
}
