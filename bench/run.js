/**
 * Measures every stack in one run: round 1 of all, round 2 of all, and so on, so that a slow minute of the machine
 * falls on all of them. Progress goes to stderr, the report to stdout, everything to a JSON file.
 */

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { endAll } from './lib/group.js'
import { amounts, measureStack } from './lib/measure.js'
import { checkTargets, report, summarise } from './lib/report.js'
import { figure } from './lib/table.js'
import { loadStack, selectStacks, stackNames, stackTitle } from './stacks/index.js'

const USAGE = `Usage: npm run bench -- [--only ${stackNames.slice(0, 3).join(',')},...] [--rounds 5] [--seconds 2] [--quick] [--json FILE]

  --only NAMES    of ${stackNames.join(', ')}; a beginning such as "peerline" means all that start so
  --rounds N      how often each stack is measured (default 5; 1 with --quick)
  --seconds N     how long each bulk transfer runs (default 2; 0.5 with --quick), latency loops half of it
  --quick         shows that everything works; the figures mean little
  --json FILE     where the figures go (default bench/results/<date>.json)

BENCH_V8_FLAGS in the environment: flags for the Node of every process, such as --single-threaded-gc`

const FIRST_ROUND_SECONDS = 12 // of one stack, for the estimate until something was measured

function readArguments() {
  const { values } = parseArgs({
    options: {
      only: { type: 'string' },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      quick: { type: 'boolean', default: false },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const number = (text, fallback, name, isFine) => {
    const value = text === undefined ? fallback : Number(text)
    if (!isFine(value)) throw new Error(`--${name}: "${text}" is not a number above 0 that makes sense here`)
    return value
  }
  const { quick, help, json, only } = values
  return {
    help,
    quick,
    json,
    v8Flags: process.env.BENCH_V8_FLAGS ?? '',
    stacks: selectStacks(only),
    rounds: number(values.rounds, quick ? 1 : 5, 'rounds', (value) => Number.isInteger(value) && value > 0),
    seconds: number(values.seconds, quick ? 0.5 : 2, 'seconds', (value) => value > 0 && value <= 30),
  }
}

const say = (text) => process.stderr.write(`${text}\n`)
const oneLine = (error) => (error instanceof Error ? error.message : String(error)).split('\n')[0]

function duration(ms) {
  const seconds = Math.round(ms / 1000)
  return seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`
}

async function describeMachine() {
  const { dependencies, optionalDependencies } = JSON.parse(
    await readFile(new URL('./package.json', import.meta.url), 'utf8'),
  )
  return {
    cpu: os.cpus()[0]?.model.trim() ?? os.arch(),
    cores: os.availableParallelism(),
    memoryGiB: Math.round(os.totalmem() / 2 ** 30),
    os: `${os.type()} ${os.release()} ${os.arch()}`,
    node: process.versions.node,
    openssl: process.versions.openssl,
    loadBefore: os.loadavg()[0],
    packages: { ...dependencies, ...optionalDependencies },
  }
}

/** Loads the stacks and lets them make what all their processes share. */
async function prepareStacks(names, leaveOut) {
  const ready = new Map()
  for (const name of names) {
    try {
      const stack = await loadStack(name)
      ready.set(name, { stack, prepared: await stack.prepare?.() })
    } catch (error) {
      leaveOut(name, '', error)
    }
  }
  return ready
}

async function runRounds(ready, { rounds, seconds, quick }, leaveOut) {
  const amount = amounts({ seconds, quick })
  const measured = {}
  const startedAt = Date.now()
  let done = 0
  for (let round = 1; round <= rounds; round += 1) {
    for (const [name, { stack, prepared }] of ready) {
      const complain = (what, error) => leaveOut(name, `, ${what}, round ${round}`, error)
      try {
        const figures = await measureStack(name, stack, prepared, amount, complain)
        measured[name] = [...(measured[name] ?? []), figures]
      } catch (error) {
        leaveOut(name, rounds > 1 ? ` from round ${round}` : '', error)
        ready.delete(name)
        continue
      }
      done += 1
      const left = (rounds - round) * ready.size + [...ready.keys()].length - 1 - [...ready.keys()].indexOf(name)
      const { bulkMBps, rttP50Us, inFlightPerSecond, firstByteMs, idleKiB } = measured[name].at(-1)
      say(
        `round ${round}/${rounds}  ${stackTitle(name).padEnd(16)}  ${figure(bulkMBps)} MB/s, p50 ${figure(rttP50Us)} µs, ` +
          `${figure(inFlightPerSecond)}/s, first byte ${figure(firstByteMs)} ms, ${figure(idleKiB)} KiB idle` +
          (left > 0 ? `; about ${duration(((Date.now() - startedAt) / done) * left)} left` : ''),
      )
    }
  }
  return measured
}

async function main() {
  const settings = readArguments()
  if (settings.help) return say(USAGE)
  const machine = await describeMachine()
  const startedAt = new Date()
  const leftOut = []
  const leaveOut = (stack, what, error) => {
    leftOut.push({ stack, what, reason: oneLine(error) })
    say(`left out: ${stackTitle(stack)}${what}: ${oneLine(error)}`)
  }

  const ready = await prepareStacks(settings.stacks, leaveOut)
  const estimate = settings.rounds * ready.size * (settings.quick ? 4 : FIRST_ROUND_SECONDS) * 1000
  say(`${ready.size} stacks, ${settings.rounds} rounds: about ${duration(estimate)}`)
  const rounds = await runRounds(ready, settings, leaveOut)
  if (Object.keys(rounds).length === 0) throw new Error('no stack could be measured')

  const summaries = summarise(rounds)
  const targets = checkTargets(summaries)
  process.stdout.write(`\n${report({ machine, settings, summaries, targets, leftOut })}\n`)

  // npm runs this in bench/; a relative --json is meant from where the user stands
  const name = `results/${startedAt.toISOString().replaceAll(':', '-').slice(0, 19)}.json`
  const file = settings.json
    ? resolve(process.env.INIT_CWD ?? '.', settings.json)
    : fileURLToPath(new URL(name, import.meta.url))
  await mkdir(dirname(file), { recursive: true })
  const { stacks, rounds: roundCount, seconds, quick } = settings
  const content = {
    startedAt,
    machine,
    settings: { stacks, rounds: roundCount, seconds, quick },
    summaries,
    targets,
    leftOut,
  }
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`)
  say(`\nwritten: ${file}`)
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
]) {
  process.on(signal, () => process.exit(code))
}
process.on('exit', endAll)

try {
  await main()
} catch (error) {
  say(`bench: ${oneLine(error)}`)
  process.exitCode = 1
} finally {
  endAll()
}
