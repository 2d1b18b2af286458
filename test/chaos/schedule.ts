/**
 * What happens in one run of the simulator, as plain data: made from a seed, printed when something fails.
 */
import type { PathKind } from '../../src/path/index.ts'
import type { LinkShape, Side } from './lane.ts'

/** A link that comes. */
export interface LinkPlan extends LinkShape {
  /** Who attaches it. */
  readonly by: Side
  /** The handshake ran on it: it is adopted at both ends. Only the first may be. */
  readonly adopted: boolean
  /** The attach message, or the answer to it, never arrives. */
  readonly lost: 'nothing' | 'attach' | 'answer'
}

/** When something happens: at a time, or before the message that is the n-th towards a side. */
export type When = { readonly ms: number } | { readonly message: number; readonly toward: Side }

/** A link is the n-th of those that work, or else of those that stand. `undefined` ms: never. */
export type Which = number | 'first' | 'all'

export type Fault =
  | { readonly do: 'come'; readonly plan: LinkPlan }
  | {
      readonly do: 'cut'
      readonly link: Which
      /** Messages under way that still come, towards each side. */
      readonly keep: readonly [number, number]
      readonly noticeMs: readonly [number | undefined, number | undefined]
    }
  | {
      readonly do: 'hold'
      readonly link: Which
      readonly toward: readonly [boolean, boolean]
      readonly forMs: number | undefined
    }
  /** The next message sent there breaks the link, inside of `send`. */
  | { readonly do: 'break'; readonly link: Which; readonly side: Side }
  | { readonly do: 'stop'; readonly side: Side; readonly forMs: number }
  /** The process goes; its sockets are closed by its system, or nobody is told. */
  | { readonly do: 'crash'; readonly side: Side; readonly told: boolean }
  | { readonly do: 'close'; readonly side: Side }
  | { readonly do: 'abort'; readonly side: Side }
  | { readonly do: 'keepAlive'; readonly side: Side; readonly kind: PathKind; readonly ms: number }
  | { readonly do: 'candidates'; readonly side: Side }
  | { readonly do: 'doubt'; readonly side: Side }
  | { readonly do: 'probe'; readonly side: Side; readonly patienceMs: number }

/** What is written in one direction of a stream, and how it is read. */
export interface FlowPlan {
  /** Bytes of each write. */
  readonly writes: readonly number[]
  /** ms before each write. */
  readonly pauseMs: number
  /** Writes are not awaited one by one. */
  readonly burst: boolean
  /** `join`: the last write is given to `end`. `reset`: the stream is given up instead. */
  readonly end: 'fin' | 'join' | 'reset'
  readonly readPauseMs: number
  /** Reads with a sink instead of an iterator. */
  readonly sink: boolean
  /** Bytes after which the reader reads no more. */
  readonly cancelAt: number | undefined
}

export interface StreamPlan {
  readonly by: Side
  readonly atMs: number
  /** What the opener writes, and what the other side does. */
  readonly flows: readonly [FlowPlan, FlowPlan]
}

/** What comes when no link works any more. */
export interface Rescue {
  /** The part of the reconnect window after which it comes; undefined: when the window is over, to no avail. */
  readonly after: number | undefined
  readonly plan: LinkPlan
}

export interface Schedule {
  /** What it is called, and replayed by. */
  readonly name: string
  readonly seed: number
  /** ms of the reconnect window. */
  readonly windowMs: number
  /** Records under one key; undefined: as many as ever. */
  readonly rekeyRecords: number | undefined
  readonly streams: readonly StreamPlan[]
  readonly faults: readonly { readonly when: When; readonly fault: Fault }[]
  /** Taken in turn, again and again. */
  readonly rescues: readonly Rescue[]
  /** How many times trouble brings another link at once. */
  readonly seeks: number
  /** A side that dials one that is gone is told so. */
  readonly tells: boolean
  /** ms to idle between the last byte and the end. */
  readonly idleMs: number
  readonly closers: readonly Side[]
}

