import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { toNodeDuplex } from './adapters.ts'
import { codeOf, noise, readAll, type Side, settle, useWorlds, World } from './memory-path.compliance.ts'
import { MAX_IN_FLIGHT_BYTES } from './outbox.ts'
import { INITIAL_WINDOW_BYTES, type Stream } from './stream.ts'
import { DEFAULT_MAX_STREAMS } from './stream-table.ts'

let world: World

useWorlds(() => world)

/** Both ends of one stream. */
interface Ends {
  readonly writer: Stream
  readonly reader: Stream
}

const accepted: Stream[][] = [[], []]

async function openWorld(): Promise<void> {
  accepted[0] = []
  accepted[1] = []
  world = new World({ onStream: (stream, side) => accepted[side]!.push(stream) })
  await world.open()
}

async function openStream(by: Side = 0): Promise<Ends> {
  const there = accepted[by === 0 ? 1 : 0]!
  const before = there.length
  const writer = await world.sessions[by].open('/slow/1')
  await world.run(() => there.length > before)
  return { writer, reader: there[before]! }
}

/** Writes `chunk` again and again, each time when the one before was taken; counts what was. */
function pour(stream: Stream, chunk: Uint8Array): { taken: number; failed: unknown } {
  const poured = { taken: 0, failed: undefined as unknown }
  const run = async () => {
    for (;;) {
      await stream.write(chunk)
      poured.taken += chunk.length
    }
  }
  run().catch((error: { code: unknown }) => {
    poured.failed = error.code
  })
  return poured
}

/** Sends `bytes` on a new stream while others are stalled, and has them read. */
async function carry(bytes: Uint8Array, by: Side = 0): Promise<void> {
  const { writer, reader } = await openStream(by)
  const sent = writer.end(bytes)
  const got = await world.settled(readAll(reader), 5_000)
  await sent
  expect(Buffer.compare(got, bytes)).toBe(0)
  await reader.end()
}

/** Everything that lies unread in a stream, chunk by chunk; nothing is delivered meanwhile. */
async function held(stream: Stream): Promise<Uint8Array[]> {
  const chunks: Uint8Array[] = []
  for (;;) {
    const next = stream.next()
    const result = await Promise.race([next, settle().then(() => undefined)])
    if (result === undefined) return chunks
    if (result.done) return chunks
    chunks.push(result.value)
  }
}

const sum = (chunks: readonly Uint8Array[]) => chunks.reduce((bytes, { length }) => bytes + length, 0)

describe('a reader that does not read', () => {
  it.each([1, 4_096, 10_000, 65_536, 1_000_000])('gets its first window and no more, in writes of %d', async (size) => {
    await openWorld()
    const { writer, reader } = await openStream()
    const poured = pour(writer, noise(size))
    await world.quiet()
    await world.pass(60_000, 1_000)
    expect(poured.taken).toBeLessThanOrEqual(INITIAL_WINDOW_BYTES)
    expect(poured.taken).toBeGreaterThan(INITIAL_WINDOW_BYTES - size)
    const chunks = await held(reader)
    expect(sum(chunks)).toBe(INITIAL_WINDOW_BYTES)
    // Many small ones were joined: what waits costs bytes, not objects.
    expect(chunks.length).toBeLessThan(200)
  })

  it('may have read much before: the window that it had grown to is the bound', async () => {
    await openWorld()
    const many: Ends[] = []
    for (let n = 0; n < 6; n++) many.push(await openStream())
    const read = new Array<number>(many.length).fill(0)
    let stopped = false
    const pours = many.map(({ writer }) => pour(writer, noise(65_536)))
    for (const [at, { reader }] of many.entries()) {
      const run = async () => {
        while (!stopped) read[at]! += (await reader.next()).value!.length
      }
      run().catch(() => {})
    }
    await world.run(() => read.every((bytes) => bytes > 8 * 1_048_576))
    stopped = true
    await world.quiet()
    const waiting = pours.reduce((bytes, { taken }, at) => bytes + taken - read[at]!, 0)
    // One budget for all windows that grew, 64 MiB, and the first window of each.
    expect(waiting).toBeLessThanOrEqual(67_108_864 + many.length * INITIAL_WINDOW_BYTES)
    // They had grown, or the test shows nothing.
    expect(waiting).toBeGreaterThan(4 * many.length * INITIAL_WINDOW_BYTES)
    await carry(noise(1_000_000))
  })

  it('reads again, and all arrives exactly', async () => {
    await openWorld()
    const { writer, reader } = await openStream()
    const bytes = noise(3 * INITIAL_WINDOW_BYTES + 17)
    const sent = writer.end(bytes)
    await world.pass(30_000, 1_000)
    const got: Uint8Array[] = []
    for await (const chunk of reader) {
      got.push(chunk)
      // Between two reads the world goes on.
      await world.turn()
    }
    await sent
    expect(Buffer.compare(Buffer.concat(got), bytes)).toBe(0)
  })

  it('reads again after the path was lost and found, and all arrives exactly', async () => {
    await openWorld()
    const { writer, reader } = await openStream()
    const bytes = noise(5 * INITIAL_WINDOW_BYTES)
    const sent = writer.end(bytes)
    await world.quiet()
    world.links[0]!.cut()
    await world.quiet()
    world.connect('relay', 1)
    const got = await world.settled(readAll(reader))
    await sent
    expect(Buffer.compare(got, bytes)).toBe(0)
  })

  it('of one byte at a time holds up nobody but its writer', async () => {
    await openWorld()
    const { writer, reader } = await openStream()
    const bytes = noise(2 * INITIAL_WINDOW_BYTES)
    const sent = writer.end(bytes)
    const duplex = toNodeDuplex(reader)
    const got: number[] = []
    const run = async () => {
      while (!duplex.readableEnded) {
        const byte = duplex.read(1) as Uint8Array | null
        if (byte === null) await once(duplex, 'readable')
        else got.push(byte[0]!)
        if (got.length === bytes.length) return
        // Slow: others have a turn after each few.
        if (got.length % 1_024 === 0) await settle()
      }
    }
    const reading = run()
    await carry(noise(1_000_000))
    expect(got.length).toBeLessThan(bytes.length)
    await world.settled(reading, 600_000)
    await sent
    expect(Buffer.compare(Uint8Array.from(got), bytes)).toBe(0)
  })
})

