import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import { hostileJson } from '../discovery/hostile-json.compliance.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import { Authorities, MAX_AUTHORITIES } from './authorities.ts'
import { BootstrapPolicy } from './bootstrap-policy.ts'
import { MAX_ORDER_LIFE_MS, signOrder } from './order.ts'

const authority = Identity.fromSeed(new Uint8Array(32).fill(1))
const second = Identity.fromSeed(new Uint8Array(32).fill(2))
const SELF = Identity.fromSeed(new Uint8Array(32).fill(3)).peerId
const NOW = 1_700_000_000_000
const TASK = Uint8Array.of(1, 2, 3)

const fails = (code: string) => expect.objectContaining({ code })
const order = (sequence: number, { by = authority, to = SELF, now = NOW } = {}) =>
  signOrder(by, { to, sequence, task: TASK, now })

function world({ policy = new BootstrapPolicy({ authority: true }), at = NOW } = {}) {
  const clock = { at }
  const authorities = new Authorities({ policy, now: () => clock.at })
  return { authorities, policy, clock, verify: (bytes: Uint8Array) => authorities.verify(bytes, { self: SELF }) }
}

describe('an order', () => {
  test('of an authority is taken, in the order of its sequences', () => {
    const { authorities, verify } = world()
    expect([authorities.add(authority.peerId), authorities.add(toDidKey(authority.peerId))]).toEqual([true, false])
    expect(verify(order(1))).toMatchObject({ from: authority.peerId, sequence: 1, task: TASK })
    expect(verify(order(5)).sequence).toBe(5)
    for (const sequence of [5, 4, 1]) expect(() => verify(order(sequence))).toThrow(fails('ERR_PEERLINE_REPLAY'))
    expect(verify(order(6)).sequence).toBe(6)
  })

  test('of no authority is refused before its signature is verified', () => {
    const { verify } = world()
    const forged = order(1)
    forged[forged.length - 1]! ^= 1
    expect(() => verify(forged)).toThrow(fails('ERR_PEERLINE_DENIED'))
  })

  test('spends no sequence unless everything else is right', () => {
    const { authorities, verify, clock } = world()
    authorities.add(authority.peerId)
    const told = vi.fn()
    authorities.addEventListener('change', told)
    const damaged = order(900)
    damaged[damaged.length - 1]! ^= 1
    expect(() => verify(damaged)).toThrow(fails('ERR_PEERLINE_RECORD'))
    expect(() => verify(order(901, { to: second.peerId }))).toThrow(fails('ERR_PEERLINE_WRONG_PEER'))
    expect(() => verify(order(902, { now: NOW - 3 * MAX_ORDER_LIFE_MS }))).toThrow(fails('ERR_PEERLINE_EXPIRED'))
    expect(() => authorities.verify(order(903), { self: SELF, from: second.peerId })).toThrow(
      fails('ERR_PEERLINE_DENIED'),
    )
    expect(() => verify(new Uint8Array(100_000))).toThrow(fails('ERR_PEERLINE_TOO_LARGE'))
    expect(told).not.toHaveBeenCalled()
    expect(authorities.export().authorities).toEqual([{ id: authority.peerId, last: 0 }])
    clock.at += 1
    expect(verify(order(1)).sequence).toBe(1)
    expect(told).toHaveBeenCalledTimes(1)
  })

  test('may be brought by anybody, or by the authority alone', () => {
    const { authorities, verify } = world()
    authorities.add(authority.peerId)
    authorities.verify(order(1), { self: SELF, from: authority.peerId })
    verify(order(2))
  })

  test('counts for its authority alone', () => {
    const { authorities, verify } = world()
    authorities.add(authority.peerId)
    authorities.add(second.peerId)
    verify(order(9))
    expect(verify(order(1, { by: second })).from).toBe(second.peerId)
    expect(() => verify(order(9, { by: authority }))).toThrow(fails('ERR_PEERLINE_REPLAY'))
  })

  test('that was taken is refused for ever, whatever becomes of its authority', () => {
    const { authorities, verify } = world()
    authorities.add(authority.peerId)
    const taken = order(7)
    verify(taken)
    expect([authorities.remove(authority.peerId), authorities.remove(authority.peerId)]).toEqual([true, false])
    expect(() => verify(order(8))).toThrow(fails('ERR_PEERLINE_DENIED'))
    expect([authorities.has(authority.peerId), authorities.list()]).toEqual([false, []])
    authorities.add(authority.peerId)
    expect(() => verify(taken)).toThrow(fails('ERR_PEERLINE_REPLAY'))
    expect(verify(order(8)).sequence).toBe(8)
  })

  test('is taken once, in whatever order and however often orders come', () => {
    const orders = Array.from({ length: 7 }, (_, sequence) => (sequence === 0 ? new Uint8Array() : order(sequence)))
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 12 }), fc.nat(12), (sequences, restart) => {
        let { authorities } = world()
        authorities.add(authority.peerId)
        const taken: number[] = []
        for (const [index, sequence] of sequences.entries()) {
          if (index === restart) {
            const saved = authorities.export()
            authorities = world().authorities
            authorities.load(JSON.parse(JSON.stringify(saved)))
          }
          try {
            taken.push(authorities.verify(orders[sequence]!, { self: SELF }).sequence)
          } catch (error) {
            expect(error).toEqual(fails('ERR_PEERLINE_REPLAY'))
          }
        }
        expect(taken).toEqual([...new Set(taken)].sort((a, b) => a - b))
        expect(taken.at(-1) ?? 0).toBe(Math.max(0, ...sequences))
      }),
    )
  })
})

