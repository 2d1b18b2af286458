import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { appendFile, mkdir, readdir, readFile, stat, truncate, utimes, writeFile } from 'node:fs/promises'
import path from 'node:path'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { encodeCbor } from '../bytes/index.ts'
import { isPeerlineError, PeerlineError } from '../errors.ts'
import { Identity } from '../identity/index.ts'
import type { Stream } from '../session/index.ts'
import { type SessionPair, sessionPair } from '../session/session-pair.compliance.ts'
import { temporaryDirectory, temporaryFile } from '../temporary.compliance.ts'
import { type ReceivedFile, type ReceiveFileOptions, receiveFile } from './file-receive.ts'
import { sendFile } from './file-send.ts'
import { FILE_PROTOCOL } from './file-wire.ts'

const from = Identity.generate().peerId

let inbox: string
let pair: SessionPair
let receiving: Promise<ReceivedFile>
let onStream: (stream: Stream) => void
const unhandled = vi.fn()

beforeAll(() => void process.on('unhandledRejection', unhandled))
beforeEach(async () => {
  inbox = await temporaryDirectory()
  receive()
  await connect()
})
afterEach(() => pair.close())
afterAll(() => {
  process.off('unhandledRejection', unhandled)
  expect(unhandled).not.toHaveBeenCalled()
})

async function connect(): Promise<void> {
  pair = await sessionPair({ onStreamB: (stream) => onStream(stream) })
}

/** Has the other side receive what comes. */
function receive(options: Partial<ReceiveFileOptions> = {}): void {
  onStream = (stream) => {
    receiving = receiveFile(stream, { from, directory: inbox, ...options })
    receiving.catch(() => {})
  }
}

async function source(name: string, content: Uint8Array | string): Promise<string> {
  const file = await temporaryFile(name)
  await writeFile(file, content)
  return file
}

