/** A DHT of one's own: a server is its first node, and peers are found by their ids alone. */
import { expect, onTestFinished, test, vi } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { Dht } from '../../src/discovery/dht.ts'
import type { PeerId } from '../../src/identity/index.ts'
import { type Running, World } from './command.ts'

const HERE = ['--listen', '127.0.0.1:0', '--no-lan']

/** ms for a record to be published by a command that has just begun. */
const PUBLISH_MS = 15_000

/** A server with a node of a DHT; nobody is told of the server itself. */
async function serve(world: World): Promise<{ server: Running; url: string; dht: string }> {
  const { server, url } = await world.serve(['--dht', '127.0.0.1:0'])
  delete world.env.PEERLINE_RENDEZVOUS
  const [{ dht }] = server.events as [{ dht: string }]
  expect(dht).toMatch(/^127\.0\.0\.1:\d+$/)
  return { server, url, dht }
}

/** What a peer has published, once it has. */
async function published(dht: string, peer: string) {
  const node = await Dht.open({ bootstrap: [dht], host: '127.0.0.1' })
  onTestFinished(() => node.close())
  const options = { timeout: PUBLISH_MS, interval: 100 }
  return vi.waitFor(
    async () => (await node.find(peer as PeerId)) ?? Promise.reject(new Error('not published')),
    options,
  )
}

test('peers that know the first node alone find each other, by the addresses that one has published', async () => {
  const world = await World.make()
  const { server, dht } = await serve(world)
  const { peerId } = await world.ready('a', ['up', ...HERE, '--dht', dht, '--dht-addresses', '--allow', 'all'])
  expect(await published(dht, peerId)).toMatchObject({ addresses: [expect.stringMatching(/^127\.0\.0\.1:/)] })
  const ping = await world.run('b', ['ping', peerId, ...HERE, '--dht', dht, '--count', '1', '--json'])
  expect(await ping.code(), ping.stderr).toBe(EXIT.OK)
  expect(ping.events).toContainEqual(expect.objectContaining({ event: 'summary', path: 'tcp', received: 1 }))
  server.child.kill('SIGTERM')
  expect(await server.exit, server.stderr).toEqual({ code: EXIT.OK, signal: null })
})

test('or by the server that one has published, and no address', async () => {
  const world = await World.make()
  const { url, dht } = await serve(world)
  const { peerId } = await world.ready('a', ['up', ...HERE, '--dht', dht, '--rendezvous', url, '--allow', 'all'])
  expect(await published(dht, peerId)).toMatchObject({ addresses: [], rendezvous: [url] })
  const ping = await world.run('b', ['ping', peerId, ...HERE, '--dht', dht, '--count', '1'])
  expect(await ping.code(), ping.stderr).toBe(EXIT.OK)
})

test('who has nothing to publish is told so', async () => {
  const world = await World.make()
  const up = world.start('a', ['up', ...HERE, '--dht', '127.0.0.1:1'])
  await up.said(/nobody finds this machine in the DHT: .*--dht-addresses/)
})

test('serve says how peers name its node, and that its port is taken', async () => {
  const world = await World.make()
  const serving = world.start('server', ['serve', '--listen', '127.0.0.1:0', '--dht', ':0'])
  const [, dht] = await serving.said(/peerline up --dht (127\.0\.0\.1:\d+)/)
  const other = await world.run('other', ['serve', '--listen', '127.0.0.1:0', '--dht', dht!])
  expect([await other.code(), other.stderr]).toEqual([EXIT.PORT_BUSY, expect.stringContaining(dht!)])
})
