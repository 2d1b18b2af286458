/**
 * Each bad input has its exit code, and says in one line what is wrong and what to do.
 */
import { chmod, mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { FIXTURES, type Running, World } from './command.ts'

const CERT = path.join(FIXTURES, 'expired-cert.pem')
const KEY = path.join(FIXTURES, 'expired-key.pem')

async function expectFailure(running: Running, code: number, message: RegExp): Promise<void> {
  await running.exit
  expect({ code: await running.code(), stdout: running.stdout }, running.stderr).toEqual({ code, stdout: '' })
  expect(running.stderr).toMatch(/^peerline: [^\n]+[.?)]\n$/)
  expect(running.stderr).toMatch(message)
}

describe('the command line', () => {
  test.each([
    [['frobnicate'], /unknown command 'frobnicate'/],
    [['ping'], /missing required argument/],
    [['ping', 'x'], /peer id/],
    [['ping', 'x', '--cuont', '3'], /Did you mean --count/],
    [['ping', 'x', '--count', '0'], /whole number/],
    [['ping', 'x', '--via', 'magic'], /auto, relay, direct/],
    [['send', 'file'], /a file and, last, a peer/],
    [['send', 'file', 'x', '--limit-rate', 'fast'], /number of bytes/],
    [['pipe'], /a peer or --receive/],
    [['up', '--stun', 'stun.example.org'], /has no port/],
    [['up', '--stun', ':3478'], /a reflector is host:port/],
    [['doctor', '--reflector', 'x:y'], /port is not a number/],
    [['doctor', '--rendezvous', 'ws://127.0.0.1:1'], /lacks the peer id/],
    [['serve', '--alternate-port', '0'], /whole number/],
    [['serve', '--listen', ':0', '--alternate-host', '127.0.0.3'], /cannot be the other address/],
    [['serve', '--no-alternate-port', '--alternate-host', '127.0.0.3'], /needs an alternate port/],
    [['serve', '--tls-cert', 'x'], /belong together/],
    [['serve', '--listen', 'nonsense:port'], /port is not a number/],
    [['up', '--allow', 'somebody'], /peer id/],
    [['up', '--ask'], /needs a terminal/],
    [['allow'], /name either a peer/],
    [['deny', 'everyone', '--group', 'friends'], /name either a peer/],
    [['allow', 'somebody'], /peer id/],
    [['allow', 'everyone', '--for', 'ever'], /such as 90s/],
    [['allow', 'everyone', '--protocol', '/*/x'], /at the end/],
    [['allow', '--group', 'two words'], /cannot name a group/],
    [['ban', 'somebody'], /no peer id, IP address or prefix/],
    [['ban', '192.0.2.1', '--why', 'two\nlines'], /a line of at most/],
    [['peers', 'add', 'somebody'], /peer id/],
    [['rules', 'frobnicate'], /too many arguments|unknown command/],
    [['log', '-n', 'all'], /whole number/],
    [['up', '--rendezvous', 'http://x'], /not a server URL/],
    [['up', '--rendezvous', 'ws://127.0.0.1:1'], /lacks the peer id/],
  ])('%j', async (args, message) => {
    const world = await World.make()
    await expectFailure(await world.run('a', args), EXIT.USAGE, message)
  })

  test('a peer that nothing leads to', async () => {
    const world = await World.make()
    const ping = ['ping', await world.id('b')]
    await expectFailure(
      await world.run('a', [...ping, '--no-lan']),
      EXIT.USAGE,
      /--rendezvous, --ledger, --dht or --address/,
    )
    // Without a server it is sought around here.
    await expectFailure(await world.run('a', ping), EXIT.OFFLINE, /does not answer on the local network/)
  })

  test('ways to dial that exclude each other', async () => {
    const world = await World.make()
    const ping = ['ping', await world.id('b')]
    const exclusive = await world.run('a', [...ping, '--exclusive'])
    await expectFailure(exclusive, EXIT.USAGE, /--exclusive goes with --relay/)
    const relayed = await world.run('a', [...ping, '--via', 'tcp', '--relay', 'ws://127.0.0.1:1#x'])
    await expectFailure(relayed, EXIT.USAGE, /--via tcp uses no relay/)
  })

  test('no command at all shows the help', async () => {
    const world = await World.make()
    const running = await world.run('a', [])
    expect([await running.code(), running.stdout]).toEqual([EXIT.USAGE, ''])
    expect(running.stderr).toMatch(/^Usage: peerline/)
  })
})

describe('the identity file', () => {
  test('that is corrupt', async () => {
    const world = await World.make()
    await writeFile(world.file('a.key'), 'not a key', { mode: 0o600 })
    await expectFailure(await world.run('a', ['id']), EXIT.KEY_FILE, /a\.key does not hold/)
  })

  test('that others may read', async () => {
    const world = await World.make()
    await world.id('a')
    await chmod(world.file('a.key'), 0o644)
    await expectFailure(await world.run('a', ['id', '--json']), EXIT.KEY_FILE, /chmod 600/)
  })

  test('that cannot be made', async () => {
    const world = await World.make()
    await writeFile(world.file('file'), '')
    const running = await world.run('a', ['id', '--identity', world.file('file/id')])
    await expectFailure(running, EXIT.KEY_FILE, /below something that is not a directory/)
  })
})