function sha256(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Sends a file until `bytes` of it are on their way, then cuts the session. Answers how much stayed. */
async function interruptedAt(file: string, bytes: number): Promise<number> {
  receive({
    onProgress: ({ receivedBytes }) => {
      if (receivedBytes >= bytes) pair.b.abort(new PeerlineError('ERR_PEERLINE_LIMIT', 'cut'))
    },
  })
  await expect(sendFile(pair.a, file)).rejects.toMatchObject({ code: 'ERR_PEERLINE_LIMIT' })
  await expect(receiving).rejects.toSatisfy(isPeerlineError)
  await connect()
  receive()
  const [part] = await readdir(inbox)
  return (await stat(path.join(inbox, part!))).size
}

test('5 MiB arrive as they were', async () => {
  const content = randomBytes(5 * 1024 * 1024 + 17)
  const file = await source('big.bin', content)
  const progress: number[] = []
  const sent = await sendFile(pair.a, file, { onProgress: ({ sentBytes }) => progress.push(sentBytes) })
  expect(sent).toEqual({
    name: 'big.bin',
    bytes: content.length,
    resumedFrom: 0,
    savedAs: 'big.bin',
    sha256: sha256(content),
  })
  expect(await receiving).toEqual({
    name: 'big.bin',
    path: path.join(inbox, 'big.bin'),
    bytes: content.length,
    resumedFrom: 0,
    sha256: sha256(content),
  })
  expect(Buffer.compare(await readFile(path.join(inbox, 'big.bin')), content)).toBe(0)
  expect(await readdir(inbox)).toEqual(['big.bin'])
  expect(progress.at(-1)).toBe(content.length)
  expect(progress).toEqual(progress.toSorted((a, b) => a - b))
  expect([pair.a.streams, pair.b.streams]).toEqual([0, 0])
})

test.each([0, 1, 65_535, 65_536, 65_537])('a file of %i bytes', async (size) => {
  const content = randomBytes(size)
  const sent = await sendFile(pair.a, await source('some.bin', content))
  expect(sent.sha256).toBe(sha256(content))
  expect(Buffer.compare(await readFile((await receiving).path), content)).toBe(0)
})

test('a name that is taken gets a number; nothing is replaced', async () => {
  const file = await source('a.txt', 'new')
  await writeFile(path.join(inbox, 'a.txt'), 'old')
  expect((await sendFile(pair.a, file)).savedAs).toBe('a (2).txt')
  expect((await sendFile(pair.a, file)).savedAs).toBe('a (3).txt')
  expect(await readFile(path.join(inbox, 'a.txt'), 'utf8')).toBe('old')
})

test('what a lost session left is not sent again', async () => {
  const content = randomBytes(6_000_000)
  const file = await source('big.bin', content)
  const kept = await interruptedAt(file, 3_000_000)
  expect(kept).toBeGreaterThanOrEqual(3_000_000)
  expect(kept).toBeLessThan(content.length)
  const starts: number[] = []
  const sent = await sendFile(pair.a, file, { onProgress: (progress) => starts.push(progress.startBytes) })
  expect(sent).toMatchObject({ resumedFrom: kept, bytes: content.length, sha256: sha256(content) })
  expect(starts).toHaveLength(Math.ceil((content.length - kept) / 65_536))
  expect((await receiving).resumedFrom).toBe(kept)
  expect(Buffer.compare(await readFile(path.join(inbox, 'big.bin')), content)).toBe(0)
  expect(await readdir(inbox)).toEqual(['big.bin'])
})

test('a part file that was tampered with is not believed: all is sent again', async () => {
  const content = randomBytes(3_000_000)
  const file = await source('big.bin', content)
  await interruptedAt(file, 1_000_000)
  const [part] = await readdir(inbox)
  await writeFile(path.join(inbox, part!), randomBytes(100), { flag: 'r+' })
  expect(await sendFile(pair.a, file)).toMatchObject({ resumedFrom: 0, sha256: sha256(content) })
  expect(Buffer.compare(await readFile(path.join(inbox, 'big.bin')), content)).toBe(0)
})

test('a part file that has everything, or more, needs no bytes', async () => {
  const content = randomBytes(2_000_000)
  const file = await source('big.bin', content)
  await interruptedAt(file, 1_000_000)
  const [part] = await readdir(inbox)
  await writeFile(path.join(inbox, part!), Buffer.concat([content, Buffer.from('more')]))
  expect(await sendFile(pair.a, file)).toMatchObject({ resumedFrom: content.length })
  expect(Buffer.compare(await readFile(path.join(inbox, 'big.bin')), content)).toBe(0)
})

test('a cancelled transfer fails on both sides and can be resumed', async () => {
  for (const side of ['sender', 'receiver']) {
    const file = await source(`${side}.bin`, randomBytes(4_000_000))
    const controller = new AbortController()
    const { signal } = controller
    const onProgress = () => controller.abort()
    receive(side === 'receiver' ? { signal, onProgress } : {})
    const sending = sendFile(pair.a, file, side === 'sender' ? { signal, onProgress } : {})
    const codes = await Promise.all([sending, sending.catch(() => receiving)].map((one) => one.catch((e) => e.code)))
    const [cancelled, other] = side === 'sender' ? codes : codes.toReversed()
    expect(cancelled).toBe('ERR_PEERLINE_ABORTED')
    expect(other).toBe('ERR_PEERLINE_RESET')
    receive()
    expect((await sendFile(pair.a, file)).savedAs).toBe(`${side}.bin`)
  }
})

test('a file that grows, shrinks or is rewritten while it is sent fails on both sides, and leaves nothing', async () => {
  const changes: ((file: string) => Promise<void>)[] = [
    (file) => appendFile(file, 'more'),
    (file) => truncate(file, 3_000_000),
    (file) => utimes(file, new Date(), new Date(0)),
  ]
  for (const change of changes) {
    const file = await source('live.log', randomBytes(4_000_000))
    receive({ onStart: () => {} })
    let changed: Promise<void> | undefined
    const sending = sendFile(pair.a, file, {
      maxBytesPerSecond: 40_000_000,
      onProgress: () => {
        changed ??= change(file)
      },
    })
    await expect(sending).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
    await expect(receiving).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
    await changed
    expect(await readdir(inbox)).toEqual([])
  }
})

test('what is no file cannot be sent, and the other side is not asked', async () => {
  onStream = vi.fn()
  const directory = path.join(inbox, 'sub')
  await mkdir(directory)
  await expect(sendFile(pair.a, directory)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_FILE',
    message: `${directory} is a directory; send its files, or an archive of it`,
  })
  await expect(sendFile(pair.a, path.join(inbox, 'missing'))).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
  await expect(sendFile(pair.a, '/dev/null')).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
  await expect(sendFile(pair.a, directory, { maxBytesPerSecond: 0 })).rejects.toMatchObject({
    code: 'ERR_PEERLINE_INVALID',
  })
  expect(onStream).not.toHaveBeenCalled()
})

