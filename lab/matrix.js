/**
 * The matrix: every kind of home with every other, several dials each. What it must show:
 *
 *   every pair connects          first answered byte <= 180 ms, <= 20 ms on one LAN (medians)
 *   direct, from the dial        <= 320 ms easy pairs, <= 400 ms sequential ports, <= 1 s random x restricted
 *   relayed may stay             random x random, random x sequential, 443 only, no hairpin, IPv6 alone with IPv4 alone
 *
 *   node lab/matrix.js [--runs 5] [--homes a,b,…] [--pairs a:b,…] [--at-once 3] [--json FILE] [--svg FILE] [--markdown] [--check] [--why]
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { kinds } from './kinds.js'
import { Lab } from './lab.js'
import { svg } from './picture.js'

const PEER = new URL('./peer.js', import.meta.url)

export const SERVER_NAME = 'server.lab'

const FIRST_BYTE_MS = 180
const FIRST_BYTE_LAN_MS = 20
const WORST_DIRECT_MS = 5_000

/** What a pair owes: ms to a direct path (median), or null when it may stay relayed. */
export function owed(a, b, together) {
  const has = (kind) => a === kind || b === kind
  if (together) return a === 'isolated-no-hairpin' ? null : 320
  if (has('tcp443-only')) return null
  if (has('ipv6-only') && ![a, b].every((kind) => kinds[kind].v6)) return null
  if (a === 'ipv6-only' || b === 'ipv6-only') return 320
  if (a === 'symmetric-random' && b === 'symmetric-random') return null
  // A port nobody can tell beforehand on one side, and on the other one that changes with whom it speaks.
  if (has('symmetric-random')) return has('symmetric-sequential') ? null : 1_000
  if (has('symmetric-sequential')) return 400
  return 320
}

const median = (values) => {
  const sorted = [...values].sort((x, y) => x - y)
  return sorted.length === 0 ? null : sorted[Math.floor(sorted.length / 2)]
}

/** Every pair once: kinds with each other, each with itself, and the two hosts of one home. */
function allPairs(names) {
  const pairs = []
  for (const [at, a] of names.entries()) {
    for (const b of names.slice(at)) pairs.push({ a, b, together: false })
    if (kinds[a].hosts === 2) pairs.push({ a, b: a, together: true })
  }
  return pairs
}

/**
 * @param {{ homes?: string[], pairs?: { a: string, b: string, together?: boolean }[], runs?: number, atOnce?: number, onPair?: (row: any) => void, via?: string, directMs?: number }} options
 */
export async function runMatrix({
  homes = Object.keys(kinds),
  pairs,
  runs = 5,
  atOnce = 3,
  onPair = () => {},
  via,
  directMs = 6_000,
}) {
  const wanted = pairs ?? allPairs(homes)
  const names = [...new Set(wanted.flatMap(({ a, b }) => [a, b]))]
  const lab = await Lab.create({ homes: names.flatMap((name) => [name, name]) })
  try {
    const server = lab.host('server').agent(PEER)
    const { url } = await server.ask('serve', { listen: ':443' })
    const port = new URL(url.replace(/^\w+:/, 'http:')).port || '443'
    const fragment = url.split('#')[1]
    const [v4] = lab.host('server').addresses.v4
    const [v6] = lab.host('server').addresses.v6
    // By name, as servers are: it has addresses of both families, and each home takes what it can.
    const rendezvous = [`tcp://${SERVER_NAME}:${port}#${fragment}`]
    nameServer(lab, v4, v6)

    // Two homes of each kind, with one agent in each host.
    const agents = new Map()
    await Promise.all(
      names.flatMap((kind) =>
        [...lab.homes.values()]
          .filter((home) => home.kind === kind)
          .map(async (home) => {
            const hosts = await Promise.all(
              home.hosts.map(async (host) => {
                const agent = host.agent(PEER)
                const { id } = await agent.ask('start', { rendezvous }, { timeoutMs: 60_000 })
                await agent.ask('settled', {}, { timeoutMs: 30_000 })
                return { agent, id }
              }),
            )
            agents.set(kind, [...(agents.get(kind) ?? []), hosts])
          }),
      ),
    )
    const rows = []
    const queue = wanted.map((pair) => ({
      ...pair,
      from: agents.get(pair.a)[0][0],
      to: pair.together ? agents.get(pair.a)[0][1] : agents.get(pair.b)[pair.a === pair.b ? 1 : 0][0],
    }))
    const busy = new Set()
    const work = async () => {
      for (;;) {
        const at = queue.findIndex(({ from, to }) => !busy.has(from) && !busy.has(to))
        if (at === -1) {
          if (queue.length === 0) return
          await new Promise((resolve) => setTimeout(resolve, 20))
          continue
        }
        const [pair] = queue.splice(at, 1)
        busy.add(pair.from).add(pair.to)
        const row = await runPair(pair, { runs, via, directMs })
        busy.delete(pair.from)
        busy.delete(pair.to)
        rows.push(row)
        onPair(row)
      }
    }
    await Promise.all(Array.from({ length: atOnce }, work))
    return rows
  } finally {
    forgetNames(lab)
    await lab.destroy()
  }
}

