import { getEventListeners } from 'node:events'
import { type FileHandle, open, readdir, readFile, truncate, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { temporaryDirectory, temporaryFile } from '../temporary.compliance.ts'
import { ledgerCompliance } from './ledger.compliance.ts'
import { LogLedger, type LogLedgerOptions } from './log.ts'
import { hashEntry, type PlacedEntry } from './tree-head.ts'

for (const [name, options] of [
  ['a ledger file', {}],
  ['a ledger file that the system puts on the disk', { sync: 'never' }],
] as const) {
  ledgerCompliance(name, async () => {
    const path = await temporaryFile('ledger')
    const [ledger, other] = [await LogLedger.open(path, options), await LogLedger.open(path, options)]
    return {
      ledger,
      other,
      async teardown() {
        await ledger.close()
        await other.close()
        expect(await readdir(dirname(path))).toEqual(['ledger'])
      },
    }
  })
}

let directory: string
let path: string
let signal: AbortSignal
beforeEach(async () => {
  directory = await temporaryDirectory()
  path = join(directory, 'ledger')
  signal = AbortSignal.timeout(15_000)
})

const code = (text: string, said = '') =>
  expect.objectContaining({ name: 'PeerlineError', code: text, message: expect.stringContaining(said) })
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const texts = (entries: readonly PlacedEntry[]) => entries.map(({ message }) => new TextDecoder().decode(message))
const fill = (length: number) => new Uint8Array(length).fill(7)

async function ledgerAt(options: LogLedgerOptions = {}, at = path): Promise<LogLedger> {
  const ledger = await LogLedger.open(at, options)
  onTestFinished(() => ledger.close().catch(() => {}))
  return ledger
}

const append = (ledger: LogLedger, topic: string, ...messages: string[]) =>
  Promise.all(messages.map((message) => ledger.append(topic, bytes(message), { signal })))

/** The prototype of what a file is used by. */
async function handles(): Promise<FileHandle> {
  const handle = await open(directory)
  await handle.close()
  return Object.getPrototypeOf(handle)
}

/** Holds back syncs, and lets them go. */
async function syncs() {
  const prototype = await handles()
  const sync = prototype.datasync
  const held: (() => void)[] = []
  let isHeld = false
  const spy = vi.spyOn(prototype, 'datasync').mockImplementation(async function (this: FileHandle) {
    if (isHeld) await new Promise<void>((resolve) => held.push(resolve))
    return sync.call(this)
  })
  onTestFinished(() => spy.mockRestore())
  return {
    spy,
    hold() {
      isHeld = true
    },
    go() {
      isHeld = false
      for (const one of held.splice(0)) one()
    },
    held,
  }
}

describe('what is on the disk when:', () => {
  test('no append resolves before its sync, and those that wait meanwhile share the next', async () => {
    const ledger = await ledgerAt()
    const { spy, hold, go, held } = await syncs()
    hold()
    const resolved: number[] = []
    const first = ledger.append('t', bytes('0'), { signal }).then(() => resolved.push(0))
    await expect.poll(() => held.length).toBe(1)
    const rest = Array.from({ length: 50 }, (_, i) =>
      ledger.append('t', bytes(String(i + 1)), { signal }).then(() => resolved.push(i + 1)),
    )
    // It is in the file, and yet nobody here is told of it.
    expect((await readFile(path, 'latin1')).includes('t0')).toBe(true)
    expect([resolved, ledger.size]).toEqual([[], 0])
    const reading = ledger.read('t', { signal })
    await expect.poll(() => held.length).toBe(2) // it makes sure itself
    go()
    expect((await reading).entries).toHaveLength(1)
    await Promise.all([first, ...rest])
    expect(resolved).toEqual(Array.from({ length: 51 }, (_, i) => i))
    expect(spy.mock.calls.length).toBeLessThanOrEqual(3)
  })

  test('what another process has appended is on the disk before anybody here has it', async () => {
    const [ledger, other] = [await ledgerAt(), await ledgerAt({ sync: 'never' })]
    await append(other, 't', 'x')
    const { spy, hold, go, held } = await syncs()
    hold()
    const reading = ledger.read('t', { signal })
    await expect.poll(() => held.length).toBe(1)
    expect(ledger.size).toBe(0)
    go()
    expect(texts((await reading).entries)).toEqual(['x'])
    expect(spy).toHaveBeenCalledOnce()
  })

  test('by interval: after that, once for all of them, and before it is closed', async () => {
    const { spy } = await syncs()
    const ledger = await ledgerAt({ sync: { everyMs: 50 } })
    await append(ledger, 't', '1', '2')
    await append(ledger, 't', '3')
    expect(spy).not.toHaveBeenCalled()
    await expect.poll(() => spy.mock.calls.length).toBe(1)
    await append(ledger, 't', '4')
    await ledger.close()
    expect(spy).toHaveBeenCalledTimes(2)
  })

  test('by interval: what is taken in while it is closed leaves no timer behind', async () => {
    const everyMs = 3_600_000
    const [set, clear] = [vi.spyOn(globalThis, 'setTimeout'), vi.spyOn(globalThis, 'clearTimeout')]
    onTestFinished(() => {
      for (const spy of [set, clear]) spy.mockRestore()
    })
    // Wherever in the reading it is closed.
    for (let turns = 0; turns < 40; turns++) {
      const other = await LogLedger.open(path, { sync: 'never' })
      const ledger = await LogLedger.open(path, { sync: { everyMs } })
      await append(other, 't', 'x')
      const reading = ledger.read('t', { signal }).catch(() => {})
      if (turns === 0) await reading
      for (let i = 0; i < turns / 2; i++) await new Promise((resolve) => setImmediate(resolve))
      await Promise.all([ledger.close(), reading])
      await other.close()
    }
    const cleared = new Set<unknown>(clear.mock.calls.map(([timer]) => timer))
    const begun = set.mock.results.filter((_, call) => set.mock.calls[call]![1] === everyMs)
    expect(begun.filter(({ value }) => !cleared.has(value))).toEqual([])
    expect(begun.length).toBeGreaterThan(0)
  })

  test('what was there before is, once it is open', async () => {
    await append(await ledgerAt({ sync: 'never' }), 't', 'x')
    const { spy } = await syncs()
    await ledgerAt({ sync: 'never' })
    expect(spy).not.toHaveBeenCalled()
    await ledgerAt()
    expect(spy).toHaveBeenCalledOnce()
  })

  test('never: not at all', async () => {
    const { spy } = await syncs()
    const ledger = await ledgerAt({ sync: 'never' })
    await append(ledger, 't', '1', '2')
    await ledger.close()
    expect(spy).not.toHaveBeenCalled()
  })

  test.each(['always', { everyMs: 1 }] as const)('a sync that fails ends it (%j)', async (sync) => {
    const ledger = await ledgerAt({ sync })
    const failed = code('ERR_PEERLINE_FILE', 'EIO')
    const waiting = expect(ledger.subscribe('other', { signal }).next()).rejects.toEqual(failed)
    const { spy } = await syncs()
    spy.mockRejectedValueOnce(Object.assign(new Error('no disk'), { code: 'EIO' }))
    const appending = append(ledger, 't', 'x')
    if (sync === 'always') await expect(appending).rejects.toEqual(failed)
    else expect(await appending).toHaveLength(1)
    await waiting
    await expect(append(ledger, 't', 'y')).rejects.toEqual(failed)
    await expect(ledger.read('t', { signal })).rejects.toEqual(failed)
    await ledger.close()
    await expect(ledger.read('t', { signal })).rejects.toEqual(code('ERR_PEERLINE_CLOSED'))
  })
})

describe('appending', () => {
  test('that is given up before its turn leaves nothing', async () => {
    const ledger = await ledgerAt()
    const { hold, go, held } = await syncs()
    hold()
    const first = ledger.append('t', bytes('first'), { signal })
    await expect.poll(() => held.length).toBe(1)
    const cancel = new AbortController()
    const second = ledger.append('t', bytes('second'), { signal: cancel.signal })
    const third = ledger.append('t', bytes('third'), { signal })
    cancel.abort()
    await expect(second).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    go()
    expect(await first).toMatchObject({ sequence: 1 })
    expect(await third).toMatchObject({ sequence: 2 })
    expect(texts((await ledger.read('t', { signal })).entries)).toEqual(['first', 'third'])
    expect(getEventListeners(signal, 'abort')).toEqual([])
  })

  test('that is given up while it is written settles at once', async () => {
    const ledger = await ledgerAt()
    const { hold, go, held } = await syncs()
    hold()
    const cancel = new AbortController()
    const appending = ledger.append('t', bytes('x'), { signal: cancel.signal })
    await expect.poll(() => held.length).toBe(1)
    cancel.abort()
    await expect(appending).rejects.toEqual(code('ERR_PEERLINE_ABORTED'))
    go()
    await append(ledger, 't', 'y')
    expect(ledger.size).toBe(2)
  })

  test('is BUSY when too much waits, by number and by bytes', async () => {
    const ledger = await ledgerAt({ maxMessageBytes: 65_536 })
    const { hold, go, held } = await syncs()
    hold()
    const waiting = [ledger.append('t', fill(1), { signal })]
    await expect.poll(() => held.length).toBe(1)
    for (let i = 0; i < 63; i++) waiting.push(ledger.append('t', fill(65_536), { signal }))
    for (let i = 0; i < 961; i++) waiting.push(ledger.append('t', fill(1), { signal }))
    await expect(ledger.append('t', fill(1), { signal })).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    go()
    await Promise.all(waiting)
    hold()
    waiting.push(ledger.append('t', fill(1), { signal }))
    await expect.poll(() => held.length).toBe(1)
    for (let i = 0; i < 64; i++) waiting.push(ledger.append('t', fill(65_536), { signal }))
    await expect(ledger.append('t', fill(1), { signal })).rejects.toEqual(code('ERR_PEERLINE_BUSY'))
    go()
    await Promise.all(waiting)
    expect(ledger.size).toBe(waiting.length)
  })

  test('is refused at a limit, and does not hold up what else is asked', async () => {
    const ledger = await ledgerAt({ maxTopics: 1, maxEntries: 3 })
    const outcomes = await Promise.allSettled(['a', 'b', 'a', 'a', 'a'].map((topic) => append(ledger, topic, 'x')))
    expect(outcomes.map(({ status }) => status)).toEqual([
      'fulfilled',
      'rejected',
      'fulfilled',
      'fulfilled',
      'rejected',
    ])
    await expect(append(ledger, 'b', 'x')).rejects.toEqual(code('ERR_PEERLINE_LIMIT', 'maxEntries, 3'))
  })

  test.each([
    [{ maxMessageBytes: 65_537 }],
    [{ maxMessageBytes: 0 }],
    [{ maxEntries: 1.5 }],
    [{ maxTopics: -1 }],
    [{ maxBytes: Number.NaN }],
    [{ sync: { everyMs: 0 } }],
  ])('is not allowed as in %j', async (options) => {
    await expect(LogLedger.open(path, options)).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    expect(await readdir(directory)).toEqual([])
  })
})

describe('reading', () => {
  test('gives each entry its place among all, whose leaf hashes are those of the entries', async () => {
    const ledger = await ledgerAt()
    await append(ledger, 'a', '1')
    await append(ledger, 'b', '2')
    await append(ledger, 'a', '3', '4')
    const a = (await ledger.read('a', { signal })).entries
    const b = (await ledger.read('b', { signal })).entries
    expect([a, b].map((entries) => entries.map(({ index, sequence }) => [index, sequence]))).toEqual([
      [[0, 1], [2, 2], [3, 3]], // biome-ignore format: a row each
      [[1, 1]],
    ])
    const expected = [hashEntry('a', a[0]!), hashEntry('b', b[0]!), hashEntry('a', a[1]!), hashEntry('a', a[2]!)]
    expect(await ledger.leafHashes(0, 4)).toEqual(expected)
    expect(await ledger.leafHashes(1, 3)).toEqual(expected.slice(1, 3))
    expect(await ledger.leafHashes(4, 4)).toEqual([])
    for (const [from, to] of [
      [0, 5],
      [-1, 2],
      [3, 2],
      [0, 1.5],
    ] as const) {
      await expect(ledger.leafHashes(from, to)).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    }
  })

  test('gives the hashes of many entries', async () => {
    const ledger = await ledgerAt({ sync: 'never' })
    const messages = Array.from({ length: 1_000 }, (_, i) => String(i))
    await append(ledger, 't', ...messages)
    const hashes = await ledger.leafHashes(0, 1_000)
    const { entries } = await ledger.read('t', { signal, from: 901 })
    expect(hashes.slice(900)).toEqual(entries.map((entry) => hashEntry('t', entry)))
    expect(hashes).toHaveLength(1_000)
  })

  test('ends a page before it is large', async () => {
    const ledger = await ledgerAt({ sync: 'never', maxMessageBytes: 65_536 })
    await Promise.all(Array.from({ length: 40 }, () => ledger.append('t', fill(65_536), { signal })))
    const { entries, next } = await ledger.read('t', { signal, max: 1_000 })
    expect(entries).toHaveLength(15)
    expect(next).toBe(16)
    const read: number[] = []
    for await (const { sequence } of ledger.subscribe('t', { signal })) if (read.push(sequence) === 40) break
    expect(read.at(-1)).toBe(40)
  })

  test('passes over what comes before a time that is still to come', async () => {
    const clock = vi.spyOn(Date, 'now')
    onTestFinished(() => clock.mockRestore())
    const ledger = await ledgerAt()
    const since = 2_000_000_000_000
    clock.mockReturnValue(since - 1_000)
    await append(ledger, 't', 'before')
    const reading = ledger.subscribe('t', { signal, since })[Symbol.asyncIterator]()
    const first = reading.next()
    await append(ledger, 't', 'before too')
    expect(await ledger.read('t', { signal, since })).toEqual({ entries: [], next: undefined })
    clock.mockReturnValue(since)
    await append(ledger, 't', 'now')
    expect((await first).value).toMatchObject({ sequence: 3, at: since })
    await reading.return(undefined)
  })

  test.each([{ from: 0 }, { from: 1.5 }, { max: 0 }, { since: Number.NaN }])(
    'is not possible with %j',
    async (options) => {
      const ledger = await ledgerAt()
      await expect(ledger.read('t', { signal, ...options })).rejects.toEqual(code('ERR_PEERLINE_INVALID'))
    },
  )

  test('tells whoever waits, and everybody after, that the file was changed', async () => {
    const ledger = await ledgerAt()
    await append(ledger, 't', '1')
    const reading = ledger.subscribe('t', { signal })[Symbol.asyncIterator]()
    await reading.next()
    const waiting = expect(reading.next()).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'shorter'))
    await truncate(path, 100)
    await waiting
    for (const doing of [append(ledger, 't', '2'), ledger.read('t', { signal }), ledger.leafHashes(0, 1)]) {
      await expect(doing).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'shorter'))
    }
  })

  test('of an entry that was changed on the disk ends it', async () => {
    const ledger = await ledgerAt()
    await append(ledger, 't', 'one', 'two', 'three')
    const changed = Buffer.from((await readFile(path, 'latin1')).replace('two', 'owt'), 'latin1')
    await writeFile(path, changed)
    await expect(ledger.read('t', { signal })).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'entry 2'))
    await expect(append(ledger, 't', 'four')).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'entry 2'))
    expect(await readFile(path)).toEqual(changed)
  })
})

