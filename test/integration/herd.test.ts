/**
 * Five hundred peers lose their server in the same instant, and come back to the one that takes its place: soon, and not
 * all at once.
 */
import { readFileSync } from 'node:fs'
import { expect, onTestFinished, test } from 'vitest'
import { Peer } from '../../src/index.ts'
import { freePort } from '../../src/network/free-port.compliance.ts'
import { temporaryFile } from '../../src/temporary.compliance.ts'
import { ServerProcess } from './server-process.ts'
import { portOf } from './world.ts'

const PEERS = 500

/** Peers that are made at once. */
const BATCH = 50

/** ms after its start within which a server has all its peers back, where the machine has time for them. */
const BACK_MS = 5_000

/** ms of a window, in which no more than a third of all may come: a herd would come within one. */
const WINDOW_MS = 200

/** ms that both processes together may have waited for a processor, if the windows of the server are to tell anything. */
const MAX_STARVED_MS = 500

const now = () => performance.timeOrigin + performance.now()

/**
 * ms for which a process was ready to run and had no processor, since it began: what the machine did meanwhile is no fault
 * of ours. Where nobody counts it (other systems than Linux), none.
 */
function starvedMs(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[1]) / 1e6
  } catch {
    return 0
  }
}

/** The most of `times` that are within one window. */
function crowd(times: readonly number[]): number {
  return Math.max(...times.map((from) => times.filter((at) => at >= from && at < from + WINDOW_MS).length))
}

/** `times`, ms, as people see them. */
function picture(times: readonly number[]): string {
  const rows = Array.from({ length: Math.floor(Math.max(...times) / WINDOW_MS) + 1 }, (_, row) => {
    const count = times.filter((at) => Math.floor(at / WINDOW_MS) === row).length
    return `${((row * WINDOW_MS) / 1_000).toFixed(1).padStart(6)} s ${`${count}`.padStart(4)} ${'#'.repeat(count / 4)}`
  })
  return rows.join('\n')
}

test('a server that dies has 500 peers back within 5 s of its new start, and never a third of them in 200 ms', async () => {
  const identity = await temporaryFile('server.key')
  const first = new ServerProcess(`127.0.0.1:${await freePort()}`, identity)
  const url = await first.url()

  const peers: Peer[] = []
  /** When each peer means to try next, ms since the epoch. */
  const plans = new Map<Peer, number>()
  const losses = new Set<Peer>()
  onTestFinished(async () => {
    await Promise.all(peers.map((peer) => peer.close({ signal: AbortSignal.timeout(100) })))
  })
  while (peers.length < PEERS) {
    const more = Array.from({ length: BATCH }, () =>
      Peer.create({ listen: [], udp: false, lan: false, portMapping: false, webrtc: false, rendezvous: [url] }),
    )
    const batch = await Promise.all(more)
    peers.push(...batch)
    await Promise.all(batch.map((peer) => peer.online()))
  }
  await first.line((line) => line.peers === PEERS)

  const allLost = new Promise<void>((resolve) => {
    for (const peer of peers) {
      peer.addEventListener('offline', ({ detail: { retryMs } }) => {
        plans.set(peer, now() + retryMs)
        if (losses.add(peer).size === PEERS) resolve()
      })
    }
  })
  await Promise.all([first.kill(), allLost])
  const second = new ServerProcess(`127.0.0.1:${portOf(url)}`, identity)
  const start = await second.line((line) => line.url !== undefined)
  expect(start.url).toBe(url)
  const starvedBefore = starvedMs(process.pid) + starvedMs(second.child.pid!)
  await second.line((line) => line.peers === PEERS)
  const starved = starvedMs(process.pid) + starvedMs(second.child.pid!) - starvedBefore

  // When each peer meant to come, and when it was registered, ms after the server's start.
  const planned = [...plans.values()].map((at) => at - start.at)
  const arrivals: number[] = []
  for (const line of second.lines) while (arrivals.length < (line.peers ?? 0)) arrivals.push(line.at - start.at)
  console.log(
    `peers back, by the time since the server's start:\n${picture(arrivals)}
at most ${crowd(arrivals)} in any ${WINDOW_MS} ms (planned: ${crowd(planned)}), the last after ${Math.round(arrivals.at(-1)!)} ms
(planned: ${Math.round(Math.max(...planned))}); ${Math.round(starved)} ms without a processor`,
  )
  expect(arrivals.length).toBe(PEERS)
  expect(arrivals.at(-1)).toBeLessThanOrEqual(BACK_MS + starved)
  expect(Math.max(...planned)).toBeLessThanOrEqual(BACK_MS + starved)
  expect(crowd(planned)).toBeLessThanOrEqual(PEERS / 3)
  // What had to wait for a processor comes at once when it gets one.
  if (starved < MAX_STARVED_MS) expect(crowd(arrivals)).toBeLessThanOrEqual(PEERS / 3)
}, 120_000)