/** The lab has no DNS: `ip netns exec` puts what it finds here in the place of /etc/hosts. */
export function nameServer(lab, v4, v6) {
  for (const { namespace, addresses } of lab.hosts.values()) {
    mkdirSync(`/etc/netns/${namespace}`, { recursive: true })
    // A resolver leaves out what the machine has no way to; a hosts file does not.
    const known = [addresses.v4.length > 0 ? v4 : undefined, addresses.v6.length > 0 ? v6 : undefined]
    const lines = known.filter((address) => address !== undefined).map((address) => `${address} ${SERVER_NAME}\n`)
    writeFileSync(`/etc/netns/${namespace}/hosts`, lines.join(''))
  }
}

export function forgetNames(lab) {
  for (const { namespace } of lab.hosts.values()) rmSync(`/etc/netns/${namespace}`, { recursive: true, force: true })
}

async function runPair({ a, b, together = false, from, to }, { runs, via, directMs }) {
  const dials = []
  for (let run = 0; run < runs; run++) {
    // Both sides dial, in turn.
    const [dialler, called] = run % 2 === 0 ? [from, to] : [to, from]
    const owes = owed(a, b, together)
    try {
      const wait = owes === null ? Math.min(directMs, 1_500) : directMs
      dials.push(await dialler.agent.ask('dial', { to: called.id, via, directMs: wait }, { timeoutMs: 40_000 }))
    } catch (error) {
      dials.push({ error: error.message })
    }
    await Promise.all([from.agent.ask('forget'), to.agent.ask('forget')]).catch(() => {})
  }
  const good = dials.filter(({ error }) => error === undefined)
  const direct = good.filter(({ directMs: ms }) => ms !== null)
  const kindsUsed = good.map(({ path }) => path)
  const firstByteMs = median(good.map((dial) => dial.firstByteMs))
  const directMsMedian = median(direct.map((dial) => dial.directMs))
  const owes = owed(a, b, together)
  const limit = together && a === 'lan' ? FIRST_BYTE_LAN_MS : FIRST_BYTE_MS
  const faults = []
  if (good.length < runs)
    faults.push(`${runs - good.length} of ${runs} failed: ${dials.find(({ error }) => error).error}`)
  if (firstByteMs > limit) faults.push(`first byte ${Math.round(firstByteMs)} ms > ${limit}`)
  if (owes !== null && direct.length < good.length) faults.push(`relayed ${good.length - direct.length} of ${runs}`)
  if (owes !== null && directMsMedian !== null && directMsMedian > owes) {
    faults.push(`direct ${Math.round(directMsMedian)} ms > ${owes}`)
  }
  if (direct.some(({ directMs: ms }) => ms > WORST_DIRECT_MS)) faults.push('worst direct > 5 s')
  return {
    a,
    b,
    together,
    owes,
    firstByteMs,
    directMs: directMsMedian,
    direct: direct.length,
    runs,
    kinds: kindsUsed,
    dials,
    faults,
  }
}

