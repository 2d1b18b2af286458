/**
 * More is written than a session may have on its way: its bound must hold, and all must come in the end.
 */
import { INITIAL_WINDOW_BYTES } from '../../src/session/stream.ts'
import type { FlowPlan, LinkPlan, Schedule } from './schedule.ts'

/** Streams whose first windows are more than the 16 MiB that a session may have on its way. */
const STREAMS = 70

/** A path with buffers for all of it. */
const LINK: LinkPlan = {
  kind: 'tcp',
  by: 0,
  adopted: false,
  lost: 'nothing',
  latencyMs: [10, 10],
  bytesPerMs: 100_000,
  bufferBytes: 33_554_432,
  windowBytes: 33_554_432,
  batchMs: 0,
  drainsEmpty: false,
}

const WRITES = Array.from({ length: INITIAL_WINDOW_BYTES / 65_536 }, () => 65_536)
const FLOW: FlowPlan = {
  writes: WRITES,
  pauseMs: 0,
  burst: true,
  end: 'fin',
  readPauseMs: 0,
  sink: true,
  cancelAt: undefined,
}

/** Once the path comes to itself again, once another one must carry it all. */
export function flood(): Schedule[] {
  return [1_500, undefined].map((forMs, at) => ({
    name: `flood:${at}`,
    seed: 1,
    windowMs: 20_000,
    rekeyRecords: undefined,
    streams: Array.from({ length: STREAMS }, () => ({
      by: 0,
      atMs: 50,
      flows: [FLOW, { ...FLOW, writes: [10] }],
    })),
    faults: [
      { when: { ms: 0 }, fault: { do: 'come', plan: LINK } },
      { when: { ms: 49 }, fault: { do: 'hold', link: 'all', toward: [true, true], forMs } },
    ],
    rescues: [{ after: 0.2, plan: LINK }],
    seeks: 0,
    tells: false,
    idleMs: 0,
    closers: [0],
  }))
}
