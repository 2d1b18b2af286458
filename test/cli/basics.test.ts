import { readFile, stat } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { EXIT, exitCodeOf } from '../../src/cli/exit-codes.ts'
import { PeerlineError } from '../../src/errors.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { World } from './command.ts'

const COMMANDS = [
  ...['id', 'serve', 'up', 'invite', 'join', 'ping', 'send', 'receive', 'pipe'],
  ...['allow', 'deny', 'ban', 'unban', 'rules', 'peers', 'log', 'doctor', 'demo'],
]

test('the version is that of the package', async () => {
  const world = await World.make()
  const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'))
  const { stdout, stderr } = await world.run('a', ['--version'])
  expect({ stdout, stderr }).toEqual({ stdout: `${version}\n`, stderr: '' })
})

test('help is there for all commands, and tells every exit code', async () => {
  const world = await World.make()
  const [root, ...each] = await Promise.all(
    [['--help'], ...COMMANDS.map((name) => [name, '--help'])].map((args) => world.run('a', args)),
  )
  for (const name of COMMANDS) expect(root!.stdout).toMatch(new RegExp(`^  ${name} `, 'm'))
  for (const code of Object.values(EXIT)) expect(root!.stdout).toMatch(new RegExp(`\\b${code}\\b`))
  for (const help of [root!, ...each]) {
    expect(await help.code()).toBe(EXIT.OK)
    expect(help.stderr).toBe('')
    expect(help.stdout).toMatch(/^Usage: peerline/)
  }
  for (const help of each.slice(0, -1)) expect(help.stdout).toMatch(/\nExamples:\n {2}/)
})

test('help shows first what a command is for, then what is the same for all', async () => {
  const world = await World.make()
  for (const [name, own] of [
    ['invite', '--uses'],
    ['ping', '--count'],
    ['up', '--ask'],
  ] as const) {
    const { stdout } = await world.run('a', [name, '--help'])
    const [at, network, shared] = [own, '\nNetwork:\n', '--rendezvous <url>'].map((text) => stdout.indexOf(text))
    expect([at! > 0, at! < network!, network! < shared!], stdout).toEqual([true, true, true])
  }
})

test('help that nobody reads to its end is no failure', async () => {
  const world = await World.make()
  const help = world.start('a', ['--help'])
  help.child.stdout!.destroy()
  expect([await help.code(), help.stderr]).toEqual([EXIT.SIGPIPE, ''])
})

test('what is wrong with a command line is said with whose help to read', async () => {
  const world = await World.make()
  const said = async (...args: string[]) => (await world.run('a', args)).stderr
  expect(await said('ping')).toMatch(/^peerline: .* See peerline ping --help\.\n$/)
  expect(await said('ping', 'x', '--announce')).toMatch(/unknown option '--announce'\. See peerline ping --help\.\n$/)
  expect(await said('frobnicate')).toMatch(/ See peerline --help\.\n$/)
})

test('what no user of the command can bring about still has its exit code', () => {
  expect(exitCodeOf(new PeerlineError('ERR_PEERLINE_CORRUPT', 'x'))).toBe(13)
  expect(exitCodeOf(new Error('x'))).toBe(1)
  expect(exitCodeOf(undefined)).toBe(1)
})

test('id makes a key that stays, for its owner alone', async () => {
  const world = await World.make()
  const [json, plain] = [await world.run('a', ['id', '--json']), await world.run('a', ['id'])]
  expect(json.events).toEqual([
    { peerId: expect.stringMatching(/^[a-z1-9]{52}$/), didKey: expect.stringMatching(/^did:key:z6Mk/) },
  ])
  expect(plain.stdout).toBe(`${json.events[0]!.peerId}\n`)
  expect(plain.stderr).toBe('')
  expect((await stat(world.file('a.key'))).mode & 0o777).toBe(0o600)
})

test('id without a file uses the one in the home directory', async () => {
  const world = await World.make()
  const first = await world.run('a', ['id'], { PEERLINE_IDENTITY: '' })
  const named = await world.run('a', ['id', '--identity', world.file('.peerline/id')])
  expect(named.stdout).toBe(first.stdout)
})

test.each(['SIGINT', 'SIGTERM'] as const)('serve says where it is, and ends in order at %s', async (signal) => {
  const world = await World.make()
  const { server, url } = await world.serve()
  expect(url).toBe(`ws://127.0.0.1:${new URL(url).port}#${await world.id('server')}`)
  server.child.kill(signal)
  expect(await server.exit).toEqual({ code: EXIT.OK, signal: null })
  expect(server.events).toEqual([{ event: 'listening', url, reflectors: [expect.stringMatching(/^:\d+$/)] }])
  expect(server.stderr).toBe('')
})

test('serve speaks TLS, tells its public URL, and is no relay when told so', async () => {
  const world = await World.make()
  const [cert, key] = [
    new URL('fixtures/expired-cert.pem', import.meta.url).pathname,
    new URL('fixtures/expired-key.pem', import.meta.url).pathname,
  ]
  const tls = await world.serve(['--tls-cert', cert, '--tls-key', key])
  expect(tls.url).toMatch(/^wss:\/\/127\.0\.0\.1:\d+#/)
  const named = await world.serve(['--public-url', 'wss://peer.example.org', '--no-relay', '--relay-rate', '1MiB'])
  expect(named.url).toMatch(/^wss:\/\/peer\.example\.org#/)
})

test('serve reflects where it is told to, and tells of the reflectors of others', async () => {
  const world = await World.make()
  const reflectors = async (...args: string[]) => {
    const { server } = await world.serve(args)
    return server.events[0]!.reflectors
  }
  const port = await freePort()
  expect(await reflectors('--alternate-port', `${port}`)).toEqual([`:${port}`])
  expect(await reflectors('--no-alternate-port')).toEqual([])
  expect(await reflectors('--no-alternate-port', '--reflector', 'stun.example.org:3478')).toEqual([
    'stun.example.org:3478',
  ])
  const both = (await reflectors('--alternate-host', '127.0.0.3')) as string[]
  const [other] = both.map((address) => address.split(':')[1])
  expect(both).toEqual([`:${other}`, expect.stringMatching(/^127\.0\.0\.3:\d+$/), `127.0.0.3:${other}`])
})

test('for people, everything goes to standard error', async () => {
  const world = await World.make()
  const server = world.start('server', ['serve', '--listen', '127.0.0.1:0'])
  await server.said(/listening: ws:\/\/127\.0\.0\.1:\d+#/)
  server.child.kill('SIGINT')
  expect(await server.code()).toBe(EXIT.OK)
  expect(server.stdout).toBe('')
})
