import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPeerlineError } from '../errors.ts'
import type { PeerId } from '../identity/index.ts'
import { ConnectionLimits, type ConnectionToken } from './peer-limits.ts'

const peer = (n: number): PeerId => `peer ${n}` as PeerId
const refusal = (code: string, limit: string, value: number) =>
  expect.objectContaining({ code, message: expect.stringContaining(`the limit ${limit} of ${value} is reached`) })
const busy = (limit: string, value: number) => refusal('ERR_PEERLINE_BUSY', limit, value)
const full = (limit: string, value: number) => refusal('ERR_PEERLINE_LIMIT', limit, value)
const invalid = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })

describe('connections', () => {
  test('are pending, established and released, and each is counted once', () => {
    const limits = new ConnectionLimits()
    const zero = { pendingIn: 0, pendingOut: 0, establishedIn: 0, establishedOut: 0, total: 0, peers: 0, prefixes: 0 }
    const a = limits.take({ direction: 'in', host: '192.0.2.1' })
    const b = limits.take({ direction: 'out', host: '192.0.2.2', peer: peer(1) })
    expect(limits.counts).toEqual({ ...zero, pendingIn: 1, pendingOut: 1, total: 2, peers: 1, prefixes: 1 })
    expect([a.state, b.state]).toEqual(['pending', 'pending'])
    a.establish(peer(1))
    b.establish(peer(1))
    expect(limits.counts).toEqual({ ...zero, establishedIn: 1, establishedOut: 1, total: 2, peers: 1, prefixes: 1 })
    a.release()
    expect([a.state, limits.counts.total]).toEqual(['released', 1])
    b.release()
    expect(limits.counts).toEqual(zero)
  })

  test('are not given back twice', () => {
    const limits = new ConnectionLimits({ pendingIn: 2 })
    const first = limits.take({ direction: 'in' })
    limits.take({ direction: 'in' })
    first.release()
    first.release()
    limits.take({ direction: 'in' })
    expect(() => limits.take({ direction: 'in' })).toThrow(busy('pendingIn', 2))
  })

  test('are not established twice, nor after their end, nor as somebody else', () => {
    const limits = new ConnectionLimits()
    const token = limits.take({ direction: 'out', peer: peer(1) })
    expect(() => token.establish(peer(2))).toThrow(invalid)
    token.establish(peer(1))
    expect(() => token.establish(peer(1))).toThrow(invalid)
    token.release()
    expect(() => token.establish(peer(1))).toThrow(invalid)
    expect(limits.counts).toMatchObject({ total: 0, establishedOut: 0, peers: 0 })
  })

  test.each([
    ['pendingIn', 'in', busy],
    ['pendingOut', 'out', full],
    ['total', 'in', busy],
    ['total', 'out', full],
    ['perPrefix', 'in', busy],
    ['perPrefix', 'out', full],
  ] as const)('stop at %s, going %s', (limit, direction, refused) => {
    const limits = new ConnectionLimits({ [limit]: 3 })
    const tokens = [1, 2, 3].map((n) => limits.take({ direction, host: `192.0.2.${n}` }))
    expect(() => limits.take({ direction, host: '192.0.2.4' })).toThrow(refused(limit, 3))
    expect(limits.counts.total).toBe(3)
    tokens[0]!.release()
    limits.take({ direction, host: '192.0.2.4' })
  })

  test.each([
    ['in', 'establishedIn', busy],
    ['out', 'establishedOut', full],
  ] as const)('stay pending when no more may be established, going %s', (direction, limit, refused) => {
    const limits = new ConnectionLimits({ [limit]: 1 })
    const [first, second] = [limits.take({ direction }), limits.take({ direction })]
    first.establish(peer(1))
    expect(() => second.establish(peer(2))).toThrow(refused(limit, 1))
    expect([second.state, limits.counts.peers]).toEqual(['pending', 1])
    first.release()
    second.establish(peer(2))
  })

  test('of one peer stop at perPeer, as soon as it is known who it is', () => {
    const limits = new ConnectionLimits({ perPeer: 2 })
    limits.take({ direction: 'out', peer: peer(1) })
    limits.take({ direction: 'in' }).establish(peer(1))
    const third = limits.take({ direction: 'in' })
    expect(() => third.establish(peer(1))).toThrow(busy('perPeer', 2))
    expect(() => limits.take({ direction: 'out', peer: peer(1) })).toThrow(full('perPeer', 2))
    third.establish(peer(2))
  })

  test.each([
    ['192.0.2.1', '192.0.2.254', true],
    ['192.0.2.1', '192.0.3.1', false],
    ['192.0.2.1', '::ffff:192.0.2.9', true],
    ['2001:db8:0:1::1', '2001:db8:0:ff::1', true],
    ['2001:db8:0:1::1', '2001:db8:0:100::1', false],
    ['wss://relay.example', 'wss://relay.example', false],
  ])('from %s and %s are of one prefix: %s', (a, b, same) => {
    const limits = new ConnectionLimits({ perPrefix: 1 })
    limits.take({ direction: 'in', host: a })
    const again = () => limits.take({ direction: 'in', host: b })
    if (same) expect(again).toThrow(busy('perPrefix', 1))
    else again()
  })

  test('may be counted by other prefixes', () => {
    const limits = new ConnectionLimits({ perPrefix: 1, ipv4PrefixBits: 32, ipv6PrefixBits: 48 })
    limits.take({ direction: 'in', host: '192.0.2.1' })
    limits.take({ direction: 'in', host: '192.0.2.2' })
    limits.take({ direction: 'in', host: '2001:db8::' })
    expect(() => limits.take({ direction: 'in', host: '2001:db8:0:ffff::' })).toThrow(busy('perPrefix', 1))
  })

  test('of a flood of sources take no memory once they are gone', () => {
    const limits = new ConnectionLimits()
    for (let n = 0; n < 5_000; n++) {
      const token = limits.take({ direction: 'in', host: `10.${n >> 8}.${n & 0xff}.1` })
      token.establish(peer(n))
      token.release()
    }
    expect(limits.counts).toMatchObject({ total: 0, peers: 0, prefixes: 0 })
  })

  test.each([
    { total: -1 },
    { perPeer: 1.5 },
    { pendingIn: Number.NaN },
    { ipv4PrefixBits: 0 },
    { ipv6PrefixBits: 129 },
    { typo: 1 },
  ])('have no limit %o', (options) => {
    expect(() => new ConnectionLimits(options)).toThrow(invalid)
  })

  test('never pass a limit, and count right, whatever is asked', () => {
    const small = fc.integer({ min: 0, max: 4 })
    const options = fc.record({
      pendingIn: small,
      pendingOut: small,
      establishedIn: small,
      establishedOut: small,
      total: fc.integer({ min: 0, max: 8 }),
      perPeer: small,
      perPrefix: small,
    })
    const step = fc.record({
      what: fc.constantFrom('take', 'take', 'establish', 'release'),
      direction: fc.constantFrom('in' as const, 'out' as const),
      host: fc.option(
        fc.integer({ min: 1, max: 3 }).map((n) => `192.0.${n}.1`),
        { nil: undefined },
      ),
      peer: fc.option(fc.integer({ min: 1, max: 3 }).map(peer), { nil: undefined }),
      pick: fc.nat(),
    })
    interface Held {
      readonly token: ConnectionToken
      readonly direction: 'in' | 'out'
      readonly host: string | undefined
      peer: PeerId | undefined
    }
    fc.assert(
      fc.property(options, fc.array(step, { maxLength: 60 }), (given, steps) => {
        const limits = new ConnectionLimits(given)
        const held: Held[] = []
        const count = (which: (one: Held) => boolean): number => held.filter(which).length
        for (const { what, direction, host, peer: who, pick } of steps) {
          const chosen = held[pick % Math.max(1, held.length)]
          try {
            if (what === 'take') {
              const room =
                held.length < given.total &&
                count((one) => one.direction === direction && one.token.state === 'pending') <
                  (direction === 'in' ? given.pendingIn : given.pendingOut) &&
                (host === undefined || count((one) => one.host === host) < given.perPrefix) &&
                (who === undefined || count((one) => one.peer === who) < given.perPeer)
              try {
                held.push({ token: limits.take({ direction, host, peer: who }), direction, host, peer: who })
                expect(room).toBe(true)
              } catch (error) {
                if (!isPeerlineError(error)) throw error
                expect([room, error.code]).toEqual([
                  false,
                  direction === 'in' ? 'ERR_PEERLINE_BUSY' : 'ERR_PEERLINE_LIMIT',
                ])
              }
            } else if (what === 'establish' && chosen !== undefined) {
              const proven = chosen.peer ?? who ?? peer(1)
              chosen.token.establish(proven)
              chosen.peer = proven
            } else if (chosen !== undefined) {
              chosen.token.release()
              if (pick % 2 === 0) chosen.token.release()
              held.splice(held.indexOf(chosen), 1)
            }
          } catch (error) {
            if (!isPeerlineError(error)) throw error
          }
          const of = (way: 'in' | 'out', state: string) =>
            count(({ direction: d, token }) => d === way && token.state === state)
          const expected = {
            pendingIn: of('in', 'pending'),
            pendingOut: of('out', 'pending'),
            establishedIn: of('in', 'established'),
            establishedOut: of('out', 'established'),
            total: held.length,
          }
          expect(limits.counts).toEqual({
            ...expected,
            peers: new Set(held.flatMap((one) => one.peer ?? [])).size,
            prefixes: new Set(held.flatMap((one) => one.host ?? [])).size,
          })
          for (const [name, value] of Object.entries(expected)) {
            expect(value).toBeLessThanOrEqual(given[name as keyof typeof expected])
          }
          for (const n of [1, 2, 3]) expect(count((one) => one.peer === peer(n))).toBeLessThanOrEqual(given.perPeer)
        }
        for (const { token } of held) token.release()
        expect(Object.values(limits.counts)).toEqual([0, 0, 0, 0, 0, 0, 0])
      }),
      { numRuns: 300 },
    )
  })
})
