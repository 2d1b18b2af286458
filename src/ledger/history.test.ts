import { describe, expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { History, LedgerContradiction } from './history.ts'
import { MerkleTree } from './merkle.ts'
import type { ProvenEntry, Shown } from './remote-wire.ts'
import { hashEntry, openHead, signHead, type TreeHead } from './tree-head.ts'

const node = Identity.fromSeed(new Uint8Array(32).fill(3))

/** A log of one topic; from entry `fork` on it is another one. */
function treeOf(size: number, fork = Number.POSITIVE_INFINITY) {
  const tree = new MerkleTree()
  const entries: Omit<ProvenEntry, 'proof'>[] = []
  for (let index = 0; index < size; index++) {
    const entry = { index, sequence: index + 1, at: index, message: Uint8Array.of(index, index < fork ? 0 : 1) }
    entries.push(entry)
    tree.append(hashEntry('topic', entry))
  }
  const head = (size = tree.size): TreeHead => signHead(node, { ledger: 'log:x', size, root: tree.root(size), time: 1 })
  const shown = (base: number, size = tree.size): Shown => ({
    head: head(size).bytes,
    base,
    proof: tree.consistencyProof(base, size),
  })
  return { tree, entries, head, shown }
}

function historyWith(head: TreeHead, prove: (from: number, to: number) => Promise<Uint8Array>) {
  const caught: LedgerContradiction[] = []
  const history = new History({ node: node.peerId, head, prove, onContradiction: (error) => caught.push(error) })
  return { history, caught }
}

describe('what a node has shown', () => {
  test('is one history, also when two heads come while the proof of the first is on its way', async () => {
    const [one, other] = [treeOf(6), treeOf(5, 3)]
    const proofs: { from: number; to: number; bring(proof: Uint8Array): void }[] = []
    const { history, caught } = historyWith(one.head(3), (from, to) => {
      if (from !== 3) return Promise.reject(new PeerlineError('ERR_PEERLINE_INVALID', 'no such proof'))
      return new Promise((bring) => proofs.push({ from, to, bring }))
    })
    // Each of them goes on from what is kept, and they do not go on from each other.
    const first = history.take(other.shown(2), 3)
    const second = history.take(one.shown(3), 3)
    second.catch(() => {})
    await Promise.resolve()
    expect(proofs).toMatchObject([{ from: 3, to: 5 }])
    proofs[0]!.bring(other.tree.consistencyProof(3, 5))
    expect((await first).size).toBe(5)
    await expect(second).rejects.toBeInstanceOf(LedgerContradiction)
    expect(caught[0]!.heads).toEqual([other.head(), openHead(one.shown(3).head)])
    await expect(history.take(other.shown(3), 3)).rejects.toBe(caught[0])
    expect(() => history.check()).toThrow(caught[0])
    expect(caught).toHaveLength(1)
  })

  test('is not forgotten when a head cannot be linked for now', async () => {
    const { shown, head, tree } = treeOf(6)
    let busy = true
    const { history, caught } = historyWith(head(3), async (from, to) => {
      if (busy) throw new PeerlineError('ERR_PEERLINE_BUSY', 'later')
      return tree.consistencyProof(from, to)
    })
    await expect(history.take(shown(2), 3)).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
    expect([history.size, caught]).toEqual([3, []])
    busy = false
    await history.take(shown(2), 3)
    expect(history.size).toBe(6)
    // An older one that comes late is of the same history, and replaces nothing.
    expect((await history.take(shown(2, 4), 3)).size).toBe(4)
    expect(history.size).toBe(6)
    await expect(history.take(shown(2, 4), 5)).rejects.toBeInstanceOf(LedgerContradiction)
  })

  test('holds the newest entry of as many topics as there is room for', () => {
    const { tree, entries, head } = treeOf(3)
    const { history } = historyWith(head(), () => Promise.reject(new Error('not asked')))
    const proven = entries.map((entry) => ({ ...entry, proof: tree.inclusionProof(entry.index) }))
    history.checkEntries('topic', proven, head())
    expect(history.newestOf('topic')).toBe(3)
    history.checkEntries('topic', proven.slice(0, 1), head())
    expect(history.newestOf('topic')).toBe(3)
    const [entry] = entries
    for (let i = 0; i < 1_024; i++) {
      const other = new MerkleTree()
      other.append(hashEntry(`t${i}`, entry!))
      const alone = signHead(node, { ledger: 'log:x', size: 1, root: other.root(), time: 1 })
      history.checkEntries(`t${i}`, [{ ...entry!, proof: new Uint8Array(0) }], alone)
    }
    expect([history.newestOf('topic'), history.newestOf('t0'), history.newestOf('t1023')]).toEqual([0, 1, 1])
  })
})
