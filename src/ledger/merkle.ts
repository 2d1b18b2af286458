/**
 * The Merkle tree of RFC 9162 section 2.1 over SHA-256: one hash stands for a list that only grows, and short proofs show that
 * a leaf is in it, and that a longer list begins with a shorter one.
 *
 *     root of 7 leaves            inclusion of 2: [3, a, d]        consistency of 3 and 7: [2, 3, a, d]
 *        /        \
 *       c          d              leaf hash: SHA-256(0x00, data)
 *      / \        / \             node hash: SHA-256(0x01, left, right)
 *     a   b      e   6            no leaves: SHA-256()
 *    0 1 2 3    4 5
 *
 * - The left side of a node holds the largest power of two of leaves that leaves something for the right.
 * - A proof is its hashes one after the other, 32 bytes each, in the order of the standard: at most one for each level, and
 *   one more.
 * - The tree keeps every complete node, 64 bytes for each leaf; roots and proofs of any earlier size cost a walk down its side.
 * - Verifying never throws for what came from outside: it says no.
 */
import { hash } from 'node:crypto'
import { concatBytes, copyBytes, equalBytes } from '../bytes/index.ts'
import { PeerlineError } from '../errors.ts'

/** Bytes of a SHA-256 hash. */
export const HASH_BYTES = 32

/** Bytes of the largest proof: a tree of 2^53 leaves has as many levels, and a proof of consistency names one node more. */
export const MAX_PROOF_BYTES = 54 * HASH_BYTES

/** Hashes that are kept together: 32 KiB. */
const HASHES_PER_CHUNK = 1_024

const LEAF = Uint8Array.of(0)
const NODE = Uint8Array.of(1)

/** What stands for a leaf with these data. */
export function hashLeaf(data: Uint8Array): Uint8Array {
  return sha256([LEAF, data])
}

function hashNode(left: Uint8Array, right: Uint8Array): Uint8Array {
  return sha256([NODE, left, right])
}

function sha256(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(hash('sha256', concatBytes(parts), 'buffer'))
}

/** A tree that grows, leaf by leaf. */
export class MerkleTree {
  /** The complete nodes of each level, leaves first. */
  readonly #levels: HashList[] = [new HashList()]

  /** Leaves. */
  get size(): number {
    return this.#levels[0]!.length
  }

  /** Puts a leaf at the end. @param leaf its hash, see {@link hashLeaf} */
  append(leaf: Uint8Array): void {
    let hash = leaf
    for (let level = 0; ; level++) {
      this.#levels[level] ??= new HashList()
      const nodes = this.#levels[level]!
      nodes.push(hash)
      if (nodes.length % 2 === 1) return
      hash = hashNode(nodes.at(nodes.length - 2), nodes.at(nodes.length - 1))
    }
  }

