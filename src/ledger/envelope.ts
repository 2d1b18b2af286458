/**
 * The envelope: a message of a topic, signed by who sent it, so that anyone may read and pass it on and nobody may change it.
 *
 *     version 1 | kind 1 | sender 32 | sequence 1, 2, 4 or 8 | time 8 | payload … | signature 64
 *
 *     signature = Ed25519( "peerline ledger 1" 0x00  ledger id 0x00  topic 0x00  all before it ) of the sender's key
 *
 * - The ledger and the topic are signed and not sent: a copy in another topic, or in another ledger, is not valid. Neither
 *   holds a zero byte, so no two places look alike.
 * - `sequence` (RFC 9000 section 16) grows with every message of the sender in the topic: a copy in the same topic shows.
 * - `time` is the sender's clock, ms since 1970. It tells how old a copy is; nothing is due by it.
 * - The payload is not secret: what is not for everybody is sealed before it comes here.
 * - Kinds that are not known are for a later version, and are read as any other.
 *
 * Limits: 32 KiB in all, of which the envelope takes 114 bytes at most.
 */
import { createHash } from 'node:crypto'
import { Cursor, concatBytes, varintSize, writeUint64, writeVarint } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import {
  type Identity,
  type PeerId,
  PUBLIC_KEY_BYTES,
  peerIdFromPublicKey,
  SIGNATURE_BYTES,
  verifySignature,
} from '../identity/index.ts'

/** What is in a message. */
export const Kind = {
  /** stdin: an offer, sealed. */
  OFFER: 1,
  /** stdout: the tag of an offer, and the answer to it, sealed. */
  ANSWER: 2,
  /** stdout: its sender is alive. */
  HEARTBEAT: 3,
  /** stderr: something has gone wrong. */
  TROUBLE: 4,
  /** A registry: a peer record. */
  RECORD: 5,
} as const

const VERSION = 1
const PREFIX = new TextEncoder().encode('peerline ledger 1\0')

/** Bytes before the sequence, and those of the time. */
const HEAD_BYTES = 2 + PUBLIC_KEY_BYTES
const TIME_BYTES = 8

/** Bytes of an envelope around its payload, at most. */
export const MAX_ENVELOPE_BYTES = HEAD_BYTES + 8 + TIME_BYTES + SIGNATURE_BYTES

/** Bytes of the largest message that is read: twice the largest signal, so that the largest ledger message is no burden. */
export const MAX_MESSAGE_BYTES = 32_768

/** Where a message stands. */
export interface Place {
  /** `Ledger.id` */
  readonly ledger: string
  readonly topic: string
}

export interface MessageContent extends Place {
  /** Above that of every message of this signer in the topic before, 0 to 2^53 - 1. */
  readonly sequence: number
  /** 0 to 255, see {@link Kind}. */
  readonly kind: number
  readonly payload: Uint8Array
  /** ms since 1970, whole. @default Date.now() */
  readonly time?: number
}

/** A message, as its sender signed it. */
export interface Message {
  readonly sender: PeerId
  readonly sequence: number
  /** The sender's clock, ms since 1970. */
  readonly time: number
  readonly kind: number
  /** A view of the bytes that were opened. */
  readonly payload: Uint8Array
  /** SHA-256 of the whole, 32 bytes: what is the same message has the same. */
  readonly digest: Uint8Array
}

/** A message whose sender is not proven yet. */
export interface Claim extends Omit<Message, 'digest'> {
  /** @throws PeerlineError `ERR_PEERLINE_PROTOCOL` when the sender has not signed it for this place */
  prove(place: Place): Message
}

/**
 * Signs a message for one place.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_TOO_LARGE` above {@link MAX_MESSAGE_BYTES}
 */
export function sealMessage(signer: Identity, content: MessageContent): Uint8Array {
  const { sequence, kind, payload, time = Date.now() } = content
  if (!Number.isInteger(kind) || kind < 0 || kind > 255) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a kind is a byte, not ${kind}`)
  }
  const bodyBytes = HEAD_BYTES + varintSize(sequence) + TIME_BYTES + payload.length
  if (bodyBytes + SIGNATURE_BYTES > MAX_MESSAGE_BYTES) throw tooLarge(bodyBytes + SIGNATURE_BYTES)
  const message = new Uint8Array(bodyBytes + SIGNATURE_BYTES)
  message[0] = VERSION
  message[1] = kind
  message.set(signer.publicKey, 2)
  const payloadAt = writeUint64(message, writeVarint(message, HEAD_BYTES, sequence), time)
  message.set(payload, payloadAt)
  message.set(signer.sign(signedBytes(content, message.subarray(0, bodyBytes))), bodyBytes)
  return message
}

/**
 * Reads a message without proving anything: what is not wanted, or was there before, costs no signature.
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE` above {@link MAX_MESSAGE_BYTES}, `ERR_PEERLINE_VERSION`, `ERR_PEERLINE_PROTOCOL`
 */
export function readMessage(bytes: Uint8Array): Claim {
  if (bytes.length > MAX_MESSAGE_BYTES) throw tooLarge(bytes.length)
  const bodyBytes = bytes.length - SIGNATURE_BYTES
  const cursor = new Cursor(bytes.subarray(0, Math.max(0, bodyBytes)))
  const version = cursor.readUint8()
  if (version !== VERSION) {
    throw new PeerlineError('ERR_PEERLINE_VERSION', `the message has version ${version}, this side reads ${VERSION}`)
  }
  const kind = cursor.readUint8()
  const sender = senderOf(cursor.readBytes(PUBLIC_KEY_BYTES))
  const sequence = cursor.readVarint()
  const time = cursor.readUint64()
  const said = { sender, sequence, time, kind, payload: cursor.readRest() }
  const prove = (place: Place): Message => {
    if (!verifySignature(sender, signedBytes(place, cursor.bytes), bytes.subarray(bodyBytes))) {
      throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the signature of the message is wrong')
    }
    return { ...said, digest: new Uint8Array(createHash('sha256').update(bytes).digest()) }
  }
  return { ...said, prove }
}

/**
 * Reads and proves a message.
 * @throws PeerlineError as {@link readMessage} and {@link Claim.prove}
 */
export function openMessage(bytes: Uint8Array, place: Place): Message {
  return readMessage(bytes).prove(place)
}

function senderOf(key: Uint8Array): PeerId {
  try {
    return peerIdFromPublicKey(key)
  } catch (cause) {
    if (!isPeerlineError(cause)) throw cause
    throw new PeerlineError('ERR_PEERLINE_PROTOCOL', 'the sender of the message is no key', { cause })
  }
}

function signedBytes({ ledger, topic }: Place, body: Uint8Array): Uint8Array {
  const where = `${ledger}\0${topic}\0`
  if (where.indexOf('\0') !== ledger.length || where.lastIndexOf('\0', where.length - 2) !== ledger.length) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'the name of a ledger or topic holds no zero byte')
  }
  return concatBytes([PREFIX, new TextEncoder().encode(where), body])
}

function tooLarge(bytes: number): PeerlineError {
  return new PeerlineError(
    'ERR_PEERLINE_TOO_LARGE',
    `the message has ${bytes} bytes, the limit is ${MAX_MESSAGE_BYTES}`,
  )
}
