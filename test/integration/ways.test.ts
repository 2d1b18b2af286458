/**
 * Which ways a session may use, and what is told of us on them: on real sockets, without any NAT. What NATs make of it is
 * tested in the lab.
 */
import { describe, expect, test } from 'vitest'
import { decodeBody, encodeBody, parseServerAddress, type Via } from '../../src/connect/index.ts'
import { createOffer, openOffer, ReplayCache } from '../../src/handshake/index.ts'
import { Identity, type Peer, type Session } from '../../src/index.ts'
import type { Server } from '../../src/server/index.ts'
import { Rendezvous } from '../../src/signaling/index.ts'
import { once, startPeer, startServer, startWorld } from './world.ts'

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString()

/** A session with the server, as any peer may have one. */
function dialServer(peer: Peer, server: Server): Promise<Session> {
  const { port } = parseServerAddress(server.url)
  return peer.connect(server.peer.id, { addresses: [`127.0.0.1:${port}`], via: 'direct' })
}

function echo(peer: Peer): void {
  peer.handle('/echo/1', async (body) => body)
}

async function ask(from: Peer, to: Peer, via: Via): Promise<string> {
  return text(await from.request(to.id, '/echo/1', Buffer.from('hello'), { via }))
}

describe('one kind of path alone', () => {
  test.each<Via>(['tcp', 'udp', 'webrtc', 'relay'])('%s', async (via) => {
    const { a, b } = await startWorld()
    await Promise.all([a.settled(), b.settled()])
    echo(b)
    const session = await a.connect(b.id, { via })
    expect(session.path).toBe(via)
    expect(await ask(a, b, via)).toBe('hello')
    expect([...new Set(session.paths)]).toEqual([via])
    const why = session.why()
    expect(why).toMatchObject({ peer: b.id, path: via })
    expect(why.reasons.length).toBeGreaterThan(0)
    expect(JSON.parse(JSON.stringify(why))).toMatchObject({ path: via })
  })

  test('udp carries bulk data whole', async () => {
    const { a, b } = await startWorld()
    await Promise.all([a.settled(), b.settled()])
    const sent = Buffer.alloc(8 << 20, 'peerline')
    b.handleStream('/sink/1', async (stream) => {
      let bytes = 0
      for await (const chunk of stream) {
        expect(Buffer.compare(chunk, sent.subarray(bytes, bytes + chunk.length))).toBe(0)
        bytes += chunk.length
      }
      await stream.end(Buffer.from(String(bytes)))
    })
    const stream = await a.open(b.id, '/sink/1', { via: 'udp' })
    const answer = (async () => {
      for await (const chunk of stream) return text(chunk)
      return ''
    })()
    await stream.end(sent)
    expect(await answer).toBe(String(sent.length))
  })

  test('a way that the other side does not have says so', async () => {
    const { a, b } = await startWorld({ b: { webrtc: false } })
    await expect(a.connect(b.id, { via: 'webrtc' })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_NO_PATH',
      message: expect.stringContaining('the other side has no WebRTC'),
    })
  })

  test('a session has a TCP and a UDP path in the end, and one of each', async () => {
    const { a, b } = await startWorld()
    await Promise.all([a.settled(), b.settled()])
    const session = await a.connect(b.id)
    const both = (one: Session) => one.paths.includes('tcp') && one.paths.includes('udp')
    while (!both(session)) await new Promise((resolve) => setTimeout(resolve, 20))
    expect(session.path).toBe('tcp')
    expect(session.why().paths.filter(({ kind }) => kind === 'udp')).toHaveLength(1)
  })
})

