import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { type LedgerState, readLedgerState } from './ledger-state.ts'

const topic = fc.string({ minLength: 1, maxLength: 100 })
const count = fc.maxSafeNat()
const last = fc.record({ sequence: fc.maxSafeNat().map((n) => Math.floor(n / 2)) })
const state: fc.Arbitrary<LedgerState> = fc.record({
  topics: fc.record({ ledger: fc.string({ minLength: 1, maxLength: 64 }), stdin: topic, stdout: topic, stderr: topic }),
  position: count,
  stdout: last,
  stderr: last,
})

describe('the saved state of a ledger', () => {
  test('is read as it was', () => {
    fc.assert(
      fc.property(state, (saved) => {
        expect(readLedgerState(JSON.parse(JSON.stringify(saved)))).toEqual(saved)
      }),
    )
  })

  test('that is none is refused, whatever it is', () => {
    const missing = fc.tuple(state, fc.constantFrom('topics', 'position', 'stdout', 'stderr'), fc.jsonValue())
    const broken = missing.map(([saved, name, value]) => ({ ...saved, [name]: value }))
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), broken), (json) => {
        try {
          readLedgerState(json)
        } catch (error) {
          expect(isPeerlineError(error) && error.code).toBe('ERR_PEERLINE_INVALID')
        }
      }),
    )
    // None that a writer could go on from: read, it would keep the ledger from being opened, for good.
    const [saved] = fc.sample(state, 1)
    const tooFar = { ...saved, stdout: { sequence: Number.MAX_SAFE_INTEGER } }
    for (const none of [null, 7, [], {}, { topics: {} }, tooFar]) {
      expect(() => readLedgerState(none)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    }
  })
})
