/**
 * Dials between homes behind every kind of NAT, with Peerline and the stacks it is compared with, in the lab of `lab/`:
 *
 *   node bench/nat.js [--runs 3] [--pairs a:b,c,...] [--stacks NAMES] [--json FILE]
 *
 * For each pair the stacks take turns. Progress goes to stderr, the table to stdout. A dial that fails is a result.
 */

import { writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { kinds } from '../lab/kinds.js'
import { Lab } from '../lab/lab.js'
import { forgetNames, nameServer } from '../lab/matrix.js'
import { DEFAULT_STACKS, services, stacks } from './nat/stacks.js'
import { cell, DEFAULT_PAIRS, homesFor, markdown, readPair, summarise } from './nat/summary.js'

const USAGE = `Usage: node bench/nat.js [--runs 3] [--pairs a:b,c,...] [--stacks NAMES] [--json FILE]

  --runs N        dials of each pair by each stack, the two sides in turn (default 3)
  --pairs PAIRS   kinds of homes, as \`npm run lab -- --list\` shows them: a:b, or a for two hosts of one home
  --stacks NAMES  of ${Object.keys(stacks).join(', ')}
                  (default ${DEFAULT_STACKS.join(',')})
  --json FILE     where every dial goes

Needs what the lab needs (root, iproute2, nftables, conntrack), \`npm run build\`, and coturn for node-datachannel.`

const DIAL_MS = 20_000 // after that a dial has failed
const DIRECT_MS = 6_000 // that a relayed connection is watched for becoming direct
const WARM_MS = 3_000 // of a dial that is not measured
const SPARE_MS = 1_000 // for an agent to say so

const say = (text) => process.stderr.write(`${text}\n`)
const oneLine = (error) => (error instanceof Error ? error.message : String(error)).split('\n')[0]

function readArguments() {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '3' },
      pairs: { type: 'string' },
      stacks: { type: 'string' },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const runs = Number(values.runs)
  if (!Number.isInteger(runs) || runs < 1) throw new Error(`--runs: "${values.runs}" is not a whole number above 0`)
  const names = values.stacks?.split(',') ?? DEFAULT_STACKS
  const unknown = names.find((name) => !Object.hasOwn(stacks, name))
  if (unknown !== undefined)
    throw new Error(`no stack is called "${unknown}"; there are ${Object.keys(stacks).join(', ')}`)
  const pairs = (values.pairs?.split(',') ?? DEFAULT_PAIRS).map((text) => readPair(text, kinds))
  return { help: values.help, json: values.json, runs, names, pairs }
}

/** Starts what the stacks need on the public hosts, and a public peer of each. Gives the stacks that have both. */
async function prepareStacks(lab, names) {
  const running = {}
  const ready = []
  for (const name of names) {
    const { service, join } = stacks[name]
    try {
      running[service] ??= await services[service](lab)
      const joinAt = (host) => join(host, running[service], `${name}@${host.name}`)
      const publicPeer = joinAt(lab.host('pub1'))
      await publicPeer.online
      ready.push({ name, joinAt, publicPeer })
    } catch (error) {
      say(`left out: ${name}: ${oneLine(error)}`)
    }
  }
  return ready
}

/** The two hosts of a pair. */
function hostsOf(lab, { a, b, together }) {
  const [from, to] = [lab.home(`${a}-1`), lab.home(a === b && !together ? `${b}-2` : `${b}-1`)]
  return [from.host(0), to.host(together ? 1 : 0)]
}

/**
 * One dial between peers that come online first if they are not.
 *
 * @returns {Promise<import('./nat/summary.js').Dial>}
 */
async function dial(dialer, called, { deadlineMs, directMs }) {
  try {
    const [, to] = await Promise.all([dialer.online, called.online])
    const timeoutMs = deadlineMs + directMs + SPARE_MS
    const {
      firstByteMs,
      first,
      directMs: ms,
    } = await dialer.agent.ask('dial', { to, deadlineMs, directMs }, { timeoutMs })
    if (firstByteMs > deadlineMs) return { error: `first byte after ${Math.round(firstByteMs)} ms` }
    return { firstByteMs, first: first === 'relay' ? 'relay' : 'direct', directMs: ms }
  } catch (error) {
    return { error: oneLine(error) }
  }
}

/** Every connection of theirs is over. */
const forget = (peers) => Promise.allSettled(peers.map(({ agent }) => agent.ask('forget')))

/** Two new peers of one stack, whose code has run once, each way, with a public peer. */
async function joinBoth({ joinAt, publicPeer }, hosts) {
  const peers = hosts.map(joinAt)
  const limits = { deadlineMs: WARM_MS, directMs: 0 }
  for (const peer of peers) {
    peer.online.catch(() => {}) // the dial tells
    const { error } = await dial(peer, publicPeer, limits)
    if (error === undefined) await dial(publicPeer, peer, limits)
  }
  await forget([publicPeer, ...peers])
  return peers
}

/** Each dial is the first that this peer makes to that one: after one each way, and after a failed one, come new peers. */
async function measure(ready, hosts, runs) {
  const dials = []
  while (dials.length < runs) {
    const [a, b] = await joinBoth(ready, hosts)
    const turns =
      dials.length % 2 === 0
        ? [
            [a, b],
            [b, a],
          ]
        : [[b, a]]
    for (const [dialer, called] of turns.slice(0, runs - dials.length)) {
      const result = await dial(dialer, called, { deadlineMs: DIAL_MS, directMs: DIRECT_MS })
      dials.push(result)
      if (result.error !== undefined) break
      await forget([a, b])
    }
    await Promise.all([a.agent.stop(), b.agent.stop()])
  }
  return dials
}

async function main() {
  const { help, json, runs, names, pairs } = readArguments()
  if (help) return say(USAGE)
  const startedAt = new Date()
  const lab = await Lab.create({ homes: homesFor(pairs), handleSignals: false })
  try {
    process.on('exit', () => forgetNames(lab))
    const { v4, v6 } = lab.host('server').addresses
    nameServer(lab, v4[0], v6[0])
    const ready = await prepareStacks(lab, names)
    if (ready.length === 0) throw new Error('no stack can dial')
    const rows = []
    for (const pair of pairs) {
      const row = { pair: pair.name, stacks: {} }
      for (const one of ready) {
        const dials = await measure(one, hostsOf(lab, pair), runs)
        const summary = summarise(dials)
        row.stacks[one.name] = { ...summary, dials }
        const why = dials.find(({ error }) => error !== undefined)?.error
        say(`${pair.name}: ${one.name} ${cell(summary)}${why === undefined ? '' : ` (${why})`}`)
      }
      rows.push(row)
    }
    const cells = rows.map((row) => [row.pair, ...ready.map(({ name }) => cell(row.stacks[name]))])
    process.stdout.write(`\n${markdown(['pair', ...ready.map(({ name }) => name)], cells)}\n`)
    if (json !== undefined) {
      const file = resolve(process.env.INIT_CWD ?? '.', json) // npm runs this in bench/
      writeFileSync(file, `${JSON.stringify({ startedAt, runs, rows }, null, 2)}\n`)
    }
  } finally {
    await lab.destroy()
  }
}

for (const [signal, code] of Object.entries({ SIGINT: 130, SIGTERM: 143, SIGHUP: 129 })) {
  process.on(signal, () => process.exit(code)) // the lab and the names go at exit
}

try {
  await main()
} catch (error) {
  say(`nat: ${oneLine(error)}`)
  process.exitCode = 1
}