describe('relays alone: no address is told', () => {
  /** Somebody at the rendezvous who opens what is sent, and answers nothing. */
  async function eavesdrop(
    server: Server,
  ): Promise<{ identity: Identity; offers: ReturnType<typeof openOffer>[]; peer: Peer }> {
    const peer = await startPeer()
    const session = await dialServer(peer, server)
    const offers: ReturnType<typeof openOffer>[] = []
    const replay = new ReplayCache()
    await Rendezvous.register(session, {
      name: 'test',
      listed: true,
      onOffer: async (message) => {
        offers.push(openOffer(peer.identity, message, { replay }))
        return undefined
      },
      signal: AbortSignal.timeout(5_000),
    })
    return { identity: peer.identity, offers, peer }
  }

  test.each([
    ['a dial by relay', {}, { via: 'relay' as const }],
    ['a peer of relays alone', { via: 'relay' as const }, {}],
  ])('in the offer of %s', async (_, options, dial) => {
    const server = await startServer()
    const ear = await eavesdrop(server)
    const a = await startPeer({ rendezvous: [server.url], ...options })
    await a.online()
    await a.settled()
    const stop = new AbortController()
    const dialling = a.reach(ear.peer.id, { ...dial, signal: stop.signal })
    while (ear.offers.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))
    stop.abort()
    await expect(dialling).rejects.toMatchObject({ code: 'ERR_PEERLINE_ABORTED' })
    const body = decodeBody(ear.offers[0]!.body)
    // What a rendezvous is called says nothing of where a peer is.
    expect(body).toEqual({ candidates: [], circuits: [expect.anything()], hidden: true, rendezvous: [server.url] })
  })

  test('in the answer of a peer of relays alone, nor to one that hides', async () => {
    const server = await startServer()
    const hidden = await startPeer({ rendezvous: [server.url], via: 'relay' })
    const open = await startPeer({ rendezvous: [server.url] })
    const asker = await startPeer()
    await Promise.all([hidden.online(), open.online()])
    await Promise.all([hidden.settled(), open.settled()])
    const signal = AbortSignal.timeout(5_000)
    const bodies: unknown[] = []
    for (const [to, told] of [
      [hidden, {}],
      [open, { hidden: true }],
      [open, {}],
    ] as const) {
      const offer = createOffer(asker.identity, to.id, { body: encodeBody(told) })
      const own = await Rendezvous.register(await dialServer(asker, server), {
        name: 'test',
        listed: false,
        onOffer: async () => undefined,
        signal,
      })
      const answer = await own.exchange(to.id, offer.requestId, offer.message, { signal })
      bodies.push(decodeBody(offer.complete(answer).body))
    }
    expect(bodies.slice(0, 2)).toEqual([
      { candidates: [], circuits: [], hidden: true, rendezvous: [server.url] },
      { candidates: [], circuits: [], hidden: true, rendezvous: [server.url] },
    ])
    // The same question without hiding gets addresses: the test can tell.
    expect((bodies[2] as { candidates: unknown[] }).candidates.length).toBeGreaterThan(0)
  })

  test('and it cannot be talked into another way', async () => {
    const { a, b } = await startWorld({ a: { via: 'relay' } })
    await expect(a.connect(b.id, { via: 'direct' })).rejects.toMatchObject({ code: 'ERR_PEERLINE_INVALID' })
    const session = await a.connect(b.id)
    expect(session.path).toBe('relay')
    expect(session.why().reasons[0]).toMatch(/relays alone/)
    const back = await b.connect(a.id)
    expect(back.paths).toEqual(['relay'])
  })
})

test('what the address book prefers holds for every dial that says nothing else', async () => {
  const { a, b } = await startWorld()
  a.known.prefer(b.id, { via: 'tcp' })
  const session = await a.connect(b.id)
  expect(session.path).toBe('tcp')
  expect(session.pathHistory.every(({ kind }) => kind === 'tcp')).toBe(true)
  await session.close()
  expect((await a.connect(b.id, { via: 'relay' })).path).toBe('relay')
})

describe('a chosen relay', () => {
  test('carries the circuit, alone if that is wanted', async () => {
    const { server, a, b } = await startWorld()
    const other = await startServer()
    const session = await a.connect(b.id, { relay: { url: other.url, exclusive: true } })
    expect(session.remote).toContain(other.url.match(/:\d+/)![0])
    expect(session.paths).toEqual(['relay'])
    const again = await a.connect(b.id, { relay: { url: server.url, exclusive: true } })
    expect(again.remote).toContain(server.url.match(/:\d+/)![0])
  })

  test('not alone: direct paths are found beside it', async () => {
    const { a, b } = await startWorld()
    const other = await startServer()
    const session = await a.connect(b.id, { relay: { url: other.url } })
    if (session.path !== 'tcp') await once(session, 'path', ({ to }: { to: string }) => to === 'tcp')
    expect(session.path).toBe('tcp')
  })

  test('that is not there fails the dial, and says which', async () => {
    const { a, b } = await startWorld()
    const url = `ws://127.0.0.1:1#${Identity.generate().peerId}`
    await expect(a.connect(b.id, { relay: { url, exclusive: true } })).rejects.toMatchObject({
      code: 'ERR_PEERLINE_UNREACHABLE',
    })
  })
})
