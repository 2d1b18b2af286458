import { describe, expect, it } from 'vitest'
import { PeerlineError } from '../errors.ts'
import { StreamCode } from './codes.ts'
import type { FrameWriter } from './frame.ts'
import { Hostile } from './hostile.compliance.ts'
import { codeOf, Link, noise, readAll, useWorlds, World, type WorldOptions } from './memory-path.compliance.ts'
import { Session } from './session.ts'
import type { Stream } from './stream.ts'

let world: World

useWorlds(() => world)

async function openWorld(options: WorldOptions = {}): Promise<Link> {
  world = new World(options)
  return world.open()
}

function openHostile(options: WorldOptions = {}): Hostile {
  const hostile = new Hostile(options)
  world = hostile.world
  return hostile
}

describe('the other side, when hostile', () => {
  it.each<[string, (frames: FrameWriter) => void, Uint8Array?]>([
    ['data beyond the window', (frames) => frames.dataToEnd(0, false), new Uint8Array(65_536)],
    [
      'data after the end',
      (frames) => {
        for (const fin of [true, false]) frames.data(0, noise(1), fin)
      },
    ],
    ['data of a stream never opened', (frames) => frames.data(2, noise(1), false)],
    ['data of a stream of ours never opened', (frames) => frames.data(1, noise(1), false)],
    ['a window of a stream never opened', (frames) => frames.window(40, 1)],
    ['a stream opened out of turn', (frames) => frames.open(4, '/x/1')],
    ['a stream opened twice', (frames) => frames.open(0, '/x/1')],
    ['a stream with our number', (frames) => frames.open(1, '/x/1')],
    ['an acknowledgement of what was never sent', (frames) => frames.ack(1_000)],
    ['a ping in an ordered record', (frames) => frames.ping(new Uint8Array(8))],
    ['a pong in an ordered record', (frames) => frames.pong(new Uint8Array(8))],
  ])('ends the session with ERR_PEERLINE_PROTOCOL: %s', async (_, write, body) => {
    const streams: Stream[] = []
    const hostile = openHostile({ onStream: (stream) => streams.push(stream) })
    hostile.send((frames) => frames.open(0, '/x/1'))
    expect(world.sessions[1].state).toBe('open')
    const failed = codeOf(readAll(streams[0]!))
    for (let times = 0; times < (body === undefined ? 1 : 5); times++) hostile.send(write, body)
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_PROTOCOL'])
    expect(await hostile.frames()).toContainEqual(['onClose', 'ERR_PEERLINE_PROTOCOL', expect.any(String)])
    // A stream that had ended before is whole; any other fails with the session.
    expect([Uint8Array, 'ERR_PEERLINE_PROTOCOL']).toContain(
      await failed.then((result) => (result instanceof Uint8Array ? Uint8Array : result)),
    )
  })

  it.each<[string, (frames: FrameWriter) => void]>([
    ['open', (frames) => frames.open(0, '/x/1')],
    ['data', (frames) => frames.data(0, noise(1), false)],
    ['reset', (frames) => frames.reset(0, 1)],
    ['stop', (frames) => frames.stop(0, 1)],
    ['window', (frames) => frames.window(0, 1)],
    ['candidates', (frames) => frames.candidates(noise(3))],
    ['close', (frames) => frames.close('', '')],
  ])('may not put what must arrive into a loose record: %s', (_, write) => {
    const hostile = openHostile()
    hostile.loose(write)
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_PROTOCOL'])
  })

  it('is told BUSY for a stream too many, in both directions, and the others go on', async () => {
    const streams: Stream[] = []
    const hostile = openHostile({ onStream: (stream) => streams.push(stream) })
    for (let count = 0; count < 258; count++) hostile.send((frames) => frames.open(count * 2, '/x/1'))
    expect(streams.length).toBe(256)
    const frames = await hostile.frames()
    for (const id of [512, 514]) {
      expect(frames).toContainEqual(['onReset', id, StreamCode.BUSY])
      expect(frames).toContainEqual(['onStop', id, StreamCode.BUSY])
    }
    // What comes for a refused stream is dropped.
    hostile.send((frames) => frames.data(512, noise(10), true))
    streams[0]!.reset()
    hostile.send((frames) => {
      frames.reset(0, 0)
      frames.open(516, '/x/1')
    })
    expect(streams.length).toBe(257)
    expect(world.sessions[1].state).toBe('open')
  })

  it('costs bounded memory with many tiny chunks in large records that nobody reads', async () => {
    const streams: Stream[] = []
    const hostile = openHostile({ onStream: (stream) => streams.push(stream) })
    hostile.send((frames) => {
      frames.open(0, '/read/1')
      frames.open(2, '/dropped/1')
    })
    const [kept, dropped] = streams as [Stream, Stream]
    dropped.cancel()
    const filler = new Uint8Array(60_000)
    for (let count = 0; count < 300; count++) {
      hostile.send((frames) => {
        frames.data(0, Uint8Array.of(count & 0xff), false)
        frames.dataToEnd(2, false)
      }, filler)
    }
    for (let batch = 0; batch < 100; batch++) {
      hostile.send((frames) => {
        for (let count = 0; count < 1_000; count++) frames.data(0, Uint8Array.of(batch), false)
      })
    }
    hostile.send((frames) => frames.data(0, new Uint8Array(0), true))
    const buffers = new Map<ArrayBufferLike, number>()
    let chunks = 0
    let bytes = 0
    for await (const chunk of kept) {
      chunks++
      bytes += chunk.length
      buffers.set(chunk.buffer, chunk.buffer.byteLength)
    }
    expect(bytes).toBe(100_300)
    expect(chunks).toBeLessThan(64 + 60)
    const held = [...buffers.values()].reduce((sum, size) => sum + size, 0)
    expect(held).toBeLessThan(4 * bytes)
  })

  it('cannot make us queue refusals without end while it takes none', async () => {
    const hostile = openHostile({ maxStreams: 1 })
    hostile.link.highWater = 1
    let opened = 0
    while (world.sessions[1].state !== 'closed' && opened < 300_000) {
      hostile.send((frames) => {
        for (let count = 0; count < 1_000; count++) frames.open(2 * opened++, '/x/1')
      })
      await world.turn()
    }
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_LIMIT'])
  })

  it('hands on candidates in memory of their own', async () => {
    const hostile = openHostile()
    const got: Uint8Array[] = []
    world.sessions[1].addEventListener('candidates', ({ detail }) => got.push(detail))
    hostile.send((frames) => {
      frames.candidates(Uint8Array.of(1, 2, 3))
      for (let count = 0; count < 100; count++) frames.window(0, 1)
      frames.candidates(Uint8Array.of(4))
    })
    expect(got.map((bytes) => [...bytes])).toEqual([[1, 2, 3]])
    expect(got[0]!.buffer.byteLength).toBe(3)
  })
})

