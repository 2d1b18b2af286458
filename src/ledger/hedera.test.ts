/**
 * The ledger at Hedera: the official SDK against a stand-in for the network on loopback (test/hedera/stand-in.ts).
 */
import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { Status } from '@hiero-ledger/sdk'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { FEE, PAYER, StandIn } from '../../test/hedera/stand-in.ts'
import { isPeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import { Kind } from './envelope.ts'
import { HederaLedger, type HederaOptions } from './hedera.ts'
import { keyOf, loadSdk, openClient } from './hedera-client.ts'
import { hederaError, KNOWN_STATUSES } from './hedera-errors.ts'
import { openStream, type Unfinished } from './hedera-mirror.ts'
import { ledgerCompliance } from './ledger.compliance.ts'
import type { Entry } from './ledger.ts'
import { TopicReader } from './topic-reader.ts'
import { TopicWriter } from './topic-writer.ts'

const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })
const bytes = (text: string) => new TextEncoder().encode(text)
const text = ({ message }: Entry) => new TextDecoder().decode(message)
const signal = AbortSignal.timeout(600_000)

/** A network, and the key of the account that pays. */
async function network() {
  const pair = generateKeyPairSync('ed25519')
  const { x, d } = pair.privateKey.export({ format: 'jwk' })
  const standIn = await new StandIn(Buffer.from(x!, 'base64url')).start()
  const key = Buffer.from(d!, 'base64url').toString('hex')
  const open = (options: Partial<HederaOptions> = {}) =>
    HederaLedger.open({ network: standIn.network, account: `0.0.${PAYER}`, key, ...options })
  return { standIn, key, open }
}

/** A ledger at a network of its own, and a topic. */
async function setUp(options: Partial<HederaOptions> = {}) {
  const { standIn, key, open } = await network()
  const ledger = await open({ visibleMs: 2_000, ...options })
  onTestFinished(async () => {
    await ledger.close()
    await standIn.stop()
  })
  const topic = await ledger.createTopic('', { signal })
  return { standIn, key, open, ledger, topic }
}

/** The first `count` entries of a subscription. */
async function take(ledger: HederaLedger, topic: string, count: number, options: object = {}): Promise<Entry[]> {
  const entries: Entry[] = []
  for await (const entry of ledger.subscribe(topic, { signal, ...options })) {
    if (entries.push(entry) === count) break
  }
  return entries
}

ledgerCompliance('the ledger at Hedera', async () => {
  const { standIn, open } = await network()
  const [ledger, other] = [await open(), await open()]
  return {
    ...{ ledger, other },
    stall: () => void standIn.answers.push(...Array.from({ length: 50 }, () => 'hang' as const)),
    teardown: async () => {
      await Promise.all([ledger.close(), other.close()])
      await standIn.stop()
    },
  }
})

