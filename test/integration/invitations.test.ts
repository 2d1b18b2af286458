/**
 * Invitations, from the secret to the session: by signaling, by a direct dial, once, and not for whoever is shut out.
 */
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { FileStore, Identity, Peer, type PeerOptions } from '../../src/index.ts'
import { temporaryDirectory } from '../../src/temporary.compliance.ts'
import { startPeer, startServer } from './world.ts'

const BODY = new TextEncoder().encode('hello')
const denied = { code: 'ERR_PEERLINE_DENIED' }

/** A peer that lets nobody in, and answers. */
async function startHost(options: PeerOptions = {}): Promise<Peer> {
  const peer = await startPeer({ firewall: {}, ...options })
  peer.handle('/echo/1', (request) => request)
  peer.handle('/other/1', (request) => request)
  return peer
}

describe.each([
  ['an address', async (host: Peer) => ({ guest: {}, dial: { addresses: host.addresses } })],
  ['a rendezvous', async (_: Peer, url: string) => ({ guest: { rendezvous: [url] }, dial: {} })],
] as const)('by %s', (_, how) => {
  async function meet() {
    const server = await startServer()
    const host = await startHost({ rendezvous: [server.url] })
    await host.online()
    const { guest, dial } = await how(host, server.url)
    const start = () => startPeer({ listen: [], udp: false, ...guest })
    return { host, dial, start }
  }

  test('a stranger is let in by an invitation, once, and may come again', async () => {
    const { host, dial, start } = await meet()
    const [a, b] = [await start(), await start()]
    await expect(a.connect(host.id, dial)).rejects.toMatchObject(denied)
    const { capability } = host.invitations.mint({ objects: ['/echo/1'] })
    const session = await a.connect(host.id, { ...dial, capability })
    expect(Buffer.from(await a.request(host.id, '/echo/1', BODY)).toString()).toBe('hello')
    // The grant is for one protocol.
    await expect(a.request(host.id, '/other/1', BODY)).rejects.toMatchObject(denied)
    // It was for one peer.
    await expect(b.connect(host.id, { ...dial, capability })).rejects.toMatchObject(denied)
    await session.close()
    await a.connect(host.id, dial)
  })

  test('what nobody minted, what has expired, and whoever is banned, is refused; who may come in anyway is not', async () => {
    let now = Date.now()
    const { host, dial, start } = await meet()
    const a = await start()
    const { capability } = host.invitations.mint({ expiresAt: now + 60_000 })
    await expect(a.connect(host.id, { ...dial, capability: new Uint8Array(16) })).rejects.toMatchObject(denied)
    host.bans.ban(a.id)
    await expect(a.connect(host.id, { ...dial, capability })).rejects.toMatchObject(denied)
    expect(host.invitations.list()).toMatchObject([{ state: 'open', uses: 1 }])
    host.bans.unban(a.id)
    const json = host.invitations.toJSON()
    host.invitations.fromJSON(json.map((one) => ({ ...one, since: one.since - 120_000, expiresAt: now - 1 })))
    now = 0
    await expect(a.connect(host.id, { ...dial, capability })).rejects.toMatchObject({ code: 'ERR_PEERLINE_EXPIRED' })
    host.firewall.allow(a.id)
    await a.connect(host.id, { ...dial, capability })
  })
})

test('where it cannot be kept that it was used, nobody is let in, and it is there for another time', async () => {
  let fails = true
  const save = async () => {
    if (fails) throw new Error('the disk is full')
  }
  const host = await startHost({ store: { load: async () => undefined, save } })
  host.firewall.addToGroup('others', Identity.generate().peerId)
  const { capability } = host.invitations.mint({ objects: ['/echo/1'], group: 'guests' })
  const a = await startPeer({ listen: [], udp: false })
  const dial = { addresses: host.addresses, capability }
  for (let attempt = 1; attempt <= 2; attempt++) {
    await expect(a.connect(host.id, dial)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_BUSY',
      message: expect.not.stringContaining('disk'),
    })
    expect(host.invitations.list()).toMatchObject([{ state: 'open', uses: 1, peers: [] }])
    expect(host.firewall.list().filter(({ subject }) => subject === a.id)).toEqual([])
    expect([...host.firewall.groups.keys()]).toEqual(['others'])
  }
  fails = false
  await a.connect(host.id, dial)
  expect(host.invitations.list()).toMatchObject([{ state: 'used up', peers: [a.id] }])
})

test('that it was used is kept before anybody is let in', async () => {
  const directory = await temporaryDirectory()
  const store = path.join(directory, 'store.json')
  const identity = Identity.generate()
  const host = await Peer.create({ identity, listen: ['127.0.0.1:0'], store: new FileStore(store) })
  const { capability } = host.invitations.mint()
  const a = await startPeer()
  await a.connect(host.id, { addresses: host.addresses, capability })
  // As it is on the disk now, with nothing saved at the end.
  const copy = path.join(directory, 'copy.json')
  const { copyFile } = await import('node:fs/promises')
  await copyFile(store, copy)
  await host.close()
  const again = await startHost({ identity, store: new FileStore(copy) })
  expect(again.invitations.list()).toMatchObject([{ state: 'used up', peers: [a.id] }])
  await (await startPeer()).connect(again.id, { addresses: again.addresses, capability }).then(
    () => expect.unreachable(),
    (error) => expect(error).toMatchObject(denied),
  )
  await a.connect(again.id, { addresses: again.addresses })
})
