import { describe, expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { World } from './command.ts'

const MS = expect.any(Number)
const SUMMARY = ['event', 'onlineMs', 'connectMs', 'firstByteMs', 'path', 'paths', 'sent', 'received']

describe('up and ping', () => {
  test.each([
    ['relay', 'relay'],
    ['direct', 'tcp'],
  ] as const)('via %s', async (via, path) => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const args = ['ping', up.peerId, '--via', via, '--count', '3', '--interval', '10', '--json']
    const ping = await world.run('a', args)
    expect(ping.stderr).toBe('')
    expect(ping.events).toEqual([
      { seq: 1, rttMs: MS, path },
      { seq: 2, rttMs: MS, path },
      { seq: 3, rttMs: MS, path },
      {
        event: 'summary',
        onlineMs: MS,
        connectMs: MS,
        firstByteMs: MS,
        path,
        paths: [{ path, atMs: MS }],
        sent: 3,
        received: 3,
      },
    ])
    const { onlineMs, connectMs, firstByteMs } = ping.events.at(-1) as Record<string, number>
    expect(onlineMs).toBeGreaterThan(0)
    expect(firstByteMs).toBeGreaterThan(connectMs!)
    expect(await ping.code()).toBe(EXIT.OK)

    const peer = await world.id('a')
    await up.event(({ event }) => event === 'closed')
    expect(up.events).toEqual([
      { event: 'ready', peerId: up.peerId },
      { event: 'session', peer, path },
      { event: 'closed', peer, reason: 'closed' },
    ])
    up.child.kill('SIGTERM')
    expect(await up.exit).toEqual({ code: EXIT.OK, signal: null })
    expect(up.stderr).toBe('')
  })

  test('a session moves from the relay to a direct path, and both sides tell', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    // The way there is not known beforehand: whichever path is first. Only the last one is.
    const ping = await world.run('a', ['ping', up.peerId, '--interval', '100', '--json'])
    expect(ping.events.map((event) => event.seq)).toEqual([1, 2, 3, 4, undefined])
    const summary = ping.events.at(-1)!
    expect(Object.keys(summary)).toEqual(SUMMARY)
    expect(summary).toMatchObject({ path: 'tcp', sent: 4, received: 4 })
    expect((summary.paths as { path: string }[]).at(-1)!.path).toBe('tcp')
    const peer = await world.id('a')
    await up.event(({ event }) => event === 'closed')
    for (const event of up.events.filter((one) => one.event === 'path')) {
      expect(event).toEqual({ event: 'path', peer, from: 'relay', to: 'tcp', reason: 'better' })
    }
  })

  test('without any server, at a known address', async () => {
    const world = await World.make()
    const up = world.start('b', ['up', '--listen', '127.0.0.1:0', '--allow', await world.id('a')])
    const [, address] = await up.said(/listening on (127\.0\.0\.1:\d+)\n/)
    const to = await world.id('b')
    const ping = await world.run('a', ['ping', to, '--address', address!, '--count', '1', '--json'])
    expect(await ping.code()).toBe(EXIT.OK)
    expect(ping.events.at(-1)).toMatchObject({ onlineMs: null, path: 'tcp', sent: 1, received: 1 })
    await up.said(/session with .* by tcp/)
    expect(up.stdout).toBe('')
  })

  test('for people, the same on standard error', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const ping = await world.run('a', ['ping', up.peerId, '--via', 'relay', '--count', '2', '--interval', '1'])
    expect(ping.stdout).toBe('')
    expect(ping.stderr).toMatch(
      /^ping 1: [\d.]+ ms by relay\nping 2: [\d.]+ ms by relay\n2 of 2 answered, online after .*, connected in .*, first answer after .*\n$/,
    )
  })

  test.each([
    ['SIGINT', EXIT.SIGINT],
    ['SIGTERM', EXIT.SIGTERM],
  ] as const)('%s ends a ping in order, with its summary', async (signal, code) => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const ping = world.start('a', ['ping', up.peerId, '--interval', '60000', '--json'])
    await ping.event(({ seq }) => seq === 1)
    ping.child.kill(signal)
    expect(await ping.exit).toEqual({ code, signal: null })
    expect(ping.stderr).toBe('peerline: interrupted.\n')
    expect(ping.events.at(-1)).toMatchObject({ event: 'summary', sent: 1, received: 1 })
    // The other side was told.
    expect(await up.event(({ event }) => event === 'closed')).toMatchObject({ reason: 'closed' })
  })

  test('a server that dies does not end a session that has a path of its own', async () => {
    const world = await World.make()
    const { server } = await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const ping = world.start('a', ['ping', up.peerId, '--via', 'direct', '--count', '4', '--interval', '150', '--json'])
    await ping.event(({ seq }) => seq === 1)
    server.child.kill('SIGKILL')
    expect(await ping.code()).toBe(EXIT.OK)
    expect(ping.events.at(-1)).toMatchObject({ received: 4 })
  })

  test('a reader of the output that goes away ends the command quietly', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    up.child.stdout!.destroy()
    await world.run('a', ['ping', up.peerId, '--count', '1', '--json'])
    expect(await up.exit).toEqual({ code: EXIT.SIGPIPE, signal: null })
    expect(up.stderr).toBe('')
  })
})