describe('streams in a session', () => {
  it('wait for a free place when too many are open, and go on when one is done', async () => {
    await openWorld({
      maxStreams: 2,
      onStream: (stream) =>
        void readAll(stream).then(
          () => stream.end(),
          () => {},
        ),
    })
    const session = world.sessions[0]
    const first = await session.open('/a/1')
    await session.open('/b/1')
    const third = session.open('/c/1')
    const fourth = session.open('/d/1')
    const aborter = new AbortController()
    const aborted = codeOf(session.open('/e/1', { signal: aborter.signal }))
    await world.pass(100)
    expect(session.streams).toBe(2)
    aborter.abort()
    expect(await aborted).toBe('ERR_PEERLINE_ABORTED')
    await first.end()
    expect((await world.settled(third)).protocol).toBe('/c/1')
    expect(session.streams).toBe(2)
    session.abort(new PeerlineError('ERR_PEERLINE_DENIED', 'enough'))
    expect(await codeOf(fourth)).toBe('ERR_PEERLINE_DENIED')
  })

  it.each(['', 'x'.repeat(129)])('are not opened for a name that cannot travel: %j', async (protocol) => {
    await openWorld()
    expect(await codeOf(world.sessions[0].open(protocol))).toBe('ERR_PEERLINE_INVALID')
    expect(world.sessions[0].streams).toBe(0)
  })

  it('are not opened with a signal that has fired', async () => {
    await openWorld()
    expect(await codeOf(world.sessions[0].open('/x/1', { signal: AbortSignal.abort() }))).toBe('ERR_PEERLINE_ABORTED')
    expect(world.sessions[0].streams).toBe(0)
  })

  it('of one session do not wait for one that nobody reads', async () => {
    const got: number[] = []
    await openWorld({
      onStream: (stream) => {
        if (stream.protocol !== '/unread/1') void readAll(stream).then(({ length }) => got.push(length))
      },
    })
    const unread = await world.sessions[0].open('/unread/1')
    let stuck = true
    void unread.write(noise(1_000_000)).then(
      () => {
        stuck = false
      },
      () => {},
    )
    for (let count = 0; count < 5; count++) {
      const stream = await world.sessions[0].open('/read/1')
      void stream.end(noise(2_000_000)).catch(() => {})
    }
    await world.run(() => got.length === 5)
    expect(got).toEqual(Array(5).fill(2_000_000))
    expect(stuck).toBe(true)
  })

  it('are forgotten when both directions are done', async () => {
    await openWorld({ onStream: (stream) => void readAll(stream).then((bytes) => stream.end(bytes)) })
    for (let count = 0; count < 50; count++) {
      const stream = await world.sessions[0].open('/echo/1')
      await stream.end(noise(100))
      await world.settled(readAll(stream))
    }
    await world.pass(50)
    expect(world.sessions.map(({ streams }) => streams)).toEqual([0, 0])
  })
})

