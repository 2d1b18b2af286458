import { describe, expect, it, vi } from 'vitest'
import { PeerlineError } from '../errors.ts'
import type { Datagrams } from './datagrams.ts'
import { FrameWriter, MAX_DATAGRAM_BYTES } from './frame.ts'
import type { LinkShape } from './link-shape.compliance.ts'
import {
  codeOf,
  type Link,
  noise,
  readAll,
  type Side,
  settle,
  testKeys,
  useWorlds,
  World,
} from './memory-path.compliance.ts'
import { Sealer } from './record.ts'
import type { Stream } from './stream.ts'

let world: World

useWorlds(() => world)

/** Two open sessions, with the datagrams of both asked for. */
async function openWorld(
  shape?: LinkShape,
): Promise<{ link: Link; from: Datagrams; to: Datagrams; streams: Stream[] }> {
  const streams: Stream[] = []
  world = new World({ onStream: (stream) => streams.push(stream) })
  const link = await world.open('tcp', shape)
  return { link, from: world.sessions[0].datagrams, to: world.sessions[1].datagrams, streams }
}

const text = (datagram: Uint8Array) => Buffer.from(datagram).toString()

/** What has come and not been read. */
async function readHeld(datagrams: Datagrams): Promise<Uint8Array[]> {
  const seen: Uint8Array[] = []
  const { received, droppedReceiving } = datagrams.counts
  while (seen.length < received - droppedReceiving) seen.push(await datagrams.receive())
  return seen
}

/** Sends on and on, as fast as it may, until the session ends; returns how many bytes went out. */
function flood(datagrams: Datagrams, bytes: number): () => number {
  const data = new Uint8Array(bytes)
  const run = async () => {
    for (;;) await datagrams.send(data)
  }
  run().catch(() => {})
  return () => datagrams.counts.sent * bytes
}

/** Writes on and on; returns how many bytes were taken. */
function pour(stream: Stream, bytes: number): () => number {
  const data = new Uint8Array(bytes)
  let poured = 0
  const run = async () => {
    for (;;) {
      await stream.write(data)
      poured += bytes
    }
  }
  run().catch(() => {})
  return () => poured
}

/** Reads as it comes; returns how many bytes came. */
function drain(stream: Stream): () => number {
  let bytes = 0
  stream.pipeTo({
    data: (chunk) => {
      bytes += chunk.length
    },
    end: () => {},
    error: () => {},
  })
  return () => bytes
}

