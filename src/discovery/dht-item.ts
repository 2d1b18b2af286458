/**
 * A peer record as a signed mutable item of the Mainline DHT (BEP 44).
 *
 *     k     the Ed25519 public key of the peer, which is its id
 *     salt  "peerline/1"
 *     seq   the sequence of the record
 *     v     the record, see identity/record.ts
 *     sig   Ed25519( "4:salt10:peerline/1" "3:seqi" seq "e" "1:v" length ":" record )
 *     kept at the nodes nearest to SHA-1( k salt )
 *
 * - Both signatures are of the same key: that of the item is what nodes check, that of the record is what a reader trusts, which
 *   also says until when. A record that somebody copies into an item of his own is refused, as is one under another sequence.
 * - It is public to whoever knows the peer id. So it says how a peer may be asked (rendezvous, relays, ledger topics), and
 *   where it is only when its owner wants that.
 * Limit: {@link MAX_ITEM_BYTES}.
 */
import { createHash } from 'node:crypto'
import { concatBytes, equalBytes } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import {
  type Identity,
  openRecord,
  type PeerId,
  type PeerRecord,
  peerIdFromPublicKey,
  publicKeyOf,
  type RecordContent,
  signRecord,
  verifySignature,
} from '../identity/index.ts'
import { type Bencoded, readBencode } from './dht-message.ts'

const TEXT = new TextEncoder()
const SALT = 'peerline/1'
export const DHT_SALT = TEXT.encode(SALT)

/** Bytes of a record: BEP 44 has less than 1,000 for the value with its length in front, "995:". */
export const MAX_ITEM_BYTES = 995

/** What goes first when a record would be too large: whoever has one rendezvous left can still be asked. */
const DISPENSABLE = ['addresses', 'topics', 'relays', 'rendezvous'] as const

/** Under which name the item of a peer is kept: 20 bytes. */
export function targetOf(peer: PeerId): Uint8Array {
  return createHash('sha1').update(publicKeyOf(peer)).update(DHT_SALT).digest()
}

/** What the signature of an item is over. */
export function signedPart(sequence: number, value: Uint8Array): Uint8Array {
  return concatBytes([TEXT.encode(`4:salt${SALT.length}:${SALT}3:seqi${sequence}e1:v${value.length}:`), value])
}

/** Whether anybody's item is signed by the key it names. Never throws. */
export function verifyItem(signature: unknown, signed: Uint8Array, key: unknown): boolean {
  if (!(signature instanceof Uint8Array) || !(key instanceof Uint8Array)) return false
  try {
    return verifySignature(peerIdFromPublicKey(key), signed, signature)
  } catch (error) {
    if (isPeerlineError(error)) return false // the key is no point of the curve
    throw error
  }
}

/** The record in an item that a node answered for `peer`; undefined when it is forged, over, or another's. Never throws. */
export function readItem(
  peer: PeerId,
  signature: unknown,
  signed: Uint8Array,
  key: unknown,
  now = Date.now(),
): PeerRecord | undefined {
  if (!(key instanceof Uint8Array) || !equalBytes(key, publicKeyOf(peer))) return undefined
  if (!verifyItem(signature, signed, key)) return undefined
  try {
    const item = readBencode(concatBytes([TEXT.encode('d'), signed, TEXT.encode('e')]))
    const value = item instanceof Map ? (item as ReadonlyMap<string, Bencoded>).get('v') : undefined
    if (!(value instanceof Uint8Array)) return undefined
    const record = openRecord(value, { now, maxBytes: MAX_ITEM_BYTES })
    return record.peerId === peer && equalBytes(signed, signedPart(record.sequence, value)) ? record : undefined
  } catch (error) {
    if (isPeerlineError(error)) return undefined
    throw error
  }
}

/**
 * Signs a record for the DHT: without capabilities, and without addresses unless they are wanted. What does not fit is left
 * out, from the end of the lists: addresses first, then topics, relays, rendezvous.
 * @param options.addresses tell everyone who knows the peer id where the peer is. @default false
 * @throws PeerlineError as `signRecord`
 */
export function signDhtRecord(
  identity: Identity,
  content: RecordContent,
  { addresses = false }: { readonly addresses?: boolean } = {},
): Uint8Array {
  const { sequence, expiresAt } = content
  const lists = {
    addresses: addresses ? [...(content.addresses ?? [])] : [],
    topics: [...(content.topics ?? [])],
    relays: [...(content.relays ?? [])],
    rendezvous: [...(content.rendezvous ?? [])],
  }
  for (;;) {
    const record = signRecord(identity, { sequence, expiresAt, ...lists })
    const first = DISPENSABLE.find((name) => lists[name].length > 0)
    if (record.length <= MAX_ITEM_BYTES || first === undefined) return record
    lists[first].pop()
  }
}
