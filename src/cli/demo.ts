/**
 * `peerline demo`: see it work on this machine, with a server or without any.
 */
import type { Command } from 'commander'
import { EXIT } from './exit-codes.ts'
import { addJson, type JsonOption } from './options.ts'
import { run } from './run.ts'

/** ms for everything: ten times what it takes. */
const DEADLINE_MS = 60_000

interface DemoOptions extends JsonOption {
  readonly server: boolean
}

export function addDemoCommand(program: Command): void {
  const command = program
    .command('demo')
    .description('see it work on this machine: a file moves from a relay to a direct path, then the server is killed')
    .option('--no-server', 'with no server at all: two peers find each other by a ledger, which is a file')
  addJson(command)
  command.addHelpText(
    'after',
    `
It starts a server and two peers, or two peers, as processes of their own, with keys and files that are removed at the
end, and sends 96 MiB of random bytes. The exit code is 0 only if everything held.
`,
  )
  command.action((options: DemoOptions) =>
    run(options, async ({ out, signal }) => {
      const { FILE_BYTES, perform } = await import('./demo-stage.ts')
      const { roles, play, texts } = await playOf(options)
      const started = performance.now()
      const limited = AbortSignal.any([signal, AbortSignal.timeout(DEADLINE_MS)])
      const { checks, byPath } = await perform(roles, play, out, limited)
      const ok = Object.keys(texts).every((check) => checks[check])
      const seconds = Math.round(performance.now() - started) / 1000
      out.event({ event: 'result', ok, ...checks, bytes: FILE_BYTES, byPath, seconds })
      for (const [check, text] of Object.entries(texts)) out.say(`  ${checks[check] ? 'ok  ' : 'NOT '} ${text}`)
      if (ok) out.say(`All of it held, in ${seconds.toFixed(1)} s.`)
      else out.warn('peerline: the demo did not work as it should: see above. Please report it.')
      return ok ? EXIT.OK : EXIT.UNEXPECTED
    }),
  )
}

async function playOf({ server }: DemoOptions) {
  if (server) {
    const { playWithServer, SERVER_CHECKS } = await import('./demo-server.ts')
    return { roles: ['server', 'sender', 'receiver'], play: playWithServer, texts: SERVER_CHECKS }
  }
  const { LEDGER_CHECKS, playWithLedger } = await import('./demo-ledger.ts')
  return { roles: ['sender', 'receiver'], play: playWithLedger, texts: LEDGER_CHECKS }
}
