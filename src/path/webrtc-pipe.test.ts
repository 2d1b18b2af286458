import { once } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import type { PeerlineError } from '../errors.ts'
import type { Pipe, PipeHandler } from './pipe.ts'
import { sample, turns } from './recorder.compliance.ts'
import { closeAll, expectAllClosed, openBare, openPipes } from './webrtc-loopback.compliance.ts'
import { MESSAGE_COST_BYTES, WINDOW_BYTES } from './webrtc-pipe.ts'

afterEach(() => {
  vi.useRealTimers()
  closeAll()
})

/** A handler that keeps what it was told. */
class Reader implements PipeHandler {
  readonly chunks: Uint8Array[] = []
  readonly closes: (PeerlineError | undefined)[] = []
  bytes = 0
  drain = vi.fn()
  onData: (() => void) | undefined

  constructor(pipe: Pipe) {
    pipe.start(this)
  }

  data(chunk: Uint8Array): void {
    expect(this.closes).toEqual([])
    this.chunks.push(chunk)
    this.bytes += chunk.length
    this.onData?.()
  }

  close(error: PeerlineError | undefined): void {
    this.closes.push(error)
  }

  /** Waits for the end: the code it came with, or `in order`. */
  async end(): Promise<string> {
    await expect.poll(() => this.closes.length, { timeout: 10_000 }).toBe(1)
    return this.closes[0]?.code ?? 'in order'
  }
}

