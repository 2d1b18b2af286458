/**
 * `peerline ping`: how fast a peer answers, and by which path.
 *
 * The first ping rides in the offer, and its answer in the answer to that; where the other side gives none, it goes out
 * with the first path. So its answer is the first byte that anybody could have. Times count from the dial; only `onlineMs`
 * counts from the start of the process.
 */
import type { Command } from 'commander'
import { PeerlineError } from '../errors.ts'
import type { PathKind } from '../path/index.ts'
import type { EarlyPing } from '../protocol/ping.ts'
import type { Session } from '../session/index.ts'
import { EXIT } from './exit-codes.ts'
import { askable, closePeer, dial, dialingPeer, readPeerId, withRecovery } from './local-peer.ts'
import { addDial, addJson, addPeer, type DialOption, type JsonOption, type PeerOption, wholeNumber } from './options.ts'
import { formatMs, type Output, roundMs } from './output.ts'
import { pause, run } from './run.ts'
import { tellOfPaths } from './session-news.ts'
import { whyEvent, whyLines } from './why-report.ts'

/** ms that an answer may take: after that it is of no use to whoever waits, and a change of paths is over. */
const ANSWER_MS = 10_000

/** Failures of one ping that leave the next one a chance. */
const LOST: ReadonlySet<string> = new Set(['ERR_PEERLINE_TIMEOUT', 'ERR_PEERLINE_RESET', 'ERR_PEERLINE_BUSY'])

interface PingOptions extends PeerOption, DialOption, JsonOption {
  readonly count: number
  readonly interval: number
  readonly why?: boolean
}

/** What the summary says of the way there; ms from the dial. */
interface Times {
  connectMs: number | null
  firstByteMs: number | null
  readonly paths: { readonly path: PathKind; readonly atMs: number }[]
}

export function addPingCommand(program: Command): void {
  const command = program.command('ping').description('dial a peer and measure how fast it answers')
  command.argument('<peer>', 'peer id or did:key')
  addJson(addDial(addPeer(command)))
  command
    .option('--count <n>', 'pings to send', wholeNumber(1, 1_000_000), 4)
    .option('--interval <ms>', 'ms from one ping to the next', wholeNumber(0, 86_400_000), 1000)
    .option('--why', 'after the pings: why this path, what else was tried, both NATs, and what would help')
  command.addHelpText(
    'after',
    `
Examples:
  peerline ping <peer id>                                    one that was joined, or is on the local network
  peerline ping <peer id> --rendezvous 'ws://192.0.2.1:4400#<peer id>'
  peerline ping <peer id> --address 192.0.2.7:4401           directly, without any server
  peerline ping <peer id> --via relay --count 1 --json
  peerline ping <peer id> --why                              why is it relayed, and what would help?

The exit code is 0 only if every ping was answered.
`,
  )
  command.action((to: string, options: PingOptions) =>
    run(options, async ({ out, signal }) => {
      const id = await readPeerId(to)
      const times: Times = { connectMs: null, firstByteMs: null, paths: [] }
      let onlineMs: number | null = null
      let dialledAt = 0
      // What becomes of the paths after that is the goodbye's doing.
      const over = new AbortController()
      const peer = await dialingPeer(options, out)
      try {
        peer.addEventListener('online', () => {
          onlineMs ??= roundMs(performance.now())
        })
        peer.addEventListener('session', ({ detail: { session } }) => {
          if (session.peer === id) follow(session, { times, dialledAt: () => dialledAt, out, over: over.signal })
        })
        await askable(peer, id, options, signal)
        const { EarlyPing } = await import('../protocol/ping.ts')
        const early = new EarlyPing()
        dialledAt = performance.now()
        const session = await dial(peer, id, { ...options, early }, signal)
        const { sent, received, error } = await pingAll(session, { ...options, early, times, dialledAt, out, signal })
        over.abort()
        out.event({
          event: 'summary',
          onlineMs,
          connectMs: times.connectMs,
          firstByteMs: times.firstByteMs,
          path: session.path ?? times.paths.at(-1)?.path ?? null,
          paths: times.paths,
          sent,
          received,
        })
        sum(times, onlineMs, sent, received, out)
        if (options.why === true) tellWhy(session, out)
        if (error !== undefined) {
          throw withRecovery(error, { ERR_PEERLINE_NO_PROTOCOL: 'It answers no pings; `peerline up` does.' })
        }
        if (received === options.count || signal.aborted) return EXIT.OK
        throw new PeerlineError('ERR_PEERLINE_TIMEOUT', `${sent - received} of ${sent} pings were not answered`)
      } finally {
        await closePeer(peer)
      }
    }),
  )
}

