import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { DhtSocket } from './dht-socket.ts'
import { anotherHost, bencode } from './private-dht.compliance.ts'

const id = randomBytes(20)
const target = randomBytes(20)
const query = (q: string, a: Parameters<typeof bencode>[0]) => bencode({ t: 'aa', y: 'q', q, a })
const PING = query('ping', { id })
const GET = query('get', { id, target })
const ANSWER = bencode({ t: 'aa', y: 'r', r: { id } })
const END = query('end', { id })

let socket: DhtSocket
let other: Socket
let place: { address: string; port: number }
/** What the library was given, and what the other side. */
let passed: Buffer[]
let arrived: Buffer[]
let stranger: string

beforeEach(async () => {
  stranger = anotherHost()
  socket = await DhtSocket.open(anotherHost(), 0, (ip) => ip !== stranger)
  passed = []
  socket.on('message', (bytes) => passed.push(bytes))
  other = await bound(anotherHost())
  place = other.address()
  arrived = []
  other.on('message', (bytes) => arrived.push(bytes))
})
afterEach(() => {
  socket.close()
  other.close()
})

function bound(host: string): Promise<Socket> {
  const made = createSocket('udp4')
  return new Promise((resolve) => made.bind(0, host, () => resolve(made)))
}

const send = (bytes: Buffer, { address, port } = place) => socket.send(bytes, 0, bytes.length, port, address)
const reply = (bytes: Buffer, from = other) =>
  new Promise<void>((resolve) => from.send(bytes, socket.address().port, socket.address().address, () => resolve()))

describe('what the library sends', () => {
  test('a search asks 256 nodes, and only while somebody waits for it', async () => {
    send(GET)
    socket.beginLookup(target)
    for (let i = 0; i < 300; i++) {
      send(GET)
      // A few at a time: the system holds so many.
      if (i % 50 === 49) await vi.waitFor(() => expect(arrived.length).toBe(Math.min(i + 1, 256)))
    }
    // One that joins in, and goes on when the first has ended.
    socket.beginLookup(target)
    send(GET)
    socket.endLookup(target)
    send(GET)
    socket.endLookup(target)
    send(GET)
    send(END)
    await vi.waitFor(() => expect(arrived.at(-1)).toEqual(END))
    expect(arrived.length).toBe(259)
  })

  test('goes to no port 0, no name, and nobody with whom we do not talk', async () => {
    const unheard = await bound(stranger)
    unheard.on('message', (bytes) => arrived.push(bytes))
    send(PING, unheard.address())
    send(PING, { address: 'localhost', port: place.port })
    send(PING, { address: place.address, port: 0 })
    send(Buffer.from('no message'))
    send(END)
    await vi.waitFor(() => expect(arrived).toEqual([END]))
    unheard.close()
  })
})

describe('what the library is given', () => {
  test('answers come from whom we asked, one for each question', async () => {
    await reply(ANSWER)
    await vi.waitFor(() => expect(socket.dropped).toBe(1))
    send(PING)
    await vi.waitFor(() => expect(arrived).toEqual([PING]))
    await reply(ANSWER)
    await reply(ANSWER)
    await vi.waitFor(() => expect(socket.dropped).toBe(2))
    expect(passed).toEqual([ANSWER])
  })

  test('nothing from those with whom we do not talk, and nothing too long', async () => {
    const unheard = await bound(stranger)
    await reply(PING, unheard)
    await reply(bencode({ t: 'aa', y: 'q', q: 'ping', a: { id, x: Buffer.alloc(2_048) } }))
    await reply(Buffer.from('no message'))
    await vi.waitFor(() => expect(socket.dropped).toBe(3))
    await reply(PING)
    await vi.waitFor(() => expect(passed).toEqual([PING]))
    unheard.close()
  })

  test.each([false, true])('fifty questions a second of one source, also of one that was asked: %s', async (asked) => {
    vi.useFakeTimers({ toFake: ['performance'] })
    if (asked) send(PING)
    for (let i = 1; i <= 80; i++) {
      await reply(PING)
      if (i % 20 === 0) await vi.waitFor(() => expect(passed.length + socket.dropped).toBe(i), { interval: 1 })
    }
    vi.useRealTimers()
    expect(passed.length).toBe(50)
  })

  test('one that the library throws on costs nothing else', async () => {
    socket.on('message', () => {
      throw new TypeError('token.equals is not a function')
    })
    await reply(PING)
    await reply(END)
    await vi.waitFor(() => expect(socket.dropped).toBe(2))
    expect(passed).toEqual([PING, END])
  })
})
