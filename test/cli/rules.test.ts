/**
 * Who may come in: rules, bans, the address book and the log, with and without a command that runs.
 */
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { type Json, type Running, World } from './command.ts'

const PING = '/peerline/ping/1'
const MS = expect.any(Number)

/** Two machines without a server: `up` runs as b, and a pings it. */
async function pair(...args: string[]) {
  const world = await World.make()
  const [a, b] = [await world.id('a'), await world.id('b')]
  const start = () => world.start('b', ['up', '--listen', '127.0.0.1:0', ...args])
  const pings = async (up: Running, ...more: string[]) => {
    const [, address] = await up.said(/listening on (\S+)\n/)
    return world.start('a', ['ping', b, '--address', address!, '--interval', '10', '--json', ...more])
  }
  const ping = async (up: Running) => (await pings(up, '--count', '1')).code()
  return { world, a, b, up: start(), start, pings, ping }
}

/** Runs a command as b, which succeeds; what it said for people. */
async function say(world: World, ...args: string[]): Promise<string> {
  const running = await world.run('b', args)
  expect([await running.code(), running.stdout], running.stderr).toEqual([EXIT.OK, ''])
  return running.stderr
}

/** The lines that a command as b prints. */
async function events(world: World, ...args: string[]): Promise<Json[]> {
  const running = await world.run('b', [...args, '--json'])
  expect([await running.code(), running.stderr]).toEqual([EXIT.OK, ''])
  return running.events
}

const rulesOf = async (world: World) =>
  (await events(world, 'rules')).flatMap(({ rule, action, kept }) => (kept === true ? [`${rule}: ${action}`] : []))

describe('when nobody runs', () => {
  test('rules and bans are kept for the next start, for their owner alone', async () => {
    const world = await World.make()
    const a = await world.id('a')
    expect(await say(world, 'allow', a, '--for', '1h30m')).toBe(
      `allowed ${a} for 1 h 30 min; it holds from the next start\n`,
    )
    expect(await say(world, 'deny', 'everyone', '--protocol', '/chat/*', '--protocol', '/x/1')).toBe(
      'denied everyone: /chat/*, /x/1; it holds from the next start\n',
    )
    expect(await say(world, 'allow', '--group', 'friends')).toBe(
      'allowed group friends; it holds from the next start\n',
    )
    expect(await say(world, 'ban', '192.0.2.77/24', '--why', 'floods')).toBe(
      'banned 192.0.2.0/24; it holds from the next start\n',
    )
    const rule = { subject: a, object: 'anything', direction: 'in', action: 'allow', until: MS, kept: true }
    const all = await events(world, 'rules')
    expect(all.filter(({ kept }) => kept !== false)).toEqual([
      { rule: `${a} anything in`, ...rule },
      expect.objectContaining({ rule: 'everyone /chat/* in', action: 'deny', until: null }),
      expect.objectContaining({ rule: 'everyone /x/1 in', action: 'deny' }),
      expect.objectContaining({ rule: 'group:friends anything in', action: 'allow' }),
      { ban: '192.0.2.0/24', since: MS, until: null, why: 'floods' },
    ])
    expect(Number(all[1]!.until) - Date.now()).toBeLessThanOrEqual(5_400_000)
    const people = await world.run('b', ['rules'])
    expect(people.stdout).toMatch(/^allow +\S{52} +anything +in +for 1 h (29|30) min$/m)
    expect(people.stdout).toMatch(/^ban +192\.0\.2\.0\/24 +floods$/m)
    expect((await stat(world.file('b.key.state'))).mode & 0o777).toBe(0o600)
    expect((await readdir(world.home)).filter((name) => name.startsWith('b'))).toEqual(['b.key.state'])
  })

  test('deny says what is gone, and a rule that was removed is', async () => {
    const world = await World.make()
    const a = await world.id('a')
    await say(world, 'allow', a, '--protocol', PING)
    expect(await rulesOf(world)).toEqual([`${a} ${PING} in: allow`, `${a} connection in: allow`])
    expect(await say(world, 'deny', a)).toContain(`\ngone for good: ${a} ${PING} in: allow\n`)
    expect(await rulesOf(world)).toEqual([`${a} anything in: deny`])
    expect(await say(world, 'rules', 'remove', a, 'anything', 'in')).toMatch(/^removed/)
    expect(await say(world, 'rules', 'remove', a, 'anything', 'in')).toMatch(/^there is no rule/)
  })

  test('allow says what stays shut', async () => {
    const world = await World.make()
    const a = await world.id('a')
    await say(world, 'deny', a, '--protocol', '/shell/1')
    await say(world, 'ban', a)
    const allowed = await say(world, 'allow', a)
    expect(allowed).toContain(`\nbut still: ${a} /shell/1 in: deny\nbut it is banned: peerline unban ${a}\n`)
    expect(await say(world, 'unban', a)).toBe(`unbanned ${a}; it holds from the next start\n`)
    expect(await say(world, 'unban', a)).toBe(`${a} was not banned\n`)
  })

  test('commands that come at once lose nothing of each other', async () => {
    const world = await World.make()
    const numbers = Array.from({ length: 6 }, (_, n) => n + 1)
    await Promise.all(numbers.map((n) => say(world, 'ban', `192.0.2.${n}`)))
    const bans = (await events(world, 'rules')).flatMap(({ ban }) => (ban === undefined ? [] : [ban]))
    expect(bans.sort()).toEqual(numbers.map((n) => `192.0.2.${n}/32`))
  })

  test('the address book is there', async () => {
    const world = await World.make()
    const a = await world.id('a')
    expect(await say(world, 'peers')).toBe('no peer is known yet\n')
    await say(world, 'peers', 'add', a, '192.0.2.7:4401', '--name', 'alice', '--group', 'friends')
    expect(await events(world, 'peers')).toEqual([
      {
        ...{ peer: a, name: 'alice', note: null, groups: ['friends'], tags: [], lastMet: null },
        ...{ addresses: ['192.0.2.7:4401'], rendezvous: [], session: null, banned: false },
      },
    ])
    const people = await world.run('b', ['peers'])
    expect(people.stdout).toMatch(new RegExp(`^${a}  alice  friends  never met  192\\.0\\.2\\.7:4401\n$`))
    expect(await say(world, 'peers', 'forget', a)).toBe(`forgot ${a}\n`)
    expect(await say(world, 'peers', 'forget', a)).toBe(`${a} was not known\n`)
    expect(await events(world, 'peers')).toEqual([])
  })

  test('the log cannot be followed', async () => {
    const world = await World.make()
    const log = await world.run('b', ['log', '--follow'])
    expect([await log.code(), log.stdout]).toEqual([EXIT.UNREACHABLE, ''])
    expect(log.stderr).toMatch(/^peerline: no peerline runs with this identity\. [^\n]+\n$/)
  })

  test('a state that is damaged is set aside, and told', async () => {
    const world = await World.make()
    await writeFile(world.file('b.key.state'), '{"version":1,', { mode: 0o600 })
    const rules = await world.run('b', ['rules'])
    expect(rules.stderr).toMatch(/^peerline: what was saved cannot be read, and is kept as \S+b\.key\.state\.bad/)
    expect(await readFile(world.file('b.key.state.bad'), 'utf8')).toBe('{"version":1,')
  })
})