describe('close', () => {
  it('lets what was written arrive first, and is an orderly end on both sides', async () => {
    const payload = noise(1_000_000)
    const got: Promise<Uint8Array>[] = []
    await openWorld({ onStream: (stream) => got.push(readAll(stream)) })
    const stream = await world.sessions[0].open('/last/1')
    void stream.end(payload)
    const closing = world.sessions[0].close()
    expect(world.sessions[0].state).toBe('closing')
    expect(await codeOf(world.sessions[0].open('/late/1'))).toBe('ERR_PEERLINE_CLOSED')
    await world.settled(closing)
    expect(Buffer.compare(await world.settled(got[0]!), payload)).toBe(0)
    await world.settled(world.sessions[1].closed)
    expect(world.closes).toEqual([[undefined], [undefined]])
    expect(await codeOf(stream.next())).toBe('ERR_PEERLINE_CLOSED')
    expect(await codeOf(world.sessions[1].open('/late/1'))).toBe('ERR_PEERLINE_CLOSED')
    await world.run(() => world.links[0]!.ended)
  })

  it('waits through the loss of a path, for another may carry the rest', async () => {
    const payload = noise(200_000)
    const got: Uint8Array[] = []
    const link = await openWorld({ onStream: (stream) => void readAll(stream).then((bytes) => got.push(bytes)) })
    link.held[1] = true
    const stream = await world.sessions[0].open('/last/1')
    void stream.end(payload)
    const closing = world.sessions[0].close()
    await world.pass(100)
    link.cut()
    await world.pass(2_000)
    world.connect('relay', 1)
    await world.settled(closing)
    await world.run(() => got.length === 1)
    expect(Buffer.compare(got[0]!, payload)).toBe(0)
    await world.settled(world.sessions[1].closed)
    expect(world.closes).toEqual([[undefined], [undefined]])
  })

  it('tells of what could not be delivered when no other path comes', async () => {
    const link = await openWorld()
    link.held[1] = true
    const stream = await world.sessions[0].open('/last/1')
    void stream.end(noise(10_000))
    const closing = world.sessions[0].close()
    await world.pass(10)
    link.cut()
    await world.settled(closing)
    expect(world.closes[0]).toEqual(['ERR_PEERLINE_PATH_LOST'])
  })

  it('ends at once when the path goes after the farewell', async () => {
    const link = await openWorld()
    await world.pass(100)
    link.held.fill(true)
    const start = performance.now()
    const closing = world.sessions[0].close()
    await world.pass(50)
    expect(world.sessions[0].state).toBe('closing')
    link.cut()
    await world.settled(closing)
    expect(performance.now() - start).toBeLessThan(100)
    expect(world.closes[0]).toEqual([undefined])
  })

  it('gives a reader that sleeps ten seconds, then cuts', async () => {
    await openWorld()
    const stream = await world.sessions[0].open('/unread/1')
    const failed = codeOf(stream.write(noise(1_000_000)))
    const start = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - start).toBeGreaterThanOrEqual(10_000)
    expect(performance.now() - start).toBeLessThan(11_500)
    expect(await failed).toBe('ERR_PEERLINE_CLOSED')
  })

  it('does not wait once its signal has fired', async () => {
    await openWorld()
    const stream = await world.sessions[0].open('/unread/1')
    const failed = codeOf(stream.write(noise(1_000_000)))
    const aborter = new AbortController()
    const start = performance.now()
    const closing = world.sessions[0].close({ signal: aborter.signal })
    await world.pass(50)
    aborter.abort()
    await world.settled(closing)
    expect(performance.now() - start).toBeLessThan(100)
    expect(await failed).toBe('ERR_PEERLINE_CLOSED')
    await world.settled(world.sessions[1].closed)
    expect(world.closes).toEqual([[undefined], [undefined]])
  })

  it('while connecting ends soon, and rejects who waits for the opening', async () => {
    world = new World()
    const opened = codeOf(world.sessions[0].opened())
    await world.settled(world.sessions[0].close())
    expect(await opened).toBe('ERR_PEERLINE_CLOSED')
    expect(world.sessions[0].state).toBe('closed')
    expect(await codeOf(world.sessions[0].opened())).toBe('ERR_PEERLINE_CLOSED')
  })

  it('without a path ends within the time for a farewell', async () => {
    const link = await openWorld()
    link.cut()
    const start = performance.now()
    await world.settled(world.sessions[0].close())
    expect(performance.now() - start).toBeLessThan(1_100)
    await world.settled(world.sessions[1].closed)
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_PATH_LOST'])
  })

  it('may be called on both sides at once, twice, and after the end', async () => {
    await openWorld()
    const closing = world.sessions.flatMap((session) => [session.close(), session.close()])
    await world.settled(Promise.all(closing))
    await world.sessions[0].close()
    await world.sessions[0][Symbol.asyncDispose]()
    expect(world.closes).toEqual([[undefined], [undefined]])
  })

  it('is overtaken by an abort', async () => {
    await openWorld()
    const stream = await world.sessions[0].open('/unread/1')
    const failed = codeOf(stream.write(noise(1_000_000)))
    const closing = world.sessions[0].close()
    await world.pass(50)
    world.sessions[0].abort(new PeerlineError('ERR_PEERLINE_DENIED', 'no more'))
    await world.settled(closing)
    expect(await failed).toBe('ERR_PEERLINE_DENIED')
    expect(world.closes[0]).toEqual(['ERR_PEERLINE_DENIED'])
  })

  it('refuses streams that the other side opens meanwhile', async () => {
    const hostile = openHostile({ onStream: () => expect.fail('no stream may come') })
    hostile.loose((frames) => frames.ping(new Uint8Array(8)))
    const closing = world.sessions[1].close()
    hostile.send((frames) => frames.open(0, '/late/1'))
    const frames = await hostile.frames()
    expect(frames).toContainEqual(['onReset', 0, StreamCode.CANCELLED])
    expect(frames).toContainEqual(['onStop', 0, StreamCode.CANCELLED])
    await world.settled(closing)
  })
})

