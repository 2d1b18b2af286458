import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Allowance, MemoryBudget } from './memory-budget.ts'

const STEP = 262_144

describe('a memory budget', () => {
  it('gives all or nothing, and takes back', () => {
    const budget = new MemoryBudget(100)
    expect([budget.take(60), budget.take(41), budget.used]).toEqual([true, false, 60])
    budget.give(20)
    expect([budget.take(60), budget.take(1), budget.used]).toEqual([true, false, 100])
  })

  it('has no bound when nothing is said', () => {
    expect(new MemoryBudget().take(Number.MAX_SAFE_INTEGER)).toBe(true)
  })

  it.each([-1, 1.5, Number.NaN])('of %d is none', (limit) => {
    expect(() => new MemoryBudget(limit)).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  it('has back what a session took, once, when that ends', () => {
    const budget = new MemoryBudget(100)
    const [one, other] = [budget.share(), budget.share()]
    expect([one.take(50), other.take(30), one.take(21)]).toEqual([true, true, false])
    one.close()
    expect(budget.used).toBe(30)
    // A reader that kept a stream of it comes to its end.
    one.give(50)
    one.close()
    expect([budget.used, one.take(1)]).toEqual([30, false])
  })

  it('is never exceeded, and unused when all sessions have ended, whatever they hold', () => {
    const step = fc.record({
      what: fc.constantFrom('take', 'take', 'give', 'hold', 'hold', 'shrink', 'close'),
      session: fc.nat(3),
      bytes: fc.integer({ min: 0, max: 6 * STEP }),
    })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 12 * STEP }), fc.array(step, { maxLength: 80 }), (limit, steps) => {
        const budget = new MemoryBudget(limit)
        const sessions = [0, 1, 2, 3].map(() => {
          const share = budget.share()
          return { share, allowance: new Allowance(share, 8 * STEP), taken: [] as number[], closed: false }
        })
        for (const { what, session, bytes } of steps) {
          const { share, allowance, taken } = sessions[session]!
          if (what === 'take' && share.take(bytes)) taken.push(bytes)
          else if (what === 'give') share.give(taken.pop() ?? 0)
          else if (what === 'hold') allowance.holds(bytes)
          else if (what === 'shrink') allowance.shrink(bytes)
          else if (what === 'close') share.close()
          expect(budget.used).toBeLessThanOrEqual(limit)
          expect(budget.used).toBeGreaterThanOrEqual(0)
        }
        for (const { share } of sessions) share.close()
        expect(budget.used).toBe(0)
      }),
    )
  })
})

describe('an allowance', () => {
  it('has its first step whatever others hold, and grows up to its most', () => {
    const full = new Allowance(new MemoryBudget(0).share(), 8 * STEP)
    expect([full.holds(STEP), full.holds(STEP + 1)]).toEqual([true, false])
    const alone = new Allowance(new MemoryBudget().share(), 8 * STEP)
    expect([alone.holds(8 * STEP), alone.holds(8 * STEP + 1)]).toEqual([true, false])
  })

  it('gives back what is not needed, and no more', () => {
    const budget = new MemoryBudget()
    const allowance = new Allowance(budget.share(), 8 * STEP)
    allowance.holds(5 * STEP)
    expect(budget.used).toBe(4 * STEP)
    allowance.shrink(2 * STEP + 1)
    expect(budget.used).toBe(2 * STEP)
    allowance.shrink(0)
    allowance.shrink(0)
    expect(budget.used).toBe(0)
  })
})
