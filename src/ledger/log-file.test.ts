import { execFileSync } from 'node:child_process'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { temporaryDirectory } from '../temporary.compliance.ts'
import { type LogCut, LogFile, type LogFileOptions, type LogProgress } from './log-file.ts'
import { LogLock } from './log-lock.ts'
import type { Outcome } from './log-queue.ts'
import { HEADER_BYTES, readLeaf, writeRecord } from './log-record.ts'

const LINUX = process.platform === 'linux'

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
const text = (message: Uint8Array) => Buffer.from(message).toString()

async function open(options: Partial<LogFileOptions> = {}, at = path): Promise<LogFile> {
  const file = await LogFile.open(at, { maxEntries: 1_000, maxTopics: 100, maxBytes: 1e9, ...options }, signal)
  onTestFinished(() => file.close())
  return file
}

/** Opens it, and says what was cut away. */
async function reopen(at = path): Promise<{ file: LogFile; cuts: LogCut[] }> {
  const cuts: LogCut[] = []
  return { file: await open({ onRecovered: (cut) => cuts.push(cut) }, at), cuts }
}

function append(file: LogFile, ...drafts: [topic: string, message: string][]): Promise<readonly Outcome[]> {
  return file.append(signal, () => drafts.map(([topic, message]) => ({ topic, message: Buffer.from(message) })))
}

/** Every entry: topic, sequence, message. */
async function all(file: LogFile): Promise<string[]> {
  const leaves = await file.leaves(Array.from({ length: file.index.size }, (_, i) => i))
  return leaves.map(({ topic, sequence, message }) => `${topic} ${sequence} ${text(message)}`)
}

/** A file with three records; where each begins, and the end. */
async function three(): Promise<{ bytes: Buffer; starts: number[] }> {
  const file = await open()
  await append(file, ['a', 'one'], ['b', 'two'], ['a', 'three'])
  const starts = [0, 1, 2].map((place) => file.index.start(place))
  await file.close()
  return { bytes: await readFile(path), starts: [...starts, file.size] }
}

