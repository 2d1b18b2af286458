/** One stack, one round: every figure of the table from freshly started processes. */

import { Group } from './group.js'
import { median } from './statistics.js'

const IN_FLIGHT = 64

/** How much of each thing is done; `quick` only shows that everything works. */
export function amounts({ seconds, quick }) {
  return {
    bulkSeconds: seconds,
    loopSeconds: seconds / 2,
    warmSeconds: quick ? 0.1 : 0.4, // enough for V8 to have optimised the loops
    warmConnects: quick ? 2 : 10,
    connects: quick ? 5 : 20,
    // opened before the first reading: heaps grow in steps of megabytes at first, which 450 connections have behind them
    idleBefore: quick ? 10 : 450,
    idle: quick ? 40 : 300,
  }
}

/** Speed and latency, in one set of processes, warmed up first. */
async function measureSpeed(group, amount, figures, attempt) {
  const { client, server } = group
  const transfer = async (seconds) => {
    const cpuBefore = await group.cpuSeconds()
    const sent = await client.call('bulk', seconds)
    const { bytes, ms } = await server.call('received', sent)
    const cpuSeconds = (await group.cpuSeconds()) - cpuBefore
    await client.call('endBulk')
    if (bytes !== sent) throw new Error(`${bytes} of ${sent} bytes arrived`)
    return { bytes, ms, cpuSeconds }
  }

  await transfer(amount.warmSeconds)
  await client.call('inFlight', amount.warmSeconds, 1, false)
  await client.call('connects', amount.warmConnects)

  await attempt('bulk', async () => {
    const { bytes, ms, cpuSeconds } = await transfer(amount.bulkSeconds)
    figures.bulkMBps = bytes / 1e6 / (ms / 1000)
    figures.cpuSecondsPerGB = cpuSeconds / (bytes / 1e9)
  })
  await attempt('round trip', async () => {
    const { p50, p99 } = await client.call('roundTrip', amount.loopSeconds)
    figures.rttP50Us = p50
    figures.rttP99Us = p99
  })
  await attempt('64 in flight', async () => {
    figures.inFlightPerSecond = await client.call('inFlight', amount.loopSeconds, IN_FLIGHT, false)
    const corked = await client.call('inFlight', amount.loopSeconds, IN_FLIGHT, true)
    if (corked !== null) figures.inFlightCorkedPerSecond = corked
  })
  await attempt('requests', async () => {
    const measured = await client.call('requests', amount.loopSeconds, IN_FLIGHT)
    if (measured === null) return
    figures.requestP50Us = measured.p50
    figures.requestP99Us = measured.p99
    figures.requestsPerSecond = measured.rate
  })
  await attempt('new connections', async () => {
    figures.firstByteMs = median(await client.call('connects', amount.connects))
  })
}

/** Resident memory per idle connection, in processes that have done nothing else: a busy heap would hide it. */
async function measureMemory(group, amount, figures) {
  await group.client.call('prepareIdle', amount.idleBefore + amount.idle)
  await group.client.call('openIdle', amount.idleBefore)
  const before = await group.memory()
  await group.client.call('openIdle', amount.idle)
  figures.idleKiB = ((await group.memory()) - before) / 1024 / amount.idle
}

/**
 * Runs one stack once. A figure that cannot be had is told to `complain(what, error)` and left out; only a stack that
 * does not even start or warm up throws.
 */
export async function measureStack(name, stack, prepared, amount, complain) {
  const figures = {}
  const attempt = async (what, body) => {
    try {
      await body()
    } catch (error) {
      complain(what, error)
    }
  }
  const group = await Group.start(name, stack, prepared)
  try {
    await measureSpeed(group, amount, figures, attempt)
  } finally {
    await group.end()
  }
  await attempt('memory', async () => {
    const fresh = await Group.start(name, stack, prepared)
    try {
      await measureMemory(fresh, amount, figures)
    } finally {
      await fresh.end()
    }
  })
  return figures
}