describe('a data channel as a pipe', () => {
  test('carries far more than its window, both ways at once, and both may end with a queue', async () => {
    const [a, b] = await openPipes()
    const [atA, atB] = [new Reader(a), new Reader(b)]
    const body = sample(100_000)
    const count = Math.ceil((2.5 * WINDOW_BYTES) / body.length)
    for (let i = 0; i < count; i++) {
      a.write([body])
      b.write([body])
    }
    expect([a.writable, b.writable]).toEqual([false, false])
    a.end()
    b.end()
    expect([await atA.end(), await atB.end()]).toEqual(['in order', 'in order'])
    const want = Buffer.concat(new Array<Buffer>(count).fill(body))
    for (const reader of [atA, atB]) {
      expect(Buffer.compare(Buffer.concat(reader.chunks), want)).toBe(0)
      expect(Math.max(...reader.chunks.map(({ length }) => length))).toBe(65_536)
    }
    await expectAllClosed(2)
  })

  test('holds no more than its window for a paused reader, and the rest waits at the writer', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    const messages = Math.floor(WINDOW_BYTES / (65_536 + MESSAGE_COST_BYTES))
    const grants: string[] = []
    channel.addEventListener('message', ({ data }) => grants.push(data))
    for (let i = 0; i < messages; i++) channel.send(new Uint8Array(65_536))
    channel.send('end') // comes after all of them
    await once(channel, 'message')
    expect(grants).toEqual(['ended'])
    expect([reader.bytes, reader.closes.length]).toEqual([0, 0])
    pipe.resume()
    expect(await reader.end()).toBe('in order')
    expect(reader.bytes).toBe(messages * 65_536)
  })

  test('grants more after each quarter of the window that was read', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    const grants: number[] = []
    channel.addEventListener('message', ({ data }) => grants.push(Number(data)))
    for (let i = 0; i < 32; i++) channel.send(new Uint8Array(65_536))
    await expect.poll(() => reader.bytes).toBe(32 * 65_536)
    const quarter = 16 * (65_536 + MESSAGE_COST_BYTES) // the first message count that reaches a quarter
    await expect.poll(() => grants).toEqual([WINDOW_BYTES + quarter, WINDOW_BYTES + 2 * quarter])
  })

  test.each([
    ['large', 65_536],
    ['tiny', 1],
    ['empty', 0],
  ])('%s messages beyond the window end it', async (_, size) => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    const message = new Uint8Array(size)
    const most = Math.floor(WINDOW_BYTES / (size + MESSAGE_COST_BYTES))
    for (let i = 0; i < most; i++) channel.send(message)
    await turns(10)
    expect(reader.closes).toEqual([])
    channel.send(message)
    expect(await reader.end()).toBe('ERR_PEERLINE_PROTOCOL')
    expect([reader.bytes, pipe.writable]).toEqual([0, false])
    await expect.poll(() => far.connectionState).toBe('closed')
  })

  test('a writer keeps to the window of a reader who says nothing', async () => {
    const { pipe, channel } = await openBare()
    const writer = new Reader(pipe)
    let [messages, bytes] = [0, 0]
    channel.addEventListener('message', ({ data }) => {
      messages++
      bytes += (data as ArrayBuffer).byteLength
    })
    while (pipe.write([sample(65_536)]));
    for (let i = 0; i < 200; i++) pipe.write([sample(65_536)]) // a writer that does not listen
    const full = Math.floor(WINDOW_BYTES / (65_536 + MESSAGE_COST_BYTES))
    await expect.poll(() => messages).toBe(full)
    await turns(50)
    expect([messages, bytes]).toEqual([full, full * 65_536])
    expect([pipe.writable, writer.drain.mock.calls.length]).toEqual([false, 0])
    channel.send(String(100 * WINDOW_BYTES))
    await expect.poll(() => pipe.waiting).toBe(0)
    await expect.poll(() => writer.drain.mock.calls.length).toBe(1)
    expect(pipe.writable).toBe(true)
  })

  test.each(['', '0', '-1', '+5000000', '1e9', '5000000.5', ' 5000000', '00005000000', 'ended', 'End', '\0'])(
    'the text %j ends it',
    async (text) => {
      const { pipe, channel, far } = await openBare()
      const reader = new Reader(pipe)
      channel.send(new Uint8Array(5))
      channel.send(text)
      channel.send(new Uint8Array(5))
      expect(await reader.end()).toBe('ERR_PEERLINE_PROTOCOL')
      expect(reader.bytes).toBe(5)
      await expect.poll(() => far.connectionState).toBe('closed')
    },
  )

  test.each([String(WINDOW_BYTES), String(WINDOW_BYTES - 1), '9999999999999999', '99999999999999999999'])(
    'a window that does not grow, or beyond counting, ends it: %s',
    async (text) => {
      const { pipe, channel } = await openBare()
      const reader = new Reader(pipe)
      channel.send(text)
      expect(await reader.end()).toBe('ERR_PEERLINE_PROTOCOL')
    },
  )

  test.each(['bytes', 'end'])('%s after the end cut it off, and are told to nobody', async (what) => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    channel.send('end')
    if (what === 'end') channel.send('end')
    else channel.send(new Uint8Array(9))
    expect(await reader.end()).toBe('in order')
    await expect.poll(() => far.connectionState).toBe('closed')
    expect([reader.bytes, reader.closes.length]).toEqual([0, 1])
  })

  test('the word that it was cut is enough', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    channel.send(new Uint8Array(5))
    channel.send('cut')
    expect(await reader.end()).toBe('ERR_PEERLINE_UNREACHABLE')
    await expect.poll(() => far.connectionState).toBe('closed')
  })

  test('destroyed, it says so, takes nothing more, and does not wait for ever for the other side', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const said = once(channel, 'message') as Promise<[MessageEvent]>
    pipe.destroy()
    expect([pipe.writable, pipe.write([sample(5)])]).toEqual([false, false])
    expect((await said)[0].data).toBe('cut')
    channel.send(new Uint8Array(5))
    await turns(20)
    expect([reader.bytes, reader.closes]).toEqual([0, [undefined]])
    expect(far.connectionState).toBe('connected')
    vi.advanceTimersByTime(2_000)
    vi.useRealTimers()
    await expectAllClosed(2)
    expect(reader.closes.length).toBe(1)
  })

  test('a connection that goes away without an end was cut', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    channel.send(new Uint8Array(5))
    await expect.poll(() => reader.bytes).toBe(5)
    far.close()
    expect(await reader.end()).toBe('ERR_PEERLINE_UNREACHABLE')
    expect(pipe.write([sample(1)])).toBe(false)
    await expectAllClosed(2)
  })

  test('a channel that is closed without an end was cut', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    channel.close()
    expect(await reader.end()).toBe('ERR_PEERLINE_UNREACHABLE')
    await expectAllClosed(2)
  })

  test('an end that is never answered is an error when the other side goes away', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    const said = once(channel, 'message')
    pipe.end()
    await said
    await turns(20)
    expect(reader.closes).toEqual([])
    far.close()
    expect(await reader.end()).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('what came before an end in order may be read after the connection has gone', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    channel.send(new Uint8Array(7))
    channel.send('end')
    await once(channel, 'message')
    far.close()
    await expectAllClosed(2)
    expect([reader.bytes, reader.closes.length]).toEqual([0, 0])
    pipe.resume()
    expect(await reader.end()).toBe('in order')
    expect(reader.bytes).toBe(7)
  })

  test('an end that comes while it is paused is told after resume, and no drain to a writer who need not wait', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    channel.send(String(2 * WINDOW_BYTES))
    channel.send('end')
    await once(channel, 'message')
    await turns(20)
    expect(reader.closes).toEqual([])
    pipe.resume()
    expect(await reader.end()).toBe('in order')
    expect(reader.drain).not.toHaveBeenCalled()
  })

  test('ended by both, it is over when both have it all', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    let bytes = 0
    const said: string[] = []
    channel.addEventListener('message', ({ data }: MessageEvent<string | ArrayBuffer>) => {
      if (typeof data === 'string') said.push(data)
      else bytes += data.byteLength
    })
    for (let i = 0; i < 100; i++) pipe.write([sample(65_536)])
    pipe.end()
    channel.send('end')
    await expect.poll(() => said).toEqual(['ended'])
    expect(reader.closes).toEqual([])
    channel.send(String(2 * WINDOW_BYTES))
    await expect.poll(() => said).toEqual(['ended', 'end'])
    expect([bytes, reader.closes.length]).toEqual([100 * 65_536, 0])
    channel.send('ended')
    expect(await reader.end()).toBe('in order')
    await expectAllClosed(2)
  })

  test('destroyed from inside data it delivers no more', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    for (let i = 0; i < 3; i++) channel.send(new Uint8Array(5))
    channel.send('end')
    await once(channel, 'message')
    reader.onData = () => pipe.destroy()
    pipe.resume()
    expect(await reader.end()).toBe('in order')
    expect(reader.bytes).toBe(5)
  })

  test('ended by this side too, it is over at once, though nothing of it was read', async () => {
    const { pipe, channel } = await openBare()
    const reader = new Reader(pipe)
    pipe.pause()
    channel.send(new Uint8Array(7))
    channel.send('end')
    await once(channel, 'message')
    pipe.end()
    await turns(2)
    expect(reader.closes).toEqual([undefined])
    expect(reader.bytes).toBe(0)
  })

  test('it does not wait for ever for the other side to close', async () => {
    const { pipe, channel, far } = await openBare()
    const reader = new Reader(pipe)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const answered = once(channel, 'message')
    channel.send('end')
    await answered
    await turns(20)
    expect(reader.closes).toEqual([undefined])
    expect(far.connectionState).toBe('connected')
    vi.advanceTimersByTime(2_000)
    vi.useRealTimers()
    await expectAllClosed(2)
  })

  test('destroy ends both sides at once, and nothing is held any more', async () => {
    const [a, b] = await openPipes()
    const [atA, atB] = [new Reader(a), new Reader(b)]
    b.pause()
    while (a.write([sample(65_536)]));
    a.destroy()
    expect(atA.closes).toEqual([]) // never from inside
    expect(await atA.end()).toBe('in order')
    expect(await atB.end()).toBe('ERR_PEERLINE_UNREACHABLE')
    expect([a.waiting, atB.bytes]).toEqual([0, 0])
    await expectAllClosed(2)
  })

  test('a reader may be replaced, and a late one is told of the end', async () => {
    const { pipe, channel } = await openBare()
    const first = new Reader(pipe)
    const second = { data: vi.fn(), drain: vi.fn(), close: vi.fn() }
    first.onData = () => pipe.start(second)
    for (let i = 0; i < 3; i++) channel.send(new Uint8Array(i + 1))
    channel.send('end')
    await expect.poll(() => second.close.mock.calls.length).toBe(1)
    expect([first.bytes, first.closes.length, second.data.mock.calls.length]).toEqual([1, 0, 2])
    expect(await new Reader(pipe).end()).toBe('in order')
  })
})