describe('abort', () => {
  it('tells the other side its code, and every stream', async () => {
    const remote: Stream[] = []
    await openWorld({ onStream: (stream) => remote.push(stream) })
    const stream = await world.sessions[0].open('/x/1')
    await world.run(() => remote.length === 1)
    const failed = codeOf(remote[0]!.next())
    world.sessions[0].abort(new PeerlineError('ERR_PEERLINE_BUSY', 'full'))
    expect(await codeOf(stream.next())).toBe('ERR_PEERLINE_BUSY')
    expect(await world.settled(failed)).toBe('ERR_PEERLINE_BUSY')
    expect(world.closes).toEqual([['ERR_PEERLINE_BUSY'], ['ERR_PEERLINE_BUSY']])
    await world.run(() => world.links[0]!.ended)
  })

  it('with a code that the other side does not know becomes ERR_PEERLINE_REMOTE there', () => {
    const hostile = openHostile()
    hostile.send((frames) => frames.close('ERR_OF_THE_FUTURE', 'what is this'))
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_REMOTE'])
  })

  it('from within an event of the session is safe', async () => {
    world = new World()
    for (const session of world.sessions) {
      session.addEventListener('open', () => session.abort(new PeerlineError('ERR_PEERLINE_DENIED', 'no')))
    }
    world.connect()
    await world.run(() => world.sessions.every(({ state }) => state === 'closed'))
    await world.pass(100)
    for (const codes of world.closes) expect(codes).toEqual(['ERR_PEERLINE_DENIED'])
  })
})

