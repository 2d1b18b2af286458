import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { Channel, type ChannelPolicy, MAX_WAITING_PUSHES } from './channel.ts'
import { codeOf, settle } from './memory-path.compliance.ts'

const lost = () => new PeerlineError('ERR_PEERLINE_PATH_LOST', 'lost')

async function all<T>(channel: AsyncIterable<T>): Promise<T[]> {
  const seen: T[] = []
  for await (const value of channel) seen.push(value)
  return seen
}

/** A channel of numbers, and what it let go. */
function numbers(options: ConstructorParameters<typeof Channel<number>>[0] = {}): [Channel<number>, number[]] {
  const gone: number[] = []
  return [new Channel<number>({ onDrop: (value) => gone.push(value), ...options }), gone]
}

describe('a full channel', () => {
  it('that blocks lets nobody in until there is room, in order', async () => {
    const [channel, gone] = numbers({ capacity: 2 })
    const done: number[] = []
    for (let n = 0; n < 6; n++) void channel.push(n).then((taken) => taken && done.push(n))
    await settle()
    expect([done, channel.length, channel.waiting]).toEqual([[0, 1], 2, 4])
    // Nobody passes those who wait, not even in the moment when there is room.
    expect(channel.offer(9)).toBe(false)
    expect((await channel.next()).value).toBe(0)
    expect(channel.offer(9)).toBe(false)
    await settle()
    expect([done, channel.length, channel.waiting]).toEqual([[0, 1, 2], 2, 3])
    for (const n of [1, 2, 3, 4, 5]) expect(await channel.receive()).toBe(n)
    expect([channel.dropped, gone]).toEqual([0, []])
  })

  it('drops the latest', async () => {
    const [channel, gone] = numbers({ policy: 'drop-latest', capacity: 3 })
    const taken = await Promise.all([0, 1, 2, 3, 4].map((n) => channel.push(n)))
    expect(taken).toEqual([true, true, true, false, false])
    expect([channel.dropped, gone, channel.length]).toEqual([2, [3, 4], 3])
    channel.end()
    expect(await all(channel)).toEqual([0, 1, 2])
  })

  it('drops the oldest', async () => {
    const [channel, gone] = numbers({ policy: 'drop-oldest', capacity: 3 })
    expect([0, 1, 2, 3, 4].map((n) => channel.offer(n))).toEqual([true, true, true, true, true])
    expect([channel.dropped, gone, channel.length]).toEqual([2, [0, 1], 3])
    channel.end()
    expect(await all(channel)).toEqual([2, 3, 4])
  })

  it.each<[ChannelPolicy, number[], number[]]>([
    ['block', [40, 50], []],
    ['drop-latest', [40, 50, 10], [60]],
    ['drop-oldest', [60, 10], [40, 50]],
  ])('is full by bytes, too: %s', (policy, kept, dropped) => {
    const [channel, gone] = numbers({ policy, maxBytes: 100, sizeOf: (value) => value })
    for (const size of [40, 50, 60]) channel.offer(size)
    if (policy !== 'block') channel.offer(10)
    expect(gone).toEqual(dropped)
    expect(channel.bytes).toBe(kept.reduce((sum, size) => sum + size, 0))
    for (const size of kept) expect(channel.shift()).toBe(size)
    expect([channel.shift(), channel.bytes]).toEqual([undefined, 0])
  })

  it('by bytes lets nobody small pass one that waits and is large', async () => {
    const channel = new Channel<number>({ maxBytes: 100, sizeOf: (value) => value })
    const pushes = [channel.push(60), channel.push(50), channel.push(10)]
    expect([channel.offer(10), channel.length, channel.waiting]).toEqual([false, 1, 2])
    for (const size of [60, 50, 10]) expect(await channel.receive()).toBe(size)
    expect(await Promise.all(pushes)).toEqual([true, true, true])
  })

  it.each<ChannelPolicy>(['block', 'drop-latest', 'drop-oldest'])('takes one value of any size: %s', (policy) => {
    const channel = new Channel<number>({ policy, maxBytes: 10, sizeOf: (value) => value })
    expect(channel.offer(1_000)).toBe(true)
    expect(channel.offer(1)).toBe(policy === 'drop-oldest')
    expect(channel.bytes).toBe(policy === 'drop-oldest' ? 1 : 1_000)
  })

  it('makes room of what nobody needs any more, before anything is dropped', () => {
    const stale = new Set<number>()
    const [channel, gone] = numbers({ policy: 'drop-latest', capacity: 3, isStale: (value) => stale.has(value) })
    for (const n of [0, 1, 2]) channel.offer(n)
    stale.add(0).add(1)
    expect([channel.offer(3), channel.offer(4), channel.offer(5)]).toEqual([true, true, false])
    stale.add(2)
    expect([channel.first, channel.shift(), channel.shift(), channel.shift()]).toEqual([3, 3, 4, undefined])
    expect(gone).toEqual([5])
  })

  it('whoever gives up waiting was not taken, and holds nobody up', async () => {
    const [channel] = numbers({ capacity: 1 })
    const stop = new AbortController()
    await channel.push(0)
    const given = channel.push(1, { signal: stop.signal })
    const kept = channel.push(2)
    stop.abort()
    expect(await codeOf(given)).toBe('ERR_PEERLINE_ABORTED')
    expect(await codeOf(channel.push(3, { signal: stop.signal }))).toBe('ERR_PEERLINE_ABORTED')
    expect([await channel.receive(), await channel.receive(), await kept]).toEqual([0, 2, true])
    expect(channel.waiting).toBe(0)
  })

  it('lets so many wait and no more', async () => {
    const [channel] = numbers({ capacity: 1 })
    await channel.push(0)
    const waiting = Array.from({ length: MAX_WAITING_PUSHES }, (_, n) => channel.push(n))
    expect(await codeOf(channel.push(0))).toBe('ERR_PEERLINE_LIMIT')
    channel.end()
    expect(new Set(await Promise.all(waiting.map(codeOf)))).toEqual(new Set(['ERR_PEERLINE_CLOSED']))
  })
})

