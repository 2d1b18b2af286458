/** The peer under siege, with everything at its defaults, and what it costs. */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { Identity, Peer } from '../../dist/index.js'
import { answer } from './child.js'

const SAMPLE_MS = 100

/** Bytes of the answer to `bulk`: the largest that a request takes by default. */
const BULK_BYTES = 1_048_576

const delay = monitorEventLoopDelay({ resolution: 1 })
const broken = []
process.on('unhandledRejection', (error) => broken.push(`unhandled rejection: ${error?.stack ?? error}`))
process.on('uncaughtException', (error) => broken.push(`uncaught exception: ${error?.stack ?? error}`))

let peer
let since
let peak

function look() {
  const { rss, heapUsed, external, arrayBuffers } = process.memoryUsage()
  return { rss, heapUsed, external, arrayBuffers, sessions: peer.sessions.length }
}

function sample() {
  const now = look()
  for (const [name, value] of Object.entries(now)) peak[name] = Math.max(peak[name] ?? 0, value)
  return now
}

async function collect() {
  // What finalizers let go of is collected by the next one.
  for (let pass = 0; pass < 3; pass++) {
    globalThis.gc()
    await sleep(10)
  }
  return look()
}

answer({
  async start({ seed }) {
    const identity = Identity.fromSeed(Buffer.from(seed, 'hex'))
    peer = await Peer.create({ identity, listen: ['127.0.0.1:0'], udp: false, lan: false })
    peer.handle('echo', (body) => body)
    const bulk = new Uint8Array(BULK_BYTES)
    peer.handle('bulk', () => bulk)
    // Streams that nobody reads, as those that wait in a queue.
    peer.handleStream('idle', () => {})
    // Datagrams are kept for a reader who never comes.
    peer.addEventListener('session', ({ detail }) => void detail.session.datagrams)
    peak = {}
    setInterval(sample, SAMPLE_MS)
    return { address: peer.addresses[0] }
  },
  allow: (ids) => {
    for (const id of ids) peer.firewall.allow(id)
  },
  sample,
  begin: async () => {
    const before = await collect()
    peak = {}
    delay.reset()
    delay.enable()
    since = { cpu: process.cpuUsage(), at: performance.now() }
    return before
  },
  end: () => {
    delay.disable()
    const { user, system } = process.cpuUsage(since.cpu)
    const cpu = (user + system) / 1_000 / (performance.now() - since.at)
    return { cpu, loopP99Ms: delay.percentile(99) / 1e6, loopMaxMs: delay.max / 1e6 }
  },
  settled: async () => {
    sample()
    return { after: await collect(), peak, broken }
  },
  /** In order, so that a profile is written. */
  exit: () => new Promise(() => process.exit(0)),
})
