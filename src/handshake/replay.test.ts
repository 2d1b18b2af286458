import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Identity } from '../identity/identity.ts'
import type { PeerId } from '../identity/peer-id.ts'
import { CLOCK_SKEW_MS, ReplayCache } from './replay.ts'

const REPLAY = expect.objectContaining({ code: 'ERR_PEERLINE_REPLAY' })
const BUSY = expect.objectContaining({ code: 'ERR_PEERLINE_BUSY' })
const NOW = 1_700_000_000_000
const peers = Array.from({ length: 40 }, () => Identity.generate().peerId)
const id = (n: number) => new Uint8Array(16).fill(n >>> 8, 0, 8).fill(n & 0xff, 8)

test('an offer is refused the second time, the same id of another peer is not', () => {
  const cache = new ReplayCache()
  cache.accept(peers[0]!, id(1), NOW + 30_000, NOW)
  expect(() => cache.accept(peers[0]!, id(1), NOW + 30_000, NOW + 1)).toThrow(REPLAY)
  cache.accept(peers[1]!, id(1), NOW + 30_000, NOW)
  cache.accept(peers[0]!, id(2), NOW + 30_000, NOW)
  expect(cache.size).toBe(3)
})

test('it is remembered until no clock can take it for fresh, and forgotten soon after', () => {
  const cache = new ReplayCache()
  const expiresAt = NOW + 30_000
  cache.accept(peers[0]!, id(1), expiresAt, NOW)
  expect(() => cache.accept(peers[0]!, id(1), expiresAt, expiresAt + CLOCK_SKEW_MS - 1)).toThrow(REPLAY)
  cache.accept(peers[1]!, id(1), expiresAt + 900_000, expiresAt + CLOCK_SKEW_MS + 10_000)
  expect(cache.size).toBe(1)
})

test('a peer at its share is refused, others are not; room comes back with time', () => {
  const cache = new ReplayCache({ capacity: 64 })
  for (let n = 0; n < 4; n++) cache.accept(peers[0]!, id(n), NOW, NOW)
  expect(() => cache.accept(peers[0]!, id(4), NOW, NOW)).toThrow(BUSY)
  // what was seen stays a replay, however full it is
  expect(() => cache.accept(peers[0]!, id(0), NOW, NOW)).toThrow(REPLAY)
  cache.accept(peers[1]!, id(0), NOW, NOW)
  cache.accept(peers[0]!, id(4), NOW + CLOCK_SKEW_MS * 2, NOW + CLOCK_SKEW_MS + 10_000)
})

test('a cache full of live offers fails closed', () => {
  const cache = new ReplayCache({ capacity: 32 })
  for (let n = 0; n < 32; n++) cache.accept(peers[n % 16]!, id(n), NOW, NOW)
  expect(() => cache.accept(peers[20]!, id(1), NOW, NOW)).toThrow(BUSY)
  expect(() => cache.accept(peers[3]!, id(3), NOW, NOW)).toThrow(REPLAY)
  expect(cache.size).toBe(32)
})

test('a capacity that is none is refused', () => {
  for (const capacity of [0, -1, 1.5, Number.NaN]) {
    expect(() => new ReplayCache({ capacity })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  }
})

test('agrees with a plain list of everything ever accepted', () => {
  const step = fc.record({ peer: fc.nat(3), id: fc.nat(5), life: fc.nat(300_000), wait: fc.nat(60_000) })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const cache = new ReplayCache({ capacity: 1_000 })
      const accepted: { from: PeerId; id: number; until: number }[] = []
      let now = NOW
      for (const { peer, id: n, life, wait } of steps) {
        now += wait
        const from = peers[peer]!
        const expiresAt = now + life
        const same = accepted.filter((one) => one.from === from && one.id === n)
        const live = same.some((one) => one.until >= now)
        // Within a slice after the end either answer will do.
        const maybe = same.some((one) => one.until >= now - 20_000)
        let refused = false
        try {
          cache.accept(from, id(n), expiresAt, now)
        } catch (error) {
          expect(error).toEqual(REPLAY)
          refused = true
        }
        if (live) expect(refused).toBe(true)
        else if (!maybe) expect(refused).toBe(false)
        if (!refused) accepted.push({ from, id: n, until: expiresAt + CLOCK_SKEW_MS })
      }
      expect(cache.size).toBeLessThanOrEqual(accepted.filter((one) => one.until >= now - 20_000).length)
    }),
    { numRuns: 200 },
  )
})
