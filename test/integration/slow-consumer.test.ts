/**
 * Readers that do not read, on every kind of path, through real sockets and a real server: who writes to them waits, and
 * nobody else does.
 */
import { randomBytes } from 'node:crypto'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import type { Via } from '../../src/connect/index.ts'
import {
  type IncomingOptions,
  type IncomingStreams,
  type Peer,
  request,
  type Session,
  type Stream,
  type StreamContext,
} from '../../src/index.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { MAX_IN_FLIGHT_BYTES } from '../../src/session/outbox.ts'
import { INITIAL_WINDOW_BYTES } from '../../src/session/stream.ts'
import { readAll, startPeer, startWorld } from './world.ts'

/** ms for anything to happen that must happen. */
const DEADLINE_MS = 10_000

/** A session from one side to the other, and the peer there. */
interface Ends {
  readonly session: Session
  readonly there: Peer
  /** Streams that came there and that nobody reads. */
  readonly readers: Stream[]
  /** The session there. */
  readonly back: () => Session
}

function take(there: Peer, session: Session): Ends {
  const readers: Stream[] = []
  let back: Session | undefined
  there.handleStream('/slow/1', (stream, context) => {
    back = context.session
    readers.push(stream)
  })
  there.handleStream('/echo/1', async (stream) => {
    for await (const chunk of stream) await stream.write(chunk)
    await stream.end()
  })
  return { session, there, readers, back: () => back! }
}

async function connect(via: Via): Promise<Ends> {
  const { a, b } = await startWorld()
  await Promise.all([a.settled(), b.settled()])
  const session = await a.connect(b.id, { via })
  expect(session.path).toBe(via)
  return take(b, session)
}

/** Circuits by WebSocket: as through a proxy that speaks nothing but HTTP. */
async function connectByWebSocketRelay(): Promise<Ends> {
  const port = await freePort()
  const { a, b } = await startWorld({
    server: { listen: `127.0.0.1:${port}`, publicUrl: `ws://127.0.0.1:${port}` },
  })
  const session = await a.connect(b.id, { via: 'relay' })
  expect(session.remote).toMatch(/^relay ws:/)
  return take(b, session)
}

/** The session with the server itself, which came by WebSocket. */
async function connectByWebSocket(): Promise<Ends> {
  const { server, a } = await startWorld()
  const session = a.sessions.find(({ peer }) => peer === server.peer.id)!
  expect(session.remote).toMatch(/^ws:/)
  return take(server.peer, session)
}

const kinds: readonly (readonly [string, () => Promise<Ends>])[] = [
  ['tcp', () => connect('tcp')],
  ['udp', () => connect('udp')],
  ['webrtc', () => connect('webrtc')],
  ['relay', () => connect('relay')],
  ['relay by WebSocket', connectByWebSocketRelay],
  ['websocket', connectByWebSocket],
]

/** Writes `bytes` piece by piece, each when the one before was taken, and counts what was. */
function pour(stream: Stream, bytes: Uint8Array, piece = 16_384): { taken: number; done: Promise<void> } {
  const run = async () => {
    for (let at = 0; at < bytes.length; at += piece) {
      const part = bytes.subarray(at, at + piece)
      await stream.write(part)
      poured.taken += part.length
    }
    await stream.end()
  }
  const poured = { taken: 0, done: Promise.resolve() }
  poured.done = run()
  poured.done.catch(() => {})
  return poured
}

interface Stalled {
  readonly stream: Stream
  readonly poured: ReturnType<typeof pour>
  readonly reader: Stream
}

/** Streams whose readers do not read, with their writers stopped by that. */
async function stall({ session, readers }: Ends, bytes: Uint8Array, count = 1): Promise<Stalled[]> {
  const streams = await Promise.all(Array.from({ length: count }, () => session.open('/slow/1')))
  const pours = streams.map((stream) => pour(stream, bytes))
  const stopped = () => readers.length === count && pours.every(({ taken }) => taken === INITIAL_WINDOW_BYTES)
  await expect.poll(stopped, { timeout: DEADLINE_MS, interval: 5 }).toBe(true)
  return streams.map((stream, at) => ({ stream, poured: pours[at]!, reader: readers[at]! }))
}

/** Sends `bytes` there and back beside what is stalled. */
async function echo(session: Session, bytes: Uint8Array): Promise<void> {
  const stream = await session.open('/echo/1')
  const poured = pour(stream, bytes, 65_536)
  const got = await readAll(stream)
  await poured.done
  expect(Buffer.compare(got, bytes)).toBe(0)
}

