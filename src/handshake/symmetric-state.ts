/**
 * The symmetric objects of the Noise Protocol Framework, revision 34: CipherState (section 5.1) and SymmetricState
 * (section 5.2), for the suite AESGCM and SHA256 (sections 12.4 and 12.5), on `node:crypto`.
 *
 * Every failure is ERR_PEERLINE_HANDSHAKE. After one the owner must throw the state away: a failed decryption leaves
 * it where it was, but the other side is no longer in step.
 */
import { createCipheriv, createDecipheriv, createHash, createHmac, hkdfSync } from 'node:crypto'
import { concatBytes, copyBytes } from '../bytes/bytes.ts'
import { PeerlineError } from '../errors.ts'

/** Bytes that AES-256-GCM adds to what it seals: the whole 128-bit tag. */
export const TAG_BYTES = 16

/** Bytes of a SHA-256 hash and of an AES-256 key alike. */
export const HASH_BYTES = 32

const AES = 'aes-256-gcm'
const NONE = new Uint8Array(0)
/** Section 5.1: 2^64 - 1 is kept for `rekey` and never seals a message. */
const REKEY_NONCE = 2n ** 64n - 1n

/** ENCRYPT(k, n, ad, plaintext): the ciphertext and its tag. */
export function encrypt(key: Uint8Array, n: bigint, ad: Uint8Array, plaintext: Uint8Array): Uint8Array {
  const cipher = createCipheriv(AES, key, nonce(n), { authTagLength: TAG_BYTES })
  cipher.setAAD(ad)
  return concatBytes([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

/** DECRYPT(k, n, ad, ciphertext): the plaintext, or ERR_PEERLINE_HANDSHAKE. Nothing is handed out before the tag held. */
export function decrypt(key: Uint8Array, n: bigint, ad: Uint8Array, ciphertext: Uint8Array): Uint8Array {
  const length = ciphertext.length - TAG_BYTES
  if (length < 0) throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the handshake message is too short')
  const decipher = createDecipheriv(AES, key, nonce(n), { authTagLength: TAG_BYTES })
  decipher.setAAD(ad)
  decipher.setAuthTag(ciphertext.subarray(length))
  const plaintext = decipher.update(ciphertext.subarray(0, length))
  try {
    // Of GCM nothing is left to come.
    decipher.final()
  } catch (cause) {
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the handshake message does not authenticate', { cause })
  }
  return new Uint8Array(plaintext.buffer, plaintext.byteOffset, plaintext.length)
}

/** REKEY(k), section 4.2: the next key, from which the one before cannot be found. */
export function rekey(key: Uint8Array): Uint8Array {
  return encrypt(key, REKEY_NONCE, NONE, new Uint8Array(HASH_BYTES)).slice(0, HASH_BYTES)
}

/** Section 12.4: 32 bits of zeros, then n as a 64-bit big-endian number. */
function nonce(n: bigint): Uint8Array {
  const bytes = new Uint8Array(12)
  new DataView(bytes.buffer).setBigUint64(4, n)
  return bytes
}

/** The running hash, the chaining key and the key in use of one handshake. */
export class SymmetricState {
  #hash: Uint8Array
  #chainingKey: Uint8Array
  #key: Uint8Array | undefined
  #n = 0n

  /** InitializeSymmetric(protocol_name): a name of up to 32 bytes is filled with zeros, a longer one hashed. */
  constructor(protocolName: string) {
    const name = new TextEncoder().encode(protocolName)
    this.#hash =
      name.length > HASH_BYTES ? sha256(name, NONE) : concatBytes([name, new Uint8Array(HASH_BYTES - name.length)])
    this.#chainingKey = this.#hash
  }

  get hash(): Uint8Array {
    return this.#hash.slice()
  }

  mixHash(data: Uint8Array): void {
    this.#hash = sha256(this.#hash, data)
  }

  mixKey(input: Uint8Array): void {
    const [chainingKey, key] = hkdf(this.#chainingKey, input)
    this.#chainingKey = chainingKey
    this.#key = key
    this.#n = 0n
  }

  /** EncryptAndHash: without a key yet, the plaintext goes out as it is, but is hashed. */
  encryptAndHash(plaintext: Uint8Array): Uint8Array {
    const out = this.#key === undefined ? copyBytes(plaintext) : encrypt(this.#key, this.#n++, this.#hash, plaintext)
    this.mixHash(out)
    return out
  }

  decryptAndHash(data: Uint8Array): Uint8Array {
    const plaintext = this.#key === undefined ? copyBytes(data) : decrypt(this.#key, this.#n++, this.#hash, data)
    this.mixHash(data)
    return plaintext
  }

  /** Bytes that {@link encryptAndHash} adds now. */
  get overhead(): number {
    return this.#key === undefined ? 0 : TAG_BYTES
  }

  /** Split(): the key of the initiator's messages and that of the responder's. */
  split(): [Uint8Array, Uint8Array] {
    return hkdf(this.#chainingKey, NONE)
  }

  /** RFC 5869 over the chaining key, salted with the hash; it never leaves this object itself. */
  exportSecret(label: string, length: number): Uint8Array {
    return new Uint8Array(hkdfSync('sha256', this.#chainingKey, this.#hash, label, length))
  }

  /** A copy that goes its own way. Fields are replaced, never written into, so the arrays may be shared. */
  clone(): SymmetricState {
    const copy = new SymmetricState('')
    copy.#hash = this.#hash
    copy.#chainingKey = this.#chainingKey
    copy.#key = this.#key
    copy.#n = this.#n
    return copy
  }
}

function sha256(first: Uint8Array, second: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(first).update(second).digest())
}

/** HKDF(chaining_key, input_key_material, 2), section 4.3. */
function hkdf(chainingKey: Uint8Array, input: Uint8Array): [Uint8Array, Uint8Array] {
  const secret = hmac(chainingKey, input, NONE)
  const first = hmac(secret, NONE, Uint8Array.of(1))
  return [first, hmac(secret, first, Uint8Array.of(2))]
}

function hmac(key: Uint8Array, first: Uint8Array, second: Uint8Array): Uint8Array {
  return new Uint8Array(createHmac('sha256', key).update(first).update(second).digest())
}
