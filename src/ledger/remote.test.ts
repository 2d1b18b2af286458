/**
 * A reader of a ledger that a peer offers, over real sessions; the node lies in every way we know.
 */
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { concatBytes } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import type { LedgerLimits } from '../server/ledger-quota.ts'
import { StreamCode } from '../session/index.ts'
import { temporaryFile } from '../temporary.compliance.ts'
import { LedgerContradiction } from './history.ts'
import { FakeLog } from './leaf-source.compliance.ts'
import { ledgerCompliance } from './ledger.compliance.ts'
import type { Entry, Ledger } from './ledger.ts'
import { type Answer, frame, openLedger, startQuietPeer, TestNode } from './ledger-node.compliance.ts'
import { LogLedger } from './log.ts'
import { RemoteLedger } from './remote.ts'
import { LEDGER_PROTOCOL } from './remote-wire.ts'
import { compareHeads, signHead } from './tree-head.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const signal = AbortSignal.timeout(120_000)
const soon = (check: () => void) => vi.waitFor(check, { timeout: 10_000, interval: 5 })
const bytes = (text: string) => new TextEncoder().encode(text)
const text = ({ message }: Entry) => new TextDecoder().decode(message)

const generous = { messagesPerMinute: 10_000, topicMessagesPerHour: 10_000, messagesPerSecond: 10_000 }

for (const [name, open] of [
  ['in memory', async () => new FakeLog()],
  ['in a file', newLog],
] as const) {
  ledgerCompliance(`a ledger ${name} that a peer offers`, async () => {
    const source = await open()
    const node = await TestNode.start({ source, limits: generous })
    const [ledger, other] = [await node.read(), await node.read()]
    const stall = () => void vi.spyOn(source, 'append').mockImplementation(() => new Promise(() => {}))
    return { ledger, other, stall, teardown: async () => void (await Promise.all([ledger.close(), other.close()])) }
  })
}

async function newLog(): Promise<LogLedger> {
  const log = await LogLedger.open(await temporaryFile('ledger'))
  onTestFinished(() => log.close())
  return log
}

async function texts(ledger: Ledger, topic: string, from = 1): Promise<string[]> {
  const { entries } = await ledger.read(topic, { signal, from })
  return entries.map(text)
}

/** The error that reading ends with: the node was caught. */
async function caught(doing: Promise<unknown>): Promise<LedgerContradiction> {
  const error: unknown = await doing.then(
    () => expect.unreachable('nothing was noticed'),
    (error: unknown) => error,
  )
  expect(error).toEqual(code('ERR_PEERLINE_LEDGER'))
  expect(error).toBeInstanceOf(LedgerContradiction)
  return error as LedgerContradiction
}

/** A node whose log has `count` entries: those with an odd index in `a`, the others in `b`. */
async function nodeWith(count: number, limits: LedgerLimits = {}): Promise<TestNode> {
  const node = await TestNode.start({ limits })
  for (let i = 0; i < count; i++) node.log.put(i % 2 === 0 ? 'b' : 'a', `message ${i}`)
  return node
}