describe('growth', () => {
  test('is told of, whoever has appended, until nobody asks', async () => {
    const [ledger, other] = [await ledgerAt(), await ledgerAt()]
    const sizes: number[] = []
    const stop = ledger.onGrowth((size) => sizes.push(size))
    await append(ledger, 'a', '1')
    expect(sizes).toEqual([1])
    await append(other, 'b', '2')
    await expect.poll(() => sizes).toEqual([1, 2])
    expect(ledger.size).toBe(2)
    stop()
    stop()
    await append(ledger, 'a', '3')
    expect(sizes).toEqual([1, 2])
  })

  test('is told of what was there before anybody listened', async () => {
    const [ledger, other] = [await ledgerAt(), await ledgerAt()]
    await append(other, 'b', '1')
    const sizes: number[] = []
    onTestFinished(ledger.onGrowth((size) => sizes.push(size)))
    await expect.poll(() => sizes).toEqual([1])
  })
})

test('it is named after its file, and known by an id of its own', async () => {
  const [ledger, other] = [await ledgerAt(), await ledgerAt({}, join(directory, 'other'))]
  expect(ledger.name).toBe(`ledger file ${path}`)
  expect(ledger.id).toMatch(/^log:[a-z0-9]{16}$/)
  expect(other.id).not.toBe(ledger.id)
  expect(ledger.price()).toMatchObject({ amount: 0 })
})

