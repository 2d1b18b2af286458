import { once } from 'node:events'
import net from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { FramedPath } from './framing.ts'
import { describePath, type PathPair } from './path.compliance.ts'
import { expectSame, framed, Recorder, sample, turns } from './recorder.compliance.ts'
import { connectTcp, SocketPipe, tcpPath } from './tcp.ts'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

/** A server that keeps what it accepts. */
async function listen(host: string): Promise<{ port: number; accepted(): Promise<net.Socket>; stop(): Promise<void> }> {
  const sockets: net.Socket[] = []
  const server = net.createServer((socket) => {
    socket.on('error', () => {})
    sockets.push(socket)
    server.emit('kept')
  })
  server.listen(0, host)
  await once(server, 'listening')
  return {
    port: (server.address() as net.AddressInfo).port,
    accepted: async () => {
      if (sockets.length === 0) await once(server, 'kept')
      return sockets[0]!
    },
    stop: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function tcpPair(bind: string, dial = bind): Promise<PathPair & { socketA: net.Socket; socketB: net.Socket }> {
  const server = await listen(bind)
  const socketA = await connectTcp(dial, server.port)
  const socketB = await server.accepted()
  const rawB = new SocketPipe(socketB)
  return {
    a: tcpPath(socketA),
    b: new FramedPath('tcp', rawB),
    rawB,
    socketA,
    socketB,
    waiting: () => socketA.writableLength,
    teardown: async () => {
      socketA.destroy()
      await server.stop()
    },
  }
}

async function pairForTest(): ReturnType<typeof tcpPair> {
  const pair = await tcpPair('127.0.0.1')
  closers.push(pair.teardown)
  return pair
}

const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

describePath('tcp', () => tcpPair('127.0.0.1'))

describe('a path over TCP', () => {
  test.each([
    ['IPv4', '127.0.0.1', '127.0.0.1', '127.0.0.1:'],
    ['IPv6', '::1', '::1', '[::1]:'],
    ['a DNS name', '127.0.0.1', 'localhost', '127.0.0.1:'],
  ])('goes over %s', async (_, bind, dial, remote) => {
    const pair = await tcpPair(bind, dial)
    closers.push(pair.teardown)
    const [atA, atB] = [new Recorder(), new Recorder()]
    pair.a.start(atA)
    pair.b.start(atB)
    pair.a.send([sample(100)])
    pair.b.send([sample(200)])
    await Promise.all([atA.count(1), atB.count(1)])
    expectSame([atA.messages[0]!, atB.messages[0]!], [sample(200), sample(100)])
    expect(pair.a.remote).toBe(`${remote}${pair.socketA.remotePort}`)
    expect(pair.a.kind).toBe('tcp')
  })

  test('begins with the bytes that were read already', async () => {
    const pair = await pairForTest()
    const bytes = framed(sample(5), sample(6), sample(7))
    pair.rawB.write([bytes.subarray(12)])
    const path = tcpPath(pair.socketA, bytes.subarray(0, 12)) // into the length of the second message
    const atA = new Recorder()
    path.start(atA)
    await atA.count(3)
    expectSame(atA.messages, [sample(5), sample(6), sample(7)])
  })

  test('paused before start keeps the bytes that were read already', async () => {
    const pair = await pairForTest()
    const path = tcpPath(pair.socketA, framed(sample(5), sample(6)))
    path.pause()
    const atA = new Recorder()
    path.start(atA)
    await turns(5)
    expect(atA.messages).toEqual([])
    path.resume()
    expectSame(atA.messages, [sample(5), sample(6)])
  })

  test('resumed before start keeps the bytes that were read already', async () => {
    const pair = await pairForTest()
    const path = tcpPath(pair.socketA, framed(sample(5)))
    path.resume()
    const atA = new Recorder()
    path.start(atA)
    await atA.count(1)
    expectSame(atA.messages, [sample(5)])
  })

  test('reads a socket that somebody else had looked into and paused', async () => {
    const pair = await pairForTest()
    pair.rawB.write([framed(sample(5), sample(6))])
    const [head] = (await once(pair.socketA, 'data')) as [Buffer]
    pair.socketA.pause()
    pair.socketA.unshift(head)
    const atA = new Recorder()
    tcpPath(pair.socketA).start(atA)
    await atA.count(2)
  })

  test('over a socket that had closed before is told so', async () => {
    const pair = await pairForTest()
    pair.socketA.destroy()
    await once(pair.socketA, 'close')
    const path = tcpPath(pair.socketA)
    expect(path.writable).toBe(false)
    const atA = new Recorder()
    path.start(atA)
    expect(await atA.end()).toBe('in order')
  })

  test('that is reset ends with a typed error', async () => {
    const pair = await pairForTest()
    const atA = new Recorder()
    pair.a.start(atA)
    pair.socketB.resetAndDestroy()
    expect(await atA.end()).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('that is reset before start ends with a typed error', async () => {
    const pair = await pairForTest()
    pair.socketB.resetAndDestroy()
    await turns(10)
    const atA = new Recorder()
    pair.a.start(atA)
    expect(await atA.end()).toBe('ERR_PEERLINE_UNREACHABLE')
  })
})

describe('a TCP pipe handed to another owner', () => {
  test('tells the new one all that comes from then on, and nothing to the old one', async () => {
    const pair = await pairForTest()
    const first = new Recorder()
    pair.a.start(first)
    first.onMessage = () => pair.a.pause()
    pair.rawB.write([framed(sample(5)), Buffer.from('rest')])
    await first.count(1)
    const { pipe, rest } = (pair.a as FramedPath).release()
    const heard: Uint8Array[] = rest === undefined ? [] : [rest]
    let drained = (): void => {}
    const drain = new Promise<void>((resolve) => {
      drained = resolve
    })
    const closed = new Promise((resolve) => {
      pipe.start({ data: (chunk) => void heard.push(chunk), drain: drained, close: resolve })
    })
    while (pipe.write([sample(65_536)]));
    expect(pipe.writable).toBe(false)
    pair.rawB.write([Buffer.from(' and more')])
    pair.rawB.resume()
    await drain
    pair.rawB.end()
    await closed
    expect(Buffer.concat(heard).toString()).toBe('rest and more')
    expect([first.messages.length, first.drains, first.closes.length]).toEqual([1, 0, 0])
  })
})

test('closed in order and then at once, in one turn, its socket is let go', async () => {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  const socket = await connectTcp('127.0.0.1', port)
  const pipe = new SocketPipe(socket)
  pipe.start({ data: () => {}, drain: () => {}, close: () => {} })
  const released = once(socket, 'close', { signal: AbortSignal.timeout(5_000) })
  pipe.write([Uint8Array.of(1)])
  pipe.end()
  pipe.destroy()
  await released
  server.close()
})

describe('connectTcp', () => {
  test.each(['127.0.0.1', '::1', 'localhost'])('a port of %s where nothing listens is unreachable', async (host) => {
    const server = await listen(host === '::1' ? '::1' : '127.0.0.1')
    await server.stop()
    await expect(connectTcp(host, server.port)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
    await expect(connectTcp(host, server.port)).rejects.toThrow(/nothing listens there/)
  })

  test('a name that cannot be found is unreachable', async () => {
    const name = `${'a'.repeat(64)}.invalid` // a label over 63 characters: fails here, no resolver is asked
    await expect(connectTcp(name, 1)).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test.each([0, -1, 65_536, 1.5])('port %d is a typed error', async (port) => {
    const error = await connectTcp('127.0.0.1', port).catch((cause: unknown) => cause)
    expect(error).toEqual(expect.objectContaining({ name: 'PeerlineError' }))
  })

  test('the signal ends it before and during, and leaves no connection', async () => {
    const server = await listen('127.0.0.1')
    closers.push(server.stop)
    const controller = new AbortController()
    const dialling = connectTcp('127.0.0.1', server.port, { signal: controller.signal })
    controller.abort()
    await expect(dialling).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    const late = connectTcp('127.0.0.1', server.port, { signal: controller.signal })
    await expect(late).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })

  test('a deadline in the signal is a timeout', async () => {
    const reason = new DOMException('too slow', 'TimeoutError')
    const dialling = connectTcp('127.0.0.1', 1, { signal: AbortSignal.abort(reason) })
    await expect(dialling).rejects.toThrow(code('ERR_PEERLINE_TIMEOUT'))
  })

  test('the signal has no hold on a connection once it stands', async () => {
    const server = await listen('127.0.0.1')
    closers.push(server.stop)
    const controller = new AbortController()
    const socket = await connectTcp('127.0.0.1', server.port, { signal: controller.signal })
    controller.abort()
    expect(socket.destroyed).toBe(false)
    socket.destroy()
  })

  describe('when one chunk takes longer than a turn', () => {
    const MANY = Array.from({ length: 12 }, (_, at) => sample(50, at))

    /** A pair whose second end takes a millisecond for each message. */
    async function slow(): Promise<Pick<PathPair, 'a' | 'b'> & { at: Recorder; messagesOfTurns: number[] }> {
      const { a, b } = await pairForTest()
      a.start(new Recorder())
      const at = new Recorder()
      const messagesOfTurns = [0]
      at.onMessage = () => {
        messagesOfTurns[0]!++
        for (const end = performance.now() + 1; performance.now() < end; );
        if (messagesOfTurns[0] === 1) setImmediate(() => messagesOfTurns.unshift(0))
      }
      b.start(at)
      return { a, b, at, messagesOfTurns }
    }

    test('its messages come in order, and others are served between them', async () => {
      const { a, at, messagesOfTurns } = await slow()
      for (const message of MANY) a.send([message])
      await at.count(MANY.length)
      expectSame(at.messages, MANY)
      expect(Math.max(...messagesOfTurns)).toBeLessThanOrEqual(7)
    })

    test('all of it comes before the end', async () => {
      const { a, at } = await slow()
      for (const message of MANY) a.send([message])
      a.close()
      expect(await at.end()).toBe('in order')
      expectSame(at.messages, MANY)
    })

    test('nothing of it comes to who has paused, and all of it afterwards', async () => {
      const { a, b, at } = await slow()
      const { onMessage } = at
      at.onMessage = (message) => {
        onMessage!(message)
        if (at.messages.length === 4) b.pause()
      }
      for (const message of MANY) a.send([message])
      await at.count(4)
      await turns(20)
      expect(at.messages.length).toBe(4)
      b.resume()
      await at.count(MANY.length)
      expectSame(at.messages, MANY)
    })

    test('nothing of it comes to who has gone', async () => {
      const { a, b, at } = await slow()
      for (const message of MANY) a.send([message])
      await at.count(4)
      const got = at.messages.length
      b.destroy()
      expect(await at.end()).toBe('in order')
      await turns(20)
      expect([at.messages.length, at.lateCalls]).toEqual([got, 0])
    })
  })
})