describe('a datagram', () => {
  it.each([0, 1, 1_100, 16_383, 16_384, 65_535, MAX_DATAGRAM_BYTES])('of %d bytes arrives whole', async (size) => {
    const { from, to } = await openWorld()
    const sent = noise(size)
    expect(await from.send(sent)).toBe(true)
    expect(await world.settled(to.receive())).toEqual(sent)
  })

  it('is sent from a copy, both ways, as many as are sent', async () => {
    const { from, to } = await openWorld()
    const scratch = Buffer.from('0')
    for (let n = 0; n < 10; n++) {
      scratch[0] = 0x30 + n
      void from.send(scratch)
      void to.send(scratch)
    }
    scratch.fill(0)
    await world.quiet()
    for (const end of [from, to]) expect((await readHeld(end)).map(text).join('')).toBe('0123456789')
    expect(from.counts).toEqual({ sent: 10, received: 10, droppedSending: 0, droppedReceiving: 0 })
  })

  it('larger than the largest is refused here', async () => {
    const { from } = await openWorld()
    expect(from.maxBytes).toBe(MAX_DATAGRAM_BYTES)
    expect(await codeOf(from.send(new Uint8Array(MAX_DATAGRAM_BYTES + 1)))).toBe('ERR_PEERLINE_TOO_LARGE')
    await world.quiet()
    expect(world.sessions[0].state).toBe('open')
  })

  it('shares a record with others when they are small, and not when they are large', async () => {
    const { from, link } = await openWorld()
    await world.pass(100)
    const records = async (count: number, bytes: number) => {
      const before = link.ends[0].sent
      for (let n = 0; n < count; n++) void from.send(noise(bytes))
      await world.quiet()
      // Pings are not datagrams.
      return link.ends[0].sent - before
    }
    expect(await records(100, 20)).toBe(1)
    expect(await records(3, 10_000)).toBeGreaterThanOrEqual(3)
  })

  it('goes out on the first path, and waits for it', async () => {
    world = new World()
    const [from, to] = [world.sessions[0].datagrams, world.sessions[1].datagrams]
    expect(await from.send(Buffer.from('early'))).toBe(true)
    world.connect()
    expect(text(await world.settled(to.receive()))).toBe('early')
  })

  it('is lost with its path and never sent again; what was not sent yet takes the next one', async () => {
    const { from, to, link } = await openWorld()
    link.held[1] = true
    void from.send(Buffer.from('lost'))
    await settle()
    await world.turn()
    expect(from.counts.sent).toBe(1)
    link.cut()
    void from.send(Buffer.from('kept'))
    await world.quiet()
    world.connect('udp', 1)
    await world.pass(500)
    expect((await readHeld(to)).map(text)).toEqual(['kept'])
  })

  it('that comes twice ends the path, and is handed on once', async () => {
    const { from, to, link } = await openWorld()
    link.tap = (message, side) => (side === 1 && message.length > 1_000 ? [message, message.slice()] : [message])
    void from.send(noise(2_000))
    await world.quiet()
    expect([to.counts.received, link.ends[1].ended]).toEqual([1, true])
  })

  it('in a record that is to be acknowledged breaks the protocol', async () => {
    const { link } = await openWorld()
    const frames = new FrameWriter()
    frames.datagrams([Buffer.from('x')])
    const sealer = new Sealer(testKeys(true).send)
    link.ends[1].receive(Buffer.concat(sealer.ordered(frames.take()!, undefined)))
    expect(world.closes[1]).toEqual(['ERR_PEERLINE_PROTOCOL'])
  })

  it('costs nothing where nobody asked for datagrams, and those that come later are kept', async () => {
    world = new World()
    await world.open()
    const from = world.sessions[0].datagrams
    void from.send(Buffer.from('nobody'))
    await world.quiet()
    const to = world.sessions[1].datagrams
    expect(to.counts.received).toBe(0)
    void from.send(Buffer.from('somebody'))
    expect(text(await world.settled(to.receive()))).toBe('somebody')
    expect(to).toBe(world.sessions[1].datagrams)
  })
})

describe('a receiver that does not read', () => {
  it.each([
    ['drop-oldest', 952],
    ['drop-latest', 0],
  ] as const)('holds 1 MiB and drops the rest: %s', async (policy, first) => {
    const { from, to, streams } = await openWorld()
    to.configure({ receive: { policy } })
    for (let n = 0; n < 2_000; n++) {
      const datagram = new Uint8Array(1_000)
      new DataView(datagram.buffer).setUint32(0, n)
      await world.settled(from.send(datagram))
    }
    await world.quiet()
    expect(to.counts).toMatchObject({ received: 2_000, droppedReceiving: 2_000 - 1_024 })
    const held = await readHeld(to)
    const numbers = held.map((datagram) => new DataView(datagram.buffer, datagram.byteOffset).getUint32(0))
    const expected = policy === 'drop-oldest' ? 2_000 - 1_024 : first
    expect(numbers).toEqual(Array.from({ length: 1_024 }, (_, n) => expected + n))
    // Each has its own memory: none keeps the record alive that it came in.
    expect(held.every((datagram) => datagram.buffer.byteLength === 1_000)).toBe(true)
    // And nobody else notices.
    const stream = await world.sessions[0].open('/beside/1')
    void stream.end(noise(100_000))
    await world.run(() => streams.length === 1)
    expect((await world.settled(readAll(streams[0]!))).length).toBe(100_000)
  })

  it('holds 1 MiB of large ones', async () => {
    const { from, to } = await openWorld()
    for (let n = 0; n < 40; n++) await world.settled(from.send(noise(60_000)))
    await world.quiet()
    expect((await readHeld(to)).length).toBe(17)
  })

  it('cannot have the sender wait', async () => {
    const { to } = await openWorld()
    const receive = { policy: 'block' as 'drop-latest' }
    expect(() => to.configure({ receive })).toThrow(expect.objectContaining({ code: 'ERR_PEERLINE_INVALID' }))
  })
})

