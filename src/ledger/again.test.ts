import { getEventListeners } from 'node:events'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { pause } from '../pause.ts'
import { backOffMs, mayPass } from './again.ts'

describe('trying a ledger again', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  test('may help when it was not there or busy, and not when it was closed, refuses or is no longer to be trusted', () => {
    const passes = (code: ConstructorParameters<typeof PeerlineError>[0]) => mayPass(new PeerlineError(code, ''))
    expect((['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_UNREACHABLE', 'ERR_PEERLINE_TIMEOUT'] as const).every(passes)).toBe(
      true,
    )
    const final = ['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_DENIED', 'ERR_PEERLINE_LEDGER', 'ERR_PEERLINE_ABORTED'] as const
    expect(final.some(passes)).toBe(false)
    expect(mayPass(new TypeError('a bug'))).toBe(false)
  })

  test('waits twice as long each time, up to a minute, and a quarter more or less', () => {
    expect([1, 2, 3, 6, 7, 50, 5_000].map((n) => backOffMs(n, () => 0.5))).toEqual([
      1_000, 2_000, 4_000, 32_000, 60_000, 60_000, 60_000,
    ])
    expect([0, 1].map((random) => backOffMs(1, () => random))).toEqual([750, 1_250])
  })

  test('leaves nothing behind at the signal, nor a timer', async () => {
    const cancel = new AbortController()
    const waited = pause(1_000, cancel.signal)
    await vi.advanceTimersByTimeAsync(1_000)
    await waited
    expect(getEventListeners(cancel.signal, 'abort')).toEqual([])
    const aborted = pause(1_000, cancel.signal)
    cancel.abort()
    await expect(aborted).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    await expect(pause(1_000, cancel.signal)).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    expect(vi.getTimerCount()).toBe(0)
  })
})
