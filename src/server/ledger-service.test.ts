/**
 * The node of a ledger, as its peers see it: who may write what and how much, and what it does about those who misbehave.
 */
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity, toDidKey } from '../identity/index.ts'
import { Exchange } from '../ledger/exchange.ts'
import { FakeLog } from '../ledger/leaf-source.compliance.ts'
import { frame, openLedger, TestNode } from '../ledger/ledger-node.compliance.ts'
import { verifyInclusion } from '../ledger/merkle.ts'
import { LEDGER_PROTOCOL, MAX_REPLY_BYTES, PAGE_BYTES, readPage } from '../ledger/remote-wire.ts'
import { hashEntry, openHead } from '../ledger/tree-head.ts'
import type { Session } from '../session/index.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const signal = AbortSignal.timeout(120_000)
const soon = (check: () => void) => vi.waitFor(check, { timeout: 10_000, interval: 5 })
const bytes = (text: string) => new TextEncoder().encode(text)

/** What the node answers to anything. */
async function ask(session: Session, request: unknown): Promise<Record<string, unknown>> {
  const exchange = await Exchange.open(session, LEDGER_PROTOCOL, request, { signal, maxBytes: MAX_REPLY_BYTES })
  try {
    return (await exchange.next(5_000)) as Record<string, unknown>
  } finally {
    exchange.close()
  }
}

/** What becomes of raw bytes on a stream of the protocol. */
async function say(session: Session, raw: Uint8Array): Promise<unknown> {
  const stream = await session.open(LEDGER_PROTOCOL)
  stream.write(raw).catch(() => {})
  try {
    for await (const _ of stream) await stream.end()
    return 'in order'
  } catch (error) {
    return error
  }
}

describe('at a node, a topic', () => {
  test('named after a peer is written by that peer, but for its stdin; all others by everybody', async () => {
    const node = await TestNode.start()
    const [one, two] = [Identity.generate(), Identity.generate()]
    const [asOne, asTwo] = [await node.read({ identity: one }), await node.read({ identity: two })]
    for (const name of ['out', 'err']) {
      const topic = `${one.peerId}/${name}`
      await asOne.append(topic, bytes('mine'), { signal })
      await expect(asTwo.append(topic, bytes('not mine'), { signal })).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
      // Read by whoever likes to.
      expect((await asTwo.read(topic, { signal })).entries).toHaveLength(1)
      const other = `${toDidKey(one.peerId)}/${name}`
      await expect(asTwo.append(other, bytes('by another name'), { signal })).rejects.toEqual(
        code('ERR_PEERLINE_DENIED'),
      )
    }
    for (const topic of [`${one.peerId}/in`, 'registry', 'nobody/out', `${one.peerId}/out/x`, `${one.peerId}`]) {
      await asTwo.append(topic, bytes('anybody'), { signal })
    }
    expect(node.log.lines.filter(({ message }) => new TextDecoder().decode(message).startsWith('not'))).toEqual([])
  })

  test('takes so many messages of one peer in an hour, and of another as many', async () => {
    const clock = vi.spyOn(performance, 'now')
    const node = await TestNode.start({ limits: { topicMessagesPerHour: 10 } })
    const identity = Identity.generate()
    const [one, two] = [await node.read({ identity }), await node.read()]
    let now = performance.now()
    clock.mockImplementation(() => now)
    onTestFinished(() => clock.mockRestore())
    const fill = async (times: number) => {
      for (let i = 0; i < times; i++) await one.append('topic', bytes('x'), { signal })
      await expect(one.append('topic', bytes('x'), { signal })).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    }
    await fill(5)
    await one.append('another', bytes('x'), { signal })
    // To its own topics it may write as much as it may at all.
    for (let i = 0; i < 10; i++) await one.append(`${identity.peerId}/out`, bytes('x'), { signal })
    await two.append('topic', bytes('x'), { signal })
    now += 3_600_000
    await fill(5)
    now += 720_001 // and a hair, for what rounding takes
    await fill(1)
  })

  test.each([
    ['messages', { messagesPerMinute: 4 }, 4, 1],
    ['bytes', { bytesPerMinute: 4_000 }, 4, 1_000],
    ['messages of all together', { messagesPerSecond: 0.8 }, 4, 1],
    ['entries of all together', { maxEntries: 4 }, 4, 1],
  ])('is not written to by who has written too many %s', async (_, limits, times, size) => {
    const node = await TestNode.start({ limits })
    const ledger = await node.read()
    for (let i = 0; i < times; i++) await ledger.append(`topic-${i}`, new Uint8Array(size), { signal })
    const outcome = ledger.append('topic', new Uint8Array(size), { signal })
    await expect(outcome).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    expect(node.log.size).toBe(times)
    // Reading goes on.
    expect((await ledger.read('topic-0', { signal })).entries).toHaveLength(1)
  })
})