describe('when a peerline runs', () => {
  test('it lets in whom it is told to, at once, and still does after its next start', async () => {
    const { world, a, up, start, ping } = await pair()
    expect(await ping(up)).toBe(EXIT.DENIED)
    await up.said(new RegExp(`refused ${a}; peerline allow ${a} would let it in`))
    expect(await say(world, 'allow', a, '--protocol', PING)).toBe(
      `allowed ${a}: ${PING}; a running peerline took it over at once\n`,
    )
    expect(await ping(up)).toBe(EXIT.OK)
    up.child.kill('SIGTERM')
    expect(await up.code()).toBe(EXIT.OK)
    expect(await ping(start())).toBe(EXIT.OK)
  })

  test.each([['deny'], ['ban']])('it cuts an open session at %s', async (order) => {
    const { world, a, up, pings, ping } = await pair()
    await up.said(/nobody is let in/)
    await say(world, 'allow', a)
    const long = await pings(up, '--count', '100000')
    await long.event(({ seq }) => seq === 3)
    expect(await say(world, order, a)).toMatch(/a running peerline took it over at once/)
    expect(await long.code()).not.toBe(EXIT.OK)
    await up.said(/session with .* ended/)
    expect(await ping(up)).toBe(EXIT.DENIED)
  })

  test('what --allow says is not kept, and rules about the peer go first', async () => {
    const world = await World.make()
    const [a, c] = [await world.id('a'), await world.id('c')]
    const up = await world.ready('b', ['up', '--listen', '127.0.0.1:0', '--allow', a, '--allow', c])
    expect(await rulesOf(world)).toEqual([])
    const given = (await events(world, 'rules')).map(({ rule }) => rule)
    expect(given).toContain('group:command-line anything in')
    await say(world, 'deny', a)
    await say(world, 'ban', c)
    up.child.kill('SIGTERM')
    await up.exit
    expect(await rulesOf(world)).toEqual([`${a} anything in: deny`])
    const again = world.start('b', ['up', '--listen', '127.0.0.1:0', '--allow', a, '--allow', c])
    await again.said(new RegExp(`--allow ${a} has no effect: the rule ${a} anything in denies it`))
    await again.said(new RegExp(`--allow ${c} has no effect: it is banned`))
  })

  test('it tells its peers, and what it decided', async () => {
    const { world, a, up, ping, pings } = await pair()
    expect(await ping(up)).toBe(EXIT.DENIED)
    await say(world, 'allow', a)
    const follow = world.start('b', ['log', '--follow', '--json'])
    await follow.event(({ action, object }) => action === 'deny' && object === 'connection')
    const long = await pings(up, '--count', '100000')
    await long.event(({ seq }) => seq === 1)
    expect(await events(world, 'peers')).toMatchObject([{ peer: a, lastMet: MS, session: { path: 'tcp' } }])
    const asked = { peer: a, direction: 'in', at: MS }
    await follow.event(({ object }) => object === PING)
    expect(follow.events.slice(0, 3)).toEqual([
      { ...asked, object: 'connection', action: 'deny', reason: 'no-rule' },
      { ...asked, object: 'connection', action: 'allow', reason: 'rule', rule: `${a} anything in` },
      { ...asked, object: PING, action: 'allow', reason: 'rule', rule: `${a} anything in` },
    ])
    long.child.kill('SIGTERM')
    await long.exit
    up.child.kill('SIGTERM')
    expect(await up.code()).toBe(EXIT.OK)
    expect([await follow.code(), follow.stderr]).toEqual([EXIT.OK, ''])
    const log = await world.run('b', ['log', '-n', '100000'])
    const [first, second] = log.stdout.split('\n')
    expect(first).toMatch(
      new RegExp(`^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d  deny  ${a}  in  connection  no-rule$`),
    )
    expect(second).toMatch(/ {2}in {2}connection {2}its rule anything in$/)
    expect((await events(world, 'log', '-n', '1')).length).toBe(1)
    expect((await stat(world.file('b.key.log'))).mode & 0o777).toBe(0o600)
  })

  test('another with the same identity starts, knows what is saved, and says that it keeps nothing', async () => {
    const { world, a, up } = await pair()
    await up.said(/nobody is let in/)
    await say(world, 'ban', a)
    await expect.poll(() => readFile(world.file('b.key.state'), 'utf8').catch(() => '')).toContain(a)
    const second = world.start('b', ['up', '--listen', '127.0.0.1:0', '--allow', a])
    await second.said(/^peerline: another peerline runs with this identity[^\n]*\n/m)
    await second.said(/has no effect: it is banned/)
    second.child.kill('SIGTERM')
    expect(await second.code()).toBe(EXIT.OK)
    expect(await say(world, 'unban', a)).toMatch(/took it over at once/)
  })

  test('what one that was killed has left behind stops nobody', async () => {
    const { world, a, up, start } = await pair()
    await up.said(/nobody is let in/)
    up.child.kill('SIGKILL')
    await up.exit
    expect(await readdir(world.home)).toContain('b.key.sock')
    expect(await say(world, 'allow', a)).toMatch(/it holds from the next start/)
    const next = start()
    await next.said(/listening on/)
    expect(await say(world, 'deny', a)).toMatch(/took it over at once/)
    expect(next.stderr).not.toMatch(/another peerline/)
  })

  test('where nothing can be kept it runs all the same, and says so', async () => {
    const world = await World.make()
    await writeFile(world.file('b.key.sock'), 'in the way')
    const up = world.start('b', ['up', '--listen', '127.0.0.1:0', '--allow', 'all'])
    await up.said(/^peerline: nothing is remembered, and no command reaches this one: [^\n]*is no socket/m)
    up.child.kill('SIGTERM')
    expect(await up.code()).toBe(EXIT.OK)
  })
})

