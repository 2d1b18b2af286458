/**
 * What becomes of a session while a command uses it: changes of path, and times without any.
 */
import type { PathChange, Session } from '../session/index.ts'
import type { Output } from './output.ts'

/**
 * Tells of it from now on.
 * @param options.who how a line begins that more than one session may be behind; without it the line is about the one
 * @param options.signal fires when nothing more is to be told
 */
export function tellOfPaths(
  session: Session,
  out: Output,
  options: { who?: string; signal?: AbortSignal; onPath?: (change: PathChange) => string } = {},
): void {
  const { peer } = session
  const { who = '', onPath, ...listening } = options
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
