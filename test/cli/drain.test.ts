import { describe, expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { World } from './command.ts'

/** A server with a peer that stays online there. */
async function inhabited(...args: string[]) {
  const world = await World.make()
  const { server } = await world.serve(args)
  const peer = await world.ready('b', ['up', '--allow', 'all'])
  const draining = () => server.event(({ event }) => event === 'draining')
  return { world, server, peer, draining }
}

describe('serve that is stopped while peers are there', () => {
  test.each(['SIGINT', 'SIGTERM'] as const)('at %s gives them the time that it was told', async (signal) => {
    const { server, draining } = await inhabited('--drain', '3')
    server.child.kill(signal)
    expect(await draining()).toEqual({ event: 'draining', peers: 1, circuits: 0, seconds: 3 })
    const before = performance.now()
    expect(await server.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(performance.now() - before).toBeGreaterThan(2_500)
    expect(server.stderr).toBe('')
  })

  test('ends when they have left', async () => {
    const { server, peer, draining } = await inhabited('--drain', '3600')
    server.child.kill('SIGTERM')
    await draining()
    peer.child.kill('SIGTERM')
    expect(await server.code()).toBe(EXIT.OK)
  })

  test('ends at once when it is stopped again', async () => {
    const { server, draining } = await inhabited()
    server.child.kill('SIGTERM')
    expect(await draining()).toMatchObject({ seconds: 10 })
    const before = performance.now()
    server.child.kill('SIGINT')
    expect(await server.code()).toBe(EXIT.OK)
    expect(performance.now() - before).toBeLessThan(5_000)
  })

  test('and is to drain for no time ends at once', async () => {
    const { server } = await inhabited('--drain', '0')
    server.child.kill('SIGTERM')
    expect(await server.code()).toBe(EXIT.OK)
    expect(server.events.map(({ event }) => event)).toEqual(['listening'])
  })

  test('tells people who is there, and for how long', async () => {
    const world = await World.make()
    const server = world.start('server', ['serve', '--listen', '127.0.0.1:0', '--drain', '30'])
    const [, url] = await server.said(/listening: (ws:\S+)/)
    world.env.PEERLINE_RENDEZVOUS = url!
    await world.ready('b', ['up', '--allow', 'all'])
    server.child.kill('SIGINT')
    await server.said(/^draining: 1 peer and 0 circuits have 30 s to move; stop it again to end at once$/m)
    server.child.kill('SIGINT')
    expect(await server.code()).toBe(EXIT.OK)
    expect(server.stdout).toBe('')
  })
})

test.each(['-1', '1.5', 'soon', '3601'])('serve does not drain for %s seconds', async (seconds) => {
  const world = await World.make()
  const server = await world.run('server', ['serve', '--listen', '127.0.0.1:0', `--drain=${seconds}`])
  expect(await server.code()).toBe(EXIT.USAGE)
  expect(server.stderr).toMatch(/--drain/)
})
