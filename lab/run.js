/** `npm run lab`: builds the small internet, shows that it is what it says, and takes it away again. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { parseArgs } from 'node:util'
import { environment, inNamespace } from './command.js'
import { LabError } from './errors.js'
import { kinds, presets } from './kinds.js'
import { Lab } from './lab.js'
import { table } from './table.js'

const USAGE = `Usage: npm run lab -- [--verify | --list | --shell HOST | --keep] [--homes KIND,KIND,...] [--pub PRESET]

  --verify          builds, probes every home, prints what was found, removes everything (default)
  --long            with --verify: also waits for UDP mappings to die (3 min)
  --list            the kinds of homes and the presets
  --shell HOST      an interactive shell in a host; its homes are made as needed
  --keep            leaves everything up until Ctrl-C, and says how to get in
  --homes KINDS     which homes (default one of each); a kind given twice is made twice
  --pub PRESET      the way between pub1 and pub2: ${Object.keys(presets).join(', ')}
  --congestion NAME of TCP: cubic (default) or bbr
  --clean           removes what killed labs left behind

Examples
  npm run lab -- --homes port-restricted,port-restricted,symmetric-random
  npm run lab -- --shell lan-1b
  npm run lab -- --keep --homes open,double-nat --pub lossy`

function readArguments() {
  const { values } = parseArgs({
    options: {
      verify: { type: 'boolean', default: false },
      long: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      shell: { type: 'string' },
      keep: { type: 'boolean', default: false },
      homes: { type: 'string' },
      pub: { type: 'string', default: 'clean' },
      congestion: { type: 'string', default: 'cubic' },
      clean: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  return { ...values, homes: values.homes?.split(',').filter((kind) => kind !== '') }
}

/** The homes that make a host of this name exist: `lan-2b` needs two of `lan`. */
function homesFor(host) {
  const [, kind, number] = /^(.+)-(\d+)[ab]?$/.exec(host) ?? []
  if (kind === undefined) return []
  return Array.from({ length: Math.min(Number(number), 20) }, () => kind)
}

const short = {
  'endpoint-independent': 'endpoint',
  'address-dependent': 'address',
  'address-and-port-dependent': 'addr+port',
}
const shown = (value) => short[value] ?? { true: 'yes', false: 'no', null: '-', undefined: '-' }[value] ?? String(value)

/** @param {Map<string, import('./probe.js').Report>} reports */
function printReports(reports) {
  const rows = []
  for (const { home, v4, v6, neighbour, udpSeconds, outlived, differences } of reports.values()) {
    for (const [family, found] of Object.entries({ v4, v6 })) {
      if (found === null) continue
      const life = outlived === null ? udpSeconds : `${udpSeconds}, ${outlived.after ? 'outlived' : 'died in time'}`
      rows.push([
        home,
        family,
        shown(found.udp),
        ...[
          'mapping',
          'ports',
          'filtering',
          'hairpin',
          'tcp443',
          'tcpOther',
          'tcpMapping',
          'unsolicitedSyn',
          'routers',
        ].map((key) => shown(found[key])),
        shown(neighbour),
        shown(life),
        differences.length === 0 ? 'ok' : 'NOT AS NAMED',
      ])
    }
  }
  const head = 'home,IP,UDP,mapping,ports,filter,hairpin,443,TCP,TCP map,SYN,routers,LAN,UDP s,'.split(',')
  console.log(table(head, rows))
}

function list() {
  console.log(
    table(
      ['kind', 'hosts', 'about'],
      Object.entries(kinds).map(([name, { hosts, about }]) => [name, String(hosts), about]),
    ),
  )
  const settings = Object.entries(presets).map(([name, [one, two]]) => [name, JSON.stringify(one), JSON.stringify(two)])
  console.log(`\n${table(['pub preset', 'link of pub1', 'link of pub2'], settings)}`)
}

function printHosts(lab) {
  const rows = [...lab.hosts.values()].map(({ name, addresses: { v4, v6 }, home, namespace }) => [
    name,
    [...v4, ...v6].join(' '),
    home === null || home.routers.length === 0 ? '' : [home.publicAddress.v4].filter((it) => it !== null).join(' '),
    `ip netns exec ${namespace} bash`,
  ])
  console.log(table(['host', 'addresses', 'seen as', 'get in'], rows))
}

async function shell(lab, name) {
  const [command, args] = inNamespace(lab.host(name).namespace, process.env.SHELL ?? 'sh', [])
  console.error(`in ${name}; exit leaves and removes the lab`)
  const ignore = () => {} // Ctrl-C is the shell's
  process.on('SIGINT', ignore)
  await once(spawn(command, args, { stdio: 'inherit', env: environment() }), 'close')
  process.off('SIGINT', ignore)
}

async function main() {
  const wanted = readArguments()
  if (wanted.help) return console.log(USAGE)
  if (wanted.list) return list()
  if (wanted.clean) return console.log(`${await Lab.removeStale()} namespaces removed`)
  const homes = wanted.homes ?? (wanted.shell === undefined ? Object.keys(kinds) : homesFor(wanted.shell))
  const started = performance.now()
  const seconds = () => `${((performance.now() - started) / 1000).toFixed(1)} s`
  const { pub, congestion } = wanted
  const handleSignals = wanted.shell === undefined
  const lab = await Lab.create({ homes, pub, congestion, handleSignals, verify: false })
  try {
    console.error(`${lab.hosts.size} hosts in ${lab.homes.size} homes up after ${seconds()}`)
    if (wanted.shell !== undefined) return await shell(lab, wanted.shell)
    const mismatch = await lab.verify({ long: wanted.long }).then(
      () => null,
      (error) => error,
    )
    if (lab.reports.size > 0) printReports(lab.reports)
    if (mismatch !== null) throw mismatch
    console.error(`every home is what its name says, after ${seconds()}`)
    if (!wanted.keep) return
    printHosts(lab)
    console.error('up until Ctrl-C')
    await new Promise(() => setInterval(() => {}, 2 ** 30))
  } finally {
    await lab.destroy()
  }
}

main().catch((error) => {
  const expected = error instanceof LabError || error?.code?.startsWith?.('ERR_PARSE_ARGS')
  console.error(expected ? error.message : error)
  process.exitCode = 1
})
