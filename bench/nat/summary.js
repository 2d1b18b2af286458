/** Which pairs are dialled, and what is said of the dials of one pair by one stack. */

import { median } from '../lib/statistics.js'

/** A kind alone is the two hosts of one home. */
export const DEFAULT_PAIRS = [
  'open:port-restricted',
  'port-restricted:port-restricted',
  'double-nat:port-restricted',
  'symmetric-sequential:port-restricted',
  'symmetric-random:port-restricted',
  'symmetric-random:symmetric-random',
  'udp-blocked:port-restricted',
  'udp-blocked:udp-blocked',
  'tcp443-only:port-restricted',
  'lan',
  'isolated-hairpin',
  'isolated-no-hairpin',
]

/**
 * @typedef {{ name: string, a: string, b: string, together: boolean }} Pair
 *
 * @param {string} text `a:b`, or `a`
 * @param {Record<string, { hosts: number }>} kinds of the lab
 * @returns {Pair}
 */
export function readPair(text, kinds) {
  const [a, b, ...more] = text.split(':')
  for (const kind of [a, b ?? a]) {
    if (!Object.hasOwn(kinds, kind))
      throw new Error(`no home is called "${kind}"; there are ${Object.keys(kinds).join(', ')}`)
  }
  if (more.length > 0) throw new Error(`"${text}" is not a pair: a:b, or a for two hosts of one home`)
  const together = b === undefined
  if (together && kinds[a].hosts < 2) throw new Error(`${a} has one host; two homes of it are ${a}:${a}`)
  return { name: together ? `${a}, one home` : `${a} x ${b}`, a, b: b ?? a, together }
}

/** The homes that pairs need, a kind twice where one meets itself. @param {Pair[]} pairs */
export function homesFor(pairs) {
  const twice = new Set(pairs.filter(({ a, b, together }) => a === b && !together).map(({ a }) => a))
  return [...new Set(pairs.flatMap(({ a, b }) => [a, b]))].flatMap((kind) => (twice.has(kind) ? [kind, kind] : [kind]))
}

/**
 * @typedef {{ firstByteMs: number, first: string, directMs: number | null } | { error: string }} Dial
 * @param {Dial[]} dials
 */
export function summarise(dials) {
  const good = dials.filter(({ error }) => error === undefined)
  const direct = good.filter(({ directMs }) => directMs !== null)
  return {
    runs: dials.length,
    connected: good.length,
    relayedFirst: good.filter(({ first }) => first === 'relay').length,
    direct: direct.length,
    firstByteMs: median(good.map(({ firstByteMs }) => firstByteMs)),
    directMs: median(direct.map(({ directMs }) => directMs)),
  }
}

/** `212 direct`, `95 relayed`, `95 relayed, direct 240`, `FAILED`; and how many of the dials, where not all did so. */
export function cell({ runs, connected, relayedFirst, direct, firstByteMs, directMs }) {
  if (connected === 0) return 'FAILED'
  const of = (count) => (count === connected ? '' : ` (${count} of ${connected})`)
  const parts = [`${Math.round(firstByteMs)} ${relayedFirst === 0 ? 'direct' : `relayed${of(relayedFirst)}`}`]
  if (relayedFirst > 0 && direct > 0) parts.push(`direct ${Math.round(directMs)}${of(direct)}`)
  if (connected < runs) parts.push(`${runs - connected} of ${runs} FAILED`)
  return parts.join(', ')
}

/** A Markdown table that can be read as it is. */
export function markdown(header, rows) {
  const widths = header.map((_title, column) => Math.max(...[header, ...rows].map((row) => row[column].length)))
  const line = (row) => `| ${row.map((text, column) => text.padEnd(widths[column])).join(' | ')} |`
  return [line(header), `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`, ...rows.map(line)].join('\n')
}
