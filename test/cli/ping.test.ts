import dgram from 'node:dgram'
import { once } from 'node:events'
import { describe, expect, onTestFinished, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { World } from './command.ts'

const MS = expect.any(Number)
const KIND = /^(relay|tcp|udp)$/
const REASON = expect.stringMatching(/^(better|lost|faster)$/)
const SUMMARY = ['event', 'onlineMs', 'connectMs', 'firstByteMs', 'path', 'paths', 'sent', 'received']

describe('up and ping', () => {
  test.each([['relay'], ['tcp'], ['udp']] as const)('via %s', async (path) => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const args = ['ping', up.peerId, '--via', path, '--count', '3', '--interval', '10', '--json']
    const ping = await world.run('a', args)
    expect(ping.stderr).toBe('')
    expect(ping.events).toEqual([
      { seq: 1, rttMs: MS, path: null },
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
    // It came with the answer to the offer, before there was a path.
    expect(firstByteMs).toBe((ping.events[0] as { rttMs: number }).rttMs)
    expect(firstByteMs).toBeLessThan(connectMs!)
    expect(await ping.code()).toBe(EXIT.OK)

    const peer = await world.id('a')
    await up.event(({ event }) => event === 'closed')
    expect(up.events).toEqual([
      { event: 'ready', peerId: up.peerId, addresses: up.addresses },
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
    // The way there is not known beforehand: whichever path is first. Only that the last one is direct.
    const ping = await world.run('a', ['ping', up.peerId, '--interval', '100', '--json'])
    const changes = ping.events.filter(({ event }) => event === 'path')
    const rest = ping.events.filter(({ event }) => event !== 'path')
    expect(rest.map((event) => event.seq)).toEqual([1, 2, 3, 4, undefined])
    const summary = ping.events.at(-1)!
    expect(Object.keys(summary)).toEqual(SUMMARY)
    expect(summary).toMatchObject({ path: expect.stringMatching(/^(tcp|udp)$/), sent: 4, received: 4 })
    const [first, ...later] = (summary.paths as { path: string }[]).map(({ path }) => path)
    expect([first, ...later].at(-1)).toBe(summary.path)
    expect(changes).toEqual(
      later.map((to, at) => ({ event: 'path', peer: up.peerId, from: [first, ...later][at], to, reason: REASON })),
    )
    const peer = await world.id('a')
    await up.event(({ event }) => event === 'closed')
    const told = up.events.filter(({ event }) => event === 'session' || event === 'path')
    expect(told[0]).toEqual({ event: 'session', peer, path: expect.stringMatching(KIND) })
    for (const [at, event] of told.slice(1).entries()) {
      const from = told[at]!.to ?? told[at]!.path
      expect(event).toEqual({ event: 'path', peer, from, to: expect.stringMatching(KIND), reason: REASON })
    }
  })

  test('--via relay on the side that is dialled keeps its address to itself, and every session relayed', async () => {
    const world = await World.make()
    await world.serve()
    const up = world.start('b', ['up', '--allow', 'all', '--via', 'relay'])
    await up.said(/this is/)
    const ping = await world.run('a', [
      'ping',
      await world.id('b'),
      '--count',
      '3',
      '--interval',
      '200',
      '--why',
      '--json',
    ])
    expect(ping.events.map(({ seq, path }) => [seq, path])).toEqual([
      [1, null],
      [2, 'relay'],
      [3, 'relay'],
      [undefined, 'relay'],
      [undefined, 'relay'],
    ])
    expect(ping.events.at(-1)).toMatchObject({ remote: null, reasons: [expect.stringContaining('relays alone')] })
    // It is not even to be found by listening.
    expect(up.stderr).not.toMatch(/listening on/)
  })

  test('--relay with --exclusive goes by that relay alone', async () => {
    const world = await World.make()
    const { url } = await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const other = world.start('other', ['serve', '--listen', '127.0.0.1:0', '--json'])
    const { url: relay } = (await other.event(({ event }) => event === 'listening')) as { url: string }
    const args = [
      'ping',
      up.peerId,
      '--relay',
      relay,
      '--exclusive',
      '--count',
      '2',
      '--interval',
      '200',
      '--why',
      '--json',
    ]
    const ping = await world.run('a', args)
    expect(ping.stderr).toBe('')
    const why = ping.events.at(-1) as { path: string; paths: { remote: string }[]; local: unknown }
    expect(why).toMatchObject({ event: 'why', path: 'relay', local: null })
    expect(why.paths.map(({ remote }) => remote)).toEqual([expect.stringContaining(new URL(relay).host)])
    expect(new URL(relay).host).not.toBe(new URL(url).host)
  })

  test('--why tells the path in use, what was tried and both NATs, in one line after the summary', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    const ping = await world.run('a', ['ping', up.peerId, '--via', 'tcp', '--count', '1', '--why', '--json'])
    expect(ping.events.map(({ event }) => event)).toEqual([undefined, 'summary', 'why'])
    const side = { tcp: expect.any(String), udp: expect.any(String), candidates: expect.any(Array) }
    expect(ping.events.at(-1)).toEqual({
      event: 'why',
      peer: up.peerId,
      path: 'tcp',
      paths: expect.arrayContaining([expect.objectContaining({ kind: 'tcp', active: true, proven: true })]),
      signaling: expect.any(Array),
      attempts: expect.arrayContaining([expect.objectContaining({ way: 'tcp', outcome: 'connected' })]),
      local: side,
      remote: side,
      reasons: [expect.stringContaining('tcp is ')],
      advice: [],
      history: expect.any(Array),
    })
    const plain = await world.run('a', ['ping', up.peerId, '--via', 'relay', '--count', '1', '--why'])
    expect(plain.stdout).toBe('')
    expect(plain.stderr).toMatch(
      /answered, .*\nwhy relay: relays alone were asked for.*\npaths:\n {2}\* relay {2}.*\nfound by:\n {2}rendezvous .*\nnetwork:\n {2}here .*\n {2}there /,
    )
  })

  test('--stun names another server to ask for our address', async () => {
    const world = await World.make()
    await world.serve()
    const stun = dgram.createSocket('udp4').bind(0, '127.0.0.1')
    onTestFinished(() => void stun.close())
    await once(stun, 'listening')
    const asked = once(stun, 'message')
    await world.ready('b', ['up', '--allow', 'all', '--stun', `127.0.0.1:${stun.address().port}`])
    const [request] = (await asked) as [Buffer]
    // A binding request, and the cookie (RFC 8489 section 5).
    expect([request.readUInt16BE(0), request.readUInt32BE(4)]).toEqual([0x0001, 0x2112a442])
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
      /^ping 1: [\d.]+ ms with the dial\nping 2: [\d.]+ ms by relay\n2 of 2 answered, online after .*, connected in .*, first answer after .*\n$/,
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
    // The first answer comes before the session is open.
    await Promise.all([ping.event(({ seq }) => seq === 1), up.event(({ event }) => event === 'session')])
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
    await Promise.all([ping.event(({ seq }) => seq === 1), up.event(({ event }) => event === 'session')])
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
