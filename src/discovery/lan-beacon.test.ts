import { randomBytes } from 'node:crypto'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import fc from 'fast-check'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { freePort } from '../network/free-port.compliance.ts'
import { Beacons, type BeaconsOptions, encodeBeacon, encodeQuestion, readBeacon } from './lan-beacon.ts'
import { MAX_LAN_RECORD_BYTES } from './lan-record.ts'

const bytes = (size = 40) => new Uint8Array(randomBytes(size))
const code = (text: string) => expect.objectContaining({ name: 'PeerlineError', code: text })

const open: { close(): unknown }[] = []
afterEach(async () => {
  vi.useRealTimers()
  for (const one of open.splice(0)) await one.close()
})

describe('the wire of beacons', () => {
  test('what was written is read', () => {
    const record = bytes(MAX_LAN_RECORD_BYTES)
    expect(readBeacon(encodeBeacon('beacon', record))).toEqual({ kind: 'beacon', record })
    expect(readBeacon(encodeBeacon('answer', record))).toEqual({ kind: 'answer', record })
    expect(readBeacon(encodeQuestion())).toEqual({ kind: 'question' })
    expect(Buffer.from(encodeBeacon('answer', record)).subarray(0, 6).toString('latin1')).toBe('PRLD\x01\x02')
  })

  test.each([
    ['too large', encodeBeacon('beacon', bytes(MAX_LAN_RECORD_BYTES + 1))],
    ['of another kind', Uint8Array.from([...Buffer.from('PRLD'), 1, 4, 0])],
    ['of no kind', Uint8Array.from([...Buffer.from('PRLD'), 1, 0, 0])],
    ['of another version', Uint8Array.from([...Buffer.from('PRLD'), 2, 1, 0])],
    ['of the signaling beside it', Uint8Array.from([...Buffer.from('PRLN'), 1, 1, 0])],
    ['cut short', encodeBeacon('beacon', bytes()).subarray(0, 5)],
    ['a question that is shorter than its answers', encodeQuestion().subarray(0, 511)],
  ])('%s: it is none of ours', (_, datagram) => {
    expect(readBeacon(datagram)).toBeUndefined()
  })

  test('whatever comes, it is read or it is not', () => {
    const head = Uint8Array.from([...Buffer.from('PRLD'), 1])
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 1_300 }), fc.nat({ max: 6 }), (noise, kept) => {
        const datagram = Uint8Array.from([...head.subarray(0, kept), ...noise])
        const read = readBeacon(datagram)
        if (read !== undefined && read.kind !== 'question')
          expect(encodeBeacon(read.kind, read.record)).toEqual(datagram)
      }),
    )
  })
})

async function beacons(ports: readonly number[], options: Partial<BeaconsOptions> = {}) {
  const heard: Uint8Array[] = []
  const made = await Beacons.open({
    ...{ ports, filter: { include: [], loopback: true } },
    own: () => undefined,
    others: () => 0,
    onRecord: (record) => {
      heard.push(new Uint8Array(record))
      return false
    },
    ...options,
  })
  open.push(made)
  return { beacons: made, heard }
}

/** Somebody on the network; `port`: who hears what is broadcast. */
async function stranger(options: { port?: number; address?: string } = {}) {
  const socket: Socket = createSocket({ type: 'udp4', reuseAddr: true })
  open.push({ close: () => once(socket.close(), 'close') })
  socket.bind(options.port ?? 0, options.address ?? '0.0.0.0')
  await once(socket, 'listening')
  const got: unknown[] = []
  socket.on('message', (message) => got.push(readBeacon(new Uint8Array(message))))
  const send = (message: Uint8Array, port: number) =>
    new Promise<void>((resolve, reject) =>
      socket.send(message, port, '127.0.0.1', (error) => (error === null ? resolve() : reject(error))),
    )
  return { got, send }
}

