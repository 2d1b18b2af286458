/**
 * A peer record: what a peer says about itself, signed, so that anyone may pass it on and nobody may change it.
 *
 *   record    = CBOR [ version, payload bytes, signature 64 bytes ]
 *   payload   = CBOR { peer, sequence, expires, ?addresses, ?relays, ?rendezvous, ?capabilities, ?topics }
 *   signature = Ed25519( "peerline record 1" 0x00 payload ) of the key in `peer`
 *
 * Invariants:
 * - One encoding (deterministic CBOR, RFC 8949 section 4.2); the signature covers the payload bytes as they came.
 * - Only `peer` is read before the signature is verified.
 * - A later `sequence` replaces an earlier one; keeping the latest is the holder's part.
 * - After `expires` (ms since 1970, the signer's clock) a record says nothing.
 * Limits: 4 KiB in all, and counts and lengths as below.
 */

import { concatBytes } from '../bytes/bytes.ts'
import { decodeCbor, encodeCbor } from '../bytes/cbor.ts'
import { type Fields, fields } from '../bytes/fields.ts'
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import { type Identity, SIGNATURE_BYTES, verifySignature } from './identity.ts'
import { type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey } from './public-key.ts'

/** The most bytes of a record: it fits a ledger message and a few UDP packets. */
export const MAX_RECORD_BYTES = 4096

const VERSION = 1
const PREFIX = new TextEncoder().encode('peerline record 1\0')

// counts: more than a well-connected machine has; lengths: in characters
const LIMITS = {
  addresses: { max: 16, maxLength: 256 },
  relays: { max: 8, maxLength: 256 },
  rendezvous: { max: 8, maxLength: 256 },
  capabilities: { max: 16, maxLength: 64 },
  topics: { max: 32, maxLength: 128 },
} as const

/** What a peer says about itself; absent lists are empty. */
export interface RecordContent {
  /** Grows with every record of the peer. */
  readonly sequence: number
  /** When the record ends, in milliseconds since 1970. */
  readonly expiresAt: number
  readonly addresses?: readonly string[]
  readonly relays?: readonly string[]
  readonly rendezvous?: readonly string[]
  readonly capabilities?: readonly string[]
  readonly topics?: readonly string[]
}

/** A verified record. */
export interface PeerRecord extends Required<RecordContent> {
  readonly peerId: PeerId
}

/** Signs `content`. Throws ERR_PEERLINE_INVALID for content over a limit, ERR_PEERLINE_TOO_LARGE for too much of it. */
export function signRecord(identity: Identity, content: RecordContent): Uint8Array {
  const map: Record<string, unknown> = {
    peer: identity.publicKey,
    sequence: content.sequence,
    expires: content.expiresAt,
  }
  for (const name of Object.keys(LIMITS) as (keyof typeof LIMITS)[]) {
    if (content[name] !== undefined && content[name].length > 0) map[name] = [...content[name]]
  }
  rethrow('ERR_PEERLINE_INVALID', () => readContent(fields(map, 'record')))
  const payload = encodeCbor(map)
  const record = encodeCbor([VERSION, payload, identity.sign(concatBytes([PREFIX, payload]))])
  if (record.length > MAX_RECORD_BYTES) {
    throw new PeerlineError(
      'ERR_PEERLINE_TOO_LARGE',
      `The record has ${record.length} bytes, the limit is ${MAX_RECORD_BYTES}`,
    )
  }
  return record
}

/**
 * Verifies a record and reads it. Throws ERR_PEERLINE_TOO_LARGE above `maxBytes`, ERR_PEERLINE_VERSION for a version
 * this one does not know, ERR_PEERLINE_EXPIRED when its time is over, ERR_PEERLINE_RECORD for all else.
 *
 * @param options.now milliseconds since 1970. @default Date.now()
 * @param options.maxBytes the most bytes to look at. @default 4096
 */
export function openRecord(bytes: Uint8Array, options: { now?: number; maxBytes?: number } = {}): PeerRecord {
  const { now = Date.now(), maxBytes = MAX_RECORD_BYTES } = options
  const record = rethrow('ERR_PEERLINE_RECORD', () => openAtAnyTime(bytes, maxBytes))
  if (now >= record.expiresAt) {
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', `The record of ${record.peerId} has expired`)
  }
  return record
}

function openAtAnyTime(bytes: Uint8Array, maxBytes: number): PeerRecord {
  const envelope = decodeCbor(bytes, { maxBytes, maxDepth: 1 })
  if (!Array.isArray(envelope)) throw notARecord('it is not a list')
  const [version, payload, signature]: unknown[] = envelope
  if (!Number.isSafeInteger(version)) throw notARecord('it has no version')
  if (version !== VERSION) {
    throw new PeerlineError('ERR_PEERLINE_VERSION', `The record has version ${version}, this side reads ${VERSION}`)
  }
  if (envelope.length !== 3 || !(payload instanceof Uint8Array) || !(signature instanceof Uint8Array)) {
    throw notARecord('its parts are wrong')
  }
  if (signature.length !== SIGNATURE_BYTES) throw notARecord('its signature has the wrong length')
  const f = fields(decodeCbor(payload, { maxBytes, maxDepth: 2 }), 'record')
  const peerId = peerIdFromPublicKey(f.bytes('peer', { length: PUBLIC_KEY_BYTES }))
  if (!verifySignature(peerId, concatBytes([PREFIX, payload]), signature)) throw notARecord('its signature is wrong')
  return { peerId, ...readContent(f) }
}

function readContent(f: Fields): Required<RecordContent> {
  const list = (name: keyof typeof LIMITS) => f.optional(name, () => f.texts(name, LIMITS[name])) ?? []
  return {
    sequence: f.integer('sequence'),
    expiresAt: f.integer('expires'),
    addresses: list('addresses'),
    relays: list('relays'),
    rendezvous: list('rendezvous'),
    capabilities: list('capabilities'),
    topics: list('topics'),
  }
}

/** Runs `work`; a fault in the form of the record becomes `code`, what has a code of its own keeps it. */
function rethrow<T>(code: ErrorCode, work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (isPeerlineError(cause) && (cause.code === 'ERR_PEERLINE_PROTOCOL' || cause.code === 'ERR_PEERLINE_INVALID')) {
      throw new PeerlineError(code, cause.message, { cause })
    }
    throw cause
  }
}

function notARecord(why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_RECORD', `Not a valid peer record: ${why}`)
}
