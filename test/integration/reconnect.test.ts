/** Sessions that lose every path: they come back, by whatever is left, and nothing is lost; or end, and say why. */
import { createHash, randomBytes } from 'node:crypto'
import type net from 'node:net'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { Identity, Peer, Session, type Stream } from '../../src/index.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { Server } from '../../src/server/index.ts'
import { cut, once, portOf, readAll, startPeer, startServer, watchSockets } from './world.ts'

const code = (code: string) => expect.objectContaining({ name: 'PeerlineError', code })
const PIECE = randomBytes(256 * 1024)
const PIECES = 64

/** Cuts every connection there is, from both ends, without a goodbye. */
function cutAll(sockets: readonly net.Socket[]): void {
  for (const socket of sockets) if (!socket.destroyed) socket.resetAndDestroy()
}

/** Sends to `/bulk/1`, and tells what arrived. `atPiece` is called before each piece goes out. */
async function transfer(
  session: Session,
  receiver: Peer,
  atPiece: (piece: number) => Promise<void> | void,
): Promise<{ sent: string; received: string }> {
  const received = new Promise<string>((resolve, reject) => {
    receiver.handleStream('/bulk/1', (stream: Stream) => {
      const hash = createHash('sha256')
      const read = async () => {
        for await (const chunk of stream) hash.update(chunk)
        return hash.digest('hex')
      }
      read().then(resolve, reject)
    })
  })
  received.catch(() => {})
  const stream = await session.open('/bulk/1')
  const hash = createHash('sha256')
  for (let piece = 0; piece < PIECES; piece++) {
    await atPiece(piece)
    hash.update(PIECE)
    await stream.write(PIECE)
  }
  await stream.end()
  return { sent: hash.digest('hex'), received: await received }
}

/** States that a session goes through. */
function states(session: Session): string[] {
  const seen: string[] = []
  for (const type of ['reconnecting', 'reconnected', 'close'] as const) {
    session.addEventListener(type, () => seen.push(type))
  }
  return seen
}

describe('a session that loses every path in the middle of a transfer', () => {
  test('dialled at an address, is there again by the same address', async () => {
    const sockets = watchSockets()
    const [a, b] = [await startPeer(), await startPeer()]
    const session = await a.connect(b.id, { addresses: b.addresses })
    const seen = states(session)
    const back = once(session, 'reconnected')
    const { sent, received } = await transfer(session, b, (piece) => {
      if (piece === 20) cut(sockets, portOf(b.addresses[0]!))
    })
    await back
    expect(received).toBe(sent)
    expect(seen).toEqual(['reconnecting', 'reconnected'])
  })

  test.each(['auto', 'relay'] as const)('by %s, while its server goes and comes again, goes on', async (via) => {
    const sockets = watchSockets()
    const identity = Identity.generate()
    const server = await Server.create({ listen: `127.0.0.1:${await freePort()}`, identity })
    // Without UDP, whose paths nobody cuts here.
    const options = { rendezvous: [server.url], via, udp: false, ...(via === 'relay' ? { listen: [] } : {}) }
    const [a, b] = [await startPeer(options), await startPeer(options)]
    await Promise.all([a.online(), b.online()])
    const session = await a.connect(b.id)
    const seen = states(session)
    const back = once(session, 'reconnected')
    const { sent, received } = await transfer(session, b, async (piece) => {
      if (piece !== 20) return
      cutAll(sockets)
      await server.close({ signal: AbortSignal.abort() })
      const again = await Server.create({ listen: `127.0.0.1:${portOf(server.url)}`, identity })
      onTestFinished(() => again.close({ signal: AbortSignal.timeout(500) }))
    })
    await back
    expect(received).toBe(sent)
    expect(seen).toEqual(['reconnecting', 'reconnected'])
    expect(a.sessions.filter(({ peer }) => peer === b.id)).toEqual([session])
  })

  test('by WebRTC alone, describes itself anew by the server', async () => {
    const attach = vi.spyOn(Session.prototype, 'attach')
    onTestFinished(() => attach.mockRestore())
    const { url } = await startServer()
    const options = { rendezvous: [url], via: 'webrtc', webrtc: {} } as const
    const [a, b] = [await startPeer(options), await startPeer(options)]
    await Promise.all([a.online(), b.online()])
    const session = await a.connect(b.id)
    expect(session.path).toBe('webrtc')
    const seen = states(session)
    const { sent, received } = await transfer(session, b, (piece) => {
      if (piece === 20) for (const [path] of attach.mock.calls) path.destroy()
    })
    expect(received).toBe(sent)
    expect(seen).toEqual(['reconnecting', 'reconnected'])
    expect(session.path).toBe('webrtc')
  })

  test('by a relay that dies for good, moves to another', async () => {
    const sockets = watchSockets()
    const [first, second] = [await Server.create({ listen: '127.0.0.1:0' }), await startServer()]
    const options = { rendezvous: [first.url, second.url], via: 'relay', listen: [] } as const
    const [a, b] = [await startPeer(options), await startPeer(options)]
    for (const peer of [a, b]) {
      for (const { url } of [first, second]) {
        if (peer.rendezvous.find(({ online, address }) => online && url.startsWith(address)) === undefined) {
          await once<{ rendezvous: string }>(peer, 'online', ({ rendezvous }) => url.startsWith(rendezvous))
        }
      }
    }
    const session = await a.connect(b.id, { relay: { url: first.url } })
    expect(portOf(session.remote!)).toBe(portOf(first.url))
    const { sent, received } = await transfer(session, b, async (piece) => {
      if (piece !== 20) return
      cut(sockets, portOf(first.url))
      await first.close({ signal: AbortSignal.abort() })
    })
    expect(received).toBe(sent)
    expect(session.state).toBe('open')
    expect(portOf(session.remote!)).toBe(portOf(second.url))
  })
})

