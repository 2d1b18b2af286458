import assert from 'node:assert/strict'
import { test } from 'node:test'
import { selectStacks, stackNames } from '../stacks/index.js'
import { checkTargets, report, summarise } from './report.js'
import { median, percentile, summary } from './statistics.js'
import { alignedTable, figure } from './table.js'

test('a percentile is a value that was measured', () => {
  const sorted = Array.from({ length: 100 }, (_, i) => i + 1)
  assert.equal(percentile(sorted, 50), 50)
  assert.equal(percentile(sorted, 99), 99)
  assert.equal(percentile([7], 99), 7)
  assert.ok(Number.isNaN(percentile([], 50)))
})

test('the median takes numbers in any order and passes over rounds without a figure', () => {
  assert.equal(median([3, 1, 2]), 2)
  assert.equal(median([10, 1, 2, 3]), 2.5)
  assert.equal(median([undefined, 5]), 5)
  assert.equal(median([]), null)
  assert.deepEqual(summary([4, 2, 9]), { median: 4, min: 2, max: 9, rounds: [4, 2, 9] })
})

test('columns line up and figures keep the digits that mean something', () => {
  assert.deepEqual(
    alignedTable(
      ['a', 'b'],
      [
        ['long', '1'],
        ['x', '100'],
      ],
    ),
    ['a       b', '----  ---', 'long    1', 'x     100'],
  )
  assert.deepEqual([1234.5, 12.34, 1.234, null].map(figure), ['1,235', '12.3', '1.23', '-'])
})

test('--only takes full names before beginnings', () => {
  assert.deepEqual(selectStacks('tcp'), ['tcp'])
  assert.deepEqual(selectStacks('peerline,tls'), ['tls', 'peerline-direct', 'peerline-relayed'])
  assert.deepEqual(selectStacks('tcp splice'), ['tcp-splice'])
  assert.deepEqual(selectStacks(undefined), stackNames)
  assert.throws(() => selectStacks('quic'), /no stack is called "quic"/)
})

const ROUNDS = {
  tls: [{ bulkMBps: 600, rttP50Us: 100, inFlightPerSecond: 300_000, firstByteMs: 4 }],
  libp2p: [{ bulkMBps: 300, inFlightPerSecond: 12_000 }],
  'tcp-splice': [{ bulkMBps: 1000 }],
  'peerline-direct': [
    {
      bulkMBps: 599,
      rttP50Us: 90,
      inFlightPerSecond: 101_000,
      requestsPerSecond: 90_000,
      firstByteMs: 6,
      idleKiB: 100.1,
    },
  ],
  'peerline-relayed': [{ bulkMBps: 700 }],
}

test('targets pass at their bound, miss beyond it, and say when a side was not measured', () => {
  const passes = (rounds) => checkTargets(summarise(rounds)).map(({ pass }) => pass)
  assert.deepEqual(passes(ROUNDS), [false, false, true, true, true, false, true, true, true, false])
  const { tls: _, ...withoutTls } = ROUNDS
  assert.deepEqual(passes(withoutTls), [null, false, null, true, true, null, true, true, null, false])
})

test('the report shows every measured stack and why others are missing', () => {
  const summaries = summarise(ROUNDS)
  const text = report({
    machine: { cpu: 'cpu', cores: 2, node: '20', os: 'Linux' },
    settings: { rounds: 1, seconds: 2 },
    summaries,
    targets: checkTargets(summaries),
    leftOut: [{ stack: 'ws', what: '', reason: 'not installed' }],
  })
  for (const name of ['tls', 'libp2p', 'tcp splice', 'peerline direct', 'peerline relayed'])
    assert.ok(text.includes(`\n${name} `))
  assert.ok(text.includes('left out: ws: not installed'))
  assert.ok(text.includes('MISS'))
})
