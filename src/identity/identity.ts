/**
 * An identity: the Ed25519 key pair of a device (RFC 8032), and its X25519 form, which is the Noise static key.
 *
 *   seed 32 bytes -- SHA-512, clamp --> scalar --> Ed25519 public key (the peer id)
 *                                         |               | birational map, RFC 7748 section 4.1
 *                                         '--> X25519 --> X25519 public key (the Noise static key)
 *
 * One scalar serves both, so who knows a peer id knows the static key to shake hands with. Signatures carry a prefix that
 * says what they are for (see `record.ts`); Noise never signs. Signing and verifying are `node:crypto`'s; the map is noble's.
 *
 * Private keys stand in private fields and behind getters: printing or serialising an identity shows the peer id only.
 */

import { createPrivateKey, createPublicKey, type KeyObject, randomBytes, sign, verify } from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import { concatBytes } from '../bytes/bytes.ts'
import { PeerlineError } from '../errors.ts'
import { BoundedMap } from './bounded-map.ts'
import { type PeerId, peerIdFromPublicKey, publicKeyOf } from './public-key.ts'

/** The length of an Ed25519 seed, in bytes. */
export const SEED_BYTES = 32
/** The length of an Ed25519 signature, in bytes. */
export const SIGNATURE_BYTES = 64

const CACHED_PEERS = 512 // peers whose keys are kept in the form that node:crypto and Noise take; about 1 kB each

// DER up to the 32 bytes of the key: RFC 8410 section 7 (private, PKCS#8) and section 4 (public, SubjectPublicKeyInfo)
const PKCS8_PREFIX = Uint8Array.of(0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20)
const SPKI_PREFIX = Uint8Array.of(0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0)

const verifyingKeys = new BoundedMap<PeerId, KeyObject>(CACHED_PEERS)
const staticKeys = new BoundedMap<PeerId, Uint8Array>(CACHED_PEERS)

/** An X25519 key pair, 32 bytes each. */
export interface StaticKey {
  readonly publicKey: Uint8Array
  readonly privateKey: Uint8Array
}

/** The key pair that a device is known by. */
export class Identity {
  readonly peerId: PeerId
  /** The Ed25519 public key, 32 bytes. */
  readonly publicKey: Uint8Array
  readonly #seed: Uint8Array
  readonly #key: KeyObject
  readonly #static: StaticKey

  private constructor(seed: Uint8Array) {
    this.#seed = seed
    this.#key = ed25519PrivateKey(seed)
    const spki = createPublicKey(this.#key).export({ format: 'der', type: 'spki' })
    this.publicKey = new Uint8Array(spki.subarray(SPKI_PREFIX.length))
    this.peerId = peerIdFromPublicKey(this.publicKey)
    this.#static = {
      publicKey: toX25519(this.publicKey),
      privateKey: ed25519.utils.toMontgomerySecret(seed),
    }
  }

  /** A new identity from the system's random source. */
  static generate(): Identity {
    return new Identity(new Uint8Array(randomBytes(SEED_BYTES)))
  }

  /** The identity of a 32-byte Ed25519 seed, the "private key" of RFC 8032. */
  static fromSeed(seed: Uint8Array): Identity {
    if (seed.length !== SEED_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `A seed has ${SEED_BYTES} bytes, this has ${seed.length}`)
    }
    return new Identity(Uint8Array.from(seed))
  }

  /** The secret seed, in memory of its own. @internal for the key file only */
  get seed(): Uint8Array {
    return this.#seed.slice()
  }

  /** The X25519 form: the Noise static key. Secret; keep it inside the handshake. */
  get staticKey(): StaticKey {
    return this.#static
  }

  /** The 64-byte Ed25519 signature over `message`. Give every use its own prefix, so that none passes for another. */
  sign(message: Uint8Array): Uint8Array {
    return new Uint8Array(sign(null, message, this.#key))
  }
}

/** Whether `signature` over `message` is of `peerId`. False for any signature that is not, whatever its form. */
export function verifySignature(peerId: PeerId, message: Uint8Array, signature: Uint8Array): boolean {
  if (signature.length !== SIGNATURE_BYTES) return false
  const key = verifyingKeys.getOrMake(peerId, () => {
    const der = concatBytes([SPKI_PREFIX, publicKeyOf(peerId)])
    return createPublicKey({ key: Buffer.from(der.buffer), format: 'der', type: 'spki' })
  })
  return verify(null, message, key, signature)
}

/**
 * The X25519 form of an Ed25519 public key, in memory of its own. Throws ERR_PEERLINE_INVALID for keys that are no safe
 * point of the curve.
 */
export function toX25519(publicKey: Uint8Array): Uint8Array {
  return staticKeys.getOrMake(peerIdFromPublicKey(publicKey), () => ed25519.utils.toMontgomery(publicKey)).slice()
}

/** The seed as `node:crypto` takes it. @internal */
export function ed25519PrivateKey(seed: Uint8Array): KeyObject {
  const der = concatBytes([PKCS8_PREFIX, seed])
  return createPrivateKey({ key: Buffer.from(der.buffer), format: 'der', type: 'pkcs8' })
}