describe('appending', () => {
  test('says where the message is and when it got there, and pays for a transaction and a record', async () => {
    const { standIn, ledger, topic } = await setUp()
    const before = standIn.balance
    const receipt = await ledger.append(topic, bytes('one'), { signal })
    const [entry] = standIn.topic(topic).entries
    expect(receipt).toEqual({ sequence: 1, at: Number(entry!.nanos / 1_000n) / 1_000 })
    expect(before - standIn.balance).toBe(FEE)
    expect(standIn.asked.records).toBe(1)
  })

  test('only sends when its place does not matter', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.consensusMs = 60_000
    expect(await ledger.append(topic, bytes('one'), { signal, wait: 'sent' })).toEqual({})
    expect(standIn.asked.records).toBe(0)
  })

  test('is signed by the key of the account: with another key the network refuses', async () => {
    const { open, topic } = await setUp()
    const stranger = await open({ key: randomBytes(32).toString('hex') })
    onTestFinished(() => stranger.close())
    const appending = stranger.append(topic, bytes('one'), { signal })
    await expect(appending).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('the largest message of one transaction keeps within the bytes that cost nothing extra', async () => {
    const { standIn, ledger, topic } = await setUp()
    await ledger.append(topic, randomBytes(1_024), { signal, wait: 'sent' })
    expect(standIn.sizes.at(-1)).toBeLessThanOrEqual(1_350)
  })

  test('waits until a busy node takes it', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push('BUSY', 'PLATFORM_TRANSACTION_NOT_CREATED')
    expect((await ledger.append(topic, bytes('one'), { signal })).sequence).toBe(1)
    expect(standIn.topic(topic).entries).toHaveLength(1)
  })

  test('waits for consensus, however often it has to ask', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.consensusMs = 1_200
    expect((await ledger.append(topic, bytes('one'), { signal })).sequence).toBe(1)
    expect(standIn.asked.receipts).toBeGreaterThan(2)
  })

  test('makes a new transaction when the first has expired', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push('TRANSACTION_EXPIRED')
    expect((await ledger.append(topic, bytes('one'), { signal })).sequence).toBe(1)
    expect(standIn.asked.transactions).toBe(3) // the topic's, the one that expired, and the one after it
  })

  test('is done once, when a node has taken it and its answer was lost', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push('lost')
    expect((await ledger.append(topic, bytes('one'), { signal })).sequence).toBe(1)
    expect(standIn.topic(topic).entries).toHaveLength(1)
  })

  test.each([
    ['INSUFFICIENT_PAYER_BALANCE', 'ERR_PEERLINE_PAYMENT'],
    ['INSUFFICIENT_TX_FEE', 'ERR_PEERLINE_PAYMENT'],
    ['INVALID_TOPIC_ID', 'ERR_PEERLINE_INVALID'],
    ['UNAUTHORIZED', 'ERR_PEERLINE_DENIED'],
    ['INVALID_SIGNATURE', 'ERR_PEERLINE_DENIED'],
    ['TRANSACTION_OVERSIZE', 'ERR_PEERLINE_TOO_LARGE'],
    ['INVALID_TRANSACTION_START', 'ERR_PEERLINE_EXPIRED'],
    ['FAIL_INVALID', 'ERR_PEERLINE_REMOTE'],
  ] as const)('fails with what a node says: %s', async (status, expected) => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push(status)
    await expect(ledger.append(topic, bytes('one'), { signal })).rejects.toEqual(code(expected))
    expect(standIn.topic(topic).entries).toHaveLength(0)
  })

  test.each([
    ['INSUFFICIENT_PAYER_BALANCE', 'ERR_PEERLINE_PAYMENT'],
    ['INVALID_TOPIC_ID', 'ERR_PEERLINE_INVALID'],
    ['INVALID_SIGNATURE', 'ERR_PEERLINE_DENIED'],
    ['THROTTLED_AT_CONSENSUS', 'ERR_PEERLINE_BUSY'],
    ['TRANSACTION_EXPIRED', 'ERR_PEERLINE_EXPIRED'],
  ] as const)('fails with what becomes of it at consensus: %s', async (status, expected) => {
    const { standIn, ledger, topic } = await setUp()
    standIn.outcomes.push(status)
    await expect(ledger.append(topic, bytes('one'), { signal })).rejects.toEqual(code(expected))
  })

  test.each([
    ['BUSY', 'ERR_PEERLINE_BUSY'],
    ['PLATFORM_TRANSACTION_NOT_CREATED', 'ERR_PEERLINE_BUSY'],
    ['unavailable', 'ERR_PEERLINE_UNREACHABLE'],
  ] as const)('gives up when it is the same again and again: %s', async (answer, expected) => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push(...Array.from({ length: 50 }, () => answer))
    await expect(ledger.append(topic, bytes('one'), { signal })).rejects.toEqual(code(expected))
  })

  test('an account that is empty really cannot pay', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.balance = FEE - 1
    const appending = ledger.append(topic, bytes('one'), { signal })
    await expect(appending).rejects.toMatchObject({
      code: 'ERR_PEERLINE_PAYMENT',
      recover: expect.stringContaining('top it up'),
    })
  })

  test('pays nothing to whoever made a topic that takes money', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.topic(topic).customFee = 100_000_000
    const before = standIn.balance
    const appending = ledger.append(topic, bytes('one'), { signal })
    await expect(appending).rejects.toMatchObject({
      code: 'ERR_PEERLINE_DENIED',
      recover: expect.stringContaining('another topic'),
    })
    expect(before - standIn.balance).toBe(FEE)
  })

  test('does not pay a node what a record never costs', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.recordFee = 50_000_000
    await expect(ledger.append(topic, bytes('one'), { signal })).rejects.toSatisfy(isPeerlineError)
    expect(standIn.paid).toEqual([])
  })

  const none = ['0.0', 'stdin', '0.0.1.2', '0x1', '0.0.9223372036854775808', `0.0.${'9'.repeat(30)}`]
  test.each(none)('refuses the topic %s, as reading does', async (topic) => {
    const { standIn, ledger } = await setUp()
    const invalid = code('ERR_PEERLINE_INVALID')
    await expect(ledger.append(topic, bytes('one'), { signal })).rejects.toEqual(invalid)
    await expect(ledger.read(topic, { signal })).rejects.toEqual(invalid)
    await expect(take(ledger, topic, 1)).rejects.toEqual(invalid)
    expect(standIn.asked.transactions).toBe(1)
  })

  test('refuses a message without a byte, as the network does', async () => {
    const { ledger, topic } = await setUp()
    await expect(ledger.append(topic, bytes(''), { signal })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
  })

  test('ends with the signal, though the node does not answer, and then asks no more', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.answers.push('hang')
    const late = ledger.append(topic, bytes('one'), { signal: AbortSignal.timeout(100) })
    await expect(late).rejects.toEqual(code('ERR_PEERLINE_TIMEOUT'))
    standIn.answers.push(...Array.from({ length: 50 }, () => 'BUSY' as const))
    const cancel = new AbortController()
    const appending = ledger.append(topic, bytes('two'), { signal: cancel.signal })
    await vi.waitFor(() => expect(standIn.asked.transactions).toBe(3), { interval: 1 })
    cancel.abort()
    await expect(appending).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    standIn.answers.length = 0
    standIn.consensusMs = 1_000
    await ledger.append(topic, bytes('three'), { signal })
    expect(standIn.asked.transactions).toBe(4)
    expect(standIn.topic(topic).entries.map(({ message }) => message.toString())).toEqual(['three'])
  })

  test('goes on when another ledger of this process is closed', async () => {
    const { standIn, open, ledger, topic } = await setUp()
    const other = await open()
    await Promise.all([ledger, other].map((one) => one.append(topic, bytes('first'), { signal })))
    const appending = Array.from({ length: 30 }, () => ledger.append(topic, bytes('more'), { signal }))
    await vi.waitFor(() => expect(standIn.asked.transactions).toBeGreaterThan(4), { interval: 1 })
    const closedAt = performance.now()
    await other.close()
    await Promise.all(appending)
    expect(performance.now() - closedAt).toBeLessThan(6_000) // a call that was cut off takes 8 s
    expect(standIn.topic(topic).entries).toHaveLength(32)
  })

  test('says that nobody is there', async () => {
    const { key } = await setUp()
    const server = createServer()
    const port = await new Promise<number>((resolve) => {
      server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port))
    })
    await new Promise((resolve) => server.close(resolve))
    const address = `127.0.0.1:${port}`
    const nowhere = { name: 'nowhere', nodes: { [address]: '0.0.3' }, mirrors: [address] }
    const ledger = await HederaLedger.open({ network: nowhere, account: `0.0.${PAYER}`, key })
    onTestFinished(() => ledger.close())
    const unreachable = code('ERR_PEERLINE_UNREACHABLE')
    await expect(take(ledger, '0.0.1', 1)).rejects.toEqual(unreachable)
    await expect(ledger.append('0.0.1', bytes('one'), { signal })).rejects.toEqual(unreachable)
  }, 60_000)
})

