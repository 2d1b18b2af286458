import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import http from 'node:http'
import net from 'node:net'
import type { Duplex } from 'node:stream'
import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { createWebSocketStream, WebSocketServer } from 'ws'
import { MessageKind, PROTOCOL_VERSION } from '../bytes/index.ts'
import { isPeerlineError } from '../errors.ts'
import { describePath, type PathPair } from './path.compliance.ts'
import { PIPE_HIGH_WATER_BYTES, type Pipe } from './pipe.ts'
import { expectSame, framed, Recorder, sample, turns } from './recorder.compliance.ts'
import {
  CIRCUIT_BYTES,
  mintCircuit,
  RefusedCode,
  RelayPath,
  readCircuit,
  refusalError,
  verifyCircuit,
} from './relay.ts'
import { connectTcp, SocketPipe } from './tcp.ts'
import { connectWebSocket } from './websocket.ts'

const HOST = '127.0.0.1'
const RESERVATION = randomBytes(16)
const SECRET = randomBytes(32)
const JOINED = Uint8Array.of(PROTOCOL_VERSION, MessageKind.JOINED)

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

type Carrier = 'tcp' | 'websocket'

/** Just enough of a relay: reads two CIRCUIT messages, answers JOINED, copies bytes. */
class Splice {
  readonly #streams = new Set<Duplex>()
  readonly #waiting = new Map<string, Duplex>()
  readonly #tcp = net.createServer((socket) => void this.#take(socket))
  readonly #http = http.createServer()
  readonly #webSockets = new WebSocketServer({ server: this.#http, perMessageDeflate: false })
  #joined: () => void = () => {}
  /** Settles at the first circuit. */
  readonly joined = new Promise<void>((resolve) => {
    this.#joined = resolve
  })