test('the sender is told why the receiver refuses', async () => {
  const file = await source('a.bin', randomBytes(3_000_000))
  const refusals: [Partial<ReceiveFileOptions>, string][] = [
    [{ maxFileBytes: 2_999_999 }, 'ERR_PEERLINE_TOO_LARGE'],
    [{ directory: path.join(inbox, 'missing') }, 'ERR_PEERLINE_FILE'],
    [{ directory: file }, 'ERR_PEERLINE_FILE'],
    [
      {
        onStart: () => {
          throw new PeerlineError('ERR_PEERLINE_DENIED', 'no, thanks')
        },
      },
      'ERR_PEERLINE_DENIED',
    ],
    [
      {
        onProgress: ({ receivedBytes }) => {
          if (receivedBytes > 500_000) throw new Error('a bug, with secrets')
        },
      },
      'ERR_PEERLINE_REMOTE',
    ],
  ]
  for (const [options, code] of refusals) {
    receive(options)
    const error = await sendFile(pair.a, file).catch((reason: PeerlineError) => reason)
    expect(error).toMatchObject({ code })
    expect((error as PeerlineError).message).not.toMatch(/secrets|inbox/)
    await expect(receiving).rejects.toMatchObject({ code })
  }
  expect(pair.a.state).toBe('open')
})

test('the same file twice at once: the second is told that the receiver is busy', async () => {
  const file = await source('a.bin', randomBytes(2_000_000))
  const first = sendFile(pair.a, file, { maxBytesPerSecond: 10_000_000 })
  await vi.waitFor(async () => expect(await readdir(inbox)).toHaveLength(1), { interval: 5 })
  await expect(sendFile(pair.a, file)).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
  expect((await first).savedAs).toBe('a.bin')
})

test('many files at once', async () => {
  const names = Array.from({ length: 20 }, (_, i) => `${i}.bin`)
  onStream = (stream) => void receiveFile(stream, { from, directory: inbox })
  const files = await Promise.all(names.map((name) => source(name, randomBytes(200_000))))
  await Promise.all(files.map((file) => sendFile(pair.a, file)))
  expect((await readdir(inbox)).toSorted()).toEqual(names.toSorted())
})

test('a rate is kept to', async () => {
  const file = await source('a.bin', randomBytes(500_000))
  const start = performance.now()
  await sendFile(pair.a, file, { maxBytesPerSecond: 1_000_000 })
  // Less the burst of 100 ms; the clock of a timer may be 1 ms behind.
  expect(performance.now() - start).toBeGreaterThanOrEqual(395)
})

test('the hidden name of the sender does not get out of the directory', async () => {
  const stream = await pair.a.open(FILE_PROTOCOL)
  await stream.write(control({ name: '../../.ssh/authorized_keys', size: 0, modified: 0 }))
  await stream.write(control({ start: 0 }))
  await stream.end(control({ hash: createHash('sha256').digest() }))
  for await (const _ of stream);
  expect((await receiving).path).toBe(path.join(inbox, 'authorized_keys'))
})

test('content that does not match its hash is removed', async () => {
  const stream = await pair.a.open(FILE_PROTOCOL)
  await stream.write(control({ name: 'a.txt', size: 5, modified: 0 }))
  await stream.write(control({ start: 0 }))
  await stream.write(Buffer.from('hello'))
  await stream.end(control({ hash: createHash('sha256').update('hullo').digest() }))
  for await (const _ of stream);
  await expect(receiving).rejects.toMatchObject({ code: 'ERR_PEERLINE_CORRUPT' })
  expect(await readdir(inbox)).toEqual([])
})

function canMount(): boolean {
  return process.platform === 'linux' && process.getuid?.() === 0
}

