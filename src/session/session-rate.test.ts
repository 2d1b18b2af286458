import { describe, expect, it } from 'vitest'
import { StreamCode } from './codes.ts'
import { Hostile } from './hostile.compliance.ts'
import { MAX_DEBT_BYTES } from './inflow.ts'
import { MemoryBudget } from './memory-budget.ts'
import { codeOf, noise, readAll, settle, useWorlds, World, type WorldOptions } from './memory-path.compliance.ts'
import type { SessionRate } from './session-options.ts'
import { INITIAL_WINDOW_BYTES, type Stream } from './stream.ts'
import { arrived, expectExact, transferWorld } from './transfer.compliance.ts'

let world: World

useWorlds(() => world)

const RATE = { perSecond: 100_000, burst: 50_000 }

/** Bytes that session 1 has been given on streams, by stream; every stream is read at once. */
class Reader {
  readonly streams: Stream[] = []
  readonly bytes: number[] = []

  take(stream: Stream): void {
    const at = this.streams.push(stream) - 1
    this.bytes[at] = 0
    stream.pipeTo({
      data: ({ length }) => {
        this.bytes[at]! += length
      },
      end: () => void stream.end(),
      error: () => {},
    })
  }

  get total(): number {
    return this.bytes.reduce((sum, bytes) => sum + bytes, 0)
  }
}

async function openWorld(rate: SessionRate, options: WorldOptions = {}): Promise<Reader> {
  const reader = new Reader()
  world = new World({ onStream: (stream, side) => side === 1 && reader.take(stream), rate, ...options })
  await world.open('relay')
  return reader
}

/** Writes without end; counts what was taken. */
function pour(stream: Stream, chunk: Uint8Array): { bytes: number } {
  const poured = { bytes: 0 }
  const run = async () => {
    for (;;) {
      await stream.write(chunk)
      poured.bytes += chunk.length
    }
  }
  run().catch(() => {})
  return poured
}

const directions = [
  ['that the other side may send at', { in: RATE }, INITIAL_WINDOW_BYTES],
  ['that we send at', { out: RATE }, 0],
] as const

describe.each(directions)('a rate %s', (_, rate, firstWindow) => {
  it.each([100, 4_096, 65_536, 300_000])('is met over time and not passed, in writes of %d', async (size) => {
    const reader = await openWorld(rate)
    const count = 3
    const start = performance.now()
    for (let n = 0; n < count; n++) pour(await world.sessions[0].open('/pour/1'), noise(size))
    const free = count * firstWindow
    for (let second = 1; second <= 30; second++) {
      await world.pass(1_000, 5)
      const may = RATE.burst + ((performance.now() - start) / 1_000) * RATE.perSecond
      // Nobody can withhold the first window of a stream; what is beyond waits until that is paid off.
      expect(reader.total).toBeLessThanOrEqual(Math.max(may, free))
    }
    expect(reader.total).toBeGreaterThan(0.95 * 30 * RATE.perSecond)
    // Each has its share.
    for (const bytes of reader.bytes) expect(bytes).toBeGreaterThan(0.8 * (reader.total / count))
  })

  it('lets control pass: pings are answered, paths stay, streams come and go, whatever waits', async () => {
    const slow = { perSecond: 1_000, burst: 1_000 }
    const reader = await openWorld({ [firstWindow === 0 ? 'out' : 'in']: slow })
    world.connect('tcp')
    await world.run(() => world.sessions.every(({ path }) => path === 'tcp'))
    const events: string[] = []
    for (const session of world.sessions) {
      for (const type of ['trouble', 'reconnecting', 'paths'] as const) {
        session.addEventListener(type, () => events.push(type))
      }
    }
    world.changes.map((changes) => changes.splice(0))
    pour(await world.sessions[0].open('/pour/1'), noise(65_536))
    for (let minute = 0; minute < 3; minute++) {
      await world.pass(60_000, 10)
      const stream = await world.sessions[0].open('/come-and-go/1')
      stream.reset()
      expect(stream.done).toBe(true)
    }
    expect([events, world.changes, world.closes]).toEqual([[], [[], []], [[], []]])
    expect(world.sessions.map(({ state, path, paths }) => [state, path, paths.length])).toEqual([
      ['open', 'tcp', 2],
      ['open', 'tcp', 2],
    ])
    for (const { rttMs } of world.sessions) expect(rttMs).toBeLessThan(50)
    expect(reader.total).toBeLessThanOrEqual(Math.max(181_000 + 1_000, firstWindow))
  })

  it('keeps every byte in its place, also when paths come and go', async () => {
    const payload = [noise(900_000), noise(900_000)] as const
    const transfer = transferWorld(payload, { rate })
    world = transfer.world
    for (const kind of ['tcp', 'relay', 'udp'] as const) {
      const link = world.connect(kind)
      await world.pass(2_500, 5)
      link.cut()
    }
    expect(arrived(transfer)).toBe(false)
    world.connect('relay', 1)
    await world.run(() => arrived(transfer), 60_000)
    expectExact(transfer, payload)
  })

  it('leaves no timer behind when the session ends in the middle', async () => {
    await openWorld(rate)
    const stream = await world.sessions[0].open('/pour/1')
    const writing = codeOf(stream.write(noise(3_000_000)))
    await world.pass(2_000)
    await world.settled(world.sessions[1].close())
    expect(await writing).toBe('ERR_PEERLINE_CLOSED')
  })
})

