import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { VirtualClock, WORLD } from './virtual-clock.ts'

const real = { setTimeout, setImmediate, now: Date.now, performance: performance.now() }

let clock: VirtualClock
let done: string[]

/** Notes `what` when it runs. */
const note = (what: string) => () => void done.push(`${what}@${clock.elapsed}`)

async function run(ms = 1_000): Promise<string[]> {
  await clock.run(() => false, clock.now + ms)
  return done
}

describe('a virtual clock', () => {
  beforeEach(() => {
    clock = new VirtualClock(1)
    done = []
    clock.install()
  })
  afterEach(() => clock.uninstall())

  it('runs timers, immediates and promises in the order of their time', async () => {
    setTimeout(note('late'), 20)
    setTimeout(() => Promise.resolve().then(note('promise')), 5)
    setTimeout(note('after'), 5)
    setImmediate(note('immediate'))
    clearTimeout(setTimeout(note('never'), 1))
    expect(await run()).toEqual(['immediate@0', 'promise@5', 'after@5', 'late@20'])
    expect(clock.elapsed).toBe(1_000)
  })

  it('is the clock of the process while it is installed, and no longer', async () => {
    const before = performance.now()
    const interval = setInterval(note('tick'), 300)
    expect(await run()).toEqual(['tick@300', 'tick@600', 'tick@900'])
    clearInterval(interval)
    expect(performance.now() - before).toBe(1_000)
    expect([Date.now(), new Date(clock.now).getTime(), new Date(7).getTime()]).toEqual([clock.now, clock.now, 7])
    clock.uninstall()
    expect([setTimeout, setImmediate, Date.now]).toEqual([real.setTimeout, real.setImmediate, real.now])
    expect(performance.now()).toBeGreaterThan(real.performance)
  })

  it('counts the timers of each side', async () => {
    clock.at(clock.now, 0, 'io', () => setTimeout(note('its timer'), 500))
    await run(100)
    expect([clock.timersOf(0), clock.timersOf(1), clock.timersOf(WORLD)]).toEqual([1, 0, 0])
    await run()
    expect([clock.timersOf(0), done]).toEqual([0, ['its timer@500']])
  })

  it('holds what belongs to a side that is stopped; then timers come before what sockets bring', async () => {
    clock.at(clock.now + 10, 0, 'io', note('socket'))
    clock.at(clock.now + 20, 0, 'timer', note('timer'))
    clock.at(clock.now + 15, 1, 'io', note('other'))
    clock.stop(0)
    expect(await run(50)).toEqual(['other@15'])
    clock.resume(0)
    expect(await run(50)).toEqual(['other@15', 'timer@50', 'socket@50'])
  })

  it('runs nothing of a side that is no more', async () => {
    clock.at(clock.now + 10, 0, 'timer', note('never'))
    clock.forget(0)
    clock.at(clock.now + 10, 0, 'io', note('never'))
    expect(await run()).toEqual([])
    expect(clock.timersOf(0)).toBe(0)
  })

  it('keeps what an event throws, and goes on', async () => {
    setTimeout(() => {
      throw new TypeError('lost')
    }, 1)
    setTimeout(note('next'), 2)
    expect(await run()).toEqual(['next@2'])
    expect(clock.thrown).toEqual([new TypeError('lost')])
  })
})
