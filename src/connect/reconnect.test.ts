import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Session } from '../session/index.ts'
import { useFakeTime, World } from '../session/memory-path.compliance.ts'
import { Reconnect } from './reconnect.ts'

/** A session that has no path until it is told that it has one. */
class Lost extends EventTarget {
  needsPath = true
}

class Rig {
  readonly session = new Lost()
  readonly closing = new AbortController()
  readonly calls: number[] = []
  readonly knocks: number[] = []
  readonly reconnect: Reconnect

  /** @param outcome what a call comes to */
  constructor(outcome: () => Promise<boolean> = async () => true) {
    this.reconnect = new Reconnect({
      session: this.session as unknown as Session,
      hurry: () => {},
      knock: async () => void this.knocks.push(performance.now()),
      call: () => {
        this.calls.push(performance.now())
        return outcome()
      },
      closing: this.closing.signal,
    })
    this.session.dispatchEvent(new Event('reconnecting'))
  }
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  vi.spyOn(Math, 'random').mockReturnValue(0.5)
})
afterEach(() => {
  vi.restoreAllMocks()
  vi.useRealTimers()
})

test('a call that nobody answers is made again every second, and no more than four wait', async () => {
  const rig = new Rig(() => new Promise(() => {}))
  await vi.advanceTimersByTimeAsync(10_500)
  expect(rig.calls).toEqual([0, 1_000, 2_000, 3_000])
  expect(rig.knocks.length).toBe(11)
  rig.closing.abort()
  expect(vi.getTimerCount()).toBe(0)
})

test('an answer gives its paths a while; who is to be found elsewhere since calls at once', async () => {
  const rig = new Rig()
  await vi.advanceTimersByTimeAsync(1_200)
  expect(rig.calls).toEqual([0])
  rig.reconnect.wake()
  await vi.advanceTimersByTimeAsync(0)
  expect(rig.calls).toEqual([0, 1_200])
  // Not more often than ten times a second, whatever happens.
  for (let ms = 0; ms < 100; ms += 10) {
    rig.reconnect.wake()
    await vi.advanceTimersByTimeAsync(10)
  }
  expect(rig.calls.length).toBeLessThanOrEqual(3)
  rig.closing.abort()
})

test('it ends with the first path', async () => {
  const rig = new Rig()
  rig.session.needsPath = false
  rig.session.dispatchEvent(new Event('reconnected'))
  await vi.advanceTimersByTimeAsync(60_000)
  expect([rig.calls.length, rig.knocks.length, vi.getTimerCount()]).toEqual([1, 1, 0])
})

test('it goes on while a path that opened leads nowhere', async () => {
  vi.useRealTimers()
  useFakeTime()
  const world = new World()
  const first = await world.open()
  const [session] = world.sessions
  const closing = new AbortController()
  let knocks = 0
  new Reconnect({
    session,
    hurry: () => {},
    knock: async () => {
      const link = world.connect('tcp')
      // Somebody else lives there now, who takes everything and says nothing.
      if (knocks++ === 0) link.dead.fill(true)
    },
    call: async () => false,
    closing: closing.signal,
  })
  first.cut()
  await world.run(() => session.state === 'open', 2_000)
  expect(knocks).toBe(2)
  await world.pass(10_000)
  expect(knocks).toBe(2)
  world.stop()
  closing.abort()
  await world.pass(20)
  expect(vi.getTimerCount()).toBe(0)
})
