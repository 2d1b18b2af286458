import { describe, expect, expectTypeOf, it, vi } from 'vitest'
import type { Channel } from './channel.ts'
import { TypedEventTarget } from './events.ts'
import { codeOf } from './memory-path.compliance.ts'
import type { PathChange } from './path-chooser.ts'
import type { Session } from './session.ts'
import type { SessionEvents } from './session-options.ts'
import { watch } from './watch.ts'

type Told = { tick: number; end: string }

class Source extends TypedEventTarget<Told> {
  /** Listeners that were added and not removed. */
  listening = 0
}

/** What tells events, and counts who listens. */
function makeSource(): Source {
  const source = new Source()
  const [add, remove] = [source.addEventListener.bind(source), source.removeEventListener.bind(source)]
  vi.spyOn(source, 'addEventListener').mockImplementation((type, listener) => {
    source.listening++
    add(type, listener)
  })
  vi.spyOn(source, 'removeEventListener').mockImplementation((type, listener) => {
    source.listening--
    remove(type, listener)
  })
  return source
}

async function all<T>(events: AsyncIterable<T>): Promise<T[]> {
  const seen: T[] = []
  for await (const event of events) seen.push(event)
  return seen
}

function tick(source: Source, count: number): void {
  for (let n = 0; n < count; n++) source.emit('tick', n)
}

describe('watched events', () => {
  it('come in order, to a consumer that was busy when they were told', async () => {
    const source = makeSource()
    const ticks = watch<Told, 'tick'>(source, 'tick', { until: 'end' })
    tick(source, 3)
    source.emit('end', 'over')
    tick(source, 1)
    expect(await all(ticks)).toEqual([0, 1, 2])
    expect(source.listening).toBe(0)
  })

  it.each([
    ['drop-oldest', [7, 8, 9]],
    ['drop-latest', [0, 1, 2]],
  ] as const)('beyond the capacity are dropped: %s', async (policy, kept) => {
    const source = makeSource()
    const ticks = watch<Told, 'tick'>(source, 'tick', { policy, capacity: 3, until: 'end' })
    tick(source, 10)
    expect([ticks.length, ticks.dropped]).toEqual([3, 7])
    source.emit('end', 'over')
    expect(await all(ticks)).toEqual(kept)
  })

  it('are the latest 256 when nothing is said', () => {
    const source = makeSource()
    const ticks = watch<Told, 'tick'>(source, 'tick')
    tick(source, 1_000)
    expect([ticks.length, ticks.dropped, ticks.shift()]).toEqual([256, 744, 744])
  })

  it('leave no listener when the consumer leaves, or the signal fires', async () => {
    const source = makeSource()
    const stop = new AbortController()
    const left = watch<Told, 'tick'>(source, 'tick', { until: 'end' })
    const stopped = watch<Told, 'tick'>(source, 'tick', { signal: stop.signal })
    expect(source.listening).toBe(3)
    tick(source, 2)
    for await (const n of left) {
      expect(n).toBe(0)
      break
    }
    expect(source.listening).toBe(1)
    stop.abort()
    expect(source.listening).toBe(0)
    expect(await codeOf(stopped.next())).toBe('ERR_PEERLINE_ABORTED')
    expect(() => watch<Told, 'tick'>(source, 'tick', { signal: stop.signal })).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_ABORTED' }),
    )
    expect(source.listening).toBe(0)
  })

  it('cannot block whoever tells them', () => {
    const policy = 'block' as 'drop-oldest'
    expect(() => watch<Told, 'tick'>(makeSource(), 'tick', { policy })).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }),
    )
  })

  it('have the type of what is told', () => {
    const ticks = watch<Told, 'tick'>(makeSource(), 'tick')
    expectTypeOf(ticks.shift()).toEqualTypeOf<number | undefined>()
    const ofSession = (session: Session) => watch<SessionEvents, 'path'>(session, 'path', { until: 'close' })
    expectTypeOf(ofSession).returns.toEqualTypeOf<Channel<PathChange>>()
  })
})
