import fc from 'fast-check'
import { expect, test } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { decodeFailure, encodeFailure, MAX_FAILURE_BYTES, Refusal, RequestError } from './failure.ts'

test('an error of ours arrives with its code and message', () => {
  const error = decodeFailure(encodeFailure(new PeerlineError('ERR_PEERLINE_DENIED', 'not today')))
  expect(error).toMatchObject({ code: 'ERR_PEERLINE_DENIED', message: 'not today' })
})

test('whatever else is thrown becomes one sentence', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.anything(),
        fc.string().map((text) => new Error(text)),
      ),
      (thrown) => {
        expect(decodeFailure(encodeFailure(thrown))).toMatchObject({
          code: 'ERR_PEERLINE_REMOTE',
          message: 'the handler failed',
        })
      },
    ),
    { numRuns: 200 },
  )
})

test('any message can be told, cut to what the other side takes', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 700 }), (message) => {
      const bytes = encodeFailure(new PeerlineError('ERR_PEERLINE_BUSY', message))
      expect(bytes.length).toBeLessThanOrEqual(MAX_FAILURE_BYTES)
      expect(decodeFailure(bytes).code).toBe('ERR_PEERLINE_BUSY')
    }),
    { numRuns: 50 },
  )
  const halves = new PeerlineError('ERR_PEERLINE_BUSY', `\ud800${'x'.repeat(510)}\u{1f600}`)
  expect(decodeFailure(encodeFailure(halves)).message).toBe(`\ufffd${'x'.repeat(510)}\ufffd`)
})

test('a code that we do not know, and control characters, do not pass', () => {
  const bytes = encodeCbor({ code: 'ERR_SOMETHING', message: 'a\u001b[31mb\n' })
  expect(decodeFailure(bytes)).toMatchObject({ code: 'ERR_PEERLINE_REMOTE', message: 'a [31mb ' })
})

test('anything else that is sent as a failure is a typed error', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 3_000 }), (bytes) => {
      expect(isPeerlineError(decodeFailure(bytes))).toBe(true)
    }),
    { numRuns: 300 },
  )
  const whole = encodeFailure(new PeerlineError('ERR_PEERLINE_DENIED', 'not today'))
  for (let cut = 0; cut < whole.length; cut++) {
    expect(decodeFailure(whole.subarray(0, cut)).code).toBe('ERR_PEERLINE_PROTOCOL')
  }
})

test('what is told says whether the handler had begun; an error of a handler never says that it had not', () => {
  const refused = new Refusal('ERR_PEERLINE_BUSY', 'later')
  expect(decodeFailure(encodeFailure(refused))).toMatchObject({ code: 'ERR_PEERLINE_BUSY', executed: 'no' })
  // One that a handler got of a request of its own, and lets through.
  const passed = new RequestError(refused, 'no')
  expect(decodeFailure(encodeFailure(passed))).toMatchObject({ code: 'ERR_PEERLINE_BUSY', executed: 'yes' })
  const before = encodeCbor({ code: 'ERR_PEERLINE_BUSY', message: 'later' })
  expect(decodeFailure(before).executed).toBe('unknown')
  const odd = encodeCbor({ code: 'ERR_PEERLINE_BUSY', message: 'later', ran: 1 })
  expect(decodeFailure(odd)).toMatchObject({ code: 'ERR_PEERLINE_PROTOCOL', executed: 'unknown' })
})