describe('topics', () => {
  test('are open to anyone, unchangeable, and say nothing, unless told otherwise', async () => {
    const { standIn, ledger, topic } = await setUp()
    expect(standIn.topic(topic)).toMatchObject({ memo: '', submitKey: undefined, hasAdminKey: false })
    const ours = await ledger.createTopic('', { signal, memo: 'for all to see', writers: 'us', changeable: true })
    expect(standIn.topic(ours)).toMatchObject({
      memo: 'for all to see',
      submitKey: expect.anything(),
      hasAdminKey: true,
    })
    expect((await ledger.append(ours, bytes('one'), { signal })).sequence).toBe(1)
    standIn.topic(ours).submitKey = randomBytes(32)
    await expect(ledger.append(ours, bytes('two'), { signal })).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('cost what they cost, and a memo that is too long is refused', async () => {
    const { standIn, ledger } = await setUp()
    standIn.answers.push('MEMO_TOO_LONG')
    const making = ledger.createTopic('', { signal, memo: 'x'.repeat(200) })
    await expect(making).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
  })
})

describe('messages in chunks', () => {
  const large = { maxMessageBytes: 20_480 }

  test('come whole, at the place of the chunk that came last; the places of the others are empty', async () => {
    const { standIn, ledger, topic } = await setUp(large)
    const message = randomBytes(3_000)
    const receipt = await ledger.append(topic, message, { signal })
    expect(receipt.sequence).toBe(3)
    await ledger.append(topic, bytes('after'), { signal })
    const entries = await take(ledger, topic, 4)
    expect(entries.map(({ message }) => message.length)).toEqual([0, 0, 3_000, 5])
    expect(Buffer.compare(entries[2]!.message, message)).toBe(0)
    expect(entries[2]!.at).toBe(receipt.at)
    expect(standIn.topic(topic).entries.map(({ message }) => message.length)).toEqual([1_024, 1_024, 952, 5])
  })

  test('up to the largest', async () => {
    const { ledger, topic } = await setUp(large)
    const message = randomBytes(20_480)
    expect((await ledger.append(topic, message, { signal })).sequence).toBe(20)
    const { entries } = await ledger.read(topic, { signal })
    expect(Buffer.compare(entries.at(-1)!.message, message)).toBe(0)
    const tooLarge = ledger.append(topic, randomBytes(20_481), { signal })
    await expect(tooLarge).rejects.toEqual(code('ERR_PEERLINE_TOO_LARGE'))
  })

  test('of two writers in each other’s midst, and in any order, come whole', async () => {
    const { standIn, ledger, topic } = await setUp(large)
    chunk(standIn, topic, 'a', 2, 2, 'A2')
    chunk(standIn, topic, 'b', 1, 2, 'B1')
    standIn.put(topic, bytes('single'))
    chunk(standIn, topic, 'a', 1, 2, 'A1')
    chunk(standIn, topic, 'b', 2, 2, 'B2')
    expect((await take(ledger, topic, 5)).map(text)).toEqual(['', '', 'single', 'A1A2', 'B1B2'])
    standIn.onSend = (entry) => [entry, entry]
    expect((await ledger.read(topic, { signal })).entries.map(text)).toEqual(['', '', 'single', 'A1A2', 'B1B2'])
  })

  test('are whole for a reader that goes on in their midst', async () => {
    const { standIn, open, ledger, topic } = await setUp(large)
    chunk(standIn, topic, 'a', 1, 2, 'A1')
    standIn.put(topic, bytes('single'))
    expect((await take(ledger, topic, 2)).map(text)).toEqual(['', 'single'])
    chunk(standIn, topic, 'a', 2, 2, 'A2')
    expect((await take(ledger, topic, 1, { from: 3 })).map(text)).toEqual(['A1A2'])
    const later = await open(large)
    onTestFinished(() => later.close())
    const [, , third] = await take(later, topic, 3)
    expect((await take(later, topic, 1, { from: 3, since: third!.at })).map(text)).toEqual(['A1A2'])
  })

  test('that are larger than ours may be are passed over, and those that are never whole take bounded room', async () => {
    const { standIn, ledger, topic } = await setUp({ maxMessageBytes: 2_048 })
    chunk(standIn, topic, 'large', 1, 3, 'x')
    for (let i = 0; i < 300; i++) chunk(standIn, topic, `never ${i}`, 1, 2, 'x')
    chunk(standIn, topic, 'never 0', 2, 2, 'y')
    chunk(standIn, topic, 'never 299', 2, 2, 'y')
    const entries = await take(ledger, topic, 303)
    expect(entries.slice(-2).map(text)).toEqual(['', 'xy'])
    expect(new Set(entries.slice(0, -1).map(text))).toEqual(new Set(['']))
  })

  test('whose chunks do not agree how many they are take no room', async () => {
    const { standIn, key, ledger, topic } = await setUp(large)
    for (const [number, total] of [[1, 20], [2, 20], ...Array.from({ length: 100 }, () => [1, 2])] as const) {
      chunk(standIn, topic, 'a', number!, total!, 'x')
    }
    const sdk = await loadSdk()
    const { client, close } = openClient(sdk, standIn.network, `0.0.${PAYER}`, keyOf(sdk, key))
    onTestFinished(close)
    const unfinished: Unfinished = new Map()
    const stream = openStream(sdk, client, { topic, from: 0n, limit: 256, maxChunks: 20, unfinished, signal })
    let most = 0
    for (let i = 0; i < 102; i++) {
      await stream.next()
      for (const { length } of unfinished.values()) most = Math.max(most, length)
    }
    stream.close()
    expect(most).toBeLessThan(20)
    // The next that is whole is read.
    chunk(standIn, topic, 'b', 1, 2, 'B1')
    chunk(standIn, topic, 'b', 2, 2, 'B2')
    expect((await take(ledger, topic, 2, { from: 103 })).map(text)).toEqual(['', 'B1B2'])
  })

  test('a chunk that does not say what it is of is empty, and hinders nobody', async () => {
    const { standIn, ledger, topic } = await setUp(large)
    const of = { accountID: { accountNum: { low: PAYER, high: 0, unsigned: false } } }
    standIn.put(topic, bytes('nobody'), { number: 2, total: 2, initialTransactionID: of } as never)
    standIn.put(topic, bytes('nobody'), { number: 2, total: 2 })
    standIn.put(topic, bytes('nobody'), {})
    standIn.put(topic, bytes('after'))
    expect((await take(ledger, topic, 4)).map(text)).toEqual(['', '', '', 'after'])
  })

  test('a message of one chunk is read where only such are allowed, and the chunks of others are empty', async () => {
    const { standIn, ledger, topic } = await setUp()
    chunk(standIn, topic, 'a', 1, 2, 'A1')
    chunk(standIn, topic, 'a', 2, 2, 'A2')
    chunk(standIn, topic, 'b', 1, 1, 'B1')
    expect((await take(ledger, topic, 3)).map(text)).toEqual(['', '', 'B1'])
  })
})

/** Another writer's chunk. */
function chunk(standIn: StandIn, topic: string, of: string, number: number, total: number, content: string): void {
  const seconds = {
    low: [...of].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) & 0x7fffffff, 7),
    high: 0,
    unsigned: false,
  }
  const accountNum = { low: 77, high: 0, unsigned: false }
  const initialTransactionID = { accountID: { accountNum }, transactionValidStart: { seconds, nanos: 1 } }
  standIn.put(topic, bytes(content), { number, total, initialTransactionID } as never)
}