describe('opened', () => {
  it('resolves at once when open, and rejects when its signal fires', async () => {
    world = new World()
    const aborter = new AbortController()
    const aborted = codeOf(world.sessions[0].opened({ signal: aborter.signal }))
    aborter.abort()
    expect(await aborted).toBe('ERR_PEERLINE_ABORTED')
    expect(await codeOf(world.sessions[0].opened({ signal: aborter.signal }))).toBe('ERR_PEERLINE_ABORTED')
    world.connect()
    await world.settled(world.sessions[0].opened())
    await world.sessions[0].opened()
  })
})

describe('a path on which the handshake ran', () => {
  it('is adopted, proven at the side that had the answer, and carries data at once', async () => {
    const got: Uint8Array[] = []
    world = new World({ onStream: (stream) => void readAll(stream).then((bytes) => got.push(bytes)) })
    const link = new Link('tcp', 'adopted')
    world.links.push(link)
    world.sessions[0].adopt(link.ends[0], true)
    world.sessions[1].adopt(link.ends[1], false)
    expect(world.sessions.map(({ state }) => state)).toEqual(['open', 'connecting'])
    await (await world.sessions[0].open('/x/1')).end(Uint8Array.of(1))
    await world.run(() => got.length === 1)
    expect(world.sessions[1].state).toBe('open')
  })

  it('that delivers garbage at once is let go without a throw', async () => {
    world = new World()
    const link = new Link('tcp', 'adopted')
    const end = link.ends[0]
    const start = end.start.bind(end)
    end.start = (handler) => {
      start(handler)
      end.receive(Uint8Array.of(1, 2, 3))
    }
    world.sessions[0].adopt(end, true)
    expect(end.ended).toBe(true)
    expect(world.sessions[0].state).toBe('connecting')
  })
})

it('a session knows its id, its peer and its side', () => {
  world = new World()
  const [a, b] = world.sessions
  expect(a).toBeInstanceOf(Session)
  expect([a.id, b.id]).toEqual(['07'.repeat(16), '07'.repeat(16)])
  expect([a.initiator, b.initiator]).toEqual([true, false])
})
