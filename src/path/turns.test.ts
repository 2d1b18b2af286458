import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type Reader, Turns } from './turns.ts'

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

/** Somebody whose chunks have so many bytes, and take so many ms to read. */
function reader(read: string[], name: string, ms = 0, bytes = 100): Reader {
  return {
    bytes,
    read: () => {
      read.push(name)
      now += ms
    },
  }
}

/** One turn of the event loop. */
const turn = () => vi.runOnlyPendingTimers()

test('while there is time everybody is read as it comes', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  for (const name of ['a', 'b', 'c']) expect(turns.read(reader(read, name))).toBe(true)
  expect(read).toEqual(['a', 'b', 'c'])
})

test('after 2 ms of a turn who comes waits, and who brings least, and sets off least, goes first', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  const [slow, long, short] = [
    reader(read, 'slow', 3, 40),
    reader(read, 'long', 0.1, 9_000),
    reader(read, 'short', 0.1),
  ]
  for (const one of [long, short, slow]) turns.read(one)
  for (const one of [slow, long, short]) expect(turns.read(one)).toBe(false)
  read.length = 0
  turn()
  expect(read).toEqual(['short', 'slow'])
  turn()
  expect(read).toEqual(['short', 'slow', 'long'])
  turn()
  expect(turns.read(short)).toBe(true)
})

test('who has more than there is time for stops when its turn is over, and its rest waits like any other', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  let left = 6
  const many: Reader = {
    get bytes() {
      return left * 1_000
    },
    read: () => {
      do {
        read.push(`many ${left--}`)
        now += 1
      } while (left > 0 && !turns.over)
      if (left > 0) turns.wait(many)
    },
  }
  expect(turns.over).toBe(false)
  expect(turns.read(many)).toBe(true)
  expect(turns.over).toBe(false)
  expect(turns.read(reader(read, 'small', 0.1))).toBe(false)
  expect(read).toEqual(['many 6', 'many 5', 'many 4'])
  turn()
  expect(read.slice(3)).toEqual(['small', 'many 3', 'many 2'])
  turn()
  expect(read.slice(6)).toEqual(['many 1'])
  expect(turns.over).toBe(false)
})

test('what those set off that had to wait is done before the next is read, or in the same turn', async () => {
  const [turns, done] = [new Turns(), [] as string[]]
  const asks = (name: string): Reader => ({
    bytes: 1,
    read: () => {
      done.push(name)
      turns.last(() => done.push(`answer to ${name}`))
      // A handler may think for some microtasks.
      void Promise.resolve()
        .then(() => {})
        .then(() => turns.last(() => done.push(`late answer to ${name}`)))
    },
  })
  turns.read(reader(done, 'slow', 3))
  for (const name of ['a', 'b']) expect(turns.read(asks(name))).toBe(false)
  vi.runOnlyPendingTimers()
  expect(done).toEqual(['slow', 'a', 'answer to a', 'b', 'answer to b'])
  await new Promise((resolve) => setTimeout(resolve))
  expect(done.slice(5)).toEqual(['late answer to a', 'late answer to b'])
})

test('what is set off while nobody has waited is done when all that came is read', () => {
  const [turns, done] = [new Turns(), [] as string[]]
  turns.last(() => done.push('last'))
  turns.read(reader(done, 'a'))
  expect(done).toEqual(['a'])
  turn()
  expect(done).toEqual(['a', 'last'])
})

test('who comes behind those that wait, waits as well, and equals are read as they came', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  turns.read(reader(read, 'slow', 3))
  for (const name of ['first', 'second', 'third']) expect(turns.read(reader(read, name))).toBe(false)
  turn()
  expect(read).toEqual(['slow', 'first', 'second', 'third'])
})

test('what somebody did before hardly counts after some chunks', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  let ms = 8
  const reformed: Reader = {
    bytes: 100,
    read: () => {
      read.push('reformed')
      now += ms
    },
  }
  const steady = reader(read, 'steady', 1)
  for (let count = 0; count < 20; count++) {
    turns.read(reformed)
    turn()
    turns.read(steady)
    turn()
    ms = 0.1
  }
  turns.read(reader(read, 'slow', 3))
  for (const one of [steady, reformed]) expect(turns.read(one)).toBe(false)
  read.length = 0
  turn()
  expect(read).toEqual(['reformed', 'steady'])
})

test('nobody starves: who has waited for 250 ms is read, though lighter ones come without end', () => {
  const [turns, read] = [new Turns(), [] as string[]]
  const patient = reader(read, 'patient', 50)
  turns.read(patient)
  expect(turns.read(patient)).toBe(false)
  read.length = 0
  let count = 0
  while (!read.includes('patient') && count++ < 500) {
    for (let one = 0; one < 4; one++) turns.read(reader(read, 'new', 1))
    turn()
  }
  expect(read).toContain('patient')
  expect(read.indexOf('patient')).toBeGreaterThan(50)
})