const ms = (value) => (value === null || value === undefined ? '-' : `${Math.round(value)}`)

export function line(row) {
  const name = row.together ? `${row.a}, one home` : `${row.a} x ${row.b}`
  const used = Object.entries(Object.groupBy?.(row.kinds, (kind) => kind) ?? count(row.kinds))
    .map(([kind, all]) => `${kind} ${all.length}`)
    .join(', ')
  const verdict = row.faults.length === 0 ? 'ok' : row.faults.join('; ')
  return `${name.padEnd(45)} ${ms(row.firstByteMs).padStart(5)} ${ms(row.directMs).padStart(6)}  ${used.padEnd(16)} ${verdict}`
}

/** The matrix as a table of Markdown: ms from the dial to a direct path, and what carries it; `relay` where none was had. */
export function markdown(rows) {
  const names = [...new Set(rows.flatMap(({ a, b }) => [a, b]))]
  const cell = (a, b, together = false) => {
    const row = rows.find(
      (one) => one.together === together && ((one.a === a && one.b === b) || (one.a === b && one.b === a)),
    )
    if (row === undefined) return ''
    if (row.directMs === null) return 'relay'
    const kinds = count(row.kinds)
    const [most] = Object.entries(kinds).sort(([, x], [, y]) => y.length - x.length)[0]
    return `${most} ${ms(row.directMs)}`
  }
  const lines = [`| |${names.map((_, at) => ` ${at + 1} |`).join('')}`, `|---|${names.map(() => '---|').join('')}`]
  for (const [at, a] of names.entries()) {
    const cells = names.map((b, other) => (other > at ? '' : cell(a, b)))
    lines.push(`| ${at + 1} ${a} | ${cells.join(' | ')} |`)
  }
  const homes = rows.filter(({ together }) => together).map(({ a }) => `${a}: ${cell(a, a, true)}`)
  if (homes.length > 0) lines.push('', `Two hosts of one home: ${homes.join('; ')}.`)
  return lines.join('\n')
}

function count(values) {
  const groups = {}
  for (const value of values) groups[value] = [...(groups[value] ?? []), value]
  return groups
}

async function main() {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '5' },
      homes: { type: 'string' },
      pairs: { type: 'string' },
      'at-once': { type: 'string', default: '3' },
      json: { type: 'string' },
      svg: { type: 'string' },
      markdown: { type: 'boolean', default: false },
      via: { type: 'string' },
      check: { type: 'boolean', default: false },
      why: { type: 'boolean', default: false },
    },
  })
  const pairs = values.pairs?.split(',').map((pair) => {
    const [a, b] = pair.split(':')
    return b === undefined ? { a, b: a, together: true } : { a, b, together: false }
  })
  console.log(`${'pair'.padEnd(45)} ${'first'.padStart(5)} ${'direct'.padStart(6)}  path             verdict`)
  const rows = await runMatrix({
    ...(values.homes === undefined ? {} : { homes: values.homes.split(',') }),
    ...(pairs === undefined ? {} : { pairs }),
    ...(values.via === undefined ? {} : { via: values.via }),
    runs: Number(values.runs),
    atOnce: Number(values['at-once']),
    onPair: (row) => {
      console.log(line(row))
      if (values.why)
        for (const dial of row.dials) console.log(JSON.stringify(dial.error ?? { ...dial.why, events: dial.events }))
    },
  })
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, null, 1)}\n`)
  if (values.svg !== undefined) writeFileSync(values.svg, svg(rows))
  if (values.markdown) console.log(`\n${markdown(rows)}\n`)
  const bad = rows.filter(({ faults }) => faults.length > 0)
  console.log(`${rows.length} pairs, ${bad.length} short of what they owe`)
  if (values.check && bad.length > 0) process.exitCode = 1
}

if (process.argv[1] === new URL(import.meta.url).pathname) await main()
