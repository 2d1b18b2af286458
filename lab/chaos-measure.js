/** What a run of chaos-run.js shows: when bytes came, what happened meanwhile, and what is short of what is owed. */

import { now } from './chaos-kit.js'

/** ms without a byte that count as a stall: a queue that runs over, or a trial of another path, costs TCP up to 400. */
const STALL_MS = 500

/** ms without a byte that the story mentions. */
const STORY_STALL_MS = 250

/** ms over which a rate is taken. */
const RATE_MS = 1_000

/** ms for which bytes must flow without a stall to count as flowing again. */
const FLOWING_MS = 1_000

/** ms that nothing may arrive after is dark: what was on its way has come by then. */
const AFTERGLOW_MS = 500

/** Targets, ms. */
export const MEDIAN_MS = 1_500
export const WORST_MS = 3_000

/** Bytes per ms that came between two moments. */
function rateOf(marks, from, to) {
  const by = (moment) => marks.findLast(({ at }) => at <= moment)?.bytes ?? 0
  return (by(to) - by(from)) / (to - from)
}

/**
 * What became of the flow: how long until bytes came again, and until half as many as before; the longest stall, and the
 * longest one before that.
 */
export function measure(marks, { from, until }, bytes) {
  const gaps = []
  for (const [at, mark] of marks.entries()) {
    if (at > 0) gaps.push({ begin: marks[at - 1].at, end: mark.at, ms: mark.at - marks[at - 1].at })
  }
  // What never ended is a stall without an end.
  const last = marks.at(-1)
  if (last !== undefined && last.bytes < bytes) gaps.push({ begin: last.at, end: Infinity, ms: Infinity })
  const longest = (some) => Math.max(0, ...some.flatMap(({ ms }) => (Number.isFinite(ms) ? ms : [])))
  const stalls = gaps.filter(({ ms }) => ms > STALL_MS)
  // The first byte since, after which no stall begins for a second.
  const again = marks.find(
    ({ at }) => at >= until && !stalls.some(({ begin }) => begin >= at && begin < at + FLOWING_MS),
  )
  const rate = rateOf(marks, from - RATE_MS, from)
  const fast = marks.find(({ at }) => at >= until + RATE_MS && rateOf(marks, at - RATE_MS, at) >= rate / 2)
  return {
    halfRateMs: fast === undefined ? null : fast.at - until,
    beforeMs: longest(gaps.filter(({ end }) => end <= from)),
    stallMs: longest(gaps.filter(({ end }) => end > from)),
    // What was over before the fault was is not hurt by it.
    recoveryMs: again !== undefined ? again.at - until : last?.bytes === bytes ? 0 : null,
    darkBytes:
      (marks.findLast(({ at }) => at < until)?.bytes ?? 0) -
      (marks.findLast(({ at }) => at < Math.min(from + AFTERGLOW_MS, until))?.bytes ?? 0),
  }
}

/** A moment as clocks and tcpdump show it. */
const clock = (moment) => new Date(Date.now() - (now() - moment)).toISOString().slice(11, 23)

/** What happened, as lines, ms from the moment of the fault on. */
export function story(programs, { from, until }) {
  const lines = [{ at: from, who: 'lab', text: `the fault, at ${clock(from)}` }]
  if (until - from > 100) lines.push({ at: until, who: 'lab', text: 'its end' })
  for (const [who, { events }] of Object.entries(programs)) {
    let last
    for (const event of events) {
      const { at } = event
      if (event.event === 'trace') lines.push({ at, who, text: event.text })
      if (event.event === 'state') lines.push({ at, who, text: `${event.state} ${event.path ?? '-'}` })
      if (event.event === 'failed') lines.push({ at, who, text: `failed: ${event.code} ${event.message}` })
      if (event.event === 'done') lines.push({ at, who, text: 'done' })
      if (event.event !== 'progress') continue
      if (last !== undefined && at - last > STORY_STALL_MS) {
        lines.push({ at, who, text: `bytes again, after ${Math.round(at - last)} ms` })
      }
      last = at
    }
  }
  return lines.sort((a, b) => a.at - b.at).map(({ at, who, text }) => `${Math.round(at - from)} ${who}: ${text}`)
}

/** The kind that carried the data at a moment. */
export const pathAt = ({ events }, moment) =>
  events.findLast(({ event, at, path }) => event === 'state' && at <= moment && path !== null)?.path ?? null

/** What is short of what a run owes. */
export function judge(row) {
  const { sender, receiver, digest, recoveryMs, expects } = row
  if (expects === 'error') {
    const wrong = []
    for (const [who, end] of Object.entries({ sender, receiver })) {
      if (end.event !== 'failed') wrong.push(`the ${who} has no error`)
      else if (!end.code.startsWith('ERR_')) wrong.push(`the error of the ${who} has no code: ${end.message}`)
      else if (Object.keys(end.streams ?? {}).length > 1) wrong.push(`streams ended in different ways at the ${who}`)
    }
    if (receiver.differsAt !== undefined && receiver.differsAt !== null) wrong.push('bytes differ')
    return wrong
  }
  for (const [who, end] of Object.entries({ sender, receiver })) {
    if (end.event === 'failed') return [`failed at the ${who}: ${end.code} ${end.message}`]
  }
  const wrong = []
  if (receiver.bytes !== row.bytes) wrong.push(`${receiver.bytes} of ${row.bytes} bytes`)
  if (receiver.differsAt !== null) wrong.push(`wrong from byte ${receiver.differsAt} on: ${receiver.difference}`)
  else if (receiver.sha256 !== digest) wrong.push('another hash')
  if (row.sessions > 1) wrong.push('another session')
  if (recoveryMs === null) wrong.push('did not flow again')
  else if (recoveryMs > WORST_MS) wrong.push(`flowed again after ${(recoveryMs / 1_000).toFixed(1)} s`)
  return wrong
}
