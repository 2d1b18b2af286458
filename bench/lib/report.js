/** What is printed at the end, and what the targets are. All figures are medians over the rounds of the same run. */

import { stackNames, stackTitle } from '../stacks/index.js'
import { summary } from './statistics.js'
import { alignedTable, figure } from './table.js'

const REFERENCES = ['tls', 'libp2p', 'tcp']
const RATIO_COLUMNS = [
  ['bulk', 'bulkMBps'],
  ['p50', 'rttP50Us'],
  ['64 in flight', 'inFlightPerSecond'],
  ['first byte', 'firstByteMs'],
  ['idle', 'idleKiB'],
]

/** { stack: { figure: { median, min, max, rounds } } } from { stack: [figures of round 1, ...] }. */
export function summarise(rounds) {
  const summaries = {}
  for (const [name, each] of Object.entries(rounds)) {
    const keys = new Set(each.flatMap((figures) => Object.keys(figures)))
    summaries[name] = Object.fromEntries([...keys].map((key) => [key, summary(each.map((figures) => figures[key]))]))
  }
  return summaries
}

function medianOf(summaries, name, key) {
  return summaries[name]?.[key]?.median ?? null
}

function ratio(summaries, name, key, reference) {
  const [value, base] = [medianOf(summaries, name, key), medianOf(summaries, reference, key)]
  return value === null || base === null || base === 0 ? null : value / base
}

const AT_LEAST = (value, bound) => value >= bound
const AT_MOST = (value, bound) => value <= bound

/** One target: a figure of Peerline over the same figure of another stack, or over a plain number. */
const TARGETS = [
  { text: 'bulk, direct', key: 'bulkMBps', over: 'tls', holds: AT_LEAST, bound: 1.0 },
  { text: 'bulk, direct', key: 'bulkMBps', over: 'libp2p', holds: AT_LEAST, bound: 2 },
  { text: 'round trip p50, direct', key: 'rttP50Us', over: 'tls', holds: AT_MOST, bound: 1.0 },
  { text: '64 in flight, one stream', key: 'inFlightPerSecond', over: 'tls', holds: AT_LEAST, bound: 0.4, or: 100_000 },
  { text: '64 in flight, one stream', key: 'inFlightPerSecond', over: 'libp2p', holds: AT_LEAST, bound: 5 },
  {
    text: '64 in flight, request()',
    key: 'requestsPerSecond',
    overKey: 'inFlightPerSecond',
    over: 'tls',
    holds: AT_LEAST,
    bound: 0.4,
    or: 100_000,
  },
  {
    text: '64 in flight, request()',
    key: 'requestsPerSecond',
    overKey: 'inFlightPerSecond',
    over: 'libp2p',
    holds: AT_LEAST,
    bound: 5,
  },
  {
    text: 'bulk, relayed',
    stack: 'peerline-relayed',
    key: 'bulkMBps',
    over: 'tcp-splice',
    holds: AT_LEAST,
    bound: 0.7,
  },
  { text: 'first byte of a new direct session', key: 'firstByteMs', over: 'tls', holds: AT_MOST, bound: 1.5 },
  { text: 'memory per idle direct session', key: 'idleKiB', holds: AT_MOST, bound: 100, unit: 'KiB' },
]

/** Each target with what was measured and `pass`: true, false, or null when a side was not measured. */
export function checkTargets(summaries) {
  return TARGETS.map(({ text, stack = 'peerline-direct', key, over, overKey = key, holds, bound, or, unit }) => {
    const sign = holds === AT_LEAST ? '>=' : '<='
    const value = medianOf(summaries, stack, key)
    const base = over === undefined ? 1 : medianOf(summaries, over, overKey)
    const goal = over === undefined ? `${sign} ${bound} ${unit}` : `${sign} ${bound} x ${stackTitle(over)}`
    const target = or === undefined ? goal : `>= ${or.toLocaleString('en-US')}/s or ${goal}`
    if (or !== undefined && value !== null && value >= or) {
      return { text, target, measured: `${figure(value)}/s`, pass: true }
    }
    if (value === null || base === null) return { text, target, measured: null, pass: null }
    const measured = over === undefined ? `${figure(value)} ${unit}` : `${(value / base).toFixed(2)} x`
    return { text, target, measured, pass: holds(value / base, bound) }
  })
}

function figuresTable(names, summaries) {
  const rows = names.map((name) => {
    const of = (key) => figure(medianOf(summaries, name, key))
    const bulk = summaries[name].bulkMBps
    const spread = bulk ? `${figure(bulk.min)}-${figure(bulk.max)}` : '-'
    return [
      ...[stackTitle(name), of('bulkMBps'), spread, of('cpuSecondsPerGB'), of('rttP50Us'), of('rttP99Us')],
      ...[of('inFlightPerSecond'), of('firstByteMs'), of('idleKiB')],
    ]
  })
  const header = ['stack', 'bulk MB/s', 'min-max', 'CPU s/GB', 'p50 µs', 'p99 µs', '64 in flight/s', 'first byte ms']
  return alignedTable([...header, 'idle KiB'], rows)
}

/** One narrow table per reference: they read better than one of sixteen columns. */
function ratioTables(names, summaries) {
  return REFERENCES.flatMap((reference) => {
    const rows = names.map((name) => [
      stackTitle(name),
      ...RATIO_COLUMNS.map(([, key]) => ratio(summaries, name, key, reference)?.toFixed(2) ?? '-'),
    ])
    return ['', ...alignedTable([`x ${reference}`, ...RATIO_COLUMNS.map(([title]) => title)], rows)]
  })
}

function extraLines(names, summaries) {
  const lines = []
  for (const name of names) {
    const of = (key) => medianOf(summaries, name, key)
    const title = stackTitle(name)
    if (of('inFlightCorkedPerSecond') !== null) {
      lines.push(`${title}: 64 in flight with cork() around each batch: ${figure(of('inFlightCorkedPerSecond'))}/s`)
    }
    if (of('requestsPerSecond') !== null) {
      const latency = `p50 ${figure(of('requestP50Us'))} µs, p99 ${figure(of('requestP99Us'))} µs`
      lines.push(`${title}: request(): ${latency}, 64 in flight ${figure(of('requestsPerSecond'))}/s`)
    }
  }
  return lines
}

/** The whole report as text. */
export function report({ machine, settings, summaries, targets, leftOut }) {
  const names = stackNames.filter((name) => summaries[name] !== undefined)
  const outcome = (pass) => (pass === null ? 'not measured' : pass ? 'pass' : 'MISS')
  const targetRows = targets.map(({ text, target, measured, pass }) => [text, target, measured ?? '-', outcome(pass)])
  const notes = leftOut.map(({ stack, what, reason }) => `left out: ${stackTitle(stack)}${what}: ${reason}`)
  const { rounds, seconds } = settings
  return [
    `${machine.cpu} x ${machine.cores}, Node ${machine.node}, ${machine.os}; loopback; ` +
      `medians of ${rounds} ${rounds === 1 ? 'round' : 'rounds'}, ${seconds} s of bulk each`,
    '',
    ...figuresTable(names, summaries),
    ...extraLines(names, summaries),
    '',
    'Ratios (bulk and 64 in flight: more is better; p50, first byte and idle: less is better)',
    ...ratioTables(names, summaries),
    '',
    'Targets',
    ...alignedTable(['what', 'target', 'measured', ''], targetRows),
    ...(notes.length > 0 ? ['', ...notes] : []),
  ].join('\n')
}
