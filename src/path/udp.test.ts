import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { FramedPath } from './framing.ts'
import { describePath, type PathPair } from './path.compliance.ts'
import { MAX_MESSAGE_BYTES } from './path.ts'
import { PIPE_HIGH_WATER_BYTES } from './pipe.ts'
import { expectSame, framed, Recorder, sample, turns } from './recorder.compliance.ts'
import { UDP_WINDOW_BYTES, UdxPipe, type UdxStream, udpPath } from './udp.ts'

const HOST = '127.0.0.1'

/** What the tests use of `udx-native` besides. */
interface Stream extends UdxStream {
  readonly destroyed: boolean
  connect(socket: Socket, remoteId: number, port: number, host: string): void
}
interface Socket {
  bind(port: number, host: string): void
  address(): { port: number }
  close(): Promise<void>
}
interface Engine {
  createSocket(): Socket
  createStream(id: number): Stream
}

const { default: UDX } = (await import('udx-native')) as unknown as { default: new () => Engine }

interface UdpPair extends PathPair {
  readonly streams: readonly [Stream, Stream]
  readonly pipes: readonly [UdxPipe, UdxPipe]
}

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  vi.useRealTimers()
  await Promise.all(closers.splice(0).map((close) => close()))
})

function bound(udx: Engine): Socket {
  const socket = udx.createSocket()
  socket.bind(0, HOST)
  return socket
}

/** Two ends, each an engine of its own, joined straight or by what `between` puts there. */
async function udpPair(between?: (portA: number, portB: number) => Promise<number>): Promise<UdpPair> {
  const engines = [new UDX(), new UDX()] as const
  const sockets = [bound(engines[0]), bound(engines[1])] as const
  const [portA, portB] = [sockets[0].address().port, sockets[1].address().port]
  const middle = await between?.(portA, portB)
  const streams = [engines[0].createStream(1), engines[1].createStream(2)] as const
  streams[0].connect(sockets[0], 2, middle ?? portB, HOST)
  streams[1].connect(sockets[1], 1, middle ?? portA, HOST)
  const pipes = [new UdxPipe(streams[0], `${HOST}:${portB}`), new UdxPipe(streams[1], `${HOST}:${portA}`)] as const
  return {
    a: new FramedPath('udp', pipes[0]),
    b: new FramedPath('udp', pipes[1]),
    rawB: pipes[1],
    streams,
    pipes,
    waiting: () => pipes[0].waitingBytes,
    teardown: async () => {
      for (const stream of streams) stream.destroy()
      await Promise.all(sockets.map((socket) => socket.close()))
    },
  }
}

async function pairForTest(between?: Parameters<typeof udpPair>[0]): Promise<UdpPair> {
  const pair = await udpPair(between)
  closers.push(pair.teardown)
  return pair
}

/** Ends both pipes while what came still waits in the second. */
async function endBoth({ pipes, streams }: UdpPair): Promise<void> {
  await turns(30)
  for (const pipe of pipes) pipe.end()
  await vi.waitUntil(() => streams[1].destroyed)
  await turns(5)
}

/** A port that passes datagrams on, unless `drop` takes them. */
async function middle(
  portA: number,
  portB: number,
  drop: (datagram: Uint8Array, fromA: boolean) => boolean,
): Promise<number> {
  const socket = await dgram()
  socket.on('message', (datagram, { port }) => {
    if (!drop(datagram, port === portA)) socket.send(datagram, port === portA ? portB : portA, HOST)
  })
  return socket.address().port
}

async function dgram(): Promise<DatagramSocket> {
  const socket = createSocket('udp4').bind(0, HOST)
  await once(socket, 'listening')
  closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  return socket
}

/** The pipe's end as a promise. */
function ended(pipe: UdxPipe, data: (chunk: Uint8Array) => void = () => {}): Promise<string> {
  return new Promise((resolve) => {
    pipe.start({ data, drain: () => {}, close: (error) => resolve(error?.code ?? 'in order') })
  })
}

