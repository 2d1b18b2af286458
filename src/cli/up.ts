/**
 * `peerline up`: stays online, and tells of the sessions that come and go.
 */
import type { Command } from 'commander'
import type { Session } from '../session/index.ts'
import { ready } from './local-peer.ts'
import {
  type AllowOption,
  type AskOption,
  addAllow,
  addAnnounce,
  addJson,
  addPeer,
  type JsonOption,
  type PeerOption,
} from './options.ts'
import type { Output } from './output.ts'
import { run, stopping } from './run.ts'
import { tellOfPaths } from './session-news.ts'

export function addUpCommand(program: Command): void {
  const command = program.command('up').description('stay online, answer pings, and tell of sessions')
  addJson(addAllow(addAnnounce(addPeer(command))))
  command.option('--ask', 'ask in this terminal what a peer may do that no rule decides')
  command.addHelpText(
    'after',
    `
Examples:
  peerline up --rendezvous 'ws://192.0.2.1:4400#<peer id>' --allow all
  peerline up --listen :4401 --allow <peer id>         without any server: found at this address alone
  peerline up --via relay --allow all                  relays alone: no peer learns an address of this machine
  peerline up --ask                                    strangers wait for a yes or no of yours, which is remembered

Who may come in is said by \`peerline allow\`, also while this runs, and for this time by --allow; see \`peerline rules\`.
It ends when no rendezvous, and no ledger, can be reached at the start. One that is lost later is dialled again until it
is back.
`,
  )
  command.action((options: PeerOption & AllowOption & AskOption & JsonOption) =>
    run({ ...options, endless: true }, async (running) => {
      const { out, signal } = running
      const { answeringPeer } = await import('./answering.ts')
      const answering = await answeringPeer(options, running)
      const { peer } = answering
      try {
        peer.addEventListener('session', ({ detail: { session } }) => tellOf(session, out))
        await ready(peer, options, running)
        await stopping(signal)
      } finally {
        await answering.close()
      }
      return undefined
    }),
  )
}

function tellOf(session: Session, out: Output): void {
  const { peer } = session
  out.event({ event: 'session', peer, path: session.path ?? null })
  out.say(`session with ${peer} by ${session.path}`)
  tellOfPaths(session, out, { who: `session with ${peer}: ` })
  session.addEventListener('close', ({ detail: { error } }) => {
    out.event({ event: 'closed', peer, reason: error?.code ?? 'closed' })
    out.say(`session with ${peer} ended${error === undefined ? '' : `: ${error.message}`}`)
  })
}
