/**
 * Tickets: one machine invites, another joins; by address, by a server, and by copy and paste alone.
 */
import { describe, expect, test } from 'vitest'
import { EXIT } from '../../src/cli/exit-codes.ts'
import { Identity } from '../../src/identity/index.ts'
import { writeTicket } from '../../src/identity/ticket.ts'
import { type Json, type Running, World } from './command.ts'

const PING = '/peerline/ping/1'
const HERE = ['--listen', '127.0.0.1:0', '--no-lan']
const NOWHERE = ['--listen', 'none', '--no-lan']

const named = (name: string) => (event: Json) => event.event === name

async function ticketOf(running: Running): Promise<string> {
  return String((await running.event(named('ticket'))).ticket)
}

/** What rules `who` keeps, as lines. */
async function rulesOf(world: World, who: string): Promise<string[]> {
  const { events } = await world.run(who, ['rules', '--json'])
  return events.flatMap(({ rule, action, kept }) => (kept === true ? [`${rule}: ${action}`] : []))
}

describe('a ticket', () => {
  test('lets one peer in, which lets the other in as well, and both commands end', async () => {
    const world = await World.make()
    const [a, b] = [await world.id('a'), await world.id('b')]
    const inviting = world.start('a', ['invite', ...HERE])
    const [ticket] = await inviting.printed(/^peerline:\S+$/m)
    // As it may come out of a mail, or off a piece of paper.
    const carried = ticket.toUpperCase().match(/.{1,50}/g)!
    const joining = await world.run('b', ['join', ...NOWHERE, ...carried])
    expect(await joining.code(), joining.stderr).toBe(EXIT.OK)
    expect(joining.stderr).toMatch(
      new RegExp(`^joined ${a} by tcp\n${a} answers a ping in .*\n${a} may come here as well`),
    )
    expect(await inviting.code(), inviting.stderr).toBe(EXIT.OK)
    expect(inviting.stdout).toBe(`${ticket}\n`)
    expect(inviting.stderr).toContain(`this ticket lets one peer in, to use anything, for 1 d`)
    expect(inviting.stderr).toContain(`${b} has joined by tcp`)
    expect([await rulesOf(world, 'a'), await rulesOf(world, 'b')]).toEqual([
      [`${b} anything in: allow`],
      [`${a} anything in: allow`],
    ])
    const { events } = await world.run('b', ['peers', '--json'])
    expect(events).toEqual([expect.objectContaining({ peer: a, addresses: [expect.stringContaining('127.0.0.1:')] })])
  })

  test('of a peer that runs is minted there, used up there, and taken back there', async () => {
    const world = await World.make()
    const up = world.start('a', ['up', ...HERE, '--json'])
    await up.event(named('ready'))
    const options = ['--uses', '2', '--for', '1h', '--protocol', PING, '--json']
    const inviting = await world.run('a', ['invite', ...options])
    expect(await inviting.code(), inviting.stderr).toBe(EXIT.OK)
    const [event] = inviting.events
    expect(event).toMatchObject({ event: 'ticket', uses: 2, objects: [PING], group: null })
    const ticket = String(event!.ticket)
    const join = async (who: string) => world.run(who, ['join', ...NOWHERE, '--no-allow', ticket])
    for (const who of ['b', 'c', 'b']) expect(await (await join(who)).code()).toBe(EXIT.OK)
    const late = await join('d')
    expect([await late.code(), late.stderr]).toEqual([EXIT.DENIED, expect.stringContaining('was used before. Ask for')])
    expect(await rulesOf(world, 'b')).toEqual([])
    const second = await world.run('a', ['invite', '--json'])
    const id = String(second.events[0]!.id)
    expect((await world.run('a', ['invite', 'revoke', id])).stderr).toMatch(/^took back/)
    expect((await world.run('a', ['invite', 'revoke', id])).stderr).toMatch(/^there is no open ticket/)
    const back = await world.run('d', ['join', ...NOWHERE, String(second.events[0]!.ticket)])
    expect([await back.code(), back.stderr]).toEqual([EXIT.DENIED, expect.stringContaining('was taken back')])
    const list = await world.run('a', ['invite', 'list', '--json'])
    expect(list.events.map(({ state, peers }) => [state, (peers as string[]).length])).toEqual([
      ['used up', 2],
      ['revoked', 0],
    ])
  })

  test('that is made while nobody runs is good for the peer that is started later, and names its server', async () => {
    const world = await World.make()
    const alone = await world.run('a', ['invite', '--detach'])
    expect([await alone.code(), alone.stderr]).toEqual([EXIT.USAGE, expect.stringContaining('will be is not known')])
    const { url } = await world.serve()
    const inviting = await world.run('a', ['invite', '--detach', '--json'])
    const up = world.start('a', ['up', ...HERE, '--json'])
    await up.event(named('ready'))
    delete world.env.PEERLINE_RENDEZVOUS
    const joining = await world.run('b', ['join', ...HERE, await ticketOf(inviting)])
    expect(await joining.code(), joining.stderr).toBe(EXIT.OK)
    expect(joining.stderr).toContain(`give --rendezvous '${url}' from now on`)
  })

  test('leads back to its peer by the id alone, by the server that it names, wherever that peer is by now', async () => {
    const world = await World.make()
    const { url } = await world.serve()
    const inviting = world.start('a', ['invite', ...HERE, '--json'])
    const ticket = await ticketOf(inviting)
    // The other machine has no server of its own.
    delete world.env.PEERLINE_RENDEZVOUS
    const joining = await world.run('b', ['join', ...HERE, ticket])
    expect([await joining.code(), await inviting.code()], joining.stderr).toEqual([EXIT.OK, EXIT.OK])
    const { peerId } = await world.ready('a', ['up', '--listen', '127.0.0.2:0', '--no-lan', '--rendezvous', url])
    const { events } = await world.run('b', ['peers', '--json'])
    expect(events).toEqual([
      expect.objectContaining({ peer: peerId, rendezvous: [url], lastMet: expect.any(Number), session: null }),
    ])
    const ping = (...options: string[]) => world.run('b', ['ping', peerId, ...HERE, '--count', '1', ...options])
    const alone = await ping()
    expect(await alone.code(), alone.stderr).toBe(EXIT.OK)
    // A server of its own that is gone keeps nobody from asking there.
    const dead = await ping('--rendezvous', `ws://127.0.0.1:1#${await world.id('server')}`)
    expect(await dead.code(), dead.stderr).toBe(EXIT.OK)
    // What was joined is remembered; what was dialled changes nothing.
    expect((await world.run('b', ['peers', '--json'])).events).toEqual(events)
  })

  test('without a capability lets nobody in', async () => {
    const world = await World.make()
    const inviting = world.start('a', ['invite', ...HERE, '--no-capability', '--json'])
    const ticket = await ticketOf(inviting)
    const stranger = await world.run('b', ['join', ...NOWHERE, ticket])
    expect([await stranger.code(), stranger.stderr]).toEqual([
      EXIT.DENIED,
      expect.stringContaining('does not let you in'),
    ])
    await world.run('a', ['allow', await world.id('b')])
    const joining = await world.run('b', ['join', ...NOWHERE, ticket])
    expect(await joining.code(), joining.stderr).toBe(EXIT.OK)
    expect([await inviting.code(), await rulesOf(world, 'b')]).toEqual([EXIT.OK, []])
  })

  test('that is mistyped, over, or of this machine itself is told as such', async () => {
    const world = await World.make()
    const inviting = world.start('a', ['invite', ...HERE, '--for', '1s', '--json'])
    const ticket = await ticketOf(inviting)
    expect(await inviting.code()).toBe(EXIT.DENIED)
    expect(inviting.stderr).toContain('nobody came in time')
    const join = async (text: string) => (await world.run('b', ['join', text])).stderr
    expect(await join(ticket)).toMatch(/^peerline: the ticket has expired. Ask for another ticket\./)
    expect(await join(ticket.slice(0, -1))).toMatch(
      /^peerline: the ticket is not whole: .* Copy the whole ticket again\./,
    )
    expect(await join('hello')).toMatch(/^peerline: this is no ticket: one begins with "peerline:"/)
    const broken = writeTicket({ peer: Identity.generate().peerId, objects: ['/a*b'] })
    expect(await join(broken)).toMatch(/^peerline: a pattern has its \* at the end/)
    const own = await world.run('a', [
      'invite',
      '--detach',
      '--json',
      '--rendezvous',
      `ws://127.0.0.1:1#${await world.id('b')}`,
    ])
    expect((await world.run('a', ['join', await ticketOf(own)])).stderr).toMatch(/ticket of this machine itself/)
    const sound = writeTicket({ peer: Identity.generate().peerId })
    expect((await world.run('a', ['join', sound, '--announce'])).stderr).toMatch(
      /--announce is for a command that stays/,
    )
  })

  test.each([
    [['--once', '--uses', '2'], /--once or --uses/],
    [['--detach', '--stay'], /--detach or --stay/],
    [['--no-capability', '--protocol', PING], /lets nobody in/],
    [['--uses', '0'], /whole number/],
    [['--protocol', '/a*b'], /pattern/],
  ])('with %j is refused', async (options, message) => {
    const world = await World.make()
    const inviting = await world.run('a', ['invite', ...HERE, ...options])
    expect([await inviting.code(), inviting.stderr]).toEqual([EXIT.USAGE, expect.stringMatching(message)])
  })
})

