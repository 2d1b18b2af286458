import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concatBytes, fromHex, toHex } from '../bytes/index.ts'
import { HASH_BYTES, hashLeaf, MAX_PROOF_BYTES, MerkleTree, verifyConsistency, verifyInclusion } from './merkle.ts'

// The eight leaves that implementations of RFC 6962 and RFC 9162 are tested with, the roots of the first 1 to 8, and proofs.
const LEAVES = ['', '00', '10', '2021', '3031', '40414243', '5051525354555657', '606162636465666768696a6b6c6d6e6f']
const EMPTY = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
const ROOTS = [
  EMPTY,
  '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d',
  'fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125',
  'aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77',
  'd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7',
  '4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4',
  '76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef',
  'ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c',
  '5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328',
]
const A = '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7'
const B = '5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e'
const C = '6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4'
const D = 'bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b'
const E = 'ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0'
const F = '0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a'

/** Leaf, size, proof. */
const INCLUSIONS: readonly (readonly [number, number, readonly string[]])[] = [
  [0, 1, []],
  [0, 2, [A]],
  [1, 2, [ROOTS[1]!]],
  [0, 8, [A, B, C]],
  [5, 8, [D, E, ROOTS[4]!]],
  [2, 3, [ROOTS[2]!]],
  [1, 5, [ROOTS[1]!, B, D]],
]

/** Sizes, proof. */
const CONSISTENCIES: readonly (readonly [number, number, readonly string[]])[] = [
  [1, 1, []],
  [1, 8, [A, B, C]],
  [2, 8, [B, C]],
  [6, 8, [F, E, ROOTS[4]!]],
  [2, 5, [B, D]],
]

function treeOf(leaves: readonly Uint8Array[]): MerkleTree {
  const tree = new MerkleTree()
  for (const leaf of leaves) tree.append(hashLeaf(leaf))
  return tree
}

const published = LEAVES.map(fromHex)

describe('against published values', () => {
  test('roots', () => {
    const tree = treeOf(published)
    expect(ROOTS.map((_, size) => toHex(tree.root(size)))).toEqual(ROOTS)
    expect(ROOTS.map((_, size) => toHex(treeOf(published.slice(0, size)).root()))).toEqual(ROOTS)
  })

  test.each(INCLUSIONS)('inclusion of leaf %i in %i', (index, size, hashes) => {
    const proof = treeOf(published).inclusionProof(index, size)
    expect(toHex(proof)).toBe(hashes.join(''))
    const leaf = hashLeaf(published[index]!)
    expect(verifyInclusion({ index, size, leaf, root: fromHex(ROOTS[size]!), proof })).toBe(true)
  })

  test.each(CONSISTENCIES)('consistency of %i and %i', (from, to, hashes) => {
    const proof = treeOf(published).consistencyProof(from, to)
    expect(toHex(proof)).toBe(hashes.join(''))
    const roots = { fromRoot: fromHex(ROOTS[from]!), toRoot: fromHex(ROOTS[to]!) }
    expect(verifyConsistency({ from, to, ...roots, proof })).toBe(true)
  })
})

// ---- the definitions of RFC 9162 section 2.1, word by word ----

const sha = (...parts: readonly Uint8Array[]) =>
  new Uint8Array(createHash('sha256').update(concatBytes(parts)).digest())

function largestPowerBelow(n: number): number {
  let k = 1
  while (k * 2 < n) k *= 2
  return k
}

function mth(d: readonly Uint8Array[]): Uint8Array {
  if (d.length === 0) return sha()
  if (d.length === 1) return sha(Uint8Array.of(0), d[0]!)
  const k = largestPowerBelow(d.length)
  return sha(Uint8Array.of(1), mth(d.slice(0, k)), mth(d.slice(k)))
}

function path(m: number, d: readonly Uint8Array[]): Uint8Array[] {
  if (d.length === 1) return []
  const k = largestPowerBelow(d.length)
  return m < k ? [...path(m, d.slice(0, k)), mth(d.slice(k))] : [...path(m - k, d.slice(k)), mth(d.slice(0, k))]
}

