/**
 * A signed statement: what a peer says, so that anyone may carry it and nobody may change it.
 *
 *   statement = CBOR [ version 1, from 32 bytes, payload bytes, signature 64 bytes ]
 *   signature = Ed25519( prefix from payload ) of the key `from`
 *   payload   = CBOR map
 *
 * - One encoding (deterministic CBOR, RFC 8949 section 4.2); the signature covers the payload bytes as they came.
 * - The payload is not decoded before its signature is verified.
 * - Each kind of statement has its own prefix, which ends in 0x00, so that none passes for another.
 * - A statement has a life: it is expired after it, by any clock that differs from the signer's no more than is allowed.
 */
import { concatBytes, decodeCbor, encodeCbor, type Fields, fields } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { CLOCK_SKEW_MS } from '../handshake/index.ts'
import {
  type Identity,
  type PeerId,
  PUBLIC_KEY_BYTES,
  peerIdFromPublicKey,
  publicKeyOf,
  SIGNATURE_BYTES,
  verifySignature,
} from '../identity/index.ts'

const VERSION = 1

/** Bytes of a statement around its payload, rounded up: a list of four, a key, a signature, two lengths. */
const ENVELOPE_BYTES = 128

/** A kind of statement. */
export interface Kind {
  /** For messages: `order`. */
  readonly name: string
  /** In front of what is signed. */
  readonly prefix: Uint8Array
  /** Bytes of the largest payload. */
  readonly maxPayloadBytes: number
  /** ms of the longest life. */
  readonly maxLifeMs: number
  /** Bytes of the largest statement. */
  readonly maxBytes: number
}

/** When a statement holds, ms since 1970 by the clock of its signer. */
export interface Life {
  readonly issuedAt: number
  readonly expiresAt: number
}

/** A kind of statement. Its prefix is `peerline NAME 1` and 0x00. */
export function kindOf(name: string, limits: Pick<Kind, 'maxPayloadBytes' | 'maxLifeMs'>): Kind {
  const prefix = new TextEncoder().encode(`peerline ${name} ${VERSION}\0`)
  return { name, prefix, ...limits, maxBytes: limits.maxPayloadBytes + ENVELOPE_BYTES }
}

/**
 * Signs `map` as a statement of the kind.
 * @throws PeerlineError `ERR_PEERLINE_INVALID`, `ERR_PEERLINE_TOO_LARGE`
 */
export function signStatement(
  identity: Identity,
  kind: Kind,
  { issuedAt, expiresAt, ...map }: Readonly<Record<string, unknown>> & Life,
): Uint8Array {
  const whole = [issuedAt, expiresAt].every((at) => Number.isSafeInteger(at) && at >= 0)
  const lifeMs = expiresAt - issuedAt
  if (!(whole && lifeMs > 0 && lifeMs <= kind.maxLifeMs)) {
    const message = `the ${kind.name} has a life of ${lifeMs} ms, not of 1 to ${kind.maxLifeMs} whole ones`
    throw new PeerlineError('ERR_PEERLINE_INVALID', message)
  }
  const payload = encodeCbor({ ...map, issued: issuedAt, expires: expiresAt })
  if (payload.length > kind.maxPayloadBytes) {
    const message = `the ${kind.name} has ${payload.length} bytes, the limit is ${kind.maxPayloadBytes}`
    throw new PeerlineError('ERR_PEERLINE_TOO_LARGE', message)
  }
  const { publicKey } = identity
  return encodeCbor([VERSION, publicKey, payload, identity.sign(concatBytes([kind.prefix, publicKey, payload]))])
}

/**
 * Who is said to have signed a statement: what a stranger sends is refused by it, before any signature is verified.
 * @throws PeerlineError as {@link openStatement}
 */
export function claimedSigner(bytes: Uint8Array, kind: Kind): PeerId {
  return recordErrors(kind, () => readEnvelope(bytes, kind).from)
}

