import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import type { PeerlineError } from '../errors.ts'
import { MemoryPipe, settled } from './memory-pipe.compliance.ts'
import { type SpliceOptions, splice } from './splice.ts'

/** What an end of the circuit sees. */
class End {
  readonly pipe: MemoryPipe
  readonly chunks: Uint8Array[] = []
  readonly closes: (PeerlineError | undefined)[] = []
  drains = 0

  constructor(pipe: MemoryPipe) {
    this.pipe = pipe
    pipe.start({
      data: (chunk) => this.chunks.push(chunk),
      drain: () => this.drains++,
      close: (error) => this.closes.push(error),
    })
  }

  get bytes(): number {
    return this.chunks.reduce((sum, { length }) => sum + length, 0)
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString()
  }
}

const bytes = (length: number) => new Uint8Array(length)
const text = (value: string) => new TextEncoder().encode(value)

function join(options: Partial<SpliceOptions> & { restA?: Uint8Array; restB?: Uint8Array } = {}) {
  const { restA, restB, ...rest } = options
  const [outerA, innerA] = MemoryPipe.pair()
  const [outerB, innerB] = MemoryPipe.pair()
  const onEnd = vi.fn()
  const a = new End(outerA)
  const b = new End(outerB)
  const end = splice(innerA, restA, innerB, restB, {
    maxBytes: Number.POSITIVE_INFINITY,
    bytesPerSecond: Number.POSITIVE_INFINITY,
    maxMs: 1_000_000,
    onEnd,
    ...rest,
  })
  return { a, b, innerA, innerB, end, onEnd }
}

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
})
afterEach(() => {
  vi.useRealTimers()
})

