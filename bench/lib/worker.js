/**
 * One process of one stack: `node worker.js <stack> <server|client|third>`, driven by the parent over IPC.
 *
 *   parent -> worker   { id, method, args }            worker -> parent   { id, result } or { id, error }
 *   either way         { signal, from }: what a stack's two ends have to tell each other while connecting
 *
 * The worker ends itself when the IPC channel closes, so it cannot outlive the parent, however that died.
 */

import { setTimeout as delay } from 'node:timers/promises'
import { loadStack } from '../stacks/index.js'
import { bulk, idlePipe, manyInFlight, oneAtATime, requests, timeToFirstByte } from './loops.js'
import { BulkMeter, serve } from './serve.js'
import { percentile } from './statistics.js'

const SETTLE_MS = 100 // lets closing sockets and delayed frees finish before memory is read
const GC_ROUNDS = 4 // finalisers free native memory one collection later than the object

const [, , stackName, role] = process.argv
// SIGKILL on itself: native threads of some stacks can hold up an ordinary exit
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))

const stack = await loadStack(stackName)
const meter = new BulkMeter()
const signalListeners = []
let end = null
let bulkPipe = null
const idle = []

async function readMemory() {
  for (let i = 0; i < GC_ROUNDS; i += 1) {
    await delay(SETTLE_MS)
    globalThis.gc()
  }
  return process.memoryUsage.rss()
}

const methods = {
  async start(context) {
    const full = {
      ...context,
      signal: (data) => process.send({ signal: data }),
      onSignal: (listener) => signalListeners.push(listener),
    }
    if (role === 'server') end = await stack.listen(full, (pipe) => serve(pipe, meter))
    else if (role === 'client') end = await stack.dial(full)
    else end = await stack.third(full)
    return end.info ?? null
  },
  cpuSeconds() {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  },
  memory: readMemory,
  received: (bytes) => meter.received(bytes),
  async bulk(seconds) {
    const { bytes, pipe } = await bulk(end, seconds)
    bulkPipe = pipe
    return bytes
  },
  async endBulk() {
    await bulkPipe?.close()
    bulkPipe = null
  },
  async roundTrip(seconds) {
    const times = await oneAtATime(end, seconds)
    return { p50: percentile(times, 50), p99: percentile(times, 99) }
  },
  inFlight: (seconds, count, corked) => manyInFlight(end, seconds, count, corked),
  async requests(seconds, count) {
    const measured = await requests(end, seconds, count)
    if (measured === null) return null
    return { p50: percentile(measured.times, 50), p99: percentile(measured.times, 99), rate: measured.rate }
  },
  async connects(count) {
    const times = []
    for (let i = 0; i < count; i += 1) times.push(await timeToFirstByte(end))
    return times
  },
  async prepareIdle(count) {
    await end.prepareIdle?.(count)
  },
  async openIdle(count) {
    for (let i = 0; i < count; i += 1) idle.push(await idlePipe(end, idle.length))
  },
  async stop() {
    await end?.close?.()
  },
}

process.on('message', async (message) => {
  if ('signal' in message) {
    for (const listener of signalListeners) listener(message.signal)
    return
  }
  const { id, method, args } = message
  try {
    process.send({ id, result: (await methods[method](...args)) ?? null })
  } catch (error) {
    process.send({ id, error: error instanceof Error ? `${error.message}` : String(error) })
  }
})
process.on('uncaughtException', (error) => process.send({ crashed: error.message }))
process.on('unhandledRejection', (error) =>
  process.send({ crashed: error instanceof Error ? error.message : String(error) }),
)
process.send({ ready: true })
