import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test } from 'vitest'
import type { SocketAddress } from './address.ts'
import { otherAddress, responseOrigin } from './nat-attributes.ts'
import { newId, openProbes, type ProbeAnswer, StunProbe } from './nat-probe.ts'
import { encodeBindingError, encodeBindingRequest, encodeBindingSuccess, parseStunMessage } from './stun.ts'

const HOST = '127.0.0.1'
const SEEN: SocketAddress = { host: '198.41.0.4', port: 7, family: 4 }
const signal = new AbortController().signal
const code = (value: string): unknown => expect.objectContaining({ name: 'PeerlineError', code: value })

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

async function server(
  reply: (id: Uint8Array, send: (datagram: Uint8Array, from?: Socket) => void, request: Uint8Array) => void,
): Promise<SocketAddress> {
  const socket = await bound()
  socket.on('message', (request, { address, port }) => {
    const id = parseStunMessage(request)?.transactionId ?? new Uint8Array(12)
    reply(id, (datagram, from = socket) => from.send(datagram, port, address), request)
  })
  return { host: HOST, port: socket.address().port, family: 4 }
}

async function bound(): Promise<Socket> {
  const socket = createSocket('udp4')
  socket.bind(0, HOST)
  await once(socket, 'listening')
  closers.push(() => new Promise((resolve) => socket.close(() => resolve(undefined))))
  return socket
}

async function probe(): Promise<StunProbe> {
  const opened = await StunProbe.open()
  closers.push(() => opened.close())
  return opened
}

describe('a question', () => {
  test('is answered with all that the reflector says', async () => {
    const [origin, other] = [
      { ...SEEN, port: 8 },
      { ...SEEN, port: 9 },
    ]
    const attributes = [responseOrigin(origin), otherAddress(other)]
    const place = await server((id, send) => send(encodeBindingSuccess(id, SEEN, { attributes })))
    expect(await (await probe()).ask(place, { signal, timeoutMs: 5_000 })).toEqual({
      kind: 'seen',
      mapped: SEEN,
      from: place,
      origin,
      other,
      rttMs: expect.any(Number),
    })
  })

  test('may be answered from elsewhere', async () => {
    const elsewhere = await bound()
    const place = await server((id, send) => send(encodeBindingSuccess(id, SEEN), elsewhere))
    const answer = await (await probe()).ask(place, { signal, timeoutMs: 5_000 })
    expect(answer?.from).toEqual({ host: HOST, port: elsewhere.address().port, family: 4 })
  })

  test('is answered by its own transaction alone', async () => {
    const place = await server((id, send, request) => {
      const forged = encodeBindingSuccess(newId(), { ...SEEN, port: 666 })
      const unusable = [encodeBindingSuccess(id, { ...SEEN, port: 0 }), encodeBindingRequest(id), request]
      for (const datagram of [Buffer.from('noise'), forged, ...unusable]) send(datagram)
      send(encodeBindingSuccess(id, SEEN))
    })
    const answer = await (await probe()).ask(place, { signal, timeoutMs: 5_000 })
    expect(answer).toMatchObject({ kind: 'seen', mapped: SEEN })
  })

  test('may be refused', async () => {
    const place = await server((id, send) => send(encodeBindingError(id, { code: 420, unknown: [3] })))
    const refused: ProbeAnswer = { kind: 'refused', code: 420, from: place }
    const asker = await probe()
    expect(await asker.ask(place, { signal, timeoutMs: 5_000 })).toEqual(refused)
    await expect(asker.reflect(place.host, place.port)).rejects.toThrow(code('ERR_PEERLINE_REMOTE'))
  })

  test('is repeated with the same transaction', async () => {
    const ids: string[] = []
    const place = await server((id, send) => {
      ids.push(Buffer.from(id).toString('hex'))
      if (ids.length === 2) send(encodeBindingSuccess(id, SEEN))
    })
    expect(await (await probe()).ask(place, { signal, timeoutMs: 10_000 })).toMatchObject({ kind: 'seen' })
    expect([ids.length, new Set(ids).size]).toEqual([2, 1])
  })

  test('met with silence is undefined, or a failure where an address is wanted', async () => {
    const place = await server(() => {})
    const asker = await probe()
    expect(await asker.ask(place, { signal, timeoutMs: 30 })).toBeUndefined()
    const asked = asker.reflect(place.host, place.port, { timeoutMs: 30 })
    await expect(asked).rejects.toThrow(code('ERR_PEERLINE_UNREACHABLE'))
  })

  test('to nowhere is silence', async () => {
    expect(await (await probe()).ask({ host: '::1', port: 9 }, { signal, timeoutMs: 30 })).toBeUndefined()
  })

  test('ends with the signal, before and during', async () => {
    const controller = new AbortController()
    const place = await server(() => controller.abort())
    const asker = await probe()
    const asked = () => asker.ask(place, { signal: controller.signal, timeoutMs: 60_000 })
    await expect(asked()).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
    await expect(asked()).rejects.toThrow(code('ERR_PEERLINE_ABORTED'))
  })

  test('ends when the socket is closed', async () => {
    let closing: Promise<void> | undefined
    const asker = await probe()
    const place = await server(() => {
      closing = asker.close()
    })
    expect(await asker.ask(place, { signal, timeoutMs: 60_000 })).toBeUndefined()
    await closing
    expect(await asker.ask(place, { signal, timeoutMs: 60_000 })).toBeUndefined()
  })
})

test('hears the transaction of another, and nothing else', async () => {
  const [listening, other] = await openProbes(2)
  closers.push(
    () => listening!.close(),
    () => other!.close(),
  )
  const id = newId()
  const heard = listening!.hear(id, { signal, timeoutMs: 5_000 })
  const to = { host: HOST, port: listening!.port }
  other!.send(encodeBindingRequest(newId()), to)
  other!.send(encodeBindingRequest(id), to)
  expect(await heard).toMatchObject({
    message: { class: 'request', transactionId: id },
    from: { host: HOST, port: other!.port },
  })
  expect(await listening!.hear(newId(), { signal, timeoutMs: 20 })).toBeUndefined()
})

test('an address that is not of this machine is a typed error', async () => {
  await expect(StunProbe.open(4, '192.0.2.200')).rejects.toThrow(code('ERR_PEERLINE_INVALID'))
})