/** Takes note of the paths of a session that has just opened, and tells of changes. */
function follow(
  session: Session,
  { times, dialledAt, out, over }: { times: Times; dialledAt: () => number; out: Output; over: AbortSignal },
): void {
  const use = (path: PathKind): number => {
    const atMs = roundMs(performance.now() - dialledAt())
    times.paths.push({ path, atMs })
    return atMs
  }
  times.connectMs ??= use(session.path!)
  tellOfPaths(session, out, { signal: over, onPath: ({ to }) => ` after ${formatMs(use(to))}` })
}

/** Sends the pings, one after the other; the first may be answered already. `error`: what made it give up. */
async function pingAll(
  session: Session,
  options: {
    count: number
    interval: number
    early: EarlyPing
    times: Times
    dialledAt: number
    out: Output
    signal: AbortSignal
  },
): Promise<{ sent: number; received: number; error: unknown }> {
  const { ping } = await import('../protocol/index.ts')
  const { count, interval, early, times, dialledAt, out, signal } = options
  let received = 0
  const sinceDial = () => roundMs(performance.now() - dialledAt)
  const tell = (seq: number, rttMs: number | null, path: PathKind | null) => {
    if (rttMs !== null) received++
    out.event({ seq, rttMs, path })
    const how = path === null ? 'with the dial' : `by ${path}`
    out.say(rttMs === null ? `ping ${seq}: no answer` : `ping ${seq}: ${formatMs(rttMs)} ${how}`)
  }
  for (let seq = 1; seq <= count; seq++) {
    const due = performance.now() + interval
    const path = () => session.path ?? times.paths.at(-1)?.path ?? null
    try {
      if (seq === 1 && early.echoed) {
        times.firstByteMs = sinceDial()
        tell(seq, times.firstByteMs, null)
        // What it is for is the session: whether there is one shows now.
        await session.opened({ signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]) })
      } else {
        const rttMs = roundMs(await ping(session, { signal, timeoutMs: ANSWER_MS }))
        times.firstByteMs ??= sinceDial()
        tell(seq, rttMs, path())
      }
    } catch (error) {
      if (signal.aborted) return { sent: seq, received, error: undefined }
      if (!LOST.has((error as PeerlineError).code)) return { sent: seq, received, error }
      // An early one was answered, though its session is not open yet.
      if (received < seq) tell(seq, null, path())
    }
    if (seq < count) await pause(due - performance.now(), signal)
    if (signal.aborted) return { sent: seq, received, error: undefined }
  }
  return { sent: count, received, error: undefined }
}

function tellWhy(session: Session, out: Output): void {
  const report = session.why()
  out.event(whyEvent(report))
  for (const line of whyLines(report)) out.say(line)
}

function sum(
  { connectMs, firstByteMs }: Times,
  onlineMs: number | null,
  sent: number,
  received: number,
  out: Output,
): void {
  const parts = [`${received} of ${sent} answered`]
  if (onlineMs !== null) parts.push(`online after ${formatMs(onlineMs)}`)
  if (connectMs !== null) parts.push(`connected in ${formatMs(connectMs)}`)
  if (firstByteMs !== null) parts.push(`first answer after ${formatMs(firstByteMs)}`)
  out.say(parts.join(', '))
}
