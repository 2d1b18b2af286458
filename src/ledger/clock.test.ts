import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { ConsensusClock } from './clock.ts'

const START = 1_700_000_000_000

/** A machine and a ledger, in true time. */
class World {
  ms = 0
  /** ms that the machine has slept: its monotonic clock has not. */
  slept = 0
  wallAhead = 0
  readonly ahead: number
  /** How much faster than true time the machine's clock goes. */
  readonly drift: number
  readonly clock: ConsensusClock

  constructor({ ahead = 0, drift = 0 } = {}) {
    this.ahead = ahead
    this.drift = drift
    this.clock = new ConsensusClock({ now: () => this.local, wall: () => this.local + this.slept + this.wallAhead })
  }

  get local(): number {
    return START + (this.ms - this.slept) * (1 + this.drift)
  }

  get ledger(): number {
    return START + this.ms + this.ahead
  }

  get offset(): number {
    return this.ledger - this.local
  }

  /** An own message: sent, its consensus, known, with so many ms between them. */
  append(toConsensus: number, toKnown: number, sleep = 0): void {
    const sentAt = this.clock.local()
    this.ms += toConsensus
    const at = this.ledger
    this.ms += toKnown + sleep
    this.slept += sleep
    this.clock.appended(sentAt, at)
  }

  receive(late: number): void {
    const at = this.ledger
    this.ms += late
    this.clock.received(at)
  }

  /** 0.01 ms: what is left of a number with 13 digits before the point after some sums. */
  expectRight(): void {
    const { offsetMs, uncertaintyMs } = this.clock
    expect(Math.abs(offsetMs - this.offset)).toBeLessThanOrEqual(uncertaintyMs + 0.01)
  }
}

describe('the consensus clock', () => {
  test('is the wall clock of the machine while nothing is known', () => {
    const world = new World({ ahead: 5_000 })
    world.wallAhead = 100
    expect(world.clock.offsetMs).toBe(100)
    expect(world.clock.uncertaintyMs).toBe(Number.POSITIVE_INFINITY)
    expect(world.clock.now()).toBe(world.local + 100)
  })

  test('lies between sending and knowing of an own message', () => {
    const world = new World({ ahead: 90_000 })
    world.append(3_000, 1_000)
    expect(world.clock.uncertaintyMs).toBeCloseTo(2_001, 0)
    expect(world.clock.offsetMs).toBeCloseTo(91_000, -1)
    world.expectRight()
    expect(world.clock.now() - world.clock.local()).toBeCloseTo(world.clock.offsetMs, 1)
    expect(world.clock.toLocal(world.clock.now())).toBeCloseTo(world.local, 1)
  })

  test('is no earlier than what has come', () => {
    const world = new World({ ahead: 7_000 })
    world.receive(500)
    expect(world.clock.offsetMs).toBeCloseTo(6_500, 0)
  })

  test('does not take an old entry for the time', () => {
    const world = new World()
    world.receive(3_600_000)
    expect(world.clock.offsetMs).toBe(0)
    expect(world.clock.uncertaintyMs).toBe(Number.POSITIVE_INFINITY)
  })

  test('takes what comes from others as a bound', () => {
    const world = new World({ ahead: -7_000 })
    world.receive(500)
    world.append(50, 2_000)
    expect(world.clock.uncertaintyMs).toBeLessThan(280) // 500 from the entry, 50 from the message
    world.expectRight()
  })

  test('keeps the tightest bounds', () => {
    const world = new World({ ahead: 300 })
    world.append(10, 2_000)
    world.append(4_000, 20)
    expect(world.clock.uncertaintyMs).toBeLessThan(20)
    world.append(4_000, 4_000)
    expect(world.clock.uncertaintyMs).toBeLessThan(24)
    world.expectRight()
  })

  test('knows less as time goes by', () => {
    const world = new World()
    world.append(10, 10)
    const before = world.clock.uncertaintyMs
    world.ms += 3_600_000
    expect(world.clock.uncertaintyMs - before).toBeCloseTo(1_800, 0)
  })

  test('forgets what it knew when the machine has slept', () => {
    const world = new World()
    world.append(100, 100)
    world.ms += 60_000
    world.slept += 60_000
    expect(world.clock.uncertaintyMs).toBe(Number.POSITIVE_INFINITY)
    world.append(100, 100)
    world.expectRight()
    expect(world.clock.uncertaintyMs).toBeLessThan(110)
  })

  test('takes no upper bound from a message that the machine has slept over', () => {
    const world = new World()
    world.append(100, 100, 60_000)
    expect(world.clock.uncertaintyMs).toBe(Number.POSITIVE_INFINITY)
    world.append(100, 100)
    world.expectRight()
  })

  test('forgets what it knew when the time of the machine was set, and not for a little', () => {
    const world = new World()
    world.append(100, 100)
    world.wallAhead = -200
    expect(world.clock.uncertaintyMs).toBeLessThan(110)
    world.wallAhead = 200
    expect(world.clock.uncertaintyMs).toBe(Number.POSITIVE_INFINITY)
  })

  test.each([-3_600_000, 3_600_000])('takes the later word of a ledger that contradicts itself by %i ms', (by) => {
    const world = new World()
    world.append(100, 100)
    const sentAt = world.local
    world.ms += 100
    world.clock.appended(sentAt, world.ledger + by)
    expect(world.clock.offsetMs).toBeCloseTo(by, -3)
    expect(world.clock.uncertaintyMs).toBeLessThan(60)
  })

  test('is not moved by what is no time', () => {
    const world = new World()
    world.append(100, 100)
    const { offsetMs } = world.clock
    for (const at of [Number.NaN, Number.POSITIVE_INFINITY, -1, 8.7e15]) {
      world.clock.received(at)
      world.clock.appended(world.local, at)
    }
    expect(world.clock.offsetMs).toBe(offsetMs)
  })

  test('is never further from the truth than it says, whatever comes and however clocks drift', () => {
    const delay = fc.oneof(fc.nat(20), fc.nat(10_000))
    const step = fc.oneof(
      fc.record({ do: fc.constant('append' as const), a: delay, b: delay }),
      fc.record({ do: fc.constant('doze' as const), a: delay, b: fc.integer({ min: 251, max: 1e7 }) }),
      fc.record({ do: fc.constant('receive' as const), a: delay, b: delay }),
      fc.record({ do: fc.constant('wait' as const), a: fc.nat(7_200_000), b: delay }),
      fc.record({ do: fc.constant('sleep' as const), a: fc.integer({ min: 251, max: 1e8 }), b: delay }),
    )
    const about = fc.record({
      ahead: fc.integer({ min: -1e9, max: 1e9 }),
      drift: fc.double({ min: -0.0004, max: 0.0004, noNaN: true }),
    })
    fc.assert(
      fc.property(about, fc.array(step, { maxLength: 30 }), (options, steps) => {
        const world = new World(options)
        for (const { do: what, a, b } of steps) {
          if (what === 'append') world.append(a, b)
          else if (what === 'doze') world.append(a, 10, b)
          else if (what === 'receive') world.receive(a)
          else world.ms += a
          if (what === 'sleep') world.slept += a
          world.expectRight()
        }
      }),
      { numRuns: 500 },
    )
  })
})
