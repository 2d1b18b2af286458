import { getEventListeners } from 'node:events'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { ConsensusClock } from './clock.ts'
import { Kind, MAX_ENVELOPE_BYTES, type Message, openMessage } from './envelope.ts'
import { MemoryLedger } from './memory-ledger.compliance.ts'
import { WINDOW } from './sequence-window.ts'
import { TopicReader } from './topic-reader.ts'
import { TopicWriter, type TopicWriterOptions } from './topic-writer.ts'

const signer = Identity.fromSeed(new Uint8Array(32).fill(7))
const TOPIC = 'a/out'
const TRIES_MS = 60_000 // all attempts and the waits between them
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const payload = (n: number) => Uint8Array.of(n)

describe('the writer of a topic', () => {
  let ledger: MemoryLedger
  let cancel: AbortController

  beforeEach(() => {
    vi.useFakeTimers({ now: 1_700_000_000_000 })
    ledger = new MemoryLedger()
    cancel = new AbortController()
  })

  afterEach(async () => {
    await ledger.close()
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
  })

  const open = (options: Partial<TopicWriterOptions> = {}) =>
    new TopicWriter({ ledger, topic: TOPIC, signer, random: () => 0.5, ...options })
  const append = (writer: TopicWriter, n: number) =>
    writer.append(Kind.HEARTBEAT, payload(n), { signal: cancel.signal })
  const written = (): Message[] =>
    ledger.entriesOf(TOPIC).map(({ message }) => openMessage(message, { ledger: ledger.id, topic: TOPIC }))
  /** What a promise brings, or what it fails with. */
  const outcome = <T>(promise: Promise<T>): Promise<T | PeerlineError> => promise.catch((error: PeerlineError) => error)

  test('gives each message the next sequence, and its receipt', async () => {
    const writer = open()
    const first = await append(writer, 1)
    const second = await append(writer, 2)
    expect(first).toEqual({
      sequence: expect.any(Number),
      attempts: 1,
      receipt: { sequence: 1, at: expect.any(Number) },
    })
    expect(second.sequence).toBe(first.sequence + 1)
    expect(writer.sequence).toBe(second.sequence)
    expect(written()).toEqual([
      expect.objectContaining({ sender: signer.peerId, kind: Kind.HEARTBEAT, sequence: first.sequence }),
      expect.objectContaining({ payload: payload(2), sequence: second.sequence }),
    ])
  })

  test('goes on from the sequence it is given, or from the time when that is later', async () => {
    expect((await append(open({ sequence: 2e12 }), 1)).sequence).toBe(2e12 + 1)
    expect((await append(open({ sequence: 5 }), 2)).sequence).toBe(Date.now())
    vi.setSystemTime(Date.now() + 10)
    expect((await append(open(), 3)).sequence).toBe(Date.now())
  })

  test('saves its sequence, and takes it over from a clock that was ahead', async () => {
    const before = open({ sequence: 2e12 })
    await append(before, 1)
    const after = open()
    after.load(JSON.parse(JSON.stringify(before.export())))
    expect((await append(after, 2)).sequence).toBe(2e12 + 2)
    after.load({ sequence: 5 })
    expect((await append(after, 3)).sequence).toBe(2e12 + 3)
    for (const odd of [undefined, null, 5, {}, { sequence: -1 }, { sequence: '5' }, { sequence: 2 ** 53 - 1 }]) {
      expect(() => after.load(odd)).toThrow(code('ERR_PEERLINE_INVALID'))
    }
    expect(() => open({ sequence: 1.5 })).toThrow(code('ERR_PEERLINE_INVALID'))
  })

  test('does not wait for consensus when that is not wanted', async () => {
    ledger.latencyMs = 5_000
    const writer = open()
    const sent = await writer.append(Kind.OFFER, payload(1), { signal: cancel.signal, wait: 'sent' })
    expect(sent.receipt).toEqual({})
    expect(written()).toEqual([])
    await vi.advanceTimersByTimeAsync(5_000)
    expect(written()).toHaveLength(1)
  })

  test('refuses at once what is too large for the ledger, and gives it no sequence', async () => {
    const writer = open()
    const { sequence } = writer
    expect(writer.maxPayloadBytes).toBe(1_024 - MAX_ENVELOPE_BYTES)
    const tooLarge = writer.append(1, new Uint8Array(writer.maxPayloadBytes + 1), { signal: cancel.signal })
    await expect(tooLarge).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
    expect(ledger.asked.append).toBe(0)
    expect(writer.sequence).toBe(sequence)
    await writer.append(1, new Uint8Array(writer.maxPayloadBytes), { signal: cancel.signal })
  })

  test('tries again after 1, 2, 4, 8 and 16 s, with the same bytes, and then no more', async () => {
    const seen: { atMs: number; message: string }[] = []
    const began = Date.now()
    vi.spyOn(ledger, 'append').mockImplementation(async (_, message) => {
      seen.push({ atMs: Date.now() - began, message: Buffer.from(message).toString('hex') })
      throw new PeerlineError('ERR_PEERLINE_UNREACHABLE', 'the test says so')
    })
    const result = outcome(append(open(), 1))
    await vi.advanceTimersByTimeAsync(TRIES_MS)
    expect(await result).toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    expect(seen.map(({ atMs }) => atMs)).toEqual([0, 1_000, 3_000, 7_000, 15_000, 31_000])
    expect(new Set(seen.map(({ message }) => message)).size).toBe(1)
  })

  test('waits a quarter more or less, so that nobody comes back in step', async () => {
    for (const [random, ms] of [
      [0, 750],
      [0.999_999, 1_249],
    ] as const) {
      ledger.failNext('ERR_PEERLINE_BUSY')
      const asked = ledger.asked.append
      const result = append(open({ random: () => random }), 1)
      await vi.advanceTimersByTimeAsync(ms - 1)
      expect(ledger.asked.append).toBe(asked + 1)
      await vi.advanceTimersByTimeAsync(2)
      expect(ledger.asked.append).toBe(asked + 2)
      expect((await result).attempts).toBe(2)
    }
  })

  test.each(['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_UNREACHABLE', 'ERR_PEERLINE_TIMEOUT', 'ERR_PEERLINE_OFFLINE'] as const)(
    'tries again after %s',
    async (passing) => {
      ledger.failNext(passing)
      const result = append(open(), 1)
      await vi.advanceTimersByTimeAsync(1_000)
      expect(await result).toMatchObject({ attempts: 2 })
    },
  )

  test.each([
    'ERR_PEERLINE_INVALID',
    'ERR_PEERLINE_DENIED',
    'ERR_PEERLINE_PAYMENT',
    'ERR_PEERLINE_TOO_LARGE',
    'ERR_PEERLINE_LEDGER',
    'ERR_PEERLINE_CLOSED',
  ] as const)('does not try again after %s', async (permanent) => {
    ledger.failNext(permanent)
    await expect(append(open(), 1)).rejects.toEqual(code(permanent))
    expect(ledger.asked.append).toBe(1)
  })

  test('gives up an attempt that takes 30 s and four times the latency, and tries again', async () => {
    ledger.latencyMs = 5_000
    vi.spyOn(ledger, 'append').mockImplementationOnce(
      (_topic, _message, { signal }) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    )
    const result = append(open(), 1)
    await vi.advanceTimersByTimeAsync(50_999)
    expect(ledger.asked.append).toBe(0)
    await vi.advanceTimersByTimeAsync(1)
    expect(ledger.asked.append).toBe(1)
    await vi.advanceTimersByTimeAsync(5_000)
    expect(await result).toMatchObject({ attempts: 2 })
  })

  test('fails with a time-out when every attempt takes too long', async () => {
    vi.spyOn(ledger, 'append').mockImplementation(
      (_topic, _message, { signal }) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    )
    const result = outcome(append(open(), 1))
    await vi.advanceTimersByTimeAsync(6 * 30_000 + 31_000)
    expect(await result).toEqual(code('ERR_PEERLINE_TIMEOUT'))
  })

  test('does not have one message wait for the consensus on another', async () => {
    ledger.latencyMs = 4_000
    const writer = open()
    const results = Promise.all([1, 2, 3].map((n) => append(writer, n)))
    await vi.advanceTimersByTimeAsync(4_000)
    expect((await results).map(({ receipt }) => receipt.sequence)).toEqual([1, 2, 3])
    expect(written().map(({ payload }) => payload[0])).toEqual([1, 2, 3])
  })

  test('has 16 messages under way, begun in order, and the others wait', async () => {
    ledger.latencyMs = 1_000
    const writer = open()
    const results = Promise.all(Array.from({ length: 40 }, (_, n) => append(writer, n)))
    expect([ledger.asked.append, writer.pending]).toEqual([16, 40])
    await vi.advanceTimersByTimeAsync(1_000)
    expect([ledger.asked.append, writer.pending]).toEqual([32, 24])
    await vi.advanceTimersByTimeAsync(2_000)
    await results
    expect(writer.pending).toBe(0)
    expect(written().map(({ payload }) => payload[0])).toEqual(Array.from({ length: 40 }, (_, n) => n))
  })

  test('goes no further ahead of a message that is tried again than readers can tell it from an old one', async () => {
    const writer = open({ maxPending: 200 })
    ledger.failNext('ERR_PEERLINE_BUSY')
    const late = append(writer, 255)
    const others = Promise.all(Array.from({ length: 100 }, (_, n) => append(writer, n)))
    await vi.advanceTimersByTimeAsync(999)
    expect(written()).toHaveLength(WINDOW - 1)
    await vi.advanceTimersByTimeAsync(1)
    await Promise.all([late, others])
    const reader: number[] = []
    await using _ = new TopicReader({ ledger, topic: TOPIC, onMessage: ({ payload }) => reader.push(payload[0]!) })
    await vi.advanceTimersByTimeAsync(1_000)
    expect(reader).toHaveLength(101)
  })

  test('takes no more than so many', async () => {
    ledger.latencyMs = 1_000
    const writer = open({ maxPending: 2 })
    const results = Promise.all([append(writer, 1), append(writer, 2)])
    await expect(append(writer, 3)).rejects.toEqual(code('ERR_PEERLINE_LIMIT'))
    await vi.advanceTimersByTimeAsync(1_000)
    await results
    const fourth = append(writer, 4)
    await vi.advanceTimersByTimeAsync(1_000)
    await fourth
  })

  test('gives up a message when its signal fires: not begun, under way, or between attempts', async () => {
    ledger.latencyMs = 1_000
    const writer = open()
    const signals = Array.from({ length: 18 }, () => new AbortController())
    ledger.failNext('ERR_PEERLINE_BUSY')
    const results = signals.map(({ signal }, n) => outcome(writer.append(1, payload(n), { signal })))
    await vi.advanceTimersByTimeAsync(100)
    for (const n of [0, 1, 17]) signals[n]!.abort()
    for (const n of [0, 1, 17]) expect(await results[n]).toEqual(code('ERR_PEERLINE_ABORTED'))
    await vi.advanceTimersByTimeAsync(2_000)
    for (const n of [2, 15, 16]) expect(await results[n]).toMatchObject({ attempts: 1 })
    // 1 was with the ledger already
    expect(written().map(({ payload }) => payload[0])).toEqual(Array.from({ length: 16 }, (_, n) => n + 1))
    expect(writer.pending).toBe(0)
  })

  test('leaves nothing behind at the signal', async () => {
    const writer = open()
    ledger.failNext('ERR_PEERLINE_DENIED')
    await outcome(append(writer, 1))
    await append(writer, 2)
    const under = outcome(append(writer, 3))
    writer.close()
    await under
    expect(getEventListeners(cancel.signal, 'abort')).toEqual([])
  })

  test('does nothing for a signal that has fired', async () => {
    cancel.abort()
    await expect(append(open(), 1)).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    expect(ledger.asked.append).toBe(0)
  })

  test('gives everything up when it is closed, and takes no more', async () => {
    ledger.latencyMs = 1_000
    const writer = open()
    const results = Array.from({ length: 20 }, (_, n) => outcome(append(writer, n)))
    writer.close()
    for (const result of results) expect(await result).toEqual(code('ERR_PEERLINE_CLOSED'))
    await expect(append(writer, 1)).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
    expect(ledger.asked.append).toBe(16)
    expect(writer.pending).toBe(0)
  })

  test('teaches the clock, and tells the time by it', async () => {
    ledger.clockAheadMs = 3_600_000
    ledger.latencyMs = 1_000
    const clock = new ConsensusClock()
    const writer = open({ clock })
    for (const n of [1, 2]) {
      const result = append(writer, n)
      await vi.advanceTimersByTimeAsync(1_000)
      await result
    }
    const [first, second] = ledger.entriesOf(TOPIC)
    const [one, two] = written()
    expect(clock.uncertaintyMs).toBeLessThan(510)
    expect(first!.at - one!.time).toBeGreaterThan(3_600_000)
    expect(Math.abs(second!.at - two!.time)).toBeLessThanOrEqual(1_510)
  })

  test('bounds the clock by the first attempt: an earlier one may be the one that got through', async () => {
    const clock = new ConsensusClock()
    ledger.failNext('ERR_PEERLINE_TIMEOUT')
    const result = append(open({ clock }), 1)
    await vi.advanceTimersByTimeAsync(1_000)
    await result
    expect(clock.uncertaintyMs).toBeCloseTo(500, -1)
  })

  test('under any passing failures loses nothing, and readers see nothing twice', async () => {
    const failing = fc.record({
      code: fc.constantFrom('ERR_PEERLINE_BUSY' as const, 'ERR_PEERLINE_TIMEOUT', 'ERR_PEERLINE_UNREACHABLE'),
      taken: fc.boolean(),
    })
    const run = fc.record({
      messages: fc.integer({ min: 1, max: 100 }),
      failures: fc.array(failing, { maxLength: 60 }),
      latencyMs: fc.constantFrom(0, 10, 4_000),
      copies: fc.constantFrom(1, 1, 2),
      cutAfterMs: fc.nat(20_000),
    })
    await fc.assert(
      fc.asyncProperty(run, async ({ messages, failures, latencyMs, copies, cutAfterMs }) => {
        const flaky = new MemoryLedger({ latencyMs })
        flaky.copies = copies
        for (const { code, taken } of failures) flaky.failNext(code, { taken })
        const got: number[] = []
        const reader = new TopicReader({ ledger: flaky, topic: TOPIC, onMessage: ({ sequence }) => got.push(sequence) })
        const writer = open({ ledger: flaky, maxPending: messages, random: Math.random })
        const outcomes = Promise.all(Array.from({ length: messages }, (_, n) => outcome(append(writer, n))))
        await vi.advanceTimersByTimeAsync(cutAfterMs)
        flaky.disconnect()
        await vi.advanceTimersByTimeAsync(600_000)
        let lost = 0
        for (const one of await outcomes) {
          if (one instanceof PeerlineError) lost++
          else expect(got.filter((sequence) => sequence === one.sequence)).toHaveLength(1)
        }
        // each that is given up has failed six times
        expect(lost).toBeLessThanOrEqual(Math.floor(failures.length / 6))
        expect(new Set(got).size).toBe(got.length)
        await reader.close()
        await flaky.close()
      }),
      { numRuns: 40 },
    )
  })
})
