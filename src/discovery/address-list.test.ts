import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AddressList, dialableAddress, MAX_ADDRESSES, standing } from './address-list.ts'

const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
const at = (n: number): string => `192.0.2.${n}:4400`
const addresses = (list: AddressList): string[] => list.all.map(({ address }) => address)

/** A list of `count` addresses, told by the peer. */
function told(count: number): AddressList {
  const list = new AddressList()
  for (let n = 1; n <= count; n++) list.learn(at(n), 'told')
  return list
}

describe('an address', () => {
  test.each([
    ['192.0.2.1:4400', '192.0.2.1:4400'],
    ['[::ffff:192.0.2.1]:4400', '192.0.2.1:4400'],
    ['[2001:DB8:0::1]:80', '[2001:db8::1]:80'],
    ['[fe80:0::1%eth0]:80', '[fe80::1%eth0]:80'],
    ['Home.Example:04400', 'home.example:4400'],
  ])('%s is known as %s', (text, form) => {
    expect(dialableAddress(text)).toBe(form)
    expect(dialableAddress(form)).toBe(form)
  })

  test.each([
    '',
    ':4400',
    '192.0.2.1',
    '192.0.2.1:0',
    '0.0.0.0:1',
    '[::]:1',
    '[::ffff:0.0.0.0]:1',
    '224.0.0.1:1',
    '[ff02::1]:1',
    'a b:1',
  ])('%j is none', (text) => {
    expect(() => dialableAddress(text)).toThrow(invalid)
  })

  test('with a zone means nothing when another machine names it', () => {
    expect(() => dialableAddress('[fe80::1%eth0]:80', { zone: false })).toThrow(invalid)
  })
})

describe('the addresses of a peer', () => {
  test('begin with what worked last, and end with what failed last', () => {
    const list = told(4)
    list.failed(at(1), 10)
    list.succeeded(at(3), 20)
    list.failed(at(2), 30)
    list.succeeded(at(4), 40)
    expect(addresses(list)).toEqual([at(4), at(3), at(1), at(2)])
    list.succeeded(at(2), 50)
    expect(list.all[0]).toEqual({ address: at(2), source: 'told', lastSuccess: 50, lastFailure: 30, failures: 0 })
  })

  test('take what is new before what failed', () => {
    const list = told(2)
    list.failed(at(1), 10)
    list.learn(at(3), 'lan')
    expect(addresses(list)).toEqual([at(2), at(3), at(1)])
  })

  test('are not learned from a failure', () => {
    const list = told(1)
    expect(list.failed(at(9), 10)).toBe(false)
    expect(addresses(list)).toEqual([at(1)])
  })

  test('remember the best authority, and how an address fared', () => {
    const list = new AddressList()
    list.learn(at(1), 'lan')
    list.failed(at(1), 10)
    expect(list.learn(at(1), 'given')).toBe(true)
    expect(list.learn(at(1), 'told')).toBe(false)
    expect(list.all).toEqual([{ address: at(1), source: 'given', lastFailure: 10, failures: 1 }])
  })

  test('make no place among what works, or was given, for what others say', () => {
    const list = new AddressList()
    for (let n = 1; n <= 8; n++) list.succeeded(at(n), n)
    for (let n = 9; n <= 16; n++) list.learn(at(n), 'given')
    const before = list.all
    for (let n = 100; n < 200; n++) expect(list.learn(at(n), 'told')).toBe(false)
    expect(list.all).toEqual(before)
  })

  test('a flood of them takes the places of what failed, then of what nobody has tried', () => {
    const list = told(16)
    list.failed(at(1), 1)
    list.learn(at(17), 'told')
    expect(addresses(list)).toEqual([...Array.from({ length: 15 }, (_, n) => at(n + 2)), at(17)])
    list.learn(at(18), 'told')
    expect(addresses(list)).not.toContain(at(2))
  })

  test('always take what works, and refuse the 17th that the user gives', () => {
    const list = new AddressList()
    for (let n = 1; n <= 16; n++) list.learn(at(n), 'given')
    const limit = expect.objectContaining({ code: 'ERR_PEERLINE_LIMIT' })
    expect(() => list.learn(at(17), 'given')).toThrow(limit)
    list.succeeded(at(18), 1)
    expect(addresses(list)).toEqual([at(18), ...Array.from({ length: 15 }, (_, n) => at(n + 1))])
    list.learn(at(17), 'given') // what worked once, but nobody gave, makes place for it
    expect(addresses(list)).not.toContain(at(18))
  })

  test('stay in order and within their number, whatever happens', () => {
    const step = fc.record({
      what: fc.constantFrom('told', 'given', 'lan', 'record', 'success', 'failure', 'remove'),
      n: fc.integer({ min: 1, max: 24 }),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const list = new AddressList()
        for (const [now, { what, n }] of steps.entries()) {
          const before = addresses(list)
          const known = before.includes(at(n))
          if (what === 'success') list.succeeded(at(n), now)
          else if (what === 'failure') list.failed(at(n), now)
          else if (what === 'remove') list.remove(at(n))
          else {
            try {
              list.learn(at(n), what as 'told')
            } catch (error) {
              expect([what, before.length, error]).toEqual([
                'given',
                MAX_ADDRESSES,
                expect.objectContaining({ code: 'ERR_PEERLINE_LIMIT' }),
              ])
            }
          }
          const after = addresses(list)
          if (what === 'success') expect(after[0]).toBe(at(n))
          if (what === 'failure' && known) expect(after.at(-1)).toBe(at(n))
          // The others keep their order, and none is lost while there is room.
          const others = after.filter((one) => one !== at(n))
          expect(others).toEqual(before.filter((one) => others.includes(one)))
          if (before.length < MAX_ADDRESSES || known) expect(others).toEqual(before.filter((one) => one !== at(n)))
          expect(new Set(after).size).toBe(after.length)
          expect(after.length).toBeLessThanOrEqual(MAX_ADDRESSES)
        }
        const all = list.all
        expect(all.map(standing)).toEqual(all.map(standing).sort())
        const worked = all.filter((one) => standing(one) === 0).map(({ lastSuccess }) => lastSuccess!)
        expect(worked).toEqual(worked.toSorted((a, b) => b - a))
        const failed = all.filter((one) => standing(one) === 2).map(({ lastFailure }) => lastFailure!)
        expect(failed).toEqual(failed.toSorted((a, b) => a - b))
      }),
      { numRuns: 300 },
    )
  })
})
