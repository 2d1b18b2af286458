import { pipeline } from 'node:stream/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { toNodeDuplex, toReadable, toWritable } from './adapters.ts'
import { FIRST_APPLICATION_CODE, StreamCode } from './codes.ts'
import { codeOf, type Link, noise, readAll, useFakeTime, World } from './memory-path.compliance.ts'
import { INITIAL_WINDOW_BYTES, SMALL_WRITE_BYTES, type Stream } from './stream.ts'

let world: World
let link: Link

beforeEach(useFakeTime)
afterEach(async () => {
  world.stop()
  await world.pass(20)
  expect(vi.getTimerCount()).toBe(0)
  vi.useRealTimers()
})

/** Both ends of one stream: `[ours, theirs]`. */
async function streamPair(): Promise<[Stream, Stream]> {
  const remote: Stream[] = []
  world = new World({ onStream: (stream) => remote.push(stream) })
  link = world.connect()
  const local = await world.sessions[0].open('/pair/1')
  await world.run(() => remote.length === 1 && world.sessions[0].state === 'open')
  return [local, remote[0]!]
}

/** Everything that can be read now, without waiting for the end. */
async function readSome(stream: Stream, bytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for (let length = 0; length < bytes; ) {
    const { value, done } = await world.settled(stream.next())
    if (done) break
    chunks.push(value)
    length += value.length
  }
  return new Uint8Array(Buffer.concat(chunks))
}

async function echo(stream: Stream): Promise<void> {
  for await (const chunk of stream) await stream.write(chunk)
  await stream.end()
}

