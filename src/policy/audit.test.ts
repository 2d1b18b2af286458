import { describe, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { AuditLog } from './audit.ts'
import type { Decision } from './decision.ts'

const PEER = Identity.generate().peerId
const denied = (object = '/x/1', view?: unknown): Decision => ({
  action: 'deny',
  reason: 'no-rule',
  question: { peer: PEER, object, direction: 'in', ...(view === undefined ? {} : { view }) },
})

describe('the audit log', () => {
  test('keeps the latest, the oldest first', () => {
    const log = new AuditLog({ capacity: 3 })
    for (let at = 1; at <= 7; at++) {
      log.record(at, denied())
      expect(log.entries.map((kept) => kept.at)).toEqual([at - 2, at - 1, at].filter((kept) => kept > 0))
    }
  })

  test('keeps little of a long name, and nothing of a request', () => {
    const log = new AuditLog()
    log.record(1, denied('x'.repeat(1_000_000), { all: 'of it' }))
    expect(log.entries).toEqual([
      { at: 1, peer: PEER, object: 'x'.repeat(128), direction: 'in', action: 'deny', reason: 'no-rule' },
    ])
  })

  test('survives a sink that throws, and one that rejects, and counts both', async () => {
    const sink = vi
      .fn()
      .mockImplementationOnce(() => {
        throw new Error('disk full')
      })
      .mockImplementationOnce(() => Promise.reject(new Error('disk full')))
      .mockImplementation(() => {})
    const log = new AuditLog({ sink })
    for (const at of [1, 2, 3]) log.record(at, denied())
    await new Promise((resolve) => setImmediate(resolve))
    expect(log.entries.length).toBe(3)
    expect(log.lost).toBe(2)
    expect(sink.mock.calls.map(([{ at }]) => at)).toEqual([1, 2, 3])
  })

  test.each([0, -1, 1.5, Number.NaN, 1e9])('refuses capacity %d', (capacity) => {
    expect(() => new AuditLog({ capacity })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})
