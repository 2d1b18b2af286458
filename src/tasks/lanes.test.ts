import { expect, test } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Job } from './job.ts'
import { Lanes } from './lanes.ts'
import type { KnownTask } from './task.ts'

const TERMS = { origin: 'local', attempts: 1, retryMs: 1, timeoutMs: 1 } as const

test('lanes go with the last of their tasks: strangers without end leave none behind', () => {
  const lanes = new Lanes()
  const { peerId: peer } = Identity.generate()
  const add = (task: KnownTask) => {
    const job = new Job(task, TERMS, () => false)
    lanes.add(job)
    return job
  }
  const settle = (job: Job) => {
    job.settle({ status: 'cancelled', error: new PeerlineError('ERR_PEERLINE_ABORTED', 'test'), attempts: 0 })
    lanes.remove(job)
  }
  const [first, second] = [add({ kind: 'ping', peer }), add({ kind: 'block', peer })]
  settle(add({ kind: 'block', addresses: '192.0.2.7' }))
  expect(lanes.size).toBe(1)
  expect(lanes.take()).toBe(second)
  settle(first)
  settle(second)
  // what runs still holds its lane, so that nothing of the peer begins beside it
  expect([lanes.size, lanes.take()]).toEqual([1, undefined])
  const third = add({ kind: 'ping', peer })
  expect(lanes.take()).toBeUndefined()
  lanes.free(second)
  expect(lanes.take()).toBe(third)
  settle(third)
  lanes.free(third)
  expect([lanes.size, lanes.take()]).toEqual([0, undefined])
})
