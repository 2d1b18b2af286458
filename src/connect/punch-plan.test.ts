import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DEFAULT_BUDGET, limitBudget, type PortAllocation, planPunch, predictPorts, searchPorts } from './punch-plan.ts'

const KINDS = ['none', 'fixed', 'unknown', 'sequential', 'random'] as const

describe('the plan of a punch', () => {
  test.each([
    // local         none      fixed     unknown   sequential  random: what is done about the remote
    ['none', 'direct', 'direct', 'later', 'now', 'probe'],
    ['fixed', 'direct', 'direct', 'later', 'now', 'probe'],
    ['unknown', 'direct', 'direct', 'later', 'now', 'probe'],
    ['sequential', 'direct', 'direct', 'later', 'now', 'hopeless'],
    ['random', 'open', 'open', 'open', 'hopeless', 'hopeless'],
  ] as const)('with %s ports here', (local, ...expected) => {
    const plans = KINDS.map((remote) => {
      const { predict, search, hopeless } = planPunch({ kind: local }, { kind: remote })
      if (hopeless !== undefined) return 'hopeless'
      expect(predict === 'no' || search === 'no').toBe(true)
      return search !== 'no' ? search : predict !== 'no' ? predict : 'direct'
    })
    expect(plans).toEqual(expected)
  })

  test('both sides of a search have each their half', () => {
    for (const local of KINDS) {
      for (const remote of KINDS) {
        const here = planPunch({ kind: local }, { kind: remote })
        const there = planPunch({ kind: remote }, { kind: local })
        expect(here.hopeless).toBe(there.hopeless)
        expect([here.search, there.search].sort().join()).toMatch(/^(no,no|open,probe)$/)
      }
    }
  })
})

describe('predicted ports', () => {
  test('go on where a NAT that counts was seen, by its step', () => {
    const up = predictPorts(5_000, { kind: 'fixed' }, { kind: 'sequential', step: 2 }, true)
    expect(up.slice(0, 4)).toEqual([5_002, 5_004, 5_006, 5_008])
    expect(up.length).toBe(16)
    expect(predictPorts(5_000, { kind: 'none' }, { kind: 'sequential', step: -1 }, false).slice(0, 2)).toEqual([
      4_999, 4_998,
    ])
    expect(predictPorts(5_000, { kind: 'none' }, { kind: 'sequential' }, false)[0]).toBe(5_001)
  })

  test('are ports', () => {
    const allocation = fc.record({
      kind: fc.constantFrom(...KINDS),
      step: fc.oneof(fc.integer(), fc.double(), fc.constant(undefined)),
    })
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 65_535 }),
        allocation,
        allocation,
        fc.boolean(),
        (base, local, remote, first) => {
          const ports = predictPorts(base, local, remote, first)
          expect(ports.length).toBeLessThanOrEqual(40)
          expect(ports.every((port) => Number.isInteger(port) && port > 0 && port < 65_536)).toBe(true)
        },
      ),
    )
  })

  /** True when flows of both sides meet, `takenA` and `takenB` ports having been taken by others meanwhile. */
  function meet(local: PortAllocation, remote: PortAllocation, takenA: number, takenB: number, step: number): boolean {
    const [baseA, baseB] = [10_000, 40_000]
    const targetsOfA = predictPorts(baseB, local, remote, true)
    const targetsOfB = predictPorts(baseA, remote, local, false)
    // the n-th new destination of a side goes out from its n-th next port
    const portOfA = (n: number): number => baseA + (n + 1 + takenA) * step
    const portOfB = (n: number): number => baseB + (n + 1 + takenB) * step
    return targetsOfA.some((toB, a) => targetsOfB.some((toA, b) => toB === portOfB(b) && toA === portOfA(a)))
  }

  test.each([1, 2, 5])('of both sides meet when both count by %i, though others take a few ports', (step) => {
    const counts: PortAllocation = { kind: 'sequential', step }
    for (let taken = 0; taken <= 7; taken++) {
      for (let takenA = 0; takenA <= taken; takenA++)
        expect(meet(counts, counts, takenA, taken - takenA, step)).toBe(true)
    }
    expect(meet(counts, counts, 20, 20, step)).toBe(false)
  })

  test('of both sides meet when nothing is known, and each has spent a port on the direct way', () => {
    const unknown: PortAllocation = { kind: 'unknown' }
    expect(meet(unknown, unknown, 1, 1, 1)).toBe(true)
  })
})

describe('the ports of a search', () => {
  test('are all there are from 1024 on, each once', () => {
    const ports = [...searchPorts()]
    expect(ports.length).toBe(64_512)
    expect(new Set(ports).size).toBe(64_512)
    expect([Math.min(...ports.slice(0, 30_000)), Math.max(...ports.slice(0, 30_000))]).not.toEqual([ports[0], ports[1]])
    expect(ports.reduce((a, b) => Math.min(a, b))).toBe(1_024)
    expect(ports.reduce((a, b) => Math.max(a, b))).toBe(65_535)
  })

  test('come in another order each time', () => {
    const first = (count: number): number[] => {
      const ports = searchPorts()
      return Array.from({ length: count }, () => ports.next().value as number)
    }
    expect(first(20)).not.toEqual(first(20))
    expect(first(20)).not.toEqual([...first(20)].sort((a, b) => a - b))
  })
})

test.each([
  [DEFAULT_BUDGET, DEFAULT_BUDGET],
  [
    { sockets: 1e9, probesPerSecond: Number.POSITIVE_INFINITY, ms: 1e9 },
    { sockets: 1_024, probesPerSecond: 5_000, ms: 30_000 },
  ],
  [
    { sockets: -1, probesPerSecond: 0, ms: Number.NaN },
    { sockets: 1, probesPerSecond: 1, ms: 1 },
  ],
])('the budget %o is %o', (budget, limited) => {
  expect(limitBudget(budget)).toEqual(limited)
})