describe('reading', () => {
  test('a topic that the mirror node does not know yet is waited for; one that is nowhere is invalid', async () => {
    const { standIn, ledger } = await setUp()
    standIn.mirrorMs = 800
    const topic = await ledger.createTopic('', { signal })
    const reading = take(ledger, topic, 1)
    await ledger.append(topic, bytes('one'), { signal })
    expect((await reading).map(text)).toEqual(['one'])
    const invalid = code('ERR_PEERLINE_INVALID')
    await expect(ledger.read('0.0.99', { signal })).rejects.toEqual(invalid)
    await expect(take(ledger, '0.0.99', 1)).rejects.toEqual(invalid)
  })

  test('what was appended is there, though the mirror node has it later', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.mirrorMs = 700
    standIn.aheadNanos = 300_000_000n
    await ledger.append(topic, bytes('one'), { signal })
    expect((await ledger.read(topic, { signal })).entries.map(text)).toEqual(['one'])
  })

  test('ends though the clock here is ahead of the mirror node’s', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (const one of ['one', 'two']) standIn.put(topic, bytes(one)).nanos -= 30_000_000_000n
    standIn.aheadNanos = -20_000_000_000n
    expect((await ledger.read(topic, { signal })).entries.map(text)).toEqual(['one', 'two'])
  })

  test('asks for no more than it can hold, and goes on from there', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (let i = 1; i <= 700; i++) standIn.put(topic, bytes(`${i}`))
    expect((await take(ledger, topic, 700)).map(text)).toEqual(Array.from({ length: 700 }, (_, i) => `${i + 1}`))
    expect(standIn.queries.map(({ limit }) => Number(limit))).toEqual([256, 256, 256])
  })

  test('goes on from a place without asking for all before it', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (let i = 1; i <= 300; i++) standIn.put(topic, bytes(`${i}`))
    await take(ledger, topic, 300)
    standIn.put(topic, bytes('301'))
    const sent: number[] = []
    standIn.onSend = (entry) => {
      sent.push(entry.sequence)
      return [entry]
    }
    expect((await take(ledger, topic, 2, { from: 300 })).map(text)).toEqual(['300', '301'])
    expect(sent).toEqual([299, 300, 301])
  })

  test('finds a place that it does not remember without asking for all before it', async () => {
    const { standIn, open, topic } = await setUp()
    for (let i = 1; i <= 5_000; i++) standIn.put(topic, bytes(`${i}`)).nanos -= BigInt(5_000 - i) * 40_000_000_000n
    const ledger = await open({ visibleMs: 500 })
    onTestFinished(() => ledger.close())
    let sent = 0
    standIn.onSend = (entry) => {
      sent++
      return [entry]
    }
    expect((await take(ledger, topic, 2, { from: 4_000 })).map(text)).toEqual(['4000', '4001'])
    expect(sent).toBeLessThan(600)
    expect(standIn.asked.streams).toBeLessThan(25)
    expect((await ledger.read(topic, { signal, from: 6_000 })).entries).toEqual([])
    await expect(ledger.read('0.0.99', { signal, from: 4_000 })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
  })

  test('goes on from a time without asking for all before it', async () => {
    const { standIn, open, topic } = await setUp()
    standIn.put(topic, bytes('old')).nanos -= 600_000_000_000n
    const { nanos } = standIn.put(topic, bytes('new'))
    const ledger = await open()
    onTestFinished(() => ledger.close())
    const sent: number[] = []
    standIn.onSend = (entry) => {
      sent.push(entry.sequence)
      return [entry]
    }
    expect((await take(ledger, topic, 1, { since: Number(nanos / 1_000_000n) })).map(text)).toEqual(['new'])
    expect(sent).toEqual([2])
  })

  test.each([
    [0, 'ERR_PEERLINE_UNREACHABLE'],
    [14, 'ERR_PEERLINE_UNREACHABLE'],
    [13, 'ERR_PEERLINE_UNREACHABLE'],
    [8, 'ERR_PEERLINE_BUSY'],
    [4, 'ERR_PEERLINE_TIMEOUT'],
    [16, 'ERR_PEERLINE_DENIED'],
  ])(
    'a stream that dies with status %i ends the subscription, which goes on where it was',
    async (status, expected) => {
      const { standIn, ledger, topic } = await setUp()
      for (const one of ['1', '2', '3', '4']) standIn.put(topic, bytes(one))
      standIn.cut = { after: 2, code: status }
      const seen: Entry[] = []
      const reading = (async () => {
        for await (const entry of ledger.subscribe(topic, { signal })) seen.push(entry)
      })()
      await expect(reading).rejects.toEqual(code(expected))
      expect(seen.map(text)).toEqual(['1', '2'])
      standIn.cut = undefined
      expect((await take(ledger, topic, 2, { from: 3 })).map(text)).toEqual(['3', '4'])
    },
  )

  test('a mirror node that goes away ends the subscription, and one that is back is read from there', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.put(topic, bytes('1'))
    const reading = ledger.subscribe(topic, { signal })
    expect((await reading.next()).value).toMatchObject({ sequence: 1 })
    const next = reading.next()
    const startMirror = await standIn.stopMirror()
    await expect(next).rejects.toEqual(code('ERR_PEERLINE_UNREACHABLE'))
    standIn.put(topic, bytes('2'))
    await startMirror()
    const again = async () => expect((await take(ledger, topic, 1, { from: 2 })).map(text)).toEqual(['2'])
    await vi.waitFor(again, { timeout: 15_000, interval: 200 })
  }, 30_000)

  test('copies are passed over', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (const one of ['1', '2', '3']) standIn.put(topic, bytes(one))
    const [first] = standIn.topic(topic).entries
    standIn.onSend = (entry) => (entry.sequence === 3 ? [entry, entry, first!] : [entry, entry])
    const reading = take(ledger, topic, 4)
    await vi.waitFor(() => expect(standIn.asked.streams).toBe(1))
    standIn.put(topic, bytes('4'))
    expect((await reading).map(text)).toEqual(['1', '2', '3', '4'])
  })

  test('gaps that close are no matter, however many there have been', async () => {
    const { standIn, ledger, topic } = await setUp()
    let missing = 0
    standIn.onSend = ({ sequence, ...entry }) => {
      if (sequence !== missing) return [{ sequence, ...entry }]
      missing = 0
      return []
    }
    const reading = ledger.subscribe(topic, { signal })
    for (let i = 1; i <= 12; i += 2) {
      missing = i
      for (const sequence of [i, i + 1]) standIn.put(topic, bytes(`${sequence}`))
      for (const sequence of [i, i + 1]) expect((await reading.next()).value).toMatchObject({ sequence })
    }
    await reading.return()
  }, 20_000)

  test('a gap that closes is no matter; one that stays ends it', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (const one of ['1', '2', '3']) standIn.put(topic, bytes(one))
    let missing = 2
    standIn.onSend = (entry) => (entry.sequence === 2 && missing-- > 0 ? [] : [entry])
    expect((await take(ledger, topic, 3)).map(text)).toEqual(['1', '2', '3'])
    standIn.onSend = (entry) => (entry.sequence === 2 ? [] : [entry])
    const lying = code('ERR_PEERLINE_LEDGER')
    await expect(take(ledger, topic, 3)).rejects.toEqual(lying)
    standIn.onSend = (entry) => (entry.sequence === 1 ? [] : [entry])
    await expect(ledger.read(topic, { signal })).rejects.toEqual(lying)
  })
})