  async listen(): Promise<void> {
    this.#webSockets.on('connection', (socket) => {
      const stream = createWebSocketStream(socket)
      void this.#take(stream)
    })
    this.#tcp.listen(0, HOST)
    this.#http.listen(0, HOST)
    await Promise.all([once(this.#tcp, 'listening'), once(this.#http, 'listening')])
  }

  async dial(carrier: Carrier): Promise<Pipe & { waiting(): number }> {
    if (carrier === 'tcp') {
      const socket = await connectTcp(HOST, (this.#tcp.address() as net.AddressInfo).port)
      return Object.assign(new SocketPipe(socket), { waiting: () => socket.writableLength })
    }
    const pipe = await connectWebSocket(`ws://${HOST}:${(this.#http.address() as net.AddressInfo).port}`)
    return Object.assign(pipe, { waiting: () => (pipe.writable ? 0 : PIPE_HIGH_WATER_BYTES) })
  }

  async #take(stream: Duplex): Promise<void> {
    this.#streams.add(stream)
    stream.on('error', () => {})
    const head = await this.#read(stream, 4)
    const token = await this.#read(stream, head.readUInt32BE(0))
    const { circuit } = readCircuit(token)
    expect(verifyCircuit(token, SECRET)).toBe(true)
    const key = circuit.toString()
    const other = this.#waiting.get(key)
    if (other === undefined) {
      this.#waiting.set(key, stream)
      return
    }
    for (const [from, to] of [
      [stream, other],
      [other, stream],
    ] as const) {
      to.write(framed(JOINED))
      from.pipe(to)
      from.on('close', () => {
        if (!to.writableEnded) to.destroy()
      })
    }
    this.#joined()
  }

  async #read(stream: Duplex, bytes: number): Promise<Buffer> {
    for (;;) {
      const read = stream.read(bytes) as Buffer | null
      if (read !== null) return read
      await once(stream, 'readable')
    }
  }

  async stop(): Promise<void> {
    for (const stream of this.#streams) stream.destroy()
    for (const socket of this.#webSockets.clients) socket.terminate()
    this.#webSockets.close()
    this.#http.closeAllConnections()
    await Promise.all([
      new Promise((resolve) => this.#tcp.close(resolve)),
      new Promise((resolve) => this.#http.close(resolve)),
    ])
  }
}

async function relayPair(carrierA: Carrier, carrierB: Carrier): Promise<PathPair & { a: RelayPath; b: RelayPath }> {
  const splice = new Splice()
  await splice.listen()
  const [own, theirs] = mintCircuit(RESERVATION, SECRET, Date.now() + 60_000)
  const [pipeA, rawB] = await Promise.all([splice.dial(carrierA), splice.dial(carrierB)])
  const a = new RelayPath(pipeA, 'splice', own)
  const b = new RelayPath(rawB, 'splice', theirs)
  await splice.joined
  return {
    a,
    b,
    rawB,
    waiting: () => pipeA.waiting(),
    teardown: async () => {
      pipeA.destroy()
      rawB.destroy()
      await splice.stop()
    },
  }
}

describePath('relay, TCP and TCP', () => relayPair('tcp', 'tcp'))
describePath('relay, WebSocket and WebSocket', () => relayPair('websocket', 'websocket'))
describePath('relay, TCP and WebSocket', () => relayPair('tcp', 'websocket'))
describePath('relay, WebSocket and TCP', () => relayPair('websocket', 'tcp'))

/** A circuit path, and the socket at the relay's end of it. */
async function withRelay(): Promise<{ path: RelayPath; atA: Recorder; relay: net.Socket; token: Uint8Array }> {
  const server = net.createServer({ allowHalfOpen: true })
  server.listen(0, HOST)
  await once(server, 'listening')
  const accepted = once(server, 'connection') as Promise<[net.Socket]>
  const socket = await connectTcp(HOST, (server.address() as net.AddressInfo).port)
  const [relay] = await accepted
  closers.push(async () => {
    socket.destroy()
    relay.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  const [token] = mintCircuit(RESERVATION, SECRET, Date.now() + 60_000)
  return { path: new RelayPath(new SocketPipe(socket), 'tcp://relay', token), atA: new Recorder(), relay, token }
}

const refused = (...rest: number[]): Uint8Array => Uint8Array.of(PROTOCOL_VERSION, MessageKind.REFUSED, ...rest)

describe('a circuit', () => {
  test('sends its token at once, and says what it is', async () => {
    const { path, relay, token } = await withRelay()
    const [bytes] = (await once(relay, 'data')) as [Buffer]
    expectSame([bytes], [framed(token)])
    expect([path.kind, path.remote, path.joined]).toEqual(['relay', 'relay tcp://relay', false])
  })

  test('carries what is sent before the relay has joined both sides', async () => {
    const splice = new Splice()
    await splice.listen()
    closers.push(() => splice.stop())
    const [own, theirs] = mintCircuit(RESERVATION, SECRET, Date.now() + 60_000)
    const [atA, atB] = [new Recorder(), new Recorder()]
    const a = new RelayPath(await splice.dial('tcp'), 'splice', own)
    a.start(atA)
    a.send([sample(10)])
    a.send([sample(9_000)])
    await turns(10)
    expect(a.joined).toBe(false)
    const b = new RelayPath(await splice.dial('websocket'), 'splice', theirs)
    b.send([sample(11)])
    b.start(atB)
    await Promise.all([atA.count(1), atB.count(2)])
    expect([a.joined, b.joined]).toEqual([true, true])
    expectSame(atA.messages, [sample(11)])
    expectSame(atB.messages, [sample(10), sample(9_000)])
    a.destroy()
    await atB.end()
  })

  test('hands on what comes in one chunk with JOINED, and nothing of the relay', async () => {
    const { path, atA, relay } = await withRelay()
    path.start(atA)
    relay.write(framed(JOINED, sample(5), JOINED))
    await atA.count(2)
    expectSame(atA.messages, [sample(5), JOINED])
  })

  test('may be handed over before it is joined', async () => {
    const { path, atA, relay } = await withRelay()
    const first = new Recorder()
    path.start(first)
    path.start(atA)
    relay.write(framed(JOINED, sample(5)))
    await atA.count(1)
    expect([first.messages.length, path.joined]).toEqual([0, true])
  })

  test.each([
    [RefusedCode.UNKNOWN, 'ERR_PEERLINE_DENIED'],
    [RefusedCode.TOKEN, 'ERR_PEERLINE_DENIED'],
    [RefusedCode.EXPIRED, 'ERR_PEERLINE_EXPIRED'],
    [RefusedCode.QUOTA, 'ERR_PEERLINE_LIMIT'],
    [RefusedCode.BUSY, 'ERR_PEERLINE_BUSY'],
    [RefusedCode.ABSENT, 'ERR_PEERLINE_TIMEOUT'],
    [0, 'ERR_PEERLINE_DENIED'],
    [255, 'ERR_PEERLINE_DENIED'],
  ])('that the relay refuses with %i ends with %s', async (code, expected) => {
    const { path, atA, relay } = await withRelay()
    path.start(atA)
    relay.write(framed(refused(code), sample(5)))
    expect(await atA.end()).toBe(expected)
    expect([atA.messages.length, path.joined, path.writable]).toEqual([0, false, false])
    expect(refusalError('relay', code).code).toBe(expected)
  })

  test.each([
    ['of another version', Uint8Array.of(2, MessageKind.JOINED), 'ERR_PEERLINE_VERSION'],
    ['of an unknown kind', Uint8Array.of(PROTOCOL_VERSION, 200), 'ERR_PEERLINE_PROTOCOL'],
    ['of another kind', Uint8Array.of(PROTOCOL_VERSION, MessageKind.ATTACHED), 'ERR_PEERLINE_PROTOCOL'],
    ['of one byte', Uint8Array.of(PROTOCOL_VERSION), 'ERR_PEERLINE_PROTOCOL'],
    ['that says more than JOINED', Uint8Array.of(...JOINED, 0), 'ERR_PEERLINE_PROTOCOL'],
    ['that refuses without a code', refused(), 'ERR_PEERLINE_PROTOCOL'],
    ['that refuses with two codes', refused(1, 2), 'ERR_PEERLINE_PROTOCOL'],
  ])('ends at an answer %s', async (_, answer, expected) => {
    const { path, atA, relay } = await withRelay()
    path.start(atA)
    relay.write(framed(answer, sample(5)))
    expect(await atA.end()).toBe(expected)
    expect(atA.messages.length).toBe(0)
  })

  test('that the relay leaves before it has joined it is lost, not ended in order', async () => {
    const { path, atA, relay } = await withRelay()
    path.start(atA)
    relay.end()
    expect(await atA.end()).toBe('ERR_PEERLINE_UNREACHABLE')
  })

  test('whatever a relay answers first, it is JOINED or a typed error', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 4 }), async (bytes) => {
        const { path, atA, relay } = await withRelay()
        path.start(atA)
        relay.end(framed(bytes))
        const end = await atA.end()
        expect(end === 'in order').toBe(Buffer.compare(bytes, JOINED) === 0)
        expect(isPeerlineError(atA.closes[0])).toBe(end !== 'in order')
        await closers.pop()!()
      }),
      { numRuns: 40, examples: [[JOINED]] },
    )
  })
})

describe('a circuit token', () => {
  const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })

  test('says what was minted, one for each side, of one circuit', () => {
    fc.assert(
      fc.property(bytes(16), bytes(32), fc.maxSafeNat(), (reservation, secret, expiresAt) => {
        const tokens = mintCircuit(reservation, secret, expiresAt)
        const claims = tokens.map((token) => readCircuit(token))
        expect(claims.map((claim) => claim.side)).toEqual([0, 1])
        expect(Buffer.compare(claims[0]!.circuit, claims[1]!.circuit)).toBe(0)
        for (const [i, token] of tokens.entries()) {
          expect(token.length).toBe(CIRCUIT_BYTES)
          expect([token[0], token[1]]).toEqual([PROTOCOL_VERSION, MessageKind.CIRCUIT])
          expect(claims[i]!.expiresAt).toBe(expiresAt)
          expect(Buffer.compare(claims[i]!.reservation, reservation)).toBe(0)
          expect(verifyCircuit(token, secret)).toBe(true)
        }
      }),
      { numRuns: 100 },
    )
  })

  test('names another circuit each time', () => {
    const circuits = Array.from({ length: 50 }, () => readCircuit(mintCircuit(RESERVATION, SECRET, 1)[0]).circuit)
    expect(new Set(circuits.map((circuit) => Buffer.from(circuit).toString('hex'))).size).toBe(50)
  })

  test('with any bit flipped is not verified', () => {
    for (const token of mintCircuit(RESERVATION, SECRET, 1_234_567_890_123)) {
      for (let bit = 0; bit < token.length * 8; bit++) {
        const forged = Uint8Array.from(token)
        forged[bit >> 3]! ^= 1 << (bit & 7)
        if (verifyCircuit(forged, SECRET)) expect.fail(`bit ${bit} is not covered`)
      }
    }
  })

  test('minted with another secret is not verified', () => {
    const [token] = mintCircuit(RESERVATION, randomBytes(32), 1)
    expect(verifyCircuit(token, SECRET)).toBe(false)
  })

  test("of one side does not open the other's", () => {
    const [own, theirs] = mintCircuit(RESERVATION, SECRET, 1)
    const mixed = Buffer.concat([own.subarray(0, CIRCUIT_BYTES - 32), theirs.subarray(CIRCUIT_BYTES - 32)])
    expect(verifyCircuit(mixed, SECRET)).toBe(false)
  })

  test('may lie anywhere in a larger buffer', () => {
    const [token] = mintCircuit(RESERVATION, SECRET, 77)
    const inside = Buffer.concat([Buffer.alloc(13, 0xff), token, Buffer.alloc(5, 0xff)]).subarray(13, -5)
    expect(readCircuit(inside)).toEqual(readCircuit(token))
    expect(verifyCircuit(inside, SECRET)).toBe(true)
  })

  test('is read from whatever bytes come, or is a typed error; nothing unminted is verified', () => {
    const [token] = mintCircuit(RESERVATION, SECRET, 77)
    const near = fc.tuple(fc.nat(CIRCUIT_BYTES - 1), fc.nat(255)).map(([at, value]) => {
      const changed = Uint8Array.from(token)
      changed[at] = value
      return changed
    })
    const cut = fc.nat(CIRCUIT_BYTES + 3).map((length) => {
      const changed = new Uint8Array(length)
      changed.set(token.subarray(0, length))
      return changed
    })
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 2 * CIRCUIT_BYTES }), near, cut), (message) => {
        const minted = Buffer.compare(message, token) === 0
        expect(verifyCircuit(message, SECRET)).toBe(minted)
        const wellFormed = message.length === CIRCUIT_BYTES && message[34]! <= 1
        try {
          const claim = readCircuit(message)
          expect(wellFormed).toBe(true)
          expect([claim.reservation.length, claim.circuit.length]).toEqual([16, 16])
          expect(claim.expiresAt).toBeGreaterThanOrEqual(0)
        } catch (error) {
          if (wellFormed) throw error
          expect(error).toMatchObject({ name: 'PeerlineError', code: 'ERR_PEERLINE_PROTOCOL' })
        }
      }),
      { numRuns: 500 },
    )
  })
})
