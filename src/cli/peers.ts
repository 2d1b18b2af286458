/**
 * `peerline peers`: the address book, and who is on the local network.
 */
import { type Command, Option } from 'commander'
import type { Json } from './control-lines.ts'
import { carryOut } from './errand.ts'
import { addIdentity, addJson, collect, duration, type IdentityOption, type JsonOption } from './options.ts'
import { columns, formatMs, formatSpan, printable } from './output.ts'
import { pause, type Running, run } from './run.ts'

/** ms that the network is listened to: who is there answers within one second, but a datagram may be lost. */
const LISTEN_MS = 3_000
const LISTEN_TEXT = '3s'

interface AddOptions extends IdentityOption, JsonOption {
  readonly name?: string
  readonly group?: readonly string[]
}

interface ListOptions extends IdentityOption, JsonOption {
  readonly lan?: boolean
  readonly for: number
}

export function addPeersCommand(program: Command): void {
  const command = program.command('peers').description('show the peers that are known; name, add or forget one')
  addJson(addIdentity(command.enablePositionalOptions()))
    .option('--lan', 'who is on the local network now, instead; nobody is told who asks')
    .addOption(
      new Option('--for <time>', 'with --lan, how long to listen').argParser(duration).default(LISTEN_MS, LISTEN_TEXT),
    )
    .addHelpText(
      'after',
      `
Examples:
  peerline peers                                                  the one met last comes first
  peerline peers --lan                                            those that announce themselves there, without any server
  peerline peers add <peer id> 192.0.2.7:4401 --name alice
  peerline peers add <peer id> --group friends                    peerline allow --group friends lets them in
  peerline peers forget <peer id>                                 also takes it out of its groups; its rules stay

Columns: peer, name, groups, when it was met last, the address to dial first, or else the server to ask, and the session that
is open now; with --lan: peer, name, how it was heard, and its addresses.
`,
    )
  command.action((options: ListOptions) =>
    run(options, async (running) => {
      const { out } = running
      if (options.lan === true) return listLan(options, running)
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

/** Lists who is heard on the local network within a few seconds. */
async function listLan(options: ListOptions, running: Running): Promise<undefined> {
  const { LanDiscovery } = await import('../discovery/lan.ts')
  const { loadIdentity } = await import('../identity/key-file.ts')
  const { out, signal } = running
  const names = new Map<unknown, unknown>()
  await carryOut(options, { order: 'peers' }, running, ({ peer, name }) => names.set(peer, name))
  // Another command of this identity may run here, and is not to be found. It need have no key yet.
  const identity = await loadIdentity(options.identity).catch(() => undefined)
  const lan = await LanDiscovery.open({ mode: 'listen', ...(identity === undefined ? {} : { identity }) })
  lan.addEventListener('found', ({ detail: { peer, addresses, by } }) =>
    out.event({ event: 'found', peer, name: names.get(peer) ?? null, addresses, by }),
  )
  lan.addEventListener('lost', ({ detail }) => out.event({ event: 'lost', ...detail }))
  await pause(options.for, signal)
  const found = lan.peers
  await lan.close()
  if (out.json) return undefined
  if (found.length === 0) out.say('nobody announces itself on the local network')
  const rows = found.map(({ peer, addresses, by }) => [peer, names.get(peer) ?? '-', by, addresses.join(' ')])
  for (const line of columns(rows.map((cells) => cells.map((cell) => printable(String(cell)))))) {
    out.data(line.trimStart())
  }
  return undefined
}

function row({ peer, name, groups, lastMet, addresses, rendezvous, session, banned }: Json): string[] {
  const [best] = addresses as readonly string[]
  const [server] = (rendezvous ?? []) as readonly string[]
  return [
    String(peer),
    typeof name === 'string' ? name : '-',
    (groups as readonly string[]).join(',') || '-',
    typeof lastMet === 'number' ? `${formatSpan(Date.now() - lastMet)} ago` : 'never met',
    best ?? server?.split('#')[0] ?? '-',
    [...sessionText(session as Json | null), ...(banned === true ? ['banned'] : [])].join(', '),
  ]
}

function sessionText(session: Json | null): string[] {
  if (session === null) return []
  const { path, rttMs } = session
  if (typeof path !== 'string') return ['reconnecting']
  return [`by ${path}`, ...(typeof rttMs === 'number' ? [formatMs(rttMs)] : [])]
}