describe('a ledger file', () => {
  test('holds what was appended, in order, and gives it after it was opened again', async () => {
    const file = await open()
    const [first, second] = await append(file, ['a', 'one'], ['b', 'two'])
    expect([first, second]).toEqual([{ sequence: 1, at: expect.any(Number) }, expect.objectContaining({ sequence: 1 })])
    const [third] = await append(file, ['a', ''])
    expect(third).toMatchObject({ sequence: 2 })
    expect(await all(file)).toEqual(['a 1 one', 'b 1 two', 'a 2 '])
    const again = await open()
    expect(await all(again)).toEqual(['a 1 one', 'b 1 two', 'a 2 '])
    expect(again.id).toEqual(file.id)
    expect(file.id).toHaveLength(32)
    expect(await readdir(directory)).toEqual(['ledger'])
  })

  test('takes in what another has appended, and goes on from there', async () => {
    const [a, b] = [await open(), await open()]
    await append(a, ['t', '1'])
    expect(await b.follow(signal)).toBe(true)
    expect(await b.follow(signal)).toBe(false)
    await append(b, ['t', '2'])
    await append(a, ['t', '3'])
    await b.follow(signal)
    expect(await all(b)).toEqual(['t 1 1', 't 2 2', 't 3 3'])
    expect(await all(a)).toEqual(await all(b))
  })

  test('is made by one of those that open it at once', async () => {
    const files = await Promise.all(Array.from({ length: 8 }, () => open()))
    for (const { id } of files) expect(id).toEqual(files[0]!.id)
    await Promise.all(files.map((file, i) => append(file, ['t', String(i)])))
    expect(await all(await open())).toHaveLength(8)
  })

  test('is verified in windows, and tells how far', async () => {
    const file = await open()
    const message = 'x'.repeat(60_000)
    for (let i = 0; i < 10; i++) await append(file, ['t', message], ['t', message], ['t', message])
    const said: LogProgress[] = []
    const again = await open({ onProgress: (progress) => said.push(progress) })
    expect(again.index.size).toBe(30)
    expect(said.map(({ total }) => total)).toEqual([file.size, file.size])
    expect(said.at(-1)).toEqual({ bytes: file.size, total: file.size })
    expect(await all(again)).toEqual(Array.from({ length: 30 }, (_, i) => `t ${i + 1} ${message}`))
    const over = AbortSignal.abort()
    await expect(LogFile.open(path, { maxEntries: 9, maxTopics: 9, maxBytes: 9 }, over)).rejects.toEqual(
      code('ERR_PEERLINE_ABORTED'),
    )
  })

  test('has a time that grows with every entry, whatever the clock does', async () => {
    const clock = vi.spyOn(Date, 'now')
    onTestFinished(() => clock.mockRestore())
    const times: number[] = []
    const file = await open()
    const other = await open()
    for (const now of [5_000, 5_000, 4_000, 6_000, 1_000]) {
      clock.mockReturnValue(1_800_000_000_000 + now)
      for (const writer of [file, other]) {
        for (const outcome of await append(writer, ['t', ''], ['u', ''])) times.push((outcome as { at: number }).at)
      }
    }
    expect(times).toEqual(times.toSorted((a, b) => a - b))
    expect(new Set(times).size).toBe(20)
    expect(times[0]).toBe(1_800_000_005_000)
    expect(times[12]).toBe(1_800_000_006_000)
    expect(times.at(-1)! - 1_800_000_006_000).toBeLessThan(0.1)
    const again = await open()
    expect((await again.leaves(times.map((_, i) => i))).map(({ at }) => at)).toEqual(times)
    clock.mockReturnValue(Date.UTC(2_200, 0))
    expect(await append(file, ['t', ''])).toEqual([code('ERR_PEERLINE_INVALID')])
  })

  test('is for its owner only, and so is the directory it makes', async () => {
    await open({}, join(directory, 'deep', 'ledger'))
    if (process.platform === 'win32') return
    expect((await stat(join(directory, 'deep'))).mode & 0o777).toBe(0o700)
    expect((await stat(join(directory, 'deep', 'ledger'))).mode & 0o777).toBe(0o600)
  })

  test('is one with the file that a link leads to', async () => {
    const file = await open()
    await symlink(path, join(directory, 'link'))
    const linked = await open({}, join(directory, 'link'))
    expect(linked.path).toBe(path)
    await append(linked, ['t', '1'])
    await append(file, ['t', '2'])
    expect(await all(await open())).toHaveLength(2)
  })

  test.each([
    ['entries', { maxEntries: 2 }, ['a', 'a', 'a']],
    ['topics', { maxTopics: 2 }, ['a', 'b', 'c']],
    ['bytes', { maxBytes: HEADER_BYTES + 2 * (53 + 1 + 100) + 100 }, ['a', 'a', 'a']],
  ] as const)('has at most so many %s, in one batch and in several', async (_, options, topics) => {
    const draft = (topic: string): [string, string] => [topic, 'x'.repeat(100)]
    const file = await open(options)
    const kept = expect.objectContaining({ at: expect.any(Number) })
    const full = code('ERR_PEERLINE_LIMIT', Object.keys(options)[0])
    expect(await append(file, ...topics.map(draft))).toEqual([kept, kept, full])
    expect(await append(file, draft(topics[2]))).toEqual([full])
    expect(await (await open(options)).index.size).toBe(2)
    if ('maxBytes' in options) return
    const larger = await open()
    expect(await append(larger, draft(topics[2]))).toEqual([kept])
    await expect(open(options)).rejects.toEqual(full)
    await expect(file.follow(signal)).rejects.toEqual(full)
    expect(file.index.size).toBe(2)
  })

  test.each([
    ['', 'ERR_PEERLINE_INVALID'],
    ['a\0b', 'ERR_PEERLINE_INVALID'],
  ])('is not opened at %j', async (at, expected) => {
    await expect(open({}, at)).rejects.toEqual(code(expected))
  })

  test('is no directory', async () => {
    await expect(open({}, directory)).rejects.toEqual(code('ERR_PEERLINE_FILE', directory))
  })

  test.runIf(LINUX)('is no named pipe', async () => {
    execFileSync('mkfifo', [path])
    await expect(open()).rejects.toEqual(code('ERR_PEERLINE_FILE', 'not a regular file'))
  })

  test('is left alone when it is something else', async () => {
    for (const other of [
      '#!/bin/sh\n',
      'x'.repeat(500),
      '\0'.repeat(HEADER_BYTES + 1),
      'peerline ledger\x02 and so on',
    ]) {
      await writeFile(path, other)
      await expect(open()).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'is no ledger'))
      expect(await readFile(path, 'latin1')).toBe(other)
    }
  })
})

