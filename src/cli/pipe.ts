/**
 * `peerline pipe`: standard input here, standard output there.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { Stream } from '../session/index.ts'
import { closePeer, dialingPeer, reach, readPeerId, ready, withRecovery } from './local-peer.ts'
import {
  type AllowOption,
  addAllow,
  addAnnounce,
  addDial,
  addPeer,
  type DialOption,
  type PeerOption,
} from './options.ts'
import { type Running, run, stopping } from './run.ts'
import { tellOfGaps } from './session-news.ts'

interface PipeOptions extends PeerOption, DialOption, AllowOption {
  readonly receive?: boolean
}

export function addPipeCommand(program: Command): void {
  const command = program.command('pipe').description('send standard input to the standard output of a peer')
  command.usage('[options] PEER | --receive').argument('[peer]', 'peer id or did:key')
  addAllow(addAnnounce(addDial(addPeer(command))))
  command.option('--receive', 'write what one peer sends to standard output, then end')
  command.addHelpText(
    'after',
    `
Examples:
  peerline pipe --receive --allow <peer id> > backup.tar         on the one machine
  tar c photos | peerline pipe <peer id>                         on the other

Both ends finish when everything has been written out. --address and --relay are for the end that dials, --allow and
--announce for the other one.
`,
  )
  command.action((to: string | undefined, options: PipeOptions) =>
    run({}, async (running) => {
      if ((to === undefined) === (options.receive !== true)) {
        throw new PeerlineError('ERR_PEERLINE_INVALID', 'pipe needs either a peer or --receive')
      }
      if (to === undefined) await receive(options, running)
      else await send(to, options, running)
      return undefined
    }),
  )
}

async function send(to: string, options: PipeOptions, { out, signal }: Running): Promise<void> {
  const id = await readPeerId(to)
  const { pipeTo } = await import('../protocol/index.ts')
  // What becomes of the paths after that is the goodbye's doing.
  const over = new AbortController()
  const peer = await dialingPeer(options, out)
  try {
    const session = await reach(peer, id, options, signal)
    tellOfGaps(session, out, { signal: over.signal })
    await pipeTo(session, process.stdin, { signal })
  } catch (error) {
    throw withRecovery(error, { ERR_PEERLINE_NO_PROTOCOL: 'Run `peerline pipe --receive` there.' })
  } finally {
    over.abort()
    // It would keep the process waiting for input that nobody wants.
    process.stdin.destroy()
    await closePeer(peer)
  }
}

async function receive(options: PipeOptions, running: Running): Promise<void> {
  const { out, signal } = running
  const { PIPE_PROTOCOL, servePipe } = await import('../protocol/index.ts')
  const { StreamCode } = await import('../session/index.ts')
  const { answeringPeer } = await import('./answering.ts')
  const answering = await answeringPeer(options, running)
  const { peer } = answering
  let taken = false
  let tell: (done: Promise<unknown>) => void = () => {}
  const done = new Promise<unknown>((resolve) => {
    tell = resolve
  })
  done.catch(() => {})
  try {
    peer.handleStream(PIPE_PROTOCOL, (stream: Stream, { from }) => {
      if (taken) return stream.reset(StreamCode.BUSY)
      taken = true
      out.say(`receiving from ${from}`)
      // Others may write to standard output until the end of the process.
      tell(servePipe(stream, process.stdout, { signal, end: false }))
    })
    await ready(peer, options, running)
    await Promise.race([done, stopping(signal)])
  } finally {
    await answering.close()
  }
}
