/**
 * One peer, one friend, and a thousand hostile peers. While these do their worst, what the friend asks must be answered:
 *
 *   no request lost, p99 within 3 times that of quiet, on a machine that is as busy
 *   memory bounded
 *   no crash, no rejection that nobody handles
 *
 *   node test/siege/siege.js [--seconds 10] [--quick] [--only handshake,loris,…] [--attackers 1000] [--profile DIR] [--untimed] [--json]
 *
 * Everything is on loopback, each attacker at an address and in a /24 of its own unless the attack says otherwise.
 * Defender and friend run at ordinary priority, the attackers below them (`nice`): on a machine with few cores the work of
 * attacking would else starve the defender, and it is what it does with what arrives that is measured.
 *
 * Exit code 0: it held; 1: it did not.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { createOffer } from '../../dist/handshake/index.js'
import { Identity } from '../../dist/identity/index.js'
import { attacks, isGuest } from './attacks.js'
import { Child } from './child.js'

const USAGE = `Usage: node test/siege/siege.js [--seconds 10] [--quick] [--only ATTACK,…] [--attackers 1000] [--json]

  --seconds N    how long each attack lasts (default 10)
  --quick        2 s each, and five attacks alone unless --only says otherwise
  --only NAMES   some of: ${Object.keys(attacks).join(', ')}; NAME@one: all from one address
  --attackers N  identities (default 1000)
  --profile DIR  a CPU profile of the defender
  --untimed      the times are shown, and not judged: where other things run beside it
  --json         JSON lines on standard output: every attack, and the verdict`

const MB = 2 ** 20

/** Times the quiet p99 that is allowed, and the ms below which a p99 is the scheduler's noise. */
const P99_FACTOR = 3
const P99_FLOOR_MS = 2

/**
 * Bytes that the process may take beyond quiet while strangers attack: 1,024 of them with 17 KiB and a socket each, 10 MB
 * of offers that were taken, and what a heap has not collected yet.
 */
const STRANGERS_BYTES = 192 * MB

/** The same while those attack who are let in: the memory that sessions share, and what each has of its own. */
const GUESTS_BYTES = (attackers) => 512 * MB + attackers * MB + GARBAGE_BYTES

/** What is let go of and not collected yet, where more than a gigabyte comes each second. */
const GARBAGE_BYTES = 1_536 * MB

/** RSS of the defender at which an attack is broken off, for the machine's sake. */
const BREAK_OFF_BYTES = 3_584 * MB

/** ms between looks at it. */
const LOOK_MS = 200

/** ms after an attack until the connections are gone. */
const SETTLE_MS = 1_500

/** Attacks whose times are judged. In the others everybody who attacks was let in, and may have work done: their times are shown. */
const TIMED = new Set(['handshake', 'garbage', 'loris', 'oversize', 'replay', 'streams'])

/** ms of requests before a phase is measured. */
const WARM_MS = 1_000

/** MB of heap that the defender may use before it crashes: far above what it is allowed. */
const MAX_HEAP_MB = 2_048

const ATTACKER_PROCESSES = 2

/** An attack of this name is the one before it, from one address. */
const ONE_ADDRESS = /@one$/

const PLAN = [
  ...['handshake', 'handshake@one', 'garbage', 'loris', 'oversize', 'replay'],
  ...['streams', 'unfinished', 'unread', 'datagrams', 'violations', 'all', 'abandon'],
]

/** One of each sort, for a minute at most. */
const SHORT_PLAN = ['handshake', 'loris', 'replay', 'streams', 'all']