describe('authorities', () => {
  test('are whom the bootstrap policy admits, now', () => {
    const { authorities } = world({ policy: new BootstrapPolicy() })
    expect(() => authorities.add(authority.peerId)).toThrow(fails('ERR_PEERLINE_DENIED'))
    authorities.load({ version: 1, authorities: [{ id: authority.peerId, last: 4 }] })
    expect([authorities.has(authority.peerId), authorities.list()]).toEqual([false, []])
    expect(() => authorities.verify(order(5), { self: SELF })).toThrow(fails('ERR_PEERLINE_DENIED'))
    expect(authorities.export().authorities).toEqual([{ id: authority.peerId, last: 4 }])
  })

  test('are one, when the first is to be the only one', () => {
    const policy = new BootstrapPolicy({ firstSingleLockingAuthority: true })
    const { authorities, verify } = world({ policy })
    authorities.add(authority.peerId)
    expect(() => authorities.add(second.peerId)).toThrow(fails('ERR_PEERLINE_DENIED'))
    expect(policy.locked).toBe(authority.peerId)
    verify(order(1))
    expect(authorities.list()).toEqual([authority.peerId])
  })

  test('of an older list are one from the first order on, when the first is to be the only one', () => {
    const policy = new BootstrapPolicy({ firstSingleLockingAuthority: true })
    const { authorities, verify } = world({ policy })
    const ids = [authority.peerId, second.peerId]
    authorities.load({ version: 1, authorities: ids.map((id) => ({ id, last: 0 })) })
    expect(policy.locked).toBeUndefined()
    verify(order(1, { by: second }))
    expect(policy.locked).toBe(second.peerId)
    expect(() => verify(order(1))).toThrow(fails('ERR_PEERLINE_DENIED'))
    expect(authorities.list()).toEqual([second.peerId])
  })

  test('are limited, and those removed are forgotten only when no order of theirs can live', () => {
    const { authorities, clock } = world()
    const list = Array.from({ length: MAX_AUTHORITIES - 1 }, () => ({ id: Identity.generate().peerId, last: 1 }))
    authorities.load({ version: 1, authorities: list })
    authorities.add(authority.peerId)
    authorities.verify(order(3), { self: SELF })
    const full = fails('ERR_PEERLINE_LIMIT')
    expect(() => authorities.add(second.peerId)).toThrow(full)
    authorities.remove(authority.peerId)
    clock.at += MAX_ORDER_LIFE_MS
    expect(() => authorities.add(second.peerId)).toThrow(full)
    authorities.add(authority.peerId) // it is there: it needs no room
    authorities.remove(authority.peerId)
    clock.at += MAX_ORDER_LIFE_MS + 5 * 60_000
    authorities.add(second.peerId)
    expect(authorities.export().authorities).toHaveLength(MAX_AUTHORITIES)
  })

  test('that do not fit lock nothing', () => {
    const policy = new BootstrapPolicy({ firstSingleLockingAuthority: true })
    const { authorities } = world({ policy })
    const list = Array.from({ length: MAX_AUTHORITIES }, () => ({ id: Identity.generate().peerId, last: 1 }))
    authorities.load({ version: 1, authorities: list })
    expect(() => authorities.add(authority.peerId)).toThrow(fails('ERR_PEERLINE_LIMIT'))
    expect(policy.locked).toBeUndefined()
  })

  test('that are loaded set no sequence back', () => {
    const { authorities, verify } = world()
    authorities.add(authority.peerId)
    authorities.add(second.peerId)
    const older = authorities.export()
    verify(order(5))
    verify(order(6, { by: second }))
    authorities.load({ version: 1, authorities: [older.authorities[0]] })
    expect(authorities.list()).toEqual([authority.peerId])
    authorities.add(second.peerId)
    expect(() => verify(order(5))).toThrow(fails('ERR_PEERLINE_REPLAY'))
    expect(() => verify(order(6, { by: second }))).toThrow(fails('ERR_PEERLINE_REPLAY'))
  })

  test('that come of a damaged file come whole, or not at all', () => {
    const valid = {
      version: 1,
      authorities: [
        { id: authority.peerId, last: 4 },
        { id: second.peerId, last: 0, removed: NOW },
      ],
    }
    fc.assert(
      fc.property(hostileJson(valid), (json) => {
        const { authorities } = world()
        authorities.add(SELF)
        const before = authorities.export()
        try {
          authorities.load(json)
        } catch (error) {
          expect(error).toEqual(fails('ERR_PEERLINE_INVALID'))
          expect(authorities.export()).toEqual(before)
          return
        }
        const after = world().authorities
        after.load(authorities.export())
        expect(after.export()).toEqual(authorities.export())
      }),
    )
    expect(() =>
      world().authorities.load({ version: 1, authorities: [valid.authorities[0], valid.authorities[0]] }),
    ).toThrow(fails('ERR_PEERLINE_INVALID'))
  })
})
