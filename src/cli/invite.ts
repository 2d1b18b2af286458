/**
 * `peerline invite`: a ticket for somebody else's `peerline join`, as text and as a QR code; and who may come by which.
 */
import type { Command } from 'commander'
import { whenItHolds } from './allow.ts'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import type { InviteOptions } from './inviting.ts'
import {
  addAnnounce,
  addIdentity,
  addJson,
  addPeer,
  collect,
  duration,
  type IdentityOption,
  type JsonOption,
  wholeNumber,
} from './options.ts'
import { columns, formatSpan, printable } from './output.ts'
import { type Running, run } from './run.ts'

const HELP = `
Examples:
  peerline invite --rendezvous 'ws://192.0.2.1:4400#<peer id>'   a ticket for one peer, good for a day
  peerline invite --for 1h --uses 5 --protocol '/chat/*'         for five, to chat and no more
  peerline invite --no-capability                                says where this machine is, and lets nobody in
  peerline invite --by-hand                                      no server, no address: the rest is copy and paste
  peerline invite list                                           who may still come, and who has
  peerline invite revoke <id>

A ticket is a secret: whoever brings it first comes in. A peerline that runs with this identity takes over who may come;
otherwise this command waits until somebody has joined.
`

export function addInviteCommand(program: Command): void {
  const command = program.command('invite').description('print a ticket with which somebody else can join this machine')
  addJson(addAnnounce(addPeer(command.enablePositionalOptions())))
  command
    .option('--for <time>', 'how long it is good: 90s, 15m, 1h, 7d (default: 1d)', duration)
    .option('--uses <n>', 'how many peers may come by it', wholeNumber(1, 1_000))
    .option('--once', 'one peer may come by it; so it is when nothing is said')
    .option(
      '--protocol <name>',
      'what they may use; "/chat/*" is all that begin so; may be repeated (default: anything)',
      collect,
    )
    .option('--group <name>', 'the group that they join')
    .option('--no-capability', 'let nobody in by it: it says where this machine is, and rules decide')
    .option('--no-qr', 'draw no QR code')
    .option('--detach', 'do not wait for anybody: a peerline that runs, or is started later, lets them in')
    .option('--stay', 'stay online when somebody has joined')
    .option('--by-hand', 'paste an offer here, and the answer there: for two machines that nothing connects')
    .addHelpText('after', HELP)
  command.action((options: InviteOptions) =>
    run({ ...options, endless: options.stay === true || options.byHand === true }, async (running) => {
      const { beginInviting } = await import('./inviting.ts')
      return beginInviting(options, running)
    }),
  )

  const list = command.command('list').description('show who may still come by which ticket, and who has')
  addJson(addIdentity(list))
  list.action((options: IdentityOption & JsonOption) => run(options, (running) => listTickets(options, running)))

  const revoke = command.command('revoke').description('take a ticket back; those who came by it stay')
  revoke.argument('<id>', 'the id of the ticket, as `peerline invite list` shows it')
  addJson(addIdentity(revoke))
  revoke.action((id: string, options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const { done, live } = await carryOut(options, { order: 'revoke', id }, running)
      running.out.event({ event: 'revoked', id, was: done.was, live })
      running.out.say(done.was === true ? `took back ${id}; ${whenItHolds(live)}` : `there is no open ticket ${id}`)
      return undefined
    }),
  )
}

async function listTickets(options: IdentityOption, running: Running): Promise<undefined> {
  const { out } = running
  const rows: string[][] = []
  await carryOut(options, { order: 'invitations' }, running, (item) => {
    if (out.json) out.event(item)
    else rows.push(row(item).map(printable))
  })
  if (!out.json && rows.length === 0) out.say('there are no tickets')
  for (const line of columns(rows)) if (!out.json) out.data(line.trimStart())
  return undefined
}

function row({ id, state, until, uses, objects, group, peers }: Json): string[] {
  const left = state === 'open' ? `${uses} left, for ${formatSpan(Number(until) - Date.now())}` : String(state)
  const what = group === null ? ((objects as string[] | null) ?? ['anything']).join(', ') : `group ${group}`
  return [String(id), left, what, (peers as string[]).join(' ')]
}
