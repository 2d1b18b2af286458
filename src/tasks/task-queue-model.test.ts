/**
 * Whatever is added, fails, hangs, is cancelled or closed, in whatever order: each task is settled exactly once, never more
 * than `concurrency` run, and never two of a peer.
 */
import fc from 'fast-check'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { type ErrorCode, isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import type { TaskHandle, TaskResult } from './job.ts'
import { GRACE_MS } from './run.ts'
import type { Task } from './task.ts'
import { type Executor, type TaskContext, TaskQueue } from './task-queue.ts'

const PEERS = [1, 2, 3].map((byte) => Identity.fromSeed(new Uint8Array(32).fill(byte)).peerId)
const FINAL = ['done', 'dead', 'cancelled', 'unknown'] as const
const STATUS = { done: 'done', dead: 'failed', cancelled: 'cancelled', unknown: 'unknown' } as const

const peerOf = ({ task }: TaskHandle) => ('peer' in task ? task.peer! : '')

const add = fc.record({
  do: fc.constant('add' as const),
  kind: fc.constantFrom('ping', 'disconnect', 'block', 'revoke', 'explode'),
  peer: fc.constantFrom(...PEERS),
  origin: fc.constantFrom('local' as const, PEERS[0]!),
  attempts: fc.integer({ min: 1, max: 3 }),
  timeoutMs: fc.integer({ min: 1, max: 3_000 }),
})
const at = fc.nat({ max: 20 })
const step = fc.oneof(
  { weight: 6, arbitrary: add },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('end' as const),
      at,
      with: fc.constantFrom<ErrorCode | 'value'>('value', 'ERR_PEERLINE_OFFLINE', 'ERR_PEERLINE_DENIED'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('cancel' as const), at }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('abort' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('retry' as const) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.nat({ max: 4_000 }) }) },
)

/** What is under way comes to rest; no time passes. */
async function rest(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await undefined
}

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

test('each task is settled once, in its bounds and in its order', async () => {
  const ends = { done: 0, failed: 0, cancelled: 0, unknown: 0, refused: 0 }
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 5, maxLength: 60, size: 'max' }),
      fc.integer({ min: 1, max: 3 }),
      fc.integer({ min: 1, max: 8 }),
      fc.nat({ max: GRACE_MS - 1 }),
      async (steps, concurrency, capacity, lag) => {
        vi.clearAllTimers()
        const wrong: string[] = []
        const running = new Map<string, (with_: ErrorCode | 'value') => void>()
        /** Tasks as they began for the first time, by peer and urgency. */
        const begun = new Map<string, number[]>()
        const numbers = new Map<string, number>()
        const urgency = (kind: string) => (kind === 'ping' ? 'late' : 'soon')
        const execute = (task: { kind: string; peer: string }, { signal, id, attempt }: TaskContext) =>
          new Promise((resolve, reject) => {
            if (running.has(task.peer)) wrong.push('two of a peer')
            let ending: ReturnType<typeof setTimeout> | undefined
            const over = (with_: ErrorCode | 'value') => {
              clearTimeout(ending)
              running.delete(task.peer)
              if (with_ === 'value') resolve(id)
              else reject(new PeerlineError(with_, 'as the test wants it'))
            }
            running.set(task.peer, over)
            if (running.size > concurrency) wrong.push('too many')
            // it takes its time to end, and may end by itself meanwhile
            signal.addEventListener('abort', () => {
              ending = setTimeout(over, lag, 'ERR_PEERLINE_ABORTED')
            })
            const lane = `${task.peer} ${urgency(task.kind)}`
            if (attempt === 1) begun.set(lane, [...(begun.get(lane) ?? []), numbers.get(id)!])
          })
        const executor = Object.fromEntries(['ping', 'disconnect', 'block', 'revoke'].map((kind) => [kind, execute]))
        const queue = new TaskQueue({ execute: executor as Executor, concurrency, capacity, maxDeadLetters: 2 })
        const finals = new Map<string, string[]>()
        for (const name of FINAL) {
          queue.addEventListener(name, ({ detail: { id } }) =>
            finals.set(id, [...(finals.get(id) ?? []), STATUS[name]]),
          )
        }
        const handles: TaskHandle[] = []
        const results = new Map<string, TaskResult[]>()
        let abort = new AbortController()
        const take = (make: () => TaskHandle) => {
          try {
            const handle = make()
            numbers.set(handle.id, handles.length)
            handles.push(handle)
            void handle.result.then((result) => results.set(handle.id, [...(results.get(handle.id) ?? []), result]))
          } catch (error) {
            if (!isPeerlineError(error)) throw error
            expect(error.code).toMatch(/^ERR_PEERLINE_(LIMIT|BUSY)$/)
            expect(queue.size).toBeGreaterThanOrEqual(Math.ceil(capacity / 2))
            ends.refused++
          }
        }

        for (const step of steps) {
          if (step.do === 'add') {
            const { kind, peer, origin, attempts, timeoutMs } = step
            take(() => queue.add({ kind, peer } as Task, { origin, attempts, timeoutMs, signal: abort.signal }))
          } else if (step.do === 'end') {
            const all = [...running.values()]
            all[step.at % Math.max(1, all.length)]?.(step.with)
          } else if (step.do === 'cancel') {
            const handle = handles[step.at % Math.max(1, handles.length)]
            const was = handle?.state
            expect(handle?.cancel() ?? false).toBe(was !== undefined && /^(queued|running|waiting)$/.test(was))
          } else if (step.do === 'abort') {
            abort.abort()
            abort = new AbortController()
          } else if (step.do === 'retry') {
            const [letter] = queue.deadLetters
            if (letter !== undefined) take(() => queue.retry(letter.id))
          } else {
            await vi.advanceTimersByTimeAsync(step.ms)
          }
          await rest()
          expect(queue.size).toBeLessThanOrEqual(capacity)
          expect(queue.deadLetters.length).toBeLessThanOrEqual(2)
          // nothing rests that could run
          if (running.size >= concurrency) continue
          const busy = new Set([...running.keys(), ...handles.filter(({ state }) => state === 'waiting').map(peerOf)])
          for (const handle of handles) if (handle.state === 'queued') expect(busy).toContain(peerOf(handle))
        }
        queue.close()
        // those that the executors themselves set
        expect(vi.getTimerCount()).toBe(running.size)
        await vi.advanceTimersByTimeAsync(GRACE_MS)
        expect(vi.getTimerCount()).toBe(0)
        for (const handle of handles) {
          const result = results.get(handle.id)
          expect(result?.length).toBe(1)
          expect(finals.get(handle.id)).toEqual([result![0]!.status])
          expect(handle.state).toBe(result![0]!.status)
          ends[result![0]!.status]++
        }
        expect(wrong).toEqual([])
        for (const order of begun.values()) expect(order).toEqual([...order].sort((a, b) => a - b))
      },
    ),
    { numRuns: 150 },
  )
  // the property has looked at each
  for (const count of Object.values(ends)) expect(count).toBeGreaterThan(50)
})