describe('a write that was cut off', () => {
  test('at any byte of the last record is cut away, and told of', async () => {
    const { bytes, starts } = await three()
    const [start, end] = [starts[2]!, starts[3]!]
    for (let length = start; length <= end; length++) {
      await writeFile(path, bytes.subarray(0, length))
      const { file, cuts } = await reopen()
      const isTorn = length > start && length < end
      expect(cuts, `cut at ${length}`).toEqual(isTorn ? [{ at: start, bytes: length - start }] : [])
      expect((await stat(path)).size).toBe(isTorn ? start : length)
      expect(await append(file, ['a', 'next'])).toEqual([expect.objectContaining({ sequence: length < end ? 2 : 3 })])
      const { file: again, cuts: none } = await reopen()
      expect(none).toEqual([])
      expect(await all(again)).toEqual([
        'a 1 one',
        'b 1 two',
        ...(length < end ? ['a 2 next'] : ['a 2 three', 'a 3 next']),
      ])
      await Promise.all([file.close(), again.close()])
    }
  })

  test('at any byte of the header makes a new ledger', async () => {
    const { bytes } = await three()
    for (let length = 0; length <= HEADER_BYTES; length += 4) {
      await writeFile(path, bytes.subarray(0, length))
      const file = await open()
      expect(file.index.size).toBe(0)
      expect(Buffer.compare(file.id, bytes.subarray(16, 48)) === 0).toBe(length === HEADER_BYTES)
      await append(file, ['t', '1'])
      expect(await all(await open())).toEqual(['t 1 1'])
      await file.close()
    }
    await writeFile(path, Buffer.alloc(HEADER_BYTES))
    expect((await open()).index.size).toBe(0)
  })

  test('at any byte of the last record, with zeros after it, is cut away: the power was lost before its bytes came', async () => {
    const { bytes, starts } = await three()
    const [start, end] = [starts[2]!, starts[3]!]
    for (const more of [0, 100, 5_000]) {
      for (let length = start; length <= end - 32; length += 3) {
        const torn = Buffer.alloc(end + more)
        bytes.copy(torn, 0, 0, length)
        await writeFile(path, torn)
        const { file, cuts } = await reopen()
        expect(cuts, `zeros from ${length}`).toEqual([{ at: start, bytes: torn.length - start }])
        expect(await all(file)).toEqual(['a 1 one', 'b 1 two'])
        await file.close()
      }
    }
  })

  test('is left alone without the lock, and cut away by the next who appends', async () => {
    const { bytes, starts } = await three()
    await writeFile(path, bytes.subarray(0, starts[2]))
    const cuts: LogCut[] = []
    const [reader, writer] = [await open(), await open({ onRecovered: (cut) => cuts.push(cut) })]
    await writeFile(path, bytes.subarray(0, starts[2]! + 20))
    expect(await reader.follow(signal)).toBe(false)
    expect((await stat(path)).size).toBe(starts[2]! + 20)
    await append(writer, ['t', 'next'])
    expect(cuts).toEqual([{ at: starts[2], bytes: 20 }])
    expect(await reader.follow(signal)).toBe(true)
    expect(await all(reader)).toEqual(['a 1 one', 'b 1 two', 't 1 next'])
  })

  test('that becomes whole is read then', async () => {
    const { bytes, starts } = await three()
    await writeFile(path, bytes.subarray(0, starts[2]))
    const reader = await open()
    for (let length = starts[2]!; length < bytes.length; length += 7) {
      await writeFile(path, bytes.subarray(0, length))
      expect(await reader.follow(signal)).toBe(false)
    }
    await writeFile(path, bytes)
    expect(await reader.follow(signal)).toBe(true)
    expect(await all(reader)).toEqual(['a 1 one', 'b 1 two', 'a 2 three'])
  })
})

