import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { PeerId } from '../identity/index.ts'
import type { RequestHandler } from './handler-context.ts'
import { Replies, type ReplyLimits } from './replies.ts'
import { toKey } from './request-key.ts'

const BODY = new Uint8Array([1, 2, 3])

describe('what is remembered', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] })
  })
  afterEach(() => {
    vi.advanceTimersByTime(100)
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
  })

  /** Asks, and gives the first byte of the answer: 0 is an answer, 1 a failure. */
  function asker(replies: Replies) {
    let executed = 0
    return {
      get executed() {
        return executed
      },
      ask(name: string, { peer = 'p', bytes = 10, confirm = false, handler }: Asking = {}): number | undefined {
        let answer: Uint8Array | undefined
        const answering: RequestHandler = () => {
          executed++
          return new Uint8Array(bytes)
        }
        const key = toKey(name)
        const reply = replies.ask(
          { from: peer as PeerId, protocol: '/x/1', key, body: BODY, timeoutMs: 10_000 },
          handler ?? answering,
          {
            answered: (given) => {
              answer = given
            },
          },
        )
        if (confirm) reply?.confirm()
        return answer?.[0]
      },
    }
  }
  interface Asking {
    peer?: string
    bytes?: number
    confirm?: boolean
    handler?: RequestHandler
  }
  const make = (limits: ReplyLimits) => {
    const replies = new Replies(limits)
    return { replies, one: asker(replies) }
  }

  it('is forgotten two minutes after the answer', () => {
    const { replies, one } = make({})
    expect([one.ask('a'), one.ask('a'), one.executed]).toEqual([0, 0, 1])
    vi.advanceTimersByTime(119_000)
    expect([one.ask('a'), one.executed, replies.size]).toEqual([0, 1, 1])
    vi.advanceTimersByTime(1_100)
    expect([replies.size, replies.bytes]).toEqual([0, 0])
    expect([one.ask('a'), one.executed]).toEqual([0, 2])
    replies.close()
  })

  it('never makes room for more of the same peer unless it is confirmed', () => {
    const { replies, one } = make({ perPeer: 4 })
    for (const name of ['a', 'b', 'c', 'd']) one.ask(name)
    expect([one.ask('e'), one.executed, replies.size]).toEqual([1, 4, 4])
    expect(one.ask('e', { peer: 'q' })).toBe(0)
    one.ask('b', { confirm: true })
    expect([one.ask('e'), one.executed, replies.size]).toEqual([0, 6, 5])
    // Those that were not confirmed are still known.
    expect([one.ask('a'), one.ask('c'), one.ask('d'), one.executed]).toEqual([0, 0, 0, 6])
    replies.close()
  })

  it('in all is bounded: whoever holds most makes room, where it can', () => {
    const { replies, one } = make({ inAll: 4 })
    for (const name of ['a', 'b', 'c']) one.ask(name, { peer: 'greedy', confirm: true })
    one.ask('d', { peer: 'modest' })
    expect(one.ask('e', { peer: 'new' })).toBe(0)
    expect(replies.size).toBe(4)
    expect([one.ask('d', { peer: 'modest' }), one.executed]).toEqual([0, 5])
    replies.close()
  })

  it('keeps large answers as far as there is room, the latest first, and knows of the others that they were given', () => {
    const { replies, one } = make({ bytesPerPeer: 1_000, bytesInAll: 1_500 })
    expect(one.ask('large', { bytes: 900 })).toBe(0)
    expect(one.ask('large')).toBe(0)
    one.ask('next', { bytes: 900 })
    expect(replies.bytes).toBe(901)
    expect([one.ask('large'), one.ask('next'), one.executed]).toEqual([1, 0, 2])
    expect([one.ask('huge', { bytes: 5_000 }), one.ask('huge')]).toEqual([0, 1])
    one.ask('other', { peer: 'q', bytes: 800 })
    expect(replies.bytes).toBeLessThanOrEqual(1_500)
    expect(one.ask('other', { peer: 'q' })).toBe(0)
    expect(one.executed).toBe(4)
    replies.close()
  })

  it('does not hold a handler that never ends for ever', () => {
    const { replies, one } = make({})
    let signal: AbortSignal | undefined
    one.ask('a', {
      handler: (_body, context) => {
        signal = context.signal
        return new Promise(() => {})
      },
    })
    vi.advanceTimersByTime(10_100)
    expect([signal?.aborted, replies.size]).toEqual([true, 1])
    vi.advanceTimersByTime(120_100)
    expect(replies.size).toBe(0)
  })

  it('property: however many ask for what, no request is executed twice in its time, and the bounds hold', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            peer: fc.constantFrom('p', 'q', 'r'),
            name: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
            bytes: fc.nat(400),
          }),
          { maxLength: 60 },
        ),
        (asked) => {
          const { replies } = make({ perPeer: 4, inAll: 9, bytesPerPeer: 600, bytesInAll: 1_000 })
          const executed = new Map<string, number>()
          const one = asker(replies)
          for (const { peer, name, bytes } of asked) {
            one.ask(name, {
              peer,
              handler: () => {
                executed.set(peer + name, (executed.get(peer + name) ?? 0) + 1)
                return new Uint8Array(bytes)
              },
            })
            expect(replies.size).toBeLessThanOrEqual(9)
            expect(replies.bytes).toBeLessThanOrEqual(1_000)
          }
          expect([...executed.values()].every((times) => times === 1)).toBe(true)
          replies.close()
          expect([replies.size, replies.bytes]).toEqual([0, 0])
        },
      ),
      { numRuns: 200 },
    )
  })
})
