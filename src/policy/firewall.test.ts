import { describe, expect, test, vi } from 'vitest'
import { Identity } from '../identity/index.ts'
import { Firewall } from './firewall.ts'

const ALICE = Identity.generate().peerId
const BOB = Identity.generate().peerId
const denied = expect.objectContaining({ code: 'ERR_PEERLINE_DENIED' })

describe('firewall', () => {
  test('lets nobody in unless told', async () => {
    await expect(new Firewall().admit({ from: ALICE, how: 'direct' })).rejects.toEqual(denied)
  })

  test('lets everybody in when all are allowed', async () => {
    await new Firewall({ allow: 'all' }).admit({ from: ALICE, how: 'signaled' })
  })

  test('lets in who is on the list and no other, and follows changes', async () => {
    const firewall = new Firewall({ allow: [ALICE] })
    await firewall.admit({ from: ALICE, how: 'direct' })
    await expect(firewall.admit({ from: BOB, how: 'direct' })).rejects.toEqual(denied)
    firewall.allow(BOB)
    await firewall.admit({ from: BOB, how: 'direct' })
    firewall.disallow(ALICE)
    await expect(firewall.admit({ from: ALICE, how: 'direct' })).rejects.toEqual(denied)
  })

  test('refuses a list with something that is no peer id', () => {
    expect(() => new Firewall({ allow: ['nobody'] })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })

  test('asks the approver once for a peer that asks twice at the same time', async () => {
    let say: (yes: boolean) => void = () => {}
    const approve = vi.fn(() => new Promise<boolean>((resolve) => (say = resolve)))
    const firewall = new Firewall({ approve })
    const both = [firewall.admit({ from: ALICE, how: 'direct' }), firewall.admit({ from: ALICE, how: 'direct' })]
    say(true)
    await Promise.all(both)
    expect(approve).toHaveBeenCalledTimes(1)
  })

  test('takes a refusal, an exception and silence of the approver for no', async () => {
    await expect(new Firewall({ approve: () => false }).admit({ from: ALICE, how: 'direct' })).rejects.toEqual(denied)
    const failing = new Firewall({ approve: () => Promise.reject(new Error('boom')) })
    await expect(failing.admit({ from: ALICE, how: 'direct' })).rejects.toEqual(denied)
    let told: AbortSignal | undefined
    const silent = new Firewall({
      approveTimeoutMs: 5,
      approve: (_request, { signal }) => {
        told = signal
        return new Promise(() => {})
      },
    })
    await expect(silent.admit({ from: ALICE, how: 'direct' })).rejects.toEqual(denied)
    expect(told?.aborted).toBe(true)
  })

  test('keeps at most 64 questions open', async () => {
    const firewall = new Firewall({ approve: () => new Promise(() => {}), approveTimeoutMs: 200 })
    const asked = Array.from({ length: 64 }, () => firewall.admit({ from: Identity.generate().peerId, how: 'direct' }))
    const all = Promise.allSettled(asked)
    await expect(firewall.admit({ from: BOB, how: 'direct' })).rejects.toEqual(
      expect.objectContaining({ code: 'ERR_PEERLINE_BUSY' }),
    )
    expect((await all).every(({ status }) => status === 'rejected')).toBe(true)
  })
})
