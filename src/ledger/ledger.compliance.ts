/**
 * The contract of `ledger.ts` as a test suite. Every back-end must pass it.
 */
import { randomBytes } from 'node:crypto'
import { setMaxListeners } from 'node:events'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Entry, Ledger, ReadOptions, Receipt } from './ledger.ts'

/** One ledger, empty or not. */
export interface LedgerUnderTest {
  readonly ledger: Ledger
  /** The same ledger, as another machine has it. @default `ledger` */
  readonly other?: Ledger
  /** ms until what was appended can be read by everybody, at the worst. @default 1_000 */
  readonly consensusMs?: number
  /** From now on, what is appended at `ledger` gets no answer, where the test can have it so. */
  stall?(): void
  /** Ends all that `open` has begun. The ledgers may be closed already. */
  teardown(): Promise<void>
}

/** ms for a test: a dozen times the consensus of a slow ledger. */
const TEST_MS = 60_000

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const sample = (length: number) => new Uint8Array(randomBytes(length))
const bytesOf = (entries: readonly Entry[]) => entries.map(({ message }) => new Uint8Array(message))
const plain = ({ sequence, at, message }: Entry): Entry => ({ sequence, at, message: new Uint8Array(message) })

/** Runs the suite; `open` makes a ledger for each test. */
export function ledgerCompliance(name: string, open: () => Promise<LedgerUnderTest>): void {
  describe(`${name} keeps the contract of a ledger`, { timeout: TEST_MS }, () => {
    let subject: LedgerUnderTest
    let ledger: Ledger
    let other: Ledger
    let signal: AbortSignal

    beforeEach(async () => {
      subject = await open()
      ledger = subject.ledger
      other = subject.other ?? ledger
      signal = AbortSignal.timeout(TEST_MS)
      setMaxListeners(0, signal) // of dozens of appends at once
    }, TEST_MS)

    afterEach(() => subject.teardown(), TEST_MS)

    const newTopic = () => ledger.createTopic(`test-${randomBytes(8).toString('hex')}`, { signal })

    /** Appends one after the other. */
    async function appendAll(topic: string, messages: readonly Uint8Array[], at = ledger): Promise<Receipt[]> {
      const receipts: Receipt[] = []
      for (const message of messages) receipts.push(await at.append(topic, message, { signal }))
      return receipts
    }

    /** The first `count` entries of a subscription. */
    async function take(
      from: Ledger,
      topic: string,
      count: number,
      options: Partial<ReadOptions> = {},
    ): Promise<Entry[]> {
      const entries: Entry[] = []
      if (count === 0) return entries
      for await (const entry of from.subscribe(topic, { signal, ...options })) {
        if (entries.push(plain(entry)) === count) break
      }
      expect(entries.length, 'the subscription ended early').toBe(count)
      return entries
    }

    /** All pages of what is there, each of at most `max`. */
    async function readAll(from: Ledger, topic: string, options: { from?: number; since?: number; max?: number } = {}) {
      const entries: Entry[] = []
      for (let next: number | undefined = options.from ?? 1; next !== undefined; ) {
        const page: Awaited<ReturnType<Ledger['read']>> = await from.read(topic, { ...options, signal, from: next })
        if (options.max !== undefined) expect(page.entries.length).toBeLessThanOrEqual(options.max)
        if (page.next !== undefined) expect(page.next).toBeGreaterThan(next)
        entries.push(...page.entries.map(plain))
        next = page.next
      }
      return entries
    }

    /** What is there, once there are `count`. */
    const readOnce = (from: Ledger, topic: string, count: number) =>
      vi.waitFor(
        async () => {
          const entries = await readAll(from, topic)
          expect(entries).toHaveLength(count)
          return entries
        },
        { timeout: subject.consensusMs ?? 1_000, interval: 20 },
      )

    test('says what it is', async () => {
      expect(ledger.name.length).toBeGreaterThan(0)
      expect(ledger.id).toMatch(/^[a-z0-9:._-]{1,64}$/)
      expect(other.id).toBe(ledger.id)
      expect(ledger.maxMessageBytes).toBeGreaterThanOrEqual(1_024)
      for (const ms of [ledger.latencyMs, ledger.spreadMs]) {
        expect(ms).toBeGreaterThanOrEqual(0)
        expect(Number.isFinite(ms)).toBe(true)
      }
    })

    test('says what a message costs, and that a larger one costs no less', () => {
      let before = 0
      for (const bytes of [1, 100, 1_024, ledger.maxMessageBytes]) {
        const { amount, unit } = ledger.price(bytes)
        expect(amount).toBeGreaterThanOrEqual(before)
        expect(unit).toEqual(expect.any(String))
        before = amount
      }
    })

    test('makes topics that are empty', async () => {
      const topic = await newTopic()
      expect(topic).toMatch(/^[\x21-\x7e]{1,100}$/)
      expect(await newTopic()).not.toBe(topic)
      for (const reader of [ledger, other]) {
        await vi.waitFor(
          async () => expect(await reader.read(topic, { signal })).toEqual({ entries: [], next: undefined }),
          {
            timeout: subject.consensusMs ?? 1_000,
          },
        )
      }
    })

    test('gives each message the next place, and a time that grows; receipts and all readers agree', async () => {
      const topic = await newTopic()
      const messages = [1, 2, 31, 300, 1_024].map(sample)
      const receipts = await appendAll(topic, messages)
      const [here, there] = [await take(ledger, topic, 5), await take(other, topic, 5)]
      expect(here.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5])
      expect(bytesOf(here)).toEqual(messages)
      expect(there).toEqual(here)
      expect(receipts).toEqual(here.map(({ sequence, at }) => expect.objectContaining({ sequence, at })))
      for (const [i, { at }] of here.entries()) {
        expect(Number.isFinite(at)).toBe(true)
        if (i > 0) expect(at).toBeGreaterThanOrEqual(here[i - 1]!.at)
      }
      expect(await readOnce(ledger, topic, 5)).toEqual(here)
      expect(await readOnce(other, topic, 5)).toEqual(here)
    })

    test('carries messages of the largest size and any bytes; one byte more is too large, and takes no place', async () => {
      const topic = await newTopic()
      const large = sample(ledger.maxMessageBytes)
      const every = Uint8Array.from({ length: 256 }, (_, i) => i)
      const tooLarge = ledger.append(topic, sample(ledger.maxMessageBytes + 1), { signal })
      await expect(tooLarge).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
      await appendAll(topic, [large, every])
      expect(bytesOf(await take(other, topic, 2))).toEqual([large, every])
    })

    test('keeps what was appended, whatever becomes of the caller’s bytes, or a reader’s', async () => {
      const topic = await newTopic()
      const message = sample(100)
      const before = message.slice()
      const appending = ledger.append(topic, message, { signal })
      message.fill(0)
      await appending
      expect(bytesOf(await take(ledger, topic, 1))).toEqual([before])
    })

    test('keeps topics apart', async () => {
      const [a, b] = [await newTopic(), await newTopic()]
      const [toA, toB] = [sample(10), sample(10)]
      await Promise.all([appendAll(a, [toA]), appendAll(b, [toB], other)])
      expect(bytesOf(await take(ledger, a, 1))).toEqual([toA])
      expect(bytesOf(await take(ledger, b, 1))).toEqual([toB])
      expect((await readOnce(ledger, b, 1))[0]!.sequence).toBe(1)
    })

    test('does not wait for consensus when that is not wanted', async () => {
      const topic = await newTopic()
      const message = sample(50)
      await ledger.append(topic, message, { signal, wait: 'sent' })
      expect(bytesOf(await take(other, topic, 1))).toEqual([message])
    })

    test('puts messages of several writers at once in one order, each in one place', async () => {
      const topic = await newTopic()
      const messages = Array.from({ length: 24 }, () => sample(40))
      const reading = take(other, topic, messages.length)
      const receipts = await Promise.all(
        messages.map((message, i) => (i % 2 === 0 ? ledger : other).append(topic, message, { signal })),
      )
      const entries = await reading
      expect(entries.map(({ sequence }) => sequence)).toEqual(messages.map((_, i) => i + 1))
      for (const [i, { sequence }] of receipts.entries()) {
        expect(new Uint8Array(entries[sequence! - 1]!.message)).toEqual(messages[i])
      }
      expect(await take(ledger, topic, messages.length)).toEqual(entries)
    })

    test('is read from any place or time, in pages of any size, and by subscription the same', async () => {
      const topic = await newTopic()
      await Promise.all(Array.from({ length: 12 }, () => ledger.append(topic, sample(20), { signal })))
      const all = await readOnce(ledger, topic, 12)
      const where = fc.record({
        from: fc.option(fc.integer({ min: 1, max: 14 }), { nil: undefined }),
        since: fc.option(fc.nat(12), { nil: undefined }),
        max: fc.option(fc.integer({ min: 1, max: 20 }), { nil: undefined }),
      })
      await fc.assert(
        fc.asyncProperty(where, async ({ from, since: after, max }) => {
          const since = after === undefined ? undefined : (all[after]?.at ?? all.at(-1)!.at + 1_000)
          const options = { ...(from !== undefined && { from }), ...(since !== undefined && { since }) }
          const wanted = all.filter(({ sequence, at }) => sequence >= (from ?? 1) && at >= (since ?? 0))
          expect(await readAll(ledger, topic, { ...options, ...(max !== undefined && { max }) })).toEqual(wanted)
          expect(await take(ledger, topic, wanted.length, options)).toEqual(wanted)
        }),
        { numRuns: 20 },
      )
    })

    describe('a subscription', () => {
      test('brings what is there, and then what comes, without a gap', async () => {
        const topic = await newTopic()
        const messages = Array.from({ length: 12 }, () => sample(30))
        await appendAll(topic, messages.slice(0, 2))
        const reading = Promise.all([take(ledger, topic, 12), take(other, topic, 10, { from: 3 })])
        await appendAll(topic, messages.slice(2, 6))
        await Promise.all(messages.slice(6).map((message) => other.append(topic, message, { signal })))
        const [all, tail] = await reading
        expect(all.map(({ sequence }) => sequence)).toEqual(messages.map((_, i) => i + 1))
        expect(bytesOf(all.slice(0, 6))).toEqual(messages.slice(0, 6))
        expect(tail).toEqual(all.slice(2))
      })

      test('waits for a place that is not there yet', async () => {
        const topic = await newTopic()
        await appendAll(topic, [sample(5)])
        const reading = take(other, topic, 1, { from: 3 })
        const [, third] = await appendAll(topic, [sample(5), sample(5)])
        expect(await reading).toEqual([expect.objectContaining({ sequence: 3, at: third!.at })])
      })

      test('loses nothing when its reader is slow', async () => {
        const topic = await newTopic()
        const reading = ledger.subscribe(topic, { signal })[Symbol.asyncIterator]()
        const first = reading.next()
        const messages = Array.from({ length: 20 }, () => sample(10))
        await appendAll(topic, messages.slice(0, 1))
        const entries = [(await first).value as Entry]
        await Promise.all(messages.slice(1).map((message) => ledger.append(topic, message, { signal })))
        while (entries.length < messages.length) entries.push((await reading.next()).value as Entry)
        await reading.return?.()
        expect(entries.map(({ sequence }) => sequence)).toEqual(messages.map((_, i) => i + 1))
      })

      test('ends without an error when the signal fires, waiting or not, and at once when it has fired', async () => {
        const topic = await newTopic()
        await appendAll(topic, [sample(5), sample(5)])
        const cancel = new AbortController()
        const reading = ledger.subscribe(topic, { signal: cancel.signal })[Symbol.asyncIterator]()
        expect((await reading.next()).done).toBe(false)
        expect((await reading.next()).done).toBe(false)
        const third = reading.next()
        cancel.abort()
        expect(await third).toEqual({ done: true, value: undefined })
        for await (const _ of ledger.subscribe(topic, { signal: cancel.signal })) expect.unreachable()
        const busy = new AbortController()
        let seen = 0
        for await (const _ of ledger.subscribe(topic, { signal: busy.signal })) {
          seen++
          busy.abort()
        }
        expect(seen).toBe(1)
      })

      test('that its reader leaves disturbs no other', async () => {
        const topic = await newTopic()
        const left = ledger.subscribe(topic, { signal })[Symbol.asyncIterator]()
        const reading = take(ledger, topic, 2)
        await appendAll(topic, [sample(5)])
        await left.next()
        await left.return?.()
        await appendAll(topic, [sample(5)])
        expect(await reading).toHaveLength(2)
      })
    })

    test.each([
      ['empty', ''],
      ['too long', 'x'.repeat(101)],
      ['with a line break', 'a\nb'],
      ['not ASCII', 'tópico'],
    ])('refuses the name of a topic that is %s', async (_, topic) => {
      const invalid = code('ERR_PEERLINE_INVALID')
      await expect(ledger.append(topic, sample(5), { signal })).rejects.toEqual(invalid)
      await expect(ledger.read(topic, { signal })).rejects.toEqual(invalid)
      await expect(take(ledger, topic, 1)).rejects.toEqual(invalid)
    })

    test('does nothing once the signal has fired, and gives an append up when it fires', async () => {
      const topic = await newTopic()
      const fired = AbortSignal.abort()
      const aborted = code('ERR_PEERLINE_ABORTED')
      await expect(ledger.append(topic, sample(5), { signal: fired })).rejects.toEqual(aborted)
      await expect(ledger.read(topic, { signal: fired })).rejects.toEqual(aborted)
      await expect(ledger.createTopic('never', { signal: fired })).rejects.toEqual(aborted)
      const cancel = new AbortController()
      const appending = ledger.append(topic, sample(5), { signal: cancel.signal }).catch((error: unknown) => error)
      cancel.abort()
      const outcome = await appending
      // it may have been taken by then
      if (outcome instanceof Error) expect(outcome).toEqual(aborted)
      const message = sample(5)
      await ledger.append(topic, message, { signal })
      const count = outcome instanceof Error ? await firstPlaceOf(topic, message) : 2
      const entries = await take(ledger, topic, count)
      expect(entries.length).toBeLessThanOrEqual(2)
      expect(new Uint8Array(entries.at(-1)!.message)).toEqual(message)
    })

    test('gives up what gets no answer, when the signal fires or its time is over', async ({ skip }) => {
      const topic = await newTopic()
      if (subject.stall === undefined) return skip()
      subject.stall()
      const cancel = new AbortController()
      setTimeout(() => cancel.abort(), 20)
      const append = (signal: AbortSignal) => ledger.append(topic, sample(5), { signal })
      await Promise.all([
        expect(append(cancel.signal)).rejects.toEqual(code('ERR_PEERLINE_ABORTED')),
        expect(append(AbortSignal.timeout(20))).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT')),
      ])
    })

    async function firstPlaceOf(topic: string, message: Uint8Array): Promise<number> {
      for await (const entry of ledger.subscribe(topic, { signal })) {
        if (Buffer.compare(entry.message, message) === 0) return entry.sequence
      }
      return expect.unreachable()
    }

    test('is closed for everything once it is closed', async () => {
      const topic = await newTopic()
      await appendAll(topic, [sample(5)])
      const reading = ledger.subscribe(topic, { signal })[Symbol.asyncIterator]()
      await reading.next()
      const closed = code('ERR_PEERLINE_CLOSED')
      const waiting = expect(reading.next()).rejects.toEqual(closed)
      await ledger.close()
      await waiting
      await expect(ledger.append(topic, sample(5), { signal })).rejects.toEqual(closed)
      await expect(ledger.read(topic, { signal })).rejects.toEqual(closed)
      await expect(ledger.createTopic('late', { signal })).rejects.toEqual(closed)
      await expect(take(ledger, topic, 1)).rejects.toEqual(closed)
      await ledger.close()
    })

    test('closes while messages are on their way, and each append settles', async () => {
      const topic = await newTopic()
      const appending = Array.from({ length: 5 }, () => ledger.append(topic, sample(5), { signal }))
      const settled = Promise.allSettled(appending)
      await ledger.close()
      for (const outcome of await settled) {
        if (outcome.status === 'rejected') expect(outcome.reason).toEqual(code('ERR_PEERLINE_CLOSED'))
      }
    })
  })
}
