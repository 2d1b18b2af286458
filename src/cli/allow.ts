/**
 * `peerline allow` and `peerline deny`: who may come in, and use what, from now on.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, collect, duration, type IdentityOption, type JsonOption } from './options.ts'
import { formatSpan, type Output } from './output.ts'
import { run } from './run.ts'

interface RuleOptions extends IdentityOption, JsonOption {
  readonly protocol?: readonly string[]
  readonly group?: string
  readonly for?: number
}

const ALLOW_HELP = `
Examples:
  peerline allow <peer id>                                     let it in, to use what there is
  peerline allow <peer id> --for 1h                            for an hour
  peerline allow <peer id> --protocol /peerline/ping/1         let it in, to ping and no more
  peerline allow --group friends                               all that \`peerline peers add --group friends\` put there
  peerline allow everyone --protocol '/chat/*'

A peerline that runs with this identity takes it over at once. What was denied by name stays so: \`peerline rules\` shows it.
`

const DENY_HELP = `
Examples:
  peerline deny <peer id>                                      let it in no longer
  peerline deny <peer id> --protocol '/peerline/file/*'        it may connect, but send no files
  peerline deny everyone                                       all that have no rule of their own

A peerline that runs with this identity takes it over at once: sessions of whom it denies are ended. Their own connections
are ours to make still; \`peerline ban\` shuts a peer out both ways, whatever the rules say.
`

export function addRuleCommands(program: Command): void {
  addRuleCommand(program, 'allow', 'let a peer in, or use a protocol', ALLOW_HELP)
  addRuleCommand(program, 'deny', 'let a peer in no longer, or use a protocol no longer', DENY_HELP)
}

function addRuleCommand(program: Command, order: 'allow' | 'deny', description: string, help: string): void {
  const command = program.command(order).description(description)
  command.usage('[options] PEER | everyone | --group NAME').argument('[peer]', 'peer id or did:key, or "everyone"')
  addJson(addIdentity(command))
    .option(
      '--protocol <name>',
      `what to ${order}; "/chat/*" is all that begin so; may be repeated (default: anything)`,
      collect,
    )
    .option('--group <name>', 'the peers of a group, instead of a peer')
    .option('--for <time>', 'how long: 90s, 15m, 1h, 7d (default: for good)', duration)
    .addHelpText('after', help)
  command.action((peer: string | undefined, options: RuleOptions) =>
    run(options, async (running) => {
      const subject = await readSubject(peer, options.group)
      const { protocol: objects = ['anything'] } = options
      const until = options.for === undefined ? undefined : Date.now() + options.for
      const { done, live } = await carryOut(options, { order, subject, objects, until }, running)
      const { out } = running
      out.event({
        event: order === 'allow' ? 'allowed' : 'denied',
        subject,
        objects,
        until: until ?? null,
        live,
        ...done,
      })
      const whom = subject.startsWith('group:') ? `group ${subject.slice(6)}` : subject
      const what = objects.includes('anything') ? '' : `: ${objects.join(', ')}`
      out.say(`${order === 'allow' ? 'allowed' : 'denied'} ${whom}${what}${howLong(options.for)}; ${whenItHolds(live)}`)
      tellMore(done, subject, out)
      return undefined
    }),
  )
}

/** Whom a rule is to be for. @throws PeerlineError `ERR_PEERLINE_INVALID` */
async function readSubject(peer: string | undefined, group: string | undefined): Promise<string> {
  if ((peer === undefined) === (group === undefined)) {
    throw new PeerlineError('ERR_PEERLINE_INVALID', 'name either a peer, or everyone, or a group with --group')
  }
  const { parseSubject } = await import('../policy/rule.ts')
  return parseSubject(group === undefined ? peer : `group:${group}`)
}

/** What people would not expect of it. */
function tellMore(done: Json, subject: string, out: Output): void {
  const rules = (name: string) => (done[name] as readonly Json[]).map(({ rule, action }) => `${rule}: ${action}`)
  for (const rule of rules('gone')) out.say(`gone for good: ${rule}`)
  for (const rule of rules('except')) out.say(`but still: ${rule}`)
  if (done.banned === true) out.say(`but it is banned: peerline unban ${subject}`)
}

/** ` for 1 h`, or nothing. */
export function howLong(ms: number | undefined): string {
  return ms === undefined ? '' : ` for ${formatSpan(ms)}`
}

export function whenItHolds(live: boolean): string {
  return live ? 'a running peerline took it over at once' : 'it holds from the next start'
}
