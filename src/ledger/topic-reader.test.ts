import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity, type PeerId } from '../identity/index.ts'
import { ConsensusClock } from './clock.ts'
import { MAX_MESSAGE_BYTES, type Message, sealMessage } from './envelope.ts'
import type { Entry } from './ledger.ts'
import { MemoryLedger } from './memory-ledger.compliance.ts'
import { WINDOW } from './sequence-window.ts'
import { type ReaderState, TopicReader, type TopicReaderOptions } from './topic-reader.ts'

const TOPIC = 'a/in'
const [a, b, c] = [1, 2, 3].map((n) => Identity.fromSeed(new Uint8Array(32).fill(n))) as [Identity, Identity, Identity]
const NAMES = new Map<PeerId, string>([
  [a.peerId, 'a'],
  [b.peerId, 'b'],
  [c.peerId, 'c'],
])
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

describe('the reader of a topic', () => {
  let ledger: MemoryLedger
  /** What was handed over: `a5` is the message of `a` with sequence 5. */
  let got: string[]
  let states: ReaderState[]
  const readers: TopicReader[] = []

  beforeEach(() => {
    vi.useFakeTimers({ now: 1_700_000_000_000 })
    ledger = new MemoryLedger()
    got = []
    states = []
  })

  afterEach(async () => {
    await Promise.all(readers.splice(0).map((reader) => reader.close()))
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
  })

  function open(options: Partial<TopicReaderOptions> = {}): TopicReader {
    const onMessage = ({ sender, sequence }: Message) => got.push(`${NAMES.get(sender)}${sequence}`)
    const onState = (state: ReaderState) => states.push(state)
    const reader = new TopicReader({ ledger, topic: TOPIC, onMessage, onState, random: () => 0.5, ...options })
    readers.push(reader)
    return reader
  }

  const seal = (signer: Identity, sequence: number, { topic = TOPIC, id = ledger.id, time = Date.now() } = {}) =>
    sealMessage(signer, { ledger: id, topic, sequence, kind: 1, payload: Uint8Array.of(sequence & 0xff), time })
  const put = (signer: Identity, ...sequences: number[]) => {
    for (const sequence of sequences) ledger.put(TOPIC, seal(signer, sequence))
  }
  const settle = () => vi.advanceTimersByTimeAsync(0)
  const names = () => states.map(({ state }) => state)

  test('hands over what is there, and then what comes, in the order of the ledger', async () => {
    put(a, 1, 2)
    put(b, 1)
    const reader = open()
    expect(reader.position).toBe(0)
    await settle()
    expect(got).toEqual(['a1', 'a2', 'b1'])
    put(a, 4, 3)
    await settle()
    expect(got).toEqual(['a1', 'a2', 'b1', 'a4', 'a3'])
    expect(reader.position).toBe(5)
    expect(names()).toEqual(['reading'])
  })

  test('hands over the message and the entry, as they are', async () => {
    const took: [Message, Entry][] = []
    open({ onMessage: (message, entry) => took.push([message, entry]) })
    put(a, 7)
    await settle()
    const [entry] = ledger.entriesOf(TOPIC)
    expect(took).toEqual([
      [expect.objectContaining({ sender: a.peerId, sequence: 7, kind: 1, time: Date.now() }), entry],
    ])
    expect(took[0]![0].payload).toEqual(Uint8Array.of(7))
  })

  test('goes on where an earlier one was, and misses nothing of the time between', async () => {
    put(a, 1, 2)
    const earlier = open()
    await settle()
    await earlier.close()
    put(a, 3)
    const later = open({ from: earlier.position + 1 })
    expect(later.position).toBe(2)
    await settle()
    put(a, 4)
    await settle()
    expect(got).toEqual(['a1', 'a2', 'a3', 'a4'])
  })

  test('begins at a time', async () => {
    put(a, 1, 2)
    vi.setSystemTime(Date.now() + 1_000)
    put(a, 3, 4)
    open({ since: Date.now() })
    await settle()
    ledger.disconnect()
    await vi.advanceTimersByTimeAsync(2_000)
    put(a, 5)
    await settle()
    expect(got).toEqual(['a3', 'a4', 'a5'])
  })

  test('comes back when the ledger was gone: after 1 s, then 2, 4, and a minute at most; what came meanwhile is there', async () => {
    put(a, 1)
    const reader = open()
    await settle()
    ledger.unreachable = true
    ledger.disconnect()
    put(a, 2)
    await vi.advanceTimersByTimeAsync(400_000)
    const waits = states.filter((state) => state.state === 'waiting').map(({ retryInMs }) => retryInMs)
    expect(waits.slice(0, 8)).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000])
    expect(reader.state).toMatchObject({ state: 'waiting', error: code('ERR_PEERLINE_UNREACHABLE') })
    ledger.unreachable = false
    await vi.advanceTimersByTimeAsync(60_000)
    expect(reader.state).toEqual({ state: 'reading' })
    put(a, 3)
    await settle()
    expect(got).toEqual(['a1', 'a2', 'a3'])
    ledger.disconnect()
    await settle()
    expect(reader.state).toMatchObject({ retryInMs: 1_000 })
  })

  test('holds a subscription of half a minute to have worked, though nothing came', async () => {
    const reader = open()
    for (const retryInMs of [1_000, 2_000]) {
      await settle()
      ledger.disconnect()
      await settle()
      expect(reader.state).toMatchObject({ retryInMs })
      await vi.advanceTimersByTimeAsync(retryInMs)
    }
    await vi.advanceTimersByTimeAsync(30_001)
    ledger.disconnect()
    await settle()
    expect(reader.state).toMatchObject({ retryInMs: 1_000 })
  })

  test('comes back to a ledger that ends subscriptions without a word', async () => {
    const subscribe = ledger.subscribe.bind(ledger)
    vi.spyOn(ledger, 'subscribe').mockImplementationOnce(async function* (topic, options) {
      for await (const entry of subscribe(topic, options)) return yield entry
    })
    put(a, 1, 2)
    const reader = open()
    await settle()
    expect(reader.state).toMatchObject({ state: 'waiting', error: code('ERR_PEERLINE_UNREACHABLE') })
    await vi.advanceTimersByTimeAsync(1_000)
    expect(got).toEqual(['a1', 'a2'])
  })

  test.each(['ERR_PEERLINE_DENIED', 'ERR_PEERLINE_INVALID', 'ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_PAYMENT'] as const)(
    'ends with %s: that does not pass',
    async (permanent) => {
      const reader = open()
      await settle()
      ledger.disconnect(permanent)
      await vi.advanceTimersByTimeAsync(100_000)
      expect(reader.state).toEqual({ state: 'failed', error: code(permanent) })
      expect(ledger.asked.subscribe).toBe(1)
      await reader.close()
      expect(names()).toEqual(['reading', 'failed'])
    },
  )

  test('ends when what takes the messages fails, whatever that fails with', async () => {
    for (const odd of [new Error('a bug'), new PeerlineError('ERR_PEERLINE_BUSY', 'a bug')]) {
      const fail = () => {
        throw odd
      }
      put(a, ledger.entriesOf(TOPIC).length + 1)
      const [taking, choosing] = [open({ onMessage: fail }), open({ accept: fail })]
      await vi.advanceTimersByTimeAsync(100_000)
      expect(taking.state).toEqual({ state: 'failed', error: code('ERR_PEERLINE_INVALID') })
      expect(choosing.state).toEqual({ state: 'failed', error: code('ERR_PEERLINE_INVALID') })
    }
  })

  describe('passes over', () => {
    test('what is not valid: made up, forged, of another place, of another version, too large', async () => {
      const forged = seal(a, 2)
      forged[forged.length - 1]! ^= 1
      const renamed = seal(b, 3)
      renamed.set(a.publicKey, 2)
      const newer = seal(a, 4)
      newer[0] = 2
      put(a, 1)
      for (const bytes of [
        new Uint8Array(),
        new Uint8Array(500).fill(1),
        forged,
        renamed,
        newer,
        seal(a, 5, { topic: 'b/in' }),
        seal(a, 6, { id: 'memory:other' }),
        new Uint8Array(MAX_MESSAGE_BYTES + 1),
      ]) {
        ledger.put(TOPIC, bytes)
      }
      put(a, 2)
      const reader = open()
      await settle()
      expect(got).toEqual(['a1', 'a2'])
      expect(reader.counts).toEqual({ messages: 2, invalid: 8, unwanted: 0, copies: 0, stale: 0 })
      expect(reader.position).toBe(10)
    })

    test('whom it does not want', async () => {
      put(a, 1)
      put(b, 1)
      put(a, 2)
      const reader = open({ accept: (sender) => sender === a.peerId })
      await settle()
      expect(got).toEqual(['a1', 'a2'])
      expect(reader.counts).toMatchObject({ messages: 2, unwanted: 1 })
    })

    test('copies, and others with a sequence that was there, also after the ledger was gone', async () => {
      const once = seal(a, 5)
      const other = sealMessage(a, { ledger: ledger.id, topic: TOPIC, sequence: 5, kind: 2, payload: Uint8Array.of(1) })
      for (const bytes of [once, once, other]) ledger.put(TOPIC, bytes)
      const reader = open()
      await settle()
      ledger.disconnect()
      await vi.advanceTimersByTimeAsync(1_000)
      ledger.put(TOPIC, once)
      put(a, 6)
      await settle()
      expect(got).toEqual(['a5', 'a6'])
      expect(reader.counts).toMatchObject({ messages: 2, copies: 3 })
    })

    test('what is 64 and more behind, which cannot be told from a copy any more', async () => {
      put(a, 100, 100 - WINDOW, 100 - WINDOW + 1)
      const reader = open()
      await settle()
      expect(got).toEqual(['a100', `a${100 - WINDOW + 1}`])
      expect(reader.counts).toMatchObject({ copies: 1 })
    })

    test('old messages that somebody has sent again, when nothing is known of them, and those from the future', async () => {
      put(a, 1)
      const now = Date.now()
      const reader = open({ from: 2 })
      vi.setSystemTime(now + 600_001)
      ledger.put(TOPIC, seal(a, 1, { time: now }))
      put(b, 1)
      ledger.put(TOPIC, seal(c, 1, { time: Date.now() + 601_000 }))
      await settle()
      expect(got).toEqual(['b1'])
      expect(reader.counts).toMatchObject({ messages: 1, stale: 2 })
    })

    test('no message that took ten minutes', async () => {
      const late = seal(a, 1)
      vi.setSystemTime(Date.now() + 600_000)
      ledger.put(TOPIC, late)
      open()
      const strict = open({ freshMs: 1_000 })
      await settle()
      expect(got).toEqual(['a1'])
      expect(strict.counts).toMatchObject({ stale: 1 })
    })
  })

  test('keeps so many senders, those heard last, and none for a message that is not theirs', async () => {
    const forged = seal(c, 1)
    forged[forged.length - 1]! ^= 1
    const once = [a, b].map((signer) => seal(signer, 1)) as [Uint8Array, Uint8Array]
    for (const bytes of [...once, forged, ...once]) ledger.put(TOPIC, bytes)
    open({ maxSenders: 2 })
    await settle()
    expect(got).toEqual(['a1', 'b1'])
    put(c, 1)
    ledger.put(TOPIC, once[1])
    ledger.put(TOPIC, once[0])
    await settle()
    expect(got).toEqual(['a1', 'b1', 'c1', 'a1'])
  })

  test('handles 50 entries at a stretch and 500 a second, and loses none of a flood', async () => {
    for (let i = 0; i < 500; i++) ledger.put(TOPIC, Uint8Array.of(1))
    put(a, 1)
    const reader = open()
    await settle()
    expect(reader.position).toBe(50)
    await vi.advanceTimersByTimeAsync(100)
    expect(reader.position).toBe(100)
    await vi.advanceTimersByTimeAsync(899)
    expect(got).toEqual([])
    await vi.advanceTimersByTimeAsync(1)
    expect(got).toEqual(['a1'])
  })

  test('may be told another pace', async () => {
    put(a, 1, 2, 3, 4, 5)
    open({ perSecond: 2 })
    await settle()
    expect(got).toEqual(['a1', 'a2'])
    await vi.advanceTimersByTimeAsync(1_000)
    expect(got).toEqual(['a1', 'a2', 'a3', 'a4'])
  })

  describe('does not trust a ledger that', () => {
    const entry = (sequence: number, at = Date.now() + sequence): Entry => ({
      sequence,
      at,
      message: seal(a, sequence),
    })

    /** Each subscription brings these, and then waits, or ends when others are to come. */
    function script(...subscriptions: Entry[][]): void {
      vi.spyOn(ledger, 'subscribe').mockImplementation(async function* (_, { signal }) {
        yield* subscriptions.shift() ?? []
        if (subscriptions.length > 0) throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'the test says so')
        await new Promise((resolve) => signal.addEventListener('abort', resolve))
      })
    }

    async function expectDistrust(...after: string[]): Promise<void> {
      const reader = open()
      await vi.advanceTimersByTimeAsync(10_000)
      expect(got).toEqual(after)
      expect(reader.state).toEqual({ state: 'failed', error: code('ERR_PEERLINE_LEDGER') })
    }

    test('has changed the bytes of an entry', async () => {
      script([entry(1)], [{ ...entry(1), message: seal(b, 1) }, entry(2)])
      await expectDistrust('a1')
    })

    test('has changed the time of an entry', async () => {
      script([entry(1)], [entry(1, Date.now() + 1.001), entry(2)])
      await expectDistrust('a1')
    })

    test.each([1, 2])('goes back, to %i', async (sequence) => {
      script([entry(1), entry(2), entry(sequence)])
      await expectDistrust('a1', 'a2')
    })

    test('goes back in time', async () => {
      script([entry(1), entry(2, Date.now() + 0.999)])
      await expectDistrust('a1')
    })

    test('begins before what was asked for', async () => {
      script([entry(0)])
      await expectDistrust()
    })

    test.each([Number.NaN, -1, 8.7e15])('has an entry at the time %d', async (at) => {
      script([entry(1, at)])
      await expectDistrust()
    })

    test.each([1.5, Number.NaN, 2 ** 53])('has an entry at the place %d', async (sequence) => {
      script([{ ...entry(1), sequence }])
      await expectDistrust()
    })

    test('has something else than bytes', async () => {
      script([{ ...entry(1), message: 'text' as unknown as Uint8Array }])
      await expectDistrust()
    })

    test('keeps two entries of one moment, which is none of these', async () => {
      script([entry(1, 1_700_000_000_000), entry(2, 1_700_000_000_000)])
      open()
      await settle()
      expect(got).toEqual(['a1', 'a2'])
    })

    test('leaves something out: it is asked again, and goes on once it is there', async () => {
      script([entry(1), entry(3)], [entry(1), entry(3)], [entry(2)], [entry(1), entry(2), entry(3)])
      const reader = open()
      await settle()
      expect(reader.state).toMatchObject({ state: 'waiting', retryInMs: 1_000, error: code('ERR_PEERLINE_LEDGER') })
      await vi.advanceTimersByTimeAsync(1_000)
      expect(reader.state).toMatchObject({ state: 'waiting', retryInMs: 2_000 })
      await vi.advanceTimersByTimeAsync(2_000)
      expect(reader.state).toMatchObject({ state: 'waiting', retryInMs: 4_000 })
      expect(got).toEqual(['a1'])
      await vi.advanceTimersByTimeAsync(4_000)
      expect(got).toEqual(['a1', 'a2', 'a3'])
    })

    test('leaves out the beginning: it is asked again', async () => {
      script([entry(2)], [entry(1), entry(2)])
      open()
      await vi.advanceTimersByTimeAsync(1_000)
      expect(got).toEqual(['a1', 'a2'])
    })
  })

  test('hands over nothing once it is closed, reading, waiting or not yet begun', async () => {
    ledger.latencyMs = 0
    put(a, 1)
    await open().close()
    const reading: TopicReader = open({
      onMessage: () => {
        got.push('first')
        void reading.close()
      },
    })
    put(a, 2)
    await vi.advanceTimersByTimeAsync(1_000)
    expect(got).toEqual(['first'])
    ledger.unreachable = true
    const waiting = open()
    await settle()
    await waiting.close()
    ledger.unreachable = false
    await vi.advanceTimersByTimeAsync(10_000)
    expect(got).toEqual(['first'])
    expect(waiting.state).toEqual({ state: 'closed' })
  })

  test('hands over nothing once it is closed, whatever the ledger still brings', async () => {
    put(a, 1, 2)
    const entries = ledger.entriesOf(TOPIC)
    vi.spyOn(ledger, 'subscribe').mockImplementation(async function* () {
      yield* entries
    })
    const reader: TopicReader = open({
      onMessage: ({ sequence }) => {
        got.push(`${sequence}`)
        void reader.close()
      },
    })
    await settle()
    expect(got).toEqual(['1'])
  })

  test('is closed, and has not failed, when it is closed in the midst of a flood', async () => {
    for (let i = 0; i < 300; i++) ledger.put(TOPIC, Uint8Array.of(1))
    const reader = open()
    await settle()
    await reader.close()
    expect(reader.position).toBe(50)
    expect(names()).toEqual(['reading', 'closed'])
  })

  test('teaches the clock', async () => {
    ledger.clockAheadMs = 90_000
    const clock = new ConsensusClock()
    put(a, 1)
    await vi.advanceTimersByTimeAsync(40)
    open({ clock })
    await settle()
    expect(clock.offsetMs).toBeCloseTo(90_000 - 40, 0)
  })

  test('hands over each message of each sender once, in the order of the ledger, whatever is done to the topic', async () => {
    const signers = [a, b, c]
    const act = fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant('put' as const), who: fc.nat(2), n: fc.nat(120) }) },
      { weight: 2, arbitrary: fc.record({ do: fc.constant('replay' as const), who: fc.nat(2), n: fc.nat(1_000) }) },
      fc.record({ do: fc.constant('forge' as const), who: fc.nat(2), n: fc.nat(120) }),
      fc.record({ do: fc.constant('elsewhere' as const), who: fc.nat(2), n: fc.nat(120) }),
      fc.record({ do: fc.constant('noise' as const), who: fc.nat(2), n: fc.nat(120) }),
      fc.record({ do: fc.constant('cut' as const), who: fc.nat(2), n: fc.nat(120) }),
      fc.record({ do: fc.constant('wait' as const), who: fc.nat(2), n: fc.nat(3_000) }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 120 }), async (acts) => {
        ledger = new MemoryLedger({ spreadMs: 500 })
        got = []
        const sent: { who: number; n: number; bytes: Uint8Array }[] = []
        const expected: string[] = []
        const seen = signers.map(() => ({ all: new Set<number>(), highest: -1 }))
        const place = (message: { who: number; n: number; bytes: Uint8Array }) => {
          const { who, n, bytes } = message
          ledger.put(TOPIC, bytes)
          const { all, highest } = seen[who]!
          if (all.has(n) || n <= highest - WINDOW) return
          expected.push(`${'abc'[who]}${n}`)
          all.add(n)
          seen[who]!.highest = Math.max(highest, n)
        }
        const reader = open()
        for (const { do: what, who, n } of acts) {
          if (what === 'put') {
            const message = { who, n, bytes: seal(signers[who]!, n) }
            sent.push(message)
            place(message)
          } else if (what === 'replay') {
            if (sent.length > 0) place(sent[n % sent.length]!)
          } else if (what === 'forge') {
            const bytes = seal(signers[(who + 1) % 3]!, n)
            bytes.set(signers[who]!.publicKey, 2)
            ledger.put(TOPIC, bytes)
          } else if (what === 'elsewhere') ledger.put(TOPIC, seal(signers[who]!, n, { topic: 'b/in' }))
          else if (what === 'noise') ledger.put(TOPIC, new Uint8Array(n).fill(who))
          else if (what === 'cut') ledger.disconnect()
          else await vi.advanceTimersByTimeAsync(n)
        }
        await vi.advanceTimersByTimeAsync(60_000)
        expect(got).toEqual(expected)
        expect(reader.position).toBe(ledger.entriesOf(TOPIC).length)
        await reader.close()
      }),
      { numRuns: 100 },
    )
  })
})
