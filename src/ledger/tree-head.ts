/**
 * Tree heads: what a node signs of all it has, and what the leaves of its tree are.
 *
 *     head      = CBOR [ version, payload bytes, signature 64 bytes ]
 *     payload   = CBOR { peer, ledger, size, root, time }
 *     signature = Ed25519( "peerline tree head 1" 0x00 payload ) of the key in `peer`
 *
 *     leaf      = at u64 us | sequence u32 | length of the topic u8 | topic | message        (big-endian, times since 1970)
 *
 * - Who has signed two heads that contradict each other cannot deny it: {@link compareHeads}.
 * - A leaf says all there is to know of an entry, and its place in the tree is the entry's place among all: its index, from 0.
 *   None of that can be another without another root.
 * - `time` is when the head was signed, by the node's clock: for people. No decision rests on it.
 * - Heads are read strictly: one form, at most {@link MAX_HEAD_BYTES}, and only `peer` before the signature.
 */
import { concatBytes, copyBytes, decodeCbor, encodeCbor, equalBytes, fields, MAX_TIME_MS } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { type Identity, type PeerId, peerIdFromPublicKey, SIGNATURE_BYTES, verifySignature } from '../identity/index.ts'
import type { Entry, Ledger, ReadOptions } from './ledger.ts'
import { HASH_BYTES, hashLeaf, verifyConsistency } from './merkle.ts'

/** Bytes of the largest head: twice what one with the longest ledger id has. */
export const MAX_HEAD_BYTES = 512

/** Characters of a ledger's id: {@link Ledger.id}. */
const LEDGER_ID = /^[a-z0-9:._-]{1,64}$/

/** Bytes of a leaf before its topic. */
const LEAF_HEAD_BYTES = 13

const VERSION = 1
const PREFIX = new TextEncoder().encode('peerline tree head 1\0')
const ascii = new TextEncoder()

/** An entry, and its place among the entries of all topics: 0, 1, 2, … */
export interface PlacedEntry extends Entry {
  readonly index: number
}

/** A ledger that knows the place of each of its entries among all: a tree can be made of it. */
export interface LeafSource extends Ledger {
  /** Entries of all topics, which stay. */
  readonly size: number
  /** The leaf hashes of the entries from index `from` to before `to`, each as {@link hashEntry} gives it. */
  leafHashes(from: number, to: number): Promise<readonly Uint8Array[]>
  read(
    topic: string,
    options: ReadOptions & { readonly max?: number },
  ): Promise<{ readonly entries: readonly PlacedEntry[]; readonly next: number | undefined }>
  subscribe(topic: string, options: ReadOptions): AsyncIterable<PlacedEntry>
}

/** The hash of the leaf that an entry of `topic` is, 32 bytes. @param topic ASCII, 1 to 100 characters */
export function hashEntry(topic: string, { sequence, at, message }: Entry): Uint8Array {
  const head = Buffer.alloc(LEAF_HEAD_BYTES)
  head.writeBigUInt64BE(BigInt(toMicroseconds(at)), 0)
  head.writeUInt32BE(sequence, 8)
  head.writeUInt8(topic.length, 12)
  return hashLeaf(concatBytes([head, ascii.encode(topic), message]))
}

/** A time in ms, as a leaf has it. */
export function toMicroseconds(ms: number): number {
  return Math.round(ms * 1_000)
}

/** What a node says of all it has, signed. */
export interface TreeHead {
  /** Who signed it. */
  readonly peerId: PeerId
  /** {@link Ledger.id} */
  readonly ledger: string
  /** Entries of all topics. */
  readonly size: number
  /** The root of their tree, 32 bytes. */
  readonly root: Uint8Array
  /** When it was signed, ms since 1970, the node's clock. */
  readonly time: number
  /** The head as it is passed on and stored. */
  readonly bytes: Uint8Array
}

