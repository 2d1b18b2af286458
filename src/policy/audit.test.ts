import { describe, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { type AuditEntry, AuditLog } from './audit.ts'

const PEER = Identity.generate().peerId
const entry = (at: number, object = '/x/1'): AuditEntry => ({
  at,
  peer: PEER,
  object,
  direction: 'in',
  action: 'deny',
  reason: 'no-rule',
})

describe('the audit log', () => {
  test('keeps the latest, the oldest first', () => {
    const log = new AuditLog({ capacity: 3 })
    for (let at = 1; at <= 7; at++) {
      log.record(entry(at))
      expect(log.entries.map((kept) => kept.at)).toEqual([at - 2, at - 1, at].filter((kept) => kept > 0))
    }
  })

  test('keeps little of a long name', () => {
    const log = new AuditLog()
    log.record(entry(1, 'x'.repeat(1_000_000)))
    expect(log.entries[0]?.object.length).toBe(128)
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
    for (const at of [1, 2, 3]) log.record(entry(at))
    await new Promise((resolve) => setImmediate(resolve))
    expect(log.entries.length).toBe(3)
    expect(log.lost).toBe(2)
    expect(sink.mock.calls.map(([{ at }]) => at)).toEqual([1, 2, 3])
  })

  test.each([0, -1, 1.5, Number.NaN, 1e9])('refuses capacity %d', (capacity) => {
    expect(() => new AuditLog({ capacity })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})
