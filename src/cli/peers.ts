/**
 * `peerline peers`: the address book.
 */
import type { Command } from 'commander'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, collect, type IdentityOption, type JsonOption } from './options.ts'
import { columns, formatMs, formatSpan, printable } from './output.ts'
import { run } from './run.ts'

interface AddOptions extends IdentityOption, JsonOption {
  readonly name?: string
  readonly group?: readonly string[]
}

export function addPeersCommand(program: Command): void {
  const command = program.command('peers').description('show the peers that are known; name, add or forget one')
  addJson(addIdentity(command.enablePositionalOptions())).addHelpText(
    'after',
    `
Examples:
  peerline peers                                                  the one met last comes first
  peerline peers add <peer id> 192.0.2.7:4401 --name alice
  peerline peers add <peer id> --group friends                    peerline allow --group friends lets them in
  peerline peers forget <peer id>                                 also takes it out of its groups; its rules stay

Columns: peer, name, groups, when it was met last, the address to dial first, and the session that is open now.
`,
  )
  command.action((options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const { out } = running
      const rows: string[][] = []
      await carryOut(options, { order: 'peers' }, running, (item) => {
        if (out.json) out.event(item)
        else rows.push(row(item).map(printable))
      })
      if (!out.json && rows.length === 0) out.say('no peer is known yet')
      for (const line of columns(rows)) if (!out.json) out.data(line.trimStart())
      return undefined
    }),
  )

  const add = command.command('add').description('note a peer, an address of it, its name or a group')
  add.argument('<peer>', 'peer id or did:key').argument('[address]', 'host:port')
  addJson(addIdentity(add))
    .option('--name <name>', 'what you call it; "" takes that back')
    .option('--group <name>', 'put it in a group; may be repeated', collect)
  add.action((peer: string, address: string | undefined, options: AddOptions) =>
    run(options, async (running) => {
      const { name, group: groups = [] } = options
      const { done, live } = await carryOut(options, { order: 'know', peer, address, name, groups }, running)
      running.out.event({ event: 'known', peer: done.peer, live })
      running.out.say(`noted ${done.peer}`)
      return undefined
    }),
  )

  const forget = command.command('forget').description('forget a peer, and take it out of its groups')
  forget.argument('<peer>', 'peer id or did:key')
  addJson(addIdentity(forget))
  forget.action((peer: string, options: IdentityOption & JsonOption) =>
    run(options, async (running) => {
      const { done, live } = await carryOut(options, { order: 'forget', peer }, running)
      running.out.event({ event: 'forgotten', peer, was: done.was, live })
      running.out.say(done.was === true ? `forgot ${peer}` : `${peer} was not known`)
      return undefined
    }),
  )
}

function row({ peer, name, groups, lastMet, addresses, session, banned }: Json): string[] {
  const [best] = addresses as readonly string[]
  return [
    String(peer),
    typeof name === 'string' ? name : '-',
    (groups as readonly string[]).join(',') || '-',
    typeof lastMet === 'number' ? `${formatSpan(Date.now() - lastMet)} ago` : 'never met',
    best ?? '-',
    [...sessionText(session as Json | null), ...(banned === true ? ['banned'] : [])].join(', '),
  ]
}

function sessionText(session: Json | null): string[] {
  if (session === null) return []
  const { path, rttMs } = session
  if (typeof path !== 'string') return ['reconnecting']
  return [`by ${path}`, ...(typeof rttMs === 'number' ? [formatMs(rttMs)] : [])]
}
