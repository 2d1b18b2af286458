/**
 * Sessions in a world where everything that can happen to their paths does, at the worst moment: see `simulation.ts`.
 *
 *     PEERLINE_SCHEDULES=100000 npx vitest run test/chaos      a long run
 *     PEERLINE_SEED=4711 npx vitest run test/chaos             one schedule again, with all that happened in it
 */
import { describe, expect, it } from 'vitest'
import { countCuts, cutAt, UNDISTURBED } from './boundaries.ts'
import { Coverage, type Name } from './coverage.ts'
import { flood } from './flood.ts'
import { generate } from './generate.ts'
import { describeSchedule, type Schedule } from './schedule.ts'
import { type Outcome, Simulation } from './simulation.ts'

/** Schedules made from seeds, 1 and up. */
const SCHEDULES = Number(process.env.PEERLINE_SCHEDULES ?? 10_000)
/** The one to be replayed. */
const SEED = process.env.PEERLINE_SEED

/** ms for all schedules of a test: ten times what they take. */
const LIMIT_MS = 120_000 + 20 * SCHEDULES
/** Failures after which a test stops, and lines of what happened that each is told with. */
const MAX_FAILURES = 3
const MAX_LINES = 80

/** How often each thing must have happened in 10,000 schedules: about a third of what did when this was written. */
const LEAST: Readonly<Partial<Record<Name, number>>> = {
  survived: 4_000,
  cuts: 1_700,
  'silent cuts': 600,
  'black holes': 500,
  'half black holes': 1_000,
  'holes that healed': 900,
  'broken in send': 400,
  'stopped sides': 600,
  crashes: 100,
  'attaches lost': 250,
  'late links': 2_800,
  'all links lost': 4_000,
  troubles: 1_500,
  reconnects: 1_000,
  'window expirations': 700,
  'told of a session that is gone': 180,
  'closed on the way': 150,
  'aborted on the way': 45,
  'changes of path': 5_000,
  'trimmed links': 450,
  'resent records': 9_000,
  'duplicates received': 3_000,
  'records ahead of their turn': 2_000,
  'new keys': 600,
  resets: 1_000,
}

/** The schedule with this name. */
async function find(name: string): Promise<Schedule> {
  const [kind, number] = name.split(':')
  if (kind === 'cut') return cutAt(Number(number), (await run(UNDISTURBED)).messages)
  return kind === 'flood' ? flood()[Number(number)]! : generate(Number(name))
}

async function run(schedule: Schedule): Promise<Outcome> {
  return new Simulation(schedule).run()
}

/** What went wrong, in full: how it came to it, and how to see it again. */
async function explain(schedule: Schedule): Promise<string> {
  const { violations, lines } = await new Simulation(schedule, true).run()
  const replay = `PEERLINE_SEED=${schedule.name} npx vitest run test/chaos`
  return [...violations, describeSchedule(schedule), ...lines.slice(-MAX_LINES), `again: ${replay}`].join('\n')
}

/** Runs schedules until there are no more, or enough have failed. */
async function runAll(count: number, make: (at: number) => Schedule): Promise<Coverage> {
  const coverage = new Coverage()
  const failures: string[] = []
  for (let at = 0; at < count && failures.length < MAX_FAILURES; at++) {
    const schedule = make(at)
    const outcome = await run(schedule)
    coverage.add(outcome.coverage)
    if (outcome.violations.length > 0) failures.push(await explain(schedule))
  }
  expect(failures.join('\n\n')).toBe('')
  return coverage
}

describe.skipIf(SEED !== undefined)('two sessions', () => {
  it('do the same again when a seed is run again', { timeout: LIMIT_MS }, async () => {
    for (let seed = 1; seed <= 100; seed++) {
      const [once, again] = [await run(generate(seed)), await run(generate(seed))]
      expect([seed, again.hash]).toEqual([seed, once.hash])
    }
    expect((await run(generate(1))).hash).not.toBe((await run(generate(2))).hash)
  })

  it('lose, double and move nothing when their path is cut at any message boundary', {
    timeout: LIMIT_MS,
  }, async () => {
    const { messages, violations, coverage } = await run(UNDISTURBED)
    expect(violations).toEqual([])
    expect(coverage.get('resent records')).toBe(0)
    expect(Math.min(...messages)).toBeGreaterThan(10)
    const cuts = countCuts(messages)
    const all = await runAll(cuts, (at) => cutAt(at, messages))
    console.info(`every cut:\n${all}`)
    expect(all.get('survived')).toBe(cuts)
    // With a path that stands by, fewer messages go on the first one.
    expect(all.get('cuts') + all.get('silent cuts')).toBeGreaterThan(0.9 * cuts)
  })

  it('keep what is on its way within bounds when nothing is acknowledged', { timeout: LIMIT_MS }, async () => {
    const schedules = flood()
    await runAll(schedules.length, (at) => schedules[at]!)
    for (const schedule of schedules) expect((await run(schedule)).peakBytes).toBeGreaterThan(15_000_000)
  })

  it(`survive what can be survived, and end together otherwise: ${SCHEDULES} times`, {
    timeout: LIMIT_MS,
  }, async () => {
    const all = await runAll(SCHEDULES, (at) => generate(at + 1))
    console.info(`seeds 1 to ${SCHEDULES}:\n${all}`)
    for (const [name, least] of Object.entries(LEAST) as [Name, number][]) {
      expect(all.get(name), name).toBeGreaterThanOrEqual(Math.floor((least * SCHEDULES) / 10_000))
    }
  })
})

describe.runIf(SEED !== undefined)('one schedule', () => {
  it(`that is called ${SEED}`, { timeout: LIMIT_MS }, async () => {
    const schedule = await find(SEED!)
    const { violations, lines, coverage } = await new Simulation(schedule, true).run()
    console.info([describeSchedule(schedule), ...lines, String(coverage)].join('\n'))
    expect(violations).toEqual([])
  })
})
