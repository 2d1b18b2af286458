/**
 * What the file of a ledger is made of: a header, and records that are chained by their hashes.
 *
 *     header = magic 15 | version 1 | id 32, random | created u64 ms | hash 32          88 bytes
 *     record = length u32 | check u32 | leaf, of that length | hash 32                   53 bytes beside topic and message
 *     leaf   = at u64 µs | sequence u32 | topic length u8 | topic | message
 *
 *     check  = CRC-32 of the length: a length that was changed is not taken for a record that was cut off
 *     hash   = SHA-256( the hash before | length | check | leaf ); of the header: SHA-256( all before it )
 *
 * - Numbers are big-endian, times since 1970. `at` grows with every record, `sequence` counts in its topic from 1.
 * - The hash before lies directly before a record, so each record is verified with what stands in the file.
 * - The chain shows that something was changed. Whoever may write the file can make a chain of their own: signed tree heads
 *   tell of that.
 * - A leaf says all there is to know of an entry: it is what a Merkle tree is made of.
 */
import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'
import type { Entry } from './ledger.ts'

export const HEADER_BYTES = 88
export const CHAIN_BYTES = 32

/** Bytes of a record before its leaf, and of a leaf before its topic. */
export const LENGTH_BYTES = 8
const LEAF_HEAD_BYTES = 13

/** Bytes of the largest message that a record holds: more than any offer has, and little enough to be read in one go. */
export const MAX_LOG_MESSAGE_BYTES = 65_536

const MAX_TOPIC_LENGTH = 100
const MAX_LEAF_BYTES = LEAF_HEAD_BYTES + MAX_TOPIC_LENGTH + MAX_LOG_MESSAGE_BYTES

/** Bytes of the largest record. */
export const MAX_LOG_RECORD_BYTES = LENGTH_BYTES + MAX_LEAF_BYTES + CHAIN_BYTES

/** ms since 1970, in 2109: up to then a number tells microseconds apart. */
export const MAX_AT_MS = 2 ** 42

const MAGIC = Buffer.from('peerline ledger\x01', 'latin1')
const ID_AT = MAGIC.length
const CREATED_AT = ID_AT + 32
const HEADER_HASH_AT = CREATED_AT + 8

/** 1 to 100 printable ASCII characters. */
export function isTopic(topic: string): boolean {
  return /^[\x21-\x7e]{1,100}$/.test(topic)
}

export interface Header {
  readonly id: Uint8Array
  /** ms since 1970. */
  readonly createdAt: number
}

/** The header of a new ledger. */
export function newHeader(): Buffer {
  const header = Buffer.concat([MAGIC, randomBytes(32), Buffer.alloc(8 + CHAIN_BYTES)])
  header.writeBigUInt64BE(BigInt(Date.now()), CREATED_AT)
  header.set(sha256(header.subarray(0, HEADER_HASH_AT)), HEADER_HASH_AT)
  return header
}

/** The header of a ledger; `cut`: its making was cut off; or a sentence that says why it is none. */
export function readHeader(bytes: Buffer): Header | 'cut' | { readonly wrong: string } {
  if (bytes.length <= HEADER_BYTES && bytes.every((byte) => byte === 0)) return 'cut'
  const begin = Math.min(bytes.length, MAGIC.length)
  if (!bytes.subarray(0, begin).equals(MAGIC.subarray(0, begin))) return { wrong: 'it does not begin as a ledger does' }
  if (bytes.length < HEADER_BYTES) return 'cut'
  const expected = sha256(bytes.subarray(0, HEADER_HASH_AT))
  if (!expected.equals(bytes.subarray(HEADER_HASH_AT, HEADER_BYTES))) return { wrong: 'its header was changed' }
  return {
    id: new Uint8Array(bytes.subarray(ID_AT, CREATED_AT)),
    createdAt: Number(bytes.readBigUInt64BE(CREATED_AT)),
  }
}

/** An entry, and its topic: all that a leaf says. */
export interface Leaf extends Entry {
  readonly topic: string
}