describe('beacons', () => {
  test('reach everyone by multicast, and who hears none of it by broadcast', async () => {
    const port = await freePort()
    const record = bytes()
    const { heard } = await beacons([port])
    const deaf = await stranger({ port })
    const { beacons: sender } = await beacons([port], { own: () => ({ bytes: record }) })
    sender.send()
    await vi.waitFor(() => expect(heard.length).toBe(2)) // by both
    await vi.waitFor(() => expect(deaf.got).toContainEqual({ kind: 'beacon', record }))
    expect(heard).toEqual([record, record])
  })

  test('go to every port there is', async () => {
    const ports = [await freePort(), await freePort()]
    const record = bytes()
    const listeners = [await beacons([ports[0]!]), await beacons([ports[1]!])]
    const { beacons: sender } = await beacons(ports, { own: () => ({ bytes: record }) })
    sender.send()
    for (const { heard } of listeners) await vi.waitFor(() => expect(heard).toContainEqual(record))
  })

  test('of one who tells nothing ask a question', async () => {
    const port = await freePort()
    const { got } = await stranger({ port })
    const { beacons: sender } = await beacons([port])
    sender.send()
    await vi.waitFor(() => expect(got).toContainEqual({ kind: 'question' }))
  })

  test('that tell something new are answered, as questions are; others, and answers, are not', async () => {
    const port = await freePort()
    const [own, news, old] = [bytes(), bytes(), bytes()]
    const { heard } = await beacons([port], {
      own: () => ({ bytes: own }),
      onRecord: (record) => {
        heard.push(new Uint8Array(record))
        return Buffer.from(record).equals(news)
      },
    })
    const { send, got } = await stranger({ address: '127.0.0.1' })
    await send(encodeBeacon('beacon', old), port)
    await send(encodeBeacon('answer', news), port)
    await send(encodeBeacon('beacon', news), port)
    await send(encodeQuestion(), port)
    await vi.waitFor(() => expect(got.length).toBe(2))
    expect(heard).toEqual([old, news, news])
    expect(got).toEqual(Array(2).fill({ kind: 'answer', record: own }))
  })

  test('who tells nothing of itself answers nobody', async () => {
    const port = await freePort()
    const quiet = vi.fn(() => true)
    await beacons([port], { onRecord: quiet })
    const own = bytes()
    const { send, got } = await stranger({ address: '127.0.0.1' })
    await send(encodeBeacon('beacon', bytes()), port)
    await send(encodeQuestion(), port)
    await vi.waitFor(() => expect(quiet).toHaveBeenCalledTimes(1))
    await beacons([port], { own: () => ({ bytes: own }) })
    await vi.waitFor(async () => {
      await send(encodeQuestion(), port)
      expect(got.length).toBeGreaterThan(0)
    })
    expect(got[0]).toEqual({ kind: 'answer', record: own })
  })

  test('a forged source is sent few answers', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const port = await freePort()
    const onRecord = vi.fn(() => true)
    await beacons([port], { own: () => ({ bytes: bytes() }), onRecord })
    const { send, got } = await stranger({ address: '127.0.0.1' })
    const other = await stranger({ address: '127.0.0.2' })
    for (let at = 0; at < 30; at++) await send(encodeQuestion(), port)
    await other.send(encodeQuestion(), port)
    await vi.waitFor(() => expect(other.got.length).toBe(1))
    await vi.waitFor(() => expect(got.length).toBe(5))
    vi.advanceTimersByTime(1_000)
    await send(encodeBeacon('beacon', bytes()), port)
    await vi.waitFor(() => expect(got.length).toBe(6))
  })

  test('of a flood of one source few are looked at', async () => {
    vi.useFakeTimers({ toFake: ['performance'] })
    const port = await freePort()
    const { heard } = await beacons([port])
    const { send } = await stranger({ address: '127.0.0.1' })
    for (let at = 0; at < 80; at++) await send(encodeBeacon('beacon', bytes()), port)
    const other = await stranger({ address: '127.0.0.2' })
    const last = bytes()
    await other.send(encodeBeacon('beacon', last), port)
    await vi.waitFor(() => expect(heard).toContainEqual(last))
    expect(heard.length).toBe(51)
  })

  test('answers to a newcomer are spread, the more the more there are, and none is sent after the end', async () => {
    const port = await freePort()
    const { send, got } = await stranger({ address: '127.0.0.1' })
    const { beacons: crowded } = await beacons([port], { own: () => ({ bytes: bytes() }), others: () => 1_000_000 })
    const wait = vi.spyOn(globalThis, 'setTimeout')
    vi.spyOn(Math, 'random').mockReturnValue(0.5)
    await send(encodeQuestion(), port)
    await vi.waitFor(() => expect(wait).toHaveBeenCalledWith(expect.anything(), 500))
    const stop = vi.spyOn(globalThis, 'clearTimeout')
    await crowded.close()
    const at = wait.mock.calls.findIndex(([, ms]) => ms === 500)
    expect(stop).toHaveBeenCalledWith(wait.mock.results[at]!.value)
    vi.restoreAllMocks()
    expect(got).toEqual([])
  })

  test('a port that another program keeps to itself does not keep the others from working', async () => {
    const v4 = createSocket('udp4')
    const v6 = createSocket({ type: 'udp6', ipv6Only: true })
    open.push(...[v4, v6].map((holder) => ({ close: () => once(holder.close(), 'close') })))
    v4.bind(0)
    await once(v4, 'listening')
    const { port } = v4.address()
    v6.bind(port)
    await once(v6, 'listening')
    await expect(beacons([port])).rejects.toEqual(code('ERR_PEERLINE_ADDRESS_IN_USE'))
    await beacons([port, await freePort()])
  })
})