describe('a reader', () => {
  test('keeps the newest head it has verified, and goes on from it after a restart', async () => {
    const node = await nodeWith(5)
    const first = await node.read()
    const before = first.head
    expect(before).toMatchObject({ peerId: node.identity.peerId, ledger: 'log:fake', size: 5 })
    await first.append('a', bytes('one more'), { signal })
    expect(first.head.size).toBe(6)

    const later = await node.read({ head: first.head.bytes })
    expect(later.head.bytes).toEqual(first.head.bytes)
    expect(await texts(later, 'a')).toEqual(['message 1', 'message 3', 'one more'])
    await later.check(before.bytes, { signal })
    await first.check(later.head.bytes, { signal })
  })

  test('is in another session from the next question on, when that is what it is given', async () => {
    const node = await nodeWith(3)
    const [one, two] = [await node.visit(), await node.visit()]
    let session = one.session
    const ledger = await RemoteLedger.open({ session: async () => session, signal })
    await one.peer.close()
    await expect(ledger.read('a', { signal })).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    session = two.session
    expect(await texts(ledger, 'a')).toEqual(['message 1'])
    await ledger.close()
  })

  test('takes no other node for its own', async () => {
    const [node, other] = [await nodeWith(1), await nodeWith(1)]
    const [there, elsewhere] = [await node.visit(), await other.visit()]
    let { session } = there
    const ledger = await RemoteLedger.open({ session: async () => session, signal })
    session = elsewhere.session
    await expect(ledger.read('a', { signal })).rejects.toEqual(code('ERR_PEERLINE_WRONG_PEER'))
    await expect(openLedger(session, { head: ledger.head.bytes })).rejects.toEqual(code('ERR_PEERLINE_WRONG_PEER'))
    await ledger.close()
  })

  test('asks for the proof that is missing when answers of several streams come in another order', async () => {
    const node = await nodeWith(1)
    const ledger = await node.read()
    const held: (() => void)[] = []
    let hold = true
    const asked: string[] = []
    node.lie = (answer) => {
      asked.push(Object.keys(answer).join())
      return answer
    }
    // The answer to the first question waits until the others are there.
    const { session } = ledger
    const open = session.open.bind(session)
    vi.spyOn(session, 'open').mockImplementation(async (...options) => {
      const stream = await open(...options)
      if (!hold) return stream
      hold = false
      const next = stream.next.bind(stream)
      stream.next = async () => {
        const chunk = await next()
        await new Promise<void>((resolve) => held.push(resolve))
        return chunk
      }
      return stream
    })
    const first = ledger.append('a', bytes('first'), { signal })
    await soon(() => expect(held).toHaveLength(1))
    await ledger.append('a', bytes('second'), { signal })
    expect(ledger.head.size).toBe(3)
    held[0]!()
    expect(await first).toMatchObject({ sequence: 1 })
    expect(asked.filter((keys) => keys === 'proof')).toHaveLength(2)
    expect(ledger.head.size).toBe(3)
  })

  test('catches up with many pages, and while others write, in order and each once', async () => {
    const node = await TestNode.start({ limits: { messagesPerMinute: 1_000, messagesPerSecond: 1_000 } })
    for (let i = 0; i < 500; i++) node.log.put('topic', new Uint8Array(1_000).fill(i))
    const ledger = await node.read()
    const seen: number[] = []
    for await (const { sequence } of ledger.subscribe('topic', { signal })) {
      seen.push(sequence)
      if (sequence % 100 === 0) node.log.put('topic', 'live')
      if (sequence === 505) break
    }
    expect(seen).toEqual(Array.from({ length: 505 }, (_, i) => i + 1))
    const page = await ledger.read('topic', { signal, max: 1_000 })
    expect([page.entries.length, page.next]).toEqual([64, 65])
    await soon(() => expect(node.service.subscriptions).toBe(0))
  })

  test('that stops reading is given up with BUSY, and comes back with its place', async () => {
    const node = await TestNode.start({ limits: { slowMs: 50 } })
    for (let i = 0; i < 2_000; i++) node.log.put('topic', new Uint8Array(1_000).fill(i))
    const ledger = await node.read()
    const reading = ledger.subscribe('topic', { signal })
    let { sequence } = (await reading.next()).value as Entry
    await soon(() => expect(node.service.subscriptions).toBe(0))
    const outcome = (async () => {
      for await (const entry of reading) sequence = entry.sequence
    })()
    await expect(outcome).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    expect(sequence).toBeLessThan(2_000)
    while (sequence < 2_000) {
      try {
        for await (const entry of ledger.subscribe('topic', { signal, from: sequence + 1 })) {
          expect(entry.sequence).toBe(++sequence)
          if (sequence === 2_000) break
        }
      } catch (error) {
        // A busy machine may be too slow again.
        expect(error).toEqual(code('ERR_PEERLINE_BUSY'))
      }
    }
  })

  test('that gives up is let go at once, also when a proof is waited for', async () => {
    const node = await nodeWith(3)
    const ledger = await node.read()
    const { bytes: before } = ledger.head
    await ledger.append('a', bytes('more'), { signal })
    // The proof is announced, and does not come.
    const { session } = ledger
    const open = session.open.bind(session)
    vi.spyOn(session, 'open').mockImplementationOnce(async (...options) => {
      const stream = await open(...options)
      stream.next = () => new Promise(() => {})
      return stream
    })
    const cancel = new AbortController()
    const checking = ledger.check(before, { signal: cancel.signal }).catch((error: unknown) => error)
    await soon(() => expect(session.open).toHaveBeenCalled())
    cancel.abort()
    expect(await checking).toEqual(code('ERR_PEERLINE_ABORTED'))
  })

  test('does not wait for ever for a node that says nothing', async () => {
    const node = await nodeWith(1)
    const ledger = await node.read()
    let asked = () => {}
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve
    })
    node.log.before = () => {
      asked()
      return new Promise(() => {})
    }
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const reading = ledger.read('a', { signal }).catch((error: unknown) => error)
    await isAsked
    await vi.advanceTimersByTimeAsync(15_000)
    expect(await reading).toEqual(code('ERR_PEERLINE_TIMEOUT'))
    vi.useRealTimers()
    node.log.before = undefined
    expect(await texts(ledger, 'b')).toEqual(['message 0'])
  })

  test('hears that the node of the session has no ledger', async () => {
    const host = await startQuietPeer({ listen: ['127.0.0.1:0'] })
    const guest = await startQuietPeer()
    const session = await guest.connect(host.id, { addresses: [...host.addresses] })
    await expect(openLedger(session)).rejects.toEqual(code('ERR_PEERLINE_NO_PROTOCOL'))
  })
})