describe('a mirror node that changes what it said is noticed', () => {
  const changed = code('ERR_PEERLINE_LEDGER')

  test('at an entry that was read', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (const one of ['1', '2']) standIn.put(topic, bytes(one))
    await take(ledger, topic, 2)
    standIn.topic(topic).entries[1]!.hash = randomBytes(48)
    await expect(take(ledger, topic, 1, { from: 2 })).rejects.toEqual(changed)
    await expect(ledger.read(topic, { signal })).rejects.toEqual(changed)
  })

  test('at what we wrote, by the receipt of the network', async () => {
    const { standIn, ledger, topic } = await setUp()
    await ledger.append(topic, bytes('one'), { signal })
    standIn.onSend = (entry) => [{ ...entry, message: bytes('two'), hash: randomBytes(48) }]
    await expect(take(ledger, topic, 1)).rejects.toEqual(changed)
  })

  test('when it begins anew, has lost what was read, or its time goes back', async () => {
    const { standIn, ledger, topic } = await setUp()
    for (let i = 1; i <= 100; i++) standIn.put(topic, bytes(`${i}`))
    await take(ledger, topic, 100)
    standIn.onSend = (entry) => (entry.sequence === 100 ? [] : [entry])
    standIn.put(topic, bytes('101'))
    await expect(take(ledger, topic, 1, { from: 101 })).rejects.toEqual(changed)
    standIn.onSend = undefined
    standIn.topic(topic).entries.length = 0
    standIn.put(topic, bytes('new'))
    await expect(take(ledger, topic, 1, { from: 101 })).rejects.toEqual(changed)
    const back = await setUp()
    for (const one of ['1', '2']) back.standIn.put(back.topic, bytes(one))
    back.standIn.onSend = (entry) => [{ ...entry, nanos: entry.nanos / BigInt(entry.sequence) }]
    await expect(take(back.ledger, back.topic, 2)).rejects.toEqual(changed)
  })
})