describe('a stalled stream', () => {
  it('leaves its neighbours alone: more than may be on its way at once goes past it, both ways', async () => {
    await openWorld()
    const stalled = await openStream()
    const poured = pour(stalled.writer, noise(65_536))
    await world.quiet()
    const much = noise(MAX_IN_FLIGHT_BYTES + 1_000_000)
    await carry(much)
    await carry(much, 1)
    expect(poured).toEqual({ taken: INITIAL_WINDOW_BYTES, failed: undefined })
    expect(sum(await held(stalled.reader))).toBe(INITIAL_WINDOW_BYTES)
  })

  it('leaves control frames alone: streams come and go, candidates are told, pings answered', async () => {
    await openWorld()
    const { writer, reader } = await openStream()
    const poured = pour(writer, noise(65_536))
    await world.quiet()
    const told: string[] = []
    for (const side of [0, 1] as const) {
      const { sessions } = world
      sessions[side].addEventListener('candidates', ({ detail }) => told.push(`${side} ${Buffer.from(detail)}`))
      sessions[side === 0 ? 1 : 0].sendCandidates(Buffer.from('here'))
    }
    const refused = await openStream()
    refused.reader.reset(300)
    expect(await codeOf(world.settled(refused.writer.next()))).toBe('ERR_PEERLINE_RESET')
    expect(told.toSorted()).toEqual(['0 here', '1 here'])
    // Nothing but pings for five minutes.
    await world.pass(300_000, 1_000)
    expect(world.sessions.map(({ state, paths }) => [state, paths])).toEqual([
      ['open', ['tcp']],
      ['open', ['tcp']],
    ])
    reader.cancel(301)
    await world.quiet()
    expect(poured).toEqual({ taken: INITIAL_WINDOW_BYTES, failed: 'ERR_PEERLINE_RESET' })
  })

  it('leaves the end of the session alone, whichever side says goodbye', async () => {
    await openWorld()
    const { writer } = await openStream()
    const poured = pour(writer, noise(65_536))
    await world.quiet()
    const started = performance.now()
    await world.settled(world.sessions[1].close())
    await world.run(() => world.sessions[0].state === 'closed')
    expect(performance.now() - started).toBeLessThan(1_000)
    expect([poured.failed, world.closes]).toEqual(['ERR_PEERLINE_CLOSED', [[undefined], [undefined]]])

    await openWorld()
    const second = pour((await openStream()).writer, noise(65_536))
    await world.quiet()
    // The side that has data waiting waits for its reader, but not for ever.
    await world.settled(world.sessions[0].close())
    await world.run(() => world.sessions[1].state === 'closed')
    expect([second.failed, world.closes]).toEqual(['ERR_PEERLINE_CLOSED', [[undefined], [undefined]]])
  })

  it('one of 200 holds up the 201st as little as one, and all of them hold their windows and no more', async () => {
    await openWorld()
    const chunk = noise(65_536)
    const stalled: Ends[] = []
    for (let n = 0; n < 200; n++) stalled.push(await openStream())
    const pours = stalled.map(({ writer }) => pour(writer, chunk))
    await world.quiet()
    await carry(noise(4_000_000))
    await carry(noise(4_000_000), 1)
    expect(pours.map(({ taken }) => taken)).toEqual(new Array(200).fill(INITIAL_WINDOW_BYTES))
    // In the middle one, all is as it was written.
    const chunks = await held(stalled[100]!.reader)
    const expected = Buffer.concat(new Array(INITIAL_WINDOW_BYTES / chunk.length).fill(chunk))
    expect(Buffer.compare(Buffer.concat(chunks), expected)).toBe(0)
  })

  it('takes a place among those that may be open, in its own direction', async () => {
    await openWorld()
    for (let n = 0; n < DEFAULT_MAX_STREAMS; n++) await world.sessions[0].open('/slow/1')
    await world.quiet()
    const stop = new AbortController()
    const opening = world.sessions[0].open('/slow/1', { signal: stop.signal })
    await carry(noise(100_000), 1)
    stop.abort()
    expect(await codeOf(opening)).toBe('ERR_PEERLINE_ABORTED')
    expect(accepted[1]!.length).toBe(DEFAULT_MAX_STREAMS)
  })
})
