/** What people type and programs compare: reading a peer id in each of its forms. */

import { decodeZbase32 } from '../bytes/zbase32.ts'
import { invalid } from '../errors.ts'
import { fromDidKey } from './did-key.ts'
import { PEER_ID_LENGTH, type PeerId, peerIdFromPublicKey } from './public-key.ts'

export { PEER_ID_LENGTH, type PeerId, PUBLIC_KEY_BYTES, peerIdFromPublicKey, publicKeyOf } from './public-key.ts'

/**
 * Reads a peer id: 52 lower-case characters of z-base-32, or `did:key:z6Mk...`. Throws ERR_PEERLINE_INVALID and says what
 * is wrong with it. The answer is always the z-base-32 form.
 */
export function parsePeerId(text: string): PeerId {
  if (typeof text !== 'string') throw invalid('A peer id is text')
  if (text.startsWith('did:')) return fromDidKey(text)
  if (text.length !== PEER_ID_LENGTH) {
    throw invalid(`A peer id has ${PEER_ID_LENGTH} characters, this has ${text.length}`)
  }
  if (text !== text.toLowerCase()) throw invalid('A peer id is written in lower case')
  return peerIdFromPublicKey(decodeZbase32(text))
}
