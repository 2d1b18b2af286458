/**
 * Peers that met once, and what they find each other by when what they met by is gone.
 */
import { once as onceOf } from 'node:events'
import net from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import { Identity, openRecord, type Peer, type PeerOptions, signRecord } from '../../src/index.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { once, startPeer, startServer } from './world.ts'

const BODY = new TextEncoder().encode('hello')

async function startEcho(options: PeerOptions = {}): Promise<Peer> {
  const peer = await startPeer(options)
  peer.handle('/echo/1', (request) => request)
  return peer
}

async function ask(from: Peer, to: Peer): Promise<string> {
  const signal = AbortSignal.timeout(15_000)
  return Buffer.from(await from.request(to.id, '/echo/1', BODY, { signal })).toString()
}

/** Ends every session between two peers, and waits until both have noticed. */
async function part(a: Peer, b: Peer): Promise<void> {
  const ended = [a, b].map((peer) => once(peer, 'sessionEnd'))
  for (const session of a.sessions) if (session.peer === b.id) await session.close()
  await Promise.all(ended)
}

describe('a rendezvous of the other side', () => {
  test('that it named in its answer is visited when ours is gone', async () => {
    const [ours, theirs] = [await startServer(), await startServer()]
    const a = await startEcho({ rendezvous: [ours.url], listen: [], udp: false, askPeers: false })
    const b = await startEcho({ rendezvous: [ours.url, theirs.url], listen: [], udp: false })
    await Promise.all([a.online(), b.online()])
    await b.settled()
    expect(await ask(a, b)).toBe('hello')
    expect(a.known.rendezvousOf(b.id)).toEqual([ours.url, theirs.url])
    await part(a, b)
    const gone = once(a, 'offline')
    await ours.close({ signal: AbortSignal.abort() })
    await gone
    expect(await ask(a, b)).toBe('hello')
    const [session] = a.sessions.filter(({ peer }) => peer === b.id)
    expect(session!.why().signaling).toMatchObject([
      { medium: `visiting ${theirs.url.split('#')[0]}`, outcome: 'answered' },
    ])
    // Nobody listens: what connects them is the relay of the place that was visited.
    expect(session!.path).toBe('relay')
  })

  test('in a private network is not visited: a peer cannot send us to whatever is there', async () => {
    const a = await startEcho()
    const b = Identity.generate().peerId
    for (const host of ['10.0.0.1', '192.168.1.1', '169.254.169.254', '[fe80::1]', '[::ffff:10.0.0.1]']) {
      a.known.learnRendezvous(b, [`ws://${host}:80#${b}`])
      await expect(a.connect(b), host).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    }
    a.known.learnRendezvous(b, ['ws://no url', `ws://127.0.0.1:${await freePort()}`])
    expect(a.known.rendezvousOf(b)).toHaveLength(1)
    await expect(a.connect(b)).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_ADDRESS' })
  })

  test('at a banned address is not visited', async () => {
    const theirs = await startServer()
    const a = await startEcho()
    const b = Identity.generate().peerId
    a.bans.ban('127.0.0.0/8')
    a.known.learnRendezvous(b, [theirs.url])
    await expect(a.connect(b)).rejects.toMatchObject({ code: 'ERR_PEERLINE_DENIED' })
    expect(theirs.peer.sessions).toEqual([])
  })
})

test.each(['127.0.0.1', 'localhost'])(
  'a record that names %s does not have us talk to our own machine',
  async (host) => {
    const service = net.createServer((socket) => socket.destroy()).listen(0, '127.0.0.1')
    onTestFinished(() => void service.close())
    await onceOf(service, 'listening')
    let came = 0
    service.on('connection', () => came++)
    const { port } = service.address() as net.AddressInfo
    const a = await startEcho({ listen: [], udp: false })
    const b = Identity.generate()
    const content = { sequence: 1, expiresAt: Date.now() + 60_000, addresses: [`${host}:${port}`] }
    a.known.learnRecord(openRecord(signRecord(b, content)))
    await expect(a.connect(b.peerId)).rejects.toMatchObject({ code: 'ERR_PEERLINE_UNREACHABLE' })
    expect(came).toBe(0)
  },
)

describe('peers of the address book', () => {
  test('are connected to, and introduce us, when nothing else finds a peer', async () => {
    const [a, b, c] = [await startEcho(), await startEcho(), await startEcho({ introduce: true })]
    await a.connect(c.id, { addresses: c.addresses })
    await b.connect(c.id, { addresses: c.addresses })
    await part(a, c)
    // It has never met b, and knows no address of it.
    expect(a.known.has(b.id)).toBe(false)
    expect(await ask(a, b)).toBe('hello')
    expect(a.sessions.map(({ peer }) => peer).sort()).toEqual([b.id, c.id].sort())
  })

  test('are left alone when that is wanted', async () => {
    const [a, b, c] = [await startEcho({ askPeers: false }), await startEcho(), await startEcho({ introduce: true })]
    await a.connect(c.id, { addresses: c.addresses })
    await b.connect(c.id, { addresses: c.addresses })
    await part(a, c)
    await expect(a.connect(b.id)).rejects.toMatchObject({ code: 'ERR_PEERLINE_NO_ADDRESS' })
    expect(a.sessions).toEqual([])
  })

  test('are asked also when a rendezvous that the other side named is no place for us', async () => {
    const [a, b, c] = [await startEcho(), await startEcho(), await startEcho({ introduce: true })]
    await a.connect(c.id, { addresses: c.addresses })
    await b.connect(c.id, { addresses: c.addresses })
    await part(a, c)
    a.known.learnRendezvous(b.id, [`ws://10.0.0.1:80#${c.id}`])
    expect(await ask(a, b)).toBe('hello')
  })

  test('that are gone as well do not help: it is said who was sought, and nothing stays', async () => {
    const [a, c] = [await startEcho(), await startEcho({ introduce: true })]
    await a.connect(c.id, { addresses: c.addresses })
    await c.close()
    const b = Identity.generate().peerId
    await expect(a.connect(b)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_OFFLINE',
      message: expect.stringContaining('no other peer'),
    })
    expect(a.connections).toMatchObject({ pendingOut: 0, total: 0 })
  })
})

test('a rendezvous that refuses us ends no dial; where there is nothing else, it is said', async () => {
  const identity = Identity.generate()
  const server = await startServer()
  server.peer.bans.ban(identity.peerId)
  const b = await startEcho()
  const a = await startEcho({ identity, rendezvous: [server.url] })
  await expect(a.connect(b.id)).rejects.toMatchObject({
    code: 'ERR_PEERLINE_UNREACHABLE',
    message: expect.stringContaining('no rendezvous takes us'),
    cause: expect.objectContaining({ code: 'ERR_PEERLINE_DENIED' }),
  })
  a.known.give(b.id, b.addresses[0])
  expect(await ask(a, b)).toBe('hello')
})

test('addresses that are remembered are tried while a rendezvous does not answer', async () => {
  const silent = `ws://127.0.0.1:${await freePort()}#${Identity.generate().peerId}`
  const b = await startEcho()
  const a = await startEcho({ rendezvous: [silent] })
  a.known.give(b.id, b.addresses[0])
  expect(await ask(a, b)).toBe('hello')
})
