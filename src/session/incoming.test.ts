import { describe, expect, it } from 'vitest'
import { type IncomingOptions, IncomingStreams } from './incoming.ts'
import { codeOf, readAll, useWorlds, World } from './memory-path.compliance.ts'
import { INITIAL_WINDOW_BYTES, type Stream } from './stream.ts'

let world: World

useWorlds(() => world)

interface Context {
  readonly from: string
}

/** Session 1 takes streams into a queue. */
async function openQueue(options: IncomingOptions & { maxStreams?: number } = {}): Promise<IncomingStreams<Context>> {
  const { maxStreams, ...rest } = options
  let ends = 0
  const incoming = new IncomingStreams<Context>(rest, () => ends++)
  world = new World({
    onStream: (stream) => incoming.take(stream, { from: 'them' }),
    ...(maxStreams === undefined ? {} : { maxStreams }),
  })
  await world.open()
  return incoming
}

/** Opens streams at session 0, each with its number as the only byte. */
async function openMany(count: number): Promise<Stream[]> {
  const streams: Stream[] = []
  for (let n = 0; n < count; n++) {
    const stream = await world.sessions[0].open('/many/1')
    stream.end(Uint8Array.of(n)).catch(() => {})
    streams.push(stream)
  }
  await world.quiet()
  return streams
}

/** The numbers of the next streams. */
async function take(incoming: IncomingStreams<Context>, count: number): Promise<number[]> {
  const numbers: number[] = []
  while (numbers.length < count) {
    const { value, done } = await world.settled(incoming.next())
    if (done) break
    expect(value.from).toBe('them')
    numbers.push((await world.settled(readAll(value.stream)))[0]!)
    await value.stream.end()
  }
  return numbers
}

/** What became of each stream at its opener: the code, or undefined while nothing did. */
function fates(streams: readonly Stream[]): Promise<unknown[]> {
  return Promise.all(
    streams.map((stream) => {
      const next = stream.next().catch((error: { code: unknown }) => error.code)
      return Promise.race([next, world.quiet().then(() => undefined)])
    }),
  )
}

const BUSY = 'ERR_PEERLINE_BUSY'

describe('streams that come faster than they are taken', () => {
  it('wait, and nobody is refused: block', async () => {
    const incoming = await openQueue()
    const streams = await openMany(200)
    expect([incoming.length, incoming.refused]).toEqual([200, 0])
    expect(await take(incoming, 200)).toEqual(Array.from({ length: 200 }, (_, n) => n))
    expect((await fates(streams)).every((fate) => fate !== BUSY)).toBe(true)
  })

  it('hold their opener back at its limit: block', async () => {
    const incoming = await openQueue({ maxStreams: 4 })
    await openMany(4)
    let fifth: Stream | undefined
    world.sessions[0].open('/many/1').then((stream) => {
      fifth = stream
    })
    await world.quiet()
    expect([incoming.length, fifth]).toEqual([4, undefined])
    expect(await take(incoming, 1)).toEqual([0])
    await world.run(() => fifth !== undefined)
    await world.quiet()
    expect(incoming.length).toBe(4)
  })

  it('are refused when even more than may wait come: block', async () => {
    const incoming = await openQueue({ capacity: 3 })
    const streams = await openMany(5)
    expect(await fates(streams)).toEqual([undefined, undefined, undefined, BUSY, BUSY])
    expect([await take(incoming, 3), incoming.refused]).toEqual([[0, 1, 2], 2])
  })

  it('are refused, the latest: drop-latest', async () => {
    const incoming = await openQueue({ policy: 'drop-latest', capacity: 3 })
    const streams = await openMany(5)
    expect(await fates(streams)).toEqual([undefined, undefined, undefined, BUSY, BUSY])
    expect([await take(incoming, 3), incoming.refused]).toEqual([[0, 1, 2], 2])
    // There is room again.
    await openMany(1)
    expect(await take(incoming, 1)).toEqual([0])
  })

  it('are refused, the one that waits longest: drop-oldest', async () => {
    const incoming = await openQueue({ policy: 'drop-oldest', capacity: 3 })
    const streams = await openMany(5)
    expect(await fates(streams)).toEqual([BUSY, BUSY, undefined, undefined, undefined])
    expect([await take(incoming, 3), incoming.refused]).toEqual([[2, 3, 4], 2])
  })

  it('wait 64 at most when a policy drops and nothing else is said', async () => {
    const incoming = await openQueue({ policy: 'drop-latest' })
    await openMany(70)
    expect([incoming.length, incoming.refused]).toEqual([64, 6])
  })

  it('and are given up by their opener, make room and are not handed on', async () => {
    const incoming = await openQueue({ policy: 'drop-latest', capacity: 2 })
    const [first, second] = await Promise.all([0, 1].map(() => world.sessions[0].open('/many/1')))
    await world.quiet()
    first!.reset()
    await world.quiet()
    const third = (await openMany(1))[0]!
    expect(await fates([third])).toEqual([undefined])
    void second!.end(Uint8Array.of(7))
    expect([await take(incoming, 2), incoming.refused]).toEqual([[7, 0], 0])
    const lone = await world.sessions[0].open('/many/1')
    await world.quiet()
    lone.reset()
    await world.quiet()
    const next = incoming.next()
    void (await world.sessions[0].open('/many/1')).end(Uint8Array.of(9))
    const { value } = await world.settled(next)
    expect((await world.settled(readAll(value!.stream)))[0]).toBe(9)
  })

  it('hold no more than their first window', async () => {
    const incoming = await openQueue()
    const stream = await world.sessions[0].open('/many/1')
    let written = 0
    const run = async () => {
      for (;;) {
        await stream.write(new Uint8Array(10_000))
        written += 10_000
      }
    }
    run().catch(() => {})
    await world.pass(1_000)
    expect(written).toBeLessThanOrEqual(INITIAL_WINDOW_BYTES)
    expect(written).toBeGreaterThan(INITIAL_WINDOW_BYTES - 20_000)
    const { value } = await incoming.next()
    value!.stream.cancel()
    await world.quiet()
  })
})

describe('a consumer of streams', () => {
  it.each(['block', 'drop-latest', 'drop-oldest'] as const)('that leaves has the rest refused: %s', async (policy) => {
    const incoming = await openQueue({ policy })
    const streams = await openMany(3)
    for await (const { stream } of incoming) {
      expect((await world.settled(readAll(stream)))[0]).toBe(0)
      break
    }
    await world.quiet()
    const later = await openMany(1)
    expect(await fates([...streams.slice(1), ...later])).toEqual([BUSY, BUSY, BUSY])
    expect([await incoming.next(), incoming.refused]).toEqual([{ value: undefined, done: true }, 3])
  })

  it('ends with its signal, and whoever waits is told', async () => {
    const stop = new AbortController()
    const incoming = await openQueue({ signal: stop.signal })
    const waiting = codeOf(incoming.next())
    stop.abort()
    expect(await waiting).toBe('ERR_PEERLINE_ABORTED')
    expect(await fates(await openMany(1))).toEqual([BUSY])
    const ended = () => new IncomingStreams({ signal: stop.signal }, () => {})
    expect(ended).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_ABORTED' }))
  })

  it('tells once when it takes no more', async () => {
    let ends = 0
    const incoming = new IncomingStreams({}, () => ends++)
    await incoming[Symbol.asyncDispose]()
    await incoming.return()
    expect(ends).toBe(1)
  })
})
