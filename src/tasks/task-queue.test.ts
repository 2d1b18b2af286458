import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { type ErrorCode, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { GRACE_MS } from './run.ts'
import type { KnownTask, Task } from './task.ts'
import { type Executor, type TaskContext, type TaskEvents, TaskQueue, type TaskQueueOptions } from './task-queue.ts'

const [A, B, C, AUTHORITY] = [1, 2, 3, 4].map((byte) => Identity.fromSeed(new Uint8Array(32).fill(byte)).peerId) as [
  never,
  never,
  never,
  never,
]
const EVENTS = ['queued', 'started', 'failed', 'done', 'dead', 'cancelled', 'unknown'] as const

const failing = (code: ErrorCode) => new PeerlineError(code, 'as the test wants it')
const coded = (code: string) => expect.objectContaining({ code })
const ping = (peer = A) => ({ kind: 'ping', peer }) as const
const send = (peer = A, protocol = '/a/1') => ({ kind: 'send', peer, protocol, body: new Uint8Array(0) }) as const
const block = (peer = A) => ({ kind: 'block', peer }) as const

/** What an executor was called for, and how it ends. */
interface Call {
  readonly task: KnownTask
  readonly context: TaskContext
  readonly done: (value?: unknown) => void
  readonly fail: (error: unknown) => void
}

/** A queue whose tasks end when the test says so. */
function held(options: Partial<TaskQueueOptions> = {}) {
  const calls: Call[] = []
  const hold = (task: KnownTask, context: TaskContext) =>
    new Promise((done, fail) => calls.push({ task, context, done, fail }))
  const kinds = ['block', 'revoke', 'ping', 'send', 'update-settings', 'verify', 'unblock', 'authorise', 'disconnect']
  const execute = Object.fromEntries(kinds.map((kind) => [kind, hold])) as Executor
  const queue = new TaskQueue({ execute, random: () => 0.999_999, ...options })
  return { queue, calls, told: listen(queue) }
}

/** The names of events, as they come, and what they say. */
function listen(queue: TaskQueue) {
  const told: [name: string, detail: TaskEvents[keyof TaskEvents]][] = []
  for (const name of EVENTS) queue.addEventListener(name, ({ detail }) => told.push([name, detail]))
  return told
}

/** Time passes, and what it brings comes to rest. */
const pass = (ms = 0) => vi.advanceTimersByTimeAsync(ms)
const names = (told: readonly [string, unknown][]) => told.map(([name]) => name)
const kinds = (calls: readonly Call[]) => calls.map(({ task }) => task.kind)

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

describe('a task', () => {
  test('is done by the executor of its kind, and its owner has the value', async () => {
    const seen = vi.fn(async () => 12)
    const queue = new TaskQueue({ execute: { ping: seen } })
    const told = listen(queue)
    const handle = queue.add(ping(), { origin: AUTHORITY })
    expect(handle).toMatchObject({ state: 'queued', attempts: 0, origin: AUTHORITY, task: ping() })
    expect(seen).not.toHaveBeenCalled()
    expect(await handle.result).toEqual({ status: 'done', value: 12, attempts: 1 })
    expect(handle).toMatchObject({ state: 'done', attempts: 1 })
    expect(seen).toHaveBeenCalledExactlyOnceWith(ping(), {
      origin: AUTHORITY,
      id: handle.id,
      attempt: 1,
      signal: expect.any(AbortSignal),
    })
    const about = { id: handle.id, task: ping(), origin: AUTHORITY }
    expect(told).toEqual([
      ['queued', about],
      ['started', { ...about, attempt: 1 }],
      ['done', { ...about, value: 12, attempts: 1 }],
    ])
    expect(queue.size).toBe(0)
    expect(handle.cancel()).toBe(false)
  })

  test('is done by a method, which has its object', async () => {
    class Doer {
      readonly word = 'mine'
      ping() {
        return this.word
      }
    }
    const queue = new TaskQueue({ execute: new Doer() })
    expect(await queue.add(ping()).result).toMatchObject({ value: 'mine' })
  })

  test('is as it was when it was added', async () => {
    const { queue, calls } = held()
    const task = { ...send(), body: Uint8Array.of(7) }
    queue.add(task)
    task.body.fill(0)
    await pass()
    expect(calls[0]?.task).toEqual({ ...send(), body: Uint8Array.of(7) })
    queue.close()
  })

  test('that is not known is reported, takes no room and stops nothing', async () => {
    const { queue, calls, told } = held({ capacity: 1 })
    const handles = ['self-destruct', 'constructor', '__proto__'].map((name) =>
      queue.add({ kind: 'unknown', name } as Task, { origin: AUTHORITY }),
    )
    expect(handles.map(({ state }) => state)).toEqual(['unknown', 'unknown', 'unknown'])
    expect(await handles[0]?.result).toEqual({ status: 'unknown', name: 'self-destruct', attempts: 0 })
    expect(names(told)).toEqual(['unknown', 'unknown', 'unknown'])
    expect(queue.deadLetters).toEqual([])
    expect(handles[0]?.cancel()).toBe(false)
    const known = queue.add(ping())
    await pass()
    calls[0]?.done()
    expect((await known.result).status).toBe('done')
  })

  test('that nothing here does fails as unsupported, at once', async () => {
    const queue = new TaskQueue({ execute: {} })
    expect(await queue.add(ping()).result).toEqual({
      status: 'failed',
      error: coded('ERR_PEERLINE_UNSUPPORTED'),
      attempts: 1,
    })
    expect(queue.deadLetters).toMatchObject([{ task: ping(), attempts: 1 }])
  })

  test.each<[string, Parameters<TaskQueue['add']>]>([
    ['a task that is none', [{ kind: 'ping' } as never]],
    ['an origin that is no peer', [ping(), { origin: 'somebody' as never }]],
    ['no attempts', [ping(), { attempts: 0 }]],
    ['too many attempts', [ping(), { attempts: 101 }]],
    ['a wait of no time', [ping(), { retryMs: 0 }]],
    ['a wait without end', [ping(), { retryMs: 60_001 }]],
    ['no time', [ping(), { timeoutMs: 0 }]],
    ['more time than a timer holds', [ping(), { timeoutMs: 2 ** 31 }]],
  ])('with %s is not taken', (_what, args) => {
    const { queue, told } = held()
    expect(() => queue.add(...args)).toThrow(coded('ERR_PEERLINE_INVALID'))
    expect(queue.size + told.length).toBe(0)
  })
})

test.each([
  { capacity: 0 },
  { capacity: 1e9 },
  { capacity: 1.5 },
  { concurrency: 0 },
  { concurrency: 1e9 },
  { maxDeadLetters: 0 },
  { maxDeadLetters: 1e9 },
])('a queue with %o is refused', (options) => {
  expect(() => new TaskQueue({ execute: {}, ...options })).toThrow(coded('ERR_PEERLINE_INVALID'))
})

describe('another attempt', () => {
  const passing: ErrorCode[] = [
    'ERR_PEERLINE_TIMEOUT',
    'ERR_PEERLINE_OFFLINE',
    'ERR_PEERLINE_UNREACHABLE',
    'ERR_PEERLINE_NO_PATH',
    'ERR_PEERLINE_PATH_LOST',
    'ERR_PEERLINE_UNKNOWN_SESSION',
    'ERR_PEERLINE_CLOSED',
    'ERR_PEERLINE_BUSY',
    'ERR_PEERLINE_LIMIT',
  ]
  test.each(passing)('follows %s', async (code) => {
    const ping_ = vi.fn().mockRejectedValueOnce(failing(code)).mockResolvedValueOnce('there')
    const queue = new TaskQueue({ execute: { ping: ping_ } })
    const { result } = queue.add(ping())
    await pass(2_000)
    expect(await result).toEqual({ status: 'done', value: 'there', attempts: 2 })
  })

  const lasting: ErrorCode[] = [
    'ERR_PEERLINE_DENIED',
    'ERR_PEERLINE_INVALID',
    'ERR_PEERLINE_NO_PROTOCOL',
    'ERR_PEERLINE_REMOTE',
    'ERR_PEERLINE_TOO_LARGE',
    'ERR_PEERLINE_WRONG_PEER',
    'ERR_PEERLINE_UNSUPPORTED',
    'ERR_PEERLINE_ABORTED',
  ]
  test.each(lasting)('does not follow %s', async (code) => {
    const queue = new TaskQueue({ execute: { ping: () => Promise.reject(failing(code)) } })
    expect(await queue.add(ping()).result).toEqual({ status: 'failed', error: coded(code), attempts: 1 })
  })

  test('does not follow a fault of the program, thrown or rejected with, error or not', async () => {
    for (const ping of [
      () => Promise.reject(new TypeError('oops')),
      () => JSON.parse('{'),
      () => Promise.reject(null),
    ]) {
      const queue = new TaskQueue({ execute: { ping } })
      const result = await queue.add({ kind: 'ping', peer: A }).result
      expect(result).toEqual({ status: 'failed', error: coded('ERR_PEERLINE_INVALID'), attempts: 1 })
    }
  })

  test('comes after a wait that doubles, and after the last the task is dead', async () => {
    const { queue, calls, told } = held()
    const handle = queue.add(ping(), { attempts: 4, retryMs: 500 })
    for (const [at, wait] of [500, 1_000, 2_000].entries()) {
      await pass()
      expect(calls.length).toBe(at + 1)
      calls[at]?.fail(failing('ERR_PEERLINE_OFFLINE'))
      await pass()
      expect(handle).toMatchObject({ state: 'waiting', attempts: at + 1 })
      expect(told.at(-1)).toEqual(['failed', expect.objectContaining({ attempt: at + 1, retryInMs: wait })])
      await pass(wait - 1)
      expect(calls.length).toBe(at + 1)
      await pass(1)
    }
    expect(handle.state).toBe('running')
    expect(new Set(calls.map(({ context }) => context.id))).toEqual(new Set([handle.id]))
    expect(calls.map(({ context }) => context.attempt)).toEqual([1, 2, 3, 4])
    calls[3]?.fail(failing('ERR_PEERLINE_BUSY'))
    expect(await handle.result).toEqual({ status: 'failed', error: coded('ERR_PEERLINE_BUSY'), attempts: 4 })
    expect(names(told.slice(-2))).toEqual(['started', 'dead'])
  })

  test.each([
    [0, 1_000, 100],
    [0.999_999, 1_000, 1_000],
    [0.5, 1_000, 550],
    [0, 50, 50],
    [0.999_999, 60_000, 60_000],
  ])('waits by chance: %d of %d ms is %d ms', async (random, retryMs, wait) => {
    const { queue, calls, told } = held({ random: () => random })
    queue.add(ping(), { retryMs })
    await pass()
    calls[0]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass()
    expect(told.at(-1)?.[1]).toMatchObject({ retryInMs: wait })
    queue.close()
  })

  test('never waits longer than a minute', async () => {
    const ping_ = () => Promise.reject(failing('ERR_PEERLINE_OFFLINE'))
    const queue = new TaskQueue({ execute: { ping: ping_ }, random: () => 0.999_999 })
    const told = listen(queue)
    queue.add(ping(), { attempts: 100, retryMs: 60_000 })
    await pass(100 * 60_000)
    const waits = told.flatMap(([, detail]) => ('retryInMs' in detail ? [detail.retryInMs] : []))
    expect([waits.length, Math.max(...waits)]).toEqual([99, 60_000])
    expect(queue.size).toBe(0)
  })
})

describe('a deadline', () => {
  test('fires the signal of the attempt, which then has failed in time', async () => {
    const { queue, calls, told } = held()
    const handle = queue.add(ping(), { timeoutMs: 700, attempts: 2 })
    await pass(699)
    const { signal } = calls[0]!.context
    expect(signal.aborted).toBe(false)
    await pass(1)
    expect(signal.reason).toEqual(coded('ERR_PEERLINE_TIMEOUT'))
    expect(handle.state).toBe('running')
    calls[0]?.fail(new Error('whatever it says'))
    await pass()
    expect(told.at(-1)).toEqual(['failed', expect.objectContaining({ error: coded('ERR_PEERLINE_TIMEOUT') })])
    await pass(1_000)
    expect(calls[1]?.context.signal.aborted).toBe(false)
    calls[1]?.done()
    expect((await handle.result).status).toBe('done')
  })

  test('that the executor ignores: nothing of that peer begins beside it, until it is given up', async () => {
    const { queue, calls } = held({ concurrency: 1 })
    const [stuck, next] = [queue.add(ping(), { timeoutMs: 700, attempts: 1 }), queue.add(ping(B))]
    await pass(700 + GRACE_MS - 1)
    expect([stuck.state, next.state]).toEqual(['running', 'queued'])
    await pass(1)
    expect(await stuck.result).toMatchObject({ status: 'failed', error: coded('ERR_PEERLINE_TIMEOUT') })
    expect(next.state).toBe('running')
    calls[0]?.done('too late')
    calls[1]?.done()
    expect((await next.result).status).toBe('done')
    expect(stuck.state).toBe('failed')
  })

  test('that passed while the work was done all the same does not have it done twice', async () => {
    const { queue, calls } = held()
    const handle = queue.add(send(), { timeoutMs: 700 })
    await pass(800)
    calls[0]?.done('sent')
    expect(await handle.result).toEqual({ status: 'done', value: 'sent', attempts: 1 })
    expect(calls.length).toBe(1)
  })
})

describe('order', () => {
  test('is kept for a peer, one at a time, while others go beside', async () => {
    const { queue, calls } = held()
    for (const [at, peer] of [A, A, B, A, C].entries()) queue.add(send(peer, `/${at}`))
    await pass()
    const begun = () => calls.map(({ task }) => ('protocol' in task ? task.protocol : ''))
    expect(begun()).toEqual(['/0', '/2', '/4'])
    calls[0]?.done()
    await pass()
    expect(begun()).toEqual(['/0', '/2', '/4', '/1'])
    calls[3]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass(999)
    expect(begun().length).toBe(4)
    await pass(1)
    expect(begun()).toEqual(['/0', '/2', '/4', '/1', '/1'])
    calls[4]?.done()
    await pass()
    expect(begun().at(-1)).toBe('/3')
    queue.close()
  })

  test('lets a block go before what only talks, and keeps each of the two as it was', async () => {
    const { queue, calls } = held({ concurrency: 1 })
    queue.add(send(B))
    queue.add(send(A, '/1'))
    await pass()
    for (const task of [ping(), ping(C), block(), { kind: 'unblock', peer: A }, block(C)] as const) queue.add(task)
    for (let at = 0; at < 7; at++) {
      calls[at]?.done()
      await pass()
    }
    expect(calls.map(({ task }) => [task.kind, 'peer' in task && task.peer])).toEqual([
      ['send', B],
      ['block', A],
      ['block', C],
      ['unblock', A],
      ['ping', C],
      ['send', A],
      ['ping', A],
    ])
  })

  test('lets a block go while a message waits for its next attempt', async () => {
    const { queue, calls } = held()
    queue.add(send())
    queue.add(ping())
    await pass()
    calls[0]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass()
    queue.add(block())
    await pass()
    expect(kinds(calls)).toEqual(['send', 'block'])
    calls[1]?.done()
    await pass(999)
    expect(calls.length).toBe(2)
    await pass(1)
    expect(kinds(calls)).toEqual(['send', 'block', 'send'])
    queue.close()
  })

  test('is kept for settings, and for a prefix', async () => {
    const { queue, calls } = held()
    for (const value of [1, 2]) queue.add({ kind: 'update-settings', settings: { value } })
    for (const kind of ['block', 'unblock'] as const) queue.add({ kind, addresses: '192.0.2.0/24' })
    queue.add({ kind: 'block', addresses: '192.0.3.0/24' })
    await pass()
    // pressing lanes begin first
    expect(kinds(calls)).toEqual(['block', 'block', 'update-settings'])
    calls[0]?.done()
    calls[2]?.done()
    await pass()
    expect(kinds(calls.slice(3))).toEqual(['unblock', 'update-settings'])
    queue.close()
  })

  test('gives peers turns: one with a hundred tasks does not keep out another', async () => {
    const { queue, calls } = held({ concurrency: 1 })
    for (let count = 0; count < 100; count++) queue.add(ping(A))
    queue.add(ping(B))
    await pass()
    calls[0]?.done()
    await pass()
    expect(calls[1]?.task).toEqual(ping(B))
    queue.close()
  })
})

describe('the capacity', () => {
  test('is for what waits or runs; what ends makes room', async () => {
    const { queue, calls } = held({ capacity: 3, concurrency: 1 })
    const [first] = [queue.add(ping(A)), queue.add(ping(B)), queue.add(ping(C))]
    expect(() => queue.add(ping())).toThrow(coded('ERR_PEERLINE_LIMIT'))
    expect(() => queue.add(ping(), { origin: AUTHORITY })).toThrow(coded('ERR_PEERLINE_BUSY'))
    await pass()
    expect(() => queue.add(ping())).toThrow(coded('ERR_PEERLINE_LIMIT'))
    calls[0]?.done()
    await first.result
    expect(queue.size).toBe(2)
    queue.add(ping())
    expect(queue.list().map(({ task }) => task)).toEqual([ping(B), ping(C), ping(A)])
    queue.close()
  })

  test.each([
    [10, 5],
    [3, 2],
    [1, 1],
  ])('of %d holds at most %d tasks of authorities, so that one cannot keep out our own', async (capacity, orders) => {
    const { queue, calls } = held({ capacity })
    const origin = AUTHORITY
    const handles = Array.from({ length: orders }, () => queue.add(ping(), { origin }))
    expect(() => queue.add(ping(), { origin: B })).toThrow(coded('ERR_PEERLINE_BUSY'))
    for (let left = capacity - orders; left > 0; left--) queue.add(ping(B))
    expect(() => queue.add(ping(B))).toThrow(coded('ERR_PEERLINE_LIMIT'))
    await pass()
    calls[0]?.done()
    await handles[0]?.result
    queue.add(ping(), { origin })
    queue.close()
  })
})

describe('dead letters', () => {
  const dead = async (options: Partial<TaskQueueOptions> = {}, count = 1) => {
    const all = held(options)
    for (let at = 0; at < count; at++) {
      const { result } = all.queue.add(send(A, `/${at}`), { attempts: 1, timeoutMs: 5_000, origin: AUTHORITY })
      await pass()
      all.calls.at(-1)?.fail(failing('ERR_PEERLINE_DENIED'))
      await result
    }
    return all
  }

  test('say what failed, of whom and why', async () => {
    vi.setSystemTime(1_000_000)
    const { queue } = await dead()
    expect(queue.deadLetters).toEqual([
      {
        id: expect.stringMatching(/^[0-9a-f]{32}$/),
        task: send(A, '/0'),
        origin: AUTHORITY,
        error: coded('ERR_PEERLINE_DENIED'),
        attempts: 1,
        at: 1_000_000,
      },
    ])
  })

  test('are bounded: the oldest goes, and is counted', async () => {
    const { queue } = await dead({ maxDeadLetters: 2 }, 5)
    expect(queue.deadLetters.map(({ task }) => 'protocol' in task && task.protocol)).toEqual(['/3', '/4'])
    expect(queue.deadLettersDropped).toBe(3)
  })

  test('are tried again on the same terms, as another task', async () => {
    const { queue, calls, told } = await dead()
    const [letter] = queue.deadLetters
    const handle = queue.retry(letter!.id)
    expect(queue.deadLetters).toEqual([])
    expect(handle.id).not.toBe(letter!.id)
    expect(handle).toMatchObject({ origin: AUTHORITY, task: send(A, '/0'), attempts: 0 })
    expect(told.at(-1)).toEqual(['queued', { id: handle.id, task: send(A, '/0'), origin: AUTHORITY }])
    expect(() => queue.retry(letter!.id)).toThrow(coded('ERR_PEERLINE_INVALID'))
    await pass(5_000)
    expect(calls[1]?.context.signal.aborted).toBe(true)
    calls[1]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    expect(await handle.result).toMatchObject({ status: 'failed', attempts: 1 })
    expect(queue.deadLetters.length).toBe(1)
  })

  test('stay when there is no room to try them', async () => {
    const { queue } = await dead({ capacity: 1 })
    queue.add(ping())
    const { id } = queue.deadLetters[0]!
    expect(() => queue.retry(id)).toThrow(coded('ERR_PEERLINE_BUSY'))
    queue.close()
    expect(() => queue.retry(id)).toThrow(coded('ERR_PEERLINE_CLOSED'))
    expect(queue.deadLetters.length).toBe(1)
  })

  test('can be forgotten', async () => {
    const { queue } = await dead()
    const { id } = queue.deadLetters[0]!
    expect([queue.forget(id), queue.forget(id), queue.deadLetters.length]).toEqual([true, false, 0])
  })
})

describe('what is cancelled', () => {
  test.each(['queued', 'running', 'waiting'] as const)(
    'while it is %s is so at once, and is no dead letter',
    async (state) => {
      const { queue, calls, told } = held()
      const handle = queue.add(ping())
      if (state !== 'queued') await pass()
      if (state === 'waiting') calls[0]?.fail(failing('ERR_PEERLINE_OFFLINE'))
      if (state === 'waiting') await pass()
      expect(handle.state).toBe(state)
      expect(handle.cancel()).toBe(true)
      expect([handle.state, handle.cancel(), queue.size]).toEqual(['cancelled', false, 0])
      expect(await handle.result).toMatchObject({ status: 'cancelled', error: coded('ERR_PEERLINE_ABORTED') })
      expect(names(told).filter((name) => name === 'cancelled').length).toBe(1)
      expect(queue.deadLetters).toEqual([])
      const count = calls.length
      if (state === 'running') expect(calls[0]?.context.signal.reason).toEqual(coded('ERR_PEERLINE_ABORTED'))
      if (state === 'running') calls[0]?.done()
      await pass(100_000)
      expect(calls.length).toBe(count)
      expect(['cancelled', 'started', 'failed']).toContain(names(told).at(-1))
    },
  )

  test('makes way for the next of its peer only once its executor has ended', async () => {
    const { queue, calls } = held()
    const [first, second, third] = [queue.add(ping()), queue.add(send()), queue.add(send(A, '/3'))]
    await pass()
    first.cancel()
    second.cancel()
    await pass(GRACE_MS - 1)
    expect(calls.length).toBe(1)
    calls[0]?.fail(new Error('ended'))
    await pass()
    expect(third.state).toBe('running')
    queue.close()
  })

  test('while it waits makes way at once', async () => {
    const { queue, calls } = held()
    const [first, second] = [queue.add(ping()), queue.add(send())]
    await pass()
    calls[0]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass()
    first.cancel()
    await pass()
    expect(second.state).toBe('running')
    queue.close()
  })

  test('by its signal leaves nothing at it, and neither does what ends otherwise', async () => {
    const { queue, calls } = held()
    const abort = new AbortController()
    const { signal } = abort
    const warned = vi.fn()
    process.on('warning', warned)
    const handles = Array.from({ length: 50 }, () => queue.add(ping(), { signal }))
    await pass()
    calls[0]?.done()
    await handles[0]?.result
    expect(getEventListeners(signal, 'abort').length).toBe(49)
    abort.abort()
    expect(getEventListeners(signal, 'abort').length).toBe(0)
    expect(handles.map(({ state }) => state)).toEqual(['done', ...new Array(49).fill('cancelled')])
    expect(() => queue.add(ping(), { signal })).toThrow(coded('ERR_PEERLINE_ABORTED'))
    queue.close()
    await pass()
    process.off('warning', warned)
    expect(warned).not.toHaveBeenCalled()
  })

  test.each(['queued', 'started', 'failed'] as const)('by a listener of %s goes no further', async (event) => {
    const { queue, calls, told } = held({ concurrency: 1 })
    queue.addEventListener(event, ({ detail }) => {
      queue
        .list()
        .find(({ id, task }) => id === detail.id && task.kind === 'ping')
        ?.cancel()
    })
    const doomed = queue.add(ping())
    const next = queue.add(send())
    await pass()
    if (event === 'failed') calls[0]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass()
    expect(doomed.state).toBe('cancelled')
    expect(kinds(calls)).toEqual(event === 'failed' ? ['ping', 'send'] : ['send'])
    calls.at(-1)?.done()
    expect((await next.result).status).toBe('done')
    expect(names(told).filter((name) => name === 'cancelled').length).toBe(1)
  })
})

describe('closing', () => {
  test('ends all that waits or runs, once, and leaves no timer', async () => {
    const { queue, calls, told } = held({ concurrency: 2 })
    const running = queue.add(ping(A))
    const waiting = queue.add(ping(B))
    await pass()
    const queued = queue.add(send(A))
    const left = queue.add(ping(C))
    calls[1]?.fail(failing('ERR_PEERLINE_OFFLINE'))
    await pass()
    left.cancel()
    expect(vi.getTimerCount()).toBeGreaterThan(0)
    queue.close()
    queue.close()
    expect(vi.getTimerCount()).toBe(0)
    for (const handle of [running, waiting, queued]) {
      expect(await handle.result).toMatchObject({ status: 'cancelled', error: coded('ERR_PEERLINE_CLOSED') })
    }
    expect(calls[0]?.context.signal.reason).toEqual(coded('ERR_PEERLINE_CLOSED'))
    calls[0]?.done()
    await pass(100_000)
    expect(calls.length).toBe(3)
    expect(names(told).filter((name) => name === 'cancelled').length).toBe(4)
    expect(() => queue.add(ping())).toThrow(coded('ERR_PEERLINE_CLOSED'))
    expect(() => queue.add({ kind: 'unknown', name: 'x' })).toThrow(coded('ERR_PEERLINE_CLOSED'))
  })

  test('in the turn of adding, and from a listener, begins nothing', async () => {
    const first = held()
    first.queue.add(ping())
    first.queue.close()
    const second = held()
    second.queue.addEventListener('started', () => second.queue.close())
    second.queue.add(ping(A))
    second.queue.add(ping(B))
    await pass(100_000)
    expect([first.calls.length, second.calls.length]).toEqual([0, 0])
    expect(names(second.told)).toEqual(['queued', 'queued', 'started', 'cancelled', 'cancelled'])
  })
})