function subproof(m: number, d: readonly Uint8Array[], whole: boolean): Uint8Array[] {
  if (m === d.length) return whole ? [] : [mth(d)]
  const k = largestPowerBelow(d.length)
  if (m <= k) return [...subproof(m, d.slice(0, k), whole), mth(d.slice(k))]
  return [...subproof(m - k, d.slice(k), false), mth(d.slice(0, k))]
}

const leavesOf = (size: number) => Array.from({ length: size }, (_, i) => sha(Uint8Array.of(i >> 8, i)))

const MAX = 130
const all = leavesOf(MAX)
const tree = treeOf(all)
const sizes = fc.integer({ min: 1, max: MAX })

/** Changes a proof: a bit, a hash less, one more, two changed places. */
const spoils = fc.oneof(
  fc.record({ bit: fc.nat(MAX_PROOF_BYTES * 8) }),
  fc.constantFrom('drop first' as const, 'drop last' as const, 'add first' as const, 'add last' as const),
)

function spoil(proof: Uint8Array, how: { bit: number } | string): Uint8Array {
  const extra = sha(Uint8Array.of(9))
  if (proof.length === 0) return extra
  switch (how) {
    case 'drop first':
      return proof.subarray(HASH_BYTES)
    case 'drop last':
      return proof.subarray(0, -HASH_BYTES)
    case 'add first':
      return concatBytes([extra, proof])
    case 'add last':
      return concatBytes([proof, extra])
  }
  if (typeof how === 'string') throw new Error(`no such way: ${how}`)
  const changed = Uint8Array.from(proof)
  changed[(how.bit >> 3) % proof.length]! ^= 1 << (how.bit & 7)
  return changed
}

describe('against the definitions of the standard', () => {
  test('every size up to 130: root, all inclusion proofs, all consistency proofs', () => {
    for (let size = 1; size <= MAX; size += size < 20 ? 1 : 11) {
      const d = all.slice(0, size)
      const root = mth(d)
      expect(tree.root(size)).toEqual(root)
      for (let i = 0; i < size; i++) {
        const proof = tree.inclusionProof(i, size)
        expect(proof).toEqual(concatBytes(path(i, d)))
        expect(verifyInclusion({ index: i, size, leaf: hashLeaf(all[i]!), root, proof })).toBe(true)
      }
      for (let from = 1; from <= size; from++) {
        const proof = tree.consistencyProof(from, size)
        expect(proof).toEqual(concatBytes(subproof(from, d, true)))
        const fromRoot = tree.root(from)
        expect(verifyConsistency({ from, to: size, fromRoot, toRoot: root, proof })).toBe(true)
      }
    }
  })

  test('an inclusion proof shows that leaf, there, in that tree, and nothing else', () => {
    fc.assert(
      fc.property(sizes, fc.nat(), fc.nat(), fc.nat(), spoils, (size, i, j, other, how) => {
        const index = i % size
        const right = {
          index,
          size,
          leaf: hashLeaf(all[index]!),
          root: tree.root(size),
          proof: tree.inclusionProof(index, size),
        }
        expect(verifyInclusion(right)).toBe(true)
        const elsewhere = j % (size + 2)
        expect(verifyInclusion({ ...right, index: elsewhere })).toBe(elsewhere === index)
        expect(verifyInclusion({ ...right, leaf: hashLeaf(all[elsewhere % MAX]!) })).toBe(elsewhere === index)
        const smaller = 1 + (other % MAX)
        if (smaller !== size) expect(verifyInclusion({ ...right, root: tree.root(smaller) })).toBe(false)
        expect(verifyInclusion({ ...right, proof: spoil(right.proof, how) })).toBe(false)
      }),
    )
  })

  test('a consistency proof shows that one tree begins with that other, and nothing else', () => {
    fc.assert(
      fc.property(sizes, fc.nat(), fc.nat(), spoils, (to, i, at, how) => {
        const from = 1 + (i % to)
        const right = {
          from,
          to,
          fromRoot: tree.root(from),
          toRoot: tree.root(to),
          proof: tree.consistencyProof(from, to),
        }
        expect(verifyConsistency(right)).toBe(true)
        expect(verifyConsistency({ ...right, proof: spoil(right.proof, how) })).toBe(false)
        // A history in which one early leaf is another.
        const rewritten = treeOf(all.slice(0, to).map((leaf, n) => (n === at % from ? sha(leaf) : leaf)))
        const proof = rewritten.consistencyProof(from, to)
        expect(verifyConsistency({ ...right, proof, toRoot: rewritten.root() })).toBe(false)
        expect(verifyConsistency({ ...right, fromRoot: rewritten.root(from) })).toBe(false)
        if (from < to) expect(verifyConsistency({ ...right, from: to, to: from })).toBe(false)
      }),
    )
  })

  test('there is no leaf after the last one', () => {
    const one = { size: 1, leaf: tree.leaf(0), root: tree.root(1), proof: new Uint8Array(0) }
    expect(verifyInclusion({ ...one, index: 0 })).toBe(true)
    expect(verifyInclusion({ ...one, index: 1 })).toBe(false)
  })

  test('whatever comes from outside, verifying says no and throws nothing', () => {
    const number = fc.oneof(fc.integer(), fc.double(), fc.constantFrom(2 ** 53 - 1, 2 ** 40, Number.NaN))
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 40 }), fc.uint8Array({ minLength: 32, maxLength: 32 }))
    const proofs = fc.oneof(
      fc.uint8Array({ maxLength: 100 }),
      fc.nat(60).map((count) => new Uint8Array(count * HASH_BYTES)),
    )
    fc.assert(
      fc.property(number, number, bytes, bytes, proofs, (from, to, one, two, proof) => {
        expect(verifyInclusion({ index: from, size: to, leaf: one, root: two, proof })).toBe(
          from === 0 && to === 1 && proof.length === 0 && toHex(one) === toHex(two),
        )
        fc.pre(toHex(one) !== toHex(two))
        expect(verifyConsistency({ from, to, fromRoot: one, toRoot: two, proof })).toBe(false)
      }),
    )
  })
})