test('what a node says of a failure is one line of plain text', () => {
  const said = hederaError({ code: 14, message: 'gone\u001b[2J\nand\u2028more' }, 'reading 0.0.7').message
  expect(said).toBe('reading 0.0.7 failed: gone [2J and more')
})

describe('a mirror node that sends what is no answer ends the subscription, and nothing else', () => {
  const protocol = code('ERR_PEERLINE_PROTOCOL')

  test.each([
    ['no message at all', Uint8Array.of(0xff, 0xff, 0xff)],
    ['an entry without a time', Uint8Array.of(0x12, 0x01, 0x41)],
    ['an empty entry', new Uint8Array()],
    ['an entry without a place', Uint8Array.of(0x0a, 0x02, 0x08, 0x01, 0x12, 0x01, 0x41)],
  ])('%s', async (_, data) => {
    const { standIn, ledger, topic } = await setUp()
    standIn.put(topic, bytes('1'))
    standIn.onSend = () => [data]
    await expect(take(ledger, topic, 1)).rejects.toEqual(protocol)
  })

  test('more than an entry may have', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.put(topic, bytes('1'))
    standIn.onSend = (entry) => [{ ...entry, message: new Uint8Array(100_000) }]
    await expect(take(ledger, topic, 1)).rejects.toEqual(protocol)
  })

  test('more entries than were asked for', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.put(topic, bytes('1'))
    standIn.onSend = (entry) => Array.from({ length: 300 }, () => entry)
    await expect(take(ledger, topic, 2)).rejects.toEqual(protocol)
  })

  test('any bytes', async () => {
    const { standIn, ledger, topic } = await setUp()
    standIn.put(topic, bytes('1'))
    const sent = fc.array(fc.uint8Array({ maxLength: 200 }), { minLength: 1, maxLength: 5 })
    await fc.assert(
      fc.asyncProperty(sent, async (all) => {
        standIn.onSend = (entry) => [...all, entry]
        const outcome = await take(ledger, topic, 1).catch((error: unknown) => error)
        if (outcome instanceof Error) expect(outcome).toSatisfy(isPeerlineError)
      }),
      { numRuns: 50 },
    )
  })
})