  /** The hash of the leaf at `index`. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  leaf(index: number): Uint8Array {
    this.#check(index + 1, 1)
    return copyBytes(this.#levels[0]!.at(index))
  }

  /** The root of the first `size` leaves. @throws PeerlineError `ERR_PEERLINE_INVALID` */
  root(size: number = this.size): Uint8Array {
    this.#check(size, 0)
    return size === 0 ? sha256([]) : copyBytes(this.#range(0, size))
  }

  /**
   * Shows that the leaf at `index`, from 0, is among the first `size`: PATH of section 2.1.3.1.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  inclusionProof(index: number, size: number = this.size): Uint8Array {
    this.#check(size, index + 1)
    this.#check(index, 0)
    const proof: Uint8Array[] = []
    let [start, end] = [0, size]
    while (end - start > 1) {
      const middle = start + splitOf(end - start)
      if (index < middle) {
        proof.unshift(this.#range(middle, end))
        end = middle
      } else {
        proof.unshift(this.#range(start, middle))
        start = middle
      }
    }
    return concatBytes(proof)
  }

  /**
   * Shows that the first `to` leaves begin with the first `from`: PROOF of section 2.1.4.1. Of nothing, there is nothing to show.
   * @throws PeerlineError `ERR_PEERLINE_INVALID`
   */
  consistencyProof(from: number, to: number = this.size): Uint8Array {
    this.#check(from, 0)
    this.#check(to, from)
    const proof: Uint8Array[] = []
    let [start, end] = [0, to]
    // From the root down to the node that the shorter tree ends with; what lies beside the way is what the proof names.
    while (from > 0 && from < end) {
      const middle = start + splitOf(end - start)
      if (from <= middle) {
        proof.unshift(this.#range(middle, end))
        end = middle
      } else {
        proof.unshift(this.#range(start, middle))
        start = middle
      }
    }
    // The root of the shorter tree is known to whoever asks; any other node is not.
    if (start > 0) proof.unshift(this.#range(start, end))
    return concatBytes(proof)
  }

  /** MTH of section 2.1.1 of the leaves from `start` to `end`, which are one side of a node, or the whole. */
  #range(start: number, end: number): Uint8Array {
    const count = end - start
    const level = Math.log2(count)
    if (Number.isInteger(level)) return this.#levels[level]!.at(start / count)
    const middle = start + splitOf(count)
    return hashNode(this.#range(start, middle), this.#range(middle, end))
  }

  #check(size: number, least: number): void {
    if (Number.isSafeInteger(size) && size >= least && size <= this.size) return
    throw new PeerlineError('ERR_PEERLINE_INVALID', `a tree of ${this.size} leaves has nothing to show of ${size}`)
  }
}

/**
 * Whether `proof` shows that the leaf is at `index` of the first `size`, whose root is `root`: section 2.1.3.2.
 * @param options.leaf its hash
 */
export function verifyInclusion(options: {
  readonly index: number
  readonly size: number
  readonly leaf: Uint8Array
  readonly root: Uint8Array
  readonly proof: Uint8Array
}): boolean {
  const { index, size, root } = options
  const hashes = hashesOf(options.proof)
  if (hashes === undefined || !isSize(index) || !isSize(size) || index >= size) return false
  let [node, last, result] = [index, size - 1, options.leaf]
  for (const hash of hashes) {
    if (last === 0) return false
    if (node % 2 === 1 || node === last) {
      result = hashNode(hash, result)
      while (node % 2 === 0 && node !== 0) [node, last] = [half(node), half(last)]
    } else result = hashNode(result, hash)
    ;[node, last] = [half(node), half(last)]
  }
  return last === 0 && equalBytes(result, root)
}

/** Whether `proof` shows that the first `to` leaves, whose root is `toRoot`, begin with the first `from`: section 2.1.4.2. */
export function verifyConsistency(options: {
  readonly from: number
  readonly to: number
  readonly fromRoot: Uint8Array
  readonly toRoot: Uint8Array
  readonly proof: Uint8Array
}): boolean {
  const { from, to, fromRoot, toRoot } = options
  const hashes = hashesOf(options.proof)
  if (hashes === undefined || !isSize(from) || !isSize(to) || from > to) return false
  if (from === to) return hashes.length === 0 && equalBytes(fromRoot, toRoot)
  // The standard leaves it open; every list begins with nothing.
  if (from === 0) return hashes.length === 0 && equalBytes(fromRoot, sha256([]))
  let [node, last] = [from - 1, to - 1]
  while (node % 2 === 1) [node, last] = [half(node), half(last)]
  // What the shorter tree is when it is a whole side of the longer one is known: it is not named.
  const path = node === 0 ? [fromRoot, ...hashes] : hashes
  const seed = path[0]
  if (seed === undefined) return false
  let [first, second] = [seed, seed]
  for (const hash of path.slice(1)) {
    if (last === 0) return false
    if (node % 2 === 1 || node === last) {
      first = hashNode(hash, first)
      second = hashNode(hash, second)
      while (node % 2 === 0 && node !== 0) [node, last] = [half(node), half(last)]
    } else second = hashNode(second, hash)
    ;[node, last] = [half(node), half(last)]
  }
  return last === 0 && equalBytes(first, fromRoot) && equalBytes(second, toRoot)
}

/** The largest power of two below `count`, which is 2 at least. */
function splitOf(count: number): number {
  return 2 ** Math.ceil(Math.log2(count) - 1)
}

function half(n: number): number {
  return Math.floor(n / 2)
}

function isSize(n: number): boolean {
  return Number.isSafeInteger(n) && n >= 0
}

function hashesOf(proof: Uint8Array): Uint8Array[] | undefined {
  if (proof.length > MAX_PROOF_BYTES || proof.length % HASH_BYTES !== 0) return undefined
  return Array.from({ length: proof.length / HASH_BYTES }, (_, i) =>
    proof.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  )
}

/** Hashes in a row, kept without an object for each. */
class HashList {
  readonly #chunks: Uint8Array[] = []
  length = 0

  /** A view: not to be changed, nor kept. */
  at(index: number): Uint8Array {
    const offset = (index % HASHES_PER_CHUNK) * HASH_BYTES
    return this.#chunks[Math.floor(index / HASHES_PER_CHUNK)]!.subarray(offset, offset + HASH_BYTES)
  }

  push(hash: Uint8Array): void {
    if (hash.length !== HASH_BYTES) {
      throw new PeerlineError('ERR_PEERLINE_INVALID', `a hash has ${HASH_BYTES} bytes, not ${hash.length}`)
    }
    if (this.length % HASHES_PER_CHUNK === 0) this.#chunks.push(new Uint8Array(HASHES_PER_CHUNK * HASH_BYTES))
    this.length++
    this.at(this.length - 1).set(hash)
  }
}
