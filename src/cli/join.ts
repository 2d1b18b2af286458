/**
 * `peerline join`: comes to a peer by the ticket that its `peerline invite` has printed.
 */
import type { Command } from 'commander'
import type { JoinOptions } from './joining.ts'
import { addAnnounce, addJson, addPeer } from './options.ts'
import { run } from './run.ts'

const HELP = `
Examples:
  peerline join peerline:yb4d…                         as printed by \`peerline invite\`, or read from its QR code
  peerline join                                        asks for the ticket: no other user of this machine sees it
  peerline join TICKET --stay                          and be there for it from then on
  peerline join TICKET --by-hand                       no server, no address: paste an offer there, and the answer here

The peer is noted in the address book, so that \`peerline ping <peer id>\` and others find it from then on, and let in here as
the ticket lets us in there, unless --no-allow says otherwise. --announce goes with --stay.
Spaces, line breaks and capitals do not matter.
`

export function addJoinCommand(program: Command): void {
  const command = program.command('join').description('come to a peer by a ticket of it')
  command.argument('[ticket...]', 'what its `peerline invite` has printed (default: asks for it)')
  addJson(addAnnounce(addPeer(command)))
  command
    .option('--no-allow', 'do not let that peer in here')
    .option('--stay', 'stay online when it has joined')
    .option('--by-hand', 'paste an offer there, and the answer here: for two machines that nothing connects')
    .addHelpText('after', HELP)
  command.action((words: readonly string[], options: JoinOptions) =>
    run({ ...options, endless: options.stay === true || options.byHand === true }, async (running) => {
      const { beginJoining } = await import('./joining.ts')
      return beginJoining(words, options, running)
    }),
  )
}