describe('what looks wrong without the lock', () => {
  test('is looked at again with it: another process is just writing', async () => {
    const { bytes, starts } = await three()
    await writeFile(path, bytes.subarray(0, starts[2]))
    const reader = await open()
    const following = await new LogLock(path).hold(signal, async () => {
      const half = Buffer.from(bytes)
      half.fill(1, starts[2]! + 20, starts[2]! + 40)
      await writeFile(path, half)
      const following = reader.follow(signal)
      following.catch(() => {}) // it is looked at below
      // It has seen that, and waits.
      await expect(
        Promise.race([following, new Promise((resolve) => setTimeout(resolve, 100, 'waits'))]),
      ).resolves.toBe('waits')
      await writeFile(path, bytes)
      return { following }
    })
    expect(await following.following).toBe(true)
    expect(await all(reader)).toEqual(['a 1 one', 'b 1 two', 'a 2 three'])
  })
})

describe('a change', () => {
  test('of any byte is found, with its place, and nothing is cut away for it', async () => {
    const { bytes, starts } = await three()
    const change = fc.tuple(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }))
    const everywhere = bytes.map((_, at) => at)
    const found = async ([at, mask]: [number, number]) => {
      const changed = Buffer.from(bytes)
      changed[at]! ^= mask
      await writeFile(path, changed)
      // The record it is in; a hash is also the beginning of the record after.
      const place = starts.findLast((start) => start <= at)
      const named = at < HEADER_BYTES ? 'is no ledger' : `at byte ${place}:`
      await expect(open(), `byte ${at}`).rejects.toEqual(code('ERR_PEERLINE_LEDGER', named))
      expect(await readFile(path)).toEqual(changed)
    }
    for (const at of everywhere) await found([at, 0x01])
    await fc.assert(fc.asyncProperty(change, found), { numRuns: 50 })
  })

  test('of any kind of the order of records is found', async () => {
    const { bytes, starts } = await three()
    const record = (i: number) => bytes.subarray(starts[i], starts[i + 1])
    const header = bytes.subarray(0, HEADER_BYTES)
    for (const order of [[1], [0, 2], [1, 0, 2], [0, 0, 1, 2], [0, 1, 2, 2]]) {
      await writeFile(path, Buffer.concat([header, ...order.map(record)]))
      await expect(open(), order.join()).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'changed at byte'))
    }
  })

  test.each([
    ['a time that does not grow', { at: 1 }],
    ['a place that is not the next', { sequence: 3 }],
    ['a topic that has another place', { topic: 'new' }],
  ])('that is chained and yet has %s is found', async (_, change) => {
    const { bytes } = await three()
    const leaf = { topic: 'b', sequence: 2, at: Date.now() + 1_000, message: Buffer.from('forged'), ...change }
    await writeFile(path, Buffer.concat([bytes, writeRecord(bytes.subarray(-32), leaf)]))
    await expect(open()).rejects.toEqual(code('ERR_PEERLINE_LEDGER', `changed at byte ${bytes.length}`))
  })

  test('made while the file is open is found by who reads, and by who appends', async () => {
    const { bytes, starts } = await three()
    const [reader, writer] = [await open(), await open()]
    for (const at of [starts[1]! + 15, starts[2]! - 1]) {
      const changed = Buffer.from(bytes)
      changed[at]! ^= 1
      await writeFile(path, changed)
      await expect(reader.leaves([1])).rejects.toEqual(code('ERR_PEERLINE_LEDGER', `byte ${starts[1]}`))
    }
    const changed = Buffer.from(bytes)
    changed[bytes.length - 1]! ^= 1
    await writeFile(path, changed)
    await expect(append(writer, ['t', 'x'])).rejects.toEqual(code('ERR_PEERLINE_LEDGER'))
    expect(await readFile(path)).toEqual(changed)
  })

  test('made while the file is open is found though it is chained anew', async () => {
    const { bytes, starts } = await three()
    const reader = await open()
    const kept = readLeaf(bytes.subarray(starts[1]! + 8, starts[2]! - 32))!
    const forged = writeRecord(bytes.subarray(starts[1]! - 32, starts[1]), { ...kept, message: Buffer.from('2wo') })
    const after = writeRecord(forged.subarray(-32), readLeaf(bytes.subarray(starts[2]! + 8, starts[3]! - 32))!)
    await writeFile(path, Buffer.concat([bytes.subarray(0, starts[1]), forged, after]))
    await expect(reader.leaves([1])).rejects.toEqual(code('ERR_PEERLINE_LEDGER', 'another one'))
    expect(await all(await open())).toEqual(['a 1 one', 'b 1 2wo', 'a 2 three'])
  })

  test.each([
    ['is shorter than it was', (starts: number[]) => truncate(path, starts[2])],
    ['was removed', () => rm(path)],
    ['was moved', () => rename(path, `${path}.old`)],
    [
      'is another one now',
      async () => {
        await copyFile(path, `${path}.copy`)
        await rename(`${path}.copy`, path)
      },
    ],
  ])('is that the file %s', async (_, change) => {
    const { starts } = await three()
    const file = await open()
    await change(starts)
    await expect(file.follow(signal)).rejects.toEqual(code('ERR_PEERLINE_LEDGER', path))
    await expect(append(file, ['t', 'x'])).rejects.toEqual(code('ERR_PEERLINE_LEDGER', path))
    expect(await readdir(directory)).not.toContain('ledger.lock')
  })
})