describe('copy and paste', () => {
  test('connects two machines between which there is nothing else', async () => {
    const world = await World.make()
    const [a, b] = [await world.id('a'), await world.id('b')]
    const inviting = world.start('a', ['invite', '--by-hand', ...HERE, '--json'])
    const joining = world.start('b', ['join', '--by-hand', ...HERE, '--json', await ticketOf(inviting)])
    const offer = String((await joining.event(named('offer'))).text)
    inviting.child.stdin!.write(`${offer.slice(0, 300)}\n\n`)
    await inviting.said(/the offer is not whole/)
    inviting.child.stdin!.write(`${offer.match(/.{1,64}/g)!.join('\r\n')}\r\n`)
    const answer = String((await inviting.event(named('answer'))).text)
    joining.child.stdin!.write(`${offer}\n\n`)
    await joining.said(/this is an offer, and an answer is wanted/)
    joining.child.stdin!.write(`Here it is:\n\n${answer}\n`)
    expect(await joining.event(named('joined'))).toMatchObject({ peer: a })
    expect(await inviting.event(named('joined'))).toMatchObject({ peer: b })
    expect(await joining.event(named('ping'))).toMatchObject({ peer: a, rttMs: expect.any(Number) })
    expect(await inviting.event(named('ping'))).toMatchObject({ peer: b, rttMs: expect.any(Number) })
    joining.child.kill('SIGINT')
    expect([await joining.code(), await inviting.code()]).toEqual([EXIT.OK, EXIT.OK])
    expect(inviting.events.at(-1)).toEqual({ event: 'closed', peer: b })
    expect(await rulesOf(world, 'a')).toEqual([`${b} anything in: allow`])
  })

  test('goes on when nothing more can be pasted, and takes the ticket in the same way', async () => {
    const world = await World.make()
    const inviting = world.start('a', ['invite', '--by-hand', ...HERE, '--json'])
    const joining = world.start('b', ['join', '--by-hand', ...HERE, '--json'])
    joining.child.stdin!.write(`${await ticketOf(inviting)}\n`)
    inviting.child.stdin!.end(`${(await joining.event(named('offer'))).text}\n`)
    joining.child.stdin!.end(`${(await inviting.event(named('answer'))).text}\n`)
    await Promise.all([joining.event(named('ping')), inviting.event(named('ping'))])
    inviting.child.kill('SIGINT')
    expect([await inviting.code(), await joining.code()]).toEqual([EXIT.OK, EXIT.OK])
  })

  test('shows texts in lines that any terminal takes', async () => {
    const world = await World.make()
    const inviting = world.start('a', ['invite', '--by-hand', ...HERE])
    const [ticket] = await inviting.printed(/^peerline:\S+$/m)
    const joining = world.start('b', ['join', '--by-hand', ...HERE, ticket])
    const [offer] = await joining.printed(/^peerline-offer:(?:[a-z0-9]+\n)+/m)
    expect(Math.max(...offer.split('\n').map((line) => line.length))).toBe(64)
    expect(offer.length).toBeGreaterThan(300)
    joining.child.kill('SIGTERM')
    expect(await joining.code()).toBe(EXIT.OK)
  })

  test('says so when the input ends', async () => {
    const world = await World.make()
    const inviting = await world.run('a', ['invite', '--by-hand', ...HERE])
    expect([await inviting.code(), inviting.stderr]).toEqual([
      EXIT.NO_PATH,
      expect.stringContaining('the input ended before an offer was pasted'),
    ])
  })
})