test('a writer and a reader of signed messages get through what happens to the network, and to the mirror node', async () => {
  const { standIn, open, ledger, topic } = await setUp()
  const other = await open()
  onTestFinished(() => other.close())
  const signer = Identity.generate()
  const [writer, seen, waits] = [new TopicWriter({ ledger, topic, signer }), [] as string[], [] as string[]]
  const reader = new TopicReader({
    ...{ ledger: other, topic },
    onMessage: ({ sender, payload }) => seen.push(`${sender === signer.peerId} ${new TextDecoder().decode(payload)}`),
    onState: (state) => waits.push(state.state === 'waiting' ? state.error.code : state.state),
  })
  onTestFinished(async () => {
    writer.close()
    await reader.close()
  })
  await writer.append(Kind.HEARTBEAT, bytes('1'), { signal })
  standIn.put(topic, bytes('of nobody'))
  await vi.waitFor(() => expect(reader.position).toBe(2), { timeout: 10_000 })
  standIn.cut = { after: 1, code: 14 }
  standIn.answers.push('BUSY', 'TRANSACTION_EXPIRED', 'lost')
  await writer.append(Kind.HEARTBEAT, bytes('2'), { signal })
  await vi.waitFor(() => expect(waits).toContain('ERR_PEERLINE_UNREACHABLE'), { timeout: 10_000 })
  standIn.cut = undefined
  await writer.append(Kind.HEARTBEAT, bytes('3'), { signal })
  await vi.waitFor(() => expect(seen).toEqual(['true 1', 'true 2', 'true 3']), { timeout: 15_000 })
}, 60_000)

