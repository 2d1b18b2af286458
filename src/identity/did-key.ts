/**
 * A peer id as a decentralised identifier, W3C CCG "The did:key Method", section "Ed25519".
 *
 *   did:key: z base58btc( 0xed 0x01, Ed25519 public key 32 bytes )
 *
 * 0xed 0x01 is the multicodec of Ed25519 public keys as a varint, `z` the multibase letter of base58btc. With this prefix
 * every such text starts with z6Mk and has 56 characters, so longer ones are refused before they are decoded.
 */

import { base58 } from '@scure/base'
import { concatBytes } from '../bytes/bytes.ts'
import { PeerlineError } from '../errors.ts'
import { type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey, publicKeyOf } from './public-key.ts'

const SCHEME = 'did:key:z'
const MULTICODEC = Uint8Array.of(0xed, 0x01)
const LENGTH = 56 // characters: 9 of the scheme, 47 of base58btc for 34 bytes

/** `id` as `did:key:z6Mk...`. */
export function toDidKey(id: PeerId): string {
  return SCHEME + base58.encode(concatBytes([MULTICODEC, publicKeyOf(id)]))
}

/** The peer id of `did:key:z6Mk...`, or ERR_PEERLINE_INVALID. */
export function fromDidKey(text: string): PeerId {
  if (!text.startsWith(`${SCHEME}6Mk`) || text.length !== LENGTH) throw notOurs()
  let bytes: Uint8Array
  try {
    bytes = base58.decode(text.slice(SCHEME.length))
  } catch (cause) {
    throw notOurs(cause)
  }
  if (
    bytes.length !== MULTICODEC.length + PUBLIC_KEY_BYTES ||
    bytes[0] !== MULTICODEC[0] ||
    bytes[1] !== MULTICODEC[1]
  ) {
    throw notOurs()
  }
  return peerIdFromPublicKey(bytes.subarray(MULTICODEC.length))
}

function notOurs(cause?: unknown): PeerlineError {
  const message = 'Not a did:key of an Ed25519 key: it starts with did:key:z6Mk and has 56 characters'
  return new PeerlineError('ERR_PEERLINE_INVALID', message, { cause })
}
