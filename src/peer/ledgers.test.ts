import { afterEach, describe, expect, test, vi } from 'vitest'
import { KnownPeers } from '../discovery/index.ts'
import { PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import type { Ledger } from '../ledger/index.ts'
import { MemoryLedger } from '../ledger/memory-ledger.compliance.ts'
import { KeptLedgers } from './kept-ledgers.ts'
import type { LedgerSettings, LedgersHost } from './ledger-link.ts'
import { Ledgers } from './ledgers.ts'

const open: Ledgers[] = []

afterEach(async () => {
  for (const one of open.splice(0)) await one.close()
  vi.restoreAllMocks()
})

type Settings = Omit<LedgerSettings, 'ledger'> & { readonly ledger: Ledger }

/** A peer, as far as it has a ledger: it answers each offer with that offer. */
function start(settings: Settings, host: Partial<LedgersHost> = {}) {
  const identity = Identity.generate()
  const ledgers = new Ledgers([settings], {
    identity,
    known: new KnownPeers(),
    listed: true,
    onOffer: async (offer) => offer,
    dial: () => expect.unreachable(),
    parse: () => expect.unreachable(),
    rendezvous: [],
    kept: new KeptLedgers(),
    touch: () => {},
    ...host,
  })
  open.push(ledgers)
  const errors: { readonly error: PeerlineError; readonly retryMs?: number }[] = []
  ledgers.addEventListener('error', ({ detail }) => errors.push(detail))
  ledgers.open()
  return { ledgers, identity, id: identity.peerId, errors }
}

async function dial(from: Ledgers, to: PeerId): Promise<void> {
  const offer = crypto.getRandomValues(new Uint8Array(40))
  const signal = AbortSignal.timeout(10_000)
  expect(await from.media[0]!.exchange(to, new Uint8Array(16), offer, { signal })).toEqual(offer)
}

const online = ({ ledgers }: { ledgers: Ledgers }) => ledgers.online(AbortSignal.timeout(10_000))
const soon = (check: () => void) => vi.waitFor(check, { timeout: 10_000 })

/** Of what takes so many ms, a test waits for 50. */
function hurry(...waits: readonly number[]): void {
  const timeout = AbortSignal.timeout.bind(AbortSignal)
  vi.spyOn(AbortSignal, 'timeout').mockImplementation((ms) => timeout(waits.includes(ms) ? 50 : ms))
}

/** Reading this topic fails, and may work later: as while there is no end of it. */
function holdUp(ledger: MemoryLedger, topic: string) {
  const read = ledger.read.bind(ledger)
  return vi.spyOn(ledger, 'read').mockImplementation(async (of, options) => {
    if (of !== topic) return read(of, options)
    throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'as the test wants it')
  })
}

describe('a ledger of a peer', () => {
  test('where it cannot hear any more is opened again, after a while, and until then it says that it is not there', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'], shouldAdvanceTime: true })
    try {
      const ledger = new MemoryLedger({ id: 'log:test' })
      const [a, b] = [start({ ledger }), start({ ledger })]
      await Promise.all([online(a), online(b)])
      await dial(a.ledgers, b.id)
      // As from a server whose disk fails for a moment: nothing that a reader would wait for.
      ledger.disconnect('ERR_PEERLINE_REMOTE')
      await soon(() => expect(b.ledgers.status[0]!.online).toBe(false))
      await soon(() => expect(b.errors.length).toBe(1))
      expect(b.errors[0]).toMatchObject({ error: { code: 'ERR_PEERLINE_REMOTE' }, retryMs: 30_000 })
      // Its goodbye is there, and no offer is lost on it.
      await vi.advanceTimersByTimeAsync(31_000)
      await soon(() => expect([a, b].map(({ ledgers }) => ledgers.status[0]!.online)).toEqual([true, true]))
      await soon(async () => dial(a.ledgers, b.id))
    } finally {
      vi.useRealTimers()
    }
  })

  test('is of use while its registry cannot be read: to others, and to dial whose topics are remembered', async () => {
    hurry(20_000, 2_000)
    const ledger = new MemoryLedger()
    const held = holdUp(ledger, 'all')
    const b = start({ ledger, registry: 'all' })
    await online(b)
    const known = new KnownPeers()
    known.learnTopics(b.id, b.ledgers.topicEntries)
    const a = start({ ledger, registry: 'all' }, { known })
    await soon(() => expect(a.ledgers.media.length).toBe(1))
    await dial(a.ledgers, b.id)
    // When it is read, they are told of there all the same.
    held.mockRestore()
    const c = start({ ledger, registry: 'all' })
    await online(c)
    await soon(() => expect(ledger.entriesOf('all').length).toBe(3))
    await dial(c.ledgers, b.id)
  }, 20_000)

  test('has what is kept of it saved where that has changed, and at its end', async () => {
    vi.useFakeTimers({
      toFake: ['setInterval', 'clearInterval', 'setTimeout', 'clearTimeout'],
      shouldAdvanceTime: true,
    })
    try {
      const touch = vi.fn()
      const kept = new KeptLedgers()
      const ledger = new MemoryLedger()
      const a = start({ ledger, heartbeatMs: 600_000 }, { kept, touch })
      await online(a)
      await vi.advanceTimersByTimeAsync(10_000)
      touch.mockClear()
      await vi.advanceTimersByTimeAsync(500_000)
      expect(touch).not.toHaveBeenCalled()
      const saved = () => JSON.stringify(kept.section.export())
      const before = saved()
      await vi.advanceTimersByTimeAsync(100_000)
      expect(touch).toHaveBeenCalledTimes(1)
      expect(saved()).not.toBe(before)
      // The goodbye has a number too.
      await a.ledgers.close()
      expect(touch).toHaveBeenCalledTimes(2)
    } finally {
      vi.useRealTimers()
    }
  })

  test.each(['createTopic', 'append', 'read'] as const)('is closed while %s gets no answer', async (what) => {
    const ledger = new MemoryLedger()
    const asked = vi.fn()
    vi.spyOn(ledger, what).mockImplementation((...given: readonly unknown[]) => {
      asked()
      const { signal } = given.at(-1) as { signal: AbortSignal }
      return new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    })
    const { ledgers, errors } = start({ ledger, registry: 'all' })
    await soon(() => expect(asked).toHaveBeenCalled())
    const closedAt = performance.now()
    await ledgers.close()
    // A goodbye has 3 s.
    expect(performance.now() - closedAt).toBeLessThan(5_000)
    expect([ledgers.status[0]!.online, errors]).toEqual([false, []])
  })

  test.each([
    { heartbeatMs: 0 },
    { heartbeatMs: 9_999 },
    { heartbeatMs: 57_600_001 },
    { heartbeatMs: Number.POSITIVE_INFINITY },
    { heartbeatMs: Number.NaN },
    { answersPerMinute: -1 },
    { answersPerMinute: Number.NaN },
  ])('is not used with %o, which would cost more than its owner has meant', (settings) => {
    const ledger = new MemoryLedger()
    expect(() => start({ ledger, ...settings })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
    expect(ledger.asked.append).toBe(0)
  })
})
