import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import { inLines, kindOfPasted, type PastedKind, readPasted, writePasted } from './pasted-text.ts'

const LIMIT = { maxBytes: 300 }
const KINDS: readonly PastedKind[] = ['ticket', 'offer', 'answer']
const kinds = fc.constantFrom(...KINDS)
const bodies = fc.uint8Array({ maxLength: LIMIT.maxBytes })
const BODY = Uint8Array.from({ length: 40 }, (_, at) => (at * 37) & 0xff)

const failure = (work: () => unknown): { code: string; message: string } => {
  try {
    work()
  } catch (error) {
    if (!isPeerlineError(error)) throw error
    return error
  }
  throw new Error('it was taken')
}

describe('a text to be pasted', () => {
  test('gives its body again, whatever became of its spaces, lines and case on the way', () => {
    fc.assert(
      fc.property(
        kinds,
        bodies,
        fc.infiniteStream(fc.constantFrom('', '', '', ' ', '\n', '\r\n', '\u200b', '\t')),
        fc.infiniteStream(fc.boolean()),
        (kind, body, spaces, upper) => {
          const text = writePasted(kind, body)
          const letters = [...text].map((letter) => (upper.next().value ? letter.toUpperCase() : letter))
          const carried = letters.map((letter) => letter + (spaces.next().value as string)).join('')
          expect(readPasted(kind, carried, LIMIT)).toEqual(body)
          expect(readPasted(kind, `  ${inLines(text)}\n\n`, LIMIT)).toEqual(body)
          expect(kindOfPasted(`\n ${text}`)).toBe(kind)
        },
      ),
    )
  })

  test('is written in the one alphabet of a QR code, and in lines that fit anywhere', () => {
    const text = writePasted('offer', new Uint8Array(300))
    expect(text.toUpperCase()).toMatch(/^PEERLINE-OFFER:[0-9A-Z]+$/)
    const lines = inLines(text).split('\n')
    expect(lines.join('')).toBe(text)
    expect(Math.max(...lines.map((line) => line.length))).toBe(64)
  })

  test('is not taken when any letter of it is another one', () => {
    const text = writePasted('ticket', BODY)
    for (let at = 0; at < text.length; at++) {
      for (const letter of 'ybndrfg8ejkmcpqxot1uwisza345h769lv02:-_é\u212a') {
        if (letter === text[at]) continue
        const mistyped = text.slice(0, at) + letter + text.slice(at + 1)
        expect(failure(() => readPasted('ticket', mistyped, LIMIT)).code, mistyped).toBe('ERR_PEERLINE_INVALID')
      }
    }
  })

  test('is not taken when letters are missing, doubled or swapped', () => {
    const text = writePasted('answer', BODY)
    for (let at = 0; at < text.length; at++) {
      const missing = text.slice(0, at) + text.slice(at + 1)
      const doubled = text.slice(0, at) + text[at] + text.slice(at)
      const swapped = text.slice(0, at) + (text[at + 1] ?? '') + text[at] + text.slice(at + 2)
      for (const mistyped of [missing, doubled, swapped, text.slice(0, at)]) {
        if (mistyped !== text) failure(() => readPasted('answer', mistyped, LIMIT))
      }
    }
  })

  test('says in plain words what it is instead', () => {
    const said = (kind: PastedKind, text: string) => failure(() => readPasted(kind, text, LIMIT)).message
    expect(said('ticket', writePasted('offer', BODY))).toBe('this is an offer, and a ticket is wanted')
    expect(said('answer', writePasted('offer', BODY))).toBe('this is an offer, and an answer is wanted')
    expect(said('offer', writePasted('answer', BODY))).toBe('this is an answer, and an offer is wanted')
    expect(said('offer', writePasted('ticket', BODY))).toBe('this is a ticket, and an offer is wanted')
    expect(said('offer', 'hello')).toBe('this is no offer: one begins with "peerline-offer:"')
    expect(said('ticket', writePasted('ticket', BODY).slice(0, -1))).toMatch(/^the ticket is not whole: /)
    expect(said('ticket', writePasted('ticket', BODY).replace(/.$/, 'l'))).toMatch(/not whole: "l" is not a letter/)
  })

  test('of one kind under the name of another is mistyped', () => {
    const renamed = writePasted('offer', BODY).replace('-offer', '-answer')
    expect(failure(() => readPasted('answer', renamed, LIMIT)).message).toMatch(/not whole/)
  })

  test('is limited before it is looked at', () => {
    const large = writePasted('ticket', new Uint8Array(301))
    expect(failure(() => readPasted('ticket', large, LIMIT)).code).toBe('ERR_PEERLINE_TOO_LARGE')
    expect(readPasted('ticket', large, { maxBytes: 301 })).toEqual(new Uint8Array(301))
    expect(failure(() => readPasted('ticket', ' '.repeat(10_000_000), LIMIT)).code).toBe('ERR_PEERLINE_TOO_LARGE')
    expect(kindOfPasted(' '.repeat(10_000_000))).toBeUndefined()
  })

  test('of anything at all fails with typed errors only', () => {
    const anything = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 200 }),
      fc.stringMatching(/^peerline(-offer|-answer)?:[a-z0-9]{0,80}$/),
    )
    fc.assert(
      fc.property(kinds, anything, (kind, text) => {
        expect(['ERR_PEERLINE_INVALID', 'ERR_PEERLINE_TOO_LARGE']).toContain(
          failure(() => readPasted(kind, text, LIMIT)).code,
        )
      }),
    )
  })
})