const ms = (value: number | undefined): string => (value === undefined ? 'never' : `${Math.round(value * 10) / 10} ms`)
const bytes = (value: number): string => (value >= 1_024 ? `${Math.round(value / 102.4) / 10} KiB` : `${value} B`)

function describeLink(plan: LinkPlan): string {
  const { kind, by, adopted, lost, latencyMs, bytesPerMs, bufferBytes, windowBytes, batchMs, drainsEmpty } = plan
  return [
    `${kind} by ${by}${adopted ? ', adopted' : ''}${lost === 'nothing' ? '' : `, ${lost} lost`}`,
    `${ms(latencyMs[0])} to 0, ${ms(latencyMs[1])} to 1, ${bytesPerMs} B/ms`,
    `buffer ${bytes(bufferBytes)}${drainsEmpty ? ' drained whole' : ''}, window ${bytes(windowBytes)}, batches of ${ms(batchMs)}`,
  ].join('; ')
}

function describeFlow(flow: FlowPlan): string {
  const pause = flow.pauseMs > 0 ? ` every ${ms(flow.pauseMs)}` : ''
  const read = flow.readPauseMs > 0 ? ` every ${ms(flow.readPauseMs)}` : ''
  const cancel = flow.cancelAt === undefined ? '' : `, cancelled at ${bytes(flow.cancelAt)}`
  const writes = `[${flow.writes.join(' ')}]${flow.burst ? ' at once' : ''}${pause} ${flow.end}`
  return `${writes}, ${flow.sink ? 'sunk' : `read${read}`}${cancel}`
}

function describeFault(fault: Fault): string {
  switch (fault.do) {
    case 'come':
      return `a link comes: ${describeLink(fault.plan)}`
    case 'cut':
      return `link ${fault.link} is cut, ${fault.keep[0]} and ${fault.keep[1]} still come, noticed after ${ms(fault.noticeMs[0])} and ${ms(fault.noticeMs[1])}`
    case 'hold': {
      const toward = [0, 1].filter((side) => fault.toward[side]).join(' and ')
      return `link ${fault.link} is silent towards ${toward} for ${fault.forMs === undefined ? 'ever' : ms(fault.forMs)}`
    }
    case 'break':
      return `link ${fault.link} breaks at the next message that ${fault.side} sends`
    case 'stop':
      return `${fault.side} is stopped for ${ms(fault.forMs)}`
    case 'crash':
      return `${fault.side} crashes, ${fault.told ? 'its system closes its sockets' : 'and nobody is told'}`
    case 'keepAlive':
      return `${fault.side} keeps ${fault.kind} alive every ${ms(fault.ms)}`
    case 'probe':
      return `${fault.side} probes with ${ms(fault.patienceMs)} of patience`
    case 'candidates':
      return `${fault.side} tells candidates`
    default:
      return `${fault.side} calls ${fault.do}`
  }
}

/** For people, with everything in it. */
export function describeSchedule(schedule: Schedule): string {
  const { name, windowMs, rekeyRecords, seeks, tells, idleMs, closers } = schedule
  const lines = [
    `schedule ${name}: window ${ms(windowMs)}, new keys after ${rekeyRecords ?? 'many'} records, idles for ${ms(idleMs)}, ` +
      `closed by ${closers.join(' and ')}, ${seeks} links for trouble${tells ? ', told of a session that is gone' : ''}`,
  ]
  for (const [index, { by, atMs, flows }] of schedule.streams.entries()) {
    lines.push(`  stream ${index} by ${by} at ${ms(atMs)}: ${describeFlow(flows[0])} | ${describeFlow(flows[1])}`)
  }
  for (const { when, fault } of schedule.faults) {
    const time = 'ms' in when ? `at ${ms(when.ms)}` : `before message ${when.message} towards ${when.toward}`
    lines.push(`  ${time}: ${describeFault(fault)}`)
  }
  for (const [index, { after, plan }] of schedule.rescues.entries()) {
    const time = after === undefined ? 'after the window' : `${Math.round(after * 100)} % into the window`
    lines.push(`  without a link, ${index}: ${time}, ${describeLink(plan)}`)
  }
  return lines.join('\n')
}
