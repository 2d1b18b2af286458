import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeCbor, encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import {
  encodeTrouble,
  MAX_TROUBLE_BYTES,
  RECOVER_ACTIONS,
  readTrouble,
  recoverActionOf,
  type Trouble,
  troubleError,
} from './trouble.ts'

const about = new Uint8Array(16).fill(7)

describe('a trouble', () => {
  test('is read as it was written, with each action there is', () => {
    for (const action of RECOVER_ACTIONS) {
      const whole: Trouble = { code: 'ERR_PEERLINE_BUSY', action, text: 'too many offers', about }
      expect(readTrouble(encodeTrouble(whole))).toEqual(whole)
      const bare: Trouble = { code: 'ERR_PEERLINE_BUSY', action }
      expect(readTrouble(encodeTrouble(bare))).toEqual(bare)
    }
  })

  test('names no peer', () => {
    const { peerId, publicKey } = Identity.generate()
    const names = [peerId, toDidKey(peerId), Buffer.from(publicKey).toString('hex')]
    for (const name of names) {
      const bytes = encodeTrouble({ code: 'ERR_PEERLINE_DENIED', action: 'stop-sending', text: `go away, ${name}!` })
      expect(Buffer.from(bytes).includes(name.slice(8, 40))).toBe(false)
      expect(readTrouble(bytes).text).toMatch(/^go away, .*…!$/)
    }
  })

  test('is one line of at most 200 characters, whoever wrote it', () => {
    const ours = encodeTrouble({
      code: 'ERR_PEERLINE_BUSY',
      action: 'do-nothing',
      text: `a\n\u001b[2J${'é '.repeat(200)}`,
    })
    expect(readTrouble(ours).text).toMatch(/^a {2}\[2J[é ]{194}$/)
    const theirs = encodeCbor({ code: 'ERR_PEERLINE_BUSY', action: 'do-nothing', text: 'a\u001b]0;gone\u0007' })
    expect(readTrouble(theirs).text).toBe('a ]0;gone ')
  })

  test('of a later version is understood as far as it can be', () => {
    const later = encodeCbor({ code: 'ERR_PEERLINE_TIRED', action: 'sleep', text: 'z', more: [1] })
    expect(readTrouble(later)).toEqual({ code: 'ERR_PEERLINE_REMOTE', action: 'do-nothing', text: 'z' })
  })

  test('about something that is no tag is not written', () => {
    const write = () => encodeTrouble({ code: 'ERR_PEERLINE_BUSY', action: 'do-nothing', about: about.subarray(1) })
    expect(write).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  test('that is none fails typed, whatever it is', () => {
    const form = fc.record(
      {
        code: fc.oneof(fc.string(), fc.integer(), fc.constant(null)),
        action: fc.oneof(fc.string(), fc.constantFrom(...RECOVER_ACTIONS)),
        text: fc.oneof(fc.string({ maxLength: 300 }), fc.uint8Array()),
        about: fc.oneof(fc.uint8Array({ minLength: 15, maxLength: 17 }), fc.string()),
      },
      { requiredKeys: [] },
    )
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: MAX_TROUBLE_BYTES + 1 }),
      form.filter((value) => !JSON.stringify(value).includes('\\ud')).map((value) => encodeCbor(value)),
    )
    fc.assert(
      fc.property(bytes, (payload) => {
        try {
          const read = readTrouble(payload)
          expect(readTrouble(encodeTrouble(read)).code).toBe(read.code)
          expect(read.about?.length ?? 16).toBe(16)
        } catch (error) {
          expect(isPeerlineError(error), String(error)).toBe(true)
        }
      }),
    )
  })

  test('at its largest fits, and one byte more than any is refused unread', () => {
    const text = '\uffee'.repeat(200)
    const largest = encodeTrouble({ code: 'ERR_PEERLINE_UNKNOWN_SESSION', action: 'send-fresh-offer', text, about })
    expect(largest.length).toBeLessThanOrEqual(MAX_TROUBLE_BYTES)
    expect(decodeCbor(largest, { maxBytes: MAX_TROUBLE_BYTES })).toMatchObject({ text })
    const tooLarge = expect.objectContaining({ code: 'ERR_PEERLINE_TOO_LARGE' })
    expect(() => readTrouble(new Uint8Array(MAX_TROUBLE_BYTES + 1))).toThrow(tooLarge)
  })
})

test('an error says by its code what is to be done', () => {
  expect(recoverActionOf('ERR_PEERLINE_PAYMENT')).toBe('top-up')
  expect(recoverActionOf('ERR_PEERLINE_EXPIRED')).toBe('send-fresh-offer')
  expect(recoverActionOf('ERR_PEERLINE_CLOSED')).toBe('do-nothing')
})

test('a trouble as an error has its code, and says what it said', () => {
  const error = troubleError({ code: 'ERR_PEERLINE_BUSY', action: 'stop-sending', text: 'too many offers' })
  expect(error).toBeInstanceOf(PeerlineError)
  expect(error).toMatchObject({ code: 'ERR_PEERLINE_BUSY', message: expect.stringContaining('too many offers') })
  expect(troubleError({ code: 'ERR_PEERLINE_BUSY', action: 'do-nothing' }).message).toContain('did not say why')
})