describe('a disk', () => {
  function canMount(): boolean {
    return LINUX && process.getuid?.() === 0
  }

  test.skipIf(!canMount())(
    'that is full takes what has room, refuses the rest, and takes more when there is room',
    async ({ skip }) => {
      const disk = join(directory, 'disk')
      await mkdir(disk)
      try {
        execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk], { stdio: 'pipe' })
      } catch {
        skip('a container that may not mount')
      }
      try {
        const at = join(disk, 'ledger')
        const file = await open({}, at)
        const reader = await open({}, at)
        const drafts = Array.from({ length: 30 }, (_, i): [string, string] => ['t', String(i).padEnd(5_000)])
        const outcomes = await append(file, ...drafts)
        const kept = outcomes.filter((outcome) => 'sequence' in outcome).length
        expect(kept).toBeGreaterThan(5)
        expect(outcomes.slice(kept)).toEqual(Array(30 - kept).fill(code('ERR_PEERLINE_DISK_FULL')))
        await reader.follow(signal)
        expect(reader.index.size).toBe(kept)
        expect((await stat(at)).size).toBe(file.size)
        execFileSync('mount', ['-o', 'remount,size=1m', disk])
        expect(await append(file, ...drafts.slice(kept))).toHaveLength(30 - kept)
        await reader.follow(signal)
        expect((await all(reader)).map((line) => line.split(' ')[2])).toEqual(drafts.map((_, i) => String(i)))
        await Promise.all([file.close(), reader.close()])
      } finally {
        execFileSync('umount', ['-l', disk])
      }
    },
  )
})