/** A message beside the stream. */
function beside(type: number, limit: bigint): Buffer {
  const message = Buffer.alloc(9)
  message[0] = type
  message.writeBigUInt64BE(limit, 1)
  return message
}

/** True for a udx packet with a message beside the stream of this type. */
const isBeside = (datagram: Uint8Array, type: number): boolean => datagram[2] === 8 && datagram[20] === type

describePath('udp', () => udpPair())

describe('a path over UDP', () => {
  test('is of its kind, and says where it goes', async () => {
    const { a, streams } = await pairForTest()
    expect(a.kind).toBe('udp')
    expect(udpPath(streams[0], '192.0.2.1:7').remote).toBe('192.0.2.1:7')
    expect(a.remote).toMatch(/^127\.0\.0\.1:\d+$/)
  })

  test('repeats what is lost, on the way there and back', async () => {
    let n = 0
    const pair = await pairForTest((portA, portB) => middle(portA, portB, () => ++n % 11 === 0))
    const [atA, atB] = [new Recorder(), new Recorder()]
    pair.a.start(atA)
    pair.b.start(atB)
    pair.b.maxMessageBytes = MAX_MESSAGE_BYTES
    const messages = Array.from({ length: 30 }, (_, i) => sample(30_000 + i))
    for (const message of messages) pair.a.send([message])
    await atB.count(messages.length)
    expectSame(atB.messages, messages)
    expect(n).toBeGreaterThan(30_000 / 1_500)
  })

  test('that the other side tears down ends with a typed error', async () => {
    const pair = await pairForTest()
    const atA = new Recorder()
    pair.a.start(atA)
    pair.b.destroy()
    expect(await atA.end()).toBe('ERR_PEERLINE_UNREACHABLE')
    expect(atA.closes[0]?.message).toContain('ECONNRESET')
  })

  test('that the other side tears down before start ends with a typed error', async () => {
    const pair = await pairForTest()
    pair.streams[1].destroy()
    await vi.waitUntil(() => pair.streams[0].destroyed)
    const atA = new Recorder()
    pair.a.start(atA)
    expect(await atA.end()).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('ends in order though the last acknowledgement is lost', async () => {
    let cut: 'none' | 'fromA' | 'all' = 'none'
    const pair = await pairForTest((portA, portB) =>
      middle(portA, portB, (_, fromA) => cut === 'all' || (cut === 'fromA' && fromA)),
    )
    const [atA, atB] = [new Recorder(), new Recorder()]
    pair.a.start(atA)
    pair.b.start(atB)
    pair.a.send([sample(3)])
    await atB.count(1)
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    cut = 'fromA'
    pair.b.close() // its end arrives, and nothing of `a` any more
    await vi.waitUntil(() => !pair.a.writable)
    cut = 'all'
    vi.advanceTimersByTime(4_000)
    await turns(30)
    expect(atA.closes).toEqual([])
    vi.advanceTimersByTime(1_000)
    expect(await atA.end()).toBe('in order')
  }, 8_000) // udx itself would give up after 13 s
})

describe('the credit of a UDP pipe', () => {
  test('lets a window go to a reader who pauses, and no byte more', async () => {
    const { pipes, streams } = await pairForTest()
    const [a, b] = pipes
    void ended(a)
    let seen = 0
    void ended(b, (chunk) => {
      seen += chunk.length
    })
    b.pause()
    const part = sample(65_000)
    let sent = 0
    for (; sent < UDP_WINDOW_BYTES + 20 * part.length; sent += part.length) a.write([part])
    const wanted = UDP_WINDOW_BYTES
    await vi.waitUntil(() => a.waitingBytes === sent - wanted, { timeout: 10_000 })
    await turns(30)
    expect(a.waitingBytes).toBe(sent - wanted)
    expect(seen).toBe(0)
    expect(a.writable).toBe(false)
    b.resume()
    await vi.waitUntil(() => seen === sent, { timeout: 10_000 })
    expect(a.waitingBytes).toBe(0)
    expect(streams[0].destroyed).toBe(false)
  })

  test('that is lost is asked for', async () => {
    let lost = 0
    let asks = 0
    const pair = await pairForTest((portA, portB) =>
      middle(portA, portB, (datagram, fromA) => {
        if (fromA && isBeside(datagram, 2)) asks++
        // the first three credits never arrive
        return !fromA && isBeside(datagram, 1) && lost++ < 3
      }),
    )
    const [a, b] = pair.pipes
    void ended(a)
    let seen = 0
    void ended(b, (chunk) => {
      seen += chunk.length
    })
    const total = UDP_WINDOW_BYTES + 100_000
    for (let sent = 0; sent < total; sent += 50_000) a.write([sample(50_000)])
    await vi.waitUntil(() => seen >= total, { timeout: 15_000 })
    expect(lost).toBeGreaterThan(2)
    expect(asks).toBeGreaterThan(0)
  })

  test('that is less, late, absurd or of no known kind changes nothing', async () => {
    const { pipes, streams } = await pairForTest()
    const [a, b] = pipes
    void ended(a)
    void ended(b)
    b.pause()
    const heard: number[] = []
    streams[1].on('message', (message) => void heard.push(message.length))
    const other = new Promise<void>((resolve) => {
      streams[0].on('message', (message) => message.length === 3 && resolve())
    })
    const odd = [
      beside(1, 5n),
      beside(1, 2n ** 64n - 1n),
      beside(3, 1n << 40n),
      beside(1, 1n << 40n).subarray(0, 8),
      Buffer.alloc(0),
      Buffer.concat([beside(1, 1n << 40n), Buffer.alloc(1)]),
      Buffer.alloc(3),
    ]
    for (const message of odd) streams[1].trySend(message)
    await other
    a.write([sample(1_000)])
    expect(a.waitingBytes).toBe(0) // the lower limit does not hold
    const total = UDP_WINDOW_BYTES + 2_000_000
    a.write([sample(total)])
    await vi.waitUntil(() => a.waitingBytes === 2_001_000, { timeout: 10_000 })
  })

  test('questions for it are answered at a bounded rate', async () => {
    const { pipes, streams } = await pairForTest()
    void ended(pipes[1])
    let answers = 0
    streams[0].on('message', () => answers++)
    const started = performance.now()
    for (let i = 0; i < 2_000; i++) {
      streams[0].trySend(beside(2, 0n))
      if (i % 50 === 0) await turns(1)
    }
    await vi.waitUntil(() => answers > 0)
    await turns(30)
    expect(answers).toBeLessThan(3 + (performance.now() - started) / 20)
  })

  test('is not to be overdrawn: who sends more is cut off, and the reader holds no more than a window', async () => {
    const { pipes, streams } = await pairForTest()
    const [, b] = pipes
    const end = ended(b)
    b.pause()
    const part = Buffer.alloc(60_000)
    const write = (): void => {
      while (!streams[0].destroyed && streams[0].write(part));
    }
    streams[0].on('drain', write)
    write()
    expect(await end).toBe('ERR_PEERLINE_PROTOCOL')
    expect(b.writable).toBe(false)
  })

  test('is given anew as bytes are read, so that any amount gets through', async () => {
    const { a, b } = await pairForTest()
    const atA = new Recorder()
    let count = 0
    let bytes = 0
    b.maxMessageBytes = MAX_MESSAGE_BYTES
    b.start({
      message: (message) => {
        count++
        bytes += message.length
      },
      drain() {},
      close() {},
    })
    const most = Math.ceil((3 * UDP_WINDOW_BYTES) / MAX_MESSAGE_BYTES)
    let sent = 0
    const body = sample(MAX_MESSAGE_BYTES)
    const pump = (): void => {
      for (let goesOn = true; goesOn && sent < most; sent++) goesOn = a.send([body])
    }
    atA.onDrain = pump
    a.start(atA)
    pump()
    await vi.waitUntil(() => count === most, { timeout: 15_000 })
    expect(bytes).toBe(most * MAX_MESSAGE_BYTES)
  })
})

describe('a UDP pipe', () => {
  test('puts the packets of one turn together', async () => {
    const { pipes } = await pairForTest()
    void ended(pipes[0])
    let chunks = 0
    let bytes = 0
    void ended(pipes[1], (chunk) => {
      chunks++
      bytes += chunk.length
    })
    pipes[0].write([sample(400_000)])
    await vi.waitUntil(() => bytes === 400_000)
    expect(chunks).toBeLessThan(400_000 / 1_500 / 2)
  })

  test('sends the parts as they are, and of empty ones nothing', async () => {
    const { pipes } = await pairForTest()
    const [a, b] = pipes
    void ended(a)
    const heard: Uint8Array[] = []
    const end = ended(b, (chunk) => void heard.push(Buffer.from(chunk)))
    a.write([Buffer.from('ab'), new Uint8Array(0), Buffer.from('c')])
    a.write([])
    a.write([sample(3_000)])
    a.end()
    expect(a.write([Buffer.from('late')])).toBe(false)
    expect(await end).toBe('in order')
    expect(Buffer.compare(Buffer.concat(heard), Buffer.concat([Buffer.from('abc'), sample(3_000)]))).toBe(0)
  })

  test('resumed from inside data() hands on in order', async () => {
    const { pipes } = await pairForTest()
    const [a, b] = pipes
    void ended(a)
    const heard: Uint8Array[] = []
    const end = ended(b, (chunk) => {
      heard.push(Buffer.from(chunk))
      b.pause()
      b.resume()
    })
    for (let i = 0; i < 50; i++) {
      a.write([sample(10_000, i)])
      await turns(1)
    }
    a.end()
    await end
    const want = Buffer.concat(Array.from({ length: 50 }, (_, i) => sample(10_000, i)))
    expect(Buffer.compare(Buffer.concat(heard), want)).toBe(0)
  })

  test('goes on telling to wait until the queue is short, then tells once', async () => {
    const { pipes } = await pairForTest()
    const [a, b] = pipes
    let drains = 0
    a.start({ data() {}, drain: () => drains++, close() {} })
    void ended(b)
    b.pause()
    let bytes = 0
    do bytes += 65_536
    while (a.write([sample(65_536)]))
    expect(bytes).toBeGreaterThanOrEqual(PIPE_HIGH_WATER_BYTES)
    expect([drains, a.writable]).toEqual([0, false])
    await vi.waitUntil(() => drains > 0)
    expect([drains, a.writable]).toEqual([1, true])
  })

  test('hands on what was held when the stream itself is long closed', async () => {
    const pair = await pairForTest()
    const [a, b] = pair.pipes
    void ended(a)
    const heard: Uint8Array[] = []
    const end = ended(b, (chunk) => void heard.push(Buffer.from(chunk)))
    b.pause()
    a.write([sample(5_000)])
    await endBoth(pair)
    expect([heard.length, b.writable]).toEqual([0, false])
    b.resume()
    expect(await end).toBe('in order')
    expectSame([Buffer.concat(heard)], [sample(5_000)])
  })

  test('tells its end to an owner who destroys it, though there was something to read', async () => {
    const pair = await pairForTest()
    const [a, b] = pair.pipes
    void ended(a)
    let told = 0
    b.start({ data() {}, drain() {}, close: () => told++ })
    b.pause()
    a.write([sample(100)])
    await endBoth(pair)
    expect(told).toBe(0)
    b.destroy()
    await turns(2)
    b.destroy()
    await turns(2)
    expect(told).toBe(1)
  })

  test('leaves no timer behind, whichever way it ends', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
    const pair = await pairForTest()
    const ends = pair.pipes.map((pipe) => ended(pipe))
    pair.pipes[1].pause()
    pair.pipes[0].write([sample(UDP_WINDOW_BYTES + 1)]) // waits for credit, and asks
    await turns(5)
    expect(vi.getTimerCount()).toBeGreaterThan(2)
    pair.pipes[0].destroy()
    await Promise.all(ends)
    expect(vi.getTimerCount()).toBe(0)
    const second = await pairForTest()
    const secondEnds = second.pipes.map((pipe) => ended(pipe))
    second.pipes[0].end()
    await Promise.all(secondEnds)
    expect(vi.getTimerCount()).toBe(0)
  })

  test('whoever leaves a hole and sends on beyond it is cut off', async () => {
    const udx = new UDX()
    const socket = bound(udx)
    closers.push(() => socket.close())
    const sender = await dgram()
    const stream = udx.createStream(7)
    stream.connect(socket, 9, sender.address().port, HOST)
    const pipe = new UdxPipe(stream, 'hostile')
    const end = ended(pipe)
    let done = false
    void end.then(() => {
      done = true
    })
    const packet = Buffer.alloc(1_420)
    Buffer.from([255, 1, 1, 0, 7, 0, 0, 0, 0, 0, 64, 0]).copy(packet)
    const before = process.memoryUsage().rss
    for (let seq = 5; seq < 200_000 && !done; seq++) {
      const next = Buffer.from(packet)
      next.writeUInt32LE(seq, 12)
      sender.send(next, socket.address().port, HOST)
      if (seq % 40 === 0) await turns(2)
    }
    expect(await end).toBe('ERR_PEERLINE_PROTOCOL')
    expect(process.memoryUsage().rss - before).toBeLessThan(150 * 2 ** 20)
  })

  test('random packets for its stream neither crash it nor get past the framing', async () => {
    const udx = new UDX()
    const socket = bound(udx)
    closers.push(() => socket.close())
    const sender = await dgram()
    const stream = udx.createStream(7)
    stream.connect(socket, 9, sender.address().port, HOST)
    const path = udpPath(stream, 'hostile')
    const at = new Recorder()
    path.start(at)
    let seed = 20_261_121
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff
      return seed % below
    }
    for (let i = 0; i < 20_000; i++) {
      const packet = Buffer.alloc(20 + random(60), random(256))
      packet[0] = 255
      packet[1] = 1
      packet[2] = random(64) & ~16 // anything but the packet that ends it
      packet[3] = random(3) === 0 ? random(256) : 0
      packet.writeUInt32LE(7, 4)
      packet.writeUInt32LE(random(3) === 0 ? 0 : 4_000_000, 8)
      packet.writeUInt32LE(random(4) === 0 ? random(0x7fffffff) : random(50), 12)
      packet.writeUInt32LE(random(5), 16)
      sender.send(packet, socket.address().port, HOST)
      if (i % 50 === 0) await turns(1)
      if (i % 500 === 0) path.send([sample(100)])
    }
    path.destroy()
    expect(await at.end()).toMatch(/^(in order|ERR_PEERLINE_\w+)$/)
  })

  test('framing over it is that of every other pipe', async () => {
    const { a, pipes } = await pairForTest()
    const heard: Uint8Array[] = []
    void ended(pipes[1], (chunk) => void heard.push(Buffer.from(chunk)))
    a.start(new Recorder())
    a.send([sample(5), sample(6)])
    a.send([sample(3_000)])
    const want = framed(Buffer.concat([sample(5), sample(6)]), sample(3_000))
    await vi.waitUntil(() => Buffer.concat(heard).length === want.length)
    expect(Buffer.compare(Buffer.concat(heard), want)).toBe(0)
  })
})