describe('what the other side may send', () => {
  it('holds for many short streams too: they are handed on later, none is refused, and all is there', async () => {
    const reader = await openWorld({ in: RATE })
    const start = performance.now()
    const run = async () => {
      const stream = await world.sessions[0].open('/short/1')
      await stream.end(noise(10_000))
      return (await readAll(stream)).length
    }
    const all = Promise.all(Array.from({ length: 400 }, run))
    // Those that may be open at once were opened before any of their data came; the others wait until that is paid off.
    await world.pass(25_000, 50)
    expect(reader.streams.length).toBe(256)
    expect(world.sessions.map(({ streams }) => streams)).toEqual([144, 144])
    expect(await world.settled(all, 120_000)).toEqual(Array(400).fill(0))
    expect(reader.bytes).toEqual(Array(400).fill(10_000))
    const seconds = (performance.now() - start) / 1_000
    expect(seconds).toBeGreaterThan((399 * 10_000 - RATE.burst) / RATE.perSecond)
    expect(seconds).toBeLessThan((400 * 10_000) / RATE.perSecond + 2)
    expect(world.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })

  it('leaves a small request beside a great transfer alone', async () => {
    const reader = await openWorld({ in: RATE })
    pour(await world.sessions[0].open('/pour/1'), noise(65_536))
    await world.pass(10_000, 5)
    for (let count = 0; count < 10; count++) {
      const started = performance.now()
      const stream = await world.sessions[0].open('/short/1')
      await stream.end(noise(100))
      await world.settled(readAll(stream))
      expect(performance.now() - started).toBeLessThan(100)
    }
    expect(reader.streams.length).toBe(11)
  })

  it('does not count what was granted and never came', async () => {
    const reader = await openWorld({ in: { perSecond: 10_000, burst: 1_000_000 } })
    const start = performance.now()
    for (let count = 0; count < 10; count++) {
      const stream = await world.sessions[0].open('/short/1')
      // Just above half of the first window, so that as much is granted again.
      await world.settled(stream.end(noise(INITIAL_WINDOW_BYTES / 2 + 1)))
      await world.settled(readAll(stream))
    }
    // 1.3 MB came, of which 1 MB was free. Had the grants counted, there would be more to pay off.
    await world.settled((await world.sessions[0].open('/last/1')).end(noise(10)))
    await world.run(() => reader.bytes.at(-1) === 10)
    expect(performance.now() - start).toBeLessThan(33_000)
  })

  it('lets no window grow that the rate would never fill', async () => {
    const memory = new MemoryBudget()
    const reader = new Reader()
    world = new World({ onStream: (stream, side) => side === 1 && reader.take(stream), rate: { in: RATE }, memory })
    await world.open('tcp', { delayMs: 100, bytesPerMs: 10_000 })
    pour(await world.sessions[0].open('/pour/1'), noise(65_536))
    await world.pass(20_000, 5)
    expect(reader.total).toBeGreaterThan(0.9 * 20 * RATE.perSecond)
    expect(memory.used).toBeLessThanOrEqual(INITIAL_WINDOW_BYTES)
  })

  it('may wait for a reader all the same: a stream that is not read takes nothing from others', async () => {
    let unread: Stream | undefined
    const reader = new Reader()
    world = new World({
      onStream: (stream, side) => {
        if (side !== 1) return
        if (stream.protocol === '/unread/1') unread = stream
        else reader.take(stream)
      },
      rate: { in: RATE },
    })
    await world.open()
    pour(await world.sessions[0].open('/unread/1'), noise(65_536))
    pour(await world.sessions[0].open('/read/1'), noise(65_536))
    await world.pass(30_000, 5)
    expect(unread).toBeDefined()
    expect(reader.total).toBeGreaterThan(0.95 * 30 * RATE.perSecond - INITIAL_WINDOW_BYTES)
  })

  it('is not passed by who ignores windows: what comes for streams that ended is counted, and ends the session', async () => {
    const seen: Stream[] = []
    const hostile = new Hostile({ onStream: (stream) => seen.push(stream), rate: { in: RATE } })
    world = hostile.world
    hostile.send((frames) => frames.open(0, '/x/1'))
    seen[0]!.reset()
    const body = new Uint8Array(65_536)
    let sent = 0
    while (world.sessions[1].state === 'open' && sent < 2 * MAX_DEBT_BYTES) {
      hostile.send((frames) => frames.dataToEnd(0, false), body)
      sent += body.length
    }
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_LIMIT'])
    expect(sent).toBeLessThanOrEqual(MAX_DEBT_BYTES + RATE.burst + 2 * body.length)
    // Whoever honours the rules comes nowhere near.
    expect(MAX_DEBT_BYTES).toBeGreaterThan(3 * 256 * INITIAL_WINDOW_BYTES)
  })

  it('given up while it is kept back, a stream is never handed on', async () => {
    const seen: string[] = []
    const hostile = new Hostile({ onStream: ({ protocol }) => seen.push(protocol), rate: { in: RATE } })
    world = hostile.world
    hostile.send((frames) => {
      frames.open(0, '/first/1')
      frames.data(0, noise(60_000), false)
      frames.open(2, '/given-up/1')
      frames.open(4, '/kept/1')
      frames.reset(2, StreamCode.CANCELLED)
      frames.stop(2, StreamCode.CANCELLED)
    })
    expect(seen).toEqual(['/first/1'])
    await world.pass(1_000, 5)
    expect(seen).toEqual(['/first/1', '/kept/1'])
  })

  it('drops datagrams beyond it, and counts them', async () => {
    await openWorld({ in: RATE })
    const [from, to] = world.sessions.map(({ datagrams }) => datagrams) as [
      World['sessions'][0]['datagrams'],
      World['sessions'][0]['datagrams'],
    ]
    to.configure({ receive: { maxBytes: 100_000_000, capacity: 100_000 } })
    const start = performance.now()
    for (let count = 0; count < 1_000; count++) {
      void from.send(noise(1_000))
      await world.pass(2, 1)
    }
    await world.pass(500)
    const { received, droppedReceiving } = to.counts
    expect(received).toBe(1_000)
    const may = RATE.burst + ((performance.now() - start) / 1_000) * RATE.perSecond
    const taken = 1_000 * (received - droppedReceiving)
    expect(taken).toBeLessThanOrEqual(may + 1_000)
    expect(taken).toBeGreaterThan(0.75 * may)
  })
})

describe('what we send', () => {
  it('counts datagrams and streams together, and each has its turn', async () => {
    const reader = await openWorld({ out: RATE })
    const [from, to] = [world.sessions[0].datagrams, world.sessions[1].datagrams]
    const start = performance.now()
    pour(await world.sessions[0].open('/pour/1'), noise(65_536))
    let stopped = false
    const run = async () => {
      while (!stopped) await from.send(noise(1_000))
    }
    run().catch(() => {})
    await world.pass(20_000, 5)
    stopped = true
    const may = RATE.burst + ((performance.now() - start) / 1_000) * RATE.perSecond
    const datagrams = to.counts.received * 1_005
    // One batch of datagrams goes whole.
    expect(reader.total + datagrams).toBeLessThanOrEqual(may + 16_384)
    expect(reader.total + datagrams).toBeGreaterThan(0.95 * may)
    expect(reader.total).toBeGreaterThan(0.05 * may)
    expect(datagrams).toBeGreaterThan(0.3 * may)
    await settle()
  })

  it('waits without a look more often than the rate needs', async () => {
    await openWorld({ out: { perSecond: 1_000, burst: 1_000 } })
    const link = world.links[0]!
    pour(await world.sessions[0].open('/pour/1'), noise(65_536))
    await world.pass(1_000, 1)
    const before = link.ends[0].sent
    await world.pass(10_000, 1)
    // Fifty pieces a second.
    expect(link.ends[0].sent - before).toBeLessThanOrEqual(520)
  })
})

it.each([{ in: { perSecond: 0, burst: 1 } }, { out: { perSecond: 1, burst: 0.5 } }])(
  'there is no rate %o',
  async (rate) => {
    world = new World()
    expect(() => new World({ rate })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  },
)