/** Signs a head. @throws PeerlineError `ERR_PEERLINE_INVALID` for what is no id, size, root or time */
export function signHead(
  signer: Identity,
  { ledger, size, root, time }: Pick<TreeHead, 'ledger' | 'size' | 'root' | 'time'>,
): TreeHead {
  const isWhole = (n: number, max: number) => Number.isSafeInteger(n) && n >= 0 && n <= max
  const isHead = LEDGER_ID.test(ledger) && isWhole(size, Number.MAX_SAFE_INTEGER) && root.length === HASH_BYTES
  if (!isHead || !isWhole(time, MAX_TIME_MS)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', `no tree head: ${ledger}, ${size} entries, at ${time}`)
  }
  const payload = encodeCbor({ peer: signer.publicKey, ledger, size, root, time })
  const bytes = encodeCbor([VERSION, payload, signer.sign(concatBytes([PREFIX, payload]))])
  return { peerId: signer.peerId, ledger, size, root: copyBytes(root), time, bytes: copyBytes(bytes) }
}

/**
 * Verifies a head and reads it.
 * @throws PeerlineError `ERR_PEERLINE_TOO_LARGE` above {@link MAX_HEAD_BYTES}, `ERR_PEERLINE_VERSION`, `ERR_PEERLINE_PROTOCOL`
 *   for all else
 */
export function openHead(bytes: Uint8Array): TreeHead {
  const envelope = decodeCbor(bytes, { maxBytes: MAX_HEAD_BYTES, maxDepth: 1 })
  if (!Array.isArray(envelope)) throw notAHead('it is not a list')
  const [version, payload, signature]: unknown[] = envelope
  if (!Number.isSafeInteger(version)) throw notAHead('it has no version')
  if (version !== VERSION) {
    throw new PeerlineError('ERR_PEERLINE_VERSION', `the tree head has version ${version}, this side reads ${VERSION}`)
  }
  if (envelope.length !== 3 || !(payload instanceof Uint8Array) || !(signature instanceof Uint8Array)) {
    throw notAHead('its parts are wrong')
  }
  if (signature.length !== SIGNATURE_BYTES) throw notAHead('its signature has the wrong length')
  const f = fields(decodeCbor(payload, { maxBytes: MAX_HEAD_BYTES, maxDepth: 1 }), 'tree head')
  const peerId = peerOf(f.bytes('peer', { length: 32 }))
  if (!verifySignature(peerId, concatBytes([PREFIX, payload]), signature)) throw notAHead('its signature is wrong')
  const ledger = f.text('ledger', { max: 64 })
  if (!LEDGER_ID.test(ledger)) throw notAHead('it names no ledger')
  return {
    peerId,
    ledger,
    size: f.integer('size'),
    root: copyBytes(f.bytes('root', { length: HASH_BYTES })),
    time: f.integer('time', { max: MAX_TIME_MS }),
    bytes: copyBytes(bytes),
  }
}

/** What two heads say of whoever signed both. */
export type Comparison =
  /** Both stand for the same entries. */
  | 'same'
  /** The proof shows that the longer begins with the shorter. */
  | 'consistent'
  /** As long as each other, and yet not the same: the two heads are the evidence. */
  | 'contradiction'
  /** One is longer, and nothing shows that it begins with the other: the node must, see `RemoteLedger.check`. */
  | 'unproven'
  /** Of other ledgers, or other nodes. */
  | 'unrelated'

/**
 * Compares two heads, as two readers got them: a node that tells one reader this and another that is found so.
 * @param proof of consistency, when there is one; one that does not hold shows nothing
 */
export function compareHeads(a: TreeHead, b: TreeHead, proof?: Uint8Array): Comparison {
  if (a.peerId !== b.peerId || a.ledger !== b.ledger) return 'unrelated'
  if (a.size === b.size) return equalBytes(a.root, b.root) ? 'same' : 'contradiction'
  return proof !== undefined && isConsistent(a, b, proof) ? 'consistent' : 'unproven'
}

/** Whether `proof` shows that the longer of two heads begins with the shorter. */
export function isConsistent(a: TreeHead, b: TreeHead, proof: Uint8Array): boolean {
  const [first, second] = a.size < b.size ? [a, b] : [b, a]
  const [from, to] = [first.size, second.size]
  return verifyConsistency({ from, to, fromRoot: first.root, toRoot: second.root, proof })
}

function peerOf(publicKey: Uint8Array): PeerId {
  try {
    return peerIdFromPublicKey(publicKey)
  } catch (cause) {
    if (isPeerlineError(cause)) throw new PeerlineError('ERR_PEERLINE_PROTOCOL', cause.message, { cause })
    throw cause
  }
}

function notAHead(why: string): PeerlineError {
  return new PeerlineError('ERR_PEERLINE_PROTOCOL', `not a valid tree head: ${why}`)
}