describe('what is written', () => {
  const sizes = [0, 1, 17, 4_095, 4_096, 4_097, 16_370, 16_384, 65_535, 65_536, 65_537, 262_144, 262_145, 1_048_576]

  it('comes back byte for byte from an echo, small and large writes in turn', async () => {
    const [local, remote] = await streamPair()
    void echo(remote)
    const parts = sizes.flatMap((size) => [noise(size), noise(3), noise(size >> 3)])
    const sent = (async () => {
      for (const part of parts) await local.write(part)
      await local.end()
    })()
    const got = await world.settled(readAll(local))
    await sent
    expect(Buffer.compare(got, Buffer.concat(parts))).toBe(0)
    expect([local.done, remote.done]).toEqual([true, true])
    await Promise.all([local.closed, remote.closed])
    expect(world.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })

  it('keeps its order when no write is awaited, on a path that takes one message at a time', async () => {
    const [local, remote] = await streamPair()
    link.highWater = 1
    const parts = [...sizes, ...sizes.toReversed(), ...sizes].map(noise)
    for (const part of parts) void local.write(part)
    void local.end()
    expect(Buffer.compare(await world.settled(readAll(remote)), Buffer.concat(parts))).toBe(0)
  })

  it.each(sizes)('of %d bytes goes whole with the end', async (size) => {
    const [local, remote] = await streamPair()
    const bytes = noise(size)
    const ended = local.end(bytes)
    expect(Buffer.compare(await world.settled(readAll(remote)), bytes)).toBe(0)
    await ended
  })

  it('may be changed by the caller once the write has resolved', async () => {
    for (const size of [SMALL_WRITE_BYTES, SMALL_WRITE_BYTES + 1, 300_000]) {
      const [local, remote] = await streamPair()
      const bytes = noise(size)
      const copy = bytes.slice()
      const reading = readAll(remote)
      await world.settled(local.write(bytes))
      bytes.fill(0)
      await local.end()
      expect(Buffer.compare(await world.settled(reading), copy)).toBe(0)
      world.stop()
      await world.pass(1)
    }
  })

  it('in one turn shares a record', async () => {
    const [local, remote] = await streamPair()
    await world.pass(50)
    const before = link.ends[0].sent
    for (let count = 0; count < 100; count++) void local.write(noise(20))
    await world.turn()
    expect(link.ends[0].sent - before).toBe(1)
    expect((await readSome(remote, 2_000)).length).toBe(2_000)
  })
})

describe('a stream', () => {
  it('ends one direction at a time, either first', async () => {
    for (const swap of [false, true]) {
      const pair = await streamPair()
      const [first, second] = swap ? [pair[1], pair[0]] : pair
      await first.end(Uint8Array.of(1))
      expect([...(await world.settled(readAll(second)))]).toEqual([1])
      expect(first.done).toBe(false)
      await second.write(Uint8Array.of(2))
      expect([...(await readSome(first, 1))]).toEqual([2])
      await second.end()
      expect((await world.settled(first.next())).done).toBe(true)
      expect([first.done, second.done]).toEqual([true, true])
      world.stop()
      await world.pass(1)
    }
  })

  it('takes no write after its end, and a second end only without data', async () => {
    const [local] = await streamPair()
    await local.end()
    await local.end()
    expect(await codeOf(local.write(Uint8Array.of(1)))).toBe('ERR_PEERLINE_CLOSED')
    expect(await codeOf(local.end(Uint8Array.of(1)))).toBe('ERR_PEERLINE_CLOSED')
  })

  it('has one reader at a time', async () => {
    const [local] = await streamPair()
    const first = codeOf(local.next())
    expect(await codeOf(local.next())).toBe('ERR_PEERLINE_INVALID')
    local.reset()
    expect(await first).toBe('ERR_PEERLINE_CLOSED')
  })

  it('has no promise left hanging when it was ended on a path that is gone', async () => {
    const [local] = await streamPair()
    link.cut()
    // More than a batch holds, so that the end must wait with the rest.
    for (let count = 0; count < 5; count++) void local.write(noise(4_000)).catch(() => {})
    const ended = codeOf(local.end())
    await world.pass(6_000)
    expect(await ended).toBe('ERR_PEERLINE_PATH_LOST')
  })

  it('given up right after an awaited end loses nothing, also when the end had to wait', async () => {
    const [local, remote] = await streamPair()
    const payload = noise(40_000)
    const reading = readAll(remote)
    link.cut()
    for (let at = 0; at < payload.length; at += 4_000) void local.write(payload.subarray(at, at + 4_000))
    const ended = local.end().then(() => local[Symbol.asyncDispose]())
    await world.pass(500)
    world.connect()
    await world.settled(ended)
    expect(Buffer.compare(await world.settled(reading), payload)).toBe(0)
  })

  it('refuses to queue more than 64 MiB of writes that nobody awaits', async () => {
    const [local] = await streamPair()
    link.cut()
    const large = new Uint8Array(32 * 1_048_576)
    const waiting = [local.write(large), local.write(large)].map(codeOf)
    expect(await codeOf(local.write(large))).toBe('ERR_PEERLINE_LIMIT')
    local.reset()
    expect(await Promise.all(waiting)).toEqual(['ERR_PEERLINE_CLOSED', 'ERR_PEERLINE_CLOSED'])
  })
})

describe('giving up', () => {
  it('of what has come whole and was not read leaves nothing open', async () => {
    const [local, remote] = await streamPair()
    await local.end(noise(1_000))
    await world.quiet()
    remote.reset()
    await world.quiet()
    expect([local.done, remote.done]).toEqual([true, true])
    expect(world.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })

  it('tells who writes nothing that nothing more is wanted', async () => {
    const [local, remote] = await streamPair()
    await local.end(noise(1_000))
    await world.quiet()
    let stopped = false
    void remote.stopped.then(() => {
      stopped = true
    })
    expect(stopped).toBe(false)
    local.cancel()
    await world.settled(remote.stopped)
    expect(stopped).toBe(true)
    await remote.stopped
  })

  it.each([
    [StreamCode.CANCELLED, 'ERR_PEERLINE_RESET'],
    [StreamCode.NO_PROTOCOL, 'ERR_PEERLINE_NO_PROTOCOL'],
    [StreamCode.DENIED, 'ERR_PEERLINE_DENIED'],
    [StreamCode.BUSY, 'ERR_PEERLINE_BUSY'],
    [StreamCode.TOO_LARGE, 'ERR_PEERLINE_TOO_LARGE'],
    [StreamCode.FAILED, 'ERR_PEERLINE_REMOTE'],
    [StreamCode.TIMEOUT, 'ERR_PEERLINE_TIMEOUT'],
    [FIRST_APPLICATION_CODE + 7, 'ERR_PEERLINE_RESET'],
  ])('with code %d is seen as %s at the other side, by who reads and who writes', async (code, error) => {
    const [local, remote] = await streamPair()
    const reading = codeOf(remote.next())
    const writing = codeOf(remote.write(noise(1_000_000)))
    await world.pass(50)
    local.reset(code)
    expect(await world.settled(reading)).toBe(error)
    expect(await world.settled(writing)).toBe(error)
    expect(await codeOf(local.write(noise(1)))).toBe('ERR_PEERLINE_CLOSED')
    expect([local.done, remote.done]).toEqual([true, true])
    await world.pass(50)
    expect(world.sessions.map(({ streams, state }) => [streams, state])).toEqual([
      [0, 'open'],
      [0, 'open'],
    ])
  })

  it('reading stops the writer and leaves the other direction alone', async () => {
    const [local, remote] = await streamPair()
    const writing = codeOf(local.write(noise(1_000_000)))
    await world.pass(10)
    remote.cancel(FIRST_APPLICATION_CODE)
    expect(await world.settled(writing)).toBe('ERR_PEERLINE_RESET')
    expect(await codeOf(local.end())).toBe('ERR_PEERLINE_RESET')
    await remote.end(Uint8Array.of(5))
    expect([...(await world.settled(readAll(local)))]).toEqual([5])
    expect([local.done, remote.done]).toEqual([true, true])
  })

  it('reading by leaving a loop stops the writer too', async () => {
    const [local, remote] = await streamPair()
    const writing = codeOf(local.write(noise(1_000_000)))
    const left = (async () => {
      for await (const chunk of remote) if (chunk.length > 0) break
    })()
    await world.settled(left)
    expect(await world.settled(writing)).toBe('ERR_PEERLINE_RESET')
    expect((await remote.next()).done).toBe(true)
  })

  it('after the other side has ended does not take back what it sent', async () => {
    const [local, remote] = await streamPair()
    await local.end(noise(100))
    await world.pass(50)
    local.reset()
    expect((await world.settled(readAll(remote))).length).toBe(100)
  })

  it('by a signal ends a write that waits, and the stream with it', async () => {
    const [local, remote] = await streamPair()
    const aborter = new AbortController()
    const writing = codeOf(local.write(noise(1_000_000), { signal: aborter.signal }))
    const timeout = codeOf(local.write(noise(5_000), { signal: AbortSignal.any([]) }))
    await world.pass(50)
    aborter.abort()
    expect(await writing).toBe('ERR_PEERLINE_ABORTED')
    expect(await timeout).toBe('ERR_PEERLINE_ABORTED')
    expect(await codeOf(world.settled(readAll(remote)))).toBe('ERR_PEERLINE_RESET')
  })

  it('by a signal that fires after the write changes nothing', async () => {
    const [local, remote] = await streamPair()
    const aborter = new AbortController()
    await world.settled(local.write(noise(100_000), { signal: aborter.signal }))
    aborter.abort()
    await local.end()
    expect((await world.settled(readAll(remote))).length).toBe(100_000)
  })
})

describe('the window', () => {
  /** Writes until nothing more goes out; how much that was. */
  async function untilStuck(stream: Stream): Promise<number> {
    let written = 0
    let stop = false
    void (async () => {
      while (!stop) {
        await stream.write(new Uint8Array(32_768))
        written += 32_768
      }
    })().catch(() => {})
    await world.pass(500)
    stop = true
    return written
  }

  it('stops the writer of what nobody reads at 256 KiB, and a read lets it go on', async () => {
    const [local, remote] = await streamPair()
    const payload = noise(600_000)
    let done = false
    void local.end(payload).then(() => {
      done = true
    })
    await world.pass(1_000)
    expect(done).toBe(false)
    const sent = await readSome(remote, INITIAL_WINDOW_BYTES)
    expect(sent.length).toBe(INITIAL_WINDOW_BYTES)
    const rest = await world.settled(readAll(remote))
    expect(Buffer.compare(Buffer.concat([sent, rest]), payload)).toBe(0)
    expect(done).toBe(true)
  })

  it('grows for a reader that keeps up', async () => {
    const [local, remote] = await streamPair()
    const sending = local.write(new Uint8Array(8 * 1_048_576))
    await readSome(remote, 8 * 1_048_576)
    await world.settled(sending)
    expect(await untilStuck(local)).toBeGreaterThan(4 * INITIAL_WINDOW_BYTES)
  })

  it('stays as it is for a reader that is slow', async () => {
    const [local, remote] = await streamPair()
    const sending = local.write(new Uint8Array(1_048_576))
    for (let read = 0; read < 1_048_576; ) {
      const { value } = await world.settled(remote.next())
      read += value!.length
      await world.pass(300)
    }
    await world.settled(sending)
    expect(await untilStuck(local)).toBeLessThanOrEqual(INITIAL_WINDOW_BYTES)
  })

  it('never grows beyond what the session has for all its windows together', async () => {
    const remote: Stream[] = []
    world = new World({ onStream: (stream) => remote.push(stream) })
    link = world.connect()
    const unread: number[] = []
    for (let at = 0; at < 6; at++) {
      const local = await world.sessions[0].open('/grow/1')
      const sending = local.write(new Uint8Array(20 * 1_048_576))
      await world.run(() => remote.length === at + 1)
      await readSome(remote[at]!, 20 * 1_048_576)
      await world.settled(sending)
      unread.push(await untilStuck(local))
    }
    expect(unread[0]).toBeGreaterThan(8 * 1_048_576)
    expect(unread[5]).toBeLessThan(2 * 1_048_576)
    expect(unread.reduce((sum, bytes) => sum + bytes)).toBeLessThan(67_108_864 + 6 * INITIAL_WINDOW_BYTES)
  })
})

describe('a sink', () => {
  it('gets what was there already, what comes, and the end', async () => {
    const [local, remote] = await streamPair()
    await local.write(Uint8Array.of(1))
    await world.pass(50)
    const seen: unknown[] = []
    remote.pipeTo({
      data: (chunk) => seen.push([...chunk]),
      end: () => seen.push('end'),
      error: (error) => seen.push(error.code),
    })
    expect(seen).toEqual([[1]])
    expect(await codeOf(remote.next())).toBe('ERR_PEERLINE_INVALID')
    await local.end(Uint8Array.of(2))
    await world.run(() => seen.length === 3)
    expect(seen).toEqual([[1], [2], 'end'])
  })

  it('gets the error, once', async () => {
    const [local, remote] = await streamPair()
    const seen: unknown[] = []
    const sink = {
      data: () => {},
      end: () => seen.push('end'),
      error: (error: { code: string }) => seen.push(error.code),
    }
    remote.pipeTo(sink)
    local.reset(StreamCode.FAILED)
    await world.pass(50)
    remote.reset()
    expect(seen).toEqual(['ERR_PEERLINE_REMOTE'])
  })
})

describe('adapters', () => {
  const payload = noise(700_000)

  it('toNodeDuplex carries both ways through a pipeline and closes in order', async () => {
    const [local, remote] = await streamPair()
    const far = toNodeDuplex(remote)
    const echoed = pipeline(far, far)
    const near = toNodeDuplex(local)
    near.end(payload)
    const chunks: Uint8Array[] = []
    near.on('data', (chunk: Uint8Array) => chunks.push(chunk))
    await world.settled(new Promise((resolve) => near.on('close', resolve)))
    await world.settled(echoed)
    expect(Buffer.compare(Buffer.concat(chunks), payload)).toBe(0)
    expect([local.done, remote.done]).toEqual([true, true])
  })

  it('toNodeDuplex loses no end that had to wait for a path', async () => {
    const [local, remote] = await streamPair()
    await remote.end()
    const reading = readAll(remote)
    const near = toNodeDuplex(local)
    near.resume()
    await world.pass(50)
    link.cut()
    // Another stream fills the batch, so that the end finds no room in it.
    const other = await world.sessions[0].open('/other/1')
    for (let count = 0; count < 4; count++) void other.write(noise(4_080)).catch(() => {})
    near.end(Uint8Array.of(7))
    await world.pass(500)
    world.connect()
    expect([...(await world.settled(reading))]).toEqual([7])
  })

  it('toNodeDuplex fails with the typed error of the stream', async () => {
    const [local, remote] = await streamPair()
    const near = toNodeDuplex(local)
    near.resume()
    const failed = new Promise<{ code?: string }>((resolve) => near.on('error', resolve))
    await world.pass(10)
    remote.reset(StreamCode.DENIED)
    expect((await world.settled(failed)).code).toBe('ERR_PEERLINE_DENIED')
    expect(local.done).toBe(true)
  })

  it('toNodeDuplex destroyed resets the stream', async () => {
    const [local, remote] = await streamPair()
    toNodeDuplex(local).destroy()
    expect(await codeOf(world.settled(readAll(remote)))).toBe('ERR_PEERLINE_RESET')
  })

  it('toReadable and toWritable carry bytes, and their ends', async () => {
    const [local, remote] = await streamPair()
    const source = new Blob([Buffer.from(payload)]).stream()
    const sent = source.pipeTo(toWritable(local))
    const chunks: Uint8Array[] = []
    const reading = (async () => {
      const reader = toReadable(remote).getReader()
      for (;;) {
        const { value, done } = await reader.read()
        if (done) return
        chunks.push(value)
      }
    })()
    await world.settled(reading)
    await world.settled(sent)
    expect(Buffer.compare(Buffer.concat(chunks), payload)).toBe(0)
  })

  it('toReadable cancelled stops the writer; toWritable aborted resets the stream', async () => {
    const [local, remote] = await streamPair()
    const writing = codeOf(local.write(noise(1_000_000)))
    await toReadable(remote).cancel()
    expect(await world.settled(writing)).toBe('ERR_PEERLINE_RESET')
    await toWritable(remote).abort()
    expect(await codeOf(world.settled(readAll(local)))).toBe('ERR_PEERLINE_RESET')
  })

  it('toReadable reads only when asked: nobody reading is back-pressure', async () => {
    const [local, remote] = await streamPair()
    const readable = toReadable(remote)
    let done = false
    void local.write(noise(400_000)).then(() => {
      done = true
    })
    await world.pass(1_000)
    expect(done).toBe(false)
    const reader = readable.getReader()
    for (let read = 0; read < 400_000; ) read += (await world.settled(reader.read())).value!.length
    expect(done).toBe(true)
  })
})