describe.each(kinds)('a stream that nobody reads: %s', (_, open) => {
  test('stops its writer after its first window, and nobody else; read at last, it is whole', async () => {
    const ends = await open()
    const { session, there } = ends
    const bytes = randomBytes(6 * INITIAL_WINDOW_BYTES + 17)
    const [{ poured, reader }] = (await stall(ends, bytes)) as [Stalled]
    // More than may be on its way without acknowledgements, and than any buffer on the way holds.
    await echo(session, randomBytes(MAX_IN_FLIGHT_BYTES + 1_000_000))
    const arriving = ends.back().datagrams.receive({ signal: AbortSignal.timeout(DEADLINE_MS) })
    await session.datagrams.send(Buffer.from('a datagram'))
    expect(Buffer.from(await arriving).toString()).toBe('a datagram')
    there.handle('/ask/1', async () => Buffer.from('an answer'))
    expect(Buffer.from(await request(session, '/ask/1', Buffer.from('?'))).toString()).toBe('an answer')
    expect(poured.taken).toBe(INITIAL_WINDOW_BYTES)
    expect(Buffer.compare(await readAll(reader), bytes)).toBe(0)
    await poured.done
    await reader.end()
  })

  test('does not keep the session from ending in order', async () => {
    const ends = await open()
    const [{ stream }] = (await stall(ends, randomBytes(2 * INITIAL_WINDOW_BYTES))) as [Stalled]
    const closed = new Promise((resolve) => {
      ends.session.addEventListener('close', ({ detail }) => resolve(detail.error))
    })
    await ends.back().close({ signal: AbortSignal.timeout(DEADLINE_MS) })
    expect(await closed).toBeUndefined()
    await expect(stream.write(randomBytes(1))).rejects.toMatchObject({ code: 'ERR_PEERLINE_CLOSED' })
  })
})

test.each(['tcp', 'relay'] as const)('200 stalled streams beside a live one hold their windows: %s', async (via) => {
  const ends = await connect(via)
  const bytes = randomBytes(2 * INITIAL_WINDOW_BYTES)
  const stalled = await stall(ends, bytes, 200)
  await echo(ends.session, randomBytes(8_000_000))
  expect(stalled.map(({ poured }) => poured.taken)).toEqual(new Array(200).fill(INITIAL_WINDOW_BYTES))
  for (const at of [0, 99, 199]) {
    const { reader, poured } = stalled[at]!
    expect(Buffer.compare(await readAll(reader), bytes)).toBe(0)
    await poured.done
  }
})

describe('streams taken from a queue', () => {
  async function queue(
    options: IncomingOptions,
  ): Promise<{ session: Session; incoming: IncomingStreams<StreamContext> }> {
    const { session, there } = await connect('tcp')
    const incoming = there.streams('/queue/1', options)
    onTestFinished(async () => {
      await incoming.return()
    })
    return { session, incoming }
  }

  test('by one slow consumer, all of them, in order, when the policy is to block', async () => {
    const { session, incoming } = await queue({})
    const asking = Array.from({ length: 300 }, async (_, n) => {
      const stream = await session.open('/queue/1', { signal: AbortSignal.timeout(DEADLINE_MS) })
      await stream.end(Buffer.from(String(n)))
      return String(await readAll(stream))
    })
    const served: number[] = []
    for await (const { stream, from } of incoming) {
      expect(from).not.toBe(session.peer)
      const asked = String(await readAll(stream))
      served.push(Number(asked))
      await stream.end(Buffer.from(`served ${asked}`))
      if (served.length === asking.length) break
    }
    expect(await Promise.all(asking)).toEqual(asking.map((_, n) => `served ${n}`))
    expect(served).toEqual(served.toSorted((a, b) => a - b))
    // Nobody takes them any more.
    const late = await session.open('/queue/1')
    await expect(readAll(late)).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_PROTOCOL' })
  })

  test('are refused as busy when the policy is to drop', async () => {
    const { session, incoming } = await queue({ policy: 'drop-latest', capacity: 1 })
    const [first, second] = [await session.open('/queue/1'), await session.open('/queue/1')]
    await expect(readAll(second)).rejects.toMatchObject({ code: 'ERR_PEERLINE_BUSY' })
    const { value } = await incoming.next()
    await value!.stream.end(Buffer.from('served'))
    expect(String(await readAll(first))).toBe('served')
    expect(incoming.refused).toBe(1)
  })
})

test('streams come as a queue, which ends when its consumer leaves, and when the peer closes', async () => {
  const [a, b] = [await startPeer(), await startPeer()]
  const session = await a.connect(b.id, { addresses: b.addresses })
  const incoming = b.streams('/queue/1', { policy: 'drop-latest', capacity: 2 })
  const opened = await Promise.all(Array.from({ length: 5 }, () => session.open('/queue/1')))
  await Promise.all(opened.map((stream, at) => stream.write(Uint8Array.of(at))))
  await vi.waitFor(() => expect([incoming.length, incoming.refused]).toEqual([2, 3]))
  const got: number[] = []
  for await (const { stream, from } of incoming) {
    expect(from).toBe(a.id)
    got.push((await stream.next()).value![0]!)
    if (got.length === 2) break
  }
  expect(got).toEqual([0, 1])
  await expect((await session.open('/queue/1')).next()).rejects.toThrow(
    expect.objectContaining({ code: 'ERR_PEERLINE_NO_PROTOCOL' }),
  )
  const next = b.streams('/queue/1').next()
  await b.close()
  expect(await next).toEqual({ done: true, value: undefined })
})
