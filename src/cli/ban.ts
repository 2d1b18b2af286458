/**
 * `peerline ban` and `peerline unban`: who is shut out both ways, whatever the rules say.
 */
import type { Command } from 'commander'
import { howLong, whenItHolds } from './allow.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, duration, type IdentityOption, type JsonOption } from './options.ts'
import { run } from './run.ts'

interface BanOptions extends IdentityOption, JsonOption {
  readonly for?: number
  readonly why?: string
}

export function addBanCommands(program: Command): void {
  const ban = program.command('ban').description('shut a peer or addresses out, both ways, whatever the rules say')
  ban.argument('<peer>', 'peer id or did:key, an IP address, or a prefix such as 192.0.2.0/24')
  addJson(addIdentity(ban))
    .option('--for <time>', 'how long: 90s, 15m, 1h, 7d (default: for good)', duration)
    .option('--why <text>', 'a line for yourself, shown by `peerline rules`')
    .addHelpText(
      'after',
      `
Examples:
  peerline ban <peer id> --for 1h --why 'floods us'
  peerline ban 192.0.2.0/24
  peerline unban 192.0.2.0/24

A peerline that runs with this identity takes it over at once: sessions are ended. The rules of the peer stay as they are,
for when the ban is over.
`,
    )
  ban.action((target: string, options: BanOptions) =>
    run(options, async (running) => {
      const until = options.for === undefined ? undefined : Date.now() + options.for
      const { done, live } = await carryOut(options, { order: 'ban', target, until, why: options.why }, running)
      const { ban: banned, ...rest } = done
      running.out.event({ event: 'banned', target: banned, ...rest, live })
      running.out.say(`banned ${banned}${howLong(options.for)}; ${whenItHolds(live)}`)
      return undefined
    }),
  )

  const unban = program.command('unban').description('shut out no longer')
  unban.argument('<peer>', 'what was banned, as `peerline rules` shows it')
  addJson(addIdentity(unban)).addHelpText(
    'after',
    `
Examples:
  peerline unban <peer id>
  peerline unban 192.0.2.0/24
`,
  )
  unban.action((target: string, options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const { done, live } = await carryOut(options, { order: 'unban', target }, running)
      running.out.event({ event: 'unbanned', target, was: done.was, live })
      running.out.say(done.was === true ? `unbanned ${target}; ${whenItHolds(live)}` : `${target} was not banned`)
      return undefined
    }),
  )
}
