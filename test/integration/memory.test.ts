/** What a peer remembers from one start to the next, and what it never learns. */
import { chmod, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { FileStore } from '../../src/discovery/index.ts'
import { type FirewallOptions, Identity, Peer } from '../../src/index.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { outcomeOf } from './policy-rows.ts'
import { once, startPeer, startWorld } from './world.ts'

const EMPTY = new Uint8Array(0)
const DENIED = 'ERR_PEERLINE_DENIED'

const dial = (a: Peer, b: Peer) => a.connect(b.id, { addresses: b.addresses })

describe('with a store', () => {
  test('rules, groups, bans, known peers and what the owner answered survive a restart; the options do not', async () => {
    const path = await temporaryFile('state.json')
    const identity = Identity.generate()
    const [friend, stranger, banned, nobody] = await Promise.all([startPeer(), startPeer(), startPeer(), startPeer()])
    const start = (firewall: FirewallOptions) => startPeer({ identity, store: new FileStore(path), firewall })
    const first = await start({
      rules: [{ subject: 'everyone', object: '/options/1', direction: 'in', action: 'allow' }],
      groups: { crew: [stranger.id] },
      ask: ({ peer }) => peer === friend.id,
    })
    await dial(friend, first)
    await dial(first, stranger)
    first.firewall.set({ subject: 'group:guests', object: '/door/*', direction: 'in', action: 'allow' })
    first.firewall.addToGroup('guests', stranger.id)
    first.firewall.set({ subject: stranger.id, object: '/f/1', direction: 'in', action: 'restrict', when: () => true })
    first.firewall.set({
      subject: stranger.id,
      object: '/p/1',
      direction: 'in',
      action: 'restrict',
      permissions: ['go'],
    })
    first.firewall.set({ subject: stranger.id, object: '/twice/1', direction: 'in', action: 'allow', uses: 2 })
    first.bans.ban(banned.id, { why: 'noise' })
    first.bans.ban('192.0.2.0/24', { until: Date.now() + 3_600_000 })
    expect(await outcomeOf(dial(nobody, first))).toBe(DENIED)
    await first.firewall.admit({ peer: stranger.id, direction: 'in', object: '/twice/1' })
    first.known.describe(friend.id, { name: 'Freda' })
    await first.close()

    const second = await start({ rules: [] })
    expect(second.damages).toEqual([])
    const ids = second.firewall.list().map(({ id }) => id)
    expect(ids).toContain('group:guests /door/* in')
    expect(ids).toContain(`${friend.id} anything in`)
    expect(ids).not.toContain('everyone /options/1 in')
    expect([...second.firewall.groups]).toEqual([['guests', [stranger.id]]])
    expect(second.firewall.list().find(({ object }) => object === '/twice/1')).toMatchObject({ uses: 1 })
    const decide = (object: string, more = {}) =>
      second.firewall.decide({ peer: stranger.id, direction: 'in', object, ...more }).action
    // A function is not kept: its rule refuses until it is set again, and opens nothing.
    expect([decide('/f/1'), decide('/door/1'), decide('/p/1', { needs: ['go'] }), decide('/x')]).toEqual([
      'deny',
      'allow',
      'allow',
      'deny',
    ])
    second.firewall.set({ subject: stranger.id, object: '/f/1', direction: 'in', action: 'restrict', when: () => true })
    expect(decide('/f/1')).toBe('allow')
    expect(second.bans.list().map(({ target, why }) => [target, why])).toEqual([
      [banned.id, 'noise'],
      ['192.0.2.0/24', undefined],
    ])
    expect(await outcomeOf(dial(banned, second))).toBe(DENIED)
    expect(await outcomeOf(second.connect(banned.id, { addresses: banned.addresses }))).toBe(DENIED)
    // It knows where the other was, and the owner's yes lets that one in unasked.
    expect(second.known.get(friend.id)).toMatchObject({ name: 'Freda' })
    expect((await second.connect(stranger.id)).peer).toBe(stranger.id)
    await dial(friend, second)
  })

  test('a damaged file is set aside, told, and kept; the peer begins empty, and saves again', async () => {
    const path = await temporaryFile('state.json')
    await writeFile(path, '{"version":1,"rules":', { mode: 0o600 })
    const store = () => ({ store: new FileStore(path) })
    const first = await startPeer(store())
    expect(first.damages).toMatchObject([{ keptAs: `${path}.bad`, error: { code: 'ERR_PEERLINE_FILE' } }])
    expect(await readFile(`${path}.bad`, 'utf8')).toBe('{"version":1,"rules":')
    first.bans.ban('192.0.2.1')
    await first.close()
    const second = await startPeer(store())
    expect(second.damages).toEqual([])
    expect(second.bans.isBannedAddress('192.0.2.1')).toBe(true)
  })

  test('of a damaged section the others are kept', async () => {
    const path = await temporaryFile('state.json')
    const target = Identity.generate().peerId
    const state = { version: 1, bans: [{ target, since: 1 }], rules: { version: 1, rules: 'all' } }
    await writeFile(path, JSON.stringify(state), { mode: 0o600 })
    const peer = await startPeer({ store: new FileStore(path) })
    expect(peer.damages).toMatchObject([{ section: 'rules', error: { code: 'ERR_PEERLINE_FILE' } }])
    expect(peer.bans.isBanned(target)).toBe(true)
  })

  test('what a later version has written, or others may write, is left alone, and nothing begins', async () => {
    const path = await temporaryFile('state.json')
    await writeFile(path, '{"version":2}', { mode: 0o600 })
    expect(await outcomeOf(startPeer({ store: new FileStore(path) }))).toBe('ERR_PEERLINE_VERSION')
    expect(await readFile(path, 'utf8')).toBe('{"version":2}')
    const open = await temporaryFile('state.json')
    await writeFile(open, '{"version":1}')
    await chmod(open, 0o666)
    expect(await outcomeOf(startPeer({ store: new FileStore(open) }))).toBe('ERR_PEERLINE_FILE')
  })

  test('that cannot save, the peer says so, goes on, and says so when it closes', async () => {
    const failing = {
      load: async () => undefined,
      save: async () => {
        throw new Error('no room')
      },
    }
    const peer = await Peer.create({ listen: ['127.0.0.1:0'], store: failing })
    const told = once(peer, 'storeError')
    peer.bans.ban('192.0.2.1')
    expect(await told).toMatchObject({ error: { code: 'ERR_PEERLINE_FILE' } })
    expect(peer.bans.isBannedAddress('192.0.2.1')).toBe(true)
    await expect(peer.close()).rejects.toMatchObject({ code: 'ERR_PEERLINE_FILE' })
    await expect(peer.request(Identity.generate().peerId, '/x', EMPTY)).rejects.toMatchObject({
      code: 'ERR_PEERLINE_CLOSED',
    })
  })

  test('a ban with a time is over after a restart as well, and a file is all that is left', async () => {
    const path = await temporaryFile('state.json')
    const a = await startPeer()
    const first = await startPeer({ store: new FileStore(path) })
    const until = Date.now() + 250
    first.bans.ban(a.id, { until })
    expect(await outcomeOf(dial(a, first))).toBe(DENIED)
    await first.close()
    const second = await startPeer({ store: new FileStore(path) })
    let outcome = DENIED
    while (outcome === DENIED) outcome = await outcomeOf(dial(a, second))
    expect(outcome).toBe('answered')
    expect(Date.now()).toBeGreaterThanOrEqual(until)
    await second.close()
    expect(await readdir(join(path, '..'))).toEqual(['state.json'])
  })
})

describe('the address book', () => {
  test('never has the port that somebody came from, by whatever way; it has where they listen', async () => {
    const { a, b } = await startWorld()
    await b.connect(a.id)
    const [c, d] = [await startPeer(), await startPeer()]
    await dial(c, d)
    await once(d.known, 'change', ({ peer }: { peer: string }) => peer === c.id).catch(() => {})
    expect(d.known.get(c.id)).toBeDefined()
    expect(d.known.addressesOf(c.id)).toEqual([])
    expect(c.known.addressesOf(d.id)).toEqual(d.addresses)
    for (const [one, other] of [
      [a, b],
      [b, a],
    ] as const) {
      expect(other.addresses).toEqual(expect.arrayContaining(one.known.addressesOf(other.id)))
    }
    // The next dial needs no address, nor anybody to ask.
    await Promise.all(c.sessions.map((session) => session.close()))
    expect((await c.connect(d.id)).peer).toBe(d.id)
  })
})
