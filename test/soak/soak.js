/**
 * One process that connects, transfers, roams and closes for as long as it is told, and must not grow: memory and handles
 * are looked at after each round of them, when all of it has been closed and the garbage is gone.
 *
 *   node --expose-gc test/soak/soak.js [--minutes 3] [--seed N] [--udp] [--webrtc] [--json]
 *
 * Progress goes to standard error. Exit code 0: flat; 1: something grew, or failed.
 */
import { readdirSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { judge } from './flat.js'
import { World } from './world.js'

const USAGE = `Usage: node --expose-gc test/soak/soak.js [--minutes 3] [--seed N] [--udp] [--webrtc] [--json]

  --minutes N  how long (default 3)
  --seed N     the same choices again (default a new one; it is printed)
  --udp        paths over UDP too, with udx-native
  --webrtc     paths over WebRTC too, with node-datachannel
  --json       JSON lines on standard output: every sample, and the verdict`

const MB = 2 ** 20

/** Samples at most, however long it takes: they are memory too. */
const MAX_SAMPLES = 600

/** ms that nothing may change before a sample is taken, and ms to wait for that at most. */
const CALM_MS = 100
const MAX_CALM_MS = 3_000

/** ms without a sample, because some peer had yet to come back to a server, after which all of them are waited for. */
const MAX_UNSEEN_MS = 5_000

/** Collections at most before a sample, and the bytes that one must free to be worth another. */
const MAX_COLLECTIONS = 6
const WORTH_BYTES = 64 * 1024

/** ms between progress lines, on a terminal and in a log. */
const REDRAW_MS = 500
const LOG_MS = 10_000

/** ms after which the line says what is being waited for. */
const SLOW_MS = 3_000

/**
 * What may grow, by how much, from the first third to the last. The heap of such a process moves by a MB from sample to
 * sample; allocators keep what they once had, so that RSS climbs for long in small steps.
 */
const RULES = [
  // Snapshots of the heap show what grows there for minutes: compiled code and notes about it, about 1 MB a minute at first;
  // and what peers remember on purpose, within bounds: how their sessions of the last 90 s ended, and offers until they expire.
  { name: 'heapUsed', atLeast: 10 * MB, share: 0.08 },
  { name: 'external', atLeast: 2 * MB, share: 0.08 },
  { name: 'arrayBuffers', atLeast: 2 * MB, share: 0.08 },
  { name: 'rss', atLeast: 24 * MB, share: 0.1 },
  // What is neither heap nor buffers: code, stacks, allocators, and all that native packages hold. Noted only: V8 gives
  // pages of its heap back at its leisure, and what it has not given back yet would count here.
  { name: 'native', atLeast: 24 * MB, share: 0.1, noted: true },
  // One at a time may be on its way out when it is looked at.
  { name: 'resources', atLeast: 2 },
  { name: 'files', atLeast: 2 },
  // Those too that do not keep the process alive: each session with a server has some, and how many depends on its age.
  { name: 'timers', atLeast: 40, share: 0.2 },
]

function readArguments() {
  const { values } = parseArgs({
    options: {
      minutes: { type: 'string', default: '3' },
      seed: { type: 'string' },
      udp: { type: 'boolean', default: false },
      webrtc: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const minutes = Number(values.minutes)
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed)
  if (!(minutes > 0)) throw new Error(`--minutes: "${values.minutes}" is not a number above 0`)
  if (!Number.isInteger(seed) || seed < 0) throw new Error(`--seed: "${values.seed}" is not a whole number`)
  return { ...values, minutes, seed }
}

/** Open file descriptors, less the one that the look itself takes; 0 where the system does not tell. */
function openFiles() {
  try {
    return readdirSync('/proc/self/fd').length - 1
  } catch {
    return 0
  }
}

/** How many of each kind keep the process alive. */
function resources() {
  const kinds = {}
  for (const kind of process.getActiveResourcesInfo()) kinds[kind] = (kinds[kind] ?? 0) + 1
  return kinds
}

const total = (kinds) => Object.values(kinds).reduce((sum, count) => sum + count, 0)

/** Waits until connections that were closed are gone. */
async function calm() {
  const look = () => `${total(resources())} ${openFiles()}`
  const deadline = performance.now() + MAX_CALM_MS
  for (let last = look(), since = performance.now(); performance.now() < deadline; ) {
    await sleep(10)
    const now = look()
    if (now !== last) since = performance.now()
    else if (performance.now() - since >= CALM_MS) return
    last = now
  }
}

async function sample(ground) {
  await calm()
  // More than once: what finalizers let go of is collected by the next one.
  for (let pass = 0, before = Infinity; pass < MAX_COLLECTIONS; pass++) {
    globalThis.gc()
    await sleep(1)
    const { heapUsed } = process.memoryUsage()
    if (before - heapUsed < WORTH_BYTES) break
    before = heapUsed
  }
  const { rss, heapTotal, heapUsed, external, arrayBuffers } = process.memoryUsage()
  const kinds = resources()
  const native = rss - heapTotal - external
  const counts = { resources: total(kinds), files: openFiles(), timers: ground.timers }
  return { rss, heapUsed, external, arrayBuffers, native, ...counts, kinds }
}

const COUNTS = new Set(['resources', 'files', 'timers'])
const shown = (name, value) =>
  COUNTS.has(name) ? String(Math.round(value * 10) / 10) : `${(value / MB).toFixed(1)} MB`

function time(seconds) {
  const whole = Math.max(0, Math.round(seconds))
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`
}

/** One line, redrawn on a terminal, now and then elsewhere. */
class Progress {
  #world
  #ms
  #started = performance.now()
  #timer
  #live = process.stderr.isTTY === true
  latest

  constructor(world, ms) {
    this.#world = world
    this.#ms = ms
    this.#timer = setInterval(() => this.#draw(), this.#live ? REDRAW_MS : LOG_MS)
    this.#timer.unref()
  }

  #draw() {
    const { cycles, bytes, pathChanges, reconnects } = this.#world.counts
    const ms = performance.now() - this.#started
    const parts = [`soak  ${Math.min(100, Math.floor((ms / this.#ms) * 100))} %`]
    parts.push(
      `${cycles} cycles`,
      `${((cycles / ms) * 1_000).toFixed(1)}/s`,
      `${(bytes / MB / (ms / 1_000)).toFixed(0)} MB/s`,
    )
    parts.push(`${pathChanges} changes of path`, `${reconnects} reconnects`)
    for (const name of ['heapUsed', 'rss', 'resources', 'files', 'timers']) {
      if (this.latest !== undefined) parts.push(`${name} ${shown(name, this.latest[name])}`)
    }
    parts.push(`${time((this.#ms - ms) / 1_000)} left`, ...this.#world.slow(SLOW_MS))
    process.stderr.write(this.#live ? `\r\x1b[K${parts.join('  ')}` : `${parts.join('  ')}\n`)
  }

  stop() {
    clearInterval(this.#timer)
    if (this.#live) process.stderr.write('\r\x1b[K')
  }
}

function table(verdicts) {
  const lines = [['', 'first third', 'last third', 'growth', 'allowed', 'an hour', '']]
  for (const { name, noted, first, last, growth, allowed, perHour, flat, tooFew } of verdicts) {
    const verdict = noted ? 'noted' : tooFew ? 'too few samples' : flat ? 'flat' : 'GROWS'
    lines.push([name, ...[first, last, growth, allowed, perHour].map((value) => shown(name, value)), verdict])
  }
  const widths = lines[0].map((_, at) => Math.max(...lines.map((line) => line[at].length)))
  return lines
    .map((line) => line.map((cell, at) => (at === 0 || at === 6 ? cell.padEnd(widths[at]) : cell.padStart(widths[at]))))
    .map((cells) => cells.join('  ').trimEnd())
    .join('\n')
}

async function main() {
  const { minutes, seed, udp, webrtc, json, help } = readArguments()
  if (help) return console.log(USAGE)
  if (globalThis.gc === undefined) throw new Error('start it with node --expose-gc')
  const options = { minutes, seed, udp, webrtc }
  const event = (name, detail) => json && process.stdout.write(`${JSON.stringify({ event: name, ...detail })}\n`)
  const say = (text) => json || process.stdout.write(`${text}\n`)
  event('start', options)
  say(`soak for ${minutes} min, seed ${seed}`)

  const world = new World(options)
  const ms = minutes * 60_000
  const started = performance.now()
  const end = started + ms
  const progress = new Progress(world, ms)
  const samples = []
  let stopped = false
  const onSignal = () => {
    stopped = true
  }
  process.once('SIGINT', onSignal)
  process.once('SIGTERM', onSignal)
  try {
    await world.start()
    for (let next = 0, seen = started; performance.now() < end && !stopped; ) {
      await world.round()
      if (performance.now() < next) continue
      if (!world.isWhole && performance.now() - seen < MAX_UNSEEN_MS) continue
      await world.whole()
      const found = {
        atMs: Math.round(performance.now() - started),
        cycle: world.counts.cycles,
        ...(await sample(world.ground)),
      }
      seen = performance.now()
      next = seen + ms / MAX_SAMPLES
      samples.push(found)
      progress.latest = found
      event('sample', found)
    }
    if (world.sessions > 0) throw new Error(`${world.sessions} sessions are left`)
    const { pathChanges, reconnects } = world.counts
    if (!stopped && (pathChanges === 0 || reconnects === 0)) throw new Error('nothing roamed: try more minutes')
    await world.close()
    await calm()
    // The standard streams may be pipes or terminals.
    const { PipeWrap, TTYWrap, ...open } = resources()
    if (total(open) > 0) throw new Error(`open after all was closed: ${JSON.stringify(open)}`)
  } catch (error) {
    throw new Error(`seed ${seed}, cycle ${world.counts.cycles + 1}: ${error.message}`, { cause: error })
  } finally {
    progress.stop()
  }
  const verdicts = RULES.map(({ name, noted = false, ...rule }) => {
    const points = samples.map((found) => ({ atMs: found.atMs, value: found[name] }))
    return { name, noted, ...judge(points, rule) }
  })
  const flat = verdicts.every((verdict) => verdict.noted || verdict.flat)
  const { counts } = world
  event('verdict', { flat, ...options, samples: samples.length, counts, verdicts })
  say(
    `${Object.entries(counts)
      .map(([what, count]) => `${what} ${count}`)
      .join(', ')}; ${samples.length} samples`,
  )
  say(table(verdicts))
  if (samples.length > 0) say(`at the end: ${JSON.stringify(samples.at(-1).kinds)}`)
  if (!flat) process.exitCode = 1
}

try {
  await main()
} catch (error) {
  process.stderr.write(`soak: ${error.message}\n${error.cause?.cause?.stack ?? error.cause?.stack ?? ''}\n`)
  process.exit(1)
}