test('a subscription whose reader never comes back leaves nothing behind once its signal has fired', async () => {
  const ledger = await ledgerAt()
  await append(ledger, 't', '1', '2')
  const cancel = new AbortController()
  const reading = ledger.subscribe('t', { signal: cancel.signal })[Symbol.asyncIterator]()
  await reading.next()
  const spy = vi.spyOn(await handles(), 'stat')
  onTestFinished(() => spy.mockRestore())
  await expect.poll(() => spy.mock.calls.length).toBeGreaterThan(0)
  cancel.abort()
  expect(getEventListeners(cancel.signal, 'abort')).toEqual([])
  await expectQuiet(spy)
})

test('nothing of it is left once it is closed, though somebody still listens', async () => {
  const watchers = () => process.getActiveResourcesInfo().filter((name) => name === 'FSEventWrap').length
  const before = watchers()
  const ledger = await ledgerAt()
  ledger.onGrowth(() => {})
  expect(watchers()).toBe(before + 1)
  await ledger.close()
  await expect.poll(watchers).toBe(before)
})

/** That there is no look in four times the shortest time between two, once the one that may be under way is over. */
async function expectQuiet(looks: { mock: { calls: unknown[] }; mockClear(): unknown }): Promise<void> {
  const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
  await pause(50)
  looks.mockClear()
  await pause(100)
  expect(looks.mock.calls).toEqual([])
}
