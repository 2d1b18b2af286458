import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concatBytes, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { hashLeaf, MerkleTree } from './merkle.ts'
import { compareHeads, hashEntry, MAX_HEAD_BYTES, openHead, signHead } from './tree-head.ts'

const node = Identity.fromSeed(new Uint8Array(32).fill(1))
const root = new Uint8Array(32).fill(7)
const content = { ledger: 'log:one', size: 3, root, time: 1_700_000_000_000 }
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const PREFIX = new TextEncoder().encode('peerline tree head 1\0')

/** A head as a node that speaks otherwise would sign it. */
function signed(payload: unknown, { version = 1, prefix = PREFIX } = {}): Uint8Array {
  const bytes = encodeCbor(payload)
  return encodeCbor([version, bytes, node.sign(concatBytes([prefix, bytes]))])
}

const fields = { peer: node.publicKey, ...content }

describe('a tree head', () => {
  test('says what was signed, and by whom', () => {
    const head = signHead(node, content)
    expect(head).toEqual({ ...content, peerId: node.peerId, bytes: expect.any(Uint8Array) })
    expect(openHead(head.bytes)).toEqual(head)
    expect(openHead(signed(fields))).toEqual(head)
    const longest = { ledger: 'x'.repeat(64), size: 2 ** 53 - 1, root, time: 8.64e15 }
    expect(signHead(node, longest).bytes.length).toBeLessThan(MAX_HEAD_BYTES)
  })

  test('is not signed for what is no ledger, or no number', () => {
    for (const wrong of [
      { ledger: '' },
      { ledger: 'Log' },
      { ledger: 'x'.repeat(65) },
      { size: 1.5 },
      { time: -0.5 },
    ]) {
      expect(() => signHead(node, { ...content, ...wrong })).toThrow(code('ERR_PEERLINE_INVALID'))
    }
  })

  test.each([
    ['of another version', () => signed(fields, { version: 2 }), 'ERR_PEERLINE_VERSION'],
    ['signed for another use', () => signed(fields, { prefix: new Uint8Array(0) }), 'ERR_PEERLINE_PROTOCOL'],
    ['signed by another', () => signed({ ...fields, peer: Identity.generate().publicKey }), 'ERR_PEERLINE_PROTOCOL'],
    ['of a key that everybody has', () => signed({ ...fields, peer: new Uint8Array(32) }), 'ERR_PEERLINE_PROTOCOL'],
    ['with a short root', () => signed({ ...fields, root: root.subarray(1) }), 'ERR_PEERLINE_PROTOCOL'],
    ['of a size below 0', () => signed({ ...fields, size: -1 }), 'ERR_PEERLINE_PROTOCOL'],
    ['of a time that no clock shows', () => signed({ ...fields, time: 8.64e15 + 1 }), 'ERR_PEERLINE_PROTOCOL'],
    ['of no ledger', () => signed({ ...fields, ledger: 'no ledger' }), 'ERR_PEERLINE_PROTOCOL'],
    ['without a time', () => signed({ ...fields, time: undefined }), 'ERR_PEERLINE_PROTOCOL'],
    ['with parts that are too many', () => encodeCbor([1, root, root, root]), 'ERR_PEERLINE_PROTOCOL'],
    ['with a short signature', () => encodeCbor([1, encodeCbor(fields), root]), 'ERR_PEERLINE_PROTOCOL'],
    ['that is a map', () => encodeCbor({ version: 1 }), 'ERR_PEERLINE_PROTOCOL'],
    ['that is too large', () => new Uint8Array(MAX_HEAD_BYTES + 1), 'ERR_PEERLINE_TOO_LARGE'],
  ] as const)('%s is refused', (_, make, expected) => {
    expect(() => openHead(make())).toThrow(code(expected))
  })

  test('in which a bit was changed is refused, and so is whatever is none', () => {
    const { bytes } = signHead(node, content)
    fc.assert(
      fc.property(fc.nat(bytes.length * 8 - 1), (bit) => {
        const changed = Uint8Array.from(bytes)
        changed[bit >> 3]! ^= 1 << (bit & 7)
        expect(() => openHead(changed)).toThrow(expect.objectContaining({ name: 'PeerlineError' }))
      }),
    )
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (any) => {
        try {
          openHead(any)
          expect.unreachable()
        } catch (error) {
          expect(isPeerlineError(error)).toBe(true)
        }
      }),
    )
  })
})

describe('two heads', () => {
  const tree = new MerkleTree()
  for (let i = 0; i < 5; i++) tree.append(hashLeaf(Uint8Array.of(i)))
  const headOf = (size: number, other: object = {}) =>
    signHead(node, { ...content, size, root: tree.root(size), ...other })

  test('of one history are the same, or shown to be consistent', () => {
    expect(compareHeads(headOf(3), headOf(3, { time: 5 }))).toBe('same')
    expect(compareHeads(headOf(3), headOf(5))).toBe('unproven')
    for (const [a, b] of [
      [headOf(3), headOf(5)],
      [headOf(5), headOf(3)],
    ] as const) {
      expect(compareHeads(a, b, tree.consistencyProof(3, 5))).toBe('consistent')
    }
  })

  test('of the same size and with other roots contradict each other', () => {
    expect(compareHeads(headOf(3), headOf(3, { root }))).toBe('contradiction')
  })

  test('with a proof that does not hold are not proven to be anything', () => {
    expect(compareHeads(headOf(3), headOf(5), tree.consistencyProof(2, 5))).toBe('unproven')
    expect(compareHeads(headOf(3), headOf(5, { root }), tree.consistencyProof(3, 5))).toBe('unproven')
  })

  test('of other nodes or ledgers have nothing to do with each other', () => {
    expect(compareHeads(headOf(3), headOf(3, { ledger: 'log:two', root }))).toBe('unrelated')
    expect(compareHeads(headOf(3), signHead(Identity.generate(), { ...content, root }))).toBe('unrelated')
  })
})

test('a leaf is another when anything of the entry is', () => {
  const entry = { index: 0, sequence: 1, at: 1_700_000_000_000.123, message: Uint8Array.of(1, 2) }
  const leaves = [
    hashEntry('topic', entry),
    hashEntry('topi', { ...entry, message: concatBytes([new TextEncoder().encode('c'), entry.message]) }),
    hashEntry('topic', { ...entry, sequence: 2 }),
    hashEntry('topic', { ...entry, at: entry.at + 0.001 }),
    hashEntry('topic', { ...entry, message: Uint8Array.of(1) }),
  ].map((leaf) => Buffer.from(leaf).toString('hex'))
  expect(new Set(leaves).size).toBe(leaves.length)
  expect(hashEntry('topic', { ...entry })).toEqual(hashEntry('topic', entry))
})
