import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cell } from './cell.js'

const done = { event: 'done', sha256: 'x', bytes: 9e6 }
const whole = (recoveryMs) => ({ sender: done, receiver: done, digest: 'x', recoveryMs, failedAfterMs: null })
const failed = (code, bytes) => ({ event: 'failed', code, bytes })

test('a transfer that came whole is told by how long until bytes flowed again', () => {
  assert.equal(cell([whole(412)]), '0.4 s')
  assert.equal(cell([whole(400), whole(1_300), whole(12_400)]), '1.3 s (12 s)')
})

test('one that ended is told by when, by its codes and by what was written in vain', () => {
  const row = { sender: failed('A', 8e6), receiver: failed('B', 3e6), digest: 'x', failedAfterMs: 11_000 }
  assert.equal(cell([row]), '**ends after 11 s** at 3.0 MB: A, B, 5.0 MB written and lost')
  assert.equal(
    cell([whole(400), row]),
    '0.4 s (1 of 2); **ends after 11 s** at 3.0 MB (1 of 2): A, B, 5.0 MB written and lost',
  )
})

test('a side that never says that it is over hangs', () => {
  const row = { sender: failed('none', 0), receiver: failed('none', 2e6), digest: 'x', failedAfterMs: null }
  assert.equal(cell([row]), '**hangs** at 2.0 MB: silence')
  assert.equal(cell([{ ...row, sender: failed('A', 3e6) }]), '**hangs** at 2.0 MB: A, silence, 1.0 MB written and lost')
})

test('a wrong byte is not whole, and what was not measured is not counted', () => {
  const wrong = { ...whole(10), digest: 'y' }
  assert.equal(cell([wrong]), '**other bytes than were sent**')
  assert.equal(cell([{ error: 'the lab' }]), '?')
  assert.equal(cell([{ error: 'the lab' }, whole(10)]), '0.0 s')
  assert.equal(cell([{ error: 'no such path', unsupported: true }]), 'none')
})