describe('a session whose other side', () => {
  test('was started again ends at once, and says so', async () => {
    const server = await startServer()
    const identity = Identity.generate()
    const options = { rendezvous: [server.url] }
    const a = await startPeer(options)
    const b = await Peer.create({ identity, listen: ['127.0.0.1:0'], firewall: { allow: 'all' }, ...options })
    await Promise.all([a.online(), b.online()])
    const session = await a.connect(b.id)
    const stream = await session.open('/never/1')
    const read = readAll(stream)
    const ended = once<{ error: unknown }>(session, 'close')
    // A crash: its sockets end, and it says nothing.
    for (const one of b.sessions) one.endedThere(undefined)
    await b.close({ signal: AbortSignal.abort() })
    const again = await startPeer({ identity, ...options })
    await again.online()
    expect(await ended).toEqual({ error: code('ERR_PEERLINE_UNKNOWN_SESSION') })
    await expect(read).rejects.toThrow(code('ERR_PEERLINE_UNKNOWN_SESSION'))
    expect((await a.connect(b.id)).state).toBe('open')
  })

  test('dialled at an address, was started again there, ends at once', async () => {
    const identity = Identity.generate()
    const a = await startPeer()
    const b = await Peer.create({ identity, listen: [`127.0.0.1:${await freePort()}`], firewall: { allow: 'all' } })
    const listen = b.addresses
    const session = await a.connect(b.id, { addresses: listen })
    const ended = once<{ error: unknown }>(session, 'close')
    for (const one of b.sessions) one.endedThere(undefined)
    await b.close({ signal: AbortSignal.abort() })
    await startPeer({ identity, listen })
    expect(await ended).toEqual({ error: code('ERR_PEERLINE_UNKNOWN_SESSION') })
  })

  test('closed it meanwhile ends without an error', async () => {
    const sockets = watchSockets()
    const server = await startServer()
    const options = { rendezvous: [server.url] }
    const [a, b] = [await startPeer(options), await startPeer(options)]
    await Promise.all([a.online(), b.online()])
    const session = await a.connect(b.id)
    const there = b.sessions.find(({ peer }) => peer === a.id)!
    const ended = once<{ error: unknown }>(session, 'close')
    cutAll(sockets)
    there.endedThere(undefined)
    expect(await ended).toEqual({ error: undefined })
  })

  test('does not come back in time ends with one typed error, on both sides and on every stream', async () => {
    const sockets = watchSockets()
    const server = await Server.create({ listen: '127.0.0.1:0' })
    const options = { rendezvous: [server.url], reconnectMs: 700, via: 'relay', listen: [] } as const
    const [a, b] = [await startPeer(options), await startPeer(options)]
    await Promise.all([a.online(), b.online()])
    const session = await a.connect(b.id)
    const arrived = new Promise<Stream>((resolve) => b.handleStream('/never/1', (stream) => resolve(stream)))
    const streams = [await session.open('/never/1'), await session.open('/never/2')]
    await streams[0]!.write(Uint8Array.of(1))
    const there = await arrived
    const ends = [...streams, there].map((stream) => readAll(stream).catch((error) => error))
    const closes = [session, b.sessions.find(({ peer }) => peer === a.id)!].map((one) => once(one, 'close'))
    cutAll(sockets)
    await server.close({ signal: AbortSignal.abort() })
    const lost = code('ERR_PEERLINE_PATH_LOST')
    expect(await Promise.all(closes)).toEqual([{ error: lost }, { error: lost }])
    expect(await Promise.all(ends)).toEqual([lost, expect.anything(), lost])
  })
})

test('writers are held back while there is no path, and nothing is taken without end', async () => {
  const sockets = watchSockets()
  const server = await Server.create({ listen: '127.0.0.1:0' })
  const options = { rendezvous: [server.url], reconnectMs: 2_000, via: 'relay', listen: [] } as const
  const [a, b] = [await startPeer(options), await startPeer(options)]
  await Promise.all([a.online(), b.online()])
  const session = await a.connect(b.id)
  b.handleStream('/bulk/1', (stream) => void readAll(stream).catch(() => {}))
  const gone = once(session, 'reconnecting')
  cutAll(sockets)
  await server.close({ signal: AbortSignal.abort() })
  await gone
  const stream = await session.open('/bulk/1')
  let written = 0
  const writing = (async () => {
    for (;;) {
      await stream.write(PIECE)
      written += PIECE.length
    }
  })().catch((error) => error)
  expect(await writing).toEqual(code('ERR_PEERLINE_PATH_LOST'))
  expect(written).toBeLessThanOrEqual(2 * 1024 * 1024)
})