describe('a node', () => {
  test('shows a head, what it goes on from, and proofs that anybody can verify', async () => {
    const node = await TestNode.start()
    for (let i = 0; i < 10; i++) node.log.put(`topic-${i % 3}`, `message ${i}`)
    const { session } = await node.visit()
    const page = readPage(await ask(session, { t: 'read', topic: 'topic-1', from: 2, max: 5 }))
    const head = openHead(page.head)
    expect(head).toMatchObject({ peerId: node.identity.peerId, ledger: 'log:fake', size: 10 })
    expect(Math.abs(Date.now() - head.time)).toBeLessThan(10_000)
    expect(page.entries.map(({ sequence, index }) => [sequence, index])).toEqual([
      [2, 4],
      [3, 7],
    ])
    for (const entry of page.entries) {
      const leaf = hashEntry('topic-1', entry)
      expect(verifyInclusion({ ...entry, leaf, size: head.size, root: head.root })).toBe(true)
    }
    // The same head is not signed anew; after half a minute it is.
    const again = async () => readPage(await ask(session, { t: 'read', topic: 'x', from: 1, max: 1 })).head
    expect(await again()).toEqual(page.head)
    const started = performance.now()
    vi.spyOn(performance, 'now').mockImplementation(() => started + 31_000)
    vi.spyOn(Date, 'now').mockImplementation(() => head.time + 31_000)
    onTestFinished(() => void vi.restoreAllMocks())
    expect(openHead(await again())).toMatchObject({ size: 10, time: head.time + 31_000 })
  })

  test('sends no page that is larger than it may be', async () => {
    const node = await TestNode.start({ log: new FakeLog({ maxMessageBytes: 65_536 }) })
    for (let i = 0; i < 10; i++) node.log.put('large', new Uint8Array(30_000).fill(i))
    const ledger = await node.read()
    const { entries, next } = await ledger.read('large', { signal })
    expect([entries.length, next]).toEqual([4, 5])
    expect(4 * 30_000).toBeLessThan(PAGE_BYTES)
    await ledger.append('largest', new Uint8Array(65_536).fill(1), { signal })
    expect((await ledger.read('largest', { signal })).entries[0]!.message).toHaveLength(65_536)
    let count = 0
    for await (const { sequence } of ledger.subscribe('large', { signal })) {
      expect(sequence).toBe(++count)
      if (count === 10) break
    }
  })

  test('lets a peer have so many subscriptions, in however many sessions, and all peers so many', async () => {
    const node = await TestNode.start({ limits: { maxSubscriptions: 2, maxAllSubscriptions: 3 } })
    const identity = Identity.generate()
    const [one, again, other] = [await node.read({ identity }), await node.read({ identity }), await node.read()]
    const cancel = new AbortController()
    const begin = async (ledger: typeof one) => {
      const before = node.service.subscriptions
      void ledger.subscribe('topic', { signal: cancel.signal }).next()
      await soon(() => expect(node.service.subscriptions).toBe(before + 1))
    }
    const refused = (ledger: typeof one) =>
      expect(ledger.subscribe('topic', { signal }).next()).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    await begin(one)
    await begin(again)
    await refused(one)
    await refused(again)
    await begin(other)
    await refused(other)
    cancel.abort()
    await soon(() => expect(node.service.subscriptions).toBe(0))
    node.log.put('topic', 'there')
    expect((await one.subscribe('topic', { signal }).next()).done).toBe(false)
  })

  test('is asked so much by one peer, and by another as much', async () => {
    const node = await TestNode.start({ limits: { requestsPerSecond: 1 } })
    const [one, two] = [await node.visit(), await node.visit()]
    const outcomes = await Promise.allSettled(
      Array.from({ length: 30 }, () => ask(one.session, { t: 'prove', from: 0, to: 0 })),
    )
    const refused = outcomes.filter(({ status }) => status === 'rejected')
    expect(refused.length).toBeGreaterThan(15)
    for (const outcome of refused) expect(outcome).toMatchObject({ reason: code('ERR_PEERLINE_BUSY') })
    expect(await ask(two.session, { t: 'prove', from: 0, to: 0 })).toEqual({ proof: new Uint8Array(0) })
  })

  test.each([
    [{ t: 'prove', from: 1, to: 4 }, 'ERR_PEERLINE_INVALID'],
    [{ t: 'append', topic: 'x', message: new Uint8Array(1_025) }, 'ERR_PEERLINE_TOO_LARGE'],
  ])('says why not: %j', async (request, failed) => {
    const node = await TestNode.start()
    node.log.put('topic', 'one')
    const { session } = await node.visit()
    expect(await ask(session, request)).toEqual({ failed })
  })

  test.each([
    ['ERR_PEERLINE_LIMIT', 'ERR_PEERLINE_BUSY'],
    ['ERR_PEERLINE_DISK_FULL', 'ERR_PEERLINE_BUSY'],
    ['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_UNREACHABLE'],
    ['ERR_PEERLINE_FILE', 'ERR_PEERLINE_REMOTE'],
    ['ERR_PEERLINE_INVALID', 'ERR_PEERLINE_INVALID'],
  ] as const)('tells of a ledger that fails with %s as %s, and goes on', async (own, said) => {
    const { PeerlineError } = await import('../errors.ts')
    const node = await TestNode.start()
    const ledger = await node.read()
    node.log.before = () => Promise.reject(new PeerlineError(own, 'secret path /root/x'))
    await expect(ledger.append('topic', bytes('x'), { signal })).rejects.toEqual(code(said))
    await expect(ledger.read('topic', { signal })).rejects.toEqual(code(said))
    await expect(ledger.subscribe('topic', { signal }).next()).rejects.toEqual(code(said))
    await expect(ledger.read('topic', { signal })).rejects.not.toThrow(/secret/)
    node.log.before = undefined
    await ledger.append('topic', bytes('x'), { signal })
  })

  test('gives up a stream on which nothing is asked, or that asks twice', async () => {
    const node = await TestNode.start()
    const { session } = await node.visit()
    const question = frame({ t: 'subscribe', topic: 'x', from: 1 })
    expect(await say(session, Buffer.concat([question, question]))).toEqual(code('ERR_PEERLINE_REMOTE'))
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const serve = vi.spyOn(node.service, 'serve')
    const silent = say(session, question.subarray(0, 10))
    await soon(() => expect(serve).toHaveBeenCalled())
    await vi.advanceTimersByTimeAsync(10_000)
    expect(await silent).toEqual(code('ERR_PEERLINE_TIMEOUT'))
  })

  test('reads no question that is too large', async () => {
    const node = await TestNode.start()
    const { session } = await node.visit()
    const announced = Buffer.alloc(4)
    announced.writeUInt32BE(1_024 + 513)
    expect(await say(session, announced)).toEqual(code('ERR_PEERLINE_REMOTE'))
  })

  test('ends what goes on when it is closed, and takes nothing more', async () => {
    const node = await TestNode.start()
    const ledger = await node.read()
    const waiting = ledger.subscribe('topic', { signal }).next()
    waiting.catch(() => {})
    await soon(() => expect(node.service.subscriptions).toBe(1))
    await node.service.close()
    await expect(waiting).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    await soon(() => expect(node.service.subscriptions).toBe(0))
    await expect(ledger.read('topic', { signal })).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    // It was given the ledger, and does not close it.
    expect(node.log.put('topic', 'still open').sequence).toBe(1)
    await node.log.append('topic', bytes('x'), { signal })
  })

  test('whatever it is asked, it answers with a typed error or gives the stream up, and goes on', async () => {
    const node = await TestNode.start({
      limits: { requestsPerSecond: 10_000, messagesPerMinute: 1e6, messagesPerSecond: 1e6, topicMessagesPerHour: 1e6 },
    })
    const { session } = await node.visit()
    for (let i = 0; i < 5; i++) node.log.put('a', `message ${i}`)
    const honest = await openLedger(session)
    const value = fc.oneof(
      fc.integer({ min: -3, max: 10 }),
      fc.maxSafeInteger(),
      fc.constantFrom('about', 'append', 'read', 'subscribe', 'prove', 'a', 'b\u0000', 'x'.repeat(101)),
      fc.uint8Array({ maxLength: 40 }),
      fc.boolean(),
      fc.constant(null),
    )
    const names = fc.constantFrom('t', 'topic', 'from', 'to', 'since', 'max', 'message', 'known', 'other')
    const whole = fc.record({
      t: fc.constantFrom('about', 'append', 'read', 'subscribe', 'prove'),
      topic: fc.constantFrom('a', 'b'),
      from: fc.integer({ min: 0, max: 8 }),
      to: fc.integer({ min: 0, max: 8 }),
      max: fc.integer({ min: 0, max: 70 }),
      message: fc.uint8Array({ maxLength: 40 }),
    })
    const requests = fc
      .tuple(whole, fc.dictionary(names, value, { maxKeys: 3 }))
      .map(([request, changes]) => ({ ...request, ...changes }))
    await fc.assert(
      fc.asyncProperty(requests, async (request) => {
        try {
          const answer = await ask(session, request)
          expect(answer).toBeTypeOf('object')
          expect(encodeCbor(answer).length).toBeLessThanOrEqual(MAX_REPLY_BYTES)
        } catch (error) {
          expect(error).toSatisfy(isPeerlineError)
        }
      }),
      { numRuns: 300 },
    )
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 40 }), async (raw) => {
        const stream = await session.open(LEDGER_PROTOCOL)
        await stream.end(raw).catch(() => {})
        // It never waits for more than what came.
        await stream.closed
      }),
      { numRuns: 100 },
    )
    expect((await honest.read('a', { signal, max: 5 })).entries.map(({ sequence }) => sequence)).toEqual([
      1, 2, 3, 4, 5,
    ])
    await soon(() => expect(node.service.subscriptions).toBe(0))
  }, 60_000)
})