describe('without a path', () => {
  async function cutOff(): Promise<{ from: Datagrams; to: Datagrams }> {
    const { from, to, link } = await openWorld()
    link.cut()
    await world.quiet()
    from.configure({ send: { capacity: 3 } })
    return { from, to }
  }

  async function reconnect(to: Datagrams): Promise<string> {
    world.connect('relay')
    await world.pass(300)
    return (await readHeld(to)).map(text).join('')
  }

  const sendAll = (from: Datagrams) => [...'abcde'].map((letter) => from.send(Buffer.from(letter)))

  it('senders wait: block', async () => {
    const { from, to } = await cutOff()
    let sent = 0
    for (const sending of sendAll(from)) void sending.then(() => sent++)
    await world.quiet()
    expect(sent).toBe(3)
    expect(await reconnect(to)).toBe('abcde')
    expect(sent).toBe(5)
  })

  it('those that wait longest go: drop-oldest', async () => {
    const { from, to } = await cutOff()
    from.configure({ send: { policy: 'drop-oldest' } })
    expect(await Promise.all(sendAll(from))).toEqual([true, true, true, true, true])
    expect(await reconnect(to)).toBe('cde')
    expect(from.counts).toMatchObject({ sent: 3, droppedSending: 2 })
  })

  it('those that come last go: drop-latest', async () => {
    const { from, to } = await cutOff()
    from.configure({ send: { policy: 'drop-latest' } })
    expect(await Promise.all(sendAll(from))).toEqual([true, true, true, false, false])
    expect(await reconnect(to)).toBe('abc')
  })

  it('a sender may give up waiting', async () => {
    const { from, to } = await cutOff()
    const stop = new AbortController()
    for (const letter of 'abc') await from.send(Buffer.from(letter))
    const sending = from.send(Buffer.from('d'), { signal: stop.signal })
    stop.abort()
    expect(await codeOf(sending)).toBe('ERR_PEERLINE_ABORTED')
    expect(await reconnect(to)).toBe('abc')
  })
})

describe('the end of the session', () => {
  it('in order comes after what was sent, and what came may still be read', async () => {
    const { from, to } = await openWorld()
    await from.send(Buffer.from('last'))
    await world.settled(world.sessions[0].close())
    await world.run(() => world.sessions[1].state === 'closed')
    const seen: string[] = []
    for await (const datagram of to) seen.push(text(datagram))
    expect(seen).toEqual(['last'])
    expect(await codeOf(to.receive())).toBe('ERR_PEERLINE_CLOSED')
    expect(await codeOf(from.send(noise(1)))).toBe('ERR_PEERLINE_CLOSED')
  })

  it('fails whoever waits to send or to receive', async () => {
    const { from, to, link } = await openWorld()
    link.held[1] = true
    link.highWater = 1
    from.configure({ send: { capacity: 1 } })
    const sends = [1, 2, 3, 4].map(() => codeOf(from.send(noise(100))))
    await settle()
    const [receiving, iterating] = [codeOf(from.receive()), codeOf(to[Symbol.asyncIterator]().next())]
    for (const session of world.sessions) session.abort(new PeerlineError('ERR_PEERLINE_PATH_LOST', 'gone'))
    expect(await receiving).toBe('ERR_PEERLINE_PATH_LOST')
    expect(await iterating).toBe('ERR_PEERLINE_PATH_LOST')
    expect((await Promise.all(sends)).slice(-2)).toEqual(['ERR_PEERLINE_PATH_LOST', 'ERR_PEERLINE_PATH_LOST'])
  })

  it('that has begun takes no more', async () => {
    const { from, link } = await openWorld()
    link.held[1] = true
    void (await world.sessions[0].open('/tail/1')).end(noise(1_000))
    const closing = world.sessions[0].close()
    expect(await codeOf(from.send(noise(1)))).toBe('ERR_PEERLINE_CLOSED')
    link.held[1] = false
    await world.settled(closing)
  })

  it('is told to whoever asks for datagrams later', async () => {
    world = new World()
    await world.open()
    world.sessions[0].abort(new PeerlineError('ERR_PEERLINE_PATH_LOST', 'gone'))
    await world.settled(world.sessions[1].closed)
    expect(await codeOf(world.sessions[0].datagrams.receive())).toBe('ERR_PEERLINE_PATH_LOST')
    expect(await codeOf(world.sessions[1].datagrams.send(noise(1)))).toBe('ERR_PEERLINE_PATH_LOST')
  })

  it('is not leaving a loop: what comes later is read in the next', async () => {
    const { from, to } = await openWorld()
    for (const letter of 'ab') {
      void from.send(Buffer.from(letter))
      await world.quiet()
      for await (const datagram of to) {
        expect(text(datagram)).toBe(letter)
        break
      }
    }
  })
})