describe('a consumer', () => {
  it('that waits gets a value at once, past every policy', async () => {
    for (const policy of ['block', 'drop-latest', 'drop-oldest'] as const) {
      const channel = new Channel<number>({ policy, capacity: 1 })
      const waiting = channel.next()
      expect(channel.offer(1)).toBe(true)
      expect(channel.length).toBe(0)
      expect(await waiting).toEqual({ value: 1, done: false })
    }
  })

  it('is one at a time', async () => {
    const channel = new Channel<number>()
    const first = channel.receive()
    expect(await codeOf(channel.next())).toBe('ERR_PEERLINE_INVALID')
    channel.offer(1)
    expect(await first).toBe(1)
  })

  it('that gives up waiting loses nothing', async () => {
    const channel = new Channel<number>()
    const stop = new AbortController()
    const waiting = channel.receive({ signal: stop.signal })
    stop.abort()
    expect(await codeOf(waiting)).toBe('ERR_PEERLINE_ABORTED')
    channel.offer(1)
    expect(await codeOf(channel.receive({ signal: stop.signal }))).toBe('ERR_PEERLINE_ABORTED')
    expect(await channel.receive({ signal: new AbortController().signal })).toBe(1)
  })

  it('that was served is not held to its signal, nor is a producer', async () => {
    const [channel] = numbers({ capacity: 1 })
    const stop = new AbortController()
    const { signal } = stop
    const receiving = channel.receive({ signal })
    channel.offer(0)
    await receiving
    channel.offer(1)
    const pushing = channel.push(2, { signal })
    const [one, two] = [await channel.receive(), await channel.receive()]
    expect([one, two, await pushing]).toEqual([1, 2, true])
    const next = channel.next()
    stop.abort()
    channel.offer(3)
    expect(await next).toEqual({ value: 3, done: false })
  })

  it('that leaves takes what waits with it, and nobody waits for room any more', async () => {
    let ends = 0
    const [channel, gone] = numbers({ capacity: 2, onEnd: () => ends++ })
    for (const n of [0, 1, 2]) channel.offer(n)
    const pushing = channel.push(3)
    for await (const n of channel) {
      expect(n).toBe(0)
      // Its place was taken by the one that waited.
      expect(await pushing).toBe(true)
      break
    }
    expect([gone, channel.length, channel.ended, channel.dropped, ends]).toEqual([[1, 3], 0, true, 0, 1])
    expect(await codeOf(channel.push(4))).toBe('ERR_PEERLINE_CLOSED')
    expect([channel.offer(4), await codeOf(channel.receive())]).toEqual([false, 'ERR_PEERLINE_CLOSED'])
    await channel.return()
    expect(ends).toBe(1)
  })
})