function readArguments() {
  const { values } = parseArgs({
    options: {
      seconds: { type: 'string' },
      quick: { type: 'boolean', default: false },
      only: { type: 'string' },
      attackers: { type: 'string', default: '1000' },
      profile: { type: 'string' },
      untimed: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  const seconds = Number(values.seconds ?? (values.quick ? 2 : 10))
  const attackers = Number(values.attackers)
  const plan = values.only?.split(',') ?? (values.quick ? SHORT_PLAN : PLAN)
  if (!(seconds > 0)) throw new Error(`--seconds: "${values.seconds}" is not a number above 0`)
  if (!(Number.isInteger(attackers) && attackers > 0))
    throw new Error(`--attackers: "${values.attackers}" is no number`)
  const unknown = plan.find((name) => attacks[name.replace(ONE_ADDRESS, '')] === undefined)
  if (unknown !== undefined) throw new Error(`--only: nothing is called ${unknown}`)
  return { ...values, seconds, attackers, plan }
}

function quantile(times, share) {
  const sorted = [...times].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)]
}

/** What came of a phase, as plain data. */
function judged(name, { before, after, friend, defender, hostile, brokenOff }, how) {
  const { quiet, attackers, untimed } = how
  const { times, failures, visits } = friend
  const visited = visits.filter(({ ms }) => ms !== undefined).map(({ ms }) => ms)
  const row = {
    name,
    requests: times.length,
    lost: failures.length,
    p50Ms: quantile(times, 0.5),
    p99Ms: quantile(times, 0.99),
    maxMs: quantile(times, 1),
    visits: visits.length,
    visitsFailed: visits.length - visited.length,
    visitP50Ms: quantile(visited, 0.5),
    cpu: defender.cpu,
    loopP99Ms: defender.loopP99Ms,
    loopMaxMs: defender.loopMaxMs,
    rssGrowth: defender.peak.rss - before.rss,
    heapGrowth: defender.peak.heapUsed - before.heapUsed,
    bufferGrowth: defender.peak.arrayBuffers - before.arrayBuffers,
    rssLeft: after.rss - before.rss,
    heapLeft: after.heapUsed - before.heapUsed,
    sessions: defender.peak.sessions,
    hostile,
    failures: [...new Set(failures)].slice(0, 5),
    visitFailures: [...new Set(visits.flatMap(({ error }) => error ?? []))].slice(0, 5),
    faults: [...defender.broken],
  }
  if (brokenOff) row.faults.push('broken off: the defender took too much memory')
  if (row.lost > 0) row.faults.push(`${row.lost} requests lost`)
  if (quiet === undefined) return row
  const attack = name.replace(ONE_ADDRESS, '')
  const allowedMs = P99_FACTOR * Math.max(quiet.p99Ms, P99_FLOOR_MS)
  if (!untimed && TIMED.has(attack) && !(row.p99Ms <= allowedMs))
    row.faults.push(`p99 above ${allowedMs.toFixed(1)} ms`)
  const allowedBytes = attack === 'all' || isGuest(attack, 0) ? GUESTS_BYTES(attackers) : STRANGERS_BYTES
  if (row.rssGrowth > allowedBytes) row.faults.push(`memory grew by more than ${Math.round(allowedBytes / MB)} MB`)
  // An attack that never arrives proves nothing.
  if (hostile.connections === 0) row.faults.push('no attacker was connected')
  return row
}

const HEADING = [
  'attack',
  'requests',
  'p50 ms',
  'p99 ms',
  'max ms',
  'dials',
  'failed',
  'ms',
  'CPU',
  'RSS +MB',
  'connections',
  'verdict',
]

function line(row) {
  const ms = (value) => (value === undefined ? '-' : value.toFixed(1))
  const cells = [
    row.name,
    row.lost === 0 ? `${row.requests}` : `${row.requests} -${row.lost}`,
    ms(row.p50Ms),
    ms(row.p99Ms),
    ms(row.maxMs),
    `${row.visits}`,
    `${row.visitsFailed}`,
    ms(row.visitP50Ms),
    `${Math.round(row.cpu * 100)} %`,
    (row.rssGrowth / MB).toFixed(0),
    `${row.hostile?.connections ?? 0}`,
  ]
  return shown([...cells, row.faults.length === 0 ? 'ok' : row.faults.join('; ')])
}

const shown = (cells) =>
  cells.map((cell, at) => (at === 0 ? cell.padEnd(14) : at === 11 ? cell : cell.padStart(8))).join('  ')

/** The attackers, who stay; and for each phase a defender and a friend of its own, so that no attack inherits from another. */
class Siege {
  #attackers
  #ids
  #defender = Identity.generate()
  #friend = Identity.generate()

  async start(count) {
    const share = Math.ceil(count / ATTACKER_PROCESSES)
    this.#attackers = Array.from({ length: ATTACKER_PROCESSES }, () => new Child('attacker.js'))
    const ids = this.#attackers.map((attacker, at) => {
      const first = at * share
      return attacker.ask('start', { to: this.#defender.peerId, first, count: Math.min(share, count - first) })
    })
    this.#ids = (await Promise.all(ids)).flat()
  }

  /**
   * @param {string | undefined} name undefined: quiet; busy: quiet, on a machine that is busy with something else
   * @param {string | undefined} profile where a CPU profile of the defender goes
   */
  async phase(name, seconds, profile) {
    const flags = ['--expose-gc', `--max-old-space-size=${MAX_HEAP_MB}`]
    if (profile !== undefined) flags.push('--cpu-prof', `--cpu-prof-dir=${profile}`)
    const defender = new Child('defender.js', { flags })
    const friend = new Child('friend.js')
    try {
      return await this.#phase(defender, friend, name, seconds)
    } finally {
      if (profile !== undefined) await defender.ask('exit').catch(() => {})
      defender.kill()
      friend.kill()
    }
  }

  async #phase(defender, friend, name, seconds) {
    const busy = name === 'busy'
    const attack = busy ? undefined : name?.replace(ONE_ADDRESS, '')
    const { address } = await defender.ask('start', { seed: seedOf(this.#defender) })
    const to = this.#defender.peerId
    const friends = await friend.ask('start', { id: to, address, seed: seedOf(this.#friend) })
    await defender.ask('allow', [...friends, ...this.#ids.filter((_, index) => isGuest(attack, index))])
    const session = await friend.ask('connect')
    if (attack !== undefined) await this.#ask('prepare')
    // Code is compiled, and what is allocated once is there.
    await friend.ask('begin')
    await sleep(WARM_MS)
    await friend.ask('end')

    if (busy) await this.#ask('burn')
    const before = await defender.ask('begin')
    await friend.ask('begin')
    if (attack !== undefined) {
      const offer = createOffer(this.#friend, to, { body: new Uint8Array(0), lifetimeMs: 300_000 })
      const captured = Buffer.from(offer.message).toString('base64')
      await this.#ask('begin', { attack, address, session, captured, oneAddress: name !== attack })
    }
    let brokenOff = false
    for (const end = performance.now() + seconds * 1_000; performance.now() < end && !brokenOff; ) {
      await sleep(LOOK_MS)
      brokenOff = (await defender.ask('sample')).rss > BREAK_OFF_BYTES
    }
    const cost = await defender.ask('end')
    // What is under way is waited for while the attack goes on.
    const friendly = await friend.ask('end')
    if (busy) await this.#ask('quench')
    const counts = attack === undefined ? [] : await this.#ask('end')
    if (attack !== undefined) await sleep(SETTLE_MS)
    const { peak, after, broken } = await defender.ask('settled')
    const hostile = {}
    for (const one of counts) for (const [what, n] of Object.entries(one)) hostile[what] = (hostile[what] ?? 0) + n
    return { before, after, friend: friendly, defender: { ...cost, peak, broken }, hostile, brokenOff }
  }

  #ask(what, value) {
    return Promise.all(this.#attackers.map((attacker) => attacker.ask(what, value)))
  }

  close() {
    for (const attacker of this.#attackers ?? []) attacker.kill()
  }
}

const seedOf = (identity) => Buffer.from(identity.seed).toString('hex')

async function main() {
  const { seconds, attackers, plan, json, profile, untimed, help } = readArguments()
  if (help) return console.log(USAGE)
  const event = (name, detail) => json && process.stdout.write(`${JSON.stringify({ event: name, ...detail })}\n`)
  const say = (text) => json || process.stdout.write(`${text}\n`)
  const siege = new Siege()
  const rows = []
  try {
    await siege.start(attackers)
    event('start', { seconds, attackers, plan })
    say(`${attackers} attackers, ${seconds} s each\n${shown(HEADING)}`)
    let quiet
    for (const name of [undefined, 'busy', ...plan]) {
      const found = await siege.phase(name, seconds, profile)
      const baseline = name === undefined || name === 'busy'
      const row = judged(name ?? 'quiet', found, { quiet: baseline ? undefined : quiet, attackers, untimed })
      // The attackers take their part of the processors anyhow: what they do to the defender comes on top of that.
      if (baseline && !(row.p99Ms < quiet?.p99Ms)) quiet = row
      rows.push(row)
      event('phase', row)
      say(line(row))
    }
  } finally {
    siege.close()
  }
  const held = rows.every(({ faults }) => faults.length === 0)
  event('verdict', { held })
  if (!held) process.exitCode = 1
}

try {
  await main()
} catch (error) {
  process.stderr.write(`siege: ${error.stack}\n`)
  process.exit(1)
}