/** The record after the one whose hash is `before`. */
export function writeRecord(before: Uint8Array, { at, sequence, topic, message }: Leaf): Buffer {
  const length = LEAF_HEAD_BYTES + topic.length + message.length
  const chained = Buffer.alloc(CHAIN_BYTES + LENGTH_BYTES + length + CHAIN_BYTES)
  chained.set(before)
  const record = chained.subarray(CHAIN_BYTES)
  record.writeUInt32BE(length, 0)
  record.writeUInt32BE(crc32(record.subarray(0, 4)), 4)
  const leaf = record.subarray(LENGTH_BYTES)
  leaf.writeBigUInt64BE(BigInt(Math.round(at * 1_000)), 0)
  leaf.writeUInt32BE(sequence, 8)
  leaf.writeUInt8(topic.length, 12)
  leaf.write(topic, LEAF_HEAD_BYTES, 'latin1')
  leaf.set(message, LEAF_HEAD_BYTES + topic.length)
  leaf.set(sha256(chained.subarray(0, -CHAIN_BYTES)), length)
  return record
}

/** What a leaf says, the message as a view; undefined when it is none. */
export function readLeaf(bytes: Uint8Array): Leaf | undefined {
  const leaf = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (leaf.length < LEAF_HEAD_BYTES || leaf.length > MAX_LEAF_BYTES) return undefined
  const at = Number(leaf.readBigUInt64BE(0)) / 1_000
  const sequence = leaf.readUInt32BE(8)
  const messageAt = LEAF_HEAD_BYTES + leaf.readUInt8(12)
  const topic = leaf.toString('latin1', LEAF_HEAD_BYTES, messageAt)
  if (at > MAX_AT_MS || sequence === 0 || messageAt > leaf.length || !isTopic(topic)) return undefined
  if (leaf.length - messageAt > MAX_LOG_MESSAGE_BYTES) return undefined
  return { topic, sequence, at, message: bytes.subarray(messageAt) }
}

/** What stands at a place of the file. */
export type Found =
  | { readonly kind: 'record'; readonly bytes: Buffer; readonly leaf: Leaf; readonly end: number }
  /** A record that goes on after what is there. */
  | { readonly kind: 'cut' }
  /** Something else than was written. `zerosFrom`: were it all zeros from there on, it would never have been written to its end. */
  | { readonly kind: 'wrong'; readonly why: string; readonly zerosFrom?: number }

/** Looks at what is at `at` of `bytes`; the 32 bytes before are the hash of the record before. Views, not copies. */
export function readRecord(bytes: Buffer, at: number): Found {
  if (bytes.length < at + LENGTH_BYTES) return { kind: 'cut' }
  const length = bytes.readUInt32BE(at)
  if (crc32(bytes.subarray(at, at + 4)) !== bytes.readUInt32BE(at + 4)) {
    return { kind: 'wrong', why: 'its length was changed', zerosFrom: at + LENGTH_BYTES - 1 }
  }
  if (length < LEAF_HEAD_BYTES || length > MAX_LEAF_BYTES) return wrong('it has a length that no record has')
  const leafAt = at + LENGTH_BYTES
  const hashAt = leafAt + length
  const end = hashAt + CHAIN_BYTES
  if (bytes.length < end) return { kind: 'cut' }
  if (!sha256(bytes.subarray(at - CHAIN_BYTES, hashAt)).equals(bytes.subarray(hashAt, end))) {
    return { kind: 'wrong', why: 'it, or the hash before it, was changed', zerosFrom: hashAt }
  }
  const leaf = readLeaf(bytes.subarray(leafAt, hashAt))
  if (leaf === undefined) return wrong('it holds no entry')
  return { kind: 'record', bytes: bytes.subarray(leafAt, hashAt), leaf, end }
}

function wrong(why: string): Found {
  return { kind: 'wrong', why }
}

function sha256(bytes: Uint8Array): Buffer {
  return hash('sha256', bytes, 'buffer')
}
