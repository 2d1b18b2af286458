/**
 * The routines that every peer has, by name. None of them runs before it is started.
 *
 *     ping-sessions   each open session is asked for an answer        30 s
 *     expire-bans     bans that are over are cleared away, and told   60 s
 *     find-peers      bootstrap nodes are asked for peers             5 min
 *     list-self       bootstrap nodes are asked to list this peer     20 min: a third of what a record lasts
 */
import type { Bans } from '../policy/bans.ts'
import { ping } from '../protocol/index.ts'
import type { Session } from '../session/index.ts'
import type { Routines } from '../tasks/index.ts'
import type { Bootstrap } from './bootstrap.ts'

/** So that a crowd that started together does not come together each time. */
const JITTER = 0.1

export interface RoutinesHost {
  readonly bans: Bans
  readonly bootstrap: Bootstrap
  readonly sessions: () => readonly Session[]
}

export function addDefaultRoutines(routines: Routines, { bans, bootstrap, sessions }: RoutinesHost): void {
  const add = (name: string, intervalMs: number, run: (context: { readonly signal: AbortSignal }) => unknown) =>
    routines.add({ name, intervalMs, jitter: JITTER, run })
  add('ping-sessions', 30_000, async ({ signal }) => {
    const open = sessions().filter(({ state }) => state === 'open')
    const answers = await Promise.allSettled(open.map((session) => ping(session, { signal })))
    return { asked: open.length, answered: answers.filter(({ status }) => status === 'fulfilled').length }
  })
  add('expire-bans', 60_000, () => bans.expire())
  add('find-peers', 300_000, async ({ signal }) => (await bootstrap.find({ signal })).length)
  add('list-self', 1_200_000, ({ signal }) => bootstrap.list({ signal }))
}