test.skipIf(!canMount())(
  'a full disk is told as such on both sides, and the transfer goes on when there is room',
  async ({ skip }) => {
    const disk = await temporaryDirectory()
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1300k', 'tmpfs', disk], { stdio: 'pipe' })
    } catch {
      skip('a container that may not mount')
    }
    try {
      const content = randomBytes(3_000_000)
      const file = await source('a.bin', content)
      receive({ directory: disk })
      await expect(sendFile(pair.a, file)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DISK_FULL' })
      await expect(receiving).rejects.toMatchObject({ code: 'ERR_PEERLINE_DISK_FULL' })
      execFileSync('mount', ['-o', 'remount,size=8m', disk])
      const sent = await sendFile(pair.a, file)
      expect(sent.resumedFrom).toBe(1300 * 1024)
      expect(sent.sha256).toBe(sha256(await readFile(path.join(disk, 'a.bin'))))
    } finally {
      execFileSync('umount', ['-l', disk])
    }
  },
)

function control(message: unknown): Uint8Array {
  const body = encodeCbor(message)
  const head = Buffer.alloc(4)
  head.writeUInt32BE(body.length)
  return Buffer.concat([head, body])
}

/** Bytes that are right, but for what was done to them. */
const spoilt = (good: fc.Arbitrary<Uint8Array>) =>
  fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.tuple(good, fc.nat()).map(([bytes, cut]) => bytes.subarray(0, cut % (bytes.length + 1))),
    fc.tuple(good, fc.nat(), fc.integer({ min: 1, max: 255 })).map(([bytes, at, change]) => {
      const copy = new Uint8Array(bytes)
      copy[at % copy.length]! ^= change
      return copy
    }),
    fc.constantFrom(0, 1, 4_093, 0x7fff_ffff, 0xffff_ffff).map((length) => {
      const head = Buffer.alloc(8_000)
      head.writeUInt32BE(length)
      return head
    }),
  )

const anyHeader = fc
  .record({
    name: fc.string({ maxLength: 30 }),
    size: fc.nat(40),
    modified: fc.nat(),
  })
  .map((header) =>
    Buffer.concat([
      control(header),
      control({ start: 0 }),
      Buffer.alloc(header.size, 1),
      control({ hash: createHash('sha256').update(Buffer.alloc(header.size, 1)).digest() }),
    ]),
  )

test('property: whatever a sender sends, the receiver ends with a whole file or a typed error', async () => {
  await fc.assert(
    fc.asyncProperty(spoilt(anyHeader), fc.boolean(), async (bytes, end) => {
      let received!: Promise<unknown>
      const came = new Promise<void>((resolve) => {
        onStream = (stream) => {
          received = receiveFile(stream, { from, directory: inbox }).catch((error: unknown) => error)
          resolve()
        }
      })
      const stream = await pair.a.open(FILE_PROTOCOL)
      stream.write(bytes).catch(() => {})
      if (end) stream.end().catch(() => {})
      else setImmediate(() => stream.reset())
      await came
      const outcome = await received
      if (!isPeerlineError(outcome)) expect(outcome).toMatchObject({ path: expect.stringContaining(inbox) })
      expect(pair.b.state).toBe('open')
    }),
    { numRuns: 150 },
  )
  await vi.waitFor(() => expect(pair.b.streams).toBe(0))
})

const anyAnswers = fc
  .tuple(fc.nat(2_000), fc.string({ minLength: 1, maxLength: 30 }))
  .map(([offset, savedAs]) =>
    Buffer.concat([control({ ok: true, offset, hash: new Uint8Array(32) }), control({ ok: true, savedAs })]),
  )

test('property: whatever a receiver answers, the sender ends with a result or a typed error', async () => {
  const file = await source('a.bin', randomBytes(1_000))
  await fc.assert(
    fc.asyncProperty(spoilt(anyAnswers), fc.boolean(), async (bytes, end) => {
      onStream = (stream) => {
        stream.write(bytes).catch(() => {})
        if (end) stream.end().catch(() => {})
        else setImmediate(() => stream.reset())
      }
      const outcome = await sendFile(pair.a, file).catch((error: unknown) => error)
      if (!isPeerlineError(outcome)) expect(outcome).toMatchObject({ bytes: 1_000, resumedFrom: 0 })
      expect(pair.a.state).toBe('open')
    }),
    { numRuns: 150 },
  )
})
