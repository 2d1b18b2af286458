/**
 * Schedules from a seed. Most of them are small, so that there can be many; what matters is that they differ.
 */

import { SIDES, type Side } from './lane.ts'
import { Random } from './random.ts'
import type { Fault, FlowPlan, LinkPlan, Rescue, Schedule, StreamPlan, When } from './schedule.ts'

const KINDS = ['tcp', 'tcp', 'udp', 'webrtc', 'relay', 'relay'] as const
const LATENCIES_MS = [0.2, 1, 5, 20, 60, 150, 300] as const
/** From 500 kbit/s, at which a full buffer takes seconds, to what seems no limit at all. */
const RATES = [64, 200, 1_000, 10_000, 1_000_000] as const
const BUFFERS = [4_096, 65_536, 262_144, 1_048_576] as const
const WINDOWS = [65_536, 262_144, 1_048_576] as const
const BATCHES_MS = [0, 0, 1, 7, 40] as const
/** ms of the reconnect window, from none to the usual one. */
const RECONNECT_MS = [0, 1_500, 5_000, 5_000, 20_000, 60_000, 60_000, 60_000] as const

function link(random: Random, by: Side, adopted = false): LinkPlan {
  const latency = random.pick(LATENCIES_MS)
  return {
    kind: random.pick(KINDS),
    by,
    adopted,
    lost: 'nothing',
    latencyMs: [latency, latency * random.pick([1, 1, 1, 1.5, 3])],
    bytesPerMs: random.pick(RATES),
    bufferBytes: random.pick(BUFFERS),
    windowBytes: random.pick(WINDOWS),
    batchMs: random.pick(BATCHES_MS),
    drainsEmpty: random.chance(0.5),
  }
}

function side(random: Random): Side {
  return random.pick(SIDES)
}

/** Bytes of one write: what shares a record with others, what is sealed by itself, and what takes several. */
function size(random: Random, bulk: boolean): number {
  if (bulk) return random.pick([16_384, 40_000, 65_536, 65_537, 100_000])
  return random.pick([1, random.int(2, 60), random.int(60, 900), random.int(900, 4_096), random.int(4_097, 9_000)])
}

function flow(random: Random, bulk: boolean): FlowPlan {
  const count = random.chance(0.15) ? 0 : random.int(1, bulk ? 7 : 5)
  const ends = random.next()
  return {
    writes: Array.from({ length: count }, () => size(random, bulk && random.chance(0.8))),
    pauseMs: random.chance(0.3) ? random.pick([0.5, 5, 40, 300, 1_200]) : 0,
    burst: random.chance(0.3),
    end: ends < 0.06 ? 'reset' : ends < 0.4 && count > 0 ? 'join' : 'fin',
    readPauseMs: random.chance(0.15) ? random.pick([1, 30, 200]) : 0,
    sink: random.chance(0.3),
    cancelAt: random.chance(0.04) ? random.int(1, 20_000) : undefined,
  }
}

function streams(random: Random, bulk: boolean, spanMs: number): StreamPlan[] {
  return Array.from({ length: random.int(1, 5) }, (_, at) => ({
    by: side(random),
    atMs: random.chance(0.5) ? random.int(0, 3) : random.int(0, spanMs),
    flows: [flow(random, bulk && (at === 0 || random.chance(0.3))), flow(random, bulk && random.chance(0.4))],
  }))
}

function when(random: Random, spanMs: number): When {
  if (random.chance(0.5)) return { message: Math.floor(random.next() ** 2 * 90), toward: side(random) }
  return { ms: Math.round(random.next() ** 2 * spanMs * 10) / 10 }
}

function notice(random: Random): number | undefined {
  return random.pick([0, 0, 0.5, 3, 40, 700, undefined])
}

function fault(random: Random, windowMs: number): Fault {
  const which = random.int(0, 5)
  const dice = random.next()
  if (dice < 0.32) {
    const keep = () => random.pick([0, 0, 1, 2, 5, 100])
    const all = random.chance(0.25)
    return { do: 'cut', link: all ? 'all' : which, keep: [keep(), keep()], noticeMs: [notice(random), notice(random)] }
  }
  if (dice < 0.54) {
    const toward = random.pick<[boolean, boolean]>([
      [true, true],
      [true, false],
      [false, true],
    ])
    const forMs = random.pick([30, 400, 900, 2_500, 7_000, undefined, undefined])
    return { do: 'hold', link: random.chance(0.2) ? 'all' : which, toward, forMs }
  }
  if (dice < 0.62) return { do: 'break', link: which, side: side(random) }
  if (dice < 0.71) {
    const forMs = random.pick([5, 300, 1_400, 4_500, 12_000, 25_000])
    return { do: 'stop', side: side(random), forMs: random.chance(0.8) ? Math.min(forMs, windowMs / 2.5) : forMs }
  }
  if (dice < 0.75) {
    return { do: 'keepAlive', side: side(random), kind: random.pick(KINDS), ms: random.pick([1_000, 5_000, 40_000]) }
  }
  if (dice < 0.79) return { do: 'candidates', side: side(random) }
  if (dice < 0.83) return { do: 'probe', side: side(random), patienceMs: random.pick([1_500, 3_000]) }
  if (dice < 0.85) return { do: 'doubt', side: side(random) }
  const plan = link(random, side(random))
  const lost = random.next()
  return { do: 'come', plan: { ...plan, lost: lost < 0.12 ? 'attach' : lost < 0.24 ? 'answer' : 'nothing' } }
}

/** What ends a session, in some of the schedules. */
function ending(random: Random): Fault | undefined {
  const dice = random.next()
  if (dice < 0.05) return { do: 'crash', side: side(random), told: random.chance(0.5) }
  if (dice < 0.12) return { do: 'close', side: side(random) }
  if (dice < 0.14) return { do: 'abort', side: side(random) }
  return undefined
}

function rescue(random: Random): Rescue {
  const after = random.chance(0.95) ? random.pick([0, 0, 0.001, 0.02, 0.3, 0.9]) : undefined
  return { after, plan: link(random, side(random)) }
}

/** The schedule of a seed. */
export function generate(seed: number): Schedule {
  const random = new Random(seed)
  const windowMs = random.pick(RECONNECT_MS)
  const bulk = random.chance(0.3)
  const spanMs = random.pick([30, 300, 3_000, 12_000])
  const faults: { when: When; fault: Fault }[] = []
  const first = link(random, side(random), random.chance(0.5))
  faults.push({ when: { ms: 0 }, fault: { do: 'come', plan: first } })
  for (let more = random.pick([0, 0, 1, 2]); more > 0; more--) {
    const plan = link(random, side(random))
    faults.push({ when: { ms: random.pick([0, 1, 50, spanMs / 2]) }, fault: { do: 'come', plan } })
  }
  for (let count = random.pick([0, 1, 1, 2, 3, 4, 6, 9]); count > 0; count--) {
    faults.push({ when: when(random, spanMs), fault: fault(random, windowMs) })
  }
  const last = ending(random)
  if (last !== undefined) faults.push({ when: when(random, spanMs), fault: last })
  return {
    name: String(seed),
    seed,
    windowMs,
    rekeyRecords: random.chance(0.2) ? random.int(3, 12) : undefined,
    streams: streams(random, bulk, spanMs),
    faults,
    rescues: Array.from({ length: 3 }, () => rescue(random)),
    seeks: random.pick([0, 0, 1, 3]),
    tells: random.chance(0.5),
    idleMs: random.chance(0.15) ? random.pick([6_000, 30_000]) : 0,
    closers: random.pick([[0], [1], [0, 1]] as const),
  }
}
