/**
 * Chaos: a transfer on every kind of path, and in the middle of it something breaks. What must hold:
 *
 *   no byte lost, doubled or wrong        as long as the fault is over within the reconnect window
 *   bytes flow again                      <= 1.5 s in the median and <= 3 s at worst after connectivity is back
 *   beyond the window                     one typed error on both sides, on every stream
 *
 *   node lab/chaos.js [--runs 1] [--only KIND:FAULT,KIND,*:silence-*,…] [--bytes 200e6] [--rate 80] [--window 60000]
 *                     [--seed S] [--json FILE]
 *                     [--capture FOLDER] [--from FILE] [--markdown] [--docs FILE] [--trace] [--check] [--list]
 *                     [--agent FILE --server FILE --name NAME]     another system, see chaos-contract.md
 *
 * A run is repeated by its seed, which is printed: --seed S --only KIND:FAULT.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { faults } from './chaos-faults.js'
import { MEDIAN_MS, WORST_MS } from './chaos-measure.js'
import { pathKinds, runOnce } from './chaos-run.js'
import { tables } from './chaos-table.js'
import { LabError } from './errors.js'

const OWN = { agent: './chaos-agent.js', server: './chaos-server.js' }

const file = (given, own) => (given === undefined ? fileURLToPath(new URL(own, import.meta.url)) : resolve(given))

/** Left out unless asked for: the control, and what only the short form in CI has. */
const UNASKED = new Set(['none', 'stopped-3s'])

/** Every kind with every fault, or those that are asked for. */
export function plan(only) {
  const all = pathKinds.flatMap((kind) => Object.keys(faults).map((fault) => ({ kind, fault })))
  if (only === undefined) return all.filter(({ fault }) => !UNASKED.has(fault))
  const wanted = only.split(',').map((one) => one.split(':'))
  const fits = (pattern = '*', name) => new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(name)
  const found = all.filter((one) => wanted.some(([kind, fault]) => fits(kind, one.kind) && fits(fault, one.fault)))
  if (found.length > 0) return found
  const names = `${pathKinds.join(', ')}; ${Object.keys(faults).join(', ')}`
  throw new LabError('ERR_LAB_UNKNOWN', `nothing is called ${only}; there are ${names}`)
}

const ms = (value) => (value === null || value === undefined ? '-' : `${Math.round(value)}`)

export const heading = `${'path and fault'.padEnd(26)} ${'hit'.padEnd(9)} ${'again'.padStart(6)} ${'stall'.padStart(6)}  path             verdict`

export function line(row) {
  const name = `${row.kind} ${row.fault}`.padEnd(26)
  if (row.error !== undefined) return `${name} ${row.unsupported ? 'not there' : `NOT MEASURED: ${row.error}`}`
  const verdict =
    row.faults.length > 0 ? row.faults.join('; ') : row.expects === 'error' ? `ok: ${row.receiver.code}` : 'ok'
  const path = row.before === row.after ? row.before : `${row.before} -> ${row.after}`
  return `${name} ${row.hit.padEnd(9)} ${ms(row.recoveryMs).padStart(6)} ${ms(row.stallMs).padStart(6)}  ${`${path}`.padEnd(16)} ${verdict}`
}

/** One run; what could not be measured is a row as well. */
async function row(options) {
  try {
    return await runOnce(options)
  } catch (error) {
    const { kind, fault, seed } = options
    return { kind, fault, seed, error: error.message, unsupported: error.code === 'ERR_LAB_UNSUPPORTED', faults: [] }
  }
}

/**
 * @param {object} options
 * @param {string} [options.only]
 * @param {number} [options.runs]
 * @param {string} options.seed
 * @param {(row: any, done: { at: number, of: number }) => void} [options.onRow]
 */
export async function runChaos({ only, runs = 1, seed, onRow = () => {}, ...options }) {
  const rows = []
  const all = Array.from({ length: runs }, (_, run) => plan(only).map((one) => ({ ...one, run }))).flat()
  const unsupported = new Set()
  for (const [at, { kind, fault, run }] of all.entries()) {
    if (unsupported.has(kind)) continue
    const found = await row({ ...options, kind, fault, seed: run === 0 ? seed : `${seed}+${run}` })
    // What a system has not, it has not with another fault either.
    if (found.unsupported) unsupported.add(kind)
    rows.push(found)
    onRow(found, { at: at + 1, of: all.length })
  }
  return rows
}

/** Puts text between two markers of a page. */
function writeBetween(page, name, text) {
  const [begin, end] = [`<!-- ${name}: written by lab/chaos.js -->`, `<!-- /${name} -->`]
  const before = readFileSync(page, 'utf8')
  const [from, to] = [before.indexOf(begin), before.indexOf(end)]
  if (from === -1 || to < from) throw new LabError('ERR_LAB_UNKNOWN', `${page} has no place for ${name}`)
  writeFileSync(page, `${before.slice(0, from + begin.length)}\n\n${text}\n\n${before.slice(to)}`)
}

async function main() {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '1' },
      only: { type: 'string' },
      bytes: { type: 'string', default: '200e6' },
      rate: { type: 'string', default: '80' },
      window: { type: 'string' },
      seed: { type: 'string', default: randomBytes(4).toString('hex') },
      json: { type: 'string' },
      from: { type: 'string' },
      markdown: { type: 'boolean', default: false },
      docs: { type: 'string' },
      capture: { type: 'string' },
      trace: { type: 'boolean', default: false },
      check: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      agent: { type: 'string' },
      server: { type: 'string' },
      name: { type: 'string', default: 'peerline' },
    },
  })
  if (values.list) {
    for (const [name, { about }] of Object.entries(faults)) console.log(`${name.padEnd(17)} ${about}`)
    return
  }
  const started = performance.now()
  const rows = values.from === undefined ? [] : JSON.parse(readFileSync(values.from, 'utf8'))
  if (values.from === undefined) {
    console.log(`seed ${values.seed}; ms from connectivity on until bytes come again, and the longest stall`)
    console.log(heading)
    await runChaos({
      only: values.only,
      runs: Number(values.runs),
      bytes: Number(values.bytes),
      rateMbit: Number(values.rate),
      ...(values.window === undefined ? {} : { windowMs: Number(values.window) }),
      seed: values.seed,
      agent: file(values.agent, OWN.agent),
      server: file(values.server, OWN.server),
      capture: values.capture,
      onRow: (found, { at, of }) => {
        rows.push(found)
        const left = ((performance.now() - started) / at) * (of - at)
        const eta = at === of ? '' : `  (${at}/${of}, ${Math.ceil(left / 60_000)} min left)`
        console.log(`${line(found)}${eta}`)
        if (values.trace) for (const said of found.story ?? []) console.log(`    ${said}`)
        // After each, so that a long run that is broken off is not for nothing.
        if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(rows, null, 1)}\n`)
      },
    })
  }
  const text = tables(rows)
  if (values.markdown) console.log(`\n${text}\n`)
  if (values.docs !== undefined) writeBetween(values.docs, values.name, text)
  const bad = rows.filter(({ faults: wrong, error, unsupported }) => wrong.length > 0 || (error && !unsupported))
  console.log(
    `${rows.length} runs, ${bad.length} short of what they owe (${MEDIAN_MS} ms in the median, ${WORST_MS} at worst)`,
  )
  if (values.check && bad.length > 0) process.exitCode = 1
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main()