/**
 * Verifies a statement, and hands its payload to `read`; then looks whether it is addressed and alive.
 *
 * @param options.now ms since 1970
 * @param options.read takes the payload apart; a field that is not as it should be is `ERR_PEERLINE_RECORD`
 * @param options.check refuses what is genuine, but not for us; before anything is said of its time
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE`; `ERR_PEERLINE_VERSION`; `ERR_PEERLINE_RECORD` when it is malformed or
 *   its signature is wrong; what `check` throws; `ERR_PEERLINE_EXPIRED` also when it is from the future
 */
export function openStatement<T>(
  bytes: Uint8Array,
  kind: Kind,
  options: { now: number; read: (payload: Fields) => T; check?: (content: T) => void },
): { readonly from: PeerId } & T & Life {
  const opened = recordErrors(kind, () => {
    const { from, payload, signature } = readEnvelope(bytes, kind)
    if (!verifySignature(from, concatBytes([kind.prefix, publicKeyOf(from), payload]), signature)) {
      throw broken(kind, 'its signature is wrong')
    }
    const f = fields(decodeCbor(payload, { maxBytes: kind.maxPayloadBytes, maxDepth: 2 }), kind.name)
    const life = { issuedAt: f.integer('issued'), expiresAt: f.integer('expires') }
    const lifeMs = life.expiresAt - life.issuedAt
    if (!(lifeMs > 0 && lifeMs <= kind.maxLifeMs)) throw broken(kind, `its life is not 1 to ${kind.maxLifeMs} ms`)
    return { from, content: options.read(f), life }
  })
  options.check?.(opened.content)
  const { issuedAt, expiresAt } = opened.life
  const past = options.now - CLOCK_SKEW_MS >= expiresAt
  if (past || options.now + CLOCK_SKEW_MS < issuedAt) {
    const what = past ? 'has expired' : 'is from the future'
    const message = `the ${kind.name} ${what}; the clocks of the two peers may differ by ${CLOCK_SKEW_MS / 1000} s at most`
    throw new PeerlineError('ERR_PEERLINE_EXPIRED', message)
  }
  return { ...opened.content, from: opened.from, ...opened.life }
}

function readEnvelope(bytes: Uint8Array, kind: Kind): { from: PeerId; payload: Uint8Array; signature: Uint8Array } {
  const envelope = decodeCbor(bytes, { maxBytes: kind.maxBytes, maxDepth: 1 })
  if (!Array.isArray(envelope)) throw broken(kind, 'it is not a list')
  const [version, from, payload, signature]: unknown[] = envelope
  if (!Number.isSafeInteger(version)) throw broken(kind, 'it has no version')
  if (version !== VERSION) {
    throw new PeerlineError(
      'ERR_PEERLINE_VERSION',
      `the ${kind.name} has version ${version}, this side reads ${VERSION}`,
    )
  }
  const isWhole =
    envelope.length === 4 &&
    from instanceof Uint8Array &&
    from.length === PUBLIC_KEY_BYTES &&
    payload instanceof Uint8Array &&
    signature instanceof Uint8Array &&
    signature.length === SIGNATURE_BYTES
  if (!isWhole) throw broken(kind, 'its parts are wrong')
  return { from: peerIdFromPublicKey(from), payload, signature }
}

/** Runs `work`; a fault in the form of the statement becomes ERR_PEERLINE_RECORD, what has another code keeps it. */
function recordErrors<T>(kind: Kind, work: () => T): T {
  try {
    return work()
  } catch (cause) {
    if (isPeerlineError(cause) && (cause.code === 'ERR_PEERLINE_PROTOCOL' || cause.code === 'ERR_PEERLINE_INVALID')) {
      throw broken(kind, cause.message, cause)
    }
    throw cause
  }
}

function broken(kind: Kind, why: string, cause?: unknown): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_RECORD', `not a valid ${kind.name}: ${why}`, {
    recover: `The ${kind.name} was damaged or forged; have it signed and sent again.`,
    ...(cause === undefined ? {} : { cause }),
  })
}