describe.skipIf(process.platform !== 'linux')('up --ask', () => {
  /** `up --ask` in a terminal, as b. */
  async function terminal() {
    const world = await World.make()
    const [a, b] = [await world.id('a'), await world.id('b')]
    const up = world.startInTerminal('b', ['up', '--listen', '127.0.0.1:0', '--ask'])
    const [, address] = await up.printed(/listening on (\S+)\r/)
    const ping = () => world.start('a', ['ping', b, '--address', address!, '--count', '1', '--json'])
    return { world, a, up, ping }
  }

  test('asks in the terminal, remembers the answer, and ends at Ctrl-C', async () => {
    const { world, a, up, ping } = await terminal()
    const first = ping()
    await up.printed(new RegExp(`${a} wants to\r\n {2}connect\r\nallow it\\? .*: $`))
    up.child.stdin!.write('y\n')
    expect(await first.code()).toBe(EXIT.OK)
    expect(await ping().code()).toBe(EXIT.OK)
    expect(await rulesOf(world)).toEqual([`${a} anything in: allow`])
    up.child.stdin!.write('\x03')
    expect(await up.code()).toBe(EXIT.OK)
  })

  test('says no', async () => {
    const { world, a, up, ping } = await terminal()
    const first = ping()
    await up.printed(/allow it\?/)
    up.child.stdin!.write('n\n')
    expect(await first.code()).toBe(EXIT.DENIED)
    expect(await ping().code()).toBe(EXIT.DENIED)
    expect(await rulesOf(world)).toEqual([`${a} anything in: deny`])
  })

  test('ends at Ctrl-C while it asks, and nothing is remembered', async () => {
    const { world, up, ping } = await terminal()
    const first = ping()
    await up.printed(/allow it\?/)
    up.child.stdin!.write('\x03')
    expect(await up.code()).toBe(EXIT.OK)
    expect(await first.code()).not.toBe(EXIT.OK)
    expect(await rulesOf(world)).toEqual([])
  })
})
