import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { type RoutineEvents, type RoutineOptions, Routines } from './routines.ts'
import { GRACE_MS } from './run.ts'

const EVENTS = ['started', 'stopped', 'done', 'failed', 'skipped'] as const
const coded = (code: string) => expect.objectContaining({ code })
const INVALID = coded('ERR_PEERLINE_INVALID')
const pass = (ms = 0) => vi.advanceTimersByTimeAsync(ms)

let routines: Routines
let told: [string, RoutineEvents[keyof RoutineEvents]][]
const names = () => told.map(([name]) => name)

beforeEach(() => {
  vi.useFakeTimers()
  vi.setSystemTime(0)
  routines = new Routines({ random: () => 0.5 })
  told = []
  for (const name of EVENTS) routines.addEventListener(name, ({ detail }) => told.push([name, detail]))
})
afterEach(() => {
  routines.close()
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

/** A routine that runs each second, and whose runs end when the test says so. */
function held(options: Partial<RoutineOptions> = {}) {
  const runs: {
    readonly signal: AbortSignal
    readonly done: (value?: unknown) => void
    readonly fail: (e: unknown) => void
  }[] = []
  routines.add({
    name: 'r',
    intervalMs: 1_000,
    run: ({ signal }) => new Promise((done, fail) => runs.push({ signal, done, fail })),
    ...options,
  })
  return runs
}

describe('a routine', () => {
  test('is not started by being added', async () => {
    const run = vi.fn()
    routines.add({ name: 'r', run, intervalMs: 1_000 })
    await pass(10_000)
    expect(run).not.toHaveBeenCalled()
    expect(routines.get('r')).toEqual({
      name: 'r',
      state: 'stopped',
      intervalMs: 1_000,
      jitter: 0,
      overlap: 'skip',
      timeoutMs: 60_000,
      runs: 0,
      failures: 0,
      skipped: 0,
    })
  })

  test('runs once per interval when it is started, until it is stopped', async () => {
    const run = vi.fn(() => 12)
    routines.add({ name: 'r', run, intervalMs: 1_000 })
    routines.start('r')
    routines.start('r')
    await pass(999)
    expect(run).not.toHaveBeenCalled()
    expect(routines.get('r')).toMatchObject({ state: 'waiting', dueAt: 1_000 })
    await pass(2_001)
    expect(run).toHaveBeenCalledTimes(3)
    const last = { startedAt: 3_000, ms: 0, ok: true, value: 12 }
    expect(routines.list()).toEqual([expect.objectContaining({ runs: 3, failures: 0, last, dueAt: 4_000 })])
    routines.stop('r')
    routines.stop('r')
    await pass(10_000)
    expect(run).toHaveBeenCalledTimes(3)
    expect(routines.get('r')).toMatchObject({ state: 'stopped', last })
    expect(routines.get('r')).not.toHaveProperty('dueAt')
    expect(names()).toEqual(['started', 'done', 'done', 'done', 'stopped'])
    expect(told[1]).toEqual(['done', { name: 'r', result: { ...last, startedAt: 1_000 } }])
  })

  test.each(['startNow', 'now'] as const)('runs at once, and then once per interval, with %s', async (way) => {
    const run = vi.fn()
    routines.add({ name: 'r', run, intervalMs: 1_000, startNow: way === 'startNow' })
    if (way === 'now') routines.start('r', { now: true })
    expect(run).toHaveBeenCalledTimes(1)
    await pass(999)
    expect(run).toHaveBeenCalledTimes(1)
    await pass(1)
    expect(run).toHaveBeenCalledTimes(2)
  })

  test.each<[string, () => unknown, string]>([
    ['throws', () => JSON.parse('{'), 'ERR_PEERLINE_INVALID'],
    ['rejects', () => Promise.reject(new Error('no')), 'ERR_PEERLINE_INVALID'],
    ['rejects with nothing', () => Promise.reject(undefined), 'ERR_PEERLINE_INVALID'],
    ['fails as we do', () => Promise.reject(new PeerlineError('ERR_PEERLINE_OFFLINE', 'no')), 'ERR_PEERLINE_OFFLINE'],
  ])('that %s is recorded and told, and goes on', async (_what, run, code) => {
    routines.add({ name: 'r', run, intervalMs: 1_000 })
    routines.start('r')
    await pass(3_500)
    const last = { startedAt: 3_000, ms: 0, ok: false, error: coded(code) }
    expect(routines.get('r')).toMatchObject({ state: 'waiting', runs: 3, failures: 3, last, dueAt: 4_000 })
    expect(names()).toEqual(['started', 'failed', 'failed', 'failed'])
    expect(told[3]).toEqual(['failed', { name: 'r', result: last }])
  })

  test('says how long a run took', async () => {
    const runs = held()
    routines.start('r')
    await pass(1_000)
    expect(routines.get('r')?.state).toBe('running')
    await pass(300)
    runs[0]?.done()
    await pass()
    expect(routines.get('r')?.last).toEqual({ startedAt: 1_000, ms: 300, ok: true, value: undefined })
  })

  test('has a deadline: the signal fires, and the run has failed in time', async () => {
    const runs = held({ timeoutMs: 400 })
    routines.start('r')
    await pass(1_399)
    expect(runs[0]?.signal.aborted).toBe(false)
    await pass(1)
    expect(runs[0]?.signal.reason).toEqual(coded('ERR_PEERLINE_TIMEOUT'))
    runs[0]?.fail('whatever')
    await pass()
    expect(routines.get('r')).toMatchObject({ failures: 1, last: { ok: false, error: coded('ERR_PEERLINE_TIMEOUT') } })
  })

  test('that ignores its signal is given up, and runs again', async () => {
    const runs = held({ timeoutMs: 400 })
    routines.start('r')
    await pass(1_400 + GRACE_MS - 1)
    expect([runs.length, routines.get('r')?.state, routines.get('r')?.skipped]).toEqual([1, 'running', 5])
    await pass(1)
    expect(routines.get('r')?.state).toBe('waiting')
    await pass(1_000)
    expect(runs.length).toBe(2)
  })

  test('that is stopped while it runs has its signal fired, which is no failure', async () => {
    const runs = held()
    routines.start('r')
    await pass(1_000)
    routines.stop('r')
    expect(routines.get('r')?.state).toBe('stopping')
    expect(runs[0]?.signal.reason).toEqual(coded('ERR_PEERLINE_ABORTED'))
    runs[0]?.fail('whatever')
    await pass(5_000)
    expect(routines.get('r')).toMatchObject({ state: 'stopped', runs: 1, failures: 0, last: { ok: false } })
    expect(runs.length).toBe(1)
    // and a failure after that is one again
    routines.start('r')
    await pass(1_000)
    runs[1]?.fail('whatever')
    await pass()
    expect(routines.get('r')).toMatchObject({ runs: 2, failures: 1 })
  })

  test('that is stopped between two runs has its next failure counted', async () => {
    const runs = held()
    routines.start('r')
    routines.stop('r')
    routines.start('r', { now: true })
    runs[0]?.fail('whatever')
    await pass()
    expect(routines.get('r')?.failures).toBe(1)
  })

  test.each(['skip', 'queue', 'abort'] as const)(
    'that is started again while its last run ends waits for that: %s',
    async (overlap) => {
      const runs = held({ overlap })
      routines.start('r', { now: true })
      routines.stop('r')
      routines.start('r', { now: true })
      expect([runs.length, routines.get('r')?.state]).toEqual([1, 'running'])
      runs[0]?.fail('over')
      await pass()
      expect([runs.length, runs[1]?.signal.aborted, routines.get('r')?.failures]).toEqual([2, false, 0])
    },
  )

  test('that is removed is forgotten: its signal fires and nobody is told of its end', async () => {
    const runs = held()
    routines.start('r', { now: true })
    expect(routines.remove('r')).toBe(true)
    expect(runs[0]?.signal.reason).toEqual(coded('ERR_PEERLINE_ABORTED'))
    runs[0]?.done()
    await pass(10_000)
    expect([routines.get('r'), routines.list(), routines.remove('r')]).toEqual([undefined, [], false])
    expect(names()).toEqual(['started'])
    held()
  })

  test('may stop or remove itself, or close all', async () => {
    for (const way of ['stop', 'remove', 'close'] as const) {
      const run = vi.fn(() => routines[way]('r'))
      routines.add({ name: 'r', run, intervalMs: 1_000, startNow: true })
      await pass(5_000)
      expect(run).toHaveBeenCalledTimes(1)
      if (way === 'stop') expect(routines.get('r')).toMatchObject({ state: 'stopped', runs: 1 })
      routines.remove('r')
    }
  })

  test('that a listener stops does not begin what waits', async () => {
    const runs = held({ overlap: 'queue' })
    routines.addEventListener('done', () => routines.stop('r'))
    routines.start('r', { now: true })
    await pass(1_500)
    runs[0]?.done()
    await pass(5_000)
    expect([runs.length, routines.get('r')?.state]).toEqual([1, 'stopped'])
  })

  test('that a listener stops as it starts does not run', async () => {
    routines.addEventListener('started', () => routines.stop('r'))
    expect([held({ startNow: true }).length, routines.get('r')?.state]).toEqual([0, 'stopped'])
  })
})

describe('a run that is due while the last goes on', () => {
  test('is skipped', async () => {
    const runs = held({ overlap: 'skip' })
    routines.start('r')
    await pass(3_500)
    expect([runs.length, routines.get('r')?.skipped, runs[0]?.signal.aborted]).toEqual([1, 2, false])
    runs[0]?.done()
    await pass(499)
    expect(runs.length).toBe(1)
    await pass(1)
    expect(runs.length).toBe(2)
    expect(names()).toEqual(['started', 'skipped', 'skipped', 'done'])
  })

  test('waits, and only one does', async () => {
    const runs = held({ overlap: 'queue' })
    routines.start('r')
    await pass(4_500)
    expect([runs.length, routines.get('r')?.skipped, runs[0]?.signal.aborted]).toEqual([1, 2, false])
    runs[0]?.done()
    await pass()
    expect(runs.length).toBe(2)
    runs[1]?.done()
    await pass(499)
    expect(runs.length).toBe(2)
    await pass(1)
    expect(runs.length).toBe(3)
  })

  test('has the last called off, and begins when that has ended', async () => {
    const runs = held({ overlap: 'abort' })
    routines.start('r')
    await pass(1_999)
    expect(runs[0]?.signal.aborted).toBe(false)
    await pass(1_200)
    expect(runs[0]?.signal.reason).toEqual(coded('ERR_PEERLINE_ABORTED'))
    expect([runs.length, routines.get('r')?.skipped]).toEqual([1, 1])
    runs[0]?.fail('over')
    await pass()
    expect([runs.length, runs[1]?.signal.aborted]).toEqual([2, false])
    expect(routines.get('r')).toMatchObject({ state: 'running', runs: 1, failures: 1 })
  })

  test('never runs beside it, whatever the policy', async () => {
    const policy = fc.constantFrom('skip', 'queue', 'abort' as const)
    const step = fc.oneof(
      fc.constantFrom('start', 'now', 'stop', 'end' as const),
      fc.nat({ max: 2_500 }),
      fc.record({ interval: fc.integer({ min: 10, max: 2_000 }) }),
    )
    let most = 0
    await fc.assert(
      fc.asyncProperty(
        policy,
        fc.nat({ max: GRACE_MS - 1 }),
        fc.array(step, { maxLength: 40 }),
        async (overlap, lag, steps) => {
          const all = new Routines()
          const running = new Set<() => void>()
          const told = { begun: 0, done: 0, failed: 0 }
          all.addEventListener('done', () => told.done++)
          all.addEventListener('failed', () => told.failed++)
          all.add({
            name: 'r',
            intervalMs: 1_000,
            jitter: 0.5,
            overlap,
            timeoutMs: 3_000,
            run: ({ signal }) =>
              new Promise<void>((resolve) => {
                expect(running.size).toBe(0)
                told.begun++
                const end = () => {
                  running.delete(end)
                  resolve()
                }
                running.add(end)
                signal.addEventListener('abort', () => setTimeout(end, lag))
              }),
          })
          for (const step of steps) {
            if (step === 'start' || step === 'now') all.start('r', { now: step === 'now' })
            else if (step === 'stop') all.stop('r')
            else if (step === 'end') for (const end of running) end()
            else if (typeof step === 'number') await pass(step)
            else all.setInterval('r', step.interval)
            for (let turn = 0; turn < 30; turn++) await undefined // to rest; no time passes
            const { runs, state } = all.get('r')!
            expect(told.done).toBe(runs)
            expect(told.begun).toBe(runs + running.size)
            expect(running.size > 0).toBe(state === 'running' || state === 'stopping')
          }
          most = Math.max(most, told.begun)
          all.close()
          const { begun, done } = told
          await pass(20_000)
          expect(told).toEqual({ begun, done, failed: 0 })
          expect(vi.getTimerCount()).toBe(0)
        },
      ),
      { numRuns: 200 },
    )
    expect(most).toBeGreaterThan(1)
  })
})

describe('an interval', () => {
  test.each([
    [0, 0, 1_000],
    [0.25, 0, 750],
    [0.25, 0.5, 1_000],
    [0.25, 0.999_999, 1_250],
    [1, 0, 10],
    [1, 0.999_999, 2_000],
  ])('with jitter %d and chance %d is %d ms', async (jitter, random, wait) => {
    const all = new Routines({ random: () => random })
    const run = vi.fn()
    all.add({ name: 'r', run, intervalMs: 1_000, jitter })
    all.start('r')
    await pass(wait - 1)
    expect(run).not.toHaveBeenCalled()
    await pass(1)
    expect(run).toHaveBeenCalledTimes(1)
    all.close()
  })

  test('is drawn anew each time, evenly within its jitter', async () => {
    const all = new Routines()
    const at: number[] = []
    all.add({ name: 'r', run: () => at.push(Date.now()), intervalMs: 1_000, jitter: 0.2, startNow: true })
    await pass(5_000_000)
    all.close()
    const waits = at.slice(1).map((time, index) => time - at[index]!)
    expect(waits.length).toBeGreaterThan(4_500)
    expect([Math.min(...waits) >= 800, Math.max(...waits) <= 1_200]).toEqual([true, true])
    for (let from = 800; from < 1_200; from += 100) {
      const share = waits.filter((wait) => wait >= from && wait < from + 100).length / waits.length
      expect(share).toBeGreaterThan(0.2)
      expect(share).toBeLessThan(0.3)
    }
  })

  test('that is set takes effect at once, from when the last began', async () => {
    const run = vi.fn()
    routines.add({ name: 'r', run, intervalMs: 100_000 })
    routines.start('r')
    await pass(3_000)
    routines.setInterval('r', 5_000)
    expect(routines.get('r')).toMatchObject({ intervalMs: 5_000, dueAt: 5_000 })
    await pass(1_000)
    routines.setInterval('r', 6_000)
    expect(routines.get('r')?.dueAt).toBe(6_000)
    await pass(1_999)
    expect(run).not.toHaveBeenCalled()
    await pass(1)
    expect(run).toHaveBeenCalledTimes(1)
    await pass(5_999)
    routines.setInterval('r', 10)
    await pass()
    expect(run).toHaveBeenCalledTimes(2)
  })

  test('that is set again and again does not keep it from running', async () => {
    const run = vi.fn()
    routines.add({ name: 'r', run, intervalMs: 1_000, startNow: true })
    for (let count = 0; count < 100; count++) {
      await pass(100)
      routines.setInterval('r', 1_000)
    }
    expect(run.mock.calls.length).toBeGreaterThanOrEqual(10)
  })

  test('that is set does not start what is stopped', async () => {
    const runs = held()
    routines.setInterval('r', 50)
    await pass(1_000)
    expect([runs.length, routines.get('r')?.state]).toEqual([0, 'stopped'])
    routines.start('r')
    await pass(50)
    expect(runs.length).toBe(1)
  })

  test.each([0, 9, -1, 1.5, Number.NaN, 7 * 86_400_000 + 1, Number.POSITIVE_INFINITY])(
    'of %d ms is refused',
    (intervalMs) => {
      expect(() => held({ intervalMs })).toThrow(INVALID)
      held()
      expect(() => routines.setInterval('r', intervalMs)).toThrow(INVALID)
      expect(routines.get('r')?.intervalMs).toBe(1_000)
    },
  )
})

describe('the routines', () => {
  test.each<Partial<Record<keyof RoutineOptions, unknown>>>([
    { name: '' },
    { name: 'x'.repeat(65) },
    { name: 'a b' },
    { name: '-a' },
    { name: '__proto__' },
    { name: 'a\n' },
    { name: 7 },
    { run: undefined },
    { jitter: -0.1 },
    { jitter: 1.1 },
    { jitter: Number.NaN },
    { overlap: 'both' },
    { timeoutMs: 0 },
    { timeoutMs: 2 ** 31 },
  ])('take no routine with %o', (options) => {
    expect(() => held(options as Partial<RoutineOptions>)).toThrow(INVALID)
    expect(routines.list()).toEqual([])
  })

  test('have each name once', () => {
    held({ name: 'constructor' })
    expect(() => held({ name: 'constructor' })).toThrow(INVALID)
    for (const act of ['start', 'stop'] as const) expect(() => routines[act]('toString')).toThrow(INVALID)
    expect(() => routines.setInterval('toString', 1_000)).toThrow(INVALID)
    expect(routines.get('toString')).toBeUndefined()
  })

  test('are at most 256', () => {
    for (let count = 0; count < 256; count++) held({ name: `r${count}` })
    expect(() => held()).toThrow(coded('ERR_PEERLINE_LIMIT'))
    routines.remove('r7')
    held()
    expect(
      routines
        .list()
        .map(({ name }) => name)
        .slice(-2),
    ).toEqual(['r255', 'r'])
  })

  test('that are closed end everything, and tell nobody', async () => {
    const runs = held({ overlap: 'queue', startNow: true })
    held({ name: 's' })
    routines.start('s')
    await pass(1_500)
    told.length = 0
    routines.close()
    routines.close()
    expect(vi.getTimerCount()).toBe(0)
    expect(runs[0]?.signal.reason).toEqual(coded('ERR_PEERLINE_CLOSED'))
    runs[0]?.done()
    await pass(10_000)
    expect([runs.length, told.length, routines.list().length]).toEqual([1, 0, 0])
    expect(() => held()).toThrow(coded('ERR_PEERLINE_CLOSED'))
    expect(() => routines.start('r')).toThrow(coded('ERR_PEERLINE_CLOSED'))
  })
})