describe('the server', () => {
  test('that is not there', async () => {
    const world = await World.make()
    const args = ['--rendezvous', `ws://127.0.0.1:1#${await world.id('server')}`, '--json']
    await expectFailure(await world.run('a', ['up', ...args]), EXIT.UNREACHABLE, /cannot reach ws:\/\/127\.0\.0\.1:1/)
    const ping = await world.run('a', ['ping', await world.id('b'), ...args])
    await expectFailure(ping, EXIT.UNREACHABLE, /cannot reach/)
  })

  test('that is another one than the URL says', async () => {
    const world = await World.make()
    const { url } = await world.serve()
    const wrong = url.replace(/#.*/, `#${await world.id('somebody')}`)
    const running = await world.run('a', ['receive', '--dir', world.home, '--rendezvous', wrong, '--json'])
    await expectFailure(running, EXIT.WRONG_PEER, /does not answer as/)
  })

  test('whose certificate has expired, or is signed by nobody', async () => {
    const world = await World.make()
    await world.serve(['--tls-cert', CERT, '--tls-key', KEY])
    const trusted = await world.run('a', ['up', '--json'], { NODE_EXTRA_CA_CERTS: CERT })
    await expectFailure(trusted, EXIT.TLS, /certificate has expired/)
    await expectFailure(await world.run('a', ['up', '--json']), EXIT.TLS, /certificate of wss/)
  })

  test('that cannot start: port in use, bad certificate, missing file', async () => {
    const world = await World.make()
    const { url } = await world.serve()
    const listen = ['--listen', `127.0.0.1:${new URL(url).port}`, '--json']
    await expectFailure(await world.run('b', ['serve', ...listen]), EXIT.PORT_BUSY, /is in use/)
    await expectFailure(await world.run('b', ['up', ...listen]), EXIT.PORT_BUSY, /is in use/)
    const tls = (key: string) => ['serve', '--listen', '127.0.0.1:0', '--tls-cert', CERT, '--tls-key', key]
    await expectFailure(await world.run('b', tls(CERT)), EXIT.TLS, /certificate and key are no good/)
    await expectFailure(await world.run('b', tls(world.file('none'))), EXIT.FILE, /cannot read .*none/)
  })
})

describe('the peer', () => {
  test('that is not online', async () => {
    const world = await World.make()
    await world.serve()
    await expectFailure(await world.run('a', ['ping', await world.id('b')]), EXIT.OFFLINE, /not online/)
  })

  test('that is not found at its address, or is another one', async () => {
    const world = await World.make()
    const up = world.start('b', ['up', '--listen', '127.0.0.1:0', '--allow', 'all'])
    const [, address] = await up.said(/listening on (.*)\n/)
    const other = await world.run('a', ['ping', await world.id('c'), '--address', address!])
    await expectFailure(other, EXIT.WRONG_PEER, /does not answer as/)
    const nobody = await world.run('a', ['ping', await world.id('c'), '--address', '127.0.0.1:1'])
    await expectFailure(nobody, EXIT.UNREACHABLE, /nothing listens there/)
  })

  test('that lets nobody in', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up'])
    await up.said(/nobody is let in/)
    const ping = await world.run('a', ['ping', up.peerId, '--json'])
    await expectFailure(ping, EXIT.DENIED, new RegExp(`peerline allow ${await world.id('a')}\\.`))
  })

  test('that takes no files', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all'])
    await writeFile(world.file('report'), 'hello')
    const send = await world.run('a', ['send', world.file('report'), up.peerId, '--via', 'relay'])
    await expectFailure(send, EXIT.DENIED, /Run `peerline receive` there\./)
  })

  test('that no path leads to', async () => {
    const world = await World.make()
    await world.serve()
    const up = await world.ready('b', ['up', '--allow', 'all', '--listen', 'none'])
    const ping = await world.run('a', ['ping', up.peerId, '--via', 'tcp', '--listen', 'none', '--json'])
    // The answer to the offer is all that gets through.
    const early = { seq: 1, rttMs: expect.any(Number), path: null }
    expect(ping.events.filter(({ event }) => event !== 'summary')).toEqual([early])
    expect(ping.stderr).toMatch(/^peerline: no path to [^\n]+\n$/)
    expect(await ping.code()).toBe(EXIT.NO_PATH)
  })
})

describe('files', () => {
  test('a directory that cannot be written to, or made', async () => {
    const world = await World.make()
    await world.serve()
    await writeFile(world.file('file'), '')
    const below = await world.run('b', ['receive', '--dir', world.file('file/in'), '--json'])
    await expectFailure(below, EXIT.FILE, /cannot write in .*ENOTDIR/)
    await expectFailure(
      await world.run('b', ['receive', '--dir', '/proc', '--json']),
      EXIT.FILE,
      /cannot write in \/proc/,
    )
  })

  test('a file that is not there, or is none', async () => {
    const world = await World.make()
    const peer = await world.id('b')
    await mkdir(world.file('directory'))
    const missing = await world.run('a', ['send', world.file('missing'), peer])
    await expectFailure(missing, EXIT.FILE, /cannot read .*missing: ENOENT/)
    const directory = await world.run('a', ['send', world.file('directory'), peer])
    await expectFailure(directory, EXIT.FILE, /is not a plain file/)
  })
})