describe('datagrams and bulk data', () => {
  /** Bytes of each that went out in 3 s on a link that takes `bufferBytes` before it asks to wait. */
  async function share(bufferBytes: number, streamBytes: number): Promise<{ datagrams: number; bulk: number }> {
    const { from, streams } = await openWorld({ delayMs: 20, bytesPerMs: 1_000, bufferBytes })
    const bulk = await world.sessions[0].open('/bulk/1')
    const poured = pour(bulk, streamBytes)
    await world.run(() => streams.length === 1)
    drain(streams[0]!)
    const sent = flood(from, 1_000)
    await world.pass(1_000, 5)
    const before = { datagrams: sent(), bulk: poured() }
    await world.pass(3_000, 5)
    expect(world.sessions.map(({ state, paths }) => [state, paths])).toEqual([
      ['open', ['tcp']],
      ['open', ['tcp']],
    ])
    return { datagrams: sent() - before.datagrams, bulk: poured() - before.bulk }
  }

  it.each([
    ['wide', 1_048_576, 65_536],
    ['narrow', 65_536, 65_536],
    ['wide, with small writes', 1_048_576, 2_000],
    ['narrow, with small writes', 65_536, 2_000],
  ])('share a path: %s', async (_, bufferBytes, writeBytes) => {
    const { datagrams, bulk } = await share(bufferBytes, writeBytes)
    // Neither gets less than a tenth of what goes out, and the link is not idle.
    expect(datagrams + bulk).toBeGreaterThan(1_500_000)
    expect(datagrams).toBeGreaterThan((datagrams + bulk) / 10)
    expect(bulk).toBeGreaterThan((datagrams + bulk) / 10)
  })

  it('a flood does not hold up acknowledgements: the other direction goes on', async () => {
    const { from, streams } = await openWorld({ delayMs: 20, bytesPerMs: 2_000, bufferBytes: 16_384 })
    flood(from, 1_000)
    const back = await world.sessions[1].open('/back/1')
    const poured = pour(back, 65_536)
    await world.run(() => streams.length === 1)
    const got = drain(streams[0]!)
    await world.pass(5_000, 5)
    expect(got()).toBeGreaterThan(4_000_000)
    expect(poured()).toBeLessThanOrEqual(got() + 4_000_000)
  })
})

