/**
 * What becomes of a session while a command uses it: changes of path, and times without any.
 */
import type { PathChange, Session } from '../session/index.ts'
import type { Output } from './output.ts'

interface NewsOptions {
  /** How a line begins where more than one session may be behind it. */
  readonly who?: string
  /** Fires when nothing more is to be told. */
  readonly signal?: AbortSignal
}

/** Tells of changes of path, and of times without any, from now on. `onPath`: what else is to be said of a change. */
export function tellOfPaths(
  session: Session,
  out: Output,
  options: NewsOptions & { onPath?: (change: PathChange) => string } = {},
): void {
  const { peer } = session
  const { who = '', onPath, signal } = options
  const listening = signal === undefined ? {} : { signal }
  session.addEventListener(
    'path',
    ({ detail }) => {
      const { from, to, reason } = detail
      const more = onPath?.(detail) ?? ''
      out.event({ event: 'path', peer, from, to, reason })
      out.say(`${who}path: ${from} to ${to} (${reason})${more}`)
    },
    listening,
  )
  tellOfGaps(session, out, options)
}

/** Tells of times without any path. */
export function tellOfGaps(session: Session, out: Output, options: NewsOptions = {}): void {
  const { peer } = session
  const { who = '', signal } = options
  const listening = signal === undefined ? {} : { signal }
  session.addEventListener(
    'reconnecting',
    ({ detail: { error } }) => {
      const why = error === undefined ? '' : `: ${error.message}`
      out.event({ event: 'reconnecting', peer, reason: error?.code ?? null })
      out.say(`${who}reconnecting${why}`)
    },
    listening,
  )
  session.addEventListener(
    'reconnected',
    ({ detail: { path, afterMs } }) => {
      out.event({ event: 'reconnected', peer, path, afterMs })
      out.say(`${who}reconnected by ${path} after ${(afterMs / 1_000).toFixed(1)} s`)
    },
    listening,
  )
}
