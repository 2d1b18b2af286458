/** The results of chaos.js as tables of Markdown: faults down, kinds of paths across. */
import { faults } from './chaos-faults.js'
import { pathKinds } from './chaos-run.js'

const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]

/** ms that a transfer may stand still at worst; above that it is bold. */
const OWED_MS = 3_000

const s = (value) => (value / 1_000).toFixed(value < 9_950 ? 1 : 0)

/** What becomes of the values of many runs: `0.4`, or `0.4 (1.2)` when the worst is worse. */
function spread(values) {
  const [middle, worst] = [s(median(values)), s(Math.max(...values))]
  return middle === worst ? middle : `${middle} (${worst})`
}

function cell(rows) {
  if (rows.length === 0) return ''
  if (rows.every(({ unsupported }) => unsupported)) return 'none'
  const measured = rows.filter(({ error }) => error === undefined)
  if (measured.length === 0) return '?'
  const failed = measured.filter(({ receiver, sender }) => receiver.event === 'failed' || sender.event === 'failed')
  if (failed.length === measured.length) {
    const after = failed.map(({ failedAfterMs }) => failedAfterMs).filter((value) => value !== null)
    const when = after.length === 0 ? 'hangs' : `ends after ${spread(after)}`
    return failed.every(({ expects, faults: wrong }) => expects === 'error' && wrong.length === 0)
      ? when
      : `**${when}**`
  }
  const whole = measured.filter((row) => !failed.includes(row))
  const wrong = whole.filter(({ receiver, digest }) => receiver.sha256 !== digest)
  if (wrong.length > 0) return `**${wrong.length} of ${measured.length} not whole**`
  const again = whole.map(({ recoveryMs }) => recoveryMs).filter((value) => value !== null)
  const plain = again.length === 0 ? '?' : spread(again)
  const text = again.some((ms) => ms > OWED_MS) ? `**${plain}**` : plain
  return failed.length === 0 ? text : `${text}, **${failed.length} of ${measured.length} ended**`
}

/** Which path carried on, when it was another one. */
function moves(rows) {
  const all = rows.filter(({ error, before, after }) => error === undefined && before !== after && after !== null)
  return [...new Set(all.map(({ kind, before, after }) => `${kind}: ${before} → ${after}`))].join(', ')
}

/** @param {any[]} rows of runChaos */
export function tables(rows) {
  const kinds = pathKinds.filter((kind) => rows.some((row) => row.kind === kind))
  const names = Object.keys(faults).filter((name) => rows.some((row) => row.fault === name))
  const of = (name, kind) => rows.filter((row) => row.fault === name && row.kind === kind)
  const lines = [`| what happens | ${kinds.join(' | ')} | carries on |`, `|---|${kinds.map(() => '---|').join('')}---|`]
  for (const name of names) {
    const all = rows.filter((row) => row.fault === name)
    lines.push(`| ${faults[name].about} | ${kinds.map((kind) => cell(of(name, kind))).join(' | ')} | ${moves(all)} |`)
  }
  const said = summary(rows.filter(({ error }) => error === undefined))
  return said === undefined ? lines.join('\n') : `${lines.join('\n')}\n\n${said}`
}

/** All runs in a sentence. */
function summary(measured) {
  const inside = measured.filter(({ expects }) => expects === 'whole')
  const again = inside.map(({ recoveryMs }) => recoveryMs).filter((value) => value !== null)
  if (again.length === 0) return undefined
  const whole = inside.filter(({ receiver, sender, digest }) => sender.event === 'done' && receiver.sha256 === digest)
  const [{ bytes, rateMbit }] = measured
  return (
    `${measured.length} transfers of ${Math.round(bytes / 1e6)} MB over ${rateMbit} Mbit/s. Of ${inside.length} faults inside the window ` +
    `${whole.length} were survived with every byte in its place; bytes flowed again after ${s(median(again))} s in the median, ` +
    `${s(Math.max(...again))} s at worst.`
  )
}