describe('a path that is slower than its sender', () => {
  it.each([125, 25])(
    'is not filled with what is old when it arrives, nor lost: %d bytes per ms',
    async (bytesPerMs) => {
      const { from, to, streams } = await openWorld({ delayMs: 30, bytesPerMs })
      from.configure({ send: { policy: 'drop-oldest', capacity: 10 } })
      let troubles = 0
      world.sessions[0].addEventListener('trouble', () => troubles++)
      const ages: number[] = []
      const run = async () => {
        for await (const datagram of to) {
          ages.push(performance.now() - new DataView(datagram.buffer, datagram.byteOffset).getFloat64(0))
        }
      }
      run().catch(() => {})
      const datagram = new DataView(new ArrayBuffer(1_000))
      const until = performance.now() + 30_000
      while (performance.now() < until) {
        datagram.setFloat64(0, performance.now())
        void from.send(new Uint8Array(datagram.buffer))
        await world.pass(2, 2)
      }
      expect(world.sessions.map(({ paths }) => paths)).toEqual([['tcp'], ['tcp']])
      // At the lower rate, the first few are more than it takes in time.
      expect(troubles).toBeLessThanOrEqual(bytesPerMs > 100 ? 0 : 2)
      // The link is used, and what comes is young.
      expect(ages.length * 1_000).toBeGreaterThan(30_000 * bytesPerMs * 0.6)
      expect(Math.max(...ages.slice(-500))).toBeLessThan(1_000)
      expect(from.counts.droppedSending).toBeGreaterThan(1_000)
      // Control frames and streams get through meanwhile.
      const stream = await world.sessions[0].open('/beside/1')
      const started = performance.now()
      void stream.end(Buffer.from('hello'))
      await world.run(() => streams.length === 1)
      expect(performance.now() - started).toBeLessThan(2_000)
    },
  )

  it('and one that is fast is used: the window grows with it', async () => {
    const { from, to } = await openWorld({ delayMs: 50, bytesPerMs: 5_000 })
    from.configure({ send: { maxBytes: 4_194_304 } })
    flood(from, 10_000)
    await world.pass(5_000, 5)
    // 16 KiB in each of 50 round trips would be 0.8 MB.
    expect(to.counts.received * 10_000).toBeGreaterThan(6_000_000)
  })

  it('and one that is fast takes a burst in turns, with others between', async () => {
    const { from, link } = await openWorld({ delayMs: 50, bytesPerMs: 5_000 })
    const burst = () => {
      for (let n = 0; n < 60; n++) void from.send(noise(10_000))
    }
    // Without a pause long enough for the link to begin slowly again.
    for (let ms = 0; ms < 5_000; ms += 250) {
      burst()
      await world.pass(250, 5)
    }
    const sent = () => from.counts.sent * 10_000
    // From here on nothing arrives, and no answer comes.
    link.dead.fill(true)
    const before = sent()
    burst()
    const turns: number[] = []
    while (turns.length < 4) {
      vi.advanceTimersByTime(turns.length === 0 ? 0 : 1)
      turns.push(sent() - before)
      await settle()
    }
    expect(turns[0]).toBeGreaterThan(200_000)
    expect(turns[0]).toBeLessThan(300_000)
    expect(turns[3]).toBe(600_000)
  })

  it('of another path says nothing of the next: that begins anew', async () => {
    const { from, to, link } = await openWorld()
    link.dead.fill(true)
    flood(from, 1_000)
    await world.pass(200, 5)
    link.cut()
    world.connect('relay')
    const before = performance.now()
    await world.run(() => to.counts.received > 100)
    expect(performance.now() - before).toBeLessThan(500)
  })

  it('whose answers do not come, since the other side is busy sending, goes on all the same', async () => {
    const { from, to, link } = await openWorld()
    const back = await world.sessions[1].open('/back/1')
    // Pongs are lost; other records come.
    link.tap = (message, side) => (side === 0 && message[0]! >= 0x80 ? [] : [message])
    flood(from, 1_000)
    for (let ms = 0; ms < 10_000; ms += 100) {
      void back.write(noise(100))
      await world.pass(100)
    }
    expect(link.ended).toBe(false)
    expect(to.counts.received).toBeGreaterThan(80)
  })

  it('that has died is noticed by datagrams alone', async () => {
    const { from, link } = await openWorld()
    const relay = world.connect('relay')
    await world.pass(2_000)
    link.dead[1] = true
    const sides: Side[] = [0, 1]
    for (let ms = 0; ms < 8_000; ms += 200) {
      void from.send(noise(1))
      await world.pass(200)
    }
    expect(sides.map((side) => link.ends[side].ended)[0]).toBe(true)
    expect(world.sessions[0].path).toBe('relay')
    expect(relay.ended).toBe(false)
  })
})
