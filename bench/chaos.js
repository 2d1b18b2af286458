/**
 * The faults of lab/chaos.js on Peerline and on what it is compared with, each alone and, for those that do not go on by
 * themselves, with the loop that applications write around them:
 *
 *   node bench/chaos.js [--runs 1] [--only KIND:FAULT,...] [--systems NAMES] [--bytes 200e6] [--seed S] [--json FILE] [--trace]
 *
 * For each fault the systems take turns. Progress goes to stderr, the table to stdout. A transfer that fails is a result.
 */

import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { line, plan, runChaos } from '../lab/chaos.js'
import { faults } from '../lab/chaos-faults.js'
import { cell } from './chaos/cell.js'
import { markdown } from './nat/summary.js'

const USAGE = `Usage: node bench/chaos.js [--runs 1] [--only KIND:FAULT,...] [--systems NAMES] [--json FILE]

  --runs N         runs of each fault with each system (default 1)
  --only FAULTS    as lab/chaos.js takes them: the path is auto, what the system does by itself, or relay
  --systems NAMES  of SYSTEMS
  --bytes N        of a transfer (default 200e6)
  --rate MBIT      of each home's cable (default 80)
  --seed S         who sends, who is hit, and where
  --json FILE      where every run goes, after each
  --from FILE      prints the table of such a file
  --trace          what happened, line by line

Needs what the lab needs (root, iproute2, nftables, conntrack), \`npm run build\`, and \`npm ci\` in bench/.`

const AUTO_FAULTS = [
  ...['none', 'reboot', 'address', 'roam', 'udp-blocked', 'cable-1s', 'cable-5s', 'cable-30s', 'silence-5s'],
  ...['silence-30s', 'stopped-20s'],
].map((fault) => `auto:${fault}`)
const RELAY_FAULTS = ['none', 'reboot', 'address', 'cable-5s', 'silence-30s', 'relay-killed', 'server-restarts'].map(
  (fault) => `relay:${fault}`,
)

const script = (path) => fileURLToPath(new URL(path, import.meta.url))
const peerline = { agent: script('../lab/chaos-agent.js'), server: script('../lab/chaos-server.js') }
const libp2p = { agent: script('./chaos-libp2p.js'), server: script('./chaos-libp2p-server.js') }
const hyperdht = { agent: script('./chaos-hyperdht.js'), server: script('./chaos-hyperdht-server.js') }

/** @type {Record<string, { agent: string, server: string, resume: boolean }>} */
const systems = {
  peerline: { ...peerline, resume: false },
  libp2p: { ...libp2p, resume: false },
  'libp2p+loop': { ...libp2p, resume: true },
  hyperdht: { ...hyperdht, resume: false },
  'hyperdht+loop': { ...hyperdht, resume: true },
}

const say = (text) => process.stderr.write(`${text}\n`)

function readArguments() {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '1' },
      only: { type: 'string', default: [...AUTO_FAULTS, ...RELAY_FAULTS].join() },
      systems: { type: 'string', default: Object.keys(systems).join() },
      bytes: { type: 'string', default: '200e6' },
      rate: { type: 'string', default: '80' },
      seed: { type: 'string', default: randomBytes(4).toString('hex') },
      json: { type: 'string' },
      from: { type: 'string' },
      trace: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const names = values.systems.split(',')
  const unknown = names.find((name) => !Object.hasOwn(systems, name))
  if (unknown !== undefined)
    throw new Error(`no system is called "${unknown}"; there are ${Object.keys(systems).join(', ')}`)
  return { ...values, names, wanted: plan(values.only) }
}

/** One run of one system. The agents learn from the environment whether they are to go on by themselves. */
async function run(name, { kind, fault }, options) {
  const { agent, server, resume } = systems[name]
  process.env.CHAOS_RESUME = resume ? '1' : ''
  const [row] = await runChaos({ ...options, only: `${kind}:${fault}`, runs: 1, agent, server })
  return { system: name, ...row }
}

function table(rows) {
  const names = Object.keys(systems).filter((name) => rows.some(({ system }) => system === name))
  const tested = [...new Set(rows.map(({ kind, fault }) => `${kind}:${fault}`))]
  const lines = tested.map((one) => {
    const [kind, fault] = one.split(':')
    const of = (name) => rows.filter((row) => row.system === name && row.kind === kind && row.fault === fault)
    return [kind, faults[fault].about, ...names.map((name) => cell(of(name)))]
  })
  return markdown(['path', 'what happens', ...names], lines)
}

async function main() {
  const { help, runs, names, wanted, bytes, rate, seed, json, from, trace } = readArguments()
  if (help) return say(USAGE.replace('SYSTEMS', Object.keys(systems).join(', ')))
  if (from !== undefined) return process.stdout.write(`${table(JSON.parse(readFileSync(from, 'utf8')))}\n`)
  const file = json === undefined ? undefined : resolve(process.env.INIT_CWD ?? '.', json) // npm runs this in bench/
  const rows = []
  say(`seed ${seed}`)
  for (let at = 0; at < Number(runs); at += 1) {
    const options = { bytes: Number(bytes), rateMbit: Number(rate), seed: at === 0 ? seed : `${seed}+${at}` }
    for (const one of wanted) {
      for (const name of names) {
        const row = await run(name, one, options)
        rows.push(row)
        say(`${name.padEnd(13)} ${line(row)}`)
        if (trace) for (const said of row.story ?? []) say(`    ${said}`)
        if (file !== undefined) writeFileSync(file, `${JSON.stringify(rows, null, 1)}\n`)
      }
    }
  }
  process.stdout.write(`\n${table(rows)}\n`)
}

try {
  await main()
} catch (error) {
  say(`chaos: ${error.message.split('\n')[0]}`)
  process.exitCode = 1
}
