import { afterEach, describe, expect, test, vi } from 'vitest'
import type { Peer, PeerOptions, Session } from '../../src/index.ts'
import { cut, once, portOf, startPeer, startServer, watchSockets } from './world.ts'

const BODY = new TextEncoder().encode('hello')
const code = (text: string) => expect.objectContaining({ code: text })

/** Who has sessions with whom: pairs of indices. */
const STAR = [1, 2, 3, 4].map((at) => [at, 0] as const)
const RING = [0, 1, 2, 3, 4].map((at) => [at, (at + 1) % 5] as const)

/** Pairs without a session. */
function missing(sessions: readonly (readonly [number, number])[]): [number, number][] {
  const all = [0, 1, 2, 3, 4].flatMap((a) => [0, 1, 2, 3, 4].filter((b) => b > a).map((b): [number, number] => [a, b]))
  return all.filter(([a, b]) => !sessions.some((pair) => pair.includes(a) && pair.includes(b)))
}

/** Resolves when a session is on a direct path, seen from here. */
async function direct(session: Session): Promise<void> {
  await session.opened()
  const relayed = () => session.path === undefined || session.path === 'relay'
  if (relayed()) await once(session, 'path', () => !relayed())
}

/** Five peers that met at a server, which is then killed for good. */
async function orphans(
  sessions: readonly (readonly [number, number])[],
  optionsOf: (at: number) => PeerOptions = () => ({}),
): Promise<Peer[]> {
  const sockets = watchSockets()
  const server = await startServer()
  const peers = await Promise.all(
    [0, 1, 2, 3, 4].map(async (at) => {
      const peer = await startPeer({ rendezvous: [server.url], ...optionsOf(at) })
      peer.handle('/echo/1', (request) => request)
      await peer.online()
      return peer
    }),
  )
  await Promise.all(
    sessions.map(async ([a, b]) => {
      const session = await peers[a]!.connect(peers[b]!.id)
      const there = peers[b]!.sessions.find(({ id }) => id === session.id)!
      await Promise.all([direct(session), direct(there)])
    }),
  )
  const lost = peers.map((peer) => once(peer, 'offline'))
  const closing = server.close({ signal: AbortSignal.abort() })
  cut(sockets, portOf(server.url))
  await Promise.all([closing, ...lost])
  return peers
}

/** Dials as a user does, and sees that it works both ways, with no relay in it. */
async function dial(from: Peer, to: Peer): Promise<Session> {
  const session = await from.connect(to.id)
  expect(session.path).toBe('tcp')
  expect(session.pathHistory.filter(({ kind }) => kind === 'relay')).toEqual([])
  expect(Buffer.from(await from.request(to.id, '/echo/1', BODY)).toString()).toBe('hello')
  expect(Buffer.from(await to.request(from.id, '/echo/1', BODY)).toString()).toBe('hello')
  return session
}

afterEach(() => vi.restoreAllMocks())

describe('when the only server is dead, for good', () => {
  test.each([
    ['a star', STAR, (at: number) => ({ introduce: at === 0 })],
    ['a ring', RING, () => ({ introduce: true })],
  ] as const)(
    'peers in %s introduce each other: every pair gets its direct session',
    async (_, sessions, optionsOf) => {
      const peers = await orphans(sessions, optionsOf)
      for (const [a, b] of missing(sessions)) await dial(peers[a]!, peers[b]!)
      // From the other side there is nothing left to dial.
      for (const [a, b] of missing(sessions)) {
        expect((await peers[b]!.connect(peers[a]!.id)).id).toBe((await peers[a]!.connect(peers[b]!.id)).id)
      }
    },
  )

  test('all at once, from both sides: one session for each pair', async () => {
    const peers = await orphans(RING, () => ({ introduce: true }))
    await Promise.all(
      missing(RING).map(async ([a, b]) => {
        const [one, other] = await Promise.all([dial(peers[a]!, peers[b]!), dial(peers[b]!, peers[a]!)])
        expect(one.id).toBe(other.id)
      }),
    )
  })

  test('nobody introduces who was not asked to', async () => {
    const peers = await orphans(STAR)
    await expect(peers[1]!.connect(peers[2]!.id)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    expect(peers[2]!.sessions.map(({ peer }) => peer)).toEqual([peers[0]!.id])
  })

  test('nobody is introduced who does not want', async () => {
    const peers = await orphans(STAR, (at) => ({ introduce: at === 0, introducible: at !== 2 }))
    await expect(peers[1]!.connect(peers[2]!.id)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    // It may still have itself introduced to others.
    await dial(peers[2]!, peers[1]!)
  })

  test('the firewall of the one who is introduced decides, and says so', async () => {
    const peers = await orphans(STAR, (at) => ({ introduce: at === 0, ...(at === 2 ? { firewall: {} } : {}) }))
    await expect(peers[1]!.connect(peers[2]!.id)).rejects.toEqual(code('ERR_PEERLINE_DENIED'))
  })

  test('two steps are one too many', async () => {
    const chain = [0, 1, 2, 3].map((at) => [at, at + 1] as const)
    const peers = await orphans(chain, () => ({ introduce: true }))
    await expect(peers[0]!.connect(peers[3]!.id)).rejects.toEqual(code('ERR_PEERLINE_OFFLINE'))
    // One after the other they come nearer.
    await dial(peers[0]!, peers[2]!)
    await dial(peers[0]!, peers[3]!)
  })
})
