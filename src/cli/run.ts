/**
 * Runs one command from first to last: signals, broken pipes, failures, the exit code.
 *
 *     running --body returns--> ended          exit code of the body, or 0
 *        |  \---body throws---> failed         one line on standard error, exit code of the error
 *        \--SIGINT, SIGTERM, EPIPE--> stopping --body returns, throws, or takes too long--> ended
 *
 * A second signal ends the process at once.
 */
import { PeerlineError } from '../errors.ts'
import { EXIT, exitCodeOf } from './exit-codes.ts'
import { failureLine, Output } from './output.ts'

/** ms that a stopped command has to say goodbye to its peers. */
export const STOP_MS = 2_000

/** ms within which the process ends by itself when its work is done; a handle left open must not keep it. */
const END_MS = 1_000

/** Longest delay of a timer, ms. */
const FOREVER_MS = 2_147_483_647

export interface Running {
  /** Fires when the command is to stop. */
  readonly signal: AbortSignal
  readonly out: Output
}

export interface RunOptions {
  readonly json?: boolean | undefined
  /** Being stopped is how this command ends: exit code 0. @default false: 130 or 143 */
  readonly endless?: boolean
  /** ms that it has for what it does when it was stopped. @default 2,000 */
  readonly stopMs?: number
}

/** Runs `body`; it may answer an exit code. Never rejects. */
export async function run(options: RunOptions, body: (running: Running) => Promise<number | undefined>): Promise<void> {
  const out = new Output(options)
  const stop = new AbortController()
  // Without it, a wait that no handle stands behind would end the process as if it were broken (Node's exit code 13).
  const alive = setInterval(() => {}, FOREVER_MS)
  let stopped: number | undefined
  const stopWith = (code: number) => {
    if (stopped !== undefined) return
    stopped = code
    stop.abort(new PeerlineError('ERR_PEERLINE_ABORTED', 'the command was interrupted'))
    setTimeout(() => process.exit(code), options.stopMs ?? STOP_MS).unref()
  }
  const onSignal = (signal: NodeJS.Signals) => {
    const code = signal === 'SIGINT' ? EXIT.SIGINT : EXIT.SIGTERM
    if (stopped !== undefined) process.exit(stopped)
    stopWith(options.endless === true ? EXIT.OK : code)
    if (options.endless !== true) out.warn('peerline: interrupted.')
    else out.clear()
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  const onOutputError = () => stopWith(EXIT.SIGPIPE)
  process.stdout.on('error', onOutputError)
  process.stderr.on('error', onOutputError)

  let code: number | undefined
  try {
    code = await body({ signal: stop.signal, out })
  } catch (error) {
    out.clear()
    // What fails because it was stopped has nothing to add.
    if (stopped === undefined) code = fail(error)
  }
  clearInterval(alive)
  process.exitCode = stopped ?? code ?? EXIT.OK
  setTimeout(() => process.exit(), END_MS).unref()
}

/** Says on standard error what failed. Answers the exit code. */
export function fail(error: unknown): number {
  process.stderr.write(`${failureLine(error)}\n`)
  if (process.env.PEERLINE_DEBUG === '1' && error instanceof Error) {
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause)
      process.stderr.write(`${cause.stack}\n`)
  }
  return exitCodeOf(error)
}

/** Resolves when the command is to stop. */
export function stopping(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

/** Waits `ms`, or less when the command is to stop. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    if (signal.aborted) done()
    else signal.addEventListener('abort', done)
  })
}