describe('a tree', () => {
  test('of nothing is what every other begins with', () => {
    const none = { from: 0, to: 7, fromRoot: fromHex(EMPTY), toRoot: tree.root(7) }
    expect(tree.consistencyProof(0, 7)).toEqual(new Uint8Array(0))
    expect(verifyConsistency({ ...none, proof: new Uint8Array(0) })).toBe(true)
    expect(verifyConsistency({ ...none, proof: tree.root(1) })).toBe(false)
    expect(verifyConsistency({ ...none, fromRoot: tree.root(1), proof: new Uint8Array(0) })).toBe(false)
  })

  test('shows nothing that it has not', () => {
    const small = treeOf(all.slice(0, 3))
    for (const ask of [
      () => small.root(4),
      () => small.root(-1),
      () => small.root(1.5),
      () => small.leaf(3),
      () => small.leaf(-1),
      () => small.inclusionProof(3),
      () => small.inclusionProof(2, 2),
      () => small.inclusionProof(-1, 3),
      () => small.inclusionProof(0, 4),
      () => small.consistencyProof(3, 2),
      () => small.consistencyProof(0, 4),
      () => small.consistencyProof(-1, 2),
      () => small.append(new Uint8Array(31)),
    ]) {
      expect(ask).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    }
  })

  test('hands out copies, so that nobody changes it', () => {
    const small = treeOf(all.slice(0, 4))
    const before = small.root()
    small.root().fill(0)
    small.leaf(0).fill(0)
    small.inclusionProof(0).fill(0)
    expect(small.root()).toEqual(before)
    small.append(hashLeaf(all[4]!))
    expect(small.root()).toEqual(mth(all.slice(0, 5)))
  })

  test('of 100,000 leaves answers in a walk down its side', () => {
    const large = new MerkleTree()
    for (let i = 0; i < 100_000; i++) large.append(hashLeaf(Uint8Array.of(i >> 16, i >> 8, i)))
    const [size, from, index] = [99_999, 65_537, 70_001]
    const leaf = hashLeaf(Uint8Array.of(index >> 16, index >> 8, index))
    const [root, proof] = [large.root(size), large.inclusionProof(index, size)]
    expect(proof.length).toBeLessThanOrEqual(17 * HASH_BYTES)
    expect(verifyInclusion({ index, size, leaf, root, proof })).toBe(true)
    const consistency = large.consistencyProof(from, size)
    expect(verifyConsistency({ from, to: size, fromRoot: large.root(from), toRoot: root, proof: consistency })).toBe(
      true,
    )
  })
})
