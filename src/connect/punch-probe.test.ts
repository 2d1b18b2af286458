import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isStun } from '../network/stun.ts'
import { HOWS, PROBE_BYTES, type Probe, ProbeCodec, type ProbeType } from './punch-probe.ts'

const secret = Uint8Array.from({ length: 32 }, (_, i) => i)
const probe: Probe = { type: 1, how: 'direct', rttMs: 0, streamId: 7, cookie: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) }

describe('a probe', () => {
  test('is read as it was made, by the other side alone', () => {
    const [ours, theirs] = [new ProbeCodec(secret, 3, true), new ProbeCodec(secret, 3, false)]
    fc.assert(
      fc.property(
        fc.record({
          type: fc.constantFrom<ProbeType>(1, 2, 3, 4),
          how: fc.constantFrom(...HOWS),
          rttMs: fc.integer({ min: 0, max: 65_535 }).map((tenths) => tenths / 10),
          streamId: fc.integer({ min: 0, max: 0xffffffff }),
          cookie: fc.uint8Array({ minLength: 8, maxLength: 8 }),
        }),
        (sent) => {
          const bytes = ours.seal(sent)
          expect(bytes.length).toBe(PROBE_BYTES)
          expect(theirs.open(bytes)).toEqual(sent)
          expect(ours.open(bytes)).toBeUndefined()
        },
      ),
    )
  })

  test('is these bytes', () => {
    expect(Buffer.from(new ProbeCodec(secret, 3, true).seal(probe)).toString('hex')).toMatchInlineSnapshot(
      `"b6509b0ac0216bc70100000000000007010203040506070876218bfe42762863959529a9cee20355"`,
    )
  })

  test('of another secret, attempt or part is nothing', () => {
    const theirs = new ProbeCodec(secret, 3, false)
    const others = [
      new ProbeCodec(randomBytes(32), 3, true),
      new ProbeCodec(secret, 2, true),
      new ProbeCodec(secret, 3 + 2 ** 31, true),
      theirs,
    ]
    for (const other of others) expect(theirs.open(other.seal(probe))).toBeUndefined()
  })

  test('that was altered anywhere, is longer or shorter, or anything else, is nothing', () => {
    const bytes = new ProbeCodec(secret, 3, true).seal(probe)
    const theirs = new ProbeCodec(secret, 3, false)
    for (let bit = 0; bit < 8 * PROBE_BYTES; bit++) {
      const altered = Uint8Array.from(bytes)
      altered[bit >> 3]! ^= 1 << (bit & 7)
      expect(theirs.open(altered)).toBeUndefined()
    }
    expect(theirs.open(bytes.subarray(0, -1))).toBeUndefined()
    expect(theirs.open(Buffer.concat([bytes, Buffer.alloc(1)]))).toBeUndefined()
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (noise) => {
        expect(theirs.open(noise)).toBeUndefined()
        expect(theirs.open(Buffer.concat([theirs.tag, noise]))).toBeUndefined()
      }),
    )
  })

  test('tells a round trip that is too long as the longest there is', () => {
    const bytes = new ProbeCodec(secret, 3, true).seal({ ...probe, rttMs: 1e9 })
    expect(new ProbeCodec(secret, 3, false).open(bytes)?.rttMs).toBe(6_553.5)
  })
})

test('the tag is the same for both sides, another for each attempt, and begins like no STUN and no udx', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.nat(), (key, attempt) => {
      const { tag } = new ProbeCodec(key, attempt, true)
      expect(new ProbeCodec(key, attempt, false).tag).toEqual(tag)
      expect(new ProbeCodec(key, attempt + 1, true).tag).not.toEqual(tag)
      expect(tag[0]! >> 6).toBe(0b10)
      expect(isStun(tag)).toBe(false)
    }),
  )
})