describe('the end of a channel', () => {
  it('comes after what was taken, as the end or as the error', async () => {
    for (const error of [undefined, lost()]) {
      const [channel] = numbers({ capacity: 2 })
      channel.offer(0)
      channel.offer(1)
      const pushing = channel.push(2)
      channel.end(error)
      channel.end(lost())
      expect(await codeOf(pushing)).toBe(error?.code ?? 'ERR_PEERLINE_CLOSED')
      expect([await channel.receive(), await channel.receive()]).toEqual([0, 1])
      expect(await codeOf(channel.next())).toEqual(error?.code ?? { value: undefined, done: true })
      expect(await codeOf(channel.next())).toEqual(error?.code ?? { value: undefined, done: true })
    }
  })

  it('in order is not taken back when the signal fires later', async () => {
    const stop = new AbortController()
    const [channel, gone] = numbers({ signal: stop.signal })
    channel.offer(0)
    channel.end()
    stop.abort()
    expect([await all(channel), gone]).toEqual([[0], []])
  })

  it('wakes whoever waits', async () => {
    const [ended, failed] = [new Channel<number>(), new Channel<number>()]
    const waits = [ended.next(), failed.next()]
    ended.end()
    failed.end(lost())
    expect(await Promise.all(waits.map(codeOf))).toEqual([{ value: undefined, done: true }, 'ERR_PEERLINE_PATH_LOST'])
  })

  it('comes at once when the signal fires, with what waits let go', async () => {
    const stop = new AbortController()
    let ends = 0
    const [channel, gone] = numbers({ signal: stop.signal, onEnd: () => ends++ })
    for (const n of [0, 1]) channel.offer(n)
    stop.abort()
    expect([gone, ends]).toEqual([[0, 1], 1])
    expect(await codeOf(channel.next())).toBe('ERR_PEERLINE_ABORTED')
    expect(() => new Channel({ signal: stop.signal })).toThrow(
      expect.objectContaining({ code: 'ERR_PEERLINE_ABORTED' }),
    )
  })
})

describe('limits', () => {
  it.each([
    { capacity: 0 },
    { capacity: 1.5 },
    { capacity: Infinity },
    { maxBytes: 0 },
    { maxBytes: Number.NaN },
    { policy: 'drop' as ChannelPolicy },
  ])('are refused when they are none: %j', (limits) => {
    const wrong = expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' })
    expect(() => new Channel(limits)).toThrow(wrong)
    expect(() => new Channel().configure(limits)).toThrow(wrong)
  })

  it('that change are kept from then on, and whoever waits is served by the new policy', async () => {
    const [channel, gone] = numbers({ capacity: 2 })
    const waits = [0, 1, 2, 3].map((n) => channel.push(n))
    channel.configure({ capacity: 3 })
    expect([channel.length, channel.waiting]).toEqual([3, 1])
    channel.configure({ policy: 'drop-latest', capacity: 2 })
    expect([gone, channel.length]).toEqual([[2, 3], 2])
    expect(await Promise.all(waits)).toEqual([true, true, true, false])
    channel.configure({ policy: 'drop-oldest', capacity: 1 })
    expect([gone, channel.first]).toEqual([[2, 3, 0], 1])
  })
})

it('whatever is done to a channel, it does what its policy says, and forgets nothing', () => {
  const step = fc.oneof(
    { weight: 3, arbitrary: fc.nat(40).map((size) => ({ do: 'offer' as const, size })) },
    { weight: 2, arbitrary: fc.constant({ do: 'shift' as const, size: 0 }) },
  )
  const policies = fc.constantFrom<ChannelPolicy>('block', 'drop-latest', 'drop-oldest')
  fc.assert(
    fc.property(
      policies,
      fc.integer({ min: 1, max: 8 }),
      fc.array(step, { maxLength: 200 }),
      (policy, capacity, steps) => {
        interface Item {
          readonly size: number
        }
        const dropped: Item[] = []
        const channel = new Channel<Item>({
          policy,
          capacity,
          maxBytes: 100,
          sizeOf: ({ size }) => size,
          onDrop: (item) => dropped.push(item),
        })
        const model: Item[] = []
        const modelDropped: Item[] = []
        const full = (size: number) =>
          model.length > 0 && (model.length >= capacity || model.reduce((sum, item) => sum + item.size, size) > 100)
        for (const { do: what, size } of steps) {
          if (what === 'shift') expect(channel.shift()).toBe(model.shift())
          else {
            const item = { size }
            if (policy === 'drop-oldest') while (full(size)) modelDropped.push(model.shift()!)
            const taken = !full(size)
            if (taken) model.push(item)
            else if (policy === 'drop-latest') modelDropped.push(item)
            expect(channel.offer(item)).toBe(taken)
          }
          expect(channel.length).toBe(model.length)
          expect(channel.bytes).toBe(model.reduce((sum, item) => sum + item.size, 0))
          expect(channel.first).toBe(model[0])
        }
        expect(dropped).toEqual(modelDropped)
        expect(channel.dropped).toBe(modelDropped.length)
      },
    ),
    { numRuns: 200 },
  )
})

it('keeps its order over any length', () => {
  const channel = new Channel<number>({ policy: 'drop-oldest', capacity: 3_000 })
  let next = 0
  for (let n = 0; n < 100_000; n++) {
    channel.offer(n)
    next = Math.max(next, n - 2_999)
    if (n % 3 === 0) continue
    expect(channel.shift()).toBe(next++)
  }
  expect(channel.length).toBe(100_000 - next)
})
