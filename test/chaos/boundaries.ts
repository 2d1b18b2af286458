/**
 * A small transfer whose only path is cut at every message boundary there is: before each message towards each side, with
 * none, one or all of what is under way still coming in either direction, with either side noticing first, or alone, and
 * with the next path there already, coming at once, or later.
 */

import { SIDES, type Side } from './lane.ts'
import type { FlowPlan, LinkPlan, Schedule } from './schedule.ts'

const flow = (writes: readonly number[], more: Partial<FlowPlan> = {}): FlowPlan => ({
  writes,
  pauseMs: 0,
  burst: false,
  end: 'fin',
  readPauseMs: 0,
  sink: false,
  cancelAt: undefined,
  ...more,
})

/** A few messages are under way at any time. */
const FIRST: LinkPlan = {
  kind: 'tcp',
  by: 0,
  adopted: true,
  lost: 'nothing',
  latencyMs: [20, 20],
  bytesPerMs: 4_000,
  bufferBytes: 65_536,
  windowBytes: 262_144,
  batchMs: 0,
  drainsEmpty: true,
}
const SECOND: LinkPlan = { ...FIRST, kind: 'relay', adopted: false, latencyMs: [35, 30] }

const KEEP = [0, 1, 100] as const
const NOTICE: readonly (readonly [number | undefined, number | undefined])[] = [
  [0.5, 90],
  [90, 0.5],
  [0.5, undefined],
  [undefined, 0.5],
]
/** The part of the window after which the next path comes; undefined: it stands by from the beginning. */
const NEXT = [undefined, 0, 0.4] as const
const WINDOW_MS = 10_000

/** The transfer with nothing done to it. */
export const UNDISTURBED: Schedule = {
  name: 'cut:none',
  seed: 1,
  windowMs: WINDOW_MS,
  rekeyRecords: undefined,
  streams: [
    {
      by: 0,
      atMs: 0,
      flows: [flow([10, 5_000, 1, 70_000, 300], { pauseMs: 2 }), flow([4_096, 4_097, 30_000], { end: 'join' })],
    },
    { by: 1, atMs: 4, flows: [flow([100, 9_000, 1], { sink: true }), flow([1, 1, 60], { pauseMs: 9 })] },
    { by: 1, atMs: 30, flows: [flow([2_000, 5_000], { end: 'reset', pauseMs: 9 }), flow([500])] },
  ],
  faults: [{ when: { ms: 0 }, fault: { do: 'come', plan: FIRST } }],
  rescues: [{ after: 0, plan: SECOND }],
  seeks: 0,
  tells: false,
  idleMs: 0,
  closers: [0],
}

/** How many cuts there are, when that many messages go to each side. */
export function countCuts(messages: readonly [number, number]): number {
  return (messages[0] + messages[1]) * KEEP.length ** 2 * NOTICE.length * NEXT.length
}

/** The cut with this number. */
export function cutAt(index: number, messages: readonly [number, number]): Schedule {
  let rest = index
  const take = <T>(list: readonly T[]): T => {
    const one = list[rest % list.length]!
    rest = Math.floor(rest / list.length)
    return one
  }
  const after = take(NEXT)
  const noticeMs = take(NOTICE)
  const keep: [number, number] = [take(KEEP), take(KEEP)]
  const toward: Side = rest < messages[0] ? 0 : 1
  const message = toward === 0 ? rest : rest - messages[0]
  const by = SIDES[(message + toward) % 2]!
  const standby = { when: { ms: 0 }, fault: { do: 'come', plan: { ...SECOND, by } } } as const
  return {
    ...UNDISTURBED,
    name: `cut:${index}`,
    faults: [
      ...UNDISTURBED.faults,
      ...(after === undefined ? [standby] : []),
      { when: { message, toward }, fault: { do: 'cut', link: 'first', keep, noticeMs } },
    ],
    rescues: [{ after: after ?? 0, plan: { ...SECOND, by } }],
  }
}
