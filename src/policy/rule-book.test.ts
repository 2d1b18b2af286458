import { describe, expect, test } from 'vitest'
import { Identity, type PeerId } from '../identity/index.ts'
import { parseRule, type Rule } from './rule.ts'
import { MAX_MEMBERS, RuleBook } from './rule-book.ts'

const ALICE = Identity.generate().peerId
const model = parseRule({ subject: ALICE, action: 'deny' }, { answer: true })
/** The answer about a stranger; making so many keys would take long. */
const answer = (index: number, action: 'allow' | 'deny'): Rule => ({
  ...model,
  id: `${index} anything both`,
  subject: `${index}` as PeerId,
  action,
})

describe('a rule book', () => {
  test('strangers who are refused do not fill it, nor keep others from being remembered', () => {
    const book = new RuleBook()
    for (let i = 0; i < 5_000; i++) expect(book.put(answer(i, 'deny'))).toBe(i < 4_096)
    expect(book.put(answer(-1, 'allow'))).toBe(true)
    expect(book.put(parseRule({ subject: ALICE, action: 'allow' }))).toBe(true)
    expect(book.rules.length).toBe(4_098)
    book.delete(answer(0, 'deny').id)
    expect(book.put(answer(4_096, 'deny'))).toBe(true)
    book.clear()
    expect(book.put(answer(0, 'deny'))).toBe(true)
    expect(book.rules.length).toBe(1)
  })

  test('groups are bounded, and what leaves makes room', () => {
    const book = new RuleBook()
    const limit = expect.objectContaining({ code: 'ERR_PEERLINE_LIMIT' })
    for (let i = 0; i < 1_000; i++) book.join(`g${i}`, ALICE)
    expect(() => book.join('one-more', ALICE)).toThrow(limit)
    expect(book.leave('g0', ALICE)).toBe(true)
    expect(book.leave('g0', ALICE)).toBe(false)
    expect(book.join('one-more', ALICE)).toBe(true)
    for (let i = 1_000; i < MAX_MEMBERS; i++) book.join('g1', `${i}` as PeerId)
    expect(() => book.join('g1', `${MAX_MEMBERS}` as PeerId)).toThrow(limit)
  })
})