describe('a node that changes the history it has shown', () => {
  test.each([
    [
      'rewrites an entry',
      (log: FakeLog) =>
        log.rewrite((lines) => lines.map((line, i) => (i === 3 ? { ...line, message: bytes('x') } : line))),
    ],
    ['drops an entry', (log: FakeLog) => log.rewrite((lines) => lines.filter((_, i) => i !== 3))],
    [
      'drops an entry, and has more since',
      (log: FakeLog) => {
        log.rewrite((lines) => lines.filter((_, i) => i !== 3))
        for (let i = 0; i < 5; i++) log.put('a', 'more')
      },
    ],
    [
      'puts two in another order',
      (log: FakeLog) => log.rewrite((lines) => [lines[0]!, lines[2]!, lines[1]!, ...lines.slice(3)]),
    ],
    [
      'dates an entry otherwise',
      (log: FakeLog) =>
        log.rewrite((lines) => lines.map((line, i) => (i === 3 ? { ...line, at: line.at + 0.001 } : line))),
    ],
    ['cuts off the end', (log: FakeLog) => log.rewrite((lines) => lines.slice(0, 5))],
    [
      'cuts off the end, and goes on otherwise',
      (log: FakeLog) => {
        log.rewrite((lines) => lines.slice(0, 5))
        for (let i = 0; i < 9; i++) log.put('b', 'other')
      },
    ],
    ['forgets everything', (log: FakeLog) => log.rewrite(() => [])],
  ])('is caught when it %s: reading, writing, subscribed, and after a restart of the reader', async (_, change) => {
    const node = await nodeWith(8)
    const readers = await Promise.all([1, 2, 3].map(() => node.read()))
    const before = readers[0]!.head
    const subscribed = await node.read()
    const live = subscribed.subscribe('c', { signal })
    const waiting = live.next()
    waiting.catch(() => {})
    await soon(() => expect(node.service.subscriptions).toBe(1))
    change(node.log)
    node.restart()

    const errors = [
      await caught(readers[0]!.read('b', { signal })),
      await caught(readers[1]!.append('b', bytes('new'), { signal })),
      await caught(readers[2]!.subscribe('b', { signal }).next()),
      await caught(node.read({ head: before.bytes })),
    ]
    for (const { heads } of errors) {
      // The evidence: both are signed by the node, and of the same ledger.
      const [one, two] = heads
      expect(one!.bytes).toEqual(before.bytes)
      expect(['contradiction', 'unproven']).toContain(compareHeads(one!, two!))
    }
    // Nothing of it is believed any more.
    for (const [i, reader] of readers.entries()) {
      await expect(reader.read('b', { signal })).rejects.toBe(errors[i])
      await expect(reader.createTopic('b', { signal })).rejects.toBe(errors[i])
    }
    // Its subscription was cut off; what it hears when it comes back is not what it heard.
    await expect(waiting).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    await caught(subscribed.subscribe('c', { signal }).next())
  })

  test('has ended the other subscriptions of its reader, too, when one catches it', async () => {
    const node = await nodeWith(8)
    const ledger = await node.read()
    const idle = ledger.subscribe('idle', { signal }).next()
    idle.catch(() => {})
    await soon(() => expect(node.service.subscriptions).toBe(1))
    node.lie = (answer) => ({ ...answer, entries: answer.entries!.slice(1) })
    const error = await caught(ledger.read('a', { signal }))
    await expect(idle).rejects.toBe(error)
  })

  test('and tells two readers two histories is found when they compare their heads, or when it is asked about one', async () => {
    const node = await nodeWith(6)
    const [one, two] = [await node.read(), await node.read()]
    await one.append('a', bytes('to one'), { signal })
    node.log.rewrite((lines) => lines.slice(0, 6))
    node.restart()
    await two.append('a', bytes('to the other'), { signal })
    expect(one.head.size).toBe(two.head.size)
    expect(compareHeads(one.head, two.head)).toBe('contradiction')

    // With heads of other sizes it takes a proof that there is none of.
    await two.append('a', bytes('more'), { signal })
    expect(compareHeads(one.head, two.head)).toBe('unproven')
    const { heads } = await caught(two.check(one.head.bytes, { signal }))
    expect(heads).toEqual([two.head, one.head])
    // One that was told nothing else than the other is not suspected.
    const three = await node.read()
    await three.append('a', bytes('even more'), { signal })
    const four = await node.read()
    await four.check(three.head.bytes, { signal })
    await three.check(four.head.bytes, { signal })
  })

  test('is not suspected when it could not be asked', async () => {
    const node = await nodeWith(3)
    const ledger = await node.read()
    const { bytes: before } = ledger.head
    await ledger.append('a', bytes('more'), { signal })
    for (const said of ['ERR_PEERLINE_BUSY', 'ERR_PEERLINE_UNREACHABLE']) {
      node.lie = (answer) => ('head' in answer ? answer : { failed: said })
      await expect(ledger.check(before, { signal })).rejects.toEqual(code(said))
    }
    node.lie = undefined
    await ledger.check(before, { signal })
    expect(await texts(ledger, 'a')).toEqual(['message 1', 'more'])
  })

  test('is not asked about heads that it never signed', async () => {
    const node = await nodeWith(3)
    const ledger = await node.read()
    const { size, root, time } = ledger.head
    const foreign = signHead(Identity.generate(), { ledger: ledger.id, size, root, time })
    await expect(ledger.check(foreign.bytes, { signal })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    const another = signHead(node.identity, { ledger: 'log:another', size, root, time })
    await expect(ledger.check(another.bytes, { signal })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    expect(await texts(ledger, 'a')).toEqual(['message 1'])
  })

  test('has another ledger all of a sudden', async () => {
    const node = await nodeWith(3)
    const ledger = await node.read()
    const another = new FakeLog({ id: 'log:another' })
    for (const line of node.log.lines) another.push(line)
    node.restart(another)
    await expect(ledger.read('a', { signal })).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
    await expect(node.read({ head: ledger.head.bytes })).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
  })
})

describe('a node that says something else than its log', () => {
  type Entries = NonNullable<Answer['entries']>
  const change = (entries: (entries: Entries) => Entries) => (answer: Answer) =>
    answer.entries === undefined ? answer : { ...answer, entries: entries(answer.entries) }
  const patch = (at: number, fields: (entry: Entries[number]) => object) =>
    change((entries) => entries.map((entry, i) => (i === at ? { ...entry, ...fields(entry) } : entry)))

  test.each<[string, (answer: Answer) => Answer]>([
    ['a rewritten message', patch(1, () => ({ message: bytes('other') }))],
    ['another time', patch(1, ({ at }) => ({ at: Number(at) + 1 }))],
    ['another place among all', patch(1, ({ index }) => ({ index: Number(index) + 1 }))],
    ['an entry left out at the beginning', change((entries) => entries.slice(1))],
    ['an entry left out in the middle', change((entries) => entries.filter((_, i) => i !== 1))],
    [
      'an entry left out, and the others counted anew',
      change((entries) => entries.slice(1).map((entry) => ({ ...entry, sequence: Number(entry.sequence) - 1 }))),
    ],
    ['two in another order', change(([one, two, ...rest]) => [two!, one!, ...rest])],
    [
      'two in each other’s places',
      change(([one, two, ...rest]) => [{ ...two!, sequence: 1 }, { ...one!, sequence: 2 }, ...rest]),
    ],
    ['an entry twice', change(([one, ...rest]) => [one!, one!, ...rest])],
    ['the proof of another entry', patch(1, () => ({ proof: new Uint8Array(96) }))],
    ['no proof', patch(1, () => ({ proof: new Uint8Array(0) }))],
  ])('is caught: %s', async (_, lie) => {
    const node = await nodeWith(8)
    const [reader, subscriber] = [await node.read(), await node.read()]
    node.lie = lie
    const { heads } = await caught(reader.read('a', { signal }))
    expect(heads).toHaveLength(1)
    expect(heads[0]!.peerId).toBe(node.identity.peerId)
    await caught(subscriber.subscribe('a', { signal }).next())
  })

  test('is caught when what it passes over was not before the time', async () => {
    const node = await nodeWith(8)
    const { at } = node.log.lines[3]!
    const honest = await node.read()
    expect((await honest.read('a', { signal, since: at })).entries.map(text)).toEqual([
      'message 3',
      'message 5',
      'message 7',
    ])
    for (const cut of [1, 2]) {
      node.lie = change((entries) => entries.slice(cut))
      await caught((await node.read()).read('a', { signal, since: at }))
    }
  })

  test('is caught when a topic ends sooner than it did', async () => {
    const node = await nodeWith(8)
    const ledger = await node.read()
    expect(await texts(ledger, 'a')).toHaveLength(4)
    node.lie = change((entries) => entries.slice(0, 3))
    await caught(ledger.read('a', { signal }))
  })

  test('is caught when it has two entries for one place, and shows first one and then the other', async () => {
    const node = await nodeWith(2)
    const ledger = await node.read()
    expect(await texts(ledger, 'a')).toEqual(['message 1'])
    const [, first] = node.log.lines
    node.log.push({ ...first!, index: 2, message: bytes('the other') })
    node.lie = (answer) => answer
    vi.spyOn(node.log, 'read').mockImplementation(async () => ({ entries: [node.log.lines[2]!], next: undefined }))
    await caught(ledger.read('a', { signal }))
  })

  test('is caught when the entries of a topic are in its tree in another order, or their times go back', async () => {
    for (const [index, at] of [
      [1, -1],
      [0, 1],
    ] as const) {
      const node = await TestNode.start()
      const first = node.log.put('a', 'first')
      const second = { ...first, sequence: 2, index, at: first.at + at }
      node.log.rewrite(() => [])
      for (const line of index === 1 ? [first, second] : [second, { ...first, index: 1 }]) node.log.push(line)
      const entries = node.log.lines.toSorted((a, b) => a.sequence - b.sequence)
      vi.spyOn(node.log, 'read').mockImplementation(async () => ({ entries, next: undefined }))
      const ledger = await node.read()
      await caught(ledger.read('a', { signal }))
    }
  })

  test('is caught when it shows an old head again', async () => {
    const node = await nodeWith(4)
    const ledger = await node.read()
    let old: Answer | undefined
    node.lie = (answer) => {
      old ??= answer
      return answer
    }
    await ledger.read('a', { signal })
    await ledger.append('a', bytes('new'), { signal })
    node.lie = () => old
    const { heads } = await caught(ledger.read('a', { signal }))
    expect(heads.map(({ size }) => size)).toEqual([5, 4])
  })

  test('is caught when it shows an old head to who comes back with a newer one', async () => {
    const node = await nodeWith(4)
    let old: Answer | undefined
    node.lie = (answer) => {
      old ??= answer
      return answer
    }
    const ledger = await node.read()
    await ledger.append('a', bytes('new'), { signal })
    node.lie = (answer) => ('max' in answer ? old : answer)
    const { heads } = await caught(node.read({ head: ledger.head.bytes }))
    expect(heads.map(({ size }) => size)).toEqual([5, 4])
  })

  test('is caught when it shows a subscriber an old head again', async () => {
    const node = await nodeWith(4)
    const ledger = await node.read()
    const answers: Answer[] = []
    node.lie = (answer) => {
      answers.push(answer)
      return answers.length < 3 ? answer : answers[0]
    }
    const reading = ledger.subscribe('b', { signal, from: 3 })
    const first = reading.next()
    await soon(() => expect(answers).toHaveLength(1))
    node.log.put('b', 'one')
    expect(text((await first).value as Entry)).toBe('one')
    node.log.put('b', 'two')
    await caught(reading.next())
  })

  test('is caught when it cannot show that its heads belong together', async () => {
    const node = await nodeWith(5)
    for (const lie of [
      (answer: Answer) => ({ ...answer, proof: new Uint8Array(64) }),
      (answer: Answer) => ({ ...answer, proof: new Uint8Array(0) }),
    ]) {
      node.lie = undefined
      const ledger = await node.read()
      node.log.put('a', 'one more')
      node.lie = lie
      const { heads } = await caught(ledger.read('a', { signal }))
      expect(heads).toHaveLength(2)
    }
  })

  test('is caught when it lies about what was appended', async () => {
    const node = await nodeWith(5)
    for (const placed of [
      (placed: Answer) => ({ ...placed, sequence: 4 }),
      (placed: Answer) => ({ ...placed, index: 2 }),
      (placed: Answer) => ({ ...placed, at: Number(placed.at) - 1_000 }),
    ]) {
      node.lie = undefined
      const ledger = await node.read()
      node.lie = (answer) => ({ ...answer, placed: placed(answer.placed as Answer) })
      await caught(ledger.append('a', bytes('mine'), { signal }))
    }
  })

  test.each<[string, (answer: Answer, forged: Uint8Array) => Answer, string]>([
    ['a head of another node', (answer, head) => ({ ...answer, head }), 'ERR_PEERLINE_PROTOCOL'],
    ['a place that no leaf has', patch(0, () => ({ sequence: 2 ** 32 })), 'ERR_PEERLINE_PROTOCOL'],
    ['a place before the first', patch(0, () => ({ sequence: 0 })), 'ERR_PEERLINE_PROTOCOL'],
    ['a time that no leaf has', patch(0, () => ({ at: -1 })), 'ERR_PEERLINE_PROTOCOL'],
    ['that it has more, and nothing', (answer) => ({ ...answer, entries: [], more: true }), 'ERR_PEERLINE_PROTOCOL'],
    ['that the caller has cancelled', () => ({ failed: 'ERR_PEERLINE_ABORTED' }), 'ERR_PEERLINE_REMOTE'],
    ['that it is busy', () => ({ failed: 'ERR_PEERLINE_BUSY' }), 'ERR_PEERLINE_BUSY'],
    ['what is no code', () => ({ failed: 'x' }), 'ERR_PEERLINE_REMOTE'],
    ['too much', (answer) => ({ ...answer, more: false, filler: new Uint8Array(140_000) }), 'ERR_PEERLINE_TOO_LARGE'],
  ])('is not believed, and may be asked again, when it says %s', async (_, lie, expected) => {
    const node = await nodeWith(5)
    const ledger = await node.read()
    const forger = await nodeWith(5)
    const forged = (await forger.read()).head.bytes
    node.lie = (answer) => lie(answer, forged)
    await expect(ledger.read('a', { signal })).rejects.toEqual(code(expected))
    node.lie = undefined
    expect(await texts(ledger, 'a')).toEqual(['message 1', 'message 3'])
  })

  test('whatever it says, the reader ends with a typed error, or with what the log has', async () => {
    const node = await nodeWith(6, { requestsPerSecond: 10_000 })
    const guest = await node.visit()
    const honest = await openLedger(guest.session)
    const expected = (await honest.read('a', { signal })).entries
    const value = fc.oneof(
      fc.integer({ min: -5, max: 10 }),
      fc.maxSafeInteger(),
      fc.string({ maxLength: 5 }),
      fc.uint8Array({ maxLength: 70 }),
      fc.boolean(),
      fc.constant(null),
      fc.constant([]),
      fc.constant({}),
    )
    const field = fc.constantFrom(
      'head',
      'base',
      'proof',
      'entries',
      'more',
      'failed',
      'index',
      'sequence',
      'at',
      'message',
    )
    const lies = fc.oneof(
      fc.tuple(field, value).map(
        ([name, to]) =>
          (answer: Answer) =>
            ({ ...answer, [name]: to }) as Answer,
      ),
      fc.tuple(field, value, fc.nat(3)).map(([name, to, at]) => patch(at, () => ({ [name]: to }))),
      value.map((to) => () => to as unknown as Answer),
    )
    await fc.assert(
      fc.asyncProperty(lies, fc.boolean(), async (lie, subscribed) => {
        node.lie = undefined
        const ledger = await openLedger(guest.session)
        node.lie = lie
        try {
          const entries: Entry[] = []
          if (subscribed) {
            for await (const entry of ledger.subscribe('a', { signal: AbortSignal.timeout(50) })) {
              if (entries.push(entry) === 3) break
            }
          } else entries.push(...(await ledger.read('a', { signal })).entries)
          expect(entries).toEqual(expected.slice(0, entries.length))
        } catch (error) {
          if (!isPeerlineError(error)) throw error
        } finally {
          await ledger.close()
        }
      }),
      { numRuns: 300 },
    )
  }, 60_000)

  test('whatever bytes come, the reader ends with a typed error', async () => {
    const host = await startQuietPeer({ listen: ['127.0.0.1:0'] })
    const guest = await startQuietPeer()
    const session = await guest.connect(host.id, { addresses: [...host.addresses] })
    const head = signHead(host.identity, { ledger: 'log:x', size: 0, root: new Uint8Array(32), time: 0 }).bytes
    const about = frame({ head, base: 0, proof: new Uint8Array(0), max: 1_024, latency: 1, spread: 1 })
    let reply = about
    let end: (stream: { end(): Promise<void>; reset(code?: number): void }) => void = (stream) => void stream.end()
    host.handleStream(LEDGER_PROTOCOL, async (stream) => {
      if (reply.length > 0) await stream.write(reply)
      end(stream)
    })
    const ledger = await openLedger(session)
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(
          fc.uint8Array({ maxLength: 60 }),
          fc
            .uint8Array({ minLength: 1, maxLength: 60 })
            .map((body) => concatBytes([Uint8Array.of(0, 0, 0, body.length), body])),
          fc.nat(about.length).map((length) => about.subarray(0, length)),
        ),
        fc.boolean(),
        async (bytes, isReset) => {
          reply = Buffer.from(bytes)
          end = (stream) => (isReset ? stream.reset(StreamCode.FAILED) : void stream.end().catch(() => {}))
          await expect(ledger.read('a', { signal })).rejects.toSatisfy(isPeerlineError)
        },
      ),
      { numRuns: 100 },
    )
  }, 60_000)
})
