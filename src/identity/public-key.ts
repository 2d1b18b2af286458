/**
 * The peer id and the public key behind it.
 *
 *   peer id = z-base-32( Ed25519 public key, 32 bytes ) = 52 characters, the last with 4 padding bits of zero
 *
 * Invariant: a `PeerId` made here stands for a canonical point of the curve (RFC 8032 section 5.1.3) that is not of small
 * order. With a small-order key anyone can make signatures that verify, and every X25519 result is the same, so such a
 * "device" would be everybody.
 */

import { ed25519 } from '@noble/curves/ed25519.js'
import { decodeZbase32, encodeZbase32 } from '../bytes/zbase32.ts'
import { PeerlineError } from '../errors.ts'
import { BoundedMap } from './bounded-map.ts'

/** The length of an Ed25519 public key, in bytes. */
export const PUBLIC_KEY_BYTES = 32
/** The length of a peer id, in characters: 256 bits at 5 a character. */
export const PEER_ID_LENGTH = 52

const CACHED_KEYS = 512 // checking a point takes some 100 us; 512 entries take about 100 kB

declare const brand: unique symbol
/** A peer's public key as 52 characters of z-base-32. */
export type PeerId = string & { readonly [brand]: 'PeerId' }

const checked = new BoundedMap<string, Uint8Array>(CACHED_KEYS)

/** The peer id of a 32-byte Ed25519 public key, or ERR_PEERLINE_INVALID. */
export function peerIdFromPublicKey(publicKey: Uint8Array): PeerId {
  if (publicKey.length !== PUBLIC_KEY_BYTES) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `A public key has 32 bytes, this has ${publicKey.length}`)
  }
  const id = encodeZbase32(publicKey)
  keyOf(id)
  return id as PeerId
}

/** The 32-byte Ed25519 public key of a peer id, in memory of its own. Throws ERR_PEERLINE_INVALID. */
export function publicKeyOf(id: PeerId): Uint8Array {
  return keyOf(id).slice()
}

/** The checked key of `text`. Checks the text too: a string may have been called a `PeerId` by a cast. */
function keyOf(text: string): Uint8Array {
  return checked.getOrMake(text, () => {
    if (text.length !== PEER_ID_LENGTH) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `A peer id has 52 characters, this has ${text.length}`)
    }
    const key = decodeZbase32(text)
    if (!isSafePoint(key))
      throw new PeerlineError('ERR_PEERLINE_INVALID', 'The peer id is not a valid Ed25519 public key')
    return key
  })
}

function isSafePoint(publicKey: Uint8Array): boolean {
  try {
    return !ed25519.Point.fromBytes(publicKey).isSmallOrder()
  } catch {
    return false
  }
}
