/**
 * `peerline id`: who this machine is.
 */
import type { Command } from 'commander'
import { addIdentity, addJson, type IdentityOption, type JsonOption } from './options.ts'
import { run } from './run.ts'

export function addIdCommand(program: Command): void {
  const command = program.command('id').description("print this machine's peer id; makes its key when there is none")
  addJson(addIdentity(command))
  command.addHelpText(
    'after',
    `
Examples:
  peerline id                        the peer id: what others dial, and what they allow
  peerline id --json                 also as a did:key
  peerline id --identity work.key    another identity
`,
  )
  command.action((options: IdentityOption & JsonOption) =>
    run(options, async ({ out }) => {
      const { loadOrCreateIdentity } = await import('../identity/key-file.ts')
      const { toDidKey } = await import('../identity/index.ts')
      const { peerId } = await loadOrCreateIdentity(options.identity)
      if (out.json) out.event({ peerId, didKey: toDidKey(peerId) })
      else out.data(peerId)
      return undefined
    }),
  )
}