describe('two joined pipes', () => {
  test('carry bytes both ways, what was read already first', async () => {
    const { a, b } = join({ restA: text('restA '), restB: text('restB ') })
    a.pipe.write([text('from '), text('a')])
    b.pipe.write([text('from b')])
    await settled()
    expect([a.text, b.text]).toEqual(['restB from b', 'restA from a'])
  })

  test.each(['a to b', 'b to a'])('hold the writer back while the reader does not read: %s', async (way) => {
    const { a, b, innerA, innerB } = join()
    const [from, to, inner] = way === 'a to b' ? [a, b, innerA] : [b, a, innerB]
    to.pipe.pause()
    let wrote = 0
    for (let round = 0; round < 1_000; round++) {
      if (from.pipe.writable) {
        from.pipe.write([bytes(10_000)])
        wrote += 10_000
      }
      await Promise.resolve()
    }
    await settled()
    expect(from.pipe.writable).toBe(false)
    expect(inner.paused).toBe(true)
    // One high water mark on each side of the relay, and a chunk above each.
    expect(wrote).toBeLessThanOrEqual(2 * 65_536 + 20_000)
    expect(to.bytes).toBe(0)

    to.pipe.resume()
    await settled()
    expect(to.bytes).toBe(wrote)
    expect(inner.paused).toBe(false)
    expect(from.drains).toBeGreaterThan(0)
    // The other direction was never held.
    to.pipe.write([text('meanwhile')])
    await settled()
    expect(from.text).toBe('meanwhile')
  })

  test('one direction that is held back does not hold the other', async () => {
    const { a, b } = join()
    b.pipe.pause()
    for (let round = 0; round < 100; round++) {
      if (a.pipe.writable) a.pipe.write([bytes(10_000)])
      await Promise.resolve()
    }
    b.pipe.write([text('still here')])
    await settled()
    expect(a.text).toBe('still here')
    expect(b.bytes).toBe(0)
  })

  test('end together, and say so once', async () => {
    const { a, b, onEnd, end } = join()
    a.pipe.write([text('last words')])
    a.pipe.end()
    await settled()
    expect(b.text).toBe('last words')
    expect([a.closes, b.closes]).toEqual([[undefined], [undefined]])
    expect(onEnd).toHaveBeenCalledTimes(1)
    end()
    b.pipe.end()
    await vi.advanceTimersByTimeAsync(2_000_000)
    expect(onEnd).toHaveBeenCalledTimes(1)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('are cut when an end does not take its tail in time', async () => {
    const { a, b, innerA, innerB, end } = join()
    b.pipe.pause()
    a.pipe.write([text('tail')])
    await settled()
    end()
    await settled()
    expect([innerA.ended, innerB.ended, innerB.closed]).toEqual([true, true, false])
    await vi.advanceTimersByTimeAsync(5_000)
    expect([innerA.closed, innerB.closed]).toEqual([true, true])
    expect(vi.getTimerCount()).toBe(0)
  })

  test('of which one was gone already end at once', async () => {
    const [outerA, innerA] = MemoryPipe.pair()
    const [outerB, innerB] = MemoryPipe.pair()
    outerA.destroy()
    innerA.destroy()
    const b = new End(outerB)
    const onEnd = vi.fn()
    splice(innerA, text('rest'), innerB, undefined, {
      maxBytes: 1_000,
      bytesPerSecond: Number.POSITIVE_INFINITY,
      maxMs: 1_000,
      onEnd,
    })
    await settled()
    expect(b.text).toBe('rest')
    expect(onEnd).toHaveBeenCalledTimes(1)
    expect(b.closes).toEqual([undefined])
  })
})

describe('the quota', () => {
  test('in bytes counts both ways, and what was read already', async () => {
    const { a, b, onEnd } = join({ maxBytes: 100, restA: bytes(40) })
    b.pipe.write([bytes(60)])
    await settled()
    expect([a.bytes, b.bytes]).toEqual([60, 40])
    expect(onEnd).not.toHaveBeenCalled()
    a.pipe.write([bytes(1)])
    await settled()
    expect([a.bytes, b.bytes]).toEqual([60, 40])
    expect(onEnd).toHaveBeenCalledTimes(1)
    expect([a.closes.length, b.closes.length]).toEqual([1, 1])
  })

  test('in bytes may be passed by what was read already', async () => {
    const { b, onEnd } = join({ maxBytes: 100, restA: bytes(101) })
    expect(onEnd).toHaveBeenCalledTimes(1)
    await settled()
    expect(b.bytes).toBe(0)
    expect(b.closes.length).toBe(1)
  })

  test('in time ends a circuit that is busy, and one that is not', async () => {
    const { a, b, onEnd } = join({ maxMs: 1_000 })
    await vi.advanceTimersByTimeAsync(999)
    a.pipe.write([text('in time')])
    await settled()
    expect([b.text, onEnd.mock.calls.length]).toEqual(['in time', 0])
    await vi.advanceTimersByTimeAsync(1)
    expect(onEnd).toHaveBeenCalledTimes(1)
    a.pipe.write([text('late')])
    await settled()
    expect(b.text).toBe('in time')
  })
})

describe('the rate', () => {
  /** Writes whenever it may for `ms`; how many bytes the other end got. */
  async function flood(from: End, to: End, ms: number): Promise<number> {
    const before = to.bytes
    for (let at = 0; at < ms; at += 10) {
      for (let chunk = 0; chunk < 200 && from.pipe.writable; chunk++) {
        from.pipe.write([bytes(65_536)])
        await settled()
      }
      await vi.advanceTimersByTimeAsync(10)
    }
    return to.bytes - before
  }

  test('holds each way after a burst, and is not lost when idle', async () => {
    const bytesPerSecond = 2_000_000
    const { a, b } = join({ bytesPerSecond })
    const first = await flood(a, b, 1_000)
    // A burst of 1 MiB, a second's worth, and a chunk above it that is paid for later.
    expect(first).toBeGreaterThan(bytesPerSecond)
    expect(first).toBeLessThan(1_048_576 + bytesPerSecond + 2 * 65_536)
    const second = await flood(a, b, 2_000)
    expect(second / 2).toBeGreaterThan(bytesPerSecond * 0.9)
    expect(second / 2).toBeLessThan(bytesPerSecond * 1.1)
    // The way back has an allowance of its own.
    expect(await flood(b, a, 500)).toBeGreaterThan(1_048_576)
  })

  test('and a slow reader together never let more through, nor deadlock', async () => {
    const { a, b } = join({ bytesPerSecond: 1_000_000 })
    b.pipe.pause()
    for (let round = 0; round < 100; round++) {
      if (round % 3 === 0) b.pipe.resume()
      if (a.pipe.writable) a.pipe.write([bytes(65_536)])
      await settled()
      b.pipe.pause()
      await vi.advanceTimersByTimeAsync(30)
    }
    b.pipe.resume()
    await vi.advanceTimersByTimeAsync(10_000)
    expect(b.bytes).toBe(a.pipe.written)
    expect(b.bytes).toBeGreaterThan(1_500_000)
    expect(b.bytes).toBeLessThan(1_048_576 + 3_000_000 + 4 * 65_536)
  })

  test('leaves no timer behind when the circuit ends while it waits', async () => {
    const { a, end } = join({ bytesPerSecond: 1_000_000 })
    for (let chunk = 0; chunk < 30; chunk++) {
      a.pipe.write([bytes(65_536)])
      await settled()
    }
    end()
    await vi.advanceTimersByTimeAsync(5_000)
    expect(vi.getTimerCount()).toBe(0)
  })
})
