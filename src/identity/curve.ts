/**
 * X25519 (RFC 7748) of `node:crypto`: key pairs and the shared secret. No arithmetic is done here.
 *
 * Importing a raw private key costs about ten times as much as the exchange itself (300 µs against 28 µs on the
 * reference machine), so the imported form is remembered beside the bytes it came from, for as long as they live.
 * The bytes of a private key must therefore not be changed after its first use.
 */
import {
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  type JsonWebKey,
  type KeyObject,
  type X25519KeyPairOptions,
} from 'node:crypto'
import { PeerlineError } from '../errors.ts'

/** An X25519 key pair, both keys raw and 32 bytes long. */
export interface KeyPair {
  readonly publicKey: Uint8Array
  readonly privateKey: Uint8Array
}

/** Bytes of a public key, a private key and a shared secret alike (RFC 7748 section 5). */
export const KEY_BYTES = 32

/** RFC 8410 section 7: the fixed head of a PKCS #8 private key of X25519; the 32 raw bytes follow. */
const PKCS8_HEAD = Buffer.from('302e020100300506032b656e04220420', 'hex')

/** Of `node:crypto` since 15.9; its types do not know. */
const JWK = { format: 'jwk' }

const imported = new WeakMap<Uint8Array, KeyObject>()

/**
 * A fresh key pair.
 *
 * The job that makes it writes it down as well, in JWK (DER costs ten times as much): a key made first and exported then
 * stops Node 20 for good, when the garbage collector comes by in between. The export holds the key's lock, and the end of
 * the job, which owns the same key, waits for it, in one thread.
 */
export function generateKeyPair(): KeyPair {
  const { privateKey: jwk } = generateKeyPairSync('x25519', {
    publicKeyEncoding: JWK,
    privateKeyEncoding: JWK,
  } as unknown as X25519KeyPairOptions<'der', 'der'>) as unknown as { privateKey: { x: string; d: string } }
  const privateKey = new Uint8Array(Buffer.from(jwk.d, 'base64url'))
  imported.set(privateKey, createPrivateKey({ key: { kty: 'OKP', crv: 'X25519', ...jwk }, format: 'jwk' }))
  return { publicKey: new Uint8Array(Buffer.from(jwk.x, 'base64url')), privateKey }
}

/** The public key that belongs to a raw private key. */
export function publicKeyFrom(privateKey: Uint8Array): Uint8Array {
  const { x } = createPublicKey(importPrivate(privateKey)).export({ format: 'jwk' }) as { x: string }
  return new Uint8Array(Buffer.from(x, 'base64url'))
}

/**
 * The shared secret of a private and a public key.
 *
 * @throws ERR_PEERLINE_HANDSHAKE for a key that is not 32 bytes long, and for a public key of small order, which would
 * make the secret all zero and known to everybody (RFC 7748 section 6.1)
 */
export function x25519(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  const own = importPrivate(privateKey)
  const other = importPublic(publicKey)
  let secret: Uint8Array
  try {
    secret = new Uint8Array(diffieHellman({ privateKey: own, publicKey: other }))
  } catch (cause) {
    // OpenSSL refuses an all-zero secret itself.
    throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the X25519 exchange failed: the public key is weak', { cause })
  }
  // Looked at without a branch on single bytes; other libraries than OpenSSL may hand the zeros on.
  let bits = 0
  for (const byte of secret) bits |= byte
  if (bits === 0) throw new PeerlineError('ERR_PEERLINE_HANDSHAKE', 'the X25519 exchange gave an all-zero secret')
  return secret
}

function importPrivate(bytes: Uint8Array): KeyObject {
  const known = imported.get(bytes)
  if (known !== undefined) return known
  checkLength(bytes, 'private')
  // DER, not JWK: a JWK needs the public half too, which is not at hand.
  const key = createPrivateKey({ key: Buffer.concat([PKCS8_HEAD, bytes]), format: 'der', type: 'pkcs8' })
  imported.set(bytes, key)
  return key
}

function importPublic(bytes: Uint8Array): KeyObject {
  checkLength(bytes, 'public')
  // JWK imports in a tenth of the time of DER (6 µs against 67 µs).
  const x = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64url')
  const key: JsonWebKey = { kty: 'OKP', crv: 'X25519', x }
  return createPublicKey({ key, format: 'jwk' })
}

function checkLength(bytes: Uint8Array, which: string): void {
  if (bytes.length === KEY_BYTES) return
  throw new PeerlineError(
    'ERR_PEERLINE_HANDSHAKE',
    `an X25519 ${which} key has ${KEY_BYTES} bytes, not ${bytes.length}`,
  )
}
