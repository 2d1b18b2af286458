/** What is said of the runs of one fault with one system. */

import { median } from '../lib/statistics.js'

const seconds = (ms) => `${(ms / 1_000).toFixed(ms < 9_950 ? 1 : 0)} s`

/** `0.4 s`, or `0.4 s (1.2 s)` with the worst where that is another. */
function spread(values) {
  const [middle, worst] = [seconds(median(values)), seconds(Math.max(...values))]
  return middle === worst ? middle : `${middle} (${worst})`
}

const isWhole = ({ sender, receiver, digest }) =>
  sender.event === 'done' && receiver.event === 'done' && receiver.sha256 === digest

/** The codes that the two sides gave, the more frequent first; of a side that never says anything, so much. */
function codes(rows) {
  const counts = new Map()
  for (const { sender, receiver } of rows) {
    for (const { event, code } of [sender, receiver]) {
      if (event === 'failed') counts.set(code, (counts.get(code) ?? 0) + 1)
    }
  }
  const sorted = [...counts].sort(([, a], [, b]) => b - a).map(([code]) => (code === 'none' ? 'silence' : code))
  return sorted.join(', ')
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`

/**
 * `, 4.2 MB written and lost`: what the sender had written and the receiver never got, which an application without a loop
 * of its own does not know. Of a sender that says nothing it is not known either.
 */
function lost(rows) {
  const told = rows.filter(({ sender }) => sender.code !== 'none')
  const worst = Math.max(...told.map(({ sender, receiver }) => sender.bytes - receiver.bytes))
  return told.length === 0 ? '' : `, ${megabytes(Math.max(0, worst))} written and lost`
}

/**
 * `0.4 s`: every byte arrived, and they flowed again so long after connectivity was back. `ends after 11 s at 21 MB: CODE,
 * 4.2 MB written and lost`: no more than that arrived, the receiver learned it so long after the fault, and these are the
 * errors of both sides. `hangs`: the receiver never learned it. How many of the runs, where not all.
 *
 * @param {any[]} rows of runChaos, of one fault and one system
 */
export function cell(rows) {
  if (rows.some(({ unsupported }) => unsupported)) return 'none'
  const measured = rows.filter(({ error }) => error === undefined)
  if (measured.length === 0) return '?'
  const whole = measured.filter(isWhole)
  const ended = measured.filter(({ sender, receiver }) => sender.event === 'failed' || receiver.event === 'failed')
  const wrong = measured.filter((row) => !isWhole(row) && !ended.includes(row))
  const of = (some) => (some.length === measured.length ? '' : ` (${some.length} of ${measured.length})`)
  const parts = []
  const again = whole.map(({ recoveryMs }) => recoveryMs).filter((ms) => ms !== null)
  if (whole.length > 0) parts.push(`${again.length === 0 ? 'whole' : spread(again)}${of(whole)}`)
  if (ended.length > 0) {
    const after = ended.map(({ failedAfterMs }) => failedAfterMs).filter((ms) => ms !== null)
    const when = after.length === 0 ? 'hangs' : `ends after ${spread(after)}`
    const least = megabytes(Math.min(...ended.map(({ receiver }) => receiver.bytes)))
    parts.push(`**${when}** at ${least}${of(ended)}: ${codes(ended)}${lost(ended)}`)
  }
  if (wrong.length > 0) parts.push(`**other bytes than were sent**${of(wrong)}`)
  return parts.join('; ')
}