describe('what it costs', () => {
  test('is the published fee, times chunks, with bytes beyond the first hundred and one record', async () => {
    const { ledger } = await setUp()
    const usd = (bytes: number) => Number(ledger.price(bytes).amount.toFixed(8))
    expect(ledger.price(1).unit).toBe('USD')
    expect(usd(1)).toBe(0.0009)
    expect(usd(100)).toBe(0.0009)
    expect(usd(1_024)).toBe(0.00152832)
    expect(usd(1_025)).toBe(Number((0.0001 + 2 * 0.0008 + 924 * 0.000_000_68).toFixed(8)))
    expect(usd(20_480)).toBe(Number((0.0001 + 20 * (0.0008 + 924 * 0.000_000_68)).toFixed(8)))
  })
})

describe('opening', () => {
  const account = '0.0.1001'
  const key = randomBytes(32).toString('hex')
  const invalid = code('ERR_PEERLINE_INVALID')

  test.each(['mainnet', 'testnet', 'previewnet'] as const)('%s has a name and an id', async (name) => {
    const environment = { PEERLINE_HEDERA_NETWORK: name, PEERLINE_HEDERA_ACCOUNT: account, PEERLINE_HEDERA_KEY: key }
    const ledger = await HederaLedger.fromEnvironment({ environment })
    expect([ledger.name, ledger.id, ledger.maxMessageBytes]).toEqual([`hedera ${name}`, `hedera:${name}`, 1_024])
    await ledger.close()
  })

  test.each([
    ['PEERLINE_HEDERA_NETWORK', undefined],
    ['PEERLINE_HEDERA_NETWORK', 'local-node'],
    ['PEERLINE_HEDERA_ACCOUNT', ''],
    ['PEERLINE_HEDERA_KEY', undefined],
  ])('names the variable %s when it is %s', async (name, value) => {
    const environment = {
      PEERLINE_HEDERA_NETWORK: 'testnet',
      PEERLINE_HEDERA_ACCOUNT: account,
      PEERLINE_HEDERA_KEY: key,
    }
    const opening = HederaLedger.fromEnvironment({ environment: { ...environment, [name]: value } })
    await expect(opening).rejects.toMatchObject({
      code: 'ERR_PEERLINE_INVALID',
      message: expect.stringContaining(name),
    })
  })

  test('takes keys in DER and in hex, Ed25519 and ECDSA, and says nothing of one that is wrong', async () => {
    const der = `302e020100300506032b657004220420${key}`
    for (const one of [key, `0x${key}`, der, `0x${der}`]) {
      await (await HederaLedger.open({ network: 'testnet', account, key: one })).close()
    }
    for (const one of ['', 'secret', key.slice(1), `${key}00`, `${der}00ff`]) {
      const error: Error = await HederaLedger.open({ network: 'testnet', account, key: one }).then(
        () => expect.unreachable(one),
        (error) => error,
      )
      expect(error).toEqual(invalid)
      if (one !== '') expect(`${error.message} ${error.cause}`).not.toContain(one)
    }
  })

  test.each([
    { account: '1001' },
    { account: '' },
    { maxMessageBytes: 0 },
    { maxMessageBytes: 20_481 },
    { maxMessageBytes: 1.5 },
    { network: 'nonet' },
    { network: { name: 'Not a name', nodes: {}, mirrors: [] } },
  ])('refuses %j', async (options) => {
    await expect(HederaLedger.open({ network: 'testnet', account, key, ...(options as object) })).rejects.toEqual(
      invalid,
    )
  })

  test('says what to install when the SDK is missing', async () => {
    vi.doMock('@hiero-ledger/sdk', () => {
      throw new Error('Cannot find package')
    })
    onTestFinished(() => void vi.doUnmock('@hiero-ledger/sdk'))
    vi.resetModules()
    const { HederaLedger: Fresh } = await import('./hedera.ts')
    await expect(Fresh.open({ network: 'testnet', account, key })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_UNSUPPORTED',
      recover: expect.stringContaining('npm install @hiero-ledger/sdk'),
    })
  })
})

describe('the network’s statuses', () => {
  test.each(KNOWN_STATUSES)('%s is one of the SDK’s', (name) => {
    expect(Object.values(Status).map(String)).toContain(name)
  })

  test('whatever is thrown becomes an error of ours', () => {
    fc.assert(
      fc.property(fc.anything(), (thrown) => {
        expect(isPeerlineError(hederaError(thrown, 'doing'))).toBe(true)
      }),
      { examples: [[Object.create(null)], [{ toString: '' }], [{ message: { toString: 1 } }]] },
    )
  })
})
