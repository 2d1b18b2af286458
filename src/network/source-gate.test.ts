import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { SourceGate } from './source-gate.ts'

beforeEach(() => void vi.useFakeTimers({ toFake: ['performance'] }))
afterEach(() => void vi.useRealTimers())

/** How often of so many times it lets pass. */
const passed = (gate: SourceGate, ip: string, times = 10) =>
  Array.from({ length: times }, () => gate.pass(ip)).filter(Boolean).length

test('so many of one source pass in a second, and so many of all', () => {
  const gate = new SourceGate({ perSource: 4, all: 10 })
  expect(['10.0.0.1', '10.0.0.2', '10.0.0.3', '10.0.0.4'].map((ip) => passed(gate, ip))).toEqual([4, 4, 2, 0])
  vi.advanceTimersByTime(999)
  expect(passed(gate, '10.0.0.4')).toBe(0)
  vi.advanceTimersByTime(1)
  expect(passed(gate, '10.0.0.1')).toBe(4)
})

test('a machine has one allowance for its /64, but of a link each address is a machine', () => {
  const gate = new SourceGate({ perSource: 4, all: 100 })
  expect(['2001:4860::1', '2001:4860::2', '2001:4860:0:1::1'].map((ip) => passed(gate, ip))).toEqual([4, 0, 4])
  expect(['fe80::1%eth0', 'fe80::2%eth0', 'fe80::1%eth0'].map((ip) => passed(gate, ip))).toEqual([4, 4, 0])
})
