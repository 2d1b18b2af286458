import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Turns } from './turns.ts'

/** Time moves when a reader takes it. */
let now = 0

beforeEach(() => {
  now = 1_000
  vi.useFakeTimers({ toFake: ['setImmediate'] })
  vi.spyOn(performance, 'now').mockImplementation(() => now)
})

afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

/** Somebody whose chunk has so many bytes, and takes so many ms to read. */
function reader(read: string[], name: string, bytes: number, ms = 0) {
  return {
    bytes,
    read: () => {
      read.push(name)
      now += ms
    },
  }
}

/** As a path does: what may not be read now is read when it is called. */
function come(turns: Turns, one: ReturnType<typeof reader>): void {
  if (turns.take(one)) one.read()
}

/** One turn of the event loop. */
const turn = () => vi.runOnlyPendingTimers()

test('while there is time everybody is read as it comes', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  for (const name of ['a', 'b', 'c']) come(turns, reader(read, name, 65_536))
  expect(read).toEqual(['a', 'b', 'c'])
})

test('after 2 ms of a turn who comes waits, and the shortest goes first', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  come(turns, reader(read, 'slow', 10, 3))
  for (const [name, bytes] of [
    ['long', 60_000],
    ['short', 100],
    ['middle', 1_000],
  ] as const) {
    come(turns, reader(read, name, bytes))
  }
  expect(read).toEqual(['slow'])
  turn()
  expect(read).toEqual(['slow', 'short', 'middle', 'long'])
  come(turns, reader(read, 'later', 10))
  expect(read.at(-1)).toBe('later')
})

test('who comes behind those that wait, waits as well', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  come(turns, reader(read, 'slow', 10, 3))
  come(turns, reader(read, 'first', 500))
  expect(turns.take(reader(read, 'second', 500))).toBe(false)
})

test('nobody starves: who has waited for 250 ms is read, though shorter ones come without end', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  come(turns, reader(read, 'slow', 10, 3))
  come(turns, reader(read, 'patient', 65_536))
  for (let count = 0; count < 200 && !read.includes('patient'); count++) {
    for (let one = 0; one < 4; one++) come(turns, reader(read, 'short', 10, 1))
    turn()
  }
  expect(read).toContain('patient')
  const before = read.indexOf('patient')
  expect(before).toBeGreaterThan(10)
})
