import assert from 'node:assert/strict'
import { test } from 'node:test'
import { kinds } from '../../lab/kinds.js'
import { cell, DEFAULT_PAIRS, homesFor, markdown, readPair, summarise } from './summary.js'

test('a pair is two kinds, or one home with two hosts', () => {
  assert.deepEqual(readPair('open:lan', kinds), { name: 'open x lan', a: 'open', b: 'lan', together: false })
  assert.deepEqual(readPair('lan', kinds), { name: 'lan, one home', a: 'lan', b: 'lan', together: true })
  assert.throws(() => readPair('open', kinds), /open:open/)
  assert.throws(() => readPair('open:moon', kinds), /no home is called "moon"/)
  assert.throws(() => readPair('open:lan:open', kinds), /is not a pair/)
  for (const text of DEFAULT_PAIRS) readPair(text, kinds)
})

test('a kind has two homes only where it meets itself', () => {
  const homes = (...texts) => homesFor(texts.map((text) => readPair(text, kinds)))
  assert.deepEqual(homes('lan', 'open:lan'), ['lan', 'open'])
  assert.deepEqual(homes('open:port-restricted', 'open:open'), ['open', 'open', 'port-restricted'])
})

test('a cell says what all dials did, and counts where they differ', () => {
  const direct = (firstByteMs) => ({ firstByteMs, first: 'direct', directMs: firstByteMs })
  const relayed = (firstByteMs, directMs = null) => ({ firstByteMs, first: 'relay', directMs })
  const failed = { error: 'no' }
  const said = (...dials) => cell(summarise(dials))
  assert.equal(said(direct(200), direct(100), direct(300)), '200 direct')
  assert.equal(said(relayed(90), relayed(95.4)), '93 relayed')
  assert.equal(said(relayed(95, 240), relayed(95, 260), relayed(95, 250)), '95 relayed, direct 250')
  assert.equal(said(relayed(95, 240), relayed(95), relayed(95)), '95 relayed, direct 240 (1 of 3)')
  assert.equal(said(direct(100), relayed(110, 240), direct(120)), '110 relayed (1 of 3), direct 120')
  assert.equal(said(direct(100), failed), '100 direct, 1 of 2 FAILED')
  assert.equal(said(failed, failed), 'FAILED')
})

test('the table is Markdown with even columns', () => {
  assert.equal(
    markdown(
      ['pair', 'x'],
      [
        ['a', '1 direct'],
        ['long name', 'FAILED'],
      ],
    ),
    '| pair      | x        |\n|-----------|----------|\n| a         | 1 direct |\n| long name | FAILED   |',
  )
})
